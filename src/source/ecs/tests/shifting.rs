//! Tests of deployments that shift traffic: how they are asked about, and what follows for tasks.
//!
//! It is not about clients; what they do with weights is `translate`'s.
//!
//! Invariant: whatever fails, nobody is taken out who was in, and nobody is let in whose time has not come.

use std::time::Duration;

use serde_json::{Value, json};

use super::hearing::{Running, newcomer};
use super::reading::prod;
use super::world::{ARN, Cluster, definition_arn, refusal, service_arn};
use crate::model::{ServiceKey, ServiceView, Share, Shift, TestHeader, Traits, View, Which};
use crate::source::aws::scripted::Answer;

const DESCRIBE: &str = "DescribeServiceDeployments";
const BLUE: &str = "100";
const GREEN: &str = "200";

fn revision_arn(id: &str) -> String {
    format!("{ARN}service-revision/prod-a/payments/{id}")
}

fn deployment_arn(id: &str) -> String {
    format!("{ARN}service-deployment/prod-a/payments/{id}")
}

/// What ECS says of the deployment from blue to green.
fn deployment(status: &str, stage: &str, weights: Option<[(f64, f64); 2]>) -> Value {
    let revision = |id: &str, weights: Option<(f64, f64)>| {
        let mut revision = json!({"arn": revision_arn(id), "runningTaskCount": 1});
        if let Some((production, test)) = weights {
            revision["requestedProductionTrafficWeight"] = json!(production);
            revision["requestedTestTrafficWeight"] = json!(test);
        }
        revision
    };
    json!({
        "serviceDeploymentArn": deployment_arn("d1"), "serviceArn": service_arn("payments"), "status": status,
        "lifecycleStage": stage, "createdAt": 500,
        "sourceServiceRevisions": [revision(BLUE, weights.map(|[blue, _]| blue))],
        "targetServiceRevision": revision(GREEN, weights.map(|[_, green]| green)),
        "deploymentConfiguration": {"strategy": "BLUE_GREEN"},
    })
}

/// A cluster in which payments goes from blue (task `a`) to green (task `b`).
fn under_way(weights: [(f64, f64); 2]) -> Cluster {
    let cluster = Cluster::payments();
    {
        let mut world = cluster.world();
        world.definition("payments:2", 8080);
        world.set("a", "startedBy", json!(format!("ecs-svc/{BLUE}")));
        world.set("b", "startedBy", json!(format!("ecs-svc/{GREEN}")));
        world.set("b", "taskDefinitionArn", json!(definition_arn("payments:2")));
        let one = |id: &str, status: &str, definition: &str| json!({"id": format!("ecs-svc/{id}"), "status": status, "taskDefinition": definition_arn(definition)});
        let payments = world.services.get_mut("payments").expect("the service");
        payments["deployments"] =
            json!([one(GREEN, "PRIMARY", "payments:2"), one(BLUE, "ACTIVE", "payments:1")]);
        payments["deploymentConfiguration"] = json!({"strategy": "BLUE_GREEN"});
        payments["currentServiceDeployment"] = json!(deployment_arn("d1"));
        world.revisions.insert(BLUE.into(), definition_arn("payments:1"));
        world.revisions.insert(GREEN.into(), definition_arn("payments:2"));
        world.deployments.insert("d1".into(), deployment("IN_PROGRESS", "BAKE_TIME", Some(weights)));
    }
    cluster
}

fn service(view: &View) -> &ServiceView {
    view.services.get(&ServiceKey::new("prod", "payments")).expect("the service")
}

fn traits(view: &View) -> Vec<&Traits> {
    service(view).registrations.iter().map(|registration| &registration.traits).collect()
}

fn shares(view: &View) -> Vec<(Option<&str>, Share)> {
    traits(view).into_iter().map(|it| (it.revision.as_deref(), it.share)).collect()
}

