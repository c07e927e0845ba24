//! A Python program of `python/` that is told what to do line by line, and answers likewise.
//!
//! What the lines mean is between it and the test. Invariant: it ends with its input, so that it outlives
//! neither the test nor us.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::process::{tail, target_dir};

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Python {
    name: String,
    log: std::path::PathBuf,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    child: Child,
}

/// Runs tests of `python/` with pytest; an error with all that it says if one fails.
pub fn pytest<'a>(
    files: &[&str],
    environment: impl IntoIterator<Item = (&'a str, &'a OsStr)>,
) -> anyhow::Result<String> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let setup = std::process::Command::new(here.join("setup.sh")).status().context("running setup.sh")?;
    anyhow::ensure!(setup.success(), "setup.sh failed: {setup}");
    let tests = std::process::Command::new(target_dir()?.join("python/bin/python"))
        .args(["-m", "pytest", "--quiet", "-p", "no:cacheprovider"])
        .args(files)
        .current_dir(here.join("python"))
        .envs(environment)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .context("running pytest")?;
    let said = String::from_utf8_lossy(&tests.stdout).into_owned();
    anyhow::ensure!(tests.status.success(), "{said}\n{}", String::from_utf8_lossy(&tests.stderr));
    Ok(said)
}

impl Python {
    /// Starts `python/<script>` with nothing in its environment but this; its complaints go to `folder`.
    pub fn start<'a>(
        folder: &Path,
        script: &str,
        arguments: impl IntoIterator<Item = String>,
        environment: impl IntoIterator<Item = (&'a str, &'a OsStr)>,
    ) -> anyhow::Result<Self> {
        Self::start_in("python", folder, script, arguments, environment)
    }

    /// The same with the packages of another virtual environment of `integration/setup.sh`.
    pub fn start_in<'a>(
        packages: &str,
        folder: &Path,
        script: &str,
        arguments: impl IntoIterator<Item = String>,
        environment: impl IntoIterator<Item = (&'a str, &'a OsStr)>,
    ) -> anyhow::Result<Self> {
        let python = target_dir()?.join(packages).join("bin/python");
        anyhow::ensure!(python.is_file(), "{} is missing: run integration/setup.sh", python.display());
        let log = folder.join(format!("{script}.log"));
        let errors = std::fs::File::create(&log).with_context(|| format!("opening {}", log.display()))?;
        let mut command = Command::new(python);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(script)).args(arguments);
        command.env_clear().env("PYTHONDONTWRITEBYTECODE", "1").envs(environment);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("starting {script}"))?;
        let input = child.stdin.take().context("no input")?;
        let output = BufReader::new(child.stdout.take().context("no output")?).lines();
        Ok(Self { name: script.to_owned(), log, input, output, child })
    }

    /// Ends its input, and waits until it has ended for that.
    pub async fn end(mut self, limit: Duration) -> anyhow::Result<()> {
        drop(self.input);
        let ended = tokio::time::timeout(limit, self.child.wait()).await;
        let status = ended.with_context(|| format!("{} does not end", self.name))??;
        anyhow::ensure!(status.success(), "{} ended with {status}:\n{}", self.name, tail(&self.log, 30));
        Ok(())
    }

    /// Its next line.
    pub async fn line(&mut self, limit: Duration) -> anyhow::Result<String> {
        let read = tokio::time::timeout(limit, self.output.next_line()).await;
        let read = read.with_context(|| format!("{} said nothing for {limit:?}", self.name))?;
        let line = read.with_context(|| format!("listening to {}", self.name))?;
        line.with_context(|| format!("{} has ended:\n{}", self.name, tail(&self.log, 30)))
    }

    /// Says a line and hears the answer.
    pub async fn ask(&mut self, line: &str, limit: Duration) -> anyhow::Result<String> {
        let what = || format!("telling {} to {line}", self.name);
        self.input.write_all(format!("{line}\n").as_bytes()).await.with_context(what)?;
        self.input.flush().await.with_context(what)?;
        let what = format!("{} was told to {line}", self.name);
        self.line(limit).await.context(what)
    }
}
