//! The `legation` program as its users run it: configuration file, process, ports.
//!
//! Nothing here links to the server: what is known of it comes over its ports and its command line.
//! Invariant: a restart keeps ports and configuration, so that sidecars find it again.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::process::{Process, free_ports, target_dir};
use crate::{http, wait};

/// How long the program may take to open its ports.
const START: Duration = Duration::from_secs(30);
/// How long a graceful end may take: more than the grace that [`Setup`] gives its streams.
const END: Duration = Duration::from_secs(20);

/// What a server is configured with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The endpoint in place of AWS.
    pub aws: Option<String>,
    /// The queue of ECS's events.
    pub queue: Option<String>,
    /// Between two readings of a source.
    pub interval: Duration,
    /// The longest pause between failed readings.
    pub max_backoff: Duration,
    /// How long streams get to end.
    pub shutdown_grace: Duration,
    /// The section `xds`, as it is written.
    pub xds: BTreeMap<String, String>,
    /// The namespaces with their sources.
    pub namespaces: BTreeMap<String, Sources>,
    /// Policies, files or folders.
    pub policies: Vec<PathBuf>,
    /// Ports to listen on; else free ones.
    pub ports: Option<Ports>,
    /// How much of what AWS allows is used, in percent; far more than AWS allows, unless that is what is tried.
    pub call_budget: u32,
    /// What its environment says besides what every server's does.
    pub environment: BTreeMap<String, String>,
}

/// The sources of one namespace.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// ECS clusters.
    pub clusters: Vec<String>,
    /// Cloud Map namespaces.
    pub cloud_map: Vec<String>,
    /// Service files.
    pub files: Vec<PathBuf>,
    /// The role that its clusters and Cloud Map namespaces are read with.
    pub assume_role: Option<String>,
}

/// Where a server listens, all on 127.0.0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// For sidecars.
    pub xds: u16,
    /// For health checks and Prometheus.
    pub metrics: u16,
    /// For people.
    pub admin: u16,
}

/// A sidecar to be: what its bootstrap is made of.
#[derive(Debug, Clone)]
pub struct Sidecar {
    /// Its node id: the ARN of its task.
    pub task: String,
    /// Its mesh namespace.
    pub namespace: String,
    /// Its service.
    pub service: String,
    /// Its zone.
    pub zone: String,
    /// Ports of containers of its task, as far as its bootstrap tells them.
    pub container_ports: Vec<u16>,
}

/// A server that runs, or that ran and is to run again.
#[derive(Debug)]
pub struct ControlPlane {
    process: Option<Process>,
    folder: PathBuf,
    config: PathBuf,
    ports: Ports,
    environment: BTreeMap<String, String>,
}

impl Ports {
    /// Three free ports.
    pub fn free() -> anyhow::Result<Self> {
        let [xds, metrics, admin] = free_ports()?;
        Ok(Self { xds, metrics, admin })
    }
}

impl Setup {
    /// AWS sources polled every second.
    pub fn aws(url: &str) -> Self {
        Self { aws: Some(url.to_owned()), ..Self::files() }
    }

    /// No AWS.
    pub fn files() -> Self {
        let second = Duration::from_secs(1);
        Self {
            aws: None,
            queue: None,
            interval: second,
            max_backoff: second * 2,
            shutdown_grace: second * 5,
            xds: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            policies: Vec::new(),
            ports: None,
            call_budget: 10_000,
            environment: BTreeMap::new(),
        }
    }

    /// Events from a queue, and readings so seldom that they explain nothing.
    pub fn hearing(self, queue: String) -> Self {
        Self { queue: Some(queue), interval: Duration::from_secs(30), ..self }
    }

    /// Adds a namespace.
    pub fn namespace(mut self, name: &str, sources: Sources) -> Self {
        self.namespaces.insert(name.to_owned(), sources);
        self
    }

    /// Sets a key of the section `xds`.
    pub fn xds(mut self, key: &str, value: impl ToString) -> Self {
        self.xds.insert(key.to_owned(), value.to_string());
        self
    }

