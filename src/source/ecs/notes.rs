//! What is to be asked next, noted whenever something is taken in.
//!
//! It asks nobody. Invariant: each note follows from what is known at the time alone.

use std::sync::Arc;
use std::time::SystemTime;

use super::facts::{ServiceFacts, Status, TaskFacts};
use super::tasks::Known;
use super::{EcsSource, Sighting};
use crate::model::{Health, InstanceId, Phase};

impl EcsSource {
    /// Takes note of what is to be asked about these tasks.
    pub(super) fn note(&mut self, tasks: &[InstanceId]) {
        let now = self.clock.now();
        for arn in tasks {
            let Some(task) = self.tasks.get(arn) else {
                self.questions.watch(arn, false);
                continue;
            };
            let is_young = self.is_young(task, now);
            self.questions.watch(arn, is_young);
        }
        self.note_wanted(tasks);
    }

    /// Has ECS asked about standalone tasks whose tags no event told: without them nobody knows whether they are members.
    pub(super) fn note_untold(&mut self, tasks: &[InstanceId]) {
        let known = tasks.iter().filter_map(|arn| self.tasks.get(arn)).map(|task| &task.facts);
        let untold = known.filter(|facts| facts.service.is_none() && facts.tags.is_none());
        let untold: Vec<_> = untold.map(|facts| facts.arn.clone()).filter(|arn| self.is_up(arn)).collect();
        untold.into_iter().for_each(|arn| self.questions.doubt(arn));
    }

    /// Those of these tasks whose tags are not known.
    pub(super) fn untold(&self, tasks: &[InstanceId]) -> Vec<InstanceId> {
        let is_told = |arn: &InstanceId| self.tasks.get(arn).is_some_and(|task| task.facts.tags.is_some());
        tasks.iter().filter(|arn| !is_told(arn)).cloned().collect()
    }

    /// Takes note which tasks run and are not known to be healthy or not.
    pub(super) fn find_young(&mut self) {
        let now = self.clock.now();
        let young = self.tasks.iter().filter(|task| self.is_young(task, now));
        let young = young.map(|task| task.facts.arn.clone()).collect();
        self.questions.watch_only(young);
    }

    fn is_young(&self, task: &Known, now: SystemTime) -> bool {
        let revision = self.revisions.get(&task.facts.definition).map(AsRef::as_ref);
        task.phase(revision, now) == Phase::Running(Health::Unknown { gate_over: false })
    }

    /// Takes note of the task definitions of these tasks that are not known, and of the instances.
    fn note_wanted(&mut self, tasks: &[InstanceId]) {
        let up = tasks.iter().filter_map(|arn| self.tasks.get(arn));
        let up = up.filter(|task| task.facts.status != Status::Gone).map(|task| &task.facts.definition);
        let new = up.filter(|arn| !self.revisions.contains_key(*arn) && !self.unread.contains_key(*arn));
        let new: Vec<_> = new.cloned().collect();
        self.wanted.extend(new);
        self.note_instances(tasks);
    }
}

/// Whose task definitions are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Needed {
    /// Services, their tasks and standalone tasks with tags: without these an endpoint would be missing.
    ByServices,
    /// Other standalone tasks too, whose ports only their own sidecars care about.
    ByAny,
}

pub(super) fn needed(sighting: &Sighting, by: Needed) -> impl Iterator<Item = &Arc<str>> {
    let of_services =
        sighting.services.values().filter_map(|service: &ServiceFacts| service.definition.as_ref());
    let up = sighting.tasks.tasks.iter().filter(|task| task.status != Status::Gone);
    let serves =
        |task: &TaskFacts| task.service.is_some() || task.tags.as_ref().is_some_and(|tags| !tags.is_empty());
    let up = up.filter(move |task| by == Needed::ByAny || serves(task));
    of_services.chain(up.map(|task| &task.definition))
}
