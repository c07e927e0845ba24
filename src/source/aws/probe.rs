//! Whether this process may do what it needs to: each action of IAM, tried once.
//!
//! It is not a reading: what is answered is dropped.
//!
//! Invariant: nothing is changed, but that a message which waits in the queue counts as received once. What is asked for by
//! a made-up name is refused after the permission was looked at, and that is answer enough.

use aws_sdk_ecs::types::{DeploymentStrategy, Service, Task};
use aws_sdk_servicediscovery::types::{
    FilterCondition, NamespaceFilter, NamespaceFilterName, NamespaceSummary, ServiceFilter, ServiceFilterName,
};
use aws_sdk_sqs::types::DeleteMessageBatchRequestEntry;

use super::accounts::ASSUME_ROLE;
use super::{Access, failed, is_denial};
use crate::source::SourceError;

const LIST_NAMESPACES: &str = "servicediscovery:ListNamespaces";
/// A name that nobody has.
const NOBODY: &str = "legation-check";
/// The codes for a made-up name: someone may, and it is not there.
const NOBODY_THERE: [&str; 6] = [
    "ClientException",
    "InvalidInput",
    "InvalidParameterException",
    "NamespaceNotFound",
    "ServiceNotFound",
    "ReceiptHandleIsInvalid",
];

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Permission {
    /// It may.
    Allowed,
    /// It may not, in AWS's words.
    Denied(String),
    /// That could not be found out.
    Unknown(String),
}

/// One action that was tried.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    /// As IAM names it.
    pub action: &'static str,
    /// On what: a cluster, a namespace or a queue.
    pub object: String,
    /// The ARN of the role that called, unless this process called as itself.
    pub role: Option<String>,
    /// What came of it.
    pub permission: Permission,
}

fn probe<T>(action: &'static str, object: &str, outcome: &Result<T, SourceError>) -> Probe {
    let permission = match outcome {
        Ok(_) => Permission::Allowed,
        Err(error) if error.operation != action => Permission::Unknown(error.to_string()), // it never got so far
        Err(error) if is_denial(&error.code) => Permission::Denied(error.message.clone()),
        Err(error) if NOBODY_THERE.contains(&error.code.as_str()) => Permission::Allowed,
        Err(error) => Permission::Unknown(format!("{}: {}", error.code, error.message)),
    };
    Probe { action, object: object.to_owned(), role: None, permission }
}

/// Tries to take on the role that calls, if one does.
pub async fn role(access: &Access) -> Option<Probe> {
    let role = access.role.as_ref()?;
    Some(probe(ASSUME_ROLE, &role.arn, &role.assume().await))
}

/// Tries what a cluster needs that feeds several namespaces.
pub async fn default_namespace(access: &Access, cluster: &str) -> Vec<Probe> {
    let action = "ecs:DescribeClusters";
    let described = access.ecs().describe_clusters().clusters(cluster).send().await;
    let described = described.map_err(|error| failed(action, error));
    let known = probe(action, cluster, &described);
    let clusters = described.ok().and_then(|answer| answer.clusters);
    let defaults =
        clusters.into_iter().flatten().find_map(|cluster| cluster.service_connect_defaults?.namespace);
    let id = defaults.unwrap_or_else(|| NOBODY.to_owned());
    let action = "servicediscovery:GetNamespace";
    let found = access.cloudmap().get_namespace().id(id).send().await;
    vec![known, probe(action, cluster, &found.map_err(|error| failed(action, error)))]
}

/// Tries what a cluster needs.
pub async fn cluster(access: &Access, cluster: &str) -> Vec<Probe> {
    let ecs = access.ecs();
    let mut probes = Vec::new();
    let action = "ecs:ListServices";
    let services = ecs.list_services().cluster(cluster).max_results(100).send().await;
    let services = services.map_err(|error| failed(action, error));
    probes.push(probe(action, cluster, &services));
    let action = "ecs:ListTasks";
    let tasks = ecs.list_tasks().cluster(cluster).send().await;
    let tasks = tasks.map_err(|error| failed(action, error));
    probes.push(probe(action, cluster, &tasks));

    // What is there is asked about, because a policy may allow no more than that.
    let services = services.ok().and_then(|answer| answer.service_arns).filter(|arns| !arns.is_empty());
    let services = services.unwrap_or_else(|| vec![NOBODY.to_owned()]);
    let (described, shifting) = first_shifting(access, cluster, &services).await;
    probes.push(probe("ecs:DescribeServices", cluster, &described));
    if let Some(service) = shifting {
        probes.extend(deployments(access, cluster, &service).await);
    }
    let tasks = tasks.ok().map(|answer| answer.task_arns().to_vec()).filter(|arns| !arns.is_empty());
    let tasks = tasks.unwrap_or_else(|| vec!["0".repeat(32)]);
    let action = "ecs:DescribeTasks";
    let described = ecs.describe_tasks().cluster(cluster).set_tasks(Some(tasks)).send().await;
    let described = described.map_err(|error| failed(action, error));
    probes.push(probe(action, cluster, &described));

    let tasks = described.map(|answer| answer.tasks().to_vec()).unwrap_or_default();
    let definition = tasks.first().and_then(|task| task.task_definition_arn.clone());
    let definition = definition.unwrap_or_else(|| NOBODY.to_owned());
    let action = "ecs:DescribeTaskDefinition";
    let described = ecs.describe_task_definition().task_definition(definition).send().await;
    probes.push(probe(action, cluster, &described.map_err(|error| failed(action, error))));
    if let Some(instance) = tasks.iter().find_map(shared) {
        probes.extend(container_instance(access, cluster, instance).await);
    }
    probes
}

