//! The Docker Engine: containers, networks and volumes of one estate.
//!
//! It knows nothing of tasks. Invariant: whatever it makes has [`LABEL`], and when an engine is opened nothing with that label is
//! left from before; so one estate at a time uses an engine, and a lock sees to it.

use std::collections::HashMap;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error::DockerResponseServerError;
use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HostConfig, Ipam, IpamConfig,
    NetworkCreateRequest, NetworkingConfig, VolumeCreateRequest,
};
use bollard::query_parameters::{
    KillContainerOptions, ListContainersOptions, ListNetworksOptions, ListVolumesOptions, LogsOptions,
    RemoveContainerOptions, RemoveVolumeOptions, StartContainerOptions, WaitContainerOptions,
};
use futures_util::{StreamExt, TryStreamExt};
use tokio::process::Command;

use super::LABEL;
use super::ministack;
use super::network::Inside;

/// Seconds that a signal may take to be delivered, and a container to be made.
const REQUEST: u64 = 120;
const REMOVAL: Duration = Duration::from_secs(60);

/// An engine that answers.
#[derive(Debug, Clone)]
pub struct Engine {
    docker: Docker,
    host: String,
    /// Held as long as an estate stands.
    _lock: std::sync::Arc<File>,
}

/// A container to be.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// What people call it.
    pub name: String,
    /// Its image.
    pub image: String,
    /// In place of the image's own, unless empty.
    pub entry_point: Vec<String>,
    /// In place of the image's own, unless empty.
    pub command: Vec<String>,
    /// `NAME=value`.
    pub environment: Vec<String>,
    /// Who runs it; else as the image says.
    pub user: Option<String>,
    /// `volume:path` or `volume:path:ro`.
    pub binds: Vec<String>,
    /// Whether it may write into its own files.
    pub read_only: bool,
    /// Where it is on the network.
    pub place: Place,
    /// Labels beside [`LABEL`].
    pub labels: HashMap<String, String>,
}

/// Where a container is on the network.
#[derive(Debug, Clone, Default)]
pub enum Place {
    /// Nowhere.
    #[default]
    Nowhere,
    /// With an address of its own, and names that the network's DNS knows it by.
    At {
        /// The network.
        network: String,
        /// The address.
        ip: Ipv4Addr,
        /// The names.
        names: Vec<String>,
    },
    /// In the network namespace of another container.
    In(String),
}

impl Engine {
    /// Opens the engine that `docker.sh` finds or starts, and clears away what an earlier estate left.
    pub async fn open() -> anyhow::Result<Self> {
        anyhow::ensure!(
            rustix::process::geteuid().is_root(),
            "the estate in containers needs root, and Docker's leave alone is not enough: it looks into containers' networks"
        );
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker.sh");
        let output = Command::new(script).arg("up").output().await.context("running docker.sh")?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        let host = String::from_utf8(output.stdout).context("what docker.sh says")?.trim().to_owned();
        let socket = host.strip_prefix("unix://").with_context(|| {
            format!(
                "the estate in containers needs a Docker Engine of this machine, by unix://, and not {host}"
            )
        })?;
        let docker = Docker::connect_with_socket(&host, REQUEST, bollard::API_DEFAULT_VERSION)
            .with_context(|| format!("connecting to Docker at {host}"))?;
        let docker = docker.negotiate_version().await.with_context(|| format!("asking Docker at {host}"))?;
        // Beside the socket, so that there is one for each engine whoever uses it; docker.sh knows it.
        let path = format!("{socket}.estate");
        let lock = File::create(&path).with_context(|| format!("opening {path}"))?;
        lock.try_lock().context("another estate stands on this engine")?;
        let own = Self { docker, host, _lock: std::sync::Arc::new(lock) };
        own.sweep().await.context("clearing away what an earlier estate left")?;
        Ok(own)
    }

    /// Where it is: the value of `DOCKER_HOST`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The client, for images.
    pub(super) fn docker(&self) -> &Docker {
        &self.docker
    }

