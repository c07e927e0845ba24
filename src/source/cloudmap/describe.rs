//! From services of Cloud Map and what is known of each to the view: their attributes, and below them those of their
//! instances, describe a service as labels describe one of ECS.
//!
//! It is not about calls, nor about ECS, whose description of the same service outranks this one in the mesh.
//!
//! Invariant: pure, and the order of services and instances makes no difference. What equals the view before is the view
//! before, in memory too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use imbl::OrdMap;

use super::members::{Fault, InstanceFacts};
use crate::model::{
    Alias, Finding, Knobs, Namespace, Origin, Registration, ServiceKey, ServiceSpec, ServiceView,
};
use crate::source::tags::{Place, PortTags, Role, Tag, TagLayer, key_of_label};
use crate::source::words::{self, Wrong};

/// Services by key.
pub(super) type Services = OrdMap<ServiceKey, Arc<ServiceView>>;

/// One service with what is known of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub name: &'a str,
    pub created_at: Option<SystemTime>,
    /// Its attributes that begin with `legation.`, by the rest of their key.
    pub labels: &'a BTreeMap<String, String>,
    /// Ordered by id.
    pub instances: &'a [InstanceFacts],
}

/// The services of the Cloud Map namespace that people know as `label`.
pub(super) fn view<'a>(
    namespace: &Namespace,
    label: &str,
    services: impl Iterator<Item = Known<'a>>,
    before: &Services,
) -> (Services, Vec<Finding>) {
    let mut services: Vec<_> = services.collect();
    // Of several under one name the oldest keeps it.
    services.sort_by_key(|service| (service.created_at.is_none(), service.created_at, service.name));
    let (mut seen, mut findings) = (Services::new(), Vec::new());
    for service in services {
        let object = format!("cloudmap {label}/{}", service.name);
        let Some(spec) = describe(namespace, object, &service, before, &mut findings) else { continue };
        if let Some(owner) = seen.get(&spec.key) {
            let (key, owner) = (&spec.key, &owner.spec.origin);
            let message = format!(
                "the name {key} belongs to {owner}, which is older; give this one another with the attribute \
                 legation.discovery-name"
            );
            findings.push(Finding { code: "NAME002", object: spec.origin.to_string(), message });
            continue;
        }
        let (key, registrations) = (spec.key.clone(), registrations(service.instances));
        let known = before.get(&key);
        let now = ServiceView { spec, active: true, registrations };
        let now = known.filter(|known| ***known == now).map_or_else(|| Arc::new(now), Arc::clone);
        seen.insert(key, now);
    }
    findings.sort();
    (seen, findings)
}

fn registrations(instances: &[InstanceFacts]) -> Vec<Registration> {
    instances.iter().map(|one| one.registration.clone()).collect()
}

/// The description, unless the service is none of ours. Of what only instances say the last word stays while there are
/// none: the service is only empty.
fn describe(
    namespace: &Namespace,
    object: String,
    service: &Known<'_>,
    before: &Services,
    findings: &mut Vec<Finding>,
) -> Option<Arc<ServiceSpec>> {
    let mut layer = of_service(&object, service.labels).over(of_instances(&object, service.instances));
    if matches!(layer.role, Some(Role::Client | Role::None)) {
        return None;
    }
    findings.append(&mut layer.findings);
    findings.extend(faults(&object, service.instances));
    let said = layer.ports.remove("").unwrap_or_default();
    let name = said.discovery_name.as_deref().unwrap_or(service.name);
    if let Err(wrong) = words::discovery_name(name) {
        let shown = words::caret(name, &wrong.at);
        let message = format!(
            "it is left out, because its name is no discovery name: {}; the attribute legation.discovery-name gives it \
             another\n{shown}",
            wrong.why
        );
        findings.push(Finding { code: "CFG002", object, message });
        return None;
    }
    let key = ServiceKey { namespace: namespace.clone(), name: name.into() };
    let known = before.get(&key).map(|known| &known.spec);
    let kept = known.filter(|_| service.instances.is_empty());
    let port = service.instances.iter().filter_map(|one| one.registration.port).min();
    let by_name = || port.map(|port| Alias { name: key.name.shared(), port }).into_iter().collect();
    let protocol = said.protocol.or(kept.map(|kept| kept.protocol)).unwrap_or_default();
    if !protocol.is_http() && said.request_timeout.is_some() {
        let object = format!("{object}, attribute legation.timeout.request");
        let message = "a request timeout has no effect on TCP".to_owned();
        findings.push(Finding { code: "CFG002", object, message });
    }
    let knobs = kept.map(|kept| kept.knobs.clone()).unwrap_or_default();
    let readiness = layer.readiness.as_ref().map(|(_, gate)| *gate);
    let said_where = said.said(service.name).into_iter().chain(layer.said_of_readiness(service.name));
    let kept_where = kept.iter().flat_map(|kept| kept.origin.said()).cloned();
    let spec = ServiceSpec {
        protocol,
        aliases: said.aliases.or(kept.map(|kept| kept.aliases.clone())).unwrap_or_else(by_name),
        knobs: Knobs {
            request_timeout: said.request_timeout.or(knobs.request_timeout).filter(|_| protocol.is_http()),
            idle_timeout: said.idle_timeout.or(knobs.idle_timeout),
            retry_attempts: said.retry_attempts.or(knobs.retry_attempts),
            inbound_port: said.inbound_port.or(knobs.inbound_port),
            ..Knobs::default()
        },
        readiness: readiness.or(kept.map(|kept| kept.readiness)).unwrap_or_default(),
        created_at: None, // seniority is for ECS services: another source only adds members and names
        ..ServiceSpec::new(key, Origin::new(object, said_where.into_iter().chain(kept_where)))
    };
    Some(known.filter(|known| ***known == spec).map_or_else(|| Arc::new(spec), Arc::clone))
}

