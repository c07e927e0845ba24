//! The life of one task: its containers come up in the order of `dependsOn`, are looked after, and go down in reverse.
//!
//! Invariant: it tells the world that the task runs once every container has been started, that it has ended once none of its
//! containers runs (or at once, where one has ended by itself), and that it is over once nothing of it is left.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::agent::Shared;
use super::definition::{Condition, Container, Definition, Dependency, HealthCheck};
use super::engine::{Order, Place};
use super::{CONTAINER, TASK, image};
use crate::world::{Health, StopCode, StopPlan, Task};

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// Something that it depends on is not so yet.
    Waiting,
    /// It runs, with this id.
    Running { id: String, health: Health },
    /// It has ended; or it was never started, because the task ends.
    Ended(i64),
}

/// The containers of a task by name.
type Phases = BTreeMap<String, Phase>;

pub(super) struct Life {
    agent: Arc<Shared>,
    task: Arc<Task>,
    definition: Arc<Definition>,
    stop: CancellationToken,
    phases: watch::Sender<Phases>,
}

impl Life {
    pub(super) fn new(
        agent: Arc<Shared>,
        task: Arc<Task>,
        definition: Arc<Definition>,
        stop: CancellationToken,
    ) -> Self {
        let containers = definition.container_definitions.iter();
        let waiting = containers.map(|container| (container.name.clone(), Phase::Waiting)).collect();
        Self { agent, task, definition, stop, phases: watch::Sender::new(waiting) }
    }

    /// From the first container to the last trace.
    pub(super) async fn live(self) -> anyhow::Result<()> {
        let outcome = match self.prepare().await {
            Ok(pause) => self.run(&pause).await,
            Err(error) => {
                let reason = format!("CannotStartContainerError: {error:#}");
                let world = &self.agent.world;
                world.task_exited(&self.task.arn, 1, StopCode::TaskFailedToStart, &reason)?;
                Err(error.context("preparing"))
            }
        };
        // Its address is somebody else's from here on, so nothing may be left of it.
        let cleared = self.clear().await;
        self.agent.world.task_gone(&self.task.arn)?;
        outcome.and(cleared)
    }

    async fn run(&self, pause: &str) -> anyhow::Result<()> {
        let containers = self.definition.container_definitions.iter();
        let end = CancellationToken::new();
        let all = join_all(containers.map(|container| self.look_after(container, pause, &end)));
        let judged = async {
            let judged = self.judge(&end).await;
            end.cancel();
            judged
        };
        let (outcomes, judged) = tokio::join!(all, judged);
        outcomes.into_iter().collect::<anyhow::Result<()>>().and(judged)
    }

    /// The network namespace, with the task's address, and the volumes.
    async fn prepare(&self) -> anyhow::Result<String> {
        for volume in &self.definition.volumes {
            self.agent.engine.create_volume(&self.volume(&volume.name)).await?;
        }
        let place = Place::At { network: self.agent.network.clone(), ip: self.task.ip, names: Vec::new() };
        let name = format!("{}-pause", self.task.id);
        let command = vec!["pause".to_owned()];
        let labels = self.labels("pause");
        let order = Order {
            name,
            image: image::APP.to_owned(),
            command,
            place,
            labels,
            read_only: true,
            ..Order::default()
        };
        self.agent.engine.run(order).await
    }

    fn volume(&self, name: &str) -> String {
        format!("{}-{name}", self.task.id)
    }

