//! Why a request of a sidecar goes where it goes: name, listener, route, endpoints, sidecar, each as a step.
//!
//! It changes nothing and asks nobody: it says what follows from the mesh, the policy and what sidecars have accepted.
//!
//! Invariant: every step is told, also after one that fails; the verdict is the first that did.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use self::scope::Asking;
use super::answer::{Answer, Failure, between, one};
use super::namespaces::treatment;
use super::proxies::{Sync, sync};
use super::{AdminState, Pages};
use crate::diagnostic::words::{did_you_mean, spell};
use crate::model::{
    Action, Backend, Knobs, Match, MeshNamespace, PathMatch, Revision, Rule, Service, ServiceName,
    ServiceSpec, Subset, ValueMatch, Verdict,
};
use crate::vip;
use crate::xds::clients::Client;

mod scope;

/// A request that somebody wonders about.
#[derive(Debug, Default)]
struct Asked {
    client: String,
    service: String,
    namespace: Option<String>,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
}

impl Asked {
    fn read(pairs: Vec<(String, String)>) -> Result<Self, Failure> {
        let mut asked = Self { method: "GET".to_owned(), path: "/".to_owned(), ..Self::default() };
        for (key, value) in pairs {
            match key.as_str() {
                "client" => asked.client = value,
                "service" => asked.service = value,
                "namespace" => asked.namespace = Some(value),
                "method" => asked.method = value.to_ascii_uppercase(),
                "path" => asked.path = value,
                "header" => {
                    let (name, value) = value.split_once(':').unwrap_or((&value, ""));
                    asked.headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
                }
                other => {
                    let keys = ["client", "service", "namespace", "method", "path", "header"];
                    let near = did_you_mean(other, keys).unwrap_or_default();
                    let message = format!("unknown parameter `{other}`; {near}");
                    return Err(Failure::new(StatusCode::BAD_REQUEST, "BAD_QUERY", message));
                }
            }
        }
        for (what, value) in [("client", &asked.client), ("service", &asked.service)] {
            if value.is_empty() {
                let message = format!("say which {what}: ?client=checkout&service=payments");
                return Err(Failure::new(StatusCode::BAD_REQUEST, "BAD_QUERY", message));
            }
        }
        Ok(asked)
    }

    fn path_alone(&self) -> &str {
        self.path.split('?').next().unwrap_or(&self.path)
    }

    fn query(&self) -> impl Iterator<Item = (&str, &str)> {
        let query = self.path.split_once('?').map_or("", |(_, query)| query);
        query.split('&').filter_map(|pair| pair.split_once('='))
    }

    /// Whether a rule is about it.
    fn fits(&self, matches: &Match) -> bool {
        let path = self.path_alone();
        let path_fits = match &matches.path {
            PathMatch::Exact(exact) => path == &**exact,
            PathMatch::Regex(regex) => is_whole(regex, path),
            PathMatch::Prefix(prefix) => {
                let prefix = prefix.trim_end_matches('/');
                path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        };
        let value_fits = |wanted: &ValueMatch, found: Option<&str>| {
            found.is_some_and(|found| {
                if wanted.is_regex { is_whole(&wanted.value, found) } else { found == &*wanted.value }
            })
        };
        let header =
            |name: &str| self.headers.iter().find(|(known, _)| known == name).map(|(_, it)| it.as_str());
        let parameter = |name: &str| self.query().find(|(known, _)| *known == name).map(|(_, value)| value);
        path_fits
            && matches.method.as_ref().is_none_or(|method| **method == *self.method)
            && matches.headers.iter().all(|wanted| value_fits(wanted, header(&wanted.name)))
            && matches.query.iter().all(|wanted| value_fits(wanted, parameter(&wanted.name)))
    }
}

/// Whether an expression describes a text as a whole.
fn is_whole(expression: &str, text: &str) -> bool {
    regex::Regex::new(&format!("^(?:{expression})$")).is_ok_and(|regex| regex.is_match(text))
}

/// The steps so far.
#[derive(Debug, Default)]
struct Ladder {
    steps: Vec<Value>,
    /// How the request is treated.
    treatment: Option<Value>,
}

impl Ladder {
    fn step(&mut self, name: &str, is_fine: bool, says: impl Into<String>) {
        self.steps.push(json!({ "step": name, "ok": is_fine, "says": says.into() }));
    }

