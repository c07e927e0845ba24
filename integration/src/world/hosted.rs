//! What an agent says of the tasks that it runs.
//!
//! The agent stands where ECS's own stands: it hears of every version of every task by [`World::events`], starts the
//! containers of one that is PENDING, ends those of one whose desired status is STOPPED, and reports here. When a task
//! starts or is to stop is decided elsewhere. Invariant: versions are counted as for every other task, so a planned stop
//! gives 1 to 6 and an exit 1 to 5.

use super::launch::run;
use super::model::{DesiredStatus, LastStatus, Serve, Stamp, StopCode};
use super::state::State;
use super::task::Task;
use super::{World, WorldError};

impl World {
    /// All containers of a task have been started: it is RUNNING, unless it was told to stop meanwhile.
    pub fn task_started(&self, task: &str) -> Result<(), WorldError> {
        self.report(task, |task| {
            if task.desired_status == DesiredStatus::Running && task.last_status == LastStatus::Pending {
                task.version += 1;
                run(task);
            }
        })
    }

    /// The containers of a task that was told to stop have ended.
    pub fn task_ended(&self, task: &str, exit_code: i32) -> Result<(), WorldError> {
        self.report(task, |task| deprovision(task, exit_code))
    }

    /// A task's essential container has ended by itself, or a task could not be started.
    pub fn task_exited(
        &self,
        task: &str,
        exit_code: i32,
        code: StopCode,
        reason: &str,
    ) -> Result<(), WorldError> {
        self.report(task, |task| {
            // A stop that was asked for meanwhile has its own reason.
            if task.desired_status == DesiredStatus::Running {
                task.desired_status = DesiredStatus::Stopped;
                task.stopping = Some(Stamp::now());
                task.stop_code = Some(code);
                task.stopped_reason = Some(reason.to_owned());
            }
            deprovision(task, exit_code);
        })?;
        if let Some(task) = self.task(task) {
            self.replace_later(&task);
        }
        Ok(())
    }

    /// Nothing is left of a task, and its address is free.
    pub fn task_gone(&self, task: &str) -> Result<(), WorldError> {
        self.report(task, |task| {
            task.version += 1;
            task.last_status = LastStatus::Stopped;
            task.stopped = Some(Stamp::now());
        })
    }

    fn report(&self, task: &str, change: impl FnOnce(&mut Task)) -> Result<(), WorldError> {
        self.change(|state: &mut State| {
            let found = state.task(task)?;
            if found.serve != Serve::Hosted {
                return Err(WorldError::Invalid(format!("task {task} has no agent")));
            }
            let arn = found.arn.clone();
            state.change_task(&arn, change)
        })
    }
}

fn deprovision(task: &mut Task, exit_code: i32) {
    task.version += 1;
    task.last_status = LastStatus::Deprovisioning;
    task.execution_stopped = Some(Stamp::now());
    task.closed = task.closed.or(task.execution_stopped);
    task.containers.iter_mut().for_each(|container| container.exit_code = Some(exit_code));
}
