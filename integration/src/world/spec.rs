//! What callers of a world ask for: the specifications of definitions, services, tasks and stops.
//!
//! Plain data with sensible defaults; nothing here is part of the account. Invariant: every default is
//! something that ECS accepts.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::machines::NetworkMode;
use super::model::{ContainerDefinition, Serve, ServiceConnect, ServiceRegistry, StopCode, Tags};

/// How an account is set up.
#[derive(Debug, Clone)]
pub struct WorldConfig {
    /// Twelve digits.
    pub account: String,
    /// Region name.
    pub region: String,
    /// Makes ids repeatable; by default they differ from world to world.
    pub seed: Option<u64>,
    /// The pace of tasks that start.
    pub pace: Pace,
    /// The first of the addresses that tasks get, one after the other; else loopback addresses that are free.
    pub addresses: Option<Ipv4Addr>,
}

impl Default for WorldConfig {
    fn default() -> Self {
        Self {
            account: "111122223333".to_owned(),
            region: "eu-west-1".to_owned(),
            seed: None,
            pace: Pace::default(),
            addresses: None,
        }
    }
}

/// How long a starting task stays in each status.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// PROVISIONING to PENDING.
    pub provisioning: Duration,
    /// PENDING to RUNNING.
    pub pending: Duration,
    /// RUNNING to HEALTHY, when a check is defined; `None` leaves the health to the caller.
    pub healthy: Option<Duration>,
    /// A task leaving to the start of its replacement, in services which replace.
    pub replacement: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            provisioning: Duration::from_millis(20),
            pending: Duration::from_millis(30),
            healthy: Some(Duration::from_millis(50)),
            replacement: Duration::from_millis(20),
        }
    }
}

/// A task definition to register; the revision is counted by the world.
#[derive(Debug, Clone)]
pub struct DefinitionSpec {
    /// Family name.
    pub family: String,
    /// At least one container.
    pub containers: Vec<ContainerDefinition>,
    /// How its tasks are on the network.
    pub network: NetworkMode,
    /// Tags of the definition.
    pub tags: Tags,
}

impl DefinitionSpec {
    /// A definition with one container, whose tasks have addresses of their own.
    pub fn new(family: &str, container: ContainerDefinition) -> Self {
        let (network, tags) = (NetworkMode::Awsvpc, Tags::new());
        Self { family: family.to_owned(), containers: vec![container], network, tags }
    }

    /// Has its tasks share the address of a machine, or not.
    pub fn network(mut self, network: NetworkMode) -> Self {
        self.network = network;
        self
    }
}

/// A service to create, with its tasks.
#[derive(Debug, Clone)]
pub struct ServiceSpec {
    /// Cluster name.
    pub cluster: String,
    /// Service name.
    pub name: String,
    /// `family`, `family:revision` or an ARN.
    pub definition: String,
    /// How many tasks.
    pub desired_count: u32,
    /// Zones, used in turn.
    pub zones: Vec<String>,
    /// Service tags.
    pub tags: Tags,
    /// Service Connect of its first deployment.
    pub service_connect: Option<ServiceConnect>,
    /// Cloud Map services for its tasks.
    pub registries: Vec<ServiceRegistry>,
    /// Whether its tasks are real servers.
    pub serve: Serve,
    /// Whether a task that leaves is replaced.
    pub auto_replace: bool,
    /// Its first tasks are RUNNING (and HEALTHY) from the beginning.
    pub settled: bool,
}

impl ServiceSpec {
    /// A service of `count` tasks which exist only in the API, in one zone.
    pub fn new(cluster: &str, name: &str, definition: &str, count: u32) -> Self {
        Self {
            cluster: cluster.to_owned(),
            name: name.to_owned(),
            definition: definition.to_owned(),
            desired_count: count,
            zones: vec!["eu-west-1a".to_owned()],
            tags: Tags::new(),
            service_connect: None,
            registries: Vec::new(),
            serve: Serve::No,
            auto_replace: false,
            settled: false,
        }
    }

