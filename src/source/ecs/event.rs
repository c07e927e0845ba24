//! One `ECS Task State Change` event as what it tells of its task.
//!
//! It is no answer of DescribeTasks, though it looks like one: it has times as text, and neither tags nor health
//! (`aws.md`, section 4). Invariant: an event without what identifies and orders it is refused; what it says beyond
//! what is known here is passed over.

use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;

use super::facts::{self, Binding, ContainerFacts, Lacks, TaskFacts};

/// The `detail` of an event.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskEvent {
    /// The ARN of the cluster that it is about.
    #[serde(default)]
    pub cluster_arn: String,
    #[serde(default)]
    task_arn: String,
    #[serde(default)]
    task_definition_arn: String,
    #[serde(default)]
    last_status: String,
    desired_status: Option<String>,
    version: Option<i64>,
    group: Option<String>,
    started_by: Option<String>,
    stop_code: Option<String>,
    container_instance_arn: Option<String>,
    availability_zone: Option<String>,
    created_at: Option<String>,
    started_at: Option<String>,
    updated_at: Option<String>,
    #[serde(default)]
    containers: Vec<ContainerDetail>,
    #[serde(default)]
    attachments: Vec<Attachment>,
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerDetail {
    #[serde(default)]
    name: String,
    last_status: Option<String>,
    #[serde(default)]
    network_interfaces: Vec<Interface>,
    #[serde(default)]
    network_bindings: Vec<PortBinding>,
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortBinding {
    protocol: Option<String>,
    container_port: Option<i32>,
    host_port: Option<i32>,
    container_port_range: Option<String>,
    host_port_range: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Interface {
    private_ipv4_address: Option<String>,
    ipv6_address: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
struct Attachment {
    #[serde(default)]
    details: Vec<Pair>,
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
struct Pair {
    name: Option<String>,
    value: Option<String>,
}

impl TaskEvent {
    /// What it lacks of what identifies and orders it, if it lacks anything.
    pub(in crate::source) fn lacks(&self) -> Option<&'static str> {
        self.facts().err().map(|Lacks(what)| what)
    }

    /// What it tells, with the health of no container.
    pub(super) fn facts(&self) -> Result<TaskFacts, Lacks> {
        let there = |text: &str, what| if text.is_empty() { Err(Lacks(what)) } else { Ok(()) };
        there(&self.cluster_arn, "clusterArn")?;
        there(&self.task_arn, "taskArn")?;
        if !self.is_of_its_cluster() {
            return Err(Lacks("a taskArn of the same cluster"));
        }
        there(&self.task_definition_arn, "taskDefinitionArn")?;
        there(&self.last_status, "lastStatus")?;
        let text = |text: &Option<String>| text.as_deref().map(Arc::<str>::from);
        Ok(TaskFacts {
            arn: self.task_arn.as_str().into(),
            version: self.version.ok_or(Lacks("version"))?,
            definition: self.task_definition_arn.as_str().into(),
            service: self.group.as_deref().and_then(facts::service_of_group),
            started_by: text(&self.started_by),
            told_to_stop: self.desired_status.as_deref().is_some_and(|status| status != "RUNNING"),
            status: facts::status(&self.last_status),
            stop: self.stop_code.as_deref().map(facts::stop_cause),
            own: self.interface(),
            machine: text(&self.container_instance_arn),
            zone: text(&self.availability_zone),
            created_at: time(self.created_at.as_deref()),
            started_at: time(self.started_at.as_deref()),
            containers: self.containers.iter().map(ContainerDetail::facts).collect(),
            tags: None,
        })
    }

    /// Whether the task is of the same partition, Region and account as the cluster; the old form of ARNs does not say of
    /// which cluster.
    fn is_of_its_cluster(&self) -> bool {
        let Some((of, cluster)) = self.cluster_arn.split_once(":cluster/") else { return false };
        let Some((task_of, task)) = self.task_arn.split_once(":task/") else { return false };
        of == task_of && task.rsplit_once('/').is_none_or(|(named, _)| named == cluster)
    }

    /// When ECS changed the task to what this says, if it tells.
    pub(super) fn updated_at(&self) -> Option<SystemTime> {
        time(self.updated_at.as_deref())
    }

    fn interface(&self) -> facts::Interface {
        let interfaces = self.containers.iter().filter_map(|container| container.network_interfaces.first());
        let details = self.attachments.iter().flat_map(|attachment| &attachment.details);
        facts::Interface::told(
            interfaces.map(|it| (it.private_ipv4_address.as_deref(), it.ipv6_address.as_deref())),
            details.filter_map(|pair| pair.name.as_deref().zip(pair.value.as_deref())),
        )
    }
}

impl ContainerDetail {
    fn facts(&self) -> ContainerFacts {
        let exited = self.last_status.as_deref() == Some("STOPPED");
        let bindings = self.network_bindings.iter().filter_map(PortBinding::facts).collect();
        ContainerFacts { name: self.name.as_str().into(), exited, healthy: None, bindings }
    }
}

impl PortBinding {
    fn facts(&self) -> Option<Binding> {
        Binding::told(
            self.protocol.as_deref(),
            (self.container_port, self.host_port),
            (self.container_port_range.as_deref(), self.host_port_range.as_deref()),
        )
    }
}

fn time(text: Option<&str>) -> Option<SystemTime> {
    text?.parse::<jiff::Timestamp>().ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::model::StopCause;
    use crate::source::ecs::facts::Status;

    /// A crashed task as ECS told it, shortened (`aws.md`, section 4.2).
    fn crashed() -> Value {
        json!({
            "attachments": [{"id": "5ff5", "type": "eni", "status": "DELETED", "details": [
                {"name": "networkInterfaceId", "value": "eni-1"}, {"name": "privateIPv4Address", "value": "10.0.3.61"}]}],
            "availabilityZone": "us-east-1b", "clusterArn": "arn:aws:ecs:us-east-1:1:cluster/prod-a",
            "containers": [{"name": "main", "lastStatus": "STOPPED", "exitCode": 1, "cpu": "0",
                "networkInterfaces": [{"attachmentId": "5ff5", "privateIpv4Address": "10.0.3.61"}]}],
            "group": "service:payments", "startedBy": "ecs-svc/1", "desiredStatus": "STOPPED",
            "lastStatus": "STOPPED", "createdAt": "2020-08-14T18:05:49.598Z",
            "startedAt": "2020-08-14T18:06:20.694Z", "updatedAt": "2020-08-14T18:06:47.229Z",
            "stopCode": "EssentialContainerExited", "taskArn": "arn:aws:ecs:us-east-1:1:task/prod-a/t", "taskDefinitionArn": "d:2", "version": 5,
            "overrides": {"containerOverrides": [{"name": "main"}]}, "somethingNew": [1, 2],
        })
    }

    fn event(detail: Value) -> TaskEvent {
        serde_json::from_value(detail).expect("an event")
    }

    #[test]
    fn an_event_tells_as_much_as_a_description_but_for_health() {
        let event = event(crashed());
        let facts = event.facts().expect("complete");
        assert_eq!(event.cluster_arn, "arn:aws:ecs:us-east-1:1:cluster/prod-a");
        assert_eq!(
            (facts.arn.as_str().rsplit('/').next(), facts.version, &*facts.definition),
            (Some("t"), 5, "d:2")
        );
        assert_eq!(
            (facts.service.as_deref(), facts.started_by.as_deref()),
            (Some("payments"), Some("ecs-svc/1"))
        );
        assert_eq!(
            (facts.told_to_stop, facts.status, facts.stop),
            (true, Status::Gone, Some(StopCause::Crashed))
        );
        assert_eq!(
            (facts.own.address, facts.zone.as_deref()),
            ("10.0.3.61".parse().ok(), Some("us-east-1b"))
        );
        let began = SystemTime::UNIX_EPOCH + Duration::from_millis(1_597_428_380_694);
        assert_eq!(facts.started_at, Some(began));
        let container =
            ContainerFacts { name: "main".into(), exited: true, healthy: None, bindings: Vec::new() };
        assert_eq!(facts.containers, [container]);
    }

    #[test]
    fn an_event_tells_of_the_instance_and_the_ports_on_it() {
        let mut detail = crashed();
        let instance = "arn:aws:ecs:us-east-1:1:container-instance/prod-a/i";
        detail["containerInstanceArn"] = json!(instance);
        detail["containers"][0]["networkBindings"] = json!([
            {"bindIP": "0.0.0.0", "containerPort": 8080, "hostPort": 32768, "protocol": "tcp"},
            {"bindIP": "0.0.0.0", "containerPort": 53, "hostPort": 32769, "protocol": "udp"},
            {"bindIP": "0.0.0.0", "containerPortRange": "9000-9002", "hostPortRange": "40000-40002"},
        ]);
        let facts = event(detail).facts().expect("complete");
        assert_eq!(facts.machine.as_deref(), Some(instance));
        let bindings = &facts.containers[0].bindings;
        let one = Binding { container: 8080, host: 32_768, count: 1 };
        assert_eq!(*bindings, [one, Binding { container: 9000, host: 40_000, count: 3 }]);
    }

    #[test]
    fn an_event_without_identity_or_order_is_refused() {
        for (key, lacks) in [
            ("clusterArn", "clusterArn"),
            ("taskArn", "taskArn"),
            ("taskDefinitionArn", "taskDefinitionArn"),
            ("lastStatus", "lastStatus"),
            ("version", "version"),
        ] {
            let mut detail = crashed();
            detail.as_object_mut().expect("an object").remove(key);
            assert_eq!(event(detail).facts(), Err(Lacks(lacks)));
        }
        for (arn, sound) in [
            ("arn:aws:ecs:us-east-1:1:task/t", true),
            ("arn:aws:ecs:us-east-1:1:task/prod-b/t", false),
            ("arn:aws:ecs:us-east-2:1:task/prod-a/t", false),
            ("arn:aws:ecs:us-east-1:2:task/t", false),
            ("t", false),
        ] {
            let mut elsewhere = crashed();
            elsewhere["taskArn"] = json!(arn);
            assert_eq!(event(elsewhere).facts().is_ok(), sound, "{arn}");
        }
        let mut standalone = crashed();
        standalone["group"] = json!("family:batch");
        standalone["createdAt"] = json!("soon");
        let facts = event(standalone).facts().expect("complete");
        assert_eq!((facts.service, facts.created_at), (None, None));
    }
}
