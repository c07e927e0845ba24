//! What the ECS operations answer.
//!
//! Reads only: selection, batches, pages and refusals; how a resource is written is in `render`.
//! Invariant: an answer is made from one state of the world, under one lock.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use serde_json::{Value, json};

use super::wire::{ApiError, Input, Operation, Pager};
use super::{deployments, machines, render};
use crate::world::{Cluster, ServiceStatus, State, Task};

type Answer = Result<Value, ApiError>;

pub(super) fn answer(operation: Operation, state: &State, input: Input<'_>) -> Answer {
    match operation {
        Operation::ListClusters => list_clusters(state, input),
        Operation::DescribeClusters => describe_clusters(state, input),
        Operation::ListServices => list_services(state, input),
        Operation::DescribeServices => describe_services(state, input),
        Operation::ListTasks => list_tasks(state, input),
        Operation::DescribeTasks => describe_tasks(state, input),
        Operation::DescribeTaskDefinition => describe_task_definition(state, input),
        Operation::DescribeContainerInstances => describe_container_instances(state, input),
        Operation::ListServicesByNamespace => list_services_by_namespace(state, input),
        Operation::DescribeServiceRevisions => describe_service_revisions(state, input),
        Operation::ListServiceDeployments => deployments::list(cluster(state, input)?, input),
        Operation::DescribeServiceDeployments => deployments::describe(state, input),
        other => Err(ApiError::server(other.api())),
    }
}

fn cluster<'a>(state: &'a State, input: Input<'_>) -> Result<&'a Cluster, ApiError> {
    let wanted = input.string("cluster")?.unwrap_or("default");
    state.cluster(wanted).map_err(|_| ApiError::new("ClusterNotFoundException", "Cluster not found."))
}

/// The batch of a Describe call.
pub(super) fn batch<'a>(input: Input<'a>, key: &str, most: usize) -> Result<Vec<&'a str>, ApiError> {
    let wanted = input.strings(key)?;
    let plural = format!("{}{}", key[..1].to_uppercase(), &key[1..]);
    match wanted.len() {
        0 => Err(ApiError::parameter(format!("{plural} cannot be empty."))),
        count if count > most => {
            Err(ApiError::parameter(format!("{plural} cannot have more than {most} elements.")))
        }
        _ => Ok(wanted),
    }
}

fn wants_tags(input: Input<'_>) -> Result<bool, ApiError> {
    Ok(input.strings("include")?.contains(&"TAGS"))
}

pub(super) fn missing(arn: String) -> Value {
    json!({ "arn": arn, "reason": "MISSING" })
}

fn arn_of(state: &State, kind: &str, cluster: &str, reference: &str) -> String {
    match reference.starts_with("arn:") {
        true => reference.to_owned(),
        false => state.arn("ecs", &format!("{kind}/{cluster}/{reference}")),
    }
}

fn list_clusters(state: &State, input: Input<'_>) -> Answer {
    let pager = Pager::new(Operation::ListClusters, &[], input)?;
    let (page, mut answer) = pager.page(state.clusters.values().map(|c| (c.arn.clone(), ())));
    answer.insert("clusterArns".to_owned(), page.into_iter().map(|(arn, ())| arn).collect());
    Ok(Value::Object(answer))
}

fn describe_clusters(state: &State, input: Input<'_>) -> Answer {
    let mut wanted = input.strings("clusters")?;
    if wanted.is_empty() {
        wanted.push("default");
    }
    if wanted.len() > 100 {
        return Err(ApiError::parameter("Clusters cannot have more than 100 elements."));
    }
    let with_tags = wants_tags(input)?;
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for reference in wanted {
        match state.cluster(reference) {
            Ok(cluster) => found.push(render::cluster(state, cluster, with_tags)),
            Err(_) if reference.starts_with("arn:") => failures.push(missing(reference.to_owned())),
            Err(_) => failures.push(missing(state.arn("ecs", &format!("cluster/{reference}")))),
        }
    }
    Ok(json!({ "clusters": found, "failures": failures }))
}

