//! Where the tasks of each ECS service run, over all sources.
//!
//! It is not about endpoints: a service that only calls others has a crew too.
//!
//! Invariant: only what differs between two joins is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::key_of;
use crate::model::{Crew, Crews, Namespace, ServiceKey, ServiceName, View};

/// The crews that are not as they were, by namespace; an empty one has gone.
pub(super) fn changed(old: &[Arc<View>], new: &[Arc<View>]) -> BTreeMap<Namespace, Vec<(ServiceName, Crew)>> {
    let none = Crews::new();
    let of = |views: &[Arc<View>], source: usize| views.get(source).map(|view| view.crews.clone());
    let mut touched: BTreeSet<ServiceKey> = BTreeSet::new();
    for source in 0..old.len().max(new.len()) {
        let before = of(old, source).unwrap_or_else(|| none.clone());
        let now = of(new, source).unwrap_or_else(|| none.clone());
        if !before.ptr_eq(&now) {
            touched.extend(before.diff(&now).map(|change| key_of(&change).clone()));
        }
    }
    let mut changed: BTreeMap<Namespace, Vec<(ServiceName, Crew)>> = BTreeMap::new();
    for ServiceKey { namespace, name } in touched {
        let key = ServiceKey { namespace: namespace.clone(), name: name.clone() };
        changed.entry(namespace).or_default().push((name, joined(new, &key)));
    }
    changed
}

/// Where the tasks of one service run, whoever knows of them.
pub(super) fn joined(views: &[Arc<View>], key: &ServiceKey) -> Crew {
    let mut crews = views.iter().filter_map(|view| view.crews.get(key));
    match (crews.next(), crews.next()) {
        (Some(only), None) => Arc::clone(only),
        _ => {
            let all = views.iter().filter_map(|view| view.crews.get(key)).flat_map(|crew| crew.iter());
            let places: BTreeSet<_> = all.cloned().collect();
            places.into_iter().collect()
        }
    }
}
