//! What Legation keeps of Cloud Map's answers: services as they are listed, and their instances as registrations.
//!
//! It is not about calls, nor about what a service is described as.
//!
//! Invariant: pure, and answers in any order, with repetitions or without, give the same result.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use aws_sdk_servicediscovery::types::{HealthStatus, HttpInstanceSummary, ServiceSummary};

use crate::model::{Health, Member, Phase, Registration, Traits};
use crate::source::tags::LABEL_PREFIX;

/// What Cloud Map and ECS write themselves begins with one of these.
const RESERVED: [&str; 2] = ["AWS_", "ECS_"];

/// One service as its namespace lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Listed {
    pub name: String,
    /// As calls name it: its id, or its ARN where another account shares its namespace.
    pub reference: String,
    /// Whether somebody judges the health of its instances: Route 53, or whoever reports it.
    pub is_checked: bool,
    pub created_at: Option<SystemTime>,
}

impl Listed {
    /// What grows with youth.
    pub(super) fn age(&self) -> (Option<SystemTime>, &str) {
        (self.created_at, &self.reference)
    }
}

/// The instances of one service as they were read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Members {
    /// Ordered by id.
    pub instances: Vec<InstanceFacts>,
    pub revision: Option<i64>,
    /// Whether there may be more of them than discovery answers with.
    pub is_cut: bool,
}

/// One instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct InstanceFacts {
    pub registration: Registration,
    /// Attributes that begin with `legation.`, by the rest of their key.
    pub labels: BTreeMap<String, String>,
    /// What keeps it from being reached, where that is not ECS's doing.
    pub fault: Option<Fault>,
}

/// Why an instance can't be reached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Fault {
    /// `AWS_INSTANCE_CNAME`, and no address.
    HostName,
    /// `AWS_ALIAS_DNS_NAME`, and no address.
    LoadBalancer,
    /// Neither IPv4 nor IPv6.
    NoAddress,
    /// An address without a port.
    NoPort,
}

impl Members {
    /// Of several with one id the first counts.
    pub(super) fn new(mut instances: Vec<InstanceFacts>, revision: Option<i64>, is_cut: bool) -> Self {
        instances.sort_by(|a, b| a.registration.instance.cmp(&b.registration.instance));
        instances.dedup_by(|later, first| later.registration.instance == first.registration.instance);
        Self { instances, revision, is_cut }
    }

    /// The same with what is told of their health; of whom nothing is told, that stays.
    pub(super) fn with_health(mut self, told: &HashMap<String, HealthStatus>) -> Self {
        for one in &mut self.instances {
            if let Some(status) = told.get(one.registration.instance.as_str()) {
                one.registration.phase = phase(Some(status));
            }
        }
        self
    }
}

/// Reduces a service; the error is what it lacks.
pub(super) fn listed(summary: &ServiceSummary, is_shared: bool) -> Result<Listed, &'static str> {
    let reference = if is_shared { summary.arn().ok_or("Arn") } else { summary.id().ok_or("Id") };
    Ok(Listed {
        name: summary.name().ok_or("Name")?.to_owned(),
        reference: reference?.to_owned(),
        is_checked: summary.health_check_config().is_some() || summary.health_check_custom_config().is_some(),
        created_at: summary.create_date().and_then(|at| SystemTime::try_from(*at).ok()),
    })
}

/// Reduces an instance as it was discovered; the error is what it lacks.
pub(super) fn discovered(
    summary: &HttpInstanceSummary,
    is_shared: bool,
) -> Result<InstanceFacts, &'static str> {
    let none = HashMap::new();
    let id = summary.instance_id().ok_or("InstanceId")?;
    Ok(instance(id, summary.attributes().unwrap_or(&none), summary.health_status(), is_shared))
}

/// Whatever Cloud Map says of an instance's health has been said after any start.
fn phase(status: Option<&HealthStatus>) -> Phase {
    Phase::Running(match status {
        Some(HealthStatus::Healthy) => Health::Healthy,
        Some(HealthStatus::Unhealthy) => Health::Unhealthy { gate_over: true },
        _ => Health::NoCheck,
    })
}

/// Reduces an instance. In a namespace that another account shares, the name of an ECS cluster says nothing: it may be a
/// cluster of that account's.
pub(super) fn instance(
    id: &str,
    attributes: &HashMap<String, String>,
    health: Option<&HealthStatus>,
    is_shared: bool,
) -> InstanceFacts {
    let text = |name: &str| attributes.get(name).map(String::as_str).filter(|text| !text.is_empty());
    let address = |name: &str| text(name).and_then(|text| text.parse::<IpAddr>().ok());
    let of_ecs = |name: &str| text(name).filter(|_| !is_shared).map(Into::into);
    let is_custom = |(key, _): &(&String, &String)| !RESERVED.iter().any(|start| key.starts_with(start));
    let own = |(key, value): (&String, &String)| (key.as_str().into(), value.as_str().into());
    let registration = Registration {
        instance: id.into(),
        address: address("AWS_INSTANCE_IPV4").or_else(|| address("AWS_INSTANCE_IPV6")),
        port: text("AWS_INSTANCE_PORT").and_then(|port| port.parse().ok()).filter(|port| *port > 0),
        // ECS writes the one for service registries and, it is said, the other for Service Connect.
        zone: text("AVAILABILITY_ZONE").or_else(|| text("AvailabilityZone")).map(Into::into),
        traits: Traits {
            version: text("legation.version").map(Into::into),
            labels: Arc::new(attributes.iter().filter(is_custom).map(own).collect()),
            ..Traits::default()
        },
        phase: phase(health),
        started_at: None,
        member: Member::CloudMap { cluster: of_ecs("ECS_CLUSTER_NAME"), service: of_ecs("ECS_SERVICE_NAME") },
        foreign_tls: false,
        held: false,
    };
    let fault = match (registration.address, registration.port) {
        _ if text("ECS_CLUSTER_NAME").is_some() => None,
        (None, _) if text("AWS_INSTANCE_CNAME").is_some() => Some(Fault::HostName),
        (None, _) if text("AWS_ALIAS_DNS_NAME").is_some() => Some(Fault::LoadBalancer),
        (None, _) => Some(Fault::NoAddress),
        (Some(_), None) => Some(Fault::NoPort),
        _ => None,
    };
    let label =
        |(key, value): (&String, &String)| Some((key.strip_prefix(LABEL_PREFIX)?.to_owned(), value.clone()));
    InstanceFacts { registration, labels: attributes.iter().filter_map(label).collect(), fault }
}
