//! What Legation keeps of ECS's answers: services, tasks and task definition revisions, much reduced.
//!
//! It is not a judgement: nothing here says who is served.
//!
//! Invariant: an answer that lacks what identifies its object is refused; everything else may be absent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_ecs::primitives::DateTime;
use aws_sdk_ecs::types::{
    Deployment, HealthCheck, HealthStatus, NetworkMode, PortMapping, Service, ServiceConnectConfiguration,
    ServiceConnectService, Task, TaskDefinition, TransportProtocol,
};

use crate::model::{InstanceId, Protocol, StopCause};

/// An answer without something that ECS always says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lacks(pub &'static str);

/// One ECS service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ServiceFacts {
    pub arn: Arc<str>,
    pub name: Arc<str>,
    /// `ACTIVE`; a service that drains still has tasks to tell about.
    pub active: bool,
    /// `INACTIVE`: it is only remembered.
    pub inactive: bool,
    pub created_at: Option<SystemTime>,
    /// The task definition of the primary deployment.
    pub definition: Option<Arc<str>>,
    /// The Service Connect block of the primary deployment, when it is enabled.
    pub connect: Option<Arc<Connect>>,
    /// The same for every deployment, by its id, which its tasks carry as `startedBy`.
    pub deployments: BTreeMap<Arc<str>, Option<Arc<Connect>>>,
    /// Tags that begin with `legation:`, by the rest of their key.
    pub tags: BTreeMap<String, String>,
    /// The last reading neither listed it nor knew it.
    pub missed: bool,
}

/// A Service Connect block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Connect {
    /// A name; an ARN says nothing that could be compared and is left out.
    pub namespace: Option<String>,
    /// None of them: a client only.
    pub services: Vec<ConnectService>,
}

/// One port that Service Connect offers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ConnectService {
    pub port_name: String,
    pub discovery_name: String,
    /// Name and port; no name where it would end in a namespace that is only known by its ARN.
    pub aliases: Vec<(Option<String>, i32)>,
    pub ingress_port: Option<u16>,
    pub request_timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    pub tls: bool,
}

/// What Legation needs of one task definition revision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Revision {
    /// For people: `payments:7`.
    pub label: String,
    /// Whether a task has an address of its own; other network modes share the instance's.
    pub own_address: bool,
    /// In the order of the definition.
    pub ports: Vec<NamedPort>,
    /// Every container port that a TCP listener of the same task could collide with, ordered.
    pub occupied: Arc<[u16]>,
    pub containers: BTreeMap<Arc<str>, Container>,
    /// Docker labels that begin with `legation.`, by the rest of their key: each container's value, in order.
    pub labels: BTreeMap<String, Vec<(Arc<str>, String)>>,
}

impl Revision {
    /// The port called `name`.
    pub(super) fn port(&self, name: &str) -> Option<&NamedPort> {
        self.ports.iter().find(|port| &*port.name == name)
    }
}

/// A port with a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct NamedPort {
    pub name: Arc<str>,
    pub container: Arc<str>,
    /// The container port, or what it is that can't be offered.
    pub number: Result<u16, &'static str>,
    /// `appProtocol`, when there is one.
    pub protocol: Option<Protocol>,
}

/// What a container's end or health means for its task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Container {
    pub essential: bool,
    /// Within what time after the start its health check has its say; `None` without one.
    pub check: Option<Duration>,
}

/// The longest time that a health check may take to have its say, as in Service Connect.
const LONGEST_START: Duration = Duration::from_secs(480);

/// After its start period a check fails as often as it is allowed to before ECS calls the container UNHEALTHY. What is
/// not written has ECS's defaults: no start period, 3 tries, each 30 s after the one before and of 5 s at most.
fn time_to_say(check: &HealthCheck) -> Duration {
    let number =
        |written: Option<i32>, usual: u64| written.map_or(usual, |it| u64::try_from(it).unwrap_or(0));
    let each = number(check.interval(), 30).saturating_add(number(check.timeout(), 5));
    let tries = number(check.retries(), 3).saturating_mul(each);
    Duration::from_secs(number(check.start_period(), 0).saturating_add(tries)).min(LONGEST_START)
}

/// One task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct TaskFacts {
    pub arn: InstanceId,
    /// Rises with every change but health.
    pub version: i64,
    pub definition: Arc<str>,
    /// The ECS service that runs it; `None` for standalone tasks.
    pub service: Option<Arc<str>>,
    /// The deployment that started it.
    pub started_by: Option<Arc<str>>,
    pub told_to_stop: bool,
    pub status: Status,
    /// By the stop code, when there is one.
    pub stop: Option<StopCause>,
    pub address: Option<IpAddr>,
    pub zone: Option<Arc<str>>,
    pub created_at: Option<SystemTime>,
    pub started_at: Option<SystemTime>,
    pub containers: Vec<ContainerFacts>,
}

/// `lastStatus`, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Status {
    /// PROVISIONING or PENDING: no container runs.
    Pending,
    /// ACTIVATING, or a word that this release does not know: not in rotation yet.
    Activating,
    Running,
    /// DEACTIVATING or STOPPING.
    Leaving,
    /// DEPROVISIONING, STOPPED or DELETED.
    Gone,
}