fn weights(view: &View) -> Vec<(String, u32, u32)> {
    let shift: Option<&Shift> = service(view).spec.shift.as_deref();
    let revisions = shift.map(|shift| shift.revisions.clone()).unwrap_or_default();
    revisions.into_iter().map(|it| (it.id.to_string(), it.production, it.test)).collect()
}

fn codes(view: &View) -> Vec<&str> {
    view.findings.iter().map(|finding| finding.code).collect()
}

const BEFORE: [(f64, f64); 2] = [(100.0, 0.0), (0.0, 100.0)];

#[tokio::test]
async fn the_revisions_of_a_deployment_carry_its_weights_and_its_test_header() {
    let cluster = under_way(BEFORE);
    let mut source = prod(&cluster);
    let view = source.sweep(None).await.expect("a view");
    assert_eq!(weights(&view), [(BLUE.into(), 1_000, 0), (GREEN.into(), 0, 1_000)]);
    assert_eq!(shares(&view), [(Some(BLUE), Share::Full), (Some(GREEN), Share::Awaits)]);
    let shift = service(&view).spec.shift.clone().expect("a shift");
    assert_eq!(shift.header, TestHeader { name: "x-amzn-ecs-blue-green-test".into(), value: None });
    let deployments: Vec<_> = traits(&view).iter().map(|it| it.deployment).collect();
    assert_eq!(deployments, [Some(Which::Previous), Some(Which::Primary)]);
    let versions: Vec<_> = traits(&view).iter().map(|it| it.version.as_deref()).collect();
    assert_eq!(versions, [Some("1"), Some("2")], "the revision of the task definition");

    cluster.world().deployments.insert(
        "d1".into(),
        deployment("IN_PROGRESS", "PRODUCTION_TRAFFIC_SHIFT", Some([(87.5, 0.0), (12.5, 100.0)])),
    );
    let view = source.sweep(None).await.expect("a view");
    assert_eq!(weights(&view), [(BLUE.into(), 875, 0), (GREEN.into(), 125, 1_000)]);
    assert_eq!(shares(&view), [(Some(BLUE), Share::Full), (Some(GREEN), Share::Full)]);
    assert_eq!(cluster.count("DescribeServiceRevisions"), 1, "revisions never change");
    assert_eq!(cluster.count("ListServiceDeployments"), 0, "the service says which");
}

#[tokio::test]
async fn service_connect_says_which_requests_are_tests() {
    let cluster = under_way(BEFORE);
    let rules = json!({"header": {"name": "X-Qa", "value": {"exact": "yes"}}});
    let port = json!({"portName": "http", "discoveryName": "payments", "clientAliases": [{"port": 80, "dnsName": "payments", "testTrafficRules": rules}]});
    cluster.world().connect("payments", json!({"enabled": true, "namespace": "prod", "services": [port]}));
    let view = prod(&cluster).sweep(None).await.expect("a view");
    let shift = service(&view).spec.shift.clone().expect("a shift");
    assert_eq!(shift.header, TestHeader { name: "x-qa".into(), value: Some("yes".into()) });
}

#[tokio::test]
async fn a_deployment_that_has_ended_is_asked_about_no_more_and_leaves_all_as_before() {
    let cluster = under_way(BEFORE);
    let mut source = prod(&cluster);
    source.sweep(None).await.expect("a view");
    let after = [(0.0, 0.0), (100.0, 100.0)];
    for (status, is_over) in [
        ("ROLLBACK_IN_PROGRESS", false),
        ("STOPPED", false),
        ("SUCCESSFUL", true),
        ("ROLLBACK_SUCCESSFUL", true),
    ] {
        let arn = deployment_arn(status);
        let told = json!({"serviceDeploymentArn": arn});
        let mut said = deployment(status, "CLEAN_UP", Some(after));
        said["serviceDeploymentArn"] = told["serviceDeploymentArn"].clone();
        cluster.world().deployments.insert(status.into(), said);
        cluster.world().services.get_mut("payments").expect("it")["currentServiceDeployment"] = json!(arn);
        let view = source.sweep(None).await.expect("a view");
        assert_eq!(service(&view).spec.shift.is_none(), is_over, "{status}: what stopped stays as it stands");
        let expected = if is_over { (None, Share::Full) } else { (Some(BLUE), Share::Awaits) };
        assert_eq!(shares(&view)[0], expected, "{status}");
        let before = cluster.count(DESCRIBE);
        let again = source.sweep(None).await.expect("a view");
        assert_eq!(weights(&again), weights(&view), "{status}");
        assert_eq!(cluster.count(DESCRIBE) > before, status == "ROLLBACK_IN_PROGRESS", "{status}");
    }
    assert_eq!(codes(&source.sweep(None).await.expect("a view")), [""; 0]);
}

