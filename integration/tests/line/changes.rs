//! A service changes while its sidecars run: in place, without a pause.

use std::time::{Duration, Instant};

use axum::Router;
use hyper::Method;
use integration::http::{Answer, request, send};
use integration::load::{Load, Plan, Way};
use integration::scene::play;
use integration::shop::{Shop, serve};
use integration::stage::PROXY;
use integration::wait;

/// Far below the 15 s that Envoy waits for an assignment that is not sent again.
const SOON: Duration = Duration::from_secs(5);
/// How long its cluster stays, as `xds.clusterGrace` has it where nobody says otherwise.
const GRACE: Duration = Duration::from_secs(5);

fn cart(more: &str) -> String {
    format!(
        "services:
  cart:
    aliases: [{{ name: cart, port: 8080 }}]
    appProtocol: http
{more}    endpoints: [{{ address: 127.9.9.1, port: 8080, zone: eu-west-1a }}]
"
    )
}

async fn ask(host: &str) -> anyhow::Result<Answer> {
    send(PROXY, request(Method::GET, host, &format!("http://{host}/"))?).await
}

#[test]
fn a_changed_cluster_is_taken_at_once_and_no_request_fails() -> anyhow::Result<()> {
    play("changes", async |scene| {
        serve(1, Router::new().fallback(|| async { "one" })).await?;
        serve(2, Router::new().fallback(|| async { "two" })).await?;
        let shop = Shop::open(scene, &cart("")).await?;
        let way = Way::proxy("proxy", PROXY, "cart:8080").at_rate(100);
        let load = Load::start(Plan { ways: vec![way], envoys: vec![shop.envoy.admin()] }).await?;

        // Each is another cluster, and after each the assignment, which has not changed, is needed again.
        for (round, idle) in ["100s", "200s", "300s", "400s"].into_iter().enumerate() {
            let began = Instant::now();
            shop.write(&cart(&format!("    timeouts: {{ idle: {idle} }}\n")))?;
            let taken = async || {
                let modified = shop.envoy.stat("cluster_manager.cluster_modified").await?;
                let warming = shop.envoy.stat("cluster_manager.warming_clusters").await?;
                anyhow::ensure!(
                    modified > round as u64 && warming == 0,
                    "{modified} modified, {warming} warm"
                );
                Ok(Some(()))
            };
            wait::until(SOON, format!("the cluster with idle {idle}"), taken).await?;
            println!("idle {idle}: taken after {:?}", began.elapsed());
        }
        load.more(50).await?;

        // Another service comes, and goes.
        assert_eq!(ask("desk").await?.status, 404);
        let desk = "  desk:\n    aliases: [{ name: desk, port: 80 }]\n    appProtocol: http\n    endpoints: [{ address: 127.9.9.2, port: 8080 }]\n";
        shop.write(&(cart("") + desk))?;
        let there = async || Ok((ask("desk").await?.text() == "two").then_some(()));
        wait::until(SOON, "an answer from the new service", there).await?;
        assert!(shop.envoy.listeners().await?.contains(&"shop/desk:80".to_owned()));
        shop.write(&cart(""))?;
        let gone = async || {
            let listeners = shop.envoy.listeners().await?;
            let clusters = shop.envoy.stats("^cluster\\.shop/desk\\.membership_total$").await?;
            Ok((listeners == ["shop/@http-proxy", "shop/cart:8080"] && clusters.is_empty()).then_some(()))
        };
        wait::until(GRACE + SOON, "the service to be gone", gone).await?;
        assert_eq!(ask("desk").await?.status, 404);

        // A file that is wrong changes nothing.
        let before = shop.server.api("namespaces/shop/services").await?;
        shop.write(&cart("    timeots: { idle: 1s }\n"))?;
        let told = async || {
            let status = shop.server.api("status").await?;
            let failing = &status["item"]["sources"][0]["failing"];
            Ok(failing.to_string().contains("timeots").then_some(()))
        };
        wait::until(SOON, "the status to tell of the wrong file", told).await?;
        assert_eq!(shop.server.api("namespaces/shop/services").await?, before);
        load.more(20).await?;
        load.is_flawless()?;
        load.stop().await?;
        shop.close().await
    })
}
