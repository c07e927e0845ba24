//! The names of HTTP services: Hosts at the proxy, and targets of gRPC libraries (`xds:///payments`).
//!
//! It is not about loopback addresses: those take part in no routing.
//!
//! Invariant: no name leads to two services.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{Alias, Namespace, ServiceKey, ServiceName, ServiceSpec};
use crate::vip;

/// The names of one service; the same `Arc` while nothing in the namespace was described anew.
pub type Names = Arc<[Arc<str>]>;

/// The names that lead to each HTTP service which has aliases: `payments:8080` and `payments.prod:8080` for
/// each alias, and for one service both without a port.
pub fn names(namespace: &Namespace, specs: &[Arc<ServiceSpec>]) -> BTreeMap<ServiceName, Names> {
    let specs = || specs.iter().filter(|spec| spec.protocol.is_http());
    let aliases = specs().flat_map(|spec| spec.aliases.iter().map(move |alias| (alias, &spec.key)));
    let plain = plain(namespace, aliases.collect());
    let mut said: BTreeSet<Arc<str>> = BTreeSet::new();
    let each = specs().map(|spec| {
        let names = spec.aliases.iter().flat_map(|alias| {
            let base = vip::base_name(namespace.as_str(), &alias.name);
            let names = [base.to_owned(), format!("{base}.{namespace}")];
            let with_port = names.clone().map(|name| format!("{name}:{}", alias.port));
            let plain = plain.contains(&(alias, &spec.key)).then_some(names);
            with_port.into_iter().chain(plain.into_iter().flatten()).map(Arc::from)
        });
        let names: Names = names.filter(|name| said.insert(Arc::clone(name))).collect();
        (spec.key.name.clone(), names)
    });
    each.filter(|(_, names)| !names.is_empty()).collect()
}

/// The aliases that a name without a port means: port 80; where nobody has that, the first will do.
fn plain<'a>(
    namespace: &Namespace,
    mut aliases: Vec<(&'a Alias, &'a ServiceKey)>,
) -> BTreeSet<(&'a Alias, &'a ServiceKey)> {
    let mut taken = BTreeSet::new();
    aliases.sort_by_key(|(alias, key)| (alias.port != 80, alias.port, *key));
    let first = |(alias, _): &(&'a Alias, _)| taken.insert(vip::base_name(namespace.as_str(), &alias.name));
    aliases.into_iter().filter(first).collect()
}
