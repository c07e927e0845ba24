//! What one stream asked for of one type, what it holds, and what it still has to be told.
//!
//! It is not about other types nor about order: the session knows those. Nor is it about frames: what is to be
//! said is the same for delta and for state-of-the-world.
//!
//! Invariant: what is subscribed (`names`), what is held ([`Held`]) and what was refused (`rare.rejected`) are
//! separate facts; confusing them is what broke other servers (`xds.md`, bug classes B3 to B6).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use absence::{Absence, absence};
pub(super) use aside::Cold;
pub(super) use batch::Batch;
use foldhash::{HashMap, HashSet};
pub(super) use held::Held;
use rare::Rare;

use super::session::Protocol;
use crate::snapshot::{Name, ProxyClass, Resource, ResourceType, Slice, Version};

mod absence;
mod aside;
mod batch;
mod flight;
mod held;
mod rare;
mod refusal;

/// How long a response may stay unanswered before the next one goes out all the same: a client holds the ACK
/// of its clusters back while one of them warms.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// A response on its way: answered by an ACK or a NACK with its nonce.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) nonce: u64,
    pub(super) generation: u64,
    pub(super) resources: Vec<Arc<Resource>>,
    pub(super) removed: Vec<Name>,
    /// The clusters among them that the client did not have.
    pub(super) fresh: HashSet<Name>,
    pub(super) at: Instant,
}

/// What a type is seen through: the same for every call about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight<'a> {
    pub(super) kind: ResourceType,
    pub(super) slice: &'a Slice,
    pub(super) protocol: Protocol,
    /// Whether every source has completed a pass that began after the stream was opened: only then is it sure
    /// that what the client presented and the slice lacks is really gone (`xds.md`, section 2.8).
    pub(super) confirmed: bool,
}

impl Sight<'_> {
    fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        self.slice.get(self.kind, name)
    }

    /// The name as the snapshot holds it, shared by every stream, where it is served.
    pub(super) fn name(&self, name: &str) -> Name {
        self.get(name).map_or_else(|| name.into(), |resource| resource.name.clone())
    }

    /// The most that a response may carry, which is no limit where it must carry everything.
    fn limit(&self, limit: usize) -> usize {
        if self.is_full() { usize::MAX } else { limit }
    }

    /// Whether each response carries everything (`xds.md`, items 27 and 28).
    fn is_full(&self) -> bool {
        self.protocol == Protocol::StateOfTheWorld && self.kind.has_wildcard()
    }
}

/// One type of one stream.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    /// Whether any request of this type has come.
    pub(super) requested: bool,
    pub(super) wildcard: bool,
    /// Whether any name was ever asked for: then no names mean nothing (item 14).
    ever_named: bool,
    pub(super) names: HashSet<Name>,
    /// What the client holds, where that is not what it asked for as it is served.
    unlike: HashMap<Name, Held>,
    /// To be sent whatever the client holds.
    must_send: BTreeSet<Name>,
    /// To be compared with what the client holds.
    changed: BTreeSet<Name>,
    rare: Option<Box<Rare>>,
    outstanding: VecDeque<Sent>,
    /// Everything that the client accepted, where each response carries everything: what stands in the place
    /// of what it refused.
    good: BTreeMap<Name, Arc<Resource>>,
    /// A wildcard was asked for and is answered even if there is nothing (item 50).
    reply_due: bool,
    /// The last response was full and more of the same follows, which waits for no answer.
    cut: bool,
}

impl Subscription {
    /// The first request of this type: `presented` is what the client says that it holds already, of which version
    /// if it says that too. Only until the slice is `confirmed` is it to be known who was presented.
    pub(super) fn start(
        &mut self,
        presented: impl Iterator<Item = (Name, Option<Version>)>,
        confirmed: bool,
    ) {
        self.requested = true;
        self.unlike =
            presented.map(|(name, version)| (name, version.map_or(Held::Unknown, Held::Version))).collect();
        self.changed.extend(self.unlike.keys().cloned());
        if !self.unlike.is_empty() && !confirmed {
            let presented = self.unlike.keys().cloned().collect();
            self.rare_mut().presented = presented;
        }
    }

