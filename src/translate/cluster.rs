//! CDS: one `Cluster` for each service, and one for each version of it that a rule names.
//!
//! It is not about endpoints, which come over EDS: nothing volatile may be in here, or connection pools are
//! rebuilt.
//!
//! Invariant: follows from the description alone.

use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster, OutlierDetection, UpstreamConnectionOptions,
    circuit_breakers::{Thresholds, thresholds},
    cluster,
    cluster::common_lb_config::LocalityConfigSpecifier,
    cluster::{DiscoveryType, DnsLookupFamily},
};
use envoy_types::pb::envoy::config::core::v3::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as CommonHttpOptions, RoutingPriority,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions,
    http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
    },
};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::{Any, UInt64Value};
use prost::Message;

use super::{ads, endpoint, number, probe, profile, proto};
use crate::model::{Balancing, Knobs, Protocol, ServiceKey, ServiceSpec};
use crate::snapshot::{Name, Resource, ResourceType};

/// The name of a service's cluster, and of its load assignment: `prod/payments`.
pub fn name(key: &ServiceKey) -> Name {
    key.to_string().into()
}

/// The same of one version of a service: `prod/payments@58`. `@` is in no service's name.
pub fn version_name(key: &ServiceKey, version: Option<&str>) -> Name {
    match version {
        Some(version) => format!("{key}@{version}").into(),
        None => name(key),
    }
}

/// The cluster of a service, or of one version of it.
pub fn cluster(spec: &ServiceSpec, version: Option<&str>) -> Resource {
    let (name, knobs) = (version_name(&spec.key, version), &spec.knobs);
    let panic = knobs.panic_percent.unwrap_or(profile::PANIC_THRESHOLD_PERCENT);
    let (lb_policy, lb_config) = balancer(knobs);
    let hosts = &spec.reach.hosts;
    let discovery = match hosts.len() {
        0 => DiscoveryType::Eds,
        1 => DiscoveryType::LogicalDns, // which gRPC libraries know too
        _ => DiscoveryType::StrictDns,
    };
    let eds = cluster::EdsClusterConfig { eds_config: Some(ads()), service_name: String::new() }; // the cluster's name
    let cluster = Cluster {
        name: name.to_string(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(discovery.into())),
        eds_cluster_config: hosts.is_empty().then_some(eds),
        load_assignment: (!hosts.is_empty()).then(|| endpoint::of_hosts(&name, hosts)),
        dns_lookup_family: if hosts.is_empty() {
            DnsLookupFamily::Auto
        } else {
            DnsLookupFamily::V4Preferred
        }
        .into(),
        connect_timeout: Some(proto(knobs.connect_timeout.unwrap_or(profile::CONNECT_TIMEOUT))),
        lb_policy: lb_policy.into(),
        lb_config,
        common_lb_config: Some(cluster::CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: panic.into() }),
            // Envoy would hold health-only updates back for a second.
            update_merge_window: Some(proto(std::time::Duration::ZERO)),
            locality_config_specifier: Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zones(knobs))),
            ..Default::default()
        }),
        // ECS is the authority: an endpoint that it took away goes, whatever a check says.
        ignore_health_on_host_removal: true,
        outlier_detection: Some(outlier_detection(knobs)),
        health_checks: knobs
            .health_check
            .iter()
            .map(|check| probe::health_check(check, spec.protocol))
            .collect(),
        upstream_connection_options: knobs.tcp_keepalive.map(|keepalive| UpstreamConnectionOptions {
            tcp_keepalive: Some(probe::keepalive(&keepalive)),
            ..Default::default()
        }),
        circuit_breakers: Some(CircuitBreakers { thresholds: vec![limits(knobs)], ..Default::default() }),
        typed_extension_protocol_options: http_options(spec).into_iter().collect(),
        ..Default::default()
    };
    let endpoints = hosts.is_empty().then(|| (ResourceType::Endpoint, Name::clone(&name)));
    Resource::encode(ResourceType::Cluster, name, &cluster).depending_on(endpoints)
}

/// For a cluster of which nothing is said.
pub(super) fn no_limits() -> CircuitBreakers {
    CircuitBreakers { thresholds: vec![limits(&Knobs::default())], ..Default::default() }
}

