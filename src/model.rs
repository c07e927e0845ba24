//! The nouns that every other module shares: what a source sees ([`View`]) and what is true ([`Mesh`]).
//!
//! It is not protobuf, not AWS, not serde, and does no I/O.
//!
//! Invariant: every collection is ordered, so equal knowledge is equal memory and gives equal bytes later. The large
//! ones are persistent maps: a copy is free, and comparing it with what it was made from costs what differs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use imbl::OrdMap;

pub use cluster::{ClusterId, account_of_role, region_of_namespace};
pub use crew::{Crew, Crews};
pub use knobs::{Balancing, HealthCheck, Knobs, Probe, RateLimit, RetryBudget, TcpKeepalive};
pub use names::{InstanceId, Namespace, ServiceKey, ServiceName};
pub use origin::{Origin, Said};
pub use place::{Place, Subnet, TaskState, TasksByPlace};
pub use route::{
    Action, Backend, Fault, HeaderChanges, Match, Mirror, PathMatch, Redirect, Rule, ValueMatch,
};
pub use scope::{Exports, ForeignAddresses, Import, Imported, Pattern, Scope, Scoping, Sight, Uses};
pub use subset::{Labels, Revision, Share, Shift, Subset, Subsets, TestHeader, Traits, Which};

mod cluster;
mod crew;
mod knobs;
mod names;
mod origin;
mod place;
mod route;
mod scope;
mod subset;

/// What is spoken on a port: ECS's `appProtocol`, and `tcp` when there is none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Protocol {
    /// Bytes: no retries of requests, no routes.
    #[default]
    Tcp,
    /// HTTP/1.1.
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC over HTTP/2.
    Grpc,
}

impl Protocol {
    /// Every word that [`FromStr`] takes.
    pub const WORDS: [&'static str; 4] = ["tcp", "http", "http2", "grpc"];

    /// The word for it in ECS and in Legation's files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
        }
    }

    /// Whether requests (rather than bytes) are routed.
    pub fn is_http(self) -> bool {
        self != Self::Tcp
    }
}

impl FromStr for Protocol {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        match word {
            "tcp" => Ok(Self::Tcp),
            "http" => Ok(Self::Http),
            "http2" => Ok(Self::Http2),
            "grpc" => Ok(Self::Grpc),
            _ => Err(UnknownWord(&Self::WORDS)),
        }
    }
}

/// A word outside a closed list; holds the words that would have been right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownWord(pub &'static [&'static str]);

impl fmt::Display for UnknownWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected one of {}", self.0.join(", "))
    }
}

impl std::error::Error for UnknownWord {}

/// What clients dial: `http://payments:8080`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Alias {
    /// The host name, lower case.
    pub name: Arc<str>,
    /// The port clients use; it need not be the container's.
    pub port: u16,
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.port)
    }
}

/// When a running task counts as ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Readiness {
    /// Once its container health check passes, where it defines one.
    #[default]
    Healthy,
    /// As soon as it runs.
    Running,
}

impl Readiness {
    /// The word for it in tags, policies and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Running => "running",
        }
    }
}

/// A service as it was described, without its endpoints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceSpec {
    /// Which service.
    pub key: ServiceKey,
    /// What it speaks.
    pub protocol: Protocol,
    /// What clients dial.
    pub aliases: Vec<Alias>,
    /// How clients treat it.
    pub knobs: Knobs,
    /// When its tasks are ready.
    pub readiness: Readiness,
    /// When it came to be, where the source knows; the older one keeps a contested name.
    pub created_at: Option<SystemTime>,
    /// Who described it, for people, and where each value was said: `ecs prod-a/payments`.
    pub origin: Origin,
    /// Where its requests go, in the order in which rules are tried; at last to its own endpoints.
    pub rules: Arc<[Rule]>,
    /// The parts of it that some rule names.
    pub subsets: Subsets,
    /// How a deployment shifts its traffic, while one does.
    pub shift: Option<Arc<Shift>>,
    /// What its own tasks are called in ECS: the service, or the family of standalone ones. Their sidecars say the same.
    pub home: ServiceName,
    /// How else it is reached.
    pub reach: Reach,
}

impl ServiceSpec {
    /// A service of which nothing is said but by whom.
    pub fn new(key: ServiceKey, origin: impl Into<Origin>) -> Self {
        Self {
            protocol: Protocol::default(),
            aliases: Vec::new(),
            knobs: Knobs::default(),
            readiness: Readiness::default(),
            created_at: None,
            origin: origin.into(),
            rules: Arc::default(),
            subsets: Arc::default(),
            shift: None,
            home: key.name.clone(),
            reach: Reach::default(),
            key,
        }
    }
}

