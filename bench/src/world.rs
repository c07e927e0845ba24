//! What is served: services with tasks, and how they change; the same for every server.
//!
//! It sends nothing. Invariant: no state of a service ever comes back, since each new task has an address of its
//! own, so that a client's state tells which change it has seen.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddrV4};

use xxhash_rust::xxh3::Xxh3;

/// The port of every task.
const PORT: u16 = 8080;

/// The services and their tasks.
#[derive(Debug, Clone)]
pub(crate) struct World {
    services: Vec<Vec<SocketAddrV4>>,
    tasks_so_far: u32,
}

/// A service's endpoints from now on.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) service: usize,
    pub(crate) endpoints: Vec<SocketAddrV4>,
    /// Whether a task goes, which is what must be fast.
    pub(crate) withdraws: bool,
}

impl World {
    pub(crate) fn new(services: usize, tasks: usize) -> Self {
        let mut world = Self { services: vec![Vec::new(); services], tasks_so_far: 0 };
        for service in 0..services {
            for _ in 0..tasks {
                world.start(service);
            }
        }
        world
    }

    /// Everything, as changes from nothing.
    pub(crate) fn all(&self) -> Vec<Change> {
        (0..self.services.len()).map(|service| self.change(service, false)).collect()
    }

    /// A task of the service goes.
    pub(crate) fn stop(&mut self, service: usize) -> Change {
        let endpoints = &mut self.services[service];
        if !endpoints.is_empty() {
            endpoints.remove(0);
        }
        self.change(service, true)
    }

    /// A new task of the service comes.
    pub(crate) fn start(&mut self, service: usize) -> Change {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + self.tasks_so_far);
        self.tasks_so_far += 1;
        self.services[service].push(SocketAddrV4::new(address, PORT));
        self.change(service, false)
    }

    /// A task of the service goes, and a new one comes in the same moment.
    pub(crate) fn replace(&mut self, service: usize) -> Change {
        self.start(service);
        self.stop(service)
    }

    fn change(&self, service: usize, withdraws: bool) -> Change {
        Change { service, endpoints: self.services[service].clone(), withdraws }
    }
}

impl Change {
    /// What distinguishes this state from all others of its service.
    pub(crate) fn fingerprint(&self) -> u64 {
        fingerprint(self.endpoints.iter().copied())
    }

    /// As an order to a server.
    pub(crate) fn write(&self, orders: &mut String) {
        // Writing to a string does not fail.
        let _ = write!(orders, "set {} ", name(self.service));
        for (place, endpoint) in self.endpoints.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            let _ = write!(orders, "{comma}{endpoint}");
        }
        orders.push('\n');
    }
}

/// What distinguishes a set of endpoints, in whichever order they come.
pub(crate) fn fingerprint(endpoints: impl IntoIterator<Item = SocketAddrV4>) -> u64 {
    let mut sorted: Vec<_> = endpoints.into_iter().collect();
    sorted.sort_unstable();
    let mut hash = Xxh3::new();
    for endpoint in sorted {
        hash.update(&endpoint.ip().octets());
        hash.update(&endpoint.port().to_be_bytes());
    }
    hash.digest()
}

/// The name of a service's load assignment.
pub(crate) fn name(service: usize) -> String {
    format!("prod/s{service:04}")
}

/// The service of that name.
pub(crate) fn service(name: &str) -> Option<usize> {
    name.strip_prefix("prod/s")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_state_comes_back() {
        let mut world = World::new(2, 3);
        let mut seen = BTreeSet::new();
        seen.extend(world.all().iter().map(Change::fingerprint));
        for _ in 0..50 {
            seen.insert(world.stop(1).fingerprint());
            seen.insert(world.start(1).fingerprint());
        }
        assert_eq!(seen.len(), 102);
        assert_eq!(service(&name(17)), Some(17));
    }
}
