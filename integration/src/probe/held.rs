//! What a client holds after the responses that it accepted, as Envoy would.
//!
//! It keeps no order and warms nothing. Invariant: what absence means is what it means to Envoy: in state of
//! the world left-out clusters and listeners are gone, left-out load assignments and routes stay.

use std::collections::BTreeMap;

use super::{Item, Kind, Protocol, Response};

/// Resources by type and name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Held(BTreeMap<Kind, BTreeMap<String, Item>>);

impl Held {
    /// All of one type.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = (&str, &Item)> {
        self.0.get(&kind).into_iter().flatten().map(|(name, item)| (name.as_str(), item))
    }

    /// The names of one type.
    pub fn names(&self, kind: Kind) -> Vec<&str> {
        self.all(kind).map(|(name, _)| name).collect()
    }

    /// How many there are of one type.
    pub fn count(&self, kind: Kind) -> usize {
        self.0.get(&kind).map_or(0, BTreeMap::len)
    }

    /// One resource.
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Item> {
        self.0.get(&kind)?.get(name)
    }

    /// Name and version of all of one type, as a delta client presents them.
    pub fn versions(&self, kind: Kind) -> Vec<(String, String)> {
        self.all(kind).map(|(name, item)| (name.to_owned(), item.version.clone())).collect()
    }

    /// The first few differences, for people: none if both hold the same bytes.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        for kind in Kind::ALL {
            for (name, item) in self.all(kind) {
                match other.get(kind, name) {
                    None => differences.push(format!("{kind} {name} is only in the first")),
                    Some(it) if it != item => differences.push(format!("{kind} {name} differs")),
                    Some(_) => {}
                }
            }
            let only = other.all(kind).filter(|(name, _)| self.get(kind, name).is_none());
            differences.extend(only.map(|(name, _)| format!("{kind} {name} is only in the second")));
        }
        differences.truncate(8);
        differences
    }

    /// Takes in an accepted response.
    pub fn apply(&mut self, response: &Response) {
        let held = self.0.entry(response.kind).or_default();
        if response.protocol == Protocol::Sotw && response.kind.has_wildcard() {
            held.clear();
        }
        held.extend(response.resources.iter().map(|(name, item)| (name.clone(), item.clone())));
        held.retain(|name, _| !response.removed.contains(name));
    }

    /// Lets go of what is no longer asked for.
    pub fn forget(&mut self, kind: Kind, name: &str) {
        if let Some(held) = self.0.get_mut(&kind) {
            held.remove(name);
        }
    }
}
