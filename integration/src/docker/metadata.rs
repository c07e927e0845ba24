//! The task metadata endpoint, version 4, for every task of the estate.
//!
//! It answers what ECS's agent answers, as far as a sidecar asks. Invariant: an answer tells of its task only what the world
//! and its definition say.

use std::net::SocketAddr;
use std::sync::Arc;

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
    server: JoinHandle<()>,
}

impl Metadata {
    /// Answers at a free port of this address.
    pub async fn start(world: World, at: std::net::Ipv4Addr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((at, 0)).await.with_context(|| format!("listening on {at}"))?;
        let address = listener.local_addr().context("the address of the metadata endpoint")?;
        let router = Router::new().route("/v4/{task}/task", get(task)).with_state(Arc::new(world));
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the metadata endpoint has ended");
            }
        });
        Ok(Self { address, server })
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

async fn task(State(world): State<Arc<World>>, Path(id): Path<String>) -> Result<Json<Value>, StatusCode> {
    world.task(&id).map(|task| Json(render(&task))).ok_or(StatusCode::NOT_FOUND)
}

fn render(task: &Task) -> Value {
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
        "Containers": task.definition.containers.iter().map(|it| container(task, it)).collect::<Vec<_>>(),
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
