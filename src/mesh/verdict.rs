//! The one verdict about each registration of a service.
//!
//! It is not about names, nor about what was before.
//!
//! Invariant: the table of `product.md`, section 6; an instance that several sources know is one endpoint.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Sighting;
use crate::model::{
    Endpoint, Health, InstanceId, Knobs, Member, Namespace, Phase, Place, Readiness, Reason, Registration,
    ServiceSpec, Share, State, StopCause, TaskState, Verdict, View,
};

/// Whose registration is judged: the view that tells of it, and the namespace that it serves.
#[derive(Clone, Copy)]
struct Stand<'a> {
    view: &'a View,
    namespace: &'a Namespace,
}

/// Where an instance is in its life, and when that began.
#[derive(Clone, Copy)]
struct Life {
    phase: Phase,
    began: Option<SystemTime>,
}

/// When the tasks of a service are ready, and what time it is.
#[derive(Clone, Copy)]
struct Gate {
    readiness: Readiness,
    max_wait: Option<Duration>,
    /// Whether whoever says nothing is held back for good.
    holds: bool,
    /// Whether whoever is told to stop drains.
    drains: bool,
    now: Option<SystemTime>,
}

impl Gate {
    fn of(spec: &ServiceSpec, now: Option<SystemTime>) -> Self {
        let Knobs { max_wait, holds_the_silent, drains, .. } = spec.knobs;
        let (holds, drains) = (holds_the_silent == Some(true), drains == Some(true));
        Self { readiness: spec.readiness, max_wait, holds, drains, now }
    }

    /// When it has been waited for long enough, although its check could take longer.
    fn ends(self, life: Life) -> Option<SystemTime> {
        life.began?.checked_add(self.max_wait?)
    }

    fn is_over(self, life: Life) -> bool {
        self.ends(life).zip(self.now).is_some_and(|(end, now)| end <= now)
    }
}

/// When the next verdict about a service is another although no source says anything: the first end of a wait.
pub(super) fn next_end<'a>(
    sightings: &[Sighting<'a>],
    spec: &'a ServiceSpec,
    tasks: &Tasks<'a>,
    now: Option<SystemTime>,
) -> Option<SystemTime> {
    let gate = Gate::of(spec, now);
    gate.max_wait.filter(|_| gate.readiness != Readiness::Running)?;
    let waits = |life: &Life| {
        let (Health::Unknown { gate_over } | Health::Unhealthy { gate_over }) = health(life.phase)? else {
            return None;
        };
        (!gate_over).then(|| gate.ends(*life))?.filter(|end| Some(*end) > now)
    };
    living(sightings, &spec.key.namespace, tasks).filter_map(|(.., life)| waits(&life?)).min()
}

fn health(phase: Phase) -> Option<Health> {
    match phase {
        Phase::Running(health) => Some(health),
        _ => None,
    }
}

/// Every ECS task of every watched cluster.
pub(super) struct Tasks<'a> {
    views: &'a [Arc<View>],
}

impl<'a> Tasks<'a> {
    pub(super) fn of(views: &'a [Arc<View>]) -> Self {
        Self { views }
    }

