//! What sidecars log of requests: a line of JSON for each, on standard output.
//!
//! The messages are Envoy's own, written here once more because theirs keep the format in a map without an order.
//!
//! Invariant: the same words give the same bytes.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLog, AccessLogFilter, RuntimeFilter, access_log, access_log_filter::FilterSpecifier,
};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use crate::model::Knobs;

const STDOUT: &str = "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog";
/// What a line has, in the words of Envoy's documentation; Service Connect's lines have the same facts.
const FIELDS: [(&str, &str); 16] = [
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("cluster", "%UPSTREAM_CLUSTER%"),
    ("duration_ms", "%DURATION%"),
    ("flags", "%RESPONSE_FLAGS%"),
    ("grpc_status", "%GRPC_STATUS%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", PATH_ALONE),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("retries", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
    ("route", "%ROUTE_NAME%"),
    ("status", "%RESPONSE_CODE%"),
    ("time", "%START_TIME%"),
    ("upstream", "%UPSTREAM_HOST%"),
];
const PATH_ALONE: &str = "%PATH(NQ)%";
const PATH_WITH_QUERY: &str = "%PATH(WQ)%";

/// `envoy.extensions.access_loggers.stream.v3.StdoutAccessLog`, as far as it is used.
#[derive(Clone, PartialEq, Message)]
struct StdoutAccessLog {
    #[prost(message, optional, tag = "1")]
    log_format: Option<SubstitutionFormatString>,
}

/// `envoy.config.core.v3.SubstitutionFormatString`, as far as it is used.
#[derive(Clone, PartialEq, Message)]
struct SubstitutionFormatString {
    #[prost(message, optional, tag = "2")]
    json_format: Option<Struct>,
}

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, Message)]
struct Struct {
    #[prost(btree_map = "string, message", tag = "1")]
    fields: BTreeMap<String, Value>,
}

/// `google.protobuf.Value`, of text.
#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "3")]
    string_value: String,
}

/// The log of a listener, unless there is none.
pub(super) fn access_log(knobs: &Knobs) -> Option<AccessLog> {
    let percent = knobs.access_log_percent.unwrap_or(100);
    if !knobs.access_log.unwrap_or(true) || percent == 0 {
        return None;
    }
    let path = if knobs.access_log_query == Some(true) { PATH_WITH_QUERY } else { PATH_ALONE };
    let field = |(name, text): (&str, &str)| {
        let string_value = if text == PATH_ALONE { path } else { text }.to_owned();
        (name.to_owned(), Value { string_value })
    };
    let json_format = Some(Struct { fields: FIELDS.into_iter().map(field).collect() });
    let log = StdoutAccessLog { log_format: Some(SubstitutionFormatString { json_format }) };
    let sample = RuntimeFilter {
        runtime_key: "legation.access_log".to_owned(),
        percent_sampled: Some(FractionalPercent {
            numerator: percent,
            denominator: DenominatorType::Hundred.into(),
        }),
        use_independent_randomness: true,
    };
    let sample = AccessLogFilter { filter_specifier: Some(FilterSpecifier::RuntimeFilter(sample)) };
    Some(AccessLog {
        name: "envoy.access_loggers.stdout".to_owned(),
        filter: (percent < 100).then_some(sample),
        config_type: Some(access_log::ConfigType::TypedConfig(Any {
            type_url: STDOUT.to_owned(),
            value: log.encode_to_vec(),
        })),
    })
}
