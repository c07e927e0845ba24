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
    Deployment, HealthCheck, HealthStatus, NetworkBinding, NetworkMode, PortMapping, Service,
    ServiceConnectService, Tag, Task, TaskDefinition, TransportProtocol,
};

use super::tags::{LABEL_PREFIX, TAG_PREFIX, Tags};
use crate::model::{InstanceId, Protocol, StopCause, Subnet};

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
    pub tags: Tags,
    /// Over how many subnets its tasks are spread: as a rule one in each zone.
    pub subnets: Option<u32>,
    /// The last reading neither listed it nor knew it.
    pub missed: bool,
}

/// A Service Connect block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Connect {
    /// A name or an ARN.
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
    /// How its tasks are on the network, where it says.
    pub network: Option<Network>,
    /// In the order of the definition.
    pub ports: Vec<NamedPort>,
    /// Every container port that a TCP listener of the same task could collide with, ordered.
    pub occupied: Arc<[u16]>,
    /// The TCP ports of its containers without those of ranges, ordered.
    pub single: Arc<[u16]>,
    pub containers: BTreeMap<Arc<str>, Container>,
    /// Docker labels that begin with `legation.`, by the rest of their key: each container's value, in order.
    pub labels: BTreeMap<String, Vec<(Arc<str>, String)>>,
}

/// The network mode of a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Network {
    /// `awsvpc`: it has an address of its own.
    Own,
    /// `bridge`: it is at its instance's address, on ports that ECS tells for each task.
    Bridge,
    /// `host`: it is at its instance's address, on the ports of its containers.
    Host,
    /// `none`: nobody can reach it.
    None,
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
    /// Its own addresses, if it has any.
    pub own: Interface,
    /// The container instance that it runs on; none on Fargate.
    pub machine: Option<Arc<str>>,
    pub zone: Option<Arc<str>>,
    pub created_at: Option<SystemTime>,
    pub started_at: Option<SystemTime>,
    pub containers: Vec<ContainerFacts>,
    /// `None` while only events have told of the task: they say nothing of tags.
    pub tags: Option<Arc<Tags>>,
}

/// The network interface of a task that has one, as far as it is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Interface {
    /// IPv6 only where there is no IPv4.
    pub address: Option<IpAddr>,
    /// The IPv6 address beside the IPv4 one.
    pub second: Option<IpAddr>,
    pub subnet: Option<Subnet>,
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
    /// Which of its TCP ports are which of its instance's, as far as they are known.
    pub bindings: Vec<Binding>,
}

/// As many ports of an instance, from `host` on, as of a container, from `container` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Binding {
    pub container: u16,
    pub host: u16,
    pub count: u16,
}

impl Binding {
    /// As ECS tells it, in numbers or in ranges such as `8000-8009`; what is not TCP or makes no sense is none.
    pub(super) fn told(
        protocol: Option<&str>,
        numbers: (Option<i32>, Option<i32>),
        ranges: (Option<&str>, Option<&str>),
    ) -> Option<Self> {
        let is_tcp = protocol.is_none_or(|protocol| protocol == "tcp");
        let (container, host) = match ranges {
            (Some(container), Some(host)) => (range(container)?, range(host)?),
            _ => {
                let (container, host) = (numbers.0.and_then(port)?, numbers.1.and_then(port)?);
                ((container, container), (host, host))
            }
        };
        let (count, as_many) = (container.1.checked_sub(container.0)?, host.1.checked_sub(host.0)?);
        let makes_sense = is_tcp && count == as_many && container.0 > 0 && host.0 > 0;
        makes_sense.then_some(Self { container: container.0, host: host.0, count: count.saturating_add(1) })
    }

    /// The port of the instance that leads to this port of the container.
    pub(super) fn host(self, container: u16) -> Option<u16> {
        let offset = container.checked_sub(self.container)?;
        (offset < self.count).then_some(self.host.checked_add(offset)?)
    }
}

fn time(at: Option<&DateTime>) -> Option<SystemTime> {
    SystemTime::try_from(*at?).ok()
}

fn port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number > 0)
}

/// A range of ports as ECS writes it: the first and the last.
fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-')?;
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
}

/// Reduces a service.
pub(super) fn service(service: &Service) -> Result<ServiceFacts, Lacks> {
    let primary = service.deployments().iter().find(|deployment| deployment.status() == Some("PRIMARY"));
    let task_set = service.task_sets().iter().find(|set| set.status() == Some("PRIMARY"));
    let definition = primary.and_then(Deployment::task_definition);
    let definition = definition.or_else(|| service.task_definition());
    let definition = definition.or_else(|| task_set.and_then(|set| set.task_definition()));
    let deployments: BTreeMap<Arc<str>, _> =
        service.deployments().iter().filter_map(|one| Some((one.id()?.into(), connect(one)))).collect();
    Ok(ServiceFacts {
        arn: service.service_arn().ok_or(Lacks("serviceArn"))?.into(),
        name: service.service_name().ok_or(Lacks("serviceName"))?.into(),
        active: service.status().is_none_or(|status| status == "ACTIVE"),
        inactive: service.status() == Some("INACTIVE"),
        created_at: time(service.created_at()),
        definition: definition.map(Into::into),
        connect: primary.and_then(connect),
        deployments,
        tags: own_tags(service.tags()),
        subnets: subnets(service),
        missed: false,
    })
}

