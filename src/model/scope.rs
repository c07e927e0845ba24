//! What a client may see: its own namespace, less what it doesn't use, and more that it imports.
//!
//! It is not a service list: what is there is the mesh's. Invariant: a [`Scope`] never changes; clients that shall see
//! something else have another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::{MeshNamespace, Namespace, Service, ServiceKey, ServiceName, Services};

/// What clients of one kind may see.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Scope {
    /// Whose clients.
    pub namespace: Namespace,
    /// Which services of it; `None` is all.
    pub uses: Option<BTreeSet<ServiceName>>,
    /// Other namespaces, and which services of each; `None` is all that it exports.
    pub imports: BTreeMap<Namespace, Option<BTreeSet<ServiceName>>>,
}

impl Scope {
    /// A whole namespace and nothing else.
    pub fn whole(namespace: Namespace) -> Self {
        Self { namespace, uses: None, imports: BTreeMap::new() }
    }

    /// Whether it is a whole namespace and nothing else.
    pub fn is_whole(&self) -> bool {
        self.uses.is_none() && self.imports.is_empty()
    }

    /// Whether a service is in it, if it is there and may be seen from outside.
    pub fn has(&self, key: &ServiceKey) -> bool {
        let is_among = |names: &Option<BTreeSet<_>>| names.as_ref().is_none_or(|it| it.contains(&key.name));
        if key.namespace == self.namespace {
            return is_among(&self.uses);
        }
        self.imports.get(&key.namespace).is_some_and(is_among)
    }

    /// The namespaces that it is about, its own first.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        std::iter::once(&self.namespace).chain(self.imports.keys())
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &BTreeSet<ServiceName>| {
            names.iter().map(ServiceName::as_str).collect::<Vec<_>>().join(", ")
        };
        f.write_str(self.namespace.as_str())?;
        if let Some(uses) = &self.uses {
            write!(f, " ({})", list(uses))?;
        }
        for (namespace, names) in &self.imports {
            write!(f, " + {namespace}")?;
            if let Some(names) = names {
                write!(f, " ({})", list(names))?;
            }
        }
        Ok(())
    }
}

/// A name, or many: `*` stands for any text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it means this name.
    pub fn fits(&self, name: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else { return *self.0 == *name };
        let Some(mut left) = name.strip_prefix(first) else { return false };
        let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
        // The earliest place of each part leaves the most to those behind it.
        for part in middle.split('*') {
            let Some(at) = left.find(part) else { return false };
            left = left.get(at + part.len()..).unwrap_or_default();
        }
        left.ends_with(last)
    }
}

impl From<&str> for Pattern {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

/// Namespaces that some clients see beside their own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Import {
    /// Which clients, by the name of their service.
    pub client: Pattern,
    /// What they see.
    pub from: BTreeSet<Namespace>,
    /// Where it is written.
    pub origin: Arc<str>,
}

/// All that a client calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Uses {
    /// The services.
    pub services: BTreeSet<ServiceKey>,
    /// Where it is written.
    pub origin: Arc<str>,
}

/// What others may import.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exports {
    /// Services by name.
    pub services: Vec<Pattern>,
    /// Where it is written.
    pub origin: Arc<str>,
}

/// Who sees what in one namespace, and from it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sight {
    /// Clients that say what they call, by service name.
    pub uses: BTreeMap<Arc<str>, Uses>,
    /// For the others.
    pub imports: Vec<Import>,
    /// What others may import; everything where it is not said.
    pub exports: Option<Exports>,
}

/// Who sees what.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scoping {
    /// The namespaces of which anything is said.
    pub namespaces: BTreeMap<Namespace, Sight>,
}

impl Scoping {
    /// What a client of `namespace` sees that belongs to a service called `client`. To call something of another
    /// namespace is to import it; who says what it calls sees nothing else, but itself. Names in the mesh are in lower case,
    /// those of services in ECS may not be.
    pub fn of(&self, namespace: &Namespace, client: &str) -> Scope {
        let mut scope = Scope::whole(namespace.clone());
        let Some(sight) = self.namespaces.get(namespace) else { return scope };
        let lower = client.to_ascii_lowercase();
        let Some(uses) = sight.uses.get(lower.as_str()) else {
            let is_meant = |import: &&Import| import.client.fits(client) || import.client.fits(&lower);
            let imports = sight.imports.iter().filter(is_meant);
            let from = imports.flat_map(|import| &import.from).filter(|from| *from != namespace);
            scope.imports = from.map(|from| (from.clone(), None)).collect();
            return scope;
        };
        let mut own = BTreeSet::from([ServiceName::from(lower)]);
        for key in &uses.services {
            if key.namespace == *namespace {
                own.insert(key.name.clone());
                continue;
            }
            let names = scope.imports.entry(key.namespace.clone()).or_default();
            names.get_or_insert_default().insert(key.name.clone());
        }
        scope.uses = Some(own);
        scope
    }

