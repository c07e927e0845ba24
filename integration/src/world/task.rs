//! A task as ECS knows it, and its history.
//!
//! Plain data and the judgements that follow from it; how a task comes and goes is in `lifecycle`.
//! Invariant: what ECS reports of a [`Task`] changes only together with its `version`, except health and
//! tags, which raise no ECS event and therefore leave the version alone.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use super::model::{DesiredStatus, Health, LastStatus, Serve, Stamp, StopCode, Tags, TaskDefinition};
use super::server::RequestLog;

/// One version of a task: what an ECS event about it would say.
#[derive(Debug, Clone, Copy)]
pub struct Transition {
    /// The task's version.
    pub version: u64,
    /// Where ECS wanted it.
    pub desired_status: DesiredStatus,
    /// Where it was.
    pub last_status: LastStatus,
    /// Since when.
    pub at: Stamp,
}

/// One container of a running task.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its health.
    pub health: Health,
    /// Set once it ended.
    pub exit_code: Option<i32>,
}

/// A task, as ECS knows it.
#[derive(Debug, Clone)]
pub struct Task {
    /// `arn:aws:ecs:R:A:task/<cluster>/<id>`.
    pub arn: String,
    /// The last part of the ARN.
    pub id: String,
    /// Cluster name.
    pub cluster: String,
    /// Service name, if any.
    pub service: Option<String>,
    /// What it runs.
    pub definition: Arc<TaskDefinition>,
    /// `service:<name>` or `family:<family>`.
    pub group: String,
    /// Deployment id, for a task of a service.
    pub started_by: Option<String>,
    /// Zone name.
    pub zone: String,
    /// Its address: its own, or its machine's.
    pub ip: Ipv4Addr,
    /// The container instance that it runs on, where it shares that one's address.
    pub machine: Option<String>,
    /// The machine's port for each of its own.
    pub host_ports: BTreeMap<u16, u16>,
    /// RunTask tags.
    pub tags: Tags,
    /// Where ECS wants it.
    pub desired_status: DesiredStatus,
    /// Where it last was.
    pub last_status: LastStatus,
    /// Rises with every change which raises an event.
    pub version: u64,
    /// Its versions so far, oldest first.
    pub history: Vec<Transition>,
    /// Health of the task.
    pub health: Health,
    /// Its containers.
    pub containers: Vec<Container>,
    /// Why it stops.
    pub stop_code: Option<StopCode>,
    /// The same in words.
    pub stopped_reason: Option<String>,
    /// When it was asked for.
    pub created: Stamp,
    /// When it became RUNNING.
    pub started: Option<Stamp>,
    /// When it became HEALTHY.
    pub healthy: Option<Stamp>,
    /// When the stop was recorded.
    pub stopping: Option<Stamp>,
    /// When its application stopped accepting connections.
    pub closed: Option<Stamp>,
    /// When its processes ended.
    pub execution_stopped: Option<Stamp>,
    /// When it was STOPPED.
    pub stopped: Option<Stamp>,
    /// What its server received.
    pub log: Arc<RequestLog>,
    /// Whether it really listens.
    pub serve: Serve,
    /// Cloud Map services it is registered in.
    pub registered_in: Vec<String>,
}

impl Task {
    /// Whether ECS wants it and its containers run.
    pub fn in_service(&self) -> bool {
        self.desired_status == DesiredStatus::Running && self.last_status == LastStatus::Running
    }

    /// Whether it is in service and every container with a check is HEALTHY.
    pub fn ready(&self) -> bool {
        self.in_service() && self.checked_health() != Some(Health::Unhealthy)
    }

    /// HEALTHY if every container with a check is, else UNHEALTHY; none when nothing is checked.
    pub fn checked_health(&self) -> Option<Health> {
        let with_check =
            |c: &&Container| self.definition.containers.iter().any(|d| d.name == c.name && d.health_check);
        let mut checked = self.containers.iter().filter(with_check).peekable();
        checked.peek()?;
        Some(if checked.all(|c| c.health == Health::Healthy) { Health::Healthy } else { Health::Unhealthy })
    }

    /// Adds the present version to the history.
    pub(super) fn note_version(&mut self) {
        if self.history.last().is_none_or(|latest| latest.version < self.version) {
            self.history.push(Transition {
                version: self.version,
                desired_status: self.desired_status,
                last_status: self.last_status,
                at: Stamp::now(),
            });
        }
    }

    /// The health of the task, from its essential containers.
    pub(super) fn judge_health(&mut self) {
        let is_essential =
            |c: &&Container| self.definition.containers.iter().any(|d| d.name == c.name && d.essential);
        let mut verdict = Health::Healthy;
        for container in self.containers.iter().filter(is_essential) {
            match container.health {
                Health::Unhealthy => verdict = Health::Unhealthy,
                Health::Unknown if verdict == Health::Healthy => verdict = Health::Unknown,
                Health::Unknown | Health::Healthy => {}
            }
        }
        self.health = verdict;
    }

    /// Its server's address for a port name.
    pub fn endpoint(&self, port_name: &str) -> Option<SocketAddrV4> {
        let ports = self.definition.containers.iter().flat_map(|c| &c.ports);
        let port = ports.filter(|p| p.name.as_deref() == Some(port_name)).map(|p| p.container_port).next();
        port.map(|port| SocketAddrV4::new(self.ip, self.host_port(port)))
    }

    /// The port at its address that leads to one of its containers' ports.
    pub fn host_port(&self, container_port: u16) -> u16 {
        self.host_ports.get(&container_port).copied().unwrap_or(container_port)
    }
}
