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
    Deployment, HealthStatus, NetworkMode, PortMapping, Service, ServiceConnectConfiguration,
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
    pub checked: bool,
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
        containers.insert(name, Container { essential, checked: container.health_check().is_some() });
    }
    Ok(Revision {
        label: arn.rsplit('/').next().unwrap_or(arn).to_owned(),
        own_address: mode.is_none_or(|mode| !shared.contains(mode)),
        ports,
        occupied: occupied.into_iter().collect(),
        containers,
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
        service: task.group().and_then(|group| group.strip_prefix("service:")).map(Into::into),
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

fn status(word: &str) -> Status {
    match word {
        "PROVISIONING" | "PENDING" => Status::Pending,
        "RUNNING" => Status::Running,
        "DEACTIVATING" | "STOPPING" => Status::Leaving,
        "DEPROVISIONING" | "STOPPED" | "DELETED" => Status::Gone,
        _ => Status::Activating,
    }
}

fn stop_cause(code: &str) -> StopCause {
    match code {
        "SpotInterruption" | "TerminationNotice" => StopCause::Spot,
        "EssentialContainerExited" | "TaskFailedToStart" | "InfrastructureHealth" => StopCause::Crashed,
        _ => StopCause::Planned,
    }
}

/// The task's own address: from a container's interface, else from the attachment, which spells it
/// differently and is there earlier. IPv6 only where there is no IPv4.
fn address(task: &Task) -> Option<IpAddr> {
    let interfaces =
        || task.containers().iter().filter_map(|container| container.network_interfaces().first());
    let details = || task.attachments().iter().flat_map(|attachment| attachment.details());
    let attached = |name: &str| {
        let mut named = details().filter(|detail| detail.name() == Some(name));
        named.find_map(|detail| detail.value()?.parse().ok())
    };
    let four = interfaces().find_map(|interface| interface.private_ipv4_address()?.parse().ok());
    let six = || interfaces().find_map(|interface| interface.ipv6_address()?.parse().ok());
    four.or_else(|| attached("privateIPv4Address")).or_else(six)
}

#[cfg(test)]
mod tests {
    use aws_sdk_ecs::types::{
        ApplicationProtocol, Attachment, ContainerDefinition, HealthCheck, KeyValuePair,
    };
    use aws_sdk_ecs::types::{NetworkInterface, TaskSet};

    use super::*;

    fn mapping(number: i32) -> aws_sdk_ecs::types::builders::PortMappingBuilder {
        PortMapping::builder().container_port(number)
    }

    #[test]
    fn revisions_keep_named_ports_in_order_and_every_collision() {
        let check = HealthCheck::builder().command("CMD").build().expect("a check");
        let range = PortMapping::builder().container_port_range("9000-9003").name("range").build();
        let app = ContainerDefinition::builder().name("app").health_check(check);
        let app = app
            .port_mappings(mapping(8080).name("http").app_protocol(ApplicationProtocol::Http).build())
            .port_mappings(mapping(7000).name("admin").build())
            .port_mappings(mapping(53).name("dns").protocol(TransportProtocol::Udp).build())
            .port_mappings(range)
            .build();
        let side = ContainerDefinition::builder().name("side").essential(false);
        let side = side.port_mappings(mapping(15001).build()).port_mappings(mapping(0).name("odd").build());
        let definition = TaskDefinition::builder()
            .task_definition_arn("arn:aws:ecs:eu-west-1:1:task-definition/payments:7")
            .container_definitions(app)
            .container_definitions(side.build())
            .build();
        let revision = revision(&definition).expect("an ARN");
        assert_eq!(revision.label, "payments:7");
        assert!(revision.own_address, "a definition that does not say may be Fargate's");
        assert_eq!(*revision.occupied, [7000, 8080, 9000, 9001, 9002, 9003, 15001]);
        let names: Vec<&str> = revision.ports.iter().map(|port| &*port.name).collect();
        assert_eq!(names, ["http", "admin", "dns", "range", "odd"]);
        let number = |name| revision.port(name).expect(name).number;
        assert_eq!(number("http"), Ok(8080));
        assert_eq!(number("dns"), Err("a UDP port"));
        assert_eq!(number("range"), Err("a range of ports"));
        assert_eq!(number("odd"), Err("a port without a number"));
        assert_eq!(revision.port("http").expect("http").protocol, Some(Protocol::Http));
        assert_eq!(revision.port("admin").expect("admin").protocol, None);
        let app = Container { essential: true, checked: true };
        let side = Container { essential: false, checked: false };
        assert_eq!(revision.containers, BTreeMap::from([("app".into(), app), ("side".into(), side)]));
    }

    #[test]
    fn ranges_from_outside_can_be_anything() {
        for (range, ports) in [
            ("80-82", vec![80, 81, 82]),
            ("82-80", vec![]),
            ("0-1", vec![1]),
            ("65535-65535", vec![65535]),
            ("80", vec![]),
            ("a-b", vec![]),
            ("1-99999", vec![]),
        ] {
            let mapping = PortMapping::builder().container_port_range(range).build();
            assert_eq!(collisions(&mapping).collect::<Vec<_>>(), ports, "{range}");
        }
    }

    #[test]
    fn shared_network_modes_have_no_own_address() {
        let of = |mode| TaskDefinition::builder().task_definition_arn("x").network_mode(mode).build();
        for (mode, own) in [
            (NetworkMode::Awsvpc, true),
            (NetworkMode::Bridge, false),
            (NetworkMode::Host, false),
            (NetworkMode::None, false),
        ] {
            assert_eq!(revision(&of(mode)).expect("an ARN").own_address, own);
        }
        assert_eq!(revision(&TaskDefinition::builder().build()), Err(Lacks("taskDefinitionArn")));
    }

    #[test]
    fn the_address_is_looked_for_where_ecs_puts_it() {
        let base = || Task::builder().task_arn("t").task_definition_arn("d").last_status("RUNNING");
        let interface = |interface: NetworkInterface| {
            let container = aws_sdk_ecs::types::Container::builder().network_interfaces(interface).build();
            base().containers(container)
        };
        let detail = |name: &str, value: &str| KeyValuePair::builder().name(name).value(value).build();
        let eni = |details: KeyValuePair| Attachment::builder().details(details).build();
        let four = NetworkInterface::builder().private_ipv4_address("10.0.0.1");
        let six = NetworkInterface::builder().ipv6_address("fd00::1");
        let attached = || eni(detail("privateIPv4Address", "10.0.0.2"));
        for (task, expected) in [
            (interface(four.clone().build()).attachments(attached()), Some("10.0.0.1")),
            (base().attachments(attached()), Some("10.0.0.2")),
            (base().attachments(eni(detail("privateIpv4Address", "10.0.0.2"))), None),
            (base().attachments(eni(detail("privateIPv4Address", "soon"))), None),
            (interface(four.ipv6_address("fd00::2").build()), Some("10.0.0.1")),
            (interface(six.clone().build()), Some("fd00::1")),
            (interface(six.build()).attachments(attached()), Some("10.0.0.2")),
            (base(), None),
        ] {
            let facts = super::task(&task.build()).expect("complete");
            assert_eq!(facts.address, expected.map(|text| text.parse().expect("an address")));
        }
    }

    #[test]
    fn tasks_without_an_identity_are_refused() {
        let whole = || Task::builder().task_arn("t").task_definition_arn("d").last_status("RUNNING");
        assert!(task(&whole().build()).is_ok());
        for (task_, lacks) in [
            (whole().set_task_arn(None), "taskArn"),
            (whole().set_task_definition_arn(None), "taskDefinitionArn"),
            (whole().set_last_status(None), "lastStatus"),
        ] {
            assert_eq!(task(&task_.build()), Err(Lacks(lacks)));
        }
    }

    #[test]
    fn services_are_described_by_their_primary_deployment() {
        let block = |namespace: &str, enabled| {
            ServiceConnectConfiguration::builder().enabled(enabled).namespace(namespace).build()
        };
        let deployment = |id: &str, status: &str, block| {
            let deployment = Deployment::builder().id(id).status(status).task_definition(format!("d-{id}"));
            deployment.service_connect_configuration(block).build()
        };
        let tag = |key: &str| aws_sdk_ecs::types::Tag::builder().key(key).value("v").build();
        let service_ = Service::builder()
            .service_arn("a")
            .service_name("payments")
            .status("ACTIVE")
            .task_definition("older")
            .deployments(deployment("1", "ACTIVE", block("prod", true)))
            .deployments(deployment("2", "PRIMARY", block("arn:aws:servicediscovery:x", true)))
            .deployments(deployment("3", "INACTIVE", block("prod", false)))
            .tags(tag("legation:role"))
            .tags(tag("team"))
            .build();
        let facts = service(&service_).expect("complete");
        assert_eq!(facts.definition.as_deref(), Some("d-2"));
        assert_eq!(facts.connect.as_ref().expect("enabled").namespace, None, "an ARN is no name");
        let named = facts.deployments.get("1").expect("kept").as_ref().expect("enabled");
        assert_eq!(named.namespace.as_deref(), Some("prod"));
        assert_eq!(facts.deployments.get("3"), Some(&None));
        assert_eq!(facts.tags, BTreeMap::from([("role".to_owned(), "v".to_owned())]));
        assert!(facts.active && !facts.inactive);

        let set = TaskSet::builder().status("PRIMARY").task_definition("from-set").build();
        let external =
            Service::builder().service_arn("a").service_name("b").status("DRAINING").task_sets(set);
        let facts = service(&external.build()).expect("complete");
        assert_eq!(facts.definition.as_deref(), Some("from-set"));
        assert!(!facts.active && !facts.inactive);
    }
}
