//! A numbered case of the protocol: what it is called, and what it does in each protocol.
//!
//! It knows no server. Invariant: a case either runs in a protocol or says why it can't.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use integration::probe::Protocol;
use integration::process::tail;
use integration::scene::find_logs;
use tempfile::TempDir;

/// A case that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(120);
/// How much of each log is shown after a failure.
const SHOWN: usize = 12;

type Body = Box<dyn Fn(&Context) -> anyhow::Result<()> + Send + Sync>;

/// A case in one protocol.
pub(crate) enum Run {
    /// It runs.
    Body(Body),
    /// It can't, and why.
    NotApplicable(&'static str),
}

/// A numbered case.
pub(crate) struct Case {
    pub(crate) number: u8,
    pub(crate) title: &'static str,
    pub(crate) delta: Run,
    pub(crate) sotw: Run,
    /// Whether it measures time, so that nothing may run beside it.
    pub(crate) alone: bool,
}

/// What a running case is given.
pub(crate) struct Context {
    pub(crate) protocol: Protocol,
    folder: TempDir,
}

impl Case {
    /// The same in both protocols; the context tells which it is.
    pub(crate) fn both<F>(number: u8, title: &'static str, body: F) -> Self
    where
        F: AsyncFn(&Context) -> anyhow::Result<()> + Copy + Send + Sync + 'static,
    {
        Self::each(number, title, body, body)
    }

    /// Something else in each protocol.
    pub(crate) fn each<D, S>(number: u8, title: &'static str, delta: D, sotw: S) -> Self
    where
        D: AsyncFn(&Context) -> anyhow::Result<()> + Send + Sync + 'static,
        S: AsyncFn(&Context) -> anyhow::Result<()> + Send + Sync + 'static,
    {
        Self { number, title, delta: run(delta), sotw: run(sotw), alone: false }
    }

    /// Only in delta, and why.
    pub(crate) fn delta_only<F>(number: u8, title: &'static str, body: F, why: &'static str) -> Self
    where
        F: AsyncFn(&Context) -> anyhow::Result<()> + Send + Sync + 'static,
    {
        Self { number, title, delta: run(body), sotw: Run::NotApplicable(why), alone: false }
    }

    /// Only in state of the world, and why.
    pub(crate) fn sotw_only<F>(number: u8, title: &'static str, body: F, why: &'static str) -> Self
    where
        F: AsyncFn(&Context) -> anyhow::Result<()> + Send + Sync + 'static,
    {
        Self { number, title, delta: Run::NotApplicable(why), sotw: run(body), alone: false }
    }

    /// Nothing may run beside it.
    pub(crate) fn alone(self) -> Self {
        Self { alone: true, ..self }
    }

    /// What it does in a protocol.
    pub(crate) fn run(&mut self, protocol: Protocol) -> &mut Run {
        match protocol {
            Protocol::Delta => &mut self.delta,
            Protocol::Sotw => &mut self.sotw,
        }
    }
}

/// A body on a runtime of its own: what it leaves behind ends with it.
fn run<F>(body: F) -> Run
where
    F: AsyncFn(&Context) -> anyhow::Result<()> + Send + Sync + 'static,
{
    Run::Body(Box::new(move |context| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.context("starting a runtime")?;
        let outcome = runtime.block_on(async { tokio::time::timeout(LIMIT, body(context)).await });
        runtime.shutdown_background();
        outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("it did not end within {LIMIT:?}")))
    }))
}

impl Context {
    /// A folder for one run.
    pub(crate) fn new(number: u8, protocol: Protocol) -> anyhow::Result<Self> {
        let prefix = format!("legation-c{number}-{protocol}-");
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir().context("making a folder")?;
        Ok(Self { protocol, folder })
    }

    /// Where files and logs go; the logs in it are shown after a failure.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A new folder inside.
    pub(crate) fn room(&self, name: &str) -> anyhow::Result<PathBuf> {
        let room = self.folder().join(name);
        std::fs::create_dir_all(&room).with_context(|| format!("making {}", room.display()))?;
        Ok(room)
    }

    /// The end of every log, for the account of a failure.
    pub(crate) fn logs(&self) -> String {
        let mut logs = Vec::new();
        find_logs(self.folder(), &mut logs);
        logs.sort();
        let shown = logs.iter().map(|log| {
            let name = log.strip_prefix(self.folder()).unwrap_or(log).display();
            format!("--- {name}, last lines\n{}\n", tail(log, SHOWN))
        });
        shown.collect()
    }
}
