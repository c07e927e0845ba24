//! A stock Envoy as a sidecar runs it, and what it says of itself.
//!
//! It is configured by its bootstrap alone; nothing here knows of Legation. Invariant: dropping it kills it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use hyper::Method;
use serde_json::Value;

use crate::process::{Process, target_dir};
use crate::{http, wait};

/// How long Envoy may take from its start to an admin port, and from there to LIVE.
const START: Duration = Duration::from_secs(30);
/// The counters that tell of configuration that did not arrive as it should, by the end of their names.
pub const ORACLE: [&str; 4] =
    ["update_rejected", "init_fetch_timeout", "assignment_use_cached", "update_empty"];

/// How an Envoy is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ads {
    /// Incrementally, as bootstraps say.
    Delta,
    /// The state of the world each time.
    Sotw,
}

impl Ads {
    /// A bootstrap that asks to be told so.
    pub fn told(self, bootstrap: &str) -> anyhow::Result<String> {
        anyhow::ensure!(bootstrap.contains("\"DELTA_GRPC\""), "the bootstrap names no method of ADS");
        Ok(match self {
            Self::Delta => bootstrap.to_owned(),
            Self::Sotw => bootstrap.replace("\"DELTA_GRPC\"", "\"GRPC\""),
        })
    }
}

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    admin: SocketAddr,
}

/// What Envoy's counters say of the configuration it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oracle {
    /// How many counters were looked at, so that "none" is not mistaken for "fine".
    pub looked_at: usize,
    /// Those that are not zero.
    pub raised: BTreeMap<String, u64>,
}

/// `LEGATION_ENVOY`, or the Envoy that `integration/setup.sh` puts into the target folder.
pub fn binary() -> anyhow::Result<PathBuf> {
    if let Some(binary) = std::env::var_os("LEGATION_ENVOY") {
        return Ok(binary.into());
    }
    let binary = target_dir()?.join("envoy/envoy");
    anyhow::ensure!(binary.is_file(), "{} is missing: run integration/setup.sh", binary.display());
    Ok(binary)
}

/// Another version than [`binary`]'s, which `integration/setup.sh` or `make line ENVOY=…` has got.
pub fn binary_of(version: &str) -> anyhow::Result<PathBuf> {
    let binary = target_dir()?.join(format!("envoy-{version}/envoy/_bin/envoy"));
    anyhow::ensure!(binary.is_file(), "{} is missing: run integration/setup.sh", binary.display());
    Ok(binary)
}

impl Envoy {
    /// Starts an Envoy and waits for its admin port. Its files go to `folder`.
    pub async fn start(folder: &Path, name: &str, bootstrap: &str) -> anyhow::Result<Self> {
        Self::start_binary(&binary()?, folder, name, bootstrap).await
    }

    /// As [`Envoy::start`], with a given binary.
    pub async fn start_binary(
        binary: &Path,
        folder: &Path,
        name: &str,
        bootstrap: &str,
    ) -> anyhow::Result<Self> {
        let file = |ending: &str| folder.join(format!("{name}.{ending}"));
        std::fs::write(file("yaml"), bootstrap).context("writing the bootstrap")?;
        let place = file("admin");
        if place.exists() {
            std::fs::remove_file(&place).context("removing an old admin address")?;
        }
        let mut command = Command::new(binary);
        command.arg("--config-path").arg(file("yaml"));
        command.arg("--admin-address-path").arg(&place);
        command.arg("--log-path").arg(file("log"));
        // Envoy keeps its log back for ten seconds otherwise, as long as tests wait for a line of it.
        command.args(["--file-flush-interval-msec", "100"]);
        command.args(["--use-dynamic-base-id", "--concurrency", "2", "--log-level", "info"]);
        // A TCP connection through a listener that changed meanwhile is closed after that: later than any test.
        command.args(["--drain-time-s", "3600"]);
        let mut process = Process::start(name, command, &file("log"))?;
        let what = format!("the admin port of {name}");
        let written = wait::until(START, what, async || {
            process.still_runs()?;
            Ok(std::fs::read_to_string(&place).ok().and_then(|text| text.trim().parse().ok()))
        });
        let admin = written.await?;
        Ok(Self { process, admin })
    }

    /// Waits until it is LIVE: it has had its first answers and its listeners take connections.
    pub async fn live(&mut self) -> anyhow::Result<()> {
        let what = format!("{} to be LIVE", self.process.name());
        let admin = self.admin;
        wait::until(START, what, async || {
            self.process.still_runs()?;
            let answer = http::get(admin, "/ready").await?;
            anyhow::ensure!(answer.status.is_success(), "it is {}", answer.text().trim());
            Ok(Some(()))
        })
        .await
    }

