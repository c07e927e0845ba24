//! A small AWS account whose tasks are real.
//!
//! The world is the truth: ECS clusters, services, task definitions and tasks, and Cloud Map. A task
//! that serves listens on its own loopback address and notes every request. [`crate::aws`] shows the
//! world through AWS's API; the world itself knows no wire format and no fault. Invariant: readers see
//! whole changes only, and every change raises the generation that [`World::changes`] shows.

mod address;
mod discovery;
mod hosted;
mod launch;
mod lifecycle;
mod machines;
mod model;
mod protocol;
mod server;
mod services;
mod shifts;
mod spec;
mod state;
mod task;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

pub use discovery::{HealthCheck, Instance, MapService, Namespace, NamespaceKind};
pub use machines::{Machine, NetworkMode};
pub use model::{
    AppProtocol, ClientAlias, Cluster, ContainerDefinition, Deployment, DeploymentStatus, DesiredStatus,
    Health, LastStatus, PortMapping, RolloutState, Serve, Service, ServiceConnect, ServiceConnectService,
    ServiceRegistry, ServiceStatus, Stamp, StopCode, Tags, TaskDefinition,
};
pub use server::{RequestLog, ServerKind};
pub use shifts::{ShiftStatus, Stage, Strategy, TrafficShift};
pub use spec::{CrashPlan, DefinitionSpec, Pace, ServiceSpec, StopPlan, TaskSpec, WorldConfig};
pub(crate) use state::{Counts, State};
pub use task::{Container, Task, Transition};

/// What a world refuses.
#[derive(Debug)]
pub enum WorldError {
    /// No such thing.
    Missing(String),
    /// The name is taken.
    Exists(String),
    /// The request makes no sense.
    Invalid(String),
    /// A task's address and port could not be had.
    Bind(SocketAddr, std::io::Error),
    /// No loopback address is left.
    Address(std::io::Error),
    /// Tasks that live need a tokio runtime.
    NoRuntime,
    /// A wait took too long.
    TimedOut(Duration),
}

impl fmt::Display for WorldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(what) => write!(f, "{what} does not exist"),
            Self::Exists(what) => write!(f, "{what} exists already"),
            Self::Invalid(why) => f.write_str(why),
            Self::Bind(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::Address(error) => write!(f, "no address for a task: {error}"),
            Self::NoRuntime => {
                f.write_str("a world with living tasks must be created inside a tokio runtime")
            }
            Self::TimedOut(limit) => write!(f, "waited {limit:?} in vain"),
        }
    }
}

impl std::error::Error for WorldError {}

/// An account; clones share it.
#[derive(Debug, Clone)]
pub struct World(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    generation: watch::Sender<u64>,
    /// Who wants to hear of every version of every task.
    listeners: Mutex<Vec<mpsc::UnboundedSender<Arc<Task>>>>,
    pace: Pace,
    /// Where tasks live; none when the world was created outside a runtime.
    runtime: Option<Handle>,
}

/// The moments of a task's life, on the monotonic clock.
#[derive(Debug, Clone)]
pub struct TaskTimeline {
    /// It was asked for.
    pub created: Instant,
    /// It became RUNNING.
    pub running: Option<Instant>,
    /// It became HEALTHY.
    pub healthy: Option<Instant>,
    /// The stop was recorded (`desiredStatus=STOPPED`), or the crash noticed.
    pub stop_requested: Option<Instant>,
    /// Its application stopped accepting connections.
    pub stopped_accepting: Option<Instant>,
    /// Its processes ended.
    pub execution_stopped: Option<Instant>,
    /// It became STOPPED.
    pub stopped: Option<Instant>,
    /// Its latest request arrived.
    pub last_request: Option<Instant>,
    /// Requests so far.
    pub requests: u64,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// An empty account with default settings.
    pub fn new() -> Self {
        Self::with(WorldConfig::default())
    }

    /// An empty account.
    pub fn with(config: WorldConfig) -> Self {
        let seed = config.seed.unwrap_or_else(|| RandomState::new().hash_one(0_u8));
        Self(Arc::new(Inner {
            state: Mutex::new(State::new(config.account, config.region, seed, config.addresses)),
            generation: watch::Sender::new(0),
            listeners: Mutex::default(),
            pace: config.pace,
            runtime: Handle::try_current().ok(),
        }))
    }

