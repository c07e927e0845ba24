//! What a namespace serves: encoded resources by type, each with a version made from its content.
//!
//! It is not per sidecar: a [`Slice`] is the part of a snapshot that one sidecar may see.
//!
//! Invariant: immutable once published, and closed: what a resource depends on is in the same snapshot.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use xxhash_rust::xxh3::Xxh3;

use crate::model::{Namespace, OccupiedPorts};

/// The types that Legation serves, declared in push order: what is referred to comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ResourceType {
    /// CDS: `Cluster`.
    Cluster,
    /// EDS: `ClusterLoadAssignment`.
    Endpoint,
    /// LDS: `Listener`.
    Listener,
    /// RDS: `RouteConfiguration`.
    Route,
}

impl ResourceType {
    /// Every type, in push order.
    pub const ALL: [Self; 4] = [Self::Cluster, Self::Endpoint, Self::Listener, Self::Route];

    /// The type URL on the wire.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// The type of a type URL, if it is one of ours.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// The word in the API: `clusters`, `endpoints`, `listeners`, `routes`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cluster => "clusters",
            Self::Endpoint => "endpoints",
            Self::Listener => "listeners",
            Self::Route => "routes",
        }
    }

    /// The usual short name: `CDS`, `EDS`, `LDS`, `RDS`.
    pub fn short(self) -> &'static str {
        match self {
            Self::Cluster => "CDS",
            Self::Endpoint => "EDS",
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
pub struct Version(u64);

impl Version {
    /// The version of these bytes.
    pub fn of(kind: ResourceType, body: &[u8]) -> Self {
        let mut hash = Xxh3::new();
        hash.update(kind.type_url().as_bytes());
        hash.update(&[0]);
        hash.update(body);
        Self(hash.digest())
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
        u64::from_str_radix(text, 16).map(Self)
    }
}

/// One resource, encoded once and shared by every stream.
#[derive(Debug)]
pub struct Resource {
    /// Which type it is.
    pub kind: ResourceType,
    /// Its name on the wire.
    pub name: Arc<str>,
    /// The hash of its content.
    pub version: Version,
    /// The encoded `envoy.service.discovery.v3.Resource` around it.
    pub bytes: Bytes,
    /// What must be served for it to work.
    pub depends_on: Box<[(ResourceType, Arc<str>)]>,
    /// The port it binds, for a listener.
    pub port: Option<u16>,
}

impl Resource {
    /// Encodes `message`, which must hold at most one entry in each protobuf map: their order is random.
    pub fn encode(kind: ResourceType, name: Arc<str>, message: &impl Message) -> Self {
        let body = message.encode_to_vec();
        let version = Version::of(kind, &body);
        let bytes = discovery::Resource {
            name: name.to_string(),
            version: version.to_string(),
            resource: Some(Any { type_url: kind.type_url().to_owned(), value: body }),
            ..Default::default()
        };
        let bytes = Bytes::from(bytes.encode_to_vec());
        Self { kind, name, version, bytes, depends_on: Box::default(), port: None }
    }

    /// The same resource with what it depends on.
    pub fn depending_on(mut self, names: impl IntoIterator<Item = (ResourceType, Arc<str>)>) -> Self {
        self.depends_on = names.into_iter().collect();
        self
    }

    /// The same resource with the port it binds.
    pub fn binding(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// The inner message, for people who look at it.
    pub fn any(&self) -> Result<Any, prost::DecodeError> {
        discovery::Resource::decode(self.bytes.clone()).map(|resource| resource.resource.unwrap_or_default())
    }
}

/// Resources of one type by name.
pub type Table = BTreeMap<Arc<str>, Arc<Resource>>;

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
        self.0[resource.kind as usize].insert(Arc::clone(&resource.name), resource);
    }

    /// The first reference that nothing here answers, as (who, to what).
    pub fn dangling(&self) -> Option<(Arc<str>, Arc<str>)> {
        self.0.iter().flat_map(BTreeMap::values).find_map(|resource| {
            let missing = resource.depends_on.iter().find(|(kind, name)| !self[*kind].contains_key(name))?;
            Some((Arc::clone(&resource.name), Arc::clone(&missing.1)))
        })
    }
}

/// The names that one generation added, changed or removed.
#[derive(Debug)]
struct Change {
    generation: u64,
    names: [Vec<Arc<str>>; ResourceType::ALL.len()],
}

/// How many generations back a slow stream may look before it compares everything.
const REMEMBERED_CHANGES: usize = 64;