fn list_services(state: &State, input: Input<'_>) -> Answer {
    let cluster = cluster(state, input)?;
    let launch_type = input.string("launchType")?.unwrap_or("FARGATE");
    let strategy = input.string("schedulingStrategy")?.unwrap_or("REPLICA");
    let pager = Pager::new(Operation::ListServices, &[&cluster.name, launch_type, strategy], input)?;
    let shown = launch_type == "FARGATE" && strategy == "REPLICA";
    let listed = cluster.services.values().filter(|s| shown && s.status != ServiceStatus::Inactive);
    let (page, mut answer) = pager.page(listed.map(|service| (service.arn.clone(), ())));
    answer.insert("serviceArns".to_owned(), page.into_iter().map(|(arn, ())| arn).collect());
    Ok(Value::Object(answer))
}

fn describe_services(state: &State, input: Input<'_>) -> Answer {
    let cluster = cluster(state, input)?;
    let wanted = batch(input, "services", 10)?;
    let with_tags = wants_tags(input)?;
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for reference in wanted {
        let name = reference.rsplit('/').next().unwrap_or(reference);
        let own = |s: &&crate::world::Service| reference == name || s.arn == reference;
        match cluster.services.get(name).filter(own) {
            Some(service) => found.push(render::service(state, cluster, service, with_tags)),
            None => failures.push(missing(arn_of(state, "service", &cluster.name, reference))),
        }
    }
    Ok(json!({ "services": found, "failures": failures }))
}

/// The filters of ListTasks.
struct TaskFilter<'a> {
    service: Option<&'a str>,
    family: Option<&'a str>,
    started_by: Option<&'a str>,
    desired: &'a str,
    launch_type: Option<&'a str>,
    instance: Option<&'a str>,
}

impl<'a> TaskFilter<'a> {
    fn new(input: Input<'a>) -> Result<Self, ApiError> {
        let others = ["serviceName", "family", "desiredStatus", "launchType", "containerInstance"];
        if input.has("startedBy") && others.iter().any(|key| input.has(key)) {
            return Err(ApiError::parameter("startedBy must be the only filter."));
        }
        if input.has("family") && input.has("serviceName") {
            return Err(ApiError::parameter("family and serviceName cannot be used together."));
        }
        let desired = input.string("desiredStatus")?.unwrap_or("RUNNING");
        if !["RUNNING", "PENDING", "STOPPED"].contains(&desired) {
            return Err(ApiError::parameter("desiredStatus must be RUNNING, PENDING or STOPPED."));
        }
        Ok(Self {
            service: input.string("serviceName")?,
            family: input.string("family")?,
            started_by: input.string("startedBy")?,
            desired,
            launch_type: input.string("launchType")?,
            instance: input.string("containerInstance")?,
        })
    }

    fn scope(&self, cluster: &'a str) -> [&'a str; 7] {
        let or_none = |filter: Option<&'a str>| filter.unwrap_or("-");
        [
            cluster,
            or_none(self.service),
            or_none(self.family),
            or_none(self.started_by),
            self.desired,
            or_none(self.launch_type),
            or_none(self.instance),
        ]
    }

    fn admits(&self, task: &Task) -> bool {
        // What has no machine runs on Fargate.
        let launch_type = if task.machine.is_some() { "EC2" } else { "FARGATE" };
        let is_there = |instance: &str| task.machine.as_deref().is_some_and(|arn| arn.ends_with(instance));
        task.desired_status.as_str() == self.desired
            && self.launch_type.is_none_or(|it| it == launch_type)
            && self.instance.is_none_or(is_there)
            && self.family.is_none_or(|family| task.definition.family == family)
            && self.started_by.is_none_or(|id| task.started_by.as_deref() == Some(id))
    }
}

fn list_tasks(state: &State, input: Input<'_>) -> Answer {
    let cluster = cluster(state, input)?;
    let filter = TaskFilter::new(input)?;
    let pager = Pager::new(Operation::ListTasks, &filter.scope(&cluster.name), input)?;
    let tasks: Box<dyn Iterator<Item = &Arc<Task>>> = match filter.service {
        Some(reference) => {
            let name = reference.rsplit('/').next().unwrap_or(reference);
            let service = cluster.services.get(name).filter(|s| s.status != ServiceStatus::Inactive);
            let service =
                service.ok_or_else(|| ApiError::new("ServiceNotFoundException", "Service not found."))?;
            Box::new(state.tasks_of(service))
        }
        None => {
            let prefix = state.arn("ecs", &format!("task/{}/", cluster.name));
            let first = match pager.after() {
                Some(after) => Bound::Excluded(after.to_owned()),
                None => Bound::Included(prefix.clone()),
            };
            let from = state.tasks.range((first, Bound::Unbounded));
            Box::new(from.take_while(move |(arn, _)| arn.starts_with(&prefix)).map(|(_, task)| task))
        }
    };
    let listed = tasks.filter(|task| filter.admits(task)).map(|task| (task.arn.clone(), ()));
    let (page, mut answer) = pager.page(listed);
    answer.insert("taskArns".to_owned(), page.into_iter().map(|(arn, ())| arn).collect());
    Ok(Value::Object(answer))
}