    /// A generation that rises with every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.generation.subscribe()
    }

    /// Waits until something is true of the world.
    pub async fn until(&self, limit: Duration, holds: impl Fn(&World) -> bool) -> Result<(), WorldError> {
        let mut changes = self.changes();
        let wait = async {
            loop {
                changes.mark_unchanged();
                if holds(self) || changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(limit, wait).await.map_err(|_| WorldError::TimedOut(limit))
    }

    /// Creates a cluster; returns its ARN.
    pub fn create_cluster(&self, name: &str) -> Result<String, WorldError> {
        self.change(|state| {
            if state.clusters.contains_key(name) {
                return Err(WorldError::Exists(format!("cluster {name}")));
            }
            let arn = state.arn("ecs", &format!("cluster/{name}"));
            let cluster = Cluster {
                name: name.to_owned(),
                arn: arn.clone(),
                tags: Tags::new(),
                services: Default::default(),
                standalone: Default::default(),
                default_namespace: None,
            };
            state.clusters.insert(name.to_owned(), cluster);
            Ok(arn)
        })
    }

    /// Gives a cluster a default namespace, as Service Connect knows it: a name or an ARN.
    pub fn set_default_namespace(&self, cluster: &str, namespace: &str) -> Result<(), WorldError> {
        self.change(|state| {
            state.cluster_mut(cluster)?.default_namespace = Some(namespace.to_owned());
            Ok(())
        })
    }

    /// Registers the next revision of a task definition.
    pub fn register_definition(&self, spec: DefinitionSpec) -> Result<Arc<TaskDefinition>, WorldError> {
        if spec.containers.is_empty() {
            return Err(WorldError::Invalid("a task definition needs a container".to_owned()));
        }
        self.change(|state| {
            let revision = state.definitions.get(&spec.family).map_or(0, Vec::len) as u32 + 1;
            let arn = state.arn("ecs", &format!("task-definition/{}:{revision}", spec.family));
            let definition = Arc::new(TaskDefinition {
                arn,
                family: spec.family.clone(),
                revision,
                containers: spec.containers,
                network: spec.network,
                tags: spec.tags,
                registered: Stamp::now(),
            });
            state.definitions.entry(spec.family).or_default().push(definition.clone());
            Ok(definition)
        })
    }

    /// A task by ARN or id, stopped ones too.
    pub fn task(&self, reference: &str) -> Option<Arc<Task>> {
        self.read(|state| state.task(reference).ok().cloned())
    }

    /// The tasks of a service that ECS wants to run, in order of ARN.
    pub fn tasks_of(&self, cluster: &str, service: &str) -> Vec<Arc<Task>> {
        self.read(|state| {
            let Ok(service) = state.service(cluster, service) else { return Vec::new() };
            let wanted = |task: &&Arc<Task>| task.desired_status == DesiredStatus::Running;
            state.tasks_of(service).filter(wanted).cloned().collect()
        })
    }

    /// A service.
    pub fn service(&self, cluster: &str, name: &str) -> Option<Service> {
        self.read(|state| state.service(cluster, name).ok().cloned())
    }

    /// The moments of a task's life so far.
    pub fn timeline(&self, task: &str) -> Option<TaskTimeline> {
        let task = self.task(task)?;
        let at = |stamp: Option<Stamp>| stamp.map(|stamp| stamp.at);
        Some(TaskTimeline {
            created: task.created.at,
            running: at(task.started),
            healthy: at(task.healthy),
            stop_requested: at(task.stopping),
            stopped_accepting: at(task.closed),
            execution_stopped: at(task.execution_stopped),
            stopped: at(task.stopped),
            last_request: task.log.last_request_at(),
            requests: task.log.requests(),
        })
    }

    /// Every version of every task from now on, in order: what ECS raises events about.
    pub fn events(&self) -> mpsc::UnboundedReceiver<Arc<Task>> {
        let (listener, events) = mpsc::unbounded_channel();
        self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(listener);
        events
    }

    /// Reads under the lock; must not wait.
    pub(crate) fn read<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        read(&self.0.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A copy of everything, as a stale read would see it later.
    pub(crate) fn snapshot(&self) -> State {
        self.read(State::clone)
    }

    /// Changes the truth under the lock, then tells everybody. A refused change tells nobody.
    pub(crate) fn change<R>(
        &self,
        change: impl FnOnce(&mut State) -> Result<R, WorldError>,
    ) -> Result<R, WorldError> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut state);
        let raised = std::mem::take(&mut state.raised);
        // Under the lock of the state, so that versions are told in order.
        let mut listeners = self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| raised.iter().all(|task| listener.send(Arc::clone(task)).is_ok()));
        drop((listeners, state));
        if result.is_ok() {
            self.0.generation.send_modify(|generation| *generation += 1);
        }
        result
    }
}
