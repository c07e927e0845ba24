//! Where a task is: its address and its ports, as its network mode has it.
//!
//! It is not about services: which port is offered is none of its business.
//!
//! Invariant: pure; and of two tasks that run at a time no place is both's, as long as ECS tells the truth.

use std::net::IpAddr;

use super::facts::{Network, Revision, TaskFacts};
use super::instances::Instances;
use crate::model::{Place, Subnet};

/// How a task of this definition is on the network. Bridge is ECS's default where a definition does not say; an address
/// of its own tells another story, and so does a task that runs on no instance of ours.
pub(super) fn network(facts: &TaskFacts, revision: &Revision) -> Network {
    let shares = facts.own.address.is_none() && facts.machine.is_some();
    revision.network.unwrap_or(if shares { Network::Bridge } else { Network::Own })
}

/// Where one task is.
#[derive(Clone, Copy)]
pub(super) struct Location<'a> {
    facts: &'a TaskFacts,
    revision: Option<&'a Revision>,
    network: Network,
    /// Once it is known.
    pub address: Option<IpAddr>,
    subnet: Option<Subnet>,
}

impl<'a> Location<'a> {
    /// Where the task is, `revision` being its task definition's, if that is known.
    pub(super) fn of(facts: &'a TaskFacts, revision: Option<&'a Revision>, instances: &Instances) -> Self {
        let network = revision.map_or(Network::Own, |revision| network(facts, revision));
        let (address, subnet) = match network {
            Network::Own => (facts.own.address, facts.own.subnet),
            Network::Bridge | Network::Host => {
                let located = facts.machine.as_ref().and_then(|machine| instances.located(machine));
                (located.map(|it| it.address), located.and_then(|it| it.subnet))
            }
            Network::None => (None, None),
        };
        Self { facts, revision, network, address, subnet }
    }

    /// The port at its address that leads to this port of this container, once ECS tells it.
    pub(super) fn port(&self, container: &str, number: u16) -> Option<u16> {
        match self.network {
            Network::Own | Network::Host => Some(number),
            Network::Bridge => {
                let mut containers = self.facts.containers.iter().filter(|one| &*one.name == container);
                containers.find_map(|one| one.bindings.iter().find_map(|binding| binding.host(number)))
            }
            Network::None => None,
        }
    }

    /// What it has of the network: an address, or ports of its instance's. Ranges are left out: nothing is offered on
    /// them, and some have tens of thousands.
    pub(super) fn places(&self) -> Vec<Place> {
        let Some(address) = self.address else { return Vec::new() };
        let mut places: Vec<_> = match self.network {
            Network::Own => self.facts.own.addresses().map(Place::whole).collect(),
            Network::Bridge => {
                let bindings = self.facts.containers.iter().flat_map(|container| &container.bindings);
                let single = bindings.filter(|binding| binding.count == 1);
                single.map(|binding| Place::shared(address, binding.host)).collect()
            }
            Network::Host => {
                let ports = self.revision.into_iter().flat_map(|revision| revision.single.iter());
                ports.map(|port| Place::shared(address, *port)).collect()
            }
            Network::None => Vec::new(),
        };
        places.iter_mut().for_each(|place| place.subnet = self.subnet);
        // Docker binds a port once for IPv4 and once for IPv6.
        places.sort_unstable();
        places.dedup();
        places
    }

    /// Whether it is not known where it is.
    pub(super) fn is_unknown(&self) -> bool {
        self.address.is_none() || (self.network != Network::Own && self.places().is_empty())
    }
}
