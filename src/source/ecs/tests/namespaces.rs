//! Tests of the namespaces that ECS means: the cluster's default one, and those that Service Connect writes as ARNs.
//!
//! It is not about tags. Invariant: everything is read from the JSON that AWS sends.

use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::hearing::event;
use super::rule;
use super::standalone::{PROD, prod, read, services, told};
use super::world::{ARN, Cluster, DEV_NAMESPACE, refusal, task_arn};
use crate::source::ecs::{Discover, NamespaceRule, mailbox};
use crate::source::{Pace, cell};

fn two() -> Vec<NamespaceRule> {
    vec![rule("dev", Discover::Labelled), rule("prod", Discover::Labelled)]
}

#[tokio::test]
async fn the_default_namespace_is_the_lowest_layer_and_asked_for_only_where_it_matters() {
    const DEFAULT: &str = "arn:aws:servicediscovery:eu-west-1:1:namespace/ns-1";
    let cluster = Cluster::payments();
    let auto = json!([{"key": "legation:role", "value": "auto"}]);
    cluster.world().services.get_mut("payments").expect("it")["tags"] = auto;
    cluster.world().default = Some(DEFAULT);
    read(&mut prod(&cluster)).await;
    assert_eq!(cluster.count("DescribeClusters"), 0, "there is but one namespace");

    let mut source = cluster.source(two());
    let view = read(&mut source).await;
    assert_eq!((services(&view), view.findings.len()), (vec!["prod/payments=a,b".to_owned()], 0));
    read(&mut source).await;
    assert_eq!((cluster.count("DescribeClusters"), cluster.count("GetNamespace")), (1, 1), "once a minute");

    // Before the first answer nobody knows which services would be missing.
    let too_often = || ("DescribeClusters", refusal("ThrottlingException"));
    cluster.world().faults = vec![too_often(), too_often()];
    let mut first = cluster.source(two());
    let error = first.sweep(None).await.expect_err("nothing to go on");
    assert_eq!(
        (error.operation.as_str(), error.code.as_str()),
        ("ecs:DescribeClusters", "ThrottlingException")
    );
    assert_eq!(services(&read(&mut first).await), ["prod/payments=a,b"]);

    // One that was deleted is nobody's, and keeps nobody waiting.
    cluster.world().faults = vec![("GetNamespace", refusal("NamespaceNotFound"))];
    let view = read(&mut cluster.source(two())).await;
    assert_eq!(told(&view.findings), ["CFG002 ecs prod-a/payments", "SRC001 ecs prod-a, default namespace"]);

    // One that may not ask knows nothing, and says so; then it asks again.
    cluster.world().faults = vec![("DescribeClusters", refusal("AccessDeniedException"))];
    let mut blind = cluster.source(two());
    let view = read(&mut blind).await;
    assert_eq!(services(&view), Vec::<String>::new());
    assert_eq!(told(&view.findings), ["CFG002 ecs prod-a/payments", "SRC001 ecs prod-a, default namespace"]);
    assert!(view.findings[1].message.contains("ecs:DescribeClusters: AccessDenied"), "{:?}", view.findings);
    assert_eq!(services(&read(&mut blind).await), ["prod/payments=a,b"]);
    // What was known stays.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
    cluster.world().faults = vec![("DescribeClusters", refusal("AccessDeniedException"))];
    let view = read(&mut blind).await;
    assert_eq!(services(&view), ["prod/payments=a,b"]);
    assert_eq!(told(&view.findings), ["SRC001 ecs prod-a, default namespace"]);
}

#[tokio::test]
async fn a_namespace_that_service_connect_writes_as_an_arn_is_asked_for_once() {
    let cluster = Cluster::payments();
    let ports = json!([{"portName": "http", "clientAliases": [{"port": 80}]}]);
    let block = json!({"enabled": true, "namespace": DEV_NAMESPACE, "services": ports});
    cluster.world().connect("payments", block);
    cluster.world().services.get_mut("payments").expect("it")["tags"] = json!([]);
    cluster.world().faults = vec![("GetNamespace", refusal("ServerException")); 2];
    let mut source = cluster.source(two());
    let error = source.sweep(None).await.expect_err("nobody knows where it belongs");
    assert_eq!(error.code, "ServerException");
    cluster.world().faults.clear();
    let asked = cluster.count("GetNamespace");
    for _ in 0..2 {
        let view = read(&mut source).await;
        assert_eq!((services(&view), view.findings.len()), (vec!["dev/http=a,b".to_owned()], 0));
        let alias = view.services.values().next().expect("it").spec.aliases[0].to_string();
        assert_eq!(alias, "http.dev:80");
    }
    assert_eq!(cluster.count("GetNamespace"), asked + 1, "an ARN has one name for life");

    cluster.world().faults = vec![("GetNamespace", refusal("AccessDeniedException"))];
    let view = read(&mut cluster.source(two())).await;
    assert_eq!(services(&view), Vec::<String>::new());
    assert_eq!(told(&view.findings), [format!("SRC001 ecs prod-a, namespace {DEV_NAMESPACE}")]);
}

