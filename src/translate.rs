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
use imbl::ordmap::DiffItem;

use self::host::Names;
use self::rule::Find;
use crate::model::{Endpoint, MeshNamespace, Rule, Service, ServiceName, ServiceSpec, Shift};
use crate::snapshot::{Resource, Tables};

pub mod cluster;
pub mod endpoint;
pub mod host;
pub mod listener;
mod log;
pub mod profile;
pub mod route;
mod rule;
mod shift;

/// Turns one namespace into resources, and remembers them to share what did not change.
#[derive(Debug, Default)]
pub struct Translator {
    /// What was translated last.
    before: Option<MeshNamespace>,
    services: BTreeMap<ServiceName, Translated>,
    described: Described,
    tables: Tables,
}

/// What follows from all descriptions together.
#[derive(Debug, Default)]
struct Described {
    names: BTreeMap<ServiceName, Names>,
    /// The Host-routed listener for `HTTP_PROXY` and its routes.
    proxy: Vec<Arc<Resource>>,
}

/// A service's resources, with the model that they were made from.
#[derive(Debug)]
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
    api_listeners: Vec<Arc<Resource>>,
}

impl Translator {
    /// The resources of `namespace`, closed: whatever a resource refers to is among them.
    pub fn translate(&mut self, namespace: &MeshNamespace) -> Tables {
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        let touched = self.touched(namespace);
        if touched.is_described_anew {
            gone.append(&mut self.described.proxy);
            self.described = Described::of(namespace);
            come.extend(self.described.proxy.iter().cloned());
        }
        for name in touched.services {
            let before = self.services.remove(&name);
            let old: Vec<_> = before.iter().flat_map(Translated::resources).cloned().collect();
            let now = namespace.services.get(&name).map(|service| {
                Translated::renewed(before, service, namespace, self.described.names.get(&name))
            });
            let new: Vec<_> = now.iter().flat_map(Translated::resources).cloned().collect();
            gone.extend(without(&old, &new));
            come.extend(without(&new, &old));
            self.services.extend(now.map(|now| (name, now)));
        }
        // First what goes: a name may pass from one service to another.
        gone.iter().for_each(|resource| self.tables.remove(resource.kind, &resource.name));
        come.into_iter().for_each(|resource| self.tables.insert(resource));
        self.before = Some(namespace.clone());
        self.tables.clone()
    }

    /// What may have to be said anew since the last translation.
    fn touched(&self, namespace: &MeshNamespace) -> Touched {
        let all = || namespace.services.keys().cloned();
        let Some(before) = &self.before else {
            return Touched { is_described_anew: true, services: all().collect() };
        };
        let changes = || before.services.diff(&namespace.services);
        let described_anew = |change: DiffItem<'_, '_, _, Service>| match change {
            DiffItem::Update { old: (_, old), new: (_, new) } => !Arc::ptr_eq(&old.spec, &new.spec),
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

impl Described {
    fn of(namespace: &MeshNamespace) -> Self {
        let specs: Vec<_> = namespace.services.values().map(|service| Arc::clone(&service.spec)).collect();
        let names = host::names(&namespace.name, &specs);
        let find = |name: &ServiceName| namespace.services.get(name).map(|service| &*service.spec);
        let routes = route::proxy_routes(&namespace.name, &specs, &names, &find);
        let listener = listener::proxy_listener(&namespace.name, &namespace.defaults);
        Self { names, proxy: vec![Arc::new(routes), Arc::new(listener)] }
    }
}

/// A service that a rule names, as far as routes follow from it.
#[derive(PartialEq, Debug)]
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
    /// The service's resources, those that can be from `old`.
    fn renewed(
        old: Option<Self>,
        service: &Service,
        namespace: &MeshNamespace,
        names: Option<&Names>,
    ) -> Self {
        let (spec, endpoints) = (&service.spec, &service.endpoints);
        let find = |name: &ServiceName| namespace.services.get(name).map(|service| &*service.spec);
        let addresses = listener::addresses(namespace, spec);
        let backends = spec.rules.iter().flat_map(Rule::backends);
        let named: Vec<_> = backends.map(|backend| Named::of(&backend.service, &find)).collect();
        let old = old.filter(|old| Arc::ptr_eq(&old.spec, spec));
        let assignments = match &old {
            Some(old) if Arc::ptr_eq(&old.endpoints, endpoints) => old.assignments.clone(),
            _ => {
                let assignment =
                    |part| endpoint::load_assignment(&spec.key, part, spec.shift.as_deref(), endpoints);
                spec.parts().iter().map(|part| Arc::new(assignment(part))).collect()
            }
        };
        let (own, api_listeners) = old.map_or_else(Default::default, |old| {
            let own = (old.addresses == addresses && old.named == named).then_some(old.own);
            (own, (old.names.as_ref() == names).then_some(old.api_listeners))
        });
        Self {
            assignments,
            own: own.unwrap_or_else(|| spec_resources(spec, &addresses, &find)),
            api_listeners: api_listeners.unwrap_or_else(|| api_listeners_of(spec, names)),
            spec: Arc::clone(spec),
            endpoints: Arc::clone(endpoints),
            addresses,
            named,
            names: names.cloned(),
        }
    }

    fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.assignments.iter().chain(&self.own).chain(&self.api_listeners)
    }
}

/// Those that the others don't share.
fn without(these: &[Arc<Resource>], others: &[Arc<Resource>]) -> impl Iterator<Item = Arc<Resource>> {
    these.iter().filter(|it| !others.iter().any(|other| Arc::ptr_eq(it, other))).cloned()
}

/// What follows from a service's description, and from who else is there: its clusters, routes and listeners.
fn spec_resources(spec: &ServiceSpec, addresses: &[Ipv4Addr], find: Find<'_>) -> Vec<Arc<Resource>> {
    let mut resources: Vec<_> = spec.parts().iter().map(|part| cluster::cluster(spec, part)).collect();
    if spec.protocol.is_http() {
        resources.push(route::service_routes(spec, find));
        resources.extend(spec.aliases.iter().map(|alias| route::alias_routes(spec, alias, find)));
    }
    let listeners = spec.aliases.iter().zip(addresses);
    resources.extend(listeners.map(|(alias, address)| listener::alias_listener(spec, alias, *address)));
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
