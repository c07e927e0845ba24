//! What was measured, as a table and as JSON.
//!
//! It measures nothing. Invariant: a ratio is one of medians taken in one run; a target is met or it is not, and what
//! has none is only told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::Serialize;

use crate::server::Kind;

/// From this share on it is said that Legation is hardly better.
const PARITY: f64 = 0.8;

/// One metric of one scenario: a value for each repetition and server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    pub(crate) values: BTreeMap<Kind, Vec<f64>>,
    pub(crate) floor: Vec<f64>,
    /// Who scores nothing here, and why.
    pub(crate) wrong: BTreeMap<Kind, String>,
}

/// What Legation must reach.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// At most this share of what the peer needs.
    Ratio(f64),
    /// At most this, whatever the peer needs.
    AtMost(f64),
    /// None at all.
    Nothing,
    /// Told only.
    None,
}

/// One metric of one scenario, and what it should be.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) scenario: String,
    pub(crate) metric: &'static str,
    pub(crate) target: Target,
    pub(crate) figures: Figures,
}

/// As it is written to `results.json`.
#[derive(Debug, Serialize)]
struct Record<'a> {
    scenario: &'a str,
    metric: &'a str,
    legation: Option<f64>,
    peer: Option<f64>,
    floor: Option<f64>,
    ratio: Option<f64>,
    target: Option<f64>,
    met: Option<bool>,
}

impl Line {
    fn of(&self, kind: Kind) -> Option<f64> {
        self.figures.values.get(&kind).and_then(|values| median(values))
    }

    /// Legation's figure.
    pub(crate) fn of_legation(&self) -> Option<f64> {
        self.of(Kind::Legation)
    }

    /// Legation's share of what the peer needs.
    fn ratio(&self) -> Option<f64> {
        Some(self.of(Kind::Legation)? / self.of(Kind::Linear)?).filter(|ratio| ratio.is_finite())
    }

    /// How many times more than the target it is; below 1 it is met.
    pub(crate) fn excess(&self) -> Option<f64> {
        if !matches!(self.target, Target::None) && self.of_legation().is_none() {
            return Some(f64::INFINITY);
        }
        match self.target {
            Target::Ratio(target) => Some(self.ratio()? / target),
            Target::AtMost(target) => Some(self.of(Kind::Legation)? / target),
            Target::Nothing => {
                self.of(Kind::Legation).map(|value| if value > 0.0 { f64::INFINITY } else { 0.0 })
            }
            Target::None => None,
        }
    }

    fn record(&self) -> Record<'_> {
        Record {
            scenario: &self.scenario,
            metric: self.metric,
            legation: self.of(Kind::Legation),
            peer: self.of(Kind::Linear),
            floor: median(&self.figures.floor),
            ratio: self.ratio(),
            target: match self.target {
                Target::Ratio(target) | Target::AtMost(target) => Some(target),
                Target::Nothing => Some(0.0),
                Target::None => None,
            },
            met: self.excess().map(|excess| excess <= 1.0),
        }
    }

    fn row(&self) -> String {
        let figures = |values: &[f64]| match (median(values), spread(values)) {
            (Some(median), Some((least, most))) if values.len() > 1 => {
                format!("{} ({}..{})", short(median), short(least), short(most))
            }
            (Some(median), _) => short(median),
            _ => "-".to_owned(),
        };
        let of = |kind| self.figures.values.get(&kind).map_or("-".to_owned(), |values| figures(values));
        let (target, unit) = match self.target {
            Target::Ratio(target) => (format!("1/{}", short(1.0 / target)), "ratio"),
            Target::AtMost(target) => (short(target), "value"),
            Target::Nothing => ("0".to_owned(), "value"),
            Target::None => ("-".to_owned(), ""),
        };
        let met = match self.excess() {
            Some(excess) if excess <= 1.0 => "yes",
            Some(_) => "**no**",
            None => "-",
        };
        let ratio = self.ratio().map_or("-".to_owned(), |ratio| match ratio {
            ratio if ratio < 1.0 => format!("1/{}", short(1.0 / ratio)),
            ratio => short(ratio),
        });
        format!(
            "| {} | {} | {} | {} | {} | {} | {ratio} | {target} {unit} | {met} |",
            self.scenario,
            self.metric,
            of(Kind::Legation),
            of(Kind::Linear),
            of(Kind::Snapshot),
            figures(&self.figures.floor),
        )
    }
}

