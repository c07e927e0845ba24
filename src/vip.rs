//! One stable loopback address for each alias name: where a sidecar listens for it.
//!
//! It is not a registry: the address follows from the name, so every replica and every task agrees on it
//! without asking anyone.
//!
//! Invariant: addresses lie in 127.128.0.0/9 and outside 127.255.0.0/16, which Service Connect uses; no two
//! names of a namespace share one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

/// Addresses per second octet: the last octet is never 0 nor 255.
const PER_OCTET: u64 = 256 * 254;
/// Second octets 128 to 254.
const ADDRESSES: u64 = 127 * PER_OCTET;

/// The address of `name` in `namespace`; `probe` counts up from 0 where names collide.
pub fn address(namespace: &str, name: &str, probe: u32) -> Ipv4Addr {
    let mut hash = Sha256::new();
    for part in ["legation-vip-v1", namespace, name] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.update(probe.to_string().as_bytes());
    let n = hash.finalize().iter().take(8).fold(0_u64, |n, byte| (n << 8) | u64::from(*byte)) % ADDRESSES;
    let octet = |n: u64| u8::try_from(n).unwrap_or_default();
    Ipv4Addr::new(127, octet(128 + n / PER_OCTET), octet((n / 254) % 256), octet(n % 254 + 1))
}

/// The name that carries the address: `payments` for both `payments` and `payments.prod`.
pub fn base_name<'a>(namespace: &str, alias: &'a str) -> &'a str {
    let shorter =
        |name: &&'a str| name.strip_suffix(namespace)?.strip_suffix('.').filter(|rest| !rest.is_empty());
    std::iter::successors(Some(alias), shorter).last().unwrap_or(alias)
}

/// Two names that ask for one address: the younger, and the older, which keeps it.
pub type Collision = (Arc<str>, Arc<str>);

/// Places every name in order, so that an older name keeps its address when a younger one collides; those with an
/// address in `pins` come first, and have that. Returns the addresses and the collisions.
pub fn assign(
    namespace: &str,
    names: &[Arc<str>],
    pins: &BTreeMap<Arc<str>, Ipv4Addr>,
) -> (BTreeMap<Arc<str>, Ipv4Addr>, Vec<Collision>) {
    let pinned = names.iter().filter_map(|name| Some((Arc::clone(name), *pins.get(name)?)));
    let mut addresses: BTreeMap<Arc<str>, Ipv4Addr> = pinned.collect();
    let mut owners: BTreeMap<Ipv4Addr, Arc<str>> =
        addresses.iter().map(|(name, address)| (*address, Arc::clone(name))).collect();
    let mut collisions = Vec::new();
    let mut placed: BTreeSet<_> = addresses.keys().cloned().collect();
    for name in names.iter().filter(|name| placed.insert(Arc::clone(name))) {
        for probe in 0.. {
            let address = address(namespace, name, probe);
            if let Some(owner) = owners.get(&address) {
                collisions.push((Arc::clone(name), Arc::clone(owner)));
                continue;
            }
            owners.insert(address, Arc::clone(name));
            addresses.insert(Arc::clone(name), address);
            break;
        }
    }
    (addresses, collisions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_vectors() {
        for (namespace, name, expected) in [
            ("prod", "payments", [127, 179, 154, 254]),
            ("prod", "ledger", [127, 175, 74, 75]),
            ("shared", "audit", [127, 229, 97, 22]),
        ] {
            assert_eq!(address(namespace, name, 0), Ipv4Addr::from(expected), "{namespace}/{name}");
        }
    }

    #[test]
    fn the_suffixed_name_is_the_same_name() {
        assert_eq!(base_name("prod", "payments.prod"), "payments");
        assert_eq!(base_name("prod", "payments"), "payments");
        assert_eq!(base_name("prod", "payments.prod.prod"), "payments");
        assert_eq!(base_name("prod", "reprod"), "reprod");
        assert_eq!(base_name("prod", ".prod"), ".prod");
    }

    #[test]
    fn five_thousand_names_never_share_and_the_older_keeps_its_address() {
        let names: Vec<Arc<str>> = (0..5000).map(|n| format!("service-{n}").into()).collect();
        let (addresses, collisions) = assign("prod", &names, &BTreeMap::new());
        let distinct: BTreeSet<_> = addresses.values().collect();
        assert_eq!(distinct.len(), names.len());
        assert!(!collisions.is_empty(), "5,000 names of 8 million addresses are expected to collide");
        for (younger, older) in &collisions {
            assert_eq!(addresses[older], address("prod", older, 0));
            assert_ne!(addresses[younger], address("prod", younger, 0));
        }
        for address in addresses.values() {
            let [a, b, _, d] = address.octets();
            assert!(a == 127 && (128..255).contains(&b) && (1..255).contains(&d), "{address}");
        }
    }
}
