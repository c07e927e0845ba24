//! What a small ECS account is made of: clusters, task definitions, services, deployments.
//!
//! Plain data, cheap to clone. It is not the wire format (`aws::render` writes that) and nothing here
//! acts. Invariant: every word is AWS's own, and a task definition never changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use serde_json::Value;

use super::machines::NetworkMode;
use super::server::ServerKind;
use super::shifts::{Strategy, TrafficShift};

/// Defines an enumeration together with the word AWS writes for each value.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// The word AWS uses.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// Reads AWS's word.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use words;

words! {
    /// Where ECS wants a task to be.
    DesiredStatus {
        /// It should run.
        Running = "RUNNING",
        /// It should be gone: the first sign of a stop.
        Stopped = "STOPPED",
    }
}

words! {
    /// Where a task last was.
    LastStatus {
        /// The network interface is being made.
        Provisioning = "PROVISIONING",
        /// Waiting for the agent.
        Pending = "PENDING",
        /// The containers run.
        Running = "RUNNING",
        /// The containers ended; the interface is being removed.
        Deprovisioning = "DEPROVISIONING",
        /// Over.
        Stopped = "STOPPED",
    }
}

words! {
    /// Health as ECS reports it.
    Health {
        /// Every essential container passes its check.
        Healthy = "HEALTHY",
        /// Some essential container fails its check.
        Unhealthy = "UNHEALTHY",
        /// No check is defined, or it has not passed yet.
        Unknown = "UNKNOWN",
    }
}

words! {
    /// Why a task stops.
    StopCode {
        /// It never came up.
        TaskFailedToStart = "TaskFailedToStart",
        /// A process of the task ended by itself.
        EssentialContainerExited = "EssentialContainerExited",
        /// Somebody called StopTask.
        UserInitiated = "UserInitiated",
        /// A deployment or scale-in.
        ServiceSchedulerInitiated = "ServiceSchedulerInitiated",
        /// Spot capacity was taken back.
        SpotInterruption = "SpotInterruption",
        /// The host is going away.
        TerminationNotice = "TerminationNotice",
    }
}

words! {
    /// What a port mapping says about its protocol; absent means TCP.
    AppProtocol {
        /// HTTP/1.1.
        Http = "http",
        /// HTTP/2 with prior knowledge.
        Http2 = "http2",
        /// gRPC.
        Grpc = "grpc",
    }
}

words! {
    /// The state of a service.
    ServiceStatus {
        /// In use.
        Active = "ACTIVE",
        /// Deleted while tasks still run.
        Draining = "DRAINING",
        /// Deleted.
        Inactive = "INACTIVE",
    }
}

words! {
    /// The role of a deployment inside its service.
    DeploymentStatus {
        /// The newest.
        Primary = "PRIMARY",
        /// An older one which still has tasks.
        Active = "ACTIVE",
    }
}

words! {
    /// How far a deployment is.
    RolloutState {
        /// Tasks are still being exchanged.
        InProgress = "IN_PROGRESS",
        /// Steady.
        Completed = "COMPLETED",
    }
}

/// One moment on both clocks: the wall clock for the API, the monotonic one for measuring.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// Wall clock.
    pub wall: SystemTime,
    /// Monotonic clock.
    pub at: Instant,
}

impl Stamp {
    /// The present moment.
    pub fn now() -> Self {
        Self { wall: SystemTime::now(), at: Instant::now() }
    }

    /// Seconds since 1970, with milliseconds, as awsJson writes a time.
    pub fn epoch_seconds(&self) -> f64 {
        let since = self.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        since.as_millis() as f64 / 1000.0
    }
}

/// Tags of a resource, in key order.
pub type Tags = BTreeMap<String, String>;

/// One port of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortMapping {
    /// The port name that Service Connect and Legation refer to.
    pub name: Option<String>,
    /// The port inside the task.
    pub container_port: u16,
    /// HTTP flavour; none is TCP.
    pub app_protocol: Option<AppProtocol>,
}

impl PortMapping {
    /// A named port.
    pub fn named(name: &str, container_port: u16, app_protocol: Option<AppProtocol>) -> Self {
        Self { name: Some(name.to_owned()), container_port, app_protocol }
    }

    /// The server that speaks what this mapping declares.
    pub fn server_kind(&self) -> ServerKind {
        match self.app_protocol {
            Some(AppProtocol::Http) => ServerKind::Http1,
            Some(AppProtocol::Http2 | AppProtocol::Grpc) => ServerKind::H2c,
            None => ServerKind::Tcp,
        }
    }
}

/// One container of a task definition.
#[derive(Debug, Clone)]
pub struct ContainerDefinition {
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: String,
    /// Whether its end ends the task.
    pub essential: bool,
    /// Its ports.
    pub ports: Vec<PortMapping>,
    /// Whether ECS runs a health check for it.
    pub health_check: bool,
    /// Seconds between SIGTERM and SIGKILL; 30 when absent.
    pub stop_timeout: Option<u32>,
    /// Docker labels.
    pub docker_labels: BTreeMap<String, String>,
}

