//! What a policy file may say of connections, probes and zones.
//!
//! It is part of the table of keys, and knows no file either.
//!
//! Invariant: as of the whole table.

use std::time::Duration;

use super::{DAY, HOUR, LIMIT, MOST, PERCENT, SECOND, SWITCH, TEXT, UP_TO_DAY};
use crate::diagnostic::shape::{Key, Shape};

pub(super) static BUDGET: Shape = Shape::Map(&[
    Key::new("percent", &PERCENT, "Retries under way, as a share of all requests under way.").or("20"),
    Key::new("minParallel", &BUDGET_FLOOR, "And always this many.").or("3"),
]);
static BUDGET_FLOOR: Shape = Shape::Number(0, MOST);

static ZONE_MODE: Shape = Shape::Word(&["prefer", "none"]);
pub(super) static ZONE_AWARE: Shape = Shape::Map(&[
    Key::new(
        "mode",
        &ZONE_MODE,
        "prefer: as much stays in the zone as leaves every endpoint with as much as the others.",
    )
    .or("prefer"),
    Key::new(
        "minEndpoints",
        &LIMIT,
        "With fewer, zones make no difference. By default two for each subnet of the service, or 6.",
    ),
]);

static PROBE: Shape = Shape::Word(&["http", "grpc", "tcp"]);
static PROBE_PATH: Shape = Shape::Kind("a path", "/health", is_path);
static CHECK_TIME: Shape = Shape::Duration(Duration::from_millis(100), HOUR);
static CHECK_COUNT: Shape = Shape::Number(1, 100);
pub(super) static HEALTH_CHECK: Shape = Shape::Map(&[
    Key::new("type", &PROBE, "What endpoints are asked. By default what is spoken there."),
    Key::new("path", &PROBE_PATH, "Of type http: what must be answered with 200.").or("/"),
    Key::new("service", &TEXT, "Of type grpc: which of its services must serve; without, all of it."),
    Key::new("interval", &CHECK_TIME, "How often each sidecar asks.").or("10s"),
    Key::new("timeout", &CHECK_TIME, "How long the answer may take.").or("2s"),
    Key::new("unhealthyThreshold", &CHECK_COUNT, "So many failures in a row take an endpoint out.").or("3"),
    Key::new("healthyThreshold", &CHECK_COUNT, "So many successes in a row bring it back.").or("2"),
]);

static KEEPALIVE_TIME: Shape = Shape::Duration(SECOND, DAY);
static KEEPALIVE: Shape = Shape::Map(&[
    Key::new("time", &KEEPALIVE_TIME, "How long a connection is silent before it is asked; whole seconds.")
        .or("60s"),
    Key::new("interval", &KEEPALIVE_TIME, "How long after that it is asked again; whole seconds.").or("10s"),
    Key::new("probes", &CHECK_COUNT, "How often it is asked before it is given up.").or("3"),
]);
pub(super) static POOL: Shape = Shape::Map(&[
    Key::new(
        "maxRequestsPerConnection",
        &LIMIT,
        "After so many requests a connection is closed. Not for TCP.",
    ),
    Key::new("maxConnectionDuration", &UP_TO_DAY, "After this time one is; 0s is never. Not for TCP.")
        .or("0s"),
    Key::new("tcpKeepalive", &KEEPALIVE, "Whether the kernel asks silent connections."),
]);
static STREAMS: Shape = Shape::Number(1, MOST);
static HEADER_KILOBYTES: Shape = Shape::Number(1, 8192);
pub(super) static PROTOCOL_OPTIONS: Shape = Shape::Map(&[
    Key::new("preserveHeaderCase", &SWITCH, "Whether names of HTTP/1.1 headers keep their capitals.")
        .or("false"),
    Key::new("maxConcurrentStreams", &STREAMS, "Streams of one HTTP/2 connection to an endpoint."),
    Key::new("maxHeaderKilobytes", &HEADER_KILOBYTES, "How long all headers of a request may be together.")
        .or("60"),
]);

fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.len() <= 1024 && !text.chars().any(|c| c.is_control() || c == ' ')
}
