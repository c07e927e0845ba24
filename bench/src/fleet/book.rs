//! What all clients together hold and how long each change took to reach them: the ground truth of a run.
//!
//! It knows no stream. Invariant: a state that the world never had, one that is older than what the client holds, or
//! one of a service that it did not ask for, is an error that no later state makes good.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use prost::Message;
use tokio::sync::Notify;
use xxhash_rust::xxh3::xxh3_64;

use crate::world::{self, Change};

/// One resource as it came.
#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "1")]
    version: String,
    #[prost(message, optional, tag = "2")]
    resource: Option<Any>,
}

/// The body of a resource.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// One state of one service.
#[derive(Debug)]
struct State {
    /// When it was to be served.
    since: Instant,
    withdraws: bool,
    /// What the server calls it, once it has: this state alone, and always so.
    version: Option<String>,
}

/// One service: its states by number, the first of which is nothing.
#[derive(Debug, Default)]
struct Service {
    states: Vec<State>,
    /// The numbers, by what the states look like.
    numbers: HashMap<u64, u32>,
    subscribers: usize,
    /// How many of them hold the latest.
    current: usize,
}

impl Service {
    fn latest(&self) -> u32 {
        self.states.len() as u32
    }

    fn is_current(&self) -> bool {
        self.current == self.subscribers
    }
}

/// The ledger.
#[derive(Debug, Default)]
pub(crate) struct Book {
    services: Vec<Service>,
    /// What resources mean, by their bytes: all clients get the same ones.
    known: HashMap<u64, (usize, u32)>,
    /// Services of which some subscriber does not hold the latest.
    behind: usize,
    /// How long each withdrawal took to reach each client.
    withdrawals: Vec<Duration>,
    /// Bytes of resources, and how many load assignments.
    received: u64,
    assignments: u64,
    /// What the server calls each cluster.
    clusters: HashMap<String, String>,
    wrong: Option<String>,
    changed: Arc<Notify>,
}

/// What one client holds of each service that it asked for.
pub(super) type Held = HashMap<usize, u32>;

impl Book {
    pub(crate) fn new(services: usize) -> Self {
        let services = std::iter::repeat_with(Service::default).take(services).collect();
        Self { services, ..Self::default() }
    }

    /// A state is to be served from `since` on.
    pub(crate) fn announce(&mut self, change: &Change, since: Instant) {
        let service = &mut self.services[change.service];
        self.behind += usize::from(service.is_current() && service.subscribers > 0);
        service.current = 0;
        service.states.push(State { since, withdraws: change.withdraws, version: None });
        let number = service.latest();
        service.numbers.insert(change.fingerprint(), number);
    }

    /// A client asks for these; it may hold the latest of them already.
    pub(super) fn subscribe(&mut self, services: &[usize], holding: bool) -> Held {
        for &service in services {
            let service = &mut self.services[service];
            let was = service.is_current();
            service.subscribers += 1;
            service.current += usize::from(holding);
            self.behind += usize::from(was && !service.is_current());
        }
        let held = |service: &usize| if holding { self.services[*service].latest() } else { 0 };
        services.iter().map(|service| (*service, held(service))).collect()
    }

    /// What a client says that holds the latest of these.
    pub(super) fn presented(&self, services: &[usize]) -> HashMap<String, String> {
        let version = |service: usize| self.services[service].states.last()?.version.clone();
        services.iter().filter_map(|service| Some((world::name(*service), version(*service)?))).collect()
    }

    /// What a client says that holds the clusters of these.
    pub(super) fn clusters(&self, services: &[usize]) -> HashMap<String, String> {
        let names = services.iter().map(|service| world::name(*service));
        names.filter_map(|name| Some((name.clone(), self.clusters.get(&name)?.clone()))).collect()
    }

    /// A client got this cluster; returns its name. An error where two clients are told different ones.
    pub(super) fn take_cluster(&mut self, encoded: &[u8]) -> anyhow::Result<String> {
        self.received += encoded.len() as u64;
        let Resource { name, version, .. } = Resource::decode(encoded).context("reading a cluster")?;
        let known = self.clusters.entry(name.clone()).or_insert_with(|| version.clone());
        anyhow::ensure!(*known == version, "cluster {name} is {known} and {version}");
        Ok(name)
    }

    /// A client is gone, with what it held.
    pub(super) fn leave(&mut self, held: &Held) {
        for (&service, &state) in held {
            let service = &mut self.services[service];
            let was = service.is_current();
            service.subscribers -= 1;
            service.current -= usize::from(state == service.latest());
            self.behind -= usize::from(!was && service.is_current());
        }
        self.changed.notify_one();
    }