    /// The configuration file.
    fn render(&self, ports: Ports) -> String {
        let mut text = format!(
            "listen:\n  xds: 127.0.0.1:{}\n  metrics: 127.0.0.1:{}\n  admin: 127.0.0.1:{}\naws:\n  region: eu-west-1\n  callBudgetPercent: {}\n",
            ports.xds, ports.metrics, ports.admin, self.call_budget
        );
        if let Some(url) = &self.aws {
            let _ = writeln!(text, "  endpointUrl: {url}");
        }
        let millis = self.interval.as_millis();
        let queue = self.queue.as_ref().map_or(String::new(), |url| format!(", queueUrl: {url}"));
        let _ = writeln!(text, "ecs: {{ interval: {millis}ms{queue} }}");
        // Some looks between two readings, however often these are.
        let look = (millis / 3).clamp(100, 2_000);
        let looks = format!("revisionInterval: {look}ms, healthInterval: {look}ms");
        let _ = writeln!(text, "cloudMap: {{ interval: {millis}ms, {looks} }}");
        let _ = writeln!(text, "maxBackoff: {}ms", self.max_backoff.as_millis());
        let _ = writeln!(text, "shutdownGrace: {}ms", self.shutdown_grace.as_millis());
        if !self.xds.is_empty() {
            text.push_str("xds:\n");
        }
        for (key, value) in &self.xds {
            let _ = writeln!(text, "  {key}: {value}");
        }
        if !self.policies.is_empty() {
            let policies: Vec<_> = self.policies.iter().map(|path| path.display().to_string()).collect();
            let _ = writeln!(text, "policies: [{}]", policies.join(", "));
        }
        text.push_str("namespaces:\n");
        for (name, sources) in &self.namespaces {
            let files = sources.files.iter().map(|file| file.display().to_string()).collect();
            let _ = writeln!(text, "  {name}:");
            for (key, values) in [
                ("clusters", sources.clusters.clone()),
                ("cloudMap", sources.cloud_map.clone()),
                ("files", files),
            ] {
                if !values.is_empty() {
                    let _ = writeln!(text, "    {key}: [{}]", values.join(", "));
                }
            }
            if let Some(role) = &sources.assume_role {
                let _ = writeln!(text, "    assumeRole: {role}");
            }
        }
        text
    }
}

/// The `legation` program: `LEGATION_BIN`, or the one that Cargo built next to us.
pub fn binary() -> anyhow::Result<PathBuf> {
    if let Some(binary) = std::env::var_os("LEGATION_BIN") {
        return Ok(binary.into());
    }
    let own = std::env::current_exe().context("asking where this program is")?;
    let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join("legation"));
    let found = beside.into_iter().find(|candidate| candidate.is_file());
    let place = || target_dir().map(|target| target.join("debug")).unwrap_or_default();
    found.with_context(|| {
        format!("no legation in {}: run `cargo build --workspace --bins`", place().display())
    })
}

/// The program with an environment in which it can reach nothing but what it is told to.
fn legation() -> anyhow::Result<Command> {
    let mut command = Command::new(binary()?);
    command.env_clear();
    command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.envs([
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "example"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ("NO_COLOR", "1"),
        ("RUST_BACKTRACE", "1"),
    ]);
    command.envs(std::env::var_os("LEGATION_LOG").map(|level| ("LEGATION_LOG", level)));
    Ok(command)
}

impl ControlPlane {
    /// Writes the configuration into `folder`, starts the server and waits until it is ready.
    pub async fn start(folder: &Path, setup: &Setup) -> anyhow::Result<Self> {
        let mut server = Self::prepare(folder, setup)?;
        server.run().await?;
        server.ready().await?;
        Ok(server)
    }

    /// Writes the configuration into `folder`; nothing runs yet.
    pub fn prepare(folder: &Path, setup: &Setup) -> anyhow::Result<Self> {
        let ports = match setup.ports {
            Some(ports) => ports,
            None => Ports::free()?,
        };
        let config = folder.join("legation.yaml");
        std::fs::write(&config, setup.render(ports)).context("writing the configuration")?;
        let (folder, environment) = (folder.to_owned(), setup.environment.clone());
        Ok(Self { process: None, folder, config, ports, environment })
    }

