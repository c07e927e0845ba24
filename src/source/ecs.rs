//! One ECS cluster as a source: its services, their tasks, and how each is described.
//!
//! It is not a judge of endpoints; that is the mesh's part. It never writes to ECS.
//!
//! Invariant: a reading is taken in whole. Until every call has answered, nothing that is known changes.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::{join, try_join};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::defaults::Defaults;
use self::describe::Cluster;
use self::facts::{Status, TaskFacts};
use self::instances::Instances;
use self::notes::{namespace_arns, needed, never_read};
use self::questions::Questions;
use self::read::{Described, Reader, Unread};
use self::shifts::Shifts;
use self::tasks::{Answer, Tasks};
use self::view::{Drawn, Knowledge, Revisions, Services};
use super::aws::{Access, Clock, Urgency};
use super::{CellWriter, Pace, Pacer, SourceError, tags};
use crate::model::{InstanceId, Namespace, Place, View};

pub use event::TaskEvent;
pub use inbox::{Hint, Inbox, Letter, Outbox, mailbox};

mod defaults;
mod describe;
mod event;
mod facts;
mod inbox;
mod instances;
mod notes;
mod place;
mod questions;
mod read;
mod share;
mod shifts;
mod standalone;
mod task_tags;
mod tasks;
mod view;

/// How long the first reading waits out throttling of task definitions.
const FIRST_PATIENCE: Duration = Duration::from_secs(120);
/// Questions about tasks that may be under way: one that is not answered must not hold up all others.
const ASKED_AT_ONCE: usize = 3;
/// The least time after a reading until one that events ask for; and twice what the reading took.
const SOONEST: Duration = Duration::from_secs(5);

/// Which services of a cluster join a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Discover {
    /// Those with some `legation:` tag or an enabled Service Connect block.
    #[default]
    Labelled,
    /// Every service that names a port.
    All,
}

/// A namespace that a cluster feeds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamespaceRule {
    /// Its name.
    pub namespace: Namespace,
    /// Who joins it.
    pub discover: Discover,
}

/// What to read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The cluster's name or ARN.
    pub cluster: String,
    /// What people call it, unlike any other.
    pub label: String,
    /// The namespaces that its services may join.
    pub namespaces: Vec<NamespaceRule>,
}

/// The source: the calls, and what is known so far.
#[derive(Debug)]
pub struct EcsSource {
    reader: Reader,
    /// The short name.
    cluster: Arc<str>,
    label: String,
    /// The account and Region.
    home: Arc<str>,
    namespaces: Vec<NamespaceRule>,
    defaults: Defaults,
    services: Services,
    tasks: Tasks,
    revisions: Revisions,
    /// Task definitions that could not be read last.
    unread: Unread,
    instances: Instances,
    /// Deployments that shift traffic.
    shifts: Shifts,
    drawn: Drawn,
    inbox: Inbox,
    /// Whether an event asked for another reading since the last one began.
    is_asked_for: bool,
    /// Whether the reading under way comes early, because an event asked for it.
    is_early: bool,
    /// AWS's: what it dates is compared with nothing else.
    clock: Arc<Clock>,
    /// When the last complete reading began, by that clock: whatever was so then is known. The first one is either
    /// complete or none.
    read_at: Option<SystemTime>,
    questions: Questions,
    /// The questions under way; at most [`ASKED_AT_ONCE`].
    asked: JoinSet<Answered>,
    /// Task definitions that events named and that were not asked for yet.
    wanted: HashSet<Arc<str>>,
}

/// Tasks that ECS was asked about, and what it said.
type Answered = (Vec<InstanceId>, Result<Described<TaskFacts>, SourceError>);

/// What happens besides readings.
enum News {
    Letters(Vec<Letter>),
    Answered(Answered),
    QuestionsDue,
}

/// A whole reading that has not been taken in.
struct Sighting {
    services: Services,
    tasks: Answer,
}

impl EcsSource {
    /// A source that has read nothing yet, and hears of events by `inbox`.
    pub fn new(access: &Access, settings: Settings, inbox: Inbox) -> Self {
        let Settings { cluster, label, namespaces } = settings;
        let short = cluster.rsplit('/').next().unwrap_or(&cluster).into();
        Self {
            defaults: Defaults::new(access, &cluster, namespaces.len() > 1),
            reader: Reader { client: access.ecs(), ec2: access.ec2(), budget: access.budget(), cluster },
            cluster: short,
            label,
            home: access.home(),
            namespaces,
            services: Services::new(),
            tasks: Tasks::default(),
            revisions: Revisions::new(),
            unread: Unread::new(),
            instances: Instances::default(),
            shifts: Shifts::default(),
            drawn: Drawn::default(),
            inbox,
            is_asked_for: false,
            is_early: false,
            clock: access.clock(),
            read_at: None,
            questions: Questions::default(),
            asked: JoinSet::new(),
            wanted: HashSet::new(),
        }
    }

