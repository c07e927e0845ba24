//! Asking a running control plane.

use std::time::Duration;

use serde_json::Value;

use super::{Exit, Stop};
use crate::bootstrap::Server;

/// Where the admin pages are unless something else is configured.
pub(super) const USUAL: &str = "http://127.0.0.1:19000";
/// More than the longest list of a large mesh.
const LONGEST_ANSWER: u64 = 256 << 20;

/// The URL of a server given as `http://host:port` or `host:port`, without a slash at its end.
pub(super) fn url(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix("http://").unwrap_or(text);
    let server: Server = bare.strip_suffix('/').unwrap_or(bare).parse().map_err(|_| {
        format!("expected `http://host:port` or `host:port`, like `{USUAL}`: the admin pages have no TLS")
    })?;
    Ok(format!("http://{server}"))
}

/// The answer to `path`, which begins with a slash.
pub(super) fn get(server: &str, path: &str) -> Result<Value, Stop> {
    ask(server, path, None)
}

/// The answer to an order at `path`.
pub(super) fn post(server: &str, path: &str, order: &Value) -> Result<Value, Stop> {
    ask(server, path, Some(order))
}

fn ask(server: &str, path: &str, order: Option<&Value>) -> Result<Value, Stop> {
    let url = format!("{server}{path}");
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(20)))
        .http_status_as_error(false)
        .proxy(None) // the admin pages are on loopback
        .build()
        .into();
    let unreachable = |error: ureq::Error| {
        let message = format!("no control plane answers at {server}: {error}");
        let help = "is `legation serve` running here? its admin pages are on loopback only: run this beside \
                    it, and set --server or LEGATION_SERVER if it listens elsewhere";
        Stop::new(Exit::Unreachable, message, Some(help))
    };
    let answer = match order {
        Some(order) => {
            agent.post(&url).header("content-type", "application/json").send(order.to_string().as_bytes())
        }
        None => agent.get(&url).call(),
    };
    let mut response = answer.map_err(unreachable)?;
    let status = response.status();
    let text =
        response.body_mut().with_config().limit(LONGEST_ANSWER).read_to_string().map_err(unreachable)?;
    let answer: Value = serde_json::from_str(&text).map_err(|_| {
        let message = format!("what answers at {server} is not Legation: {url} says {status}");
        Stop::new(Exit::Failed, message, Some("is it the admin address? by default that is port 19000"))
    })?;
    if status.is_success() {
        return Ok(answer);
    }
    let message = answer["error"]["message"].as_str().unwrap_or("it gave no reason");
    Err(Stop::new(Exit::Failed, message, None))
}

/// A name as one part of a path.
pub(super) fn segment(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~');
    // A dot alone would climb, so dots are written out too.
    name.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
