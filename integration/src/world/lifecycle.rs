//! How tasks come up and go away.
//!
//! Every step is a change of the state followed by a timer or by the end of the server's work; policy
//! (how many tasks, which definition) is in `services`. Invariant: a planned stop gives versions 1 to 6
//! (PROVISIONING, PENDING, RUNNING, desired STOPPED, DEPROVISIONING, STOPPED), an exit 1 to 5, as ECS
//! counts them.

use std::net::Ipv4Addr;
use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::runtime::Handle;

use super::model::{
    Container, DesiredStatus, Health, LastStatus, Serve, ServiceStatus, Stamp, StopCode, Tags, Task,
    TaskDefinition,
};
use super::server::{Bound, Identity, RequestLog, ServerKind, TaskServer};
use super::state::State;
use super::{CrashPlan, Inner, Pace, StopPlan, TaskSpec, World, WorldError, address};

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
    settled: bool,
    bound: Option<Bound>,
}

/// A world that a timer may outlive.
#[derive(Clone)]
struct WeakWorld(Weak<Inner>);

impl WeakWorld {
    /// Changes a task if the world and the task are still there.
    fn change_task<R>(&self, arn: &str, change: impl FnOnce(&mut Task) -> R) -> Option<R> {
        World(self.0.upgrade()?).change(|state| state.change_task(arn, change)).ok()
    }

    /// Changes a task that ECS still wants.
    fn advance(&self, arn: &str, change: impl FnOnce(&mut Task)) -> Option<()> {
        let wanted = |task: &Task| task.desired_status == DesiredStatus::Running;
        let world = World(self.0.upgrade()?);
        let change = |state: &mut State| {
            if !state.task(arn).is_ok_and(|task| wanted(task)) {
                return Err(WorldError::Missing(arn.to_owned()));
            }
            state.change_task(arn, change)
        };
        world.change(change).ok()
    }
}

impl World {
    /// Starts a task; returns its ARN. Its address is bound at once, and listens from RUNNING on.
    pub fn start_task(&self, spec: TaskSpec) -> Result<String, WorldError> {
        let pace = spec.pace.unwrap_or(self.0.pace);
        self.launch_with(pace, |state| state.plan(spec))
    }

    /// Stops a task as planned. Its ARN leaves ListTasks at once. A task that already stops is left alone.
    pub fn stop_task(&self, task: &str, plan: StopPlan) -> Result<(), WorldError> {
        let runtime = self.runtime()?.clone();
        let stopped = self.change(|state| {
            let found = state.task(task)?.clone();
            if found.desired_status == DesiredStatus::Stopped {
                return Ok(None);
            }
            state.change_task(&found.arn, |task| {
                task.version += 1;
                task.desired_status = DesiredStatus::Stopped;
                task.stopping = Some(Stamp::now());
                task.stop_code = Some(plan.code);
                task.stopped_reason = Some(plan.reason.clone());
            })?;
            Ok(Some((found.clone(), state.servers.get(&found.arn).cloned())))
        })?;
        if let Some((task, server)) = stopped {
            runtime.spawn(go_down(self.weak(), task.clone(), server, plan));
            self.replace_later(&task);
        }
        Ok(())
    }

    /// Kills a running task's processes; returns when nothing listens any more. ECS notices later.
    pub async fn crash_task(&self, task: &str, plan: CrashPlan) -> Result<(), WorldError> {
        let runtime = self.runtime()?.clone();
        let found = self.read(|state| state.task(task).cloned())?;
        if found.last_status != LastStatus::Running {
            return Err(WorldError::Invalid(format!("task {task} is not running")));
        }
        let server = self.read(|state| state.servers.get(&found.arn).cloned());
        if let Some(server) = server {
            server.kill().await;
        }
        runtime.spawn(notice_crash(self.clone().weak(), found, plan, Stamp::now()));
        Ok(())
    }

    /// Stops a task and starts another in its zone; returns the ARN of the new one.
    pub fn replace_task(&self, task: &str, plan: StopPlan) -> Result<String, WorldError> {
        let old = self.read(|state| state.task(task).cloned())?;
        let new = self.launch_with(self.0.pace, |state| state.plan_like(&old))?;
        self.stop_task(&old.arn, plan)?;
        Ok(new)
    }

