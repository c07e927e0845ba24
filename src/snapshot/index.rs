//! What is to be known of all resources of a snapshot together, without looking at each.
//!
//! It is no table. Invariant: it says of the tables what a look at every resource would, and is kept by what differs; so
//! who may see a resource, and its port, must follow from its bytes.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use super::{Name, ProxyClass, Resource, ResourceType, Table, Tables};

/// By type the sums of [`Resource::share`], of what everyone sees and of what only one class sees; and the listeners by
/// the port that they bind.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    totals: [[u64; 3]; ResourceType::ALL.len()],
    by_port: OrdMap<u16, OrdSet<Name>>,
    /// What is only seen in tasks of some service, by that; it is in no total.
    at_home: OrdMap<Arc<str>, OrdSet<(ResourceType, Name)>>,
}

impl Index {
    pub(super) fn of(tables: &Tables) -> Self {
        let mut index = Self::default();
        tables.0.iter().flat_map(Table::values).for_each(|resource| index.add(resource));
        index
    }

    pub(super) fn add(&mut self, resource: &Resource) {
        if let Some(home) = &resource.home {
            let entry = self.at_home.entry(Arc::clone(&home.service)).or_default();
            entry.insert((resource.kind, resource.name.clone()));
        } else {
            let total = self.total_of(resource);
            *total = total.wrapping_add(resource.share());
        }
        if let Some(port) = resource.port {
            self.by_port.entry(port).or_default().insert(resource.name.clone());
        }
    }

    pub(super) fn take(&mut self, resource: &Resource) {
        if let Some(home) = &resource.home {
            leave(&mut self.at_home, &home.service, &(resource.kind, resource.name.clone()));
        } else {
            let total = self.total_of(resource);
            *total = total.wrapping_sub(resource.share());
        }
        if let Some(port) = resource.port {
            leave(&mut self.by_port, &port, &resource.name);
        }
    }

    fn total_of(&mut self, resource: &Resource) -> &mut u64 {
        &mut self.totals[resource.kind as usize][of_class(resource.only_for)]
    }

    /// The sum over all that a class may see of a type.
    pub(super) fn total(&self, kind: ResourceType, class: ProxyClass) -> u64 {
        let totals = &self.totals[kind as usize];
        totals[of_class(None)].wrapping_add(totals[of_class(Some(class))])
    }

    /// What is only seen in tasks of a service.
    pub(super) fn at_home(&self, service: &str) -> impl Iterator<Item = &(ResourceType, Name)> {
        self.at_home.get(service).into_iter().flatten()
    }

    /// The names of the listeners on a port, whoever may see them.
    pub(super) fn at_port(&self, port: u16) -> impl Iterator<Item = &Name> {
        self.by_port.get(&port).into_iter().flatten()
    }
}

/// Takes one out of those under a key.
fn leave<K: Ord + Clone, V: Ord + Clone>(entries: &mut OrdMap<K, OrdSet<V>>, key: &K, value: &V) {
    if let Some(values) = entries.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            entries.remove(key);
        }
    }
}

fn of_class(class: Option<ProxyClass>) -> usize {
    class.map_or(0, |class| class as usize + 1)
}
