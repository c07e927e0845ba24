//! S4, S5 and S8: many changes one after the other, and how stale what clients hold becomes.
//!
//! It waits for nobody between two changes. Invariant: a change counts from the moment when it was due, also
//! where the server takes it in later.

use std::time::{Duration, Instant};

use anyhow::Context;

use super::rig::{Rig, Size};
use super::{Bench, Sample, Wanted};
use crate::fleet::{Arrives, Bad, Fleet};
use crate::machine::Mode;
use crate::report::{Line, Target};
use crate::server::Kind;

const SIZE: Size = Size { services: 1_000, tasks: 20, streams: 1_000, subscriptions: 20 };
/// How many services a deployment replaces.
const REPLACED: usize = 50;
/// Between two changes of a deployment: each task comes, and another goes.
const PACE: Duration = Duration::from_millis(10);
/// S5: how long one rate is held, the first one, and how much it grows.
const STEP: Duration = Duration::from_secs(2);
const FIRST: f64 = 1_600.0;
const GROWTH: f64 = std::f64::consts::SQRT_2;
/// S5: as stale as that is too stale.
const STALE: Duration = Duration::from_secs(1);
/// S5: where the clients are no measure any more.
const MOST: f64 = 1_000_000.0;
/// S5: so many changes that are due are told together.
const TOGETHER: usize = 64;
/// S5: a rate counts only if its changes were told no later than this.
const TOLD_LATE: Duration = Duration::from_millis(500);
/// How coarse timers are.
const TICK: Duration = Duration::from_millis(3);

const P99: &str = "p99 of a withdrawal's staleness, ms";
const P99_AT_MOST: &str = "p99 of a withdrawal's staleness whatever the peer's, ms";
const P50: &str = "p50 of a withdrawal's staleness, ms";
const BESIDE: &str = "p99 beside bad clients, ms";
const SHARE: &str = "p99 beside bad clients, to that without";
const KNEE: &str = "us between changes at the knee";
const LIMIT: &str = "what ended the ramp: 1 staleness, 0 telling";
const BY_SERVER: f64 = 1.0;
const BY_CLIENTS: f64 = 0.0;

/// Measures all that is wanted.
pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    if bench.wants("S4") || bench.wants("S8") {
        let name = format!("S4: {}", SIZE.words());
        let wanted: [Wanted; 5] = [
            (P99, Target::Ratio(1.0 / 4.0)),
            (P99_AT_MOST, Target::AtMost(20.0)),
            (P50, Target::None),
            (BESIDE, Target::None),
            (SHARE, Target::AtMost(1.2)),
        ];
        let once = async |kind| rollout(bench, kind).await;
        let mut measured = bench.in_turns(&name, Mode::Pinned, &wanted, once).await?;
        for line in measured.iter_mut().filter(|line| [BESIDE, SHARE].contains(&line.metric)) {
            line.scenario = line.scenario.replacen("S4", "S8", 1);
        }
        lines.extend(measured);
    }
    if bench.wants("S5") {
        let name = format!("S5: {}", SIZE.words());
        let wanted: [Wanted; 2] = [(KNEE, Target::Ratio(1.0 / 10.0)), (LIMIT, Target::None)];
        lines.extend(
            bench.in_turns(&name, Mode::Pinned, &wanted, async |kind| knee(bench, kind).await).await?,
        );
    }
    Ok(lines)
}

async fn rollout(bench: &Bench, kind: Kind) -> anyhow::Result<Sample> {
    let mut rig = Rig::new(bench, Mode::Pinned, SIZE, kind).await?;
    let fleet = rig.connect(Arrives::Empty).await?;
    let changes = REPLACED * SIZE.tasks * 2;
    let services: Vec<_> = (1..=REPLACED).collect();
    let (alone, _) = replace(&mut rig, &fleet, &services, PACE, changes).await?;
    let millis = |stale: &[Duration], percent| percentile(stale, percent).map(|it| it.as_secs_f64() * 1e3);
    let p99 = millis(&alone, 99)?;
    let mut sample = Sample::from([(P99, p99), (P99_AT_MOST, p99), (P50, millis(&alone, 50)?)]);
    if kind == Kind::Legation {
        let bad = Bad::connect(rig.server.door(), &services, SIZE.streams / 100);
        let beside = millis(&replace(&mut rig, &fleet, &services, PACE, changes).await?.0, 99)?;
        bad.prove()?;
        drop(bad);
        sample.extend([(BESIDE, beside), (SHARE, beside / p99)]);
    }
    fleet.finish().await?;
    Ok(sample)
}

