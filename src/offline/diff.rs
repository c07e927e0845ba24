//! What becomes of a world when one policy takes another's place: per service its values, routes and endpoints, who gets
//! which name and address, what is found, and how many resources sidecars are sent anew.
//!
//! Where something is written is no difference. Invariant: two policies that say the same differ in nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::Served;
use crate::model::{Finding, MeshNamespace, Rule, Service, ServiceName, State};
use crate::policy::Effective;
use crate::snapshot::{ResourceType, Tables};

/// The differences, and whether there are any.
pub fn diff(before: &Served, after: &Served) -> (Value, bool) {
    let (mut services, mut names, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
    let mut resources = Counts::default();
    for (name, old) in &before.mesh.namespaces {
        let (Some(new), Some(old_tables), Some(new_tables)) =
            (after.mesh.namespaces.get(name), before.tables.get(name), after.tables.get(name))
        else {
            continue; // both are of one world
        };
        let touched = resources.take(name.as_str(), old_tables, new_tables, [old, new]);
        let all: BTreeSet<&ServiceName> = old.services.keys().chain(new.services.keys()).collect();
        for name in all {
            let pair = [(before, old.services.get(name)), (after, new.services.get(name))];
            services.extend(of_service(old, name, pair, touched.get(name).copied().unwrap_or_default()));
        }
        names.extend(changed(&owners(old), &owners(new)).map(|(alias, before, after)| {
            json!({ "namespace": name.as_str(), "alias": alias, "before": before, "after": after })
        }));
        let of = |namespace: &MeshNamespace| -> BTreeMap<String, String> {
            let each = namespace.addresses.iter();
            each.map(|(name, address)| (name.to_string(), address.to_string())).collect()
        };
        addresses.extend(changed(&of(old), &of(new)).map(|(alias, before, after)| {
            json!({ "namespace": name.as_str(), "name": alias, "before": before, "after": after })
        }));
    }
    let findings = findings(&before.mesh.findings, &after.mesh.findings);
    let differs = !services.is_empty()
        || !names.is_empty()
        || !addresses.is_empty()
        || resources.0.values().any(|counts| *counts != [0; 3])
        || ["new", "gone"].iter().any(|key| findings[key].as_array().is_some_and(|it| !it.is_empty()));
    let item = json!({
        "differs": differs,
        "services": services,
        "names": names,
        "addresses": addresses,
        "findings": findings,
        "resources": resources.to_json(),
    });
    (json!({ "apiVersion": "legation/v1", "kind": "PolicyDiff", "item": item }), differs)
}

/// What becomes of one service, if anything does. `touched` is how many resources are sent anew.
fn of_service(
    namespace: &MeshNamespace,
    name: &ServiceName,
    [(before, old), (after, new)]: [(&Served, Option<&Service>); 2],
    touched: usize,
) -> Option<Value> {
    let effective = |served: &Served, service: Option<&Service>| -> BTreeMap<String, Effective> {
        let all = service.map(|service| served.policy.effective(&service.spec, None)).unwrap_or_default();
        all.into_iter().map(|it| (it.key.clone(), it)).collect()
    };
    let (old_values, new_values) = (effective(before, old), effective(after, new));
    let keys: BTreeSet<_> = old_values.keys().chain(new_values.keys()).collect();
    let said = |it: Option<&Effective>| it.map(|it| json!({ "value": it.value, "origin": it.origin }));
    let values = keys.into_iter().filter_map(|key| {
        let (old, new) = (old_values.get(key), new_values.get(key));
        let differs = old.map(|it| &it.value) != new.map(|it| &it.value);
        differs.then(|| json!({ "key": key, "before": said(old), "after": said(new) }))
    });
    // A service that comes or goes is told as such, and not value by value.
    let is_there = old.is_some() && new.is_some();
    let values: Vec<_> = values.filter(|_| is_there).collect();
    let routes = routes(old, new);
    let served = |service: Option<&Service>| {
        let endpoints = service.map(|service| service.endpoints.iter()).into_iter().flatten();
        endpoints.filter(|endpoint| endpoint.verdict.state == State::Healthy).count()
    };
    let (old_served, new_served) = (served(old), served(new));
    if is_there && values.is_empty() && routes.is_empty() && old_served == new_served && touched == 0 {
        return None;
    }
    let change = match (old, new) {
        (None, _) => "added",
        (_, None) => "removed",
        _ => "changed",
    };
    Some(json!({
        "namespace": namespace.name.as_str(),
        "name": name.as_str(),
        "change": change,
        "values": values,
        "routes": routes,
        "endpoints": { "before": old_served, "after": new_served },
        "resources": touched,
    }))
}

/// Routes by name that came, went, or say something else.
fn routes(old: Option<&Service>, new: Option<&Service>) -> Vec<Value> {
    let by_name = |service: Option<&Service>| {
        let mut routes: BTreeMap<String, Vec<Rule>> = BTreeMap::new();
        for rule in service.iter().flat_map(|service| service.spec.rules.iter()) {
            routes.entry(rule.name.to_string()).or_default().push(rule.clone());
        }
        routes
    };
    let (old, new) = (by_name(old), by_name(new));
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let same = |old: &[Rule], new: &[Rule]| {
        let same = |(old, new): (&Rule, &Rule)| *old == Rule { origin: old.origin.clone(), ..new.clone() };
        old.len() == new.len() && old.iter().zip(new).all(same)
    };
    let place = |rules: Option<&Vec<Rule>>| Some(rules?.first()?.origin.to_string());
    let route = |name: &String| {
        let (old, new) = (old.get(name), new.get(name));
        let change = match (old, new) {
            (Some(old), Some(new)) if same(old, new) => return None,
            (Some(_), Some(_)) => "changed",
            (None, _) => "added",
            (_, None) => "removed",
        };
        Some(json!({ "name": name, "change": change, "before": place(old), "after": place(new) }))
    };
    names.into_iter().filter_map(route).collect()
}

/// The service behind each alias.
fn owners(namespace: &MeshNamespace) -> BTreeMap<String, String> {
    let aliases = |service: &Service| -> Vec<(String, String)> {
        let name = service.spec.key.name.to_string();
        service.spec.aliases.iter().map(|alias| (alias.to_string(), name.clone())).collect()
    };
    namespace.services.values().flat_map(aliases).collect()
}

/// The keys whose values differ, with both values.
fn changed<'a>(
    old: &'a BTreeMap<String, String>,
    new: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = (&'a String, Option<&'a String>, Option<&'a String>)> {
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let both = keys.into_iter().map(|key| (key, old.get(key), new.get(key)));
    both.filter(|(_, old, new)| old != new)
}

/// Findings that are new or gone; that one has moved in its file is neither.
fn findings(old: &[Finding], new: &[Finding]) -> Value {
    let without = |these: &[Finding], others: &[Finding]| -> Vec<Value> {
        let known: BTreeSet<_> = others.iter().map(|it| (it.code, &it.message)).collect();
        let fresh = these.iter().filter(|it| !known.contains(&(it.code, &it.message)));
        fresh.map(|it| json!({ "code": it.code, "object": it.object, "message": it.message })).collect()
    };
    json!({ "new": without(new, old), "gone": without(old, new) })
}

/// How many resources of each type come, go and change.
#[derive(Debug, Default)]
struct Counts(BTreeMap<&'static str, [usize; 3]>);

impl Counts {
    /// Counts those of one namespace, and returns how many are each service's own.
    fn take(
        &mut self,
        namespace: &str,
        old: &Tables,
        new: &Tables,
        meshes: [&MeshNamespace; 2],
    ) -> BTreeMap<ServiceName, usize> {
        let owners = meshes.map(owners);
        let owner = |name: &str| -> Option<ServiceName> {
            let rest = name.strip_prefix(namespace)?.strip_prefix('/')?;
            let by_alias = owners.iter().find_map(|owners| owners.get(rest));
            let name = by_alias.map_or_else(|| rest.split('@').next().unwrap_or_default(), String::as_str);
            Some(name.into())
        };
        let mut touched: BTreeMap<ServiceName, usize> = BTreeMap::new();
        for kind in ResourceType::ALL {
            let names: BTreeSet<_> = old[kind].keys().chain(new[kind].keys()).collect();
            for name in names {
                let version = |tables: &Tables| tables[kind].get(name).map(|resource| resource.version);
                let change = match (version(old), version(new)) {
                    (old, new) if old == new => continue,
                    (None, _) => 0,
                    (_, None) => 1,
                    _ => 2,
                };
                let counts = self.0.entry(kind.word()).or_default();
                counts.iter_mut().skip(change).take(1).for_each(|count| *count += 1);
                owner(name).into_iter().for_each(|owner| *touched.entry(owner).or_default() += 1);
            }
        }
        touched
    }

    fn to_json(&self) -> Value {
        let counts = |[added, removed, changed]: &[usize; 3]| json!({ "added": added, "removed": removed, "changed": changed });
        self.0.iter().map(|(kind, it)| ((*kind).to_owned(), counts(it))).collect::<Map<_, _>>().into()
    }
}
