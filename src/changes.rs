//! The ledger of withdrawals: which endpoints left rotation, and when each sidecar was told and agreed.
//!
//! It is not on the way of a push: losing it would lose figures, never traffic.
//!
//! Invariant: a sidecar counts once for a withdrawal, and only if it was connected when that was published and had
//! been sent the endpoint.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use dashmap::DashMap;
use foldhash::HashSet;
use foldhash::fast::RandomState;

use crate::model::{InstanceId, Reason, Scope, ServiceKey};
use crate::snapshot::Name;

/// How many withdrawals are remembered.
const REMEMBERED: u64 = 512;
/// How many of the slowest sidecars are named.
const SLOWEST: usize = 10;
/// How long sidecars are awaited before a withdrawal's figures are final.
const OPEN_FOR: Duration = Duration::from_secs(60);

/// One endpoint leaving rotation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Withdrawal {
    /// Whose endpoint.
    pub service: ServiceKey,
    /// What leaves.
    pub instance: InstanceId,
    /// Its address.
    pub address: Option<IpAddr>,
    /// Its port.
    pub port: Option<u16>,
    /// Why.
    pub reason: Reason,
    /// The load assignment that no longer holds it.
    pub assignment: Name,
    /// The snapshot that took it out: where the whole service left, the one after its cluster's grace.
    pub generation: u64,
    /// The same for each scope whose clients have it: generations of one say nothing of another.
    pub audience: Vec<(Arc<Scope>, u64)>,
    /// When the source's answer arrived.
    pub seen_at: SystemTime,
    /// When the snapshot was published.
    pub published_at: SystemTime,
}

impl Withdrawal {
    /// The snapshot that took it out of what clients of a scope are served, if they were served it.
    pub fn generation_in(&self, scope: &Scope) -> Option<u64> {
        let mut audience = self.audience.iter();
        audience.find(|(other, _)| **other == *scope).map(|(_, generation)| *generation)
    }
}

/// A stream, and what its client may see.
#[derive(Clone, Copy, Debug)]
pub struct Listener<'a> {
    /// The stream's number.
    pub stream: u64,
    /// What its client may see.
    pub scope: &'a Scope,
}

/// One sidecar's answer to a withdrawal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The sidecar's node id.
    pub node: Arc<str>,
    /// From the source's sight to its ACK.
    pub after: Duration,
}

/// How far a withdrawal has come.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// When the first sidecar was sent it.
    pub first_sent_at: Option<SystemTime>,
    /// When the newest sidecar was sent it.
    pub last_sent_at: Option<SystemTime>,
    /// When the first ACK came.
    pub first_ack_at: Option<SystemTime>,
    /// When the newest ACK came.
    pub last_ack_at: Option<SystemTime>,
    /// Sidecars that were sent it.
    pub sent: usize,
    /// Sidecars that accepted it.
    pub acked: usize,
    /// The slowest ACKs, slowest first.
    pub slowest: Vec<Answer>,
}

/// A withdrawal with its figures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Counts up from 1 in this process.
    pub id: u64,
    /// Streams opened with this number or later started without the endpoint.
    pub streams_before: u64,
    /// What left.
    pub withdrawal: Withdrawal,
    /// Who has been told.
    pub progress: Progress,
}

#[derive(Debug)]
struct Entry {
    change: Change,
    sent_to: HashSet<u64>,
    acked_by: HashSet<u64>,
}

/// What a look at an entry for one stream gave.
#[derive(Clone, Copy, Debug)]
enum Visit {
    /// So long after the source's sight, for the first time.
    First(Duration),
    Again,
    /// It was never sent to this stream.
    NotSent,
}

/// The ledger. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    entries: Arc<DashMap<u64, Entry, RandomState>>,
    open: Arc<DashMap<Name, Vec<u64>, RandomState>>,
    next_id: Arc<AtomicU64>,
    next_stream: Arc<AtomicU64>,
}

impl Ledger {
    /// A number for a new stream.
    pub fn new_stream(&self) -> u64 {
        self.next_stream.fetch_add(1, Ordering::Relaxed)
    }

