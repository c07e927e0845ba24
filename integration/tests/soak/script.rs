//! What is edited next: a long story of a mesh, told by a seed.
//!
//! It writes no file and knows no clock. Invariant: the same seed and ports tell the same story; loaded
//! services keep their first alias, their protocol and the endpoints that stay.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;

use fastrand::Rng;

use crate::mesh::{Endpoint, Mesh, Protocol, Service};

/// How many services without load there are at most, and at least as soon as they have come.
const MOST: usize = 32;
const LEAST: usize = 12;
const ZONES: [&str; 3] = ["eu-west-1a", "eu-west-1b", "eu-west-1c"];

/// What an edit is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    EndpointAdded,
    EndpointRemoved,
    Health,
    ServiceAdded,
    ServiceRemoved,
    Renamed,
    Protocol,
    Timeouts,
    Alias,
    NoOp,
    Bad,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EndpointAdded => "endpoints added",
            Self::EndpointRemoved => "endpoints removed",
            Self::Health => "health changed",
            Self::ServiceAdded => "services added",
            Self::ServiceRemoved => "services removed",
            Self::Renamed => "services renamed",
            Self::Protocol => "protocols changed",
            Self::Timeouts => "timeouts changed",
            Self::Alias => "aliases changed",
            Self::NoOp => "rewritten unchanged",
            Self::Bad => "made unreadable",
        })
    }
}

/// How often each kind is tried, out of the sum.
const WEIGHTS: [(Kind, u32); 11] = [
    (Kind::EndpointAdded, 22),
    (Kind::EndpointRemoved, 20),
    (Kind::Health, 18),
    (Kind::ServiceAdded, 7),
    (Kind::ServiceRemoved, 6),
    (Kind::Renamed, 4),
    (Kind::Protocol, 4),
    (Kind::Timeouts, 7),
    (Kind::Alias, 6),
    (Kind::NoOp, 4),
    (Kind::Bad, 2),
];

/// Where real servers are that a loaded service's endpoints may be.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    /// The service at first, and its alias for good.
    pub(crate) name: &'static str,
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
    /// The first [`Pool::stay`] of them stay.
    pub(crate) servers: Vec<(Ipv4Addr, u16)>,
    pub(crate) stay: usize,
}

/// The mesh as it is, and what comes next.
#[derive(Debug)]
pub(crate) struct Script {
    rng: Rng,
    pub(crate) mesh: Mesh,
    pools: Vec<Pool>,
    ports: Vec<u16>,
    /// Services that only others change.
    pinned: BTreeSet<String>,
    /// Services that have gone since somebody took this list.
    pub(crate) gone: Vec<String>,
    count: u32,
    backwards: bool,
}

/// One edit: what it is about, and the whole new file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Edit {
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

impl Script {
    /// The beginning: the loaded services with what stays, and [`LEAST`] others on these alias ports.
    pub(crate) fn new(seed: u64, pools: Vec<Pool>, ports: Vec<u16>) -> Self {
        let rng = Rng::with_seed(seed);
        let (mesh, pinned) = (Mesh::default(), BTreeSet::new());
        let gone = Vec::new();
        let mut script = Self { rng, mesh, pools, ports, pinned, gone, count: 0, backwards: false };
        for pool in script.pools.clone() {
            let endpoints = pool.servers.iter().zip(ZONES.iter().cycle()).take(pool.stay);
            let endpoints =
                endpoints.map(|(server, zone)| Endpoint { stays: true, ..endpoint(*server, zone) });
            let service = Service {
                aliases: vec![(pool.name.to_owned(), pool.port)],
                protocol: pool.protocol,
                request: None,
                idle: None,
                attempts: None,
                endpoints: endpoints.collect(),
                loaded: true,
            };
            script.mesh.services.insert(pool.name.to_owned(), service);
        }
        while script.mesh.services.len() < LEAST + script.pools.len() {
            script.add_service();
        }
        script
    }

