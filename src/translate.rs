//! The model turned into Envoy's words: one namespace in, its encoded resources out.
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
use self::rule::IsThere;
use crate::model::{Alias, Crew, Endpoint, MeshNamespace, Rule, Service, ServiceName, ServiceSpec};
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

/// Turns one namespace into resources, and remembers them to share what did not change.
#[derive(Debug, Default)]
pub struct Translator {
    /// What was translated last.
    before: Option<MeshNamespace>,
    services: BTreeMap<ServiceName, Translated>,
    names: BTreeMap<ServiceName, Names>,
    /// The Host-routed listener for `HTTP_PROXY` and its routes, which follow from all descriptions together.
    proxy: Vec<Arc<Resource>>,
    crews: BTreeMap<ServiceName, Arc<Resource>>,
    tables: Tables,
}

/// A service's resources, with the model that they were made from.
#[derive(Debug)]
struct Translated {
    spec: Arc<ServiceSpec>,
    endpoints: Arc<[Endpoint]>,
    addresses: Vec<Ipv4Addr>,
    names: Option<Names>,
    /// The services that its rules name and that are not there.
    missing: Vec<ServiceName>,
    /// Of the service, and of its versions.
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
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        let touched = self.touched(namespace);
        if touched.is_described_anew {
            let specs: Vec<_> =
                namespace.services.values().map(|service| Arc::clone(&service.spec)).collect();
            self.names = host::names(&namespace.name, &specs);
        }
        for name in touched.services {
            let before = self.services.remove(&name);
            let old: Vec<_> = before.iter().flat_map(Translated::resources).cloned().collect();
            let now = namespace
                .services
                .get(&name)
                .map(|service| Translated::renewed(before, service, namespace, self.names.get(&name)));
            let new: Vec<_> = now.iter().flat_map(Translated::resources).cloned().collect();
            gone.extend(without(&old, &new));
            come.extend(without(&new, &old));
            self.services.extend(now.map(|now| (name, now)));
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
        let all = || namespace.services.keys().cloned();
        let Some(before) = &self.before else {
            return Touched { is_described_anew: true, services: all().collect() };
        };
        let changes = || before.services.diff(&namespace.services);
        let described_anew = |change: DiffItem<'_, '_, _, Service>| match change {
            DiffItem::Update { old: (_, old), new: (_, new) } => !same(&old.spec, &new.spec),
            DiffItem::Add(..) | DiffItem::Remove(..) => true,
        };
        let is_described_anew = changes().any(described_anew)
            || (&before.addresses, &before.defaults) != (&namespace.addresses, &namespace.defaults);
        let name = |change| match change {
            DiffItem::Add(name, _) | DiffItem::Remove(name, _) | DiffItem::Update { new: (name, _), .. } => {
                name
            }
        };
        let mut services: BTreeSet<ServiceName> = changes().map(name).cloned().collect();
        if is_described_anew {
            services.extend(all()); // another's description may take or give a name
        }
        Touched { is_described_anew, services }
    }
}

/// What may have to be said anew.
struct Touched {
    /// Whether any description or address is another.
    is_described_anew: bool,
    services: BTreeSet<ServiceName>,
}

impl Translated {
    /// The service's resources, those that can be from `old`.
    fn renewed(
        old: Option<Self>,
        service: &Service,
        namespace: &MeshNamespace,
        names: Option<&Names>,
    ) -> Self {
        let (spec, endpoints) = (&service.spec, &service.endpoints);
        let is_there = |name: &ServiceName| namespace.services.contains_key(name);
        let addresses = listener::addresses(namespace, spec);
        let missing: Vec<_> = spec
            .rules
            .iter()
            .flat_map(Rule::backends)
            .map(|backend| backend.service.clone())
            .filter(|name| !is_there(name))
            .collect();
        let old = old.filter(|old| same(&old.spec, spec));
        let assignments = match &old {
            Some(old) if Arc::ptr_eq(&old.endpoints, endpoints) => old.assignments.clone(),
            _ => assignments(spec, endpoints),
        };
        let ports = inbound::ports(spec, endpoints);
        let named = |old: &Self| old.names.as_ref() == names;
        let led = |old: &Self| old.missing == missing;
        let host = old.as_ref().filter(|old| named(old) && led(old)).map(|old| old.host.clone());
        let (own, inbound, api_listeners) = old.map_or_else(Default::default, |old| {
            let api_listeners = named(&old).then_some(old.api_listeners.clone());
            let own = (old.addresses == addresses && led(&old)).then_some(old.own);
            (own, (old.ports == ports).then_some(old.inbound), api_listeners)
        });
        let is_routed = names.filter(|_| spec.protocol.is_http());
        Self {
            assignments,
            own: own.unwrap_or_else(|| spec_resources(spec, &addresses, &is_there)),
            api_listeners: api_listeners.unwrap_or_else(|| api_listeners_of(spec, names)),
            host: host.unwrap_or_else(|| is_routed.map(|names| route::host(spec, names, &is_there))),
            inbound: inbound.unwrap_or_else(|| {
                ports.iter().flat_map(|port| inbound::resources(spec, *port)).map(Arc::new).collect()
            }),
            ports,
            spec: Arc::clone(spec),
            endpoints: Arc::clone(endpoints),
            addresses,
            missing,
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

/// The service as a whole, and each version of it that a rule names.
fn versions(spec: &ServiceSpec) -> impl Iterator<Item = Option<&str>> {
    std::iter::once(None).chain(spec.versions.iter().map(|version| Some(&**version)))
}

/// The load assignments of a service and of its versions; one whose sidecars look it up themselves has none.
fn assignments(spec: &ServiceSpec, endpoints: &[Endpoint]) -> Vec<Arc<Resource>> {
    let each = versions(spec).filter(|_| spec.reach.hosts.is_empty());
    each.map(|version| Arc::new(endpoint::load_assignment(spec, version, endpoints))).collect()
}

/// Those that the others don't share.
fn without(these: &[Arc<Resource>], others: &[Arc<Resource>]) -> impl Iterator<Item = Arc<Resource>> {
    these.iter().filter(|it| !others.iter().any(|other| Arc::ptr_eq(it, other))).cloned()
}

/// What follows from a service's description, and from who else is there: its clusters, routes and listeners.
fn spec_resources(spec: &ServiceSpec, addresses: &[Ipv4Addr], is_there: IsThere<'_>) -> Vec<Arc<Resource>> {
    let mut resources: Vec<_> = versions(spec).map(|version| cluster::cluster(spec, version)).collect();
    if spec.protocol.is_http() {
        resources.push(route::service_routes(spec, is_there));
        resources.extend(spec.aliases.iter().map(|alias| route::alias_routes(spec, alias, is_there)));
    }
    let listeners = spec.aliases.iter().zip(addresses);
    resources.extend(listeners.map(|(alias, address)| listener::alias_listener(spec, alias, *address)));
    let is_its_own = |(alias, _): &&(Alias, u16)| spec.aliases.contains(alias);
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
