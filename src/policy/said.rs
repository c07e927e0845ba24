//! Each value that is in force for a service, in the words of a policy, and where it was said.
//!
//! It decides nothing: which layer outranks which is [`Policy::over`]'s, and is told here once more for people. It follows
//! the table of keys, so that a new key is told without a line here.
//!
//! Invariant: a value is told with the place of that very value, or with whose it is where nobody said any.

use super::Policy;
use super::read::OF_REQUESTS;
use super::table::{DEFAULT_KEYS, SERVICE_KEYS};
use crate::diagnostic::shape::{Key, Shape};
use crate::diagnostic::words::{duration, spell};
use crate::diagnostic::{Document, Node};
use crate::model::{Alias, Origin, Protocol, RateLimit, Rule, Said, ServiceSpec};

/// A value in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Effective {
    /// The key, such as `timeouts.request`.
    pub key: String,
    /// The value, such as `5s`.
    pub value: String,
    /// Where it was said: `policy.yaml:12`, `tag service/payments`, `label app`, `service-connect`, `default`.
    pub origin: String,
}

/// What Service Connect publishes of itself; other defaults are Envoy's or ours.
const PUBLISHED: [&str; 11] = [
    "timeouts.request",
    "timeouts.idle",
    "retry.attempts",
    "outlierDetection.consecutive5xx",
    "outlierDetection.interval",
    "outlierDetection.baseEjectionTime",
    "outlierDetection.maxEjectionTime",
    "loadBalancing.type",
    "loadBalancing.zoneAware.mode",
    "readiness.gate",
    "readiness.maxWait",
];
/// What the profile `envoy` says.
pub(super) const ENVOY: [(&str, &str); 12] = [
    ("timeouts.request", "15s"),
    ("timeouts.idle", "1h"),
    ("timeouts.streamIdle", "5m"),
    ("timeouts.connect", "5s"),
    ("retry.attempts", "0"),
    ("outlierDetection.consecutive5xx", "0"),
    ("loadBalancing.type", "RoundRobin"),
    ("circuitBreaker.maxConnections", "1024"),
    ("circuitBreaker.maxPendingRequests", "1024"),
    ("circuitBreaker.maxParallelRequests", "1024"),
    ("circuitBreaker.maxParallelRetries", "3"),
    ("accessLog.enabled", "false"),
];
/// Keys that have a meaning only where another has a word, and that belong to it.
const PARTS: [(&str, &str, &str); 2] = [
    ("loadBalancing.consistentHash.", "loadBalancing.type", "ConsistentHash"),
    ("inbound.port", "inbound.mode", "sidecar"),
];
/// Sections that are nothing where nobody has them, and that one layer has as a whole.
const WHOLES: [&str; 3] = ["retry.budget", "healthCheck", "connectionPool.tcpKeepalive"];
/// What is there only where it is said: what else is asked follows from the protocol.
const ONLY_SAID: [&str; 2] = ["healthCheck.path", "healthCheck.service"];
/// What is not said below a service, with its place among what is.
pub(super) const LIMITS: [&str; 2] = ["rateLimits.outbound", "rateLimits.inbound"];

/// Every value below `node`, by the keys of its table.
fn said_by(keys: &'static [Key], node: &Node, document: Document<'_>) -> Vec<Said> {
    let at = |path: &str| path.split('.').try_fold(node, |node, key| node.get(key));
    let whole = |path: &&str| Some(Said::new(path, "", document.line_of(at(path)?.spot())));
    let mut said: Vec<_> = WHOLES.iter().filter_map(whole).collect();
    each_leaf(keys, "", &mut |path, key| {
        if let Some(found) = at(path) {
            said.push(Said::new(path, words(key.shape, found), document.line_of(found.spot())));
        }
    });
    said
}

/// What is said of one service, written at `who`.
pub(super) fn of_service(who: String, node: &Node, document: Document<'_>) -> Origin {
    Origin::new(who, said_by(&SERVICE_KEYS, node, document))
}

/// What is said of every service of a namespace, with the profile below it.
pub(super) fn of_defaults(who: String, node: &Node, document: Document<'_>) -> Origin {
    let defaults = node.get("defaults");
    let said = defaults.map(|defaults| said_by(&DEFAULT_KEYS, defaults, document)).unwrap_or_default();
    let profile = node.get("profile").filter(|profile| profile.text() == Some("envoy"));
    let below = profile.into_iter().flat_map(|profile| {
        let place = format!("{} (profile envoy)", document.line_of(profile.spot()));
        ENVOY.map(|(key, value)| Said::new(key, value, place.as_str()))
    });
    Origin::new(who, said.into_iter().chain(below))
}

/// What a rule says in place of its service.
pub(super) fn of_rule(who: String, node: &Node, document: Document<'_>) -> Origin {
    Origin::new(who, said_by(&DEFAULT_KEYS, node, document))
}

/// Passes by every key that holds a value, with its path.
fn each_leaf(keys: &'static [Key], above: &str, pass: &mut dyn FnMut(&str, &'static Key)) {
    for key in keys.iter().filter(|key| key.name != "namespace") {
        let path = if above.is_empty() { key.name.to_owned() } else { format!("{above}.{}", key.name) };
        match key.shape {
            Shape::Map(below) => each_leaf(below, &path, pass),
            _ => pass(&path, key),
        }
    }
}

