//! The cell that a source writes, and the pace at which it reads.
//!
//! It is not a queue: a reader gets the newest complete [`View`], never a list of changes.
//!
//! Invariant: a view enters the cell whole or not at all. An error ages the reading and never shrinks it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

pub use aws_config::SdkConfig;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use self::guard::Guard;
use crate::model::{Finding, View};

pub mod aws;
pub mod cloudmap;
pub mod ecs;
pub mod events;
pub mod file;
mod guard;
mod said;
mod tags;
pub mod words;

pub use guard::Limits as GuardLimits;

/// Why a reading failed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SourceError {
    /// What was asked: `ecs:ListTasks`, or a path.
    pub operation: String,
    /// The kind of failure, stable enough to count: `ThrottlingException`, `timeout`.
    pub code: String,
    /// The rest, for people.
    pub message: String,
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.operation, self.code, self.message)
    }
}

impl std::error::Error for SourceError {}

impl SourceError {
    /// Whether AWS finds that it is asked too often.
    pub(crate) fn is_throttling(&self) -> bool {
        aws::is_too_often(&self.code)
    }

    /// The finding about what it does to `object`: `SRC002` with the way out where AWS is asked too often, else `SRC001`.
    pub(crate) fn finding(&self, object: impl Into<String>, what: &str) -> Finding {
        let (code, way_out) = if self.is_throttling() {
            let way_out = format!(
                "; AWS is asked too often, perhaps by others of this account too: lower `aws.callBudgetPercent`, or {}",
                seldomer(&self.operation)
            );
            ("SRC002", way_out)
        } else {
            ("SRC001", String::new())
        };
        Finding { code, object: object.into(), message: format!("{what}{self}{way_out}") }
    }
}

/// The setting that has an operation called less often.
fn seldomer(operation: &str) -> &'static str {
    match operation.split_once(':') {
        Some(("servicediscovery", "DiscoverInstancesRevision")) => "raise `cloudMap.revisionInterval`",
        Some(("servicediscovery", "DiscoverInstances" | "GetInstancesHealthStatus")) => {
            "raise `cloudMap.interval` or `cloudMap.healthInterval`"
        }
        Some(("servicediscovery", _)) => "raise `cloudMap.interval`",
        Some(("sqs", _)) => "lower `ecs.receivers`",
        _ => "raise `ecs.interval`",
    }
}

/// An uninterrupted run of failures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failing {
    /// When the first of them happened.
    pub since: SystemTime,
    /// How many in a row.
    pub count: u64,
    /// The newest.
    pub error: SourceError,
}

/// What a source has said so far.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The last complete view; `None` until the source has spoken once.
    pub view: Option<Arc<View>>,
    /// When the last complete reading was taken.
    pub as_of: Option<SystemTime>,
    /// When it began: everything that was so then is in the view.
    pub began: Option<Instant>,
    /// When the answer arrived that last changed the view.
    pub changed_at: Option<SystemTime>,
    /// Set while the newest attempt failed.
    pub failing: Option<Failing>,
    /// Complete readings so far.
    pub readings: u64,
    /// Failed attempts so far.
    pub errors: u64,
}

/// The writing end of a cell. Not `Clone`: one source, one writer.
#[derive(Debug)]
pub struct CellWriter {
    name: Arc<str>,
    cell: watch::Sender<Reading>,
    /// What is held back of what the source lacks; none where every word of it is believed.
    guard: Option<Mutex<Guard>>,
    release: Arc<Release>,
}

/// An operator's order to let go what is held back.
#[derive(Debug, Default)]
struct Release {
    /// Whether anything is.
    holds: AtomicBool,
    order: Notify,
}

/// The reading end of a cell.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The source's name for people, unlike any other: `ecs/prod-a`, `file/prod/services.yaml`.
    pub name: Arc<str>,
    reading: watch::Receiver<Reading>,
    release: Arc<Release>,
}

/// A new cell for the source called `name`.
pub fn cell(name: impl Into<Arc<str>>) -> (CellWriter, Cell) {
    let name = name.into();
    let (cell, reading) = watch::channel(Reading::default());
    let release = Arc::new(Release::default());
    let writer = CellWriter { name: Arc::clone(&name), cell, guard: None, release: Arc::clone(&release) };
    (writer, Cell { name, reading, release })
}

impl CellWriter {
    /// The source's name for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same cell, which holds back what a reading lacks beyond these limits.
    pub fn guarded(self, limits: GuardLimits) -> Self {
        Self { guard: Some(Mutex::new(Guard::new(limits))), ..self }
    }

