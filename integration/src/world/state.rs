//! The truth of the account, and the primitives that change it.
//!
//! One value behind one lock: no timers, no servers' lives, no wire format. Copying it is cheap in
//! memory, since tasks and definitions are shared, so an old copy can stand for a stale read.
//! Invariant: every task is in `tasks`, and its ARN in exactly one service or in its cluster's
//! standalone set.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::WorldError;
use super::address;
use super::discovery::{MapService, Namespace};
use super::machines::Machine;
use super::model::{Cluster, DesiredStatus, LastStatus, Service, TaskDefinition};
use super::server::TaskServer;
use super::task::Task;

/// Everything in the account.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) account: String,
    pub(crate) region: String,
    pub(crate) clusters: BTreeMap<String, Cluster>,
    /// By family; revision n is at n - 1.
    pub(crate) definitions: BTreeMap<String, Vec<Arc<TaskDefinition>>>,
    /// By ARN, hence in order of cluster.
    pub(crate) tasks: BTreeMap<String, Arc<Task>>,
    pub(crate) servers: BTreeMap<String, Arc<TaskServer>>,
    /// Container instances by ARN.
    pub(crate) machines: BTreeMap<String, Machine>,
    pub(crate) namespaces: BTreeMap<String, Namespace>,
    pub(crate) map_services: BTreeMap<String, MapService>,
    pub(crate) ids: Ids,
    /// The next address of a task, where they do not come from the loopback.
    pub(super) next_address: Option<Ipv4Addr>,
    /// Tasks whose version rose, until somebody is told.
    pub(super) raised: Vec<Arc<Task>>,
}

impl State {
    pub(super) fn new(account: String, region: String, seed: u64, next_address: Option<Ipv4Addr>) -> Self {
        Self {
            account,
            region,
            clusters: BTreeMap::new(),
            definitions: BTreeMap::new(),
            tasks: BTreeMap::new(),
            servers: BTreeMap::new(),
            machines: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            map_services: BTreeMap::new(),
            ids: Ids(seed),
            next_address,
            raised: Vec::new(),
        }
    }

    /// The next address of a task.
    pub(super) fn address(&mut self) -> io::Result<Ipv4Addr> {
        let Some(next) = &mut self.next_address else { return address::allocate() };
        let found = *next;
        loop {
            *next = Ipv4Addr::from(u32::from(*next).wrapping_add(1));
            if !matches!(next.octets()[3], 0 | 255) {
                return Ok(found);
            }
        }
    }

    /// An ARN of this account.
    pub(crate) fn arn(&self, service: &str, resource: &str) -> String {
        format!("arn:aws:{service}:{}:{}:{resource}", self.region, self.account)
    }

    /// A cluster by name or ARN.
    pub(crate) fn cluster(&self, name_or_arn: &str) -> Result<&Cluster, WorldError> {
        let name = self.cluster_name(name_or_arn);
        let found = self.clusters.get(name).filter(|c| name == name_or_arn || c.arn == name_or_arn);
        found.ok_or_else(|| WorldError::Missing(format!("cluster {name_or_arn}")))
    }

    pub(super) fn cluster_mut(&mut self, name: &str) -> Result<&mut Cluster, WorldError> {
        let found = self.clusters.get_mut(name);
        found.ok_or_else(|| WorldError::Missing(format!("cluster {name}")))
    }