#[tokio::test]
async fn a_rolling_deployment_asks_nothing_and_changes_nothing() {
    let cluster = under_way(BEFORE);
    for strategy in [json!({"strategy": "ROLLING"}), Value::Null] {
        cluster.world().services.get_mut("payments").expect("it")["deploymentConfiguration"] = strategy;
        let view = prod(&cluster).sweep(None).await.expect("a view");
        assert_eq!((weights(&view), cluster.count(DESCRIBE)), (vec![], 0));
        assert_eq!(shares(&view), [(None, Share::Full), (None, Share::Full)]);
        let deployments: Vec<_> = traits(&view).iter().map(|it| it.deployment).collect();
        assert_eq!(deployments, [Some(Which::Previous), Some(Which::Primary)]);
    }
    assert_eq!(cluster.count("ListServiceDeployments") + cluster.count("DescribeServiceRevisions"), 0);
}

#[tokio::test]
async fn a_service_that_does_not_say_its_deployment_is_asked_for_it() {
    let cluster = under_way(BEFORE);
    cluster.world().services.get_mut("payments").expect("it")["currentServiceDeployment"] = Value::Null;
    let mut source = prod(&cluster);
    let view = source.sweep(None).await.expect("a view");
    assert_eq!(weights(&view).len(), 2);
    assert_eq!(cluster.count("ListServiceDeployments"), 1);
    {
        let mut world = cluster.world();
        let payments = world.services.get_mut("payments").expect("it");
        payments["deployments"].as_array_mut().expect("a list").truncate(1);
    }
    let view = source.sweep(None).await.expect("a view");
    assert_eq!(weights(&view), [], "nothing is under way");
    assert_eq!(cluster.count("ListServiceDeployments"), 1);
}

#[tokio::test]
async fn without_weights_the_stage_says_them() {
    let cluster = under_way(BEFORE);
    for (stage, strategy, blue, green, test) in [
        ("PRE_SCALE_UP", "CANARY", 1_000, 0, 0),
        ("POST_SCALE_UP", "BLUE_GREEN", 1_000, 0, 0),
        ("POST_TEST_TRAFFIC_SHIFT", "BLUE_GREEN", 1_000, 0, 1_000),
        ("PRODUCTION_TRAFFIC_SHIFT", "LINEAR", 1_000, 0, 1_000),
        ("PRODUCTION_TRAFFIC_SHIFT", "BLUE_GREEN", 0, 1_000, 1_000),
        ("BAKE_TIME", "BLUE_GREEN", 0, 1_000, 1_000),
    ] {
        let mut said = deployment("IN_PROGRESS", stage, None);
        said["deploymentConfiguration"]["strategy"] = json!(strategy);
        cluster.world().deployments.insert("d1".into(), said);
        let view = prod(&cluster).sweep(None).await.expect("a view");
        assert_eq!(
            weights(&view),
            [(BLUE.into(), blue, 0), (GREEN.into(), green, test)],
            "{stage} {strategy}"
        );
    }
    let back = deployment("ROLLBACK_IN_PROGRESS", "BAKE_TIME", None);
    cluster.world().deployments.insert("d1".into(), back);
    let view = prod(&cluster).sweep(None).await.expect("a view");
    assert_eq!(weights(&view), [(BLUE.into(), 1_000, 0), (GREEN.into(), 0, 0)]);
}

