//! Whether a client sees a service at all, and which line would let it.
//!
//! It looks at descriptions alone. Invariant: a client that sees its whole namespace gets a step only about other ones.

use super::Ladder;
use crate::model::{Mesh, MeshNamespace, Namespace, Scope, Service, ServiceKey};

/// Whose question it is.
pub(super) struct Asking<'a> {
    pub(super) mesh: &'a Mesh,
    /// Where the client belongs.
    pub(super) own: &'a MeshNamespace,
    pub(super) scope: &'a Scope,
    /// The name of the client's service.
    pub(super) client: &'a str,
    /// What it asks for.
    pub(super) wanted: &'a str,
}

impl<'a> Asking<'a> {
    /// The namespace of what is wanted, and what it is called there; with a step about who sees it.
    pub(super) fn home(&self, ladder: &mut Ladder) -> (&'a MeshNamespace, &'a str) {
        let (scope, scoping) = (self.scope, &self.mesh.scoping);
        let Some((home, service)) = self.found() else { return (self.own, self.wanted) };
        let (key, client) = (&service.spec.key, self.client);
        let is_own = home.name == self.own.name;
        let is_open = is_own || scoping.is_exported(key);
        let uses = scoping.namespaces.get(&self.own.name).and_then(|sight| {
            let uses = sight.uses.get(client.to_ascii_lowercase().as_str())?;
            Some(uses.origin.as_ref())
        });
        let closed = || {
            let origin = scoping.exports(&home.name).map(|exports| exports.origin.as_ref());
            format!(
                "{} does not export `{}`: add it to `exports` at {}",
                home.name,
                key.name,
                origin.unwrap_or("-")
            )
        };
        if scope.has(key) && is_open {
            if !scope.is_whole() {
                ladder.step(
                    "scope",
                    true,
                    format!("{client} sees {key}: {scope}{}", self.because(&home.name)),
                );
            }
        } else if scope.has(key) {
            ladder.step("scope", false, closed());
        } else {
            let line = if is_own { key.name.to_string() } else { key.to_string() };
            let way = match uses {
                Some(origin) => format!("add `{line}` to its `uses` at {origin}"),
                None => format!(
                    "a policy imports it with `imports: [{{ client: {client}, namespace: {}, from: [{}] }}]`, or its \
                     service in ECS with the tag `legation:imports = {}`",
                    self.own.name, home.name, home.name
                ),
            };
            let also = if is_open { String::new() } else { format!("; {}", closed()) };
            let what = if is_own { "in its own namespace" } else { "in another namespace (NS001)" };
            ladder.step("scope", false, format!("{client} does not see {key}, which is {what}: {way}{also}"));
        }
        (home, self.name_in(home))
    }

    /// Which lines let the client see a namespace.
    fn because(&self, namespace: &Namespace) -> String {
        let sight = self.mesh.scoping.namespaces.get(&self.own.name);
        let imports = sight.into_iter().flat_map(|sight| &sight.imports);
        let said = imports.filter(|it| it.from.contains(namespace) && it.client.fits(self.client));
        let uses = sight.and_then(|sight| sight.uses.get(self.client.to_ascii_lowercase().as_str()));
        let origins = said.filter(|_| uses.is_none()).map(|it| &it.origin).chain(uses.map(|it| &it.origin));
        let origins: Vec<_> = origins.map(AsRef::as_ref).collect();
        if origins.is_empty() { String::new() } else { format!(", as {} says", origins.join(" and ")) }
    }

    /// What is wanted, first where its name would lead, then wherever there is such a name.
    fn found(&self) -> Option<(&'a MeshNamespace, &'a Service)> {
        let (mesh, own) = (self.mesh, &self.own.name);
        let said = self.wanted.split_once('/').map(|(namespace, _)| namespace);
        let others = || mesh.namespaces.keys().filter(|name| *name != own);
        let seen = others().filter(|name| self.scope.imports.contains_key(*name));
        let unseen = others().filter(|name| !self.scope.imports.contains_key(*name));
        let order = std::iter::once(own).chain(seen).chain(unseen);
        let mut homes = order.filter_map(|name| mesh.namespaces.get(name));
        homes.find_map(|home| {
            let is_meant = said.is_none_or(|said| said == home.name.as_str());
            is_meant.then(|| Some((&**home, self.find_in(home)?))).flatten()
        })
    }

    fn find_in(&self, home: &'a MeshNamespace) -> Option<&'a Service> {
        let bare = self.name_in(home);
        let bare = bare.split(':').next().unwrap_or(bare);
        let bare = bare.strip_suffix(home.name.as_str()).and_then(|it| it.strip_suffix('.')).unwrap_or(bare);
        let key = ServiceKey { namespace: home.name.clone(), name: bare.into() };
        let has = |service: &&Service| service.spec.aliases.iter().any(|alias| &*alias.name == bare);
        home.get(&key).or_else(|| home.services.values().find(has))
    }

    fn name_in(&self, home: &MeshNamespace) -> &'a str {
        let rest = self.wanted.strip_prefix(home.name.as_str()).and_then(|it| it.strip_prefix('/'));
        rest.unwrap_or(self.wanted)
    }
}
