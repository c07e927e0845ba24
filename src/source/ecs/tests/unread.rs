//! Task definitions that can't be read, and ports that a deployment renames.

use serde_json::json;

use super::reading::{payments, prod};
use super::world::{ARN, Cluster};
use crate::model::{Phase, StopCause};

#[tokio::test]
async fn one_definition_that_cannot_be_read_does_not_hide_a_stop() {
    let cluster = Cluster::payments();
    let mut source = prod(&cluster);
    source.sweep(None).await.expect("a view");
    {
        let mut world = cluster.world();
        world.set("a", "desiredStatus", json!("STOPPED"));
        world.set("a", "version", json!(4));
        world.task("x", "batch", 9); // nobody can describe batch:1
        world.set("x", "group", json!("family:batch"));
    }
    let view = source.sweep(None).await.expect("a view");
    assert_eq!(payments(&view)[0].2, Phase::Stopping(StopCause::Planned));
    let findings: Vec<_> =
        view.findings.iter().map(|finding| (finding.code, finding.object.as_str())).collect();
    assert_eq!(findings, [("SRC001", "ecs prod-a, task definition batch:1")]);
}

#[tokio::test]
async fn the_first_reading_wants_every_definition_but_of_standalone_tasks_that_ecs_refuses() {
    let cluster = Cluster::payments();
    cluster.world().task("x", "batch", 9);
    cluster.world().set("x", "group", json!("family:batch"));
    assert!(prod(&cluster).sweep(None).await.is_ok());
    cluster.world().definitions.clear();
    assert_eq!(
        prod(&cluster).sweep(None).await.expect_err("no view").operation,
        "ecs:DescribeTaskDefinition"
    );
}

#[tokio::test]
async fn a_service_whose_new_definition_cannot_be_read_goes_on_as_before() {
    let cluster = Cluster::payments();
    let mut source = prod(&cluster);
    let before = source.sweep(None).await.expect("a view");
    let arn = format!("{ARN}task-definition/payments:2");
    cluster.world().services.get_mut("payments").expect("payments")["deployments"][0]["taskDefinition"] =
        json!(arn);
    let after = source.sweep(None).await.expect("a view");
    assert_eq!(payments(&after), payments(&before));
    assert_eq!(after.services.keys().collect::<Vec<_>>(), before.services.keys().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_deployment_that_renames_a_port_keeps_the_old_tasks() {
    let cluster = Cluster::payments();
    let mut source = prod(&cluster);
    let before = source.sweep(None).await.expect("a view");
    {
        let mut world = cluster.world();
        world.definition("payments:2", 8080);
        let arn = format!("{ARN}task-definition/payments:2");
        let definition = world.definitions.get_mut(&arn).expect("the definition");
        definition["containerDefinitions"][0]["portMappings"][0]["name"] = json!("web");
        world.services.get_mut("payments").expect("payments")["deployments"][0]["taskDefinition"] =
            json!(arn);
    }
    let after = source.sweep(None).await.expect("a view");
    assert_eq!(payments(&after), payments(&before), "old tasks serve until the new ones do");
}
