//! EDS: one `ClusterLoadAssignment` for each service.
//!
//! It is not a judge: who is in is decided in the mesh.
//!
//! Invariant: endpoints are grouped by zone and ordered by address, so that the bytes don't depend on the
//! order in which AWS answered. A service without endpoints has an empty assignment, never none: Envoy keeps
//! the hosts of an assignment that is merely taken away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{
    Address, HealthStatus, Locality, SocketAddress, address, socket_address::PortSpecifier,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as EnvoyEndpoint, LbEndpoint, LocalityLbEndpoints,
    lb_endpoint::HostIdentifier,
};

use super::cluster;
use crate::model::{Endpoint, ServiceKey, State};
use crate::snapshot::{Resource, ResourceType};

/// What is said of one endpoint, in the order in which endpoints are listed.
type Said = (IpAddr, u16, State);

/// The load assignment of a service.
pub fn load_assignment(key: &ServiceKey, endpoints: &[Endpoint]) -> Resource {
    let name = cluster::name(key);
    let mut zones: BTreeMap<Option<&Arc<str>>, BTreeSet<Said>> = BTreeMap::new();
    for endpoint in endpoints {
        if let (Some(address), Some(port)) = (endpoint.address, endpoint.port)
            && endpoint.verdict.state != State::Absent
        {
            zones.entry(endpoint.zone.as_ref()).or_default().insert((address, port, endpoint.verdict.state));
        }
    }
    let assignment = ClusterLoadAssignment {
        cluster_name: name.to_string(),
        endpoints: zones.into_iter().map(|(zone, endpoints)| locality(zone, endpoints)).collect(),
        ..Default::default()
    };
    Resource::encode(ResourceType::Endpoint, name, &assignment)
}

fn locality(zone: Option<&Arc<str>>, endpoints: BTreeSet<Said>) -> LocalityLbEndpoints {
    LocalityLbEndpoints {
        locality: zone.map(|zone| Locality { zone: zone.to_string(), ..Default::default() }),
        lb_endpoints: endpoints.into_iter().map(lb_endpoint).collect(),
        ..Default::default()
    }
}

fn lb_endpoint((address, port, state): Said) -> LbEndpoint {
    let health = match state {
        State::Healthy => HealthStatus::Healthy,
        State::Draining => HealthStatus::Draining,
        State::Unhealthy | State::Absent => HealthStatus::Unhealthy,
    };
    LbEndpoint {
        health_status: health.into(),
        host_identifier: Some(HostIdentifier::Endpoint(EnvoyEndpoint {
            address: Some(socket_address(address, port)),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// An address and port as Envoy writes them.
pub(super) fn socket_address(address: IpAddr, port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: address.to_string(),
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..Default::default()
        })),
    }
}