    /// Names to add, then names to drop (item 17). `first` is a type's first request, which asks for everything
    /// where it names nothing, and in which a name that is also presented is compared, not resent (item 45).
    pub(super) fn increment(
        &mut self,
        sight: Sight<'_>,
        add: &[String],
        drop: &[String],
        first: Option<&HashSet<Name>>,
    ) {
        if first.is_some() && add.is_empty() && legacy_wildcard(sight) {
            self.start_wildcard(sight, false);
        }
        for name in add {
            if name == "*" {
                if sight.kind.has_wildcard() {
                    self.start_wildcard(sight, first.is_none());
                }
                continue;
            }
            let name = sight.name(name);
            let presented = || self.held(sight, &name) != Held::Nothing;
            let compared = first.is_some_and(|owed| presented() && !owed.contains(&name));
            self.subscribe(sight, name, compared);
        }
        for name in drop {
            if name == "*" {
                self.stop_wildcard();
            } else {
                self.unsubscribe(sight, name, sight.protocol == Protocol::Delta && self.wildcard);
            }
        }
    }

    /// All the names there are from now on, as state-of-the-world has them (items 13, 14 and 17). They count
    /// whatever the nonce; the same names again change nothing (item 31).
    pub(super) fn replace(&mut self, sight: Sight<'_>, names: &[String]) {
        self.ever_named |= !names.is_empty();
        let everything = names.iter().any(|name| name == "*") && sight.kind.has_wildcard();
        let everything = everything || (!self.ever_named && legacy_wildcard(sight));
        let asked: HashSet<&str> = names.iter().map(String::as_str).filter(|name| *name != "*").collect();
        let dropped: Vec<_> = self.names.iter().filter(|name| !asked.contains(&***name)).cloned().collect();
        if everything && !self.wildcard {
            self.start_wildcard(sight, true);
        } else if !everything && self.wildcard {
            self.stop_wildcard();
        }
        for name in dropped {
            self.unsubscribe(sight, &name, false);
        }
        for name in asked {
            if !self.names.contains(name) {
                self.subscribe(sight, sight.name(name), false);
            }
        }
    }

    fn subscribe(&mut self, sight: Sight<'_>, name: Name, compared: bool) {
        if let Some(rare) = &mut self.rare {
            rare.rejected.remove(&name);
            rare.told_missing.remove(&name);
        }
        let list = if compared { &mut self.changed } else { &mut self.must_send };
        list.insert(Name::clone(&name));
        if self.names.insert(Name::clone(&name)) {
            if !self.wildcard && sight.get(&name).is_some() {
                self.unlike.entry(Name::clone(&name)).or_insert(Held::Nothing);
            }
            self.rare_mut().turned.push(name);
        }
    }

    /// Forgets the name and what the client holds of it (item 19). `answered` says that the client must learn
    /// whether the wildcard still gives it (item 20).
    fn unsubscribe(&mut self, sight: Sight<'_>, name: &str, answered: bool) {
        let Some(name) = self.names.take(name) else { return };
        self.rare_mut().turned.push(Name::clone(&name));
        if !self.wildcard || answered {
            self.forget(&name);
        }
        if answered {
            self.hold(sight, &name, Held::Nothing);
            self.must_send.insert(name);
        }
    }

    fn start_wildcard(&mut self, sight: Sight<'_>, resend: bool) {
        if !self.wildcard {
            self.hold_nothing_new(sight);
        }
        self.wildcard = true;
        self.rare_mut().turned.push("*".into());
        self.reply_due = true;
        let list = if resend { &mut self.must_send } else { &mut self.changed };
        list.extend(sight.slice.names(sight.kind).cloned());
    }

    fn stop_wildcard(&mut self) {
        self.wildcard = false;
        self.rare_mut().turned.push("*".into());
        self.reply_due = false;
        let stale: Vec<_> = self.unlike.keys().filter(|name| !self.names.contains(*name)).cloned().collect();
        stale.iter().for_each(|name| self.forget(name));
        let names = &self.names;
        self.good.retain(|name, _| names.contains(name));
        self.must_send.retain(|name| names.contains(name));
        self.changed.retain(|name| names.contains(name));
        if let Some(rare) = &mut self.rare {
            rare.rejected.retain(|name, _| names.contains(name));
            rare.aside.retain(|name, _| names.contains(name));
            rare.removals.retain(|name| names.contains(name));
            rare.presented.retain(|name| names.contains(name));
            rare.unconfirmed.retain(|name, _| names.contains(name));
        }
    }

    fn forget(&mut self, name: &Name) {
        self.unlike.remove(name);
        self.good.remove(name);
        self.must_send.remove(name);
        self.changed.remove(name);
        if let Some(rare) = &mut self.rare {
            rare.forget(name);
        }
    }

