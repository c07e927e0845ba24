//! The estate on which scenarios play: `payments`, who call it by its name and by the sidecar's proxy, and two control planes.
//!
//! Invariant: each scenario begins with every task in its place, every sidecar synced and every caller calling.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use integration::docker::caller::Callers;
use integration::docker::estate::{Estate, calling};
use integration::docker::image;
use integration::docker::network::Inside;
use integration::docker::server::Server;
use integration::estate::{CLUSTER, NAMESPACE};
use integration::world::Task;

use crate::look::{self, Mark, SETTLING};
use crate::report::{Report, Row};
use crate::second::Second;

/// A scenario under way.
pub(crate) type Running<'a> = Pin<Box<dyn Future<Output = anyhow::Result<Row>> + 'a>>;

/// How large scenarios are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// Tasks of payments.
    pub(crate) tasks: u32,
    /// Tasks that call, half by name and half by proxy.
    pub(crate) callers: u32,
    /// Requests of each caller each second.
    pub(crate) rate: u32,
    /// Stops, crashes and the like in a scenario.
    pub(crate) stops: usize,
    /// Requests that a planned scenario needs.
    pub(crate) requests: u64,
    /// How long control planes, networks and AWS are away.
    pub(crate) outage: Duration,
    /// Live Envoys beside the callers.
    pub(crate) live: u32,
}

impl Sizes {
    /// What CI has time for.
    pub(crate) fn small() -> Self {
        let outage = Duration::from_secs(6);
        Self { tasks: 5, callers: 4, rate: 60, stops: 4, requests: 2_000, outage, live: 10 }
    }

    /// What the report is about.
    pub(crate) fn full() -> Self {
        let outage = Duration::from_secs(125);
        Self { tasks: 20, callers: 6, rate: 60, stops: 20, requests: 10_000, outage, live: 30 }
    }

    /// Requests that each task of payments gets each second.
    pub(crate) fn share(&self) -> u32 {
        (self.callers * self.rate).div_ceil(self.tasks)
    }
}

/// Everything that scenarios need.
pub(crate) struct Stage {
    pub(crate) estate: Estate,
    pub(crate) servers: Vec<Server>,
    pub(crate) callers: Callers,
    pub(crate) sizes: Sizes,
    /// The same in another world, once a scenario asks for it.
    pub(crate) second: Option<Second>,
    /// Who is cut off from whom.
    pub(crate) cuts: Vec<(Inside, IpAddr)>,
    /// Where the last measurement ended.
    seen: Option<Mark>,
}

impl Stage {
    pub(crate) async fn open(sizes: Sizes, report: &Report) -> anyhow::Result<Self> {
        let mut estate = Estate::open().await?;
        match build(&mut estate, sizes, report).await {
            Ok((servers, callers)) => {
                Ok(Self { estate, servers, callers, sizes, second: None, cuts: Vec::new(), seen: None })
            }
            Err(error) => {
                estate.close().await.context("after a failure")?;
                Err(error)
            }
        }
    }

    /// Waits until all is as it should be.
    pub(crate) async fn calm(&mut self) -> anyhow::Result<()> {
        // A scenario that broke off may have left these.
        self.estate.aws.faults().clear();
        self.estate.agent().notice_after(Duration::ZERO);
        self.heal().await?;
        for server in &mut self.servers {
            if !server.runs() {
                server.start().await?;
            }
        }
        self.estate.settled("payments").await?;
        self.rotation("payments").await?;
        self.synced().await?;
        self.callers.more(20).await
    }

    /// Cuts a network off from an address, until [`Stage::heal`].
    pub(crate) async fn cut_off(&mut self, inside: Inside, from: IpAddr) -> anyhow::Result<()> {
        self.cuts.push((inside, from));
        inside.cut_off(from).await
    }

    /// Undoes all cuts.
    pub(crate) async fn heal(&mut self) -> anyhow::Result<()> {
        while let Some((inside, from)) = self.cuts.pop() {
            inside.heal(from).await?;
        }
        Ok(())
    }

    /// The servers that run.
    pub(crate) fn up(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().filter(|server| server.runs())
    }

    /// Waits until every sidecar of a task that ECS wants is connected to some server and holds its newest snapshot.
    pub(crate) async fn synced(&self) -> anyhow::Result<()> {
        self.hold_the_newest(&sidecars(&self.estate)).await
    }

    /// Waits until these sidecars are synced.
    pub(crate) async fn hold_the_newest(&self, wanted: &[String]) -> anyhow::Result<()> {
        look::hold_the_newest(&self.up().collect::<Vec<_>>(), wanted).await
    }

    /// Waits until exactly the tasks that ECS wants of a service are in rotation on every server.
    pub(crate) async fn rotation(&self, service: &str) -> anyhow::Result<()> {
        self.rotation_in(NAMESPACE, service).await
    }

    /// The same in another namespace.
    pub(crate) async fn rotation_in(&self, namespace: &str, service: &str) -> anyhow::Result<()> {
        look::rotation(&self.up().collect::<Vec<_>>(), namespace, service, async || {
            let tasks = self.estate.world.tasks_of(CLUSTER, service);
            Ok(tasks.iter().map(|task| task.arn.clone()).collect())
        })
        .await
    }

