//! What every source describes, joined, and not yet treated as any policy says.
//!
//! It gives no verdicts and no names: those follow when it is joined again. Invariant: joined alone, as whatever policy has
//! it, it gives the mesh that the sources give, less what was in nobody's way: instances that are left out, and findings.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::verdict::{Tasks, registrations};
use super::{crews, described, one_owner, sightings};
use crate::model::{Namespace, ServiceKey, ServiceView, View};

/// What the sources see of each of these namespaces. `views` come in order of trust.
pub fn world<'a>(
    views: &[Arc<View>],
    namespaces: impl Iterator<Item = &'a Namespace>,
) -> BTreeMap<Namespace, View> {
    let mut world: BTreeMap<Namespace, View> =
        namespaces.map(|namespace| (namespace.clone(), View::default())).collect();
    let tasks = Tasks::of(views);
    let keys: BTreeSet<&ServiceKey> = views.iter().flat_map(|view| view.services.keys()).collect();
    for key in keys {
        let Some(view) = world.get_mut(&key.namespace) else { continue };
        let sightings = one_owner(key, sightings(views, key), &mut Vec::new());
        if let Some(spec) = described(&sightings) {
            let registrations = registrations(&sightings, &key.namespace, &tasks);
            view.services.insert(key.clone(), Arc::new(ServiceView { spec, active: true, registrations }));
        }
    }
    for (namespace, import) in views.iter().flat_map(|view| &view.imports) {
        if let Some(view) = world.get_mut(namespace) {
            view.imports.push((namespace.clone(), import.clone()));
        }
    }
    let crews: BTreeSet<&ServiceKey> = views.iter().flat_map(|view| view.crews.keys()).collect();
    for key in crews {
        if let Some(view) = world.get_mut(&key.namespace) {
            view.crews.insert(key.clone(), crews::joined(views, key));
        }
    }
    world
}
