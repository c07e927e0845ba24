//! The tasks of one cluster as far as they are known, and what each of them is worth now.
//!
//! It is not the view: it knows neither services nor names.
//!
//! Invariant: knowledge of a task only moves forward. An older version, a missing answer, one that has not heard of its
//! health and a listing that lost it change nothing, and a task that has gone never comes back.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::facts::{Revision, Status, TaskFacts};
use super::standalone::group_of;
use crate::model::{Health, InstanceId, Phase, StopCause};

/// How long a task that has gone is still shown, so that people see why.
const SHOWN: Duration = Duration::from_secs(60);
/// How long, and how many at most, ARNs of gone tasks are kept: as long as ECS may still mention them.
const BURIED: Duration = Duration::from_secs(60 * 60);
const MOST_BURIED: usize = 50_000;

/// What the cluster said about the tasks it was asked about.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Answer {
    /// The ARNs that were listed as meant to run.
    pub listed: HashSet<InstanceId>,
    pub tasks: Vec<TaskFacts>,
    /// The ARNs of which the cluster knows nothing.
    pub missing: Vec<InstanceId>,
}

/// The working state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Tasks {
    known: BTreeMap<InstanceId, Known>,
    /// The known tasks by group, by address and by container instance: an event must not look at all of them.
    of_group: HashMap<Arc<str>, BTreeSet<InstanceId>>,
    at_address: HashMap<IpAddr, BTreeSet<InstanceId>>,
    on_machine: HashMap<Arc<str>, BTreeSet<InstanceId>>,
    buried: HashMap<InstanceId, SystemTime>,
    burials: VecDeque<(SystemTime, InstanceId)>,
}

/// One task that is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Known {
    pub facts: TaskFacts,
    /// The newest answer knew nothing of it.
    missed: bool,
    gone_at: Option<SystemTime>,
}

impl Tasks {
    /// Which tasks to ask about: those listed and those known, less those that have gone.
    pub(super) fn to_ask(&self, listed: &HashSet<InstanceId>) -> Vec<InstanceId> {
        let known = self.known.keys().filter(|arn| !listed.contains(*arn));
        let mut arns: Vec<_> =
            listed.iter().chain(known).filter(|arn| !self.buried.contains_key(*arn)).cloned().collect();
        arns.sort();
        arns
    }

