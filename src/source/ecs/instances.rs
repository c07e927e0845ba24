//! Container instances: where the tasks are that have no address of their own (network modes `bridge` and `host`).
//!
//! It is not about tasks: which port of an instance is whose is `place`'s business.
//!
//! Invariant: only what has to be known is asked about, and once: an instance keeps its private address for life. A
//! look-up that fails takes away nothing; what it leaves unknown is a finding, and the next reading asks again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::{StreamExt, stream};

use super::describe::{self, Cluster};
use super::facts::{Network, ServiceFacts, Status, TaskFacts};
use super::read::{AT_ONCE, Reader};
use super::tags::Tags;
use super::task_tags::TaskTags;
use super::tasks::Known;
use super::{EcsSource, Sighting, place, standalone};
use crate::model::{Finding, InstanceId, Subnet};
use crate::source::aws::is_denial;
use crate::source::{CellWriter, SourceError};

/// The attribute of a container instance that says its address, for all that AWS says or does not.
pub(super) const ATTRIBUTE: &str = "legation.address";
/// How many instances one call asks about.
const BATCH: usize = 100;

/// What ECS tells of a container instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct InstanceFacts {
    pub arn: Arc<str>,
    /// `i-…`; `mi-…` is a machine outside EC2.
    pub machine: Option<String>,
    /// The value of [`ATTRIBUTE`], where somebody wrote it.
    pub written: Option<String>,
}

/// Where an instance is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Located {
    pub address: IpAddr,
    pub subnet: Option<Subnet>,
    /// Whether people say so, who may say something else later.
    written: bool,
}

/// Why it is not known where an instance is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Lost {
    /// AWS did not answer.
    Unread(SourceError),
    /// AWS knows of no such instance, or of no address of it.
    Unknown,
    /// It is a machine outside EC2.
    Outside,
    /// What people wrote is no address.
    Wrong(String),
}

/// The container instances of a cluster, as far as they matter.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Instances {
    known: HashMap<Arc<str>, Located>,
    /// Those that were asked about in vain since the last reading began.
    lost: BTreeMap<Arc<str>, Lost>,
    /// Those that events tell of and that were not asked about yet.
    wanted: BTreeSet<Arc<str>>,
}

impl Instances {
    /// Where an instance is.
    pub(super) fn located(&self, arn: &str) -> Option<Located> {
        self.known.get(arn).copied()
    }

    /// The instances at an address: two for a moment, when a new one got the address of one that has gone.
    pub(super) fn at(&self, address: IpAddr) -> impl Iterator<Item = &Arc<str>> {
        let there = self.known.iter().filter(move |(_, located)| located.address == address);
        there.map(|(arn, _)| arn)
    }