impl ContainerDefinition {
    /// An essential container without ports, check or labels.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            image: format!("registry.example/{name}:1"),
            essential: true,
            ports: Vec::new(),
            health_check: false,
            stop_timeout: None,
            docker_labels: BTreeMap::new(),
        }
    }

    /// Adds a port.
    pub fn port(mut self, port: PortMapping) -> Self {
        self.ports.push(port);
        self
    }

    /// Gives it a health check.
    pub fn checked(mut self) -> Self {
        self.health_check = true;
        self
    }

    /// Adds a docker label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.docker_labels.insert(key.to_owned(), value.to_owned());
        self
    }
}

/// One revision of a task definition. It never changes.
#[derive(Debug, Clone)]
pub struct TaskDefinition {
    /// Its ARN, with the revision.
    pub arn: String,
    /// Its family.
    pub family: String,
    /// Its revision, from 1.
    pub revision: u32,
    /// Its containers.
    pub containers: Vec<ContainerDefinition>,
    /// How its tasks are on the network.
    pub network: NetworkMode,
    /// Its tags.
    pub tags: Tags,
    /// When it was registered.
    pub registered: Stamp,
}

impl TaskDefinition {
    /// Whether any container has a health check.
    pub fn has_check(&self) -> bool {
        self.containers.iter().any(|c| c.health_check)
    }

    /// The first port of the first container that has one.
    pub fn first_port(&self) -> Option<&PortMapping> {
        self.containers.iter().find_map(|c| c.ports.first())
    }

    /// The time between SIGTERM and SIGKILL.
    pub fn stop_timeout(&self) -> Duration {
        let longest = self.containers.iter().filter_map(|c| c.stop_timeout).max();
        Duration::from_secs(u64::from(longest.unwrap_or(30)))
    }
}

/// An ECS cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Its ARN.
    pub arn: String,
    /// Its tags.
    pub tags: Tags,
    /// Its services by name.
    pub services: BTreeMap<String, Service>,
    /// ARNs of its tasks that belong to no service.
    pub standalone: BTreeSet<String>,
    /// Service Connect's default namespace: a name or an ARN.
    pub default_namespace: Option<String>,
}

/// An ECS service.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its ARN.
    pub arn: String,
    /// ACTIVE, DRAINING or INACTIVE.
    pub status: ServiceStatus,
    /// How many tasks ECS wants.
    pub desired_count: u32,
    /// Its tags.
    pub tags: Tags,
    /// Zones its tasks are spread over.
    pub zones: Vec<String>,
    /// Newest first; the first is PRIMARY.
    pub deployments: Vec<Deployment>,
    /// Every deployment it ever had, oldest first: its service revisions.
    pub revisions: Vec<Deployment>,
    /// How it is deployed.
    pub strategy: Strategy,
    /// Its last deployment that shifts traffic.
    pub shift: Option<TrafficShift>,
    /// Cloud Map services its tasks are registered in.
    pub registries: Vec<ServiceRegistry>,
    /// Whether a task that leaves is replaced.
    pub auto_replace: bool,
    /// Whether its tasks are real servers.
    pub serve: Serve,
    /// ARNs of all its tasks, stopped ones too.
    pub tasks: BTreeSet<String>,
    /// When it was created.
    pub created: Stamp,
}

/// A deployment of a service, which is also a service revision.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// `ecs-svc/<digits>`.
    pub id: String,
    /// ARN of the service revision with the same digits.
    pub revision_arn: String,
    /// PRIMARY or ACTIVE.
    pub status: DeploymentStatus,
    /// Steady or not.
    pub rollout: RolloutState,
    /// What its tasks run.
    pub definition: Arc<TaskDefinition>,
    /// Service Connect, if configured.
    pub service_connect: Option<ServiceConnect>,
    /// Cloud Map services Service Connect made: discovery name and ARN.
    pub service_connect_resources: Vec<(String, String)>,
    /// When it was created.
    pub created: Stamp,
    /// When it last changed.
    pub updated: Stamp,
}

/// A `serviceRegistries` entry.
#[derive(Debug, Clone, Default)]
pub struct ServiceRegistry {
    /// ARN of the Cloud Map service.
    pub registry_arn: String,
    /// Container whose port is registered.
    pub container_name: Option<String>,
    /// Port which is registered; else the first of the task.
    pub container_port: Option<u16>,
}

/// `serviceConnectConfiguration` as AWS writes it.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceConnect {
    /// Whether ECS injects its own proxy.
    pub enabled: bool,
    /// Name or ARN of the namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// What is offered; empty makes a pure client.
    pub services: Vec<ServiceConnectService>,
}

/// One offer of a Service Connect configuration.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceConnectService {
    /// A port name of the task definition.
    pub port_name: String,
    /// The name in the namespace; the port name when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discovery_name: Option<String>,
    /// At most one.
    pub client_aliases: Vec<ClientAlias>,
    /// The proxy's port in front of the application.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_port_override: Option<u16>,
    /// Timeouts as AWS writes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Value>,
    /// TLS block as AWS writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Value>,
}

/// What clients of a Service Connect service call.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientAlias {
    /// Port.
    pub port: u16,
    /// Name; `discoveryName.namespace` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_name: Option<String>,
}

/// Whether a task really listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Serve {
    /// It only exists in the API.
    #[default]
    No,
    /// Each port speaks what its mapping declares.
    Declared,
    /// Each port speaks this, whatever the mapping declares.
    As(ServerKind),
    /// An agent outside runs its containers, and says when they run and when they have ended.
    Hosted,
}
