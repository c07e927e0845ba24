//! What ECS answers about deployments that shift traffic.
//!
//! Those of rolling deployments are not kept: nobody asks about them. Invariant: every member is one of the service
//! model's.

use serde_json::{Value, json};

use super::ecs::{batch, missing};
use super::render::time;
use super::wire::{ApiError, Input, Operation, Pager};
use crate::world::{Cluster, Service, ShiftStatus, State, TrafficShift};

type Answer = Result<Value, ApiError>;

/// ListServiceDeployments.
pub(super) fn list(cluster: &Cluster, input: Input<'_>) -> Answer {
    let reference = input.required("service")?;
    let name = reference.rsplit('/').next().unwrap_or(reference);
    let service = cluster.services.get(name);
    let service = service.ok_or_else(|| ApiError::new("ServiceNotFoundException", "Service not found."))?;
    let wanted = input.strings("status")?;
    let pager = Pager::new(Operation::ListServiceDeployments, &[&cluster.name, name], input)?;
    let shifts = service.shift.iter();
    let shifts = shifts.filter(|it| wanted.is_empty() || wanted.contains(&it.status.as_str()));
    let briefs = shifts.map(|shift| (shift.arn.clone(), brief(cluster, service, shift)));
    let (page, mut answer) = pager.page(briefs);
    answer.insert("serviceDeployments".to_owned(), page.into_iter().map(|(_, brief)| brief).collect());
    Ok(Value::Object(answer))
}

/// DescribeServiceDeployments.
pub(super) fn describe(state: &State, input: Input<'_>) -> Answer {
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for arn in batch(input, "serviceDeploymentArns", 20)? {
        let services =
            || state.clusters.values().flat_map(|it| it.services.values().map(move |one| (it, one)));
        let of_it = services().find_map(|(cluster, service)| {
            let shift = service.shift.as_ref().filter(|shift| shift.arn == arn)?;
            Some(whole(state, cluster, service, shift))
        });
        match of_it {
            Some(deployment) => found.push(deployment),
            None => failures.push(missing(arn.to_owned())),
        }
    }
    Ok(json!({ "serviceDeployments": found, "failures": failures }))
}

fn revision_arn<'a>(service: &'a Service, id: &str) -> Option<&'a str> {
    let revision = service.revisions.iter().find(|revision| revision.id == id)?;
    Some(&revision.revision_arn)
}

fn brief(cluster: &Cluster, service: &Service, shift: &TrafficShift) -> Value {
    let mut brief = json!({
        "serviceDeploymentArn": shift.arn,
        "serviceArn": service.arn,
        "clusterArn": cluster.arn,
        "createdAt": time(&shift.created),
        "startedAt": time(&shift.created),
        "targetServiceRevisionArn": revision_arn(service, &shift.target),
        "status": shift.status.as_str(),
    });
    if shift.status != ShiftStatus::InProgress {
        brief["finishedAt"] = time(&shift.updated);
    }
    brief
}

fn whole(state: &State, cluster: &Cluster, service: &Service, shift: &TrafficShift) -> Value {
    let revision = |id: &str, production: f64, test: f64| {
        let counts = state.counts(service, Some(id));
        json!({
            "arn": revision_arn(service, id),
            "requestedTaskCount": counts.wanted,
            "runningTaskCount": counts.running,
            "pendingTaskCount": counts.pending,
            "requestedTestTrafficWeight": test,
            "requestedProductionTrafficWeight": production,
        })
    };
    // Tests that are nobody's go where production goes.
    let share = |percent: f64| (100.0 - percent) / shift.sources.len().max(1) as f64;
    let test = |percent: f64| if percent > 0.0 { share(percent) } else { 0.0 };
    let sources = shift.sources.iter().map(|id| revision(id, share(shift.production), test(shift.test)));
    let mut whole = brief(cluster, service, shift);
    whole["updatedAt"] = time(&shift.updated);
    whole["sourceServiceRevisions"] = sources.collect();
    whole["targetServiceRevision"] = revision(&shift.target, shift.production, shift.test);
    whole["lifecycleStage"] = json!(shift.stage.as_str());
    whole["deploymentConfiguration"] = configuration(service);
    if let Some(members) = whole.as_object_mut() {
        members.remove("targetServiceRevisionArn");
    }
    whole
}

/// How a service is deployed.
pub(super) fn configuration(service: &Service) -> Value {
    json!({
        "deploymentCircuitBreaker": { "enable": false, "rollback": false },
        "maximumPercent": 200,
        "minimumHealthyPercent": 100,
        "strategy": service.strategy.as_str(),
    })
}
