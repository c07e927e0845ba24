//! What one stream asked for of one type, what it holds, and what it still has to be told.
//!
//! It is not about other types nor about order: the session knows those.
//!
//! Invariant: what is subscribed (`names`), what is held (`held`) and what was refused (`rejected`) are
//! separate facts; confusing them is what broke other servers (`xds.md`, bug classes B3 to B6).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::snapshot::{Resource, ResourceType, Slice, Version};

type Name = Arc<str>;

/// How long a response may stay unanswered before the next one goes out all the same: a client holds the ACK
/// of its clusters back while one of them warms.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many unanswered responses are remembered: beyond that, a client that never answers costs nothing more.
const REMEMBERED: usize = 64;

/// A response on its way: answered by an ACK or a NACK with its nonce.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) nonce: u64,
    pub(super) generation: u64,
    pub(super) resources: Vec<(Name, Version)>,
    pub(super) removed: Vec<Name>,
    pub(super) at: Instant,
}

/// One type of one stream.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    /// Whether any request of this type has come.
    pub(super) requested: bool,
    pub(super) wildcard: bool,
    pub(super) names: HashSet<Name>,
    /// What the client holds; `None` where it can't be known, as after a NACK.
    held: HashMap<Name, Option<Version>>,
    /// To be sent whatever the client holds.
    must_send: BTreeSet<Name>,
    /// To be compared with what the client holds.
    changed: BTreeSet<Name>,
    /// Held and gone; sent when nothing refers to them any more.
    removals: BTreeSet<Name>,
    /// Members of a refused response, to be sent again by halves until the bad one stands alone: a client
    /// that refuses one of many may have applied none.
    suspects: VecDeque<Vec<Name>>,
    pub(super) rejected: BTreeMap<Name, Version>,
    outstanding: VecDeque<Sent>,
    /// A wildcard was asked for and is answered even if there is nothing (`xds.md`, item 50).
    reply_due: bool,
}

/// The resources and the removed names of one response.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) resources: Vec<Arc<Resource>>,
    pub(super) removed: Vec<Name>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.removed.is_empty()
    }
}

impl Subscription {
    /// The first request of this type on the stream. `presented` is what the client says that it holds
    /// already; `owed` are names that must be sent all the same.
    pub(super) fn first_request(
        &mut self,
        kind: ResourceType,
        subscribe: &[String],
        presented: impl Iterator<Item = (Name, Option<Version>)>,
        owed: &HashSet<Name>,
        slice: &Slice,
    ) {
        self.requested = true;
        self.held = presented.collect();
        self.changed = self.held.keys().cloned().collect();
        if kind.has_wildcard() && subscribe.is_empty() {
            self.start_wildcard(kind, slice);
        }
        for name in subscribe {
            let name: Name = name.as_str().into();
            if *name == *"*" {
                if kind.has_wildcard() {
                    self.start_wildcard(kind, slice);
                }
            } else {
                // A name that is both asked for and presented is compared, not resent (item 45).
                let wanted = !self.held.contains_key(&name) || owed.contains(&name);
                let list = if wanted { &mut self.must_send } else { &mut self.changed };
                list.insert(Arc::clone(&name));
                self.names.insert(name);
            }
        }
    }

    /// A later request: names to add, then names to drop.
    pub(super) fn later_request(
        &mut self,
        kind: ResourceType,
        subscribe: &[String],
        unsubscribe: &[String],
        slice: &Slice,
    ) {
        for name in subscribe {
            let name: Name = name.as_str().into();
            if *name == *"*" {
                if kind.has_wildcard() {
                    self.start_wildcard(kind, slice);
                    self.must_send.extend(slice.names(kind).cloned());
                }
            } else {
                self.rejected.remove(&name);
                self.must_send.insert(Arc::clone(&name));
                self.names.insert(name);
            }
        }
        for name in unsubscribe {
            let name: Name = name.as_str().into();
            if *name == *"*" {
                self.wildcard = false;
                let names = &self.names;
                self.held.retain(|name, _| names.contains(name));
            } else if self.names.remove(&name) {
                self.forget(&name);
                if self.wildcard {
                    self.must_send.insert(name); // answered, so that the client knows who holds it (item 20)
                }
            }
        }
    }

