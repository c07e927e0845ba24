//! Who is in rotation, and why not if not: every source's view joined into one [`Mesh`].
//!
//! It is not I/O and has no clock: the same views give the same mesh in any process.
//!
//! Invariant: every registration gets exactly one verdict with one reason; a known service stays, even empty.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use crate::model::{
    Alias, Endpoint, Finding, Health, Member, Mesh, MeshNamespace, Namespace, Phase, Readiness, Reason,
    Registration, Service, ServiceKey, ServiceSpec, ServiceView, State, StopCause, TaskState, Verdict, View,
};
use crate::vip;

/// Joins what the sources see. `views` come in order of trust: ECS, then Cloud Map, then files. `previous`
/// only lends its `Arc`s, so that what did not change is recognised by its pointer.
pub fn join(namespaces: &BTreeSet<Namespace>, views: &[Arc<View>], previous: &Mesh) -> Mesh {
    let mut findings: Vec<_> = views.iter().flat_map(|view| view.findings.iter().cloned()).collect();
    let tasks = Tasks::of(views);
    let mut services: BTreeMap<&Namespace, Vec<Joined>> = BTreeMap::new();
    for (key, sightings) in sightings(views) {
        let sightings = one_owner(key, sightings, &mut findings);
        let Some(spec) = described(&sightings) else { continue };
        let endpoints = endpoints(&sightings, &spec, &tasks);
        services.entry(&key.namespace).or_default().push((spec, endpoints));
    }
    let joined = namespaces.iter().map(|namespace| {
        let before = previous.namespaces.get(namespace);
        let services = services.remove(namespace).unwrap_or_default();
        (namespace.clone(), join_namespace(namespace, services, before, &mut findings))
    });
    let namespaces = joined.collect();
    let occupied =
        views.iter().filter(|view| !view.occupied.is_empty()).map(|view| Arc::clone(&view.occupied));
    let occupied = occupied.collect();
    findings.sort();
    findings.dedup();
    Mesh { namespaces, occupied, findings }
}

/// A service on its way into its namespace.
type Joined = (Arc<ServiceSpec>, Vec<Endpoint>);

/// One service as one source sees it, and whether that source is ECS.
type Sighting<'a> = (&'a ServiceView, bool);

fn sightings(views: &[Arc<View>]) -> BTreeMap<&ServiceKey, Vec<Sighting<'_>>> {
    let mut sightings: BTreeMap<&ServiceKey, Vec<Sighting<'_>>> = BTreeMap::new();
    for view in views {
        let is_ecs = !view.clusters.is_empty();
        for (key, service) in &view.services {
            sightings.entry(key).or_default().push((service, is_ecs));
        }
    }
    sightings
}

/// Of several ECS services with one name, the oldest keeps it (`NAME002`). Other sources only add members.
fn one_owner<'a>(
    key: &ServiceKey,
    sightings: Vec<Sighting<'a>>,
    findings: &mut Vec<Finding>,
) -> Vec<Sighting<'a>> {
    let in_ecs = || sightings.iter().filter(|(_, is_ecs)| *is_ecs).map(|(service, _)| *service);
    let age = |service: &&ServiceView| {
        let spec = &service.spec;
        (!service.active, spec.created_at.is_none(), spec.created_at, Arc::clone(&spec.origin))
    };
    let Some(owner) = in_ecs().min_by_key(age).map(|service| Arc::clone(&service.spec)) else {
        return sightings;
    };
    for spec in
        in_ecs().filter(|other| other.active && !Arc::ptr_eq(&other.spec, &owner)).map(|other| &other.spec)
    {
        findings.push(Finding {
            code: "NAME002",
            object: spec.origin.to_string(),
            message: format!(
                "the name {key} belongs to {}, which is older; rename one with the tag legation:discovery-name/<portName>",
                owner.origin
            ),
        });
    }
    sightings.into_iter().filter(|(service, is_ecs)| !is_ecs || Arc::ptr_eq(&service.spec, &owner)).collect()
}

/// The description in force: the most trusted one, with the first aliases that anyone gives.
fn described(sightings: &[Sighting<'_>]) -> Option<Arc<ServiceSpec>> {
    let (first, _) = sightings.first()?;
    if !first.spec.aliases.is_empty() {
        return Some(Arc::clone(&first.spec));
    }
    let aliases =
        sightings.iter().map(|(service, _)| &service.spec.aliases).find(|aliases| !aliases.is_empty());
    Some(match aliases {
        Some(aliases) => Arc::new(ServiceSpec { aliases: aliases.clone(), ..(*first.spec).clone() }),
        None => Arc::clone(&first.spec),
    })
}

/// Every ECS task of every watched cluster, by address: the youngest where an address was reused.
struct Tasks<'a> {
    clusters: BTreeSet<&'a str>,
    /// Services with tasks whose address ECS doesn't tell.
    unplaced: BTreeSet<&'a str>,
    by_address: HashMap<IpAddr, &'a TaskState>,
}

