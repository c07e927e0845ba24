//! The one loop that turns the crank: wait, join, translate, publish.
//!
//! It decides nothing: who serves is the mesh's business, how it is said is the translator's.
//!
//! Invariant: nothing is published before every source has spoken once, and nothing after shutdown began.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use futures_util::future::select_all;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::changes::{Ledger, Withdrawal};
use crate::mesh;
use crate::model::{Endpoint, Mesh, MeshNamespace, Namespace, Reason, State, View};
use crate::snapshot::Snapshot;
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
    /// Where snapshots go.
    pub writer: Writer,
    /// Where the mesh goes, for people.
    pub mesh: watch::Sender<Arc<Mesh>>,
    /// Where withdrawals are entered.
    pub ledger: Ledger,
    /// Where durations are counted.
    pub metrics: Metrics,
}

impl Pipeline {
    /// Turns until `shutdown`. Ends early only if a source ended, which is fatal.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut translators: BTreeMap<Namespace, Translator> = BTreeMap::new();
        let mut joined: Vec<Arc<View>> = Vec::new();
        loop {
            let readings: Vec<_> = self.cells.iter().map(Cell::reading).collect();
            if let Some(views) = every_view(&readings)
                && !same(&joined, &views)
            {
                let seen_at = seen_at(&readings, &joined);
                self.turn(&views, seen_at, &mut translators);
                joined = views;
            }
            let changes = select_all(self.cells.iter_mut().map(|cell| Box::pin(cell.changed())));
            let alive = tokio::select! {
                () = shutdown.cancelled() => return,
                (alive, _, _) = changes => alive,
            };
            if !alive {
                return; // to go on without a source would shrink the mesh
            }
        }
    }

    fn turn(
        &self,
        views: &[Arc<View>],
        seen_at: SystemTime,
        translators: &mut BTreeMap<Namespace, Translator>,
    ) {
        let started = Instant::now();
        let before = Arc::clone(&self.mesh.borrow());
        let mesh = Arc::new(mesh::join(&self.namespaces, views, &before));
        for (name, namespace) in &mesh.namespaces {
            let latest = self.writer.latest(name);
            let known = before.namespaces.get(name);
            let unchanged = known.is_some_and(|old| Arc::ptr_eq(old, namespace));
            if unchanged && latest.is_some() && before.occupied == mesh.occupied {
                continue;
            }
            let tables = translators.entry(name.clone()).or_default().translate(namespace);
            let occupied = mesh.occupied.clone();
            let snapshot = match latest {
                Some(latest) => latest.next(tables, occupied, seen_at),
                None => Some(Snapshot::first(name.clone(), tables, occupied, seen_at)),
            };
            let Some(snapshot) = snapshot else { continue };
            if let Some(known) = known {
                self.enter_withdrawals(known, namespace, &snapshot);
            }
            debug!(namespace = %name, generation = snapshot.generation, "published");
            self.writer.publish(snapshot);
        }
        self.mesh.send_replace(mesh);
        self.metrics.build.observe(started.elapsed().as_secs_f64());
    }

    fn enter_withdrawals(&self, before: &MeshNamespace, after: &MeshNamespace, snapshot: &Snapshot) {
        let published_at = SystemTime::now();
        for (name, service) in &before.services {
            let now = after.services.get(name);
            if now.is_some_and(|now| Arc::ptr_eq(&now.endpoints, &service.endpoints)) {
                continue;
            }
            let endpoints = now.map_or(&[][..], |service| &service.endpoints);
            for (endpoint, reason) in withdrawn(&service.endpoints, endpoints) {
                let key = &service.spec.key;
                info!(service = %key, task = %endpoint.instance, reason = reason.as_str(), "endpoint withdrawn");
                self.ledger.open(Withdrawal {
                    service: key.clone(),
                    instance: endpoint.instance.clone(),
                    address: endpoint.address,
                    port: endpoint.port,
                    reason,
                    assignment: cluster::name(key),
                    generation: snapshot.generation,
                    seen_at: snapshot.seen_at,
                    published_at,
                });
            }
        }
    }
}

/// Every source's view, once each has spoken.
fn every_view(readings: &[Reading]) -> Option<Vec<Arc<View>>> {
    readings.iter().map(|reading| reading.view.clone()).collect()
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