/// One container of a task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ContainerFacts {
    pub name: Arc<str>,
    pub exited: bool,
    pub healthy: Option<bool>,
}

fn time(at: Option<&DateTime>) -> Option<SystemTime> {
    SystemTime::try_from(*at?).ok()
}

fn port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number > 0)
}

/// The prefix of the tags that are Legation's.
pub(super) const TAG_PREFIX: &str = "legation:";
/// The same for docker labels.
pub(super) const LABEL_PREFIX: &str = "legation.";

/// Reduces a service.
pub(super) fn service(service: &Service) -> Result<ServiceFacts, Lacks> {
    let primary = service.deployments().iter().find(|deployment| deployment.status() == Some("PRIMARY"));
    let task_set = service.task_sets().iter().find(|set| set.status() == Some("PRIMARY"));
    let definition = primary.and_then(Deployment::task_definition);
    let definition = definition.or_else(|| service.task_definition());
    let definition = definition.or_else(|| task_set.and_then(|set| set.task_definition()));
    let deployments: BTreeMap<Arc<str>, _> =
        service.deployments().iter().filter_map(|one| Some((one.id()?.into(), connect(one)))).collect();
    let tag = |tag: &aws_sdk_ecs::types::Tag| {
        let key = tag.key()?.strip_prefix(TAG_PREFIX)?;
        Some((key.to_owned(), tag.value().unwrap_or_default().to_owned()))
    };
    Ok(ServiceFacts {
        arn: service.service_arn().ok_or(Lacks("serviceArn"))?.into(),
        name: service.service_name().ok_or(Lacks("serviceName"))?.into(),
        active: service.status().is_none_or(|status| status == "ACTIVE"),
        inactive: service.status() == Some("INACTIVE"),
        created_at: time(service.created_at()),
        definition: definition.map(Into::into),
        connect: primary.and_then(connect),
        deployments,
        tags: service.tags().iter().filter_map(tag).collect(),
        missed: false,
    })
}

fn connect(deployment: &Deployment) -> Option<Arc<Connect>> {
    let block = deployment.service_connect_configuration()?;
    let name = |block: &ServiceConnectConfiguration| {
        let namespace = block.namespace().filter(|name| !name.starts_with("arn:"));
        namespace.map(str::to_owned)
    };
    let namespace = name(block);
    let services = block.services().iter().map(|one| connect_service(one, namespace.as_deref())).collect();
    block.enabled().then(|| Arc::new(Connect { namespace, services }))
}

fn connect_service(service: &ServiceConnectService, namespace: Option<&str>) -> ConnectService {
    let seconds = |seconds: Option<i32>| {
        Some(Duration::from_secs(u64::try_from(seconds?).ok()?)) // a negative number is no timeout of ours
    };
    let timeout = service.timeout();
    let discovery_name = service.discovery_name().unwrap_or(service.port_name());
    let default = || Some(format!("{discovery_name}.{}", namespace?));
    let aliases = service.client_aliases().iter();
    let aliases = aliases.map(|alias| (alias.dns_name().map(str::to_owned).or_else(default), alias.port()));
    ConnectService {
        port_name: service.port_name().to_owned(),
        discovery_name: discovery_name.to_owned(),
        aliases: aliases.collect(),
        ingress_port: service.ingress_port_override().and_then(port),
        request_timeout: seconds(timeout.and_then(|timeout| timeout.per_request_timeout_seconds())),
        idle_timeout: seconds(timeout.and_then(|timeout| timeout.idle_timeout_seconds())),
        tls: service.tls().is_some(),
    }
}

/// Reduces a task definition.
pub(super) fn revision(definition: &TaskDefinition) -> Result<Revision, Lacks> {
    let arn = definition.task_definition_arn().ok_or(Lacks("taskDefinitionArn"))?;
    let mode = definition.network_mode();
    let shared = [NetworkMode::Bridge, NetworkMode::Host, NetworkMode::None];
    let mut ports: Vec<NamedPort> = Vec::new();
    let mut occupied = BTreeSet::new();
    let mut containers = BTreeMap::new();
    let mut labels: BTreeMap<String, Vec<(Arc<str>, String)>> = BTreeMap::new();
    for container in definition.container_definitions() {
        let name: Arc<str> = container.name().unwrap_or_default().into();
        for mapping in container.port_mappings() {
            occupied.extend(collisions(mapping));
            if let Some(named) = named_port(mapping, &name)
                && ports.iter().all(|port| port.name != named.name)
            {
                ports.push(named);
            }
        }
        let essential = container.essential() != Some(false); // ECS's default is essential
        let written = container.docker_labels().into_iter().flatten();
        for (key, value) in written.filter_map(|(key, value)| Some((key.strip_prefix(LABEL_PREFIX)?, value)))
        {
            labels.entry(key.to_owned()).or_default().push((Arc::clone(&name), value.clone()));
        }
        let check = container.health_check().map(time_to_say);
        containers.insert(name, Container { essential, check });
    }
    Ok(Revision {
        label: arn.rsplit('/').next().unwrap_or(arn).to_owned(),
        own_address: mode.is_none_or(|mode| !shared.contains(mode)),
        ports,
        occupied: occupied.into_iter().collect(),
        containers,
        labels,
    })
}