    /// Enters a withdrawal; call it before the snapshot is published, so that no ACK is early.
    pub fn open(&self, withdrawal: Withdrawal) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed) + 1;
        let streams_before = self.next_stream.load(Ordering::Relaxed);
        let assignment = withdrawal.assignment.clone();
        let now = withdrawal.published_at;
        let change = Change { id, streams_before, withdrawal, progress: Progress::default() };
        self.entries.insert(id, Entry { change, sent_to: HashSet::default(), acked_by: HashSet::default() });
        if id > REMEMBERED {
            self.entries.remove(&(id - REMEMBERED));
        }
        let mut open = self.open.entry(assignment).or_default();
        open.retain(|old| self.is_open(*old, now));
        open.push(id);
    }

    fn is_open(&self, id: u64, now: SystemTime) -> bool {
        self.entries.get_mut(&id).is_some_and(|mut entry| {
            let age = now.duration_since(entry.change.withdrawal.published_at).unwrap_or_default();
            if age > OPEN_FOR {
                entry.sent_to = HashSet::default();
                entry.acked_by = HashSet::default();
            }
            age <= OPEN_FOR
        })
    }

    /// A stream was sent `assignment` from `generation`, and had been told everything up to the generation `told`.
    /// Returns the time since the source saw each withdrawal that the sidecar now learns.
    pub fn sent(
        &self,
        assignment: &str,
        told: u64,
        generation: u64,
        listener: Listener<'_>,
        now: SystemTime,
    ) -> Vec<Duration> {
        self.each_open(assignment, generation, listener, now, |entry, since| {
            // Whoever had not yet been sent an endpoint that came and went had nothing to be told.
            if since <= told || !entry.sent_to.insert(listener.stream) {
                return Visit::Again;
            }
            let progress = &mut entry.change.progress;
            progress.sent += 1;
            progress.first_sent_at.get_or_insert(now);
            progress.last_sent_at = Some(now);
            Visit::First(now.duration_since(entry.change.withdrawal.seen_at).unwrap_or_default())
        })
    }

    /// A stream of `node` accepted `assignment` from `generation`. Returns the time since the source saw
    /// each withdrawal that the sidecar now holds.
    pub fn acked(
        &self,
        assignment: &str,
        generation: u64,
        listener: Listener<'_>,
        node: &Arc<str>,
        now: SystemTime,
    ) -> Vec<Duration> {
        self.each_open(assignment, generation, listener, now, |entry, _| {
            let after = now.duration_since(entry.change.withdrawal.seen_at).unwrap_or_default();
            if !entry.sent_to.contains(&listener.stream) {
                return Visit::NotSent;
            }
            if !entry.acked_by.insert(listener.stream) {
                return Visit::Again;
            }
            let progress = &mut entry.change.progress;
            progress.acked += 1;
            progress.first_ack_at.get_or_insert(now);
            progress.last_ack_at = Some(now);
            let place = progress.slowest.partition_point(|answer| answer.after >= after);
            if place < SLOWEST {
                progress.slowest.insert(place, Answer { node: Arc::clone(node), after });
                progress.slowest.truncate(SLOWEST);
            }
            Visit::First(after)
        })
    }

    fn each_open(
        &self,
        assignment: &str,
        generation: u64,
        listener: Listener<'_>,
        now: SystemTime,
        mut visit: impl FnMut(&mut Entry, u64) -> Visit,
    ) -> Vec<Duration> {
        let Some(ids) = self.open.get(assignment) else { return Vec::new() };
        let mut since_seen = Vec::new();
        // The newest first: whoever knew of one before knew of all that are older.
        for id in ids.iter().rev() {
            let Some(mut entry) = self.entries.get_mut(id) else { break };
            let withdrawal = &entry.change.withdrawal;
            let age = now.duration_since(withdrawal.published_at).unwrap_or_default();
            if age > OPEN_FOR {
                break;
            }
            let Some(since) = withdrawal.generation_in(listener.scope) else { continue };
            if listener.stream < entry.change.streams_before && since <= generation {
                match visit(&mut entry, since) {
                    Visit::First(since) => since_seen.push(since),
                    Visit::Again => break,
                    Visit::NotSent => {}
                }
            }
        }
        since_seen
    }

    /// The remembered withdrawals, newest first.
    pub fn list(&self) -> Vec<Change> {
        let mut changes: Vec<_> = self.entries.iter().map(|entry| entry.change.clone()).collect();
        changes.sort_by_key(|change| std::cmp::Reverse(change.id));
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn withdrawal(generation: u64) -> Withdrawal {
        Withdrawal {
            service: ServiceKey::new("prod", "payments"),
            instance: "task/1".into(),
            address: None,
            port: None,
            reason: Reason::Stopping,
            assignment: "prod/payments".into(),
            generation,
            audience: vec![(Arc::new(Scope::whole("prod".into())), generation)],
            seen_at: SystemTime::UNIX_EPOCH,
            published_at: SystemTime::UNIX_EPOCH,
        }
    }

    /// A stream of a client that sees all of prod.
    fn ear(stream: u64) -> Listener<'static> {
        static WHOLE: std::sync::LazyLock<Scope> = std::sync::LazyLock::new(|| Scope::whole("prod".into()));
        Listener { stream, scope: &WHOLE }
    }

    fn at(ms: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
    }

    #[test]
    fn a_sidecar_counts_once_and_only_if_it_was_there() {
        let ledger = Ledger::default();
        let (early, other) = (ledger.new_stream(), ledger.new_stream());
        ledger.open(withdrawal(7));
        let late = ledger.new_stream();
        let node: Arc<str> = "checkout-1".into();

        assert!(
            ledger.sent("prod/payments", 0, 6, ear(early), at(1)).is_empty(),
            "an older snapshot tells nothing"
        );
        assert_eq!(ledger.sent("prod/payments", 0, 7, ear(early), at(2)), [Duration::from_millis(2)]);
        assert!(ledger.sent("prod/payments", 0, 8, ear(early), at(3)).is_empty());
        assert!(ledger.sent("prod/payments", 0, 8, ear(late), at(3)).is_empty());
        assert!(
            ledger.acked("prod/payments", 8, ear(other), &node, at(4)).is_empty(),
            "never sent, never agreed"
        );
        assert_eq!(ledger.sent("prod/payments", 0, 8, ear(other), at(4)).len(), 1);
        assert_eq!(ledger.acked("prod/payments", 7, ear(early), &node, at(5)), [Duration::from_millis(5)]);
        assert_eq!(ledger.acked("prod/payments", 8, ear(other), &node, at(9)), [Duration::from_millis(9)]);
        assert!(ledger.acked("prod/payments", 8, ear(early), &node, at(10)).is_empty());

        let [change] = ledger.list().try_into().unwrap();
        assert_eq!((change.progress.sent, change.progress.acked), (2, 2));
        assert_eq!(change.progress.last_ack_at, Some(at(9)));
        assert_eq!(change.progress.slowest[0].after, Duration::from_millis(9));
    }

    #[test]
    fn one_withdrawal_counts_the_clients_of_every_scope_by_its_own_generations() {
        let ledger = Ledger::default();
        let (whole, narrow, foreign) = (ledger.new_stream(), ledger.new_stream(), ledger.new_stream());
        let scope = Arc::new(Scope { uses: Some(["payments".into()].into()), ..Scope::whole("prod".into()) });
        let mut withdrawal = withdrawal(70);
        withdrawal.audience.push((Arc::clone(&scope), 3));
        ledger.open(withdrawal);
        let narrow = Listener { stream: narrow, scope: &scope };
        let elsewhere = Scope::whole("shared".into());
        let foreign = Listener { stream: foreign, scope: &elsewhere };
        assert!(ledger.sent("prod/payments", 1, 2, narrow, at(1)).is_empty(), "before it");
        assert_eq!(ledger.sent("prod/payments", 2, 3, narrow, at(2)).len(), 1);
        assert_eq!(ledger.sent("prod/payments", 69, 70, ear(whole), at(3)).len(), 1);
        assert!(ledger.sent("prod/payments", 0, 99, foreign, at(3)).is_empty(), "who does not see it");
        assert_eq!(ledger.acked("prod/payments", 3, narrow, &"checkout-1".into(), at(4)).len(), 1);
        assert_eq!(ledger.acked("prod/payments", 70, ear(whole), &"web-1".into(), at(5)).len(), 1);
        let [change] = ledger.list().try_into().unwrap();
        assert_eq!((change.progress.sent, change.progress.acked), (2, 2));
    }

    #[test]
    fn a_sidecar_that_never_had_the_endpoint_does_not_count() {
        let ledger = Ledger::default();
        let (slow, quick) = (ledger.new_stream(), ledger.new_stream());
        // At 6 the endpoint came, which only one of the two was sent; at 7 it went; at 8 another one changes.
        ledger.open(withdrawal(7));
        assert_eq!(ledger.sent("prod/payments", 6, 7, ear(quick), at(2)), [Duration::from_millis(2)]);
        assert!(ledger.sent("prod/payments", 7, 8, ear(slow), at(2_000)).is_empty());
        assert!(ledger.acked("prod/payments", 8, ear(slow), &"checkout-1".into(), at(2_001)).is_empty());
        assert_eq!(ledger.list()[0].progress.sent, 1);
    }

    #[test]
    fn a_sidecar_that_learns_of_it_after_minutes_no_longer_counts() {
        let ledger = Ledger::default();
        let stream = ledger.new_stream();
        ledger.open(withdrawal(7));
        assert!(ledger.sent("prod/payments", 0, 7, ear(stream), at(61_000)).is_empty());
        assert_eq!(ledger.list()[0].progress.sent, 0);
    }

    #[test]
    fn the_ledger_is_bounded() {
        let ledger = Ledger::default();
        for generation in 0..REMEMBERED + 10 {
            ledger.open(withdrawal(generation));
        }
        assert_eq!(ledger.list().len() as u64, REMEMBERED);
        assert_eq!(ledger.list()[0].id, REMEMBERED + 10);
    }
}