    /// Removes every container, network and volume of an estate.
    pub async fn sweep(&self) -> anyhow::Result<()> {
        for label in [ministack::LABEL, LABEL] {
            self.sweep_with(label).await?;
        }
        Ok(())
    }

    async fn sweep_with(&self, label: &str) -> anyhow::Result<()> {
        let ours = || Some(HashMap::from([("label".to_owned(), vec![label.to_owned()])]));
        let options = ListContainersOptions { all: true, filters: ours(), ..Default::default() };
        let found = self.docker.list_containers(Some(options)).await.context("listing containers")?;
        futures_util::stream::iter(found.into_iter().filter_map(|container| container.id).map(Ok))
            .try_for_each_concurrent(4, async |id: String| self.remove(&id).await)
            .await?;
        let options = ListNetworksOptions { filters: ours() };
        for network in self.docker.list_networks(Some(options)).await.context("listing networks")? {
            self.remove_network(&network.name.unwrap_or_default()).await?;
        }
        let options = ListVolumesOptions { filters: ours() };
        let volumes = self.docker.list_volumes(Some(options)).await.context("listing volumes")?;
        for volume in volumes.volumes.unwrap_or_default() {
            self.remove_volume(&volume.name).await?;
        }
        Ok(())
    }

    /// Makes a network with this subnet, whose gateway is this machine.
    pub async fn create_network(&self, name: &str, subnet: &str, gateway: Ipv4Addr) -> anyhow::Result<()> {
        let config = IpamConfig {
            subnet: Some(subnet.to_owned()),
            gateway: Some(gateway.to_string()),
            ..Default::default()
        };
        let request = NetworkCreateRequest {
            name: name.to_owned(),
            driver: Some("bridge".to_owned()),
            ipam: Some(Ipam { config: Some(vec![config]), ..Default::default() }),
            labels: Some(labels(HashMap::new())),
            ..Default::default()
        };
        self.docker.create_network(request).await.with_context(|| format!("making the network {subnet}"))?;
        let here = std::net::UdpSocket::bind((gateway, 0));
        here.with_context(|| format!("{gateway} is not of this machine: Docker's networks are elsewhere"))
            .map(drop)
    }

    /// Removes a network that nobody is in.
    pub async fn remove_network(&self, name: &str) -> anyhow::Result<()> {
        self.docker.remove_network(name).await.with_context(|| format!("removing the network {name}"))
    }

    /// Makes a volume.
    pub async fn create_volume(&self, name: &str) -> anyhow::Result<()> {
        let labels = Some(labels(HashMap::new()));
        let request = VolumeCreateRequest { name: Some(name.to_owned()), labels, ..Default::default() };
        self.docker.create_volume(request).await.with_context(|| format!("making the volume {name}"))?;
        Ok(())
    }

    /// Removes a volume that no container uses.
    pub async fn remove_volume(&self, name: &str) -> anyhow::Result<()> {
        let options = RemoveVolumeOptions { force: true };
        self.docker
            .remove_volume(name, Some(options))
            .await
            .with_context(|| format!("removing the volume {name}"))
    }

    /// Makes a container and starts it; returns its id.
    pub async fn run(&self, order: Order) -> anyhow::Result<String> {
        let what = format!("starting {}", order.name);
        let list = |words: Vec<String>| Some(words).filter(|words| !words.is_empty());
        let (network_mode, networking_config) = order.place.settings();
        let body = ContainerCreateBody {
            image: Some(order.image),
            entrypoint: list(order.entry_point),
            cmd: list(order.command),
            env: list(order.environment),
            user: order.user,
            labels: Some(labels(order.labels)),
            networking_config,
            host_config: Some(HostConfig {
                network_mode: Some(network_mode),
                binds: list(order.binds),
                readonly_rootfs: Some(order.read_only),
                ..Default::default()
            }),
            ..Default::default()
        };
        let options =
            bollard::query_parameters::CreateContainerOptionsBuilder::default().name(&order.name).build();
        let made = self.docker.create_container(Some(options), body).await.with_context(|| what.clone())?;
        self.docker.start_container(&made.id, None::<StartContainerOptions>).await.context(what)?;
        Ok(made.id)
    }

