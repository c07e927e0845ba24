//! What is on its way to the client, and what it makes of it as long as it does not refuse.
//!
//! It is not about refusals: `refusal` is.
//!
//! Invariant: what a client accepted is what stands in for a version that it refuses later.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Batch, Held, Name, Sent, Sight, Subscription};
use crate::snapshot::Resource;

/// How many unanswered responses are remembered. Beyond that even what is urgent waits for the oldest answer, so that
/// no refusal is missed; and a client that never answers costs nothing more.
const REMEMBERED: usize = 64;

impl Subscription {
    /// Whether the client is to go on holding what it was sent. It is not if it dropped the name meanwhile, even
    /// if it asked for it again.
    fn keeps(&self, sight: Sight<'_>, name: &Name) -> bool {
        self.wants(name) && self.held(sight, name) != Held::Nothing
    }

    /// Everything that the client will hold once it has applied `batch`, where a response carries everything:
    /// what it accepted, what is on its way and not in doubt, and this.
    pub(in crate::xds) fn whole(&self, sight: Sight<'_>, batch: &Batch) -> Vec<Arc<Resource>> {
        let mut whole: BTreeMap<&Name, &Arc<Resource>> = self.good.iter().collect();
        let on_the_way = self.outstanding.iter().map(|sent| (&sent.resources, &sent.removed));
        let trusted = |it: &&Arc<Resource>| self.held(sight, &it.name) == Held::Version(it.version);
        for (resources, removed) in on_the_way.chain([(&batch.resources, &batch.removed)]) {
            whole.extend(resources.iter().filter(trusted).map(|resource| (&resource.name, resource)));
            for name in removed {
                whole.remove(name);
            }
        }
        let kept = whole.into_iter().filter(|(name, _)| self.keeps(sight, name));
        kept.map(|(_, resource)| Arc::clone(resource)).collect()
    }

    /// Whether the client is known to have this in force, where a response carries everything.
    pub(in crate::xds) fn has_accepted(&self, resource: &Resource) -> bool {
        self.good.get(&resource.name).is_some_and(|good| good.version == resource.version)
    }

    /// Whether one more response would be one too many to remember.
    pub(super) fn is_far_ahead(&self) -> bool {
        self.outstanding.len() >= REMEMBERED
    }

    /// Notes a response on its way.
    pub(in crate::xds) fn sent(&mut self, sight: Sight<'_>, sent: Sent) {
        if self.outstanding.len() == REMEMBERED
            && let Some(oldest) = self.outstanding.pop_front()
        {
            self.accept(sight, &oldest);
        }
        self.outstanding.push_back(sent);
    }

    /// The responses that a nonce answers, if it is still awaited: the one it names last, and before it those
    /// that were never answered.
    pub(in crate::xds) fn answered(&mut self, nonce: u64) -> Option<Vec<Sent>> {
        let place = self.outstanding.iter().position(|sent| sent.nonce == nonce)?;
        Some(self.outstanding.drain(..=place).collect())
    }

    /// Notes what the client has accepted: what stands in for what it refuses later. What it left out is gone.
    pub(in crate::xds) fn accept(&mut self, sight: Sight<'_>, sent: &Sent) {
        if sight.is_full() {
            // What was dropped and asked for again is the client's own once it is sent again.
            let anew = |name: &Name| self.must_send.contains(name) && self.held(sight, name) == Held::Nothing;
            let wanted = sent.resources.iter().filter(|it| self.wants(&it.name) && !anew(&it.name));
            // What was refused meanwhile leaves what stands in for it.
            let good =
                wanted.filter_map(|it| if self.refuses(it) { self.good.get(&it.name) } else { Some(it) });
            self.good = good.map(|it| (it.name.clone(), Arc::clone(it))).collect();
        }
    }

    /// Clears who was refused or suspected in another response and is in this one, which was accepted.
    pub(in crate::xds) fn clear(&mut self, sight: Sight<'_>, sent: &Sent) {
        // Where each response carries everything, a newer one may leave it out.
        let in_force = !sight.is_full() || self.outstanding.is_empty();
        for resource in &sent.resources {
            let name = &resource.name;
            let refused = self.refuses(resource);
            // By its version, since an older one may stand in for it here.
            let mut suspects = self.rare().suspects.iter().flatten();
            let suspected =
                suspects.any(|(suspect, version)| suspect == name && *version == resource.version);
            if refused {
                let rare = self.rare_mut();
                rare.rejected.remove(name);
                let list = if rare.withheld.remove(name) { &mut self.must_send } else { &mut self.changed };
                list.insert(Name::clone(name));
            }
            if (refused || suspected) && in_force && self.held(sight, name) == Held::Unknown {
                self.hold(sight, name, Held::Version(resource.version));
            }
        }
    }
}
