//! LDS: one `Listener` for each alias at its loopback address, the Host-routed one for `HTTP_PROXY`, and one
//! that binds nothing for each name by which a gRPC library may ask.
//!
//! It is not about who may have which listener: the port trap is the slice's business.
//!
//! Invariant: no listener holds what a route or an endpoint may change, because a changed listener drains.

use std::net::{IpAddr, Ipv4Addr};

use envoy_types::pb::envoy::config::core::v3::{Http1ProtocolOptions, HttpProtocolOptions, TrafficDirection};
use envoy_types::pb::envoy::config::listener::v3::{ApiListener, Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds,
    http_connection_manager::{CodecType, RouteSpecifier, ServerHeaderTransformation, UpgradeConfig},
    http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use super::{ads, cluster, endpoint, limit, log, number, probe, profile, proto, route, rule};
use crate::model::{Alias, Knobs, MeshNamespace, Namespace, RateLimit, ServiceSpec};
use crate::snapshot::{Name, ProxyClass, Resource, ResourceType};
use crate::vip;

const MANAGER: &str = "type.googleapis.com/\
    envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// The loopback address of each alias of a service, in the order of its aliases.
pub fn addresses(namespace: &MeshNamespace, spec: &ServiceSpec) -> Vec<Ipv4Addr> {
    let address =
        |alias: &Alias| namespace.addresses.get(vip::base_name(namespace.name.as_str(), &alias.name));
    spec.aliases.iter().filter_map(|alias| address(alias).copied()).collect()
}

/// The listener of one alias: `prod/payments:8080`.
pub fn alias_listener(spec: &ServiceSpec, alias: &Alias, address: Ipv4Addr) -> Resource {
    let name = route::alias_name(spec, alias);
    at(spec, name.clone(), &name, (address, alias.port))
}

/// The same on a port of 127.0.0.1. No service can have that name, nor another alias that port.
pub fn local_listener(spec: &ServiceSpec, alias: &Alias, port: u16) -> Resource {
    let name = format!("{}/@localhost:{port}", spec.key.namespace).into();
    at(spec, name, &route::alias_name(spec, alias), (Ipv4Addr::LOCALHOST, port))
}

fn at(spec: &ServiceSpec, name: Name, routes: &Name, place: (Ipv4Addr, u16)) -> Resource {
    let (filters, depends_on) = if spec.protocol.is_http() {
        (vec![http_filter(&name, routes, &spec.knobs)], (ResourceType::Route, Name::clone(routes)))
    } else {
        let cluster = cluster::name(&spec.key);
        let filters = tcp_filters(spec, &name, &cluster, spec.knobs.outbound_limit.as_ref());
        (filters, (ResourceType::Cluster, cluster))
    };
    listener(name, place, filters).depending_on([depends_on])
}

/// The listener that routes by Host, for applications with `HTTP_PROXY=http://127.0.0.1:15001`.
pub fn proxy_listener(namespace: &Namespace, defaults: &Knobs) -> Resource {
    let name = route::proxy_name(namespace);
    let filter = http_filter(&name, &name, defaults);
    listener(Name::clone(&name), (Ipv4Addr::LOCALHOST, profile::PROXY_PORT), vec![filter])
        .depending_on([(ResourceType::Route, name)])
}

fn listener(name: Name, (address, port): (Ipv4Addr, u16), filters: Vec<Filter>) -> Resource {
    let listener = Listener {
        name: name.to_string(),
        address: Some(endpoint::socket_address(IpAddr::V4(address), port)),
        traffic_direction: TrafficDirection::Outbound.into(),
        filter_chains: vec![FilterChain { filters, ..Default::default() }],
        ..Default::default()
    };
    Resource::encode(ResourceType::Listener, name, &listener).binding(port).only_for(ProxyClass::Sidecar)
}

/// What a gRPC library asks for that was told to reach `name`: the service's routes, and no address.
pub fn api_listener(spec: &ServiceSpec, name: &str) -> Resource {
    let routes = route::service_name(spec);
    let manager = manager(name, &routes);
    let manager = Any { type_url: MANAGER.to_owned(), value: manager.encode_to_vec() };
    let listener = Listener {
        name: name.to_string(),
        api_listener: Some(ApiListener { api_listener: Some(manager) }),
        ..Default::default()
    };
    Resource::encode(ResourceType::Listener, name.into(), &listener)
        .depending_on([(ResourceType::Route, routes)])
        .only_for(ProxyClass::Grpc)
}

pub(super) fn http_filter(stat: &str, routes: &str, knobs: &Knobs) -> Filter {
    let idle = knobs.idle_timeout.unwrap_or(profile::HTTP_IDLE_TIMEOUT);
    let fault = Any { type_url: rule::FAULT_TYPE.to_owned(), value: HttpFault::default().encode_to_vec() };
    let mut manager = manager(stat, routes);
    // What they do is said by routes, so that no listener changes when a rule does.
    let limit = http_filter_of(limit::FILTER, limit::filter());
    let fault = http_filter_of(rule::FAULT_FILTER, fault);
    manager.http_filters.splice(0..0, [limit, fault]);
    let manager = HttpConnectionManager {
        codec_type: CodecType::Auto.into(),
        common_http_protocol_options: Some(HttpProtocolOptions {
            idle_timeout: Some(proto(idle)),
            ..Default::default()
        }),
        http_protocol_options: probe::header_key_format(knobs)
            .map(|format| Http1ProtocolOptions { header_key_format: Some(format), ..Default::default() }),
        max_request_headers_kb: knobs.max_header_kilobytes.map(number),
        stream_idle_timeout: Some(proto(knobs.stream_idle_timeout.unwrap_or(idle))),
        access_log: log::access_log(knobs).into_iter().collect(),
        upgrade_configs: vec![UpgradeConfig { upgrade_type: "websocket".to_owned(), ..Default::default() }],
        // What the application answers is the application's.
        server_header_transformation: ServerHeaderTransformation::PassThrough.into(),
        ..manager
    };
    filter("envoy.filters.network.http_connection_manager", MANAGER, &manager)
}

/// What every client of ours needs: routes over the stream that it has, and the router behind them.
fn manager(stat: &str, routes: &str) -> HttpConnectionManager {
    let router = Any {
        type_url: "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router".to_owned(),
        value: Router::default().encode_to_vec(),
    };
    HttpConnectionManager {
        stat_prefix: stat.to_owned(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: routes.to_owned(),
        })),
        http_filters: vec![http_filter_of("envoy.filters.http.router", router)],
        ..Default::default()
    }
}

