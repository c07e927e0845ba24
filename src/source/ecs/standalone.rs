//! Standalone tasks as members: those of a family that say the same name form one service.
//!
//! What their tags and labels mean is not decided here, but that they are described as an ECS service is.
//!
//! Invariant: a task whose tags nobody has told is no member, and a member serves only under the name that it says itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::describe::Cluster;
use super::facts::{Revision, ServiceFacts, TaskFacts};
use super::tags::{self, Place, Role, Tags};
use super::task_tags::{TaskTags, is_up, sort_by_age};
use super::view::Judged;
use super::{Discover, NamespaceRule};

/// No ECS service has a colon in its name.
const FAMILY: &str = "family:";

/// What a standalone task says of its name: its namespace and its discovery names, as far as its tags tell.
pub(super) type Said = Tags;

/// Where a task belongs: its ECS service, or `family:batch` for a standalone one.
pub(super) fn group_of(task: &TaskFacts) -> Arc<str> {
    match &task.service {
        Some(service) => Arc::clone(service),
        None => {
            let definition = task.definition.rsplit('/').next().unwrap_or(&task.definition);
            let family = definition.rsplit_once(':').map_or(definition, |(family, _)| family);
            format!("{FAMILY}{family}").into()
        }
    }
}

/// The group of a family's standalone tasks.
pub(super) fn family_group(family: &str) -> String {
    format!("{FAMILY}{family}")
}

/// What a group is called: the service or the family.
pub(super) fn name_of(group: &str) -> &str {
    group.strip_prefix(FAMILY).unwrap_or(group)
}

/// Whether a task is a standalone one that serves, under whatever name. What asks for nothing is none, unless a namespace
/// takes all.
pub(super) fn is_member(task: &TaskFacts, revision: &Revision, rules: &[NamespaceRule]) -> bool {
    let Some(tags) = task.tags.as_deref().filter(|_| task.service.is_none()) else { return false };
    let is_written = !tags.is_empty() || !revision.labels.is_empty();
    if !is_written && rules.iter().all(|rule| rule.discover != Discover::All) {
        return false;
    }
    let layer = tags::read("", &Place::TaskTag, tags).over(tags::read_labels("", &revision.labels));
    layer.role.unwrap_or_default() == Role::Auto
}

/// What a member says of its name; a namespace that it belongs to anyway is not worth a word.
pub(super) fn said(task: &TaskFacts, cluster: Cluster<'_>) -> Said {
    let usual = match cluster.rules {
        [only] => Some(only.namespace.as_str()),
        _ => cluster.default,
    };
    let names = |key: &str, value: &str| match key {
        "namespace" => Some(value) != usual,
        _ => key.starts_with("discovery-name/"),
    };
    let tags = task.tags.iter().flat_map(|tags| tags.iter());
    tags.filter(|(key, value)| names(key, value)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// A service that standalone tasks form.
pub(super) struct Family<'a> {
    /// As if ECS knew it.
    pub facts: ServiceFacts,
    pub told: TaskTags,
    pub said: Arc<Said>,
    /// That of the eldest.
    pub revision: &'a Revision,
}

/// The services that these tasks form.
pub(super) fn families<'a>(tasks: &[Judged<'a>], cluster: Cluster<'_>) -> Vec<Family<'a>> {
    let mut members: BTreeMap<(Arc<str>, Said), Vec<Judged<'a>>> = BTreeMap::new();
    for one in tasks {
        let facts = &one.task.facts;
        if one.revision.is_some_and(|revision| is_member(facts, revision, cluster.rules)) {
            members.entry((group_of(facts), said(facts, cluster))).or_default().push(*one);
        }
    }
    members.into_iter().filter_map(|((group, said), tasks)| family(group, said, tasks)).collect()
}

fn family(group: Arc<str>, said: Said, mut tasks: Vec<Judged<'_>>) -> Option<Family<'_>> {
    sort_by_age(&mut tasks);
    let eldest = tasks.first()?;
    let facts = ServiceFacts {
        arn: Arc::clone(&group),
        name: group,
        active: is_up(eldest),
        inactive: false,
        created_at: None, // whatever an ECS service offers outranks it, however old
        definition: Some(Arc::clone(&eldest.task.facts.definition)),
        connect: None,
        deployments: BTreeMap::new(),
        tags: Tags::new(),
        subnets: None,
        missed: false,
    };
    let revision = eldest.revision?;
    Some(Family { facts, told: TaskTags::of(&tasks), said: Arc::new(said), revision })
}