impl<'a> Tasks<'a> {
    fn of(views: &'a [Arc<View>]) -> Self {
        let clusters = views.iter().flat_map(|view| view.clusters.iter().map(AsRef::as_ref)).collect();
        let mut by_address: HashMap<IpAddr, &TaskState> = HashMap::new();
        for (address, task) in views.iter().flat_map(|view| view.tasks.iter()) {
            let youngest = by_address.entry(*address).or_insert(task);
            if (task.started_at, &task.instance) > (youngest.started_at, &youngest.instance) {
                *youngest = task;
            }
        }
        let unplaced = views.iter().flat_map(|view| view.unplaced.iter().map(AsRef::as_ref)).collect();
        Self { clusters, unplaced, by_address }
    }

    /// Where the ECS task behind a Cloud Map instance is in its life; `None` when there is no such task, or
    /// its address now belongs to another service's task. Where ECS tells no addresses Cloud Map is believed.
    fn behind(&self, registration: &Registration, service: Option<&str>) -> Option<Phase> {
        let task = registration.address.and_then(|address| self.by_address.get(&address));
        let same = |task: &&&TaskState| {
            service.is_none() || task.service.is_none() || task.service.as_deref() == service
        };
        match task.filter(same) {
            Some(task) => Some(task.phase),
            None if service.is_some_and(|service| self.unplaced.contains(service)) => {
                Some(registration.phase)
            }
            None => None,
        }
    }

    fn watches(&self, member: &Member) -> bool {
        matches!(member, Member::CloudMap { cluster: Some(cluster), .. } if self.clusters.contains(cluster.as_ref()))
    }

    /// Whether an address that `registration` had belongs to a younger task now.
    fn reused(&self, registration: &Registration) -> bool {
        let owner = registration.address.and_then(|address| self.by_address.get(&address));
        owner.is_some_and(|owner| {
            let younger = registration.started_at.is_some() && owner.started_at > registration.started_at;
            owner.instance != registration.instance && younger
        })
    }
}

