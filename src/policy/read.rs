//! Policy files from their text to a [`Policy`]: each checked against the table, then together.
//!
//! Routes are `routes`'s. Invariant: whatever is wrong in whichever file is told, and nothing is taken in unless nothing
//! is.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::Duration;

use super::table::{POLICY, TRIGGERS};
use super::{NamespacePolicy, Policy, Text, Treatment, envoy, routes, said, scopes, transport};
use crate::diagnostic::check::Checker;
use crate::diagnostic::words::{did_you_mean, duration};
use crate::diagnostic::{BAD_VALUE, Document, Node, Problem, Written, read_tree};
use crate::model::{Balancing, Knobs, Namespace, Protocol, Readiness};

/// The keys that are about requests, by section.
pub(super) const OF_REQUESTS: [(&str, &[&str]); 4] = [
    ("timeouts", &["request", "backendRequest", "streamIdle"]),
    ("retry", &["triggers", "codes", "backoff", "otherHost", "idempotentOnly", "budget"]),
    ("connectionPool", &["maxRequestsPerConnection", "maxConnectionDuration"]),
    ("protocolOptions", &["preserveHeaderCase", "maxConcurrentStreams", "maxHeaderKilobytes"]),
];

/// Where each thing was written first, as `payments.yaml:7:3`: it may be there once in all files.
#[derive(Debug, Default)]
pub(super) struct Seen(BTreeMap<String, String>);

impl Seen {
    /// Whether this is the first of its name; if not, it is told.
    pub(super) fn is_first(
        &mut self,
        checker: &mut Checker<'_>,
        what: &str,
        written: &Written,
        code: &'static str,
    ) -> bool {
        let place = checker.document().with(written, code, "").place();
        match self.0.get(what) {
            Some(first) => {
                let problem = checker.document().with(written, code, format!("{what} is there twice"));
                checker.add(problem.suggesting(format!("first at {first}")));
                false
            }
            None => {
                self.0.insert(what.to_owned(), place);
                true
            }
        }
    }
}

/// The namespaces that may be meant.
pub(super) struct Known {
    namespaces: BTreeSet<Namespace>,
    /// Whether there are no others.
    is_closed: bool,
}

impl Known {
    /// The namespace that an item says, or the only one. `item` is where one that is missing is told.
    pub(super) fn namespace(
        &self,
        checker: &mut Checker<'_>,
        said: Option<&Node>,
        item: &Written,
    ) -> Option<Namespace> {
        let names = || self.namespaces.iter().map(Namespace::as_str);
        let Some(written) = said.and_then(Node::written) else {
            if self.namespaces.len() == 1 {
                return self.namespaces.first().cloned();
            }
            let message =
                format!("`{}` may be in any of {}", item.text, names().collect::<Vec<_>>().join(", "));
            checker.bad(item, message, "say which with `namespace`");
            return None;
        };
        let found = self.namespaces.iter().find(|known| known.as_str() == written.text);
        if found.is_none() && self.is_closed {
            let problem = format!("the namespace `{}` is not configured", written.text);
            checker.bad(written, problem, did_you_mean(&written.text, names()).unwrap_or_default());
            return None;
        }
        Some(written.text.as_str().into())
    }

    /// The namespace of this name, unless there can be none.
    pub(super) fn find(&self, name: &str) -> Option<Namespace> {
        let is_known = !self.is_closed || self.namespaces.contains(name);
        is_known.then(|| name.into())
    }

    /// What is known, for people.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.namespaces.iter().map(Namespace::as_str)
    }

    /// The namespace that an item says, or the only one, told to nobody if it is neither.
    pub(super) fn settled(&self, said: Option<&Node>) -> Option<Namespace> {
        match said.and_then(Node::text) {
            Some(name) => self.find(name),
            None => self.namespaces.first().filter(|_| self.namespaces.len() == 1).cloned(),
        }
    }
}

