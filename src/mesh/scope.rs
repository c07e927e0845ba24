//! Scopes: who sees what, what is wrong with that, and what is in a scope.
//!
//! It judges no endpoint: a scope has the services of the mesh as they are.
//!
//! Invariant: pure and closed. What a route of a service leads to comes along, without names of its own; an own name
//! stays with whom it belongs, whatever is imported.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::diagnostic::words::did_you_mean;
use crate::model::{
    Addresses, Finding, ForeignAddresses, Import, Imported, Mesh, MeshNamespace, Namespace, Rule, Scope,
    Scoping, Service, ServiceKey, ServiceName, ServiceSpec, Services, View,
};
use crate::policy::Policy;
use crate::vip;

/// What is known of each namespace.
type Known<'a> = BTreeMap<&'a Namespace, &'a MeshNamespace>;

/// Whether tags say the same of imports.
pub(super) fn says_the_same(old: &[Arc<View>], new: &[Arc<View>]) -> bool {
    let imports = |views: &[Arc<View>]| views.iter().map(|view| view.imports.clone()).collect::<Vec<_>>();
    old.len() == new.len()
        && (old.iter().zip(new).all(|(old, new)| Arc::ptr_eq(old, new)) || imports(old) == imports(new))
}

/// Who sees what, as the policy and then tags say, with what is wrong about it.
pub(super) fn scoping(policy: &Policy, views: &[Arc<View>], known: &Known<'_>) -> (Scoping, Vec<Finding>) {
    let (mut scoping, mut findings) = (policy.scoping(), Vec::new());
    for (namespace, import) in views.iter().flat_map(|view| &view.imports) {
        let import = checked(namespace, import, known, &mut findings);
        let sight = scoping.namespaces.entry(namespace.clone()).or_default();
        if !import.from.is_empty() && !sight.imports.contains(&import) {
            sight.imports.push(import);
        }
    }
    scoping.namespaces.retain(|_, sight| *sight != Default::default());
    for (namespace, sight) in &scoping.namespaces {
        for (client, uses) in &sight.uses {
            for key in &uses.services {
                let unknown = unknown(key, known);
                let message = unknown.map(|unknown| format!("`{client}` uses {key}, but {unknown}"));
                findings.extend(message.map(|message| mistake(&format!("policy {}", uses.origin), message)));
            }
        }
        let from: BTreeSet<_> = sight.imports.iter().flat_map(|import| &import.from).cloned().collect();
        shared_names(namespace, &from, &scoping, known, &mut findings);
    }
    (scoping, findings)
}

/// What of an import can be.
fn checked(namespace: &Namespace, import: &Import, known: &Known<'_>, findings: &mut Vec<Finding>) -> Import {
    let is_sound = |from: &&Namespace| {
        let names = || known.keys().map(|name| name.as_str());
        let message = if *from == namespace {
            format!("clients of {namespace} see it anyway")
        } else if known.contains_key(from) {
            return true;
        } else {
            let near = did_you_mean(from.as_str(), names().collect::<Vec<_>>());
            let near =
                near.unwrap_or_else(|| format!("there are {}", names().collect::<Vec<_>>().join(", ")));
            format!("the namespace `{from}` is not configured; {near}")
        };
        findings.push(mistake(&import.origin, message));
        false
    };
    let from = import.from.iter().filter(is_sound).cloned().collect();
    Import { from, ..import.clone() }
}

fn unknown(key: &ServiceKey, known: &Known<'_>) -> Option<String> {
    let Some(namespace) = known.get(&key.namespace) else {
        return Some(format!("there is no namespace `{}`", key.namespace));
    };
    if namespace.services.contains_key(&key.name) {
        return None;
    }
    let names: Vec<_> = namespace.services.keys().map(ServiceName::as_str).collect();
    let near = did_you_mean(key.name.as_str(), names).map(|near| format!("; {near}")).unwrap_or_default();
    Some(format!("no service of {} is called `{}`{near}", key.namespace, key.name))
}

fn mistake(object: &str, message: String) -> Finding {
    Finding { code: "CFG002", object: object.to_owned(), message }
}

/// Names of imported services that lead to somebody else where they are not said in full.
fn shared_names(
    namespace: &Namespace,
    from: &BTreeSet<Namespace>,
    scoping: &Scoping,
    known: &Known<'_>,
    findings: &mut Vec<Finding>,
) {
    let none = Addresses::new();
    let own = known.get(namespace).map_or(&none, |own| &*own.addresses);
    let mut owners: BTreeMap<&str, &Namespace> = own.keys().map(|name| (&**name, namespace)).collect();
    for other in from.iter().filter_map(|name| known.get(name)) {
        let exported = other.services.values().filter(|service| scoping.is_exported(&service.spec.key));
        let aliases =
            exported.flat_map(|service| service.spec.aliases.iter().map(move |alias| (service, alias)));
        let mut told = BTreeSet::new();
        for (service, alias) in aliases {
            let base = vip::base_name(other.name.as_str(), &alias.name);
            let owner = *owners.entry(base).or_insert(&other.name);
            if *owner == other.name || !told.insert(base) {
                continue;
            }
            findings.push(Finding {
                code: "NAME002",
                object: service.spec.key.to_string(),
                message: format!(
                    "clients of {namespace} that import {} reach it as `{base}.{}`: `{base}` is a name of {owner}",
                    other.name, other.name
                ),
            });
        }
    }
}

