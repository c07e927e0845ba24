//! Readings and looks against a scripted AWS.

use serde_json::json;

use super::scripts::{Stage, many, refusal};
use super::*;
use crate::model::View;
use crate::source::aws::scripted::Answer;

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("prod", name)
}

fn count(view: &View, name: &str) -> usize {
    view.services[&key(name)].registrations.len()
}

fn codes(view: &View) -> Vec<&str> {
    view.findings.iter().map(|finding| finding.code).collect()
}

#[tokio::test]
async fn a_namespace_becomes_a_view_and_is_found_once() {
    let mut stage = Stage::new("prod.local");
    let first = stage.source.sweep().await.expect("a view");
    let names: Vec<_> = first.services.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["prod/books", "prod/ledger"]);
    assert_eq!(first.services[&key("ledger")].registrations[0].phase, Phase::Running(Health::Healthy));
    assert_eq!(first.clusters.len(), 0, "it holds no cluster completely");
    assert_eq!(stage.source.sweep().await.expect("a view"), first);
    let calls =
        ["ListNamespaces", "ListServices", "DiscoverInstances", "GetServiceAttributes", "ListInstances"];
    assert_eq!(calls.map(|operation| stage.count(operation)), [3, 4, 4, 4, 0]);
}

#[tokio::test]
async fn only_what_has_another_revision_is_read_anew() {
    let mut stage = Stage::new("prod.local");
    let first = stage.source.sweep().await.expect("a view");
    assert!(!stage.source.look().await);
    assert_eq!((stage.count("DiscoverInstances"), stage.count("DiscoverInstancesRevision")), (2, 2));

    {
        let mut world = stage.world();
        world.services.insert("ledger".to_owned(), json!([]));
        world.revision = 2;
    }
    assert!(stage.source.look().await);
    assert_eq!((stage.count("DiscoverInstances"), stage.count("DiscoverInstancesRevision")), (3, 4));
    let view = stage.source.draw();
    assert_eq!(count(&view, "ledger"), 0);
    assert!(Arc::ptr_eq(&view.services[&key("books")], &first.services[&key("books")]));
    assert!(!stage.source.look().await, "once is enough");

    stage.world().fault = Some(("DiscoverInstancesRevision", refusal("AccessDeniedException")));
    assert!(stage.source.look().await, "it is told");
    let view = stage.source.draw();
    assert_eq!(codes(&view), ["SRC001"]);
    assert!(
        view.findings[0].message.contains("servicediscovery:DiscoverInstancesRevision"),
        "{:?}",
        view.findings
    );
    assert!(stage.source.look().await && stage.source.draw().findings.is_empty(), "and it is over");
}

#[tokio::test]
async fn health_is_looked_at_between_readings_where_somebody_judges_it() {
    let mut stage = Stage::new("prod.local");
    stage.source.sweep().await.expect("a view");
    assert!(!stage.source.examine().await, "nothing has changed");
    assert_eq!(stage.count("DiscoverInstances"), 3, "only the ledger has a check");

    for instance in ["ledger", "books"] {
        stage.world().services.get_mut(instance).expect("it")[0]["HealthStatus"] = "UNHEALTHY".into();
    }
    assert!(!stage.source.look().await, "it raises no revision");
    assert!(stage.source.examine().await);
    let view = stage.source.draw();
    let phase = |name: &str| view.services[&key(name)].registrations[0].phase;
    assert_eq!(phase("ledger"), Phase::Running(Health::Unhealthy { gate_over: true }));
    assert_eq!(phase("books"), Phase::Running(Health::Healthy));

    stage.world().broken.insert("DiscoverInstances", refusal("RequestLimitExceeded"));
    assert!(stage.source.examine().await && !stage.source.examine().await, "it is told once");
    let finding = stage.source.draw().findings.remove(0);
    assert_eq!((finding.code, finding.object.as_str()), ("SRC002", "cloudmap prod.local"));
    assert!(finding.message.starts_with("health is seen only when everything is read: servicediscovery:Dis"));
    stage.world().broken.clear();
    assert!(stage.source.examine().await && stage.source.draw().findings.is_empty());

    stage.world().services.insert("ledger".to_owned(), json!([]));
    stage.source.sweep().await.expect("a view");
    let before = stage.count("DiscoverInstances");
    assert!(!stage.source.examine().await);
    assert_eq!(stage.count("DiscoverInstances"), before, "nobody is there");
}

