//! What the client holds: what it asked for as it is served, but for the names listed here.
//!
//! It is not about what is due: what the client holds may differ from what is served and yet not be sent.
//!
//! Invariant: a name that is not listed is held as it is served if it is asked for, and else not at all. So a stream
//! at rest lists no more than what it refused, however much it holds; and whatever would change that for a name
//! (a subscription, another slice) comes with an entry for it, before anyone asks what is held.

use std::sync::Arc;

use super::{Name, Sight, Subscription};
use crate::snapshot::{Resource, Slice, Version};

/// What a client holds of one name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::xds) enum Held {
    Nothing,
    /// Something, but it can't be known what, as after a NACK.
    Unknown,
    Version(Version),
}

impl Held {
    /// Which version it is, as far as that is known.
    pub(in crate::xds) fn version(self) -> Option<Version> {
        match self {
            Self::Nothing | Self::Unknown => None,
            Self::Version(version) => Some(version),
        }
    }

    fn of(resource: Option<&Arc<Resource>>) -> Self {
        resource.map_or(Self::Nothing, |resource| Self::Version(resource.version))
    }
}

impl Subscription {
    /// What the client holds of that name.
    pub(in crate::xds) fn held(&self, sight: Sight<'_>, name: &str) -> Held {
        self.unlike.get(name).copied().unwrap_or_else(|| self.as_served(sight, name))
    }

    fn as_served(&self, sight: Sight<'_>, name: &str) -> Held {
        Held::of(sight.get(name).filter(|_| self.wants(name)))
    }

    /// From now on the client holds this of that name.
    pub(super) fn hold(&mut self, sight: Sight<'_>, name: &Name, held: Held) {
        if held == self.as_served(sight, name) {
            self.unlike.remove(name);
        } else {
            self.unlike.insert(Name::clone(name), held);
        }
    }

    /// Whether the client holds anything of a name that is not served.
    pub(super) fn holds_unserved(&self, name: &str) -> bool {
        self.unlike.get(name).is_some_and(|held| *held != Held::Nothing)
    }

    /// Notes that the client, which is about to ask for everything, holds nothing of what it has not asked for.
    pub(super) fn hold_nothing_new(&mut self, sight: Sight<'_>) {
        for name in sight.slice.names(sight.kind).filter(|name| !self.names.contains(*name)) {
            self.unlike.entry(Name::clone(name)).or_insert(Held::Nothing);
        }
    }

    /// Takes in that these names may be served otherwise than `before`.
    pub(in crate::xds) fn look_again<'a>(
        &mut self,
        sight: Sight<'_>,
        before: &Slice,
        names: impl IntoIterator<Item = &'a Name>,
    ) {
        for name in names {
            if !self.unlike.contains_key(name) {
                if !self.wants(name) {
                    continue;
                }
                let held = Held::of(before.get(sight.kind, name));
                if held == self.as_served(sight, name) {
                    continue;
                }
                self.unlike.insert(Name::clone(name), held);
            }
            self.changed.insert(Name::clone(name));
        }
    }

    /// Takes in that everything may be served otherwise than `before`.
    pub(in crate::xds) fn look_at_everything(&mut self, sight: Sight<'_>, before: &Slice) {
        let known: Vec<_> = self.unlike.keys().chain(&self.names).cloned().collect();
        self.look_again(sight, before, &known);
        if self.wildcard {
            self.look_again(sight, before, before.names(sight.kind));
            self.look_again(sight, before, sight.slice.names(sight.kind));
        }
    }

    /// Whether to look at everything is less work than to look for each of so many names.
    pub(in crate::xds) fn is_outnumbered_by(&self, changed: usize) -> bool {
        !self.wildcard && changed > 4 * (self.names.len() + self.unlike.len())
    }

    /// The names whose state is listed.
    #[cfg(test)]
    pub(in crate::xds) fn listed(&self) -> impl Iterator<Item = &Name> {
        self.unlike.keys()
    }

    /// The names that the client asked for or holds, some more than once; by a wildcard all that it may see.
    pub(in crate::xds) fn concerned<'a>(&'a self, sight: Sight<'a>) -> impl Iterator<Item = &'a Name> {
        let served = sight.slice.names(sight.kind).filter(|name| self.wants(name));
        served.chain(&self.names).chain(self.unlike.keys())
    }
}
