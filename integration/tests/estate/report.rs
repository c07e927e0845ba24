//! What came of each scenario: a line of a table, and the same as JSON.
//!
//! It measures nothing. Invariant: `met` follows from the other figures alone.

use std::fmt::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use integration::docker::tally::Failure;
use integration::withdrawal::quantile;
use serde_json::{Value, json};

/// What a scenario must keep to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bound {
    /// Failed requests at most.
    pub(crate) failed: u64,
    /// Whether only those may fail that something had in flight when it died.
    pub(crate) in_flight: bool,
    /// The last ACK of 99 of 100 withdrawals after the stop.
    pub(crate) withdrawn: Option<Duration>,
    /// The last request to 99 of 100 stopped tasks after the stop.
    pub(crate) last_request: Option<Duration>,
    /// What the note tells as the time that something took.
    pub(crate) took: Option<Duration>,
    /// Requests at least, so that the figures say something.
    pub(crate) requests: u64,
}

/// One scenario.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    pub(crate) scenario: &'static str,
    pub(crate) world: &'static str,
    /// Requests whose outcome is known.
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    /// The latest of these.
    pub(crate) failures: Vec<Failure>,
    /// Of the failed, those of which the scenario has no explanation.
    pub(crate) stray: u64,
    /// From each stop (or death, or change) to the last sidecar's ACK.
    pub(crate) withdrawn: Vec<Duration>,
    /// From each stop to the last request that reached the task.
    pub(crate) last_request: Vec<Duration>,
    pub(crate) bound: Bound,
    /// How long something took that is neither.
    pub(crate) took: Option<Duration>,
    /// In a few words, what else was seen.
    pub(crate) note: String,
    /// Why the scenario could not be played to its end.
    pub(crate) broken: Option<String>,
}

impl Row {
    /// An error that says which bound was not met.
    pub(crate) fn judge(&self) -> anyhow::Result<()> {
        if let Some(why) = &self.broken {
            anyhow::bail!("{why}");
        }
        let (bound, failed) = (self.bound, self.failed);
        anyhow::ensure!(
            failed <= bound.failed,
            "{failed} requests failed, {} may: {}",
            bound.failed,
            self.note
        );
        anyhow::ensure!(
            self.stray == 0,
            "{} requests failed that no death explains: {}",
            self.stray,
            self.note
        );
        for (what, values, limit) in [
            ("withdrawn", &self.withdrawn, bound.withdrawn),
            ("last request", &self.last_request, bound.last_request),
        ] {
            let Some(limit) = limit else { continue };
            let p99 = quantile(values, 0.99);
            anyhow::ensure!(!values.is_empty(), "{what}: nothing was measured");
            anyhow::ensure!(p99 <= limit, "{what} p99 {p99:?}, {limit:?} allowed: {values:?}");
        }
        if let Some(limit) = bound.took {
            let took = self.took.context("no time was taken")?;
            anyhow::ensure!(took <= limit, "it took {took:?}, {limit:?} allowed: {}", self.note);
        }
        anyhow::ensure!(
            self.requests >= bound.requests,
            "only {} requests, {} wanted",
            self.requests,
            bound.requests
        );
        Ok(())
    }

    fn bound_in_words(&self) -> String {
        let bound = self.bound;
        let mut words = format!("{} failed", bound.failed);
        words += if bound.in_flight { ", of what was in flight" } else { "" };
        if bound.requests > 0 {
            let _ = write!(words, " of {} at least", bound.requests);
        }
        for (what, limit) in [("withdrawn", bound.withdrawn), ("last request", bound.last_request)] {
            let _ = limit.map(|limit| write!(words, ", {what} p99 {} ms", limit.as_millis()));
        }
        let _ = bound.took.map(|limit| write!(words, ", within {} s", limit.as_secs()));
        words
    }