fn subnets(service: &Service) -> Option<u32> {
    let network = service.network_configuration()?.awsvpc_configuration()?;
    u32::try_from(network.subnets().len()).ok().filter(|count| *count > 0)
}

fn own_tags(tags: &[Tag]) -> Tags {
    let own = |tag: &Tag| {
        let key = tag.key()?.strip_prefix(TAG_PREFIX)?;
        Some((key.to_owned(), tag.value().unwrap_or_default().to_owned()))
    };
    tags.iter().filter_map(own).collect()
}

fn connect(deployment: &Deployment) -> Option<Arc<Connect>> {
    let block = deployment.service_connect_configuration()?;
    let name = block.namespace().filter(|name| !name.starts_with("arn:"));
    let services = block.services().iter().map(|one| connect_service(one, name)).collect();
    let namespace = block.namespace().map(str::to_owned);
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
    let network = definition.network_mode().and_then(network);
    // In these modes each container has a network namespace of its own: a sidecar collides with nobody. In `host` mode
    // it could collide with every task of the machine, but what else runs there comes and goes, and listeners that did
    // so too would help nobody: only the task's own ports count.
    let is_apart = matches!(network, Some(Network::Bridge | Network::None));
    let mut ports: Vec<NamedPort> = Vec::new();
    let (mut occupied, mut single) = (BTreeSet::new(), BTreeSet::new());
    let mut containers = BTreeMap::new();
    let mut labels: BTreeMap<String, Vec<(Arc<str>, String)>> = BTreeMap::new();
    for container in definition.container_definitions() {
        let name: Arc<str> = container.name().unwrap_or_default().into();
        for mapping in container.port_mappings() {
            occupied.extend(collisions(mapping).filter(|_| !is_apart));
            single.extend(mapping.container_port().and_then(port).filter(|_| !is_udp(mapping)));
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
        network,
        ports,
        occupied: occupied.into_iter().collect(),
        single: single.into_iter().collect(),
        containers,
        labels,
    })
}

/// A word that this release does not know is as good as none.
fn network(mode: &NetworkMode) -> Option<Network> {
    match mode {
        NetworkMode::Awsvpc => Some(Network::Own),
        NetworkMode::Bridge => Some(Network::Bridge),
        NetworkMode::Host => Some(Network::Host),
        NetworkMode::None => Some(Network::None),
        _ => None,
    }
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
    match mapping.container_port_range().and_then(range) {
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
        bindings: container.network_bindings().iter().filter_map(binding).collect(),
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
        own: interface(task),
        machine: task.container_instance_arn().map(Into::into),
        zone: task.availability_zone().map(Into::into),
        created_at: time(task.created_at()),
        started_at: time(task.started_at()),
        containers: task.containers().iter().map(container).collect(),
        tags: Some(Arc::new(own_tags(task.tags()))),
    })
}

fn binding(binding: &NetworkBinding) -> Option<Binding> {
    Binding::told(
        binding.protocol().map(TransportProtocol::as_str),
        (binding.container_port(), binding.host_port()),
        (binding.container_port_range(), binding.host_port_range()),
    )
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

fn interface(task: &Task) -> Interface {
    let interfaces = task.containers().iter().filter_map(|container| container.network_interfaces().first());
    let details = task.attachments().iter().flat_map(|attachment| attachment.details());
    Interface::told(
        interfaces.map(|it| (it.private_ipv4_address(), it.ipv6_address())),
        details.filter_map(|detail| detail.name().zip(detail.value())),
    )
}

impl Interface {
    /// From a container's interface (IPv4, IPv6), else from an attachment's details, which spell the address differently
    /// and are there earlier. Only they tell the subnet.
    pub(super) fn told<'a>(
        interfaces: impl Iterator<Item = (Option<&'a str>, Option<&'a str>)> + Clone,
        details: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    ) -> Self {
        let detail = |wanted: &str| details.clone().find(|(name, _)| *name == wanted).map(|(_, value)| value);
        let four = interfaces.clone().find_map(|(four, _)| four?.parse().ok());
        let four = four.or_else(|| detail("privateIPv4Address")?.parse().ok());
        let six = interfaces.filter_map(|(_, six)| six?.parse().ok()).next();
        Self {
            address: four.or(six),
            second: six.filter(|_| four.is_some()),
            subnet: detail("subnetId").and_then(Subnet::read),
        }
    }

    /// Its addresses.
    pub(super) fn addresses(self) -> impl Iterator<Item = IpAddr> {
        self.address.into_iter().chain(self.second)
    }
}

#[cfg(test)]
mod tests;
