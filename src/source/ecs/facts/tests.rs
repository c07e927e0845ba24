//! Tests of what is kept of ECS's answers.
//!
//! It is not code of the product. Invariant: answers are made of the SDK's own types.

use aws_sdk_ecs::types::{ApplicationProtocol, Attachment, ContainerDefinition, HealthCheck, KeyValuePair};
use aws_sdk_ecs::types::{NetworkInterface, ServiceConnectConfiguration, TaskSet};

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
    assert_eq!(revision.network, None, "its tasks tell");
    assert_eq!(*revision.occupied, [7000, 8080, 9000, 9001, 9002, 9003, 15001]);
    assert_eq!(*revision.single, [7000, 8080, 15001]);
    let names: Vec<&str> = revision.ports.iter().map(|port| &*port.name).collect();
    assert_eq!(names, ["http", "admin", "dns", "range", "odd"]);
    let number = |name| revision.port(name).expect(name).number;
    assert_eq!(number("http"), Ok(8080));
    assert_eq!(number("dns"), Err("a UDP port"));
    assert_eq!(number("range"), Err("a range of ports"));
    assert_eq!(number("odd"), Err("a port without a number"));
    assert_eq!(revision.port("http").expect("http").protocol, Some(Protocol::Http));
    assert_eq!(revision.port("admin").expect("admin").protocol, None);
    let app = Container { essential: true, check: Some(Duration::from_secs(105)) };
    let side = Container { essential: false, check: None };
    assert_eq!(revision.containers, BTreeMap::from([("app".into(), app), ("side".into(), side)]));
}

#[test]
fn a_check_has_its_say_in_its_own_time_and_in_eight_minutes_at_most() {
    let check = || HealthCheck::builder().command("CMD");
    for (check, seconds) in [
        (check(), 105),
        (check().interval(5).timeout(2).retries(3).start_period(10), 31),
        (check().retries(1), 35),
        (check().interval(300).timeout(60).retries(10).start_period(300), 480),
        (check().interval(-1).timeout(0).retries(i32::MAX), 0),
        (check().interval(i32::MAX).retries(i32::MAX), 480),
    ] {
        let check = check.build().expect("a check");
        assert_eq!(time_to_say(&check), Duration::from_secs(seconds), "{check:?}");
    }
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
fn a_sidecar_can_collide_only_where_containers_share_their_ports() {
    let app = || ContainerDefinition::builder().name("app").port_mappings(mapping(8080).build()).build();
    let of = |mode| TaskDefinition::builder().task_definition_arn("x").set_network_mode(mode);
    for (mode, network, occupied) in [
        (Some(NetworkMode::Awsvpc), Some(Network::Own), vec![8080]),
        (Some(NetworkMode::Bridge), Some(Network::Bridge), vec![]),
        (Some(NetworkMode::Host), Some(Network::Host), vec![8080]),
        (Some(NetworkMode::None), Some(Network::None), vec![]),
        (Some("macvlan".into()), None, vec![8080]),
        (None, None, vec![8080]),
    ] {
        let revision = revision(&of(mode).container_definitions(app()).build()).expect("an ARN");
        assert_eq!((revision.network, revision.occupied.to_vec()), (network, occupied));
        assert_eq!(*revision.single, [8080]);
    }
    assert_eq!(revision(&TaskDefinition::builder().build()), Err(Lacks("taskDefinitionArn")));
}

#[test]
fn bindings_from_outside_can_be_anything() {
    let one = |container, host| (Some(container), Some(host));
    let (none, single) = ((None, None), (None::<&str>, None::<&str>));
    for (protocol, numbers, ranges, told) in [
        (Some("tcp"), one(8080, 32_768), single, Some((8080, 32_768, 1))),
        (None, one(8080, 32_768), single, Some((8080, 32_768, 1))),
        (Some("udp"), one(8080, 32_768), single, None),
        (None, one(8080, 0), single, None),
        (None, one(-1, 32_768), single, None),
        (None, (Some(8080), None), single, None),
        (None, none, (Some("80-82"), Some("90-92")), Some((80, 90, 3))),
        (None, none, (Some("80-82"), Some("90-93")), None),
        (None, none, (Some("82-80"), Some("92-90")), None),
        (None, none, (Some("0-2"), Some("90-92")), None),
        (None, none, (Some("80-82"), None), None),
        (None, none, (Some("a-b"), Some("90-92")), None),
        (None, none, (Some("1-65535"), Some("1-65535")), Some((1, 1, 65_535))),
    ] {
        let binding = Binding::told(protocol, numbers, ranges);
        let found = binding.map(|it| (it.container, it.host, it.count));
        assert_eq!(found, told, "{protocol:?} {numbers:?} {ranges:?}");
    }
    let range = Binding { container: 80, host: 65_534, count: 3 };
    let hosts = [79, 80, 81, 82, 83].map(|port| range.host(port));
    assert_eq!(hosts, [None, Some(65_534), Some(65_535), None, None]);
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
        (interface(four.clone().ipv6_address("fd00::2").build()), Some("10.0.0.1")),
        (interface(six.clone().build()), Some("fd00::1")),
        (interface(six.build()).attachments(attached()), Some("10.0.0.2")),
        (base(), None),
    ] {
        let facts = super::task(&task.build()).expect("complete");
        assert_eq!(facts.own.address, expected.map(|text| text.parse().expect("an address")));
    }
}

#[test]
fn both_addresses_and_the_subnet_are_kept() {
    let base = Task::builder().task_arn("t").task_definition_arn("d").last_status("RUNNING");
    let both = NetworkInterface::builder().private_ipv4_address("10.0.0.1").ipv6_address("fd00::2").build();
    let container = aws_sdk_ecs::types::Container::builder().network_interfaces(both).build();
    let subnet = KeyValuePair::builder().name("subnetId").value("subnet-1a2b3c4d").build();
    let task = base.containers(container).attachments(Attachment::builder().details(subnet).build());
    let own = super::task(&task.build()).expect("complete").own;
    assert_eq!(own.addresses().map(|it| it.to_string()).collect::<Vec<_>>(), ["10.0.0.1", "fd00::2"]);
    assert_eq!(own.subnet, crate::model::Subnet::read("subnet-1a2b3c4d"));
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
    assert_eq!(
        facts.connect.as_ref().expect("enabled").namespace.as_deref(),
        Some("arn:aws:servicediscovery:x")
    );
    let named = facts.deployments.get("1").expect("kept").as_ref().expect("enabled");
    assert_eq!(named.namespace.as_deref(), Some("prod"));
    assert_eq!(facts.deployments.get("3"), Some(&None));
    assert_eq!(facts.tags, BTreeMap::from([("role".to_owned(), "v".to_owned())]));
    assert!(facts.active && !facts.inactive);

    let set = TaskSet::builder().status("PRIMARY").task_definition("from-set").build();
    let external = Service::builder().service_arn("a").service_name("b").status("DRAINING").task_sets(set);
    let facts = service(&external.build()).expect("complete");
    assert_eq!(facts.definition.as_deref(), Some("from-set"));
    assert!(!facts.active && !facts.inactive);
}
