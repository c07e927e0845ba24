//! The same under ministack: another API, another program that drives Docker, events through its EventBridge and its queue.
//!
//! Invariant: it shares the engine and the callers with the first world, and neither network nor account.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use integration::docker::arrivals::Arrivals;
use integration::docker::caller::Callers;
use integration::docker::estate::{Estate, called, calling_json, config};
use integration::docker::ministack::Ministack;
use integration::docker::server::{NAME, Server};
use integration::estate::NAMESPACE;

use crate::look::{self, Mark};
use crate::report::{Bound, Row};
use crate::stage::{Sizes, Stage};

const WORLD: &str = "ministack";
const NETWORK: &str = "legation-second";
const SUBNET: &str = "10.214.0.0/16";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 214, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 214, 255, 10);
/// From the stop to the last ACK: its events come by EventBridge and a queue, in Python.
const WITHDRAWN: Duration = Duration::from_millis(500);
/// From the stop to the last request: in a deployment old tasks serve until it is known that new ones are healthy, which no
/// event tells.
const LAST_REQUEST: Duration = Duration::from_secs(1);
/// Tasks that call.
const CALLERS: u32 = 4;
/// Tasks of payments at most: Docker's own health checks cost far more than the first world's.
const MOST: u32 = 8;

/// An estate in that world.
pub(crate) struct Second {
    world: Ministack,
    server: Server,
    callers: Callers,
    arrivals: Arrivals,
    /// Where the last measurement ended.
    seen: Option<Mark>,
    definition: String,
    sizes: Sizes,
    _folder: tempfile::TempDir,
}

impl Second {
    pub(crate) async fn open(first: &Estate, sizes: Sizes) -> anyhow::Result<Self> {
        let sizes = Sizes { tasks: sizes.tasks.min(MOST), callers: CALLERS, ..sizes };
        let folder = tempfile::tempdir().context("making a folder")?;
        let engine = &first.engine;
        engine.create_network(NETWORK, SUBNET, GATEWAY).await?;
        let world = Ministack::start(folder.path(), engine.host(), NETWORK, GATEWAY).await?;
        match Self::build(first, world, sizes, folder).await {
            Ok(own) => Ok(own),
            // What is left in Docker goes with the first world's; the network can't be made twice.
            Err(error) => Err(error.context("the second world can't be built")),
        }
    }

    async fn build(
        first: &Estate,
        world: Ministack,
        sizes: Sizes,
        folder: tempfile::TempDir,
    ) -> anyhow::Result<Self> {
        let arrivals = Arrivals::start(GATEWAY).await?;
        let queue = world.queue("legation-1").await?;
        let text = config(&world.url(), &queue, &[NAMESPACE]);
        let engine = &first.engine;
        let server = Server::prepare(engine, NETWORK, "legation-second", SERVER, folder.path(), &text)?;
        let mut server = server.known_as(NAME);
        server.start().await?;
        let definition = world.register(&called("payments", arrivals.address())?).await?;
        let caller = world.register(&calling_json("checkout", "payments", 8080, sizes.rate)?).await?;
        world.create("payments", &definition, sizes.tasks).await?;
        world.create("checkout", &caller, CALLERS).await?;
        world.settled("payments", sizes.tasks as usize, &definition).await?;
        let tasks = world.settled("checkout", CALLERS as usize, &caller).await?;
        let callers = Callers::at(tasks.iter().filter_map(|task| task.ip)).await?;
        let own = Self { world, server, callers, arrivals, seen: None, definition, sizes, _folder: folder };
        own.rotation().await?;
        let arns: Vec<String> = tasks.into_iter().map(|task| task.arn).collect();
        look::hold_the_newest(&[&own.server], &arns).await?;
        own.callers.begin(50).await?;
        Ok(own)
    }

    async fn mark(&mut self) -> anyhow::Result<Mark> {
        match self.seen.take() {
            Some(seen) => Ok(seen),
            None => Mark::now(&self.callers).await,
        }
    }

    async fn since(&mut self, mark: Mark) -> anyhow::Result<Row> {
        let (row, seen) = mark.row(&self.callers, WORLD).await?;
        self.seen = Some(seen);
        Ok(row)
    }

    async fn withdrawn(&self, task: &str, since: SystemTime) -> anyhow::Result<Duration> {
        look::withdrawn(&[&self.server], task, since, u64::from(CALLERS)).await
    }

    async fn tasks(&self) -> anyhow::Result<Vec<String>> {
        Ok(self.world.tasks("payments").await?.into_iter().map(|task| task.arn).collect())
    }