    /// A client got this.
    pub(super) fn take(&mut self, held: &mut Held, encoded: &[u8], at: Instant) -> anyhow::Result<()> {
        self.received += encoded.len() as u64;
        self.assignments += 1;
        let (place, number) = self.meaning(encoded)?;
        let before = held.get_mut(&place);
        let before = before.with_context(|| format!("{} was not asked for", world::name(place)))?;
        anyhow::ensure!(*before <= number, "{}: state {number} came after {before}", world::name(place));
        let news = std::mem::replace(before, number)..number;
        let service = &mut self.services[place];
        for state in news.clone() {
            let state = &service.states[state as usize];
            if state.withdraws {
                self.withdrawals.push(at.saturating_duration_since(state.since));
            }
        }
        if !news.is_empty() && number == service.latest() {
            service.current += 1;
            self.behind -= usize::from(service.is_current());
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Which state of which service it is.
    fn meaning(&mut self, encoded: &[u8]) -> anyhow::Result<(usize, u32)> {
        let key = xxh3_64(encoded);
        if let Some(known) = self.known.get(&key) {
            return Ok(*known);
        }
        let Resource { name, version, resource } = Resource::decode(encoded).context("reading a resource")?;
        let place = world::service(&name).with_context(|| format!("an unknown name: {name}"))?;
        let fingerprint = world::fingerprint(endpoints(&name, &resource.unwrap_or_default().value)?);
        let service = self.services.get_mut(place).context("an unknown service")?;
        let number = service.numbers.get(&fingerprint);
        let number = *number.with_context(|| format!("{name} never had these endpoints"))?;
        let taken = service.states.iter().any(|state| state.version.as_ref() == Some(&version));
        anyhow::ensure!(!taken, "{name}: two states are called {version}");
        let known = service.states[number as usize - 1].version.replace(version);
        anyhow::ensure!(known.is_none(), "{name}: one state is called {known:?} and otherwise");
        self.known.insert(key, (place, number));
        Ok((place, number))
    }

    /// Whether every client holds the latest of all that it asked for. An error if anything was ever wrong.
    pub(crate) fn is_current(&self) -> anyhow::Result<bool> {
        match &self.wrong {
            Some(wrong) => anyhow::bail!("{wrong}"),
            None => Ok(self.behind == 0),
        }
    }

    /// How many clients ask for a service.
    pub(crate) fn subscribers(&self, service: usize) -> usize {
        self.services[service].subscribers
    }

    /// Takes note of what is wrong; the first counts.
    pub(super) fn fail(&mut self, what: String) {
        self.wrong.get_or_insert(what);
        self.changed.notify_one();
    }

    /// Told whenever anything may have become current, or wrong.
    pub(super) fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    /// How long each withdrawal took to reach each client, since this was asked last.
    pub(crate) fn withdrawals(&mut self) -> Vec<Duration> {
        std::mem::take(&mut self.withdrawals)
    }

    /// How many bytes of resources have come since this was asked last.
    pub(crate) fn received(&mut self) -> u64 {
        std::mem::take(&mut self.received)
    }

    /// How many load assignments have come since this was asked last.
    pub(crate) fn assignments(&mut self) -> u64 {
        std::mem::take(&mut self.assignments)
    }
}

/// The endpoints in the load assignment of that name, all of which must be healthy.
fn endpoints(name: &str, body: &[u8]) -> anyhow::Result<Vec<SocketAddrV4>> {
    use envoy_types::pb::envoy::config::core::v3::HealthStatus;
    use envoy_types::pb::envoy::config::core::v3::{address::Address, socket_address::PortSpecifier};
    use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier};
    let assignment = ClusterLoadAssignment::decode(body).context("reading a load assignment")?;
    let called = &assignment.cluster_name;
    anyhow::ensure!(called == name, "the load assignment of {called} under the name {name}");
    let healthy = [HealthStatus::Healthy as i32, HealthStatus::Unknown as i32];
    let mut all = assignment.endpoints.iter().flat_map(|locality| &locality.lb_endpoints);
    anyhow::ensure!(
        all.all(|one| healthy.contains(&one.health_status)),
        "{name}: an endpoint that is not healthy"
    );
    let endpoints = assignment.endpoints.iter().flat_map(|locality| &locality.lb_endpoints);
    let places = endpoints.map(|endpoint| {
        let Some(HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else { return None };
        let Some(Address::SocketAddress(socket)) = &endpoint.address.as_ref()?.address else { return None };
        let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else { return None };
        Some(SocketAddrV4::new(socket.address.parse().ok()?, port.try_into().ok()?))
    });
    places.collect::<Option<_>>().context("an endpoint without an IPv4 address and a port")
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::{
        Address, SocketAddress, address, socket_address::PortSpecifier,
    };
    use envoy_types::pb::envoy::config::endpoint::v3::{
        ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
    };

    use super::*;
    use crate::world::World;

    fn encoded(change: &Change) -> Vec<u8> {
        let endpoint = |place: &SocketAddrV4| {
            let address = SocketAddress {
                address: place.ip().to_string(),
                port_specifier: Some(PortSpecifier::PortValue(place.port().into())),
                ..SocketAddress::default()
            };
            let address = Address { address: Some(address::Address::SocketAddress(address)) };
            let endpoint = Endpoint { address: Some(address), ..Endpoint::default() };
            LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), ..LbEndpoint::default() }
        };
        let locality = LocalityLbEndpoints {
            lb_endpoints: change.endpoints.iter().map(endpoint).collect(),
            ..LocalityLbEndpoints::default()
        };
        let assignment = ClusterLoadAssignment {
            cluster_name: world::name(change.service),
            endpoints: vec![locality],
            ..ClusterLoadAssignment::default()
        };
        let value = assignment.encode_to_vec().into();
        let resource = Some(Any { value });
        let version = format!("{:x}", change.fingerprint());
        Resource { name: world::name(change.service), version, resource }.encode_to_vec()
    }

