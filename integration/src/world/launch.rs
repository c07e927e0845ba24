//! Deciding on a task and putting it into the account.
//!
//! What a specification means, which zone is next, and the task as it is in its first moment. Timers and
//! stops are in `lifecycle`. Invariant: a launch that fails leaves the account as it was.

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::machines::Seat;
use super::model::{DesiredStatus, Health, LastStatus, Serve, ServiceStatus, Stamp, Tags, TaskDefinition};
use super::server::{Bound, Identity, RequestLog, ServerKind};
use super::state::State;
use super::task::{Container, Task};
use super::{TaskSpec, WorldError};

/// A task that has been decided upon.
#[derive(Clone)]
pub(super) struct Launch {
    pub(super) cluster: String,
    pub(super) service: Option<String>,
    pub(super) definition: Arc<TaskDefinition>,
    pub(super) started_by: Option<String>,
    pub(super) zone: String,
    pub(super) ip: Option<Ipv4Addr>,
    pub(super) tags: Tags,
    pub(super) serve: Serve,
    pub(super) settled: bool,
}

/// A task that is in the state and still has to be brought up.
pub(super) struct Launched {
    pub(super) arn: String,
    pub(super) settled: bool,
    pub(super) bound: Option<Bound>,
}

impl State {
    /// What a specification means in this account.
    pub(super) fn plan(&self, spec: TaskSpec) -> Result<Launch, WorldError> {
        let named = spec.definition.as_deref().map(|reference| self.definition(reference).cloned());
        let named = named.transpose()?;
        let cluster = self.cluster(&spec.cluster)?.name.clone();
        let Some(name) = &spec.service else {
            let definition =
                named.ok_or_else(|| WorldError::Invalid("RunTask needs a definition".to_owned()))?;
            return Ok(Launch {
                cluster,
                service: None,
                definition,
                started_by: None,
                zone: spec.zone.unwrap_or_else(|| format!("{}a", self.region)),
                ip: spec.ip,
                tags: spec.tags,
                serve: spec.serve.unwrap_or_default(),
                settled: spec.settled,
            });
        };
        let mut launch = self.plan_for_service(&cluster, name)?;
        launch.definition = named.unwrap_or(launch.definition);
        launch.zone = spec.zone.unwrap_or(launch.zone);
        launch.serve = spec.serve.unwrap_or(launch.serve);
        Ok(Launch { ip: spec.ip, tags: spec.tags, settled: spec.settled, ..launch })
    }

    /// The next task of a service: its PRIMARY deployment, in the zone that has fewest.
    fn plan_for_service(&self, cluster: &str, name: &str) -> Result<Launch, WorldError> {
        let launch = self.plan_in_first_zone(cluster, name)?;
        let service = self.service(cluster, name)?;
        let load = |zone: &String| {
            let here =
                |task: &&Arc<Task>| task.zone == *zone && task.desired_status == DesiredStatus::Running;
            self.tasks_of(service).filter(here).count()
        };
        let zone = service.zones.iter().min_by_key(|zone| load(zone)).cloned();
        Ok(Launch { zone: zone.unwrap_or(launch.zone), ..launch })
    }

    /// A task of a service's PRIMARY deployment.
    pub(super) fn plan_in_first_zone(&self, cluster: &str, name: &str) -> Result<Launch, WorldError> {
        let service = self.service(cluster, name)?;
        let primary = service.deployments.first();
        let primary = primary.filter(|_| service.status == ServiceStatus::Active);
        let primary = primary.ok_or_else(|| WorldError::Invalid(format!("service {name} is not active")))?;
        let zone = service.zones.first().cloned();
        Ok(Launch {
            cluster: cluster.to_owned(),
            service: Some(name.to_owned()),
            definition: primary.definition.clone(),
            started_by: Some(primary.id.clone()),
            zone: zone.unwrap_or_else(|| format!("{}a", self.region)),
            ip: None,
            tags: Tags::new(),
            serve: service.serve,
            settled: false,
        })
    }

    /// A task like an old one, in its zone.
    pub(super) fn plan_like(&self, old: &Task) -> Result<Launch, WorldError> {
        let launch = match &old.service {
            Some(service) => self.plan_for_service(&old.cluster, service)?,
            None => Launch {
                cluster: old.cluster.clone(),
                service: None,
                definition: old.definition.clone(),
                started_by: None,
                zone: String::new(),
                ip: None,
                tags: Tags::new(),
                serve: Serve::No,
                settled: false,
            },
        };
        Ok(Launch { zone: old.zone.clone(), tags: old.tags.clone(), serve: old.serve, ..launch })
    }

    /// The same, unless the service has enough tasks.
    pub(super) fn plan_replacement(&self, old: &Task) -> Result<Launch, WorldError> {
        let launch = self.plan_like(old)?;
        let service = self.service(&old.cluster, old.service.as_deref().unwrap_or_default())?;
        if self.counts(service, None).wanted >= service.desired_count {
            return Err(WorldError::Invalid("the service has enough tasks".to_owned()));
        }
        Ok(launch)
    }