    /// The next edit; the mesh is as it says, unless it is bad.
    pub(crate) fn next(&mut self) -> Edit {
        loop {
            let kind = self.kind();
            let done = match kind {
                Kind::EndpointAdded => self.add_endpoint(),
                Kind::EndpointRemoved => self.remove_endpoint(),
                Kind::Health => self.change_health(),
                Kind::ServiceAdded => self.add_service(),
                Kind::ServiceRemoved => self.remove_service(),
                Kind::Renamed => self.rename(),
                Kind::Protocol => self.change_protocol(),
                Kind::Timeouts => self.change_timeouts(),
                Kind::Alias => self.change_alias(),
                Kind::NoOp => {
                    self.backwards = !self.backwards;
                    true
                }
                Kind::Bad => return Edit { kind, text: self.bad() },
            };
            if done {
                return Edit { kind, text: self.text() };
            }
        }
    }

    /// The file as it is.
    pub(crate) fn text(&self) -> String {
        self.mesh.render(self.backwards)
    }

    /// The same in the other order.
    pub(crate) fn again(&mut self) -> String {
        self.backwards = !self.backwards;
        self.text()
    }

    /// Adds a service that only [`Script::touch`] changes.
    pub(crate) fn pin(&mut self, name: &str, service: Service) {
        self.pinned.insert(name.to_owned());
        self.mesh.services.insert(name.to_owned(), service);
    }

    /// Changes a pinned service in a way that all its resources show.
    pub(crate) fn touch(&mut self, name: &str) {
        if let Some(service) = self.mesh.services.get_mut(name) {
            service.idle = Some(service.idle.unwrap_or(600) + 1);
        }
    }

    fn kind(&mut self) -> Kind {
        let sum: u32 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
        let mut left = self.rng.u32(..sum);
        for (kind, weight) in WEIGHTS {
            match left.checked_sub(weight) {
                Some(rest) => left = rest,
                None => return kind,
            }
        }
        Kind::NoOp
    }

    /// A number that has not been used.
    fn fresh(&mut self) -> u32 {
        self.count += 1;
        self.count
    }

    /// Any service, or any without load; but no pinned one.
    fn any(&mut self, loaded_too: bool) -> Option<String> {
        let fits = self.mesh.services.iter().filter(|(_, service)| loaded_too || !service.loaded);
        let fits = fits.filter(|(name, _)| !self.pinned.contains(*name));
        let names: Vec<_> = fits.map(|(name, _)| name.clone()).collect();
        self.rng.choice(names)
    }

    /// Any service; it is in the mesh.
    fn any_service(&mut self) -> Option<&mut Service> {
        let name = self.any(true)?;
        self.mesh.services.get_mut(&name)
    }

    fn add_endpoint(&mut self) -> bool {
        let Some(name) = self.any(true) else { return false };
        let place = match self.pool_of(&name) {
            Some(pool) => {
                let service = &self.mesh.services[&name];
                let free = pool.servers.iter().filter(|server| !service.has(server)).copied();
                let free: Vec<_> = free.collect();
                self.rng.choice(free)
            }
            None => Some(self.nowhere()),
        };
        let (Some(place), Some(zone)) = (place, self.rng.choice(ZONES)) else { return false };
        let Some(service) = self.mesh.services.get_mut(&name) else { return false };
        if service.endpoints.len() >= 8 {
            return false;
        }
        service.endpoints.push(endpoint(place, zone));
        true
    }

    /// The servers of a loaded service, whatever it is called now.
    fn pool_of(&self, name: &str) -> Option<Pool> {
        let service = self.mesh.services.get(name).filter(|service| service.loaded)?;
        let (alias, _) = service.aliases.first()?;
        self.pools.iter().find(|pool| pool.name == alias).cloned()
    }

    /// A place where nobody is, never the same twice.
    fn nowhere(&mut self) -> (Ipv4Addr, u16) {
        let [_, b, c, d] = self.fresh().to_be_bytes();
        (Ipv4Addr::new(10, b, c, d), 8080)
    }

