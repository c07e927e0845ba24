//! How long, and which story: from the environment.
//!
//! Invariant: what it says at the beginning is enough to repeat the run.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use anyhow::Context;

/// Edits, and cuts, in each minute of churn: what a run has to reach.
const EDITS: f64 = 500.0;
const CUTS: f64 = 10.0;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) seed: u64,
    /// Of churn; what is waited for between comes on top.
    pub(crate) minutes: f64,
}

impl Settings {
    /// `SEED` and `MINUTES`; else another story each time, for two minutes.
    pub(crate) fn from_environment() -> anyhow::Result<Self> {
        let word = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let seed = match word("SEED") {
            Some(text) => text.parse().with_context(|| format!("SEED={text}"))?,
            None => RandomState::new().hash_one(std::process::id()) >> 32,
        };
        let minutes = match word("MINUTES") {
            Some(text) => text.parse().with_context(|| format!("MINUTES={text}"))?,
            None => 2.0,
        };
        anyhow::ensure!((0.2..=600.0).contains(&minutes), "MINUTES={minutes}: take 0.2 to 600");
        Ok(Self { seed, minutes })
    }

    /// The churn between two lulls.
    pub(crate) fn phase(&self, phases: u32) -> Duration {
        Duration::from_secs_f64(self.minutes * 60.0) / phases
    }

    pub(crate) fn least_edits(&self) -> u64 {
        (EDITS * self.minutes) as u64
    }

    pub(crate) fn least_cuts(&self) -> u64 {
        (CUTS * self.minutes) as u64
    }
}
