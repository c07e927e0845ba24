//! A task definition as people register it, in the words of ECS's API.
//!
//! It is read from the same JSON that `aws ecs register-task-definition` takes, and says what the containers of a task are, in
//! which order they start, and how one sees that they are well. It leaves out what has no meaning
//! without AWS (roles, log drivers, sizes) and what is not played here (`startTimeout`, `ulimits`). Invariant: what is left
//! refers only to what is there.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use serde::Deserialize;

use crate::world::{AppProtocol, ContainerDefinition, DefinitionSpec, PortMapping};

/// A task definition.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Definition {
    /// Its family.
    pub family: String,
    /// Volumes that its containers share.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// Its containers.
    pub container_definitions: Vec<Container>,
}

/// A volume that lives as long as its task.
#[derive(Debug, Clone, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
}

/// One container.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: String,
    /// Whether its end ends the task.
    #[serde(default = "yes")]
    pub essential: bool,
    /// In place of the image's own.
    #[serde(default)]
    pub entry_point: Vec<String>,
    /// In place of the image's own.
    #[serde(default)]
    pub command: Vec<String>,
    /// Its environment.
    #[serde(default)]
    pub environment: Vec<Variable>,
    /// Who runs it.
    #[serde(default)]
    pub user: Option<String>,
    /// Its ports.
    #[serde(default)]
    pub port_mappings: Vec<Port>,
    /// Its volumes.
    #[serde(default)]
    pub mount_points: Vec<Mount>,
    /// What must be so before it starts.
    #[serde(default)]
    pub depends_on: Vec<Dependency>,
    /// How one sees that it is well.
    #[serde(default)]
    pub health_check: Option<HealthCheck>,
    /// Seconds between SIGTERM and SIGKILL.
    #[serde(default = "thirty")]
    pub stop_timeout: u32,
    /// Its labels.
    #[serde(default)]
    pub docker_labels: BTreeMap<String, String>,
    /// Whether it may write into its own files.
    #[serde(default)]
    pub readonly_root_filesystem: bool,
}

/// A variable of the environment.
#[derive(Debug, Clone, Deserialize)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A port of a container.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// Its name.
    #[serde(default)]
    pub name: Option<String>,
    /// Its number.
    pub container_port: u16,
    /// What it speaks.
    #[serde(default)]
    pub app_protocol: Option<String>,
}

/// Where a volume is seen.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Which.
    pub source_volume: String,
    /// Where.
    pub container_path: String,
    /// Whether it can only be read there.
    #[serde(default)]
    pub read_only: bool,
}

/// What must be so of another container.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dependency {
    /// Which.
    pub container_name: String,
    /// What.
    pub condition: Condition,
}

/// A condition of `dependsOn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Condition {
    /// It has been started.
    Start,
    /// It has ended.
    Complete,
    /// It has ended with 0.
    Success,
    /// It passes its health check.
    Healthy,
}

/// A health check; durations in seconds, with ECS's own defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// `CMD` and its arguments.
    pub command: Vec<String>,
    /// Between two checks.
    #[serde(default = "thirty")]
    pub interval: u32,
    /// Until a check counts as failed.
    #[serde(default = "five")]
    pub timeout: u32,
    /// Failures in a row that make it UNHEALTHY.
    #[serde(default = "three")]
    pub retries: u32,
    /// In which failures don't count.
    #[serde(default)]
    pub start_period: u32,
}

fn yes() -> bool {
    true
}

fn three() -> u32 {
    3
}

fn five() -> u32 {
    5
}

fn thirty() -> u32 {
    30
}

