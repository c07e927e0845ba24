//! RDS: one `RouteConfiguration` for each alias of an HTTP service, one for the service, which gRPC libraries ask
//! for, and one that routes by Host for `HTTP_PROXY`.
//!
//! It is not about TCP, whose listeners name their cluster themselves.
//!
//! Invariant: no two virtual hosts of a configuration share a domain, which Envoy would refuse.

use std::collections::BTreeMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
    retry_policy::{RetryBackOff, RetryHostPredicate, retry_host_predicate},
    route, route_action, route_match,
};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use super::host::Names;
use super::{cluster, number, profile, proto};
use crate::model::{Alias, Namespace, ServiceName, ServiceSpec};
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

/// Whatever comes to an alias's listener goes to the service.
pub fn alias_routes(spec: &ServiceSpec, alias: &Alias) -> Resource {
    everything_to(spec, alias_name(spec, alias)).only_for(ProxyClass::Sidecar)
}

/// The same for a gRPC library that was told to reach one of the service's names.
pub fn service_routes(spec: &ServiceSpec) -> Resource {
    everything_to(spec, service_name(spec)).only_for(ProxyClass::Grpc)
}

fn everything_to(spec: &ServiceSpec, name: Name) -> Resource {
    let routes = RouteConfiguration {
        name: name.to_string(),
        virtual_hosts: vec![virtual_host(spec, vec!["*".to_owned()])],
        ..Default::default()
    };
    Resource::encode(ResourceType::Route, name, &routes)
        .depending_on([(ResourceType::Cluster, cluster::name(&spec.key))])
}

/// Routes by Host to every HTTP service that has `names`; an unknown host gets 404 with the reason.
pub fn proxy_routes(
    namespace: &Namespace,
    specs: &[Arc<ServiceSpec>],
    names: &BTreeMap<ServiceName, Names>,
) -> Resource {
    let name = proxy_name(namespace);
    let named = || specs.iter().filter_map(|spec| Some((spec, names.get(&spec.key.name)?)));
    let domains = |names: &Names| names.iter().map(ToString::to_string).collect();
    let mut virtual_hosts: Vec<_> = named().map(|(spec, names)| virtual_host(spec, domains(names))).collect();
    virtual_hosts.push(no_such_name());
    let routes = RouteConfiguration { name: name.to_string(), virtual_hosts, ..Default::default() };
    let clusters = named().map(|(spec, _)| (ResourceType::Cluster, cluster::name(&spec.key)));
    Resource::encode(ResourceType::Route, name, &routes).depending_on(clusters)
}

fn virtual_host(spec: &ServiceSpec, domains: Vec<String>) -> VirtualHost {
    VirtualHost {
        name: spec.key.to_string(),
        domains,
        routes: vec![Route {
            r#match: Some(everything()),
            action: Some(route::Action::Route(RouteAction {
                cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(spec.key.to_string())),
                // Zero must be said: Envoy takes silence for 15 s.
                timeout: Some(proto(spec.knobs.request_timeout.unwrap_or(profile::REQUEST_TIMEOUT))),
                retry_policy: retry_policy(spec.knobs.retry_attempts.unwrap_or(profile::RETRY_ATTEMPTS)),
                ..Default::default()
            })),
            ..Default::default()
        }],
        ..Default::default()
    }
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

fn retry_policy(attempts: u32) -> Option<RetryPolicy> {
    let previous_hosts = Any {
        type_url: "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
            .to_owned(),
        value: PreviousHostsPredicate {}.encode_to_vec(),
    };
    (attempts > 0).then(|| RetryPolicy {
        retry_on: profile::RETRY_ON.to_owned(),
        num_retries: Some(number(attempts)),
        retriable_status_codes: profile::RETRY_CODES.to_vec(),
        retry_host_predicate: vec![RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
            config_type: Some(retry_host_predicate::ConfigType::TypedConfig(previous_hosts)),
        }],
        host_selection_retry_max_attempts: profile::RETRY_HOST_ATTEMPTS,
        retry_back_off: Some(RetryBackOff {
            base_interval: Some(proto(profile::RETRY_BACKOFF)),
            max_interval: Some(proto(profile::RETRY_BACKOFF_MAX)),
        }),
        ..Default::default()
    })
}