    /// Starts the server and waits until it answers; it may not be ready yet.
    pub async fn run(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(self.process.is_none(), "legation runs already");
        let mut command = legation()?;
        command.arg("serve").arg("--config").arg(&self.config).envs(&self.environment);
        let process =
            self.process.insert(Process::start("legation", command, &self.folder.join("legation.log"))?);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.metrics));
        wait::until(START, "legation to answer", async || {
            process.still_runs()?;
            http::get_ok(address, "/livez").await.map(Some)
        })
        .await
        .map(drop)
    }

    /// Waits until it is ready: every source has spoken.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        self.ready_within(START).await
    }

    /// As [`ControlPlane::ready`], for as long as it takes with much to read.
    pub async fn ready_within(&mut self, limit: Duration) -> anyhow::Result<()> {
        let address = self.metrics();
        let process = self.process.as_mut().context("legation does not run")?;
        wait::until(limit, "legation to be ready", async || {
            process.still_runs()?;
            let answer = http::get(address, "/readyz?verbose").await?;
            anyhow::ensure!(answer.status.is_success(), "{}", answer.text());
            Ok(Some(()))
        })
        .await
    }

    /// Kills it (SIGKILL).
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.take().context("legation does not run")?.kill()
    }

    /// Asks it to end (SIGTERM), waits, and fails if it ends badly.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("legation does not run")?;
        let status = process.terminate(END).await?;
        anyhow::ensure!(status.success(), "legation ended badly: {status}");
        Ok(())
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Its ports.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Its log, from the first start on.
    pub fn log(&self) -> anyhow::Result<String> {
        std::fs::read_to_string(self.folder.join("legation.log")).context("reading legation's log")
    }

    /// Where sidecars connect.
    pub fn xds(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.xds))
    }

    /// Where health and metrics are asked.
    pub fn metrics(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.metrics))
    }

    /// Where people ask.
    pub fn admin(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.admin))
    }

    /// Whether `/readyz` says so now.
    pub async fn is_ready(&self) -> anyhow::Result<bool> {
        Ok(http::get(self.metrics(), "/readyz").await?.status.is_success())
    }

    /// JSON below `/api/v1/`.
    pub async fn api(&self, path: &str) -> anyhow::Result<Value> {
        http::get_json(self.admin(), &format!("/api/v1/{path}")).await
    }

    /// The `items` of a list below `/api/v1/`.
    pub async fn items(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        match self.api(path).await?.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => Ok(items),
            _ => anyhow::bail!("/api/v1/{path} has no items"),
        }
    }

    /// The sample of a metric with these labels, written as it is shown; none if there is no such.
    pub async fn metric(&self, sample: &str) -> anyhow::Result<Option<f64>> {
        let text = http::get_ok(self.metrics(), "/metrics").await?.text();
        let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.map(|value| value.parse().with_context(|| format!("{sample} {value}"))).transpose()
    }

    /// Runs `legation` with these arguments; its standard output if it succeeds.
    pub fn command(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let what = || format!("legation {}", arguments.join(" "));
        let output = legation()?.args(arguments).output().with_context(what)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "{} ended with {}: {errors}", what(), output.status);
        String::from_utf8(output.stdout).with_context(what)
    }

    /// The bootstrap of a sidecar, as `legation bootstrap` prints it.
    pub fn bootstrap(&self, sidecar: &Sidecar) -> anyhow::Result<String> {
        self.bootstrap_with(sidecar, self.xds(), &[])
    }

    /// As [`ControlPlane::bootstrap`], of a sidecar that reaches the server at another address.
    pub fn bootstrap_via(&self, sidecar: &Sidecar, server: SocketAddr) -> anyhow::Result<String> {
        self.bootstrap_with(sidecar, server, &[])
    }

    /// The same, with further arguments.
    pub fn bootstrap_with(
        &self,
        sidecar: &Sidecar,
        server: SocketAddr,
        more: &[&str],
    ) -> anyhow::Result<String> {
        let (server, [admin]) = (server.to_string(), free_ports()?);
        let admin = admin.to_string();
        let mut arguments = vec![
            "bootstrap",
            "--server",
            &server,
            "--namespace",
            &sidecar.namespace,
            "--service",
            &sidecar.service,
            "--node-id",
            &sidecar.task,
            "--zone",
            &sidecar.zone,
            "--admin-port",
            &admin,
        ];
        let ports: Vec<_> = sidecar.container_ports.iter().map(u16::to_string).collect();
        for port in &ports {
            arguments.extend(["--container-port", port]);
        }
        arguments.extend(more);
        self.command(&arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_one_that_the_server_takes() {
        let sources = Sources {
            clusters: vec!["prod-a".to_owned()],
            cloud_map: vec!["legacy".to_owned()],
            files: vec!["/srv/services.yaml".into()],
            assume_role: Some("arn:aws:iam::444455556666:role/legation".to_owned()),
        };
        let setup = Setup::aws("http://127.0.0.1:4566").namespace("prod", sources);
        let text = setup.render(Ports { xds: 1, metrics: 2, admin: 3 });
        let config = legation::config::Config::parse(Path::new("/x/legation.yaml"), &text, []).unwrap();
        assert_eq!(config.listen.metrics.to_string(), "127.0.0.1:2");
        assert_eq!(config.aws.endpoint_url.as_deref(), Some("http://127.0.0.1:4566"));
        assert_eq!(config.ecs_interval, Duration::from_secs(1));
        let namespace = config.namespaces.values().next().unwrap();
        assert_eq!(namespace.clusters, ["prod-a"]);
        assert_eq!(namespace.cloud_map, ["legacy"]);
        assert_eq!(namespace.files, [PathBuf::from("/srv/services.yaml")]);
        assert_eq!(namespace.assume_role.as_deref(), Some("arn:aws:iam::444455556666:role/legation"));
    }
}