    fn labels(&self, container: &str) -> HashMap<String, String> {
        let pairs = [(TASK, self.task.arn.as_str()), (CONTAINER, container)];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    /// Tells the world how the task as a whole fares, until `end`: all started, one ended that must not, one that
    /// can never start, told to stop.
    async fn judge(&self, end: &CancellationToken) -> anyhow::Result<()> {
        let world = &self.agent.world;
        let mut phases = self.phases.subscribe();
        let started = |phases: &Phases| phases.values().all(|phase| *phase != Phase::Waiting);
        let over = |phases: &Phases| self.must_end(phases).is_some();
        let mut told = false;
        let exit = loop {
            let now = phases.borrow_and_update().clone();
            if let Some(why) = self.must_end(&now) {
                break Some(why);
            }
            if started(&now) && !told {
                told = true;
                world.task_started(&self.task.arn)?;
            }
            let next = async { phases.wait_for(|now| over(now) || (!told && started(now))).await.is_ok() };
            tokio::select! {
                () = self.stop.cancelled() => break None,
                _ = next => {}
            }
        };
        if let Some((code, why, reason)) = exit {
            // A stop that is asked for before the end is noticed takes its own course.
            let told = tokio::time::timeout(self.agent.notice(), self.stop.cancelled()).await.is_ok();
            if !told && !self.stop.is_cancelled() {
                let code = i32::try_from(code).unwrap_or(-1);
                return Ok(world.task_exited(&self.task.arn, code, why, reason)?);
            }
        }
        end.cancel();
        let ended = |phases: &Phases| phases.values().all(|phase| matches!(phase, Phase::Ended(_)));
        phases.wait_for(ended).await.context("nobody looks after the containers")?;
        let worst =
            phases.borrow().values().map(|it| if let Phase::Ended(code) = it { *code } else { 0 }).max();
        Ok(world.task_ended(&self.task.arn, i32::try_from(worst.unwrap_or(0)).unwrap_or(-1))?)
    }

    /// Why the task can't go on, if it can't: with an exit code and ECS's own words.
    fn must_end(&self, phases: &Phases) -> Option<(i64, StopCode, &'static str)> {
        let containers = || self.definition.container_definitions.iter();
        let ended = |container: &Container| match phases.get(&container.name) {
            Some(Phase::Ended(code)) => Some(*code),
            _ => None,
        };
        if let Some(code) = containers().filter(|container| container.essential).find_map(ended) {
            return Some((code, StopCode::EssentialContainerExited, "Essential container in task exited"));
        }
        let must_succeed = |other: &&Container| {
            let named =
                |it: &Dependency| it.condition == Condition::Success && it.container_name == other.name;
            containers().any(|container| container.depends_on.iter().any(named))
        };
        let failed = containers().filter(must_succeed).filter_map(ended).find(|code| *code != 0);
        failed.map(|code| (code, StopCode::TaskFailedToStart, "A dependency did not succeed"))
    }

    fn set(&self, name: &str, phase: Phase) {
        self.phases.send_modify(|phases| drop(phases.insert(name.to_owned(), phase)));
    }

    /// One container, from what it waits for to its end. Whatever goes wrong with it ends it.
    async fn look_after(
        &self,
        container: &Container,
        pause: &str,
        end: &CancellationToken,
    ) -> anyhow::Result<()> {
        let outcome = self.play(container, pause, end).await;
        self.set(&container.name, Phase::Ended(outcome.as_ref().map_or(-1, |code| *code)));
        outcome.map(drop).with_context(|| format!("container {}", container.name))
    }

    /// Its exit code; 0 where it was never to be started.
    async fn play(&self, container: &Container, pause: &str, end: &CancellationToken) -> anyhow::Result<i64> {
        let mut phases = self.phases.subscribe();
        let may_start = phases.wait_for(|phases| container.depends_on.iter().all(|it| holds(it, phases)));
        tokio::select! {
            waited = may_start => drop(waited.context("nobody looks after the task")?),
            () = end.cancelled() => return Ok(0),
        }
        let id = self.start(container, pause).await?;
        self.set(&container.name, Phase::Running { id: id.clone(), health: Health::Unknown });
        let code = tokio::select! {
            code = self.agent.engine.ended(&id) => code?,
            never = self.check(container, &id) => never?,
            code = self.take_down(container, &id, end) => code?,
        };
        if code != 0 && !end.is_cancelled() {
            let said = self.agent.engine.said(&id, 15).await.unwrap_or_default();
            tracing::warn!(
                task = self.task.id,
                container = container.name,
                code,
                said,
                "a container has ended"
            );
        }
        Ok(code)
    }

    async fn start(&self, container: &Container, pause: &str) -> anyhow::Result<String> {
        let mut environment =
            vec![format!("ECS_CONTAINER_METADATA_URI_V4={}", self.agent.metadata.of(&self.task))];
        environment.extend(container.environment.iter().map(|it| format!("{}={}", it.name, it.value)));
        let binds = container.mount_points.iter().map(|mount| {
            let how = if mount.read_only { ":ro" } else { "" };
            format!("{}:{}{how}", self.volume(&mount.source_volume), mount.container_path)
        });
        let order = Order {
            name: format!("{}-{}", self.task.id, container.name),
            image: container.image.clone(),
            entry_point: container.entry_point.clone(),
            command: container.command.clone(),
            environment,
            user: container.user.clone(),
            binds: binds.collect(),
            read_only: container.readonly_root_filesystem,
            place: Place::In(pause.to_owned()),
            labels: self.labels(&container.name),
        };
        self.agent.metadata.made(&self.task, &container.name);
        self.agent.engine.run(order).await
    }

    /// Ends a container once those that depend on it have ended: SIGTERM, and SIGKILL after its time.
    async fn take_down(
        &self,
        container: &Container,
        id: &str,
        end: &CancellationToken,
    ) -> anyhow::Result<i64> {
        end.cancelled().await;
        let containers = self.definition.container_definitions.iter();
        let depends =
            |other: &&Container| other.depends_on.iter().any(|it| it.container_name == container.name);
        let dependants: Vec<&str> = containers.filter(depends).map(|other| other.name.as_str()).collect();
        let gone = |phases: &Phases| {
            dependants.iter().all(|name| matches!(phases.get(*name), Some(Phase::Ended(_))))
        };
        self.phases.subscribe().wait_for(gone).await.context("nobody looks after the task")?;
        let engine = &self.agent.engine;
        engine.signal(id, "SIGTERM").await?;
        if let Some(code) =
            engine.ended_within(id, Duration::from_secs(container.stop_timeout.into())).await?
        {
            return Ok(code);
        }
        engine.signal(id, "SIGKILL").await?;
        engine.ended(id).await
    }

    /// Runs the health check of a container as long as it lives.
    async fn check(&self, container: &Container, id: &str) -> anyhow::Result<i64> {
        let Some(check) = &container.health_check else { return std::future::pending().await };
        // One that has ended already is told of elsewhere.
        let Ok(inside) = self.agent.engine.inside(id).await else { return std::future::pending().await };
        let began = tokio::time::Instant::now();
        let start_period = Duration::from_secs(check.start_period.into());
        let mut failures = 0;
        // ECS makes the first checks after one interval each; here they come sooner, so that tasks come up sooner.
        let mut pause = Duration::from_secs(check.interval.into()).min(Duration::from_millis(500));
        loop {
            tokio::time::sleep(pause).await;
            let passed = passes(inside.exec(&check.command[1..]), check).await;
            failures = if passed { 0 } else { failures + 1 };
            let health = match passed {
                true => Health::Healthy,
                false if failures >= check.retries && began.elapsed() >= start_period => Health::Unhealthy,
                false => continue,
            };
            pause = Duration::from_secs(check.interval.into());
            self.note_health(container, id, health)?;
        }
    }

    fn note_health(&self, container: &Container, id: &str, health: Health) -> anyhow::Result<()> {
        let is_new = |phase: &Phase| matches!(phase, Phase::Running { health: old, .. } if *old != health);
        if !self.phases.borrow().get(&container.name).is_some_and(is_new) {
            return Ok(());
        }
        self.set(&container.name, Phase::Running { id: id.to_owned(), health });
        let world = &self.agent.world;
        world.set_health(&self.task.arn, &container.name, health)?;
        if health == Health::Unhealthy && self.task.service.is_some() && container.essential {
            let reason = format!("container {} failed its health check", container.name);
            let plan = StopPlan { reason, ..StopPlan::default().by_scheduler() };
            world.stop_task(&self.task.arn, plan)?;
        }
        Ok(())
    }

    /// Removes everything that was made for the task.
    async fn clear(&self) -> anyhow::Result<()> {
        let engine = &self.agent.engine;
        let containers =
            self.definition.container_definitions.iter().map(|container| container.name.as_str());
        let mut outcome = Ok(());
        for name in containers.chain(["pause"]) {
            outcome = outcome.and(engine.remove(&format!("{}-{name}", self.task.id)).await);
        }
        for volume in &self.definition.volumes {
            outcome = outcome.and(engine.remove_volume(&self.volume(&volume.name)).await);
        }
        outcome
    }
}

fn holds(dependency: &Dependency, phases: &Phases) -> bool {
    match (phases.get(&dependency.container_name), dependency.condition) {
        (Some(Phase::Running { health, .. }), Condition::Healthy) => *health == Health::Healthy,
        (Some(Phase::Running { .. } | Phase::Ended(_)), Condition::Start) => true,
        (Some(Phase::Ended(_)), Condition::Complete) => true,
        (Some(Phase::Ended(0)), Condition::Success) => true,
        _ => false,
    }
}

async fn passes(mut command: tokio::process::Command, check: &HealthCheck) -> bool {
    command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let limit = Duration::from_secs(check.timeout.into());
    matches!(tokio::time::timeout(limit, command.status()).await, Ok(Ok(status)) if status.success())
}
