//! The composition root: the only place that knows every part, and where settings turn into parts.
//!
//! It has no logic of its own: it makes the parts, connects them, and waits for one of two ends.
//!
//! Invariant: the process ends because it was asked to, or because a part ended unasked, which is an error.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow, bail};
use futures_util::future::BoxFuture;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::sources::Sources;
use crate::admin::{self, AdminState};
use crate::changes::Ledger;
use crate::config::{Config, Tls, Xds};
use crate::diagnostic::render_all;
use crate::model::{Mesh, Namespace};
use crate::pipeline::Pipeline;
use crate::policy::{self, watch::Loaded};
use crate::source::{self, CellWriter};
use crate::store::store;
use crate::telemetry::Metrics;
use crate::xds::clients::Clients;
use crate::{shutdown, xds};

pub use sources::probe;

mod clusters;
mod sources;

/// What a part gets beyond the grace of streams before the process ends without it.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// The parts that run until the process ends, each by name.
type Parts = JoinSet<(String, anyhow::Result<()>)>;

/// A source that the configuration does not know: it keeps the cell that it is given until the process ends.
pub type Feed = Box<dyn FnOnce(CellWriter) -> BoxFuture<'static, anyhow::Result<()>> + Send>;

/// Runs the control plane until a signal. The file sources of `config` have been looked at; an error means
/// that it could not start or that a part failed.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    serve_with(config, Vec::new()).await
}

/// As [`serve`], with further sources by their names, the least trusted of all.
pub async fn serve_with(config: Config, feeds: Vec<(String, Feed)>) -> anyhow::Result<()> {
    // Each sidecar is an open file, and the usual soft limit is 1,024.
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(files) => debug!(files, "open files allowed"),
        Err(error) => warn!(%error, "the limit of open files stays as it is"),
    }
    let stopping = shutdown::on_signal().context("can't listen for signals")?;
    let listeners = Listeners::bind(&config).await?;
    let tls = config.tls.as_ref().map(load_tls).transpose().context("no TLS for xDS")?;
    let mut parts = Parts::new();
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let (ledger, clients) = (Ledger::default(), Clients::default());
    let Sources { mut cells, queue, clock } =
        sources::start(&config, &metrics, &mut parts, &stopping, &clients).await?;
    for (name, feed) in feeds {
        let (writer, cell) = source::cell(name.clone());
        cells.push(cell);
        let token = stopping.clone();
        spawn(&mut parts, name, async move {
            tokio::select! {
                () = token.cancelled() => Ok(()),
                ended = feed(writer) => ended,
            }
        });
    }

    let policies = treat(&config, &mut parts, &stopping)?;
    let (writer, store) = store();
    let (mesh, meshes) = watch::channel(Arc::new(Mesh::default()));

    let state = AdminState {
        mesh: meshes,
        policy: policies.clone(),
        store: store.clone(),
        clients: clients.clone(),
        ledger: ledger.clone(),
        cells: cells.clone(),
        queue,
        registry: Arc::new(registry),
        stopping: stopping.clone(),
        started_at: SystemTime::now(),
    };
    let pipeline = Pipeline {
        namespaces: namespaces(&config),
        cells,
        policy: policies,
        clock,
        writer,
        mesh,
        ledger: ledger.clone(),
        metrics: metrics.clone(),
        cluster_grace: config.xds.cluster_grace,
    };
    let token = stopping.clone();
    spawn(&mut parts, "pipeline", async move {
        pipeline.run(token).await;
        Ok(())
    });
    let grace = config.shutdown_grace;
    let (identifier, limits) = (identifier(), limits(&config.xds));
    let server = xds::Server { store, clients, ledger, metrics, identifier, stopping, grace, limits, tls };
    listeners.serve(server, state, parts).await
}

fn namespaces(config: &Config) -> BTreeSet<Namespace> {
    config.namespaces.keys().cloned().collect()
}

/// How clients treat services, from now on.
fn treat(
    config: &Config,
    parts: &mut Parts,
    stopping: &CancellationToken,
) -> anyhow::Result<watch::Receiver<Loaded>> {
    let places = policy::watch::Places::new(&config.policies, config.policy_text.as_deref());
    let loaded = policy::watch::load(&places, &namespaces(config));
    let loaded = loaded.map_err(|problems| anyhow!("{}", render_all(&problems, false)))?;
    let (treatment, treated) = watch::channel(loaded);
    if places.may_change() {
        let watching = policy::watch::run(places, namespaces(config), treatment, stopping.clone());
        spawn(parts, "policy", async move {
            watching.await;
            Ok(())
        });
    }
    Ok(treated)
}

