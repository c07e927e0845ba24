//! The file source: services and endpoints that a person or a program writes as YAML, into a [`View`].
//!
//! It is not the policy file: it says what there is, and only a little about how to treat it.
//!
//! Invariant: a file that can't be read, or is wrong anywhere, changes nothing but the reading's age.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{CellWriter, SourceError, Sweep};
use crate::diagnostic::{Document, Problem, REJECTED, read_yaml, render_all};
use crate::model::{Namespace, ServiceKey, ServiceView, View};

mod checks;
mod parts;
mod read;
mod together;
pub mod world;

use checks::Claims;
pub use together::{examine, examine_together};

/// How often the file is read even if nobody tells of a change: some file systems never do.
const POLL: Duration = Duration::from_secs(5);
/// How long an editor or a volume gets to finish what it began.
const SETTLE: Duration = Duration::from_millis(50);
/// How long a medium, such as a mount whose server is gone, gets to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reads the file once.
pub fn load(path: &Path, namespace: &Namespace) -> Result<View, Vec<Problem>> {
    let text = read::text(path).map_err(|error| vec![unreadable(path, &error)])?;
    parse(path, &text, namespace)
}

/// Reads the `text` of the file at `path`.
pub fn parse(path: &Path, text: &str, namespace: &Namespace) -> Result<View, Vec<Problem>> {
    checked(path, text, namespace).map(|(view, _)| view)
}

fn checked(path: &Path, text: &str, namespace: &Namespace) -> Result<(View, Claims), Vec<Problem>> {
    if world::is_world(text) {
        let view = world::read(path, text)?.of(path, namespace).map_err(|problem| vec![problem])?;
        return Ok((view, Claims::new()));
    }
    let written = read_yaml(path, text).map_err(|problem| vec![problem])?;
    checks::check(Document::new(path, text), &written, namespace)
}

/// Keeps `cell` at what the file says, until `shutdown`.
pub async fn run(path: PathBuf, namespace: Namespace, cell: CellWriter, shutdown: CancellationToken) {
    let mut source = FileSource::new(path, namespace);
    let changed = Arc::clone(&source.changed);
    loop {
        let swept = tokio::select! {
            () = shutdown.cancelled() => return,
            swept = source.sweep() => swept,
        };
        match swept {
            Ok(view) => cell.publish(view, source.began),
            Err(error) => cell.fail(error),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = changed.notified() => {}
            () = tokio::time::sleep(POLL) => continue,
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(SETTLE) => {}
        }
    }
}

/// Watches the folder and not the file, which editors and volumes replace.
fn watch(path: &Path, changed: &Arc<Notify>) -> Option<RecommendedWatcher> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (told, name) = (Arc::clone(changed), path.file_name().map(ToOwned::to_owned));
    let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        if event.is_ok_and(|event| !concerns(&event, name.as_deref())) {
            return;
        }
        told.notify_one();
    });
    match watcher.and_then(|mut watcher| watcher.watch(folder, RecursiveMode::NonRecursive).map(|()| watcher))
    {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            debug!(folder = %folder.display(), %error, "not watched; read every {} s", POLL.as_secs());
            None
        }
    }
}

/// Whether what happened in the folder may have changed the file called `name`: anything that happened to it
/// but a reading, such as our own, and anything that moved a name, since the file may be a link.
fn concerns(event: &Event, name: Option<&OsStr>) -> bool {
    let itself = event.paths.iter().any(|path| path.file_name() == name);
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => itself,
        EventKind::Access(_) => false,
        EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)) => itself,
        _ => true,
    }
}

/// What one visit to the medium brought: a watcher if there was none, and the text.
type Visit = (Option<RecommendedWatcher>, std::io::Result<String>);

/// The file and what it said last.
#[derive(Debug)]
struct FileSource {
    path: PathBuf,
    namespace: Namespace,
    last: Option<(String, View)>,
    changed: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    /// A visit that has not come back: another would only block another thread.
    visit: Option<JoinHandle<Visit>>,
    /// When the newest visit began, which may be before the sweep that it answers.
    began: Instant,
    patience: Duration,
}

impl Sweep for FileSource {
    async fn sweep(&mut self) -> Result<View, SourceError> {
        let text = self.visit().await?;
        if let Some((before, view)) = &self.last
            && *before == text
        {
            return Ok(view.clone());
        }
        let mut view = parse(&self.path, &text, &self.namespace).map_err(|problems| self.error(&problems))?;
        if let Some((_, before)) = &self.last {
            share(before, &mut view);
        }
        self.last = Some((text, view.clone()));
        Ok(view)
    }
}

impl FileSource {
    fn new(path: PathBuf, namespace: Namespace) -> Self {
        let changed = Arc::new(Notify::new());
        let (began, patience) = (Instant::now(), PATIENCE);
        Self { path, namespace, last: None, changed, watcher: None, visit: None, began, patience }
    }

    /// The text, from a thread of its own, which may block for as long as the medium likes.
    async fn visit(&mut self) -> Result<String, SourceError> {
        let visit = self.visit.get_or_insert_with(|| {
            self.began = Instant::now();
            let (path, watched) = (self.path.clone(), self.watcher.is_some());
            let changed = Arc::clone(&self.changed);
            tokio::task::spawn_blocking(move || {
                // Watching begins before reading, so that no change falls between the two.
                let watcher = if watched { None } else { watch(&path, &changed) };
                (watcher, read::text(&path))
            })
        });
        let Ok(visited) = tokio::time::timeout(self.patience, visit).await else {
            let message = format!("the file did not answer within {:?}", self.patience);
            return Err(SourceError {
                operation: self.path.display().to_string(),
                code: "timeout".to_owned(),
                message,
            });
        };
        self.visit = None;
        let (watcher, text) = visited.unwrap_or_else(|error| (None, Err(error.into())));
        self.watcher = self.watcher.take().or(watcher);
        text.map_err(|error| self.error(&[unreadable(&self.path, &error)]))
    }

    fn error(&self, problems: &[Problem]) -> SourceError {
        SourceError {
            operation: self.path.display().to_string(),
            code: problems.first().map_or(REJECTED, |problem| problem.code).to_owned(),
            message: render_all(problems, false),
        }
    }
}

/// Keeps the descriptions that have not changed, though their services have: later stages compare pointers.
fn share(before: &View, view: &mut View) {
    let shared = |(key, service): (&ServiceKey, &Arc<ServiceView>)| {
        let old = before.services.get(key).filter(|old| old.spec == service.spec);
        let shared = old.map(|old| ServiceView { spec: Arc::clone(&old.spec), ..(**service).clone() });
        (key.clone(), shared.map_or_else(|| Arc::clone(service), Arc::new))
    };
    view.services = view.services.iter().map(shared).collect();
}

fn unreadable(path: &Path, error: &std::io::Error) -> Problem {
    Problem::whole(path.display().to_string(), REJECTED, format!("can't read the services: {error}"))
}

#[cfg(test)]
mod tests;
