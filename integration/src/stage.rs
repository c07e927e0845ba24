//! The whole line on one machine: real tasks, an AWS-like endpoint, Legation, sidecars.
//!
//! It only puts parts together; what happens on it is up to tests and the demo. Invariant: the sidecars are
//! those of client tasks of the estate, and everything ends when it is dropped.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::aws::FakeAws;
use crate::control_plane::{ControlPlane, Ports, Setup, Sidecar, Sources};
use crate::envoy::Envoy;
use crate::estate::{self, Prod};
use crate::feed::Feed;
use crate::load::{Load, Plan, Way};
use crate::wait;
use crate::world::World;

/// How long tasks and sidecars may take to be where they should be.
const SETTLING: Duration = Duration::from_secs(30);
/// Where sidecars take requests with a whole URL.
pub const PROXY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15001);

/// How Legation learns of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knowledge {
    /// It polls ECS every second.
    Aws,
    /// It hears of each task from a queue, and polls ECS every half minute.
    Events,
    /// It follows a file that is written on every change.
    File,
}

/// Tasks, endpoint, server and sidecars.
#[derive(Debug)]
pub struct Stage {
    /// The estate and its world.
    pub prod: Prod,
    /// What answers in place of AWS.
    pub aws: FakeAws,
    /// Legation.
    pub server: ControlPlane,
    /// The sidecars of the first client tasks.
    pub envoys: Vec<Envoy>,
    folder: PathBuf,
    feed: Option<Feed>,
}

/// Builds the estate and waits until every task of it is ready.
pub async fn raise_estate(world: &World) -> anyhow::Result<Prod> {
    let prod = estate::prod(world).context("building the estate")?;
    let members = [&prod.payments, &prod.ledger, &prod.redis, &prod.checkout];
    let ready = |_: &World| members.iter().all(|member| member.running().iter().all(|task| task.ready()));
    world.until(SETTLING, ready).await.context("the estate did not come up")?;
    Ok(prod)
}

impl Stage {
    /// Tasks, endpoint and server, which is ready; no sidecar yet.
    pub async fn open(folder: &Path, knowledge: Knowledge, ports: Option<Ports>) -> anyhow::Result<Self> {
        let prod = raise_estate(&World::new()).await?;
        let aws = FakeAws::start(prod.world.clone()).await.context("opening the endpoint")?;
        let (setup, feed) = match knowledge {
            Knowledge::Aws | Knowledge::Events => {
                let sources = Sources { clusters: vec![estate::CLUSTER.to_owned()], ..Sources::default() };
                let polled = Setup::aws(&aws.url()).namespace(estate::NAMESPACE, sources);
                let hears = knowledge == Knowledge::Events;
                let setup = if hears { polled.hearing(aws.queue_url()) } else { polled };
                (setup, None)
            }
            Knowledge::File => {
                let feed = Feed::start(&prod, folder)?;
                let sources = Sources { files: vec![feed.file().to_owned()], ..Sources::default() };
                (Setup::files().namespace(estate::NAMESPACE, sources), Some(feed))
            }
        };
        let server = ControlPlane::start(folder, &Setup { ports, ..setup }).await?;
        let (envoys, folder) = (Vec::new(), folder.to_owned());
        Ok(Self { prod, aws, server, envoys, folder, feed })
    }

    /// Starts the sidecars of the first `count` checkout tasks, and waits until they are LIVE and synced.
    pub async fn start_sidecars(&mut self, count: usize) -> anyhow::Result<()> {
        for number in 0..count {
            let task = self.prod.checkout.tasks.get(number).context("the estate has no such client")?;
            let sidecar = self.sidecar_of(task)?;
            self.start_sidecar(&sidecar).await?;
        }
        for envoy in &mut self.envoys {
            envoy.live().await?;
        }
        self.synced().await
    }

    /// A sidecar for a task of the estate, of whose ports its bootstrap says nothing.
    pub fn sidecar_of(&self, task: &str) -> anyhow::Result<Sidecar> {
        let task = self.prod.world.task(task).context("no such task")?;
        Ok(Sidecar {
            task: task.arn.clone(),
            namespace: estate::NAMESPACE.to_owned(),
            service: task.service.clone().unwrap_or_else(|| "standalone".to_owned()),
            zone: task.zone.clone(),
            container_ports: Vec::new(),
        })
    }

    /// Starts a sidecar, which may not be LIVE yet.
    pub async fn start_sidecar(&mut self, sidecar: &Sidecar) -> anyhow::Result<&mut Envoy> {
        let bootstrap = self.server.bootstrap(sidecar)?;
        let name = format!("envoy-{}", self.envoys.len() + 1);
        let envoy = Envoy::start(&self.folder, &name, &bootstrap).await?;
        self.envoys.push(envoy);
        self.envoys.last_mut().context("it was just put there")
    }