    /// The views that are about the same network. In other accounts and Regions an address may be somebody else's, unless
    /// they serve the same namespace, where each must be reached.
    fn near(&self, from: Stand<'a>) -> impl Iterator<Item = &'a View> {
        let is_near =
            move |view: &&View| view.home == from.view.home || view.namespaces.contains(from.namespace);
        self.views.iter().map(AsRef::as_ref).filter(is_near)
    }

    /// The tasks where `registration` is: where a place was reused the youngest, but as many as there are VPCs with the
    /// address, and nobody knows in which of them the instance is.
    fn at(&self, from: Stand<'a>, registration: &Registration) -> Vec<&'a TaskState> {
        let Some(address) = registration.address else { return Vec::new() };
        let all = self.near(from).flat_map(|view| view.tasks_at(address, registration.port));
        let all: Vec<(&Place, &TaskState)> = all.collect();
        let age = |task: &'a TaskState| (task.started_at, &task.instance);
        let is_over = |place: &Place, task| {
            all.iter().any(|(other, heir)| age(heir) > age(task) && !other.is_apart_from(place))
        };
        all.iter().filter(|(place, task)| !is_over(place, task)).map(|(_, task)| *task).collect()
    }

    /// The tasks that have a whole address.
    fn owners(&self, from: Stand<'a>, address: IpAddr) -> impl Iterator<Item = &'a TaskState> {
        self.near(from).flat_map(move |view| view.tasks_of(address)).map(|(_, owner)| owner)
    }

    /// Whether tasks have ports of an address, which is their machine's.
    fn is_shared(&self, from: Stand<'a>, address: Option<IpAddr>) -> bool {
        address
            .is_some_and(|address| self.near(from).any(|view| view.tasks_sharing(address).next().is_some()))
    }

    /// The place of `registration` if the whole address is its own. On one that is shared, other ports are other tasks'.
    fn own_address(&self, from: Stand<'a>, registration: &Registration) -> Option<Place> {
        let address = registration.address?;
        let mut owners = self.near(from).flat_map(|view| view.tasks_of(address));
        owners.find(|(_, owner)| owner.instance == registration.instance).map(|(place, _)| *place)
    }

    /// Where the ECS task behind a Cloud Map instance is in its life; `None` when there is no such task, or
    /// its address now belongs to another task, be it another service's or a standalone one. Where ECS knows of nobody
    /// there and of tasks of the service without an address, Cloud Map is believed.
    fn behind(&self, from: Stand<'a>, registration: &Registration, service: Option<&str>) -> Option<Life> {
        let same = |task: &&TaskState| service.is_none() || task.service.as_deref() == service;
        let there = self.at(from, registration);
        if there.is_empty() {
            let own = Life { phase: registration.phase, began: registration.started_at };
            return self.is_unplaced(from, &registration.member).then_some(own);
        }
        let of_it = there.into_iter().filter(same);
        let youngest = of_it.max_by_key(|task| (task.started_at, &task.instance));
        youngest.map(|task| Life { phase: task.phase, began: task.started_at })
    }

    /// Whether tasks of the service of `member`, in its cluster, are somewhere that ECS doesn't tell.
    fn is_unplaced(&self, from: Stand<'a>, member: &Member) -> bool {
        let Member::CloudMap { cluster: Some(cluster), service: Some(service) } = member else {
            return false;
        };
        self.near(from).any(|view| view.clusters.contains(cluster) && view.unplaced.contains(service))
    }

    /// Whether the cluster of `member` is watched. ECS registers tasks in their own Region: a cluster of the same name in
    /// another is another.
    fn watches(&self, from: Stand<'a>, member: &Member) -> bool {
        let Member::CloudMap { cluster: Some(cluster), .. } = member else { return false };
        let region =
            |view: &View| view.home.as_deref().and_then(|home| home.rsplit('/').next().map(str::to_owned));
        let here = region(from.view);
        self.near(from).any(|view| view.clusters.contains(cluster) && region(view) == here)
    }

    /// Whether the place of `registration` belongs to a younger task now; of an address that was its own, any port.
    fn reused(&self, from: Stand<'a>, registration: &Registration) -> bool {
        let (Some(address), Some(began)) = (registration.address, registration.started_at) else {
            return false;
        };
        let at = |view: &'a View| view.tasks_at(address, registration.port);
        let whole = self.own_address(from, registration);
        let mut own = self.near(from).flat_map(at).filter(|(_, task)| task.instance == registration.instance);
        let own = whole.or_else(|| own.next().map(|(place, _)| *place));
        let younger = |(place, task): (&Place, &TaskState)| {
            task.instance != registration.instance
                && task.started_at > Some(began)
                && own.is_none_or(|own| !own.is_apart_from(place))
        };
        self.near(from).any(|view| {
            at(view).any(younger) || (whole.is_some() && view.tasks_sharing(address).any(younger))
        })
    }
}

/// Every endpoint of a service, ordered by instance and port.
pub(super) fn endpoints<'a>(
    sightings: &[Sighting<'a>],
    spec: &'a ServiceSpec,
    tasks: &Tasks<'a>,
    now: Option<SystemTime>,
) -> Vec<Endpoint> {
    let gate = Gate::of(spec, now);
    let endpoint = |(registration, from, life): (&Registration, Stand<'a>, Option<Life>)| {
        let verdict = match life {
            Some(life) => verdict(registration, from, life, (spec, gate), tasks),
            None => absent(Reason::NoTask),
        };
        let is_kept_out = registration.traits.share != Share::Full && verdict.state != State::Absent;
        Endpoint {
            instance: registration.instance.clone(),
            address: registration.address,
            port: registration.port,
            zone: registration.zone.clone(),
            traits: registration.traits.clone(),
            verdict: if is_kept_out { absent(Reason::AwaitingShift) } else { verdict },
            apart: is_kept_out.then_some(verdict.state),
            is_alone: match registration.member {
                Member::Ecs => !tasks.is_shared(from, registration.address),
                Member::CloudMap { .. } => false,
                Member::File => true,
            },
        }
    };
    let mut endpoints: Vec<_> = living(sightings, &spec.key.namespace, tasks).map(endpoint).collect();
    endpoints.sort_by(|a, b| (&a.instance, a.port).cmp(&(&b.instance, b.port)));
    drain_few(&mut endpoints);
    keep_last_hope(&mut endpoints);
    endpoints
}

/// Each instance once, as whoever is trusted most knows it, and where it is in its life; `None` where there is no task to it.
fn living<'a>(
    sightings: &[Sighting<'a>],
    namespace: &'a Namespace,
    tasks: &Tasks<'a>,
) -> impl Iterator<Item = (&'a Registration, Stand<'a>, Option<Life>)> {
    let of = |(service, view): &Sighting<'a>| {
        let (stand, service) = (Stand { view, namespace }, *service);
        service.registrations.iter().map(move |registration| (registration, stand))
    };
    let mut registrations: Vec<(&Registration, Stand<'_>)> = sightings.iter().flat_map(of).collect();
    registrations
        .sort_by(|(a, _), (b, _)| (&a.member, &a.instance, a.port).cmp(&(&b.member, &b.instance, b.port)));
    retain_first_known(&mut registrations, tasks);
    let of_ecs = registrations.iter().filter(|(registration, _)| registration.member == Member::Ecs);
    let known: BTreeSet<&InstanceId> = of_ecs.map(|(registration, _)| &registration.instance).collect();
    let is_in_ecs = sightings.iter().any(|(_, view)| !view.clusters.is_empty());
    // Service Connect does not say whose an instance is: where a service is ECS's, another service's task is not it.
    let is_anothers = move |registration: &Registration, from: Stand<'a>| {
        let owners = if is_in_ecs { tasks.at(from, registration) } else { Vec::new() };
        matches!(registration.member, Member::CloudMap { cluster: None, .. })
            && !owners.is_empty()
            && owners.iter().all(|owner| !known.contains(&owner.instance))
    };
    registrations.into_iter().map(move |(registration, from)| {
        let own = Life { phase: registration.phase, began: registration.started_at };
        let life = match &registration.member {
            _ if is_anothers(registration, from) => None,
            // Cloud Map may be stale: its ECS instances live and die as ECS says.
            member @ Member::CloudMap { service, .. } if tasks.watches(from, member) => {
                tasks.behind(from, registration, service.as_deref())
            }
            _ => Some(own),
        };
        (registration, from, life)
    })
}

/// Each instance as it is when everything that is known has been looked at: what follows from these alone is what
/// [`endpoints`] says of the ones that may be served. What has no task, or whose place is another's, is left out.
pub(super) fn registrations<'a>(
    sightings: &[Sighting<'a>],
    namespace: &'a Namespace,
    tasks: &Tasks<'a>,
) -> Vec<Registration> {
    let living = living(sightings, namespace, tasks);
    let mut registrations: Vec<_> = living
        .filter(|(registration, from, _)| !tasks.reused(*from, registration))
        .filter_map(|(registration, _, life)| {
            let member = match &registration.member {
                Member::CloudMap { .. } => Member::CloudMap { cluster: None, service: None },
                member => member.clone(),
            };
            let Life { phase, began } = life?;
            Some(Registration { phase, started_at: began, member, ..registration.clone() })
        })
        .collect();
    registrations.sort_by(|a, b| (&a.instance, a.port).cmp(&(&b.instance, b.port)));
    registrations
}

/// Known to several is one endpoint, and the most trusted verdict wins, which comes first. ECS registers a task in Cloud
/// Map under the task's id, and a task with addresses of its own is itself on every port. One that has stopped is only
/// shown, and its place may be anybody's by now; but what is left of it in Cloud Map is still itself.
fn retain_first_known<'a>(registrations: &mut Vec<(&Registration, Stand<'a>)>, tasks: &Tasks<'a>) {
    let mut in_ecs: BTreeSet<&InstanceId> = BTreeSet::new();
    let mut ids: BTreeSet<&str> = BTreeSet::new();
    let mut places: BTreeSet<(IpAddr, Option<u16>)> = BTreeSet::new();
    registrations.retain(|(registration, from)| {
        if registration.member == Member::Ecs {
            // Of one that runs nobody knows where, Cloud Map may know it.
            let is_lost = registration.address.is_none() || registration.port.is_none();
            if !is_lost || !matches!(registration.phase, Phase::Running(_)) {
                ids.extend(registration.instance.as_str().rsplit('/').next());
            }
            if let Some(address) = registration.address
                && registration.phase != Phase::Stopped
            {
                if tasks.own_address(*from, registration).is_some() {
                    in_ecs.insert(&registration.instance);
                }
                places.insert((address, registration.port));
            }
            return true;
        }
        let is_known = matches!(registration.member, Member::CloudMap { .. })
            && ids.contains(registration.instance.as_str());
        let Some(address) = registration.address.filter(|_| !is_known) else { return !is_known };
        let is_task = tasks.watches(*from, &registration.member)
            && tasks.owners(*from, address).any(|owner| in_ecs.contains(&owner.instance));
        !is_task && places.insert((address, registration.port))
    });
}

