//! What a policy says of connections, probes and zones, from its file into [`Knobs`].
//!
//! It is not about single requests. Invariant: what is written wrong is told by the table, and says nothing here.

use std::time::Duration;

use super::read::{number, switch, time};
use crate::diagnostic::Node;
use crate::model::{HealthCheck, Knobs, Probe, RetryBudget, TcpKeepalive};

const CHECK_INTERVAL: Duration = Duration::from_secs(10);
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// What is said in these sections of a service.
pub(super) fn knobs(node: &Node) -> Knobs {
    let zones = node.get("loadBalancing").and_then(|node| node.get("zoneAware"));
    let pool = |key: &str| node.get("connectionPool")?.get(key);
    let options = |key: &str| node.get("protocolOptions")?.get(key);
    Knobs {
        zone_aware: zones.and_then(|zones| Some(zones.get("mode")?.text()? == "prefer")),
        zone_min_endpoints: zones.and_then(|zones| number(zones.get("minEndpoints"))),
        retry_budget: node.get("retry").and_then(|node| node.get("budget")).map(budget),
        health_check: node.get("healthCheck").map(health_check),
        max_requests_per_connection: number(pool("maxRequestsPerConnection")),
        max_connection_duration: time(pool("maxConnectionDuration")),
        tcp_keepalive: pool("tcpKeepalive").map(keepalive),
        preserve_header_case: switch(options("preserveHeaderCase")),
        max_concurrent_streams: number(options("maxConcurrentStreams")),
        max_header_kilobytes: number(options("maxHeaderKilobytes")),
        ..Knobs::default()
    }
}

fn budget(node: &Node) -> RetryBudget {
    RetryBudget {
        percent: number(node.get("percent")).unwrap_or(20),
        min_parallel: number(node.get("minParallel")).unwrap_or(3),
    }
}

fn health_check(node: &Node) -> HealthCheck {
    let text = |key: &str| node.get(key).and_then(Node::text);
    let path = || Probe::Http(text("path").unwrap_or("/").into());
    let service = || Probe::Grpc(text("service").unwrap_or_default().into());
    HealthCheck {
        probe: match text("type") {
            Some("http") => Some(path()),
            Some("grpc") => Some(service()),
            Some(_) => Some(Probe::Tcp),
            None => text("path").map(|_| path()).or_else(|| text("service").map(|_| service())),
        },
        interval: time(node.get("interval")).unwrap_or(CHECK_INTERVAL),
        timeout: time(node.get("timeout")).unwrap_or(CHECK_TIMEOUT),
        unhealthy_threshold: number(node.get("unhealthyThreshold")).unwrap_or(3),
        healthy_threshold: number(node.get("healthyThreshold")).unwrap_or(2),
    }
}

fn keepalive(node: &Node) -> TcpKeepalive {
    TcpKeepalive {
        time: time(node.get("time")).unwrap_or(KEEPALIVE_TIME),
        interval: time(node.get("interval")).unwrap_or(KEEPALIVE_INTERVAL),
        probes: number(node.get("probes")).unwrap_or(3),
    }
}
