//! What one sidecar holds and still needs: one stream as a state machine.
//!
//! It is not a socket, not a task and has no clock: requests, snapshots and the time go in, responses come
//! out.
//!
//! Invariant: at rest the client holds its slice restricted to what it subscribed to, less what it refused,
//! whatever the order of publishes, requests, NACKs and cuts.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use super::proto::DeltaDiscoveryRequest;
use super::subscription::{Batch, Sent, Subscription};
use crate::snapshot::{Changed, Resource, ResourceType, Slice, Version};

/// Roughly the most that one response carries. Small enough for any client, and for tonic, which keeps its
/// largest buffer.
const RESPONSE_BYTES: usize = 256 * 1024;

/// The stream can't go on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    /// On the aggregated stream a type is needed.
    #[error("type_url is required on an aggregated stream")]
    NoType,
}

/// What a request turned out to be, for those who count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// Only names, or an answer to something long past.
    Names(ResourceType),
    /// A type that Legation doesn't serve; it gets no answer, and the others go on.
    UnknownType,
    /// These resources, from that generation, are in force.
    Ack(ResourceType, u64, Vec<Arc<str>>),
    /// These resources, from that generation, were refused.
    Nack(ResourceType, u64, Vec<Arc<str>>, String),
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
    /// What to add or replace.
    pub resources: Vec<Arc<Resource>>,
    /// What to remove.
    pub removed: Vec<Arc<str>>,
}

/// The state machine.
#[derive(Debug)]
pub struct Session {
    slice: Slice,
    subscriptions: [Subscription; ResourceType::ALL.len()],
    /// Load assignments whose cluster went out on this stream and that have not followed yet.
    owed: HashSet<Arc<str>>,
    last_nonce: u64,
}

impl Session {
    /// A stream that has said nothing yet and may see `slice`.
    pub fn new(slice: Slice) -> Self {
        Self { slice, subscriptions: Default::default(), owed: HashSet::new(), last_nonce: 0 }
    }

    /// What the client may see now.
    pub fn slice(&self) -> &Slice {
        &self.slice
    }

    fn of(&mut self, kind: ResourceType) -> &mut Subscription {
        &mut self.subscriptions[kind as usize]
    }

    /// Takes in a request: names, whatever its nonce; then the answer that it may carry.
    pub fn on_request(&mut self, request: &DeltaDiscoveryRequest) -> Result<Heard, Violation> {
        if request.type_url.is_empty() {
            return Err(Violation::NoType);
        }
        let Some(kind) = ResourceType::from_type_url(&request.type_url) else {
            return Ok(Heard::UnknownType);
        };
        self.take_names(kind, request);
        let nonce = request.response_nonce.parse().ok();
        let Some(sent) = nonce.and_then(|nonce| self.of(kind).answered(nonce)) else {
            return Ok(Heard::Names(kind));
        };
        let names = sent.resources.iter().map(|(name, _)| Arc::clone(name)).collect();
        Ok(match &request.error_detail {
            Some(error) => {
                self.of(kind).refuse(&sent);
                Heard::Nack(kind, sent.generation, names, error.message.clone())
            }
            None => Heard::Ack(kind, sent.generation, names),
        })
    }

    fn take_names(&mut self, kind: ResourceType, request: &DeltaDiscoveryRequest) {
        let clusters_asked = self.of(ResourceType::Cluster).requested;
        let subscription = &mut self.subscriptions[kind as usize];
        let (subscribe, unsubscribe) =
            (&request.resource_names_subscribe, &request.resource_names_unsubscribe);
        if subscription.requested {
            return subscription.later_request(kind, subscribe, unsubscribe, &self.slice);
        }
        // Endpoints before clusters: the client was cut off while a cluster warmed and waits for its load
        // assignment, though it holds an equal one (`xds.md`, item 44).
        let believed = kind != ResourceType::Endpoint || clusters_asked;
        let presented = request.initial_resource_versions.iter().filter(|_| believed);
        let presented =
            presented.map(|(name, version)| (name.as_str().into(), version.parse::<Version>().ok()));
        subscription.first_request(kind, subscribe, presented, &self.owed, &self.slice);
        subscription.later_request(kind, &[], unsubscribe, &self.slice);
    }

