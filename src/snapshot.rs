//! What a namespace serves: encoded resources by type, each with a version made from its content.
//!
//! It is not per sidecar: a [`Slice`] is the part of a snapshot that one sidecar may see.
//!
//! Invariant: immutable once published, and closed: what a resource depends on is in the same snapshot.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::pb::google::protobuf::Any;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use prost::Message;
use xxhash_rust::xxh3::Xxh3;

use crate::model::{InstanceId, Namespace, OccupiedPorts, Scope};

mod index;
mod slice;

use index::Index;
pub use slice::Slice;

/// The types that Legation serves, declared in push order: what is referred to comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ResourceType {
    /// CDS: `Cluster`.
    Cluster,
    /// EDS: `ClusterLoadAssignment`.
    Endpoint,
    /// SDS: `Secret`. None is served yet; who asks is told so instead of being left waiting.
    Secret,
    /// LDS: `Listener`.
    Listener,
    /// RDS: `RouteConfiguration`.
    Route,
}

impl ResourceType {
    /// Every type, in push order.
    pub const ALL: [Self; 5] = [Self::Cluster, Self::Endpoint, Self::Secret, Self::Listener, Self::Route];

    /// The type URL on the wire.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// The type of a type URL, if it is one of ours.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// The word in the API: `clusters`, `endpoints`, `secrets`, `listeners`, `routes`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cluster => "clusters",
            Self::Endpoint => "endpoints",
            Self::Secret => "secrets",
            Self::Listener => "listeners",
            Self::Route => "routes",
        }
    }

    /// The usual short name: `CDS`, `EDS`, `SDS`, `LDS`, `RDS`.
    pub fn short(self) -> &'static str {
        match self {
            Self::Cluster => "CDS",
            Self::Endpoint => "EDS",
            Self::Secret => "SDS",
            Self::Listener => "LDS",
            Self::Route => "RDS",
        }
    }

    /// Whether a first request without names asks for everything (`xds.md`, items 13 and 15).
    pub fn has_wildcard(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }
}

/// A resource's version: a hash of its type and canonical bytes, equal on every replica.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Version(NonZeroU64);

impl Version {
    /// The version of these bytes.
    pub fn of(kind: ResourceType, body: &[u8]) -> Self {
        let mut hash = Xxh3::new();
        hash.update(kind.type_url().as_bytes());
        hash.update(&[0]);
        hash.update(body);
        Self::from(hash.digest())
    }
}

impl From<u64> for Version {
    /// That number, which is never 0: one that may be missing takes no more room.
    fn from(number: u64) -> Self {
        Self(NonZeroU64::new(number).unwrap_or(NonZeroU64::MIN))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Version {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self::from)
    }
}

/// The kinds of clients that are served different things.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum ProxyClass {
    /// An Envoy beside its application: listeners that bind loopback addresses.
    #[default]
    Sidecar,
    /// A gRPC library in the application itself: API listeners, which bind nothing.
    Grpc,
}

/// One resource, encoded once and shared by every stream. Two are equal if their content is.
#[derive(Debug)]
pub struct Resource {
    /// Which type it is.
    pub kind: ResourceType,
    /// Its name on the wire.
    pub name: Name,
    /// The hash of its content.
    pub version: Version,
    /// The encoded `envoy.service.discovery.v3.Resource` around it, as delta sends it.
    pub bytes: Bytes,
    /// The part of `bytes` that is the encoded `google.protobuf.Any`, as state-of-the-world sends it.
    pub any: Bytes,
    /// What must be served for it to work.
    pub depends_on: Box<[(ResourceType, Name)]>,
    /// The port it binds, for a listener.
    pub port: Option<u16>,
    /// The only clients that may see it; `None` is all.
    pub only_for: Option<ProxyClass>,
    /// The only tasks in which it may be seen; `None` is all.
    pub home: Option<Home>,
}

/// Tasks of one service in which one port is taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Home {
    /// What the sidecars of these tasks say that they belong to.
    pub service: Arc<str>,
    /// A port of their containers.
    pub port: u16,
}

impl Resource {
    /// Encodes `message`, which must hold at most one entry in each protobuf map: their order is random.
    pub fn encode(kind: ResourceType, name: Name, message: &impl Message) -> Self {
        let body = message.encode_to_vec();
        let version = Version::of(kind, &body);
        let any = Any { type_url: kind.type_url().to_owned(), value: body };
        let any_len = any.encoded_len();
        let mut around = discovery::Resource { version: version.to_string(), ..Default::default() };
        // Fields are encoded in the order of their numbers: version 1, resource 2, name 3.
        let start = around.encoded_len() + 1 + prost::length_delimiter_len(any_len);
        around.resource = Some(any);
        around.name = name.to_string();
        let bytes = Bytes::from(around.encode_to_vec());
        let any = bytes.slice(start..start + any_len);
        let (depends_on, port, only_for, home) = (Box::default(), None, None, None);
        Self { kind, name, version, bytes, any, depends_on, port, only_for, home }
    }

