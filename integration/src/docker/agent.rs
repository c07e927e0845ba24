//! The agent: it runs the tasks that the world wants, and tells how they fare.
//!
//! It stands where ECS's own agent stands. It decides nothing: what is to run, where and until when is the world's. Invariant: each
//! task has one [`Life`](super::life::Life), which begins when the task is PENDING and ends when nothing of it is left.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::definition::Definition;
use super::engine::Engine;
use super::life::Life;
use super::metadata::Metadata;
use crate::world::{DesiredStatus, LastStatus, Serve, Task, TaskDefinition, World};

/// A running agent. Dropping it ends it; the containers stay until the engine is swept.
#[derive(Debug)]
pub struct Agent {
    shared: Arc<Shared>,
    follower: JoinHandle<()>,
}

/// What all lives know.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) world: World,
    pub(super) engine: Engine,
    pub(super) network: String,
    pub(super) metadata: Metadata,
    definitions: Mutex<HashMap<String, Arc<Definition>>>,
    /// How late it notices that a container has ended by itself: Fargate has needed ten seconds.
    notice: Mutex<Duration>,
    stops: Mutex<HashMap<String, CancellationToken>>,
    lives: TaskTracker,
    quit: CancellationToken,
}

impl Agent {
    /// Runs the hosted tasks of a world on a network whose gateway is this machine.
    pub async fn start(
        world: World,
        engine: Engine,
        network: &str,
        gateway: Ipv4Addr,
    ) -> anyhow::Result<Self> {
        let metadata = Metadata::start(world.clone(), gateway).await?;
        let mut events = world.events();
        let shared = Arc::new(Shared {
            world,
            engine,
            network: network.to_owned(),
            metadata,
            definitions: Mutex::default(),
            notice: Mutex::default(),
            stops: Mutex::default(),
            lives: TaskTracker::new(),
            quit: CancellationToken::new(),
        });
        let own = shared.clone();
        let follower = tokio::spawn(async move {
            while let Some(task) = events.recv().await {
                if task.serve == Serve::Hosted {
                    own.clone().hear(&task);
                }
            }
        });
        Ok(Self { shared, follower })
    }

    /// Registers a task definition with the world; its tasks are run as it says.
    pub fn register(&self, definition: &Definition) -> anyhow::Result<Arc<TaskDefinition>> {
        let registered = self.shared.world.register_definition(definition.spec()?).context("registering")?;
        let mut known = lock(&self.shared.definitions);
        known.insert(registered.arn.clone(), Arc::new(definition.clone()));
        Ok(registered)
    }

    /// From now on it notices this late that a container has ended by itself.
    pub fn notice_after(&self, delay: Duration) {
        *lock(&self.shared.notice) = delay;
    }

    /// Leaves all containers to themselves, from which on somebody else may remove them.
    pub async fn quit(&self) {
        self.follower.abort();
        self.shared.quit.cancel();
        self.shared.lives.close();
        self.shared.lives.wait().await;
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.follower.abort();
        self.shared.quit.cancel();
    }
}

impl Shared {
    fn hear(self: Arc<Self>, task: &Arc<Task>) {
        match (task.desired_status, task.last_status) {
            (DesiredStatus::Running, LastStatus::Pending) => {
                let Some(definition) = lock(&self.definitions).get(&task.definition.arn).cloned() else {
                    tracing::error!(task = task.arn, "its definition was registered elsewhere");
                    return;
                };
                let stop = CancellationToken::new();
                lock(&self.stops).insert(task.arn.clone(), stop.clone());
                let (own, task) = (self.clone(), task.clone());
                self.lives.spawn(async move {
                    let arn = task.arn.clone();
                    let life = Life::new(own.clone(), task, definition, stop).live();
                    if let Some(Err(error)) = own.quit.run_until_cancelled(life).await {
                        tracing::error!(task = arn, error = format!("{error:#}"), "its life ended badly");
                    }
                    lock(&own.stops).remove(&arn);
                });
            }
            (DesiredStatus::Stopped, _) => {
                if let Some(stop) = lock(&self.stops).get(&task.arn) {
                    stop.cancel();
                }
            }
            _ => {}
        }
    }

    pub(super) fn notice(&self) -> Duration {
        *lock(&self.notice)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
