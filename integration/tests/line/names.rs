//! How applications reach services by name, and what they are never sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::Method;
use integration::control_plane::Sidecar;
use integration::http::{Answer, request, send};
use integration::load::{Load, Plan, Way};
use integration::scene::play;
use integration::shop::{Shop, serve};
use integration::stage::{Knowledge, PROXY, Stage};
use integration::wait;

async fn by_proxy(host: &str) -> anyhow::Result<Answer> {
    send(PROXY, request(Method::GET, host, &format!("http://{host}/"))?).await
}

#[test]
fn every_protocol_answers_by_name_and_an_unknown_name_is_told() -> anyhow::Result<()> {
    play("names", async |scene| {
        let mut stage = Stage::open(scene.folder(), Knowledge::Aws, None).await?;
        stage.start_sidecars(1).await?;
        let payments = stage.alias("payments", 8080).await?;
        assert_eq!(payments, "127.179.154.254:8080".parse()?, "the published address of prod/payments");
        let ledger = stage.alias("ledger", 50051).await?;
        let mut ways = stage.payments_ways().await?;
        ways.push(Way::http2("ledger", ledger, "ledger:50051").at_rate(50));
        ways.push(Way::lines("redis", stage.alias("redis", 6379).await?).at_rate(50));
        let load = stage.load(ways).await?;
        load.more(60).await?;
        load.is_flawless()?;
        load.stop().await?;
        for member in [&stage.prod.payments, &stage.prod.ledger, &stage.prod.redis] {
            for task in member.running() {
                assert!(task.log.requests() > 0, "{} got nothing", task.arn);
            }
        }

        for host in ["payments:8080", "payments", "payments.prod:8080", "payments.prod"] {
            let answer = by_proxy(host).await?;
            assert_eq!(answer.status, 200, "{host}");
            assert!(answer.text().contains("\"payments\""), "{host}: {}", answer.text());
        }
        for host in ["paymets:8080", "payments:8081", "redis:6379", "example.com"] {
            let answer = by_proxy(host).await?;
            assert_eq!(answer.status, 404, "{host}");
            assert_eq!(answer.header("x-legation-reason"), Some("no-such-name"), "{host}");
        }
        stage.oracle().await?;
        stage.close().await
    })
}

#[test]
fn no_listener_takes_a_port_of_the_tasks_own() -> anyhow::Result<()> {
    play("ports", async |scene| {
        let mut stage = Stage::open(scene.folder(), Knowledge::Aws, None).await?;
        // ECS knows that this task's container listens on 8080.
        let task = stage.prod.payments.tasks[0].clone();
        let known = stage.sidecar_of(&task)?;
        stage.start_sidecar(&known).await?.live().await?;
        stage.synced().await?;
        let listeners = stage.envoys[0].listeners().await?;
        assert_eq!(listeners, ["prod/@http-proxy", "prod/ledger:50051", "prod/redis:6379"]);
        let dump = stage.envoys[0].config_dump().await?.to_string();
        assert!(!dump.contains("prod/payments:8080"), "it was sent nevertheless");
        let proxies = stage.server.items("proxies").await?;
        assert_eq!(proxies[0]["withheldListeners"], serde_json::json!(["prod/payments:8080"]));
        let findings = stage.server.api("findings").await?.to_string();
        assert!(findings.contains("LSN002") && findings.contains(&task), "{findings}");
        assert_eq!(by_proxy("payments:8080").await?.status, 200, "the proxy's way stays open");

        // No source knows this one; its bootstrap tells the port.
        let told = Sidecar { task: "a-task-of-nobody".to_owned(), container_ports: vec![6379], ..known };
        stage.start_sidecar(&told).await?.live().await?;
        stage.synced().await?;
        let listeners = stage.envoys[1].listeners().await?;
        assert_eq!(listeners, ["prod/@http-proxy", "prod/ledger:50051", "prod/payments:8080"]);
        stage.oracle().await?;
        stage.close().await
    })
}

/// A server that refuses everything with 503, and counts.
fn refusing() -> (Router, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let counter = count.clone();
    let refuse = move || {
        counter.fetch_add(1, Ordering::Relaxed);
        std::future::ready(hyper::StatusCode::SERVICE_UNAVAILABLE)
    };
    (Router::new().fallback(refuse), count)
}

#[test]
fn what_a_task_refuses_another_one_answers() -> anyhow::Result<()> {
    play("retries", async |scene| {
        let (router, refused) = refusing();
        serve(1, router).await?;
        serve(2, Router::new().fallback(|| async { "fine" })).await?;
        let endpoints = "[{ address: 127.9.9.1, port: 8080 }, { address: 127.9.9.2, port: 8080 }]";
        let cart = format!(
            "services:\n  cart:\n    aliases: [{{ name: cart, port: 8080 }}]\n    appProtocol: http\n    endpoints: {endpoints}\n"
        );
        let shop = Shop::open(scene, &cart).await?;
        let way = Way::proxy("proxy", PROXY, "cart:8080").at_rate(100);
        let load = Load::start(Plan { ways: vec![way], envoys: vec![shop.envoy.admin()] }).await?;
        load.more(20).await?;
        load.is_flawless()?;
        assert!(refused.load(Ordering::Relaxed) >= 5, "the refusing task was hardly asked");
        assert!(shop.envoy.stat("cluster.shop/cart.upstream_rq_retry_success").await? >= 5);

        // Five refusals in a row, and it is left alone for a while.
        let ejected = async || {
            let active = shop.envoy.stat("cluster.shop/cart.outlier_detection.ejections_active").await?;
            Ok((active == 1).then_some(()))
        };
        wait::until(Duration::from_secs(10), "the refusing task to be ejected", ejected).await?;
        load.is_flawless()?;
        load.stop().await?;
        shop.close().await
    })
}
