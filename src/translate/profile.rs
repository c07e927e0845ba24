//! The `service-connect` profile: the numbers that hold where nobody says otherwise.
//!
//! It is not a place for rules, only for values.
//!
//! Invariant: each equals what Service Connect publishes; where AWS publishes none, the comment says whose
//! it is (`product.md`, section 4).

use std::time::Duration;

/// A whole request, retries included.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// A silent HTTP connection or stream.
pub const HTTP_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// A silent TCP connection.
pub const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Opening a connection. Ours.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Retries after the first try, and connects after the first connect.
pub const RETRY_ATTEMPTS: u32 = 2;
/// What is retried: App Mesh's list, from the same team.
pub const RETRY_TRIGGERS: [&str; 3] = ["connect-failure", "refused-stream", "unavailable"];
/// Answers that are retried.
pub const RETRY_CODES: [u32; 1] = [503];
/// How often another host is looked for.
pub const RETRY_HOST_ATTEMPTS: i64 = 5;
/// The first pause between tries. Envoy's.
pub const RETRY_BACKOFF: Duration = Duration::from_millis(25);
/// How many times that the longest pause is. Envoy's.
pub const RETRY_BACKOFF_GROWTH: u32 = 10;
/// Errors in a row that eject an endpoint.
pub const CONSECUTIVE_5XX: u32 = 5;
/// How often ejections are looked at.
pub const OUTLIER_INTERVAL: Duration = Duration::from_secs(30);
/// The first ejection; it grows with each one.
pub const BASE_EJECTION: Duration = Duration::from_secs(30);
/// The longest ejection.
pub const MAX_EJECTION: Duration = Duration::from_secs(300);
/// The share of a service that may be ejected at once. Ours: Envoy's 10 % never ejects in a small service.
pub const MAX_EJECTION_PERCENT: u32 = 50;
/// Below this share of healthy endpoints all are used. Envoy's.
pub const PANIC_THRESHOLD_PERCENT: u32 = 50;
/// Circuit breakers are open: Envoy's 3 parallel retries would make retries fail by themselves.
pub const NO_LIMIT: u32 = 2_147_483_647;
/// Zones make a difference from so many endpoints for each on, as in Service Connect.
pub const ENDPOINTS_PER_ZONE: u32 = 2;
/// How many zones there are where the source does not say. Ours, and with it Envoy's smallest cluster of 6.
pub const ZONES: u32 = 3;
/// Where the Host-routed proxy listens.
pub const PROXY_PORT: u16 = 15001;