    fn start_wildcard(&mut self, kind: ResourceType, slice: &Slice) {
        self.wildcard = true;
        self.reply_due = true;
        self.changed.extend(slice.names(kind).cloned());
    }

    fn forget(&mut self, name: &Name) {
        self.held.remove(name);
        self.must_send.remove(name);
        self.changed.remove(name);
        self.removals.remove(name);
        self.rejected.remove(name);
    }

    /// Notes names that may differ now, if they concern this stream.
    pub(super) fn look_again<'a>(&mut self, names: impl IntoIterator<Item = &'a Name>) {
        for name in names {
            if self.requested && (self.wants(name) || self.held.contains_key(name)) {
                self.changed.insert(Arc::clone(name));
            }
        }
    }

    /// Notes that everything may differ now.
    pub(super) fn look_at_everything(&mut self, kind: ResourceType, slice: &Slice) {
        let held: Vec<_> = self.held.keys().cloned().collect();
        self.look_again(&held);
        self.look_again(slice.names(kind));
    }

    /// Makes a subscribed name due, even if the client holds it.
    pub(super) fn owe(&mut self, name: &Name) {
        if self.wants(name) {
            self.must_send.insert(Arc::clone(name));
        }
    }

    /// Whether the client has subscribed to the name.
    pub(super) fn wants(&self, name: &Name) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// Whether anything is left to say, removals aside.
    pub(super) fn has_work(&self) -> bool {
        self.reply_due || !self.must_send.is_empty() || !self.changed.is_empty() || !self.suspects.is_empty()
    }

    /// Whether everything is said and answered.
    pub(super) fn is_settled(&self) -> bool {
        !self.has_work() && self.removals.is_empty() && self.outstanding.is_empty()
    }

    /// When a response that waits for an answer may go all the same; `None` if it need not wait.
    pub(super) fn waits_until(&self) -> Option<Instant> {
        let oldest = self.outstanding.front()?;
        (self.must_send.is_empty() && !self.reply_due).then(|| oldest.at + PATIENCE)
    }

    /// The next additions and changes, at most about `limit` bytes of them, with what is known to be absent.
    /// `None` when there is nothing to say.
    pub(super) fn next_upserts(&mut self, kind: ResourceType, slice: &Slice, limit: usize) -> Option<Batch> {
        let mut batch = self.next_suspects(kind, slice);
        if !batch.is_empty() {
            return Some(batch);
        }
        if kind == ResourceType::Listener {
            self.remove_listeners(slice, &mut batch);
        }
        let mut size = 0;
        while size < limit {
            let (name, must) = match self.must_send.pop_first() {
                Some(name) => (name, true),
                None => match self.changed.pop_first() {
                    Some(name) => (name, false),
                    None => break,
                },
            };
            self.changed.remove(&name);
            match slice.get(kind, &name) {
                Some(resource) => {
                    if self.should_send(resource, must) {
                        size += resource.bytes.len();
                        self.held.insert(name, Some(resource.version));
                        batch.resources.push(Arc::clone(resource));
                    }
                }
                None => self.tell_absent(kind, name, must, &mut batch),
            }
        }
        let due = std::mem::take(&mut self.reply_due);
        (due || !batch.is_empty()).then_some(batch)
    }

    fn next_suspects(&mut self, kind: ResourceType, slice: &Slice) -> Batch {
        let mut batch = Batch::default();
        while let Some(group) = self.suspects.pop_front() {
            for name in group.iter().filter(|name| self.held.get(*name) == Some(&None)) {
                if let Some(resource) = slice.get(kind, name)
                    && self.wants(name)
                    && self.rejected.get(name) != Some(&resource.version)
                {
                    batch.resources.push(Arc::clone(resource));
                }
            }
            if !batch.is_empty() {
                break;
            }
        }
        for resource in &batch.resources {
            self.held.insert(Arc::clone(&resource.name), Some(resource.version));
        }
        batch
    }

    /// Listeners go before others come: one may take the address of another.
    fn remove_listeners(&mut self, slice: &Slice, batch: &mut Batch) {
        let gone =
            |name: &&Name| self.held.contains_key(*name) && slice.get(ResourceType::Listener, name).is_none();
        let gone: Vec<_> = self.changed.iter().filter(gone).cloned().collect();
        for name in gone {
            self.tell_absent(ResourceType::Listener, name, false, batch);
        }
    }

    fn should_send(&mut self, resource: &Resource, must: bool) -> bool {
        if !self.wants(&resource.name) {
            self.held.remove(&resource.name); // presented on reconnect, but not asked for
            return false;
        }
        let refused = self.rejected.get(&resource.name) == Some(&resource.version);
        if !refused {
            self.rejected.remove(&resource.name);
        }
        !refused && (must || self.held.get(&resource.name) != Some(&Some(resource.version)))
    }

    /// A name that isn't served (`xds.md`, section 2.5: absence means something else for each type).
    fn tell_absent(&mut self, kind: ResourceType, name: Name, must: bool, batch: &mut Batch) {
        let held = self.held.contains_key(&name);
        match kind {
            ResourceType::Cluster | ResourceType::Endpoint if held => {
                if must {
                    self.held.insert(Arc::clone(&name), None); // still due, should it come back first
                }
                self.removals.insert(name);
            }
            ResourceType::Cluster | ResourceType::Endpoint if must => batch.removed.push(name),
            ResourceType::Listener if held || (must && self.wildcard) => {
                self.held.remove(&name);
                self.changed.remove(&name);
                self.rejected.remove(&name);
                batch.removed.push(name);
            }
            // A removed route configuration would leave its listener warming for ever; an empty one answers.
            ResourceType::Route if must => batch.resources.push(Arc::new(empty_routes(name))),
            ResourceType::Route => {
                self.held.remove(&name);
            }
            ResourceType::Cluster | ResourceType::Endpoint | ResourceType::Listener => {}
        }
    }

    /// The removals that were put off until nothing refers to them.
    pub(super) fn next_removals(&mut self, kind: ResourceType, slice: &Slice) -> Option<Batch> {
        let gone = std::mem::take(&mut self.removals);
        let removed: Vec<_> = gone.into_iter().filter(|name| slice.get(kind, name).is_none()).collect();
        for name in &removed {
            self.held.remove(name);
            self.rejected.remove(name);
        }
        (!removed.is_empty()).then_some(Batch { resources: Vec::new(), removed })
    }

    /// Notes a response on its way.
    pub(super) fn sent(&mut self, sent: Sent) {
        if self.outstanding.len() == REMEMBERED {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back(sent);
    }

    /// The response that a nonce answers, if it is still awaited; older ones count as lost.
    pub(super) fn answered(&mut self, nonce: u64) -> Option<Sent> {
        let place = self.outstanding.iter().position(|sent| sent.nonce == nonce)?;
        self.outstanding.drain(..=place).next_back()
    }

    /// After a NACK nothing is known of its resources (`xds.md`, section 2.6). One that was alone is not sent
    /// again until it changes; several are sent again by halves. What was to be removed along with them is
    /// removed again, alone.
    pub(super) fn refuse(&mut self, sent: &Sent) {
        // Unless something newer has been sent since, or it has gone.
        let held = |(name, version): &&(Name, Version)| self.held.get(name) == Some(&Some(*version));
        let refused: Vec<_> = sent.resources.iter().filter(held).cloned().collect();
        for (name, _) in &refused {
            self.held.insert(Arc::clone(name), None);
        }
        if let ([(name, version)], [_]) = (refused.as_slice(), sent.resources.as_slice()) {
            self.rejected.insert(Arc::clone(name), *version);
        } else {
            let (one, other) = refused.split_at(refused.len() / 2);
            let halves = [one, other].into_iter().filter(|half| !half.is_empty());
            let names = halves.map(|half| half.iter().map(|(name, _)| Arc::clone(name)).collect());
            self.suspects.extend(names);
        }
        for name in sent.removed.iter().filter(|_| !sent.resources.is_empty()) {
            self.held.entry(Arc::clone(name)).or_insert(None);
            self.changed.insert(Arc::clone(name));
        }
    }
}

fn empty_routes(name: Name) -> Resource {
    use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
    let routes = RouteConfiguration { name: name.to_string(), ..Default::default() };
    Resource::encode(ResourceType::Route, name, &routes)
}
