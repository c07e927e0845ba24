//! Who is in rotation, and why not if not: every source's view joined into one [`Mesh`].
//!
//! It is not I/O and has no clock but what it is told: the same views give the same mesh in any process, whatever was joined before.
//! What was is only remembered, to judge nothing again that can't have changed.
//!
//! Invariant: every registration gets exactly one verdict with one reason; a known service stays, even empty.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use self::verdict::Tasks;
use crate::model::{
    Addresses, Crew, Endpoint, Finding, Knobs, Mesh, MeshNamespace, Namespace, Service, ServiceKey,
    ServiceName, ServiceSpec, ServiceView, Services, View,
};
use crate::policy::{NamespacePolicy, Policy};

mod crews;
mod names;
mod strays;
mod verdict;
mod world;

pub use world::world;

/// Joins what the sources see, again and again.
#[derive(Debug)]
pub struct Joiner {
    /// What was joined last.
    views: Vec<Arc<View>>,
    policy: Arc<Policy>,
    namespaces: BTreeMap<Namespace, Known>,
    /// What is wrong with single services.
    findings: BTreeMap<ServiceKey, Vec<Finding>>,
    /// What time it is, if that has been told.
    now: Option<SystemTime>,
    /// When something is to be said anew of a service although no source says anything.
    due: BTreeMap<ServiceKey, SystemTime>,
}

/// What is remembered of one namespace.
#[derive(Debug)]
struct Known {
    /// The services as they were described, before names were given away.
    described: BTreeMap<ServiceName, Arc<ServiceSpec>>,
    /// What is wrong with their names.
    findings: Vec<Finding>,
    joined: Arc<MeshNamespace>,
}

/// A service on its way into its namespace; `None` if nobody describes it any more.
type Joined = Option<(Arc<ServiceSpec>, Vec<Endpoint>)>;

/// One service as one source sees it, and all that the source sees.
type Sighting<'a> = (&'a ServiceView, &'a View);

impl Joiner {
    /// These namespaces exist, even while they are empty; what belongs to others is passed over.
    pub fn new(namespaces: &BTreeSet<Namespace>) -> Self {
        let known = |name: &Namespace| (name.clone(), Known::new(name.clone()));
        Self {
            views: Vec::new(),
            policy: Arc::default(),
            namespaces: namespaces.iter().map(known).collect(),
            findings: BTreeMap::new(),
            now: None,
            due: BTreeMap::new(),
        }
    }

    /// Says what time it is, by AWS's clock: for waits that a policy shortens. The next join is as of then.
    pub fn tell_time(&mut self, now: SystemTime) {
        self.now = Some(now);
    }

    /// When the next join gives something else although no source says anything.
    pub fn next_due(&self) -> Option<SystemTime> {
        self.due.values().min().copied()
    }

    /// Joins what the sources see now, as the policy has it. `views` come in order of trust: ECS, then Cloud Map, then files,
    /// then the policy's own. What is as it was keeps its `Arc`.
    pub fn join(&mut self, views: &[Arc<View>], policy: &Arc<Policy>) -> Mesh {
        let tasks = Tasks::of(views);
        let mut touched: BTreeMap<Namespace, Vec<(ServiceName, Joined)>> = BTreeMap::new();
        let mut keys = self.touched(views);
        keys.extend(self.treated_anew(views, policy));
        keys.extend(self.due.iter().filter(|(_, at)| Some(**at) <= self.now).map(|(key, _)| key.clone()));
        for key in keys {
            let mut findings = Vec::new();
            let sightings = one_owner(&key, sightings(views, &key), &mut findings);
            self.due.remove(&key);
            let joined = described(&sightings).map(|spec| {
                let spec = policy.over(&spec);
                let endpoints = verdict::endpoints(&sightings, &spec, &tasks, self.now);
                let due = verdict::next_end(&sightings, &spec, &tasks, self.now);
                self.due.extend(due.map(|at| (key.clone(), at)));
                (spec, endpoints)
            });
            touched.entry(key.namespace.clone()).or_default().push((key.name.clone(), joined));
            self.findings.remove(&key);
            if !findings.is_empty() {
                self.findings.insert(key, findings);
            }
        }
        let is_new = !Arc::ptr_eq(&self.policy, policy);
        let mut crews = crews::changed(&self.views, views);
        for (name, known) in &mut self.namespaces {
            let services = touched.remove(name).unwrap_or_default();
            if is_new || !services.is_empty() {
                known.renew(services, policy.of(name), is_new);
            }
            if let Some(crews) = crews.remove(name) {
                known.renew_crews(crews);
            }
        }
        (self.views, self.policy) = (views.to_vec(), Arc::clone(policy));
        self.mesh()
    }

