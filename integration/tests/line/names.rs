//! How applications reach services by name, and what they are never sent.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use hyper::Method;
use integration::control_plane::{ControlPlane, Setup, Sidecar, Sources};
use integration::envoy::Envoy;
use integration::http::{Answer, request, send};
use integration::load::{Load, Plan, Way};
use integration::scene::play;
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
async fn refusing(address: SocketAddr) -> anyhow::Result<Arc<AtomicU64>> {
    let count = Arc::new(AtomicU64::new(0));
    let counter = count.clone();
    let refuse = move || {
        counter.fetch_add(1, Ordering::Relaxed);
        std::future::ready(hyper::StatusCode::SERVICE_UNAVAILABLE)
    };
    let listener = tokio::net::TcpListener::bind(address).await.context("a server that refuses")?;
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(refuse)).await });
    Ok(count)
}

#[test]
fn what_a_task_refuses_another_one_answers() -> anyhow::Result<()> {
    play("retries", async |scene| {
        let bad: SocketAddr = (Ipv4Addr::new(127, 9, 9, 1), 8080).into();
        let good: SocketAddr = (Ipv4Addr::new(127, 9, 9, 2), 8080).into();
        let refused = refusing(bad).await?;
        let listener = tokio::net::TcpListener::bind(good).await?;
        tokio::spawn(async move {
            axum::serve(listener, axum::Router::new().fallback(|| async { "fine" })).await
        });

        let file = scene.room("services")?.join("shop.yaml");
        std::fs::write(
            &file,
            format!(
                "services:\n  cart:\n    aliases: [{{ name: cart, port: 8080 }}]\n    appProtocol: http\n    endpoints:\n      - {{ address: {}, port: 8080 }}\n      - {{ address: {}, port: 8080 }}\n",
                bad.ip(),
                good.ip()
            ),
        )?;
        let sources = Sources { files: vec![file], ..Sources::default() };
        let server = ControlPlane::start(scene.folder(), &Setup::files().namespace("shop", sources)).await?;
        let sidecar = Sidecar {
            task: "till-1".to_owned(),
            namespace: "shop".to_owned(),
            service: "till".to_owned(),
            zone: "eu-west-1a".to_owned(),
            container_ports: Vec::new(),
        };
        let mut envoy = Envoy::start(scene.folder(), "till", &server.bootstrap(&sidecar)?).await?;
        envoy.live().await?;
        let way = Way::proxy("proxy", PROXY, "cart:8080").at_rate(100);
        let load = Load::start(Plan { ways: vec![way], envoys: vec![envoy.admin()] }).await?;
        load.more(20).await?;
        load.is_flawless()?;
        assert!(refused.load(Ordering::Relaxed) >= 5, "the refusing task was hardly asked");
        assert!(envoy.stat("cluster.shop/cart.upstream_rq_retry_success").await? >= 5);

        // Five refusals in a row, and it is left alone for a while.
        let ejected = async || {
            let active = envoy.stat("cluster.shop/cart.outlier_detection.ejections_active").await?;
            Ok((active == 1).then_some(()))
        };
        wait::until(Duration::from_secs(10), "the refusing task to be ejected", ejected).await?;
        load.is_flawless()?;
        load.stop().await?;
        assert!(envoy.oracle().await?.raised.is_empty());
        envoy.stop().await
    })
}
