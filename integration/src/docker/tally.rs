//! What an application that calls has to tell.
//!
//! It is the wire format between the containers and whoever measures. Invariant: every request is in `ok` or in `failed` once
//! its outcome is known, and in `sent` before; the latest failures are kept in full.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// How many failures are kept.
const KEPT: usize = 20;

/// Counts since the application began.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Requests begun.
    pub sent: u64,
    /// Of these, counted in the order in which they began, so many from the first on have an outcome.
    pub settled: u64,
    /// Answered as they should be.
    pub ok: u64,
    /// Everything else.
    pub failed: u64,
    /// Of these, answered by another service.
    pub misrouted: u64,
    /// The latest failures, the oldest of them first.
    pub failures: VecDeque<Failure>,
}

/// One request that failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// When it was known, in microseconds since 1970.
    pub at: u64,
    /// Status and body, or the error.
    pub what: String,
}

impl Tally {
    /// Counts a failure.
    pub fn fail(&mut self, failure: Failure) {
        self.failed += 1;
        if self.failures.len() == KEPT {
            self.failures.pop_front();
        }
        self.failures.push_back(failure);
    }

    /// Requests whose outcome is known.
    pub fn known(&self) -> u64 {
        self.ok + self.failed
    }

    /// Adds what another one tells.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.settled += other.settled;
        self.ok += other.ok;
        self.misrouted += other.misrouted;
        self.failed += other.failed;
        self.failures.extend(other.failures.iter().cloned());
        self.failures.make_contiguous().sort_by_key(|failure| failure.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_of_everything_that_was_told() {
        let failure = |at, what: &str| Failure { at, what: what.to_owned() };
        let mut one = Tally { sent: 5, ok: 3, ..Tally::default() };
        one.fail(failure(9, "status 503"));
        let mut two = Tally { sent: 3, ok: 2, ..Tally::default() };
        two.fail(failure(3, "status 504"));
        one.add(&two);
        assert_eq!((one.sent, one.ok, one.failed, one.known()), (8, 5, 2, 7));
        assert_eq!(one.failures[0].what, "status 504", "the oldest first");
        for at in 10..40 {
            one.fail(failure(at, "later"));
        }
        assert_eq!((one.failures.len(), one.failures[KEPT - 1].at), (KEPT, 39), "the latest are kept");
    }
}
