//! A scripted xDS client: it does what a case tells it to, and checks every response that it is sent.
//!
//! It is not an Envoy: it applies nothing, needs nothing and never decides. Nor does it link to Legation's own
//! messages; they are those that Envoy's own definitions generate.
//!
//! Invariant: no response reaches a case unless it keeps the rules that hold for every response.

use std::fmt;

mod client;
mod held;
mod relay;
mod request;
mod response;
mod rules;
mod stream;
mod wire;

pub use client::{Client, Connection, node};
pub use held::Held;
pub use relay::Relay;
pub use request::Ask;
pub use response::{Item, Response};
pub use stream::{End, Probe};

/// How a client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Incremental.
    Delta,
    /// State of the world.
    Sotw,
}

impl Protocol {
    /// Both, in the order in which they are shown.
    pub const BOTH: [Self; 2] = [Self::Delta, Self::Sotw];

    /// The word in names of trials and in Legation's own metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Delta => "delta",
            Self::Sotw => "sotw",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A type of resource, in the order in which responses should come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoint,
    /// SDS.
    Secret,
    /// LDS.
    Listener,
    /// RDS.
    Route,
}

impl Kind {
    /// Every type.
    pub const ALL: [Self; 5] = [Self::Cluster, Self::Endpoint, Self::Secret, Self::Listener, Self::Route];
    /// Those of which there is something in every mesh.
    pub const SERVED: [Self; 4] = [Self::Cluster, Self::Endpoint, Self::Listener, Self::Route];

    /// Its type URL.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// The type of a URL.
    pub fn of(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }

    /// Whether "everything" can be asked for, and each response of the state-of-the-world protocol carries it.
    pub fn has_wildcard(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }

    /// `CDS`.
    pub fn short(self) -> &'static str {
        match self {
            Self::Cluster => "CDS",
            Self::Endpoint => "EDS",
            Self::Secret => "SDS",
            Self::Listener => "LDS",
            Self::Route => "RDS",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}
