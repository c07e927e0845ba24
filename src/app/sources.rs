//! Every source that the configuration names: made, started, and wired to those who tell it something.
//!
//! It has no logic of its own.
//!
//! Invariant: each source has a cell of its own under a name of its own; the cells stand in the order of trust.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::clusters::{Cluster, clusters};
use super::{Parts, spawn};
use crate::config::{Config, Guard, Queue};
use crate::model::{Namespace, region_of_namespace};
use crate::source::aws::probe::{self, Probe};
use crate::source::aws::{self, Access, Accounts};
use crate::source::cloudmap::{self, CloudMapSource};
use crate::source::ecs::{self, EcsSource, Hint};
use crate::source::events::{self, Addressee};
use crate::source::{self, Cell, CellWriter, GuardLimits, Pace, SdkConfig, file};
use crate::telemetry::Metrics;
use crate::xds::clients::{Clients, Presence};

/// The cells of what was started.
pub(super) struct Sources {
    /// Of the sources, the most trusted first.
    pub(super) cells: Vec<Cell>,
    /// Of the queue of events, which is no source of its own.
    pub(super) queue: Option<Cell>,
    /// The clock of what they read; our own where there is no AWS.
    pub(super) clock: Arc<aws::Clock>,
}

/// What it takes to start a source.
struct Starting<'a> {
    config: &'a Config,
    metrics: &'a Metrics,
    parts: &'a mut Parts,
    stopping: &'a CancellationToken,
    cells: Vec<Cell>,
}

impl Starting<'_> {
    fn pace(&self, interval: Duration) -> Pace {
        Pace { interval, max_backoff: self.config.max_backoff }
    }

    fn cell(&mut self, name: &str) -> CellWriter {
        let (writer, cell) = source::cell(name);
        self.cells.push(cell);
        writer
    }

    /// The cell of a source that can be wrong and look complete.
    fn guarded_cell(&mut self, name: &str) -> CellWriter {
        let Guard { max_withdrawal_percent, max_namespace_withdrawal_percent, min_endpoints, confirmations } =
            self.config.guard;
        self.cell(name).guarded(GuardLimits {
            service_percent: max_withdrawal_percent,
            namespace_percent: max_namespace_withdrawal_percent,
            at_least: min_endpoints.get(),
            confirmations,
        })
    }

    fn run(&mut self, name: String, part: impl Future<Output = ()> + Send + 'static) {
        spawn(self.parts, name, async {
            part.await;
            Ok(())
        });
    }

    /// Returns where letters to each cluster go.
    async fn clusters(&mut self, accounts: &mut Accounts) -> Vec<Addressee> {
        let mut addressees = Vec::new();
        for cluster in clusters(self.config, accounts.region()) {
            let access = accounts.access(cluster.role.as_deref(), cluster.id.region.as_deref()).await;
            let name = format!("ecs/{}", cluster.label);
            let Cluster { id, written, label, namespaces, .. } = cluster;
            let (outbox, inbox) = ecs::mailbox();
            addressees.push(Addressee { cluster: id, outbox });
            let source =
                EcsSource::new(&access, ecs::Settings { cluster: written, label, namespaces }, inbox);
            let (writer, pace) = (self.guarded_cell(&name), self.pace(self.config.ecs_interval));
            self.run(name, source.run(writer, pace, self.stopping.clone()));
        }
        addressees
    }

    fn cloud_map(&mut self, access: &Access, namespace: &Namespace, cloud_map: &str) {
        let name = format!("cloudmap/{namespace}/{cloud_map}");
        let settings =
            cloudmap::Settings { cloud_map_namespace: cloud_map.to_owned(), namespace: namespace.clone() };
        let source = CloudMapSource::new(access, settings);
        let (writer, pace) = (self.guarded_cell(&name), self.pace(self.config.cloud_map_interval));
        let (revisions, health) =
            (self.config.cloud_map_revision_interval, self.config.cloud_map_health_interval);
        let rhythm = cloudmap::Rhythm { revisions, health };
        self.run(name, source.run(writer, pace, rhythm, self.stopping.clone()));
    }

    fn file(&mut self, namespace: &Namespace, path: &Path) {
        let name = format!("file/{namespace}/{}", path.display());
        let writer = self.cell(&name);
        self.run(name, file::run(path.to_owned(), namespace.clone(), writer, self.stopping.clone()));
    }

    /// Listens to the queue of ECS's events.
    fn queue(&mut self, access: &Access, settings: &Queue, addressees: Vec<Addressee>) -> Cell {
        let name = format!("events/{}", events::queue_name(&settings.url));
        let (writer, cell) = source::cell(name.clone());
        let receivers = settings.receivers.get() as usize;
        let settings = events::Settings { queue_url: settings.url.clone(), receivers };
        let queue = events::Queue::new(access, settings, addressees, self.metrics.clone());
        self.run(name, queue.run(writer, self.config.max_backoff, self.stopping.clone()));
        cell
    }

    /// Has ECS asked about the tasks whose sidecars go.
    fn hints(&mut self, clients: &Clients, addressees: Vec<Addressee>) {
        let (presences, stopping) = (clients.presences(), self.stopping.clone());
        self.run("hints".to_owned(), async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = pass_on(presences, addressees) => {}
            }
        });
    }
}