impl Definition {
    /// Reads one, and checks what ECS checks about the order of its containers.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let own: Self = serde_json::from_str(text).context("reading a task definition")?;
        let names: BTreeSet<&str> = own.container_definitions.iter().map(|it| it.name.as_str()).collect();
        let volumes: BTreeSet<&str> = own.volumes.iter().map(|it| it.name.as_str()).collect();
        for container in &own.container_definitions {
            for other in &container.depends_on {
                let (name, other) = (&container.name, &other.container_name);
                anyhow::ensure!(names.contains(other.as_str()) && other != name, "{name} depends on {other}");
            }
            for mount in &container.mount_points {
                let (name, volume) = (&container.name, &mount.source_volume);
                anyhow::ensure!(
                    volumes.contains(volume.as_str()),
                    "{name} mounts {volume}, which is no volume"
                );
            }
            if let Some(check) = &container.health_check {
                let direct =
                    check.command.first().is_some_and(|word| word == "CMD") && check.command.len() > 1;
                anyhow::ensure!(
                    direct,
                    "{}: only health checks of the form CMD can run without a shell",
                    container.name
                );
            }
        }
        Ok(own)
    }

    /// One container.
    pub fn container(&self, name: &str) -> anyhow::Result<&Container> {
        let found = self.container_definitions.iter().find(|container| container.name == name);
        found.with_context(|| format!("{} has no container {name}", self.family))
    }

    /// One container, to be changed.
    pub fn container_mut(&mut self, name: &str) -> anyhow::Result<&mut Container> {
        let found = self.container_definitions.iter_mut().find(|container| container.name == name);
        found.with_context(|| format!("{} has no container {name}", self.family))
    }

    /// What the world knows of it.
    pub fn spec(&self) -> anyhow::Result<DefinitionSpec> {
        let containers =
            self.container_definitions.iter().map(Container::spec).collect::<Result<Vec<_>, _>>()?;
        let mut spec = DefinitionSpec::new(&self.family, ContainerDefinition::new("app"));
        spec.containers = containers;
        Ok(spec)
    }
}

impl Container {
    fn spec(&self) -> anyhow::Result<ContainerDefinition> {
        let ports = self.port_mappings.iter().map(|port| {
            let protocol = port.app_protocol.as_deref();
            let known =
                protocol.map(|word| AppProtocol::parse(word).with_context(|| format!("appProtocol {word}")));
            let app_protocol = known.transpose()?;
            Ok(PortMapping { name: port.name.clone(), container_port: port.container_port, app_protocol })
        });
        Ok(ContainerDefinition {
            name: self.name.clone(),
            image: self.image.clone(),
            essential: self.essential,
            ports: ports.collect::<anyhow::Result<_>>()?,
            health_check: self.health_check.is_some(),
            stop_timeout: Some(self.stop_timeout),
            docker_labels: self.docker_labels.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = r#"{ "family": "shop", "networkMode": "awsvpc", "volumes": [{ "name": "mesh" }], "containerDefinitions": [
        { "name": "envoy", "image": "e", "healthCheck": { "command": ["CMD", "/ready"], "interval": 5 },
          "mountPoints": [{ "sourceVolume": "mesh", "containerPath": "/mesh", "readOnly": true }] },
        { "name": "app", "image": "a", "dependsOn": [{ "containerName": "envoy", "condition": "HEALTHY" }],
          "portMappings": [{ "name": "http", "containerPort": 8080, "appProtocol": "http" }] } ] }"#;

    #[test]
    fn it_is_read_as_ecs_reads_it() {
        let shop = Definition::parse(TWO).unwrap();
        let app = shop.container("app").unwrap();
        assert_eq!((app.essential, app.stop_timeout), (true, 30));
        assert_eq!(app.depends_on[0].condition, Condition::Healthy);
        let check = shop.container("envoy").unwrap().health_check.clone().unwrap();
        assert_eq!((check.interval, check.timeout, check.retries), (5, 5, 3));
        let spec = shop.spec().unwrap();
        assert_eq!(spec.containers[1].ports[0].app_protocol, Some(AppProtocol::Http));
        assert!(spec.containers[0].health_check && !spec.containers[1].health_check);
    }

    #[test]
    fn what_ecs_refuses_is_refused() {
        for (right, wrong, told) in [
            ("\"containerName\": \"envoy\"", "\"containerName\": \"proxy\"", "app depends on proxy"),
            ("\"sourceVolume\": \"mesh\"", "\"sourceVolume\": \"mush\"", "envoy mounts mush"),
            ("[\"CMD\", \"/ready\"]", "[\"CMD-SHELL\", \"curl x\"]", "without a shell"),
            ("HEALTHY", "WELL", "unknown variant `WELL`"),
            ("\"appProtocol\": \"http\"", "\"appProtocol\": \"http3\"", "appProtocol http3"),
        ] {
            let read = Definition::parse(&TWO.replace(right, wrong)).and_then(|it| it.spec());
            let error = format!("{:#}", read.unwrap_err());
            assert!(error.contains(told), "{error}");
        }
    }
}