    /// The same resource with what it depends on.
    pub fn depending_on(mut self, names: impl IntoIterator<Item = (ResourceType, Name)>) -> Self {
        self.depends_on = names.into_iter().collect();
        self
    }

    /// The same resource with the port it binds.
    pub fn binding(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// The same resource, hidden from every other class of clients.
    pub fn only_for(mut self, class: ProxyClass) -> Self {
        self.only_for = Some(class);
        self
    }

    /// The same resource, hidden in every other task. Its name must tell which these are.
    pub fn at_home(mut self, home: Home) -> Self {
        self.home = Some(home);
        self
    }

    /// The inner message, for people who look at it.
    pub fn any(&self) -> Result<Any, prost::DecodeError> {
        Any::decode(self.any.clone())
    }

    /// Its share in the version of its whole type: shares are added, so that a change costs as much as it
    /// changes and order does not matter.
    fn share(&self) -> u64 {
        let mut hash = Xxh3::new();
        hash.update(self.name.as_bytes());
        hash.update(&self.version.0.get().to_be_bytes());
        hash.digest()
    }
}

impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, &self.name, self.version) == (other.kind, &other.name, other.version)
    }
}

impl Eq for Resource {}

/// A resource's name on the wire, shared and one word long: each stream keeps thousands.
pub type Name = arcstr::ArcStr;

/// The name of the load assignment that stands for a client's own service. It belongs to a cluster of the client's
/// bootstrap, which no server serves. `@` is in no service's name.
pub fn local_name(namespace: &Namespace, service: &str) -> Name {
    format!("{namespace}{LOCAL}{service}").into()
}

/// Whether a name is of that kind.
pub fn is_local(name: &str) -> bool {
    name.contains(LOCAL)
}

const LOCAL: &str = "/@local/";

/// Resources of one type by name: a copy is free, and comparing it with what it was made from costs what differs.
pub type Table = OrdMap<Name, Arc<Resource>>;

/// One [`Table`] for each type, indexed by type.
#[derive(Clone, Debug, Default)]
pub struct Tables([Table; ResourceType::ALL.len()]);

impl std::ops::Index<ResourceType> for Tables {
    type Output = Table;

    fn index(&self, kind: ResourceType) -> &Table {
        &self.0[kind as usize]
    }
}

impl Tables {
    /// Adds a resource under its own type and name.
    pub fn insert(&mut self, resource: Arc<Resource>) {
        self.0[resource.kind as usize].insert(resource.name.clone(), resource);
    }

    /// Takes a resource out.
    pub fn remove(&mut self, kind: ResourceType, name: &str) {
        self.0[kind as usize].remove(name);
    }

    /// The first reference that nothing here answers, as (who, to what).
    pub fn dangling(&self) -> Option<(Name, Name)> {
        self.0.iter().flat_map(Table::values).find_map(|resource| self.missed_by(resource))
    }

    fn missed_by(&self, resource: &Resource) -> Option<(Name, Name)> {
        let missing = resource.depends_on.iter().find(|(kind, name)| !self[*kind].contains_key(name))?;
        Some((resource.name.clone(), missing.1.clone()))
    }
}

/// What one generation added, changed or removed.
#[derive(Debug)]
struct Change {
    generation: u64,
    names: [Vec<Name>; ResourceType::ALL.len()],
    /// Those that were removed, as they were.
    gone: Vec<Arc<Resource>>,
    /// Tasks whose occupied ports are others.
    tasks: Vec<InstanceId>,
}

/// How many generations back a slow stream may look before it compares everything.
pub const REMEMBERED_CHANGES: usize = 64;

/// Everything that one namespace serves, to all its clients or to those of one scope.
#[derive(Debug)]
pub struct Snapshot {
    /// Whose it is.
    pub namespace: Namespace,
    /// Which of its clients are meant.
    pub scope: Arc<Scope>,
    /// Counts up by one with each snapshot of this scope in this process.
    pub generation: u64,
    /// When the answer arrived at the source that led to this snapshot.
    pub seen_at: SystemTime,
    tables: Tables,
    index: Index,
    occupied: Vec<OccupiedPorts>,
    changes: VecDeque<Arc<Change>>,
}