    /// Whether some are to be asked about before the next reading.
    pub(super) fn are_wanted(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// The first error that left one unknown. Who may not ask does without.
    pub(super) fn error(&self) -> Option<&SourceError> {
        self.lost.values().find_map(|lost| match lost {
            Lost::Unread(error) if !is_denial(&error.code) => Some(error),
            _ => None,
        })
    }

    fn take(&mut self, found: Vec<(Arc<str>, Result<Located, Lost>)>) {
        for (arn, outcome) in found {
            match outcome {
                Ok(located) => drop(self.known.insert(arn, located)),
                Err(why) => drop(self.lost.insert(arn, why)),
            }
        }
    }

    /// Forgets those on which no task is any more.
    pub(super) fn keep_only(&mut self, used: &HashSet<Arc<str>>) {
        self.known.retain(|arn, _| used.contains(arn));
    }

    /// What people have to know of those whose address is not known, or no longer sure; `cluster` is its short name.
    pub(super) fn findings(&self, cluster: &str) -> impl Iterator<Item = Finding> {
        let mut by_cause: BTreeMap<&Lost, Vec<&Arc<str>>> = BTreeMap::new();
        for (arn, lost) in &self.lost {
            by_cause.entry(lost).or_default().push(arn);
        }
        by_cause
            .into_iter()
            .filter_map(move |(lost, arns)| Some(lost.finding(cluster, arns.first()?, arns.len())))
    }
}

impl Lost {
    /// Of so many instances, such as `arn`.
    fn finding(&self, cluster: &str, arn: &str, count: usize) -> Finding {
        let id = arn.rsplit('/').next().unwrap_or(arn);
        let nobody = "so tasks there in network mode bridge or host get no traffic";
        let known = "unless the address was known before";
        let why = match self {
            Self::Unread(error) => {
                let what = format!("{count}, such as {id}, can't be read, {nobody} {known}: ");
                return error.finding(object(cluster), &what);
            }
            Self::Unknown => format!("have no address that AWS tells, {nobody}"),
            Self::Outside => format!("are outside EC2, where AWS tells no address, {nobody}"),
            Self::Wrong(written) => {
                format!("have {ATTRIBUTE} = {written}, which is no address, {nobody} {known}")
            }
        };
        let code = if matches!(self, Self::Wrong(_)) { "CFG002" } else { "EP001" };
        let message = format!(
            "{count}, such as {id}, {why}; say it with `aws ecs put-attributes --cluster {cluster} --attributes \
             name={ATTRIBUTE},value=ADDRESS,targetId={arn}`"
        );
        Finding { code, object: object(cluster), message }
    }
}

fn object(cluster: &str) -> String {
    format!("ecs {cluster}, container instances")
}

impl Reader {
    /// Looks for container instances, each batch for itself: one that fails takes no other with it.
    async fn locate(&self, arns: Vec<Arc<str>>) -> Vec<(Arc<str>, Result<Located, Lost>)> {
        let batches: Vec<_> = arns.chunks(BATCH).map(<[_]>::to_vec).collect();
        let calls = batches.into_iter().map(|batch| self.locate_batch(batch));
        stream::iter(calls).buffer_unordered(AT_ONCE).concat().await
    }

    async fn locate_batch(&self, arns: Vec<Arc<str>>) -> Vec<(Arc<str>, Result<Located, Lost>)> {
        let all = |lost: Lost| arns.iter().map(|arn| (Arc::clone(arn), Err(lost.clone()))).collect();
        let (described, missing) = match self.container_instances(&arns).await {
            Ok(answer) => answer,
            Err(error) => return all(Lost::Unread(error)),
        };
        let mut found: Vec<_> = missing.into_iter().map(|arn| (Arc::from(arn), Err(Lost::Unknown))).collect();
        let mut in_ec2 = Vec::new();
        for InstanceFacts { arn, machine, written } in described {
            match (written, machine) {
                (Some(written), _) => found.push((arn, by_hand(written))),
                (None, Some(machine)) if machine.starts_with("mi-") => found.push((arn, Err(Lost::Outside))),
                (None, Some(machine)) => in_ec2.push((machine, arn)),
                (None, None) => found.push((arn, Err(Lost::Unknown))),
            }
        }
        if in_ec2.is_empty() {
            return found;
        }
        // One that was registered anew may be there under its old name too.
        let ids: BTreeSet<_> = in_ec2.iter().map(|(id, _)| id.as_str()).collect();
        let addresses = self.ec2.addresses(&ids.into_iter().collect::<Vec<_>>()).await;
        let of = |id: &str| {
            let address = addresses.as_ref().map_err(|error| Lost::Unread(error.clone()))?.get(id);
            let located = |&(address, subnet)| Located { address, subnet, written: false };
            address.map(located).ok_or(Lost::Unknown)
        };
        found.extend(in_ec2.iter().map(|(id, arn)| (Arc::clone(arn), of(id))));
        found
    }
}

fn by_hand(written: String) -> Result<Located, Lost> {
    let address = written.trim().parse();
    address.map(|address| Located { address, subnet: None, written: true }).map_err(|_| Lost::Wrong(written))
}

impl EcsSource {
    /// Asks about the instances that a reading needs: once about those with tasks that are offered here, and each time
    /// about those of which people say the address.
    pub(super) async fn read_instances(&mut self, cell: Option<&CellWriter>, sighting: &Sighting) {
        let by_name: HashMap<&str, &ServiceFacts> =
            sighting.services.values().map(|service| (&*service.name, service)).collect();
        let mut offering: HashMap<(&str, Option<&Tags>), bool> = HashMap::new();
        let mut needed = BTreeSet::new();
        for task in &sighting.tasks.tasks {
            let Some(machine) = self.shared_machine(task) else { continue };
            let offers = match &task.service {
                None => self.is_member(task),
                Some(service) => by_name.get(&**service).is_some_and(|facts| {
                    let key = (&*facts.name, task.tags.as_deref());
                    *offering.entry(key).or_insert_with(|| self.offers_something(facts, task))
                }),
            };
            let sure = self.instances.known.get(machine).is_some_and(|located| !located.written);
            if offers && !sure {
                needed.insert(Arc::clone(machine));
            }
        }
        let found = self.locate(cell, needed).await;
        self.instances.lost.clear();
        self.instances.take(found);
    }

