//! RDS: one `RouteConfiguration` for each alias of an HTTP service, one for the service, which gRPC libraries ask
//! for, and one that routes by Host for `HTTP_PROXY`.
//!
//! It is not about TCP, whose listeners name their cluster themselves.
//!
//! Invariant: no two virtual hosts of a configuration share a domain, which Envoy would refuse.

use std::collections::BTreeMap;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::config::route::v3::{DirectResponseAction, Route, route};
use prost::Message;

use super::host::Names;
use super::rule::{self, IsThere};
use super::{cluster, limit, raw};
use crate::model::{Alias, Namespace, Rule, ServiceSpec};
use crate::snapshot::{Name, ProxyClass, Resource, ResourceType};

/// The name of an alias's listener and of its routes. It is not the service's, so that a listener stays as it is,
/// and its connections too, when the alias goes over to another service.
pub fn alias_name(spec: &ServiceSpec, alias: &Alias) -> Name {
    format!("{}/{alias}", spec.key.namespace).into()
}

/// The name of a service's route configuration: that of its cluster.
pub fn service_name(spec: &ServiceSpec) -> Name {
    cluster::name(&spec.key)
}

/// The name of the Host-routed listener and of its routes. `@` is in no service's name.
pub fn proxy_name(namespace: &Namespace) -> Name {
    format!("{namespace}/@http-proxy").into()
}

/// Whatever comes to an alias's listener goes where the service's rules say, and at last to the service.
pub fn alias_routes(spec: &ServiceSpec, alias: &Alias, is_there: IsThere<'_>) -> Resource {
    everything_to(spec, alias_name(spec, alias), is_there, true).only_for(ProxyClass::Sidecar)
}

/// The same for a gRPC library that was told to reach one of the service's names.
pub fn service_routes(spec: &ServiceSpec, is_there: IsThere<'_>) -> Resource {
    everything_to(spec, service_name(spec), is_there, false).only_for(ProxyClass::Grpc)
}

fn everything_to(spec: &ServiceSpec, name: Name, is_there: IsThere<'_>, with_filters: bool) -> Resource {
    let host = virtual_host(spec, vec!["*".to_owned()], is_there, with_filters);
    configuration(name, vec![host]).depending_on(clusters(spec, is_there))
}

/// A service at the Host-routed proxy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// Its virtual host, encoded.
    bytes: Bytes,
    /// Where it leads.
    clusters: Vec<(ResourceType, Name)>,
}

/// An HTTP service that has `names` as the proxy routes to it.
pub fn host(spec: &ServiceSpec, names: &Names, is_there: IsThere<'_>) -> Host {
    let domains = names.iter().map(ToString::to_string).collect();
    Host { bytes: virtual_host(spec, domains, is_there, true), clusters: clusters(spec, is_there).collect() }
}

/// Routes by Host to these services; an unknown host gets 404 with the reason.
pub fn proxy_routes<'a>(namespace: &Namespace, hosts: impl Iterator<Item = &'a Host> + Clone) -> Resource {
    let clusters = hosts.clone().flat_map(|host| host.clusters.iter().cloned());
    let virtual_hosts = hosts.map(|host| host.bytes.clone()).chain([no_such_name()]).collect();
    configuration(proxy_name(namespace), virtual_hosts).depending_on(clusters)
}

fn configuration(name: Name, virtual_hosts: Vec<Bytes>) -> Resource {
    let routes = raw::RouteConfiguration { name: name.to_string(), virtual_hosts };
    Resource::encode(ResourceType::Route, name, &routes)
}

fn virtual_host(
    spec: &ServiceSpec,
    domains: Vec<String>,
    is_there: IsThere<'_>,
    with_filters: bool,
) -> Bytes {
    let limit = spec.knobs.outbound_limit.as_ref().filter(|_| with_filters);
    let limit = limit.map(|limit| (limit::FILTER.to_owned(), limit::of_requests(limit)));
    let host = raw::VirtualHost {
        name: spec.key.to_string(),
        domains,
        routes: rule::routes(spec, is_there, with_filters).into_iter().map(raw::route).collect(),
        typed_per_filter_config: BTreeMap::from_iter(limit),
    };
    host.encode_to_vec().into()
}

/// Every cluster that a service's routes may lead to.
fn clusters<'a>(
    spec: &'a ServiceSpec,
    is_there: IsThere<'a>,
) -> impl Iterator<Item = (ResourceType, Name)> + 'a {
    let backends = spec.rules.iter().flat_map(Rule::backends);
    let named = backends.filter(move |backend| is_there(&backend.service));
    let named = named.map(|backend| rule::cluster_of(spec, backend).into());
    std::iter::once(cluster::name(&spec.key)).chain(named).map(|name| (ResourceType::Cluster, name))
}

fn no_such_name() -> Bytes {
    let reason = HeaderValue {
        key: "x-legation-reason".to_owned(),
        value: "no-such-name".to_owned(),
        ..Default::default()
    };
    let route = Route {
        r#match: Some(rule::everything()),
        action: Some(route::Action::DirectResponse(DirectResponseAction {
            status: 404,
            ..Default::default()
        })),
        response_headers_to_add: vec![HeaderValueOption { header: Some(reason), ..Default::default() }],
        ..Default::default()
    };
    let host = raw::VirtualHost {
        name: "@no-such-name".to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![raw::route(route)],
        ..Default::default()
    };
    host.encode_to_vec().into()
}