    fn remove_endpoint(&mut self) -> bool {
        let Some(name) = self.any(true) else { return false };
        let Some(at) = self.leaving(&name) else { return false };
        self.mesh.services.get_mut(&name).map(|service| service.endpoints.remove(at)).is_some()
    }

    /// Any endpoint of a service that does not stay.
    fn leaving(&mut self, name: &str) -> Option<usize> {
        let endpoints = &self.mesh.services.get(name)?.endpoints;
        let leaving: Vec<_> = (0..endpoints.len()).filter(|at| !endpoints[*at].stays).collect();
        self.rng.choice(leaving)
    }

    fn change_health(&mut self) -> bool {
        let Some(name) = self.any(true) else { return false };
        let Some(at) = self.leaving(&name) else { return false };
        let word = self.rng.choice(["healthy", "draining", "draining", "unhealthy", "starting"]);
        let Some(endpoint) = self.mesh.services.get_mut(&name).map(|service| &mut service.endpoints[at])
        else {
            return false;
        };
        let changes = word.is_some_and(|word| word != endpoint.health);
        endpoint.health = word.unwrap_or(endpoint.health);
        changes
    }

    fn add_service(&mut self) -> bool {
        if self.mesh.services.len() >= MOST {
            return false;
        }
        let name = format!("svc-{}", self.fresh());
        let (Some(port), Some(protocol)) = (self.port(), self.rng.choice(Protocol::ALL)) else {
            return false;
        };
        let endpoints = (0..self.rng.usize(..4)).map(|at| endpoint(self.nowhere(), ZONES[at % 3])).collect();
        let service = Service {
            aliases: vec![(name.clone(), port)],
            protocol,
            request: None,
            idle: None,
            attempts: None,
            endpoints,
            loaded: false,
        };
        self.mesh.services.insert(name, service).is_none()
    }

    fn port(&mut self) -> Option<u16> {
        let ports = self.ports.clone();
        self.rng.choice(ports)
    }

    fn remove_service(&mut self) -> bool {
        if self.mesh.services.len() <= LEAST + self.pools.len() {
            return false;
        }
        let Some(name) = self.any(false) else { return false };
        let removed = self.mesh.services.remove(&name).is_some();
        self.gone.push(name);
        removed
    }

    /// Another name for the same: its aliases, which people use, stay.
    fn rename(&mut self) -> bool {
        let Some(name) = self.any(true) else { return false };
        let Some(service) = self.mesh.services.remove(&name) else { return false };
        self.gone.push(name);
        let new = format!("re-{}", self.fresh());
        self.mesh.services.insert(new, service).is_none()
    }

    fn change_protocol(&mut self) -> bool {
        let (Some(name), Some(protocol)) = (self.any(false), self.rng.choice(Protocol::ALL)) else {
            return false;
        };
        let Some(service) = self.mesh.services.get_mut(&name) else { return false };
        std::mem::replace(&mut service.protocol, protocol) != protocol
    }

    fn change_timeouts(&mut self) -> bool {
        let seconds = self.rng.bool().then(|| self.rng.u32(20..600));
        let (attempts, which) = (self.rng.u32(1..4), self.rng.u8(..3));
        let Some(service) = self.any_service() else { return false };
        let before = service.clone();
        match which {
            // TCP knows no requests.
            0 if service.protocol == Protocol::Tcp => {}
            0 => service.request = seconds,
            1 => service.idle = seconds,
            _ => service.attempts = Some(attempts),
        }
        *service != before
    }

    /// One more alias, or one less; the first of a loaded service stays.
    fn change_alias(&mut self) -> bool {
        let new = (format!("also-{}", self.fresh()), self.port().unwrap_or_default());
        let (more, at) = (self.rng.bool(), self.rng.usize(..3));
        let Some(service) = self.any_service() else { return false };
        if more && service.aliases.len() < 3 {
            service.aliases.push(new);
            return true;
        }
        let removable = at < service.aliases.len() && !(service.loaded && at == 0);
        if removable {
            service.aliases.remove(at);
        }
        removable
    }