/// What is in a scope, sharing with `before` what is the same.
pub fn scoped(mesh: &Mesh, scope: &Scope, before: Option<&Arc<MeshNamespace>>) -> Arc<MeshNamespace> {
    let empty = Services::new();
    let own = mesh.namespaces.get(&scope.namespace);
    let services = own.map_or(&empty, |own| &own.services);
    let services = match &scope.uses {
        Some(uses) => {
            // A client is known by its name in ECS, under which its own services may not be offered.
            let own = services.iter().filter(|(_, service)| uses.contains(&service.spec.home));
            let uses = uses.iter().chain(own.map(|(name, _)| name)).cloned().collect();
            chosen(services, &uses, before.map(|before| &before.services))
        }
        None => services.clone(),
    };
    let mut imported = Imported::default();
    for (name, wanted) in &scope.imports {
        let Some(other) = mesh.namespaces.get(name) else { continue };
        let exports = mesh.scoping.exports(name);
        let services = if wanted.is_none() && exports.is_none() {
            other.services.clone()
        } else {
            let wanted = wanted.clone().unwrap_or_else(|| other.services.keys().cloned().collect());
            let is_open = |service: &ServiceName| exports.is_none_or(|exports| exports.has(service));
            let known = before.and_then(|before| before.imported.services.get(name));
            chosen(&other.services, &wanted.into_iter().filter(is_open).collect(), known)
        };
        imported.services.insert(name.clone(), services);
    }
    let addresses = own.map(|own| Arc::clone(&own.addresses)).unwrap_or_default();
    imported.addresses = Arc::new(placed(mesh, &addresses, &imported.services));
    if let Some(before) = before.filter(|before| before.imported.addresses == imported.addresses) {
        imported.addresses = Arc::clone(&before.imported.addresses);
    }
    let defaults = own.map(|own| own.defaults.clone()).unwrap_or_default();
    let crews = own.map(|own| own.crews.clone()).unwrap_or_default();
    let now = MeshNamespace { name: scope.namespace.clone(), services, addresses, defaults, imported, crews };
    match before.filter(|before| ***before == now) {
        Some(before) => Arc::clone(before),
        None => Arc::new(now),
    }
}

/// Those of these names that are there, and behind them what their rules lead to.
fn chosen(all: &Services, names: &BTreeSet<ServiceName>, before: Option<&Services>) -> Services {
    let there = names.iter().filter_map(|name| all.get_key_value(name));
    let mut chosen: Services = there.map(|(name, service)| (name.clone(), service.clone())).collect();
    let rules = chosen.values().flat_map(|service| service.spec.rules.iter());
    let behind: BTreeSet<_> = rules.flat_map(Rule::backends).map(|backend| backend.service.clone()).collect();
    for name in behind {
        let Some(service) = all.get(&name).filter(|_| !chosen.contains_key(&name)) else { continue };
        let known = before.and_then(|before| before.get(&name));
        chosen.insert(name, nameless(service, known));
    }
    chosen
}

/// A service that nobody calls by name.
fn nameless(service: &Service, before: Option<&Service>) -> Service {
    let spec = ServiceSpec { aliases: Vec::new(), rules: Arc::default(), ..(*service.spec).clone() };
    let known = before.map(|before| &before.spec).filter(|before| ***before == spec);
    let spec = known.map_or_else(|| Arc::new(spec), Arc::clone);
    Service { spec, endpoints: Arc::clone(&service.endpoints) }
}

/// The loopback addresses of imported alias names: the same as at home, or the next one that is free.
fn placed(mesh: &Mesh, own: &Addresses, imported: &BTreeMap<Namespace, Services>) -> ForeignAddresses {
    let mut taken: BTreeSet<Ipv4Addr> = own.values().copied().collect();
    let mut placed = ForeignAddresses::new();
    for (name, services) in imported {
        let home = mesh.namespaces.get(name).map(|home| &*home.addresses);
        let aliases = services.values().flat_map(|service| &service.spec.aliases);
        let names: BTreeSet<_> = aliases.map(|alias| vip::base_name(name.as_str(), &alias.name)).collect();
        for base in names {
            let at_home = home.and_then(|home| home.get(base)).copied();
            let probes = (0..).map(|probe| vip::address(name.as_str(), base, probe));
            if let Some(address) = at_home.into_iter().chain(probes).find(|address| taken.insert(*address)) {
                placed.insert((name.clone(), base.into()), address);
            }
        }
    }
    placed
}