    /// Puts a task into the account: PROVISIONING with its ports bound, or already settled. The caller
    /// settles its service.
    pub(super) fn launch(
        &mut self,
        launch: Launch,
        runtime: Option<&Handle>,
    ) -> Result<Launched, WorldError> {
        if !launch.settled && runtime.is_none() {
            return Err(WorldError::NoRuntime);
        }
        let seat = self.seat(&launch)?;
        let bound = bind(&seat, &launch)?;
        let id = self.ids.hex32();
        let arn = self.arn("ecs", &format!("task/{}/{id}", launch.cluster));
        let settled = launch.settled;
        let mut task = new_task(arn.clone(), id, seat, launch);
        let mut bound = bound;
        if settled {
            task.version = 3;
            run(&mut task);
            pass_checks(&mut task);
            if let Some(bound) = bound.take() {
                let _inside = runtime.ok_or(WorldError::NoRuntime)?.enter();
                let server =
                    bound.listen(identity(&task)).map_err(|(at, error)| WorldError::Bind(at, error))?;
                self.servers.insert(arn.clone(), Arc::new(server));
            }
        }
        task.note_version();
        self.sync_registrations(&mut task);
        let cluster = self.cluster_mut(&task.cluster)?;
        let own = task.service.as_ref().and_then(|name| cluster.services.get_mut(name));
        own.map_or(&mut cluster.standalone, |service| &mut service.tasks).insert(arn.clone());
        let task = Arc::new(task);
        self.raised.push(Arc::clone(&task));
        self.tasks.insert(arn.clone(), task);
        Ok(Launched { arn, settled, bound })
    }

    /// Takes a task out of the account altogether.
    pub(super) fn remove_task(&mut self, task: &Task) {
        self.servers.remove(&task.arn);
        for service_id in &task.registered_in {
            let _ = self.map_services.get_mut(service_id).map(|s| s.instances.remove(&task.id));
        }
        if let Ok(cluster) = self.cluster_mut(&task.cluster) {
            cluster.standalone.remove(&task.arn);
            if let Some(service) = task.service.as_ref().and_then(|name| cluster.services.get_mut(name)) {
                service.tasks.remove(&task.arn);
            }
        }
        self.tasks.remove(&task.arn);
    }
}

fn bind(seat: &Seat, launch: &Launch) -> Result<Option<Bound>, WorldError> {
    let forced: Option<ServerKind> = match launch.serve {
        Serve::No | Serve::Hosted => return Ok(None),
        Serve::Declared => None,
        Serve::As(kind) => Some(kind),
    };
    let ports = launch.definition.containers.iter().flat_map(|c| &c.ports);
    let ports: Vec<_> =
        ports.map(|p| (seat.port(p.container_port), forced.unwrap_or_else(|| p.server_kind()))).collect();
    Bound::bind(seat.ip, &ports).map(Some).map_err(|(at, error)| WorldError::Bind(at, error))
}

fn new_task(arn: String, id: String, seat: Seat, launch: Launch) -> Task {
    let group = match &launch.service {
        Some(service) => format!("service:{service}"),
        None => format!("family:{}", launch.definition.family),
    };
    let container =
        |name: &str| Container { name: name.to_owned(), health: Health::Unknown, exit_code: None };
    Task {
        arn,
        id,
        cluster: launch.cluster,
        service: launch.service,
        containers: launch.definition.containers.iter().map(|c| container(&c.name)).collect(),
        definition: launch.definition,
        group,
        started_by: launch.started_by,
        zone: launch.zone,
        ip: seat.ip,
        machine: seat.machine,
        host_ports: seat.host_ports,
        tags: launch.tags,
        desired_status: DesiredStatus::Running,
        last_status: LastStatus::Provisioning,
        version: 1,
        history: Vec::with_capacity(6),
        health: Health::Unknown,
        stop_code: None,
        stopped_reason: None,
        created: Stamp::now(),
        started: None,
        healthy: None,
        stopping: None,
        closed: None,
        execution_stopped: None,
        stopped: None,
        log: Arc::new(RequestLog::default()),
        serve: launch.serve,
        registered_in: Vec::new(),
    }
}

pub(super) fn identity(task: &Task) -> Identity {
    Identity {
        task: task.id.clone(),
        service: task.service.clone().unwrap_or_else(|| task.definition.family.clone()),
        zone: task.zone.clone(),
        log: task.log.clone(),
    }
}

pub(super) fn run(task: &mut Task) {
    task.last_status = LastStatus::Running;
    task.started = Some(Stamp::now());
}

/// Every container with a check passes it.
pub(super) fn pass_checks(task: &mut Task) {
    let definition = task.definition.clone();
    for container in &mut task.containers {
        if definition.containers.iter().any(|c| c.name == container.name && c.health_check) {
            container.health = Health::Healthy;
        }
    }
    task.judge_health();
    note_healthy(task);
}

pub(super) fn note_healthy(task: &mut Task) {
    if task.checked_health() == Some(Health::Healthy) && task.healthy.is_none() {
        task.healthy = Some(Stamp::now());
    }
}