impl Snapshot {
    /// The first snapshot of a namespace.
    pub fn first(
        namespace: Namespace,
        tables: Tables,
        occupied: Vec<OccupiedPorts>,
        seen_at: SystemTime,
    ) -> Self {
        let (index, scope) = (Index::of(&tables), Arc::new(Scope::whole(namespace.clone())));
        Self { namespace, scope, generation: 1, seen_at, tables, index, occupied, changes: VecDeque::new() }
    }

    /// The same for the clients of one scope.
    pub fn in_scope(self, scope: &Arc<Scope>) -> Self {
        Self { scope: Arc::clone(scope), ..self }
    }

    /// The snapshot after this one, or `None` when nothing differs.
    pub fn next(&self, tables: Tables, occupied: Vec<OccupiedPorts>, seen_at: SystemTime) -> Option<Self> {
        let generation = self.generation + 1;
        let names = ResourceType::ALL.map(|kind| differing(&self.tables[kind], &tables[kind]));
        let tasks = moved(&self.occupied, &occupied);
        if names.iter().all(Vec::is_empty) && tasks.is_empty() {
            return None;
        }
        let mut index = self.index.clone();
        for (kind, names) in ResourceType::ALL.into_iter().zip(&names) {
            names.iter().filter_map(|name| self.tables[kind].get(name)).for_each(|old| index.take(old));
            names.iter().filter_map(|name| tables[kind].get(name)).for_each(|new| index.add(new));
        }
        let mut changes = self.changes.clone();
        if changes.len() == REMEMBERED_CHANGES {
            changes.pop_front();
        }
        let gone = ResourceType::ALL.into_iter().zip(&names).flat_map(|(kind, names)| {
            let gone = names.iter().filter(|name| !tables[kind].contains_key(*name));
            gone.filter_map(|name| self.tables[kind].get(name).cloned()).collect::<Vec<_>>()
        });
        let gone = gone.collect();
        changes.push_back(Arc::new(Change { generation, names, gone, tasks }));
        let (namespace, scope) = (self.namespace.clone(), Arc::clone(&self.scope));
        Some(Self { namespace, scope, generation, seen_at, tables, index, occupied, changes })
    }

    /// The first reference that nothing here answers, as (who, to what), if what it followed was closed. Where
    /// nothing went it is enough to look at what came.
    pub fn dangling(&self) -> Option<(Name, Name)> {
        let newest = self.changes.back().filter(|change| change.generation == self.generation);
        let Some(change) = newest else { return self.tables.dangling() };
        let each = || ResourceType::ALL.into_iter().zip(&change.names);
        if each().any(|(kind, names)| names.iter().any(|name| !self.tables[kind].contains_key(name))) {
            return self.tables.dangling();
        }
        let came =
            each().flat_map(|(kind, names)| names.iter().filter_map(move |name| self.tables[kind].get(name)));
        came.into_iter().find_map(|resource| self.tables.missed_by(resource))
    }

    /// The resources of one type, whoever may see them.
    pub fn table(&self, kind: ResourceType) -> &Table {
        &self.tables[kind]
    }

    /// Every resource of every type.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The names of `kind` that differ from what generation `since` of this process held, some perhaps more
    /// than once; `None` when that is too long ago to know.
    pub fn changed_since(
        &self,
        since: u64,
        kind: ResourceType,
    ) -> Option<impl Iterator<Item = &Name> + Clone> {
        let reaches_back = self.changes.front().is_some_and(|oldest| oldest.generation <= since + 1);
        let known = since == self.generation || (since < self.generation && reaches_back);
        let newer = self.changes.iter().filter(move |change| change.generation > since);
        known.then(|| newer.flat_map(move |change| change.names[kind as usize].iter()))
    }

    /// The tasks whose occupied ports are others than one generation before; `None` if there was none.
    pub fn moved_tasks(&self) -> Option<&[InstanceId]> {
        self.changes.back().map(|change| &*change.tasks)
    }

    /// The container ports of a task, as far as any source knows it.
    pub fn occupied_ports(&self, task: &str) -> &[u16] {
        self.occupied.iter().find_map(|ports| ports.get(task)).map_or(&[], |ports| ports)
    }
}

fn differing<K: Ord + Clone, V: PartialEq>(old: &OrdMap<K, V>, new: &OrdMap<K, V>) -> Vec<K> {
    let key = |change| match change {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. } => {
            K::clone(key)
        }
    };
    old.diff(new).map(key).collect()
}

/// The tasks that any source knows other ports of.
fn moved(old: &[OccupiedPorts], new: &[OccupiedPorts]) -> Vec<InstanceId> {
    let none = OccupiedPorts::new();
    let at = |all: &[OccupiedPorts], source: usize| all.get(source).unwrap_or(&none).clone();
    (0..old.len().max(new.len())).flat_map(|source| differing(&at(old, source), &at(new, source))).collect()
}

#[cfg(test)]
mod tests;
