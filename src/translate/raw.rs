//! Messages whose parts are encoded already, so that a part is encoded once, and protobuf maps in order.
//!
//! They are Envoy's own messages, as far as they are used, with bytes in the places of others: on the wire both are the
//! same.
//!
//! Invariant: the same parts give the same bytes.

use std::collections::BTreeMap;

use bytes::Bytes;
use envoy_types::pb::envoy::config::route::v3::Route;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

/// `envoy.config.route.v3.RouteConfiguration`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RouteConfiguration {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(super) virtual_hosts: Vec<Bytes>,
}

/// `envoy.config.route.v3.VirtualHost`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct VirtualHost {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, repeated, tag = "2")]
    pub(super) domains: Vec<String>,
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub(super) routes: Vec<Bytes>,
    #[prost(btree_map = "string, message", tag = "15")]
    pub(super) typed_per_filter_config: BTreeMap<String, Any>,
}

/// The one field of `envoy.config.route.v3.Route` that is a map.
#[derive(Clone, PartialEq, Message)]
struct Filters {
    #[prost(btree_map = "string, message", tag = "13")]
    typed_per_filter_config: BTreeMap<String, Any>,
}

/// A route, encoded.
pub(super) fn route(mut route: Route) -> Bytes {
    let typed_per_filter_config = std::mem::take(&mut route.typed_per_filter_config).into_iter().collect();
    let mut bytes = route.encode_to_vec();
    bytes.extend(Filters { typed_per_filter_config }.encode_to_vec());
    bytes.into()
}
