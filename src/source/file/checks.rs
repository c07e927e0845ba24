//! The file from its written to its checked form.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::parts::{WrittenShift, WrittenTraits};
use crate::diagnostic::check::{Checker, NameRule};
use crate::diagnostic::{BAD_VALUE, Document, Entries, Problem, TWO_SERVICES, Written};
use crate::model::{
    Alias, Health, Knobs, Member, Namespace, Origin, Phase, Protocol, Readiness, Registration, Said,
    ServiceKey, ServiceSpec, ServiceView, StopCause, View,
};

const SERVICE: NameRule = NameRule { what: "a service", longest: 64, dots: false };
const ALIAS: NameRule = NameRule { what: "an alias", longest: 127, dots: true };
const DAY: Duration = Duration::from_secs(24 * 3600);
const PROTOCOLS: [(&str, Protocol); 4] =
    [("tcp", Protocol::Tcp), ("http", Protocol::Http), ("http2", Protocol::Http2), ("grpc", Protocol::Grpc)];
/// Every word for where an endpoint is in its life, those that people need first.
pub(super) const HEALTH: [(&str, Phase); 11] = [
    ("healthy", Phase::Running(Health::Healthy)),
    ("unhealthy", Phase::Running(Health::Unhealthy { gate_over: true })),
    ("draining", Phase::Stopping(StopCause::Planned)),
    ("starting", Phase::Starting),
    ("no-check", Phase::Running(Health::NoCheck)),
    ("awaiting-health", Phase::Running(Health::Unknown { gate_over: false })),
    ("gate-expired", Phase::Running(Health::Unknown { gate_over: true })),
    ("failing-early", Phase::Running(Health::Unhealthy { gate_over: false })),
    ("interrupted", Phase::Stopping(StopCause::Spot)),
    ("crashed", Phase::Stopping(StopCause::Crashed)),
    ("stopped", Phase::Stopped),
];
const GATES: [(&str, Readiness); 2] = [("healthy", Readiness::Healthy), ("running", Readiness::Running)];
/// In a recorded world, what is not known.
pub(super) const NONE: &str = "none";
/// Who knew an endpoint, in a recorded world.
pub(super) const MEMBERS: [&str; 3] = ["ecs", "cloud-map", "file"];

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct File {
    pub(super) services: Entries<Service>,
}

/// Who wrote a file: of what people write everything is judged; what was recorded may be at odds with itself, as the world
/// is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum By {
    People,
    Server,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Service {
    aliases: Option<Vec<WrittenAlias>>,
    app_protocol: Option<Written>,
    timeouts: Option<Timeouts>,
    retry: Option<Retry>,
    readiness: Option<Written>,
    endpoints: Option<Vec<Endpoint>>,
    shift: Option<WrittenShift>,
    created_at: Option<Written>,
    zones: Option<Written>,
    inbound_port: Option<Written>,
    home: Option<Written>,
    origin: Option<Written>,
    said: Option<Vec<WrittenSaid>>,
}

/// Where a value was said.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenSaid {
    key: Written,
    value: Written,
    place: Written,
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
    version: Option<Written>,
    #[serde(default)]
    traits: WrittenTraits,
    started_at: Option<Written>,
    source: Option<Written>,
    foreign_tls: Option<bool>,
    held: Option<bool>,
}

/// Aliases of the whole file, with the place of each.
pub(super) type Claims = BTreeMap<Alias, Written>;

/// Checks everything before it answers.
pub(super) fn check(
    document: Document<'_>,
    file: &File,
    namespace: &Namespace,
) -> Result<(View, Claims), Vec<Problem>> {
    let mut checker = Checker::new(document);
    let mut claims = Claims::new();
    let mut view = View::default();
    services(&mut checker, (&mut claims, By::People), &file.services, namespace, &mut view);
    checker.finish((view, claims))
}

/// Takes the services of one namespace in.
pub(super) fn services(
    checker: &mut Checker<'_>,
    (claims, by): (&mut Claims, By),
    services: &Entries<Service>,
    namespace: &Namespace,
    view: &mut View,
) {
    for (name, written) in &services.0 {
        checker.name(name, SERVICE);
        if by == By::Server {
            claims.clear(); // who has which name is decided when the world is joined
        }
        let key = ServiceKey::new(namespace.clone(), name.text.as_str());
        let service = service(checker, (&mut *claims, by), name, key.clone(), written);
        if by == By::People {
            let crew = service.crew();
            if !crew.is_empty() {
                view.crews.insert(key.clone(), crew);
            }
        }
        view.services.insert(key, Arc::new(service));
    }
}