    /// Makes a subscribed name due, even if the client holds it.
    pub(super) fn owe(&mut self, name: &Name) {
        if self.wants(name) {
            self.must_send.insert(Name::clone(name));
        }
    }

    /// Notes that the client holds something of that name that it does not present: compared as if it did.
    pub(super) fn find(&mut self, name: &Name, confirmed: bool) {
        if self.wildcard && !self.holds_unserved(name) {
            self.unlike.insert(Name::clone(name), Held::Unknown);
            if !confirmed {
                self.rare_mut().presented.insert(Name::clone(name));
            }
            self.changed.insert(Name::clone(name));
        }
    }

    /// Takes note that the slice is confirmed: what the client presented and the slice lacks is gone.
    pub(super) fn confirm(&mut self) {
        let Some(rare) = &mut self.rare else { return };
        rare.presented.clear();
        for (name, must) in std::mem::take(&mut rare.unconfirmed) {
            let list = if must { &mut self.must_send } else { &mut self.changed };
            list.insert(name);
        }
        self.tidy();
    }

    /// Whether anything that the client presented may be gone, and is not told to be before that is sure.
    pub(super) fn is_unconfirmed(&self) -> bool {
        !self.rare().unconfirmed.is_empty()
    }

    /// Whether anything that the client presented is to be looked at when the slice is confirmed.
    pub(super) fn awaits_confirmation(&self) -> bool {
        !self.rare().presented.is_empty() || self.is_unconfirmed()
    }

    /// Whether the client has subscribed to the name.
    pub(super) fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// Whether anything is left to say, removals aside.
    pub(super) fn has_work(&self) -> bool {
        let listed = !self.must_send.is_empty() || !self.changed.is_empty();
        self.reply_due || listed || !self.rare().suspects.is_empty() || !self.rare().aside.is_empty()
    }

    /// Whether anything waits to be removed.
    pub(super) fn has_removals(&self) -> bool {
        !self.rare().removals.is_empty()
    }

    /// Whether anything is left to say.
    pub(super) fn has_more_to_say(&self) -> bool {
        self.has_work() || self.has_removals() || self.is_unconfirmed()
    }

    /// Whether everything is said and answered.
    pub(super) fn is_settled(&self) -> bool {
        !self.has_more_to_say() && self.outstanding.is_empty()
    }

    /// Whether the last response was full and more of the same follows.
    pub(super) fn is_cut(&self) -> bool {
        self.cut
    }

    /// When a response that waits for an answer may go all the same; `None` if it need not wait.
    pub(super) fn waits_until(&self) -> Option<Instant> {
        let must = !self.must_send.is_empty() || self.rare().aside.values().any(|(_, must)| *must);
        let urgent = must || self.reply_due || self.cut;
        let oldest = self.outstanding.front().filter(|_| !urgent || self.is_far_ahead())?;
        Some(oldest.at + PATIENCE)
    }

    /// When the newest response that is not answered was sent; `None` if all are answered.
    pub(super) fn newest_unanswered(&self) -> Option<Instant> {
        Some(self.outstanding.back()?.at)
    }

    /// The next additions and changes, at most about `limit` bytes of them, with what is known to be absent.
    /// `None` when there is nothing to say.
    pub(super) fn next_upserts(&mut self, sight: Sight<'_>, limit: usize) -> Option<Batch> {
        let mut batch = self.next_suspects(sight);
        if !batch.is_empty() {
            self.reply_due = false;
            return Some(batch);
        }
        let (mut size, limit) = (0, sight.limit(limit));
        self.cut = false;
        if sight.kind == ResourceType::Listener {
            self.remove_listeners(sight, limit, &mut batch);
            if batch.absent_len >= limit {
                self.cut = self.has_work();
                return Some(batch);
            }
        }
        while let Some((name, must)) = self.next_name() {
            match sight.get(&name) {
                Some(resource) if self.should_send(resource, must) => {
                    size += resource.bytes.len();
                    let before = self.unlike.remove(&name);
                    batch.push(resource, matches!(before, Some(Held::Nothing | Held::Unknown)));
                }
                Some(_) => {}
                None => self.tell_absent(sight, name, must, &mut batch),
            }
            if size + batch.absent_len >= limit {
                self.cut = self.has_work();
                break;
            }
        }
        // "Nothing" is no answer where something only waits.
        let answered = !batch.is_empty() || (self.reply_due && self.rare().aside.is_empty());
        self.reply_due &= !answered;
        answered.then_some(batch)
    }

