//! The model and what is served for it.

use super::*;
use expect_test::expect;

#[tokio::test]
async fn a_service_with_its_endpoints() {
    let world = world();
    world.publish();
    let (status, mut body) = world.admin("/api/v1/namespaces/prod/services/payments").await;
    assert_eq!(status, StatusCode::OK);
    body["item"].as_object_mut().unwrap().shift_remove("treatment").unwrap(); // see the next one
    expect![[r#"
        {
          "apiVersion": "legation/v1",
          "kind": "Service",
          "generation": 1,
          "item": {
            "name": "payments",
            "namespace": "prod",
            "protocol": "http",
            "aliases": [
              {
                "name": "payments",
                "port": 8080,
                "address": "127.179.154.254"
              }
            ],
            "requestTimeoutMs": 15000.0,
            "idleTimeoutMs": null,
            "retryAttempts": null,
            "readiness": "healthy",
            "createdAt": null,
            "origin": "services.yaml:2",
            "subsets": [],
            "shift": null,
            "counts": {
              "healthy": 1,
              "draining": 0,
              "unhealthy": 0,
              "absent": 2
            },
            "endpoints": [
              {
                "instance": "payments-1",
                "address": "10.0.0.1",
                "port": 8080,
                "zone": "eu-west-1a",
                "state": "healthy",
                "reason": "no-check"
              },
              {
                "instance": "payments-2",
                "address": "10.0.0.2",
                "port": 8080,
                "zone": "eu-west-1b",
                "state": "absent",
                "reason": "stopping"
              },
              {
                "instance": "payments-3",
                "address": "10.0.0.3",
                "port": 8080,
                "zone": "eu-west-1b",
                "state": "absent",
                "reason": "starting"
              }
            ]
          }
        }"#]]
    .assert_eq(&format!("{body:#}"));
    let (_, list) = world.admin("/api/v1/namespaces/prod/services").await;
    assert_eq!(
        (&list["kind"], &list["generation"], &list["next"]),
        (&"ServiceList".into(), &1.into(), &Value::Null)
    );
    assert_eq!(list["items"][1], body["item"]);
}

#[tokio::test]
async fn a_service_with_what_is_in_force() {
    let world = world();
    world.publish();
    let (_, body) = world.admin("/api/v1/namespaces/prod/services/payments").await;
    let treatment = body["item"]["treatment"].as_array().unwrap();
    let request =
        serde_json::json!({ "key": "timeouts.request", "value": "15s", "origin": "services.yaml:4" });
    assert!(treatment.contains(&request), "{treatment:#?}");
}

#[tokio::test]
async fn namespaces_and_hosts() {
    let mut world = world();
    world.publish();
    world.connect("checkout-1", 1, Progress::default());
    let (_, body) = world.admin("/api/v1/namespaces").await;
    expect![[r#"
        [
          {
            "name": "prod",
            "generation": 1,
            "seenAt": "2026-01-01T00:00:00.000000Z",
            "services": 2,
            "endpoints": 3,
            "proxies": 1
          }
        ]"#]]
    .assert_eq(&format!("{:#}", body["items"]));
    let (_, body) = world.admin("/api/v1/namespaces/prod/hosts").await;
    expect![[r#"
        [
          {
            "name": "ledger",
            "address": "127.175.74.75",
            "names": [
              "ledger",
              "ledger.prod"
            ]
          },
          {
            "name": "payments",
            "address": "127.179.154.254",
            "names": [
              "payments",
              "payments.prod"
            ]
          }
        ]"#]]
    .assert_eq(&format!("{:#}", body["items"]));
}

#[tokio::test]
async fn resources_are_canonical_json_with_what_is_nested() {
    let world = world();
    world.publish();
    for kind in ResourceType::ALL {
        let (status, body) = world.admin(&format!("/api/v1/namespaces/prod/resources/{}", kind.word())).await;
        assert_eq!((status, &body["kind"]), (StatusCode::OK, &"ResourceList".into()));
        let items = body["items"].as_array().unwrap();
        assert_eq!(items.is_empty(), kind == ResourceType::Secret, "{kind:?}");
        for item in items {
            item["version"].as_str().unwrap().parse::<Version>().unwrap();
            assert!(!item.to_string().contains("typeUrl"), "an Any is not expanded: {item}");
        }
    }
    let (_, body) = world.admin("/api/v1/namespaces/prod/resources/endpoints").await;
    let text = body.to_string();
    assert!(text.contains("\"clusterName\":\"prod/payments\""), "{text}");
    assert!(text.contains("10.0.0.1") && !text.contains("10.0.0.2"), "only what is served: {text}");
}

#[tokio::test]
async fn sources_and_counts_at_one_look() {
    let mut world = world();
    world.publish();
    world.cloud_map.fail(throttled());
    world.connect("checkout-1", 1, Progress::default());
    let (_, body) = world.admin("/api/v1/status").await;
    let item = &body["item"];
    assert_eq!(item["ready"], true);
    assert_eq!(item["startedAt"], "2026-01-01T00:00:00.000000Z");
    assert_eq!(item["proxies"]["synced"], 1);
    assert_eq!((&item["services"], &item["endpoints"], &item["findings"]), (&2.into(), &3.into(), &2.into()));
    let source = &item["sources"][1];
    assert_eq!((&source["name"], &source["synced"]), (&"cloudmap/prod/map".into(), &true.into()));
    assert_eq!(source["failing"]["code"], "ThrottlingException");
    assert!(source["ageMs"].as_f64().unwrap() < 60_000.0);
    let (_, body) = world.admin("/api/v1/findings").await;
    let codes: Vec<_> =
        body["items"].as_array().unwrap().iter().map(|it| it["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["PORT001", "SRC002"]);
}
