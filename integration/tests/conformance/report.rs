//! What came of each case, as a table.
//!
//! It runs nothing. Invariant: a case that was begun and did not end well stands as failed, however it ended.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use integration::probe::Protocol;

/// What came of a case in one protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It did not run.
    Skipped,
    Passed,
    /// It failed, and why.
    Failed(String),
    /// It can't run in this protocol, and why.
    NotApplicable(&'static str),
}

/// Every case that is known. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    rows: Arc<Mutex<BTreeMap<u8, Row>>>,
}

#[derive(Debug)]
struct Row {
    title: &'static str,
    outcomes: BTreeMap<Protocol, Outcome>,
}

impl Report {
    /// Notes what came of a case.
    pub(crate) fn note(&self, number: u8, title: &'static str, protocol: Protocol, outcome: Outcome) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let row = rows.entry(number).or_insert_with(|| Row { title, outcomes: BTreeMap::new() });
        row.outcomes.insert(protocol, outcome);
    }

    /// The table of the cases that ran; of every one in `expected`, if `complete`.
    pub(crate) fn table(&self, expected: impl IntoIterator<Item = u8>, complete: bool) -> String {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let width = rows.values().map(|row| row.title.len()).max().unwrap_or_default();
        let mut text = format!("\n{:<4} {:<width$}  {:<5}  sotw\n", "", "case", "delta");
        for number in expected {
            let Some(row) = rows.get(&number) else {
                if complete {
                    let _ = writeln!(text, "{:<4} MISSING", format!("C{number}"));
                }
                continue;
            };
            let ran = |outcome: &Outcome| matches!(outcome, Outcome::Passed | Outcome::Failed(_));
            if !complete && !row.outcomes.values().any(ran) {
                continue;
            }
            let word = |protocol| row.outcomes.get(&protocol).unwrap_or(&Outcome::Skipped).word();
            let (delta, sotw) = (word(Protocol::Delta), word(Protocol::Sotw));
            let _ = writeln!(text, "{:<4} {:<width$}  {delta:<5}  {sotw}", format!("C{number}"), row.title);
        }
        text
    }

    /// Which cases failed and why, and how many did and did not: at the end, where it is still seen when only the
    /// end of a log is.
    pub(crate) fn summary(&self) -> String {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let all = rows.iter().flat_map(|(number, row)| {
            row.outcomes.iter().map(move |(protocol, outcome)| (number, protocol, outcome))
        });
        let (mut passed, mut failed) = (0, Vec::new());
        for (number, protocol, outcome) in all {
            match outcome {
                Outcome::Passed => passed += 1,
                Outcome::Failed(why) => failed.push(format!("failed: C{number} ({protocol}): {why}\n")),
                Outcome::Skipped | Outcome::NotApplicable(_) => {}
            }
        }
        let mut text = String::from("\n");
        text.extend(failed.iter().map(String::as_str));
        let _ = writeln!(text, "{passed} passed, {} failed", failed.len());
        text
    }

    /// The numbers of `expected` that nobody wrote.
    pub(crate) fn missing(&self, expected: impl IntoIterator<Item = u8>) -> Vec<u8> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        expected.into_iter().filter(|number| !rows.contains_key(number)).collect()
    }
}

impl Outcome {
    fn word(&self) -> String {
        match self {
            Self::Skipped => "-".to_owned(),
            Self::Passed => "pass".to_owned(),
            Self::Failed(_) => "FAIL".to_owned(),
            Self::NotApplicable(why) => format!("n/a: {why}"),
        }
    }
}
