//! What one client holds and still needs: one stream as a state machine, for both protocols.
//!
//! It is not a socket, not a task and has no clock: requests, snapshots and the time go in, responses come
//! out.
//!
//! Invariant: at rest the client holds its slice restricted to what it subscribed to, less what it refused,
//! whatever the order of publishes, requests, NACKs and cuts.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use foldhash::HashSet;

use super::subscription::{Batch, Cold, Sent, Sight, Subscription};
use crate::snapshot::{Name, Resource, ResourceType, Slice, Version};

mod holding;
mod request;
mod waiting;

pub use holding::{Asked, Holding};
pub(in crate::xds) use request::REASON_BYTES;
pub use request::{Names, Request};
pub(in crate::xds) use waiting::BEGINNING;
use waiting::Waits;

/// What leads to clusters.
const LEADS: [ResourceType; 2] = [ResourceType::Listener, ResourceType::Route];

/// What others belong to by the same name.
const PARENTS: [ResourceType; 2] = [ResourceType::Cluster, ResourceType::Listener];

/// Roughly the most that one delta response carries: a stalled client holds one or two of them.
const RESPONSE_BYTES: usize = 32 * 1024;

/// How the client wants to be told.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Protocol {
    /// Only what changes.
    Delta,
    /// All of a type, or at least all of a resource that changed.
    StateOfTheWorld,
}

impl Protocol {
    /// The word in metrics and in the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Delta => "delta",
            Self::StateOfTheWorld => "sotw",
        }
    }
}

/// What a stream is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// How the client wants to be told.
    pub protocol: Protocol,
    /// The only type of the stream; `None` on the aggregated one.
    pub only: Option<ResourceType>,
    /// How many names of one type may be asked for.
    pub max_names: usize,
}

/// The stream can't go on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    /// On the aggregated stream a type is needed.
    #[error("type_url is required on an aggregated stream")]
    NoType,
    /// A stream for one type was asked for another.
    #[error("this stream is for {expected}, not for {asked}")]
    OtherType {
        /// The stream's type URL.
        expected: &'static str,
        /// The request's type URL, cut.
        asked: String,
    },
    /// More names than the server keeps for one type of one stream.
    #[error("more than {limit} names of {kind} on one stream")]
    TooManyNames {
        /// Of which type, by its short name.
        kind: &'static str,
        /// How many there may be.
        limit: usize,
    },
}

/// What a request turned out to be, for those who count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// Only names, or an answer to something long past.
    Names(ResourceType),
    /// A type that Legation doesn't serve; it gets no answer, and the others go on.
    UnknownType,
    /// These resources, or their removal, from that generation, are in force.
    Ack(ResourceType, u64, Vec<Name>),
    /// A response of that generation was refused.
    Nack(ResourceType, u64, Refusal),
}

/// A refused response.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The client's words.
    pub reason: Arc<str>,
    /// How many resources the response held.
    pub members: usize,
    /// Those that are known now to be the cause, and are not sent again.
    pub guilty: Vec<(Name, Version)>,
}

/// A resource that the client refused and that has not changed since.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// What it refused.
    pub version: Version,
    /// Its words.
    pub reason: Arc<str>,
}

/// One response.
#[derive(Debug)]
pub struct Response {
    /// Of which type.
    pub kind: ResourceType,
    /// Unique on the stream.
    pub nonce: u64,
    /// The snapshot it was made from.
    pub generation: u64,
    /// The version of the whole type in the slice.
    pub version: Version,
    /// What to add or replace; where a response carries everything, everything.
    pub resources: Vec<Arc<Resource>>,
    /// What to remove; where a response carries everything, it is merely left out.
    pub removed: Vec<Name>,
    /// Asked for by name and not there.
    pub missing: Vec<Name>,
}

/// What a client asks for because of one of these, by the same name.
fn follower(kind: ResourceType) -> ResourceType {
    if kind == ResourceType::Cluster { ResourceType::Endpoint } else { ResourceType::Route }
}

/// The state machine.
#[derive(Debug)]
pub struct Session {
    terms: Terms,
    opened: Instant,
    slice: Slice,
    /// Whether every source has completed a pass that began after the stream was opened.
    confirmed: bool,
    subscriptions: [Subscription; ResourceType::ALL.len()],
    /// Load assignments of clusters that went out before the first request for endpoints: they are sent even
    /// if the client presents them (`xds.md`, item 44).
    owed: HashSet<Name>,
    waits: Waits,
    last_nonce: u64,
}