    /// What a namespace says others may import, if it says so.
    pub fn exports(&self, namespace: &Namespace) -> Option<&Exports> {
        self.namespaces.get(namespace)?.exports.as_ref()
    }

    /// Whether clients of other namespaces may see a service.
    pub fn is_exported(&self, key: &ServiceKey) -> bool {
        self.exports(&key.namespace).is_none_or(|exports| exports.has(&key.name))
    }
}

impl Exports {
    /// Whether a service may be imported.
    pub fn has(&self, name: &ServiceName) -> bool {
        self.services.iter().any(|pattern| pattern.fits(name.as_str()))
    }
}

/// The loopback addresses of alias names of other namespaces.
pub type ForeignAddresses = BTreeMap<(Namespace, Arc<str>), Ipv4Addr>;

/// What a scope has of other namespaces.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Imported {
    /// Their services.
    pub services: BTreeMap<Namespace, Services>,
    /// The loopback address of each alias name of these.
    pub addresses: Arc<ForeignAddresses>,
}

impl MeshNamespace {
    /// A service of it, or one that it imports.
    pub fn get(&self, key: &ServiceKey) -> Option<&Service> {
        self.of(&key.namespace)?.get(&key.name)
    }

    /// Its own services, or those that it imports from another namespace.
    pub fn of(&self, namespace: &Namespace) -> Option<&Services> {
        if *namespace == self.name { Some(&self.services) } else { self.imported.services.get(namespace) }
    }

    /// Its own services and those that it imports, its own first.
    pub fn all(&self) -> impl Iterator<Item = &Service> {
        self.services.values().chain(self.imported.services.values().flat_map(Services::values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, fitting, others) in [
            ("*", &["", "a", "batch-1"][..], &[][..]),
            ("batch-*", &["batch-", "batch-nightly"], &["batch", "a-batch-1", ""]),
            ("*-job", &["a-job", "-job"], &["job", "a-jobs"]),
            ("a*b*c", &["abc", "axbxc", "abbc", "abcbc"], &["ac", "acb", "abcd"]),
            ("a**a", &["aa", "aba"], &["a"]),
            ("ab*ba", &["abba", "abxba"], &["aba"]),
            ("checkout", &["checkout"], &["checkout2", "check"]),
        ] {
            let pattern = Pattern::from(pattern);
            fitting.iter().for_each(|name| assert!(pattern.fits(name), "{pattern:?} {name}"));
            others.iter().for_each(|name| assert!(!pattern.fits(name), "{pattern:?} {name}"));
        }
    }

    fn scoping() -> Scoping {
        let import = |client: &str, from: &[&str]| Import {
            client: client.into(),
            from: from.iter().map(|name| Namespace::from(*name)).collect(),
            origin: "policy.yaml:3".into(),
        };
        let keys = [("prod", "payments"), ("shared", "audit"), ("shared", "mail")];
        let uses = Uses {
            services: keys.map(|(namespace, name)| ServiceKey::new(namespace, name)).into(),
            origin: "policy.yaml:7".into(),
        };
        let sight = Sight {
            uses: [("checkout".into(), uses)].into(),
            imports: vec![import("batch-*", &["shared", "prod"]), import("batch-1", &["tools"])],
            exports: None,
        };
        Scoping { namespaces: [("prod".into(), sight)].into() }
    }

    #[test]
    fn whoever_is_not_meant_sees_its_whole_namespace() {
        let scoping = scoping();
        for (namespace, client) in
            [("prod", "web"), ("prod", ""), ("shared", "batch-1"), ("shared", "checkout")]
        {
            assert!(scoping.of(&namespace.into(), client).is_whole(), "{namespace} {client}");
        }
        let shown = |client| scoping.of(&"prod".into(), client).to_string();
        assert_eq!(shown("batch-2"), "prod + shared");
        assert_eq!(shown("batch-1"), "prod + shared + tools");
        assert_eq!(shown("Checkout"), "prod (checkout, payments) + shared (audit, mail)");
    }

    #[test]
    fn a_scope_knows_what_is_in_it() {
        let scope = scoping().of(&"prod".into(), "checkout");
        for (namespace, name, is_in) in [
            ("prod", "checkout", true),
            ("prod", "payments", true),
            ("prod", "web", false),
            ("shared", "audit", true),
            ("shared", "web", false),
            ("tools", "audit", false),
        ] {
            assert_eq!(scope.has(&ServiceKey::new(namespace, name)), is_in, "{namespace}/{name}");
        }
    }
}