/// A service payments that Service Connect puts into a namespace.
fn connected(namespace: &str) -> Cluster {
    let cluster = Cluster::payments();
    connect(&cluster, namespace);
    cluster.world().services.get_mut("payments").expect("it")["tags"] = json!([]);
    cluster
}

fn connect(cluster: &Cluster, namespace: &str) {
    let ports = json!([{"portName": "http", "clientAliases": [{"port": 80}]}]);
    cluster.world().connect("payments", json!({"enabled": true, "namespace": namespace, "services": ports}));
}

#[tokio::test]
async fn where_there_is_one_namespace_an_arn_of_another_does_not_join_it() {
    let view = read(&mut prod(&connected(DEV_NAMESPACE))).await;
    assert_eq!(services(&view), Vec::<String>::new());
    assert_eq!(told(&view.findings), ["CFG002 ecs prod-a/payments, Service Connect"]);
    let own = DEV_NAMESPACE.replace("ns-2", "ns-1");
    assert_eq!(services(&read(&mut prod(&connected(&own))).await), ["prod/http=a,b"]);
    // Who may not ask takes it for the only one, and says so.
    let cluster = connected(&own);
    cluster.world().faults = vec![("GetNamespace", refusal("AccessDeniedException"))];
    let mut source = prod(&cluster);
    for _ in 0..3 {
        let view = read(&mut source).await;
        assert_eq!(services(&view), ["prod/http=a,b"]);
        assert_eq!(told(&view.findings), [format!("SRC001 ecs prod-a, namespace {own}")]);
    }
    assert_eq!(cluster.count("GetNamespace"), 1, "once a minute");
}

#[tokio::test]
async fn a_service_stays_where_it_was_while_nobody_knows_where_it_went() {
    let cluster = connected("prod");
    let mut source = cluster.source(two());
    assert_eq!(services(&read(&mut source).await), ["prod/http=a,b"]);
    connect(&cluster, DEV_NAMESPACE);
    cluster.world().faults = vec![("GetNamespace", refusal("ServerException")); 9];
    for _ in 0..3 {
        let view = read(&mut source).await;
        assert_eq!(services(&view), ["prod/http=a,b"]);
        assert_eq!(told(&view.findings), [format!("SRC001 ecs prod-a, namespace {DEV_NAMESPACE}")]);
    }
    cluster.world().faults.clear();
    assert_eq!(services(&read(&mut source).await), ["dev/http=a,b"]);
}

#[tokio::test]
async fn another_default_namespace_counts_when_all_of_a_reading_is_known() {
    let cluster = Cluster::payments();
    cluster.world().standalone("c", "batch", 3, &[PROD]);
    cluster.world().default = Some("dev");
    let (outbox, inbox) = mailbox();
    let source = cluster.source_hearing(two(), inbox);
    let (writer, mut cell) = cell("ecs/prod-a");
    let pace = Pace { interval: Duration::from_millis(200), max_backoff: Duration::from_millis(200) };
    let token = CancellationToken::new();
    let _stopping = token.clone().drop_guard();
    tokio::time::pause();
    tokio::spawn(source.run(writer, pace, token));
    while cell.reading().view.is_none() {
        assert!(cell.changed().await, "it ended");
    }
    // The default is told, and then no reading comes to its end.
    cluster.world().default = Some("prod");
    tokio::time::advance(Duration::from_secs(61)).await;
    let clusters = cluster.count("DescribeClusters");
    cluster.world().faults = vec![("ListTasks", refusal("AccessDeniedException")); 50];
    while cluster.count("DescribeClusters") == clusters || cluster.world().faults.len() > 40 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let definition = format!("{ARN}task-definition/batch:1");
    let change =
        event(json!({"taskArn": task_arn("c"), "taskDefinitionArn": definition, "group": "family:batch",
        "version": 9, "startedBy": null}));
    assert!(outbox.send(vec![change], false).await, "nobody took it in");
    let view = cell.reading().view.expect("a view");
    assert!(services(&view).contains(&"prod/batch=c".to_owned()), "{:?}", services(&view));
}