async fn knee(bench: &Bench, kind: Kind) -> anyhow::Result<Sample> {
    let mut rig = Rig::new(bench, Mode::Pinned, SIZE, kind).await?;
    let fleet = rig.connect(Arrives::Empty).await?;
    let mut random = fastrand::Rng::with_seed(7);
    let (mut rate, mut reached, mut limit) = (FIRST, None, BY_CLIENTS);
    while rate < MOST {
        let changes = (rate * STEP.as_secs_f64()) as usize;
        let services: Vec<_> =
            std::iter::repeat_with(|| random.usize(1..SIZE.services)).take(changes.div_ceil(2)).collect();
        let (stale, told) =
            replace(&mut rig, &fleet, &services, Duration::from_secs_f64(1.0 / rate), changes).await?;
        if told > TOLD_LATE {
            eprintln!("at {rate:.0} changes a second they are told {told:.0?} late: no measure any more");
            break;
        }
        if percentile(&stale, 99)? > STALE {
            limit = BY_SERVER;
            break;
        }
        (reached, rate) = (Some(rate), rate * GROWTH);
    }
    fleet.finish().await?;
    let reached = reached.with_context(|| format!("not even {FIRST} changes a second"))?;
    Ok([(KNEE, 1e6 / reached), (LIMIT, limit)].into())
}

/// One after the other a task of each of these services comes and another goes, again and again. Returns how stale
/// each withdrawal was at each client, and how late the latest change was told.
async fn replace(
    rig: &mut Rig,
    fleet: &Fleet,
    services: &[usize],
    pace: Duration,
    changes: usize,
) -> anyhow::Result<(Vec<Duration>, Duration)> {
    let started = Instant::now();
    rig.book.borrow_mut().withdrawals();
    let (mut together, mut late) = (Vec::new(), Duration::ZERO);
    for number in 0..changes {
        let service = services[number / 2 % services.len()];
        let due = started + pace.mul_f64(number as f64);
        until(due).await;
        if number % 16 == 0 {
            tokio::task::yield_now().await;
        }
        let change = if number % 2 == 0 { rig.world.start(service) } else { rig.world.stop(service) };
        rig.book.borrow_mut().announce(&change, due);
        together.push(change);
        // What is due already goes with it.
        let next = started + pace.mul_f64((number + 1) as f64);
        if together.len() == TOGETHER || number + 1 == changes || next > Instant::now() {
            rig.server.order(&together).await?;
            together.clear();
            late = late.max(due.elapsed());
        }
    }
    rig.server.taken_in().await?;
    rig.current(fleet).await?;
    let stale = rig.book.borrow_mut().withdrawals();
    let told: usize =
        (1..changes).step_by(2).map(|number| rig.asking(services[number / 2 % services.len()])).sum();
    anyhow::ensure!(stale.len() == told, "{} withdrawals reached clients instead of {told}", stale.len());
    Ok((stale, late))
}

/// To the moment: a timer alone is late by up to two milliseconds, which would count as the server's.
async fn until(due: Instant) {
    if due > Instant::now() + TICK {
        tokio::time::sleep_until((due - TICK).into()).await;
    }
    while due > Instant::now() {
        tokio::task::yield_now().await;
    }
}

/// An error where nothing was measured.
pub(super) fn percentile(values: &[Duration], percent: usize) -> anyhow::Result<Duration> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().context("nothing was measured")
}