/// The verdict about one registration: the table of `product.md`, section 6.
fn verdict<'a>(
    registration: &Registration,
    from: Stand<'a>,
    life: Life,
    (spec, gate): (&ServiceSpec, Gate),
    tasks: &Tasks<'a>,
) -> Verdict {
    match by_phase(life, &registration.member, gate) {
        out if out.state == State::Absent && !is_leaving(out) => out,
        _ if tasks.reused(from, registration) => absent(Reason::AddressReused),
        _ if registration.foreign_tls => absent(Reason::ForeignTls),
        _ if !spec.reach.hosts.is_empty() => healthy(Reason::Dns),
        _ if registration.address.is_none() => absent(Reason::NoAddress),
        _ if registration.port.is_none() => absent(Reason::NoPort),
        verdict if registration.held => Verdict { reason: Reason::WithdrawalHeld, ..verdict },
        verdict => verdict,
    }
}

fn by_phase(life: Life, member: &Member, gate: Gate) -> Verdict {
    let is_over = |gate_over| gate_over || gate.is_over(life);
    match life.phase {
        Phase::Starting => absent(Reason::Starting),
        Phase::Stopped => absent(Reason::Stopped),
        Phase::Stopping(StopCause::Crashed) => absent(Reason::Crashed),
        Phase::Stopping(StopCause::Planned) => leaving(Reason::Stopping, gate),
        Phase::Stopping(StopCause::Spot) => leaving(Reason::SpotInterruption, gate),
        Phase::Running(Health::NoCheck) => healthy(Reason::NoCheck),
        Phase::Running(_) if gate.readiness == Readiness::Running => healthy(Reason::Ready),
        Phase::Running(Health::Healthy) => healthy(Reason::Ready),
        Phase::Running(Health::Unknown { gate_over }) if is_over(gate_over) && !gate.holds => {
            healthy(Reason::GateExpired)
        }
        Phase::Running(Health::Unhealthy { gate_over }) if is_over(gate_over) => {
            let in_cloud_map = matches!(member, Member::CloudMap { .. });
            let reason = if in_cloud_map { Reason::CloudMapUnhealthy } else { Reason::ContainerUnhealthy };
            Verdict { state: State::Unhealthy, reason }
        }
        Phase::Running(Health::Unknown { .. } | Health::Unhealthy { .. }) => absent(Reason::AwaitingHealth),
    }
}