fn load_tls(files: &Tls) -> Result<xds::Tls, xds::BadTls> {
    xds::Tls::load(xds::TlsFiles {
        certificate: files.certificate_file.clone(),
        private_key: files.private_key_file.clone(),
    })
}

/// What sidecars are allowed.
fn limits(settings: &Xds) -> xds::Limits {
    xds::Limits {
        streams: xds::StreamLimits {
            in_all: settings.max_streams.get(),
            in_namespace: settings.max_streams_per_namespace.get(),
            new_per_second: settings.new_streams_per_second,
        },
        max_stream_age: settings.max_stream_age,
        max_names: usize::try_from(settings.max_names.get()).unwrap_or(usize::MAX),
        keepalive_interval: settings.keepalive_interval,
        keepalive_timeout: settings.keepalive_timeout,
        write_timeout: settings.write_timeout,
    }
}

/// The three ports, bound before anything starts, so that a taken one is told at once.
struct Listeners {
    xds: TcpListener,
    metrics: TcpListener,
    admin: TcpListener,
}

impl Listeners {
    async fn bind(config: &Config) -> anyhow::Result<Self> {
        let listen = config.listen;
        let taken =
            |what: &'static str, address: SocketAddr| move || format!("can't listen on {address} for {what}");
        Ok(Self {
            xds: xds::listen(listen.xds).with_context(taken("xDS", listen.xds))?,
            metrics: TcpListener::bind(listen.metrics)
                .await
                .with_context(taken("metrics", listen.metrics))?,
            admin: TcpListener::bind(listen.admin).await.with_context(taken("admin", listen.admin))?,
        })
    }

    /// Serves until asked to stop: streams end first, and admin answers until they have.
    async fn serve(self, server: xds::Server, state: AdminState, mut parts: Parts) -> anyhow::Result<()> {
        let (stopping, done) = (server.stopping.clone(), CancellationToken::new());
        let longest = server.grace + LAST_WAIT;
        info!(
            xds = %self.xds.local_addr()?,
            metrics = %self.metrics.local_addr()?,
            admin = %self.admin.local_addr()?,
            version = env!("CARGO_PKG_VERSION"),
            "legation is up"
        );
        let mut pages = Parts::new();
        let (metrics, token) = (state.clone(), done.clone());
        spawn(&mut pages, "metrics", async move {
            admin::serve_metrics(self.metrics, metrics, token).await.context("metrics")
        });
        let token = done.clone();
        spawn(&mut pages, "admin", async move {
            admin::serve_admin(self.admin, state, token).await.context("admin")
        });
        spawn(&mut parts, "xds", async move {
            xds::serve(self.xds, server).await;
            Ok(())
        });

        let outcome = tokio::select! {
            outcome = supervise(&mut parts, &stopping) => outcome,
            outcome = supervise(&mut pages, &done) => outcome,
        };
        stopping.cancel();
        let ended = async { while parts.join_next().await.is_some() {} };
        if tokio::time::timeout(longest, ended).await.is_err() {
            warn!(parts = parts.len(), "some parts did not end in time and are left");
        }
        done.cancel();
        while pages.join_next().await.is_some() {}
        outcome
    }
}

/// Waits until every part has ended as asked, or the first has ended unasked.
async fn supervise(parts: &mut Parts, asked: &CancellationToken) -> anyhow::Result<()> {
    while let Some(part) = parts.join_next().await {
        let (name, outcome) = part.context("a part panicked")?;
        outcome.with_context(|| format!("{name} failed"))?;
        if !asked.is_cancelled() {
            error!(part = name, "ended unasked");
            bail!("{name} ended without being asked to");
        }
    }
    Ok(())
}

fn spawn(
    parts: &mut Parts,
    name: impl Into<String>,
    part: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) {
    let name = name.into();
    parts.spawn(async move { (name, part.await) });
}

/// What sidecars are told of this replica.
fn identifier() -> Arc<str> {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "localhost".to_owned());
    format!("legation/{} {host}", env!("CARGO_PKG_VERSION")).into()
}