/// Reads all files.
pub(super) fn read(files: &[Text], namespaces: &BTreeSet<Namespace>) -> Result<Policy, Vec<Problem>> {
    let (mut trees, mut problems) = (Vec::new(), Vec::new());
    for (path, text) in files {
        match read_tree(path, text) {
            Ok(tree) => trees.push((Document::new(path, text), tree)),
            Err(found) => problems.extend(found),
        }
    }
    let known = known(namespaces, trees.iter().map(|(_, tree)| tree));
    let (mut policy, mut seen) = (Policy::default(), Seen::default());
    for (document, tree) in &trees {
        let mut checker = Checker::new(*document);
        POLICY.examine(tree, &mut checker);
        let mut reader =
            Reader { checker: &mut checker, known: &known, seen: &mut seen, policy: &mut policy };
        reader.file(tree);
        problems.extend(checker.finish(()).err().unwrap_or_default());
    }
    if problems.is_empty() {
        let judge = |(document, tree): &(_, _)| scopes::judge(*document, tree, &known, &policy);
        problems.extend(trees.iter().flat_map(judge));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    routes::settle(&mut policy);
    Ok(policy)
}

/// Those that are configured, or else those that the files name, or else one.
fn known<'a>(configured: &BTreeSet<Namespace>, trees: impl Iterator<Item = &'a Node>) -> Known {
    if !configured.is_empty() {
        return Known { namespaces: configured.clone(), is_closed: true };
    }
    let mut namespaces = BTreeSet::new();
    let mut add = |name: Option<&str>| namespaces.extend(name.map(Namespace::from));
    for tree in trees {
        let entries = |key| tree.get(key).map(Node::entries).unwrap_or_default();
        let items = |key| tree.get(key).map(Node::items).unwrap_or_default();
        entries("namespaces").iter().for_each(|(name, _)| add(Some(&name.text)));
        let of = |node: &'a Node| node.get("namespace").and_then(Node::text);
        entries("services").iter().for_each(|(_, service)| add(of(service)));
        ["routes", "externals", "rateLimits"]
            .iter()
            .flat_map(|key| items(key))
            .for_each(|item| add(of(item)));
        scopes::named(tree).into_iter().for_each(|name| add(Some(name)));
    }
    if namespaces.is_empty() {
        namespaces.insert(Namespace::from("default"));
    }
    Known { namespaces, is_closed: false }
}

/// One file on its way into the policy.
pub(super) struct Reader<'a, 'd> {
    pub(super) checker: &'a mut Checker<'d>,
    pub(super) known: &'a Known,
    pub(super) seen: &'a mut Seen,
    pub(super) policy: &'a mut Policy,
}

impl Reader<'_, '_> {
    fn file(&mut self, tree: &Node) {
        for (name, node) in tree.get("namespaces").map(Node::entries).unwrap_or_default() {
            self.namespace(name, node);
        }
        for (name, node) in tree.get("services").map(Node::entries).unwrap_or_default() {
            self.service(name, node);
        }
        for node in tree.get("externals").map(Node::items).unwrap_or_default() {
            self.external(node);
        }
        for node in tree.get("routes").map(Node::items).unwrap_or_default() {
            self.route(node);
        }
        for node in tree.get("rateLimits").map(Node::items).unwrap_or_default() {
            self.rate_limit(node);
        }
        for node in tree.get("imports").map(Node::items).unwrap_or_default() {
            self.import(node);
        }
    }

    /// What is known of a namespace so far.
    pub(super) fn of(&mut self, namespace: &Namespace) -> &mut NamespacePolicy {
        self.policy.namespaces.entry(namespace.clone()).or_default()
    }