    async fn rotation(&self) -> anyhow::Result<()> {
        look::rotation(&[&self.server], NAMESPACE, "payments", async || self.tasks().await).await
    }

    async fn settled(&self) -> anyhow::Result<()> {
        self.world.settled("payments", self.sizes.tasks as usize, &self.definition).await?;
        self.rotation().await
    }

    /// What callers saw since the mark, and how soon these tasks were withdrawn.
    async fn row(&mut self, mark: Mark, stopped: &[String]) -> anyhow::Result<Row> {
        for arn in stopped {
            self.world.over(arn).await?;
        }
        mark.enough(&self.callers, self.sizes.requests).await?;
        let mut row = self.since(mark).await?;
        for arn in stopped {
            let at = self.world.stopped_at(arn).await?;
            row.withdrawn.push(self.withdrawn(arn, at).await?);
            row.last_request.push(look::last_request(&self.arrivals, arn, at));
        }
        let (requests, withdrawn) = (self.sizes.requests, Some(WITHDRAWN));
        row.bound = Bound { withdrawn, last_request: Some(LAST_REQUEST), requests, ..Bound::default() };
        Ok(row)
    }

    pub(crate) async fn close(self) -> anyhow::Result<()> {
        let callers = self.callers.end().await;
        self.world.close().await.and(callers)
    }
}

/// The second estate of a stage, which is built for its first scenario.
async fn second(stage: &mut Stage) -> anyhow::Result<&mut Second> {
    if stage.second.is_none() {
        stage.second = Some(Second::open(&stage.estate, stage.sizes).await?);
    }
    stage.second.as_mut().context("it was just put there")
}

/// A rolling deployment by UpdateService.
pub(crate) async fn roll(stage: &mut Stage) -> anyhow::Result<Row> {
    let own = second(stage).await?;
    let (mark, stopped) = (own.mark().await?, own.tasks().await?);
    own.definition = own.world.register(&called("payments", own.arrivals.address())?).await?;
    own.world.roll("payments", &own.definition).await?;
    own.settled().await?;
    own.row(mark, &stopped).await
}

/// Out and in by UpdateService.
pub(crate) async fn scale(stage: &mut Stage) -> anyhow::Result<Row> {
    let own = second(stage).await?;
    let mark = own.mark().await?;
    let more = own.sizes.tasks + 2;
    own.world.scale("payments", more).await?;
    own.world.settled("payments", more as usize, &own.definition).await?;
    own.rotation().await?;
    let before = own.tasks().await?;
    own.world.scale("payments", own.sizes.tasks).await?;
    own.settled().await?;
    let after = own.tasks().await?;
    let stopped: Vec<_> = before.into_iter().filter(|arn| !after.contains(arn)).collect();
    own.row(mark, &stopped).await
}

/// StopTask, and the scheduler replaces.
pub(crate) async fn stop(stage: &mut Stage) -> anyhow::Result<Row> {
    let own = second(stage).await?;
    let (mark, mut stopped) = (own.mark().await?, Vec::new());
    while stopped.len() < own.sizes.stops.div_ceil(2).min(6) {
        let task = own.tasks().await?.remove(0);
        own.world.stop(&task).await?;
        own.world.over(&task).await?;
        own.settled().await?;
        stopped.push(task);
    }
    own.row(mark, &stopped).await
}

/// SIGKILL to an application; measured from its death.
pub(crate) async fn crash(stage: &mut Stage) -> anyhow::Result<Row> {
    let engine = stage.estate.engine.clone();
    let own = second(stage).await?;
    let (mark, mut died) = (own.mark().await?, Vec::new());
    for _ in 0..own.sizes.stops.div_ceil(2).min(4) {
        let task = own.tasks().await?.remove(0);
        let id = task.rsplit('/').next().unwrap_or(&task);
        let labels = [("legation.ministack.task", id), ("legation.ministack.container", "app")];
        let app = engine.find(&labels).await?;
        let at = SystemTime::now();
        engine.signal(&app, "SIGKILL").await?;
        own.world.over(&task).await?;
        own.settled().await?;
        died.push((task, at));
    }
    let mut row = own.since(mark).await?;
    for (task, at) in &died {
        row.withdrawn.push(own.withdrawn(task, *at).await?);
        row.last_request.push(look::last_request(&own.arrivals, task, *at));
    }
    row.bound.withdrawn = Some(Duration::from_secs(1));
    let died: Vec<_> = died.into_iter().map(|(_, at)| at).collect();
    look::only_what_was_in_flight(&mut row, &died, own.sizes.share());
    Ok(row)
}