    /// Every task that is shown, ordered.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Known> {
        self.known.values()
    }

    /// A task that is shown.
    pub(super) fn get(&self, arn: &InstanceId) -> Option<&Known> {
        self.known.get(arn)
    }

    /// The tasks of a group that are shown, ordered: those of an ECS service, or standalone ones of a family.
    pub(super) fn of_group(&self, group: &str) -> impl Iterator<Item = &Known> {
        self.of_group.get(group).into_iter().flatten().filter_map(|arn| self.known.get(arn))
    }

    /// The tasks on a container instance that are shown, ordered.
    pub(super) fn on_machine(&self, arn: &str) -> impl Iterator<Item = &Known> {
        self.on_machine.get(arn).into_iter().flatten().filter_map(|arn| self.known.get(arn))
    }

    /// The tasks with an address of their own that are shown, ordered.
    pub(super) fn at_address(&self, address: IpAddr) -> impl Iterator<Item = &Known> {
        self.at_address.get(&address).into_iter().flatten().filter_map(|arn| self.known.get(arn))
    }

    /// Takes in what an event tells, which says nothing of health and tags: these stay as they were. Nor does it prove that
    /// ECS still knows the task, unless it is newer than what is known. Returns whether it is news.
    pub(super) fn hear(&mut self, mut task: TaskFacts, now: SystemTime) -> bool {
        let arn = task.arn.clone();
        let before = self.known.get(&arn).cloned();
        if let Some(known) = &before {
            known.lend_health(&mut task);
        }
        task.tags = before.as_ref().and_then(|known| known.facts.tags.clone());
        let proves = before.as_ref().is_none_or(|known| task.version > known.facts.version);
        self.take(task, proves, now);
        self.known.get(&arn) != before.as_ref()
    }

    /// Takes in descriptions of some tasks, which say nothing of others.
    pub(super) fn learn(&mut self, tasks: Vec<TaskFacts>, now: SystemTime) {
        for mut task in tasks {
            // A copy of ECS that is behind may not have heard of health: what was said once of this version stays.
            if let Some(known) = self.known.get(&task.arn).filter(|it| it.facts.version == task.version) {
                known.lend_health(&mut task);
            }
            self.take(task, true, now);
        }
    }

    /// Takes in a complete answer.
    pub(super) fn merge(&mut self, answer: Answer, now: SystemTime) {
        self.learn(answer.tasks, now);
        for arn in answer.missing {
            // Listed and missing is a contradiction, and no reason to forget anything.
            if !answer.listed.contains(&arn) {
                self.miss(&arn, now);
            }
        }
        self.expire(now);
    }

    /// `proves` says that ECS knows of it now.
    fn take(&mut self, task: TaskFacts, proves: bool, now: SystemTime) {
        if self.buried.contains_key(&task.arn) {
            return;
        }
        let gone = task.status == Status::Gone;
        let arn = task.arn.clone();
        if let Some(known) = self.known.get_mut(&arn).filter(|_| proves && !gone) {
            (known.missed, known.gone_at) = (false, None);
        }
        match self.known.get_mut(&arn) {
            Some(known) if known.outdates(&task) => {
                if known.facts.tags.is_none() {
                    known.facts.tags = task.tags; // no version tells them, and no event did
                }
                return;
            }
            Some(known) if known.facts == task => {} // keeps the memory that views share
            Some(known) => {
                let task = TaskFacts { arn: known.facts.arn.clone(), ..task };
                let (before, after) = (Entries::of(&known.facts), Entries::of(&task));
                known.facts = task;
                self.leave(&arn, &before);
                self.enter(&arn, after);
            }
            None if gone => {}
            None => {
                let entries = Entries::of(&task);
                self.known.insert(arn.clone(), Known { facts: task, missed: false, gone_at: None });
                self.enter(&arn, entries);
            }
        }
        if gone {
            self.bury(&arn, now);
        }
    }

    fn enter(&mut self, arn: &InstanceId, entries: Entries) {
        self.of_group.entry(entries.group).or_default().insert(arn.clone());
        for address in entries.addresses {
            self.at_address.entry(address).or_default().insert(arn.clone());
        }
        if let Some(machine) = entries.machine {
            self.on_machine.entry(machine).or_default().insert(arn.clone());
        }
    }

    fn leave(&mut self, arn: &InstanceId, entries: &Entries) {
        take_out(&mut self.of_group, &entries.group, arn);
        entries.addresses.iter().for_each(|address| take_out(&mut self.at_address, address, arn));
        entries.machine.iter().for_each(|machine| take_out(&mut self.on_machine, machine, arn));
    }

    /// ECS answers late at times, so it takes two answers in a row that know nothing of a task, and even then
    /// it comes back if ECS speaks of it again: only a task that was seen stopped is buried.
    fn miss(&mut self, arn: &InstanceId, now: SystemTime) {
        if let Some(known) = self.known.get_mut(arn)
            && std::mem::replace(&mut known.missed, true)
        {
            known.gone_at.get_or_insert(now);
        }
    }

    fn bury(&mut self, arn: &InstanceId, now: SystemTime) {
        if let Some(known) = self.known.get_mut(arn) {
            known.gone_at.get_or_insert(now);
        }
        if self.buried.insert(arn.clone(), now).is_none() {
            self.burials.push_back((now, arn.clone()));
        }
    }

    fn expire(&mut self, now: SystemTime) {
        let age = |at: SystemTime| now.duration_since(at).unwrap_or_default();
        let expired = self.known.iter().filter(|(_, known)| known.gone_at.is_some_and(|at| age(at) >= SHOWN));
        let expired: Vec<_> = expired.map(|(arn, _)| arn.clone()).collect();
        for arn in expired {
            if let Some(known) = self.known.remove(&arn) {
                self.leave(&arn, &Entries::of(&known.facts));
            }
        }
        while let Some((at, _)) = self.burials.front() {
            if age(*at) < BURIED && self.burials.len() <= MOST_BURIED {
                break;
            }
            if let Some((_, arn)) = self.burials.pop_front() {
                self.buried.remove(&arn);
            }
        }
    }
}

/// Under what a task is found.
struct Entries {
    group: Arc<str>,
    addresses: Vec<IpAddr>,
    machine: Option<Arc<str>>,
}

impl Entries {
    fn of(facts: &TaskFacts) -> Self {
        let addresses = facts.own.addresses().collect();
        Self { group: group_of(facts), addresses, machine: facts.machine.clone() }
    }
}

