//! The model turned into Envoy's words: one namespace in, its encoded resources out.
//!
//! It is not a policy engine and knows no sidecar: how Envoy treats a service is in the model, and the
//! numbers where the model says nothing are in [`profile`].
//!
//! Invariant: pure. An unchanged service keeps its `Arc<Resource>`s; the same model gives the same bytes in
//! any process, which holds because no message here has a protobuf map with more than one entry.

use std::collections::HashMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ApiVersion, ConfigSource, config_source::ConfigSourceSpecifier,
};
use envoy_types::pb::google::protobuf::{Duration as ProtoDuration, UInt32Value};

use crate::model::{Endpoint, MeshNamespace, ServiceName, ServiceSpec};
use crate::snapshot::{Resource, Tables};

pub mod cluster;
pub mod endpoint;
pub mod listener;
pub mod profile;
pub mod route;

/// Turns one namespace into resources, and remembers them to share what did not change.
#[derive(Debug, Default)]
pub struct Translator {
    services: HashMap<ServiceName, Translated>,
    proxy: Option<Proxy>,
}

/// The Host-routed proxy's resources, with the descriptions that they were made from.
#[derive(Debug)]
struct Proxy {
    specs: Vec<Arc<ServiceSpec>>,
    resources: Vec<Arc<Resource>>,
}

/// A service's resources, with the model that they were made from.
#[derive(Debug)]
struct Translated {
    spec: Arc<ServiceSpec>,
    endpoints: Arc<[Endpoint]>,
    addresses: Vec<std::net::Ipv4Addr>,
    assignment: Arc<Resource>,
    others: Vec<Arc<Resource>>,
}

impl Translator {
    /// The resources of `namespace`, closed: whatever a resource refers to is among them.
    pub fn translate(&mut self, namespace: &MeshNamespace) -> Tables {
        let mut tables = Tables::default();
        let mut before = std::mem::take(&mut self.services);
        for (name, service) in &namespace.services {
            let addresses = listener::addresses(namespace, &service.spec);
            let translated = match before.remove(name) {
                Some(old) if Arc::ptr_eq(&old.spec, &service.spec) && old.addresses == addresses => {
                    if Arc::ptr_eq(&old.endpoints, &service.endpoints) {
                        old
                    } else {
                        let assignment =
                            Arc::new(endpoint::load_assignment(&service.spec.key, &service.endpoints));
                        Translated { endpoints: Arc::clone(&service.endpoints), assignment, ..old }
                    }
                }
                _ => Translated {
                    spec: Arc::clone(&service.spec),
                    endpoints: Arc::clone(&service.endpoints),
                    assignment: Arc::new(endpoint::load_assignment(&service.spec.key, &service.endpoints)),
                    others: spec_resources(&service.spec, &addresses),
                    addresses,
                },
            };
            tables.insert(Arc::clone(&translated.assignment));
            translated.others.iter().cloned().for_each(|resource| tables.insert(resource));
            self.services.insert(name.clone(), translated);
        }
        self.translate_proxy(namespace).iter().cloned().for_each(|resource| tables.insert(resource));
        tables
    }

    /// The Host-routed listener for `HTTP_PROXY` and its routes, which depend on descriptions only.
    fn translate_proxy(&mut self, namespace: &MeshNamespace) -> &[Arc<Resource>] {
        let specs: Vec<_> = namespace.services.values().map(|service| Arc::clone(&service.spec)).collect();
        let before = self.proxy.take().filter(|old| {
            old.specs.len() == specs.len()
                && old.specs.iter().zip(&specs).all(|(old, new)| Arc::ptr_eq(old, new))
        });
        let proxy = self.proxy.insert(before.unwrap_or_else(|| {
            let routes = route::proxy_routes(&namespace.name, &specs);
            let listener = listener::proxy_listener(&namespace.name);
            Proxy { specs, resources: vec![Arc::new(routes), Arc::new(listener)] }
        }));
        &proxy.resources
    }
}

/// What follows from a service's description alone: its cluster, routes and listeners.
fn spec_resources(spec: &ServiceSpec, addresses: &[std::net::Ipv4Addr]) -> Vec<Arc<Resource>> {
    let mut resources = vec![cluster::cluster(spec)];
    if spec.protocol.is_http() {
        resources.push(route::service_routes(spec));
    }
    let listeners = spec.aliases.iter().zip(addresses);
    resources.extend(listeners.map(|(alias, address)| listener::alias_listener(spec, alias, *address)));
    resources.into_iter().map(Arc::new).collect()
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
