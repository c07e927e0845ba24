//! What runs in the containers of the estate: an application that is called, one that calls, and what holds a network.
//!
//! It knows nothing of Legation: names lead it to its sidecar. It is one program, so that one small image does.
//! Invariant: it ends with 0 on SIGTERM, after what was in flight.

mod call;
mod serve;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Hold a network namespace, and do nothing.
    Pause,
    /// Answer requests with who one is.
    Serve(serve::Options),
    /// Send requests at a steady rate, and tell what became of them.
    Call(call::Options),
    /// Ask an application of this task how it is: for health checks.
    Ready {
        /// Where it answers.
        #[arg(long, default_value = "127.0.0.1:8080")]
        at: SocketAddr,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Options::parse().role {
        Role::Pause => {
            told_to_end()?.await;
            Ok(())
        }
        Role::Serve(options) => serve::run(options).await,
        Role::Call(options) => call::run(options).await,
        Role::Ready { at } => ready(at).await,
    }
}

/// Ends on SIGTERM or Ctrl-C; as the first process of a container one has to listen for them oneself.
fn told_to_end() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut term = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

async fn ready(at: SocketAddr) -> anyhow::Result<()> {
    let asked = tokio::time::timeout(Duration::from_secs(1), integration::http::get_ok(at, "/health"));
    asked.await.context("no answer within a second")?.map(drop)
}
