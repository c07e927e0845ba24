//! Routes of a policy file: each rule checked, and all rules of a service in the order in which they are tried.
//!
//! That order is Gateway API's (HTTPRouteRule.matches): an exact path, the longest prefix, a method, most headers, most
//! parameters, then as written. Expressions come between exact paths and prefixes.
//!
//! Invariant: a rule that was taken in forwards somewhere or redirects.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::reach::limit;
use super::read::{Reader, number, retry, time};
use super::{NamespacePolicy, Policy, said};
use crate::diagnostic::{BAD_VALUE, Node, Written};
use crate::model::{
    Action, Backend, Fault, HeaderChanges, Knobs, Match, Mirror, Namespace, Origin, PathMatch, Redirect,
    Rule, ServiceName, Subset, ValueMatch, Which,
};

/// The key of a filter's body, by its type.
const BODIES: [(&str, &str); 6] = [
    ("RequestHeaderModifier", "requestHeaderModifier"),
    ("ResponseHeaderModifier", "responseHeaderModifier"),
    ("RequestMirror", "requestMirror"),
    ("RequestRedirect", "requestRedirect"),
    ("Fault", "fault"),
    ("RateLimit", "rateLimit"),
];

impl Reader<'_, '_> {
    /// Takes in one route.
    pub(super) fn route(&mut self, node: &Node) {
        let Some(name) = node.get("name").and_then(Node::written) else { return };
        let Some(namespace) = self.known.namespace(self.checker, node.get("namespace"), name) else { return };
        let what = format!("the route `{namespace}/{}`", name.text);
        if !self.seen.is_first(self.checker, &what, name, BAD_VALUE) {
            return;
        }
        let parents: Vec<ServiceName> = node
            .get("parentRefs")
            .map(Node::items)
            .unwrap_or_default()
            .iter()
            .filter_map(|parent| Some(parent.text()?.into()))
            .collect();
        for rule in node.get("rules").map(Node::items).unwrap_or_default() {
            let document = self.checker.document();
            let origin = said::of_rule(document.line_of(rule.spot()), rule, document);
            for parent in &parents {
                let rules = self.rules(name, rule, parent, &origin);
                let service = self.of(&namespace).services.entry(parent.clone()).or_default();
                service.rules.extend(rules);
            }
        }
    }

    /// One rule of the file as the rules that it is: one for each match.
    fn rules(&mut self, name: &Written, node: &Node, parent: &ServiceName, origin: &Origin) -> Vec<Rule> {
        let backends = node.get("backendRefs").map(Node::items).unwrap_or_default().iter();
        let backends: Vec<_> = backends.filter_map(|node| self.backend(node)).collect();
        if let Some(list) = node.get("backendRefs").filter(|_| !backends.is_empty())
            && backends.iter().all(|backend| backend.weight == 0)
        {
            self.bad(list, "the weights of a rule sum to nothing, so its requests go nowhere");
        }
        let itself = || vec![Backend::all_of(parent)];
        let timeout = |key| time(node.get("timeouts")?.get(key));
        let mut rule = Rule {
            name: name.text.as_str().into(),
            matches: Match::default(),
            request_headers: HeaderChanges::default(),
            response_headers: HeaderChanges::default(),
            action: Action::Forward(if backends.is_empty() { itself() } else { backends }),
            mirror: None,
            fault: Fault::default(),
            knobs: Knobs {
                request_timeout: timeout("request"),
                backend_request_timeout: timeout("backendRequest"),
                ..node.get("retry").map(retry).unwrap_or_default()
            },
            origin: origin.clone(),
        };
        for filter in node.get("filters").map(Node::items).unwrap_or_default() {
            self.filter(filter, node, &mut rule);
        }
        let matches = node.get("matches").map(Node::items).unwrap_or_default();
        let matches: Vec<Match> = matches.iter().map(|node| self.matches(node)).collect();
        if matches.is_empty() {
            return vec![rule];
        }
        matches.into_iter().map(|matches| Rule { matches, ..rule.clone() }).collect()
    }