    fn namespace(&mut self, name: &Written, node: &Node) {
        let said = Node::Scalar(name.clone());
        let Some(namespace) = self.known.namespace(self.checker, Some(&said), name) else { return };
        let what = format!("the namespace `{namespace}`");
        if !self.seen.is_first(self.checker, &what, name, BAD_VALUE) {
            return;
        }
        let mut defaults = node.get("defaults").map(|node| self.treatment(node)).unwrap_or_default();
        if node.get("profile").and_then(Node::text) == Some("envoy") {
            defaults.knobs = defaults.knobs.over(&envoy());
        }
        let exports = self.exports(name, node);
        let document = self.checker.document();
        let origin = said::of_defaults(document.origin(name), node, document);
        let known = self.of(&namespace);
        (known.defaults, known.origin, known.exports) = (defaults, origin, exports);
    }

    fn service(&mut self, name: &Written, node: &Node) {
        let Some(namespace) = self.known.namespace(self.checker, node.get("namespace"), name) else { return };
        let what = format!("the service `{namespace}/{}`", name.text);
        if !self.seen.is_first(self.checker, &what, name, BAD_VALUE) {
            return;
        }
        let protocol = protocol(node);
        if protocol == Some(Protocol::Tcp) {
            self.judge_tcp(node);
        }
        let aliases = node.get("aliases").map(|node| self.aliases(&namespace, node));
        let (aliases, local_ports) = aliases.unzip();
        let mut treatment = self.treatment(node);
        treatment.knobs.inbound_port = node.get("inbound").map(|node| self.inbound(node));
        let uses = self.uses(&namespace, name, node);
        let document = self.checker.document();
        let origin = Some(said::of_service(document.origin(name), node, document));
        // A route in another file may have come first.
        let service = self.of(&namespace).services.entry(name.text.as_str().into()).or_default();
        (service.aliases, service.local_ports) = (aliases, local_ports.unwrap_or_default());
        service.uses = uses;
        (service.protocol, service.treatment, service.origin) = (protocol, treatment, origin);
    }

    /// What has no meaning where there are only bytes.
    fn judge_tcp(&mut self, node: &Node) {
        for (section, keys) in OF_REQUESTS {
            for (key, _) in node.get(section).map(Node::entries).unwrap_or_default() {
                if keys.contains(&key.text.as_str()) {
                    let message = format!("`{}` is about requests, and there are none in tcp", key.text);
                    self.checker.bad(key, message, "remove it, or set `appProtocol`");
                }
            }
        }
    }

    pub(super) fn treatment(&mut self, node: &Node) -> Treatment {
        let timeouts = |key| time(node.get("timeouts")?.get(key));
        let outliers = |key: &str| node.get("outlierDetection")?.get(key);
        let breaker = |key| number(node.get("circuitBreaker")?.get(key));
        let log = |key: &str| node.get("accessLog")?.get(key);
        let ready = |key: &str| node.get("readiness")?.get(key);
        let balancing = node.get("loadBalancing");
        self.judge_ejections(node.get("outlierDetection"));
        let knobs = Knobs {
            request_timeout: timeouts("request"),
            backend_request_timeout: timeouts("backendRequest"),
            idle_timeout: timeouts("idle"),
            stream_idle_timeout: timeouts("streamIdle"),
            connect_timeout: timeouts("connect"),
            consecutive_5xx: number(outliers("consecutive5xx")),
            outlier_interval: time(outliers("interval")),
            base_ejection: time(outliers("baseEjectionTime")),
            max_ejection: time(outliers("maxEjectionTime")),
            max_ejection_percent: number(outliers("maxEjectionPercent")),
            balancing: balancing.and_then(|node| self.balancing(node)),
            slow_start: time(balancing.and_then(|node| node.get("slowStart"))),
            panic_percent: number(balancing.and_then(|node| node.get("panicThresholdPercent"))),
            max_connections: breaker("maxConnections"),
            max_pending_requests: breaker("maxPendingRequests"),
            max_requests: breaker("maxParallelRequests"),
            max_retries: breaker("maxParallelRetries"),
            access_log: switch(log("enabled")),
            access_log_query: switch(log("includeQueryParameters")),
            access_log_percent: number(log("samplePercent")),
            drains: node.get("drain").and_then(|it| it.get("style")?.text()).map(|style| style == "draining"),
            max_wait: time(ready("maxWait")),
            holds_the_silent: ready("onExpiry").and_then(Node::text).map(|word| word == "hold"),
            ..node.get("retry").map(retry).unwrap_or_default()
        };
        let gate = ready("gate").and_then(Node::text);
        let readiness =
            gate.map(|gate| if gate == "running" { Readiness::Running } else { Readiness::Healthy });
        let knobs = knobs.over(&transport::knobs(node));
        Treatment { knobs, readiness }
    }

