//! How many streams one server carries: what an idle one costs, how fast a withdrawal reaches them all, and
//! whether clients that read nothing delay the others.
//!
//! It is no benchmark against others, and it drives the shipped program from outside. Invariant: every figure is
//! taken from what all streams have received; one that misses a round fails the run.

mod client;
mod server;

use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;

use client::{Fleet, Kind};
use server::Served;

/// How long all streams may take for one round.
const ROUND: Duration = Duration::from_secs(60);

/// What to measure.
#[derive(Debug, Clone, Copy, Parser)]
struct Plan {
    /// How many delta streams, each on a connection of its own.
    #[arg(long, default_value_t = 10_000)]
    streams: usize,
    /// How many services each stream subscribes to.
    #[arg(long, default_value_t = 20)]
    subscriptions: usize,
    /// How many services there are.
    #[arg(long, default_value_t = 100)]
    services: usize,
    /// How many withdrawals are timed, with and without stalled clients.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// How many clients stop reading before the second half.
    #[arg(long, default_value_t = 1_000)]
    stalled: usize,
    /// The most that an idle stream may cost, in KiB.
    #[arg(long, default_value_t = 30.0)]
    most_kib: f64,
}

fn main() -> anyhow::Result<()> {
    let plan = Plan::parse();
    rlimit::increase_nofile_limit(u64::MAX).context("raising the limit of open files")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(measure(plan))
}

async fn measure(plan: Plan) -> anyhow::Result<()> {
    anyhow::ensure!(plan.subscriptions <= plan.services, "more subscriptions than services");
    let folder = tempfile::tempdir().context("making a folder")?;
    let mut served = Served::start(folder.path(), plan.services).await?;
    let base = served.memory()?;

    let started = Instant::now();
    let fleet = Fleet::open(served.xds(), plan.streams, plan.subscriptions, Kind::Reading).await?;
    let opened = started.elapsed();
    served.settled(plan.streams).await?;
    let idle = kib_each(served.memory_at_rest().await?, base, plan.streams);
    println!("streams             {:>12}", plan.streams);
    println!("opened in           {:>12}", seconds(opened));
    println!("idle, each          {idle:>8.1} KiB");

    let alone = rounds(&mut served, &fleet, plan.rounds).await?;
    report("withdrawal", &alone, plan.streams);
    let stalled = Fleet::open(served.xds(), plan.stalled, plan.subscriptions, Kind::Stalled).await?;
    served.fill(&stalled).await?;
    let full = served.memory()?;
    let beside = rounds(&mut served, &fleet, plan.rounds).await?;
    report(&format!("with {} stalled", plan.stalled), &beside, plan.streams);
    let grown = kib_each(served.memory()?, full, plan.stalled);
    println!("stalled, each grew  {grown:>8.1} KiB in {} rounds", plan.rounds);

    anyhow::ensure!(idle <= plan.most_kib, "an idle stream costs {idle:.1} KiB, more than {}", plan.most_kib);
    let (one, other) = (percentile(&alone.after, 99), percentile(&beside.after, 99));
    let bound = (one * 2).max(one + Duration::from_millis(50));
    anyhow::ensure!(other <= bound, "stalled clients delay the others: p99 {other:?} after {one:?} without");
    Ok(())
}

/// What some rounds have shown.
struct Rounds {
    /// From the write of the file to the receipt, of each stream in each round.
    after: Vec<Duration>,
    /// What the server's processor time came to.
    cpu: Duration,
}

async fn rounds(served: &mut Served, fleet: &Fleet, count: usize) -> anyhow::Result<Rounds> {
    // One that doesn't count: every stream is done with whatever went before.
    let version = served.withdraw()?;
    fleet.received(version, Instant::now(), ROUND).await?;
    let (mut after, before) = (Vec::new(), served.processor()?);
    for _ in 0..count {
        let started = Instant::now();
        let version = served.withdraw()?;
        after.extend(fleet.received(version, started, ROUND).await?);
    }
    Ok(Rounds { after, cpu: served.processor()?.saturating_sub(before) })
}

fn report(what: &str, rounds: &Rounds, streams: usize) {
    let pushes = rounds.after.len().max(streams);
    let each = rounds.cpu.as_secs_f64() * 1e6 / f64::from(u32::try_from(pushes).unwrap_or(u32::MAX));
    let [half, most, all] = [50, 99, 100].map(|percent| milliseconds(percentile(&rounds.after, percent)));
    println!("{what:<20}p50 {half} p99 {most} max {all}, server {each:.1} us for each stream and push");
}

fn percentile(values: &[Duration], percent: usize) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or_default()
}

fn kib_each(after: u64, before: u64, count: usize) -> f64 {
    let grown = u32::try_from(after.saturating_sub(before)).map_or(f64::MAX, f64::from);
    grown / f64::from(u32::try_from(count.max(1)).unwrap_or(u32::MAX))
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}
