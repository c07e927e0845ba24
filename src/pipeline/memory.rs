//! What is remembered of a namespace, or of a scope, from turn to turn, and what one turn makes of it.
//!
//! It publishes nothing. Invariant: an endpoint leaves what is served when the snapshot in hand is published, and only
//! if it has left the mesh's rotation: what clients may no longer see has not stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use imbl::ordmap::DiffItem;

use crate::grace::Grace;
use crate::model::{
    Endpoint, Mesh, MeshNamespace, Namespace, Reason, Scope, Service, ServiceKey, Services, State,
};
use crate::snapshot::{ResourceType, Snapshot, Tables};
use crate::translate::{Translator, cluster};

/// What is remembered from turn to turn.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) translator: Translator,
    pub(super) grace: Grace,
    /// Services that left and whose load assignments are still published.
    left: BTreeMap<ServiceKey, Held>,
    /// What was translated last.
    pub(super) shown: Option<Arc<MeshNamespace>>,
    /// Since when no client is in the scope.
    pub(super) idle_since: Option<Instant>,
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
pub(super) struct Leaving {
    pub(super) service: ServiceKey,
    pub(super) endpoint: Endpoint,
    pub(super) reason: Reason,
    pub(super) seen_at: SystemTime,
}

/// One turn of the crank.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn<'a> {
    pub(super) mesh: &'a Mesh,
    /// Whether some task's ports are others than in the turn before.
    pub(super) is_occupied_anew: bool,
    pub(super) seen_at: SystemTime,
    pub(super) started: Instant,
}

/// What is to be published, and which endpoints are not in it any more.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) snapshot: Snapshot,
    pub(super) leaving: Vec<Leaving>,
}

/// Who has translated a namespace already.
pub(super) type Lenders<'a, 'b> = &'b dyn Fn(&Namespace) -> Option<&'a Translator>;

impl Memory {
    /// Nothing yet. A cluster stays for `grace` when nothing refers to it any more.
    pub(super) fn new(grace: Duration) -> Self {
        Self {
            translator: Translator::default(),
            grace: Grace::new(grace),
            left: BTreeMap::new(),
            shown: None,
            idle_since: None,
        }
    }

    /// What follows from `shown`, all that clients of `scope` see now; `None` if they were served all of that.
    pub(super) fn turn(
        &mut self,
        turn: Turn<'_>,
        scope: &Arc<Scope>,
        shown: &Arc<MeshNamespace>,
        latest: Option<Arc<Snapshot>>,
        lenders: Lenders<'_, '_>,
    ) -> Option<Publication> {
        let Turn { mesh, is_occupied_anew, seen_at, started } = turn;
        let known = self.shown.replace(Arc::clone(shown));
        let unchanged = known.as_ref().is_some_and(|old| Arc::ptr_eq(old, shown));
        let due = self.grace.next_deadline().is_some_and(|at| at <= started);
        if unchanged && latest.is_some() && !is_occupied_anew && !due {
            return None;
        }
        let mut tables = self.translator.translate_with(shown, lenders);
        if let Some(latest) = &latest {
            tables = self.grace.stage(tables, latest.tables(), started);
        }
        let leaving = self.leaving(known.as_deref(), shown, &tables, turn);
        let occupied = mesh.occupied.clone();
        let snapshot = match latest {
            Some(latest) => latest.next(tables, occupied, seen_at)?,
            None => Snapshot::first(shown.name.clone(), tables, occupied, seen_at).in_scope(scope),
        };
        Some(Publication { snapshot, leaving })
    }

    /// The endpoints that leave rotation when `tables` are published. Those of a service that left the mesh stay
    /// in its load assignment for the grace, and whoever is sent that meanwhile has not been told: they leave
    /// when it goes, and not at all if the service is back before.
    fn leaving(
        &mut self,
        before: Option<&MeshNamespace>,
        after: &MeshNamespace,
        tables: &Tables,
        turn: Turn<'_>,
    ) -> Vec<Leaving> {
        let changed = before.into_iter().flat_map(|before| changed(before, after));
        let changed = changed.map(|service| {
            (service.spec.key.clone(), Held { service: service.clone(), seen_at: turn.seen_at })
        });
        let held: Vec<_> = std::mem::take(&mut self.left).into_iter().chain(changed).collect();
        let mut leaving = Vec::new();
        for (key, held) in held {
            let in_mesh = turn.mesh.namespaces.get(&key.namespace);
            let (now, seen_at) = match in_mesh.and_then(|namespace| namespace.services.get(&key.name)) {
                Some(now) => (&*now.endpoints, turn.seen_at),
                None if tables[ResourceType::Endpoint].contains_key(&cluster::name(&key)) => {
                    self.left.insert(key, held);
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

/// The services that are others in `after`, or not there, as they were.
fn changed<'a>(before: &'a MeshNamespace, after: &MeshNamespace) -> Vec<&'a Service> {
    let names: BTreeSet<_> = std::iter::once(&before.name).chain(before.imported.services.keys()).collect();
    let (mut changed, empty) = (Vec::new(), Services::new());
    for name in names {
        let Some(old) = before.of(name) else { continue };
        for change in old.diff(after.of(name).unwrap_or(&empty)) {
            match change {
                DiffItem::Remove(name, _) | DiffItem::Update { old: (name, _), .. } => {
                    changed.extend(old.get(name));
                }
                DiffItem::Add(..) => {}
            }
        }
    }
    changed
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
        match place.ok().and_then(|place| after.get(place)).map(|after| after.verdict) {
            Some(verdict) => (verdict.state != State::Healthy).then_some((endpoint, verdict.reason)),
            None => Some((endpoint, Reason::Stopped)),
        }
    })
}
