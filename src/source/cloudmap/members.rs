//! From Cloud Map's services and instances to the model's.
//!
//! It is not about calls.
//!
//! Invariant: pure, and answers in any order give the same result.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use aws_sdk_servicediscovery::types::{HealthStatus, HttpInstanceSummary};
use imbl::OrdMap;

use crate::model::{
    Alias, Finding, Health, Knobs, Member, Namespace, Phase, Protocol, Readiness, Registration, ServiceKey,
    ServiceSpec, ServiceView,
};
use crate::source::words::{self, Wrong};

const PROTOCOL: &str = "legation.protocol";
const ALIAS: &str = "legation.alias";

/// One service with its instances, ordered by id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ServiceFacts {
    pub name: String,
    pub instances: Vec<InstanceFacts>,
}

/// One instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct InstanceFacts {
    pub registration: Registration,
    pub protocol: Option<String>,
    pub alias: Option<String>,
}

/// Reduces a service; the error is what an instance lacks.
pub(super) fn service(name: &str, instances: &[HttpInstanceSummary]) -> Result<ServiceFacts, &'static str> {
    let mut instances: Vec<_> = instances.iter().map(instance).collect::<Result<_, _>>()?;
    instances.sort_by(|a, b| {
        let key = |one: &InstanceFacts| (one.registration.instance.clone(), one.registration.port);
        key(a).cmp(&key(b))
    });
    Ok(ServiceFacts { name: name.to_owned(), instances })
}

fn instance(summary: &HttpInstanceSummary) -> Result<InstanceFacts, &'static str> {
    let none = HashMap::new();
    let attributes = summary.attributes().unwrap_or(&none);
    let text = |name: &str| attributes.get(name).map(String::as_str).filter(|text| !text.is_empty());
    let address = |name: &str| text(name).and_then(|text| text.parse::<IpAddr>().ok());
    // Whatever Cloud Map says of its health has been said after any start.
    let health = match summary.health_status() {
        Some(HealthStatus::Healthy) => Health::Healthy,
        Some(HealthStatus::Unhealthy) => Health::Unhealthy { gate_over: true },
        _ => Health::NoCheck,
    };
    let registration = Registration {
        instance: summary.instance_id().ok_or("InstanceId")?.into(),
        address: address("AWS_INSTANCE_IPV4").or_else(|| address("AWS_INSTANCE_IPV6")),
        port: text("AWS_INSTANCE_PORT").and_then(|port| port.parse().ok()).filter(|port| *port > 0),
        // ECS writes the one for service registries and, it is said, the other for Service Connect.
        zone: text("AVAILABILITY_ZONE").or_else(|| text("AvailabilityZone")).map(Into::into),
        phase: Phase::Running(health),
        started_at: None,
        member: Member::CloudMap {
            cluster: text("ECS_CLUSTER_NAME").map(Into::into),
            service: text("ECS_SERVICE_NAME").map(Into::into),
        },
        foreign_tls: false,
        held: false,
    };
    let owned = |name: &str| text(name).map(str::to_owned);
    Ok(InstanceFacts { registration, protocol: owned(PROTOCOL), alias: owned(ALIAS) })
}

/// The services of a namespace, sharing with `before` what has not changed.
pub(super) fn view(
    namespace: &Namespace,
    cloud_map_namespace: &str,
    services: Vec<ServiceFacts>,
    before: &OrdMap<ServiceKey, Arc<ServiceView>>,
) -> (OrdMap<ServiceKey, Arc<ServiceView>>, Vec<Finding>) {
    let mut seen = OrdMap::new();
    let mut findings = Vec::new();
    for service in services {
        let object = format!("cloudmap {cloud_map_namespace}/{}", service.name);
        if let Err(wrong) = words::discovery_name(&service.name) {
            let shown = words::caret(&service.name, &wrong.at);
            let message =
                format!("it is left out, because its name is no discovery name: {}\n{shown}", wrong.why);
            findings.push(Finding { code: "CFG002", object, message });
            continue;
        }
        let key = ServiceKey { namespace: namespace.clone(), name: service.name.as_str().into() };
        let known = before.get(&key);
        let spec = describe(&key, object, &service, known.map(|known| &known.spec), &mut findings);
        let registrations = service.instances.into_iter().map(|one| one.registration).collect();
        let now = ServiceView { spec, active: true, registrations };
        let now = known.filter(|known| ***known == now).map_or_else(|| Arc::new(now), Arc::clone);
        seen.insert(key, now);
    }
    findings.sort();
    (seen, findings)
}

/// The description as its instances give it. Without any, the last one stays: the service is only empty.
fn describe(
    key: &ServiceKey,
    object: String,
    service: &ServiceFacts,
    known: Option<&Arc<ServiceSpec>>,
    findings: &mut Vec<Finding>,
) -> Arc<ServiceSpec> {
    if let (true, Some(known)) = (service.instances.is_empty(), known) {
        return Arc::clone(known);
    }
    let port = service.instances.iter().filter_map(|one| one.registration.port).min();
    let by_name = || port.map(|port| Alias { name: key.name.shared(), port }).into_iter().collect();
    let instances = || service.instances.iter();
    let protocol = |word: &str| {
        let near = words::did_you_mean(word, Protocol::WORDS);
        word.parse().map_err(|right| Wrong::all(word, format!("{right}{near}")))
    };
    let written = instances().filter_map(|one| one.protocol.as_deref());
    let protocol: Option<Protocol> = agreed(&object, PROTOCOL, written, protocol, findings);
    let written = instances().filter_map(|one| one.alias.as_deref());
    let aliases = agreed(&object, ALIAS, written, words::aliases, findings);
    let spec = ServiceSpec {
        key: key.clone(),
        protocol: protocol.unwrap_or_default(),
        aliases: aliases.unwrap_or_else(by_name),
        knobs: Knobs::default(),
        readiness: Readiness::default(),
        created_at: None, // seniority is for ECS services: another source only adds members and names
        origin: object.into(),
    };
    known.filter(|known| ***known == spec).map_or_else(|| Arc::new(spec), Arc::clone)
}

/// The one value that instances give for an attribute; of several, the first in order.
fn agreed<'a, T>(
    object: &str,
    attribute: &str,
    written: impl Iterator<Item = &'a str>,
    read: impl Fn(&str) -> Result<T, Wrong>,
    findings: &mut Vec<Finding>,
) -> Option<T> {
    let mut find = |message| {
        let object = format!("{object}, attribute {attribute}");
        findings.push(Finding { code: "CFG002", object, message });
    };
    let mut taken: Option<(&str, T)> = None;
    for text in written.collect::<BTreeSet<_>>() {
        match (read(text), &taken) {
            (Ok(value), None) => taken = Some((text, value)),
            (Ok(_), Some((first, _))) => {
                find(format!("instances differ: `{first}` and `{text}`; `{first}` is taken"));
            }
            (Err(wrong), _) => {
                let begin = attribute.len() + " = ".len();
                let at = begin + wrong.at.start..begin + wrong.at.end;
                find(format!("{}\n{}", wrong.why, words::caret(&format!("{attribute} = {text}"), &at)));
            }
        }
    }
    taken.map(|(_, value)| value)
}
