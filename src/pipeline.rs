//! The one loop that turns the crank: wait, join, translate, publish.
//!
//! It decides nothing: who serves is the mesh's business, how it is said is the translator's.
//!
//! Invariant: nothing is published before every source has spoken once, and nothing after shutdown began.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::select_all;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::changes::{Ledger, Withdrawal};
use crate::mesh::Joiner;
use crate::mesh::scope::scoped;
use crate::model::{InstanceId, Mesh, Namespace, Scope, ServiceKey, View};
use crate::policy::Policy;
use crate::policy::watch::Loaded;
use crate::source::aws::Clock;
use crate::source::{Cell, Reading};
use crate::store::Writer;
use crate::telemetry::Metrics;
use crate::translate::cluster;

mod memory;

use self::memory::{Leaving, Memory, Publication, Turn};

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

/// How long a scope is served when no client is in it any more.
const SCOPE_IDLE: Duration = Duration::from_secs(60);

/// What is remembered from turn to turn.
#[derive(Debug, Default)]
struct Memories {
    namespaces: BTreeMap<Namespace, Memory>,
    scopes: BTreeMap<Arc<Scope>, Memory>,
}

impl Memories {
    /// When a cluster may leave although no source speaks.
    fn next_deadline(&self) -> Option<Instant> {
        let all = self.namespaces.values().chain(self.scopes.values());
        all.filter_map(|memory| memory.grace.next_deadline()).min()
    }
}

impl Pipeline {
    /// Turns until `shutdown`. Ends early only if a source ended, which is fatal.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut memories = Memories::default();
        let mut joiner = Joiner::new(&self.namespaces);
        let mut joined: Vec<Arc<View>> = Vec::new();
        let mut treated: Option<Arc<Policy>> = None;
        let mut is_scope_asked = false;
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
                    || memories.next_deadline().is_some_and(|at| at <= now)
                    || std::mem::take(&mut is_scope_asked)
                    || joiner.next_due().is_some_and(|at| at <= self.clock.now())
                {
                    let seen_at = if is_treated_anew { since } else { seen_at(&readings, &joined) };
                    self.turn(joiner.join(&views, &policy), seen_at, now, &mut memories);
                    (joined, treated) = (views, Some(policy));
                }
                let began = readings.iter().map(|reading| reading.began).min().flatten();
                began.into_iter().for_each(|began| self.writer.confirm(began));
            }
            let deadline = memories.next_deadline().into_iter().chain(self.next_due(&joiner)).min();
            let changes = select_all(self.cells.iter_mut().map(|cell| Box::pin(cell.changed())));
            let alive = tokio::select! {
                () = shutdown.cancelled() => return,
                (alive, _, _) = changes => alive,
                Ok(()) = self.policy.changed() => true,
                () = self.writer.scope_asked() => {
                    is_scope_asked = true;
                    true
                }
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

    fn turn(&self, mesh: Mesh, seen_at: SystemTime, started: Instant, memories: &mut Memories) {
        let (before, mesh) = (Arc::clone(&self.mesh.borrow()), Arc::new(mesh));
        let is_occupied_anew = before.occupied != mesh.occupied;
        let turn = Turn { mesh: &mesh, is_occupied_anew, seen_at, started };
        let mut publications = Vec::new();
        for (name, namespace) in &mesh.namespaces {
            let memory = memories.namespaces.entry(name.clone());
            let memory = memory.or_insert_with(|| Memory::new(self.cluster_grace));
            let (scope, latest) = (Arc::new(Scope::whole(name.clone())), self.writer.latest(name));
            publications.extend(memory.turn(turn, &scope, namespace, latest, &|_| None));
        }
        self.turn_scopes(turn, &before, memories, &mut publications);
        self.enter_withdrawals(&mut publications);
        for Publication { snapshot, .. } in publications {
            debug!(scope = %snapshot.scope, generation = snapshot.generation, "published");
            self.writer.publish(snapshot);
        }
        self.writer.rule(&mesh.scoping);
        self.mesh.send_replace(mesh);
        self.metrics.build.observe(started.elapsed().as_secs_f64());
    }

    /// The same for the scopes that clients are in; whole namespaces are translated already.
    fn turn_scopes(&self, turn: Turn<'_>, before: &Mesh, memories: &mut Memories, to: &mut Vec<Publication>) {
        let Memories { namespaces, scopes } = memories;
        let translators = |name: &Namespace| namespaces.get(name).map(|memory| &memory.translator);
        let known = self.writer.scopes();
        scopes.retain(|scope, _| known.contains(scope));
        for scope in known {
            let memory = scopes.entry(Arc::clone(&scope));
            let memory = memory.or_insert_with(|| Memory::new(self.cluster_grace));
            if self.writer.is_wanted(&scope) {
                memory.idle_since = None;
            } else {
                let since = *memory.idle_since.get_or_insert(turn.started);
                if turn.started.duration_since(since) >= SCOPE_IDLE && self.writer.forget(&scope) {
                    scopes.remove(&scope);
                    continue;
                }
            }
            let shown = match &memory.shown {
                Some(shown) if is_same(&scope, before, turn.mesh) => Arc::clone(shown),
                known => scoped(turn.mesh, &scope, known.as_ref()),
            };
            let latest = self.writer.latest_in(&scope);
            to.extend(memory.turn(turn, &scope, &shown, latest, &translators));
        }
    }

    /// One entry for each endpoint, whoever is served it.
    fn enter_withdrawals(&self, publications: &mut [Publication]) {
        let published_at = SystemTime::now();
        let mut withdrawals: Vec<Withdrawal> = Vec::new();
        let mut places: BTreeMap<(ServiceKey, InstanceId, Option<u16>), usize> = BTreeMap::new();
        for Publication { snapshot, leaving } in publications {
            let audience = (Arc::clone(&snapshot.scope), snapshot.generation);
            for Leaving { service, endpoint, reason, seen_at } in leaving.drain(..) {
                let place = (service.clone(), endpoint.instance.clone(), endpoint.port);
                let known = places.get(&place).and_then(|at| withdrawals.get_mut(*at));
                if let Some(known) = known {
                    known.audience.push(audience.clone());
                    continue;
                }
                places.insert(place, withdrawals.len());
                withdrawals.push(Withdrawal {
                    assignment: cluster::name(&service),
                    service,
                    instance: endpoint.instance,
                    address: endpoint.address,
                    port: endpoint.port,
                    reason,
                    generation: snapshot.generation,
                    audience: vec![audience.clone()],
                    seen_at,
                    published_at,
                });
            }
        }
        for withdrawal in withdrawals {
            let Withdrawal { service, instance, reason, .. } = &withdrawal;
            info!(%service, task = %instance, reason = reason.as_str(), "endpoint withdrawn");
            self.ledger.open(withdrawal);
        }
    }
}

/// Whether nothing that a scope has can be another.
fn is_same(scope: &Scope, before: &Mesh, after: &Mesh) -> bool {
    let is_same = |name| match (before.namespaces.get(name), after.namespaces.get(name)) {
        (Some(before), Some(after)) => Arc::ptr_eq(before, after),
        (before, after) => before.is_none() && after.is_none(),
    };
    Arc::ptr_eq(&before.scoping, &after.scoping) && scope.namespaces().all(is_same)
}

/// Every source's view, once each has spoken.
fn every_view(readings: &[Reading]) -> Option<Vec<Arc<View>>> {
    readings.iter().map(|reading| reading.view.clone()).collect()
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

#[cfg(test)]
mod tests;
