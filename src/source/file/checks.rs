//! The file from its written to its checked form.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::diagnostic::check::{Checker, NameRule};
use crate::diagnostic::{BAD_VALUE, Document, Entries, Problem, TWO_SERVICES, Written};
use crate::model::{
    Alias, Health, Knobs, Member, Namespace, Phase, Protocol, Readiness, Registration, ServiceKey,
    ServiceSpec, ServiceView, StopCause, Traits, View,
};

const SERVICE: NameRule = NameRule { what: "a service", longest: 64, dots: false };
const ALIAS: NameRule = NameRule { what: "an alias", longest: 127, dots: true };
const DAY: Duration = Duration::from_secs(24 * 3600);
const PROTOCOLS: [(&str, Protocol); 4] =
    [("tcp", Protocol::Tcp), ("http", Protocol::Http), ("http2", Protocol::Http2), ("grpc", Protocol::Grpc)];
const HEALTH: [(&str, Phase); 4] = [
    ("healthy", Phase::Running(Health::Healthy)),
    ("unhealthy", Phase::Running(Health::Unhealthy { gate_over: true })),
    ("draining", Phase::Stopping(StopCause::Planned)),
    ("starting", Phase::Starting),
];

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct File {
    services: Entries<Service>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Service {
    aliases: Option<Vec<WrittenAlias>>,
    app_protocol: Option<Written>,
    timeouts: Option<Timeouts>,
    retry: Option<Retry>,
    endpoints: Option<Vec<Endpoint>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenAlias {
    name: Written,
    port: Written,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Timeouts {
    request: Option<Written>,
    idle: Option<Written>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Retry {
    attempts: Option<Written>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Endpoint {
    address: Written,
    port: Written,
    zone: Option<Written>,
    id: Option<Written>,
    health: Option<Written>,
}

/// Aliases of the whole file, with the place of each.
pub(super) type Claims = BTreeMap<Alias, Written>;

/// Checks everything before it answers.
pub(super) fn check(
    document: Document<'_>,
    file: File,
    namespace: &Namespace,
) -> Result<(View, Claims), Vec<Problem>> {
    let mut checker = Checker::new(document);
    let mut claims = Claims::new();
    let mut view = View::default();
    for (name, written) in &file.services.0 {
        checker.name(name, SERVICE);
        let key = ServiceKey::new(namespace.clone(), name.text.as_str());
        let service = service(&mut checker, &mut claims, name, key.clone(), written);
        view.services.insert(key, Arc::new(service));
    }
    checker.finish((view, claims))
}

fn service(
    checker: &mut Checker<'_>,
    claims: &mut Claims,
    name: &Written,
    key: ServiceKey,
    written: &Service,
) -> ServiceView {
    let endpoints = written.endpoints.as_deref().unwrap_or_default();
    let protocol = match &written.app_protocol {
        Some(word) => checker.word(word, &PROTOCOLS),
        None => Some(Protocol::default()),
    };
    let registrations = registrations(checker, endpoints);
    let aliases = match &written.aliases {
        Some(written) => aliases(checker, claims, written),
        None => usual_alias(checker, claims, name, endpoints),
    };
    let knobs = knobs(checker, protocol, written);
    let origin = checker.document().origin(name);
    let spec = ServiceSpec {
        key,
        protocol: protocol.unwrap_or_default(),
        aliases,
        knobs,
        readiness: Readiness::Healthy,
        created_at: None,
        origin: origin.into(),
        rules: Arc::default(),
        subsets: Arc::default(),
        shift: None,
    };
    ServiceView { spec: Arc::new(spec), active: true, registrations }
}

fn aliases(checker: &mut Checker<'_>, claims: &mut Claims, written: &[WrittenAlias]) -> Vec<Alias> {
    let checked = written.iter().filter_map(|alias| {
        let name = checker.name(&alias.name, ALIAS);
        let port = checker.port(&alias.port);
        let checked = Alias { name: name?.into(), port: port? };
        checker.unique(claims, checked.clone(), &alias.name, (TWO_SERVICES, "the alias")).then_some(checked)
    });
    checked.collect()
}

/// The service's own name, and the port of its first endpoint.
fn usual_alias(
    checker: &mut Checker<'_>,
    claims: &mut Claims,
    name: &Written,
    endpoints: &[Endpoint],
) -> Vec<Alias> {
    let Some(first) = endpoints.first() else {
        let message = format!("`{}` has neither `aliases` nor `endpoints`", name.text);
        checker.bad(name, message, "so nobody knows its port");
        return Vec::new();
    };
    let Ok(port) = first.port.text.parse() else { return Vec::new() }; // told with the endpoint
    let alias = Alias { name: name.text.as_str().into(), port };
    let new = checker.unique(claims, alias.clone(), name, (TWO_SERVICES, "the alias"));
    new.then_some(alias).into_iter().collect()
}

fn knobs(checker: &mut Checker<'_>, protocol: Option<Protocol>, written: &Service) -> Knobs {
    let mut time = |written: Option<&Written>| checker.duration(written?, Duration::ZERO, DAY);
    let timeouts = written.timeouts.as_ref();
    let request_timeout = time(timeouts.and_then(|timeouts| timeouts.request.as_ref()));
    let idle_timeout = time(timeouts.and_then(|timeouts| timeouts.idle.as_ref()));
    let attempts = written.retry.as_ref().and_then(|retry| retry.attempts.as_ref());
    let retry_attempts = attempts.and_then(|attempts| checker.number(attempts, 0, 10));
    if let Some(request) = timeouts.and_then(|timeouts| timeouts.request.as_ref())
        && let Some(protocol) = protocol.filter(|protocol| !protocol.is_http())
    {
        let message = format!("there are no requests in {}", protocol.as_str());
        checker.bad(request, message, "remove it, or set `appProtocol`");
    }
    Knobs { request_timeout, idle_timeout, retry_attempts, ..Knobs::default() }
}

fn registrations(checker: &mut Checker<'_>, written: &[Endpoint]) -> Vec<Registration> {
    let (mut ids, mut places) = (BTreeMap::new(), BTreeMap::new());
    let mut registrations = Vec::with_capacity(written.len());
    for endpoint in written {
        let address = address(checker, &endpoint.address);
        let port = checker.port(&endpoint.port);
        let phase = match &endpoint.health {
            Some(word) => checker.word(word, &HEALTH),
            None => Some(Phase::Running(Health::NoCheck)),
        };
        for text in [&endpoint.zone, &endpoint.id].into_iter().flatten() {
            if text.text.trim().is_empty() || text.text.len() > 255 {
                checker.add(checker.document().with(text, BAD_VALUE, "expected 1 to 255 characters"));
            }
        }
        let (Some(address), Some(port), Some(phase)) = (address, port, phase) else { continue };
        let place = match address {
            IpAddr::V4(address) => format!("{address}:{port}"),
            IpAddr::V6(address) => format!("[{address}]:{port}"),
        };
        let (id, at) = match &endpoint.id {
            Some(id) => (id.text.clone(), id),
            None => (place.clone(), &endpoint.address),
        };
        if checker.unique(&mut places, place, &endpoint.address, (BAD_VALUE, "the endpoint")) {
            checker.unique(&mut ids, id.clone(), at, (BAD_VALUE, "the id"));
        }
        registrations.push(Registration {
            instance: id.into(),
            address: Some(address),
            port: Some(port),
            zone: endpoint.zone.as_ref().map(|zone| zone.text.as_str().into()),
            traits: Traits::default(),
            phase,
            started_at: None,
            member: Member::File,
            foreign_tls: false,
            held: false,
        });
    }
    registrations.sort_by(|a, b| (&a.instance, a.port).cmp(&(&b.instance, b.port)));
    registrations
}

/// An address that can be dialled.
fn address(checker: &mut Checker<'_>, written: &Written) -> Option<IpAddr> {
    let address: IpAddr = checker.parsed(written, "an IP address", "10.0.1.7")?;
    if address.is_unspecified() || address.is_multicast() {
        checker.bad(written, format!("nobody can dial `{address}`"), "write the address of one instance");
        return None;
    }
    Some(address)
}
