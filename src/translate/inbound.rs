//! The other side: what a service's own sidecars need to take its requests in, where the application leaves that to them.
//!
//! It is not about clients, who find the sidecar's port in the place of the application's in the load assignment.
//!
//! Invariant: seen only in tasks of the service that have the port it leads to; and no listener holds what a limit may
//! change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use envoy_types::pb::envoy::config::cluster::v3::{Cluster, cluster as kinds};
use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as EnvoyEndpoint, LbEndpoint, LocalityLbEndpoints,
    lb_endpoint::HostIdentifier,
};
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
use envoy_types::pb::envoy::config::route::v3::{Route, RouteAction, route, route_action};
use prost::Message;

use super::{cluster, endpoint, limit, listener, profile, proto, raw, rule};
use crate::model::{Endpoint, ServiceSpec};
use crate::snapshot::{Home, Name, ProxyClass, Resource, ResourceType};

/// The port on which sidecars of the service listen, if they do.
pub(super) fn port(spec: &ServiceSpec) -> Option<u16> {
    spec.knobs.inbound_port.filter(|port| *port != 0)
}

/// The ports on which its applications listen.
pub(super) fn ports(spec: &ServiceSpec, endpoints: &[Endpoint]) -> BTreeSet<u16> {
    let listens = port(spec).is_some();
    let alone = endpoints.iter().filter(|endpoint| listens && endpoint.is_alone);
    alone.filter_map(|endpoint| endpoint.port).collect()
}

/// The listener, its routes and the cluster behind them, for tasks whose application listens on `application`.
pub(super) fn resources(spec: &ServiceSpec, application: u16) -> Vec<Resource> {
    let Some(port) = port(spec) else { return Vec::new() };
    let key = &spec.key;
    // A name may go over to another ECS service, whose sidecars must be told.
    let name: Name = format!("{}/@inbound/{}/{}:{application}", key.namespace, spec.home, key.name).into();
    let home = Home { service: spec.home.shared(), port: application };
    let mut resources = vec![local_cluster(spec, &name, application), bound(spec, &name, port)];
    if spec.protocol.is_http() {
        resources.push(routes(spec, &name));
    }
    let own = |resource: Resource| resource.only_for(ProxyClass::Sidecar).at_home(home.clone());
    resources.into_iter().map(own).collect()
}

/// The application, on the loopback that it shares with its sidecar.
fn local_cluster(spec: &ServiceSpec, name: &Name, application: u16) -> Resource {
    let address = endpoint::socket_address(IpAddr::V4(Ipv4Addr::LOCALHOST), application);
    let host = EnvoyEndpoint { address: Some(address), ..Default::default() };
    let host = LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(host)), ..Default::default() };
    let locality = LocalityLbEndpoints { lb_endpoints: vec![host], ..Default::default() };
    let cluster = Cluster {
        name: name.to_string(),
        cluster_discovery_type: Some(kinds::ClusterDiscoveryType::Type(kinds::DiscoveryType::Static.into())),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.to_string(),
            endpoints: vec![locality],
            ..Default::default()
        }),
        connect_timeout: Some(proto(profile::CONNECT_TIMEOUT)),
        circuit_breakers: Some(cluster::no_limits()),
        typed_extension_protocol_options: cluster::http_options(spec).into_iter().collect(),
        ..Default::default()
    };
    Resource::encode(ResourceType::Cluster, Name::clone(name), &cluster)
}

fn bound(spec: &ServiceSpec, name: &Name, port: u16) -> Resource {
    let (filters, depends_on) = if spec.protocol.is_http() {
        (vec![listener::http_filter(name, name, &spec.knobs)], ResourceType::Route)
    } else {
        (listener::tcp_filters(spec, name, name, spec.knobs.inbound_limit.as_ref()), ResourceType::Cluster)
    };
    let listener = Listener {
        name: name.to_string(),
        address: Some(endpoint::socket_address(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)),
        traffic_direction: TrafficDirection::Inbound.into(),
        filter_chains: vec![FilterChain { filters, ..Default::default() }],
        ..Default::default()
    };
    Resource::encode(ResourceType::Listener, Name::clone(name), &listener)
        .binding(port)
        .depending_on([(depends_on, Name::clone(name))])
}

/// Everything goes to the application, for as long as the client waits, and is tried once.
fn routes(spec: &ServiceSpec, name: &Name) -> Resource {
    let action = RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(name.to_string())),
        timeout: Some(proto(std::time::Duration::ZERO)),
        ..Default::default()
    };
    let route = Route {
        r#match: Some(rule::everything()),
        action: Some(route::Action::Route(action)),
        ..Default::default()
    };
    let limit =
        spec.knobs.inbound_limit.as_ref().map(|it| (limit::FILTER.to_owned(), limit::of_requests(it)));
    let host = raw::VirtualHost {
        name: spec.key.to_string(),
        domains: vec!["*".to_owned()],
        routes: vec![raw::route(route)],
        typed_per_filter_config: BTreeMap::from_iter(limit),
    };
    let virtual_hosts = vec![host.encode_to_vec().into()];
    let routes = raw::RouteConfiguration { name: name.to_string(), virtual_hosts };
    Resource::encode(ResourceType::Route, Name::clone(name), &routes)
        .depending_on([(ResourceType::Cluster, Name::clone(name))])
}
