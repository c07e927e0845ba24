//! The composition root: the only place that knows every part, and where settings turn into parts.
//!
//! It has no logic of its own: it makes the parts, connects them, and waits for one of two ends.
//!
//! Invariant: the process ends because it was asked to, or because a part ended unasked, which is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use futures_util::future::BoxFuture;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::admin::{self, AdminState};
use crate::changes::Ledger;
use crate::config::{Config, Discover, Queue, Tls, Xds, cluster_name};
use crate::model::Mesh;
use crate::pipeline::Pipeline;
use crate::source::cloudmap::{self, CloudMapSource};
use crate::source::ecs::{self, EcsSource, NamespaceRule};
use crate::source::{self, Cell, CellWriter, Pace, SdkConfig, aws, events, file};
use crate::store::store;
use crate::telemetry::Metrics;
use crate::xds::clients::Clients;
use crate::{shutdown, xds};

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
    let Sources { mut cells, queue } = start_sources(&config, &metrics, &mut parts, &stopping).await?;
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

    let (writer, store) = store();
    let (mesh, meshes) = watch::channel(Arc::new(Mesh::default()));
    let (ledger, clients) = (Ledger::default(), Clients::default());

    let state = AdminState {
        mesh: meshes,
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
        namespaces: config.namespaces.keys().cloned().collect::<BTreeSet<_>>(),
        cells,
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

fn load_tls(files: &Tls) -> Result<xds::Tls, xds::BadTls> {
    xds::Tls::load(xds::TlsFiles {
        certificate: files.certificate_file.clone(),
        private_key: files.private_key_file.clone(),
    })
}

/// The cells of what was started.
struct Sources {
    /// Of the sources, the most trusted first.
    cells: Vec<Cell>,
    /// Of the queue of events, which is no source of its own.
    queue: Option<Cell>,
}

/// Starts every source.
async fn start_sources(
    config: &Config,
    metrics: &Metrics,
    parts: &mut Parts,
    stopping: &CancellationToken,
) -> anyhow::Result<Sources> {
    let (mut cells, mut queue) = (Vec::new(), None);
    let mut cell = |name: String| {
        let (writer, cell) = source::cell(name);
        cells.push(cell);
        writer
    };
    let pace = |interval| Pace { interval, max_backoff: config.max_backoff };
    if let Some(sdk) = load_aws(config).await? {
        let mut addressees = BTreeMap::new();
        for (name, Cluster { cluster, namespaces }) in clusters(config)? {
            let inbox = if config.ecs_queue.is_some() {
                let (outbox, inbox) = ecs::mailbox();
                let arn = Some(cluster.clone()).filter(|cluster| cluster.starts_with("arn:"));
                addressees.insert(name.clone(), events::Addressee { arn, outbox });
                inbox
            } else {
                ecs::Inbox::default()
            };
            let source = EcsSource::new(aws::ecs(&sdk), ecs::Settings { cluster, namespaces }, inbox);
            let (name, writer) = (format!("ecs/{name}"), cell(format!("ecs/{name}")));
            let run = source.run(writer, pace(config.ecs_interval), stopping.clone());
            spawn(parts, name, async {
                run.await;
                Ok(())
            });
        }
        if let Some(settings) = &config.ecs_queue {
            queue = Some(start_queue(config, settings, &sdk, addressees, metrics, parts, stopping));
        }
        for (namespace, settings) in &config.namespaces {
            for cloud_map in &settings.cloud_map {
                let settings = cloudmap::Settings {
                    cloud_map_namespace: cloud_map.clone(),
                    namespace: namespace.clone(),
                };
                let source = CloudMapSource::new(aws::cloudmap(&sdk), settings);
                let (name, writer) = (
                    format!("cloudmap/{namespace}/{cloud_map}"),
                    cell(format!("cloudmap/{namespace}/{cloud_map}")),
                );
                let run = source::run(source, writer, pace(config.cloud_map_interval), stopping.clone());
                spawn(parts, name, async {
                    run.await;
                    Ok(())
                });
            }
        }
    }
    for (namespace, settings) in &config.namespaces {
        for path in &settings.files {
            let name = format!("file/{namespace}/{}", path.display());
            let writer = cell(name.clone());
            let run = file::run(path.clone(), namespace.clone(), writer, stopping.clone());
            spawn(parts, name, async {
                run.await;
                Ok(())
            });
        }
    }
    Ok(Sources { cells, queue })
}

/// Listens to the queue of ECS's events.
fn start_queue(
    config: &Config,
    settings: &Queue,
    sdk: &SdkConfig,
    addressees: BTreeMap<String, events::Addressee>,
    metrics: &Metrics,
    parts: &mut Parts,
    stopping: &CancellationToken,
) -> Cell {
    let name = format!("events/{}", events::queue_name(&settings.url));
    let (writer, cell) = source::cell(name.clone());
    let settings =
        events::Settings { queue_url: settings.url.clone(), receivers: settings.receivers.get() as usize };
    let queue = events::Queue::new(aws::sqs(sdk), settings, addressees, metrics.clone());
    let run = queue.run(writer, config.max_backoff, stopping.clone());
    spawn(parts, name, async {
        run.await;
        Ok(())
    });
    cell
}

/// The settings of AWS, unless nothing is read from there: finding them may ask the network.
async fn load_aws(config: &Config) -> anyhow::Result<Option<SdkConfig>> {
    if config.namespaces.values().all(|it| it.clusters.is_empty() && it.cloud_map.is_empty()) {
        return Ok(None);
    }
    let aws = aws::Aws { region: config.aws.region.clone(), endpoint_url: config.aws.endpoint_url.clone() };
    with_region(aws.load().await).map(Some)
}

/// Without a Region every call would fail, forever, and never say why.
fn with_region(sdk: SdkConfig) -> anyhow::Result<SdkConfig> {
    if sdk.region().is_none_or(|region| region.as_ref().is_empty()) {
        bail!("no AWS Region: set `aws.region` in the configuration or AWS_REGION");
    }
    Ok(sdk)
}

/// A cluster to watch, and the namespaces that it feeds.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Cluster {
    /// The ARN if anyone wrote it, else the name.
    cluster: String,
    namespaces: Vec<NamespaceRule>,
}

