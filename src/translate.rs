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
use imbl::ordmap::DiffItem;

use self::host::Names;
use self::rule::IsThere;
use crate::model::{
    Endpoint, MeshNamespace, Namespace, Rule, Service, ServiceKey, ServiceName, ServiceSpec, Services,
};
use crate::snapshot::{Resource, Tables};

pub mod cluster;
pub mod endpoint;
pub mod host;
pub mod listener;
mod log;
pub mod profile;
pub mod route;
mod rule;

/// Turns one namespace into resources, and remembers them to share what did not change.
#[derive(Debug, Default)]
pub struct Translator {
    /// What was translated last.
    before: Option<MeshNamespace>,
    services: BTreeMap<ServiceKey, Translated>,
    described: Described,
    tables: Tables,
}

/// What follows from all descriptions together.
#[derive(Debug, Default)]
struct Described {
    names: BTreeMap<ServiceKey, Names>,
    /// The Host-routed listener for `HTTP_PROXY` and its routes.
    proxy: Vec<Arc<Resource>>,
}

/// A service's resources, with the model that they were made from.
#[derive(Clone, Debug)]
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
    api_listeners: Vec<Arc<Resource>>,
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
        if touched.is_described_anew {
            gone.append(&mut self.described.proxy);
            self.described = Described::of(namespace);
            come.extend(self.described.proxy.iter().cloned());
        }
        for key in touched.services {
            let before = self.services.remove(&key);
            let old: Vec<_> = before.iter().flat_map(Translated::resources).cloned().collect();
            let now = namespace.get(&key).map(|service| {
                let other = others(&key.namespace).and_then(|other| other.services.get(&key));
                let before = other.filter(|other| other.is_of(service)).cloned().or(before);
                Translated::renewed(before, service, namespace, self.described.names.get(&key))
            });
            let new: Vec<_> = now.iter().flat_map(Translated::resources).cloned().collect();
            gone.extend(without(&old, &new));
            come.extend(without(&new, &old));
            self.services.extend(now.map(|now| (key, now)));
        }
        // First what goes: a name may pass from one service to another.
        gone.iter().for_each(|resource| self.tables.remove(resource.kind, &resource.name));
        come.into_iter().for_each(|resource| self.tables.insert(resource));
        self.before = Some(namespace.clone());
        self.tables.clone()
    }

    /// What may have to be said anew since the last translation.
    fn touched(&self, namespace: &MeshNamespace) -> Touched {
        let all = || namespace.all().map(|service| service.spec.key.clone());
        let Some(before) = &self.before else {
            return Touched { is_described_anew: true, services: all().collect() };
        };
        let others = before.imported.services.keys().chain(namespace.imported.services.keys());
        let names: BTreeSet<_> = std::iter::once(&namespace.name).chain(others).collect();
        let (mut services, empty) = (BTreeSet::new(), Services::new());
        let mut is_described_anew = (&before.addresses, &before.defaults, &before.imported.addresses)
            != (&namespace.addresses, &namespace.defaults, &namespace.imported.addresses);
        for name in names {
            let (old, new) = (before.of(name).unwrap_or(&empty), namespace.of(name).unwrap_or(&empty));
            for change in old.diff(new) {
                let (service, anew) = match change {
                    DiffItem::Update { old: (_, old), new: (name, new) } => {
                        (name, !Arc::ptr_eq(&old.spec, &new.spec))
                    }
                    DiffItem::Add(name, _) | DiffItem::Remove(name, _) => (name, true),
                };
                is_described_anew |= anew;
                services.insert(ServiceKey { namespace: name.clone(), name: service.clone() });
            }
        }
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
    services: BTreeSet<ServiceKey>,
}

impl Described {
    fn of(namespace: &MeshNamespace) -> Self {
        let specs: Vec<_> = namespace.all().map(|service| Arc::clone(&service.spec)).collect();
        let names = host::names(&namespace.name, &specs);
        let is_there = |key: &ServiceKey| namespace.get(key).is_some();
        let routes = route::proxy_routes(&namespace.name, &specs, &names, &is_there);
        let listener = listener::proxy_listener(&namespace.name, &namespace.defaults);
        Self { names, proxy: vec![Arc::new(routes), Arc::new(listener)] }
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
        let is_there = |name: &ServiceName| neighbours.is_some_and(|services| services.contains_key(name));
        let addresses = listener::addresses(namespace, spec);
        let missing: Vec<_> = spec
            .rules
            .iter()
            .flat_map(Rule::backends)
            .map(|backend| backend.service.clone())
            .filter(|name| !is_there(name))
            .collect();
        let old = old.filter(|old| Arc::ptr_eq(&old.spec, spec));
        let assignments = match &old {
            Some(old) if Arc::ptr_eq(&old.endpoints, endpoints) => old.assignments.clone(),
            _ => versions(spec)
                .map(|version| Arc::new(endpoint::load_assignment(&spec.key, version, endpoints)))
                .collect(),
        };
        let (own, api_listeners) = old.map_or_else(Default::default, |old| {
            let own = (old.addresses == addresses && old.missing == missing).then_some(old.own);
            (own, (old.names.as_ref() == names).then_some(old.api_listeners))
        });
        Self {
            assignments,
            own: own.unwrap_or_else(|| spec_resources(spec, &addresses, &is_there)),
            api_listeners: api_listeners.unwrap_or_else(|| api_listeners_of(spec, names)),
            spec: Arc::clone(spec),
            endpoints: Arc::clone(endpoints),
            addresses,
            missing,
            names: names.cloned(),
        }
    }

    fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.assignments.iter().chain(&self.own).chain(&self.api_listeners)
    }
}

/// The service as a whole, and each version of it that a rule names.
fn versions(spec: &ServiceSpec) -> impl Iterator<Item = Option<&str>> {
    std::iter::once(None).chain(spec.versions.iter().map(|version| Some(&**version)))
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
