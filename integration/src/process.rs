//! Child processes that never outlive us, with what they said kept in a file.
//!
//! It knows nothing of what runs in them. Two facts shape it: Envoy asks the kernel to end it when the
//! *thread* that started it ends, so one thread that lives as long as we do starts everything; and other
//! programs ask for nothing of the kind, so a watcher on a pipe ends them when we are gone. Invariant: a
//! dropped process is dead and reaped.

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, OnceLock, mpsc};
use std::time::Duration;

use anyhow::Context;

use crate::loopback::Place;
use crate::wait;

/// Kills the process of the given id when its own input ends, that is when we do.
const WATCHER: &str = "read -r _ || kill -s KILL \"$0\" 2>/dev/null";

/// Where free ports are looked for, and among how many.
const FIRST_PORT: u16 = 20_100;
const PORTS: u64 = 12_000;

type Order = (Command, Place, mpsc::SyncSender<io::Result<Child>>);

/// The thread that starts everything, each on the loopback of whoever asked.
static STARTER: LazyLock<Option<mpsc::Sender<Order>>> = LazyLock::new(|| {
    let (orders, inbox) = mpsc::channel::<Order>();
    let started = std::thread::Builder::new().name("starter".to_owned()).spawn(move || {
        for (mut command, place, answer) in inbox {
            // Whoever asked may be gone; then the child is dropped, and ends with us at the latest.
            let _ = answer.send(place.enter().and_then(|()| command.spawn()));
        }
    });
    started.ok().map(|_| orders)
});

fn start(command: Command) -> io::Result<Child> {
    let (answer, outcome) = mpsc::sync_channel(1);
    let gone = || io::Error::other("the thread that starts processes is gone");
    let starter = STARTER.as_ref().ok_or_else(gone)?;
    starter.send((command, Place::here()?, answer)).map_err(|_| gone())?;
    outcome.recv().map_err(|_| gone())?
}

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    watcher: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program in a process group of its own, so that Ctrl-C reaches us alone. What it says is
    /// appended to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let output: File = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        let errors = output.try_clone().context("sharing the log file")?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        let program = command.get_program().to_owned();
        let mut child =
            start(command).with_context(|| format!("starting {name} ({})", program.to_string_lossy()))?;
        let mut watch = Command::new("sh");
        watch.args(["-c", WATCHER, &child.id().to_string()]);
        watch.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let watcher = start(watch).context("starting a watcher");
        let watcher = watcher.inspect_err(|_| {
            let _ = child.kill().and_then(|()| child.wait());
        })?;
        Ok(Self { name: name.to_owned(), child, watcher, log: log.to_owned() })
    }

    /// What we call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where its words go.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("asking after {}", self.name))
    }

    /// An error if it has ended, with its last words.
    pub fn still_runs(&mut self) -> anyhow::Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => anyhow::bail!("{} ended ({status}):\n{}", self.name, tail(&self.log, 30)),
        }
    }

    /// Asks it to end (SIGTERM) and waits for that.
    pub async fn terminate(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        let id = self.id().to_string();
        let sent = Command::new("sh").args(["-c", "kill -s TERM \"$0\"", &id]).status();
        anyhow::ensure!(sent.context("sending SIGTERM")?.success(), "{} could not be signalled", self.name);
        let what = format!("the end of {}", self.name);
        wait::until(limit, what, async || self.ended()).await
    }

    /// Kills it (SIGKILL) and reaps it.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.let_go();
        self.child.kill().with_context(|| format!("killing {}", self.name))?;
        self.child.wait().with_context(|| format!("reaping {}", self.name))?;
        Ok(())
    }

    /// Ends the watcher first: once the child is reaped its id may be another's.
    fn let_go(&mut self) {
        let _ = self.watcher.kill();
        let _ = self.watcher.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.let_go();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last lines of a file, each cut at 400 characters, without Envoy's list of everything that is built into
/// it; empty if the file can't be read.
pub fn tail(file: &Path, lines: usize) -> String {
    let text = std::fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = text.unwrap_or_default();
    let telling = text.lines().filter(|line| !line.contains("server/server.cc:467]"));
    let all: Vec<String> = telling.map(|line| line.chars().take(400).collect()).collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Different TCP ports of 127.0.0.1 that are free now and were not given to anyone else in this process, who may
/// not have taken them yet. They lie below those that the kernel gives to outgoing connections: one of those could
/// take the port while its server is away, even by a client of that server connecting to itself.
pub fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    static NEXT: OnceLock<AtomicU64> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicU64::new(RandomState::new().hash_one(std::process::id())));
    let mut ports = [0; N];
    for port in &mut ports {
        let mut candidates = (0..PORTS).map(|_| next.fetch_add(1, Ordering::Relaxed) % PORTS);
        let free = candidates.find_map(|candidate| {
            let candidate = FIRST_PORT + u16::try_from(candidate).ok()?;
            is_free(candidate).then_some(candidate)
        });
        *port = free.context("no port is free")?;
    }
    Ok(ports)
}

/// Whether nobody listens on this port of 127.0.0.1 now.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// The folder that Cargo builds into, which also holds Envoy and the Python packages.
pub fn target_dir() -> anyhow::Result<PathBuf> {
    if let Some(target) = std::env::var_os("CARGO_TARGET_DIR") {
        return Ok(target.into());
    }
    let own = std::env::current_exe().context("asking where this program is")?;
    // Not CACHEDIR.TAG: Cargo leaves it out of a folder that was there before.
    let built = own.ancestors().find(|folder| folder.join(".rustc_info.json").is_file());
    built.map(Path::to_owned).with_context(|| format!("{} is in no Cargo target folder", own.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_alive(id: u32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    }

    fn sleeper(folder: &Path) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", "echo up; sleep 600 & trap 'kill $!; exit 7' TERM; wait"]);
        Process::start("sleeper", command, &folder.join("log")).unwrap()
    }

    #[tokio::test]
    async fn it_ends_when_asked_and_dies_when_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let mut asked = sleeper(folder.path());
        let log = asked.log().to_owned();
        let up = async || Ok(tail(&log, 1).contains("up").then_some(()));
        wait::until(Duration::from_secs(5), "its word", up).await.unwrap();
        asked.still_runs().unwrap();
        assert_eq!(asked.terminate(Duration::from_secs(5)).await.unwrap().code(), Some(7));
        assert!(asked.still_runs().unwrap_err().to_string().contains("up"), "its last words are told");

        let dropped = sleeper(folder.path());
        let ids = [dropped.id(), dropped.watcher.id()];
        assert!(ids.iter().all(|id| is_alive(*id)));
        drop(dropped);
        assert!(ids.iter().all(|id| !is_alive(*id)));
    }

    #[tokio::test]
    async fn the_watcher_kills_it_when_we_are_gone() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = sleeper(folder.path());
        drop(process.watcher.stdin.take());
        let killed = async || process.ended();
        let status = wait::until(Duration::from_secs(5), "its end", killed).await.unwrap();
        assert_eq!(status.code(), None, "killed by a signal");
    }

    #[test]
    fn free_ports_differ() {
        let ports: [u16; 20] = free_ports().unwrap();
        let different: std::collections::BTreeSet<_> = ports.iter().collect();
        assert_eq!(different.len(), 20);
        assert!(ports.iter().all(|port| (20_100..32_100).contains(port)), "{ports:?}");
    }
}