/// The clusters to watch by their names: one written by name and by ARN is read once.
fn clusters(config: &Config) -> anyhow::Result<BTreeMap<String, Cluster>> {
    let mut clusters: BTreeMap<String, Cluster> = BTreeMap::new();
    for (namespace, settings) in &config.namespaces {
        let discover = match settings.discover {
            Discover::Labelled => ecs::Discover::Labelled,
            Discover::All => ecs::Discover::All,
        };
        for cluster in &settings.clusters {
            let name = cluster_name(cluster).unwrap_or(cluster);
            let known = clusters
                .entry(name.to_owned())
                .or_insert_with(|| Cluster { cluster: cluster.clone(), namespaces: Vec::new() });
            if known.cluster == name {
                known.cluster.clone_from(cluster);
            } else if cluster != name && *cluster != known.cluster {
                // One process has one account and one Region.
                bail!("the clusters `{}` and `{cluster}` can't be watched together", known.cluster);
            }
            known.namespaces.push(NamespaceRule { namespace: namespace.clone(), discover });
        }
    }
    Ok(clusters)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NamespaceConfig;
    use crate::model::Namespace;

    fn config(namespaces: &[(&str, NamespaceConfig)]) -> Config {
        let yaml = "namespaces: { prod: { clusters: [prod-a] } }";
        let mut config = Config::parse("legation.yaml".as_ref(), yaml, []).unwrap();
        config.namespaces =
            namespaces.iter().map(|(name, settings)| (Namespace::from(*name), settings.clone())).collect();
        config
    }

    #[tokio::test]
    async fn aws_is_asked_only_for_what_is_there() {
        let files = NamespaceConfig { files: vec!["services.yaml".into()], ..Default::default() };
        assert!(load_aws(&config(&[("prod", files)])).await.unwrap().is_none());
        let error = with_region(SdkConfig::builder().build()).unwrap_err();
        assert_eq!(error.to_string(), "no AWS Region: set `aws.region` in the configuration or AWS_REGION");
    }

    #[test]
    fn a_cluster_by_name_and_by_arn_is_one() {
        const ARN: &str = "arn:aws:ecs:eu-west-1:123456789012:cluster/prod-a";
        let of = |cluster: &str| NamespaceConfig { clusters: vec![cluster.to_owned()], ..Default::default() };
        for (one, other) in [("prod-a", ARN), (ARN, "prod-a"), (ARN, ARN)] {
            let clusters = clusters(&config(&[("prod", of(one)), ("shared", of(other))])).unwrap();
            let (name, cluster) = clusters.into_iter().next().unwrap();
            assert_eq!((name.as_str(), cluster.cluster.as_str()), ("prod-a", ARN));
            let namespaces: Vec<_> = cluster.namespaces.iter().map(|rule| rule.namespace.as_str()).collect();
            assert_eq!(namespaces, ["prod", "shared"]);
        }
        let elsewhere = ARN.replace("eu-west-1", "us-east-1");
        assert!(clusters(&config(&[("prod", of(ARN)), ("shared", of(&elsewhere))])).is_err());
    }

    #[tokio::test]
    async fn every_source_has_its_own_name() {
        let settings = NamespaceConfig {
            clusters: vec!["prod-a".to_owned()],
            cloud_map: vec!["map".to_owned()],
            files: vec!["services.yaml".into()],
            ..Default::default()
        };
        let mut config = config(&[("prod", settings.clone()), ("shared", settings)]);
        config.aws.region = Some("eu-west-1".to_owned());
        let (mut parts, stopping) = (Parts::new(), CancellationToken::new());
        stopping.cancel();
        let metrics = Metrics::register(&mut Registry::default());
        let sources = start_sources(&config, &metrics, &mut parts, &stopping).await.unwrap();
        let names: Vec<_> = sources.cells.iter().map(|cell| &*cell.name).collect();
        let expected = ["ecs/prod-a", "cloudmap/prod/map", "cloudmap/shared/map"];
        assert_eq!(
            names,
            [&expected[..], &["file/prod/services.yaml", "file/shared/services.yaml"]].concat()
        );
    }
}
