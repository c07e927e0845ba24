//! Where services are found, and how much may come: aliases, ports of the sidecar, services beyond ECS, rate limits.
//!
//! It is not about how they are treated. Invariant: no two aliases, addresses or local ports of a namespace are one.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::External;
use super::read::{Reader, number, protocol, time};
use super::said::{LIMITS, of_limit};
use crate::diagnostic::{BAD_VALUE, Node, TWO_SERVICES, Written};
use crate::model::{
    Alias, Health, Member, Namespace, Origin, Phase, RateLimit, Reach, Registration, Said, ServiceKey,
    ServiceName, ServiceSpec, Traits,
};
use crate::vip;

/// Where the Host-routed proxy listens in every sidecar.
const PROXY_PORT: u16 = 15001;
/// Where a sidecar takes in requests for its own application, if nothing else is said.
const INBOUND_PORT: u16 = 15006;

/// Aliases, and the ports of 127.0.0.1 at which some of them are too.
pub(super) type Aliases = (Vec<Alias>, Vec<(Alias, u16)>);

impl Reader<'_, '_> {
    pub(super) fn aliases(&mut self, namespace: &Namespace, node: &Node) -> Aliases {
        let (mut aliases, mut local_ports) = (Vec::new(), Vec::new());
        for item in node.items() {
            let Some(name) = item.get("name").and_then(Node::written) else { continue };
            let Some(port) = number(item.get("port")) else { continue };
            let alias = Alias { name: name.text.as_str().into(), port };
            let what = format!("the alias `{alias}` in `{namespace}`");
            if !self.seen.is_first(self.checker, &what, name, TWO_SERVICES) {
                continue;
            }
            if let Some(port) = item.get("localhostPort").and_then(|node| self.local_port(namespace, node)) {
                local_ports.push((alias.clone(), port));
            }
            if let Some(address) = item.get("address").and_then(Node::written) {
                self.pin(namespace, &alias, address);
            }
            aliases.push(alias);
        }
        (aliases, local_ports)
    }

    fn local_port(&mut self, namespace: &Namespace, node: &Node) -> Option<u16> {
        let (written, port) = (node.written()?, number(Some(node))?);
        if port == PROXY_PORT {
            self.checker.bad(written, "the sidecar's own proxy listens there", "choose another port");
            return None;
        }
        let what = format!("the port {port} of localhost in `{namespace}`");
        self.seen.is_first(self.checker, &what, written, TWO_SERVICES).then_some(port)
    }

    /// Aliases of one name have one address.
    fn pin(&mut self, namespace: &Namespace, alias: &Alias, written: &Written) {
        let Ok(address) = written.text.parse::<Ipv4Addr>() else { return };
        let name: Arc<str> = vip::base_name(namespace.as_str(), &alias.name).into();
        if self.of(namespace).pins.get(&name) == Some(&address) {
            return;
        }
        let what = format!("the address {address} in `{namespace}`");
        if self.seen.is_first(self.checker, &what, written, TWO_SERVICES)
            && let Some(other) = self.of(namespace).pins.insert(Arc::clone(&name), address)
        {
            let message = format!("`{name}` has the address {other} already");
            self.checker.bad(written, message, "aliases of one name have one address");
        }
    }

    /// The port on which a service's own sidecars take its requests in; zero if the application does that itself.
    pub(super) fn inbound(&mut self, node: &Node) -> u16 {
        let port = node.get("port");
        if node.get("mode").and_then(Node::text) == Some("sidecar") {
            return number(port).unwrap_or(INBOUND_PORT);
        }
        if let Some(written) = port.and_then(Node::written) {
            self.checker.bad(written, "a port has no effect in this mode", "add `mode: sidecar`");
        }
        0
    }

