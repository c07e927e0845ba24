//! A recorded world: what every source of a server described, joined, as one file that can be attached to a ticket, looked
//! at offline, or be served in place of AWS.
//!
//! It is a file source with several namespaces and a word more on each service. It holds no policy and no secret, and what
//! only mattered on the way to it is gone: clusters, tasks of other services, who listens where.
//!
//! Invariant: what is written and read again is the same view.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::checks::{By, Claims, HEALTH, NONE, Service, services};
use super::parts;
use crate::diagnostic::check::Checker;
use crate::diagnostic::words::{did_you_mean, spell};
use crate::diagnostic::{Document, Entries, Problem, REJECTED, Written, read_yaml};
use crate::model::{
    Import, Member, Namespace, Readiness, Registration, ServiceKey, ServiceSpec, ServiceView, View,
};

const API_VERSION: &str = "legation/v1";
const KIND: &str = "World";
/// The kind of a file is written at its beginning.
const HEAD: usize = 256;

/// A recorded world.
#[derive(Clone, PartialEq, Debug)]
pub struct World {
    /// When it was recorded.
    pub recorded_at: SystemTime,
    /// Its namespaces, each with what was described in it; an empty one is there too.
    pub namespaces: BTreeMap<Namespace, View>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenWorld {
    api_version: Written,
    kind: Written,
    recorded_at: Written,
    /// The release that recorded it, for people.
    #[serde(rename = "recordedBy")]
    _recorded_by: Option<Written>,
    namespaces: Entries<WrittenNamespace>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenNamespace {
    services: Entries<Service>,
    /// Where the tasks of each ECS service run, of those that only call others too.
    #[serde(default)]
    crews: Entries<Vec<WrittenPlace>>,
    /// What tags say that its clients see of other namespaces.
    #[serde(default)]
    imports: Vec<WrittenImport>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenImport {
    client: Written,
    from: Vec<Written>,
    origin: Written,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenPlace {
    zone: Written,
    address: Written,
}

/// Whether a file begins as a recorded world does.
pub fn is_world(text: &str) -> bool {
    let is_plain = |c: &char| !c.is_whitespace() && !matches!(c, '"' | '\'');
    let head: String = text.chars().take(HEAD).filter(is_plain).collect();
    head.contains(&format!("kind:{KIND}"))
}

/// Reads a recorded world.
pub fn read(path: &Path, text: &str) -> Result<World, Vec<Problem>> {
    let written: WrittenWorld = read_yaml(path, text).map_err(|problem| vec![problem])?;
    let mut checker = Checker::new(Document::new(path, text));
    checker.word(&written.api_version, &[(API_VERSION, ())]);
    checker.word(&written.kind, &[(KIND, ())]);
    let recorded_at: Option<Timestamp> =
        checker.parsed(&written.recorded_at, "a point in time", "2026-01-31T09:30:00Z");
    let mut namespaces = BTreeMap::new();
    for (name, of_it) in &written.namespaces.0 {
        let (namespace, mut view) = (Namespace::from(name.text.as_str()), View::default());
        services(&mut checker, (&mut Claims::new(), By::Server), &of_it.services, &namespace, &mut view);
        for (name, places) in &of_it.crews.0 {
            let mut place = |it: &WrittenPlace| -> Option<(Arc<str>, IpAddr)> {
                let address = checker.parsed(&it.address, "an IP address", "10.0.1.7")?;
                Some((it.zone.text.as_str().into(), address))
            };
            let crew = places.iter().filter_map(&mut place).collect();
            view.crews.insert(ServiceKey::new(namespace.clone(), name.text.as_str()), crew);
        }
        let import = |it: &WrittenImport| Import {
            client: it.client.text.as_str().into(),
            from: it.from.iter().map(|name| name.text.as_str().into()).collect(),
            origin: it.origin.text.as_str().into(),
        };
        view.imports = of_it.imports.iter().map(|it| (namespace.clone(), import(it))).collect();
        namespaces.insert(namespace, view);
    }
    let recorded_at = recorded_at.unwrap_or_default().into();
    checker.finish(World { recorded_at, namespaces })
}

impl World {
    /// What was described in one namespace.
    pub(super) fn of(mut self, path: &Path, namespace: &Namespace) -> Result<View, Problem> {
        self.namespaces.remove(namespace).ok_or_else(|| {
            let message = format!("the recorded world has no namespace `{namespace}`");
            let problem = Problem::whole(path.display().to_string(), REJECTED, message);
            let near = did_you_mean(namespace.as_str(), self.namespaces.keys().map(Namespace::as_str));
            near.map_or(problem.clone(), |near| problem.suggesting(near))
        })
    }

    /// The world as a file: the same world is the same text.
    pub fn to_json(&self) -> Value {
        let services = |view: &View| -> Map<String, Value> {
            let each = view.services.iter();
            each.map(|(key, service)| (key.name.to_string(), of_service(service))).collect()
        };
        let crews = |view: &View| -> Map<String, Value> {
            let place = |(zone, address): &(Arc<str>, IpAddr)| json!({ "zone": zone, "address": address });
            let each = view.crews.iter();
            each.map(|(key, crew)| (key.name.to_string(), crew.iter().map(place).collect())).collect()
        };
        let namespaces = self.namespaces.iter().map(|(name, view)| {
            let mut written = json!({ "services": services(view), "crews": crews(view) });
            if !view.imports.is_empty() {
                written["imports"] = view.imports.iter().map(|(_, import)| of_import(import)).collect();
            }
            (name.to_string(), written)
        });
        json!({
            "apiVersion": API_VERSION,
            "kind": KIND,
            "recordedAt": time(self.recorded_at),
            "recordedBy": env!("CARGO_PKG_VERSION"),
            "namespaces": namespaces.collect::<Map<_, _>>(),
        })
    }
}

fn of_import(import: &Import) -> Value {
    let from: Vec<_> = import.from.iter().map(Namespace::as_str).collect();
    json!({ "client": import.client.as_str(), "from": from, "origin": import.origin })
}

fn of_service(service: &ServiceView) -> Value {
    let ServiceView { spec, registrations, .. } = service;
    let ServiceSpec { key, protocol, aliases, knobs, readiness, created_at, origin, home, shift, .. } =
        &**spec;
    // What policies say is no source's.
    let ServiceSpec { rules: _, subsets: _, reach: _, .. } = &**spec;
    let mut written = Map::new();
    let mut say = |key: &str, value: Value| written.insert(key.to_owned(), value);
    say("appProtocol", protocol.as_str().into());
    let alias = |alias: &crate::model::Alias| json!({ "name": alias.name, "port": alias.port });
    say("aliases", aliases.iter().map(alias).collect());
    let times = [("request", knobs.request_timeout), ("idle", knobs.idle_timeout)];
    let times: Map<_, _> =
        times.into_iter().filter_map(|(key, time)| Some((key.to_owned(), spell(time?).into()))).collect();
    if !times.is_empty() {
        say("timeouts", times.into());
    }
    if let Some(attempts) = knobs.retry_attempts {
        say("retry", json!({ "attempts": attempts }));
    }
    if *readiness != Readiness::default() {
        say("readiness", readiness.as_str().into());
    }
    for (key, number) in [("zones", knobs.zones), ("inboundPort", knobs.inbound_port.map(u32::from))] {
        number.iter().for_each(|number| _ = say(key, (*number).into()));
    }
    if *home != key.name {
        say("home", home.as_str().into());
    }
    if let Some(created_at) = created_at {
        say("createdAt", time(*created_at));
    }
    say("origin", (**origin).into());
    let said = origin.said().iter();
    let said: Vec<_> =
        said.map(|it| json!({ "key": it.key, "value": it.value, "place": it.place })).collect();
    if !said.is_empty() {
        say("said", said.into());
    }
    shift.iter().for_each(|shift| _ = say("shift", parts::shift(shift)));
    say("endpoints", registrations.iter().map(of_registration).collect());
    written.into()
}

fn of_registration(registration: &Registration) -> Value {
    let Registration { instance, address, port, zone, traits, phase, started_at, member, foreign_tls, held } =
        registration;
    let mut written = Map::new();
    let mut say = |key: &str, value: Value| written.insert(key.to_owned(), value);
    say("id", instance.as_str().into());
    say("address", address.map_or_else(|| NONE.into(), |address| address.to_string().into()));
    say("port", port.map_or_else(|| NONE.into(), Value::from));
    for (key, text) in [("zone", zone), ("version", &traits.version)] {
        text.iter().for_each(|text| _ = say(key, (**text).into()));
    }
    parts::traits(traits).into_iter().for_each(|traits| _ = say("traits", traits));
    let health = HEALTH.iter().find(|(_, known)| known == phase).map_or(NONE, |(word, _)| word);
    say("health", health.into());
    started_at.iter().for_each(|at| _ = say("startedAt", time(*at)));
    let source = match member {
        Member::Ecs => "ecs",
        Member::CloudMap { .. } => "cloud-map",
        Member::File => "file",
    };
    say("source", source.into());
    for (key, is) in [("foreignTls", foreign_tls), ("held", held)] {
        if *is {
            say(key, true.into());
        }
    }
    written.into()
}

/// RFC 3339, as exact as the clock.
fn time(at: SystemTime) -> Value {
    Timestamp::try_from(at).unwrap_or_default().to_string().into()
}