fn leaving(reason: Reason, gate: Gate) -> Verdict {
    Verdict { state: if gate.drains { State::Draining } else { State::Absent }, reason }
}

/// Where few are healthy Envoy panics, and sends to those that drain too: the more of them, the worse. So there are never
/// more than healthy ones (`product.md`, section 6).
fn drain_few(endpoints: &mut [Endpoint]) {
    let healthy = endpoints.iter().filter(|endpoint| endpoint.verdict.state == State::Healthy).count();
    let drains =
        |endpoint: &&mut Endpoint| endpoint.verdict.state == State::Draining && is_leaving(endpoint.verdict);
    for endpoint in endpoints.iter_mut().filter(drains).skip(healthy) {
        endpoint.verdict.state = State::Absent;
    }
}

/// Told to stop, and still up for a while.
fn is_leaving(verdict: Verdict) -> bool {
    matches!(verdict.reason, Reason::Stopping | Reason::SpotInterruption)
}

fn healthy(reason: Reason) -> Verdict {
    Verdict { state: State::Healthy, reason }
}

fn absent(reason: Reason) -> Verdict {
    Verdict { state: State::Absent, reason }
}

/// One whose share is not known yet beats no endpoint at all, and so does, after it, a task that is stopping as planned
/// and still up.
fn keep_last_hope(endpoints: &mut [Endpoint]) {
    let is_served =
        |endpoints: &[Endpoint]| endpoints.iter().any(|endpoint| endpoint.verdict.state == State::Healthy);
    if is_served(endpoints) {
        return;
    }
    for endpoint in endpoints.iter_mut().filter(|endpoint| endpoint.traits.share == Share::Unknown) {
        if let Some(state) = endpoint.apart.take() {
            endpoint.verdict = Verdict { state, reason: Reason::LastHope };
        }
    }
    if is_served(endpoints) {
        return;
    }
    for endpoint in endpoints.iter_mut() {
        if is_leaving(endpoint.verdict) {
            endpoint.verdict = Verdict { state: State::Draining, reason: Reason::LastHope };
        }
    }
}
