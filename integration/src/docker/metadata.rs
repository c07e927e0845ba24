//! The task metadata endpoint, version 4, for every task of the estate.
//!
//! It answers what ECS's agent answers, as far as a sidecar asks. Invariant: an answer tells of its task only what the world
//! and its definition say, and of its containers only those that have been made: who asks from the first container does not
//! see the application.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::world::{ContainerDefinition, Task, World};

/// A running endpoint. Dropping it ends it.
#[derive(Debug)]
pub struct Metadata {
    address: SocketAddr,
    known: Arc<Known>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Known {
    world: World,
    /// The containers that have been made, by the id of their task.
    made: Mutex<HashMap<String, HashSet<String>>>,
}

impl Metadata {
    /// Answers at a free port of this address.
    pub async fn start(world: World, at: std::net::Ipv4Addr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((at, 0)).await.with_context(|| format!("listening on {at}"))?;
        let address = listener.local_addr().context("the address of the metadata endpoint")?;
        let known = Arc::new(Known { world, made: Mutex::default() });
        let router = Router::new().route("/v4/{task}/task", get(task)).with_state(known.clone());
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the metadata endpoint has ended");
            }
        });
        Ok(Self { address, known, server })
    }

    /// From now on it tells of a container.
    pub fn made(&self, task: &Task, container: &str) {
        let mut made = self.known.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.entry(task.id.clone()).or_default().insert(container.to_owned());
    }

    /// What `ECS_CONTAINER_METADATA_URI_V4` says in the containers of a task.
    pub fn of(&self, task: &Task) -> String {
        format!("http://{}/v4/{}", self.address, task.id)
    }
}

impl Drop for Metadata {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn task(State(known): State<Arc<Known>>, Path(id): Path<String>) -> Result<Json<Value>, StatusCode> {
    let made =
        known.made.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned().unwrap_or_default();
    known.world.task(&id).map(|task| Json(render(&task, &made))).ok_or(StatusCode::NOT_FOUND)
}

fn render(task: &Task, made: &HashSet<String>) -> Value {
    let containers = task.definition.containers.iter().filter(|it| made.contains(&it.name));
    let cluster =
        task.arn.rsplit_once('/').map_or("", |(cluster, _)| cluster).replacen(":task/", ":cluster/", 1);
    json!({
        "Cluster": cluster,
        "TaskARN": task.arn,
        "Family": task.definition.family,
        "Revision": task.definition.revision.to_string(),
        "DesiredStatus": task.desired_status.as_str(),
        "KnownStatus": task.last_status.as_str(),
        "AvailabilityZone": task.zone,
        "LaunchType": "FARGATE",
        "ServiceName": task.service,
        "Group": task.group,
        "Containers": containers.map(|it| container(task, it)).collect::<Vec<_>>(),
    })
}

fn container(task: &Task, container: &ContainerDefinition) -> Value {
    let ports = container.ports.iter();
    let ports: Vec<_> =
        ports.map(|port| json!({ "ContainerPort": port.container_port, "Protocol": "tcp" })).collect();
    json!({
        "Name": container.name,
        "Image": container.image,
        "Labels": container.docker_labels,
        "Ports": ports,
        "Networks": [{ "NetworkMode": "awsvpc", "IPv4Addresses": [task.ip.to_string()] }],
    })
}