#[tokio::test]
async fn a_failure_ends_a_look_at_health_and_the_next_begins_with_the_others() {
    let mut stage = Stage::new("prod.local");
    stage.world().checked = ["books", "ledger"].into();
    stage.source.sweep().await.expect("a view");
    for name in ["books", "ledger"] {
        stage.world().services.get_mut(name).expect("it")[0]["HealthStatus"] = "UNHEALTHY".into();
    }
    stage.world().mute = ["books"].into();
    assert!(stage.source.examine().await, "books are first, and end it");
    assert!(stage.source.examine().await);
    let view = stage.source.draw();
    let phase = |name: &str| view.services[&key(name)].registrations[0].phase;
    assert_eq!(phase("ledger"), Phase::Running(Health::Unhealthy { gate_over: true }));
    assert_eq!((phase("books"), codes(&view)), (Phase::Running(Health::Healthy), vec!["SRC001"]));
}

#[tokio::test]
async fn a_service_that_one_answer_does_not_hold_is_listed_whole() {
    for size in [999, 1_000, 1_200] {
        let mut stage = Stage::new("prod.local");
        {
            let mut world = stage.world();
            let mut all = many(size, 80);
            all[0]["HealthStatus"] = "UNHEALTHY".into(); // discovery answers with the last thousand
            world.services.insert("ledger".to_owned(), all);
        }
        let first = stage.source.sweep().await.expect("a view");
        assert_eq!(count(&first, "ledger"), size);
        let ill = Phase::Running(Health::Unhealthy { gate_over: true });
        assert_eq!(first.services[&key("ledger")].registrations[0].phase, ill);
        let listings = (stage.count("ListInstances"), stage.count("GetInstancesHealthStatus"));
        let pages = if size < 1_000 { 0 } else { size / 100 };
        assert_eq!(listings, (pages, pages), "{size}");
        if size < 1_000 {
            continue;
        }

        stage.world().services.get_mut("ledger").expect("it")[7]["HealthStatus"] = "UNHEALTHY".into();
        assert!(stage.source.examine().await);
        assert_eq!(stage.count("ListInstances"), pages, "who they are is told by revisions");
        assert_eq!(stage.source.draw().services[&key("ledger")].registrations[7].phase, ill);

        for operation in ["ListInstances", "GetInstancesHealthStatus"] {
            stage.world().broken.insert(operation, refusal("RequestLimitExceeded"));
            let error = stage.source.sweep().await.expect_err("half an answer");
            assert_eq!(error.operation, format!("servicediscovery:{operation}"));
            stage.world().broken.clear();
            assert_eq!(count(&stage.source.draw(), "ledger"), size, "{operation}");
        }
    }
}

#[tokio::test]
async fn any_failure_is_a_failure_of_the_whole() {
    let mut stage = Stage::new("prod.local");
    let first = stage.source.sweep().await.expect("a view");
    for (operation, fault, code) in [
        ("ListServices", refusal("InvalidInput"), "InvalidInput"),
        ("DiscoverInstances", refusal("ServiceNotFound"), "ServiceNotFound"),
        ("DiscoverInstances", Answer::Json(200, json!({})), "bad-response"),
        ("DiscoverInstances", Answer::Json(200, json!({"Instances": [{}]})), "bad-response"),
        ("ListServices", Answer::Json(200, json!({})), "bad-response"),
        ("ListServices", Answer::Json(200, json!({"Services": [{"Name": "x"}]})), "bad-response"),
    ] {
        stage.world().fault = Some((operation, fault));
        let error = stage.source.sweep().await.expect_err("a failure");
        assert_eq!((error.operation, error.code), (format!("servicediscovery:{operation}"), code.to_owned()));
        assert_eq!(stage.source.sweep().await.expect("a view"), first);
    }
}