    /// Sets the health of a container that has a check.
    pub fn set_health(&self, task: &str, container: &str, health: Health) -> Result<(), WorldError> {
        self.change(|state| {
            let found = state.task(task)?.clone();
            let definition = found.definition.containers.iter().find(|c| c.name == container);
            if !definition.is_some_and(|c| c.health_check) {
                return Err(WorldError::Invalid(format!("container {container} has no health check")));
            }
            state.change_task(&found.arn, |task| {
                for own in task.containers.iter_mut().filter(|c| c.name == container) {
                    own.health = health;
                }
                task.judge_health();
                note_healthy(task);
            })
        })
    }

    /// Replaces a task's tags.
    pub fn set_task_tags(&self, task: &str, tags: Tags) -> Result<(), WorldError> {
        self.change(|state| {
            let arn = state.task(task)?.arn.clone();
            state.change_task(&arn, |task| task.tags = tags)
        })
    }

    /// Lets ECS forget a stopped task, as it does after an hour: DescribeTasks answers MISSING.
    pub fn forget_task(&self, task: &str) -> Result<(), WorldError> {
        self.change(|state| {
            let found = state.task(task)?.clone();
            if found.last_status != LastStatus::Stopped {
                return Err(WorldError::Invalid(format!("task {task} is not stopped")));
            }
            state.remove_task(&found);
            Ok(())
        })
    }

    pub(super) fn runtime(&self) -> Result<&Handle, WorldError> {
        self.0.runtime.as_ref().ok_or(WorldError::NoRuntime)
    }

    fn weak(&self) -> WeakWorld {
        WeakWorld(Arc::downgrade(&self.0))
    }

    /// Decides on a task under the lock and brings it up.
    pub(super) fn launch_with(
        &self,
        pace: Pace,
        plan: impl FnOnce(&mut State) -> Result<Launch, WorldError>,
    ) -> Result<String, WorldError> {
        let launched = self.change(|state| {
            let launch = plan(state)?;
            state.launch(launch, self.0.runtime.as_ref())
        })?;
        let arn = launched.arn.clone();
        self.bring_up(launched, pace)?;
        Ok(arn)
    }

    /// Starts the timers of a task that was launched.
    pub(super) fn bring_up(&self, launched: Launched, pace: Pace) -> Result<(), WorldError> {
        if !launched.settled {
            self.runtime()?.spawn(come_up(self.weak(), launched.arn, launched.bound, pace));
        }
        Ok(())
    }

    /// Replaces a task that leaves, if its service does so.
    fn replace_later(&self, task: &Arc<Task>) {
        let Some(service) = task.service.clone() else { return };
        let (weak, pace, old) = (self.weak(), self.0.pace, task.clone());
        let replaces = |state: &State| state.service(&old.cluster, &service).is_ok_and(|s| s.auto_replace);
        if !self.read(replaces) {
            return;
        }
        let Ok(runtime) = self.runtime() else { return };
        runtime.spawn(async move {
            tokio::time::sleep(pace.replacement).await;
            let Some(inner) = weak.0.upgrade() else { return };
            let started = World(inner).launch_with(pace, |state| state.plan_replacement(&old));
            match started {
                Ok(_) | Err(WorldError::Invalid(_)) => {}
                Err(error) => tracing::error!(task = old.arn, %error, "no replacement could be started"),
            }
        });
    }
}

