//! What a client says, in the same words for both protocols.
//!
//! It is not about what follows from it.
//!
//! Invariant: nothing in it is empty where the wire said something, and no reason is longer than it is worth.

use std::collections::HashMap;

use crate::xds::proto::{DeltaDiscoveryRequest, DiscoveryRequest};

/// The reason of a refusal is cut here: it is searched for names, and kept as long as something is refused.
pub(in crate::xds) const REASON_BYTES: usize = 4096;

/// A request of either protocol.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Request {
    /// Of which type; may be empty where the stream has only one.
    pub type_url: String,
    /// Which names.
    pub names: Names,
    /// What the client says that it holds: name and version (delta).
    pub presented: HashMap<String, String>,
    /// Whether the client says that it holds anything of the type: if it has just connected, from an earlier stream.
    pub resumed: bool,
    /// Which response it answers; empty for none.
    pub nonce: String,
    /// Why that response is refused, cut at 4 KiB.
    pub error: Option<String>,
}

/// The names of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Names {
    /// Add these, then drop those.
    Increment(Vec<String>, Vec<String>),
    /// These and no others.
    All(Vec<String>),
}

impl Default for Names {
    fn default() -> Self {
        Self::All(Vec::new())
    }
}

impl From<DeltaDiscoveryRequest> for Request {
    fn from(request: DeltaDiscoveryRequest) -> Self {
        let (add, drop) = (request.resource_names_subscribe, request.resource_names_unsubscribe);
        Self {
            type_url: request.type_url,
            names: Names::Increment(add, drop),
            resumed: !request.initial_resource_versions.is_empty(),
            presented: request.initial_resource_versions,
            nonce: request.response_nonce,
            error: request.error_detail.map(|error| cut(error.message)),
        }
    }
}

impl From<DiscoveryRequest> for Request {
    fn from(request: DiscoveryRequest) -> Self {
        Self {
            type_url: request.type_url,
            names: Names::All(request.resource_names),
            presented: HashMap::new(),
            resumed: !request.version_info.is_empty(),
            nonce: request.response_nonce,
            error: request.error_detail.map(|error| cut(error.message)),
        }
    }
}

fn cut(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(REASON_BYTES));
    reason.shrink_to_fit();
    reason
}
