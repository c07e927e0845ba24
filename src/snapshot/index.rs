//! What is to be known of all resources of a snapshot together, without looking at each.
//!
//! It is no table. Invariant: it says of the tables what a look at every resource would, and is kept by what differs; so
//! who may see a resource, and its port, must follow from its bytes.

use imbl::{OrdMap, OrdSet};

use super::{Name, ProxyClass, Resource, ResourceType, Table, Tables};

/// By type the sums of [`Resource::share`], of what everyone sees and of what only one class sees; and the listeners by
/// the port that they bind.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    totals: [[u64; 3]; ResourceType::ALL.len()],
    by_port: OrdMap<u16, OrdSet<Name>>,
}

impl Index {
    pub(super) fn of(tables: &Tables) -> Self {
        let mut index = Self::default();
        tables.0.iter().flat_map(Table::values).for_each(|resource| index.add(resource));
        index
    }

    pub(super) fn add(&mut self, resource: &Resource) {
        let total = self.total_of(resource);
        *total = total.wrapping_add(resource.share());
        if let Some(port) = resource.port {
            self.by_port.entry(port).or_default().insert(resource.name.clone());
        }
    }

    pub(super) fn take(&mut self, resource: &Resource) {
        let total = self.total_of(resource);
        *total = total.wrapping_sub(resource.share());
        if let Some(port) = resource.port
            && let Some(names) = self.by_port.get_mut(&port)
        {
            names.remove(&resource.name);
            if names.is_empty() {
                self.by_port.remove(&port);
            }
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

    /// The names of the listeners on a port, whoever may see them.
    pub(super) fn at_port(&self, port: u16) -> impl Iterator<Item = &Name> {
        self.by_port.get(&port).into_iter().flatten()
    }
}

fn of_class(class: Option<ProxyClass>) -> usize {
    class.map_or(0, |class| class as usize + 1)
}
