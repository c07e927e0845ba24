//! What one response is made of, as it grows.
//!
//! It is not the response: that has a nonce and may say more.
//!
//! Invariant: whoever is in it is there for a reason, and what is not there is counted too.

use std::sync::Arc;

use foldhash::HashSet;

use super::Name;
use crate::snapshot::{Resource, ResourceType};

/// The content of one response.
#[derive(Debug, Default)]
pub(in crate::xds) struct Batch {
    pub(in crate::xds) resources: Vec<Arc<Resource>>,
    pub(in crate::xds) removed: Vec<Name>,
    /// Asked for by name and not there, where the protocol has no other way to say so.
    pub(in crate::xds) missing: Vec<Name>,
    /// The clusters among them that the client does not have.
    pub(in crate::xds) fresh: HashSet<Name>,
    /// How much is said of what is not there: a hundred thousand names are megabytes.
    pub(super) absent_len: usize,
}

impl Batch {
    pub(super) fn push(&mut self, resource: &Arc<Resource>, new: bool) {
        if new && resource.kind == ResourceType::Cluster {
            self.fresh.insert(resource.name.clone());
        }
        self.resources.push(Arc::clone(resource));
    }

    pub(super) fn remove(&mut self, name: Name) {
        self.absent_len += name.len();
        self.removed.push(name);
    }

    /// An empty resource in the place of what is not there.
    pub(super) fn replace(&mut self, empty: Resource) {
        self.absent_len += empty.bytes.len();
        self.resources.push(Arc::new(empty));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.removed.is_empty() && self.missing.is_empty()
    }
}