    pub(super) fn rate_limit(&mut self, node: &Node) {
        let Some(name) = node.get("service").and_then(Node::written) else { return };
        let Some(namespace) = self.known.namespace(self.checker, node.get("namespace"), name) else { return };
        let Some(limit) = limit(node) else { return };
        let at = node.get("at").and_then(Node::text).unwrap_or("outbound");
        let what = format!("the {at} rate limit of `{namespace}/{}`", name.text);
        if self.seen.is_first(self.checker, &what, name, BAD_VALUE) {
            let place = self.checker.document().origin(name);
            let (knobs, said) = self.of(&namespace).limits.entry(name.text.as_str().into()).or_default();
            let [outbound, inbound] = LIMITS;
            said.push(of_limit(if at == "inbound" { inbound } else { outbound }, &limit, place));
            let limit = Some(limit);
            if at == "inbound" {
                knobs.inbound_limit = limit;
            } else {
                knobs.outbound_limit = limit;
            }
        }
    }

    pub(super) fn external(&mut self, node: &Node) {
        let Some(name) = node.get("name").and_then(Node::written) else { return };
        let Some(namespace) = self.known.namespace(self.checker, node.get("namespace"), name) else { return };
        let what = format!("the external service `{namespace}/{}`", name.text);
        if !self.seen.is_first(self.checker, &what, name, TWO_SERVICES) {
            return;
        }
        let Some(port) = number(node.get("port")) else { return };
        let zone: Option<Arc<str>> = node.get("zone").and_then(Node::text).map(Into::into);
        let places = node.get("endpoints").map(Node::items).unwrap_or_default();
        let places: BTreeSet<_> =
            places.iter().filter_map(|place| Some((place.text()?, read_place(place.text()?)?))).collect();
        let mut registrations: Vec<Registration> =
            places.iter().map(|(text, place)| registration(text, place, zone.clone())).collect();
        registrations.sort_by(|a, b| (&a.instance, a.port).cmp(&(&b.instance, b.port)));
        registrations.dedup();
        let key = ServiceKey { namespace: namespace.clone(), name: name.text.as_str().into() };
        let is_by_name = places.iter().any(|(_, (host, _))| host.parse::<IpAddr>().is_err());
        let hosts = places.into_iter().filter(|_| is_by_name).map(|(_, (host, port))| (host.into(), port));
        let document = self.checker.document();
        let place = |key: &str| node.get(key).map(|node| document.line_of(node.spot()));
        let protocol_said = node.get("appProtocol").and_then(Node::text).zip(place("appProtocol"));
        let said = [
            place("port").map(|place| Said::new("aliases", "", place)),
            protocol_said.map(|(protocol, place)| Said::new("appProtocol", protocol, place)),
        ];
        let spec = ServiceSpec {
            protocol: protocol(node).unwrap_or_default(),
            aliases: vec![Alias { name: key.name.shared(), port }],
            reach: Reach { hosts: hosts.collect(), ..Reach::default() },
            ..ServiceSpec::new(key, Origin::new(document.origin(name), said.into_iter().flatten()))
        };
        let external = External { spec: Arc::new(spec), registrations };
        self.of(&namespace).externals.insert(ServiceName::from(name.text.as_str()), external);
    }
}

/// So many requests in some time.
pub(super) fn limit(node: &Node) -> Option<RateLimit> {
    let requests = number(node.get("requests"))?;
    let per = node.get("per").map_or(Some(std::time::Duration::from_secs(1)), |per| time(Some(per)))?;
    Some(RateLimit { requests, per, burst: number(node.get("burst")).unwrap_or(requests) })
}

/// A host, which may be a name, and a port.
pub(super) fn read_place(text: &str) -> Option<(String, u16)> {
    if let Ok(place) = text.parse::<SocketAddr>() {
        let sound = place.port() > 0 && !place.ip().is_unspecified() && !place.ip().is_multicast();
        return sound.then(|| (place.ip().to_string(), place.port()));
    }
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.chars().all(sound);
    let name = host.strip_suffix('.').unwrap_or(host);
    let last_is_number =
        name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    (name.len() <= 253 && !last_is_number && name.split('.').all(is_label)).then(|| (host.to_owned(), port))
}

fn registration(text: &str, (host, port): &(String, u16), zone: Option<Arc<str>>) -> Registration {
    Registration {
        instance: text.into(),
        address: host.parse().ok(),
        port: Some(*port),
        zone,
        traits: Traits::default(),
        phase: Phase::Running(Health::NoCheck),
        started_at: None,
        member: Member::File,
        foreign_tls: false,
        held: false,
    }
}