    fn guard(&self) -> Option<MutexGuard<'_, Guard>> {
        Some(self.guard.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until someone orders what is held back to be let go, and does so. Cancel safe.
    pub(crate) async fn released(&self) {
        self.release.order.notified().await;
        let Some(mut guard) = self.guard() else { return };
        self.cell.send_modify(|reading| {
            if let Some(view) = reading.view.as_ref().filter(|_| guard.holds()) {
                let mut view = View::clone(view);
                guard.let_go(&mut view);
                reading.view = Some(Arc::new(view));
                reading.changed_at = Some(SystemTime::now());
            }
        });
        self.note_held(&guard);
    }

    fn note_held(&self, guard: &Guard) {
        match (self.release.holds.swap(guard.holds(), Ordering::Relaxed), guard.holds()) {
            (false, true) => warn!(source = %self.name, "a withdrawal is held back until it is confirmed"),
            (true, false) => info!(source = %self.name, "nothing is held back any more"),
            _ => {}
        }
    }

    /// Takes from a complete reading what it lacks and is not believed to have gone.
    fn doubt(&self, view: &mut View, confirms: bool) {
        let Some(mut guard) = self.guard() else { return };
        let (before, after_failure) = {
            let reading = self.cell.borrow();
            (reading.view.clone(), reading.failing.is_some())
        };
        if let Some(before) = before {
            guard.judge(&before, view, after_failure, confirms);
        }
        self.note_held(&guard);
    }

    /// The view that readers see now.
    pub fn view(&self) -> Option<Arc<View>> {
        self.cell.borrow().view.clone()
    }

    /// Replaces the view by a complete one, of which the reading `began` then and ended just now. An equal view
    /// only renews the reading's age.
    pub fn publish(&self, view: View, began: Instant) {
        self.publish_as(view, began, true);
    }

    /// The same. What is held back is believed to have gone only if the reading `confirms` it: not when it follows the
    /// one before too soon.
    fn publish_as(&self, mut view: View, began: Instant, confirms: bool) {
        let now = SystemTime::now();
        self.doubt(&mut view, confirms);
        let changed = self.differing(view);
        self.cell.send_modify(|reading| {
            if let Some(failing) = reading.failing.take() {
                let seconds = now.duration_since(failing.since).unwrap_or_default().as_secs();
                info!(source = %self.name, failed = failing.count, seconds, "source recovered");
            }
            if let Some(view) = changed {
                reading.view = Some(Arc::new(view));
                reading.changed_at = Some(now);
            }
            reading.as_of = Some(now);
            reading.began = Some(began);
            reading.readings += 1;
        });
    }

    /// Replaces the view by one that an event changed: as complete as the reading before it, and no younger. Where no
    /// reading came before it there is nothing to amend.
    pub fn amend(&self, mut view: View) {
        let now = SystemTime::now();
        if self.view().is_none() {
            return;
        }
        if let Some(guard) = self.guard() {
            guard.restore(&mut view);
        }
        if let Some(view) = self.differing(view) {
            self.cell.send_modify(|reading| {
                reading.view = Some(Arc::new(view));
                reading.changed_at = Some(now);
            });
        }
    }

    /// The same for one that follows from reading a part anew: what that lacks in large numbers is held back, and what
    /// is held back stays so until the next reading of everything.
    pub(crate) fn correct(&self, mut view: View) {
        self.doubt(&mut view, false);
        self.amend(view);
    }

    /// Waits for something, and lets go meanwhile what is ordered to be let go.
    pub(crate) async fn letting_go<T>(&self, something: impl Future<Output = T>) -> T {
        let mut something = std::pin::pin!(something);
        loop {
            tokio::select! {
                done = &mut something => return done,
                () = self.released() => {}
            }
        }
    }

    /// The view, sharing what it can with the one that readers see; `None` if they are equal.
    fn differing(&self, mut view: View) -> Option<View> {
        let before = self.view();
        if let Some(before) = &before {
            share(&before.services, &mut view.services);
            share(&before.tasks, &mut view.tasks);
            share(&before.occupied, &mut view.occupied);
        }
        // Outside the cell's lock: it compares every endpoint.
        (before.as_deref() != Some(&view)).then_some(view)
    }

    /// Whether `error` is another trouble than the one `before`. Messages of AWS carry the number of each request;
    /// those about a file change only with the file.
    fn is_news(&self, before: &SourceError, error: &SourceError) -> bool {
        before.code != error.code || (self.name.starts_with("file/") && before.message != error.message)
    }

    /// Records a failed attempt; the view stays. Logged when the kind of failure changes, not each time.
    pub fn fail(&self, error: SourceError) {
        let now = SystemTime::now();
        self.cell.send_modify(|reading| {
            reading.errors += 1;
            let before = reading.failing.take();
            if before.as_ref().is_none_or(|f| self.is_news(&f.error, &error)) {
                let age = reading.as_of.and_then(|at| now.duration_since(at).ok()).map(|age| age.as_secs());
                warn!(source = %self.name, %error, serving_view_aged_seconds = age, "source failing");
            }
            reading.failing = Some(match before {
                Some(f) => Failing { count: f.count + 1, error, ..f },
                None => Failing { since: now, count: 1, error },
            });
        });
    }
}

/// Makes `now` of what was before, so that whoever compares them looks only at what differs.
fn share<K: Ord + Clone, V: Clone + PartialEq>(before: &OrdMap<K, V>, now: &mut OrdMap<K, V>) {
    let mut shared = before.clone();
    for change in before.diff(now) {
        match change {
            DiffItem::Add(key, value) | DiffItem::Update { new: (key, value), .. } => {
                shared.insert(key.clone(), value.clone());
            }
            DiffItem::Remove(key, _) => {
                shared.remove(key);
            }
        }
    }
    *now = shared;
}

impl Cell {
    /// What the source has said so far.
    pub fn reading(&self) -> Reading {
        self.reading.borrow().clone()
    }

