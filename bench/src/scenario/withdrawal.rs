//! S1 to S3: one task of one service goes, and everyone must know.
//!
//! It is not about where the news comes from; S10 has that (`sweep`). Invariant: a round is over when every
//! client holds the new state.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::Context;

use super::rig::{Rig, Size};
use super::{Bench, Sample, Wanted, middle};
use crate::fleet::Arrives;
use crate::floor::Floor;
use crate::machine::Mode;
use crate::report::{Figures, Line, Target};
use crate::server::Kind;

/// Rounds that don't count.
const WARMING: usize = 4;
/// Bytes of a response besides its resources: type URL, nonce, version and the headers of frames.
const BESIDES: f64 = 120.0;
/// How long the floor may take for all its rounds.
const FLOOR: Duration = Duration::from_secs(120);

const CPU: &str = "server CPU per stream and push, us";
pub(super) const LAST: &str = "to the last client, ms";
pub(super) const HALF: &str = "to half of the clients, ms";
pub(super) const FIRST: &str = "to the first client, ms";
const BYTES: &str = "bytes of resources in a push";

/// What is measured.
#[derive(Debug, Clone)]
struct Plan {
    scenario: &'static str,
    size: Size,
    rounds: usize,
    mode: Mode,
    cpu: Target,
    last: Target,
}

fn plans(quick: bool) -> Vec<Plan> {
    let rounds = if quick { 20 } else { 50 };
    let size = Size { services: 1_000, tasks: 20, streams: 1_000, subscriptions: 20 };
    let cpu = Target::Ratio(1.0 / 5.0);
    let base = Plan { scenario: "S1", size, rounds, mode: Mode::Pinned, cpu, last: Target::None };
    let many = |streams, last| Plan { size: Size { streams, ..size }, last, ..base.clone() };
    let mut plans = vec![base.clone()];
    if !quick {
        plans.push(many(5_000, Target::Ratio(1.0 / 1.5)));
        plans.push(many(10_000, Target::None));
        plans.push(Plan { mode: Mode::Tls, cpu: Target::None, ..base.clone() });
        plans.push(Plan { mode: Mode::Free, cpu: Target::None, ..base.clone() });
    }
    plans.push(Plan {
        scenario: "S2",
        size: Size { subscriptions: 1_000, ..size },
        rounds: if quick { rounds / 4 } else { rounds }, // LinearCache takes most of a second for each
        cpu: Target::Ratio(1.0 / 60.0),
        last: Target::Ratio(1.0 / 40.0),
        ..base.clone()
    });
    let large = |tasks| Plan {
        scenario: "S3",
        size: Size { services: 1, tasks, subscriptions: 1, ..size },
        cpu: Target::Ratio(1.0 / 2.5),
        last: Target::Ratio(1.0),
        ..base.clone()
    };
    plans.extend([large(1_000), large(5_000)]);
    plans
}

/// Measures all that is wanted.
pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for plan in plans(bench.quick).iter().filter(|plan| bench.wants(plan.scenario)) {
        let name = format!("{}: {}", plan.scenario, plan.size.words());
        let wanted: [Wanted; 5] = [
            (CPU, plan.cpu),
            (FIRST, Target::None),
            (HALF, Target::None),
            (LAST, plan.last),
            (BYTES, Target::None),
        ];
        let floors = RefCell::new(Vec::new());
        // The floor has its turn after Legation, whose pushes say how much there is to carry.
        let turn = async |kind| {
            let sample = once(bench, plan, kind).await?;
            if kind == Kind::Legation {
                let pushed = sample.get(BYTES).context("nothing was pushed")?;
                let floor = floor(bench, plan, (pushed + BESIDES) as usize);
                match tokio::time::timeout(FLOOR, floor).await.context("it takes too long").flatten() {
                    Ok(floor) => floors.borrow_mut().push(floor),
                    // Which is no fault of Legation's.
                    Err(error) => eprintln!("{}: no floor: {error:#}", plan.scenario),
                }
            }
            Ok(sample)
        };
        let mut measured = bench.in_turns(&name, plan.mode, &wanted, turn).await?;
        for line in &mut measured {
            line.figures.floor.extend(floors.borrow().iter().filter_map(|floor| floor.get(line.metric)));
        }
        lines.extend(measured);
    }
    lines.extend(unscoped_to_scoped(&lines));
    Ok(lines)
}