    /// Waits until every sidecar holds the newest snapshot.
    pub async fn synced(&self) -> anyhow::Result<()> {
        wait::until(SETTLING, "every sidecar to be synced", async || {
            let proxies = self.server.items("proxies").await?;
            let synced = proxies.iter().filter(|proxy| proxy["state"] == "SYNCED").count();
            let all = synced == self.envoys.len() && proxies.len() == self.envoys.len();
            anyhow::ensure!(all, "{synced} of {} are: {proxies:?}", self.envoys.len());
            Ok(Some(()))
        })
        .await
    }

    /// Waits until exactly the tasks that ECS wants of payments are in rotation, and no sidecar lacks any of them.
    /// Returns them, sorted.
    pub async fn payments_settled(&self) -> anyhow::Result<Vec<String>> {
        wait::until(SETTLING, "the wanted payments tasks, and only they, to be in rotation", async || {
            let wanted: Vec<_> = self.prod.payments.running().iter().map(|task| task.arn.clone()).collect();
            let rotation = self.rotation("payments").await?;
            let settled = wanted == rotation;
            anyhow::ensure!(settled, "ECS wants {wanted:?}, in rotation are {rotation:?}");
            // A sidecar that has not been sent a task yet has nothing to be told of its end.
            let stale = self.server.api("status").await?["item"]["proxies"]["stale"].clone();
            anyhow::ensure!(stale == 0, "{stale} sidecars are behind");
            Ok(Some(rotation))
        })
        .await
    }

    /// The instances of a service that are in rotation, sorted.
    pub async fn rotation(&self, service: &str) -> anyhow::Result<Vec<String>> {
        let path = format!("namespaces/{}/services/{service}", estate::NAMESPACE);
        let answer = self.server.api(&path).await?;
        let endpoints = answer["item"]["endpoints"].as_array().context("a service without endpoints")?;
        let healthy = endpoints.iter().filter(|endpoint| endpoint["state"] == "healthy");
        let mut found: Vec<_> =
            healthy.filter_map(|endpoint| endpoint["instance"].as_str().map(str::to_owned)).collect();
        found.sort();
        Ok(found)
    }

    /// The loopback address of an alias, as Legation tells it.
    pub async fn alias(&self, name: &str, port: u16) -> anyhow::Result<SocketAddr> {
        let hosts = self.server.items(&format!("namespaces/{}/hosts", estate::NAMESPACE)).await?;
        let address =
            hosts.iter().find(|host| host["name"] == name).and_then(|host| host["address"].as_str());
        let address: Ipv4Addr = address.with_context(|| format!("no host {name}"))?.parse()?;
        Ok(SocketAddr::from((address, port)))
    }

    /// The ways to payments: by its address, and through `HTTP_PROXY`.
    pub async fn payments_ways(&self) -> anyhow::Result<Vec<Way>> {
        let payments = self.alias("payments", 8080).await?;
        Ok(vec![
            Way::direct("direct", payments, "payments:8080"),
            Way::proxy("proxy", PROXY, "payments:8080"),
        ])
    }

    /// Starts load that every sidecar carries.
    pub async fn load(&self, ways: Vec<Way>) -> anyhow::Result<Load> {
        Load::start(Plan { ways, envoys: self.envoys.iter().map(Envoy::admin).collect() }).await
    }

    /// An error if a sidecar's counters tell of configuration that did not arrive as it should. Returns how
    /// many were looked at.
    pub async fn oracle(&self) -> anyhow::Result<usize> {
        let mut looked_at = 0;
        for envoy in &self.envoys {
            let oracle = envoy.oracle().await?;
            anyhow::ensure!(oracle.raised.is_empty(), "{} raised {:?}", envoy.name(), oracle.raised);
            looked_at += oracle.looked_at;
        }
        Ok(looked_at)
    }

    /// The served resources of every type, as the admin port shows them.
    pub async fn resources(&self) -> anyhow::Result<Vec<(&'static str, Vec<u8>)>> {
        let mut all = Vec::new();
        for kind in ["clusters", "endpoints", "listeners", "routes"] {
            let path = format!("/api/v1/namespaces/{}/resources/{kind}", estate::NAMESPACE);
            all.push((kind, crate::http::get_ok(self.server.admin(), &path).await?.body.to_vec()));
        }
        Ok(all)
    }

    /// The change that withdrew an instance, once there is one.
    pub async fn change(&self, instance: &str) -> anyhow::Result<Option<Value>> {
        let changes = self.server.items("changes").await?;
        Ok(changes.into_iter().find(|change| change["instance"] == instance))
    }

    /// Ends everything in order: sidecars, server, feed, endpoint.
    pub async fn close(mut self) -> anyhow::Result<()> {
        for envoy in self.envoys.drain(..) {
            envoy.stop().await?;
        }
        if self.server.id().is_some() {
            self.server.stop().await?;
        }
        drop(self.feed.take());
        self.aws.stop().await;
        Ok(())
    }
}
