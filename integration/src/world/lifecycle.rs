//! How tasks come up and go away.
//!
//! Every step is a change of the state followed by a timer or by the end of the server's work; how many
//! tasks there are, and of which definition, is decided in `services` and `launch`. Invariant: a planned
//! stop gives versions 1 to 6 (PROVISIONING, PENDING, RUNNING, desired STOPPED, DEPROVISIONING, STOPPED),
//! an exit 1 to 5, as ECS counts them.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::launch::{Launch, Launched, identity, note_healthy, pass_checks, run};
use super::model::{DesiredStatus, Health, LastStatus, Serve, Stamp, StopCode, Tags};
use super::server::{Bound, TaskServer};
use super::state::State;
use super::task::Task;
use super::{CrashPlan, Inner, Pace, StopPlan, TaskSpec, World, WorldError};

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
            // An agent's task goes down when the agent says so.
            if task.serve != Serve::Hosted || task.last_status == LastStatus::Provisioning {
                runtime.spawn(go_down(self.weak(), task.clone(), server, plan));
            }
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
        runtime.spawn(notice_crash(self.weak(), found, plan, Stamp::now()));
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
            let (cluster, service) = (launch.cluster.clone(), launch.service.clone());
            let launched = state.launch(launch, self.0.runtime.as_ref())?;
            if let Some(service) = service {
                state.settle_service(&cluster, &service);
            }
            Ok(launched)
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
    pub(super) fn replace_later(&self, task: &Arc<Task>) {
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

async fn come_up(world: WeakWorld, arn: String, bound: Option<Bound>, pace: Pace) -> Option<()> {
    tokio::time::sleep(pace.provisioning).await;
    world.advance(&arn, |task| {
        task.version += 1;
        task.last_status = LastStatus::Pending;
    })?;
    let task = World(world.0.upgrade()?).task(&arn)?;
    if task.serve == Serve::Hosted {
        return Some(());
    }
    tokio::time::sleep(pace.pending).await;
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
        if let Some(server) = &server {
            server.close().await;
        }
        world.change_task(&task.arn, |task| task.closed = task.closed.or(Some(Stamp::now())))?;
        let orderly = match &server {
            Some(server) => server.finish(began + kill_after).await,
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
async fn finish(world: &WeakWorld, arn: &str, after: Duration) -> Option<()> {
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