    /// The process of a running container, as this machine counts.
    pub async fn inside(&self, id: &str) -> anyhow::Result<Inside> {
        let found =
            self.docker.inspect_container(id, None).await.with_context(|| format!("looking at {id}"))?;
        let pid = found.state.and_then(|state| state.pid).filter(|pid| *pid > 0);
        Ok(Inside::of(pid.with_context(|| format!("container {id} does not run"))?))
    }

    /// Waits for the end of a container; its exit code.
    pub async fn ended(&self, id: &str) -> anyhow::Result<i64> {
        let options = WaitContainerOptions { condition: "not-running".to_owned() };
        match self.docker.wait_container(id, Some(options)).next().await {
            Some(Ok(end)) => Ok(end.status_code),
            Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => Ok(code),
            Some(Err(error)) => Err(error).with_context(|| format!("waiting for the end of {id}")),
            None => anyhow::bail!("nobody tells of the end of {id}"),
        }
    }

    /// Sends a signal. One that has ended already is left alone.
    pub async fn signal(&self, id: &str, signal: &str) -> anyhow::Result<()> {
        let options = KillContainerOptions { signal: signal.to_owned() };
        match self.docker.kill_container(id, Some(options)).await {
            Err(DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(()),
            other => other.with_context(|| format!("sending {signal} to {id}")),
        }
    }

    /// Ends a container and forgets it; returns once nothing of it is left.
    pub async fn remove(&self, id: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + REMOVAL;
        let options = RemoveContainerOptions { force: true, v: true, ..Default::default() };
        loop {
            match self.docker.remove_container(id, Some(options.clone())).await {
                Ok(()) | Err(DockerResponseServerError { status_code: 404, .. }) => return Ok(()),
                // Somebody else is about to, and nothing tells when it is done.
                Err(DockerResponseServerError { status_code: 409, .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => return Err(error).with_context(|| format!("removing {id}")),
            }
        }
    }

    /// The running container with these labels.
    pub async fn find(&self, labels: &[(&str, &str)]) -> anyhow::Result<String> {
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let filters = Some(HashMap::from([("label".to_owned(), labels.clone())]));
        let options = ListContainersOptions { filters, ..Default::default() };
        let found = self.docker.list_containers(Some(options)).await.context("listing containers")?;
        let found = found.into_iter().next().and_then(|container| container.id);
        found.with_context(|| format!("no container with {labels:?} runs"))
    }

    /// The last lines that a container said.
    pub async fn said(&self, id: &str, lines: usize) -> anyhow::Result<String> {
        let options =
            LogsOptions { stdout: true, stderr: true, tail: lines.to_string(), ..Default::default() };
        let parts: Vec<LogOutput> = self.docker.logs(id, Some(options)).try_collect().await?;
        Ok(parts.iter().map(LogOutput::to_string).collect())
    }

    /// Waits for the end of a container for so long; none if it goes on.
    pub async fn ended_within(&self, id: &str, limit: Duration) -> anyhow::Result<Option<i64>> {
        tokio::time::timeout(limit, self.ended(id)).await.ok().transpose()
    }
}

impl Place {
    fn settings(self) -> (String, Option<NetworkingConfig>) {
        match self {
            Self::Nowhere => ("none".to_owned(), None),
            Self::In(container) => (format!("container:{container}"), None),
            Self::At { network, ip, names } => {
                let ipam = EndpointIpamConfig { ipv4_address: Some(ip.to_string()), ..Default::default() };
                let settings = EndpointSettings {
                    ipam_config: Some(ipam),
                    aliases: Some(names).filter(|names| !names.is_empty()),
                    ..Default::default()
                };
                let config = HashMap::from([(network.clone(), settings)]);
                (network, Some(NetworkingConfig { endpoints_config: Some(config) }))
            }
        }
    }
}

fn labels(mut labels: HashMap<String, String>) -> HashMap<String, String> {
    labels.insert(LABEL.to_owned(), String::new());
    labels
}
