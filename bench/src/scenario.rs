//! What is measured, in which order, and what must come out.
//!
//! It drives servers and fleets and knows neither's insides. Invariant: each turn has a process of its own that
//! begins with nothing, and where time counts servers take turns (A-B-C-A-B-C).

mod envoys;
mod memory;
mod rig;
mod rollout;
mod storm;
mod sweep;
mod withdrawal;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::machine::{self, Mode};
use crate::report::{Figures, Line, Target};
use crate::server::{Kind, Programs};

/// What all measurements share.
#[derive(Debug, Clone)]
pub(crate) struct Bench {
    pub(crate) programs: Programs,
    pub(crate) quick: bool,
    /// Measure although others are at work.
    pub(crate) busy: bool,
    pub(crate) only: Vec<String>,
}

/// Everything there is to measure.
const SCENARIOS: [&str; 10] = ["S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "S9", "S10"];
/// What a quick run leaves out: it takes minutes, or is about milliseconds, which a machine that does other things as
/// well can't tell.
const SLOW: [&str; 5] = ["S4", "S5", "S8", "S9", "S10"];

/// The figures of one turn of one server, by metric.
type Sample = BTreeMap<&'static str, f64>;

/// A metric and what it must be.
type Wanted = (&'static str, Target);

impl Bench {
    /// Everything that was asked for. An error where that is nothing, or there is no such scenario.
    pub(crate) async fn run(&self) -> anyhow::Result<Vec<Line>> {
        for only in &self.only {
            let known = SCENARIOS.iter().find(|name| name.eq_ignore_ascii_case(only));
            let known = known.with_context(|| format!("no scenario {only}: there are S1 to S10"))?;
            let left_out = self.quick && SLOW.contains(known);
            anyhow::ensure!(!left_out, "a quick run does not measure {known}; leave out QUICK=1");
        }
        let mut lines = withdrawal::measure(self).await?;
        lines.extend(rollout::measure(self).await?);
        lines.extend(storm::measure(self).await?);
        lines.extend(memory::measure(self).await?);
        lines.extend(envoys::measure(self).await?);
        lines.extend(sweep::measure(self).await?);
        Ok(lines)
    }

    fn wants(&self, scenario: &str) -> bool {
        if self.only.is_empty() {
            return !(self.quick && SLOW.contains(&scenario));
        }
        self.only.iter().any(|only| only.eq_ignore_ascii_case(scenario))
    }

    /// How often each server has its turn.
    fn turns(&self) -> usize {
        if self.quick { 2 } else { 3 }
    }

    /// The servers that take part; the one that is not compared with only where fan-out is measured, at its smallest.
    fn kinds(&self, scenario: &str, mode: Mode) -> Vec<Kind> {
        let peers = [Kind::Linear, Kind::Snapshot];
        let smallest = ["S1: 1000 ", "S3: 1000 streams x 1 of 1 x 1000"];
        let is_smallest = mode == Mode::Pinned && smallest.iter().any(|it| scenario.starts_with(it));
        let with_snapshot = !self.quick && is_smallest;
        let peers = peers.into_iter().filter(|kind| with_snapshot || *kind != Kind::Snapshot);
        let peers = peers.filter(|_| self.programs.peer.is_some());
        [Kind::Legation].into_iter().chain(peers).collect()
    }

    /// Lets each server have its turns, and sums up.
    async fn in_turns(
        &self,
        scenario: &str,
        mode: Mode,
        wanted: &[Wanted],
        once: impl AsyncFn(Kind) -> anyhow::Result<Sample>,
    ) -> anyhow::Result<Vec<Line>> {
        self.turns_of(&self.kinds(scenario, mode), scenario, mode, wanted, once).await
    }

    /// The same where only Legation can take part.
    async fn alone(
        &self,
        scenario: &str,
        mode: Mode,
        wanted: &[Wanted],
        once: impl AsyncFn() -> anyhow::Result<Sample>,
    ) -> anyhow::Result<Vec<Line>> {
        self.turns_of(&[Kind::Legation], scenario, mode, wanted, async |_| once().await).await
    }

    async fn turns_of(
        &self,
        kinds: &[Kind],
        scenario: &str,
        mode: Mode,
        wanted: &[Wanted],
        once: impl AsyncFn(Kind) -> anyhow::Result<Sample>,
    ) -> anyhow::Result<Vec<Line>> {
        let mut cell = Cell::begin(scenario, mode)?;
        for turn in 1..=self.turns() {
            for &kind in kinds {
                self.quiet().await?;
                cell.enter(kind, turn, once(kind).await);
            }
        }
        Ok(cell.lines(wanted))
    }

    /// Lets each server have its turns, all of one server at the same time: for what is no matter of time.
    async fn together(
        &self,
        kinds: &[Kind],
        scenario: &str,
        mode: Mode,
        wanted: &[Wanted],
        once: impl AsyncFn(Kind) -> anyhow::Result<Sample>,
    ) -> anyhow::Result<Vec<Line>> {
        let mut cell = Cell::begin(scenario, mode)?;
        for &kind in kinds {
            let turns = futures_util::future::join_all((0..self.turns()).map(|_| once(kind))).await;
            (1..).zip(turns).for_each(|(turn, outcome)| cell.enter(kind, turn, outcome));
        }
        Ok(cell.lines(wanted))
    }

    /// Refuses a busy machine, unless told not to mind.
    async fn quiet(&self) -> anyhow::Result<()> {
        for _ in 0..20 {
            match machine::complaint().await? {
                None => return Ok(()),
                Some(complaint) if self.busy => {
                    eprintln!("{complaint}; measured all the same");
                    return Ok(());
                }
                Some(_) => {} // the server before may still be ending
            }
        }
        anyhow::bail!("others are at work on this machine; wait, or add --busy")
    }
}

/// What came of one scenario: the figures of each server, unless it was wrong in any turn.
struct Cell {
    scenario: String,
    began: Instant,
    figures: BTreeMap<&'static str, Figures>,
    wrong: BTreeMap<Kind, String>,
}

impl Cell {
    /// Puts everyone in their places.
    fn begin(scenario: &str, mode: Mode) -> anyhow::Result<Self> {
        mode.enter()?;
        let (scenario, began) = (format!("{scenario}, {}", mode.word()), Instant::now());
        Ok(Self { scenario, began, figures: BTreeMap::new(), wrong: BTreeMap::new() })
    }

    fn enter(&mut self, kind: Kind, turn: usize, outcome: anyhow::Result<Sample>) {
        match outcome {
            Ok(sample) => {
                eprintln!("{} {} {turn}: {sample:.2?}", self.scenario, kind.word());
                for (metric, value) in sample {
                    self.figures.entry(metric).or_default().values.entry(kind).or_default().push(value);
                }
            }
            Err(error) => {
                let wrong = format!("turn {turn}: {error:#}");
                eprintln!("{} {} scores nothing, {wrong}", self.scenario, kind.word());
                self.wrong.entry(kind).or_insert(wrong);
            }
        }
    }

    /// A line for each metric. Whoever was wrong scores nothing in any.
    fn lines(self, wanted: &[Wanted]) -> Vec<Line> {
        eprintln!("{}: measured in {:.0?}", self.scenario, self.began.elapsed());
        let line = |(metric, target): &Wanted| {
            let mut figures = self.figures.get(metric).cloned().unwrap_or_default();
            figures.values.retain(|kind, _| !self.wrong.contains_key(kind));
            figures.wrong.clone_from(&self.wrong);
            Line { scenario: self.scenario.clone(), metric, target: *target, figures }
        };
        wanted.iter().map(line).collect()
    }
}

/// An error where nothing was measured.
fn middle(values: &mut [Duration]) -> anyhow::Result<Duration> {
    values.sort_unstable();
    values.get(values.len() / 2).copied().context("nothing was measured")
}
