//! RDS: one `RouteConfiguration` for each alias of an HTTP service, one for the service, which gRPC libraries ask
//! for, and one that routes by Host for `HTTP_PROXY`.
//!
//! It is not about TCP, whose listeners name their cluster themselves.
//!
//! Invariant: no two virtual hosts of a configuration share a domain, which Envoy would refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, Route, RouteConfiguration, RouteMatch, VirtualHost, route, route_match,
};

use super::host::Names;
use super::rule::{self, Find};
use super::{cluster, shift};
use crate::model::{Alias, Backend, Namespace, Rule, ServiceName, ServiceSpec};
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
pub fn alias_routes(spec: &ServiceSpec, alias: &Alias, find: Find<'_>) -> Resource {
    everything_to(spec, alias_name(spec, alias), find, true).only_for(ProxyClass::Sidecar)
}

/// The same for a gRPC library that was told to reach one of the service's names.
pub fn service_routes(spec: &ServiceSpec, find: Find<'_>) -> Resource {
    everything_to(spec, service_name(spec), find, false).only_for(ProxyClass::Grpc)
}

fn everything_to(spec: &ServiceSpec, name: Name, find: Find<'_>, with_filters: bool) -> Resource {
    let routes = rule::routes(spec, find, with_filters);
    let routes = RouteConfiguration {
        name: name.to_string(),
        virtual_hosts: vec![virtual_host(spec, vec!["*".to_owned()], routes)],
        ..Default::default()
    };
    Resource::encode(ResourceType::Route, name, &routes).depending_on(clusters(spec, find))
}

/// Routes by Host to every HTTP service that has `names`; an unknown host gets 404 with the reason.
pub fn proxy_routes(
    namespace: &Namespace,
    specs: &[Arc<ServiceSpec>],
    names: &BTreeMap<ServiceName, Names>,
    find: Find<'_>,
) -> Resource {
    let name = proxy_name(namespace);
    let named = || specs.iter().filter_map(|spec| Some((spec, names.get(&spec.key.name)?)));
    let domains = |names: &Names| names.iter().map(ToString::to_string).collect();
    let host = |(spec, names): (&Arc<ServiceSpec>, _)| {
        virtual_host(spec, domains(names), rule::routes(spec, find, true))
    };
    let mut virtual_hosts: Vec<_> = named().map(host).collect();
    virtual_hosts.push(no_such_name());
    let routes = RouteConfiguration { name: name.to_string(), virtual_hosts, ..Default::default() };
    let clusters = named().flat_map(|(spec, _)| clusters(spec, find));
    Resource::encode(ResourceType::Route, name, &routes).depending_on(clusters)
}

fn virtual_host(spec: &ServiceSpec, domains: Vec<String>, routes: Vec<Route>) -> VirtualHost {
    VirtualHost { name: spec.key.to_string(), domains, routes, ..Default::default() }
}

/// Every cluster that a service's routes may lead to.
fn clusters(spec: &ServiceSpec, find: Find<'_>) -> BTreeSet<(ResourceType, Name)> {
    let itself = Backend::all_of(&spec.key.name);
    let mut names = BTreeSet::from([cluster::name(&spec.key)]);
    names.extend(shift::tested(spec).into_iter().map(|(name, _)| name.into()));
    names.extend(shift::clusters_of(spec, &itself, find).into_iter().map(|(name, _)| name.into()));
    for backend in spec.rules.iter().flat_map(Rule::backends) {
        if find(&backend.service).is_some() {
            names.insert(shift::cluster_of(spec, backend).into());
            names.extend(shift::clusters_of(spec, backend, find).into_iter().map(|(name, _)| name.into()));
        }
    }
    names.into_iter().map(|name| (ResourceType::Cluster, name)).collect()
}

fn no_such_name() -> VirtualHost {
    let reason = HeaderValue {
        key: "x-legation-reason".to_owned(),
        value: "no-such-name".to_owned(),
        ..Default::default()
    };
    VirtualHost {
        name: "@no-such-name".to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![Route {
            r#match: Some(everything()),
            action: Some(route::Action::DirectResponse(DirectResponseAction {
                status: 404,
                ..Default::default()
            })),
            response_headers_to_add: vec![HeaderValueOption { header: Some(reason), ..Default::default() }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn everything() -> RouteMatch {
    let prefix = route_match::PathSpecifier::Prefix("/".to_owned());
    RouteMatch { path_specifier: Some(prefix), ..Default::default() }
}
