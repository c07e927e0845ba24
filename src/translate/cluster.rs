//! CDS: one `Cluster` for each service.
//!
//! It is not about endpoints, which come over EDS: nothing volatile may be in here, or connection pools are
//! rebuilt.
//!
//! Invariant: follows from the description alone.

use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster, OutlierDetection, circuit_breakers::Thresholds, cluster,
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
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use super::{ads, number, profile, proto};
use crate::model::{Protocol, ServiceKey, ServiceSpec};
use crate::snapshot::{Name, Resource, ResourceType};

/// The name of a service's cluster, and of its load assignment: `prod/payments`.
pub fn name(key: &ServiceKey) -> Name {
    key.to_string().into()
}

/// The cluster of a service.
pub fn cluster(spec: &ServiceSpec) -> Resource {
    let name = name(&spec.key);
    let cluster = Cluster {
        name: name.to_string(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds.into())),
        eds_cluster_config: Some(cluster::EdsClusterConfig {
            eds_config: Some(ads()),
            service_name: String::new(), // the cluster's name
        }),
        connect_timeout: Some(proto(profile::CONNECT_TIMEOUT)),
        lb_policy: cluster::LbPolicy::RoundRobin.into(),
        common_lb_config: Some(cluster::CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: profile::PANIC_THRESHOLD_PERCENT }),
            // Envoy would hold health-only updates back for a second.
            update_merge_window: Some(proto(std::time::Duration::ZERO)),
            ..Default::default()
        }),
        // ECS is the authority: an endpoint that it took away goes, whatever a check says.
        ignore_health_on_host_removal: true,
        outlier_detection: Some(outlier_detection()),
        circuit_breakers: Some(CircuitBreakers { thresholds: vec![no_limits()], ..Default::default() }),
        typed_extension_protocol_options: http_options(spec).into_iter().collect(),
        ..Default::default()
    };
    Resource::encode(ResourceType::Cluster, Name::clone(&name), &cluster)
        .depending_on([(ResourceType::Endpoint, name)])
}

fn outlier_detection() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: Some(number(profile::CONSECUTIVE_5XX)),
        interval: Some(proto(profile::OUTLIER_INTERVAL)),
        base_ejection_time: Some(proto(profile::BASE_EJECTION)),
        max_ejection_time: Some(proto(profile::MAX_EJECTION)),
        max_ejection_percent: Some(number(profile::MAX_EJECTION_PERCENT)),
        enforcing_success_rate: Some(number(0)),
        ..Default::default()
    }
}

fn no_limits() -> Thresholds {
    Thresholds {
        priority: RoutingPriority::Default.into(),
        max_connections: Some(number(profile::NO_LIMIT)),
        max_pending_requests: Some(number(profile::NO_LIMIT)),
        max_requests: Some(number(profile::NO_LIMIT)),
        max_retries: Some(number(profile::NO_LIMIT)),
        ..Default::default()
    }
}

/// What is spoken to the endpoints; TCP has none.
fn http_options(spec: &ServiceSpec) -> Option<(String, Any)> {
    let protocol = match spec.protocol {
        Protocol::Tcp => return None,
        Protocol::Http => ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default()),
        Protocol::Http2 | Protocol::Grpc => {
            ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default())
        }
    };
    let idle = spec.knobs.idle_timeout.unwrap_or(profile::HTTP_IDLE_TIMEOUT);
    let options = HttpProtocolOptions {
        common_http_protocol_options: Some(CommonHttpOptions {
            idle_timeout: Some(proto(idle)),
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