    /// A file that the server must not take, close to the one that it has.
    fn bad(&mut self) -> String {
        let text = self.text();
        let first = self.mesh.services.keys().next().cloned().unwrap_or_default();
        match self.rng.u8(..7) {
            // As if it were still being written.
            0 => text[..text.rfind("aliases: [{").unwrap_or_default() + self.rng.usize(9..14)].to_owned(),
            1 => text.replacen("appProtocol: ", "appProtocl: ", 1),
            2 => text.replacen("appProtocol: ", "appProtocol: x", 1),
            3 => text.replacen("port: ", "port: 9", 1),
            4 => text.replacen("address: ", "address: 300.", 1),
            5 => format!("{text}  {first}:\n    endpoints: []\n"),
            _ => String::new(),
        }
    }
}

impl Service {
    fn has(&self, server: &(Ipv4Addr, u16)) -> bool {
        self.endpoints.iter().any(|endpoint| (endpoint.address, endpoint.port) == *server)
    }
}

fn endpoint((address, port): (Ipv4Addr, u16), zone: &'static str) -> Endpoint {
    Endpoint { address, port, zone, health: "healthy", stays: false }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;

    fn pools() -> Vec<Pool> {
        let pool = |name, port, protocol, net| Pool {
            name,
            port,
            protocol,
            servers: (1..=6).map(|last| (Ipv4Addr::new(127, 0, net, last), 8080)).collect(),
            stay: 2,
        };
        vec![pool("web", 21_001, Protocol::Http, 1), pool("cache", 21_002, Protocol::Tcp, 2)]
    }

    fn story(seed: u64) -> Script {
        Script::new(seed, pools(), vec![21_003, 21_004])
    }

    fn read(text: &str) -> bool {
        legation::source::file::parse(Path::new("soak.yaml"), text, &"soak".to_owned().into()).is_ok()
    }

    #[test]
    fn the_same_seed_tells_the_same_story() {
        let (mut one, mut other, mut third) = (story(7), story(7), story(8));
        let (mut same, mut differing) = (0, 0);
        for _ in 0..500 {
            let edit = one.next();
            assert_eq!(edit, other.next());
            if edit == third.next() { same += 1 } else { differing += 1 }
        }
        assert!(differing > same, "another seed tells the same story");
    }

    #[test]
    fn every_edit_is_taken_but_the_bad_ones_and_what_stays_stays() {
        for seed in 0..3 {
            let (mut script, mut seen) = (story(seed), BTreeMap::new());
            for number in 0..1500 {
                let before = script.mesh.clone();
                let edit = script.next();
                *seen.entry(edit.kind).or_insert(0) += 1;
                let changes = !matches!(edit.kind, Kind::NoOp | Kind::Bad);
                assert_eq!(script.mesh != before, changes, "seed {seed}, edit {number}: {:?}", edit.kind);
                if number % 10 == 0 || edit.kind == Kind::Bad {
                    let taken = read(&edit.text);
                    assert_eq!(taken, edit.kind != Kind::Bad, "seed {seed}, edit {number}:\n{}", edit.text);
                }
                for pool in pools() {
                    let alias = (pool.name.to_owned(), pool.port);
                    let owner = script.mesh.services.values().find(|it| it.aliases.contains(&alias)).unwrap();
                    assert!(owner.loaded && owner.protocol == pool.protocol);
                    for server in &pool.servers[..2] {
                        let here = |it: &&Endpoint| (it.address, it.port) == *server;
                        let found = owner.endpoints.iter().find(here).unwrap();
                        assert_eq!((found.stays, found.health), (true, "healthy"));
                    }
                    assert!(owner.endpoints.iter().all(|it| pool.servers.contains(&(it.address, it.port))));
                }
            }
            assert_eq!(seen.len(), WEIGHTS.len(), "{seen:?}");
        }
    }
}
