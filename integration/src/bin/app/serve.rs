//! An application that says who it is, and when each request arrived.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use clap::Args;
use serde::Deserialize;

/// How to serve.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The port.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// The name of the service, as callers expect it.
    #[arg(long)]
    service: String,
}

#[derive(Debug)]
struct Identity {
    task: String,
    service: String,
    sick: AtomicBool,
}

#[derive(Debug, Deserialize)]
struct Wish {
    /// Milliseconds until the answer.
    #[serde(default)]
    wait: u64,
}

/// Serves until it is told to end; what is in flight is answered.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let end = super::told_to_end()?;
    let task = task_id().await?;
    let own = Arc::new(Identity { task, service: options.service, sick: AtomicBool::new(false) });
    let router = axum::Router::new()
        .route("/", get(answer))
        .route("/health", get(health))
        .route(
            "/sick",
            post(async |State(own): State<Arc<Identity>>| own.sick.store(true, Ordering::Relaxed)),
        )
        .with_state(own);
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, options.port));
    let listener =
        tokio::net::TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
    axum::serve(listener, router).with_graceful_shutdown(end).await.context("serving")
}

/// The last part of the task's ARN, as the metadata endpoint tells it.
async fn task_id() -> anyhow::Result<String> {
    let base = std::env::var("ECS_CONTAINER_METADATA_URI_V4").context("this is no task of ECS")?;
    let asked = tokio::task::spawn_blocking(move || -> anyhow::Result<serde_json::Value> {
        // Beside the application's proxy, which knows nothing of this.
        let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
        Ok(agent.get(format!("{base}/task")).call()?.body_mut().read_json()?)
    });
    let task = asked.await?.context("asking who this task is")?;
    let arn = task["TaskARN"].as_str().context("a task without an ARN")?;
    Ok(arn.rsplit('/').next().unwrap_or(arn).to_owned())
}

async fn answer(
    State(own): State<Arc<Identity>>,
    Query(wish): Query<Wish>,
) -> ([(&'static str, String); 3], String) {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    tokio::time::sleep(Duration::from_millis(wish.wait)).await;
    let said = format!("{} of {}\n", own.task, own.service);
    ([("x-task", own.task.clone()), ("x-service", own.service.clone()), ("x-at", at.to_string())], said)
}

async fn health(State(own): State<Arc<Identity>>) -> StatusCode {
    if own.sick.load(Ordering::Relaxed) { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
}
