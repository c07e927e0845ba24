//! What policy files say of who sees what: `imports`, `exports` and `uses`.
//!
//! It knows no service that is there. Invariant: what can't be seen, as far as files tell, is told where it is written.

use std::collections::BTreeSet;

use super::read::{Known, Reader};
use super::{NamespacePolicy, Policy};
use crate::diagnostic::check::Checker;
use crate::diagnostic::words::{did_you_mean, short};
use crate::diagnostic::{Document, Node, Problem, Written};
use crate::model::{Exports, Import, Namespace, Pattern, Scoping, ServiceKey, Sight, Uses};

/// The parts of `shared/audit`, or of `audit` alone.
pub(super) fn parts(text: &str) -> (Option<&str>, &str) {
    text.split_once('/').map_or((None, text), |(namespace, name)| (Some(namespace), name))
}

/// The namespaces that a file names in these places.
pub(super) fn named(tree: &Node) -> Vec<&str> {
    let imports = tree.get("imports").map(Node::items).unwrap_or_default().iter();
    let from = imports.clone().filter_map(|it| it.get("from")).flat_map(Node::items).filter_map(Node::text);
    let of = imports.filter_map(|it| it.get("namespace")?.text());
    let services = tree.get("services").map(Node::entries).unwrap_or_default().iter();
    let uses = services.filter_map(|(_, it)| it.get("uses")).flat_map(Node::items).filter_map(Node::text);
    from.chain(of).chain(uses.filter_map(|it| parts(it).0)).collect()
}

impl Reader<'_, '_> {
    pub(super) fn import(&mut self, node: &Node) {
        let Some(client) = node.get("client").and_then(Node::written) else { return };
        let Some(namespace) = self.known.namespace(self.checker, node.get("namespace"), client) else {
            return;
        };
        let mut from = BTreeSet::new();
        for item in node.get("from").map(Node::items).unwrap_or_default() {
            let Some(written) = item.written() else { continue };
            if written.text == namespace.as_str() {
                let message = format!("clients of `{namespace}` see it anyway");
                self.checker.bad(written, message, "name other namespaces");
                continue;
            }
            from.extend(self.known.namespace(self.checker, Some(item), written));
        }
        let import = Import {
            client: Pattern::from(client.text.as_str()),
            from,
            origin: self.checker.document().origin(client).into(),
        };
        self.of(&namespace).imports.push(import);
    }

    pub(super) fn exports(&self, name: &Written, node: &Node) -> Option<Exports> {
        let items = node.get("exports").filter(|node| !matches!(node, Node::Nothing(_)))?.items();
        let services = items.iter().filter_map(Node::text).map(Pattern::from).collect();
        Some(Exports { services, origin: self.checker.document().origin(name).into() })
    }

    pub(super) fn uses(&mut self, namespace: &Namespace, name: &Written, node: &Node) -> Option<Uses> {
        let items = node.get("uses").filter(|node| !matches!(node, Node::Nothing(_)))?.items();
        let mut services = BTreeSet::new();
        for written in items.iter().filter_map(Node::written) {
            let (of, service) = parts(&written.text);
            let of = match of {
                Some(of) => named_or_told(self.known, self.checker, of, written),
                None => Some(namespace.clone()),
            };
            services.extend(of.map(|of| ServiceKey { namespace: of, name: service.into() }));
        }
        Some(Uses { services, origin: self.checker.document().origin(name).into() })
    }
}

fn named_or_told(
    known: &Known,
    checker: &mut Checker<'_>,
    name: &str,
    written: &Written,
) -> Option<Namespace> {
    let found = known.find(name);
    if found.is_none() {
        let message =
            format!("the namespace `{}` of `{}` is not configured", short(name), short(&written.text));
        checker.bad(
            written,
            message,
            did_you_mean(name, known.names().collect::<Vec<_>>()).unwrap_or_default(),
        );
    }
    found
}

/// What is wrong with a file beside all others, once all are read.
pub(super) fn judge(document: Document<'_>, tree: &Node, known: &Known, policy: &Policy) -> Vec<Problem> {
    let mut checker = Checker::new(document);
    for (name, node) in tree.get("services").map(Node::entries).unwrap_or_default() {
        let items = node.get("uses").map(Node::items).unwrap_or_default();
        let Some(own) = known.settled(node.get("namespace")) else { continue };
        for written in items.iter().filter_map(Node::written) {
            let (Some(of), service) = parts(&written.text) else { continue };
            let exports =
                policy.of(&of.into()).filter(|_| of != own.as_str()).and_then(|it| it.exports.as_ref());
            if let Some(exports) = exports.filter(|exports| !exports.has(&service.into())) {
                let message = format!("`{of}` does not export `{service}`, which `{}` uses", name.text);
                let patterns: Vec<_> = exports.services.iter().map(Pattern::as_str).collect();
                let near =
                    did_you_mean(service, patterns).map(|near| format!("{near} or ")).unwrap_or_default();
                let near = format!("{near}add `{service}` to `exports` of `{of}`, at {}", exports.origin);
                checker.bad(written, message, near);
            }
        }
    }
    for node in tree.get("imports").map(Node::items).unwrap_or_default() {
        let client = node.get("client").and_then(Node::written);
        let Some((client, namespace)) = client.zip(known.settled(node.get("namespace"))) else { continue };
        let service = policy.of(&namespace).and_then(|it| it.services.get(client.text.as_str()));
        if let Some(uses) = service.and_then(|service| service.uses.as_ref()) {
            let message = format!("`{}` says what it uses, and sees nothing else", client.text);
            let from = node.get("from").and_then(|from| from.items().first()?.text()).unwrap_or("shared");
            let near = format!("add services, like `{from}/audit`, to its `uses` at {}", uses.origin);
            checker.bad(client, message, near);
        }
    }
    checker.finish(()).err().unwrap_or_default()
}

impl Policy {
    /// Who sees what.
    pub fn scoping(&self) -> Scoping {
        let namespaces = self.namespaces.iter().map(|(name, policy)| (name.clone(), policy.sight()));
        Scoping { namespaces: namespaces.filter(|(_, sight)| *sight != Sight::default()).collect() }
    }
}

impl NamespacePolicy {
    fn sight(&self) -> Sight {
        let uses = |(name, service): (&crate::model::ServiceName, &super::ServicePolicy)| {
            Some((name.shared(), service.uses.clone()?))
        };
        Sight {
            uses: self.services.iter().filter_map(uses).collect(),
            imports: self.imports.clone(),
            exports: self.exports.clone(),
        }
    }
}

/// Whether this can be a service, with or without its namespace.
pub(super) fn is_service(text: &str) -> bool {
    let (namespace, name) = parts(text);
    namespace.is_none_or(|namespace| super::table::NAMESPACE.admits(namespace))
        && super::table::SERVICE.admits(name)
}

/// Whether this can be a name with stars in it.
pub(super) fn is_pattern(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "*_-.".contains(c);
    !text.is_empty() && text.len() <= 255 && text.chars().all(fits)
}