/// Everything that one namespace serves.
#[derive(Debug)]
pub struct Snapshot {
    /// Whose it is.
    pub namespace: Namespace,
    /// Counts up by one with each snapshot of this namespace in this process.
    pub generation: u64,
    /// When the answer arrived at the source that led to this snapshot.
    pub seen_at: SystemTime,
    tables: Tables,
    occupied: Vec<Arc<OccupiedPorts>>,
    changes: VecDeque<Arc<Change>>,
}

/// What a stream must look at again.
#[derive(PartialEq, Eq, Debug)]
pub enum Changed {
    /// These names, sorted.
    Names(BTreeSet<Arc<str>>),
    /// Too far behind to know.
    Everything,
}

impl Snapshot {
    /// The first snapshot of a namespace.
    pub fn first(
        namespace: Namespace,
        tables: Tables,
        occupied: Vec<Arc<OccupiedPorts>>,
        seen_at: SystemTime,
    ) -> Self {
        Self { namespace, generation: 1, seen_at, tables, occupied, changes: VecDeque::new() }
    }

    /// The snapshot after this one, or `None` when nothing differs.
    pub fn next(
        &self,
        tables: Tables,
        occupied: Vec<Arc<OccupiedPorts>>,
        seen_at: SystemTime,
    ) -> Option<Self> {
        let generation = self.generation + 1;
        let names = ResourceType::ALL.map(|kind| differing(&self.tables[kind], &tables[kind]));
        if names.iter().all(Vec::is_empty) && self.occupied == occupied {
            return None;
        }
        let mut changes = self.changes.clone();
        if changes.len() == REMEMBERED_CHANGES {
            changes.pop_front();
        }
        changes.push_back(Arc::new(Change { generation, names }));
        Some(Self { namespace: self.namespace.clone(), generation, seen_at, tables, occupied, changes })
    }

    /// The resources of one type, whoever may see them.
    pub fn table(&self, kind: ResourceType) -> &Table {
        &self.tables[kind]
    }

    /// Every resource of every type.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The names of `kind` that differ from what generation `since` of this process held.
    pub fn changed_since(&self, since: u64, kind: ResourceType) -> Changed {
        let reaches_back = self.changes.front().is_some_and(|oldest| oldest.generation <= since + 1);
        if since == self.generation {
            return Changed::Names(BTreeSet::new());
        }
        if since > self.generation || !reaches_back {
            return Changed::Everything;
        }
        let newer = self.changes.iter().filter(|change| change.generation > since);
        Changed::Names(newer.flat_map(|change| change.names[kind as usize].iter().cloned()).collect())
    }

    /// The container ports of a task, as far as any source knows it.
    pub fn occupied_ports(&self, task: &str) -> &[u16] {
        self.occupied.iter().find_map(|ports| ports.get(task)).map_or(&[], |ports| ports)
    }
}

fn differing(old: &Table, new: &Table) -> Vec<Arc<str>> {
    let changed = new.iter().filter(|(name, resource)| {
        old.get(*name)
            .is_none_or(|before| !Arc::ptr_eq(before, resource) && before.version != resource.version)
    });
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    changed.map(|(name, _)| name).chain(gone).map(Arc::clone).collect()
}

/// The part of a snapshot that one sidecar may see: all but listeners on ports its own task occupies, since
/// neither the listener nor the application could then bind (`product.md`, section 5, the port trap).
#[derive(Clone, Debug)]
pub struct Slice {
    snapshot: Arc<Snapshot>,
    occupied: BTreeSet<u16>,
}

impl Slice {
    /// What the sidecar of `task` may see; `declared` are the ports that its bootstrap says are occupied.
    pub fn new(snapshot: Arc<Snapshot>, task: &str, declared: &[u16]) -> Self {
        let known = snapshot.occupied_ports(task).iter();
        let occupied = known.chain(declared).copied().collect();
        Self { snapshot, occupied }
    }

    /// The whole snapshot.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Whether both hide the same listeners.
    pub fn hides_like(&self, other: &Self) -> bool {
        self.occupied == other.occupied
    }

    /// A resource by name, if the sidecar may see it.
    pub fn get(&self, kind: ResourceType, name: &str) -> Option<&Arc<Resource>> {
        self.snapshot.table(kind).get(name).filter(|resource| self.shows(resource))
    }

    /// Every name of a type that the sidecar may see.
    pub fn names(&self, kind: ResourceType) -> impl Iterator<Item = &Arc<str>> {
        self.snapshot
            .table(kind)
            .values()
            .filter(|resource| self.shows(resource))
            .map(|resource| &resource.name)
    }

    /// The listeners that are withheld from this sidecar (finding `LSN002`).
    pub fn withheld(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.snapshot.table(ResourceType::Listener).values().filter(|resource| !self.shows(resource))
    }

    fn shows(&self, resource: &Resource) -> bool {
        resource.port.is_none_or(|port| !self.occupied.contains(&port))
    }
}