    fn answer(self) -> Answer {
        let failed = self.steps.iter().find(|step| step["ok"] == false);
        let verdict = match failed {
            Some(step) => format!("it fails at: {}", step["step"].as_str().unwrap_or_default()),
            None => "it goes through".to_owned(),
        };
        let is_fine = failed.is_none();
        let item = json!({
            "ok": is_fine, "verdict": verdict, "steps": self.steps, "treatment": self.treatment,
        });
        one("Explanation", None, item)
    }
}

/// `/api/v1/explain`.
pub(super) async fn explain(
    State(pages): State<Pages>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Answer {
    let (asked, state) = (Asked::read(pairs)?, &pages.state);
    let (mesh, clients) = (state.mesh(), state.clients.list());
    let client = clients.iter().find(|client| is_meant(client, &asked.client));
    let said = asked.namespace.clone().or_else(|| Some(client?.namespace.as_str().to_owned()));
    let only = || mesh.namespaces.keys().next().filter(|_| mesh.namespaces.len() == 1);
    let namespace = said.or_else(|| only().map(|name| name.as_str().to_owned()));
    let Some(namespace) = namespace else {
        let message = "nobody knows in which namespace: the client is not connected, and there are several";
        return Err(Failure::new(StatusCode::BAD_REQUEST, "BAD_QUERY", message));
    };
    let Some(namespace) = mesh.namespaces.get(namespace.as_str()) else {
        return Err(Failure::not_found(
            "namespace",
            &namespace,
            mesh.namespaces.keys().map(|it| it.as_str()),
        ));
    };
    let mut ladder = Ladder::default();
    let called = client.map_or(asked.client.as_str(), |client| &client.node.service);
    let scope = client.map(|client| Arc::clone(&client.scope));
    let scope = scope.unwrap_or_else(|| Arc::new(mesh.scoping.of(&namespace.name, called)));
    let asking =
        Asking { mesh: &mesh, own: namespace, scope: &scope, client: called, wanted: &asked.service };
    let (namespace, wanted) = asking.home(&mut ladder);
    let Some(service) = name(&mut ladder, state, namespace, wanted) else {
        sidecar(&mut ladder, state, client, &asked.client);
        return ladder.answer();
    };
    listener(&mut ladder, namespace, service, client);
    let (rule, backends) = route(&mut ladder, &asked, service);
    let policy = Arc::clone(&state.policy.borrow().policy);
    ladder.treatment = Some(treatment(&policy.effective(&service.spec, rule)));
    for backend in spread(namespace, &asked, service, backends) {
        endpoints(&mut ladder, namespace, &backend);
    }
    sidecar(&mut ladder, state, client, &asked.client);
    ladder.answer()
}

/// Whether a client is called so: by its id, the end of it, or its service.
fn is_meant(client: &Client, wanted: &str) -> bool {
    let id = &*client.node.id;
    id == wanted || id.rsplit('/').next() == Some(wanted) || &*client.node.service == wanted
}

fn name<'a>(
    ladder: &mut Ladder,
    state: &AdminState,
    namespace: &'a MeshNamespace,
    wanted: &str,
) -> Option<&'a Service> {
    let bare = wanted.split(':').next().unwrap_or(wanted);
    let bare = bare.strip_suffix(&format!(".{}", namespace.name)).unwrap_or(bare);
    let by_alias = || {
        let has = |service: &&Service| service.spec.aliases.iter().any(|alias| &*alias.name == bare);
        namespace.services.values().find(has)
    };
    let found = namespace.services.get(bare).or_else(by_alias);
    match found {
        Some(service) => {
            let (spec, policy) = (&service.spec, Arc::clone(&state.policy.borrow().policy));
            let treated = policy.of(&namespace.name).and_then(|policy| policy.services.get(&spec.key.name));
            let treated = treated.and_then(|service| service.origin.as_ref());
            let treated = treated.map(|origin| format!(", treated by {origin}")).unwrap_or_default();
            let (protocol, origin) = (spec.protocol.as_str(), &spec.origin);
            let says = format!("{} speaks {protocol}, described by {origin}{treated}", spec.key);
            ladder.step("name", true, says);
        }
        None => {
            let near =
                did_you_mean(bare, namespace.services.keys().map(ServiceName::as_str).collect::<Vec<_>>());
            let near = near.map(|near| format!("; {near}")).unwrap_or_default();
            ladder.step("name", false, format!("no service of {} is called `{bare}`{near}", namespace.name));
        }
    }
    found
}