/// What the attributes of the service `object` say.
fn of_service(object: &str, labels: &BTreeMap<String, String>) -> TagLayer {
    let mut layer = TagLayer::default();
    for (label, value) in labels {
        let key = key_of_label(label);
        layer.take(&Tag { object, place: &Place::Attribute, key: &key, value });
    }
    of_one_port(object, layer)
}

/// What the attributes of its instances say. Where they differ, the first value in order is taken that can be.
fn of_instances(object: &str, instances: &[InstanceFacts]) -> TagLayer {
    let mut written: BTreeMap<&str, BTreeMap<&str, Arc<str>>> = BTreeMap::new();
    for one in instances {
        for (label, value) in &one.labels {
            let first = || one.registration.instance.shared();
            written.entry(label).or_default().entry(value).or_insert_with(first);
        }
    }
    let mut layer = TagLayer::default();
    for (label, values) in written {
        let key = key_of_label(label);
        let mut taken: Option<(&str, Arc<str>)> = None;
        for (value, instance) in values {
            let place = Place::OfInstance(Arc::clone(&instance));
            let tag = Tag { object, place: &place, key: &key, value };
            if let Some((first, of)) = &taken {
                let why = format!("instance `{of}` says `{first}`, which is taken");
                layer.findings.push(tag.wrong_value(&Wrong::all(value, why)));
                continue;
            }
            let told = layer.findings.len();
            layer.take(&tag);
            match layer.findings.get(told) {
                None => taken = Some((value, instance)),
                // Whatever the value: one that nobody knows is told of once.
                Some(finding) if finding.code == "CFG001" => break,
                Some(_) => {}
            }
        }
    }
    of_one_port(object, layer)
}

/// A service of Cloud Map has one port: what is said of it by whatever name, most of all by none.
fn of_one_port(object: &str, mut layer: TagLayer) -> TagLayer {
    let mut port = layer.ports.remove("").unwrap_or_default();
    let mut named = std::mem::take(&mut layer.ports).into_iter();
    if let Some((name, first)) = named.next() {
        for (other, tags) in named {
            layer.findings.extend(another_port(object, &name, &other, &tags));
        }
        port = port.over(first);
    }
    if port != PortTags::default() {
        layer.ports.insert(String::new(), port);
    }
    layer
}

fn another_port(object: &str, name: &str, other: &str, tags: &PortTags) -> Vec<Finding> {
    let why = format!(
        "a service of Cloud Map has one port, which other attributes call `{name}`; this has no effect"
    );
    let wrong = |(place, key, value): &(Place, String, String)| {
        let tag = Tag { object, place, key, value };
        tag.wrong_key("CFG002", key.len() - other.len()..key.len(), &why)
    };
    tags.keys.iter().map(wrong).collect()
}

/// One finding for each reason why instances can't be reached.
fn faults(object: &str, instances: &[InstanceFacts]) -> Vec<Finding> {
    let mut faulty: BTreeMap<Fault, Vec<&str>> = BTreeMap::new();
    for one in instances {
        if let Some(fault) = one.fault {
            faulty.entry(fault).or_default().push(one.registration.instance.as_str());
        }
    }
    let finding = |(fault, ids): (Fault, Vec<&str>)| {
        const SHOWN: usize = 3;
        let (why, right) = match fault {
            Fault::HostName => (
                "are registered by a host name, AWS_INSTANCE_CNAME, which is not supported",
                "register AWS_INSTANCE_IPV4 or AWS_INSTANCE_IPV6",
            ),
            Fault::LoadBalancer => (
                "are registered as a load balancer, AWS_ALIAS_DNS_NAME, which is not supported",
                "register AWS_INSTANCE_IPV4 or AWS_INSTANCE_IPV6",
            ),
            Fault::NoAddress => ("tell no address", "register one as AWS_INSTANCE_IPV4 or AWS_INSTANCE_IPV6"),
            Fault::NoPort => ("tell no port", "register one from 1 to 65535 as AWS_INSTANCE_PORT"),
        };
        let more = if ids.len() > SHOWN { ", …" } else { "" };
        let shown = ids.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
        Finding {
            code: "EP001",
            object: object.to_owned(),
            message: format!(
                "{} of {} instances {why}, and get no traffic: {right} ({shown}{more})",
                ids.len(),
                instances.len()
            ),
        }
    };
    faulty.into_iter().map(finding).collect()
}