fn describe_tasks(state: &State, input: Input<'_>) -> Answer {
    let cluster = cluster(state, input)?;
    let wanted = batch(input, "tasks", 100)?;
    let with_tags = wants_tags(input)?;
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    for reference in wanted {
        match state.task(reference).ok().filter(|task| task.cluster == cluster.name) {
            Some(task) if seen.insert(&task.arn) => found.push(render::task(state, task, with_tags)),
            Some(_) => {}
            None => failures.push(missing(arn_of(state, "task", &cluster.name, reference))),
        }
    }
    Ok(json!({ "tasks": found, "failures": failures }))
}

fn describe_container_instances(state: &State, input: Input<'_>) -> Answer {
    let cluster = cluster(state, input)?;
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for reference in batch(input, "containerInstances", 100)? {
        let arn = arn_of(state, "container-instance", &cluster.name, reference);
        match state.machines.get(&arn).filter(|machine| machine.cluster == cluster.name) {
            Some(machine) => found.push(machines::container_instance(state, machine)),
            None => failures.push(missing(arn)),
        }
    }
    Ok(json!({ "containerInstances": found, "failures": failures }))
}

fn describe_task_definition(state: &State, input: Input<'_>) -> Answer {
    let reference = input.required("taskDefinition")?;
    let definition = state.definition(reference);
    let definition =
        definition.map_err(|_| ApiError::new("ClientException", "Unable to describe task definition."))?;
    let mut answer = json!({ "taskDefinition": render::definition(state, definition) });
    if let Some(members) = answer.as_object_mut().filter(|_| !definition.tags.is_empty())
        && wants_tags(input)?
    {
        members.insert("tags".to_owned(), render::tags(&definition.tags));
    }
    Ok(answer)
}

fn list_services_by_namespace(state: &State, input: Input<'_>) -> Answer {
    let wanted = input.required("namespace")?;
    let namespace = state.namespaces.values().find(|ns| ns.name == wanted || ns.arn == wanted);
    let namespace =
        namespace.ok_or_else(|| ApiError::new("NamespaceNotFoundException", "Namespace not found."))?;
    let pager = Pager::new(Operation::ListServicesByNamespace, &[&namespace.id], input)?;
    let inside = |service: &&crate::world::Service| {
        let connects = service.deployments.iter().filter_map(|d| d.service_connect.as_ref());
        let mut namespaces = connects.filter(|c| c.enabled).filter_map(|c| c.namespace.as_deref());
        service.status != ServiceStatus::Inactive
            && namespaces.any(|name| name == namespace.name || name == namespace.arn)
    };
    let services = state.clusters.values().flat_map(|cluster| cluster.services.values());
    let mut arns: Vec<_> = services.filter(inside).map(|service| (service.arn.clone(), ())).collect();
    arns.sort();
    let (page, mut answer) = pager.page(arns.into_iter());
    answer.insert("serviceArns".to_owned(), page.into_iter().map(|(arn, ())| arn).collect());
    Ok(Value::Object(answer))
}

fn describe_service_revisions(state: &State, input: Input<'_>) -> Answer {
    let wanted = batch(input, "serviceRevisionArns", 20)?;
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for arn in wanted {
        // …:service-revision/<cluster>/<service>/<digits>
        let mut parts = arn.rsplit('/').skip(1);
        let (service, cluster) = (parts.next(), parts.next());
        let place = cluster.and_then(|name| state.clusters.get(name));
        let own = place.and_then(|cluster| Some((cluster, cluster.services.get(service?)?)));
        let revision = own.and_then(|(cluster, service)| {
            let revision = service.revisions.iter().find(|r| r.revision_arn == arn)?;
            Some(render::service_revision(cluster, service, revision))
        });
        match revision {
            Some(revision) => found.push(revision),
            None => failures.push(missing(arn.to_owned())),
        }
    }
    Ok(json!({ "serviceRevisions": found, "failures": failures }))
}
