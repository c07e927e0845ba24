//! Who has which alias, and which loopback address each alias has.
//!
//! It is not about endpoints: it looks at descriptions alone.
//!
//! Invariant: the older service keeps a contested alias, and the older alias its address.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::SystemTime;

use crate::model::{Addresses, Alias, Finding, Knobs, Namespace, ServiceKey, ServiceName, ServiceSpec};
use crate::vip;

/// The descriptions with the aliases that are left to each service, ordered by seniority.
pub(super) fn given<'a>(
    namespace: &Namespace,
    described: impl Iterator<Item = &'a Arc<ServiceSpec>>,
    findings: &mut Vec<Finding>,
) -> Vec<Arc<ServiceSpec>> {
    let mut specs: Vec<_> = described.map(Arc::clone).collect();
    specs.sort_by_cached_key(|spec| seniority(spec));
    one_owner_per_alias(namespace, &mut specs, findings);
    one_inbound_port_each(&mut specs, findings);
    specs
}

/// The order in which names are given: ECS services by creation time, then others, ties by name.
fn seniority(spec: &ServiceSpec) -> (bool, Option<SystemTime>, ServiceKey) {
    (spec.created_at.is_none(), spec.created_at, spec.key.clone())
}

/// The loopback address of each alias of these, of which the first come first, after those whose address is pinned.
pub(super) fn addresses(
    namespace: &Namespace,
    specs: &[Arc<ServiceSpec>],
    pins: &BTreeMap<Arc<str>, Ipv4Addr>,
    findings: &mut Vec<Finding>,
) -> Addresses {
    let aliases = specs.iter().flat_map(|spec| &spec.aliases);
    let names: Vec<Arc<str>> =
        aliases.map(|alias| vip::base_name(namespace.as_str(), &alias.name).into()).collect();
    let (addresses, collisions) = vip::assign(namespace.as_str(), &names, pins);
    for (younger, older) in collisions {
        findings.push(Finding {
            code: "NAME003",
            object: format!("{namespace}/{younger}"),
            message: format!(
                "`{younger}` and `{older}` ask for the same loopback address; `{younger}`, the younger, gets {}",
                addresses[&younger]
            ),
        });
    }
    addresses
}

/// Of several services of one ECS service whose sidecars are to listen on one port, the oldest has it, and clients find the
/// others where they are.
fn one_inbound_port_each(specs: &mut [Arc<ServiceSpec>], findings: &mut Vec<Finding>) {
    let mut owners: BTreeMap<(ServiceName, u16), ServiceKey> = BTreeMap::new();
    for spec in specs {
        let Some(port) = spec.knobs.inbound_port.filter(|port| *port != 0) else { continue };
        let owner = owners.entry((spec.home.clone(), port)).or_insert_with(|| spec.key.clone());
        if *owner == spec.key {
            continue;
        }
        findings.push(Finding {
            code: "LSN002",
            object: spec.key.to_string(),
            message: format!(
                "its sidecars take requests for {owner} in on port {port}; give it another with `inbound`, till then \
                 clients go to its application"
            ),
        });
        let knobs = Knobs { inbound_port: None, ..spec.knobs.clone() };
        *spec = Arc::new(ServiceSpec { knobs, ..(**spec).clone() });
    }
}

/// Of several services that ask for one alias, the oldest keeps it (`NAME002`).
fn one_owner_per_alias(namespace: &Namespace, specs: &mut [Arc<ServiceSpec>], findings: &mut Vec<Finding>) {
    let mut owners: HashMap<(String, u16), Arc<ServiceSpec>> = HashMap::new();
    for spec in specs {
        let mut kept: Vec<Alias> = Vec::with_capacity(spec.aliases.len());
        for alias in &spec.aliases {
            let base = vip::base_name(namespace.as_str(), &alias.name).to_owned();
            match owners.get(&(base.clone(), alias.port)) {
                None => {
                    owners.insert((base, alias.port), Arc::clone(spec));
                    kept.push(alias.clone());
                }
                Some(owner) if owner.key == spec.key => {}
                Some(owner) => findings.push(Finding {
                    code: "NAME002",
                    object: spec.origin.to_string(),
                    message: format!(
                        "the alias {alias} in {namespace} belongs to {}, which is older; choose another name or port",
                        owner.origin
                    ),
                }),
            }
        }
        if kept.len() != spec.aliases.len() {
            *spec = Arc::new(ServiceSpec { aliases: kept, ..(**spec).clone() });
        }
    }
}
