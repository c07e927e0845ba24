//! What concerns single connections to endpoints: active health checks, keepalive, how headers are written.
//!
//! It is not about who is in: what a check finds, the sidecar that made it keeps to itself.
//!
//! Invariant: follows from the description alone.

use envoy_types::pb::envoy::config::core::v3::{
    HealthCheck as EnvoyCheck, TcpKeepalive as EnvoyKeepalive, TypedExtensionConfig,
    health_check::{GrpcHealthCheck, HealthChecker, HttpHealthCheck, TcpHealthCheck},
    http1_protocol_options::{HeaderKeyFormat, header_key_format},
};
use envoy_types::pb::envoy::extensions::http::header_formatters::preserve_case::v3::PreserveCaseFormatterConfig;
use envoy_types::pb::envoy::r#type::v3::CodecClientType;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use super::{number, proto};
use crate::model::{HealthCheck, Knobs, Probe, Protocol, TcpKeepalive};

/// What each sidecar asks the endpoints of a service that speaks `protocol`.
pub(super) fn health_check(check: &HealthCheck, protocol: Protocol) -> EnvoyCheck {
    let usual = || match protocol {
        Protocol::Tcp => Probe::Tcp,
        Protocol::Http | Protocol::Http2 => Probe::Http("/".into()),
        Protocol::Grpc => Probe::Grpc("".into()),
    };
    let codec = match protocol {
        Protocol::Tcp | Protocol::Http => CodecClientType::Http1,
        Protocol::Http2 | Protocol::Grpc => CodecClientType::Http2,
    };
    let speaks_http2 = matches!(protocol, Protocol::Http2 | Protocol::Grpc);
    // Envoy refuses the whole cluster where gRPC is asked over anything else.
    let fits = |probe: &Probe| speaks_http2 || !matches!(probe, Probe::Grpc(_));
    let checker = match check.probe.clone().filter(fits).unwrap_or_else(usual) {
        Probe::Http(path) => HealthChecker::HttpHealthCheck(HttpHealthCheck {
            path: path.to_string(),
            codec_client_type: codec.into(),
            ..Default::default()
        }),
        Probe::Grpc(service) => HealthChecker::GrpcHealthCheck(GrpcHealthCheck {
            service_name: service.to_string(),
            ..Default::default()
        }),
        Probe::Tcp => HealthChecker::TcpHealthCheck(TcpHealthCheck::default()),
    };
    EnvoyCheck {
        timeout: Some(proto(check.timeout)),
        interval: Some(proto(check.interval)),
        // Envoy would ask once a minute while nothing is sent.
        no_traffic_interval: Some(proto(check.interval)),
        unhealthy_threshold: Some(number(check.unhealthy_threshold)),
        healthy_threshold: Some(number(check.healthy_threshold)),
        health_checker: Some(checker),
        ..Default::default()
    }
}

pub(super) fn keepalive(keepalive: &TcpKeepalive) -> EnvoyKeepalive {
    let seconds =
        |time: std::time::Duration| number(u32::try_from(time.as_secs()).unwrap_or(u32::MAX).max(1));
    EnvoyKeepalive {
        keepalive_probes: Some(number(keepalive.probes)),
        keepalive_time: Some(seconds(keepalive.time)),
        keepalive_interval: Some(seconds(keepalive.interval)),
    }
}

/// How names of headers are written, where it is not Envoy's way.
pub(super) fn header_key_format(knobs: &Knobs) -> Option<HeaderKeyFormat> {
    let formatter = TypedExtensionConfig {
        name: "envoy.http.stateful_header_formatters.preserve_case".to_owned(),
        typed_config: Some(Any {
            type_url:
                "type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig"
                    .to_owned(),
            value: PreserveCaseFormatterConfig::default().encode_to_vec(),
        }),
    };
    let format = header_key_format::HeaderFormat::StatefulFormatter(formatter);
    (knobs.preserve_header_case == Some(true)).then_some(HeaderKeyFormat { header_format: Some(format) })
}
