//! The machine under measure: who runs where, whether it is busy, and what it is.
//!
//! It measures nothing of it but how busy it is. Invariant: in the pinned mode server and clients share no
//! core.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use rustix::thread::{CpuSet, Pid, sched_setaffinity};

/// The share of the machine that may be taken by others, in percent.
const BUSY: u64 = 15;
/// How long it is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Who runs where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The server on one core, the clients on another.
    Pinned,
    /// The same, and they speak TLS.
    Tls,
    /// Wherever the kernel likes.
    Free,
}

impl Mode {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Tls => "pinned, TLS",
            Self::Free => "free",
        }
    }

    /// As `taskset -c` has it.
    pub(crate) fn server_cores(self) -> &'static str {
        match self {
            Self::Pinned | Self::Tls => "0",
            Self::Free => "0,1",
        }
    }

    /// Puts this thread, where the clients run, in its place.
    pub(crate) fn enter(self) -> anyhow::Result<()> {
        let mut cores = CpuSet::new();
        cores.set(1);
        if self == Self::Free {
            cores.set(0);
        }
        sched_setaffinity(None::<Pid>, &cores).context("taking a core; two are needed")
    }
}

/// How much of the machine others take, in percent.
async fn taken() -> anyhow::Result<u64> {
    let before = jiffies()?;
    tokio::time::sleep(LOOK).await;
    let after = jiffies()?;
    let (busy, all) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1).max(1));
    Ok(busy * 100 / all)
}

/// Busy and all jiffies since the machine started.
fn jiffies() -> anyhow::Result<(u64, u64)> {
    let stat = std::fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    let line = stat.lines().next().context("an empty /proc/stat")?;
    let fields: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .map(str::parse)
        .collect::<Result<_, _>>()
        .context("reading jiffies")?;
    let all: u64 = fields.iter().take(8).sum();
    let idle: u64 = fields.iter().skip(3).take(2).sum();
    Ok((all - idle, all))
}

/// What to say of a busy machine; `None` when it is quiet.
pub(crate) async fn complaint() -> anyhow::Result<Option<String>> {
    let taken = taken().await?;
    Ok((taken > BUSY).then(|| format!("others take {taken} % of this machine")))
}

/// The machine in one line.
pub(crate) fn describe() -> anyhow::Result<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Ok(format!("{cores} cores, {}, Linux {}", model.unwrap_or("unknown").trim(), kernel.trim()))
}

/// What is measured, and what it was built with.
pub(crate) fn versions(peer: Option<&Path>) -> anyhow::Result<String> {
    let unknown = |_| "unknown".to_owned();
    let commit = said("git", &["describe", "--always", "--dirty"]).unwrap_or_else(unknown);
    let rust = said("rustc", &["--version"]).unwrap_or_else(unknown);
    let rust = rust.split(' ').nth(1).unwrap_or(&rust);
    let envoy = said(integration::envoy::binary()?, &["--version"])?;
    let envoy = envoy.rsplit(' ').next().and_then(|built| built.split('/').nth(1)).unwrap_or_default();
    let peer = match peer {
        Some(peer) => said(peer, &["-version"])?,
        None => "no peer, for want of Go: Legation was measured beside the floor alone".to_owned(),
    };
    let legation = env!("CARGO_PKG_VERSION");
    Ok(format!("Legation {legation} ({commit}), built by Rust {rust}; {peer}; Envoy {envoy}"))
}

fn said(program: impl AsRef<OsStr>, arguments: &[&str]) -> anyhow::Result<String> {
    let name = program.as_ref().display().to_string();
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("starting {name}"))?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    anyhow::ensure!(output.status.success() && !said.is_empty(), "{name} says nothing");
    Ok(said)
}

/// How many connections the kernel has dropped because a queue was full.
pub(crate) fn dropped() -> anyhow::Result<u64> {
    let netstat = std::fs::read_to_string("/proc/net/netstat").context("reading /proc/net/netstat")?;
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().context("no TcpExt")?, lines.next().context("no TcpExt")?);
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let (_, drops) = pairs.find(|(name, _)| *name == "ListenDrops").context("no ListenDrops")?;
    drops.parse().context("reading ListenDrops")
}
