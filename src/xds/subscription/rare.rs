//! What a subscription knows of few names, and at rest of none but those refused.
//!
//! It is kept apart, because each of ten thousand streams at rest pays for the room that it takes.
//!
//! Invariant: what is not there is empty.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use super::{Name, Subscription};
use crate::snapshot::Version;
use crate::xds::session::Rejection;

static NONE: Rare = Rare {
    removals: BTreeSet::new(),
    presented: BTreeSet::new(),
    unconfirmed: BTreeMap::new(),
    told_missing: BTreeSet::new(),
    suspects: VecDeque::new(),
    rejected: BTreeMap::new(),
    withheld: BTreeSet::new(),
    aside: BTreeMap::new(),
    turned: Vec::new(),
};

#[derive(Debug, Default)]
pub(super) struct Rare {
    /// Held and gone; sent when nothing refers to them any more.
    pub(super) removals: BTreeSet<Name>,
    /// Presented by the client when it connected, until the slice is confirmed.
    pub(super) presented: BTreeSet<Name>,
    /// Presented and not in the slice, and whether that must be told: seen to when the slice is confirmed.
    pub(super) unconfirmed: BTreeMap<Name, bool>,
    /// Told to be missing by an error, which is said once (item 99).
    pub(super) told_missing: BTreeSet<Name>,
    /// Members of a refused response, to be sent again in groups until the bad one stands alone: a client
    /// that refuses one of many may have applied none.
    pub(super) suspects: VecDeque<Vec<(Name, Version)>>,
    /// Refused, and not changed since.
    pub(super) rejected: BTreeMap<Name, Rejection>,
    /// Due, and not sent because they are refused.
    pub(super) withheld: BTreeSet<Name>,
    /// Due, and put aside until the clusters are there that it leads to: since when, and whether to be sent whatever
    /// the client holds.
    pub(super) aside: BTreeMap<Name, (Instant, bool)>,
    /// Asked for or given up, until someone wants to know.
    pub(super) turned: Vec<Name>,
}

impl Rare {
    fn is_empty(&self) -> bool {
        let Self {
            removals,
            presented,
            unconfirmed,
            told_missing,
            suspects,
            rejected,
            withheld,
            aside,
            turned,
        } = self;
        removals.is_empty()
            && presented.is_empty()
            && unconfirmed.is_empty()
            && told_missing.is_empty()
            && suspects.is_empty()
            && rejected.is_empty()
            && withheld.is_empty()
            && aside.is_empty()
            && turned.is_empty()
    }

    /// Everything but the suspects, who are looked up when their turn comes.
    pub(super) fn forget(&mut self, name: &Name) {
        self.removals.remove(name);
        self.presented.remove(name);
        self.unconfirmed.remove(name);
        self.told_missing.remove(name);
        self.rejected.remove(name);
        self.withheld.remove(name);
        self.aside.remove(name);
    }
}

impl Subscription {
    /// To be looked at.
    pub(super) fn rare(&self) -> &Rare {
        self.rare.as_deref().unwrap_or(&NONE)
    }

    /// To be added to. Where there may only be something to take away, `self.rare` is enough.
    pub(super) fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Lets the room go when nothing is left in it.
    pub(in crate::xds) fn tidy(&mut self) {
        self.rare = self.rare.take().filter(|rare| !rare.is_empty());
        // One that is refused must not keep the room of thousands that were sent.
        if self.unlike.capacity() > 16 + 4 * self.unlike.len() {
            self.unlike.shrink_to_fit();
        }
        if self.outstanding.is_empty() {
            self.outstanding = VecDeque::new();
        }
    }

    /// The names that were asked for or given up since this was last called, and which of the two; `*` is everything.
    pub(in crate::xds) fn turned(&mut self) -> Vec<(Name, bool)> {
        let Some(rare) = &mut self.rare else { return Vec::new() };
        let turned = std::mem::take(&mut rare.turned);
        self.tidy();
        let asked = |name: &Name| if **name == *"*" { self.wildcard } else { self.names.contains(name) };
        turned.into_iter().map(|name| (Name::clone(&name), asked(&name))).collect()
    }

    /// Refused, and not changed since.
    pub(in crate::xds) fn rejected(&self) -> &BTreeMap<Name, Rejection> {
        &self.rare().rejected
    }
}