/// The first of these services whose deployments shift traffic, if there is one, and how the first call ended.
async fn first_shifting(
    access: &Access,
    cluster: &str,
    services: &[String],
) -> (Result<(), SourceError>, Option<Service>) {
    let mut first = None;
    for batch in services.chunks(10) {
        let call = access.ecs().describe_services().cluster(cluster).set_services(Some(batch.to_vec()));
        let described = call.send().await.map_err(|error| failed("ecs:DescribeServices", error));
        let found = described.as_ref().ok().and_then(|answer| answer.services().iter().find(|it| shifts(it)));
        let found = found.cloned();
        let ended = first.get_or_insert(described.map(drop));
        if found.is_some() || ended.is_err() {
            return (ended.clone(), found);
        }
    }
    (first.unwrap_or(Ok(())), None)
}

fn shifts(service: &Service) -> bool {
    let strategy = service.deployment_configuration().and_then(|configuration| configuration.strategy());
    strategy.is_some_and(|strategy| *strategy != DeploymentStrategy::Rolling)
}

/// Tries what a service needs whose deployments shift traffic.
async fn deployments(access: &Access, cluster: &str, service: &Service) -> Vec<Probe> {
    let ecs = access.ecs();
    let arn = service.service_arn().unwrap_or(NOBODY);
    let nobodys = |kind: &str| format!("{}/{NOBODY}", arn.replacen(":service/", kind, 1));
    let action = "ecs:ListServiceDeployments";
    let listed = ecs.list_service_deployments().cluster(cluster).service(arn).max_results(1).send().await;
    let mut probes = vec![probe(action, cluster, &listed.map_err(|error| failed(action, error)))];
    let action = "ecs:DescribeServiceDeployments";
    let deployment = service.current_service_deployment().map(str::to_owned);
    let deployment = deployment.unwrap_or_else(|| nobodys(":service-deployment/"));
    let described = ecs.describe_service_deployments().service_deployment_arns(deployment).send().await;
    probes.push(probe(action, cluster, &described.map_err(|error| failed(action, error))));
    let action = "ecs:DescribeServiceRevisions";
    let revision = service.current_service_revisions().first().and_then(|it| it.arn()).map(str::to_owned);
    let revision = revision.unwrap_or_else(|| nobodys(":service-revision/"));
    let described = ecs.describe_service_revisions().service_revision_arns(revision).send().await;
    probes.push(probe(action, cluster, &described.map_err(|error| failed(action, error))));
    probes
}

/// The container instance whose address a task shares, if it does.
fn shared(task: &Task) -> Option<&str> {
    let interfaces = task.containers().iter().flat_map(|container| container.network_interfaces());
    let has_own = interfaces.count() + task.attachments().len() > 0;
    task.container_instance_arn().filter(|_| !has_own)
}

/// Tries what it takes to know where a container instance is.
async fn container_instance(access: &Access, cluster: &str, instance: &str) -> Vec<Probe> {
    let action = "ecs:DescribeContainerInstances";
    let call = access.ecs().describe_container_instances().cluster(cluster).container_instances(instance);
    let described = call.send().await.map_err(|error| failed(action, error));
    let mut probes = vec![probe(action, cluster, &described)];
    let machine = described.ok().and_then(|it| it.container_instances().first()?.ec2_instance_id.clone());
    let machine = machine.unwrap_or_else(|| NOBODY.to_owned());
    if !machine.starts_with("mi-") {
        let addresses = access.ec2().addresses(&[&machine]).await;
        probes.push(probe("ec2:DescribeInstances", cluster, &addresses));
    }
    probes
}