    fn json(&self) -> Value {
        let millis = |values: &[Duration]| {
            let at = |share| (quantile(values, share).as_secs_f64() * 10_000.0).round() / 10.0;
            if values.is_empty() {
                Value::Null
            } else {
                json!({ "count": values.len(), "p50": at(0.5), "p99": at(0.99) })
            }
        };
        json!({
            "scenario": self.scenario,
            "world": self.world,
            "requests": self.requests,
            "failed": self.failed,
            "withdrawn_ms": millis(&self.withdrawn),
            "last_request_ms": millis(&self.last_request),
            "bound": self.bound_in_words(),
            "met": self.judge().is_ok(),
            "note": self.broken.as_ref().unwrap_or(&self.note),
        })
    }
}

/// All scenarios so far; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    rows: Arc<Mutex<Vec<Row>>>,
    facts: Arc<Mutex<Vec<String>>>,
}

impl Report {
    pub(crate) fn note(&self, row: Row) {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).push(row);
    }

    /// A figure that belongs to no scenario.
    pub(crate) fn fact(&self, fact: String) {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).push(fact);
    }

    fn rows(&self) -> Vec<Row> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn facts(&self) -> Vec<String> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// As a table of Markdown, with its facts.
    pub(crate) fn table(&self) -> String {
        table(&self.rows().iter().map(Row::json).collect::<Vec<_>>(), &self.facts())
    }

    /// One line for the end.
    pub(crate) fn summary(&self) -> String {
        let rows = self.rows();
        let met = rows.iter().filter(|row| row.judge().is_ok()).count();
        let requests: u64 = rows.iter().map(|row| row.requests).sum();
        format!("\nestate: {met} of {} bounds met, {requests} requests", rows.len())
    }

    /// As `REPORT.md` and `report.json` in a folder. Scenarios that were not played keep the rows that they have there.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let path = folder.join("report.json");
        let before: Value = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| path.display().to_string())?,
            Err(_) => Value::Null,
        };
        let mut rows: Vec<Value> = before["rows"].as_array().cloned().unwrap_or_default();
        for row in self.rows().iter().map(Row::json) {
            match rows.iter_mut().find(|old| old["scenario"] == row["scenario"]) {
                Some(old) => *old = row,
                None => rows.push(row),
            }
        }
        let text = format!("{:#}\n", json!({ "rows": rows, "facts": self.facts() }));
        std::fs::write(&path, text).context("writing report.json")?;
        let text = format!("{HEAD}{}", table(&rows, &self.facts()));
        std::fs::write(folder.join("REPORT.md"), text).context("writing REPORT.md")
    }
}

const HEAD: &str = "\
# The estate in containers

Written by `make estate`, here in full size (`FULL=1`): every scenario of `integration/tests/estate` under steady load. A task is an
application and a stock Envoy in one network namespace, as `deploy/task-definition.json` has it. *Withdrawn* is the time from the stop
(or the death, or what the note says) to the last sidecar's ACK; *last request* that to the last request that arrived at the task.
Failed are requests that the calling application saw fail, after its sidecar's retries.
In full size `payments` has 20 tasks (8 under ministack), called by 6 (4) at 60 requests a second each.
";

fn table(rows: &[Value], facts: &[String]) -> String {
    let mut text =
        "\n| scenario | world | requests | failed | withdrawn ms p50 / p99 | last request ms p50 / p99 | \
        bound | met | note |\n|---|---|---:|---:|---:|---:|---|---|---|\n"
            .to_owned();
    for row in rows {
        let pair = |key: &str| match &row[key] {
            Value::Null => "-".to_owned(),
            both => format!("{} / {}", both["p50"], both["p99"]),
        };
        let word = |key: &str| row[key].as_str().unwrap_or_default().replace(['|', '\n'], " ");
        let met = if row["met"] == true { "yes" } else { "**no**" };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {met} | {} |",
            word("scenario"),
            word("world"),
            row["requests"],
            row["failed"],
            pair("withdrawn_ms"),
            pair("last_request_ms"),
            word("bound"),
            word("note"),
        );
    }
    for fact in facts {
        let _ = writeln!(text, "\n{fact}");
    }
    text
}
