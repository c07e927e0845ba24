//! What is due and leads to clusters that the client may not have yet: put aside until it does.
//!
//! It is not about who has answered: the session knows that.
//!
//! Invariant: each name waits for its own clusters and for no others, and no longer than [`Cold::wait`].

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Name, Sight, Subscription};
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
    /// Takes back what waits, to be looked at again, and puts aside what still has to wait.
    pub(in crate::xds) fn put_aside(&mut self, sight: Sight<'_>, cold: &Cold, now: Instant) {
        let before = self.rare.as_mut().map(|rare| std::mem::take(&mut rare.aside)).unwrap_or_default();
        for (name, (_, must)) in &before {
            let list = if *must { &mut self.must_send } else { &mut self.changed };
            list.insert(Name::clone(name));
        }
        if cold.clusters.is_empty() {
            return;
        }
        self.release_changed_suspects(sight, cold);
        let listed = || self.must_send.iter().chain(&self.changed);
        // Listeners go together, so that none goes before the one that takes its place.
        let first = before.values().map(|(since, _)| *since).min();
        let first = first.filter(|_| sight.kind == ResourceType::Listener);
        let since = |name: &Name| first.or(before.get(name).map(|(since, _)| *since)).unwrap_or(now);
        let waits = |name: &&Name| {
            let leads = || sight.get(name).is_some_and(|it| cold.is_led_to(sight.slice, it));
            since(name) + cold.wait > now && leads()
        };
        let mut aside: HashSet<Name> = listed().filter(waits).cloned().collect();
        if sight.kind == ResourceType::Listener && !aside.is_empty() {
            // One that goes may make room for one that waits: nobody would listen there meanwhile.
            let goes = |name: &&Name| sight.get(name).is_none() && since(name) + cold.wait > now;
            if sight.is_full() || listed().any(|name| goes(&name)) {
                // And one that comes may need the room. Nor is half of everything said.
                aside.extend(listed().filter(|name| since(name) + cold.wait > now).cloned());
            }
        }
        for name in aside {
            let must = self.must_send.remove(&name);
            let must = must | before.get(&name).is_some_and(|(_, must)| *must);
            self.changed.remove(&name);
            let since = since(&name);
            self.rare_mut().aside.insert(name, (since, must));
        }
    }

    /// Who has changed since it was suspected is no suspect any more, and may lead elsewhere.
    fn release_changed_suspects(&mut self, sight: Sight<'_>, cold: &Cold) {
        let Some(rare) = &mut self.rare else { return };
        for group in &mut rare.suspects {
            group.retain(|(name, version)| {
                let changed = sight.get(name).filter(|it| it.version != *version);
                let released = changed.filter(|it| cold.is_led_to(sight.slice, it));
                self.changed.extend(released.map(|it| Arc::clone(&it.name)));
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
