//! The same under ministack: another API, another program that drives Docker, events through its EventBridge and its queue.
//!
//! Invariant: it shares the engine and the callers with the first world, and neither network nor account.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use integration::docker::caller::Callers;
use integration::docker::estate::{Estate, called_json, calling_json, config};
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

/// An estate in that world.
pub(crate) struct Second {
    world: Ministack,
    server: Server,
    callers: Callers,
    definition: String,
    sizes: Sizes,
    _folder: tempfile::TempDir,
}

impl Second {
    pub(crate) async fn open(first: &Estate, sizes: Sizes) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("making a folder")?;
        let engine = &first.engine;
        engine.create_network(NETWORK, SUBNET, GATEWAY).await?;
        let world = Ministack::start(folder.path(), engine.host(), NETWORK, GATEWAY).await?;
        let queue = world.queue("legation-1").await?;
        let text = config(&world.url(), &queue, &[NAMESPACE]);
        let mut server =
            Server::prepare(engine, NETWORK, "legation-second", SERVER, folder.path(), &text)?.known_as(NAME);
        server.start().await?;
        let definition = world.register(&called_json("payments")?).await?;
        let caller = world.register(&calling_json("checkout", "payments", 8080, sizes.rate)?).await?;
        world.create("payments", &definition, sizes.tasks).await?;
        world.create("checkout", &caller, 2).await?;
        world.settled("payments", sizes.tasks as usize, &definition).await?;
        let tasks = world.settled("checkout", 2, &caller).await?;
        let callers = Callers::at(tasks.iter().filter_map(|task| task.ip)).await?;
        let own = Self { world, server, callers, definition, sizes, _folder: folder };
        own.rotation().await?;
        own.callers.begin(50).await?;
        Ok(own)
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
    async fn row(&self, mark: &Mark, stopped: &[String]) -> anyhow::Result<Row> {
        for arn in stopped {
            self.world.over(arn).await?;
        }
        mark.enough(&self.callers, self.sizes.requests / 2).await?;
        let mut row = mark.row(&self.callers, WORLD).await?;
        for arn in stopped {
            let at = self.world.stopped_at(arn).await?;
            row.withdrawn.push(look::withdrawn(&[&self.server], arn, at).await?);
            row.last_request.push(look::last_request(&self.callers, arn, at).await?);
        }
        row.bound = Bound { failed: 0, withdrawn: Some(WITHDRAWN), requests: self.sizes.requests / 2 };
        Ok(row)
    }

    pub(crate) async fn close(self) -> anyhow::Result<()> {
        self.callers.end().await?;
        self.world.close().await
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
    let (mark, stopped) = (Mark::now(&own.callers).await?, own.tasks().await?);
    own.definition = own.world.register(&called_json("payments")?).await?;
    own.world.roll("payments", &own.definition).await?;
    own.settled().await?;
    own.row(&mark, &stopped).await
}

/// Out and in by UpdateService.
pub(crate) async fn scale(stage: &mut Stage) -> anyhow::Result<Row> {
    let own = second(stage).await?;
    let mark = Mark::now(&own.callers).await?;
    let more = own.sizes.tasks + 2;
    own.world.scale("payments", more).await?;
    own.world.settled("payments", more as usize, &own.definition).await?;
    own.rotation().await?;
    let before = own.tasks().await?;
    own.world.scale("payments", own.sizes.tasks).await?;
    own.settled().await?;
    let after = own.tasks().await?;
    let stopped: Vec<_> = before.into_iter().filter(|arn| !after.contains(arn)).collect();
    own.row(&mark, &stopped).await
}

/// StopTask, and the scheduler replaces.
pub(crate) async fn stop(stage: &mut Stage) -> anyhow::Result<Row> {
    let own = second(stage).await?;
    let (mark, mut stopped) = (Mark::now(&own.callers).await?, Vec::new());
    while stopped.len() < own.sizes.stops.min(6) {
        let task = own.tasks().await?.remove(0);
        own.world.stop(&task).await?;
        own.world.over(&task).await?;
        own.settled().await?;
        stopped.push(task);
    }
    own.row(&mark, &stopped).await
}

/// SIGKILL to an application; measured from its death.
pub(crate) async fn crash(stage: &mut Stage) -> anyhow::Result<Row> {
    let engine = stage.estate.engine.clone();
    let own = second(stage).await?;
    let (mark, mut died) = (Mark::now(&own.callers).await?, Vec::new());
    for _ in 0..own.sizes.stops.min(4) {
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
    let mut row = mark.row(&own.callers, WORLD).await?;
    for (task, at) in &died {
        row.withdrawn.push(look::withdrawn(&[&own.server], task, *at).await?);
        row.last_request.push(look::last_request(&own.callers, task, *at).await?);
    }
    row.bound = Bound { failed: died.len() as u64 * 2, withdrawn: Some(Duration::from_secs(1)), requests: 0 };
    Ok(row)
}
