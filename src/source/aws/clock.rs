//! AWS's clock, as its answers tell it: with what AWS dates, only this is compared.
//!
//! It dates nothing of ours. Nor does it date signatures: the SDK corrects those by the same header.
//!
//! Invariant: where no answer contradicts our own clock, it is our own; else it is behind AWS's by a second and an answer's
//! time under way at most, and never ahead: what happened after something was read is never older than that.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use aws_sdk_ecs::primitives::{DateTime, DateTimeFormat};

/// As long as an attempt may take, an answer may be under way: less than this contradicts nothing.
const UNDER_WAY: i64 = 10_000;

/// How many milliseconds AWS's clock is ahead of ours.
#[derive(Debug, Default)]
pub struct Clock(AtomicI64);

impl Clock {
    /// What time it is there.
    pub fn now(&self) -> SystemTime {
        let (ours, ahead) = (SystemTime::now(), self.0.load(Ordering::Relaxed));
        let by = Duration::from_millis(ahead.unsigned_abs());
        let there = if ahead < 0 { ours.checked_sub(by) } else { ours.checked_add(by) };
        there.unwrap_or(ours)
    }

    /// Learns from the header `Date` of an answer that has just come. What is no date tells nothing.
    pub(super) fn learn(&self, date: &str) {
        let Ok(there) = DateTime::from_str(date, DateTimeFormat::HttpDate) else { return };
        let (Ok(there), Ok(ours)) = (there.to_millis(), DateTime::from(SystemTime::now()).to_millis()) else {
            return;
        };
        let ahead = there.saturating_sub(ours); // answers are dated in whole seconds, cut off
        self.0.store(if ahead.abs() < UNDER_WAY { 0 } else { ahead }, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many seconds the clock is ahead of ours.
    fn ahead(clock: &Clock) -> i64 {
        let (there, ours) = (clock.now(), SystemTime::now());
        let seconds = |span: Duration| i64::try_from(span.as_secs_f64().round() as u64).unwrap();
        there.duration_since(ours).map_or_else(|error| -seconds(error.duration()), seconds)
    }

    fn date(ahead: i64) -> String {
        let at = DateTime::from_secs(DateTime::from(SystemTime::now()).secs() + ahead);
        at.fmt(DateTimeFormat::HttpDate).unwrap()
    }

    #[test]
    fn it_is_ours_until_an_answer_contradicts() {
        let clock = Clock::default();
        for (told, expected) in [(0, 0), (-9, 0), (9, 0), (420, 420), (-420, -420), (3, 0)] {
            clock.learn(&date(told));
            assert!((ahead(&clock) - expected).abs() <= 1, "{told}: {}", ahead(&clock));
        }
        clock.learn(&date(420));
        clock.learn("yesterday");
        assert!((419..=421).contains(&ahead(&clock)), "what is no date tells nothing");
    }
}
