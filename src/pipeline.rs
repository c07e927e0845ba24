//! The one loop that turns the crank: wait, join, translate, publish.
//!
//! It decides nothing: who serves is the mesh's business, how it is said is the translator's.
//!
//! Invariant: nothing is published before every source has spoken once, and nothing after shutdown began.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::select_all;
use imbl::ordmap::DiffItem;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::changes::{Ledger, Withdrawal};
use crate::grace::Grace;
use crate::mesh::Joiner;
use crate::model::{
    Endpoint, Mesh, MeshNamespace, Namespace, Reason, Service, ServiceKey, ServiceName, State, View,
};
use crate::policy::Policy;
use crate::policy::watch::Loaded;
use crate::snapshot::{ResourceType, Snapshot, Tables};
use crate::source::aws::Clock;
use crate::source::{Cell, Reading};
use crate::store::Writer;
use crate::telemetry::Metrics;
use crate::translate::{Translator, cluster};

/// What the crank is connected to.
#[derive(Debug)]
pub struct Pipeline {
    /// Every configured namespace; each exists from the first publication on, even empty.
    pub namespaces: BTreeSet<Namespace>,
    /// The sources, the most trusted first.
    pub cells: Vec<Cell>,
    /// How clients treat services.
    pub policy: watch::Receiver<Loaded>,
    /// AWS's clock, by which waits end.
    pub clock: Arc<Clock>,
    /// Where snapshots go.
    pub writer: Writer,
    /// Where the mesh goes, for people.
    pub mesh: watch::Sender<Arc<Mesh>>,
    /// Where withdrawals are entered.
    pub ledger: Ledger,
    /// Where durations are counted.
    pub metrics: Metrics,
    /// How long a cluster stays when nothing refers to it any more.
    pub cluster_grace: Duration,
}

/// What is remembered of a namespace from turn to turn.
#[derive(Debug)]
struct Memory {
    translator: Translator,
    grace: Grace,
    /// Services that left the mesh and whose load assignments are still published.
    left: BTreeMap<ServiceName, Held>,
}

/// A service whose endpoints are in a published load assignment.
#[derive(Debug)]
struct Held {
    service: Service,
    /// When it was seen that it is no longer as it was.
    seen_at: SystemTime,
}

/// An endpoint about to leave a load assignment.
#[derive(Debug)]
struct Leaving {
    service: ServiceKey,
    endpoint: Endpoint,
    reason: Reason,
    seen_at: SystemTime,
}

impl Pipeline {
    /// Turns until `shutdown`. Ends early only if a source ended, which is fatal.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut memories: BTreeMap<Namespace, Memory> = BTreeMap::new();
        let mut joiner = Joiner::new(&self.namespaces);
        let mut joined: Vec<Arc<View>> = Vec::new();
        let mut treated: Option<Arc<Policy>> = None;
        loop {
            let readings: Vec<_> = self.cells.iter().map(Cell::reading).collect();
            let Loaded { policy, externals, since, .. } = self.policy.borrow_and_update().clone();
            if let Some(views) = every_view(&readings) {
                let views: Vec<_> = views.into_iter().chain([externals]).collect();
                let now = Instant::now();
                joiner.tell_time(self.clock.now());
                let is_treated_anew = treated.as_ref().is_some_and(|before| !Arc::ptr_eq(before, &policy));
                if is_treated_anew
                    || !same(&joined, &views)
                    || next_deadline(&memories).is_some_and(|at| at <= now)
                    || joiner.next_due().is_some_and(|at| at <= self.clock.now())
                {
                    let seen_at = if is_treated_anew { since } else { seen_at(&readings, &joined) };
                    self.turn(joiner.join(&views, &policy), seen_at, now, &mut memories);
                    (joined, treated) = (views, Some(policy));
                }
                let began = readings.iter().map(|reading| reading.began).min().flatten();
                began.into_iter().for_each(|began| self.writer.confirm(began));
            }
            let deadline = next_deadline(&memories).into_iter().chain(self.next_due(&joiner)).min();
            let changes = select_all(self.cells.iter_mut().map(|cell| Box::pin(cell.changed())));
            let alive = tokio::select! {
                () = shutdown.cancelled() => return,
                (alive, _, _) = changes => alive,
                Ok(()) = self.policy.changed() => true,
                () = sleep_until(deadline) => true,
            };
            if !alive {
                return; // to go on without a source would shrink the mesh
            }
        }
    }

    /// When the joiner has something new to say although no source has.
    fn next_due(&self, joiner: &Joiner) -> Option<Instant> {
        let due = joiner.next_due()?.duration_since(self.clock.now()).unwrap_or_default();
        Instant::now().checked_add(due)
    }

    fn turn(
        &self,
        mesh: Mesh,
        seen_at: SystemTime,
        started: Instant,
        memories: &mut BTreeMap<Namespace, Memory>,
    ) {
        let before = Arc::clone(&self.mesh.borrow());
        let mesh = Arc::new(mesh);
        for (name, namespace) in &mesh.namespaces {
            let latest = self.writer.latest(name);
            let known = before.namespaces.get(name);
            let unchanged = known.is_some_and(|old| Arc::ptr_eq(old, namespace));
            let memory = memories.entry(name.clone()).or_insert_with(|| Memory {
                translator: Translator::default(),
                grace: Grace::new(self.cluster_grace),
                left: BTreeMap::new(),
            });
            let due = memory.grace.next_deadline().is_some_and(|at| at <= started);
            if unchanged && latest.is_some() && before.occupied == mesh.occupied && !due {
                continue;
            }
            let mut tables = memory.translator.translate(namespace);
            if let Some(latest) = &latest {
                tables = memory.grace.stage(tables, latest.tables(), started);
            }
            let leaving = memory.leaving(known, namespace, &tables, seen_at);
            let occupied = mesh.occupied.clone();
            let snapshot = match latest {
                Some(latest) => latest.next(tables, occupied, seen_at),
                None => Some(Snapshot::first(name.clone(), tables, occupied, seen_at)),
            };
            let Some(snapshot) = snapshot else { continue };
            self.enter_withdrawals(leaving, snapshot.generation);
            debug!(namespace = %name, generation = snapshot.generation, "published");
            self.writer.publish(snapshot);
        }
        self.mesh.send_replace(mesh);
        self.metrics.build.observe(started.elapsed().as_secs_f64());
    }

    fn enter_withdrawals(&self, leaving: Vec<Leaving>, generation: u64) {
        let published_at = SystemTime::now();
        for Leaving { service, endpoint, reason, seen_at } in leaving {
            info!(%service, task = %endpoint.instance, reason = reason.as_str(), "endpoint withdrawn");
            self.ledger.open(Withdrawal {
                assignment: cluster::name(&service),
                service,
                instance: endpoint.instance,
                address: endpoint.address,
                port: endpoint.port,
                reason,
                generation,
                seen_at,
                published_at,
            });
        }
    }
}