    fn bad(&mut self, node: &Node, message: &str) {
        let problem = self.checker.document().at(node.spot(), BAD_VALUE, message);
        self.checker.add(problem);
    }

    fn filter(&mut self, node: &Node, rule_node: &Node, rule: &mut Rule) {
        let Some(kind) = node.get("type").and_then(Node::written) else { return };
        let Some((_, key)) = BODIES.iter().find(|(known, _)| *known == kind.text) else { return };
        for (other, _) in
            node.entries().iter().filter(|(other, _)| other.text != *key && other.text != "type")
        {
            if BODIES.iter().any(|(_, known)| *known == other.text) {
                self.checker.bad(
                    other,
                    format!("`{}` has no effect in {}", other.text, kind.text),
                    "remove it",
                );
            }
        }
        let Some(body) = node.get(key) else {
            self.checker.bad(kind, format!("{} says nothing", kind.text), format!("add `{key}`"));
            return;
        };
        match *key {
            "requestHeaderModifier" => rule.request_headers = header_changes(body),
            "responseHeaderModifier" => rule.response_headers = header_changes(body),
            "requestMirror" => {
                let percent = number(body.get("percent")).unwrap_or(100);
                let backend = body.get("backendRef").and_then(|node| self.backend(node));
                rule.mirror = backend.map(|backend| Mirror { backend, percent });
            }
            "requestRedirect" => {
                if let Some(backends) = rule_node.get("backendRefs") {
                    self.bad(backends, "a redirect goes to no service");
                }
                let path = body.get("path").and_then(|path| path.get("replaceFullPath")).and_then(Node::text);
                let host = body.get("hostname").and_then(Node::text);
                if path.is_none() && host.is_none() {
                    self.bad(body, "a redirect to where the request came from: say `path` or `hostname`");
                }
                let status = number(body.get("statusCode")).unwrap_or(302);
                let (path, host) = (path.map(Into::into), host.map(Into::into));
                rule.action = Action::Redirect(Redirect { path, host, status });
            }
            "rateLimit" => rule.knobs.outbound_limit = limit(body),
            _ => {
                let part = |key: &str| body.get(key);
                let percent = |node: &Node| number(node.get("percent")).unwrap_or(100);
                let delay = part("delay").and_then(|node| Some((time(node.get("fixed"))?, percent(node))));
                let abort = part("abort").and_then(|node| Some((number(node.get("status"))?, percent(node))));
                rule.fault = Fault { delay, abort };
            }
        }
    }

    fn backend(&mut self, node: &Node) -> Option<Backend> {
        let labels = node.get("labels");
        let mut pairs: Vec<(Arc<str>, Arc<str>)> = Vec::new();
        for (key, value) in labels.map(Node::entries).unwrap_or_default() {
            match value.text() {
                Some(value) => pairs.push((key.text.as_str().into(), value.into())),
                None => {
                    self.checker.bad(key, format!("the label `{}` has no value", key.text), "say which it is")
                }
            }
        }
        pairs.sort();
        if let Some(labels) = labels.filter(|node| matches!(node, Node::Map(..)) && node.entries().is_empty())
        {
            self.bad(labels, "no label, so nothing is told apart: say one, or remove `labels`");
        }
        let subset = Subset {
            version: node.get("version").and_then(Node::text).map(Into::into),
            deployment: node.get("deployment").and_then(Node::text).and_then(Which::read),
            labels: pairs,
            revision: None,
        };
        let weight = number(node.get("weight")).unwrap_or(1);
        Some(Backend { service: node.get("service")?.text()?.into(), subset, weight })
    }

    fn matches(&mut self, node: &Node) -> Match {
        let values = |key: &str| node.get(key).map(Node::items).unwrap_or_default();
        let mut headers: Vec<_> = values("headers").iter().filter_map(|it| self.value(it)).collect();
        headers.iter_mut().for_each(|header| header.name = header.name.to_ascii_lowercase().into());
        let query = values("queryParams").iter().filter_map(|it| self.value(it)).collect();
        let path = node.get("path").and_then(|node| self.path(node)).unwrap_or_default();
        Match { path, method: node.get("method").and_then(Node::text).map(Into::into), headers, query }
    }