/// Which endpoint is next, and how new ones come in.
fn balancer(knobs: &Knobs) -> (cluster::LbPolicy, Option<cluster::LbConfig>) {
    use cluster::{LbConfig, LbPolicy, LeastRequestLbConfig, RoundRobinLbConfig, SlowStartConfig};
    let slow_start_config = knobs
        .slow_start
        .filter(|window| !window.is_zero())
        .map(|window| SlowStartConfig { slow_start_window: Some(proto(window)), ..Default::default() });
    match knobs.balancing.as_ref().unwrap_or(&Balancing::RoundRobin) {
        Balancing::RoundRobin => {
            let config = slow_start_config.map(|it| RoundRobinLbConfig { slow_start_config: Some(it) });
            (LbPolicy::RoundRobin, config.map(LbConfig::RoundRobinLbConfig))
        }
        Balancing::LeastRequest => {
            let with = |it| LeastRequestLbConfig { slow_start_config: Some(it), ..Default::default() };
            (LbPolicy::LeastRequest, slow_start_config.map(with).map(LbConfig::LeastRequestLbConfig))
        }
        Balancing::Random => (LbPolicy::Random, None),
        Balancing::RingHash(_) => (LbPolicy::RingHash, None),
        Balancing::Maglev(_) => (LbPolicy::Maglev, None),
    }
}

/// Whether the caller's zone comes first, and from how many endpoints on.
fn zones(knobs: &Knobs) -> cluster::common_lb_config::ZoneAwareLbConfig {
    let is_on = knobs.zone_aware.unwrap_or(true);
    let usual = || profile::ENDPOINTS_PER_ZONE * knobs.zones.unwrap_or(profile::ZONES);
    let least = knobs.zone_min_endpoints.unwrap_or_else(usual);
    cluster::common_lb_config::ZoneAwareLbConfig {
        routing_enabled: (!is_on).then_some(Percent { value: 0.0 }),
        min_cluster_size: Some(UInt64Value { value: least.into() }),
        ..Default::default()
    }
}

fn outlier_detection(knobs: &Knobs) -> OutlierDetection {
    let errors = knobs.consecutive_5xx.unwrap_or(profile::CONSECUTIVE_5XX);
    OutlierDetection {
        consecutive_5xx: (errors > 0).then(|| number(errors)),
        enforcing_consecutive_5xx: (errors == 0).then(|| number(0)),
        interval: Some(proto(knobs.outlier_interval.unwrap_or(profile::OUTLIER_INTERVAL))),
        base_ejection_time: Some(proto(knobs.base_ejection.unwrap_or(profile::BASE_EJECTION))),
        max_ejection_time: Some(proto(knobs.max_ejection.unwrap_or(profile::MAX_EJECTION))),
        max_ejection_percent: Some(number(
            knobs.max_ejection_percent.unwrap_or(profile::MAX_EJECTION_PERCENT),
        )),
        enforcing_success_rate: Some(number(0)),
        ..Default::default()
    }
}

fn limits(knobs: &Knobs) -> Thresholds {
    let limit = |said: Option<u32>| Some(number(said.unwrap_or(profile::NO_LIMIT)));
    Thresholds {
        priority: RoutingPriority::Default.into(),
        max_connections: limit(knobs.max_connections),
        max_pending_requests: limit(knobs.max_pending_requests),
        max_requests: limit(knobs.max_requests),
        max_retries: limit(knobs.max_retries),
        // Envoy would not look at the number then.
        retry_budget: knobs.retry_budget.map(|budget| thresholds::RetryBudget {
            budget_percent: Some(Percent { value: budget.percent.into() }),
            min_retry_concurrency: Some(number(budget.min_parallel)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// What is spoken to the endpoints; TCP has none.
pub(super) fn http_options(spec: &ServiceSpec) -> Option<(String, Any)> {
    let knobs = &spec.knobs;
    let protocol = match spec.protocol {
        Protocol::Tcp => return None,
        Protocol::Http => ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions {
            header_key_format: probe::header_key_format(knobs),
            ..Default::default()
        }),
        Protocol::Http2 | Protocol::Grpc => ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions {
            max_concurrent_streams: knobs.max_concurrent_streams.map(number),
            ..Default::default()
        }),
    };
    let idle = knobs.idle_timeout.unwrap_or(profile::HTTP_IDLE_TIMEOUT);
    let options = HttpProtocolOptions {
        common_http_protocol_options: Some(CommonHttpOptions {
            idle_timeout: Some(proto(idle)),
            max_requests_per_connection: knobs.max_requests_per_connection.map(number),
            max_connection_duration: knobs.max_connection_duration.filter(|it| !it.is_zero()).map(proto),
            ..Default::default()
        }),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(protocol),
        })),
        ..Default::default()
    };
    let any = Any {
        type_url: "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
        value: options.encode_to_vec(),
    };
    Some(("envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(), any))
}
