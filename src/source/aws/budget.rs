//! How often AWS is asked: a token bucket below each of AWS's own, shared by everyone who asks the same account and
//! Region.
//!
//! It is not about what a call is for or what it answers, "too often" aside; nor about retries, which only count.
//!
//! Invariant: no more calls go out than a bucket's burst and rate allow, repeated attempts included; what AWS finds too
//! often is asked half as often at once, and as before only in time.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::telemetry::{BucketLabels, CallLabels, Metrics};

/// One of AWS's buckets: calls beyond it are refused, whoever in the account made the others.
#[derive(Debug)]
struct Limit {
    name: &'static str,
    operations: &'static [&'static str],
    burst: f64,
    per_second: f64,
}

/// Source: ECS and EC2 developer guides, request throttling; of EC2 the smaller bucket, for calls that are not paged.
/// Those of Cloud Map's control plane are not published: these are what AWS's own controller for Kubernetes takes them for.
const LIMITS: [Limit; 13] = [
    Limit {
        name: "ecs cluster resource read",
        operations: &["ecs:ListTasks", "ecs:DescribeTasks", "ecs:DescribeContainerInstances"],
        burst: 100.0,
        per_second: 20.0,
    },
    Limit {
        name: "ecs service read",
        operations: &["ecs:ListServices", "ecs:DescribeServices"],
        burst: 100.0,
        per_second: 20.0,
    },
    Limit {
        name: "ecs task definition read",
        operations: &["ecs:DescribeTaskDefinition"],
        burst: 50.0,
        per_second: 20.0,
    },
    Limit {
        name: "ecs service deployment read",
        operations: &["ecs:DescribeServiceDeployments", "ecs:ListServiceDeployments"],
        burst: 50.0,
        per_second: 20.0,
    },
    Limit {
        name: "ecs service revision read",
        operations: &["ecs:DescribeServiceRevisions"],
        burst: 50.0,
        per_second: 20.0,
    },
    Limit { name: "ecs cluster read", operations: &["ecs:DescribeClusters"], burst: 50.0, per_second: 20.0 },
    Limit { name: "ec2 instances", operations: &["ec2:DescribeInstances"], burst: 50.0, per_second: 10.0 },
    Limit {
        name: "servicediscovery namespaces",
        operations: &["servicediscovery:ListNamespaces", "servicediscovery:GetNamespace"],
        burst: 4.0,
        per_second: 1.0,
    },
    Limit {
        name: "servicediscovery services",
        operations: &["servicediscovery:ListServices"],
        burst: 20.0,
        per_second: 2.0,
    },
    // No tool tells a figure for these two: they are read one service at a time, and far below what registrations get.
    Limit {
        name: "servicediscovery instances",
        operations: &["servicediscovery:ListInstances", "servicediscovery:GetInstancesHealthStatus"],
        burst: 50.0,
        per_second: 20.0,
    },
    Limit {
        name: "servicediscovery attributes",
        operations: &["servicediscovery:GetServiceAttributes"],
        burst: 50.0,
        per_second: 20.0,
    },
    Limit {
        name: "servicediscovery discovery",
        operations: &["servicediscovery:DiscoverInstances"],
        burst: 2_000.0,
        per_second: 1_000.0,
    },
    Limit {
        name: "servicediscovery revisions",
        operations: &["servicediscovery:DiscoverInstancesRevision"],
        burst: 3_000.0,
        per_second: 3_000.0,
    },
];

/// The part of a burst that is left to urgent calls.
const RESERVE: f64 = 0.2;
/// After so many urgent calls in a row one that can wait has its turn: urgent ones may never end.
const URGENT_IN_A_ROW: u32 = 3;
/// A bucket is cut no more often than this, however many calls are refused at once.
const BETWEEN_CUTS: Duration = Duration::from_secs(1);
/// Whoever waits looks again after so many seconds: its turn may have come.
const LONGEST_NAP: f64 = 0.25;
/// How far a rate is cut at most.
const LEAST: f64 = 1.0 / 16.0;
/// How long it takes from nothing to the whole rate.
const RECOVERY: Duration = Duration::from_secs(60);

/// Whether a call may wait for others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::source) enum Urgency {
    /// It belongs to a reading of everything.
    CanWait,
    /// Someone may be served a task that has gone until it is answered.
    Urgent,
}