    fn mesh(&self) -> Mesh {
        let occupied = self.views.iter().map(|view| &view.occupied).filter(|occupied| !occupied.is_empty());
        let in_views = self.views.iter().flat_map(|view| &view.findings);
        let of_names = self.namespaces.values().flat_map(|known| &known.findings);
        let of_services = self.findings.values().flatten();
        let findings: BTreeSet<_> = in_views.chain(of_names).chain(of_services).collect();
        Mesh {
            namespaces: self
                .namespaces
                .iter()
                .map(|(name, known)| (name.clone(), Arc::clone(&known.joined)))
                .collect(),
            occupied: occupied.cloned().collect(),
            findings: findings.into_iter().cloned().collect(),
        }
    }

    /// The services of which the policy says something else than when they were joined.
    fn treated_anew(&self, views: &[Arc<View>], policy: &Arc<Policy>) -> BTreeSet<ServiceKey> {
        if Arc::ptr_eq(&self.policy, policy) {
            return BTreeSet::new();
        }
        let none = NamespacePolicy::default();
        let mut keys = BTreeSet::new();
        for namespace in self.namespaces.keys() {
            let (old, new) =
                (self.policy.of(namespace).unwrap_or(&none), policy.of(namespace).unwrap_or(&none));
            let all = old.defaults != new.defaults;
            let is_treated_anew =
                |key: &ServiceKey| all || old.services.get(&key.name) != new.services.get(&key.name);
            keys.extend(services_of(views, namespace).filter(is_treated_anew));
        }
        keys
    }

    /// The services about which there may be something new since they were joined.
    fn touched(&self, views: &[Arc<View>]) -> BTreeSet<ServiceKey> {
        let alike = |(old, new): (&Arc<View>, &Arc<View>)| {
            old.clusters == new.clusters
                && old.unplaced == new.unplaced
                && (&old.home, &old.namespaces) == (&new.home, &new.namespaces)
        };
        let both = || self.views.iter().zip(views);
        if self.views.len() != views.len() || !both().all(alike) {
            let all = self.views.iter().chain(views);
            return all.flat_map(|view| view.services.keys().cloned()).collect();
        }
        let changed = |(old, new): (&Arc<View>, &Arc<View>)| -> Vec<ServiceKey> {
            let changes = old.services.diff(&new.services);
            changes.map(|change| key_of(&change).clone()).collect()
        };
        let changed = both().filter(|(old, new)| !Arc::ptr_eq(old, new)).flat_map(changed);
        let moved = both().filter(|(old, new)| !old.tasks.ptr_eq(&new.tasks));
        let moved: BTreeSet<_> = moved.flat_map(|(old, new)| addresses_of_changed_tasks(old, new)).collect();
        changed.chain(services_at(views, &moved)).collect()
    }
}

/// Every service that some source sees in a namespace.
fn services_of<'a>(
    views: &'a [Arc<View>],
    namespace: &Namespace,
) -> impl Iterator<Item = ServiceKey> + use<'a> {
    let namespace = namespace.clone();
    let keys = views.iter().flat_map(|view| view.services.keys());
    keys.filter(move |key| key.namespace == namespace).cloned()
}

impl Known {
    fn new(name: Namespace) -> Self {
        let (services, addresses, defaults) = (Services::new(), Arc::default(), Knobs::default());
        let joined = MeshNamespace { name, services, addresses, defaults, crews: OrdMap::new() };
        Self { described: BTreeMap::new(), findings: Vec::new(), joined: Arc::new(joined) }
    }

    /// Takes in what these services are now.
    fn renew(
        &mut self,
        touched: Vec<(ServiceName, Joined)>,
        policy: Option<&NamespacePolicy>,
        is_policy_new: bool,
    ) {
        let before = Arc::clone(&self.joined);
        let mut services = before.services.clone();
        let mut described_anew = is_policy_new;
        for (name, joined) in touched {
            let known = before.services.get(&name);
            let Some((spec, endpoints)) = joined else {
                described_anew |= self.described.remove(&name).is_some();
                services.remove(&name);
                continue;
            };
            if self.described.get(&name) != Some(&spec) {
                self.described.insert(name.clone(), Arc::clone(&spec));
                described_anew = true;
            }
            let same = known.map(|known| &known.endpoints).filter(|known| ***known == *endpoints);
            let endpoints = same.map_or_else(|| endpoints.into(), Arc::clone);
            let spec = known.map_or(spec, |known| Arc::clone(&known.spec));
            services.insert(name, Service { spec, endpoints });
        }
        let mut addresses = Arc::clone(&before.addresses);
        if described_anew {
            addresses = self.give_names(&mut services, policy);
        }
        let defaults = policy.map(|policy| policy.defaults.knobs.clone()).unwrap_or_default();
        let (name, crews) = (before.name.clone(), before.crews.clone());
        let now = MeshNamespace { name, services, addresses, defaults, crews };
        if now.services != before.services
            || (&now.addresses, &now.defaults) != (&before.addresses, &before.defaults)
        {
            self.joined = Arc::new(now);
        }
    }

