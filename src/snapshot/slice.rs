//! The part of a snapshot that one client may see.
//!
//! It knows nothing of what the client asked for or holds.
//!
//! Invariant: a view, never a copy: what two clients see of one snapshot is shared.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Home, Name, ProxyClass, Resource, ResourceType, Snapshot, Version};

/// The part of a snapshot that one client may see: what is meant for its class, without listeners on ports
/// its own task occupies, since neither the listener nor the application could then bind (`product.md`,
/// section 5, the port trap).
#[derive(Clone, Debug)]
pub struct Slice {
    snapshot: Arc<Snapshot>,
    class: ProxyClass,
    occupied: BTreeSet<u16>,
    /// What the client says that it belongs to.
    service: Arc<str>,
}

impl Slice {
    /// What a client of `class` in `task` may see; `declared` are the ports that its bootstrap says are
    /// occupied.
    pub fn new(snapshot: Arc<Snapshot>, class: ProxyClass, task: &str, declared: &[u16]) -> Self {
        let known = snapshot.occupied_ports(task).iter();
        let occupied = known.chain(declared).copied().collect();
        Self { snapshot, class, occupied, service: Arc::default() }
    }

    /// The same for a client that belongs to a service, and may see what is meant for that alone.
    #[must_use]
    pub fn in_service(self, service: &Arc<str>) -> Self {
        Self { service: Arc::clone(service), ..self }
    }

    /// The whole snapshot.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// What kind of client it is for.
    pub fn class(&self) -> ProxyClass {
        self.class
    }

    /// Whether both hide the same listeners.
    pub fn hides_like(&self, other: &Self) -> bool {
        self.occupied == other.occupied
    }

    /// A resource by name, if the client may see it.
    pub fn get(&self, kind: ResourceType, name: &str) -> Option<&Arc<Resource>> {
        self.snapshot.table(kind).get(name).filter(|resource| self.shows(resource))
    }

    /// Every name of a type that the client may see.
    pub fn names(&self, kind: ResourceType) -> impl Iterator<Item = &Name> {
        self.snapshot
            .table(kind)
            .values()
            .filter(|resource| self.shows(resource))
            .map(|resource| &resource.name)
    }

    /// What the client might have seen of a type and is gone since generation `since`, as far as is remembered; some
    /// names perhaps more than once.
    pub fn departed(&self, kind: ResourceType, since: u64) -> impl Iterator<Item = &Name> {
        let newer = self.snapshot.changes.iter().filter(move |change| change.generation > since);
        let gone = newer.flat_map(|change| &change.gone).filter(move |resource| resource.kind == kind);
        let gone = gone.filter(|resource| self.is_mine(resource)).map(|resource| &resource.name);
        gone.filter(move |name| !self.snapshot.table(kind).contains_key(*name))
    }

    /// The version of all that the client may see of a type: it differs if and only if the content does.
    pub fn version(&self, kind: ResourceType) -> Version {
        let mut total = self.snapshot.index.total(kind, self.class);
        let own = self.snapshot.index.at_home(&self.service).filter(|(own, _)| *own == kind);
        own.filter_map(|(_, name)| self.get(kind, name))
            .for_each(|own| total = total.wrapping_add(own.share()));
        if kind == ResourceType::Listener {
            let withheld = self.withheld().filter(|listener| listener.home.is_none());
            withheld.for_each(|listener| total = total.wrapping_sub(listener.share()));
        }
        Version::from(total)
    }

    /// The listeners that are withheld from this sidecar (finding `LSN002`).
    pub fn withheld(&self) -> impl Iterator<Item = &Arc<Resource>> {
        let names = self.occupied.iter().flat_map(|port| self.snapshot.index.at_port(*port));
        let listeners = names.filter_map(|name| self.snapshot.table(ResourceType::Listener).get(name));
        listeners.filter(|listener| self.is_mine(listener))
    }

    fn is_mine(&self, resource: &Resource) -> bool {
        let is_home = |home: &Home| {
            let has_port = self.occupied.is_empty() || self.occupied.contains(&home.port);
            has_port && home.service == self.service
        };
        resource.only_for.is_none_or(|class| class == self.class)
            && resource.home.as_ref().is_none_or(is_home)
    }

    fn shows(&self, resource: &Resource) -> bool {
        self.is_mine(resource) && resource.port.is_none_or(|port| !self.occupied.contains(&port))
    }
}