/// The buckets of one account and Region.
#[derive(Debug)]
pub struct Budget {
    buckets: Vec<Bucket>,
    metrics: Metrics,
    /// Whose they are: the Region, and the account if it is another one than this process's.
    home: String,
}

#[derive(Debug)]
struct Bucket {
    limit: &'static Limit,
    /// Our part of AWS's.
    burst: f64,
    per_second: f64,
    level: Mutex<Level>,
    /// Those who can wait do so in turn.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    /// Below nothing after attempts that nobody waited for.
    tokens: f64,
    per_second: f64,
    at: Instant,
    cut_at: Option<Instant>,
    /// Urgent calls since one that could wait went out, while one waits.
    urgent: u32,
    waits: bool,
}

impl Budget {
    /// Full buckets of `percent` of AWS's own.
    pub fn new(percent: u32, metrics: Metrics) -> Self {
        let (share, at) = (f64::from(percent) / 100.0, Instant::now());
        let bucket = |limit: &'static Limit| {
            let (burst, per_second) = ((limit.burst * share).max(1.0), limit.per_second * share);
            let level =
                Mutex::new(Level { tokens: burst, per_second, at, cut_at: None, urgent: 0, waits: false });
            Bucket { limit, burst, per_second, level, turn: tokio::sync::Mutex::default() }
        };
        Self { buckets: LIMITS.iter().map(bucket).collect(), metrics, home: String::new() }
    }

    /// The same, of this account and Region.
    pub(super) fn of(self, home: &str) -> Self {
        Self { home: home.to_owned(), ..self }
    }

    fn bucket_of(&self, operation: &str) -> Option<&Bucket> {
        self.buckets.iter().find(|bucket| bucket.limit.operations.contains(&operation))
    }

    /// Waits until a call of `operation` may go out.
    pub(in crate::source) async fn admit(&self, operation: &str, urgency: Urgency) {
        let Some(bucket) = self.bucket_of(operation) else { return };
        let _turn = match urgency {
            Urgency::CanWait => Some(bucket.turn.lock().await),
            Urgency::Urgent => None,
        };
        while let Some(wait) = bucket.take(urgency, Instant::now()) {
            tokio::time::sleep(wait).await;
        }
    }

    /// Notes an attempt that did not wait to be admitted.
    pub(super) fn note_repeated(&self, operation: &str) {
        if let Some(bucket) = self.bucket_of(operation) {
            bucket.level_at(Instant::now()).tokens -= 1.0;
        }
    }

    /// Notes how an attempt ended.
    pub(super) fn note_ended(&self, operation: &str, outcome: Outcome) {
        let labels = CallLabels { operation: operation.to_owned(), outcome: outcome.word() };
        self.metrics.aws_calls.get_or_create(&labels).inc();
        let Some(bucket) = self.bucket_of(operation) else { return };
        let mut level = bucket.level_at(Instant::now());
        if outcome == Outcome::Throttled {
            level.cut(bucket.per_second);
        }
        let labels = BucketLabels { bucket: bucket.limit.name, home: self.home.clone() };
        self.metrics.aws_call_rate.get_or_create(&labels).set(level.per_second);
    }
}

/// How one attempt ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Answered,
    Throttled,
    Failed,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Throttled => "throttled",
            Self::Failed => "failed",
        }
    }
}

impl Bucket {
    /// Takes a token, or says after how long to try again.
    fn take(&self, urgency: Urgency, now: Instant) -> Option<Duration> {
        let mut level = self.level_at(now);
        let has_turn = level.waits && level.urgent >= URGENT_IN_A_ROW;
        let kept = match urgency {
            Urgency::CanWait if has_turn => 0.0,
            Urgency::CanWait => (self.burst * RESERVE).floor(),
            Urgency::Urgent if has_turn => 1.0,
            Urgency::Urgent => 0.0,
        };
        let lacks = 1.0 + kept - level.tokens;
        if lacks > 0.0 {
            level.waits |= urgency == Urgency::CanWait;
            return Some(Duration::from_secs_f64((lacks / level.per_second).clamp(0.001, LONGEST_NAP)));
        }
        level.tokens -= 1.0;
        match urgency {
            Urgency::CanWait => (level.urgent, level.waits) = (0, false),
            Urgency::Urgent => level.urgent = level.urgent.saturating_add(1),
        }
        None
    }

