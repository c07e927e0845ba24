//! The model turned into Envoy's words: one namespace in, or one scope of it, its encoded resources out.
//!
//! It is not a policy engine and knows no sidecar: how Envoy treats a service is in the model, and the
//! numbers where the model says nothing are in [`profile`].
//!
//! Invariant: pure. An unchanged service keeps its `Arc<Resource>`s; the same model gives the same bytes in
//! any process, which holds because no message here has a protobuf map with more than one entry.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ApiVersion, ConfigSource, config_source::ConfigSourceSpecifier,
};
use envoy_types::pb::google::protobuf::{Duration as ProtoDuration, UInt32Value};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use self::host::Names;
use self::route::Host;
use self::rule::Find;
use crate::model::{
    Alias, Crew, Endpoint, MeshNamespace, Namespace, Rule, Service, ServiceKey, ServiceName, ServiceSpec,
    Services, Shift,
};
use crate::snapshot::{Resource, Tables};

pub mod cluster;
pub mod endpoint;
pub mod host;
mod inbound;
mod limit;
pub mod listener;
mod log;
mod probe;
pub mod profile;
mod raw;
pub mod route;
mod rule;
mod shift;

/// Turns one namespace into resources, and remembers them to share what did not change.
#[derive(Debug, Default)]
pub struct Translator {
    /// What was translated last.
    before: Option<MeshNamespace>,
    services: BTreeMap<ServiceKey, Translated>,
    names: BTreeMap<ServiceKey, Names>,
    /// The Host-routed listener for `HTTP_PROXY` and its routes, which follow from all descriptions together.
    proxy: Vec<Arc<Resource>>,
    crews: BTreeMap<ServiceName, Arc<Resource>>,
    tables: Tables,
}

/// A service's resources, with the model that they were made from.
#[derive(Clone, Debug)]
struct Translated {
    spec: Arc<ServiceSpec>,
    endpoints: Arc<[Endpoint]>,
    addresses: Vec<Ipv4Addr>,
    names: Option<Names>,
    /// What matters of the services that its rules name.
    named: Vec<Named>,
    /// Of the service, and of its parts.
    assignments: Vec<Arc<Resource>>,
    own: Vec<Arc<Resource>>,
    /// For sidecars of the service itself, and the ports of its applications that they follow from.
    inbound: Vec<Arc<Resource>>,
    ports: BTreeSet<u16>,
    api_listeners: Vec<Arc<Resource>>,
    /// What it is at the Host-routed proxy.
    host: Option<Host>,
}

impl Translator {
    /// The resources of `namespace`, closed: whatever a resource refers to is among them.
    pub fn translate(&mut self, namespace: &MeshNamespace) -> Tables {
        self.translate_with(namespace, &|_| None)
    }