fn endpoints(sightings: &[Sighting<'_>], spec: &ServiceSpec, tasks: &Tasks<'_>) -> Vec<Endpoint> {
    let mut registrations: Vec<_> =
        sightings.iter().flat_map(|(service, _)| &service.registrations).collect();
    registrations.sort_by(|a, b| (&a.member, &a.instance, a.port).cmp(&(&b.member, &b.instance, b.port)));
    let mut in_ecs: BTreeSet<IpAddr> = BTreeSet::new();
    let mut places: BTreeSet<(IpAddr, Option<u16>)> = BTreeSet::new();
    // Known to several is one endpoint, and the most trusted verdict wins; an ECS task is itself on every port.
    // One that has stopped is only shown, and its address may be anybody's by now.
    registrations.retain(|registration| {
        let Some(address) = registration.address else { return true };
        if registration.member == Member::Ecs {
            if registration.phase != Phase::Stopped {
                in_ecs.insert(address);
                places.insert((address, registration.port));
            }
            return true;
        }
        let is_task = tasks.watches(&registration.member) && in_ecs.contains(&address);
        !is_task && places.insert((address, registration.port))
    });
    let endpoint = |registration: &Registration| Endpoint {
        instance: registration.instance.clone(),
        address: registration.address,
        port: registration.port,
        zone: registration.zone.clone(),
        verdict: verdict(registration, spec.readiness, tasks),
    };
    let mut endpoints: Vec<_> = registrations.into_iter().map(endpoint).collect();
    endpoints.sort_by(|a, b| (&a.instance, a.port).cmp(&(&b.instance, b.port)));
    keep_last_hope(&mut endpoints);
    endpoints
}

/// The verdict about one registration: the table of `product.md`, section 6.
fn verdict(registration: &Registration, readiness: Readiness, tasks: &Tasks<'_>) -> Verdict {
    let phase = match &registration.member {
        // Cloud Map may be stale: its ECS instances live and die as ECS says.
        member @ Member::CloudMap { service, .. } if tasks.watches(member) => {
            match tasks.behind(registration, service.as_deref()) {
                Some(phase) => phase,
                None => return absent(Reason::NoTask),
            }
        }
        _ => registration.phase,
    };
    match by_phase(phase, &registration.member, readiness) {
        out if out.state == State::Absent && !is_leaving(out) => out,
        _ if tasks.reused(registration) => absent(Reason::AddressReused),
        _ if registration.foreign_tls => absent(Reason::ForeignTls),
        _ if registration.address.is_none() => absent(Reason::NoAddress),
        _ if registration.port.is_none() => absent(Reason::NoPort),
        verdict => verdict,
    }
}

fn by_phase(phase: Phase, member: &Member, readiness: Readiness) -> Verdict {
    match phase {
        Phase::Starting => absent(Reason::Starting),
        Phase::Stopped => absent(Reason::Stopped),
        Phase::Stopping(StopCause::Crashed) => absent(Reason::Crashed),
        Phase::Stopping(StopCause::Planned) => absent(Reason::Stopping),
        Phase::Stopping(StopCause::Spot) => absent(Reason::SpotInterruption),
        Phase::Running(Health::NoCheck) => healthy(Reason::NoCheck),
        Phase::Running(_) if readiness == Readiness::Running => healthy(Reason::Ready),
        Phase::Running(Health::Healthy) => healthy(Reason::Ready),
        Phase::Running(Health::Unknown { gate_over: true }) => healthy(Reason::GateExpired),
        Phase::Running(Health::Unknown { .. } | Health::Unhealthy { gate_over: false }) => {
            absent(Reason::AwaitingHealth)
        }
        Phase::Running(Health::Unhealthy { gate_over: true }) => {
            let in_cloud_map = matches!(member, Member::CloudMap { .. });
            let reason = if in_cloud_map { Reason::CloudMapUnhealthy } else { Reason::ContainerUnhealthy };
            Verdict { state: State::Unhealthy, reason }
        }
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

/// A task that is stopping as planned, and still up, beats no endpoint at all.
fn keep_last_hope(endpoints: &mut [Endpoint]) {
    if endpoints.iter().any(|endpoint| endpoint.verdict.state == State::Healthy) {
        return;
    }
    for endpoint in endpoints.iter_mut() {
        if is_leaving(endpoint.verdict) {
            endpoint.verdict = Verdict { state: State::Draining, reason: Reason::LastHope };
        }
    }
}

fn join_namespace(
    namespace: &Namespace,
    mut services: Vec<Joined>,
    before: Option<&Arc<MeshNamespace>>,
    findings: &mut Vec<Finding>,
) -> Arc<MeshNamespace> {
    services.sort_by_key(|(spec, _)| seniority(spec));
    one_owner_per_alias(namespace, &mut services, findings);
    let names: Vec<Arc<str>> = services
        .iter()
        .flat_map(|(spec, _)| &spec.aliases)
        .map(|alias| vip::base_name(namespace.as_str(), &alias.name).into())
        .collect();
    let addresses = addresses(namespace, &names, before, findings);
    let services = services.into_iter().map(|(spec, endpoints)| {
        let before = before.and_then(|namespace| namespace.services.get(&spec.key.name));
        let spec = before.map(|old| &old.spec).filter(|old| **old == spec).map_or(spec, Arc::clone);
        let same = before.map(|old| &old.endpoints).filter(|old| ***old == *endpoints);
        let endpoints = same.map_or_else(|| endpoints.into(), Arc::clone);
        (spec.key.name.clone(), Service { spec, endpoints })
    });
    let joined = MeshNamespace { name: namespace.clone(), services: services.collect(), addresses };
    match before {
        Some(before) if **before == joined => Arc::clone(before),
        _ => Arc::new(joined),
    }
}

/// The order in which names are placed: ECS services by creation time, then others, ties by name.
fn seniority(spec: &ServiceSpec) -> (bool, Option<SystemTime>, ServiceKey) {
    (spec.created_at.is_none(), spec.created_at, spec.key.clone())
}

/// Of several services that ask for one alias, the oldest keeps it (`NAME002`).
fn one_owner_per_alias(namespace: &Namespace, services: &mut [Joined], findings: &mut Vec<Finding>) {
    let mut owners: HashMap<(String, u16), Arc<ServiceSpec>> = HashMap::new();
    for (spec, _) in services {
        let mut kept: Vec<Alias> = Vec::with_capacity(spec.aliases.len());
        for alias in &spec.aliases {
            let base = vip::base_name(namespace.as_str(), &alias.name).to_owned();
            match owners.get(&(base.clone(), alias.port)) {
                None => {
                    owners.insert((base, alias.port), Arc::clone(spec));
                    kept.push(alias.clone());
                }
                Some(owner) if owner.key == spec.key => {}
                Some(owner) => findings.push(Finding {
                    code: "NAME002",
                    object: spec.origin.to_string(),
                    message: format!(
                        "the alias {alias} in {namespace} belongs to {}, which is older; choose another name or port",
                        owner.origin
                    ),
                }),
            }
        }
        if kept.len() != spec.aliases.len() {
            *spec = Arc::new(ServiceSpec { aliases: kept, ..(**spec).clone() });
        }
    }
}

fn addresses(
    namespace: &Namespace,
    names: &[Arc<str>],
    before: Option<&Arc<MeshNamespace>>,
    findings: &mut Vec<Finding>,
) -> Arc<BTreeMap<Arc<str>, std::net::Ipv4Addr>> {
    let (addresses, collisions) = vip::assign(namespace.as_str(), names);
    for (younger, older) in collisions {
        findings.push(Finding {
            code: "NAME003",
            object: format!("{namespace}/{younger}"),
            message: format!(
                "`{younger}` and `{older}` ask for the same loopback address; `{younger}`, the younger, gets {}",
                addresses[&younger]
            ),
        });
    }
    match before {
        Some(before) if *before.addresses == addresses => Arc::clone(&before.addresses),
        _ => Arc::new(addresses),
    }
}

#[cfg(test)]
mod tests;