    fn judge_ejections(&mut self, node: Option<&Node>) {
        let of = |key| node?.get(key);
        let Some((base, longest)) = time(of("baseEjectionTime")).zip(time(of("maxEjectionTime"))) else {
            return;
        };
        if let Some(written) = of("maxEjectionTime").and_then(Node::written).filter(|_| longest < base) {
            self.checker.bad(
                written,
                "the longest ejection is shorter than the first",
                "at least `baseEjectionTime`",
            );
        }
    }

    fn balancing(&mut self, node: &Node) -> Option<Balancing> {
        let kind = node.get("type").and_then(Node::written);
        let hash = node.get("consistentHash");
        let header = hash.and_then(|hash| hash.get("header")?.text());
        match (kind.map(|kind| kind.text.as_str()), header) {
            (Some("ConsistentHash"), Some(header)) => {
                let algorithm = hash.and_then(|hash| hash.get("algorithm")?.text());
                let header = header.to_ascii_lowercase().into();
                Some(if algorithm == Some("Maglev") {
                    Balancing::Maglev(header)
                } else {
                    Balancing::RingHash(header)
                })
            }
            (Some("ConsistentHash"), None) => {
                let written = kind.filter(|_| hash.is_none())?;
                self.checker.bad(
                    written,
                    "nothing says what is hashed",
                    "add `consistentHash: { header: x-user }`",
                );
                None
            }
            (other, _) => {
                if let Some(hash) = hash {
                    let message = "`consistentHash` has no effect without `type: ConsistentHash`";
                    let problem = self.checker.document().at(hash.spot(), BAD_VALUE, message);
                    self.checker.add(problem);
                }
                match other? {
                    "LeastRequest" => Some(Balancing::LeastRequest),
                    "Random" => Some(Balancing::Random),
                    "RoundRobin" => Some(Balancing::RoundRobin),
                    _ => None,
                }
            }
        }
    }
}

pub(super) fn protocol(node: &Node) -> Option<Protocol> {
    node.get("appProtocol")?.text()?.parse().ok()
}

/// The part of [`Knobs`] that routes have too.
pub(super) fn retry(node: &Node) -> Knobs {
    // App Mesh's words for Envoy's.
    let word = |word: &str| match word {
        "server-error" => Some("5xx"),
        "client-error" => Some("retriable-4xx"),
        "stream-error" => Some("refused-stream"),
        "connection-error" => Some("connect-failure"),
        word => TRIGGERS.iter().find(|known| **known == word).copied(),
    };
    let triggers = node.get("triggers").map(Node::items);
    let triggers =
        triggers.map(|items| items.iter().filter_map(|it| word(it.text()?)).map(Into::into).collect());
    let codes = node.get("codes").map(Node::items);
    Knobs {
        retry_attempts: number(node.get("attempts")),
        retry_triggers: triggers,
        retry_codes: codes.map(|codes| codes.iter().filter_map(|code| number(Some(code))).collect()),
        retry_backoff: time(node.get("backoff")),
        retry_other_host: switch(node.get("otherHost")),
        retry_idempotent_only: switch(node.get("idempotentOnly")),
        ..Knobs::default()
    }
}

pub(super) fn time(node: Option<&Node>) -> Option<Duration> {
    duration(node?.text()?)
}

pub(super) fn number<T: FromStr>(node: Option<&Node>) -> Option<T> {
    node?.text()?.parse().ok()
}

pub(super) fn switch(node: Option<&Node>) -> Option<bool> {
    node?.text()?.parse().ok()
}