    fn cluster_name<'a>(&self, name_or_arn: &'a str) -> &'a str {
        match name_or_arn.starts_with("arn:") {
            true => name_or_arn.rsplit('/').next().unwrap_or(name_or_arn),
            false => name_or_arn,
        }
    }

    /// A service by cluster name and service name.
    pub(crate) fn service(&self, cluster: &str, name: &str) -> Result<&Service, WorldError> {
        let found = self.cluster(cluster)?.services.get(name);
        found.ok_or_else(|| WorldError::Missing(format!("service {name}")))
    }

    pub(super) fn service_mut(&mut self, cluster: &str, name: &str) -> Result<&mut Service, WorldError> {
        let found = self.cluster_mut(cluster)?.services.get_mut(name);
        found.ok_or_else(|| WorldError::Missing(format!("service {name}")))
    }

    /// A definition by `family`, `family:revision` or ARN.
    pub(crate) fn definition(&self, reference: &str) -> Result<&Arc<TaskDefinition>, WorldError> {
        let missing = || WorldError::Missing(format!("task definition {reference}"));
        let short = match reference.starts_with("arn:") {
            true => reference.rsplit('/').next().unwrap_or(reference),
            false => reference,
        };
        let (family, revision) = match short.rsplit_once(':') {
            Some((family, revision)) => (family, Some(revision.parse::<usize>().map_err(|_| missing())?)),
            None => (short, None),
        };
        let revisions = self.definitions.get(family).ok_or_else(missing)?;
        let found = match revision {
            Some(revision) => revision.checked_sub(1).and_then(|index| revisions.get(index)),
            None => revisions.last(),
        };
        found.filter(|d| !reference.starts_with("arn:") || d.arn == reference).ok_or_else(missing)
    }

    /// A task by ARN (both forms) or id.
    pub(crate) fn task(&self, reference: &str) -> Result<&Arc<Task>, WorldError> {
        let missing = || WorldError::Missing(format!("task {reference}"));
        if let Some(task) = self.tasks.get(reference) {
            return Ok(task);
        }
        let id = reference.rsplit('/').next().unwrap_or(reference);
        let old_form = self.arn("ecs", &format!("task/{id}"));
        if reference != id && reference != old_form {
            return Err(missing());
        }
        let in_clusters = self.clusters.keys();
        let candidates = in_clusters.map(|cluster| self.arn("ecs", &format!("task/{cluster}/{id}")));
        candidates.filter_map(|arn| self.tasks.get(&arn)).next().ok_or_else(missing)
    }

    /// Changes a task and everything that follows from it: registrations and deployments.
    pub(super) fn change_task<R>(
        &mut self,
        arn: &str,
        change: impl FnOnce(&mut Task) -> R,
    ) -> Result<R, WorldError> {
        let found = self.tasks.get(arn).ok_or_else(|| WorldError::Missing(format!("task {arn}")))?;
        let mut task = Task::clone(found);
        let before = task.version;
        let result = change(&mut task);
        task.note_version();
        self.sync_registrations(&mut task);
        let (cluster, service) = (task.cluster.clone(), task.service.clone());
        let task = Arc::new(task);
        if task.version > before {
            self.raised.push(Arc::clone(&task));
        }
        self.tasks.insert(arn.to_owned(), task);
        if let Some(service) = service {
            self.settle_service(&cluster, &service);
        }
        Ok(result)
    }

    /// The tasks of a service, stopped ones too.
    pub(crate) fn tasks_of<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a Arc<Task>> {
        service.tasks.iter().filter_map(|arn| self.tasks.get(arn))
    }

    /// Running and pending tasks of a service; of one deployment, when its id is given.
    pub(crate) fn counts(&self, service: &Service, deployment: Option<&str>) -> Counts {
        let mut counts = Counts::default();
        for task in self.tasks_of(service) {
            if deployment.is_some() && task.started_by.as_deref() != deployment {
                continue;
            }
            match (task.desired_status, task.last_status) {
                (_, LastStatus::Running) => counts.running += 1,
                (DesiredStatus::Running, LastStatus::Provisioning | LastStatus::Pending) => {
                    counts.pending += 1
                }
                _ => {}
            }
            if task.desired_status == DesiredStatus::Running {
                counts.wanted += 1;
            }
            if task.ready() {
                counts.ready += 1;
            }
        }
        counts
    }
}

/// Numbers of tasks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// lastStatus RUNNING, as `runningCount`.
    pub(crate) running: u32,
    /// On their way, as `pendingCount`.
    pub(crate) pending: u32,
    /// desiredStatus RUNNING.
    pub(crate) wanted: u32,
    /// In service and healthy.
    pub(crate) ready: u32,
}

/// Makes ids which look like AWS's (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Ids(u64);

impl Ids {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 32 hexadecimal digits, as in task ARNs.
    pub(crate) fn hex32(&mut self) -> String {
        format!("{:016x}{:016x}", self.next(), self.next())
    }

    /// 19 digits, as in deployment ids.
    pub(crate) fn digits(&mut self) -> String {
        format!("{:019}", self.next() % 10_000_000_000_000_000_000)
    }

    /// Lower-case letters and digits, as in Cloud Map ids.
    pub(crate) fn letters(&mut self, count: usize) -> String {
        const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let mut pick = || char::from(ALPHABET[(self.next() % 36) as usize]);
        (0..count).map(|_| pick()).collect()
    }
}
