//! What it means that a name is not served: something else for each type and protocol (`xds.md`, section 2.5).
//!
//! It is not about when a removal may go out: the session knows that.
//!
//! Invariant: a route configuration is never removed, since its listener would warm for ever; and where a
//! client keeps what is merely left out, it gets an empty one.

use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;

use crate::snapshot::{Name, Resource, ResourceType};
use crate::xds::session::Protocol;

/// An empty resource of that name.
type Empty = fn(Name) -> Resource;

/// What is done about a name that is not there.
#[derive(Clone, Copy, Debug)]
pub(super) enum Absence {
    /// Removed once nothing refers to it.
    RemoveLater,
    /// Removed at once.
    Remove,
    /// Sent empty.
    SendEmpty(Empty),
    /// Left out, with an error that names it.
    SayMissing,
    /// Nothing.
    Silence,
}

/// What is done about a missing name that the client may hold (`held`), must be told of (`must`), or has asked
/// for other than by a wildcard (`named`).
pub(super) fn absence(
    kind: ResourceType,
    protocol: Protocol,
    held: bool,
    must: bool,
    named: bool,
) -> Absence {
    use Protocol::{Delta, StateOfTheWorld};
    use ResourceType::{Cluster, Endpoint, Listener, Route, Secret};
    match (kind, protocol) {
        (Cluster | Endpoint, _) if held => Absence::RemoveLater,
        (Cluster | Endpoint | Secret, Delta) if must => Absence::Remove,
        // Asked for by name it is left in silence: the client's own timer ends the wait.
        (Listener, Delta) if held || (must && !named) => Absence::Remove,
        (Listener, StateOfTheWorld) if held && !named => Absence::Remove,
        (Listener, StateOfTheWorld) if held => Absence::SayMissing,
        (Cluster | Listener, StateOfTheWorld) if must && named => Absence::SayMissing,
        (Endpoint, StateOfTheWorld) if must => Absence::SendEmpty(empty_assignment),
        (Route, _) if must => Absence::SendEmpty(empty_routes),
        _ => Absence::Silence,
    }
}

/// What is sent in the place of a removal that was put off, where the protocol can't remove: to leave an
/// assignment out would keep its hosts (item 29).
pub(super) fn farewell(kind: ResourceType, protocol: Protocol) -> Option<Empty> {
    (kind == ResourceType::Endpoint && protocol == Protocol::StateOfTheWorld).then_some(empty_assignment)
}

fn empty_assignment(name: Name) -> Resource {
    let assignment = ClusterLoadAssignment { cluster_name: name.to_string(), ..Default::default() };
    Resource::encode(ResourceType::Endpoint, name, &assignment)
}

fn empty_routes(name: Name) -> Resource {
    let routes = RouteConfiguration { name: name.to_string(), ..Default::default() };
    Resource::encode(ResourceType::Route, name, &routes)
}
