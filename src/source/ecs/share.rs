//! What follows from deployments for the tasks of a service: which version and revision each is, and whether it takes part
//! in what the service gets.
//!
//! It asks nobody. Invariant: pure; a shift in which tasks can't be told apart is none, and takes nobody out.

use std::sync::Arc;

use super::facts::{ServiceFacts, TaskFacts};
use super::shifts::Weighed;
use super::tags::{Tags, VERSION};
use super::view::Judged;
use crate::model::{Finding, Phase, Revision, Share, Shift, TestHeader, Traits, Which};
use crate::source::words;

/// What Service Connect takes for a test where nobody says another header.
const TEST_HEADER: &str = "x-amzn-ecs-blue-green-test";

/// The shift of a service, as far as it can be followed.
#[derive(Clone, Copy)]
pub(super) struct Following<'a> {
    service: Option<&'a ServiceFacts>,
    /// Empty where none is under way, or it can't be followed.
    weighed: &'a [Weighed],
}

impl<'a> Following<'a> {
    /// The shift of a service with these tasks.
    pub(super) fn of(service: Option<&'a ServiceFacts>, tasks: &[Judged<'_>]) -> Self {
        let weighed = service.map(|service| &*service.shift).unwrap_or_default();
        let all = Self { service, weighed };
        let is_unmatched = |task: &&Judged<'_>| {
            let facts = &task.task.facts;
            matches!(task.phase, Phase::Running(_)) && all.is_known(facts) && all.revision(facts).is_none()
        };
        if tasks.iter().any(|task| is_unmatched(&task)) { Self { weighed: &[], ..all } } else { all }
    }

    /// What is wrong with it, for people.
    pub(super) fn finding(self, cluster: &str) -> Option<Finding> {
        let service = self.service?;
        let message = "its tasks can't be told apart by the revisions between which its deployment shifts traffic, so all \
                       of them get some; give each revision a task definition of its own";
        let object = format!("ecs {cluster}/{}, deployment", service.name);
        let is_lost = self.weighed.is_empty() && !service.shift.is_empty();
        is_lost.then(|| Finding { code: "SHIFT001", object, message: message.to_owned() })
    }

    /// For clients: `header` is Service Connect's word on tests.
    pub(super) fn shift(self, header: Option<&TestHeader>) -> Option<Arc<Shift>> {
        let revision = |it: &Weighed| {
            let id = Arc::clone(&it.id);
            Revision { id, production: it.production, test: it.test, serves: true }
        };
        let header =
            || header.cloned().unwrap_or_else(|| TestHeader { name: TEST_HEADER.into(), value: None });
        let revisions = self.weighed.iter().map(revision).collect();
        (!self.weighed.is_empty()).then(|| Arc::new(Shift { revisions, header: header() }))
    }

    /// What tells a task from the others.
    pub(super) fn traits(self, task: &Judged<'_>) -> Traits {
        let facts = &task.task.facts;
        let revision = self.revision(facts);
        let share = match revision {
            Some(revision) if revision.production == 0 => Share::Awaits,
            Some(_) => Share::Full,
            None if self.weighed.is_empty() && self.is_known(facts) => Share::Full,
            None => Share::Unknown,
        };
        Traits {
            version: version_of(task, self.service),
            deployment: self.deployment(facts),
            labels: task.revision.map(|revision| Arc::clone(&revision.written)).unwrap_or_default(),
            revision: revision.map(|revision| Arc::clone(&revision.id)),
            share,
        }
    }

    fn deployment(self, task: &TaskFacts) -> Option<Which> {
        let (rollout, id) = (&self.service?.rollout, task.started_by.as_ref()?);
        match &rollout.primary {
            Some(primary) if primary == id => Some(Which::Primary),
            _ => rollout.known.contains(id).then_some(Which::Previous),
        }
    }

    /// Whether a task is of a deployment that is known: of one that is new nobody knows yet what it is to get.
    fn is_known(self, task: &TaskFacts) -> bool {
        is_known(self.service, task)
    }

    /// The revision of a task. ECS seems to give a revision the number of its deployment; where it does not, each may have
    /// a task definition of its own.
    fn revision(self, task: &TaskFacts) -> Option<&'a Weighed> {
        let number = task.started_by.as_deref().and_then(|id| id.strip_prefix("ecs-svc/"));
        let by_number = || self.weighed.iter().find(|it| Some(&*it.id) == number);
        let is_known = self.is_known(task); // what is new may run the definition of what was
        let mut alike =
            self.weighed.iter().filter(|it| is_known && it.definition.as_ref() == Some(&task.definition));
        by_number().or_else(|| alike.next().filter(|_| alike.next().is_none()))
    }
}

/// Whether it is known what a task's deployment is about; it always is where none shifts traffic.
pub(super) fn is_known(service: Option<&ServiceFacts>, task: &TaskFacts) -> bool {
    let Some(rollout) = service.map(|service| &service.rollout).filter(|rollout| rollout.shifts) else {
        return true;
    };
    let is_older = rollout.began_at.zip(task.created_at).is_some_and(|(began, created)| created < began);
    is_older || task.started_by.as_ref().is_none_or(|id| rollout.known.contains(id))
}

/// Which version of its service a task is: what a tag of its own says, one of the service, a label, or else the revision of
/// its task definition.
fn version_of(task: &Judged<'_>, service: Option<&ServiceFacts>) -> Option<Arc<str>> {
    let said = |tags: Option<&Tags>| tags?.get(VERSION).filter(|version| version_is_sound(version)).cloned();
    let facts = &task.task.facts;
    let label = || task.revision?.labels.get(VERSION)?.first().map(|(_, version)| version.clone());
    let tagged = said(facts.tags.as_deref()).or_else(|| said(service.map(|service| &service.tags)));
    let number = || Some(facts.definition.rsplit_once(':')?.1.to_owned());
    let labelled = || label().filter(|version| version_is_sound(version));
    tagged.or_else(labelled).or_else(number).map(Into::into)
}

fn version_is_sound(version: &str) -> bool {
    words::version(version).is_ok()
}