/// How a service is reached other than at its alias, and other than at addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reach {
    /// Ports of 127.0.0.1 on which clients find aliases too.
    pub local_ports: Vec<(Alias, u16)>,
    /// Names that sidecars look up by themselves, with their ports. With any of these there is nothing else.
    pub hosts: Vec<(Arc<str>, u16)>,
}

impl ServiceSpec {
    /// Whether another says the same, wherever that is written.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let rule = |(own, other): (&Rule, &Rule)| {
            own == other || *own == Rule { origin: own.origin.clone(), ..other.clone() }
        };
        self.rules.len() == other.rules.len()
            && self.rules.iter().zip(&*other.rules).all(rule)
            && *self == Self { origin: self.origin.clone(), rules: Arc::clone(&self.rules), ..other.clone() }
    }
}

/// The health of a running instance as its source reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// No check is defined.
    NoCheck,
    /// A check is defined and has not spoken; `gate_over` once the start gate has passed.
    Unknown {
        /// Whether the time that a start may take is over.
        gate_over: bool,
    },
    /// The check passes.
    Healthy,
    /// The check fails; `gate_over` once the start gate has passed.
    Unhealthy {
        /// Whether the time that a start may take is over.
        gate_over: bool,
    },
}

/// Why an instance is going away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopCause {
    /// Asked for: a deployment, scale-in, `StopTask`.
    Planned,
    /// Fargate Spot or a termination notice.
    Spot,
    /// An essential container ended by itself.
    Crashed,
}

/// Where an instance is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Before RUNNING.
    Starting,
    /// RUNNING, and meant to be.
    Running(Health),
    /// Still up, but told to stop.
    Stopping(StopCause),
    /// Its containers are gone.
    Stopped,
}

/// How the source knows an instance; also the order in which sources outrank each other.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Member {
    /// A task that ECS itself reports.
    Ecs,
    /// A Cloud Map instance, with what its attributes say of the ECS task behind it.
    CloudMap {
        /// The name of the ECS cluster that runs it.
        cluster: Option<Arc<str>>,
        /// The name of the ECS service that it belongs to.
        service: Option<Arc<str>>,
    },
    /// Written in a file.
    File,
}

/// One instance on one port of one service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registration {
    /// What runs.
    pub instance: InstanceId,
    /// Where, once known.
    pub address: Option<IpAddr>,
    /// On which port, once known.
    pub port: Option<u16>,
    /// Its availability zone.
    pub zone: Option<Arc<str>>,
    /// What tells it from others of its service.
    pub traits: Traits,
    /// Where it is in its life.
    pub phase: Phase,
    /// When it began to run; of two instances at one address the younger is believed.
    pub started_at: Option<SystemTime>,
    /// How the source knows it.
    pub member: Member,
    /// Whether it speaks Service Connect's own TLS, which our sidecars can't.
    pub foreign_tls: bool,
    /// Whether the newest answer lacks it, which is not believed yet.
    pub held: bool,
}

/// One service as one source sees it: registrations ordered by instance, then port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceView {
    /// Its description.
    pub spec: Arc<ServiceSpec>,
    /// Whether it is meant to last; one that is being deleted yields its name.
    pub active: bool,
    /// Its instances, ordered by instance and port.
    pub registrations: Vec<Registration>,
}

/// Container ports of running tasks, by task: where a sidecar must not listen.
pub type OccupiedPorts = OrdMap<InstanceId, Arc<[u16]>>;

/// What one source sees, complete as of one reading. An error ages it and never shrinks it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    /// Services by key. Unchanged services keep their `Arc` from one view to the next.
    pub services: OrdMap<ServiceKey, Arc<ServiceView>>,
    /// The ECS clusters whose tasks this view holds completely, by name.
    pub clusters: BTreeSet<Arc<str>>,
    /// The namespaces that those clusters feed.
    pub namespaces: BTreeSet<Namespace>,
    /// The account and Region that this is about. Elsewhere the same addresses may be others'.
    pub home: Option<Arc<str>>,
    /// Container ports by task.
    pub occupied: OccupiedPorts,
    /// Every task of those clusters by place: what tells a live Cloud Map instance from a stale one.
    pub tasks: TasksByPlace,
    /// ECS services with running tasks of which it is not known where they are: for these an address that no task
    /// has proves nothing.
    pub unplaced: BTreeSet<Arc<str>>,
    /// Where the tasks of each ECS service run.
    pub crews: Crews,
    /// What tags say that clients of these namespaces see beside their own, ordered.
    pub imports: Vec<(Namespace, Import)>,
    /// What is wrong with the descriptions.
    pub findings: Vec<Finding>,
}

