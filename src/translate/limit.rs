//! Local rate limits: a bucket of tokens in each sidecar, in front of requests or of TCP connections.
//!
//! It is not a limit over all sidecars together. Invariant: a listener has the filter anyway, and routes fill its bucket,
//! so that no listener changes when a limit of requests does. That of connections is the listener's own.

use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use envoy_types::pb::envoy::extensions::filters::network::local_ratelimit::v3::LocalRateLimit as OfConnections;
use envoy_types::pb::envoy::r#type::v3::{
    FractionalPercent, TokenBucket, fractional_percent::DenominatorType,
};
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use super::{number, proto};
use crate::model::RateLimit;

/// The filter, by its name.
pub(super) const FILTER: &str = "envoy.filters.http.local_ratelimit";
const TYPE: &str = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
/// The same for connections.
pub(super) const NETWORK_FILTER: &str = "envoy.filters.network.local_ratelimit";
pub(super) const NETWORK_TYPE: &str =
    "type.googleapis.com/envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit";
const STAT: &str = "legation";

/// The filter of a listener: without a bucket it lets everything through.
pub(super) fn filter() -> Any {
    let filter = LocalRateLimit { stat_prefix: STAT.to_owned(), ..Default::default() };
    Any { type_url: TYPE.to_owned(), value: filter.encode_to_vec() }
}

/// What some routes say to it.
pub(super) fn of_requests(limit: &RateLimit) -> Any {
    // Envoy's own default is to count and to let through.
    let always = || {
        let all = FractionalPercent { numerator: 100, denominator: DenominatorType::Hundred.into() };
        Some(RuntimeFractionalPercent { default_value: Some(all), runtime_key: String::new() })
    };
    let limit = LocalRateLimit {
        stat_prefix: STAT.to_owned(),
        token_bucket: Some(bucket(limit)),
        filter_enabled: always(),
        filter_enforced: always(),
        ..Default::default()
    };
    Any { type_url: TYPE.to_owned(), value: limit.encode_to_vec() }
}

/// The filter of a TCP listener, which closes what is too much.
pub(super) fn of_connections(limit: &RateLimit) -> OfConnections {
    OfConnections { stat_prefix: STAT.to_owned(), token_bucket: Some(bucket(limit)), ..Default::default() }
}

fn bucket(limit: &RateLimit) -> TokenBucket {
    TokenBucket {
        max_tokens: limit.burst,
        tokens_per_fill: Some(number(limit.requests)),
        fill_interval: Some(proto(limit.per)),
    }
}