/// Tries what a Cloud Map namespace needs, which has a name or, where another account shares it, an ARN.
pub async fn cloud_map(access: &Access, namespace: &str) -> Vec<Probe> {
    let client = access.cloudmap();
    let (listed, found) = find(&client, namespace).await;
    let mut probes = vec![probe(LIST_NAMESPACES, namespace, &listed)];
    let (found, is_shared) = found.unzip();
    let is_shared = is_shared.unwrap_or_default();
    let id = found.as_ref().and_then(|found| if is_shared { found.arn() } else { found.id() });
    let id = id.unwrap_or(NOBODY);
    let properties = found.as_ref().and_then(|found| found.properties());
    let http = properties.and_then(|properties| properties.http_properties());
    let name = http.and_then(|http| http.http_name()).unwrap_or(namespace);
    let owner = found.as_ref().and_then(|found| found.resource_owner());
    let owner = owner.filter(|_| is_shared).map(str::to_owned);

    let filter = ServiceFilter::builder().name(ServiceFilterName::NamespaceId).values(id);
    let filter = filter.condition(FilterCondition::Eq).build().ok();
    let action = "servicediscovery:ListServices";
    let listed = client.list_services().set_filters(filter.map(|filter| vec![filter])).send().await;
    let listed = listed.map_err(|error| failed(action, error));
    probes.push(probe(action, namespace, &listed));
    let service = listed.ok().and_then(|answer| answer.services().first().cloned());
    let reference = service.as_ref().and_then(|it| if is_shared { it.arn() } else { it.id() });
    probes.extend(map_service(&client, namespace, reference.unwrap_or(NOBODY)).await);

    let service = service.and_then(|service| service.name).unwrap_or_else(|| NOBODY.to_owned());
    let action = "servicediscovery:DiscoverInstances";
    let call = client.discover_instances().namespace_name(name).service_name(&service);
    let discovered = call.set_owner_account(owner.clone()).send().await;
    probes.push(probe(action, namespace, &discovered.map_err(|error| failed(action, error))));
    let action = "servicediscovery:DiscoverInstancesRevision";
    let call = client.discover_instances_revision().namespace_name(name).service_name(service);
    let revision = call.set_owner_account(owner).send().await;
    probes.push(probe(action, namespace, &revision.map_err(|error| failed(action, error))));
    probes
}

/// The namespace with a name or an ARN, and whether another account shares it: this account's own come first.
async fn find(
    client: &aws_sdk_servicediscovery::Client,
    wanted: &str,
) -> (Result<(), SourceError>, Option<(NamespaceSummary, bool)>) {
    let is_arn = wanted.starts_with("arn:");
    let filter = |name, value: &str| {
        let filter = NamespaceFilter::builder().name(name).values(value).condition(FilterCondition::Eq);
        filter.build().ok()
    };
    for (owner, is_shared) in [("SELF", false), ("OTHER_ACCOUNTS", true)] {
        let name = filter(NamespaceFilterName::Name, wanted).filter(|_| !is_arn);
        let filters = filter(NamespaceFilterName::ResourceOwner, owner).into_iter().chain(name).collect();
        let listed = match client.list_namespaces().set_filters(Some(filters)).send().await {
            Ok(answer) => answer.namespaces.unwrap_or_default(),
            Err(error) => return (Err(failed(LIST_NAMESPACES, error)), None),
        };
        let is_wanted = |one: &NamespaceSummary| !is_arn || one.arn() == Some(wanted);
        if let Some(found) = listed.into_iter().find(is_wanted) {
            return (Ok(()), Some((found, is_shared)));
        }
    }
    (Ok(()), None)
}

/// Tries what one service of Cloud Map needs, as calls name it.
async fn map_service(
    client: &aws_sdk_servicediscovery::Client,
    namespace: &str,
    service: &str,
) -> Vec<Probe> {
    let action = "servicediscovery:GetServiceAttributes";
    let attributes = client.get_service_attributes().service_id(service).send().await;
    let attributes = probe(action, namespace, &attributes.map_err(|error| failed(action, error)));
    let action = "servicediscovery:ListInstances";
    let listed = client.list_instances().service_id(service).max_results(1).send().await;
    let listed = probe(action, namespace, &listed.map_err(|error| failed(action, error)));
    let action = "servicediscovery:GetInstancesHealthStatus";
    let health = client.get_instances_health_status().service_id(service).max_results(1).send().await;
    vec![attributes, listed, probe(action, namespace, &health.map_err(|error| failed(action, error)))]
}