/// What a push costs that goes to streams with fifty times as many subscriptions.
fn unscoped_to_scoped(lines: &[Line]) -> Option<Line> {
    let cost = |scenario| lines.iter().find(|line| line.scenario.starts_with(scenario) && line.metric == CPU);
    let (scoped, unscoped) = (cost("S1: ")?, cost("S2: ")?);
    let mut figures = Figures::default();
    figures.values.insert(Kind::Legation, vec![unscoped.of_legation()? / scoped.of_legation()?]);
    let (scenario, metric) = (unscoped.scenario.clone(), "server CPU per push, to that of S1");
    Some(Line { scenario, metric, target: Target::AtMost(1.15), figures })
}

/// The same with raw connections: as many bytes as such a response has.
async fn floor(bench: &Bench, plan: &Plan, bytes: usize) -> anyhow::Result<Sample> {
    let folder = tempfile::tempdir()?;
    let streams = plan.size.streams;
    let program = &bench.programs.floor;
    let mut floor = Floor::open(program, plan.mode, folder.path(), streams, bytes).await?;
    let (mut times, mut before) = (Times::default(), Duration::ZERO);
    for round in 0..WARMING + plan.rounds {
        if round == WARMING {
            before = floor.processor()?;
        }
        let after = floor.push().await?;
        if round >= WARMING {
            times.round(after, streams)?;
        }
    }
    let processor = floor.processor()?.saturating_sub(before);
    let mut sample = times.sample()?;
    sample.insert(CPU, each(processor, plan.rounds * streams));
    Ok(sample)
}

/// How long the first, the middle and the last client waited, by round.
#[derive(Debug, Default)]
pub(super) struct Times {
    first: Vec<Duration>,
    half: Vec<Duration>,
    last: Vec<Duration>,
}

impl Times {
    /// How long each of so many clients waited for one withdrawal.
    pub(super) fn round(&mut self, mut after: Vec<Duration>, clients: usize) -> anyhow::Result<()> {
        anyhow::ensure!(after.len() == clients, "{} of {clients} clients were told", after.len());
        self.half.push(middle(&mut after)?); // which sorts them
        self.first.extend(after.first().copied());
        self.last.extend(after.last().copied());
        Ok(())
    }

    /// The middle of each over the rounds.
    pub(super) fn sample(mut self) -> anyhow::Result<Sample> {
        let millis = |times: &mut [Duration]| middle(times).map(|time| time.as_secs_f64() * 1e3);
        let (first, half, last) =
            (millis(&mut self.first)?, millis(&mut self.half)?, millis(&mut self.last)?);
        Ok([(FIRST, first), (HALF, half), (LAST, last)].into())
    }
}

/// Microseconds for each push.
fn each(processor: Duration, pushes: usize) -> f64 {
    processor.as_secs_f64() * 1e6 / pushes as f64
}

async fn once(bench: &Bench, plan: &Plan, kind: Kind) -> anyhow::Result<Sample> {
    let mut rig = Rig::new(bench, plan.mode, plan.size, kind).await?;
    let fleet = rig.connect(Arrives::Empty).await?;
    let (mut times, mut before) = (Times::default(), Duration::ZERO);
    for round in 0..WARMING + plan.rounds {
        if round == WARMING {
            before = rig.server.processor()?;
            rig.book.borrow_mut().withdrawals();
            rig.book.borrow_mut().received();
        }
        // Another comes, so that the service stays as large as it is.
        let change = rig.world.replace(0);
        rig.change(&fleet, change).await?;
        let after = rig.book.borrow_mut().withdrawals();
        if round >= WARMING {
            times.round(after, fleet.len())?;
        }
    }
    let processor = rig.server.processor()?.saturating_sub(before);
    let (pushes, received) = (plan.rounds * fleet.len(), rig.book.borrow_mut().received());
    fleet.finish().await?;
    let mut sample = times.sample()?;
    sample.insert(CPU, each(processor, pushes));
    sample.insert(BYTES, received as f64 / pushes as f64);
    Ok(sample)
}
