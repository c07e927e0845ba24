//! Which names a task may call, and at which address each is: lines of a hosts file, from the listeners of its Envoy.
//!
//! It is not about the file (`hosts.rs`). Invariant: pure; no name is at two addresses, and none of the own namespace
//! gives way to one that is imported.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::vip;

/// A listener of the sidecar, as its admin page tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listener {
    /// `prod/payments:8080` for the alias `payments` of the namespace `prod`.
    pub name: String,
    /// Where it listens.
    pub address: Ipv4Addr,
}

/// The namespaces whose aliases these are.
pub fn namespaces(listeners: &[Listener]) -> BTreeSet<&str> {
    listeners.iter().filter_map(|it| alias(it)).map(|(namespace, _)| namespace).collect()
}

/// One line for each alias: its address, its short name where that means it, and its long one. A short name means the alias
/// of the `own` namespace, or else of the first that has it.
pub fn lines(own: &str, listeners: &[Listener]) -> Vec<String> {
    let mut addresses: BTreeMap<(bool, &str, &str), Ipv4Addr> = BTreeMap::new();
    for listener in listeners {
        if let Some((namespace, name)) = alias(listener) {
            addresses.entry((namespace != own, namespace, name)).or_insert(listener.address);
        }
    }
    let mut short = BTreeSet::new();
    let line = |((_, namespace, name), address): (&(bool, &str, &str), &Ipv4Addr)| {
        let before = if short.insert(name.to_string()) { format!("{name} ") } else { String::new() };
        format!("{address} {before}{name}.{namespace}")
    };
    addresses.iter().map(line).collect()
}

/// The namespace and the short name of an alias. Listeners of other kinds have a part that begins with `@`, which no alias has.
fn alias(listener: &Listener) -> Option<(&str, &str)> {
    let (namespace, rest) = listener.name.split_once('/')?;
    let (name, port) = rest.rsplit_once(':')?;
    let sound = |text: &str| {
        let of_names = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-' | '.');
        (1..=127).contains(&text.len()) && text.chars().all(of_names)
    };
    let known =
        sound(namespace) && sound(name) && port.parse::<u16>().is_ok() && listener.address.is_loopback();
    known.then(|| (namespace, vip::base_name(namespace, name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listeners(list: &[(&str, [u8; 4])]) -> Vec<Listener> {
        let listener = |(name, address): &(&str, [u8; 4])| Listener {
            name: (*name).to_owned(),
            address: Ipv4Addr::from(*address),
        };
        list.iter().map(listener).collect()
    }

    #[test]
    fn each_alias_has_one_line_whatever_its_ports() {
        let listeners = listeners(&[
            ("prod/payments:8080", [127, 179, 154, 254]),
            ("prod/payments.prod:9090", [127, 179, 154, 254]),
            ("prod/ledger:50051", [127, 175, 74, 75]),
            ("prod/@http-proxy", [127, 0, 0, 1]),
            ("prod/@localhost:18080", [127, 0, 0, 1]),
            ("prod/@inbound/checkout/http:8080", [0, 0, 0, 0]),
        ]);
        assert_eq!(
            lines("prod", &listeners),
            ["127.175.74.75 ledger ledger.prod", "127.179.154.254 payments payments.prod"]
        );
        assert_eq!(namespaces(&listeners), BTreeSet::from(["prod"]));
    }

    #[test]
    fn a_short_name_means_the_own_alias_and_else_the_first() {
        let listeners = listeners(&[
            ("audit/log:80", [127, 200, 0, 1]),
            ("audit/mail:80", [127, 200, 0, 2]),
            ("prod/log:80", [127, 200, 0, 3]),
            ("shared/mail:80", [127, 200, 0, 4]),
        ]);
        let said = [
            "127.200.0.3 log log.prod",
            "127.200.0.1 log.audit",
            "127.200.0.2 mail mail.audit",
            "127.200.0.4 mail.shared",
        ];
        assert_eq!(lines("prod", &listeners), said);
    }

    #[test]
    fn nothing_else_gets_into_the_file() {
        for (name, address) in [
            ("payments:8080", [127, 200, 0, 1]),
            ("prod/payments", [127, 200, 0, 1]),
            ("prod/pay ments:8080", [127, 200, 0, 1]),
            ("prod/pay\nments:8080", [127, 200, 0, 1]),
            ("prod/payments:http", [127, 200, 0, 1]),
            ("prod/a/b:80", [127, 200, 0, 1]),
            ("/payments:8080", [127, 200, 0, 1]),
            ("prod/:8080", [127, 200, 0, 1]),
            ("prod/payments:8080", [10, 0, 0, 1]),
        ] {
            assert_eq!(lines("prod", &listeners(&[(name, address)])), [""; 0], "{name:?} at {address:?}");
        }
    }
}