    /// Spreads its tasks over these zones.
    pub fn zones(mut self, zones: &[&str]) -> Self {
        self.zones = zones.iter().map(|&zone| zone.to_owned()).collect();
        self
    }

    /// Adds a tag.
    pub fn tag(mut self, key: &str, value: &str) -> Self {
        self.tags.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Makes its tasks real servers.
    pub fn served(mut self) -> Self {
        self.serve = Serve::Declared;
        self
    }

    /// Its first tasks run from the beginning.
    pub fn settled(mut self) -> Self {
        self.settled = true;
        self
    }

    /// Replaces tasks that leave.
    pub fn replacing(mut self) -> Self {
        self.auto_replace = true;
        self
    }
}

/// A task to start.
#[derive(Debug, Clone)]
pub struct TaskSpec {
    /// Cluster name.
    pub cluster: String,
    /// Service it belongs to; `None` is RunTask.
    pub service: Option<String>,
    /// For RunTask: `family`, `family:revision` or an ARN. A service's task runs what its PRIMARY
    /// deployment says unless this is given.
    pub definition: Option<String>,
    /// Zone; else the service's next.
    pub zone: Option<String>,
    /// Address; else a fresh one.
    pub ip: Option<Ipv4Addr>,
    /// RunTask tags.
    pub tags: Tags,
    /// Whether it really listens; else as its service does.
    pub serve: Option<Serve>,
    /// RUNNING (and HEALTHY) from the beginning.
    pub settled: bool,
    /// Its pace; else the world's.
    pub pace: Option<Pace>,
}

impl TaskSpec {
    /// One more task of a service.
    pub fn of_service(cluster: &str, service: &str) -> Self {
        Self { service: Some(service.to_owned()), ..Self::empty(cluster) }
    }

    /// A task of its own, as RunTask starts it.
    pub fn standalone(cluster: &str, definition: &str) -> Self {
        Self { definition: Some(definition.to_owned()), ..Self::empty(cluster) }
    }

    fn empty(cluster: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
            service: None,
            definition: None,
            zone: None,
            ip: None,
            tags: Tags::new(),
            serve: None,
            settled: false,
            pace: None,
        }
    }
}

/// How a planned stop goes. The default is an application which closes its listener on SIGTERM.
#[derive(Debug, Clone)]
pub struct StopPlan {
    /// How long after the stop is recorded the application keeps accepting.
    pub grace: Duration,
    /// Time from the stop to SIGKILL; else the definition's `stopTimeout`.
    pub kill_after: Option<Duration>,
    /// From the end of the processes to DEPROVISIONING.
    pub deprovisioning: Duration,
    /// From DEPROVISIONING to STOPPED.
    pub stopped: Duration,
    /// Who stops it.
    pub code: StopCode,
    /// In words.
    pub reason: String,
}

impl Default for StopPlan {
    fn default() -> Self {
        Self {
            grace: Duration::ZERO,
            kill_after: None,
            deprovisioning: Duration::from_millis(20),
            stopped: Duration::from_millis(30),
            code: StopCode::UserInitiated,
            reason: "Task stopped by user".to_owned(),
        }
    }
}

impl StopPlan {
    /// An application that keeps accepting for a while, as behind `legation sidecar run --hold`.
    pub fn hold(grace: Duration) -> Self {
        Self { grace, ..Self::default() }
    }

    /// The stop of a scale-in or deployment.
    pub fn by_scheduler(mut self) -> Self {
        self.code = StopCode::ServiceSchedulerInitiated;
        self.reason = "Scaling activity initiated by deployment".to_owned();
        self
    }
}

/// How a crash goes.
#[derive(Debug, Clone, Copy)]
pub struct CrashPlan {
    /// How late ECS notices; Fargate has needed ten seconds.
    pub notice: Duration,
    /// From the notice to STOPPED.
    pub stopped: Duration,
    /// Exit code of the process.
    pub exit_code: i32,
}

impl Default for CrashPlan {
    fn default() -> Self {
        Self { notice: Duration::from_millis(100), stopped: Duration::from_millis(30), exit_code: 1 }
    }
}