#[tokio::test]
async fn a_call_that_fails_leaves_the_weights_as_they_were() {
    let cluster = under_way(BEFORE);
    let mut source = prod(&cluster);
    let first = source.sweep(None).await.expect("a view");
    for (code, finding) in [
        ("AccessDeniedException", "SRC001"),
        ("ServerException", "SRC001"),
        ("ThrottlingException", "SRC002"),
    ] {
        cluster
            .world()
            .deployments
            .insert("d1".into(), deployment("IN_PROGRESS", "BAKE_TIME", Some([(0.0, 0.0), (100.0, 0.0)])));
        cluster.world().faults = vec![(DESCRIBE, refusal(code)); 6];
        let view = source.sweep(None).await.expect("a view all the same");
        assert_eq!((weights(&view), shares(&view)), (weights(&first), shares(&first)), "{code}");
        assert_eq!(codes(&view), [finding], "{code}");
        assert!(
            view.findings[0].message.contains("weights are what they were"),
            "{}",
            view.findings[0].message
        );
        cluster.world().faults.clear();
    }
    let gone = Answer::Json(200, json!({"serviceDeployments": [], "failures": []}));
    cluster.world().faults = vec![(DESCRIBE, gone)];
    let view = source.sweep(None).await.expect("a view all the same");
    assert_eq!((weights(&view), codes(&view)), (weights(&first), vec!["SRC001"]));
    let view = source.sweep(None).await.expect("a view");
    assert_eq!((weights(&view), codes(&view)), (vec![(BLUE.into(), 0, 0), (GREEN.into(), 1_000, 0)], vec![]));
}

#[tokio::test]
async fn the_tasks_of_a_new_deployment_wait_until_its_weights_are_known() {
    let cluster = under_way(BEFORE);
    let new = {
        let mut world = cluster.world();
        let payments = world.services.get_mut("payments").expect("it");
        let new = payments["deployments"].clone();
        payments["deployments"] = json!([{"id": format!("ecs-svc/{BLUE}"), "status": "PRIMARY", "taskDefinition": definition_arn("payments:1")}]);
        payments["currentServiceDeployment"] = Value::Null;
        new
    };
    let mut source = prod(&cluster);
    // The description of the service is behind that of its tasks.
    let view = source.sweep(None).await.expect("a view");
    let waiting = [(None, Share::Full), (None, Share::Unknown)];
    assert_eq!(shares(&view), waiting);
    {
        let mut world = cluster.world();
        let payments = world.services.get_mut("payments").expect("it");
        payments["deployments"] = new;
        payments["currentServiceDeployment"] = json!(deployment_arn("d1"));
        world.faults = vec![(DESCRIBE, refusal("ServerException")); 2];
    }
    let view = source.sweep(None).await.expect("a view");
    assert_eq!(
        (shares(&view), codes(&view)),
        (waiting.to_vec(), vec!["SRC001"]),
        "nothing could be read of it"
    );
    cluster.world().faults = vec![(DESCRIBE, refusal("AccessDeniedException"))];
    let view = source.sweep(None).await.expect("a view");
    let all = vec![(None, Share::Full), (None, Share::Full)];
    assert_eq!((shares(&view), codes(&view)), (all, vec!["SRC001"]), "who may not ask does without");
    let view = source.sweep(None).await.expect("a view");
    assert_eq!(shares(&view), [(Some(BLUE), Share::Full), (Some(GREEN), Share::Awaits)]);
}

