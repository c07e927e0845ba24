//! AWS's own token buckets, kept when a test asks for it.
//!
//! They are AWS's limits as published, written down apart from what Legation takes them for, so that one is held against
//! the other. Invariant: a call that is refused costs nothing, and no more are let through than burst and rate allow.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::wire::Operation;

/// The bucket of an operation: burst, and how many a second flow in. Source: ECS and EC2 developer guides, request throttling,
/// and Cloud Map's quotas; for what Cloud Map does not publish, AWS's controller for Kubernetes.
fn limit_of(operation: Operation) -> Option<(&'static str, f64, f64)> {
    match operation {
        Operation::ListTasks | Operation::DescribeTasks | Operation::DescribeContainerInstances => {
            Some(("cluster resource read", 100.0, 20.0))
        }
        Operation::ListServices | Operation::DescribeServices => Some(("service read", 100.0, 20.0)),
        Operation::ListServicesByNamespace => Some(("cluster service resource read", 10.0, 1.0)),
        Operation::DescribeTaskDefinition => Some(("task definition read", 50.0, 20.0)),
        Operation::ListClusters | Operation::DescribeClusters => Some(("cluster read", 50.0, 20.0)),
        Operation::DescribeServiceRevisions => Some(("service revision read", 50.0, 20.0)),
        Operation::ListServiceDeployments | Operation::DescribeServiceDeployments => {
            Some(("service deployment read", 50.0, 20.0))
        }
        Operation::ListNamespaces => Some(("namespaces", 4.0, 1.0)),
        Operation::ListMapServices => Some(("services", 20.0, 2.0)),
        Operation::DescribeInstances => Some(("instances", 50.0, 10.0)),
        Operation::DiscoverInstances => Some(("discovery", 2_000.0, 1_000.0)),
        Operation::DiscoverInstancesRevision => Some(("revisions", 3_000.0, 3_000.0)),
        _ => None,
    }
}

/// The buckets of every account and Region; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Buckets(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// Which part of AWS's own; none while nobody asked for any.
    share: Option<f64>,
    /// By place and name: how much is in it, and when that was so.
    levels: HashMap<(String, &'static str), (f64, Instant)>,
    refused: u64,
}

impl Buckets {
    /// From now on keeps full buckets of so many percent of AWS's own.
    pub fn keep(&self, percent: u32) {
        self.with(|table| *table = Table { share: Some(f64::from(percent) / 100.0), ..Table::default() });
    }

    /// How many calls were refused since.
    pub fn refused(&self) -> u64 {
        self.with(|table| table.refused)
    }

    /// Whether a call at this place, an account and Region, goes through.
    pub(super) fn admit(&self, place: &str, operation: Operation, now: Instant) -> bool {
        self.with(|table| {
            let Some((share, (name, burst, rate))) = table.share.zip(limit_of(operation)) else {
                return true;
            };
            let level = table.levels.entry((place.to_owned(), name)).or_insert((burst * share, now));
            let filled = level.0 + rate * share * now.saturating_duration_since(level.1).as_secs_f64();
            *level = (filled.min(burst * share), now);
            let is_admitted = level.0 >= 1.0;
            if is_admitted {
                level.0 -= 1.0;
            } else {
                table.refused += 1;
            }
            is_admitted
        })
    }

    fn with<R>(&self, act: impl FnOnce(&mut Table) -> R) -> R {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate_to_one_place() {
        let (buckets, began) = (Buckets::default(), Instant::now());
        let admitted = |place: &str, operation, seconds: f64, calls: usize| {
            let now = began + Duration::from_secs_f64(seconds);
            (0..calls).filter(|_| buckets.admit(place, operation, now)).count()
        };
        assert_eq!(admitted("a", Operation::ListTasks, 0.0, 500), 500, "nobody asked for limits");
        buckets.keep(10);
        assert_eq!(admitted("a", Operation::ListTasks, 0.0, 30), 10);
        assert_eq!(admitted("a", Operation::DescribeTasks, 0.0, 1), 0, "the same bucket");
        assert_eq!(admitted("a", Operation::ListServices, 0.0, 30), 10, "another one");
        assert_eq!(admitted("b", Operation::ListTasks, 0.0, 30), 10, "another place");
        assert_eq!(admitted("a", Operation::ListTasks, 2.0, 30), 4);
        assert_eq!(admitted("a", Operation::ListTasks, 60.0, 30), 10, "no more than the burst");
        assert_eq!(admitted("a", Operation::ReceiveMessage, 60.0, 500), 500);
        assert_eq!(buckets.refused(), 20 + 1 + 20 + 20 + 26 + 20);
    }
}