    fn next_name(&mut self) -> Option<(Name, bool)> {
        let must = self.must_send.pop_first();
        let next = must.clone().or_else(|| self.changed.pop_first())?;
        if must.is_some() {
            self.changed.remove(&next);
        }
        self.let_go(&next);
        Some((next, must.is_some()))
    }

    /// Listeners go before others come: one may take the address of another.
    fn remove_listeners(&mut self, sight: Sight<'_>, limit: usize, batch: &mut Batch) {
        let gone = |name: &&Name| self.holds_unserved(name) && sight.get(name).is_none();
        let gone: Vec<_> = self.changed.iter().filter(gone).cloned().collect();
        for name in gone {
            if batch.absent_len >= limit {
                return;
            }
            self.changed.remove(&name);
            let must = self.must_send.remove(&name);
            self.let_go(&name);
            self.tell_absent(sight, name, must, batch);
        }
    }

    fn should_send(&mut self, resource: &Resource, must: bool) -> bool {
        if !self.wants(&resource.name) {
            self.forget(&resource.name.clone()); // presented on reconnect, but not asked for
            return false;
        }
        let refused = self.refuses(resource);
        if let Some(rare) = &mut self.rare {
            rare.unconfirmed.remove(&resource.name);
            rare.told_missing.remove(&resource.name);
            if refused && must {
                rare.withheld.insert(resource.name.clone());
            } else if !refused {
                rare.rejected.remove(&resource.name);
                rare.withheld.remove(&resource.name);
            }
        }
        if self.unlike.get(&resource.name) == Some(&Held::Version(resource.version)) {
            self.unlike.remove(&resource.name);
        }
        !refused && (must || self.unlike.contains_key(&resource.name))
    }

    /// A name that isn't served: what that means, and whether it is said now.
    fn tell_absent(&mut self, sight: Sight<'_>, name: Name, must: bool, batch: &mut Batch) {
        let must = must || self.rare().withheld.contains(&name);
        let held = self.holds_unserved(&name);
        if held && !sight.confirmed && self.rare().presented.contains(&name) {
            *self.rare_mut().unconfirmed.entry(name).or_default() |= must;
            return;
        }
        let named = self.names.contains(&name);
        match absence(sight.kind, sight.protocol, held, must, named) {
            Absence::RemoveLater => {
                if must && !sight.is_full() {
                    self.unlike.insert(Name::clone(&name), Held::Unknown); // still due, should it come back first
                }
                self.rare_mut().removals.insert(name);
            }
            Absence::Remove => {
                self.gone(&name);
                batch.remove(name);
            }
            Absence::SendEmpty(empty) => {
                self.gone(&name);
                batch.replace(empty(name));
            }
            Absence::SayMissing => {
                self.gone(&name);
                if self.rare_mut().told_missing.insert(Name::clone(&name)) {
                    batch.absent_len += name.len();
                    batch.missing.push(Name::clone(&name));
                }
                if held {
                    batch.remove(name);
                }
            }
            Absence::Silence => self.gone(&name),
        }
    }

    fn gone(&mut self, name: &Name) {
        self.unlike.remove(name);
        if let Some(rare) = &mut self.rare {
            rare.rejected.remove(name);
            rare.withheld.remove(name);
        }
    }

    /// The removals that were put off until nothing refers to them, at most about `limit` bytes of them.
    pub(super) fn next_removals(&mut self, sight: Sight<'_>, limit: usize) -> Option<Batch> {
        let mut batch = Batch::default();
        while batch.absent_len < sight.limit(limit) {
            let Some(name) = self.rare.as_mut().and_then(|rare| rare.removals.pop_first()) else { break };
            if sight.get(&name).is_some() {
                continue;
            }
            self.gone(&name);
            match absence::farewell(sight.kind, sight.protocol) {
                Some(empty) => batch.replace(empty(name)),
                None => batch.remove(name),
            }
        }
        (!batch.is_empty()).then_some(batch)
    }

    /// The names in responses that are not answered yet.
    pub(super) fn on_the_way(&self) -> HashSet<&str> {
        self.outstanding.iter().flat_map(|sent| &sent.resources).map(|resource| &*resource.name).collect()
    }
}

/// Whether a client that names nothing means everything: not for gRPC, and only for types with a wildcard
/// (items 13, 15 and 16).
fn legacy_wildcard(sight: Sight<'_>) -> bool {
    sight.kind.has_wildcard() && sight.slice.class() != ProxyClass::Grpc
}
