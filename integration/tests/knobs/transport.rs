//! Zones, probes, budgets and connections.
//!
//! Each observation says what it saw, or nothing. Invariant: it can be made without the knob too.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use hyper::{Method, Request};
use integration::http::send;
use integration::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::shop::Shop;
use crate::{Row, row};

const SHORT: Duration = Duration::from_secs(3);

/// How many of 120 requests to `near` leave the sidecar's zone.
async fn elsewhere(shop: &Shop) -> anyhow::Result<usize> {
    let mut count = 0;
    for _ in 0..120 {
        let answer = shop.ask_with(Method::GET, "/z", &[("host", "near")]).await?;
        let number: usize = answer.header("x-server").context("no server")?.parse()?;
        count += usize::from(number >= 3);
    }
    Ok(count)
}

/// What a counter of a cluster rises by while something is done.
async fn rise(
    shop: &Shop,
    counter: &str,
    done: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<u64> {
    let before = shop.envoy.stat(counter).await?;
    done.await?;
    Ok(shop.envoy.stat(counter).await? - before)
}

pub(crate) fn rows() -> Vec<Row> {
    [zones(), probes(), pools(), protocols()].into_iter().flatten().collect()
}

fn zones() -> Vec<Row> {
    vec![
        row!(
            "loadBalancing.zoneAware.mode",
            "services: { near: { loadBalancing: { zoneAware: { mode: none } } } }\n",
            |shop| {
                let away = elsewhere(shop).await?;
                let is = (40..=80).contains(&away);
                // Without it at least 80 % stay, or this is no comparison.
                anyhow::ensure!(is || away <= 24, "{away} of 120 leave the zone");
                Ok(is.then(|| format!("{away} of 120 leave the zone; otherwise at most 24 may")))
            }
        ),
        row!(
            "loadBalancing.zoneAware.minEndpoints",
            "services: { near: { loadBalancing: { zoneAware: { minEndpoints: 7 } } } }\n",
            |shop| {
                let away = elsewhere(shop).await?;
                Ok((away >= 40).then(|| format!("{away} of 120 leave the zone, for 6 endpoints are too few")))
            }
        ),
    ]
}

fn probes() -> Vec<Row> {
    vec![
        row!(
            "healthCheck",
            "services: { pay: { healthCheck: { path: /health, interval: 100ms, unhealthyThreshold: 2, healthyThreshold: 2 } } }\n",
            |shop| {
                shop.servers[0].fails.store(true, Ordering::Relaxed);
                let out = wait::until(SHORT, "a failing endpoint to be out", async || {
                    let failing = shop.envoy.stat("cluster.shop/pay.health_check.failure").await?;
                    Ok((failing >= 2).then_some(()))
                });
                if out.await.is_err() {
                    return Ok(None);
                }
                shop.answered(10, "/hc").await?;
                let asked = shop.servers[0].seen().iter().filter(|seen| seen.path.starts_with("/hc")).count();
                shop.servers[0].fails.store(false, Ordering::Relaxed);
                let back = wait::until(SHORT, "a healthy endpoint to be back", async || {
                    Ok((shop.answered(4, "/hc").await?[0] > 0).then_some(()))
                });
                let is = asked == 0 && back.await.is_ok();
                Ok(is.then(|| "an endpoint that fails /health is left out, and comes back".to_owned()))
            }
        ),
        row!("healthCheck of TCP", "services: { bytes: { healthCheck: { interval: 100ms } } }\n", |shop| {
            let checked = wait::until(SHORT, "a check", async || {
                let checks = shop.envoy.stat("cluster.shop/bytes.health_check.success").await?;
                Ok((checks > 2).then_some(()))
            });
            Ok(checked.await.is_ok().then(|| "its endpoints are dialled again and again".to_owned()))
        }),
        row!("drain.style", "services: { pay: { drain: { style: draining } } }\n", |shop| {
            let known = shop.leave_the_first(&[(0, "healthy"), (1, "draining")]).await?;
            Ok((known == 2).then(|| "one that is to stop is still known, and gets nothing new".to_owned()))
        }),
        row!(
            "retry.budget",
            "services: { pay: { retry: { budget: { percent: 0, minParallel: 0 } } } }\n",
            |shop| {
                shop.ask(Method::GET, "/b?status=503").await?;
                Ok((shop.attempts("/b") == 1).then(|| "a budget of nothing allows no retry".to_owned()))
            }
        ),
    ]
}

fn pools() -> Vec<Row> {
    vec![
        row!(
            "connectionPool.maxRequestsPerConnection",
            "services: { pay: { connectionPool: { maxRequestsPerConnection: 1 } } }\n",
            |shop| {
                let asked = async { shop.answered(6, "/one").await.map(drop) };
                let closed = rise(shop, "cluster.shop/pay.upstream_cx_max_requests", asked).await?;
                Ok((closed >= 5).then(|| format!("{closed} connections end after 6 requests")))
            }
        ),
        row!(
            "connectionPool.maxConnectionDuration",
            "services: { pay: { connectionPool: { maxConnectionDuration: 300ms } } }\n",
            |shop| {
                let asked = async {
                    shop.answered(2, "/old").await?;
                    let gone = wait::until(Duration::from_secs(1), "old connections to end", async || {
                        let count =
                            shop.envoy.stat("cluster.shop/pay.upstream_cx_max_duration_reached").await?;
                        Ok((count > 0).then_some(()))
                    });
                    gone.await.or(Ok(()))
                };
                let counter = "cluster.shop/pay.upstream_cx_max_duration_reached";
                let ended = rise(shop, counter, asked).await?;
                Ok((ended > 0).then(|| format!("{ended} connections end although they are young")))
            }
        ),
        row!(
            "connectionPool.tcpKeepalive",
            "services: { pay: { connectionPool: { tcpKeepalive: { time: 30s } } } }\n",
            |shop| {
                shop.answered(4, "/k").await?;
                let kept = kept_alive("127.9.9.100:8080").await? + kept_alive("127.9.9.101:8080").await?;
                Ok((kept > 0).then(|| "the kernel has a timer for silent connections".to_owned()))
            }
        ),
    ]
}

/// How many connections to an address the kernel keeps alive: it says which timer each has.
async fn kept_alive(to: &str) -> anyhow::Result<usize> {
    let to: std::net::SocketAddrV4 = to.parse()?;
    let remote = format!("{:08X}:{:04X}", u32::from_le_bytes(to.ip().octets()), to.port());
    let table = tokio::fs::read_to_string("/proc/thread-self/net/tcp").await?;
    let kept = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // sl, local, remote, state, queues, and then timer:when, of which 02 is keepalive.
    let is = |fields: &Vec<&str>| {
        fields.get(2) == Some(&remote.as_str()) && fields.get(5).is_some_and(|timer| timer.starts_with("02:"))
    };
    Ok(kept.filter(is).count())
}

fn protocols() -> Vec<Row> {
    vec![
        row!(
            "protocolOptions.preserveHeaderCase",
            "externals: [{ name: raw, port: 8093, appProtocol: http, endpoints: ['127.9.9.112:8080'] }]\n\
             services: { raw: { aliases: [{ name: raw, port: 8093, address: 127.200.9.9 }], protocolOptions: { preserveHeaderCase: true } } }\n",
            |shop| {
                if shop.control.items("namespaces/shop/hosts").await?.iter().all(|host| host["name"] != "raw")
                {
                    return Ok(None);
                }
                let listener = TcpListener::bind("127.9.9.112:8080").await?;
                let answering = tokio::spawn(async move { what_is_said(listener).await });
                let mut stream = wait::until(SHORT, "the listener of raw", async || {
                    Ok(TcpStream::connect("127.200.9.9:8093").await.ok())
                })
                .await?;
                let asked = b"GET / HTTP/1.1\r\nhost: raw\r\nX-CamelCase: 1\r\nconnection: close\r\n\r\n";
                stream.write_all(asked).await?;
                let head = tokio::time::timeout(SHORT, answering).await???;
                Ok(head.contains("X-CamelCase: 1").then(|| "its server sees X-CamelCase".to_owned()))
            }
        ),
        row!(
            "protocolOptions.maxConcurrentStreams",
            "services: { pay: { appProtocol: http2, protocolOptions: { maxConcurrentStreams: 1 } } }\n",
            |shop| {
                let asked = async { shop.burst(8, "/s?ms=300").await.map(drop) };
                let opened = rise(shop, "cluster.shop/pay.upstream_cx_http2_total", asked).await?;
                Ok((opened >= 6).then(|| format!("8 requests at once take {opened} connections, not 2")))
            }
        ),
        row!(
            "protocolOptions.maxHeaderKilobytes",
            "services: { pay: { protocolOptions: { maxHeaderKilobytes: 1 } } }\n",
            |shop| {
                let request = Request::builder().uri("http://pay:8090/").header("host", "pay:8090");
                let request = request.header("x-long", "x".repeat(2_000)).body(axum::body::Body::empty())?;
                let answer = send(shop.alias, request).await?;
                Ok((answer.status == 431).then(|| "2,000 bytes of headers are 431".to_owned()))
            }
        ),
    ]
}

/// The first request as it is on the wire.
async fn what_is_said(listener: TcpListener) -> anyhow::Result<String> {
    let (mut stream, _) = listener.accept().await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
    Ok(String::from_utf8_lossy(&head).into_owned())
}