/// The table, under what is to be said first.
pub(crate) fn table(preface: &str, lines: &[Line]) -> String {
    let mut text = format!(
        "{preface}\n| scenario | metric | Legation | LinearCache | SnapshotCache | floor | ratio | target | met |\n\
         |---|---|---|---|---|---|---|---|---|\n"
    );
    for line in lines {
        let _ = writeln!(text, "{}", line.row()); // writing to a string does not fail
    }
    text + &wrong(lines) + &missed(lines) + &at_parity(lines)
}

/// Who was wrong, and where.
fn wrong(lines: &[Line]) -> String {
    let each = |line: &Line| {
        let wrong = line.figures.wrong.iter();
        wrong.map(|(kind, why)| format!("* {}, {}: {why}\n", line.scenario, kind.word())).collect::<Vec<_>>()
    };
    let each: BTreeSet<_> = lines.iter().flat_map(each).collect();
    list("Wrong, and so without a score", each.into_iter().collect())
}

/// The targets that are missed, and by how much.
fn missed(lines: &[Line]) -> String {
    let missed = lines.iter().filter(|line| line.excess().is_some_and(|excess| excess > 1.0));
    let by = |line: &Line| match line.excess().filter(|excess| excess.is_finite()) {
        Some(excess) => format!("{} times the target", short(excess)),
        None => "altogether".to_owned(),
    };
    let missed = missed.map(|line| format!("* {}: {}, {}\n", line.scenario, line.metric, by(line)));
    list("Targets that are missed", missed.collect())
}

/// Where Legation is hardly better than the peer, or worse.
fn at_parity(lines: &[Line]) -> String {
    let ratio = |line: &Line| line.ratio().filter(|ratio| *ratio > PARITY);
    let lines = lines.iter().filter_map(|line| Some((line, ratio(line)?)));
    let each = lines.map(|(line, ratio)| {
        format!("* {}: {}, {} of the peer's\n", line.scenario, line.metric, short(ratio))
    });
    list("At parity with the peer, or worse", each.collect())
}

fn list(title: &str, items: Vec<String>) -> String {
    if items.is_empty() { String::new() } else { format!("\n{title}:\n\n{}", items.concat()) }
}

/// The same for programs.
pub(crate) fn json(lines: &[Line]) -> serde_json::Result<String> {
    let records: Vec<_> = lines.iter().map(Line::record).collect();
    serde_json::to_string_pretty(&records)
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    Some(if sorted.len() % 2 == 1 { upper } else { f64::midpoint(upper, sorted[sorted.len() / 2 - 1]) })
}

fn spread(values: &[f64]) -> Option<(f64, f64)> {
    let least = values.iter().copied().min_by(f64::total_cmp)?;
    Some((least, values.iter().copied().max_by(f64::total_cmp)?))
}

fn short(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_one_of_medians_and_is_held_against_its_target() {
        let mut figures = Figures::default();
        figures.values.insert(Kind::Legation, vec![10.0, 30.0, 20.0]);
        figures.values.insert(Kind::Linear, vec![90.0, 110.0]);
        let line = Line { scenario: "S1".into(), metric: "us", target: Target::Ratio(0.25), figures };
        assert_eq!((line.ratio(), line.excess()), (Some(0.2), Some(0.8)));
        let row = line.row();
        assert!(row.contains("20.0 (10.0..30.0) | 100 (90.0..110)"), "{row}");
        assert!(row.ends_with("1/5.00 | 1/4.00 ratio | yes |"), "{row}");
        let record = line.record();
        assert_eq!((record.legation, record.peer, record.met), (Some(20.0), Some(100.0), Some(true)));
    }

    #[test]
    fn a_wrong_server_scores_nothing_and_misses_every_target() {
        let mut figures = Figures::default();
        figures.values.insert(Kind::Linear, vec![100.0]);
        figures.wrong.insert(Kind::Legation, "turn 2: stream 7: an old state".to_owned());
        let line = Line { scenario: "S1".into(), metric: "us", target: Target::Ratio(0.25), figures };
        assert_eq!((line.of_legation(), line.excess()), (None, Some(f64::INFINITY)));
        assert_eq!(line.record().met, Some(false));
        let table = table("", &[line.clone(), line]);
        let said =
            "Wrong, and so without a score:\n\n* S1, legation: turn 2: stream 7: an old state\n\nTargets";
        assert!(table.contains(said), "{table}");
    }
}
