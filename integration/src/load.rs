//! Steady load through sidecars, every failure kept.
//!
//! It offers a fixed rate over kept-alive connections, as applications do; it measures no throughput. Two
//! sidecars on one machine share the loopback and its ports, and the kernel spreads *connections* over them:
//! so connections are opened until each Envoy says that it carries enough of each way, and again whenever
//! one of them carries too few. Invariant: an exchange is either good or a failure, and none is repeated.

mod connection;
mod tally;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::{Semaphore, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::envoy;
use connection::Connection;
pub use connection::{Kind, Way};
use tally::Tally;
pub use tally::{Failure, Totals};

/// How long an exchange may take, connecting included: longer than a mesh's own request timeout.
const EXCHANGE: Duration = Duration::from_secs(20);
/// Between two looks at who carries what.
const LOOK: Duration = Duration::from_millis(250);
/// How long spreading may take.
const SPREADING: Duration = Duration::from_secs(30);
/// Connections of one way at first, for each Envoy.
const FIRST: usize = 3;
/// Connections of one way at most.
const MOST: usize = 96;

/// What is asked of a [`Load`].
#[derive(Debug, Clone)]
pub struct Plan {
    /// The ways.
    pub ways: Vec<Way>,
    /// Admin ports of the Envoys that are to carry the load.
    pub envoys: Vec<SocketAddr>,
}

/// Connections that each Envoy carries, by way, in the order of [`Plan::envoys`].
pub type Spread = BTreeMap<&'static str, Vec<u64>>;

/// Running load. Dropping it ends it.
#[derive(Debug)]
pub struct Load {
    lanes: Vec<Arc<Lane>>,
    spread: watch::Receiver<Spread>,
    stop: CancellationToken,
    tracker: TaskTracker,
    started: Instant,
}

/// One way with its workers.
#[derive(Debug)]
struct Lane {
    way: Way,
    tally: Tally,
    /// One permit for each exchange that is due; it is fair, so workers take turns.
    turns: Semaphore,
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Load {
    /// Starts and returns once every Envoy carries its share of every way.
    pub async fn start(plan: Plan) -> anyhow::Result<Self> {
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        let started = Instant::now();
        let lanes: Vec<_> = plan
            .ways
            .into_iter()
            .map(|way| {
                let (stop, tracker) = (stop.clone(), tracker.clone());
                Arc::new(Lane { way, tally: Tally::new(started), turns: Semaphore::new(0), stop, tracker })
            })
            .collect();
        let guard = stop.clone().drop_guard();
        for lane in &lanes {
            for _ in 0..FIRST * plan.envoys.len().max(1) {
                tracker.spawn(lane.clone().work());
            }
            tracker.spawn(lane.clone().pace());
        }
        let (sender, mut spread) = watch::channel(Spread::new());
        tracker.spawn(keep_spread(lanes.clone(), plan.envoys.clone(), sender));
        let enough = spread.wait_for(|spread| is_enough(&lanes, &plan.envoys, spread));
        let waited = tokio::time::timeout(SPREADING, enough).await.map(|found| found.is_ok());
        let failures: Vec<_> = lanes.iter().flat_map(|lane| lane.tally.failures()).collect();
        let now = || spread.borrow().clone();
        anyhow::ensure!(
            waited == Ok(true),
            "the load did not spread over {} Envoys in {SPREADING:?}: {:?}; failures: {failures:?}",
            plan.envoys.len(),
            now()
        );
        guard.disarm();
        Ok(Self { lanes, spread, stop, tracker, started })
    }

    /// How many connections each Envoy carries, by way, at the latest look.
    pub fn spread(&self) -> Spread {
        self.spread.borrow().clone()
    }

    /// What has happened so far, by way.
    pub fn totals(&self) -> BTreeMap<&'static str, Totals> {
        self.lanes.iter().map(|lane| (lane.way.name, lane.tally.totals())).collect()
    }

    /// Exchanges so far, good ones and failures.
    pub fn counts(&self) -> (u64, u64) {
        self.totals().values().fold((0, 0), |(ok, failed), totals| (ok + totals.ok, failed + totals.failed))
    }

    /// The first failures, oldest first.
    pub fn failures(&self) -> Vec<Failure> {
        let mut failures: Vec<_> = self.lanes.iter().flat_map(|lane| lane.tally.failures()).collect();
        failures.sort_by_key(|failure| failure.after);
        failures
    }

