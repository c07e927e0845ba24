//! Policy files on disk: read, watched, and read again when they change.
//!
//! It knows nothing of what they say. Invariant: a reload that has problems changes nothing but what is told of it: the
//! last good policy stays in force.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Policy, Text};
use crate::diagnostic::{Problem, REJECTED, render_all};
use crate::model::{Namespace, View};

/// How often files are read where nobody tells of changes: some media don't.
const POLL: Duration = Duration::from_secs(5);
/// After a change, until whoever writes has finished.
const SETTLE: Duration = Duration::from_millis(50);

/// Where policies are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Places {
    paths: Vec<PathBuf>,
    text: Option<Text>,
}

impl Places {
    /// These files and folders, and then a text that does not change, by the name of where it comes from.
    pub fn new(paths: &[PathBuf], text: Option<&Text>) -> Self {
        Self { paths: paths.to_vec(), text: text.cloned() }
    }

    /// Whether anything there may change.
    pub fn may_change(&self) -> bool {
        !self.paths.is_empty()
    }

    /// Every file, of a folder its `.yaml` and `.yml` files by name, and then the text.
    fn texts(&self) -> Result<Vec<Text>, Vec<Problem>> {
        let mut texts = texts(&self.paths)?;
        texts.extend(self.text.clone());
        Ok(texts)
    }
}

/// The policy in force.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it says.
    pub policy: Arc<Policy>,
    /// The services that it describes itself.
    pub externals: Arc<View>,
    /// Since when it is in force.
    pub since: SystemTime,
    /// What is wrong with the files as they are now, if they are not in force.
    pub rejected: Arc<[Problem]>,
    /// When the files were last found to be what is in force, after a change or a rejection.
    pub good_at: SystemTime,
    /// How often files were rejected that were there anew.
    pub rejections: u64,
    texts: Arc<[Text]>,
}

impl Loaded {
    /// No policy at all.
    pub fn none() -> Self {
        Self::of(Vec::new(), Policy::default())
    }

    /// The policy that these files say.
    pub(crate) fn of(texts: Vec<Text>, policy: Policy) -> Self {
        let now = SystemTime::now();
        Self {
            externals: Arc::new(policy.view()),
            policy: Arc::new(policy),
            since: now,
            rejected: Arc::new([]),
            good_at: now,
            rejections: 0,
            texts: texts.into(),
        }
    }

    /// The policy that these files say about these namespaces.
    pub fn read(texts: Vec<Text>, namespaces: &BTreeSet<Namespace>) -> Result<Self, Vec<Problem>> {
        let policy = Policy::parse(&texts, namespaces)?;
        Ok(Self::of(texts, policy))
    }

    /// The files with their texts, in the order in which they were read.
    pub fn texts(&self) -> &[Text] {
        &self.texts
    }

    /// The files, in the order in which they were read.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.texts.iter().map(|(path, _)| path.as_path())
    }
}

/// Reads the policy that is there.
pub fn load(places: &Places, namespaces: &BTreeSet<Namespace>) -> Result<Loaded, Vec<Problem>> {
    Loaded::read(places.texts()?, namespaces)
}

fn texts(paths: &[PathBuf]) -> Result<Vec<Text>, Vec<Problem>> {
    let (mut texts, mut problems) = (Vec::new(), Vec::new());
    let unreadable = |path: &Path, error: &std::io::Error| {
        Problem::whole(path.display().to_string(), REJECTED, format!("can't read the policy: {error}"))
    };
    for path in paths {
        let files = if path.is_dir() { files_in(path) } else { Ok(vec![path.clone()]) };
        match files {
            Ok(files) => {
                for file in files {
                    match std::fs::read_to_string(&file) {
                        Ok(text) => texts.push((file, text)),
                        Err(error) => problems.push(unreadable(&file, &error)),
                    }
                }
            }
            Err(error) => problems.push(unreadable(path, &error)),
        }
    }
    if problems.is_empty() { Ok(texts) } else { Err(problems) }
}

fn files_in(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let is_yaml = path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
        if is_yaml && !is_hidden && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Keeps `sender` at what the files say, until `shutdown`.
pub async fn run(
    places: Places,
    namespaces: BTreeSet<Namespace>,
    sender: watch::Sender<Loaded>,
    shutdown: CancellationToken,
) {
    let changed = Arc::new(Notify::new());
    let _watchers: Vec<_> =
        folders(&places.paths).iter().filter_map(|folder| watch_folder(folder, &changed)).collect();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = changed.notified() => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(POLL) => {}
        }
        let before = sender.borrow().clone();
        let (places, namespaces) = (places.clone(), namespaces.clone());
        // Reading may block for as long as the medium likes.
        let reading = tokio::task::spawn_blocking(move || reload(&before, &places, &namespaces));
        let now = tokio::select! {
            () = shutdown.cancelled() => return,
            now = reading => now.ok().flatten(),
        };
        if let Some(now) = now {
            sender.send_replace(now);
        }
    }
}

