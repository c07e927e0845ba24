//! What is due and leads to clusters that the client may not have yet: put aside until it does.
//!
//! It is not about who has answered: the session knows that.
//!
//! Invariant: each name waits for its own clusters and for no others, and no longer than [`Cold::wait`].

use std::time::{Duration, Instant};

use foldhash::HashSet;

use super::{Held, Name, Sight, Subscription};
use crate::snapshot::{Resource, ResourceType, Slice};

/// The clusters that the client does not have yet, though they are on their way.
#[derive(Debug, Default)]
pub(in crate::xds) struct Cold {
    pub(in crate::xds) clusters: HashSet<Name>,
    /// How long what leads to one of them waits for it.
    pub(in crate::xds) wait: Duration,
}

impl Cold {
    /// Whether `resource` leads to one of them, perhaps by way of others.
    fn is_led_to(&self, slice: &Slice, resource: &Resource) -> bool {
        resource.depends_on.iter().any(|(kind, name)| match kind {
            ResourceType::Cluster => self.clusters.contains(name),
            ResourceType::Endpoint => false,
            _ => slice.get(*kind, name).is_some_and(|next| self.is_led_to(slice, next)),
        })
    }
}

impl Subscription {
    /// Takes back what waits, to be looked at again, and puts aside what still has to wait. What is let go keeps the
    /// time it has waited until it is said: it may not all fit into one response.
    pub(in crate::xds) fn put_aside(&mut self, sight: Sight<'_>, cold: &Cold, now: Instant) {
        let before = self.rare.as_ref().map(|rare| rare.aside.clone()).unwrap_or_default();
        for (name, (_, must)) in &before {
            let list = if *must { &mut self.must_send } else { &mut self.changed };
            list.insert(Name::clone(name));
        }
        if cold.clusters.is_empty() {
            return;
        }
        self.release_changed_suspects(sight, cold);
        // Where all is said at once, it goes when the first of it has waited long enough.
        let first = before.values().map(|(since, _)| *since).min().filter(|_| sight.is_full());
        let since = |name: &Name| first.or(before.get(name).map(|(since, _)| *since)).unwrap_or(now);
        let may_wait = |name: &&Name| since(name) + cold.wait > now;
        let leads = |name: &&Name| {
            let due = sight.get(name).filter(|it| self.is_due(sight, it));
            due.is_some_and(|it| cold.is_led_to(sight.slice, it))
        };
        let listed = || self.must_send.iter().chain(&self.changed).filter(may_wait);
        let mut aside: HashSet<Name> = listed().filter(leads).cloned().collect();
        if sight.kind == ResourceType::Listener && !aside.is_empty() {
            // One that goes may make room for one that waits: nobody would listen there meanwhile.
            let goes = |name: &Name| self.holds_unserved(name) && sight.get(name).is_none();
            if sight.is_full() {
                aside.extend(listed().cloned()); // half of everything is not said
            } else if listed().any(goes) {
                // And one that comes may need the room.
                let due =
                    |name: &&Name| goes(name) || sight.get(name).is_some_and(|it| self.is_due(sight, it));
                aside.extend(listed().filter(due).cloned());
            }
        }
        let aside: Vec<_> = aside.into_iter().map(|name| (since(&name), name)).collect();
        for (since, name) in aside {
            let must = self.must_send.remove(&name);
            self.changed.remove(&name);
            self.rare_mut().aside.insert(name, (since, must));
        }
    }

    /// Whether it would be sent now.
    fn is_due(&self, sight: Sight<'_>, resource: &Resource) -> bool {
        let must = self.must_send.contains(&resource.name);
        let differs = || self.held(sight, &resource.name) != Held::Version(resource.version);
        !self.refuses(resource) && (must || differs())
    }

    /// Takes note that the name is said, or need not be.
    pub(super) fn let_go(&mut self, name: &Name) {
        if let Some(rare) = &mut self.rare {
            rare.aside.remove(name);
        }
    }

    /// Who has changed since it was suspected is no suspect any more, and may lead elsewhere.
    fn release_changed_suspects(&mut self, sight: Sight<'_>, cold: &Cold) {
        let Some(rare) = &mut self.rare else { return };
        for group in &mut rare.suspects {
            group.retain(|(name, version)| {
                let changed = sight.get(name).filter(|it| it.version != *version);
                let released = changed.filter(|it| cold.is_led_to(sight.slice, it));
                self.changed.extend(released.map(|it| it.name.clone()));
                released.is_none()
            });
        }
        rare.suspects.retain(|group| !group.is_empty());
    }

    /// Since when the first of those waits that are put aside.
    pub(in crate::xds) fn aside_since(&self) -> Option<Instant> {
        self.rare().aside.values().map(|(since, _)| *since).min()
    }

    /// Whether anything is due that need not wait for clusters.
    pub(in crate::xds) fn has_free_work(&self) -> bool {
        let listed = !self.must_send.is_empty() || !self.changed.is_empty();
        (self.reply_due && self.rare().aside.is_empty()) || listed || !self.rare().suspects.is_empty()
    }

    /// The clusters of unanswered responses that the client did not have before.
    pub(in crate::xds) fn cold(&self) -> impl Iterator<Item = &Name> {
        self.outstanding.iter().flat_map(|sent| &sent.fresh)
    }
}