#[tokio::test]
async fn tasks_are_told_apart_by_their_definition_where_their_deployment_does_not_say_the_revision() {
    let cluster = under_way(BEFORE);
    {
        let mut world = cluster.world();
        world.set("a", "startedBy", json!("ecs-svc/7"));
        world.set("b", "startedBy", json!("ecs-svc/8"));
        let payments = world.services.get_mut("payments").expect("it");
        payments["deployments"][0]["id"] = json!("ecs-svc/8");
        payments["deployments"][1]["id"] = json!("ecs-svc/7");
    }
    let mut source = prod(&cluster);
    let view = source.sweep(None).await.expect("a view");
    assert_eq!(shares(&view), [(Some(BLUE), Share::Full), (Some(GREEN), Share::Awaits)]);
    // The same definition in both: nobody knows which task is which, so none is taken out.
    let one = definition_arn("payments:1");
    cluster.world().set("b", "taskDefinitionArn", json!(one));
    cluster.world().revisions.insert(GREEN.into(), one);
    let view = prod(&cluster).sweep(None).await.expect("a view");
    assert_eq!((weights(&view), codes(&view)), (vec![], vec!["SHIFT001"]));
    assert_eq!(shares(&view), [(None, Share::Full), (None, Share::Full)]);
}

#[tokio::test]
async fn a_first_reading_that_lacks_the_weights_lets_nobody_in_who_is_new() {
    let cluster = under_way(BEFORE);
    cluster.world().faults = vec![(DESCRIBE, refusal("ServerException"))];
    let mut source = prod(&cluster);
    let view = source.sweep(None).await.expect("a view");
    assert_eq!(shares(&view), [(None, Share::Full), (None, Share::Unknown)]);
    let view = source.sweep(None).await.expect("a view");
    assert_eq!(shares(&view), [(Some(BLUE), Share::Full), (Some(GREEN), Share::Awaits)]);
}

#[tokio::test]
async fn a_task_that_is_older_than_the_last_deployment_is_not_new() {
    let cluster = under_way(BEFORE);
    {
        let mut world = cluster.world();
        // After a rollback the last deployment may be one that started none of these.
        let payments = world.services.get_mut("payments").expect("it");
        let last = json!({"id": "ecs-svc/300", "status": "PRIMARY", "createdAt": 2_000, "taskDefinition": definition_arn("payments:1")});
        payments["deployments"] = json!([last]);
        payments["currentServiceDeployment"] = Value::Null;
        world.set("b", "createdAt", json!(2_001));
    }
    let view = prod(&cluster).sweep(None).await.expect("a view");
    assert_eq!(shares(&view), [(None, Share::Full), (None, Share::Unknown)]);
}

#[tokio::test]
async fn an_event_of_a_new_deployment_lets_its_task_in_only_after_a_reading() {
    let cluster = under_way(BEFORE);
    let mut running = Running::start(&cluster).await;
    let calls = cluster.count("DescribeServices");
    let now = jiff::Timestamp::now().to_string();
    running.tell(newcomer(json!({"startedBy": "ecs-svc/300", "createdAt": now}))).await;
    assert_eq!(shares(&running.view())[2], (None, Share::Unknown));
    let early = async {
        while cluster.count("DescribeServices") == calls {
            assert!(running.cell.changed().await, "it ended");
        }
    };
    tokio::time::timeout(Duration::from_secs(20), early).await.expect("an early reading");
}

#[tokio::test]
async fn labels_of_containers_are_traits_of_their_tasks() {
    let cluster = Cluster::payments();
    let definition = definition_arn("payments:1");
    let app = json!({"name": "app", "dockerLabels": {"tier": "gold", "legation.version": "9"}, "portMappings": [{"name": "http", "containerPort": 8080, "appProtocol": "http"}]});
    let side = json!({"name": "side", "dockerLabels": {"tier": "silver"}});
    cluster.world().definitions.get_mut(&definition).expect("it")["containerDefinitions"] =
        json!([app, side]);
    let view = prod(&cluster).sweep(None).await.expect("a view");
    let labels: Vec<_> =
        traits(&view)[0].labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(labels, ["legation.version=9", "tier=gold", "tier=silver"]);
    assert_eq!(traits(&view)[0].version.as_deref(), Some("9"));
}
