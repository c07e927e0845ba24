//! One ECS cluster as a source: its services, their tasks, and how each is described.
//!
//! It is not a judge of endpoints; that is the mesh's part. It never writes to ECS.
//!
//! Invariant: a reading is taken in whole. Until every call has answered, nothing that is known changes.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::try_join;

use self::describe::Cluster;
use self::facts::Status;
use self::read::{Reader, Unread};
use self::tasks::{Answer, Tasks};
use self::view::{Knowledge, Revisions, Services};
use super::{SourceError, Sweep};
use crate::model::{InstanceId, Namespace, View};

mod describe;
mod facts;
mod read;
mod tags;
mod tasks;
mod view;

/// How long the first reading waits out throttling of task definitions.
const FIRST_PATIENCE: Duration = Duration::from_secs(120);

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
    /// The namespaces that its services may join.
    pub namespaces: Vec<NamespaceRule>,
}

/// The source: the calls, and what is known so far.
#[derive(Debug)]
pub struct EcsSource {
    reader: Reader,
    /// The short name.
    cluster: Arc<str>,
    namespaces: Vec<NamespaceRule>,
    services: Services,
    tasks: Tasks,
    revisions: Revisions,
    /// Whether it has spoken: the first reading is either complete or none.
    spoken: bool,
    view: View,
}

/// A whole reading that has not been taken in.
struct Sighting {
    services: Services,
    tasks: Answer,
}

impl EcsSource {
    /// A source that has read nothing yet.
    pub fn new(client: aws_sdk_ecs::Client, settings: Settings) -> Self {
        let Settings { cluster, namespaces } = settings;
        let short = cluster.rsplit('/').next().unwrap_or(&cluster).into();
        Self {
            reader: Reader { client, cluster },
            cluster: short,
            namespaces,
            services: Services::new(),
            tasks: Tasks::default(),
            revisions: Revisions::new(),
            spoken: false,
            view: View::default(),
        }
    }

    /// Every service that is listed or was known: one that is no longer listed is believed gone only when
    /// its description says so too.
    async fn read_services(&self) -> Result<Services, SourceError> {
        let listed = self.reader.service_arns().await?;
        let mut arns: HashSet<String> = listed.iter().cloned().collect();
        arns.extend(self.services.keys().map(|arn| arn.as_ref().to_owned()));
        let mut arns: Vec<_> = arns.into_iter().collect();
        arns.sort();
        let (described, missing) = self.reader.services(&arns).await?;
        let described = described.into_iter().filter(|service| !service.inactive);
        let mut services: BTreeMap<_, _> =
            described.map(|service| (Arc::clone(&service.arn), service)).collect();
        let listed: HashSet<String> = listed.into_iter().collect();
        for arn in missing.iter().filter(|arn| listed.contains(*arn)) {
            if let Some((arn, known)) = self.services.get_key_value(arn.as_str()) {
                services.insert(Arc::clone(arn), known.clone()); // listed and missing: a contradiction
            }
        }
        Ok(services)
    }

    async fn read_tasks(&self) -> Result<Answer, SourceError> {
        let listed = self.reader.task_arns().await?;
        let (tasks, missing) = self.reader.tasks(&self.tasks.to_ask(&listed)).await?;
        Ok(Answer { listed, tasks, missing: missing.into_iter().map(InstanceId::from).collect() })
    }

    /// Fetches the task definitions that `sighting` needs and that never were fetched. At the first reading
    /// there may be more than a burst of calls allows, so throttling is waited out; later a stopped task must
    /// not wait for it.
    async fn read_revisions(&mut self, sighting: &Sighting) -> Unread {
        let patience = if self.spoken { Duration::ZERO } else { FIRST_PATIENCE };
        let needed: HashSet<&Arc<str>> = needed(sighting, Needed::ByAny).collect();
        let mut unknown: Vec<_> =
            needed.into_iter().filter(|arn| !self.revisions.contains_key(*arn)).cloned().collect();
        unknown.sort();
        let revisions = &mut self.revisions;
        let keep = |arn, revision| drop(revisions.insert(arn, Arc::new(revision)));
        self.reader.revisions(unknown, patience, keep).await
    }

    fn take_in(&mut self, sighting: Sighting, unread: &Unread, now: SystemTime) -> View {
        let before = std::mem::replace(&mut self.services, sighting.services);
        for (arn, service) in &mut self.services {
            // A service whose new task definition can't be read goes on as it was described before.
            if service.definition.as_ref().is_some_and(|definition| unread.contains_key(definition)) {
                service.definition = before.get(arn).and_then(|known| known.definition.clone());
            }
        }
        self.tasks.merge(sighting.tasks, now);
        let used: HashSet<Arc<str>> = {
            let of_services = self.services.values().filter_map(|service| service.definition.clone());
            of_services.chain(self.tasks.iter().map(|task| Arc::clone(&task.facts.definition))).collect()
        };
        self.revisions.retain(|arn, _| used.contains(arn));
        let knowledge = Knowledge {
            cluster: Cluster { name: &self.cluster, rules: &self.namespaces },
            services: &self.services,
            revisions: &self.revisions,
            tasks: &self.tasks,
            unread,
            now,
        };
        self.spoken = true;
        self.view = knowledge.view(&self.view);
        self.view.clone()
    }
}

/// Whose task definitions are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needed {
    /// Services and their tasks: without these an endpoint would be missing.
    ByServices,
    /// Standalone tasks too, whose ports only their own sidecars care about.
    ByAny,
}

fn needed(sighting: &Sighting, by: Needed) -> impl Iterator<Item = &Arc<str>> {
    let of_services = sighting.services.values().filter_map(|service| service.definition.as_ref());
    let up = sighting.tasks.tasks.iter().filter(|task| task.status != Status::Gone);
    let up = up.filter(move |task| by == Needed::ByAny || task.service.is_some());
    of_services.chain(up.map(|task| &task.definition))
}

impl Sweep for EcsSource {
    async fn sweep(&mut self) -> Result<View, SourceError> {
        let (services, tasks) = try_join(self.read_services(), self.read_tasks()).await?;
        let sighting = Sighting { services, tasks };
        let unread = self.read_revisions(&sighting).await;
        if !self.spoken
            && let Some(error) = needed(&sighting, Needed::ByServices).find_map(|arn| unread.get(arn))
        {
            return Err(error.clone());
        }
        Ok(self.take_in(sighting, &unread, SystemTime::now()))
    }
}

#[cfg(test)]
mod tests;