    /// Takes note of the instances of these tasks that have to be asked about before the next reading.
    pub(super) fn note_instances(&mut self, tasks: &[InstanceId]) {
        let new = self.never_asked(tasks.iter().filter_map(|arn| self.tasks.get(arn)));
        self.instances.wanted.extend(new);
    }

    /// Asks about the instances that were taken note of, and of tasks whose definition was not known then.
    pub(super) async fn read_wanted_instances(&mut self, cell: Option<&CellWriter>) {
        let mut wanted = std::mem::take(&mut self.instances.wanted);
        wanted.extend(self.never_asked(self.tasks.iter()));
        // A reading that was under way then may have found some.
        wanted.retain(|machine| !self.instances.known.contains_key(machine));
        let found = self.locate(cell, wanted).await;
        self.instances.take(found);
    }

    /// The instances of those of these tasks that are offered here, less those that were asked about.
    fn never_asked<'a>(&self, tasks: impl Iterator<Item = &'a Known>) -> BTreeSet<Arc<str>> {
        let machines = tasks.filter_map(|task| {
            let machine = self.shared_machine(&task.facts)?;
            let offers = match &task.facts.service {
                None => self.is_member(&task.facts),
                Some(service) => self.drawn.has_offers_of(service),
            };
            offers.then_some(machine)
        });
        let asked = |machine: &Arc<str>| {
            self.instances.known.contains_key(machine) || self.instances.lost.contains_key(machine)
        };
        machines.filter(|machine| !asked(machine)).cloned().collect()
    }

    async fn locate(
        &mut self,
        cell: Option<&CellWriter>,
        arns: BTreeSet<Arc<str>>,
    ) -> Vec<(Arc<str>, Result<Located, Lost>)> {
        let reader = self.reader.clone();
        self.attend(cell, reader.locate(arns.into_iter().collect())).await
    }

    /// The instance whose address a task shares; nobody knows whether it does before its definition is known.
    fn shared_machine<'a>(&self, task: &'a TaskFacts) -> Option<&'a Arc<str>> {
        let revision = self.revisions.get(&task.definition)?;
        let shares = matches!(place::network(task, revision), Network::Bridge | Network::Host);
        task.machine.as_ref().filter(|_| shares && task.status != Status::Gone)
    }

    /// Whether anything of a service is part of a namespace here, as this task of it has it: of all others nobody needs to
    /// know where they are.
    fn offers_something(&self, service: &ServiceFacts, task: &TaskFacts) -> bool {
        // As the services are drawn when this reading is taken in.
        let default = self.defaults.told();
        let cluster = Cluster { name: &self.cluster, default, ..self.described_against() };
        let revision = service.definition.as_ref().and_then(|arn| self.revisions.get(arn));
        let told = TaskTags::of_task(task);
        revision.is_some_and(|revision| !describe::describe(cluster, service, &told, revision).0.is_empty())
    }

    /// The same of a standalone task.
    fn is_member(&self, task: &TaskFacts) -> bool {
        let revision = self.revisions.get(&task.definition);
        revision.is_some_and(|revision| standalone::is_member(task, revision, &self.namespaces))
    }
}
