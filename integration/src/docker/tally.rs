//! What an application that calls has to tell.
//!
//! It is the wire format between the containers and whoever measures. Invariant: every request is in `ok` or in `failed` once
//! its outcome is known, and in `sent` before; the latest failures are kept in full.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

/// How many failures are kept.
const KEPT: usize = 20;

/// Counts since the application began.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Requests begun.
    pub sent: u64,
    /// Answered as they should be.
    pub ok: u64,
    /// Everything else.
    pub failed: u64,
    /// Of these, answered by another service.
    pub misrouted: u64,
    /// The latest failures, the oldest of them first.
    pub failures: VecDeque<Failure>,
    /// Who answered, by the last part of the task's ARN.
    pub tasks: BTreeMap<String, Seen>,
}

/// One request that failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// When it was known, in microseconds since 1970.
    pub at: u64,
    /// Status and body, or the error.
    pub what: String,
}

/// What one task answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// How many requests.
    pub requests: u64,
    /// When the last of them arrived at the task, in microseconds since 1970, on its clock.
    pub last_at: u64,
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

    /// Counts what a task answered.
    pub fn good(&mut self, task: &str, seen: Seen) {
        self.ok += seen.requests;
        let own = self.tasks.entry(task.to_owned()).or_default();
        own.requests += seen.requests;
        own.last_at = own.last_at.max(seen.last_at);
    }

    /// Adds what another one tells.
    pub fn add(&mut self, other: &Self) {
        for (task, seen) in &other.tasks {
            self.good(task, *seen);
        }
        self.sent += other.sent;
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
        let seen = |requests, last_at| Seen { requests, last_at };
        let mut one = Tally { sent: 5, ..Tally::default() };
        one.good("a", seen(2, 70));
        one.good("a", seen(1, 50));
        one.fail(Failure { at: 9, what: "status 503".to_owned() });
        let mut two = Tally { sent: 3, ..Tally::default() };
        two.good("a", seen(1, 90));
        two.good("b", seen(1, 10));
        two.fail(Failure { at: 3, what: "status 504".to_owned() });
        one.add(&two);
        assert_eq!((one.sent, one.ok, one.failed), (8, 5, 2));
        assert_eq!(one.tasks["a"], seen(4, 90));
        assert_eq!(one.failures[0].what, "status 504", "the oldest first");
    }
}
