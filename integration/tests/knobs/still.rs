//! What a changed route leaves alone: everything but the routes that it is about.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use hyper::Method;
use integration::scene::play;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::shop::Shop;

/// By type how many responses the sidecar was sent, and how many resources were in them.
async fn sent(shop: &Shop) -> anyhow::Result<BTreeMap<String, (u64, u64)>> {
    let proxies = shop.control.items("proxies").await?;
    let types = proxies.first().and_then(|proxy| proxy["types"].as_array()).context("no sidecar")?;
    let count = |of: &Value, key: &str| of[key].as_u64().unwrap_or_default();
    let of = |one: &Value| {
        Some((one["short"].as_str()?.to_owned(), (count(one, "responses"), count(one, "resources"))))
    };
    Ok(types.iter().filter_map(of).collect())
}

#[test]
fn a_changed_route_is_one_push_of_the_routes_it_is_about_and_drains_nothing() -> anyhow::Result<()> {
    play("still", async |scene| {
        let mut shop = Shop::open(scene.folder()).await?;
        shop.apply("").await?;
        let mut open = TcpStream::connect(shop.alias).await?;
        open.write_all(b"GET /stall HTTP/1.1\r\nhost: pay\r\n\r\n").await?;
        let mut first = [0; 12];
        open.read_exact(&mut first).await?;
        ensure!(&first == b"HTTP/1.1 200", "{}", String::from_utf8_lossy(&first));

        let before = sent(&shop).await?;
        // The mark in another header is all that differs: one rule of `pay`.
        shop.apply("").await?;
        let after = sent(&shop).await?;
        for (kind, now) in &after {
            let then = before.get(kind).with_context(|| format!("no {kind} before"))?;
            let (responses, resources) = (now.0 - then.0, now.1 - then.1);
            // Those of its alias, and those of the Host-routed listener.
            let expected = if kind == "RDS" { (1, 2) } else { (0, 0) };
            ensure!(
                (responses, resources) == expected,
                "{kind}: {responses} responses, {resources} resources"
            );
        }
        let draining = shop.envoy.stat("listener_manager.total_listeners_draining").await?;
        ensure!(draining == 0, "{draining} listeners drain");
        // Answered in the same connection, which a draining listener would end.
        let mut rest = [0; 16];
        let read = tokio::time::timeout(std::time::Duration::from_millis(500), async {
            while open.read(&mut rest).await? > 0 {}
            anyhow::Ok(())
        });
        ensure!(read.await.is_err(), "the open request was ended");
        let answer = shop.ask(Method::GET, "/").await?;
        ensure!(answer.status == 200);
        shop.close().await
    })
}
