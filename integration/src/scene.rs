//! One test, or one demonstration, at a time on a loopback.
//!
//! Sidecars share ports such as 127.0.0.1:15001, so two at once would take each other's traffic. Tests have a loopback of their own
//! where that can be had, and run beside each other; demonstrations, and tests that look at the clock, are alone on the machine.
//! Invariant: whoever holds a [`Scene`] is alone on its loopback, also among processes; when it ends badly, every log is shown.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;

use crate::loopback;
use crate::process::tail;

/// How many lines of each log are shown after a failure.
const SHOWN: usize = 80;

/// A folder for files and logs, and a loopback for oneself.
#[derive(Debug)]
pub struct Scene {
    name: String,
    folder: TempDir,
    _turn: File,
}

impl Scene {
    /// Waits until nobody has the machine for itself; on the machine's own loopback, until it has the machine for itself.
    pub fn open(name: &str) -> anyhow::Result<Self> {
        // The machine's, not the checkout's: two checkouts share the loopback too.
        let place = std::env::temp_dir().join("legation-loopback.lock");
        let turn = File::create(&place).with_context(|| format!("opening {}", place.display()))?;
        let beside = loopback::is_own();
        if (if beside { turn.try_lock_shared() } else { turn.try_lock() }).is_err() {
            say(&format!("{name}: waiting for another test or demo on this machine to end\n"));
            (if beside { turn.lock_shared() } else { turn.lock() }).context("waiting for the loopback")?;
        }
        let prefix = format!("legation-{name}-");
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir().context("making a folder")?;
        Ok(Self { name: name.to_owned(), folder, _turn: turn })
    }

    /// Where files and logs go.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A new folder inside.
    pub fn room(&self, name: &str) -> anyhow::Result<PathBuf> {
        let room = self.folder().join(name);
        std::fs::create_dir_all(&room).with_context(|| format!("making {}", room.display()))?;
        Ok(room)
    }

    /// Shows the end of every log.
    fn show_logs(&self) {
        let mut logs = Vec::new();
        find_logs(self.folder(), &mut logs);
        logs.sort();
        for log in logs {
            let name = log.strip_prefix(self.folder()).unwrap_or(&log).display();
            say(&format!("--- {}: {name}, last lines\n{}\n", self.name, tail(&log, SHOWN)));
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
    }
}

/// Adds every log in the folder and below it to what is found.
pub fn find_logs(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            find_logs(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "log") {
            found.push(path);
        }
    }
}

fn say(text: &str) {
    // Nothing can be done if nobody listens.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Runs a test on a runtime and a loopback of its own; shows every log if it fails.
pub fn play<F>(name: &str, test: F) -> anyhow::Result<()>
where
    F: AsyncFnOnce(&Scene) -> anyhow::Result<()> + Send,
{
    loopback::with_own(|| run(name, test))
}

/// As [`play`], on the machine's loopback and with no other test beside it, as it looks at the clock.
pub fn play_alone<F>(name: &str, test: F) -> anyhow::Result<()>
where
    F: AsyncFnOnce(&Scene) -> anyhow::Result<()>,
{
    run(name, test)
}

fn run<F>(name: &str, test: F) -> anyhow::Result<()>
where
    F: AsyncFnOnce(&Scene) -> anyhow::Result<()>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("starting a runtime")?;
    let scene = Scene::open(name)?;
    let outcome = runtime.block_on(shown(&scene, test));
    // Whatever still listens ends with the runtime, and only then the next one may come.
    drop(runtime);
    outcome
}

/// As these, on the runtime and the loopback that there are.
pub async fn play_on<F>(name: &str, test: F) -> anyhow::Result<()>
where
    F: AsyncFnOnce(&Scene) -> anyhow::Result<()>,
{
    let scene = Scene::open(name)?;
    shown(&scene, test).await
}

/// The test, with every log if it fails.
async fn shown<F>(scene: &Scene, test: F) -> anyhow::Result<()>
where
    F: AsyncFnOnce(&Scene) -> anyhow::Result<()>,
{
    let outcome = test(scene).await;
    if outcome.is_err() {
        scene.show_logs();
    }
    outcome
}