fn http_filter_of(name: &str, config: Any) -> HttpFilter {
    let config_type = Some(http_filter::ConfigType::TypedConfig(config));
    HttpFilter { name: name.to_owned(), config_type, ..Default::default() }
}

/// What becomes of connections to a TCP service: at most so many, to one cluster.
pub(super) fn tcp_filters(
    spec: &ServiceSpec,
    stat: &str,
    cluster: &str,
    limit: Option<&RateLimit>,
) -> Vec<Filter> {
    let limit =
        limit.map(|it| filter(limit::NETWORK_FILTER, limit::NETWORK_TYPE, &limit::of_connections(it)));
    limit.into_iter().chain([tcp_filter(spec, stat, cluster)]).collect()
}

fn tcp_filter(spec: &ServiceSpec, stat: &str, cluster: &str) -> Filter {
    let idle = spec.knobs.idle_timeout.unwrap_or(profile::TCP_IDLE_TIMEOUT);
    let retries = spec.knobs.retry_attempts.unwrap_or(profile::RETRY_ATTEMPTS);
    let proxy = TcpProxy {
        stat_prefix: stat.to_owned(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned())),
        idle_timeout: Some(proto(idle)),
        max_connect_attempts: Some(number(retries + 1)),
        access_log: log::access_log(&spec.knobs).into_iter().collect(),
        ..Default::default()
    };
    filter(
        "envoy.filters.network.tcp_proxy",
        "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        &proxy,
    )
}

fn filter(name: &str, type_url: &str, config: &impl Message) -> Filter {
    let config = Any { type_url: type_url.to_owned(), value: config.encode_to_vec() };
    Filter { name: name.to_owned(), config_type: Some(filter::ConfigType::TypedConfig(config)) }
}