impl Session {
    /// A stream that was opened at `now`, has said nothing yet and may see `slice`.
    pub fn new(terms: Terms, slice: Slice, now: Instant) -> Self {
        Self {
            terms,
            opened: now,
            slice,
            confirmed: false,
            subscriptions: Default::default(),
            owed: HashSet::default(),
            waits: Waits::default(),
            last_nonce: 0,
        }
    }

    /// What the client may see now.
    pub fn slice(&self) -> &Slice {
        &self.slice
    }

    /// What the stream is for.
    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// A subscription and what it is seen through.
    fn look(&mut self, kind: ResourceType) -> (&mut Subscription, Sight<'_>) {
        let (slice, protocol, confirmed) = (&self.slice, self.terms.protocol, self.confirmed);
        (&mut self.subscriptions[kind as usize], Sight { kind, slice, protocol, confirmed })
    }

    fn sight(&self, kind: ResourceType) -> Sight<'_> {
        Sight { kind, slice: &self.slice, protocol: self.terms.protocol, confirmed: self.confirmed }
    }

    fn of(&self, kind: ResourceType) -> &Subscription {
        &self.subscriptions[kind as usize]
    }

    fn is_full(&self, kind: ResourceType) -> bool {
        self.terms.protocol == Protocol::StateOfTheWorld && kind.has_wildcard()
    }

    /// Takes in a request: names, whatever its nonce; then the answer that it may carry.
    pub fn on_request(&mut self, request: Request) -> Result<Heard, Violation> {
        let Some(kind) = self.kind_of(&request.type_url)? else { return Ok(Heard::UnknownType) };
        self.check_names(kind, &request.names)?;
        self.waits.resumed |= request.resumed && !self.of(kind).requested;
        self.take_names(kind, request.names, request.presented);
        let nonce = request.nonce.parse().ok();
        let answered = nonce.and_then(|nonce| self.look(kind).0.answered(nonce));
        let heard = match (answered, request.error) {
            (None, _) => Heard::Names(kind),
            (Some(sent), Some(reason)) => self.on_nack(kind, &sent, reason.into()),
            (Some(sent), None) => self.on_ack(kind, &sent),
        };
        self.look(kind).0.tidy();
        Ok(heard)
    }

    fn kind_of(&self, type_url: &str) -> Result<Option<ResourceType>, Violation> {
        match self.terms.only {
            Some(only) if type_url.is_empty() || type_url == only.type_url() => Ok(Some(only)),
            Some(only) => {
                let asked = type_url.chars().take(200).collect();
                Err(Violation::OtherType { expected: only.type_url(), asked })
            }
            None if type_url.is_empty() => Err(Violation::NoType),
            None => Ok(ResourceType::from_type_url(type_url)),
        }
    }

    fn check_names(&self, kind: ResourceType, names: &Names) -> Result<(), Violation> {
        let limit = self.terms.max_names;
        let count = match names {
            Names::All(names) => names.len(),
            Names::Increment(add, drop) => {
                let has = &self.of(kind).names;
                let is_new = |name: &&String| has.is_empty() || !has.contains(name.as_str());
                let new = add.iter().filter(is_new).count();
                if new == 0 { drop.len() } else { (has.len() + new).max(drop.len()) }
            }
        };
        if count > limit {
            return Err(Violation::TooManyNames { kind: kind.short(), limit });
        }
        Ok(())
    }

    fn take_names(&mut self, kind: ResourceType, names: Names, presented: HashMap<String, String>) {
        let first = !self.of(kind).requested;
        let owed = if first { self.start(kind, presented) } else { HashSet::default() };
        let (subscription, sight) = self.look(kind);
        match names {
            Names::Increment(add, drop) => {
                subscription.increment(sight, &add, &drop, first.then_some(&owed));
            }
            Names::All(names) => subscription.replace(sight, &names),
        }
        if first {
            self.find_orphans();
            self.find_departed(kind, 0);
        }
    }

    /// What the client applied from a response that it refused is in force, and yet not among what it presents when
    /// it reconnects. A cluster gives itself away because its load assignment, of the same name, is asked for, and
    /// the listener of an alias because its routes are (`xds.md`, item 54).
    fn find_orphans(&mut self) {
        // Only what was asked for can be told to be gone, and only where that can be told.
        let delta = self.terms.protocol == Protocol::Delta;
        for kind in PARENTS {
            if !delta || !self.of(kind).requested {
                continue;
            }
            let follower = &self.subscriptions[follower(kind) as usize];
            let asked: Vec<_> = follower.names.iter().cloned().collect();
            asked.iter().for_each(|name| self.find_orphan(kind, name));
        }
    }

    fn find_orphan(&mut self, kind: ResourceType, name: &Name) {
        let follower = follower(kind);
        if self.of(follower).names.contains(name) && self.slice.get(follower, name).is_none() {
            self.find_gone(kind, name);
        }
    }

    /// The listener of a TCP alias does not give itself away; but what is in force unknown to its client, and is not
    /// served, mostly went while the client was away, which this process may remember.
    fn find_departed(&mut self, kind: ResourceType, since: u64) {
        if self.waits.resumed && PARENTS.contains(&kind) {
            let departed: Vec<_> = self.slice.departed(kind, since).cloned().collect();
            departed.iter().for_each(|name| self.find_gone(kind, name));
        }
    }

    fn find_gone(&mut self, kind: ResourceType, name: &Name) {
        let gone = self.of(kind).requested && self.slice.get(kind, name).is_none();
        if self.terms.protocol == Protocol::Delta && gone {
            let confirmed = self.confirmed;
            self.look(kind).0.find(name, confirmed);
        }
    }

    /// The first request of a type. Returns the names that must be sent even if they are presented.
    fn start(&mut self, kind: ResourceType, presented: HashMap<String, String>) -> HashSet<Name> {
        // Endpoints before clusters: the client was cut off while a cluster warmed and waits for its load
        // assignment, though it holds an equal one (`xds.md`, item 44).
        let cut_off = kind == ResourceType::Endpoint
            && self.terms.only.is_none()
            && !self.of(ResourceType::Cluster).requested;
        let presented = presented.into_iter().filter(|_| !cut_off);
        let (confirmed, (subscription, sight)) = (self.confirmed, self.look(kind));
        let presented = presented.map(|(name, version)| (sight.name(&name), version.parse().ok()));
        subscription.start(presented, confirmed);
        match kind {
            ResourceType::Endpoint => std::mem::take(&mut self.owed),
            _ => HashSet::default(),
        }
    }

    /// What was passed over before the last one proves nothing.
    fn on_ack(&mut self, kind: ResourceType, sent: &[Sent]) -> Heard {
        let Some(last) = sent.last() else { return Heard::Names(kind) };
        let (subscription, sight) = self.look(kind);
        subscription.clear(sight, last);
        subscription.accept(sight, last);
        let names = last.resources.iter().map(|resource| &resource.name).chain(&last.removed);
        Heard::Ack(kind, last.generation, names.cloned().collect())
    }

    fn on_nack(&mut self, kind: ResourceType, sent: &[Sent], reason: Arc<str>) -> Heard {
        // A response that carries everything carried what came before it too.
        let Some(last) = sent.last() else { return Heard::Names(kind) };
        let (subscription, sight) = self.look(kind);
        subscription.refuse(sight, last, &reason);
        let members = last.resources.iter();
        let guilty = members.filter(|it| {
            subscription.rejected().get(&it.name).is_some_and(|rejection| rejection.version == it.version)
        });
        let guilty = guilty.map(|it| (it.name.clone(), it.version)).collect();
        Heard::Nack(kind, last.generation, Refusal { reason, members: last.resources.len(), guilty })
    }

    /// What was asked for or given up since this was last called, and which of the two; `*` is everything of a type.
    /// A newer snapshot in which nothing of all that was asked for differs, nor the ports that the client's own task
    /// occupies, need not be taken in.
    pub fn turned(&mut self) -> Vec<(ResourceType, Name, bool)> {
        let turned = |kind: ResourceType, subscription: &mut Subscription| {
            subscription.turned().into_iter().map(move |(name, asked)| (kind, name, asked))
        };
        let each = ResourceType::ALL.into_iter().zip(&mut self.subscriptions);
        each.flat_map(|(kind, subscription)| turned(kind, subscription)).collect()
    }

    /// Takes in a newer snapshot.
    pub fn on_slice(&mut self, slice: Slice) {
        let before = std::mem::replace(&mut self.slice, slice);
        let since = before.snapshot().generation;
        let same_listeners = self.slice.hides_like(&before);
        let snapshot = Arc::clone(self.slice.snapshot());
        let changed = |kind| {
            let names = snapshot.changed_since(since, kind);
            names.filter(|_| kind != ResourceType::Listener || same_listeners)
        };
        for kind in ResourceType::ALL {
            let (subscription, sight) = self.look(kind);
            if !subscription.requested {
                continue;
            }
            match changed(kind).filter(|names| !subscription.is_outnumbered_by(names.clone().count())) {
                Some(names) => subscription.look_again(sight, &before, names),
                None => subscription.look_at_everything(sight, &before),
            }
        }
        // Only now each type knows what its client holds beside the new slice.
        if !self.waits.resumed {
            return;
        }
        for kind in PARENTS {
            match changed(kind) {
                Some(names) => names.for_each(|name| self.find_orphan(kind, name)),
                None => self.find_orphans(),
            }
            self.find_departed(kind, since);
        }
    }

    /// Takes note that everything any source knew at `began` is published: from a moment after the stream was
    /// opened on, what the client presented and the slice lacks is really gone (`xds.md`, section 2.8).
    pub fn on_confirmed(&mut self, began: Instant) {
        if !self.confirmed && began > self.opened {
            self.confirmed = true;
            self.subscriptions.iter_mut().for_each(Subscription::confirm);
        }
    }

    /// Whether a removal waits for [`Session::on_confirmed`].
    pub fn awaits_confirmation(&self) -> bool {
        !self.confirmed && self.subscriptions.iter().any(Subscription::awaits_confirmation)
    }

    /// The next response in push order, if the client may have one now.
    pub fn next_response(&mut self, now: Instant) -> Option<Response> {
        self.note_waiting(now);
        for kind in ResourceType::ALL {
            // Endpoints may overtake clusters that wait for an ACK, and end the wait; what routes to them may not.
            if kind >= ResourceType::Listener && self.of(ResourceType::Cluster).has_work() {
                return None;
            }
            if self.of(kind).has_work() && self.waits_until(kind).is_none_or(|until| until <= now) {
                let cold = if LEADS.contains(&kind) { self.cold() } else { Cold::default() };
                let (subscription, sight) = self.look(kind);
                subscription.put_aside(sight, &cold, now);
                if let Some(batch) = subscription.next_upserts(sight, RESPONSE_BYTES) {
                    self.note_lead(kind);
                    return Some(self.respond(kind, batch, now));
                }
            }
        }
        self.note_waiting(now);
        if self.referrers_wait(now) {
            return None;
        }
        [ResourceType::Cluster, ResourceType::Endpoint].into_iter().find_map(|kind| {
            let (subscription, sight) = self.look(kind);
            let batch = subscription.next_removals(sight, RESPONSE_BYTES)?;
            Some(self.respond(kind, batch, now))
        })
    }

    fn respond(&mut self, kind: ResourceType, batch: Batch, now: Instant) -> Response {
        let (version, full) = (self.slice.version(kind), self.is_full(kind));
        batch.resources.iter().for_each(|resource| self.note_dependents(resource));
        let (subscription, sight) = self.look(kind);
        let resources = if full { subscription.whole(sight, &batch) } else { batch.resources };
        // What is on its way already may have been refused with what it came with.
        let unsure = resources.iter().filter(|it| full && !subscription.has_accepted(it));
        let unsure: Vec<_> = unsure.map(Arc::clone).collect();
        unsure.iter().for_each(|resource| self.note_dependents(resource));
        if kind == ResourceType::Cluster && !resources.is_empty() {
            self.waits.clusters_sent = Some(now);
        }
        self.last_nonce += 1;
        let (nonce, generation) = (self.last_nonce, self.slice.snapshot().generation);
        let (removed, missing, fresh) = (batch.removed, batch.missing, batch.fresh);
        let sent = Sent {
            nonce,
            generation,
            resources: resources.clone(),
            removed: removed.clone(),
            fresh,
            at: now,
        };
        let (subscription, sight) = self.look(kind);
        subscription.sent(sight, sent);
        Response { kind, nonce, generation, version, resources, removed, missing }
    }

    /// A sent cluster warms until its load assignment follows on this stream, changed or not, and the client
    /// doesn't ask for it again (`xds.md`, item 58).
    fn note_dependents(&mut self, resource: &Resource) {
        if resource.kind != ResourceType::Cluster {
            return;
        }
        for (kind, name) in &resource.depends_on {
            let subscription = &mut self.subscriptions[*kind as usize];
            subscription.owe(name);
            if !subscription.requested && self.terms.only.is_none() {
                self.owed.insert(Name::clone(name));
            }
        }
    }

    /// Whether anything of this type is left to say.
    pub fn owes(&self, kind: ResourceType) -> bool {
        self.of(kind).has_more_to_say()
    }

    /// Whether the client holds all of the newest slice: everything is said and answered.
    pub fn is_settled(&self) -> bool {
        self.subscriptions.iter().all(Subscription::is_settled)
    }
}

#[cfg(test)]
mod tests;
