//! What became of the exchanges of one way.
//!
//! It decides nothing. Invariant: every exchange is counted once; the first failures are kept in full.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How many failures are kept.
const KEPT: usize = 10;
/// Latencies are counted in steps of this many microseconds.
const STEP: u64 = 100;
/// How many steps there are; what is slower lies in the last.
const STEPS: usize = 5000;

/// One failure.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Of which way.
    pub way: &'static str,
    /// When it was known, since the load began.
    pub after: Duration,
    /// When it was known, on the clock.
    pub at: SystemTime,
    /// Status, headers and body, or the error.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = jiff::Timestamp::try_from(self.at).map(|at| at.to_string()).unwrap_or_default();
        write!(f, "{} {} after {:.3} s: {}", at, self.way, self.after.as_secs_f64(), self.what)
    }
}

/// Figures of one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Good exchanges.
    pub ok: u64,
    /// Failures.
    pub failed: u64,
    /// Latency of good exchanges: half of them were faster.
    pub median: Duration,
    /// All but one in a hundred were faster.
    pub p99: Duration,
    /// The slowest.
    pub max: Duration,
}

/// Counts exchanges.
#[derive(Debug)]
pub(super) struct Tally {
    started: Instant,
    failed: AtomicU64,
    slowest: AtomicU64,
    steps: Box<[AtomicU64]>,
    first: Mutex<Vec<Failure>>,
}

impl Tally {
    pub(super) fn new(started: Instant) -> Self {
        let steps = (0..STEPS).map(|_| AtomicU64::new(0)).collect();
        Self {
            started,
            failed: AtomicU64::new(0),
            slowest: AtomicU64::new(0),
            steps,
            first: Mutex::default(),
        }
    }

    pub(super) fn good(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let step = usize::try_from(micros / STEP).unwrap_or(STEPS).min(STEPS - 1);
        self.steps[step].fetch_add(1, Ordering::Relaxed);
        self.slowest.fetch_max(micros, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, way: &'static str, what: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if first.len() < KEPT {
            first.push(Failure { way, after: self.started.elapsed(), at: SystemTime::now(), what });
        }
    }

    pub(super) fn failures(&self) -> Vec<Failure> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn totals(&self) -> Totals {
        let counts: Vec<u64> = self.steps.iter().map(|step| step.load(Ordering::Relaxed)).collect();
        let ok = counts.iter().sum();
        let max = Duration::from_micros(self.slowest.load(Ordering::Relaxed));
        let quantile = |hundredths: u64| {
            let mut below = 0;
            let step = counts.iter().position(|count| {
                below += count;
                below * 100 >= ok * hundredths
            });
            let micros = (step.unwrap_or_default() as u64 + 1) * STEP;
            Duration::from_micros(micros).min(max)
        };
        let failed = self.failed.load(Ordering::Relaxed);
        Totals { ok, failed, median: quantile(50), p99: quantile(99), max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_the_exchanges() {
        let tally = Tally::new(Instant::now());
        assert_eq!(tally.totals().ok, 0);
        for millis in 1..=100 {
            tally.good(Duration::from_millis(millis));
        }
        tally.good(Duration::from_secs(60));
        for _ in 0..KEPT + 5 {
            tally.failed("direct", "status 503".to_owned());
        }
        let totals = tally.totals();
        assert_eq!((totals.ok, totals.failed), (101, 15));
        assert_eq!(totals.median.as_millis(), 51);
        assert_eq!(totals.p99.as_millis(), 100);
        assert_eq!(totals.max, Duration::from_secs(60));
        assert_eq!(tally.failures().len(), KEPT);
        assert!(tally.failures()[0].to_string().contains("direct"));
    }
}
