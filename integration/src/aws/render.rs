//! Writes ECS resources as the API does.
//!
//! From the world's data to JSON members; which resources are asked for is decided in `ecs`. Invariant:
//! every member is one of the service model's, and what AWS always sends is always there.

use serde_json::{Map, Value, json};

use super::deployments;
use super::machines::show_on_machine;
use crate::world::{
    Cluster, Container, ContainerDefinition, Counts, Deployment, LastStatus, Service, ServiceStatus, Stamp,
    State, Tags, Task, TaskDefinition,
};

fn set(members: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        members.insert(key.to_owned(), value);
    }
}

fn structure(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// A time as awsJson writes it.
pub(super) fn time(stamp: &Stamp) -> Value {
    json!(stamp.epoch_seconds())
}

/// Tags as a list of pairs.
pub(super) fn tags(tags: &Tags) -> Value {
    tags.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect()
}

/// A cluster.
pub(super) fn cluster(state: &State, cluster: &Cluster, with_tags: bool) -> Value {
    let mut total = Counts::default();
    for service in cluster.services.values() {
        let counts = state.counts(service, None);
        total.running += counts.running;
        total.pending += counts.pending;
    }
    for task in cluster.standalone.iter().filter_map(|arn| state.tasks.get(arn)) {
        total.running += u32::from(task.last_status == LastStatus::Running);
        total.pending +=
            u32::from(matches!(task.last_status, LastStatus::Provisioning | LastStatus::Pending));
    }
    let active = cluster.services.values().filter(|s| s.status != ServiceStatus::Inactive).count();
    let shown = if with_tags { tags(&cluster.tags) } else { json!([]) };
    let mut members = structure(json!({
        "clusterArn": cluster.arn,
        "clusterName": cluster.name,
        "status": "ACTIVE",
        "registeredContainerInstancesCount": state.machines.values().filter(|it| it.cluster == cluster.name).count(),
        "runningTasksCount": total.running,
        "pendingTasksCount": total.pending,
        "activeServicesCount": active,
        "statistics": [],
        "tags": shown,
        "settings": [],
        "capacityProviders": ["FARGATE", "FARGATE_SPOT"],
        "defaultCapacityProviderStrategy": [],
    }));
    let defaults = cluster.default_namespace.as_ref().map(|namespace| json!({ "namespace": namespace }));
    set(&mut members, "serviceConnectDefaults", defaults);
    Value::Object(members)
}

/// A service.
pub(super) fn service(state: &State, cluster: &Cluster, service: &Service, with_tags: bool) -> Value {
    let counts = state.counts(service, None);
    let primary = service.deployments.first();
    let registries = service.registries.iter().map(|registry| {
        let mut members = Map::new();
        members.insert("registryArn".to_owned(), json!(registry.registry_arn));
        set(&mut members, "containerName", registry.container_name.as_ref().map(|name| json!(name)));
        set(&mut members, "containerPort", registry.container_port.map(|port| json!(port)));
        Value::Object(members)
    });
    let deployments = service.deployments.iter().map(|d| deployment(state, service, d));
    let revisions = service.deployments.iter().map(|d| {
        let counts = state.counts(service, Some(&d.id));
        json!({
            "arn": d.revision_arn,
            "requestedTaskCount": requested(service, d, counts),
            "runningTaskCount": counts.running,
            "pendingTaskCount": counts.pending,
        })
    });
    let mut members = structure(json!({
        "serviceArn": service.arn,
        "serviceName": service.name,
        "clusterArn": cluster.arn,
        "loadBalancers": [],
        "serviceRegistries": registries.collect::<Value>(),
        "status": service.status.as_str(),
        "desiredCount": service.desired_count,
        "runningCount": counts.running,
        "pendingCount": counts.pending,
        "launchType": "FARGATE",
        "platformVersion": "LATEST",
        "platformFamily": "Linux",
        "deploymentConfiguration": deployments::configuration(service),
        "deployments": deployments.collect::<Value>(),
        "roleArn": format!("arn:aws:iam::{}:role/aws-service-role/ecs.amazonaws.com/AWSServiceRoleForECS", state.account),
        "events": [],
        "createdAt": time(&service.created),
        "currentServiceRevisions": revisions.collect::<Value>(),
        "placementConstraints": [],
        "placementStrategy": [],
        "networkConfiguration": network(service),
        "schedulingStrategy": "REPLICA",
        "deploymentController": { "type": "ECS" },
        "enableECSManagedTags": false,
        "propagateTags": "NONE",
        "enableExecuteCommand": false,
    }));
    let shift = service.shift.as_ref();
    set(&mut members, "currentServiceDeployment", shift.map(|shift| json!(shift.arn)));
    set(&mut members, "taskDefinition", primary.map(|d| json!(d.definition.arn)));
    set(&mut members, "tags", (with_tags && !service.tags.is_empty()).then(|| tags(&service.tags)));
    Value::Object(members)
}

fn requested(service: &Service, deployment: &Deployment, counts: Counts) -> u32 {
    match service.deployments.first() {
        Some(primary) if primary.id == deployment.id => service.desired_count,
        _ => counts.wanted,
    }
}

/// A VPC has a subnet in each zone.
fn subnet(zone: &str) -> String {
    format!("subnet-0a1b2c3d4e5f607{:02x}", zone.bytes().last().unwrap_or_default())
}

fn network(service: &Service) -> Value {
    json!({ "awsvpcConfiguration": {
        "subnets": service.zones.iter().map(|zone| subnet(zone)).collect::<Vec<_>>(),
        "securityGroups": ["sg-0a1b2c3d4e5f60718"],
        "assignPublicIp": "DISABLED",
    } })
}

fn deployment(state: &State, service: &Service, deployment: &Deployment) -> Value {
    let counts = state.counts(service, Some(&deployment.id));
    let mut members = structure(json!({
        "id": deployment.id,
        "status": deployment.status.as_str(),
        "taskDefinition": deployment.definition.arn,
        "desiredCount": requested(service, deployment, counts),
        "pendingCount": counts.pending,
        "runningCount": counts.running,
        "failedTasks": 0,
        "createdAt": time(&deployment.created),
        "updatedAt": time(&deployment.updated),
        "launchType": "FARGATE",
        "platformVersion": "1.4.0",
        "platformFamily": "Linux",
        "networkConfiguration": network(service),
        "rolloutState": deployment.rollout.as_str(),
        "rolloutStateReason": format!("ECS deployment {} {}.", deployment.id, match deployment.rollout {
            crate::world::RolloutState::InProgress => "in progress",
            crate::world::RolloutState::Completed => "completed",
        }),
    }));
    set(&mut members, "serviceConnectConfiguration", connect(deployment));
    if deployment.service_connect.as_ref().is_some_and(|connect| connect.enabled) {
        let pair = |(name, arn): &(String, String)| json!({ "discoveryName": name, "discoveryArn": arn });
        let resources: Value = deployment.service_connect_resources.iter().map(pair).collect();
        members.insert("serviceConnectResources".to_owned(), resources);
    }
    Value::Object(members)
}

fn connect(deployment: &Deployment) -> Option<Value> {
    serde_json::to_value(deployment.service_connect.as_ref()?).ok()
}

/// A service revision.
pub(super) fn service_revision(cluster: &Cluster, service: &Service, revision: &Deployment) -> Value {
    let images = revision
        .definition
        .containers
        .iter()
        .map(|c| json!({ "containerName": c.name, "imageDigest": digest(&c.image), "image": c.image }));
    let mut members = structure(json!({
        "serviceRevisionArn": revision.revision_arn,
        "serviceArn": service.arn,
        "clusterArn": cluster.arn,
        "taskDefinition": revision.definition.arn,
        "launchType": "FARGATE",
        "platformVersion": "1.4.0",
        "platformFamily": "Linux",
        "networkConfiguration": network(service),
        "containerImages": images.collect::<Value>(),
        "guardDutyEnabled": false,
        "createdAt": time(&revision.created),
    }));
    set(&mut members, "serviceConnectConfiguration", connect(revision));
    Value::Object(members)
}

/// A digest that looks like one and depends on the image's name alone.
fn digest(image: &str) -> String {
    let sum = image.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
    format!("sha256:{sum:064x}")
}

/// A task.
pub(super) fn task(state: &State, task: &Task, with_tags: bool) -> Value {
    let arn = state.arn("ecs", &format!("cluster/{}", task.cluster));
    let containers = task.containers.iter().map(|own| container(task, own));
    let overridden = task.containers.iter().map(|own| json!({ "name": own.name }));
    let mut members = structure(json!({
        "attachments": [attachment(state, task)],
        "attributes": [{ "name": "ecs.cpu-architecture", "value": "x86_64" }],
        "availabilityZone": task.zone,
        "clusterArn": arn,
        "containers": containers.collect::<Value>(),
        "cpu": "512",
        "createdAt": time(&task.created),
        "desiredStatus": task.desired_status.as_str(),
        "enableExecuteCommand": false,
        "group": task.group,
        "healthStatus": task.health.as_str(),
        "lastStatus": task.last_status.as_str(),
        "launchType": "FARGATE",
        "memory": "1024",
        "overrides": { "containerOverrides": overridden.collect::<Value>(), "inferenceAcceleratorOverrides": [] },
        "platformVersion": "1.4.0",
        "platformFamily": "Linux",
        "tags": if with_tags { tags(&task.tags) } else { json!([]) },
        "taskArn": task.arn,
        "taskDefinitionArn": task.definition.arn,
        "version": task.version,
        "ephemeralStorage": { "sizeInGiB": 20 },
    }));
    if task.last_status > LastStatus::Provisioning {
        members.insert("connectivity".to_owned(), json!("CONNECTED"));
        members.insert("connectivityAt".to_owned(), time(&task.created));
    }
    set(&mut members, "startedAt", task.started.as_ref().map(time));
    set(&mut members, "startedBy", task.started_by.as_ref().map(|id| json!(id)));
    set(&mut members, "stopCode", task.stop_code.map(|code| json!(code.as_str())));
    set(&mut members, "stoppedReason", task.stopped_reason.as_ref().map(|reason| json!(reason)));
    set(&mut members, "stoppingAt", task.stopping.as_ref().map(time));
    set(&mut members, "executionStoppedAt", task.execution_stopped.as_ref().map(time));
    set(&mut members, "stoppedAt", task.stopped.as_ref().map(time));
    show_on_machine(task, &mut members);
    Value::Object(members)
}

/// The id of a task's network interface attachment, in the shape of a UUID.
fn attachment_id(task: &Task) -> String {
    let id = &task.id;
    let part = |from, to| id.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

fn attachment(state: &State, task: &Task) -> Value {
    let mut details = vec![json!({ "name": "subnetId", "value": subnet(&task.zone) })];
    if task.last_status > LastStatus::Provisioning {
        let [a, b, c, d] = task.ip.octets();
        let host = format!("ip-{a}-{b}-{c}-{d}.{}.compute.internal", state.region);
        let mac = format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
        let interface = format!("eni-0{}", task.id.get(..16).unwrap_or_default());
        details.push(json!({ "name": "networkInterfaceId", "value": interface }));
        details.push(json!({ "name": "macAddress", "value": mac }));
        details.push(json!({ "name": "privateDnsName", "value": host }));
        details.push(json!({ "name": "privateIPv4Address", "value": task.ip.to_string() }));
    }
    let status = match task.last_status {
        LastStatus::Provisioning => "PRECREATED",
        LastStatus::Pending | LastStatus::Running => "ATTACHED",
        LastStatus::Deprovisioning => "DETACHING",
        LastStatus::Stopped => "DELETED",
    };
    json!({ "id": attachment_id(task), "type": "ElasticNetworkInterface", "status": status, "details": details })
}

fn container(task: &Task, own: &Container) -> Value {
    let id = attachment_id(task);
    let image = task.definition.containers.iter().find(|c| c.name == own.name).map(|c| c.image.as_str());
    let status = match (task.last_status, own.exit_code) {
        (_, Some(_)) | (LastStatus::Deprovisioning | LastStatus::Stopped, _) => "STOPPED",
        (LastStatus::Running, None) => "RUNNING",
        (LastStatus::Provisioning | LastStatus::Pending, None) => "PENDING",
    };
    let interfaces = match task.started {
        Some(_) => json!([{ "attachmentId": id, "privateIpv4Address": task.ip.to_string() }]),
        None => json!([]),
    };
    let resource = task.arn.replacen(":task/", ":container/", 1);
    let mut members = structure(json!({
        "containerArn": format!("{resource}/{id}"),
        "taskArn": task.arn,
        "name": own.name,
        "image": image,
        "lastStatus": status,
        "networkBindings": [],
        "networkInterfaces": interfaces,
        "healthStatus": own.health.as_str(),
        "cpu": "0",
    }));
    if task.started.is_some() {
        members.insert("imageDigest".to_owned(), json!(digest(image.unwrap_or_default())));
        members.insert("runtimeId".to_owned(), json!(format!("{}-{}", task.id, own.name)));
    }
    set(&mut members, "exitCode", own.exit_code.map(|code| json!(code)));
    Value::Object(members)
}

/// A task definition.
pub(super) fn definition(state: &State, definition: &TaskDefinition) -> Value {
    let arn = &definition.arn;
    let registrar = format!("arn:aws:iam::{}:user/deployer", state.account);
    json!({
        "taskDefinitionArn": arn,
        "containerDefinitions": definition.containers.iter().map(container_definition).collect::<Value>(),
        "family": definition.family,
        "networkMode": definition.network.as_str(),
        "revision": definition.revision,
        "volumes": [],
        "status": "ACTIVE",
        "requiresAttributes": [{ "name": "ecs.capability.task-eni" }],
        "placementConstraints": [],
        "compatibilities": ["EC2", "FARGATE"],
        "requiresCompatibilities": ["FARGATE"],
        "cpu": "512",
        "memory": "1024",
        "registeredAt": time(&definition.registered),
        "registeredBy": registrar,
    })
}

fn container_definition(own: &ContainerDefinition) -> Value {
    let ports = own.ports.iter().map(|port| {
        let mut members = structure(json!({
            "containerPort": port.container_port,
            "hostPort": port.container_port,
            "protocol": "tcp",
        }));
        set(&mut members, "name", port.name.as_ref().map(|name| json!(name)));
        set(&mut members, "appProtocol", port.app_protocol.map(|protocol| json!(protocol.as_str())));
        Value::Object(members)
    });
    let mut members = structure(json!({
        "name": own.name,
        "image": own.image,
        "cpu": 0,
        "portMappings": ports.collect::<Value>(),
        "essential": own.essential,
        "environment": [],
        "mountPoints": [],
        "volumesFrom": [],
        "systemControls": [],
    }));
    set(&mut members, "stopTimeout", own.stop_timeout.map(|seconds| json!(seconds)));
    set(&mut members, "dockerLabels", (!own.docker_labels.is_empty()).then(|| json!(own.docker_labels)));
    let check = json!({
        "command": ["CMD-SHELL", "exit 0"], "interval": 5, "timeout": 2, "retries": 3, "startPeriod": 10,
    });
    set(&mut members, "healthCheck", own.health_check.then_some(check));
    Value::Object(members)
}