    /// How a book takes this resource, where one service has had two states.
    fn taken(change: impl FnOnce(&mut Resource, &mut ClusterLoadAssignment)) -> anyhow::Result<()> {
        let (mut world, mut book, now) = (World::new(2, 3), Book::new(2), Instant::now());
        let first = world.all();
        first.iter().for_each(|change| book.announce(change, now));
        let mut held = book.subscribe(&[0], false);
        book.take(&mut held, &encoded(&first[0]), now)?;
        let stopped = world.stop(0);
        book.announce(&stopped, now);
        let mut resource = Resource::decode(&*encoded(&stopped))?;
        let body = resource.resource.take().unwrap_or_default().value;
        let mut assignment = ClusterLoadAssignment::decode(body)?;
        change(&mut resource, &mut assignment);
        resource.resource = Some(Any { value: assignment.encode_to_vec().into() });
        book.take(&mut held, &resource.encode_to_vec(), now)
    }

    #[test]
    fn a_resource_that_is_right_but_for_one_thing_is_wrong() {
        taken(|_, _| {}).unwrap();
        let wrong =
            |change: fn(&mut Resource, &mut ClusterLoadAssignment)| taken(change).unwrap_err().to_string();
        let before = format!("{:x}", World::new(2, 3).all()[0].fingerprint());
        let again = taken(|resource, _| resource.version = before).unwrap_err().to_string();
        assert!(again.contains("two states are called"), "{again}");
        let other = wrong(|resource, _| resource.name = world::name(1));
        assert!(other.contains("under the name prod/s0001"), "{other}");
        let ill = wrong(|_, assignment| assignment.endpoints[0].lb_endpoints[0].health_status = 2);
        assert!(ill.contains("not healthy"), "{ill}");
        let fewer = wrong(|_, assignment| drop(assignment.endpoints[0].lb_endpoints.pop()));
        assert!(fewer.contains("never had these endpoints"), "{fewer}");
    }

    #[test]
    fn a_change_is_over_when_everyone_has_it_and_old_states_are_an_error() {
        let (mut world, mut book, now) = (World::new(2, 3), Book::new(2), Instant::now());
        let first = world.all();
        first.iter().for_each(|change| book.announce(change, now));
        let mut one = book.subscribe(&[0, 1], false);
        let mut other = book.subscribe(&[0], false);
        for held in [&mut one, &mut other] {
            assert!(!book.is_current().unwrap());
            book.take(held, &encoded(&first[0]), now).unwrap();
        }
        book.take(&mut one, &encoded(&first[1]), now).unwrap();
        assert!(book.is_current().unwrap());

        let (stopped, started) = (world.stop(0), world.start(0));
        let later = now + Duration::from_millis(5);
        book.announce(&stopped, now);
        book.announce(&started, now);
        book.take(&mut one, &encoded(&started), later).unwrap();
        assert_eq!(book.withdrawals(), [Duration::from_millis(5)]);
        assert!(!book.is_current().unwrap());
        assert!(book.take(&mut one, &encoded(&stopped), later).is_err(), "older than what it holds");
        assert!(book.take(&mut other, &encoded(&first[1]), later).is_err(), "not asked for");
        book.leave(&other);
        assert!(book.is_current().unwrap());
        let again = book.subscribe(&[0], true);
        assert!(book.is_current().unwrap());
        assert_eq!((again[&0], book.presented(&[0]).len()), (3, 1));
    }
}