fn listener(ladder: &mut Ladder, namespace: &MeshNamespace, service: &Service, client: Option<&Client>) {
    for alias in &service.spec.aliases {
        let base = vip::base_name(namespace.name.as_str(), &alias.name);
        let Some(address) = namespace.addresses.get(base) else {
            ladder.step("listener", false, format!("{alias} has no loopback address"));
            continue;
        };
        let name = format!("{}/{alias}", namespace.name);
        let is_withheld = client.is_some_and(|client| client.withheld.iter().any(|it| **it == *name));
        let why = if is_withheld { ", withheld: the task itself listens on the port (LSN002)" } else { "" };
        ladder.step("listener", !is_withheld, format!("{alias} is {address}:{}{why}", alias.port));
    }
}

/// Tells of the route, and returns the rule and where it leads.
fn route<'a>(ladder: &mut Ladder, asked: &Asked, service: &'a Service) -> (Option<&'a Rule>, Vec<Backend>) {
    let spec = &service.spec;
    let itself = Backend::all_of(&spec.key.name);
    if !spec.protocol.is_http() {
        let shifted = spec.shift.as_ref().filter(|shift| !shift.split().is_empty());
        let shifted =
            shifted.map(|_| ", each connection by the weights of its deployment").unwrap_or_default();
        ladder.step("route", true, format!("bytes go to the service as they come{shifted}"));
        return (None, vec![itself]);
    }
    let Some(rule) = spec.rules.iter().find(|rule| asked.fits(&rule.matches)) else {
        let says = format!(
            "no rule is about it, so it goes to the service itself{}; {}",
            test(asked, spec),
            in_short(&spec.knobs)
        );
        ladder.step("route", true, says);
        return (None, vec![itself]);
    };
    let (of, knobs) = (format!("{} ({})", rule.name, rule.origin), rule.knobs.clone().over(&spec.knobs));
    let backends = match &rule.action {
        Action::Redirect(to) => {
            let place = format!(
                "{}{}",
                to.host.as_deref().unwrap_or_default(),
                to.path.as_deref().unwrap_or_default()
            );
            ladder.step("route", true, format!("{of} answers {} to {place}", to.status));
            Vec::new()
        }
        Action::Forward(backends) => {
            ladder.step(
                "route",
                true,
                format!("{of}{}; {}{}", test(asked, spec), in_short(&knobs), extras(rule)),
            );
            backends.clone()
        }
    };
    (Some(rule), backends)
}

/// Whether a request is a test of a deployment under way.
fn is_test(asked: &Asked, spec: &ServiceSpec) -> bool {
    let shift = spec.shift.as_ref().filter(|shift| spec.protocol.is_http() && !shift.tested().is_empty());
    shift.is_some_and(|shift| {
        let header = &shift.header;
        let is_it = |(name, value): &(String, String)| {
            **name == *header.name && header.value.as_ref().is_none_or(|wanted| **wanted == **value)
        };
        asked.headers.iter().any(is_it)
    })
}

fn test(asked: &Asked, spec: &ServiceSpec) -> String {
    let header = spec.shift.as_ref().map(|shift| &shift.header.name).filter(|_| is_test(asked, spec));
    header.map(|name| format!(", as a test of its deployment (header {name})")).unwrap_or_default()
}

/// The same with the revisions between which a deployment shifts what a whole service gets.
fn spread(
    namespace: &MeshNamespace,
    asked: &Asked,
    service: &Service,
    backends: Vec<Backend>,
) -> Vec<Backend> {
    let own = &service.spec;
    let revisions = |backend: &Backend| -> Vec<Backend> {
        let spec = namespace.services.get(&backend.service).map(|service| &service.spec);
        let shift = spec.filter(|_| backend.subset.is_whole()).and_then(|spec| spec.shift.as_ref());
        let is_test = backend.service == own.key.name && is_test(asked, own);
        let parts = shift.map(|shift| if is_test { shift.tested() } else { shift.split() });
        let part = |(it, weight): (&Revision, u32)| Backend {
            service: backend.service.clone(),
            subset: Subset::revision(&it.id),
            weight,
        };
        parts.unwrap_or_default().into_iter().map(part).collect()
    };
    let parts = |backend: Backend| {
        let revisions = revisions(&backend);
        if revisions.is_empty() { vec![backend] } else { revisions }
    };
    backends.into_iter().flat_map(parts).collect()
}