fn take_out<K: Hash + Eq>(index: &mut HashMap<K, BTreeSet<InstanceId>>, key: &K, arn: &InstanceId) {
    if let Some(arns) = index.get_mut(key) {
        arns.remove(arn);
        if arns.is_empty() {
            index.remove(key);
        }
    }
}

impl Known {
    /// Says what is known of the health of containers of which `task` says nothing.
    fn lend_health(&self, task: &mut TaskFacts) {
        for container in task.containers.iter_mut().filter(|container| container.healthy.is_none()) {
            let known = self.facts.containers.iter().find(|one| one.name == container.name);
            container.healthy = known.and_then(|one| one.healthy);
        }
    }

    /// Whether the newest reading knew nothing of it, which one reading does not prove.
    pub(super) fn is_doubtful(&self) -> bool {
        self.missed && self.gone_at.is_none()
    }

    /// Whether this is newer than `answer`. Health changes without a new version, so of two answers with one
    /// version the later is taken; and ECS never takes an order to stop back, whatever a version says.
    fn outdates(&self, answer: &TaskFacts) -> bool {
        answer.version < self.facts.version || (self.facts.told_to_stop && !answer.told_to_stop)
    }

    /// Where the task is in its life, `revision` being its task definition's.
    pub(super) fn phase(&self, revision: Option<&Revision>, now: SystemTime) -> Phase {
        let facts = &self.facts;
        if self.gone_at.is_some() || facts.status == Status::Gone {
            return Phase::Stopped;
        }
        let exited = facts.containers.iter().any(|container| {
            let defined = revision.and_then(|revision| revision.containers.get(&container.name));
            container.exited && defined.is_some_and(|container| container.essential)
        });
        let told = facts.told_to_stop || facts.status == Status::Leaving;
        match facts.status {
            Status::Pending if told => Phase::Stopped, // it never ran and never will
            _ if told => match facts.stop {
                Some(cause) => Phase::Stopping(cause),
                None if exited => Phase::Stopping(StopCause::Crashed),
                None => Phase::Stopping(StopCause::Planned),
            },
            Status::Running | Status::Activating if exited => Phase::Stopping(StopCause::Crashed),
            Status::Running => Phase::Running(self.health(revision, now)),
            _ => Phase::Starting,
        }
    }

    /// The same for one port: when the container behind it has ended, the port serves nothing any more, however long the
    /// other containers take.
    pub(super) fn phase_of_port(&self, phase: Phase, container: &str) -> Phase {
        let exited = || self.facts.containers.iter().any(|one| &*one.name == container && one.exited);
        match phase {
            Phase::Stopping(StopCause::Planned | StopCause::Spot) if exited() => Phase::Stopped,
            Phase::Running(_) if exited() => Phase::Stopping(StopCause::Crashed),
            phase => phase,
        }
    }

    /// Judged over essential containers that define a check, as ECS does: one that fails is enough, and all
    /// must pass.
    fn health(&self, revision: Option<&Revision>, now: SystemTime) -> Health {
        let facts = &self.facts;
        let containers = revision.into_iter().flat_map(|revision| &revision.containers);
        let checked = containers.filter(|(_, container)| container.essential);
        let checked: Vec<_> =
            checked.filter_map(|(name, container)| Some((name, container.check?))).collect();
        let said = |name: &Arc<str>| facts.containers.iter().find(|one| one.name == *name)?.healthy;
        let verdicts: Vec<Option<bool>> = checked.iter().map(|(name, _)| said(name)).collect();
        // The gate of a start, after which silence counts as readiness.
        let gate = checked.iter().map(|(_, time)| *time).max().unwrap_or_default();
        let gate_over = facts
            .started_at
            .or(facts.created_at)
            .is_some_and(|at| now.duration_since(at).unwrap_or_default() >= gate);
        match verdicts.as_slice() {
            [] => Health::NoCheck,
            some if some.contains(&Some(false)) => Health::Unhealthy { gate_over },
            some if some.contains(&None) => Health::Unknown { gate_over },
            _ => Health::Healthy,
        }
    }

    /// When it began to run; before that, when it was made: of two tasks at one address the younger is
    /// believed, and it may still be starting.
    pub(super) fn began_at(&self) -> Option<SystemTime> {
        self.facts.started_at.or(self.facts.created_at)
    }
}
