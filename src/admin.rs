//! Health, metrics and inspection over HTTP: everything that people and monitors ask this process.
//!
//! It is not a control surface: nothing here changes anything, but for one order that only has a source read, and nothing
//! here is on the way of a push.
//!
//! Invariant: read-only, but for that order; inspection answers on loopback only, and only to those who call it loopback.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::middleware::from_fn;
use axum::routing::{get, post};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::changes::Ledger;
use crate::model::Mesh;
use crate::policy::watch::Loaded;
use crate::source::Cell;
use crate::store::Store;
use crate::xds::clients::Clients;

mod answer;
mod changes;
mod csds;
mod explain;
mod guard;
mod health;
pub mod json;
mod metrics;
mod namespaces;
mod proxies;
mod release;
mod status;
mod world;

/// How long open connections get to end once the server stops answering.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// What the pages show. Clones share it.
#[derive(Clone, Debug)]
pub struct AdminState {
    /// What is true.
    pub mesh: watch::Receiver<Arc<Mesh>>,
    /// How clients treat services, and what is wrong with it.
    pub policy: watch::Receiver<Loaded>,
    /// What is served.
    pub store: Store,
    /// To whom.
    pub clients: Clients,
    /// What left, and who has agreed.
    pub ledger: Ledger,
    /// What each source has said.
    pub cells: Vec<Cell>,
    /// How the queue of events fares, if there is one: it is no source of its own.
    pub queue: Option<Cell>,
    /// What hot paths count.
    pub registry: Arc<Registry>,
    /// Cancelled once the process is told to end.
    pub stopping: CancellationToken,
    /// When the process began.
    pub started_at: SystemTime,
}

impl AdminState {
    fn mesh(&self) -> Arc<Mesh> {
        Arc::clone(&self.mesh.borrow())
    }

    /// Whatever is read, the queue of events too.
    fn every_cell(&self) -> impl Iterator<Item = &Cell> {
        self.cells.iter().chain(&self.queue)
    }
}

/// Answers health checks and Prometheus until `shutdown`.
pub async fn serve_metrics(
    listener: TcpListener,
    state: AdminState,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    serve(listener, metrics_router(state), shutdown).await
}

/// Answers people until `shutdown`. `listener` must be bound to loopback.
pub async fn serve_admin(
    listener: TcpListener,
    state: AdminState,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    serve(listener, admin_router(state), shutdown).await
}

async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) -> std::io::Result<()> {
    let asked = shutdown.clone().cancelled_owned();
    let server = axum::serve(listener, router).with_graceful_shutdown(asked).into_future();
    tokio::select! {
        outcome = server => outcome,
        () = async {
            shutdown.cancelled().await;
            tokio::time::sleep(LAST_ANSWERS).await;
        } => Ok(()),
    }
}

fn metrics_router(state: AdminState) -> Router {
    let router = Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(metrics::metrics))
        .fallback(answer::no_such_figures)
        .with_state(state);
    router.layer(from_fn(guard::read_only))
}

/// The pages that take long, one at a time.
#[derive(Clone, Debug)]
struct Pages {
    state: AdminState,
    dumps: Arc<Semaphore>,
}

fn admin_router(state: AdminState) -> Router {
    let csds = csds::router(state.clients.clone());
    let pages = Pages { state, dumps: Arc::new(Semaphore::new(1)) };
    let router = Router::new()
        .route("/api/v1/status", get(status::status))
        .route("/api/v1/findings", get(status::findings))
        .route("/api/v1/policy", get(status::policy))
        .route("/api/v1/world", get(world::world))
        .route("/api/v1/explain", get(explain::explain))
        .route("/api/v1/namespaces", get(namespaces::list))
        .route("/api/v1/namespaces/{namespace}/services", get(namespaces::services))
        .route("/api/v1/namespaces/{namespace}/services/{service}", get(namespaces::service))
        .route("/api/v1/namespaces/{namespace}/resources/{kind}", get(namespaces::resources))
        .route("/api/v1/namespaces/{namespace}/hosts", get(namespaces::hosts))
        .route("/api/v1/proxies", get(proxies::list))
        .route("/api/v1/changes", get(changes::list))
        .route("/api/v1/changes/{id}", get(changes::one))
        .fallback(answer::no_such_path)
        .with_state(pages.clone());
    let orders = Router::new().route("/api/v1/release", post(release::release));
    let orders = orders.layer(from_fn(guard::no_pages)).with_state(pages);
    // gRPC only knows POST, so that CSDS stands outside the guard of methods; it changes nothing either.
    let router = router.layer(from_fn(guard::read_only));
    router.merge(csds).merge(orders).layer(from_fn(guard::loopback_only))
}

#[cfg(test)]
pub(crate) mod tests;
