//! The server's own settings: a file and the environment into a checked [`Config`].
//!
//! It is not policy: nothing here says how clients treat a service.
//!
//! Invariant: a [`Config`] that exists can be started; every problem that one look can find is told at once.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::diagnostic::{Document, Problem, REJECTED, read_yaml};
use crate::model::Namespace;

mod checks;
mod clusters;
mod environment;
mod written;

/// The checked settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: Listen,
    /// How to reach AWS.
    pub aws: Aws,
    /// The time between two readings of an ECS cluster.
    pub ecs_interval: Duration,
    /// The queue that ECS's events come to, if there is one.
    pub ecs_queue: Option<Queue>,
    /// The time between two readings of a Cloud Map namespace.
    pub cloud_map_interval: Duration,
    /// The time between two looks for services of Cloud Map whose instances are others.
    pub cloud_map_revision_interval: Duration,
    /// The time between two looks at the health of the instances of Cloud Map.
    pub cloud_map_health_interval: Duration,
    /// The longest pause between failed readings.
    pub max_backoff: Duration,
    /// How long streams get to end when the server stops.
    pub shutdown_grace: Duration,
    /// From when on a loss of endpoints is held back.
    pub guard: Guard,
    /// What sidecars get and are allowed.
    pub xds: Xds,
    /// Set where sidecars must speak TLS.
    pub tls: Option<Tls>,
    /// The namespaces to serve; at least one.
    pub namespaces: BTreeMap<Namespace, NamespaceConfig>,
    /// Policy files and folders of them, each joined to the folder of the configuration.
    pub policies: Vec<PathBuf>,
    /// The variable and the text of one more policy, from the environment.
    pub policy_text: Option<Box<(PathBuf, String)>>,
}

/// The variable that may hold the text of a policy, which is in force beside all that files say.
const POLICY_TEXT: &str = "LEGATION_POLICY";

/// Where the server listens. Port 0 takes a free one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listen {
    /// For sidecars.
    pub xds: SocketAddr,
    /// For health checks and Prometheus.
    pub metrics: SocketAddr,
    /// For people; always loopback, since it has no authentication yet.
    pub admin: SocketAddr,
}

impl Default for Listen {
    fn default() -> Self {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Self {
            xds: SocketAddr::new(any, 18000),
            metrics: SocketAddr::new(any, 9090),
            admin: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 19000),
        }
    }
}

/// What sidecars get and are allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Xds {
    /// How long a connection lives, spread by a fifth either way.
    pub max_stream_age: Duration,
    /// How many streams there may be in all.
    pub max_streams: NonZeroU32,
    /// How many streams there may be in one namespace.
    pub max_streams_per_namespace: NonZeroU32,
    /// How many new streams are admitted in a second.
    pub new_streams_per_second: NonZeroU32,
    /// How many names of one type a stream may ask for.
    pub max_names: NonZeroU32,
    /// How long a cluster stays when nothing refers to it any more.
    pub cluster_grace: Duration,
    /// Between two pings of HTTP/2.
    pub keepalive_interval: Duration,
    /// How long the answer to a ping may take.
    pub keepalive_timeout: Duration,
    /// How long a client may take nothing of what is sent.
    pub write_timeout: Duration,
}

impl Default for Xds {
    fn default() -> Self {
        let number = |number: u32| NonZeroU32::MIN.saturating_add(number - 1);
        Self {
            max_stream_age: Duration::from_secs(1800),
            max_streams: number(20_000),
            max_streams_per_namespace: number(20_000),
            new_streams_per_second: number(500),
            max_names: number(100_000),
            cluster_grace: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(60),
        }
    }
}

/// From when on endpoints that a reading lacks, and of which nothing says that they stopped, are held back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Guard {
    /// More than this share of a service's endpoints, in percent.
    pub max_withdrawal_percent: u32,
    /// More than this share of a namespace's endpoints, in percent.
    pub max_namespace_withdrawal_percent: u32,
    /// Fewer are believed whatever their share.
    pub min_endpoints: NonZeroU32,
    /// How many complete readings have to lack them, until they are believed to be gone.
    pub confirmations: u32,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            max_withdrawal_percent: 50,
            max_namespace_withdrawal_percent: 30,
            min_endpoints: NonZeroU32::MIN.saturating_add(2),
            confirmations: 2,
        }
    }
}

/// The certificate of the xDS port, both files joined to the folder of the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
    /// The chain as PEM, the server's own certificate first.
    pub certificate_file: PathBuf,
    /// Its private key as PEM.
    pub private_key_file: PathBuf,
}

/// How to reach AWS; what is `None` is found as in every AWS tool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Aws {
    /// The Region.
    pub region: Option<String>,
    /// An endpoint in place of AWS's own, for all services.
    pub endpoint_url: Option<String>,
    /// How much of what AWS allows is used, in percent.
    pub call_budget: u32,
}

impl Default for Aws {
    fn default() -> Self {
        Self { region: None, endpoint_url: None, call_budget: 50 }
    }
}

/// The SQS queue that ECS's events come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Queue {
    /// Its URL.
    pub url: String,
    /// How many calls listen to it side by side.
    pub receivers: NonZeroU32,
}

/// The sources of one namespace; at least one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NamespaceConfig {
    /// ECS clusters, by name or ARN.
    pub clusters: Vec<String>,
    /// Cloud Map namespaces that are read as extra members, by name, or by ARN where another account shares them.
    pub cloud_map: Vec<String>,
    /// File sources, each joined to the folder of the configuration.
    pub files: Vec<PathBuf>,
    /// Which ECS services join.
    pub discover: Discover,
    /// The ARN of the role that its clusters and Cloud Map namespaces are read with, where they are in another account.
    pub assume_role: Option<String>,
}

/// Which ECS services join a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Discover {
    /// Those that ask for it: a `legation` key or a Service Connect block.
    #[default]
    Labelled,
    /// Every named port.
    All,
}

impl Config {
    /// Reads `file`, with the `environment` above it.
    pub fn load(
        file: &Path,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Vec<Problem>> {
        let text = std::fs::read_to_string(file).map_err(|error| {
            let name = file.display().to_string();
            vec![Problem::whole(name, REJECTED, format!("can't read the configuration: {error}"))]
        })?;
        Self::parse(file, &text, environment)
    }

    /// Reads the `text` of `file`, with the `environment` above it.
    pub fn parse(
        file: &Path,
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Vec<Problem>> {
        let mut written = read_yaml(file, text).map_err(|problem| vec![problem])?;
        let (texts, environment): (Vec<_>, Vec<_>) =
            environment.into_iter().partition(|(name, _)| name == POLICY_TEXT);
        let strangers = environment::apply(&mut written, environment);
        let config = checks::check(Document::new(file, text), written, strangers)?;
        let text = texts.into_iter().find(|(_, text)| !text.trim().is_empty());
        let policy_text = text.map(|(name, text)| Box::new((name.into(), text)));
        Ok(Self { policy_text, ..config })
    }
}

#[cfg(test)]
mod tests;