/// One diagnosed problem. Codes are stable: `product.md`, section 10.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Finding {
    /// The stable code, such as `PORT001`.
    pub code: &'static str,
    /// What it is about: `ecs prod-a/payments, tag legation:alias/htp`.
    pub object: String,
    /// What is wrong and what would be right, for people; may span lines.
    pub message: String,
}

/// What clients are told of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum State {
    /// In rotation.
    Healthy,
    /// Present, used only as a last resort.
    Draining,
    /// Present, not used.
    Unhealthy,
    /// Not in the load assignment.
    Absent,
}

impl State {
    /// The word for it in the API and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Draining => "draining",
            Self::Unhealthy => "unhealthy",
            Self::Absent => "absent",
        }
    }
}

/// Why an endpoint has its state: the words of `product.md`, section 6.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[expect(missing_docs, reason = "each is the word it prints")]
pub enum Reason {
    Ready,
    NoCheck,
    GateExpired,
    Starting,
    NoAddress,
    NoPort,
    ForeignTls,
    AwaitingHealth,
    ContainerUnhealthy,
    CloudMapUnhealthy,
    Stopping,
    SpotInterruption,
    LastHope,
    Crashed,
    Stopped,
    AddressReused,
    NoTask,
    WithdrawalHeld,
    Dns,
    AwaitingShift,
}

impl Reason {
    /// The word, the same in the API, in logs and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::NoCheck => "no-check",
            Self::GateExpired => "gate-expired",
            Self::Starting => "starting",
            Self::NoAddress => "no-address",
            Self::NoPort => "no-port",
            Self::ForeignTls => "foreign-tls",
            Self::AwaitingHealth => "awaiting-health",
            Self::ContainerUnhealthy => "container-unhealthy",
            Self::CloudMapUnhealthy => "cloudmap-unhealthy",
            Self::Stopping => "stopping",
            Self::SpotInterruption => "spot-interruption",
            Self::LastHope => "last-hope",
            Self::Crashed => "crashed",
            Self::Stopped => "stopped",
            Self::AddressReused => "address-reused",
            Self::NoTask => "no-task",
            Self::WithdrawalHeld => "withdrawal-held",
            Self::Dns => "dns",
            Self::AwaitingShift => "awaiting-shift",
        }
    }
}

/// The one verdict about an instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// What clients are told.
    pub state: State,
    /// Why.
    pub reason: Reason,
}

/// An instance with its verdict.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// What runs.
    pub instance: InstanceId,
    /// Where, once known.
    pub address: Option<IpAddr>,
    /// On which port, once known.
    pub port: Option<u16>,
    /// Its availability zone.
    pub zone: Option<Arc<str>>,
    /// What tells it from others of its service.
    pub traits: Traits,
    /// Whether its address is its own, so that a sidecar may listen there in its place.
    pub is_alone: bool,
    /// Whether it gets traffic, and why.
    pub verdict: Verdict,
    /// What its part of the service is told of it, where a shift keeps it out of the whole.
    pub apart: Option<State>,
}

/// A service as it is: its description and every endpoint, served or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Its description; the same `Arc` while unchanged.
    pub spec: Arc<ServiceSpec>,
    /// Every endpoint, ordered by instance and port; the same `Arc` while unchanged.
    pub endpoints: Arc<[Endpoint]>,
}

/// Services by discovery name.
pub type Services = OrdMap<ServiceName, Service>;

/// Loopback addresses by alias name.
pub type Addresses = BTreeMap<Arc<str>, Ipv4Addr>;

/// One namespace as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeshNamespace {
    /// Its name.
    pub name: Namespace,
    /// Its services by discovery name.
    pub services: Services,
    /// The loopback address of each alias name.
    pub addresses: Arc<Addresses>,
    /// How clients treat what is no single service's: the listener for `HTTP_PROXY`.
    pub defaults: Knobs,
    /// Where the tasks of each ECS service run.
    pub crews: OrdMap<ServiceName, Crew>,
    /// What clients see of other namespaces: nothing but in a scope.
    pub imported: Imported,
}

/// What is true, joined from every source.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mesh {
    /// Namespaces by name; one that is configured exists even while it is empty.
    pub namespaces: BTreeMap<Namespace, Arc<MeshNamespace>>,
    /// Container ports by task, one map for each source that knows any.
    pub occupied: Vec<OccupiedPorts>,
    /// Which clients see something else than their namespace.
    pub scoping: Arc<Scoping>,
    /// What is wrong with the descriptions, ordered.
    pub findings: Vec<Finding>,
}