/// Timeouts and retries in force; what is not said is the profile's.
fn in_short(knobs: &Knobs) -> String {
    let time = |said: Option<std::time::Duration>, usual: &str| match said {
        Some(time) if time.is_zero() => "none".to_owned(),
        Some(time) => spell(time),
        None => format!("{usual} (profile)"),
    };
    let retries =
        knobs.retry_attempts.map_or_else(|| "2 (profile)".to_owned(), |retries| retries.to_string());
    format!("request timeout {}, retries {retries}", time(knobs.request_timeout, "15s"))
}

fn extras(rule: &Rule) -> String {
    let mirror =
        rule.mirror.as_ref().map(|it| format!(", {} % copied to {}", it.percent, shown(&it.backend)));
    let delay = rule.fault.delay.map(|(pause, percent)| format!(", {percent} % delayed by {}", spell(pause)));
    let abort = rule.fault.abort.map(|(status, percent)| format!(", {percent} % answered {status}"));
    [mirror, delay, abort].into_iter().flatten().collect()
}

fn shown(backend: &Backend) -> String {
    let Subset { version, deployment, labels, revision } = &backend.subset;
    let version = version.iter().map(|version| format!(" version {version}"));
    let deployment = deployment.iter().map(|which| format!(" of the {} deployment", which.as_str()));
    let labels = labels.iter().map(|(key, value)| format!(" with {key}={value}"));
    let revision = revision.iter().map(|id| format!(" revision {id}"));
    let parts: String = version.chain(deployment).chain(labels).chain(revision).collect();
    format!("{}{parts}", backend.service)
}

fn endpoints(ladder: &mut Ladder, namespace: &MeshNamespace, backend: &Backend) {
    let what = format!("{} (weight {})", shown(backend), backend.weight);
    let Some(service) = namespace.services.get(&backend.service) else {
        ladder.step("endpoints", false, format!("{what}: there is no such service"));
        return;
    };
    let mut counts: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
    let subset = &backend.subset;
    for endpoint in service.endpoints.iter().filter(|endpoint| subset.includes(&endpoint.traits)) {
        let zone = endpoint.zone.as_deref().unwrap_or("-");
        let apart = endpoint.apart.filter(|_| !subset.is_whole());
        let verdict = Verdict { state: apart.unwrap_or(endpoint.verdict.state), ..endpoint.verdict };
        *counts.entry((verdict.state.as_str(), verdict.reason.as_str(), zone)).or_default() += 1;
    }
    let is_served = counts.keys().any(|(state, ..)| *state == "healthy" || *state == "draining");
    let counts =
        counts.iter().map(|((state, reason, zone), count)| format!("{count} {state} ({reason}) in {zone}"));
    let counts: Vec<_> = counts.collect();
    let counts = if counts.is_empty() { "none".to_owned() } else { counts.join(", ") };
    ladder.step("endpoints", is_served || backend.weight == 0, format!("{what}: {counts}"));
}

fn sidecar(ladder: &mut Ladder, state: &AdminState, client: Option<&Client>, wanted: &str) {
    let Some(client) = client else {
        let clients = state.clients.list();
        let services = clients.iter().map(|client| &*client.node.service);
        let near = did_you_mean(wanted, services.collect::<std::collections::BTreeSet<_>>());
        let near = near.map(|near| format!("; {near}")).unwrap_or_default();
        ladder.step("sidecar", false, format!("no sidecar of `{wanted}` is connected{near}"));
        return;
    };
    let (how, since) = sync(state, client);
    let seconds = between(since, SystemTime::now()).as_f64().unwrap_or_default() / 1000.0;
    let refused: Vec<_> = client
        .types
        .iter()
        .filter_map(|(kind, it)| Some(format!("{}: {}", kind.short(), it.nack.as_ref()?.message)))
        .collect();
    let refused =
        if refused.is_empty() { String::new() } else { format!("; it refused {}", refused.join("; ")) };
    let says = format!("{} is {} for {seconds:.1} s{refused}", client.node.id, how.word());
    ladder.step("sidecar", how == Sync::Synced, says);
}