    /// Takes in a newer snapshot.
    pub fn on_slice(&mut self, slice: Slice) {
        let before = std::mem::replace(&mut self.slice, slice);
        let since = before.snapshot().generation;
        let same_listeners = self.slice.hides_like(&before);
        for kind in ResourceType::ALL {
            let subscription = &mut self.subscriptions[kind as usize];
            match self.slice.snapshot().changed_since(since, kind) {
                Changed::Names(names) if kind != ResourceType::Listener || same_listeners => {
                    subscription.look_again(&names);
                }
                _ => subscription.look_at_everything(kind, &self.slice),
            }
        }
    }

    /// The next response in push order, if the client may have one now.
    pub fn next_response(&mut self, now: Instant) -> Option<Response> {
        for kind in ResourceType::ALL {
            // Endpoints may overtake clusters that wait for an ACK, and end the wait; what routes to them may not.
            if kind > ResourceType::Endpoint && self.of(ResourceType::Cluster).has_work() {
                return None;
            }
            if self.of(kind).has_work() && self.of(kind).waits_until().is_none_or(|until| until <= now) {
                let slice = &self.slice;
                let batch = self.subscriptions[kind as usize].next_upserts(kind, slice, RESPONSE_BYTES);
                if let Some(batch) = batch {
                    return Some(self.respond(kind, batch, now));
                }
            }
        }
        // Whatever referred to these must be gone from the client first.
        let referrers = [ResourceType::Listener, ResourceType::Route];
        if referrers.into_iter().any(|kind| self.of(kind).has_work()) {
            return None;
        }
        [ResourceType::Cluster, ResourceType::Endpoint].into_iter().find_map(|kind| {
            let batch = self.subscriptions[kind as usize].next_removals(kind, &self.slice)?;
            Some(self.respond(kind, batch, now))
        })
    }

    fn respond(&mut self, kind: ResourceType, batch: Batch, now: Instant) -> Response {
        let Batch { resources, removed } = batch;
        for resource in &resources {
            self.note_dependents(resource);
        }
        self.last_nonce += 1;
        let (nonce, generation) = (self.last_nonce, self.slice.snapshot().generation);
        let members =
            resources.iter().map(|resource| (Arc::clone(&resource.name), resource.version)).collect();
        let sent = Sent { nonce, generation, resources: members, removed: removed.clone(), at: now };
        self.of(kind).sent(sent);
        Response { kind, nonce, generation, resources, removed }
    }

    /// A sent cluster warms until its load assignment follows on this stream, changed or not, and the client
    /// doesn't ask for it again (`xds.md`, item 58).
    fn note_dependents(&mut self, resource: &Resource) {
        match resource.kind {
            ResourceType::Cluster => {
                for (kind, name) in &resource.depends_on {
                    self.subscriptions[*kind as usize].owe(name);
                    self.owed.insert(Arc::clone(name));
                }
            }
            ResourceType::Endpoint => {
                self.owed.remove(&resource.name);
            }
            ResourceType::Listener | ResourceType::Route => {}
        }
    }

    /// When to ask for the next response although nothing happened: a late ACK holds nothing up for ever.
    pub fn next_deadline(&self) -> Option<Instant> {
        let clusters = &self.subscriptions[ResourceType::Cluster as usize];
        let free =
            if clusters.has_work() { ResourceType::Listener as usize } else { self.subscriptions.len() };
        let waiting = self.subscriptions.iter().take(free).filter(|subscription| subscription.has_work());
        waiting.filter_map(Subscription::waits_until).min()
    }

    /// Whether the client holds all of the newest slice: everything is said and answered.
    pub fn is_settled(&self) -> bool {
        self.subscriptions.iter().all(Subscription::is_settled)
    }

    /// Whether a type is asked for at all, as a wildcard, by how many names, and what is refused.
    pub fn asked(&self, kind: ResourceType) -> Option<Asked<'_>> {
        let subscription = &self.subscriptions[kind as usize];
        subscription.requested.then_some(Asked {
            wildcard: subscription.wildcard,
            names: subscription.names.len(),
            rejected: &subscription.rejected,
        })
    }
}

/// What a client asks for of one type.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Everything.
    pub wildcard: bool,
    /// How many names.
    pub names: usize,
    /// Refused and unchanged since, with the refused version.
    pub rejected: &'a std::collections::BTreeMap<Arc<str>, Version>,
}

#[cfg(test)]
mod tests;