    fn value(&mut self, node: &Node) -> Option<ValueMatch> {
        let is_regex = node.get("type").and_then(Node::text) == Some("RegularExpression");
        let value = node.get("value")?.written()?;
        if is_regex {
            self.judge_expression(value);
        }
        Some(ValueMatch {
            name: node.get("name")?.text()?.into(),
            value: value.text.as_str().into(),
            is_regex,
        })
    }

    fn path(&mut self, node: &Node) -> Option<PathMatch> {
        let value = node.get("value")?.written()?;
        let text: Arc<str> = value.text.as_str().into();
        let kind = node.get("type").and_then(Node::text).unwrap_or("PathPrefix");
        if kind == "RegularExpression" {
            self.judge_expression(value);
            return Some(PathMatch::Regex(text));
        }
        if !text.starts_with('/') {
            self.checker.bad(value, format!("`{text}` is no path"), format!("write it like `/{text}`"));
            return None;
        }
        if text.contains(['?', '#']) {
            self.checker.bad(value, "a path has no query", "match it with `queryParams`");
            return None;
        }
        Some(if kind == "Exact" { PathMatch::Exact(text) } else { PathMatch::Prefix(text) })
    }

    /// Envoy's expressions are RE2's, of which the syntax is read here; only what RE2 lacks is not noticed.
    fn judge_expression(&mut self, written: &Written) {
        if let Err(error) = regex::Regex::new(&written.text) {
            let error = error.to_string();
            let why = error.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            self.checker.bad(written, format!("`{}` is no regular expression", written.text), why);
        }
    }
}

fn header_changes(node: &Node) -> HeaderChanges {
    let pairs = |key: &str| {
        let items = node.get(key).map(Node::items).unwrap_or_default();
        let pair = |it: &Node| Some((it.get("name")?.text()?.into(), it.get("value")?.text()?.into()));
        items.iter().filter_map(pair).collect()
    };
    let removed = node.get("remove").map(Node::items).unwrap_or_default();
    let remove = removed.iter().filter_map(|it| Some(it.text()?.into())).collect();
    HeaderChanges { set: pairs("set"), add: pairs("add"), remove }
}

/// Orders the rules of each service, lays rate limits over what else is said of it, and notes which parts of which services
/// they name.
pub(super) fn settle(policy: &mut Policy) {
    let mut named: BTreeMap<(Namespace, ServiceName), BTreeSet<Subset>> = BTreeMap::new();
    for (namespace, NamespacePolicy { services, .. }) in &mut policy.namespaces {
        for service in services.values_mut() {
            service.rules.sort_by_key(|rule| precedence(&rule.matches));
            for backend in service.rules.iter().flat_map(Rule::backends) {
                if !backend.subset.is_whole() {
                    let key = (namespace.clone(), backend.service.clone());
                    named.entry(key).or_default().insert(backend.subset.clone());
                }
            }
        }
    }
    for namespace in policy.namespaces.values_mut() {
        for (service, (limits, said)) in std::mem::take(&mut namespace.limits) {
            let service = namespace.services.entry(service).or_default();
            service.treatment.knobs = limits.over(&service.treatment.knobs);
            let known = service.origin.take();
            let who = known.as_deref().or(said.first().map(|it| &*it.place)).unwrap_or_default();
            let below = known.iter().flat_map(|known| known.said()).cloned();
            service.origin = Some(Origin::new(who, said.iter().cloned().chain(below)));
        }
    }
    for ((namespace, service), subsets) in named {
        if let Some(known) = policy.namespaces.get_mut(&namespace) {
            known.services.entry(service).or_default().subsets = subsets;
        }
    }
}

fn precedence(matches: &Match) -> impl Ord + use<> {
    let path = match &matches.path {
        PathMatch::Exact(_) => (0, Reverse(0)),
        PathMatch::Regex(_) => (1, Reverse(0)),
        PathMatch::Prefix(prefix) => (2, Reverse(prefix.chars().count())),
    };
    (path, matches.method.is_none(), Reverse(matches.headers.len()), Reverse(matches.query.len()))
}