    /// The level, filled up to now.
    fn level_at(&self, now: Instant) -> MutexGuard<'_, Level> {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = now.saturating_duration_since(level.at).as_secs_f64();
        let recovered = level.per_second + self.per_second * seconds / RECOVERY.as_secs_f64();
        level.per_second = recovered.min(self.per_second);
        level.tokens = (level.tokens + level.per_second * seconds).min(self.burst);
        level.at = level.at.max(now);
        level
    }
}

impl Level {
    fn cut(&mut self, whole: f64) {
        if self.cut_at.is_some_and(|at| self.at.saturating_duration_since(at) < BETWEEN_CUTS) {
            return;
        }
        self.cut_at = Some(self.at);
        self.per_second = (self.per_second / 2.0).max(whole * LEAST);
        self.tokens = self.tokens.min(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "ecs:ListTasks";

    fn budget(percent: u32) -> Budget {
        Budget::new(percent, Metrics::unread())
    }

    /// How long so many calls take that go out as soon as they may.
    async fn time(budget: &Budget, urgency: Urgency, calls: usize) -> f64 {
        let began = Instant::now();
        for _ in 0..calls {
            budget.admit(LIST, urgency).await;
        }
        began.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn calls_keep_below_half_of_what_aws_allows() {
        let budget = budget(50);
        assert!(time(&budget, Urgency::CanWait, 40).await < 0.01, "the burst, less what is kept back");
        let minute = time(&budget, Urgency::CanWait, 600).await;
        assert!((59.0..61.0).contains(&minute), "{minute}");
        // The same bucket, another operation.
        let began = Instant::now();
        budget.admit("ecs:DescribeTasks", Urgency::CanWait).await;
        assert!(began.elapsed() > Duration::from_millis(50));
        budget.admit("sqs:ReceiveMessage", Urgency::CanWait).await;
    }

    #[tokio::test(start_paused = true)]
    async fn urgent_calls_do_not_wait_for_readings() {
        let budget = std::sync::Arc::new(budget(50));
        let reading = std::sync::Arc::clone(&budget);
        let reading = tokio::spawn(async move { time(&reading, Urgency::CanWait, 1_000).await });
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(time(&budget, Urgency::Urgent, 10).await < 0.01);
        reading.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn readings_go_on_however_many_urgent_calls_there_are() {
        let budget = std::sync::Arc::new(budget(50));
        let urgent: Vec<_> = (0..3)
            .map(|_| std::sync::Arc::clone(&budget))
            .map(|budget| tokio::spawn(async move { time(&budget, Urgency::Urgent, 100_000).await }))
            .collect();
        tokio::time::sleep(Duration::from_secs(10)).await;
        let reading = time(&budget, Urgency::CanWait, 20).await;
        assert!(reading < 20.0, "{reading}");
        urgent.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_often_is_asked_more_slowly_and_recovers() {
        let budget = budget(50);
        for _ in 0..5 {
            budget.note_ended(LIST, Outcome::Throttled); // at once: one cut
        }
        let slower = time(&budget, Urgency::Urgent, 10).await;
        assert!((1.5..2.1).contains(&slower), "ten calls at five a second and rising: {slower}");
        tokio::time::sleep(RECOVERY).await;
        time(&budget, Urgency::Urgent, 50).await;
        let again = time(&budget, Urgency::Urgent, 100).await;
        assert!((9.5..10.5).contains(&again), "{again}");
        for _ in 0..100 {
            budget.note_ended(LIST, Outcome::Throttled);
            tokio::time::sleep(BETWEEN_CUTS).await;
        }
        let least = time(&budget, Urgency::Urgent, 10).await;
        assert!(least < 20.0, "never nothing: {least}");
    }

    #[tokio::test(start_paused = true)]
    async fn repeated_attempts_are_paid_for() {
        let budget = budget(50);
        time(&budget, Urgency::Urgent, 50).await;
        (0..10).for_each(|_| budget.note_repeated(LIST));
        let paid = time(&budget, Urgency::Urgent, 1).await;
        assert!((1.0..1.2).contains(&paid), "{paid}");
    }

    #[test]
    fn each_operation_is_in_one_bucket() {
        let mut all: Vec<_> = LIMITS.iter().flat_map(|limit| limit.operations).collect();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