#[tokio::test]
async fn emptiness_is_believed_only_of_a_namespace_that_exists() {
    let mut stage = Stage::new("prod.local");
    let first = stage.source.sweep().await.expect("a view");
    // Made anew under another id: the old id lists nothing.
    stage.world().id = "ns-2";
    assert_eq!(stage.source.sweep().await.expect("a view"), first);
    stage.world().services.clear();
    assert_eq!(stage.source.sweep().await.expect("a view").services.len(), 0);
}

#[tokio::test]
async fn a_service_that_no_page_lists_has_gone_only_if_discovery_says_so() {
    let mut stage = Stage::new("prod.local");
    let first = stage.source.sweep().await.expect("a view");
    stage.world().unlisted = ["ledger"].into();
    assert_eq!(stage.source.sweep().await.expect("a view"), first, "it was between two pages");
    stage.world().services.remove("ledger");
    assert_eq!(stage.source.sweep().await.expect("a view").services.len(), 1);
}

#[tokio::test]
async fn a_service_that_was_deleted_does_not_keep_others_from_being_looked_at() {
    let mut stage = Stage::new("prod.local");
    let first = stage.source.sweep().await.expect("a view");
    {
        let mut world = stage.world();
        // Books are asked for first.
        world.fault = Some(("DiscoverInstancesRevision", refusal("ServiceNotFound")));
        world.services.insert("ledger".to_owned(), json!([]));
        world.revision = 2;
    }
    assert!(stage.source.look().await);
    let view = stage.source.draw();
    assert_eq!(view.findings, first.findings);
    assert_eq!(count(&view, "ledger"), 0);
}

#[tokio::test]
async fn what_services_say_of_themselves_is_read_with_each_reading_and_stays_when_it_cannot_be() {
    let mut stage = Stage::new("prod.local");
    stage.world().attributes.insert("ledger", json!({"legation.protocol": "http", "owner": "billing"}));
    // Before the first view it is waited for.
    stage.world().fault = Some(("GetServiceAttributes", Answer::Json(200, json!({}))));
    assert_eq!(stage.source.sweep().await.expect_err("not yet").code, "bad-response");
    let protocol = |view: &View| view.services[&key("ledger")].spec.protocol.as_str();
    assert_eq!(protocol(&stage.source.sweep().await.expect("a view")), "http");
    stage.world().attributes.insert("ledger", json!({"legation.protocol": "grpc"}));
    assert_eq!(protocol(&stage.source.sweep().await.expect("a view")), "grpc");

    stage.world().attributes.clear();
    stage.world().broken.insert("GetServiceAttributes", refusal("RequestLimitExceeded"));
    let view = stage.source.sweep().await.expect("a view");
    assert_eq!((protocol(&view), codes(&view)), ("grpc", vec!["SRC002"]));
    assert!(
        view.findings[0].message.contains("servicediscovery:GetServiceAttributes"),
        "{:?}",
        view.findings
    );
    stage.world().broken.clear();
    let view = stage.source.sweep().await.expect("a view");
    assert_eq!((protocol(&view), codes(&view)), ("tcp", vec![]));
}

#[tokio::test]
async fn whoever_may_not_read_attributes_does_without() {
    let mut stage = Stage::new("prod.local");
    stage.world().broken.insert("GetServiceAttributes", refusal("AccessDeniedException"));
    let view = stage.source.sweep().await.expect("a view");
    assert_eq!((view.services.len(), codes(&view)), (2, vec!["SRC001"]));
    assert!(view.findings[0].message.starts_with("the attributes of services stay as they were read last: "));
}