    /// The same, sharing what others have translated already: `others` says who translates a namespace.
    pub fn translate_with<'a>(
        &mut self,
        namespace: &MeshNamespace,
        others: &dyn Fn(&Namespace) -> Option<&'a Self>,
    ) -> Tables {
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        let touched = self.touched(namespace);
        if touched.is_named_anew {
            let specs: Vec<_> = namespace.all().map(|service| Arc::clone(&service.spec)).collect();
            self.names = host::names(&namespace.name, &specs);
        }
        for key in touched.services {
            let before = self.services.remove(&key);
            let old: Vec<_> = before.iter().flat_map(Translated::resources).cloned().collect();
            let now = namespace.get(&key).map(|service| {
                let other = others(&key.namespace).and_then(|other| other.services.get(&key));
                let before = other.filter(|other| other.is_of(service)).cloned().or(before);
                Translated::renewed(before, service, namespace, self.names.get(&key))
            });
            let new: Vec<_> = now.iter().flat_map(Translated::resources).cloned().collect();
            gone.extend(without(&old, &new));
            come.extend(without(&new, &old));
            self.services.extend(now.map(|now| (key, now)));
        }
        if touched.is_described_anew {
            gone.append(&mut self.proxy);
            let hosts = self.services.values().filter_map(|service| service.host.as_ref());
            let routes = route::proxy_routes(&namespace.name, hosts);
            let listener = listener::proxy_listener(&namespace.name, &namespace.defaults);
            self.proxy = vec![Arc::new(routes), Arc::new(listener)];
            come.extend(self.proxy.iter().cloned());
        }
        for (name, crew) in self.changed_crews(namespace) {
            self.crews.remove(&name).into_iter().for_each(|old| gone.push(old));
            if let Some(crew) = crew {
                let resource = Arc::new(endpoint::crew_assignment(&namespace.name, &name, &crew));
                come.push(Arc::clone(&resource));
                self.crews.insert(name, resource);
            }
        }
        // First what goes: a name may pass from one service to another.
        gone.iter().for_each(|resource| self.tables.remove(resource.kind, &resource.name));
        come.into_iter().for_each(|resource| self.tables.insert(resource));
        self.before = Some(namespace.clone());
        self.tables.clone()
    }

    /// The crews that are not as they were; `None` has gone.
    fn changed_crews(&self, namespace: &MeshNamespace) -> Vec<(ServiceName, Option<Crew>)> {
        let none = OrdMap::new();
        let before = self.before.as_ref().map_or(&none, |before| &before.crews);
        let changes = before.diff(&namespace.crews).map(|change| match change {
            DiffItem::Add(name, crew) | DiffItem::Update { new: (name, crew), .. } => {
                (name.clone(), Some(Arc::clone(crew)))
            }
            DiffItem::Remove(name, _) => (name.clone(), None),
        });
        changes.collect()
    }

    /// What may have to be said anew since the last translation.
    fn touched(&self, namespace: &MeshNamespace) -> Touched {
        let all = || namespace.all().map(|service| service.spec.key.clone());
        let Some(before) = &self.before else {
            return Touched { is_described_anew: true, is_named_anew: true, services: all().collect() };
        };
        let others = before.imported.services.keys().chain(namespace.imported.services.keys());
        let names: BTreeSet<_> = std::iter::once(&namespace.name).chain(others).collect();
        let (mut services, empty) = (BTreeSet::new(), Services::new());
        let mut is_named_anew = (&before.addresses, &before.imported.addresses)
            != (&namespace.addresses, &namespace.imported.addresses);
        let mut is_described_anew = is_named_anew || before.defaults != namespace.defaults;
        for name in names {
            let (old, new) = (before.of(name).unwrap_or(&empty), namespace.of(name).unwrap_or(&empty));
            for change in old.diff(new) {
                let (service, anew, concerns_others) = match change {
                    DiffItem::Update { old: (_, old), new: (name, new) } => {
                        let anew = !same(&old.spec, &new.spec);
                        (name, anew, anew && !looks_the_same(&old.spec, &new.spec))
                    }
                    DiffItem::Add(name, _) | DiffItem::Remove(name, _) => (name, true, true),
                };
                is_described_anew |= anew;
                is_named_anew |= concerns_others;
                services.insert(ServiceKey { namespace: name.clone(), name: service.clone() });
            }
        }
        if is_named_anew {
            services.extend(all()); // another's description may take or give a name, or be what a rule names
        }
        Touched { is_described_anew, is_named_anew, services }
    }
}

/// What may have to be said anew.
struct Touched {
    /// Whether any description or address is another.
    is_described_anew: bool,
    /// Whether anything is that matters to others.
    is_named_anew: bool,
    services: BTreeSet<ServiceKey>,
}

/// A service that a rule names, as far as routes follow from it.
#[derive(Clone, PartialEq, Debug)]
struct Named {
    name: ServiceName,
    is_there: bool,
    shift: Option<Arc<Shift>>,
}

impl Named {
    fn of(name: &ServiceName, find: Find<'_>) -> Self {
        let spec = find(name);
        Self { name: name.clone(), is_there: spec.is_some(), shift: spec.and_then(|spec| spec.shift.clone()) }
    }
}

impl Translated {
    /// Whether it is all that is to be said of this service, but for its names.
    fn is_of(&self, service: &Service) -> bool {
        Arc::ptr_eq(&self.spec, &service.spec) && Arc::ptr_eq(&self.endpoints, &service.endpoints)
    }