impl State {
    /// What a specification means in this account.
    fn plan(&mut self, spec: TaskSpec) -> Result<Launch, WorldError> {
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
    pub(super) fn plan_for_service(&self, cluster: &str, name: &str) -> Result<Launch, WorldError> {
        let service = self.service(cluster, name)?;
        let primary = service.deployments.first();
        let primary = primary.filter(|_| service.status == ServiceStatus::Active);
        let primary = primary.ok_or_else(|| WorldError::Invalid(format!("service {name} is not active")))?;
        let load = |zone: &String| {
            let here =
                |task: &&Arc<Task>| task.zone == *zone && task.desired_status == DesiredStatus::Running;
            self.tasks_of(service).filter(here).count()
        };
        let zone = service.zones.iter().min_by_key(|zone| load(zone)).cloned();
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
    fn plan_like(&self, old: &Task) -> Result<Launch, WorldError> {
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
    fn plan_replacement(&self, old: &Task) -> Result<Launch, WorldError> {
        let launch = self.plan_like(old)?;
        let service = self.service(&old.cluster, old.service.as_deref().unwrap_or_default())?;
        if self.counts(service, None).wanted >= service.desired_count {
            return Err(WorldError::Invalid("the service has enough tasks".to_owned()));
        }
        Ok(launch)
    }

    /// Puts a task into the account: PROVISIONING with its ports bound, or already settled.
    pub(super) fn launch(
        &mut self,
        launch: Launch,
        runtime: Option<&Handle>,
    ) -> Result<Launched, WorldError> {
        if !launch.settled && runtime.is_none() {
            return Err(WorldError::NoRuntime);
        }
        let ip = match launch.ip {
            Some(ip) => ip,
            None => address::allocate().map_err(WorldError::Address)?,
        };
        let bound = bind(ip, &launch)?;
        let id = self.ids.hex32();
        let arn = self.arn("ecs", &format!("task/{}/{id}", launch.cluster));
        let settled = launch.settled;
        let mut task = new_task(arn.clone(), id, ip, launch);
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
        self.sync_registrations(&mut task);
        let cluster = self.cluster_mut(&task.cluster)?;
        let own = task.service.as_ref().and_then(|name| cluster.services.get_mut(name));
        own.map_or(&mut cluster.standalone, |service| &mut service.tasks).insert(arn.clone());
        let (cluster, service) = (task.cluster.clone(), task.service.clone());
        self.tasks.insert(arn.clone(), Arc::new(task));
        if let Some(service) = service {
            self.settle_service(&cluster, &service);
        }
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

fn bind(ip: Ipv4Addr, launch: &Launch) -> Result<Option<Bound>, WorldError> {
    let forced: Option<ServerKind> = match launch.serve {
        Serve::No => return Ok(None),
        Serve::Declared => None,
        Serve::As(kind) => Some(kind),
    };
    let ports = launch.definition.containers.iter().flat_map(|c| &c.ports);
    let ports: Vec<_> =
        ports.map(|p| (p.container_port, forced.unwrap_or_else(|| p.server_kind()))).collect();
    Bound::bind(ip, &ports).map(Some).map_err(|(at, error)| WorldError::Bind(at, error))
}

fn new_task(arn: String, id: String, ip: Ipv4Addr, launch: Launch) -> Task {
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
        ip,
        tags: launch.tags,
        desired_status: DesiredStatus::Running,
        last_status: LastStatus::Provisioning,
        version: 1,
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

fn identity(task: &Task) -> Identity {
    Identity {
        task: task.id.clone(),
        service: task.service.clone().unwrap_or_else(|| task.definition.family.clone()),
        zone: task.zone.clone(),
        log: task.log.clone(),
    }
}

fn run(task: &mut Task) {
    task.last_status = LastStatus::Running;
    task.started = Some(Stamp::now());
}

/// Every container with a check passes it.
fn pass_checks(task: &mut Task) {
    let definition = task.definition.clone();
    for container in &mut task.containers {
        if definition.containers.iter().any(|c| c.name == container.name && c.health_check) {
            container.health = Health::Healthy;
        }
    }
    task.judge_health();
    note_healthy(task);
}

fn note_healthy(task: &mut Task) {
    if task.checked_health() == Some(Health::Healthy) && task.healthy.is_none() {
        task.healthy = Some(Stamp::now());
    }
}

async fn come_up(world: WeakWorld, arn: String, bound: Option<Bound>, pace: Pace) -> Option<()> {
    tokio::time::sleep(pace.provisioning).await;
    world.advance(&arn, |task| {
        task.version += 1;
        task.last_status = LastStatus::Pending;
    })?;
    tokio::time::sleep(pace.pending).await;
    let task = World(world.0.upgrade()?).task(&arn)?;
    let server = match bound.map(|bound| bound.listen(identity(&task))).transpose() {
        Ok(server) => server,
        Err((address, error)) => {
            fail_to_start(&world, &arn, format!("CannotStartContainerError: {address}: {error}"))?;
            return finish(&world, &arn, StopPlan::default().stopped).await;
        }
    };
    World(world.0.upgrade()?)
        .change(|state| {
            if !state.task(&arn).is_ok_and(|task| task.desired_status == DesiredStatus::Running) {
                return Err(WorldError::Missing(arn.clone()));
            }
            if let Some(server) = server {
                state.servers.insert(arn.clone(), Arc::new(server));
            }
            state.change_task(&arn, |task| {
                task.version += 1;
                run(task);
            })
        })
        .ok()?;
    if task.definition.has_check() {
        tokio::time::sleep(pace.healthy?).await;
        world.advance(&arn, pass_checks)?;
    }
    Some(())
}

fn fail_to_start(world: &WeakWorld, arn: &str, reason: String) -> Option<()> {
    world.advance(arn, |task| {
        task.version += 1;
        task.desired_status = DesiredStatus::Stopped;
        task.last_status = LastStatus::Deprovisioning;
        task.stopping = Some(Stamp::now());
        task.stop_code = Some(StopCode::TaskFailedToStart);
        task.stopped_reason = Some(reason);
    })
}

async fn go_down(
    world: WeakWorld,
    task: Arc<Task>,
    server: Option<Arc<TaskServer>>,
    plan: StopPlan,
) -> Option<()> {
    let began = Instant::now();
    let mut exit_code = None;
    if task.last_status == LastStatus::Running {
        let kill_after = plan.kill_after.unwrap_or_else(|| task.definition.stop_timeout());
        tokio::time::sleep(plan.grace.min(kill_after)).await;
        world.change_task(&task.arn, |task| task.closed = Some(Stamp::now()))?;
        let orderly = match server {
            Some(server) => server.drain(began + kill_after).await,
            None => plan.grace <= kill_after,
        };
        exit_code = Some(if orderly { 0 } else { 137 });
    }
    let ended = Stamp::now();
    tokio::time::sleep(plan.deprovisioning).await;
    world.change_task(&task.arn, |task| {
        task.version += 1;
        task.last_status = LastStatus::Deprovisioning;
        task.execution_stopped = exit_code.map(|_| ended);
        task.containers.iter_mut().for_each(|container| container.exit_code = exit_code);
    })?;
    finish(&world, &task.arn, plan.stopped).await
}

async fn notice_crash(world: WeakWorld, task: Arc<Task>, plan: CrashPlan, died: Stamp) -> Option<()> {
    world.change_task(&task.arn, |task| task.closed = task.closed.or(Some(died)))?;
    tokio::time::sleep(plan.notice).await;
    // A stop that was asked for meanwhile takes its own course.
    world.advance(&task.arn, |task| {
        task.version += 1;
        task.desired_status = DesiredStatus::Stopped;
        task.last_status = LastStatus::Deprovisioning;
        task.stopping = Some(Stamp::now());
        task.execution_stopped = Some(died);
        task.stop_code = Some(StopCode::EssentialContainerExited);
        task.stopped_reason = Some("Essential container in task exited".to_owned());
        task.containers.iter_mut().for_each(|container| container.exit_code = Some(plan.exit_code));
    })?;
    World(world.0.upgrade()?).replace_later(&task);
    finish(&world, &task.arn, plan.stopped).await
}

/// DEPROVISIONING to STOPPED.
async fn finish(world: &WeakWorld, arn: &str, after: std::time::Duration) -> Option<()> {
    tokio::time::sleep(after).await;
    let change = |state: &mut State| {
        state.servers.remove(arn);
        state.change_task(arn, |task| {
            task.version += 1;
            task.last_status = LastStatus::Stopped;
            task.stopped = Some(Stamp::now());
        })
    };
    World(world.0.upgrade()?).change(change).ok()
}
