//! An application that says who it is, and tells when each request arrives.
//!
//! It can be made sick (its health check fails, it answers) and made to hang (it neither answers nor ends). Invariant: an arrival is
//! told before the request is answered.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use clap::Args;
use integration::docker::arrivals;
use tokio::net::{TcpListener, UdpSocket};

/// How to serve.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The port.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// The name of the service, as callers expect it.
    #[arg(long)]
    service: String,
    /// Where arrivals are told.
    #[arg(long, env = arrivals::VARIABLE)]
    arrivals: SocketAddr,
}

#[derive(Debug)]
struct Own {
    task: String,
    service: String,
    arrivals: UdpSocket,
    sick: AtomicBool,
    hangs: AtomicBool,
}

/// Serves until it is told to end; what is in flight is answered.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let end = super::told_to_end()?;
    let task = task_id().await?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.context("a socket for arrivals")?;
    socket.connect(options.arrivals).await.with_context(|| format!("telling {}", options.arrivals))?;
    let own = Arc::new(Own {
        task,
        service: options.service,
        arrivals: socket,
        sick: AtomicBool::new(false),
        hangs: AtomicBool::new(false),
    });
    let router = axum::Router::new()
        .route("/", get(answer))
        .route("/health", get(health))
        .route("/sick", post(async |State(own): State<Arc<Own>>| own.sick.store(true, Ordering::Relaxed)))
        .route("/hang", post(async |State(own): State<Arc<Own>>| own.hangs.store(true, Ordering::Relaxed)))
        .with_state(own.clone());
    let end = async move {
        end.await;
        own.unless_it_hangs().await;
    };
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, options.port));
    let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
    axum::serve(listener, router).with_graceful_shutdown(end).await.context("serving")
}

impl Own {
    /// Goes on at once, or never.
    async fn unless_it_hangs(&self) {
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending().await
        }
    }
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

async fn answer(State(own): State<Arc<Own>>) -> ([(&'static str, String); 2], String) {
    // One that is lost is one that is not counted: the network has no other way here.
    let _ = own.arrivals.send(arrivals::tell(&own.task).as_bytes()).await;
    own.unless_it_hangs().await;
    let said = format!("{} of {}\n", own.task, own.service);
    ([("x-task", own.task.clone()), ("x-service", own.service.clone())], said)
}

async fn health(State(own): State<Arc<Own>>) -> StatusCode {
    own.unless_it_hangs().await;
    if own.sick.load(Ordering::Relaxed) { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
}
