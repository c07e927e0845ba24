//! EDS: one `ClusterLoadAssignment` for each service, one for each part of it that has a cluster, and one for each crew.
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
use crate::model::{Crew, Endpoint, Namespace, ServiceName, ServiceSpec, Shift, State, Subset};
use crate::snapshot::{ProxyClass, Resource, ResourceType, local_name};

/// An address, in the order in which addresses are listed.
type Place = (IpAddr, u16);

/// What is said of an endpoint: its state, its zone, and its weight beside others, where they differ.
type Said<'a> = (State, &'a str, Option<u32>);

/// The load assignment of a service, or of a part of it.
pub fn load_assignment(spec: &ServiceSpec, part: &Subset, endpoints: &[Endpoint]) -> Resource {
    let (name, inbound) = (cluster::part_name(&spec.key, part), inbound::port(spec));
    let weights = Weights::of(spec.shift.as_deref().filter(|_| part.is_whole()), endpoints);
    let state = |endpoint: &Endpoint| match endpoint.apart {
        Some(state) if !part.is_whole() => state,
        _ => endpoint.verdict.state,
    };
    // Of several at one place the best is believed; where no zone is known it is called nothing.
    let mut places: BTreeMap<Place, Said<'_>> = BTreeMap::new();
    for endpoint in endpoints.iter().filter(|endpoint| part.includes(&endpoint.traits)) {
        if let (Some(address), Some(port)) = (endpoint.address, endpoint.port)
            && state(endpoint) != State::Absent
        {
            let zone = endpoint.zone.as_deref().unwrap_or_default();
            let said = (state(endpoint), zone, weights.of_endpoint(endpoint));
            let port = inbound.filter(|_| endpoint.is_alone).unwrap_or(port);
            places.entry((address, port)).and_modify(|best| *best = said.min(*best)).or_insert(said);
        }
    }
    let mut zones: BTreeMap<&str, Vec<(Place, Said<'_>)>> = BTreeMap::new();
    for (place, said) in places {
        zones.entry(said.1).or_default().push((place, said));
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

/// Where the sidecars of a service are: Envoy compares this with where endpoints are to see how much may stay in its zone.
pub fn crew_assignment(namespace: &Namespace, service: &ServiceName, crew: &Crew) -> Resource {
    let name = local_name(namespace, service.as_str());
    let mut zones: BTreeMap<&str, Vec<(Place, Said<'_>)>> = BTreeMap::new();
    for (zone, address) in crew.iter() {
        // Nobody sends anything there; but Envoy's own schema wants a port.
        zones.entry(zone).or_default().push(((*address, 1), (State::Healthy, zone, None)));
    }
    let assignment = ClusterLoadAssignment {
        cluster_name: name.to_string(),
        endpoints: zones.into_iter().map(|(zone, endpoints)| locality(zone, endpoints)).collect(),
        ..Default::default()
    };
    Resource::encode(ResourceType::Endpoint, name, &assignment).only_for(ProxyClass::Sidecar)
}

/// What endpoints weigh while traffic is split between revisions of their service. Routes do that exactly; but where bytes
/// go there are none, and to put another cluster into a listener would end its connections.
struct Weights<'a> {
    /// By revision: its weight, and how many endpoints it has in rotation.
    revisions: BTreeMap<&'a str, (u32, u32)>,
}

impl<'a> Weights<'a> {
    /// A thousandth of all traffic, to be shared by the endpoints of a revision.
    const THOUSANDTH: u32 = 1_000;

    fn of(shift: Option<&'a Shift>, endpoints: &[Endpoint]) -> Self {
        let split = shift.map(Shift::split).unwrap_or_default();
        let count = |id: &str| {
            let of_it = endpoints.iter().filter(|it| it.traits.revision.as_deref() == Some(id));
            let count = of_it.filter(|endpoint| endpoint.verdict.state == State::Healthy).count();
            u32::try_from(count).unwrap_or(u32::MAX).max(1)
        };
        let revisions = split.iter().map(|(it, weight)| (&*it.id, (*weight, count(&it.id))));
        Self { revisions: revisions.collect() }
    }

    fn of_endpoint(&self, endpoint: &Endpoint) -> Option<u32> {
        let (weight, count) = self.revisions.get(endpoint.traits.revision.as_deref()?)?;
        Some((weight.saturating_mul(Self::THOUSANDTH) / count).max(1))
    }
}

fn locality(zone: &str, endpoints: Vec<(Place, Said<'_>)>) -> LocalityLbEndpoints {
    // For gRPC, which picks a locality by weight and skips one without. Envoy goes by endpoints alone.
    let usable = endpoints.iter().filter(|(_, (state, ..))| *state == State::Healthy).count();
    let weight = u32::try_from(usable).unwrap_or(u32::MAX);
    LocalityLbEndpoints {
        locality: Some(Locality { zone: zone.to_owned(), ..Default::default() }),
        load_balancing_weight: (weight > 0).then(|| number(weight)),
        lb_endpoints: endpoints.into_iter().map(lb_endpoint).collect(),
        ..Default::default()
    }
}

fn lb_endpoint(((address, port), (state, _, weight)): (Place, Said<'_>)) -> LbEndpoint {
    let health = match state {
        State::Healthy => HealthStatus::Healthy,
        State::Draining => HealthStatus::Draining,
        State::Unhealthy | State::Absent => HealthStatus::Unhealthy,
    };
    LbEndpoint {
        health_status: health.into(),
        load_balancing_weight: weight.map(number),
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
