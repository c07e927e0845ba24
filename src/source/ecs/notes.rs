//! What is to be asked next, noted whenever something is taken in, and which services there are after a reading.
//!
//! It asks nobody. Invariant: each note follows from what is known at the time alone.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use super::facts::{ServiceFacts, Status, TaskFacts};
use super::read::Unread;
use super::share::is_known;
use super::tags::VERSION;
use super::tasks::Known;
use super::view::Services;
use super::{EcsSource, Sighting};
use crate::model::{Health, InstanceId, Phase};
use crate::source::SourceError;

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

    /// Has ECS asked about tasks whose tags no event told: without them nobody knows whether standalone ones are members, nor
    /// which version one is of a service whose tasks say it.
    pub(super) fn note_untold(&mut self, tasks: &[InstanceId]) {
        let known = tasks.iter().filter_map(|arn| self.tasks.get(arn)).map(|task| &task.facts);
        let untold = known.filter(|facts| facts.tags.is_none());
        let untold = untold.filter(|facts| match &facts.service {
            None => true,
            Some(service) => self.tasks.of_group(service).any(|task| has_version(&task.facts)),
        });
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

    /// Every service that is listed or was known: one that is no longer listed is believed gone only when
    /// its description says so too.
    pub(super) fn services_to_ask(&self, listed: &[String]) -> Vec<String> {
        let mut arns: HashSet<String> = listed.iter().cloned().collect();
        arns.extend(self.services.keys().map(|arn| arn.as_ref().to_owned()));
        let mut arns: Vec<_> = arns.into_iter().collect();
        arns.sort();
        arns
    }

    /// Those described, and those that are not known to have gone: one that is listed and unknown to ECS is a
    /// contradiction, and ECS answers late at times, so it takes two readings that know nothing of one.
    pub(super) fn services_of(
        &self,
        listed: &[String],
        described: Vec<ServiceFacts>,
        missing: &[String],
    ) -> Services {
        let described = described.into_iter().filter(|service| !service.inactive);
        let mut services: BTreeMap<_, _> =
            described.map(|service| (Arc::clone(&service.arn), service)).collect();
        let listed: HashSet<&String> = listed.iter().collect();
        for arn in missing {
            let Some((key, known)) = self.services.get_key_value(arn.as_str()) else { continue };
            let is_unknown = !listed.contains(arn);
            // A reading that comes early proves nothing: no time has passed since the one before.
            if !(is_unknown && known.missed && !self.is_early) {
                let missed = is_unknown && (known.missed || !self.is_early);
                services.insert(Arc::clone(key), ServiceFacts { missed, ..known.clone() });
            }
        }
        services
    }

    /// Whether one of these tasks is of a service that is not known, or of a deployment that is not known, of a service that
    /// shifts traffic: no event describes them, and until a reading does nobody is told of the task.
    pub(super) fn has_news_of_services(&self, tasks: &[InstanceId]) -> bool {
        let known = tasks.iter().filter_map(|arn| self.tasks.get(arn)).map(|task| &task.facts);
        let up = known.filter(|facts| facts.status != Status::Gone && !facts.told_to_stop);
        let mut of_services = up.filter_map(|facts| Some((facts.service.as_ref()?, facts)));
        of_services.any(|(name, facts)| {
            let service = self.services.values().find(|service| service.name == *name);
            service.is_none_or(|service| !is_known(Some(service), facts))
        })
    }
}

/// Whether a task says which version of its service it is.
fn has_version(task: &TaskFacts) -> bool {
    task.tags.as_ref().is_some_and(|tags| tags.contains_key(VERSION))
}

/// The task definitions that a reading needs. Those of standalone tasks too: their labels may make them members, and in
/// any case their own sidecars care about their ports.
pub(super) fn needed(sighting: &Sighting) -> impl Iterator<Item = &Arc<str>> {
    let of_services = sighting.services.values().filter_map(|service| service.definition.as_ref());
    of_services.chain(up(sighting).map(|task| &task.definition))
}

/// Why a first view would lack an endpoint, if it would. What ECS refuses to describe for good makes no standalone task a
/// member.
pub(super) fn never_read<'a>(sighting: &'a Sighting, unread: &'a Unread) -> Option<&'a SourceError> {
    let alone: HashSet<_> =
        up(sighting).filter(|task| task.service.is_none()).map(|task| &task.definition).collect();
    let served = needed(sighting).filter(|definition| !alone.contains(definition));
    let errors = served.filter_map(|definition| unread.get(definition));
    let of_alone = alone.iter().filter_map(|definition| unread.get(*definition));
    let is_final =
        |error: &SourceError| ["ClientException", "InvalidParameterException"].contains(&&*error.code);
    errors.chain(of_alone.filter(|error| !is_final(error))).next()
}

fn up(sighting: &Sighting) -> impl Iterator<Item = &TaskFacts> {
    sighting.tasks.tasks.iter().filter(|task| task.status != Status::Gone)
}

/// The namespaces that Service Connect writes as ARNs, where no tag says another.
pub(super) fn namespace_arns(services: &Services) -> BTreeSet<String> {
    let untagged = services.values().filter(|service| !service.tags.contains_key("namespace"));
    let written = untagged.filter_map(|service| service.connect.as_ref()?.namespace.as_ref());
    written.filter(|written| written.starts_with("arn:")).cloned().collect()
}