    /// How long it has run.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// An error if anything has failed, with the first failures in full, or if nothing was exchanged.
    pub fn is_flawless(&self) -> anyhow::Result<()> {
        let (ok, failed) = self.counts();
        anyhow::ensure!(ok > 0, "no exchange has succeeded");
        let first: Vec<_> = self.failures().iter().map(Failure::to_string).collect();
        anyhow::ensure!(failed == 0, "{failed} of {} exchanges failed:\n{}", ok + failed, first.join("\n"));
        Ok(())
    }

    /// Waits for `more` good exchanges on every way from now on.
    pub async fn more(&self, more: u64) -> anyhow::Result<()> {
        let goals: Vec<_> = self.lanes.iter().map(|lane| lane.tally.totals().ok + more).collect();
        let what = format!("{more} more good exchanges on each way");
        crate::wait::until(SPREADING, what, async || {
            let reached = self.lanes.iter().zip(&goals).all(|(lane, goal)| lane.tally.totals().ok >= *goal);
            Ok(reached.then_some(()))
        })
        .await
    }

    /// Ends it: what is in flight is finished, nothing new begins.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(EXCHANGE, self.tracker.wait()).await.context("ending the load")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Lane {
    /// Makes exchanges due at the way's rate. What nobody takes in time is not made up for.
    async fn pace(self: Arc<Self>) {
        let mut tick = tokio::time::interval(Duration::from_secs(1) / self.way.per_second.max(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while self.stop.run_until_cancelled(tick.tick()).await.is_some() {
            if self.turns.available_permits() < MOST {
                self.turns.add_permits(1);
            }
        }
    }

    /// One connection, exchanging whenever it is its turn.
    async fn work(self: Arc<Self>) {
        let mut connection: Option<Connection> = None;
        while let Some(Ok(turn)) = self.stop.run_until_cancelled(self.turns.acquire()).await {
            turn.forget();
            let started = Instant::now();
            let exchange = async {
                // One that was closed between two exchanges, as HTTP allows, is no failure.
                let usable = match connection.take() {
                    Some(mut connection) => connection.is_open().await.then_some(connection),
                    None => None,
                };
                let mut open = match usable {
                    Some(open) => open,
                    None => Connection::open(&self.way).await?,
                };
                let outcome = open.exchange(&self.way).await;
                if outcome.is_ok() || open.tells_when_closed() {
                    connection = Some(open);
                }
                outcome
            };
            let outcome = tokio::time::timeout(EXCHANGE, exchange).await;
            match outcome.unwrap_or_else(|_| Err(format!("no answer in {EXCHANGE:?}"))) {
                Ok(()) => self.tally.good(started.elapsed()),
                Err(what) => self.tally.failed(self.way.name, what),
            }
        }
    }
}

fn is_enough(lanes: &[Arc<Lane>], envoys: &[SocketAddr], spread: &Spread) -> bool {
    lanes.iter().all(|lane| {
        let carried = spread.get(lane.way.name).map(Vec::as_slice).unwrap_or_default();
        carried.len() == envoys.len() && carried.iter().all(|count| *count >= lane.way.at_least)
    })
}

/// Looks who carries what, and opens one more connection on each way of which an Envoy carries too little.
async fn keep_spread(lanes: Vec<Arc<Lane>>, envoys: Vec<SocketAddr>, shown: watch::Sender<Spread>) {
    let Some(stop) = lanes.first().map(|lane| lane.stop.clone()) else { return };
    let mut workers = vec![FIRST * envoys.len(); lanes.len()];
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let mut spread = Spread::new();
        for (lane, workers) in lanes.iter().zip(&mut workers) {
            let mut carried = Vec::with_capacity(envoys.len());
            for envoy in &envoys {
                carried.push(connections(*envoy, lane.way.address).await.unwrap_or_default());
            }
            if carried.iter().any(|count| *count < lane.way.at_least) && *workers < MOST {
                *workers += 1;
                lane.tracker.spawn(lane.clone().work());
            }
            spread.insert(lane.way.name, carried);
        }
        shown.send_replace(spread);
    }
}

/// How many connections to `address` an Envoy carries.
async fn connections(admin: SocketAddr, address: SocketAddr) -> anyhow::Result<u64> {
    let name = format!("listener.{}_{}.downstream_cx_active", address.ip(), address.port());
    let found = envoy::stats(admin, &format!("^{}$", name.replace('.', "\\."))).await?;
    Ok(found.get(&name).copied().unwrap_or_default())
}