    /// Has what is held back let go; `false` if nothing is.
    pub fn release(&self) -> bool {
        let holds = self.release.holds.load(Ordering::Relaxed);
        if holds {
            self.release.order.notify_one();
        }
        holds
    }

    /// Waits for the next reading or failure; `false` when the source has ended.
    pub async fn changed(&mut self) -> bool {
        self.reading.changed().await.is_ok()
    }
}

/// Something that can be read completely, again and again.
pub trait Sweep {
    /// Reads everything once. An error, a refusal or a half-read page is `Err`: never a smaller view.
    fn sweep(&mut self) -> impl Future<Output = Result<View, SourceError>> + Send;
}

/// How often to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// The time between the starts of two readings; each is spread by a tenth.
    pub interval: Duration,
    /// The longest pause between failed attempts.
    pub max_backoff: Duration,
}

/// When to read next.
#[derive(Debug)]
pub(crate) struct Pacer {
    pace: Pace,
    pauses: ExponentialBackoff,
}

impl Pacer {
    pub(crate) fn new(pace: Pace) -> Self {
        Self { pace, pauses: backoff(pace.max_backoff).build() }
    }

    /// Enters in the cell what a reading that began then brought, and tells when the next one begins. `confirms` as for
    /// [`CellWriter::publish_as`].
    pub(crate) fn next(
        &mut self,
        cell: &CellWriter,
        started: tokio::time::Instant,
        outcome: Result<View, SourceError>,
        confirms: bool,
    ) -> tokio::time::Instant {
        match outcome {
            Ok(view) => {
                cell.publish_as(view, started.into_std(), confirms);
                self.pauses = backoff(self.pace.max_backoff).build();
                started + jittered(self.pace.interval)
            }
            Err(error) => {
                cell.fail(error);
                tokio::time::Instant::now() + self.pauses.next().unwrap_or(self.pace.max_backoff)
            }
        }
    }
}

/// The pauses between failed attempts.
fn backoff(longest: Duration) -> ExponentialBuilder {
    let shortest = Duration::from_millis(200).min(longest);
    ExponentialBuilder::new()
        .with_min_delay(shortest)
        .with_max_delay(longest)
        .with_jitter()
        .without_max_times()
}

/// `interval` spread by a tenth either way, so that replicas don't ask AWS in step.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(fastrand::f64().mul_add(0.2, 0.9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttling_has_a_code_of_its_own_and_a_way_out() {
        let told = |operation: &str, code: &str| {
            let error = SourceError { operation: operation.into(), code: code.into(), message: "no".into() };
            error.finding("source x", "it failed with ")
        };
        for code in [
            "ThrottlingException",
            "RequestLimitExceeded",
            "TooManyRequestsException",
            "RequestThrottled",
            "http-429",
        ] {
            assert_eq!(told("ecs:ListTasks", code).code, "SRC002", "{code}");
        }
        for code in ["AccessDeniedException", "timeout", "http-503"] {
            let finding = told("ecs:ListTasks", code);
            assert_eq!(finding.code, "SRC001");
            assert_eq!(finding.message, format!("it failed with ecs:ListTasks: {code}: no"));
        }
        for (operation, way_out) in [
            ("ecs:ListTasks", "raise `ecs.interval`"),
            ("servicediscovery:ListServices", "raise `cloudMap.interval`"),
            ("servicediscovery:DiscoverInstancesRevision", "raise `cloudMap.revisionInterval`"),
            ("servicediscovery:DiscoverInstances", "raise `cloudMap.interval` or `cloudMap.healthInterval`"),
            ("sqs:ReceiveMessage", "lower `ecs.receivers`"),
        ] {
            let message = told(operation, "ThrottlingException").message;
            assert!(
                message.starts_with(&format!("it failed with {operation}: ThrottlingException")),
                "{message}"
            );
            assert!(message.ends_with(&format!("lower `aws.callBudgetPercent`, or {way_out}")), "{message}");
        }
    }

    #[test]
    fn another_problem_in_a_file_is_news_and_another_request_is_not() {
        let error = |code: &str, message: &str| SourceError {
            operation: "asked".to_owned(),
            code: code.to_owned(),
            message: message.to_owned(),
        };
        let (one, other, third) = (error("A", "1"), error("A", "2"), error("B", "2"));
        let ((file, _), (ecs, _)) = (cell("file/prod/services.yaml"), cell("ecs/prod-a"));
        assert!(!file.is_news(&one, &one) && file.is_news(&one, &other) && file.is_news(&other, &third));
        assert!(!ecs.is_news(&one, &one) && !ecs.is_news(&one, &other) && ecs.is_news(&other, &third));
    }
}