/// Starts every source.
pub(super) async fn start(
    config: &Config,
    metrics: &Metrics,
    parts: &mut Parts,
    stopping: &CancellationToken,
    clients: &Clients,
) -> anyhow::Result<Sources> {
    let mut starting = Starting { config, metrics, parts, stopping, cells: Vec::new() };
    let (mut queue, mut clock) = (None, Arc::default());
    if let Some(mut accounts) = load_aws(config, metrics).await? {
        clock = accounts.clock();
        let addressees = starting.clusters(&mut accounts).await;
        starting.hints(clients, addressees.clone());
        if let Some(settings) = &config.ecs_queue {
            queue = Some(starting.queue(&accounts.access(None, None).await, settings, addressees));
        }
        for (namespace, settings) in &config.namespaces {
            for cloud_map in &settings.cloud_map {
                let region = region_of_namespace(cloud_map);
                let access = accounts.access(settings.assume_role.as_deref(), region).await;
                starting.cloud_map(&access, namespace, cloud_map);
            }
        }
    }
    for (namespace, settings) in &config.namespaces {
        settings.files.iter().for_each(|path| starting.file(namespace, path));
    }
    Ok(Sources { cells: starting.cells, queue, clock })
}

/// Passes on which sidecars come and go to the sources of their tasks' clusters.
async fn pass_on(mut presences: broadcast::Receiver<Presence>, addressees: Vec<Addressee>) {
    loop {
        let presence = match presences.recv().await {
            Ok(presence) => presence,
            Err(RecvError::Lagged(missed)) => {
                debug!(missed, "some sidecars came or went unseen");
                continue;
            }
            Err(RecvError::Closed) => return std::future::pending().await,
        };
        let Presence { node, here } = presence;
        let hint = if here { Hint::Here } else { Hint::Gone };
        for addressee in addressees.iter().filter(|addressee| addressee.cluster.may_run(&node)) {
            addressee.outbox.hint(vec![hint(node.as_ref().into())]).await;
        }
    }
}

/// Tries each action of IAM that a server with this configuration needs.
pub async fn probe(config: &Config) -> anyhow::Result<Vec<Probe>> {
    let metrics = Metrics::unread();
    let Some(mut accounts) = load_aws(config, &metrics).await? else { return Ok(Vec::new()) };
    let (mut probes, mut homes) = (Vec::new(), BTreeSet::new());
    let by = |role: &Option<String>, probes: Vec<Probe>| {
        let role = role.clone();
        probes.into_iter().map(move |probe| Probe { role: role.clone(), ..probe })
    };
    for cluster in clusters(config, accounts.region()) {
        let access = accounts.access(cluster.role.as_deref(), cluster.id.region.as_deref()).await;
        if homes.insert((cluster.role.clone(), cluster.id.region)) {
            probes.extend(probe::role(&access).await);
        }
        probes.extend(by(&cluster.role, probe::cluster(&access, &cluster.written).await));
        if cluster.namespaces.len() > 1 {
            probes.extend(by(&cluster.role, probe::default_namespace(&access, &cluster.written).await));
        }
    }
    for settings in config.namespaces.values() {
        for namespace in &settings.cloud_map {
            let region = region_of_namespace(namespace).unwrap_or(accounts.region()).to_owned();
            let access = accounts.access(settings.assume_role.as_deref(), Some(&region)).await;
            if homes.insert((settings.assume_role.clone(), Some(region))) {
                probes.extend(probe::role(&access).await);
            }
            probes.extend(by(&settings.assume_role, probe::cloud_map(&access, namespace).await));
        }
    }
    if let Some(queue) = &config.ecs_queue {
        probes.extend(probe::queue(&accounts.access(None, None).await, &queue.url).await);
    }
    Ok(probes)
}

/// The settings of AWS, unless nothing is read from there: finding them may ask the network.
async fn load_aws(config: &Config, metrics: &Metrics) -> anyhow::Result<Option<Accounts>> {
    if config.namespaces.values().all(|it| it.clusters.is_empty() && it.cloud_map.is_empty()) {
        return Ok(None);
    }
    let aws = aws::Aws { region: config.aws.region.clone(), endpoint_url: config.aws.endpoint_url.clone() };
    let sdk = with_region(aws.load().await)?;
    Ok(Some(Accounts::new(sdk, config.aws.call_budget, metrics.clone())))
}

/// Without a Region every call would fail, forever, and never say why.
fn with_region(sdk: SdkConfig) -> anyhow::Result<SdkConfig> {
    if sdk.region().is_none_or(|region| region.as_ref().is_empty()) {
        bail!("no AWS Region: set `aws.region` in the configuration or AWS_REGION");
    }
    Ok(sdk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NamespaceConfig;

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
        let metrics = Metrics::unread();
        assert!(load_aws(&config(&[("prod", files)]), &metrics).await.unwrap().is_none());
        let error = with_region(SdkConfig::builder().build()).unwrap_err();
        assert_eq!(error.to_string(), "no AWS Region: set `aws.region` in the configuration or AWS_REGION");
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
        let metrics = Metrics::unread();
        let sources = start(&config, &metrics, &mut parts, &stopping, &Clients::default()).await.unwrap();
        let names: Vec<_> = sources.cells.iter().map(|cell| &*cell.name).collect();
        let expected = ["ecs/prod-a", "cloudmap/prod/map", "cloudmap/shared/map"];
        assert_eq!(
            names,
            [&expected[..], &["file/prod/services.yaml", "file/shared/services.yaml"]].concat()
        );
    }
}