    /// Begins a measurement where the last one ended.
    pub(crate) async fn mark(&mut self) -> anyhow::Result<Mark> {
        match self.seen.take() {
            Some(seen) => Ok(seen),
            None => Mark::now(&self.callers).await,
        }
    }

    /// What callers saw since then, as the beginnings of a row.
    pub(crate) async fn since(&mut self, mark: Mark) -> anyhow::Result<Row> {
        let (row, seen) = mark.row(&self.callers, "fake AWS").await?;
        self.seen = Some(seen);
        Ok(row)
    }

    /// From a moment to the last ACK of the withdrawal of a task; every caller's sidecar has agreed at least.
    pub(crate) async fn withdrawn(&self, task: &str, since: SystemTime) -> anyhow::Result<Duration> {
        let least = u64::from(self.sizes.callers);
        look::withdrawn(&self.up().collect::<Vec<_>>(), task, since, least).await
    }

    /// From a moment to the last request that arrived at a task; nothing if none did after that.
    pub(crate) fn last_request(&self, task: &str, since: SystemTime) -> Duration {
        look::last_request(&self.estate.arrivals, task, since)
    }

    /// Adds to a row what came of stopped tasks: call it when nothing reaches them any more.
    pub(crate) async fn follow(&self, row: &mut Row, stopped: &[String]) -> anyhow::Result<()> {
        for arn in stopped {
            let at = self.task(arn)?.stopping.context("the task was never stopped")?.wall;
            row.withdrawn.push(self.withdrawn(arn, at).await?);
            row.last_request.push(self.last_request(arn, at));
        }
        Ok(())
    }

    pub(crate) fn task(&self, arn: &str) -> anyhow::Result<Arc<Task>> {
        self.estate.world.task(arn).with_context(|| format!("no task {arn}"))
    }

    /// The tasks of payments, the oldest first.
    pub(crate) fn oldest(&self, count: usize) -> Vec<Arc<Task>> {
        let mut tasks = self.estate.world.tasks_of(CLUSTER, "payments");
        tasks.sort_by_key(|task| task.created.at);
        tasks.truncate(count);
        tasks
    }

    /// Waits until a task is over.
    pub(crate) async fn over(&self, arn: &str) -> anyhow::Result<()> {
        let over =
            |world: &integration::world::World| world.task(arn).is_some_and(|task| task.stopped.is_some());
        self.estate.world.until(SETTLING, over).await.with_context(|| format!("the end of {arn}"))
    }

    /// Ends everything, whatever goes wrong on the way.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        let second = match self.second {
            Some(second) => second.close().await,
            None => Ok(()),
        };
        let callers = self.callers.end().await;
        let estate = self.estate.close().await;
        second.and(callers).and(estate)
    }
}

/// The tasks that have sidecars.
fn sidecars(estate: &Estate) -> Vec<String> {
    let services = ["payments", "checkout", "storefront"];
    let tasks = services.into_iter().flat_map(|name| estate.world.tasks_of(CLUSTER, name));
    tasks.map(|task| task.arn.clone()).collect()
}

/// Two servers, the service, and who calls it.
async fn build(estate: &mut Estate, sizes: Sizes, report: &Report) -> anyhow::Result<(Vec<Server>, Callers)> {
    let weight = image::size(&estate.engine, image::LEGATION).await?;
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 bytes")]
    report.fact(format!("The server's image weighs {:.1} MB.", weight as f64 / 1e6));
    anyhow::ensure!(weight < image::LARGEST, "the image weighs {weight} bytes");
    let mut servers = vec![estate.server(1, &[NAMESPACE])?, estate.server(2, &[NAMESPACE])?];
    for server in &mut servers {
        server.start().await?;
        let inside = server.inside()?;
        anyhow::ensure!(inside.user()? == 65_532, "the server runs as user {}", inside.user()?);
        let certificates = inside.files().join("etc/ssl/certs/ca-certificates.crt");
        let size = std::fs::metadata(&certificates).context("the image's CA certificates")?.len();
        anyhow::ensure!(size > 100_000, "only {size} bytes of CA certificates");
    }
    let payments = estate.register(&estate.called("payments")?)?;
    let by_name = estate.register(&calling("checkout", "payments", 8080, sizes.rate, false)?)?;
    let by_proxy = estate.register(&calling("storefront", "payments", 8080, sizes.rate, true)?)?;
    estate.create("payments", &payments, sizes.tasks)?;
    estate.create("checkout", &by_name, sizes.callers / 2)?;
    estate.create("storefront", &by_proxy, sizes.callers - sizes.callers / 2)?;
    estate.settled("payments").await?;
    let callers = estate.settled("checkout").await?.into_iter().chain(estate.settled("storefront").await?);
    let callers = Callers::at(callers.map(|task| task.ip).collect::<Vec<_>>()).await?;
    let up: Vec<&Server> = servers.iter().collect();
    look::rotation(&up, NAMESPACE, "payments", async || {
        let tasks = estate.world.tasks_of(CLUSTER, "payments");
        Ok(tasks.iter().map(|task| task.arn.clone()).collect())
    })
    .await?;
    look::hold_the_newest(&up, &sidecars(estate)).await?;
    callers.begin(50).await?;
    Ok((servers, callers))
}