fn is_udp(mapping: &PortMapping) -> bool {
    mapping.protocol() == Some(&TransportProtocol::Udp)
}

fn named_port(mapping: &PortMapping, container: &Arc<str>) -> Option<NamedPort> {
    let name = mapping.name()?.into();
    let number = match mapping.container_port().and_then(port) {
        _ if is_udp(mapping) => Err("a UDP port"),
        _ if mapping.container_port_range().is_some() => Err("a range of ports"),
        None => Err("a port without a number"),
        Some(number) => Ok(number),
    };
    let protocol = mapping.app_protocol().and_then(|word| word.as_str().parse().ok());
    Some(NamedPort { name, container: Arc::clone(container), number, protocol })
}

/// The ports of a mapping on which nothing else in the task can listen; UDP leaves TCP alone.
fn collisions(mapping: &PortMapping) -> Box<dyn Iterator<Item = u16>> {
    if is_udp(mapping) {
        return Box::new(std::iter::empty());
    }
    let range = mapping.container_port_range().and_then(|range| {
        let (first, last) = range.split_once('-')?;
        Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
    });
    match range {
        Some((first, last)) => Box::new((first..=last).filter(|port| *port > 0)),
        None => Box::new(mapping.container_port().and_then(port).into_iter()),
    }
}

/// Reduces a task.
pub(super) fn task(task: &Task) -> Result<TaskFacts, Lacks> {
    let container = |container: &aws_sdk_ecs::types::Container| ContainerFacts {
        name: container.name().unwrap_or_default().into(),
        exited: container.last_status() == Some("STOPPED"),
        healthy: match container.health_status() {
            Some(HealthStatus::Healthy) => Some(true),
            Some(HealthStatus::Unhealthy) => Some(false),
            _ => None,
        },
    };
    Ok(TaskFacts {
        arn: task.task_arn().ok_or(Lacks("taskArn"))?.into(),
        version: task.version(),
        definition: task.task_definition_arn().ok_or(Lacks("taskDefinitionArn"))?.into(),
        service: task.group().and_then(service_of_group),
        started_by: task.started_by().map(Into::into),
        told_to_stop: task.desired_status().is_some_and(|status| status != "RUNNING"),
        status: status(task.last_status().ok_or(Lacks("lastStatus"))?),
        stop: task.stop_code().map(|code| stop_cause(code.as_str())),
        address: address(task),
        zone: task.availability_zone().map(Into::into),
        created_at: time(task.created_at()),
        started_at: time(task.started_at()),
        containers: task.containers().iter().map(container).collect(),
    })
}

/// The ECS service that a task's group names; standalone tasks have a family there.
pub(super) fn service_of_group(group: &str) -> Option<Arc<str>> {
    group.strip_prefix("service:").map(Into::into)
}

pub(super) fn status(word: &str) -> Status {
    match word {
        "PROVISIONING" | "PENDING" => Status::Pending,
        "RUNNING" => Status::Running,
        "DEACTIVATING" | "STOPPING" => Status::Leaving,
        "DEPROVISIONING" | "STOPPED" | "DELETED" => Status::Gone,
        _ => Status::Activating,
    }
}

pub(super) fn stop_cause(code: &str) -> StopCause {
    match code {
        "SpotInterruption" | "TerminationNotice" => StopCause::Spot,
        "EssentialContainerExited" | "TaskFailedToStart" | "InfrastructureHealth" => StopCause::Crashed,
        _ => StopCause::Planned,
    }
}

fn address(task: &Task) -> Option<IpAddr> {
    let interfaces = task.containers().iter().filter_map(|container| container.network_interfaces().first());
    let details = task.attachments().iter().flat_map(|attachment| attachment.details());
    first_address(
        interfaces.map(|it| (it.private_ipv4_address(), it.ipv6_address())),
        details.filter_map(|detail| detail.name().zip(detail.value())),
    )
}

/// A task's own address: from a container's interface (IPv4, IPv6), else from an attachment's details, which spell it
/// differently and are there earlier. IPv6 only where there is no IPv4.
pub(super) fn first_address<'a>(
    interfaces: impl Iterator<Item = (Option<&'a str>, Option<&'a str>)> + Clone,
    mut details: impl Iterator<Item = (&'a str, &'a str)>,
) -> Option<IpAddr> {
    let mut four = interfaces.clone().filter_map(|(four, _)| four?.parse().ok());
    let mut six = interfaces.filter_map(|(_, six)| six?.parse().ok());
    let mut attached =
        || details.find_map(|(name, value)| (name == "privateIPv4Address").then(|| value.parse().ok())?);
    four.next().or_else(&mut attached).or_else(|| six.next())
}

#[cfg(test)]
mod tests;