    /// Reads until `shutdown`, and takes in events meanwhile. Each of them is published at once, also while a reading is
    /// under way or fails. Those that come before the first reading has ended only have another one follow it: nobody
    /// knows yet whether they are old.
    pub async fn run(mut self, cell: CellWriter, pace: Pace, shutdown: CancellationToken) {
        let work = async {
            let (mut pacer, mut due) = (Pacer::new(pace), None);
            loop {
                let started = Instant::now();
                self.is_asked_for = false;
                let outcome = self.sweep(Some(&cell)).await;
                let is_good = outcome.is_ok();
                let wake = pacer.next(&cell, started, outcome, !self.is_early);
                let wake = regular(due, wake, self.is_early);
                due = Some(wake);
                self.share(&cell);
                // What fails is not asked more often because of events.
                let pause = SOONEST.max(started.elapsed() * 2);
                let soonest = if is_good { Instant::now() + pause } else { wake };
                self.rest(&cell, soonest, wake).await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = work => {}
        }
    }

    /// Reads everything once. An error, a refusal or a half-read page is `Err`: never a smaller view.
    async fn sweep(&mut self, cell: Option<&CellWriter>) -> Result<View, SourceError> {
        let (reader, began) = (self.reader.clone(), Instant::now());
        let listing = try_join(reader.service_arns(), reader.task_arns());
        let (listing, defaults) = self.attend(cell, join(listing, self.defaults.clone().renewed())).await;
        self.defaults = defaults;
        let (listed_services, listed) = listing?;
        let service_arns = self.services_to_ask(&listed_services);
        let task_arns = self.tasks.to_ask(&listed);
        let asking = try_join(reader.services(&service_arns), reader.tasks(&task_arns, Urgency::CanWait));
        let ((described, missing_services), (tasks, missing)) = self.attend(cell, asking).await?;
        let services = self.services_of(&listed_services, described, &missing_services);
        let named = self.defaults.clone().named(namespace_arns(&services));
        self.defaults = self.attend(cell, named).await;
        let shifts = self.shifts.clone();
        self.shifts = self.attend(cell, shifts.renewed(&reader, &services)).await;
        // Two answers in a row that lack a task prove something only if time passes between them.
        let missing = missing.into_iter().filter(|_| !self.is_early).map(InstanceId::from).collect();
        let sighting = Sighting { services, tasks: Answer { listed, tasks, missing } };
        self.unread = self.read_revisions(cell, needed(&sighting).cloned().collect()).await;
        self.read_instances(cell, &sighting).await;
        let lacking = || never_read(&sighting, &self.unread).or_else(|| self.instances.error());
        if self.read_at.is_none()
            && let Some(error) = lacking().or_else(|| self.defaults.unknown())
        {
            return Err(error.clone());
        }
        let now = self.clock.now(); // not before an answer has come
        self.take_in(sighting, now);
        self.read_at = now.checked_sub(began.elapsed());
        Ok(self.drawn.view.clone())
    }

    /// Waits for an answer, and takes in what is news meanwhile.
    async fn attend<T>(&mut self, cell: Option<&CellWriter>, answer: impl Future<Output = T>) -> T {
        let mut answer = pin!(answer);
        loop {
            tokio::select! {
                biased;
                news = self.news() => self.take_news(cell, news),
                answer = &mut answer => return answer,
                Some(cell) = released(cell) => self.share(cell),
            }
        }
    }

    /// Until the next reading: takes in what is news, and reads the task definitions that events name. Ends early, but
    /// not before `soonest`, when an event asks for a reading.
    async fn rest(&mut self, cell: &CellWriter, soonest: Instant, wake: Instant) {
        loop {
            if !self.wanted.is_empty() || self.instances.are_wanted() {
                let wanted = std::mem::take(&mut self.wanted);
                let unread = self.read_revisions(Some(cell), wanted).await;
                self.unread.extend(unread); // until the next reading
                self.read_wanted_instances(Some(cell)).await;
                self.find_young();
                self.draw_anew(cell);
                continue;
            }
            let early = wake.min(soonest);
            self.is_early = self.is_asked_for && early < wake;
            let wake = if self.is_asked_for { early } else { wake };
            tokio::select! {
                biased;
                news = self.news() => self.take_news(Some(cell), news),
                () = tokio::time::sleep_until(wake) => return,
                () = cell.released() => self.share(cell),
            }
        }
    }

    /// What happens next besides readings; cancel safe.
    async fn news(&mut self) -> News {
        let due = self.questions.next_at().filter(|_| self.asked.len() < ASKED_AT_ONCE);
        tokio::select! {
            biased;
            letters = self.inbox.next() => News::Letters(letters),
            Some(Ok(answered)) = self.asked.join_next() => News::Answered(answered),
            () = sleep_until(due) => News::QuestionsDue,
        }
    }

    fn take_news(&mut self, cell: Option<&CellWriter>, news: News) {
        match news {
            News::Letters(letters) => self.hear(cell, letters),
            News::Answered((tasks, answer)) => {
                match answer {
                    Ok((answer, _)) => self.learn(cell, &tasks, answer),
                    // Whoever reads is told of it by the reading that fails too.
                    Err(_) => self.questions.put_back(tasks, Instant::now()),
                }
            }
            News::QuestionsDue => {
                let (tasks, reader) = (self.questions.take_due(Instant::now()), self.reader.clone());
                self.asked.spawn(async move {
                    let answer = reader.tasks(&tasks, Urgency::Urgent).await;
                    (tasks, answer)
                });
            }
        }
    }

    /// Takes in what ECS answered about these tasks.
    fn learn(&mut self, cell: Option<&CellWriter>, tasks: &[InstanceId], answer: Vec<TaskFacts>) {
        let places = self.knowledge(self.clock.now()).places(tasks);
        let untold = self.untold(tasks);
        self.tasks.learn(answer, self.clock.now());
        self.note(tasks);
        let gone: Vec<_> = tasks.iter().filter(|arn| !self.is_up(arn)).collect();
        gone.into_iter().for_each(|arn| self.questions.stop_missing(arn));
        let Some(cell) = cell else { return };
        if self.knowledge(self.clock.now()).lacks_service(&self.drawn, &untold) {
            self.draw_anew(cell);
        } else {
            self.draw_again(cell, tasks, &places);
        }
    }

    /// Whether the task is known and neither gone nor told to stop.
    fn is_up(&self, arn: &InstanceId) -> bool {
        let facts = self.tasks.get(arn).map(|task| &task.facts);
        facts.is_some_and(|facts| facts.status != Status::Gone && !facts.told_to_stop)
    }

    /// Nobody is believed to have gone because its sidecar has: ECS is asked.
    fn take_hint(&mut self, hint: &Hint) {
        match hint {
            Hint::Gone(arn) if self.is_up(arn) => self.questions.miss(arn.clone(), Instant::now()),
            Hint::Gone(_) => {}
            Hint::Here(arn) => self.questions.stop_missing(arn),
        }
    }

    /// Takes in events, draws what follows from them, and says that it is done.
    fn hear(&mut self, cell: Option<&CellWriter>, letters: Vec<Letter>) {
        let (mut tasks, mut places, mut stops, now) = (Vec::new(), Vec::new(), false, self.clock.now());
        let events = letters.iter().flat_map(|letter| &letter.events);
        for (event, facts) in events.filter_map(|event| Some((event, event.facts().ok()?))) {
            let arn = facts.arn.clone();
            if !self.may_believe(event, &facts) {
                continue;
            }
            places.extend(self.knowledge(now).places(std::slice::from_ref(&arn)));
            let is_stop = facts.told_to_stop;
            if self.tasks.hear(facts, now) {
                stops |= is_stop;
                tasks.push(arn);
            }
        }
        letters.iter().flat_map(|letter| &letter.hints).for_each(|hint| self.take_hint(hint));
        self.note(&tasks);
        self.note_untold(&tasks);
        if stops {
            self.questions.hurry();
        }
        self.is_asked_for |= self.has_news_of_services(&tasks);
        self.is_asked_for |= letters.iter().any(|letter| letter.asks_for_reading);
        if let Some(cell) = cell.filter(|_| !tasks.is_empty()) {
            self.draw_again(cell, &tasks, &places);
        }
        letters.into_iter().for_each(Letter::done);
    }

    /// Whether what an event tells can be taken in. Before the first reading nothing is; nor is a task of another account
    /// or Region; and a task that is not known although it was so before the last reading is asked about first. What can't
    /// be told yet another reading tells.
    fn may_believe(&mut self, event: &TaskEvent, facts: &TaskFacts) -> bool {
        let of = |arn: &str| arn.splitn(6, ':').take(5).map(str::to_owned).collect::<Vec<_>>();
        let tasks = || self.tasks.iter().map(|task| task.facts.arn.as_str());
        let written = Some(&*self.reader.cluster).filter(|written| written.starts_with("arn:"));
        let home = written.into_iter().chain(self.services.keys().map(AsRef::as_ref)).chain(tasks()).next();
        let (Some(read_at), Some(home)) = (self.read_at, home) else {
            self.is_asked_for = true;
            return false;
        };
        if of(home) != of(facts.arn.as_str()) {
            return false;
        }
        let is_old = event.updated_at().is_none_or(|at| at < read_at);
        if is_old && facts.status != Status::Gone && self.tasks.get(&facts.arn).is_none() {
            self.questions.doubt(facts.arn.clone());
            return false;
        }
        true
    }

    /// Goes on from what readers see, which shares with what they saw before whatever did not change.
    fn share(&mut self, cell: &CellWriter) {
        if let Some(view) = cell.view() {
            self.drawn.view = View::clone(&view);
        }
    }

    /// Draws anew what follows from these tasks, which had these places before, and publishes it.
    fn draw_again(&mut self, cell: &CellWriter, tasks: &[InstanceId], places: &[Place]) {
        let mut drawn = std::mem::take(&mut self.drawn);
        self.knowledge(self.clock.now()).redraw(&mut drawn, tasks, places);
        self.drawn = drawn;
        cell.amend(self.drawn.view.clone());
        self.share(cell);
    }

    /// Draws everything anew, and publishes it.
    fn draw_anew(&mut self, cell: &CellWriter) {
        self.drawn = self.knowledge(self.clock.now()).draw(&self.drawn);
        cell.amend(self.drawn.view.clone());
        self.share(cell);
    }

    /// What services are read against.
    fn described_against(&self) -> Cluster<'_> {
        let (default, names) = (self.defaults.name(), self.defaults.names());
        Cluster { name: &self.label, rules: &self.namespaces, default, names }
    }