/// Tries what a queue needs. A message that comes is left in it.
pub async fn queue(access: &Access, url: &str) -> Vec<Probe> {
    let client = access.sqs();
    let action = "sqs:ReceiveMessage";
    let received =
        client.receive_message().queue_url(url).wait_time_seconds(0).visibility_timeout(0).send().await;
    let received = probe(action, url, &received.map_err(|error| failed(action, error)));
    let action = "sqs:DeleteMessage";
    let entry = DeleteMessageBatchRequestEntry::builder().id("1").receipt_handle(NOBODY).build().ok();
    let deleted =
        client.delete_message_batch().queue_url(url).set_entries(entry.map(|it| vec![it])).send().await;
    vec![received, probe(action, url, &deleted.map_err(|error| failed(action, error)))]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::source::aws::scripted::{Answer, Scripted};

    #[tokio::test]
    async fn a_shared_namespace_is_asked_about_as_its_owner_s() {
        const ARN: &str = "arn:aws:servicediscovery:eu-west-1:222222222222:namespace/ns-1";
        for wanted in ["common", ARN] {
            let script = Scripted::start(|operation, request| {
                let text = request.to_string();
                let right = match operation {
                    "ListNamespaces" if text.contains("SELF") => {
                        return Answer::Json(200, json!({"Namespaces": []}));
                    }
                    "ListNamespaces" => text.contains("OTHER_ACCOUNTS"),
                    "ListServices" => request["Filters"][0]["Values"][0] == ARN,
                    "DiscoverInstances" | "DiscoverInstancesRevision" => {
                        request["OwnerAccount"] == "222222222222" && request["NamespaceName"] == "common-http"
                    }
                    _ => request["ServiceId"] == "arn:service",
                };
                assert!(right, "{operation}: {request}");
                let properties = json!({"HttpProperties": {"HttpName": "common-http"}});
                let namespace = json!({"Id": "ns-1", "Arn": ARN, "Name": "common", "ResourceOwner": "222222222222",
                                       "Properties": properties});
                let service = json!({"Id": "srv-1", "Arn": "arn:service", "Name": "audit"});
                Answer::Json(200, json!({"Namespaces": [namespace], "Services": [service], "Instances": []}))
            });
            let probes = cloud_map(&script.access(), wanted).await;
            assert_eq!(probes.len(), 7);
            assert!(probes.iter().all(|probe| probe.permission == Permission::Allowed), "{probes:?}");
        }
    }

    #[tokio::test]
    async fn only_a_refusal_is_no_permission() {
        let script = Scripted::start(|operation, _| match operation {
            "ListServices" => Answer::Json(200, json!({"serviceArns": []})),
            "ListTasks" => {
                Answer::Json(400, json!({"__type": "AccessDeniedException", "message": "not you"}))
            }
            "DescribeServices" => Answer::Json(400, json!({"__type": "InvalidParameterException"})),
            "DescribeTasks" => Answer::Json(400, json!({"__type": "ThrottlingException"})),
            "DescribeTaskDefinition" => Answer::Json(400, json!({"__type": "ClientException"})),
            other => panic!("nobody asked for {other}"),
        });
        let probes = cluster(&script.access(), "prod-a").await;
        let words: Vec<_> = probes.iter().map(word).collect();
        assert_eq!(words, ["allowed", "not you", "allowed", "unknown", "allowed"]);
    }

    #[tokio::test]
    async fn where_instances_are_is_tried_only_where_tasks_share_their_address() {
        let denied = "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>not you</Message></Error></Errors></Response>";
        let own = json!([{"name": "app", "networkInterfaces": [{"privateIpv4Address": "10.0.0.1"}]}]);
        for (containers, group, machine, expected) in [
            (json!([]), "service:payments", "i-1", vec!["allowed", "not you"]),
            (json!([]), "service:payments", "mi-1", vec!["allowed"]),
            (json!([]), "family:batch", "mi-1", vec!["allowed"]),
            (own, "service:payments", "i-1", vec![]),
        ] {
            let task = json!({"containerInstanceArn": "arn:i", "group": group, "containers": containers});
            let script = Scripted::start(move |operation, _| match operation {
                "ListServices" => Answer::Json(200, json!({"serviceArns": []})),
                "ListTasks" => Answer::Json(200, json!({"taskArns": ["arn:t"]})),
                "DescribeTasks" => Answer::Json(200, json!({"tasks": [task], "failures": []})),
                "DescribeContainerInstances" => {
                    Answer::Json(200, json!({"containerInstances": [{"ec2InstanceId": machine}]}))
                }
                "DescribeInstances" => Answer::Text(403, denied),
                _ => Answer::Json(400, json!({"__type": "ClientException"})),
            });
            let probes = cluster(&script.access(), "prod-a").await;
            let words: Vec<_> = probes[5..].iter().map(word).collect();
            assert_eq!(words, expected, "{group} on {machine}");
        }
    }

    fn word(probe: &Probe) -> &str {
        match &probe.permission {
            Permission::Allowed => "allowed",
            Permission::Denied(why) => why,
            Permission::Unknown(_) => "unknown",
        }
    }
}
