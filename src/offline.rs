//! What would be served: a recorded world, treated as policies have it, without a server.
//!
//! It asks nobody and serves nobody. What is served takes the same way as in a server, less the time that things take:
//! nothing stays for a grace.
//!
//! Invariant: the same world and the same policies give the same text.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::admin::json;
use crate::mesh::Joiner;
use crate::model::{Mesh, Namespace, View};
use crate::policy::Policy;
use crate::policy::watch::Loaded;
use crate::snapshot::{ResourceType, Tables};
use crate::source::file::world::World;
use crate::translate::Translator;

mod diff;

pub use diff::diff;

/// A world under a policy.
#[derive(Debug)]
pub struct Served {
    mesh: Mesh,
    tables: BTreeMap<Namespace, Tables>,
    policy: Arc<Policy>,
}

/// The words for types of resources.
pub const TYPES: [&str; 4] = ["clusters", "endpoints", "listeners", "routes"];

impl Served {
    /// What is served of `world` when `loaded` is in force.
    pub fn new(world: &World, loaded: &Loaded) -> Self {
        let namespaces: BTreeSet<_> = world.namespaces.keys().cloned().collect();
        let together = View {
            services: world.namespaces.values().flat_map(|view| view.services.clone()).collect(),
            crews: world.namespaces.values().flat_map(|view| view.crews.clone()).collect(),
            ..View::default()
        };
        let views = [Arc::new(together), Arc::clone(&loaded.externals)];
        let mut joiner = Joiner::new(&namespaces);
        joiner.tell_time(world.recorded_at);
        let mesh = joiner.join(&views, &loaded.policy);
        let translated = |(name, namespace): (&Namespace, _)| {
            (Namespace::clone(name), Translator::default().translate(namespace))
        };
        let tables = mesh.namespaces.iter().map(|(name, it)| (name, &**it)).map(translated).collect();
        Self { mesh, tables, policy: Arc::clone(&loaded.policy) }
    }

    /// The resources, as the admin pages of a server show them: of one namespace and of one type, where these are said.
    pub fn resources(&self, namespace: Option<&str>, kind: Option<&str>) -> anyhow::Result<Value> {
        let mut namespaces = Map::new();
        for (name, tables) in
            self.tables.iter().filter(|(name, _)| namespace.is_none_or(|it| *it == *name.as_str()))
        {
            let mut types = Map::new();
            for it in ResourceType::ALL.into_iter().filter(|it| TYPES.contains(&it.word())) {
                if kind.is_none_or(|kind| kind == it.word()) {
                    let resources = tables[it].values().map(|resource| json::shown(resource));
                    types.insert(it.word().to_owned(), resources.collect::<anyhow::Result<_>>()?);
                }
            }
            namespaces.insert(name.to_string(), types.into());
        }
        Ok(json!({ "apiVersion": "legation/v1", "kind": "Rendering", "namespaces": namespaces }))
    }

    /// The namespaces of the world.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.tables.keys().map(Namespace::as_str)
    }
}
