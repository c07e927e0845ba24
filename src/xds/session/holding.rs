//! What a session knows of its client, for people who look: what it asks for and what it holds.
//!
//! It is not used to decide what is sent.
//!
//! Invariant: looking changes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Rejection, Session};
use crate::snapshot::{Name, Resource, ResourceType, Version};

impl Session {
    /// What the client asks for of one type; `None` while it has not asked.
    pub fn asked(&self, kind: ResourceType) -> Option<Asked<'_>> {
        let subscription = self.of(kind);
        subscription.requested.then_some(Asked {
            wildcard: subscription.wildcard,
            names: subscription.names.len(),
            rejected: subscription.rejected(),
        })
    }

    /// Every resource of one type that the client asked for or holds, by name: for people who look.
    pub fn resources(&self, kind: ResourceType) -> Vec<Holding> {
        let subscription = self.of(kind);
        let (sight, on_the_way) = (self.sight(kind), subscription.on_the_way());
        let names: BTreeSet<_> = subscription.concerned(sight).collect();
        let each = names.into_iter().map(|name| Holding {
            name: Name::clone(name),
            served: self.slice.get(kind, name).cloned(),
            held: subscription.held(sight, name).version(),
            awaited: on_the_way.contains(&**name),
            rejected: subscription.rejected().get(name).cloned(),
        });
        each.collect()
    }
}

/// What a client asks for of one type.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Everything.
    pub wildcard: bool,
    /// How many names.
    pub names: usize,
    /// Refused and unchanged since.
    pub rejected: &'a std::collections::BTreeMap<Name, Rejection>,
}

/// How a client stands to one resource.
#[derive(Clone, Debug)]
pub struct Holding {
    /// Its name.
    pub name: Name,
    /// What is served under that name now.
    pub served: Option<Arc<Resource>>,
    /// The version that it was last sent or said to hold; `None` if it was sent none, or may have applied none.
    pub held: Option<Version>,
    /// Whether its answer to the last one is awaited.
    pub awaited: bool,
    /// What it refused.
    pub rejected: Option<Rejection>,
}
