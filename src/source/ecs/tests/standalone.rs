//! Tests of standalone tasks as members, and of what the tags of tasks say.
//!
//! It is not about what each tag means. Invariant: everything is read from the JSON that ECS sends.

use std::sync::Arc;

use serde_json::json;

use super::hearing::{Running, event};
use super::rule;
use super::world::{ARN, Cluster, refusal, task_arn};
use crate::model::{Finding, Phase, Registration, ServiceKey, ServiceView, StopCause, View};
use crate::source::ecs::{Discover, EcsSource};

pub(super) const PROD: (&str, &str) = ("namespace", "prod");

pub(super) fn prod(cluster: &Cluster) -> EcsSource {
    cluster.source(vec![rule("prod", Discover::Labelled)])
}

/// The services as `name=task,task`.
pub(super) fn services(view: &View) -> Vec<String> {
    let of = |(key, service): (&ServiceKey, &Arc<ServiceView>)| {
        let id = |one: &Registration| one.instance.as_str().rsplit('/').next().unwrap_or_default().to_owned();
        format!("{key}={}", service.registrations.iter().map(id).collect::<Vec<_>>().join(","))
    };
    view.services.iter().map(of).collect()
}

pub(super) fn told(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(|finding| format!("{} {}", finding.code, finding.object)).collect()
}

pub(super) async fn read(source: &mut EcsSource) -> View {
    source.sweep(None).await.expect("a view")
}

#[tokio::test]
async fn tasks_of_a_family_that_ask_for_it_form_one_service() {
    let cluster = Cluster::payments();
    {
        let mut world = cluster.world();
        world.standalone("c", "batch", 3, &[PROD]);
        world.standalone("d", "batch", 4, &[("readiness", "running"), PROD]);
        world.standalone("client", "batch", 5, &[PROD, ("role", "client")]);
        world.standalone("none", "batch", 6, &[("role", "none")]);
        world.standalone("silent", "batch", 7, &[]);
        world.standalone("other", "batch", 8, &[("discovery-name/http", "other")]);
    }
    let view = read(&mut prod(&cluster)).await;
    assert_eq!(services(&view), ["prod/batch=c,d", "prod/other=other", "prod/payments=a,b"]);
    assert_eq!(view.findings, []);
    let batch = &view.services[&ServiceKey::new("prod", "batch")];
    assert_eq!((&*batch.spec.origin, batch.active), ("ecs prod-a/family:batch", true));
    assert_eq!(batch.registrations[0].port, Some(8080));
    assert_eq!(view.occupied.len(), 8, "sidecars of all of them must know which ports are taken");

    let mut all = cluster.source(vec![rule("prod", Discover::All)]);
    let view = read(&mut all).await;
    assert_eq!(services(&view), ["prod/batch=c,d,silent", "prod/other=other", "prod/payments=a,b"]);
    assert_eq!(view.findings, [], "a namespace that is the only one need not be said");
}

#[tokio::test]
async fn labels_ask_for_it_too_and_lie_below_tags() {
    let cluster = Cluster::payments();
    {
        let mut world = cluster.world();
        world.standalone("c", "batch", 3, &[]);
        world.standalone("d", "batch", 4, &[("role", "client")]);
        let labels = json!({"legation.alias.http": "jobs:80", "legation.protocol.http": "grpc"});
        let definition = world.definitions.get_mut(&format!("{ARN}task-definition/batch:1")).expect("it");
        definition["containerDefinitions"][0]["dockerLabels"] = labels;
    }
    let mut source = prod(&cluster);
    // Before its labels are known nobody knows whether the first view would be whole.
    cluster.world().faults = vec![("DescribeTaskDefinition", refusal("ServerException")); 4];
    let error = source.sweep(None).await.expect_err("not whole");
    assert_eq!(error.operation, "ecs:DescribeTaskDefinition");
    cluster.world().faults.clear();
    let view = read(&mut source).await;
    assert_eq!(services(&view), ["prod/batch=c", "prod/payments=a,b"]);
    let spec = |view: &View| {
        let spec = &view.services[&ServiceKey::new("prod", "batch")].spec;
        (spec.aliases[0].to_string(), spec.protocol.as_str())
    };
    assert_eq!(spec(&view), ("jobs:80".to_owned(), "grpc"));
    cluster.world().tag("c", &[("protocol/http", "http2")]);
    assert_eq!(spec(&read(&mut source).await), ("jobs:80".to_owned(), "http2"));
}