    /// The service's resources, those that can be from `old`.
    fn renewed(
        old: Option<Self>,
        service: &Service,
        namespace: &MeshNamespace,
        names: Option<&Names>,
    ) -> Self {
        let (spec, endpoints) = (&service.spec, &service.endpoints);
        let neighbours = namespace.of(&spec.key.namespace);
        let find = |name: &ServiceName| neighbours?.get(name).map(|service| &*service.spec);
        let addresses = listener::addresses(namespace, spec);
        let backends = spec.rules.iter().flat_map(Rule::backends);
        let named: Vec<_> = backends.map(|backend| Named::of(&backend.service, &find)).collect();
        let old = old.filter(|old| same(&old.spec, spec));
        let assignments = match &old {
            Some(old) if Arc::ptr_eq(&old.endpoints, endpoints) => old.assignments.clone(),
            _ => assignments(spec, endpoints),
        };
        // In another namespace nobody is of this service, and its ports of localhost may be others'.
        let is_home = spec.key.namespace == namespace.name;
        let ports = if is_home { inbound::ports(spec, endpoints) } else { BTreeSet::new() };
        let is_named = |old: &Self| old.names.as_ref() == names;
        let leads = |old: &Self| old.named == named;
        let host = old.as_ref().filter(|old| is_named(old) && leads(old)).map(|old| old.host.clone());
        let (own, inbound, api_listeners) = old.map_or_else(Default::default, |old| {
            let api_listeners = is_named(&old).then_some(old.api_listeners.clone());
            let same_doors = is_home || spec.reach.local_ports.is_empty();
            let own = (old.addresses == addresses && same_doors && leads(&old)).then_some(old.own);
            (own, (old.ports == ports).then_some(old.inbound), api_listeners)
        });
        let is_routed = names.filter(|_| spec.protocol.is_http());
        Self {
            assignments,
            own: own.unwrap_or_else(|| spec_resources(spec, &addresses, is_home, &find)),
            api_listeners: api_listeners.unwrap_or_else(|| api_listeners_of(spec, names)),
            host: host.unwrap_or_else(|| is_routed.map(|names| route::host(spec, names, &find))),
            inbound: inbound.unwrap_or_else(|| {
                ports.iter().flat_map(|port| inbound::resources(spec, *port)).map(Arc::new).collect()
            }),
            ports,
            spec: Arc::clone(spec),
            endpoints: Arc::clone(endpoints),
            addresses,
            named,
            names: names.cloned(),
        }
    }

    fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.assignments.iter().chain(&self.own).chain(&self.inbound).chain(&self.api_listeners)
    }
}

/// Whether two descriptions say the same: where they are written is nothing to Envoy.
fn same(old: &Arc<ServiceSpec>, new: &Arc<ServiceSpec>) -> bool {
    Arc::ptr_eq(old, new) || old.says_the_same(new)
}

/// Whether nothing of a service is another that matters to other services: its names, and where it leads who names it.
fn looks_the_same(old: &ServiceSpec, new: &ServiceSpec) -> bool {
    (&old.aliases, old.protocol, &old.shift) == (&new.aliases, new.protocol, &new.shift)
}

/// The load assignments of a service and of its parts; one whose sidecars look it up themselves has none.
fn assignments(spec: &ServiceSpec, endpoints: &[Endpoint]) -> Vec<Arc<Resource>> {
    let parts = spec.parts();
    let each = parts.iter().filter(|_| spec.reach.hosts.is_empty());
    each.map(|part| Arc::new(endpoint::load_assignment(spec, part, endpoints))).collect()
}

/// Those that the others don't share.
fn without(these: &[Arc<Resource>], others: &[Arc<Resource>]) -> impl Iterator<Item = Arc<Resource>> {
    these.iter().filter(|it| !others.iter().any(|other| Arc::ptr_eq(it, other))).cloned()
}

/// What follows from a service's description, and from who else is there: its clusters, routes and listeners.
fn spec_resources(
    spec: &ServiceSpec,
    addresses: &[Ipv4Addr],
    is_home: bool,
    find: Find<'_>,
) -> Vec<Arc<Resource>> {
    let mut resources: Vec<_> = spec.parts().iter().map(|part| cluster::cluster(spec, part)).collect();
    if spec.protocol.is_http() {
        resources.push(route::service_routes(spec, find));
        resources.extend(spec.aliases.iter().map(|alias| route::alias_routes(spec, alias, find)));
    }
    let listeners = spec.aliases.iter().zip(addresses);
    resources.extend(listeners.map(|(alias, address)| listener::alias_listener(spec, alias, *address)));
    let is_its_own = |(alias, _): &&(Alias, u16)| is_home && spec.aliases.contains(alias);
    let local = spec.reach.local_ports.iter().filter(is_its_own);
    resources.extend(local.map(|(alias, port)| listener::local_listener(spec, alias, *port)));
    resources.into_iter().map(Arc::new).collect()
}

fn api_listeners_of(spec: &ServiceSpec, names: Option<&Names>) -> Vec<Arc<Resource>> {
    let names = names.into_iter().flat_map(|names| names.iter());
    names.map(|name| Arc::new(listener::api_listener(spec, name))).collect()
}

/// "Ask on the stream you already have."
fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    }
}

/// A duration as protobuf has it; anything longer than protobuf allows is cut there.
fn proto(duration: std::time::Duration) -> ProtoDuration {
    ProtoDuration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX).min(315_576_000_000),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

fn number(value: u32) -> UInt32Value {
    UInt32Value { value }
}

#[cfg(test)]
mod tests;