/// A value as it could be written in one line.
fn words(shape: &Shape, node: &Node) -> String {
    match (shape, node) {
        (Shape::Duration(..), Node::Scalar(written)) => {
            duration(&written.text).map_or_else(|| written.text.clone(), spell)
        }
        (_, Node::Nothing(_)) => "null".to_owned(),
        (_, Node::Scalar(written)) => written.text.clone(),
        (Shape::List(shape), Node::List(_, items)) => {
            format!("[{}]", items.iter().map(|item| words(shape, item)).collect::<Vec<_>>().join(", "))
        }
        (_, Node::List(_, items)) => {
            format!(
                "[{}]",
                items.iter().map(|item| words(&Shape::Switch, item)).collect::<Vec<_>>().join(", ")
            )
        }
        (_, Node::Map(_, entries)) => {
            let entry = |(key, value): &(crate::diagnostic::Written, Node)| {
                format!("{}: {}", key.text, words(&Shape::Switch, value))
            };
            format!("{{ {} }}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
    }
}

/// Aliases as a policy has them.
fn shown(spec: &ServiceSpec) -> String {
    let one = |alias: &Alias| {
        let local = spec.reach.local_ports.iter().find(|(of, _)| of == alias);
        let local = local.map(|(_, port)| format!(", localhostPort: {port}")).unwrap_or_default();
        format!("{{ name: {}, port: {}{local} }}", alias.name, alias.port)
    };
    format!("[{}]", spec.aliases.iter().map(one).collect::<Vec<_>>().join(", "))
}

/// A rate limit, written at `place`.
pub(super) fn of_limit(key: &str, limit: &RateLimit, place: String) -> Said {
    let (per, RateLimit { requests, burst, .. }) = (spell(limit.per), limit);
    Said::new(key, format!("{{ requests: {requests}, per: {per}, burst: {burst} }}"), place)
}

fn is_about_requests(path: &str) -> bool {
    let is_it = |(section, keys): &(&str, &[&str])| {
        path.strip_prefix(section)
            .and_then(|rest| rest.strip_prefix('.'))
            .is_some_and(|key| keys.contains(&key))
    };
    OF_REQUESTS.iter().any(is_it)
}

impl Policy {
    /// What is in force for a service of the mesh, or for what a rule of it is about, in the order of the table.
    pub fn effective(&self, spec: &ServiceSpec, rule: Option<&Rule>) -> Vec<Effective> {
        let namespace = self.of(&spec.key.namespace);
        let service = namespace.and_then(|it| it.services.get(&spec.key.name));
        // The upper layers first.
        let layers = [
            rule.map(|rule| &rule.origin),
            service.and_then(|it| it.origin.as_ref()),
            Some(&spec.origin),
            namespace.map(|it| &it.origin),
        ];
        let layers: Vec<&Origin> = layers.into_iter().flatten().collect();
        let mut effective = Vec::new();
        each_leaf(&SERVICE_KEYS, "", &mut |path, key| {
            if !spec.protocol.is_http() && is_about_requests(path) {
                return;
            }
            let is_in = |whole: &&&str| path.strip_prefix(**whole).is_some_and(|rest| rest.starts_with('.'));
            let whole = WHOLES.iter().find(is_in);
            let part = PARTS.iter().find(|(part, ..)| path.starts_with(part));
            let found = match part {
                _ if let Some(whole) = whole => {
                    let Some(layer) = layers.iter().find(|layer| layer.of(whole).is_some()) else { return };
                    layer.of(path)
                }
                Some((_, of, word)) => {
                    let whole = layers.iter().find_map(|layer| Some((layer, layer.of(of)?)));
                    let Some((layer, _)) = whole.filter(|(_, said)| *said.value == **word) else { return };
                    layer.of(path)
                }
                None => layers.iter().find_map(|layer| layer.of(path)),
            };
            let said = found.map(|said| (said.value.to_string(), said.place.to_string()));
            let usual = || {
                if ONLY_SAID.contains(&path) {
                    return None;
                }
                let is_published = PUBLISHED.contains(&path);
                let whose = if is_published { "service-connect" } else { "default" };
                let value = match (path, spec.protocol) {
                    ("timeouts.idle", Protocol::Tcp) => "1h".to_owned(),
                    _ => words_of(key)?,
                };
                Some((value, whose.to_owned()))
            };
            // What the mesh has made of these two is in the description.
            let (value, origin) = match path {
                "aliases" => (shown(spec), said.map_or_else(|| "default".to_owned(), |(_, it)| it)),
                "appProtocol" => (
                    spec.protocol.as_str().to_owned(),
                    said.map_or_else(|| "default".to_owned(), |(_, it)| it),
                ),
                _ => match said.or_else(usual) {
                    Some(said) => said,
                    None => return,
                },
            };
            effective.push(Effective { key: path.to_owned(), value, origin });
        });
        for key in LIMITS {
            if let Some(said) = layers.iter().find_map(|layer| layer.of(key)) {
                let (value, origin) = (said.value.to_string(), said.place.to_string());
                effective.push(Effective { key: key.to_owned(), value, origin });
            }
        }
        effective
    }
}

/// The default of a key, in the words of a policy.
fn words_of(key: &Key) -> Option<String> {
    let usual = key.default?;
    Some(match key.shape {
        Shape::Duration(..) => duration(usual).map_or_else(|| usual.to_owned(), spell),
        Shape::List(_) => usual.replace('"', ""),
        _ => usual.to_owned(),
    })
}
