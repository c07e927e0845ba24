//! What the tags of several tasks say together: those of one ECS service, or standalone ones of a family.
//!
//! It is not their meaning, which is that of a service's own tags.
//!
//! Invariant: of two values for one key the elder task's is taken, and the other is told of.

use super::facts::{ServiceFacts, TaskFacts};
use super::tags::{Place, Tag, Tags, VERSION};
use super::view::Judged;
use crate::model::{Finding, Phase};
use crate::source::words::Wrong;

/// The tags of some tasks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct TaskTags {
    pub tags: Tags,
    conflicts: Vec<Conflict>,
}

/// A value that an elder task's outranks.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Conflict {
    task: String,
    key: String,
    value: String,
    taken: String,
}

/// The eldest first, but those that are leaving last.
pub(super) fn sort_by_age(tasks: &mut [Judged<'_>]) {
    tasks.sort_by_key(|one| {
        let facts = &one.task.facts;
        (!is_up(one), facts.created_at.is_none(), facts.created_at, &facts.arn)
    });
}

/// Whether a task is there to stay.
pub(super) fn is_up(one: &Judged<'_>) -> bool {
    matches!(one.phase, Phase::Starting | Phase::Running(_))
}

impl TaskTags {
    /// What one task says.
    pub(super) fn of_task(task: &TaskFacts) -> Self {
        Self { tags: task.tags.as_deref().cloned().unwrap_or_default(), conflicts: Vec::new() }
    }

    /// What these tasks of `service` say. While a deployment is under way only the new ones count, once there are any.
    pub(super) fn of_service(service: &ServiceFacts, tasks: &[Judged<'_>]) -> Self {
        let is_new = |one: &&Judged<'_>| Some(&one.task.facts.definition) == service.definition.as_ref();
        let mut new: Vec<_> = tasks.iter().filter(is_new).copied().collect();
        if new.is_empty() {
            new = tasks.to_vec();
        }
        sort_by_age(&mut new);
        Self::of(&new)
    }

    /// What these tasks say, the eldest first.
    pub(super) fn of(tasks: &[Judged<'_>]) -> Self {
        let mut told = Self::default();
        for one in tasks {
            let tags = one.task.facts.tags.iter().flat_map(|tags| tags.iter());
            // Tasks of several versions are no conflict.
            for (key, value) in tags.filter(|(key, _)| *key != VERSION) {
                match told.tags.get(key) {
                    Some(taken) if taken == value => {}
                    Some(taken) => {
                        // One for each key is enough to tell of it.
                        if is_up(one) && told.conflicts.iter().all(|known| known.key != *key) {
                            let task = one.task.facts.arn.as_str().rsplit('/').next().unwrap_or_default();
                            let (task, key, value) = (task.to_owned(), key.clone(), value.clone());
                            told.conflicts.push(Conflict { task, key, value, taken: taken.clone() });
                        }
                    }
                    None => drop(told.tags.insert(key.clone(), value.clone())),
                }
            }
        }
        told
    }

    /// What is to be told of the tasks of `object`, unless its own tags decide anyway.
    pub(super) fn conflicts(&self, object: &str, own: &Tags) -> impl Iterator<Item = Finding> {
        let undecided = self.conflicts.iter().filter(|conflict| !own.contains_key(&conflict.key));
        undecided.map(move |Conflict { task, key, value, taken }| {
            let why = format!("task {task} says this, and older ones `{taken}`, which is taken");
            Tag { object, place: &Place::TaskTag, key, value }.wrong_value(&Wrong::all(value, why))
        })
    }
}