/// What is in force from now on, if anything is new.
fn reload(before: &Loaded, places: &Places, namespaces: &BTreeSet<Namespace>) -> Option<Loaded> {
    let outcome = places.texts().and_then(|texts| {
        if *texts == *before.texts {
            return Ok(None);
        }
        let policy = Policy::parse(&texts, namespaces)?;
        Ok(Some(Loaded { rejections: before.rejections, ..Loaded::of(texts, policy) }))
    });
    match outcome {
        Ok(Some(loaded)) => {
            info!(files = loaded.texts.len(), "policy loaded");
            Some(loaded)
        }
        // As it was, and so nothing is wrong any more.
        Ok(None) => {
            let good = || Loaded { rejected: Arc::new([]), good_at: SystemTime::now(), ..before.clone() };
            (!before.rejected.is_empty()).then(good)
        }
        Err(problems) if *problems == *before.rejected => None,
        Err(problems) => {
            warn!("policy rejected, the last good one stays in force:\n{}", render_all(&problems, false));
            let rejections = before.rejections + 1;
            Some(Loaded { rejected: problems.into(), rejections, ..before.clone() })
        }
    }
}

/// The folders to watch: editors and volumes replace files.
fn folders(paths: &[PathBuf]) -> BTreeSet<PathBuf> {
    let folder = |path: &PathBuf| {
        if path.is_dir() {
            return path.clone();
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        parent.unwrap_or(Path::new(".")).to_owned()
    };
    paths.iter().map(folder).collect()
}

fn watch_folder(folder: &Path, changed: &Arc<Notify>) -> Option<RecommendedWatcher> {
    let told = Arc::clone(changed);
    let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // Our own reading is no change.
        let is_reading = |kind: &EventKind| matches!(kind, EventKind::Access(access) if *access != AccessKind::Close(AccessMode::Write));
        if event.is_ok_and(|event| is_reading(&event.kind)) {
            return;
        }
        told.notify_one();
    });
    match watcher.and_then(|mut it| it.watch(folder, RecursiveMode::NonRecursive).map(|()| it)) {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            debug!(folder = %folder.display(), %error, "not watched; read every {} s", POLL.as_secs());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: legation/v1alpha1\nkind: Policy\n";

    #[tokio::test]
    async fn a_change_is_seen_and_a_bad_one_keeps_the_last_good() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), format!("{HEAD}{text}")).expect("a file");
        };
        write("b.yaml", "services: { payments: { retry: { attempts: 1 } } }\n");
        write("note.txt", "no policy");
        let text = format!("{HEAD}services: {{ ledger: {{ retry: {{ attempts: 2 }} }} }}\n");
        let text = (PathBuf::from("LEGATION_POLICY"), text);
        let places = Places::new(&[folder.path().to_owned()], Some(&text));
        let namespaces = BTreeSet::from(["prod".into()]);
        let first = load(&places, &namespaces).expect("a policy");
        let files: Vec<_> = first.files().collect();
        assert_eq!(files, [folder.path().join("b.yaml").as_path(), Path::new("LEGATION_POLICY")]);
        let (sender, mut loaded) = watch::channel(first);
        let shutdown = CancellationToken::new();
        let _end = shutdown.clone().drop_guard();
        tokio::spawn(run(places, namespaces, sender, shutdown));
        write("b.yaml", "services: { payments: { retry: { attempts: 3 } } }\n");
        let come = async |loaded: &mut watch::Receiver<Loaded>, wanted: fn(&Loaded) -> bool| {
            let come = async { loaded.wait_for(wanted).await.expect("it runs").clone() };
            tokio::time::timeout(Duration::from_secs(20), come).await.expect("in time")
        };
        come(&mut loaded, |loaded| attempts(loaded) == Some(3)).await;
        write("a.yaml", "services: { payments: { retry: { attempts: 99 } } }\n");
        let rejected = come(&mut loaded, |loaded| !loaded.rejected.is_empty()).await;
        assert_eq!((rejected.rejected.len(), attempts(&rejected)), (2, Some(3)), "{:?}", rejected.rejected);
        std::fs::remove_file(folder.path().join("a.yaml")).expect("it was there");
        let good = come(&mut loaded, |loaded| loaded.rejected.is_empty()).await;
        assert_eq!((good.rejections, good.since), (1, rejected.since));
        assert!(good.good_at > rejected.good_at, "what is there is again what is in force");
        assert!(
            good.policy.of(&"prod".into()).expect("prod").services.contains_key("ledger"),
            "the text stays"
        );
    }

    #[test]
    fn a_text_alone_is_a_policy_that_never_changes() {
        let text = ("LEGATION_POLICY".into(), "apiVersion: legation/v1alpha1\nkind: Polcy\n".to_owned());
        let places = Places::new(&[], Some(&text));
        assert!(!places.may_change());
        let problems = load(&places, &BTreeSet::from(["prod".into()])).expect_err("a mistake");
        assert_eq!((&*problems[0].file, problems[0].line), ("LEGATION_POLICY", 2));
    }

    fn attempts(loaded: &Loaded) -> Option<u32> {
        let policy = loaded.policy.of(&"prod".into()).expect("prod");
        policy.services["payments"].treatment.knobs.retry_attempts
    }
}