    /// Takes in where the tasks of these ECS services run now.
    fn renew_crews(&mut self, changed: Vec<(ServiceName, Crew)>) {
        let joined = Arc::make_mut(&mut self.joined);
        for (name, crew) in changed {
            if crew.is_empty() {
                joined.crews.remove(&name);
            } else {
                joined.crews.insert(name, crew);
            }
        }
    }

    /// Gives each service the aliases that it may have, and each alias its address.
    fn give_names(&mut self, services: &mut Services, policy: Option<&NamespacePolicy>) -> Arc<Addresses> {
        let namespace = &self.joined.name;
        self.findings =
            policy.map(|policy| strays::strays(namespace, policy, &self.described)).unwrap_or_default();
        let specs = names::given(namespace, self.described.values(), &mut self.findings);
        let none = BTreeMap::new();
        let pins = policy.map_or(&none, |policy| &policy.pins);
        let addresses = names::addresses(namespace, &specs, pins, &mut self.findings);
        for spec in specs {
            if let Some(service) = services.get_mut(&spec.key.name)
                && service.spec != spec
            {
                service.spec = spec;
            }
        }
        let before = &self.joined.addresses;
        if **before == addresses { Arc::clone(before) } else { Arc::new(addresses) }
    }
}

/// The addresses with a task that is not as it was in both views.
fn addresses_of_changed_tasks(old: &View, new: &View) -> Vec<IpAddr> {
    let changes = old.tasks.diff(&new.tasks);
    changes.map(|change| key_of(&change).address).collect()
}

/// The services with a registration at one of these addresses.
fn services_at(views: &[Arc<View>], addresses: &BTreeSet<IpAddr>) -> Vec<ServiceKey> {
    if addresses.is_empty() {
        return Vec::new();
    }
    let is_there = |service: &ServiceView| {
        let mut places = service.registrations.iter().filter_map(|registration| registration.address);
        places.any(|address| addresses.contains(&address))
    };
    let services = views.iter().flat_map(|view| &view.services);
    services.filter(|(_, service)| is_there(service)).map(|(key, _)| key.clone()).collect()
}

fn key_of<'a, K, V>(change: &DiffItem<'a, 'a, K, V>) -> &'a K {
    match change {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. } => key,
    }
}

fn sightings<'a>(views: &'a [Arc<View>], key: &ServiceKey) -> Vec<Sighting<'a>> {
    let sighting = |view: &'a Arc<View>| Some((&**view.services.get(key)?, &**view));
    views.iter().filter_map(sighting).collect()
}

/// Of several ECS services with one name, the oldest keeps it (`NAME002`), and any before standalone tasks, which have no
/// age. Other sources only add members.
fn one_owner<'a>(
    key: &ServiceKey,
    sightings: Vec<Sighting<'a>>,
    findings: &mut Vec<Finding>,
) -> Vec<Sighting<'a>> {
    let is_ecs = |view: &View| !view.clusters.is_empty();
    let in_ecs = || sightings.iter().filter(|(_, view)| is_ecs(view)).map(|(service, _)| *service);
    let age = |service: &&ServiceView| {
        let spec = &service.spec;
        (!service.active, spec.created_at.is_none(), spec.created_at, spec.origin.clone())
    };
    let Some(owner) = in_ecs().min_by_key(age).map(|service| Arc::clone(&service.spec)) else {
        return sightings;
    };
    for spec in
        in_ecs().filter(|other| other.active && !Arc::ptr_eq(&other.spec, &owner)).map(|other| &other.spec)
    {
        let why = if spec.created_at.is_none() { "comes first" } else { "is older" };
        findings.push(Finding {
            code: "NAME002",
            object: spec.origin.to_string(),
            message: format!(
                "the name {key} belongs to {}, which {why}; rename one with the tag legation:discovery-name/<portName>",
                owner.origin
            ),
        });
    }
    let stays = |(service, view): &Sighting<'_>| !is_ecs(view) || Arc::ptr_eq(&service.spec, &owner);
    sightings.into_iter().filter(stays).collect()
}

/// The description in force: the most trusted one, with the first aliases that anyone gives.
fn described(sightings: &[Sighting<'_>]) -> Option<Arc<ServiceSpec>> {
    let (first, _) = sightings.first()?;
    if !first.spec.aliases.is_empty() {
        return Some(Arc::clone(&first.spec));
    }
    let named = sightings.iter().map(|(service, _)| &service.spec).find(|spec| !spec.aliases.is_empty());
    Some(match named {
        Some(named) => {
            let origin = first.spec.origin.with("aliases", &named.origin);
            Arc::new(ServiceSpec { aliases: named.aliases.clone(), origin, ..(*first.spec).clone() })
        }
        None => Arc::clone(&first.spec),
    })
}

#[cfg(test)]
mod tests;
