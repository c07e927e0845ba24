//! What a client asks, in both protocols at once: each takes the words that it knows.
//!
//! It is not what a well-behaved client would ask. Invariant: nothing is added to what the script says.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::rpc::Status;

use super::Kind;

/// `INTERNAL` of `google.rpc.Code`, as Envoy refuses.
const INTERNAL: i32 = 13;

/// One request.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// Of which type.
    pub type_url: String,
    /// Names to add (delta).
    pub subscribe: Vec<String>,
    /// Names to drop (delta).
    pub unsubscribe: Vec<String>,
    /// What is held, by name and version (delta).
    pub presented: HashMap<String, String>,
    /// All names (state of the world).
    pub names: Vec<String>,
    /// The version accepted last (state of the world).
    pub version: String,
    /// Which response is answered.
    pub nonce: String,
    /// Why it is refused.
    pub error: Option<String>,
    /// Who asks.
    pub node: Option<Node>,
}

impl Ask {
    /// A request of a type that says nothing else.
    pub fn of(kind: Kind) -> Self {
        Self { type_url: kind.type_url().to_owned(), ..Self::default() }
    }

    /// These names: all in state of the world, added in delta.
    pub fn names<S: AsRef<str>>(self, names: &[S]) -> Self {
        let names: Vec<_> = names.iter().map(|name| name.as_ref().to_owned()).collect();
        Self { subscribe: names.clone(), names, ..self }
    }

    /// Answers a response.
    pub fn nonce(self, nonce: &str) -> Self {
        Self { nonce: nonce.to_owned(), ..self }
    }

    pub(super) fn delta(self) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            node: self.node,
            type_url: self.type_url,
            resource_names_subscribe: self.subscribe,
            resource_names_unsubscribe: self.unsubscribe,
            initial_resource_versions: self.presented,
            response_nonce: self.nonce,
            error_detail: self.error.map(refusal),
            ..DeltaDiscoveryRequest::default()
        }
    }

    pub(super) fn sotw(self) -> DiscoveryRequest {
        DiscoveryRequest {
            version_info: self.version,
            node: self.node,
            resource_names: self.names,
            type_url: self.type_url,
            response_nonce: self.nonce,
            error_detail: self.error.map(refusal),
            ..DiscoveryRequest::default()
        }
    }
}

fn refusal(message: String) -> Status {
    Status { code: INTERNAL, message, ..Status::default() }
}