#[tokio::test]
async fn of_tasks_that_disagree_the_eldest_is_right() {
    let cluster = Cluster::payments();
    {
        let mut world = cluster.world();
        world.standalone("c", "batch", 3, &[("alias/http", "new:80"), PROD]);
        world.standalone("d", "batch", 4, &[("alias/http", "old:80"), ("retry.attempts/http", "0"), PROD]);
        world.set("d", "createdAt", json!(900));
    }
    let mut source = prod(&cluster);
    let view = read(&mut source).await;
    let spec = |view: &View| {
        let spec = &view.services[&ServiceKey::new("prod", "batch")].spec;
        (spec.aliases[0].to_string(), spec.knobs.retry_attempts)
    };
    assert_eq!(spec(&view), ("old:80".to_owned(), Some(0)));
    assert_eq!(told(&view.findings), ["CFG002 ecs prod-a/family:batch, task tag legation:alias/http"]);
    expect_test::expect![[r"
        task c says this, and older ones `old:80`, which is taken
          legation:alias/http = new:80
                                ^^^^^^"]]
    .assert_eq(&view.findings[0].message);
    // Whoever leaves decides nothing any more, and what only it said goes with it.
    cluster.world().set("d", "desiredStatus", json!("STOPPED"));
    cluster.world().tag("d", &[("alias/http", "old:80"), PROD]);
    let view = read(&mut source).await;
    assert_eq!((spec(&view), view.findings.len()), (("new:80".to_owned(), None), 0));
}

#[tokio::test]
async fn a_name_belongs_to_the_service_and_not_to_a_family_however_old() {
    let cluster = Cluster::payments();
    cluster.world().standalone("c", "payments", 3, &[PROD]);
    let mut source = prod(&cluster);
    let view = read(&mut source).await;
    assert_eq!(services(&view), ["prod/payments=a,b"]);
    assert_eq!(told(&view.findings), ["NAME002 ecs prod-a/family:payments, port http"]);
    assert!(
        view.findings[0]
            .message
            .contains("belongs to ecs prod-a/payments, port http, which comes before standalone tasks")
    );
    cluster.world().set("c", "createdAt", json!(50));
    let view = read(&mut source).await;
    assert_eq!(services(&view), ["prod/payments=a,b"]);
    assert_eq!(told(&view.findings), ["NAME002 ecs prod-a/family:payments, port http"]);
}

#[tokio::test]
async fn tags_of_a_services_tasks_lie_below_its_own() {
    let cluster = Cluster::payments();
    {
        let mut world = cluster.world();
        let own = json!([{"key": "legation:alias/http", "value": "own:80"}]);
        world.services.get_mut("payments").expect("it")["tags"] = own;
        let task = |alias, name| vec![("alias/http", alias), ("discovery-name/http", name), PROD];
        world.tag("a", &task("task:80", "pay"));
        world.tag("b", &task("other:80", "paid"));
        world.set("a", "createdAt", json!(900));
    }
    let mut source = prod(&cluster);
    let view = read(&mut source).await;
    assert_eq!(services(&view), ["prod/pay=a,b"]);
    let spec = &view.services[&ServiceKey::new("prod", "pay")].spec;
    assert_eq!(spec.aliases[0].to_string(), "own:80");
    let expected = "CFG002 ecs prod-a/payments, task tag legation:discovery-name/http";
    assert_eq!(told(&view.findings), [expected], "what the service says itself is no conflict");
    // The new tasks of a deployment decide as soon as there are any.
    {
        let mut world = cluster.world();
        world.definition("payments:2", 8080);
        let arn = json!(format!("{ARN}task-definition/payments:2"));
        world.services.get_mut("payments").expect("it")["deployments"][0]["taskDefinition"] = arn.clone();
        world.set("b", "taskDefinitionArn", arn);
    }
    let view = read(&mut source).await;
    assert_eq!((services(&view), view.findings.len()), (vec!["prod/paid=a,b".to_owned()], 0));
}

#[tokio::test]
async fn a_new_member_waits_for_its_tags_and_leaves_when_an_event_says_so() {
    let cluster = Cluster::payments();
    let mut running = Running::start(&cluster).await;
    let definition = format!("{ARN}task-definition/payments:1");
    let interface = json!([{"privateIpv4Address": "10.0.0.3"}]);
    let task = |changes: serde_json::Value| {
        let mut all = json!({
            "taskArn": task_arn("c"), "group": "family:payments", "taskDefinitionArn": definition, "startedBy": null,
            "containers": [{"name": "app", "lastStatus": "RUNNING", "networkInterfaces": interface}],
        });
        for (key, value) in changes.as_object().expect("changes") {
            all[key] = value.clone();
        }
        event(all)
    };
    cluster.world().standalone("c", "payments", 3, &[("discovery-name/http", "jobs")]);
    cluster.world().set("c", "version", json!(2)); // ECS answers late: the event is newer
    let asked = cluster.count("DescribeTasks");
    running.tell(task(json!({}))).await;
    assert_eq!(services(&running.view()), ["prod/payments=a,b"], "no event tells tags");
    while services(&running.view()).len() == 1 {
        assert!(running.cell.changed().await, "it ended");
    }
    assert_eq!(services(&running.view()), ["prod/jobs=c", "prod/payments=a,b"]);
    assert_eq!(cluster.count("DescribeTasks"), asked + 1);

    running.tell(task(json!({"version": 5, "desiredStatus": "STOPPED", "stopCode": "UserInitiated"}))).await;
    let view = running.view();
    let jobs = &view.services[&ServiceKey::new("prod", "jobs")];
    assert_eq!(jobs.registrations[0].phase, Phase::Stopping(StopCause::Planned));
    assert_eq!(cluster.count("DescribeTasks"), asked + 1, "and that costs no call");
}

#[tokio::test]
async fn what_tasks_import_is_told_for_the_name_that_their_clients_say() {
    let cluster = Cluster::payments();
    {
        let mut world = cluster.world();
        world.standalone("c", "batch", 3, &[PROD, ("imports", "shared tools")]);
        world.standalone("d", "night", 4, &[PROD, ("role", "client"), ("imports", "shared")]);
        world.standalone("e", "none", 5, &[PROD, ("role", "none"), ("imports", "shared")]);
    }
    let view = read(&mut prod(&cluster)).await;
    assert_eq!(services(&view), ["prod/batch=c", "prod/payments=a,b"]);
    let told: Vec<_> = view
        .imports
        .iter()
        .map(|(namespace, import)| {
            let from: Vec<_> = import.from.iter().map(ToString::to_string).collect();
            format!("{namespace}: {} from {}, {}", import.client.as_str(), from.join(" "), import.origin)
        })
        .collect();
    assert_eq!(
        told,
        [
            "prod: batch from shared tools, ecs prod-a/family:batch, task tag legation:imports",
            "prod: night from shared, ecs prod-a/family:night, task tag legation:imports"
        ]
    );
}
