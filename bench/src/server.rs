//! A server under measure: a process that takes orders over a control connection and serves clients.
//!
//! It knows nothing of the clients. Invariant: every server gets the same orders, and its process is pinned as the
//! mode says.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use integration::process::{Process, free_ports};
use integration::{http, vitals, wait};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::watch;

use crate::door::{Certificate, Door};
use crate::machine::Mode;
use crate::world::Change;

/// How long a server may take to listen.
const START: Duration = Duration::from_secs(30);

/// How long it may take to take in what was ordered.
const PATIENCE: Duration = Duration::from_secs(120);

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Legation,
    Linear,
    Snapshot,
}

impl Kind {
    /// The word in the results.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Legation => "legation",
            Self::Linear => "linear",
            Self::Snapshot => "snapshot",
        }
    }
}

/// Where the programs are.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) fed: PathBuf,
    pub(crate) floor: PathBuf,
    pub(crate) sdk: PathBuf,
    /// None where there is no Go.
    pub(crate) peer: Option<PathBuf>,
}

/// A running server.
pub(crate) struct Server {
    process: Process,
    orders: OwnedWriteHalf,
    /// How many orders were given, and how many the server has taken in.
    given: u64,
    taken: watch::Receiver<u64>,
    door: Door,
    /// Where it says whether it is ready, if it does.
    metrics: Option<SocketAddr>,
    admin: SocketAddr,
}

impl Server {
    /// Starts a server that serves nothing yet.
    pub(crate) async fn start(
        kind: Kind,
        programs: &Programs,
        mode: Mode,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        std::fs::write(folder.join("none.yaml"), "services: {}\n").context("writing a services file")?;
        Self::start_with(kind, programs, mode, folder, "namespaces: { prod: { files: [none.yaml] } }\n").await
    }

    /// Starts Legation with `sources`, as they are written in its configuration.
    pub(crate) async fn reading(
        programs: &Programs,
        mode: Mode,
        folder: &Path,
        sources: &str,
    ) -> anyhow::Result<Self> {
        Self::start_with(Kind::Legation, programs, mode, folder, sources).await
    }

    async fn start_with(
        kind: Kind,
        programs: &Programs,
        mode: Mode,
        folder: &Path,
        sources: &str,
    ) -> anyhow::Result<Self> {
        let [xds, control, metrics, admin] = free_ports()?;
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (door, certificate) = match mode {
            Mode::Tls => {
                Door::with_certificate(local(xds), folder).map(|(door, files)| (door, Some(files)))?
            }
            Mode::Pinned | Mode::Free => (Door::plain(local(xds)), None),
        };
        let mut command = Command::new("taskset");
        command.args(["-c", mode.server_cores()]);
        match kind {
            Kind::Legation => {
                let config = folder.join("legation.yaml");
                let listen = configuration(local(xds), local(metrics), local(admin), certificate.as_ref());
                std::fs::write(&config, listen + sources).context("writing the configuration")?;
                with_credentials(&mut command);
                command.arg(&programs.fed).arg(&config).arg(local(control).to_string());
            }
            Kind::Linear | Kind::Snapshot => {
                command.arg(programs.peer.as_ref().context("go-control-plane was not built")?);
                command.args(["-cache", kind.word(), "-xds", &local(xds).to_string()]);
                command.args(["-control", &local(control).to_string()]);
                if let Some(Certificate { chain, key }) = &certificate {
                    command.arg("-certificate").arg(chain).arg("-key").arg(key);
                }
            }
        }
        let mut process = Process::start(kind.word(), command, &folder.join(format!("{}.log", kind.word())))?;
        let control = wait::until(START, format!("{} to take orders", kind.word()), async || {
            process.still_runs()?;
            Ok(Some(TcpStream::connect(local(control)).await?))
        })
        .await?;
        control.set_nodelay(true)?;
        let metrics = (kind == Kind::Legation).then_some(local(metrics));
        let admin = local(admin);
        let (answers, orders) = control.into_split();
        let (count, taken) = watch::channel(0);
        tokio::task::spawn_local(async move {
            let mut answers = BufReader::new(answers).lines();
            while let Ok(Some(_)) = answers.next_line().await {
                count.send_modify(|count| *count += 1);
            }
        });
        Ok(Self { process, orders, given: 0, taken, door, metrics, admin })
    }

    /// Has everything served for the first time.
    pub(crate) async fn load(&mut self, all: &[Change]) -> anyhow::Result<()> {
        self.apply(all).await?;
        if let Some(metrics) = self.metrics {
            wait::until(START, "the server to be ready", async || {
                http::get_ok(metrics, "/readyz").await.map(Some)
            })
            .await?;
        }
        Ok(())
    }

    /// Where clients connect.
    pub(crate) fn door(&self) -> &Door {
        &self.door
    }

    /// Where Legation is asked what it knows.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Has these served, one of these days.
    pub(crate) async fn order(&mut self, changes: &[Change]) -> anyhow::Result<()> {
        let mut orders = String::new();
        changes.iter().for_each(|change| change.write(&mut orders));
        orders.push_str("commit\n");
        self.orders.write_all(orders.as_bytes()).await.context("giving an order")?;
        self.given += 1;
        Ok(())
    }

    /// Waits until the server has taken in all that was ordered.
    pub(crate) async fn taken_in(&mut self) -> anyhow::Result<()> {
        let given = self.given;
        let taken = self.taken.wait_for(|taken| *taken >= given);
        tokio::time::timeout(PATIENCE, taken)
            .await
            .context("orders are not taken in")?
            .context("the server takes no more orders")?;
        Ok(())
    }

    /// Has these served. Returns when the server has taken them in.
    pub(crate) async fn apply(&mut self, changes: &[Change]) -> anyhow::Result<()> {
        self.order(changes).await?;
        self.taken_in().await
    }

    /// The processor time so far.
    pub(crate) fn processor(&self) -> anyhow::Result<Duration> {
        vitals::processor(self.process.id())
    }

    /// The resident memory in KiB.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        vitals::memory(self.process.id())
    }
}

/// Nothing but the limit on new streams is set: a storm shall not be spread.
fn configuration(
    xds: SocketAddr,
    metrics: SocketAddr,
    admin: SocketAddr,
    certificate: Option<&Certificate>,
) -> String {
    let tls = certificate.map_or(String::new(), |Certificate { chain, key }| {
        format!(", tls: {{ certificateFile: {}, privateKeyFile: {} }}", chain.display(), key.display())
    });
    format!(
        "listen: {{ xds: {xds}, metrics: {metrics}, admin: {admin} }}\n\
         xds: {{ newStreamsPerSecond: 1000000{tls} }}\n"
    )
}

/// What the AWS SDK asks for before it signs a call.
pub(crate) fn with_credentials(command: &mut Command) {
    command.envs([
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "example"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ]);
}
