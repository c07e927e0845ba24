//! What happens in the cluster: tasks start, stop, crash, fall ill and recover, services are tagged, deployed, made and
//! deleted.
//!
//! It is the truth, and knows nothing of how AWS tells it. Invariant: whoever may rightly leave rotation is known before
//! it does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use integration::estate::{NAMESPACE, ZONES};
use integration::world::{
    AppProtocol, ContainerDefinition, CrashPlan, DefinitionSpec, Health, PortMapping, ServiceSpec,
    ServiceStatus, StopPlan, Tags, Task, TaskSpec, World, WorldError,
};

pub(super) const CLUSTER: &str = "turmoil";
/// A definition whose containers have a health check, and one whose do not.
const FAMILIES: [&str; 2] = ["checked", "plain"];
/// More tasks of a service are not started, and more services not made.
const MOST_TASKS: usize = 8;
const MOST_SERVICES: usize = 8;

/// Service, task, port.
pub(super) type Rotation = BTreeSet<(String, String, u64)>;
/// The request timeout of services, in milliseconds.
pub(super) type Timeouts = BTreeMap<String, u64>;

/// The cluster.
pub(super) struct Cluster {
    pub(super) world: World,
    /// In order of their making; deleted ones are not.
    services: Vec<String>,
    made: usize,
    timeouts: Timeouts,
    /// Tasks that were ill at some time.
    ill: Mutex<BTreeSet<String>>,
}

fn container(family: &str, port: u16) -> ContainerDefinition {
    let app = ContainerDefinition::new("app").port(PortMapping::named("http", port, Some(AppProtocol::Http)));
    if family == "checked" { app.checked() } else { app }
}

fn tags(timeout: Option<u64>) -> Tags {
    let mut tags = Tags::from([("legation:namespace".to_owned(), NAMESPACE.to_owned())]);
    tags.extend(timeout.map(|ms| ("legation:timeout.request/http".to_owned(), format!("{ms}ms"))));
    tags
}

impl Cluster {
    pub(super) fn new(world: World) -> Result<Self, WorldError> {
        world.create_cluster(CLUSTER)?;
        for family in FAMILIES {
            world.register_definition(DefinitionSpec::new(family, container(family, 8080)))?;
        }
        let (services, ill) = (Vec::new(), Mutex::default());
        let mut cluster = Self { world, services, made: 0, timeouts: Timeouts::new(), ill };
        for _ in 0..3 {
            cluster.make_service(4)?;
        }
        Ok(cluster)
    }

    fn make_service(&mut self, count: u32) -> Result<(), WorldError> {
        let (name, family) = (format!("s{}", self.made), FAMILIES[self.made % FAMILIES.len()]);
        self.made += 1;
        let spec = ServiceSpec::new(CLUSTER, &name, family, count).zones(&ZONES).settled();
        self.world.create_service(ServiceSpec { tags: tags(None), ..spec })?;
        self.services.push(name);
        Ok(())
    }

    /// One thing happens. What makes no sense just then does not.
    pub(super) async fn happen(&mut self, dice: &mut Rng) -> Result<(), WorldError> {
        let Some(service) = dice.choice(&self.services).cloned() else { return self.make_service(2) };
        let tasks = self.world.tasks_of(CLUSTER, &service);
        let task = dice.choice(&tasks).cloned();
        let outcome = match (dice.u32(..100), task) {
            (0..25, _) | (_, None) if tasks.len() < MOST_TASKS => {
                self.world.start_task(TaskSpec::of_service(CLUSTER, &service)).map(drop)
            }
            (25..45, Some(task)) => self.world.stop_task(&task.arn, stop(dice)),
            (45..55, Some(task)) => self.world.replace_task(&task.arn, stop(dice)).map(drop),
            (55..63, Some(task)) => {
                let notice = Duration::from_millis(dice.u64(..200));
                self.world.crash_task(&task.arn, CrashPlan { notice, ..CrashPlan::default() }).await
            }
            (63..78, Some(task)) => self.change_health(&task),
            (78..88, _) => {
                let timeout = dice.u64(1..60) * 1_000;
                self.timeouts.insert(service.clone(), timeout);
                self.world.set_service_tags(CLUSTER, &service, tags(Some(timeout)))
            }
            (88..90, _) => self.deploy(&service, dice.u16(8_081..8_090)),
            (90..96, _) if self.services.len() < MOST_SERVICES => self.make_service(2),
            (96.., _) if self.services.len() > 2 => {
                self.services.retain(|name| *name != service);
                self.timeouts.remove(&service);
                self.world.delete_service(CLUSTER, &service, stop(dice))
            }
            _ => Ok(()),
        };
        match outcome {
            // A task that does not run yet can't crash, and one without a check is never ill.
            Err(WorldError::Invalid(_)) => Ok(()),
            outcome => outcome,
        }
    }

    fn change_health(&self, task: &Task) -> Result<(), WorldError> {
        let health = match task.health {
            Health::Healthy => Health::Unhealthy,
            _ => Health::Healthy,
        };
        self.ill.lock().unwrap_or_else(PoisonError::into_inner).insert(task.arn.clone());
        self.world.set_health(&task.arn, "app", health)
    }

    /// A new revision at another port, of which there is a task at once.
    fn deploy(&self, service: &str, port: u16) -> Result<(), WorldError> {
        let found = self.world.service(CLUSTER, service);
        let found = found.ok_or_else(|| WorldError::Missing(service.to_owned()))?;
        let family =
            found.deployments.first().map_or(FAMILIES[0], |deployment| &deployment.definition.family);
        let revision = DefinitionSpec::new(family, container(family, port));
        let revision = self.world.register_definition(revision)?;
        self.world.begin_deployment(CLUSTER, service, &revision.arn, None)?;
        self.world.start_task(TaskSpec::of_service(CLUSTER, service)).map(drop)
    }

    /// Whether the task was told to stop, died or was ill at some time.
    pub(super) fn had_reason_to_leave(&self, task: &str) -> bool {
        let was_ill = self.ill.lock().unwrap_or_else(PoisonError::into_inner).contains(task);
        was_ill || self.world.task(task).is_none_or(|task| task.stopping.is_some() || task.closed.is_some())
    }

    fn active(&self) -> impl Iterator<Item = (&String, Vec<Arc<Task>>)> {
        let is_active = |name: &&String| {
            self.world.service(CLUSTER, name).is_some_and(|service| service.status == ServiceStatus::Active)
        };
        self.services.iter().filter(is_active).map(|name| (name, self.world.tasks_of(CLUSTER, name)))
    }

    /// Who should be in rotation.
    pub(super) fn rotation(&self) -> Rotation {
        let place = |name: &String, task: &Task| {
            let port = task.definition.first_port()?.container_port;
            task.ready().then(|| (name.clone(), task.arn.clone(), u64::from(port)))
        };
        let of = |(name, tasks): (&String, Vec<Arc<Task>>)| -> Vec<_> {
            tasks.iter().filter_map(|task| place(name, task)).collect()
        };
        self.active().flat_map(of).collect()
    }

    /// What the tags of services say.
    pub(super) fn timeouts(&self) -> Timeouts {
        self.timeouts.clone()
    }
}

fn stop(dice: &mut Rng) -> StopPlan {
    let millis = |dice: &mut Rng| Duration::from_millis(dice.u64(..300));
    StopPlan { grace: millis(dice), deprovisioning: millis(dice), ..StopPlan::default() }
}