fn service(
    checker: &mut Checker<'_>,
    (claims, by): (&mut Claims, By),
    name: &Written,
    key: ServiceKey,
    written: &Service,
) -> ServiceView {
    let endpoints = written.endpoints.as_deref().unwrap_or_default();
    let protocol = match &written.app_protocol {
        Some(word) => checker.word(word, &PROTOCOLS),
        None => Some(Protocol::default()),
    };
    let registrations = registrations(checker, endpoints, by);
    let aliases = match &written.aliases {
        Some(written) => aliases(checker, claims, written),
        None => usual_alias(checker, claims, name, endpoints),
    };
    let knobs = knobs(checker, protocol, written);
    let readiness = written.readiness.as_ref().and_then(|word| checker.word(word, &GATES));
    let zones = written.zones.as_ref().and_then(|zones| checker.number(zones, 1, 100));
    let inbound_port = written.inbound_port.as_ref().and_then(|port| checker.port(port));
    let knobs = Knobs { zones, inbound_port, ..knobs };
    let home = written.home.as_ref().map(|home| home.text.as_str().into());
    let spec = ServiceSpec {
        home: home.unwrap_or_else(|| key.name.clone()),
        protocol: protocol.unwrap_or_default(),
        aliases,
        knobs,
        readiness: readiness.unwrap_or_default(),
        created_at: moment(checker, written.created_at.as_ref()),
        shift: written.shift.as_ref().map(|shift| Arc::new(shift.read())),
        ..ServiceSpec::new(key, origin(checker.document(), name, written))
    };
    ServiceView { spec: Arc::new(spec), active: true, registrations }
}

/// A point in time.
fn moment(checker: &mut Checker<'_>, written: Option<&Written>) -> Option<SystemTime> {
    let moment: jiff::Timestamp = checker.parsed(written?, "a point in time", "2026-01-31T09:30:00Z")?;
    Some(moment.into())
}

/// Who described the service: whoever the file says, else the file itself.
fn origin(document: Document<'_>, name: &Written, service: &Service) -> Origin {
    let Some(who) = &service.origin else {
        return Origin::new(document.origin(name), said(document, service));
    };
    let said = service.said.as_deref().unwrap_or_default().iter();
    let said = said.map(|it| Said::new(&it.key.text, it.value.text.as_str(), it.place.text.as_str()));
    Origin::new(who.text.as_str(), said)
}

/// Where each value is.
fn said(document: Document<'_>, service: &Service) -> Vec<Said> {
    let timeouts = service.timeouts.as_ref();
    let first = service.aliases.as_ref().and_then(|aliases| aliases.first());
    let written = [
        ("aliases", first.map(|alias| &alias.name)),
        ("appProtocol", service.app_protocol.as_ref()),
        ("timeouts.request", timeouts.and_then(|it| it.request.as_ref())),
        ("timeouts.idle", timeouts.and_then(|it| it.idle.as_ref())),
        ("retry.attempts", service.retry.as_ref().and_then(|it| it.attempts.as_ref())),
        ("readiness.gate", service.readiness.as_ref()),
        ("inbound.port", service.inbound_port.as_ref()),
    ];
    let said = |(key, written): (&str, Option<&Written>)| {
        Some(Said::new(key, written?.text.as_str(), document.origin(written?)))
    };
    written.into_iter().filter_map(said).collect()
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

fn registrations(checker: &mut Checker<'_>, written: &[Endpoint], by: By) -> Vec<Registration> {
    let (mut ids, mut places) = (BTreeMap::new(), BTreeMap::new());
    let mut registrations = Vec::with_capacity(written.len());
    for endpoint in written {
        let is_known = |written: &Written| by == By::People || written.text != NONE;
        let address = is_known(&endpoint.address).then(|| address(checker, &endpoint.address));
        let port = is_known(&endpoint.port).then(|| checker.port(&endpoint.port));
        let phase = match &endpoint.health {
            Some(word) => checker.word(word, &HEALTH),
            None => Some(Phase::Running(Health::NoCheck)),
        };
        let started_at = moment(checker, endpoint.started_at.as_ref());
        let members = MEMBERS.map(|word| (word, word));
        let source = endpoint.source.as_ref().and_then(|word| checker.word(word, &members));
        for text in [&endpoint.zone, &endpoint.id, &endpoint.version].into_iter().flatten() {
            if text.text.trim().is_empty() || text.text.len() > 255 {
                checker.add(checker.document().with(text, BAD_VALUE, "expected 1 to 255 characters"));
            }
        }
        let (Some(phase), false) = (phase, address == Some(None) || port == Some(None)) else { continue };
        let (address, port) = (address.flatten(), port.flatten());
        let place = match (address, port) {
            (Some(IpAddr::V6(address)), Some(port)) => format!("[{address}]:{port}"),
            (Some(address), Some(port)) => format!("{address}:{port}"),
            _ => NONE.to_owned(),
        };
        let (id, at) = match &endpoint.id {
            Some(id) => (id.text.clone(), id),
            None => (place.clone(), &endpoint.address),
        };
        if by == By::People
            && checker.unique(&mut places, place, &endpoint.address, (BAD_VALUE, "the endpoint"))
        {
            checker.unique(&mut ids, id.clone(), at, (BAD_VALUE, "the id"));
        }
        registrations.push(Registration {
            instance: id.into(),
            address,
            port,
            zone: endpoint.zone.as_ref().map(|zone| zone.text.as_str().into()),
            traits: endpoint.traits.read(endpoint.version.as_ref().map(|it| it.text.as_str().into())),
            phase,
            started_at,
            member: member(source),
            foreign_tls: endpoint.foreign_tls.unwrap_or_default(),
            held: endpoint.held.unwrap_or_default(),
        });
    }
    registrations.sort_by(|a, b| (&a.instance, a.port).cmp(&(&b.instance, b.port)));
    registrations
}

fn member(source: Option<&str>) -> Member {
    match source {
        Some("ecs") => Member::Ecs,
        Some("cloud-map") => Member::CloudMap { cluster: None, service: None },
        _ => Member::File,
    }
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
