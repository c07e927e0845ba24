//! The names of HTTP services: Hosts at the proxy, and targets of gRPC libraries (`xds:///payments`).
//!
//! It is not about loopback addresses: those take part in no routing.
//!
//! Invariant: no name leads to two services, and none of a namespace's own to one that is imported.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{Alias, Namespace, ServiceKey, ServiceSpec};
use crate::vip;

/// The names of one service; the same `Arc` while nothing in the namespace was described anew.
pub type Names = Arc<[Arc<str>]>;

/// The names that lead to each HTTP service which has aliases: `payments:8080` and `payments.prod:8080` for
/// each alias, and for one service both without a port. `specs` are `namespace`'s own, then those that it imports by
/// namespace: where somebody before has its short name, such a service has only the long one.
pub fn names(namespace: &Namespace, specs: &[Arc<ServiceSpec>]) -> BTreeMap<ServiceKey, Names> {
    let owners = owners(namespace, specs);
    let specs = || specs.iter().filter(|spec| spec.protocol.is_http());
    let aliases = specs().flat_map(|spec| spec.aliases.iter().map(move |alias| (alias, &spec.key)));
    let plain = plain(aliases.collect());
    let mut said: BTreeSet<Arc<str>> = BTreeSet::new();
    let each = specs().map(|spec| {
        let home = &spec.key.namespace;
        let names = spec.aliases.iter().flat_map(|alias| {
            let base = vip::base_name(home.as_str(), &alias.name);
            let short = (owners.get(base) == Some(&home)).then(|| base.to_owned());
            let names = short.into_iter().chain([format!("{base}.{home}")]);
            let with_port = names.clone().map(|name| format!("{name}:{}", alias.port));
            let plain = plain.contains(&(alias, &spec.key)).then_some(names);
            with_port.chain(plain.into_iter().flatten()).map(Arc::from).collect::<Vec<Arc<str>>>()
        });
        let names: Names = names.filter(|name| said.insert(Arc::clone(name))).collect();
        (spec.key.clone(), names)
    });
    each.filter(|(_, names)| !names.is_empty()).collect()
}

/// Whose services a short name means, whatever is spoken there: its own namespace's, or else the first that is imported.
fn owners<'a>(namespace: &'a Namespace, specs: &'a [Arc<ServiceSpec>]) -> BTreeMap<&'a str, &'a Namespace> {
    let mut owners = BTreeMap::new();
    let own = specs.iter().filter(|spec| spec.key.namespace == *namespace);
    let imported = specs.iter().filter(|spec| spec.key.namespace != *namespace);
    for spec in own.chain(imported) {
        let home = &spec.key.namespace;
        for alias in &spec.aliases {
            owners.entry(vip::base_name(home.as_str(), &alias.name)).or_insert(home);
        }
    }
    owners
}

/// The aliases that a name without a port means: port 80; where nobody has that, the first will do.
fn plain<'a>(mut aliases: Vec<(&'a Alias, &'a ServiceKey)>) -> BTreeSet<(&'a Alias, &'a ServiceKey)> {
    let mut taken = BTreeSet::new();
    aliases.sort_by_key(|(alias, key)| (alias.port != 80, alias.port, *key));
    let first = |(alias, key): &(&'a Alias, &'a ServiceKey)| {
        taken.insert((&key.namespace, vip::base_name(key.namespace.as_str(), &alias.name)))
    };
    aliases.into_iter().filter(first).collect()
}
