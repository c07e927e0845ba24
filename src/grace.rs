//! What stays published for a while although nothing refers to it any more.
//!
//! It is not about a stream: what it keeps, every client keeps. Nor has it a clock: the time goes in.
//!
//! Invariant: a cluster that was published leaves, with what it depends on, no earlier than the period after
//! everything that referred to it did, so that no request meets a route without its cluster (`xds.md`, item 60).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imbl::ordmap::DiffItem;

use crate::snapshot::{Name, ResourceType, Tables};

/// What is on its way out of one namespace.
#[derive(Debug)]
pub struct Grace {
    period: Duration,
    leaving: BTreeMap<Name, Instant>,
}

impl Grace {
    /// Nothing leaves yet; what will, stays for `period`.
    pub fn new(period: Duration) -> Self {
        Self { period, leaving: BTreeMap::new() }
    }

    /// What is to be published at `now`: `desired`, and of what was `published` before, the clusters that have
    /// not been gone for long enough, as they were.
    pub fn stage(&mut self, mut desired: Tables, published: &Tables, now: Instant) -> Tables {
        let clusters = &published[ResourceType::Cluster];
        for change in clusters.diff(&desired[ResourceType::Cluster]) {
            if let DiffItem::Remove(name, _) = change {
                self.leaving.entry(name.clone()).or_insert(now + self.period);
            }
        }
        let wanted = &desired[ResourceType::Cluster];
        self.leaving.retain(|name, until| *until > now && !wanted.contains_key(name));
        for cluster in self.leaving.keys().filter_map(|name| clusters.get(name)) {
            for (kind, name) in &cluster.depends_on {
                if let Some(kept) = published[*kind].get(name).filter(|_| !desired[*kind].contains_key(name))
                {
                    desired.insert(Arc::clone(kept));
                }
            }
            desired.insert(Arc::clone(cluster));
        }
        desired
    }

    /// When something may leave.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.leaving.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Resource;

    const PERIOD: Duration = Duration::from_secs(5);

    fn service(name: &str) -> [Resource; 3] {
        let encode = |kind| Resource::encode(kind, name.into(), &name.to_owned());
        [
            encode(ResourceType::Endpoint),
            encode(ResourceType::Cluster).depending_on([(ResourceType::Endpoint, name.into())]),
            encode(ResourceType::Listener).depending_on([(ResourceType::Cluster, name.into())]),
        ]
    }

    fn tables(names: &[&str]) -> Tables {
        let mut tables = Tables::default();
        let resources = names.iter().flat_map(|name| service(name));
        resources.for_each(|resource| tables.insert(Arc::new(resource)));
        tables
    }

    fn names(tables: &Tables, kind: ResourceType) -> Vec<&str> {
        tables[kind].keys().map(|name| &**name).collect()
    }

    #[test]
    fn a_cluster_stays_with_its_assignment_and_nothing_else_does() {
        let (mut grace, start) = (Grace::new(PERIOD), Instant::now());
        let first = grace.stage(tables(&["a", "b"]), &Tables::default(), start);
        assert_eq!(grace.next_deadline(), None);
        let second = grace.stage(tables(&["b"]), &first, start);
        assert_eq!(second.dangling(), None);
        assert_eq!(names(&second, ResourceType::Cluster), ["a", "b"]);
        assert_eq!(names(&second, ResourceType::Endpoint), ["a", "b"]);
        assert_eq!(names(&second, ResourceType::Listener), ["b"]);
        assert_eq!(grace.next_deadline(), Some(start + PERIOD));

        let third = grace.stage(tables(&["b", "c"]), &second, start + PERIOD / 2);
        assert_eq!(names(&third, ResourceType::Cluster), ["a", "b", "c"], "the period is not begun anew");
        let fourth = grace.stage(tables(&["b", "c"]), &third, start + PERIOD);
        assert_eq!(names(&fourth, ResourceType::Cluster), ["b", "c"]);
        assert_eq!(names(&fourth, ResourceType::Endpoint), ["b", "c"]);
        assert_eq!(grace.next_deadline(), None);
    }

    #[test]
    fn what_comes_back_is_as_if_it_had_not_gone() {
        let (mut grace, start) = (Grace::new(PERIOD), Instant::now());
        let first = grace.stage(tables(&["a"]), &Tables::default(), start);
        let second = grace.stage(tables(&[]), &first, start);
        let back = grace.stage(tables(&["a"]), &second, start + PERIOD / 2);
        assert_eq!(grace.next_deadline(), None);
        let gone = grace.stage(tables(&[]), &back, start + PERIOD);
        assert_eq!(names(&gone, ResourceType::Cluster), ["a"], "a new period");
        assert_eq!(grace.next_deadline(), Some(start + PERIOD * 2));
    }

    #[test]
    fn no_period_no_grace() {
        let (mut grace, start) = (Grace::new(Duration::ZERO), Instant::now());
        let first = grace.stage(tables(&["a"]), &Tables::default(), start);
        assert_eq!(names(&grace.stage(tables(&[]), &first, start), ResourceType::Cluster), [""; 0]);
    }
}