    fn knowledge(&self, now: SystemTime) -> Knowledge<'_> {
        Knowledge {
            cluster: self.described_against(),
            short: &self.cluster,
            home: &self.home,
            defaults: &self.defaults,
            services: &self.services,
            revisions: &self.revisions,
            tasks: &self.tasks,
            unread: &self.unread,
            instances: &self.instances,
            shifts: &self.shifts,
            now,
        }
    }

    /// Fetches those of these task definitions that never were fetched. At the first reading there may be more than a
    /// burst of calls allows, so throttling is waited out; later a stopped task must not wait for it.
    async fn read_revisions(&mut self, cell: Option<&CellWriter>, needed: HashSet<Arc<str>>) -> Unread {
        let patience = if self.read_at.is_some() { Duration::ZERO } else { FIRST_PATIENCE };
        let mut unknown: Vec<_> =
            needed.into_iter().filter(|arn| !self.revisions.contains_key(arn)).collect();
        unknown.sort();
        let (reader, mut read) = (self.reader.clone(), Vec::new());
        let keep = |arn, revision| read.push((arn, Arc::new(revision)));
        let unread = self.attend(cell, reader.revisions(unknown, patience, keep)).await;
        self.revisions.extend(read);
        unread
    }

    fn take_in(&mut self, sighting: Sighting, now: SystemTime) {
        let before = std::mem::replace(&mut self.services, sighting.services);
        for (arn, service) in &mut self.services {
            self.shifts.tell(arn, service, before.get(arn).map(|known| &known.rollout));
            // A service whose new task definition can't be read goes on as it was described before.
            if service.definition.as_ref().is_some_and(|definition| self.unread.contains_key(definition)) {
                service.definition = before.get(arn).and_then(|known| known.definition.clone());
            }
            // Nor does one leave its namespace for another that nobody knows yet.
            let namespace = service.connect.as_ref().and_then(|connect| connect.namespace.as_ref());
            if namespace.is_some_and(|arn| self.defaults.is_unread(arn))
                && let Some(known) = before.get(arn)
            {
                service.connect.clone_from(&known.connect);
            }
        }
        self.defaults.take_in();
        self.tasks.merge(sighting.tasks, now);
        let used: HashSet<Arc<str>> = {
            let of_services = self.services.values().filter_map(|service| service.definition.clone());
            of_services.chain(self.tasks.iter().map(|task| Arc::clone(&task.facts.definition))).collect()
        };
        self.revisions.retain(|arn, _| used.contains(arn));
        self.instances.keep_only(&self.tasks.iter().filter_map(|task| task.facts.machine.clone()).collect());
        self.find_young();
        self.drawn = self.knowledge(now).draw(&self.drawn);
    }
}

/// Waits until what is held back in a cell was let go.
async fn released(cell: Option<&CellWriter>) -> Option<&CellWriter> {
    let cell = cell?;
    cell.released().await;
    Some(cell)
}

/// When the next regular reading begins: one that events asked for, which confirms nothing, does not put it off.
fn regular(due: Option<Instant>, wake: Instant, is_early: bool) -> Instant {
    due.filter(|_| is_early).map_or(wake, |due| due.min(wake))
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
