//! Whether this process may do what it needs to: each action of IAM, tried once.
//!
//! It is not a reading: what is answered is dropped.
//!
//! Invariant: nothing is changed, but that a message which waits in the queue counts as received once. What is asked for by
//! a made-up name is refused after the permission was looked at, and that is answer enough.

use aws_sdk_servicediscovery::types::{
    FilterCondition, NamespaceFilter, NamespaceFilterName, ServiceFilter, ServiceFilterName,
};
use aws_sdk_sqs::types::DeleteMessageBatchRequestEntry;

use super::accounts::ASSUME_ROLE;
use super::{Access, failed, is_denial};
use crate::source::SourceError;

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
    Probe { action, object: object.to_owned(), permission }
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
    let services = ecs.list_services().cluster(cluster).max_results(1).send().await;
    let services = services.map_err(|error| failed(action, error));
    probes.push(probe(action, cluster, &services));
    let action = "ecs:ListTasks";
    let tasks = ecs.list_tasks().cluster(cluster).max_results(1).send().await;
    let tasks = tasks.map_err(|error| failed(action, error));
    probes.push(probe(action, cluster, &tasks));

    // What is there is asked about, because a policy may allow no more than that.
    let service = services.ok().and_then(|answer| answer.service_arns().first().cloned());
    let service = service.unwrap_or_else(|| NOBODY.to_owned());
    let action = "ecs:DescribeServices";
    let described = ecs.describe_services().cluster(cluster).services(service).send().await;
    probes.push(probe(action, cluster, &described.map_err(|error| failed(action, error))));
    let task = tasks.ok().and_then(|answer| answer.task_arns().first().cloned());
    let task = task.unwrap_or_else(|| "0".repeat(32));
    let action = "ecs:DescribeTasks";
    let described = ecs.describe_tasks().cluster(cluster).tasks(task).send().await;
    let described = described.map_err(|error| failed(action, error));
    probes.push(probe(action, cluster, &described));

    let definition = described.ok().and_then(|answer| answer.tasks().first()?.task_definition_arn.clone());
    let definition = definition.unwrap_or_else(|| NOBODY.to_owned());
    let action = "ecs:DescribeTaskDefinition";
    let described = ecs.describe_task_definition().task_definition(definition).send().await;
    probes.push(probe(action, cluster, &described.map_err(|error| failed(action, error))));
    probes
}

/// Tries what a Cloud Map namespace needs, which has a name or, where another account shares it, an ARN.
pub async fn cloud_map(access: &Access, namespace: &str) -> Vec<Probe> {
    let client = access.cloudmap();
    let mut probes = Vec::new();
    let is_shared = namespace.starts_with("arn:");
    let (filter, value) = match is_shared {
        true => (NamespaceFilterName::ResourceOwner, "OTHER_ACCOUNTS"),
        false => (NamespaceFilterName::Name, namespace),
    };
    let filter = NamespaceFilter::builder().name(filter).values(value).condition(FilterCondition::Eq).build();
    let action = "servicediscovery:ListNamespaces";
    let listed = client.list_namespaces().set_filters(filter.ok().map(|filter| vec![filter])).send().await;
    let listed = listed.map_err(|error| failed(action, error));
    probes.push(probe(action, namespace, &listed));
    let all = listed.ok().and_then(|answer| answer.namespaces).unwrap_or_default();
    let found = all.iter().find(|one| !is_shared || one.arn() == Some(namespace));
    let id = if is_shared { namespace } else { found.and_then(|found| found.id()).unwrap_or(NOBODY) };
    let properties = found.and_then(|found| found.properties());
    let http = properties.and_then(|properties| properties.http_properties());
    let name = http.and_then(|http| http.http_name()).unwrap_or(namespace);
    let owner = found.and_then(|found| found.resource_owner()).filter(|_| is_shared).map(str::to_owned);

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
        let words: Vec<_> = probes
            .iter()
            .map(|probe| match &probe.permission {
                Permission::Allowed => "allowed",
                Permission::Denied(why) => why.as_str(),
                Permission::Unknown(_) => "unknown",
            })
            .collect();
        assert_eq!(words, ["allowed", "not you", "allowed", "unknown", "allowed"]);
    }
}
