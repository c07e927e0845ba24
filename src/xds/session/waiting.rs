//! What waits for what: nothing leads to what is not there, and nothing is taken away that something leads to.
//!
//! It is not about a type's own pace, which its subscription knows, nor about what is said.
//!
//! Invariant: every wait ends by its time, but that of removals for a listener which is not sure to be gone; and what
//! endpoints there are waits for nobody.

use std::time::{Duration, Instant};

use super::{Cold, LEADS, Session};
use crate::snapshot::{ProxyClass, ResourceType};
use crate::xds::subscription::PATIENCE;

/// How long what would break without something else waits for the answer to that. A network that is held up delays
/// answers by seconds and then delivers everything at once. Below the 15 s (`initial_fetch_timeout`) after which
/// Envoy goes on without what it lacks.
pub(super) const WARMING: Duration = Duration::from_secs(10);

/// How long a client that may have been cut off gets to ask for what it needs first: it asks for all of it at once.
pub(in crate::xds) const BEGINNING: Duration = Duration::from_millis(250);

/// Since when something waits.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// Each of [`LEADS`], for nothing but others.
    leads: [Option<Instant>; LEADS.len()],
    /// What is to be removed.
    removals: Option<Instant>,
    /// When clusters were sent last.
    pub(super) clusters_sent: Option<Instant>,
    /// Whether the client holds something from an earlier stream.
    pub(super) resumed: bool,
}

impl Session {
    /// Takes note of what waits for nothing but others from now on.
    pub(super) fn note_waiting(&mut self, now: Instant) {
        for (place, kind) in LEADS.into_iter().enumerate() {
            let lead = self.of(kind);
            let waits = lead.has_free_work() && lead.waits_until().is_none_or(|until| until <= now);
            self.waits.leads[place] = waits.then(|| self.waits.leads[place].unwrap_or(now));
        }
        // From when whatever led there has been told, so that its answer has its time too.
        let since = self.waits.removals.or_else(|| (!self.referrers_have_work()).then_some(now));
        self.waits.removals = since.filter(|_| self.has_removals());
    }

    /// Takes note that a response of this type was made. What did not fit into it has waited as long.
    pub(super) fn note_lead(&mut self, kind: ResourceType) {
        let lead = LEADS.iter().position(|lead| *lead == kind && !self.of(kind).is_cut());
        lead.into_iter().for_each(|place| self.waits.leads[place] = None);
    }

    /// When a response of this type that has to wait may go all the same.
    pub(super) fn waits_until(&self, kind: ResourceType) -> Option<Instant> {
        let own = self.of(kind).waits_until();
        let lead = LEADS.iter().position(|lead| *lead == kind);
        let since = lead.and_then(|place| self.waits.leads[place]);
        own.max(since.and_then(|since| self.clusters_warm_until(since)))
    }

    /// Until when all that leads to clusters, and waits since then, waits for an Envoy whose clusters are not known.
    fn clusters_warm_until(&self, since: Instant) -> Option<Instant> {
        if self.slice.class() != ProxyClass::Sidecar {
            return None;
        }
        let endpoints = self.of(ResourceType::Endpoint);
        if self.was_cut_off() {
            let waits = if endpoints.newest_unanswered().is_some() { WARMING } else { BEGINNING };
            return Some((since + waits).min(self.opened + WARMING));
        }
        // One refused load assignment ends the warming of every cluster: the others are sent again at once.
        let unsure = endpoints.newest_unanswered().is_some() || endpoints.has_work();
        self.waits.clusters_sent.filter(|_| unsure).map(|sent| (sent + PATIENCE).min(since + PATIENCE))
    }

    /// The clusters that are on their way and may not be there yet. Envoy answers for them when they have warmed: until
    /// then it has none of that name and answers 503 (`xds.md`, item 59). One that only changes is served meanwhile as
    /// it was. A gRPC library asks for clusters only after what leads to them.
    pub(super) fn cold(&self) -> Cold {
        if self.slice.class() != ProxyClass::Sidecar {
            return Cold::default();
        }
        let clusters = self.of(ResourceType::Cluster).cold().cloned().collect();
        Cold { clusters, wait: self.warming() }
    }

    /// How long what leads to a cluster waits for it.
    fn warming(&self) -> Duration {
        // A refused load assignment is not sent again, and its cluster warms in vain.
        if self.of(ResourceType::Endpoint).rejected().is_empty() { WARMING } else { PATIENCE }
    }

    /// Whether it is an Envoy that was cut off while a cluster warmed: it asks for clusters last, when it has what it
    /// waits for (`xds.md`, item 44), and till then knows of no new ones. Whoever has not asked after a while has
    /// none of ours.
    fn was_cut_off(&self) -> bool {
        let asked = |kind| self.of(kind).requested;
        let resumes = asked(ResourceType::Endpoint) || self.waits.resumed;
        self.terms.only.is_none() && resumes && !asked(ResourceType::Cluster)
    }

    fn has_removals(&self) -> bool {
        let removals = [ResourceType::Cluster, ResourceType::Endpoint];
        removals.into_iter().any(|kind| self.of(kind).has_removals())
    }

    /// Whether something that may refer to what is to be removed is not yet taken back and answered for.
    pub(super) fn referrers_wait(&self, now: Instant) -> bool {
        self.referrers_have_work() || self.referrers_answer_by().is_some_and(|until| until > now)
    }

    /// Whether something that may refer to clusters is still to be taken back, however late it is.
    fn referrers_have_work(&self) -> bool {
        LEADS.map(|kind| self.of(kind)).iter().any(|it| it.has_work() || it.is_unconfirmed())
    }

    /// Until when removals wait for the answers of what may refer to them; `None` if all are there.
    fn referrers_answer_by(&self) -> Option<Instant> {
        let newest = LEADS.iter().filter_map(|kind| self.of(*kind).newest_unanswered()).max()?;
        Some(self.waits.removals.map_or(newest, |since| since.min(newest)) + WARMING)
    }

    /// When something of this type may go although nothing happened.
    fn due_at(&self, kind: ResourceType) -> Option<Instant> {
        let aside = self.of(kind).aside_since().map(|since| since + self.warming());
        let aside = aside.filter(|_| !self.of(kind).has_free_work());
        self.waits_until(kind).max(aside)
    }

    /// When to ask for the next response although nothing happened: a late ACK holds nothing up for ever.
    pub fn next_deadline(&self) -> Option<Instant> {
        let clusters = self.of(ResourceType::Cluster);
        let free =
            if clusters.has_work() { ResourceType::Listener as usize } else { self.subscriptions.len() };
        let waiting = ResourceType::ALL.into_iter().take(free).filter(|kind| self.of(*kind).has_work());
        let upserts = waiting.filter_map(|kind| self.due_at(kind)).min();
        let done = !clusters.has_work() && !self.referrers_have_work();
        let removals = (done && self.has_removals()).then(|| self.referrers_answer_by());
        [upserts, removals.flatten()].into_iter().flatten().min()
    }
}