impl Memory {
    /// The endpoints that leave rotation when `tables` are published. Those of a service that left the mesh stay
    /// in its load assignment for the grace, and whoever is sent that meanwhile has not been told: they leave
    /// when it goes, and not at all if the service is back before.
    fn leaving(
        &mut self,
        before: Option<&Arc<MeshNamespace>>,
        after: &MeshNamespace,
        tables: &Tables,
        seen_at: SystemTime,
    ) -> Vec<Leaving> {
        let changes = before.into_iter().flat_map(|before| before.services.diff(&after.services));
        let changed = changes.filter_map(|change| match change {
            DiffItem::Remove(name, old) | DiffItem::Update { old: (name, old), .. } => {
                Some((name.clone(), Held { service: old.clone(), seen_at }))
            }
            DiffItem::Add(..) => None,
        });
        let held: Vec<_> = std::mem::take(&mut self.left).into_iter().chain(changed).collect();
        let mut leaving = Vec::new();
        for (name, held) in held {
            let key = &held.service.spec.key;
            let (now, seen_at) = match after.services.get(&name) {
                Some(now) => (&*now.endpoints, seen_at),
                None if tables[ResourceType::Endpoint].contains_key(&cluster::name(key)) => {
                    self.left.insert(name, held);
                    continue;
                }
                None => (&[][..], held.seen_at),
            };
            leaving.extend(withdrawn(&held.service.endpoints, now).map(|(endpoint, reason)| Leaving {
                service: key.clone(),
                endpoint: endpoint.clone(),
                reason,
                seen_at,
            }));
        }
        leaving
    }
}

/// Every source's view, once each has spoken.
fn every_view(readings: &[Reading]) -> Option<Vec<Arc<View>>> {
    readings.iter().map(|reading| reading.view.clone()).collect()
}

/// When a cluster may leave although no source speaks.
fn next_deadline(memories: &BTreeMap<Namespace, Memory>) -> Option<Instant> {
    memories.values().filter_map(|memory| memory.grace.next_deadline()).min()
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

fn same(old: &[Arc<View>], new: &[Arc<View>]) -> bool {
    old.len() == new.len() && old.iter().zip(new).all(|(old, new)| Arc::ptr_eq(old, new))
}

/// When the oldest answer arrived that is new to the mesh.
fn seen_at(readings: &[Reading], joined: &[Arc<View>]) -> SystemTime {
    let fresh = readings.iter().enumerate().filter(|(index, reading)| {
        let old = joined.get(*index);
        !reading.view.as_ref().zip(old).is_some_and(|(new, old)| Arc::ptr_eq(new, old))
    });
    fresh.filter_map(|(_, reading)| reading.changed_at).min().unwrap_or_else(SystemTime::now)
}

/// The endpoints that were in rotation before and are not after, with the reason.
fn withdrawn<'a>(
    before: &'a [Endpoint],
    after: &'a [Endpoint],
) -> impl Iterator<Item = (&'a Endpoint, Reason)> {
    let in_rotation = before.iter().filter(|endpoint| endpoint.verdict.state == State::Healthy);
    in_rotation.filter_map(|endpoint| {
        let place = after.binary_search_by(|other| {
            (&other.instance, other.port).cmp(&(&endpoint.instance, endpoint.port))
        });
        match place.ok().map(|place| after[place].verdict) {
            Some(verdict) => (verdict.state != State::Healthy).then_some((endpoint, verdict.reason)),
            None => Some((endpoint, Reason::Stopped)),
        }
    })
}

#[cfg(test)]
mod tests;