    /// Whether it is LIVE now.
    pub async fn is_live(&self) -> anyhow::Result<bool> {
        Ok(http::get(self.admin, "/ready").await?.status.is_success())
    }

    /// What we call it.
    pub fn name(&self) -> &str {
        self.process.name()
    }

    /// Its admin port.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it has logged.
    pub fn log(&self) -> anyhow::Result<String> {
        let log = self.process.log();
        std::fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))
    }

    /// `1.40.0`.
    pub async fn version(&self) -> anyhow::Result<String> {
        let info = http::get_json(self.admin, "/server_info").await?;
        let version = info["version"].as_str().and_then(|version| version.split('/').nth(1));
        version.map(str::to_owned).context("Envoy tells no version")
    }

    /// Its counters and gauges whose names match a regular expression.
    pub async fn stats(&self, pattern: &str) -> anyhow::Result<BTreeMap<String, u64>> {
        stats(self.admin, pattern).await
    }

    /// One counter or gauge; 0 if Envoy does not have it yet.
    pub async fn stat(&self, name: &str) -> anyhow::Result<u64> {
        let pattern = format!("^{}$", name.replace('.', "\\."));
        Ok(self.stats(&pattern).await?.get(name).copied().unwrap_or_default())
    }

    /// What it runs with, endpoints included.
    pub async fn config_dump(&self) -> anyhow::Result<Value> {
        http::get_json(self.admin, "/config_dump?include_eds").await
    }

    /// The names of its active listeners that came by xDS.
    pub async fn listeners(&self) -> anyhow::Result<Vec<String>> {
        let dump = http::get_json(self.admin, "/config_dump?resource=dynamic_listeners").await?;
        let listeners = dump["configs"].as_array().map(Vec::as_slice).unwrap_or_default();
        let active = listeners.iter().filter(|listener| listener.get("active_state").is_some());
        let mut names: Vec<_> =
            active.filter_map(|listener| listener["name"].as_str().map(str::to_owned)).collect();
        names.sort();
        Ok(names)
    }

    /// The addresses of a cluster's endpoints, sorted; none if it has no such cluster.
    pub async fn endpoints(&self, cluster: &str) -> anyhow::Result<Vec<String>> {
        let clusters = http::get_json(self.admin, "/clusters?format=json").await?;
        let all = clusters["cluster_statuses"].as_array().map(Vec::as_slice).unwrap_or_default();
        let found = all.iter().filter(|status| status["name"] == cluster);
        let hosts = found.filter_map(|status| status["host_statuses"].as_array()).flatten();
        let address = |host: &Value| {
            let socket = &host["address"]["socket_address"];
            Some(format!("{}:{}", socket["address"].as_str()?, socket["port_value"].as_u64()?))
        };
        let mut addresses: Vec<_> = hosts.filter_map(address).collect();
        addresses.sort();
        Ok(addresses)
    }

    /// What its counters say of the configuration it was sent.
    pub async fn oracle(&self) -> anyhow::Result<Oracle> {
        let counters = self.stats(&format!("({})$", ORACLE.join("|"))).await?;
        for needed in ["cluster_manager.cds.update_rejected", "listener_manager.lds.update_rejected"] {
            anyhow::ensure!(counters.contains_key(needed), "Envoy has no counter {needed}");
        }
        let looked_at = counters.len();
        // A sidecar whose service nobody knows is told that there is nobody in it.
        let is_raised = |(name, value): &(String, u64)| *value > 0 && name != "cluster.local.update_empty";
        Ok(Oracle { looked_at, raised: counters.into_iter().filter(is_raised).collect() })
    }

    /// Asks it to end, and waits for that.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        http::send(self.admin, http::request(Method::POST, "admin", "/quitquitquit")?).await?;
        let what = format!("the end of {}", self.process.name());
        wait::until(START, what, async || self.process.ended()).await.map(drop)
    }
}

/// An Envoy's counters and gauges whose names match a regular expression, asked at its admin port.
pub async fn stats(admin: SocketAddr, pattern: &str) -> anyhow::Result<BTreeMap<String, u64>> {
    let pattern: String = pattern.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let answer = http::get_json(admin, &format!("/stats?format=json&filter={pattern}")).await?;
    let stats = answer["stats"].as_array().context("Envoy answered no stats")?;
    let number = |stat: &Value| Some((stat["name"].as_str()?.to_owned(), stat["value"].as_u64()?));
    Ok(stats.iter().filter_map(number).collect())
}
