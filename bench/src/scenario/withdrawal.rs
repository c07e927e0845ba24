//! S1 to S3: one task of one service goes, and everyone must know.
//! S10 has the same from the queue of ECS's events on (`sweep`).
//!
//! Invariant: a round is over when every client holds the new state.

use std::time::Duration;

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
        let turn = async |kind| once(bench, plan, kind).await;
        let mut measured = bench.in_turns(&name, plan.mode, &wanted, turn).await?;
        let pushed = measured.iter().find(|line| line.metric == BYTES);
        if let Some(pushed) = pushed.and_then(Line::of_legation) {
            for _ in 0..bench.turns() {
                let floor = floor(bench, plan, (pushed + BESIDES) as usize).await?;
                for line in &mut measured {
                    line.figures.floor.extend(floor.get(line.metric));
                }
            }
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
            times.round(after);
        }
    }
    let processor = floor.processor()?.saturating_sub(before);
    let mut sample = times.sample();
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
    pub(super) fn round(&mut self, mut after: Vec<Duration>) {
        self.half.push(middle(&mut after)); // which sorts them
        self.first.extend(after.first().copied());
        self.last.extend(after.last().copied());
    }

    /// The middle of each over the rounds.
    pub(super) fn sample(mut self) -> Sample {
        let millis = |times: &mut [Duration]| middle(times).as_secs_f64() * 1e3;
        [(FIRST, millis(&mut self.first)), (HALF, millis(&mut self.half)), (LAST, millis(&mut self.last))]
            .into()
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
        // Alternately, so that it stays as large as it is; a stop is what is timed.
        let change = if round % 2 == 0 { rig.world.stop(0) } else { rig.world.start(0) };
        rig.change(&fleet, change).await?;
        let after = rig.book.borrow_mut().withdrawals();
        if round >= WARMING && !after.is_empty() {
            times.round(after);
        }
    }
    let processor = rig.server.processor()?.saturating_sub(before);
    let (pushes, received) = (plan.rounds * fleet.len(), rig.book.borrow_mut().received());
    fleet.close().await;
    let mut sample = times.sample();
    sample.insert(CPU, each(processor, pushes));
    sample.insert(BYTES, received as f64 / pushes as f64);
    Ok(sample)
}
