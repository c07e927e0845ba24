//! EDS: one `ClusterLoadAssignment` for each service, one for each version of it that a rule names, and one for each crew.
//!
//! It is not a judge: who is in is decided in the mesh.
//!
//! Invariant: endpoints are grouped by zone and ordered by address, so that the bytes don't depend on the
//! order in which AWS answered. A service without endpoints has an empty assignment, never none: Envoy keeps
//! the hosts of an assignment that is merely taken away. What gRPC libraries would refuse or skip is not said:
//! no address twice, no two equal localities, none without its name and weight.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{
    Address, HealthStatus, Locality, SocketAddress, address, socket_address::PortSpecifier,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as EnvoyEndpoint, LbEndpoint, LocalityLbEndpoints,
    lb_endpoint::HostIdentifier,
};

use super::{cluster, inbound, number};
use crate::model::{Crew, Endpoint, Namespace, ServiceName, ServiceSpec, State};
use crate::snapshot::{Name, ProxyClass, Resource, ResourceType};

/// An address, in the order in which addresses are listed.
type Place = (IpAddr, u16);

/// The load assignment of a service, or of one version of it.
pub fn load_assignment(spec: &ServiceSpec, version: Option<&str>, endpoints: &[Endpoint]) -> Resource {
    let (key, inbound) = (&spec.key, inbound::port(spec));
    let name = cluster::version_name(key, version);
    let is_meant = |endpoint: &&Endpoint| version.is_none() || endpoint.version.as_deref() == version;
    // Of several at one place the best is believed; where no zone is known it is called nothing.
    let mut places: BTreeMap<Place, (State, &str)> = BTreeMap::new();
    for endpoint in endpoints.iter().filter(is_meant) {
        if let (Some(address), Some(port)) = (endpoint.address, endpoint.port)
            && endpoint.verdict.state != State::Absent
        {
            let said = (endpoint.verdict.state, endpoint.zone.as_deref().unwrap_or_default());
            let port = inbound.unwrap_or(port);
            places.entry((address, port)).and_modify(|best| *best = said.min(*best)).or_insert(said);
        }
    }
    let mut zones: BTreeMap<&str, Vec<(Place, State)>> = BTreeMap::new();
    for (place, (state, zone)) in places {
        zones.entry(zone).or_default().push((place, state));
    }
    let assignment = ClusterLoadAssignment {
        cluster_name: name.to_string(),
        endpoints: zones.into_iter().map(|(zone, endpoints)| locality(zone, endpoints)).collect(),
        ..Default::default()
    };
    Resource::encode(ResourceType::Endpoint, name, &assignment)
}

/// Hosts that the sidecar itself looks up.
pub(super) fn of_hosts(name: &str, hosts: &[(Arc<str>, u16)]) -> ClusterLoadAssignment {
    let endpoint = |(host, port): &(Arc<str>, u16)| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(EnvoyEndpoint {
            address: Some(place(host, *port)),
            ..Default::default()
        })),
        ..Default::default()
    };
    let locality =
        LocalityLbEndpoints { lb_endpoints: hosts.iter().map(endpoint).collect(), ..Default::default() };
    ClusterLoadAssignment { cluster_name: name.to_owned(), endpoints: vec![locality], ..Default::default() }
}

/// The name of a crew's load assignment, which Envoy's local cluster asks for. `@` is in no service's name.
pub fn crew_name(namespace: &Namespace, service: &str) -> Name {
    format!("{namespace}/@local/{service}").into()
}

/// Where the sidecars of a service are: Envoy compares this with where endpoints are to see how much may stay in its zone.
pub fn crew_assignment(namespace: &Namespace, service: &ServiceName, crew: &Crew) -> Resource {
    let name = crew_name(namespace, service.as_str());
    let mut zones: BTreeMap<&str, Vec<(Place, State)>> = BTreeMap::new();
    for (zone, address) in crew.iter() {
        // Nobody sends anything there; but Envoy's own schema wants a port.
        zones.entry(zone).or_default().push(((*address, 1), State::Healthy));
    }
    let assignment = ClusterLoadAssignment {
        cluster_name: name.to_string(),
        endpoints: zones.into_iter().map(|(zone, endpoints)| locality(zone, endpoints)).collect(),
        ..Default::default()
    };
    Resource::encode(ResourceType::Endpoint, name, &assignment).only_for(ProxyClass::Sidecar)
}

fn locality(zone: &str, endpoints: Vec<(Place, State)>) -> LocalityLbEndpoints {
    // For gRPC, which picks a locality by weight and skips one without. Envoy goes by endpoints alone.
    let usable = endpoints.iter().filter(|(_, state)| *state == State::Healthy).count();
    let weight = u32::try_from(usable).unwrap_or(u32::MAX);
    LocalityLbEndpoints {
        locality: Some(Locality { zone: zone.to_owned(), ..Default::default() }),
        load_balancing_weight: (weight > 0).then(|| number(weight)),
        lb_endpoints: endpoints.into_iter().map(lb_endpoint).collect(),
        ..Default::default()
    }
}

fn lb_endpoint(((address, port), state): (Place, State)) -> LbEndpoint {
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
    place(&address.to_string(), port)
}

fn place(host: &str, port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: host.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..Default::default()
        })),
    }
}
