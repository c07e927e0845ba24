//! Where services are found, and how much may come.
//!
//! Each observation says what it saw, or nothing. Invariant: it can be made without the knob too.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use hyper::Method;
use integration::http::{request, send};
use integration::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::shop::Shop;
use crate::{Row, row};

const SHORT: Duration = Duration::from_secs(3);

pub(crate) fn rows() -> Vec<Row> {
    [limits(), doors(), others(), bytes()].into_iter().flatten().collect()
}

/// The statuses of requests to a host, one after the other.
async fn statuses(shop: &Shop, host: &str, path: &str, count: usize) -> anyhow::Result<Vec<u16>> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(shop.ask_with(Method::GET, path, &[("host", host)]).await?.status.as_u16());
    }
    Ok(statuses)
}

/// Whether `expected` is what a host answers, at once or soon.
async fn comes_to(shop: &Shop, host: &str, path: &str, expected: &[u16]) -> anyhow::Result<bool> {
    let seen = wait::until(SHORT, "the answers", async || {
        let statuses = statuses(shop, host, path, expected.len()).await?;
        Ok((statuses == expected).then_some(()))
    });
    Ok(seen.await.is_ok())
}

fn limits() -> Vec<Row> {
    vec![
        row!(
            "rateLimits at outbound",
            "rateLimits: [{ service: other, requests: 1, per: 1h, burst: 3 }]\n",
            |shop| {
                let statuses = statuses(shop, "other", "/limit", 5).await?;
                Ok((statuses == [200, 200, 200, 429, 429]).then(|| "3 at once go, then 429".to_owned()))
            }
        ),
        row!(
            "filters RateLimit",
            "routes: [{ name: one, parentRefs: [pay], rules: [{ matches: [{ path: { value: /export } }], filters: [{ type: RateLimit, rateLimit: { requests: 2, per: 1h } }] }] }]\n",
            |shop| {
                let export = statuses(shop, "pay", "/export", 3).await?;
                let usual = statuses(shop, "pay", "/usual", 3).await?;
                let is = export == [200, 200, 429] && usual == [200; 3];
                Ok(is.then(|| "429 on its path after 2, none beside it".to_owned()))
            }
        ),
        row!("rateLimits of TCP", "rateLimits: [{ service: bytes, requests: 1, per: 1h }]\n", |shop| {
            let place = alias(shop, "bytes", 8091).await?;
            let seen = wait::until(SHORT, "a connection to be closed", async || {
                Ok((!stays_open(place).await?).then_some(()))
            });
            Ok(seen.await.is_ok().then(|| "a second connection is closed at once".to_owned()))
        }),
        row!(
            "rateLimits at inbound",
            "services: { till: { inbound: { mode: sidecar, port: 15095 }, outlierDetection: { consecutive5xx: 0 } } }\n\
             rateLimits: [{ service: till, at: inbound, requests: 1, per: 1h, burst: 2 }]\n",
            |shop| {
                let limited = comes_to(shop, "till", "/in", &[429]).await?;
                Ok(limited.then(|| "its own sidecar answers 429".to_owned()))
            }
        ),
    ]
}

fn doors() -> Vec<Row> {
    vec![
        row!(
            "services.inbound",
            "services: { till: { inbound: { mode: sidecar, port: 15095 } } }\n",
            |shop| {
                let answered = wait::until(SHORT, "the application", async || {
                    let answer = shop.ask_with(Method::GET, "/in", &[("host", "till")]).await?;
                    Ok((answer.header("x-server") == Some("99")).then_some(()))
                });
                if answered.await.is_err() {
                    return Ok(None);
                }
                let stats = shop.envoy.stats("@inbound/till.*downstream_rq_2xx").await?;
                let counted = stats.values().sum::<u64>();
                Ok((counted > 0).then(|| "an application on localhost answers, and is counted".to_owned()))
            }
        ),
        row!(
            "aliases.localhostPort",
            "services: { pay: { aliases: [{ name: pay, port: 8090, localhostPort: 18090 }] } }\n",
            |_shop| {
                Ok(answers_at("127.0.0.1:18090").await?.then(|| "localhost:18090 answers".to_owned()))
            }
        ),
        row!(
            "aliases.address",
            "services: { pay: { aliases: [{ name: pay, port: 8090, address: 127.200.7.7 }] } }\n",
            |_shop| {
                Ok(answers_at("127.200.7.7:8090").await?.then(|| "127.200.7.7:8090 answers".to_owned()))
            }
        ),
    ]
}

async fn answers_at(place: &str) -> anyhow::Result<bool> {
    let place: SocketAddr = place.parse()?;
    let answered = wait::until(SHORT, "an answer", async || {
        let answer = send(place, request(Method::GET, "pay:8090", "/")?).await;
        Ok(answer.ok().filter(|answer| answer.status == 200).map(drop))
    });
    Ok(answered.await.is_ok())
}

fn others() -> Vec<Row> {
    vec![row!(
        "externals by DNS name",
        "externals: [{ name: far, port: 80, appProtocol: http, endpoints: ['localhost:8095'] }]\n",
        |shop| {
            let answered = wait::until(SHORT, "its server", async || {
                let answer = shop.ask_with(Method::GET, "/", &[("host", "far")]).await?;
                Ok((answer.header("x-server") == Some("99")).then_some(()))
            });
            Ok(answered.await.is_ok().then(|| "a name that the sidecar looks up answers".to_owned()))
        }
    )]
}

/// The place of a TCP alias.
async fn alias(shop: &Shop, name: &str, port: u16) -> anyhow::Result<SocketAddr> {
    let hosts = shop.control.items("namespaces/shop/hosts").await?;
    let host = hosts.iter().find(|host| host["name"] == name).with_context(|| format!("no host {name}"))?;
    let address: std::net::Ipv4Addr = host["address"].as_str().context("no address")?.parse()?;
    Ok((address, port).into())
}

/// Whether a connection is not closed before anything was said.
async fn stays_open(place: SocketAddr) -> anyhow::Result<bool> {
    let mut stream = TcpStream::connect(place).await?;
    let read = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut [0; 1])).await;
    Ok(read.is_err())
}

/// Which server is behind a TCP alias.
async fn server_at(place: SocketAddr) -> anyhow::Result<Option<String>> {
    let Ok(mut stream) = TcpStream::connect(place).await else { return Ok(None) };
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    if tokio::time::timeout(SHORT, stream.read_to_end(&mut answer)).await.is_err() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    Ok(text.lines().find_map(|line| line.strip_prefix("x-server: ")).map(|it| it.trim().to_owned()))
}

fn bytes() -> Vec<Row> {
    vec![
        row!(
            "aliases of TCP services on one port",
            "externals: [{ name: more, port: 8091, endpoints: ['127.9.9.103:8080'] }]\n",
            |shop| {
                let Ok(more) = alias(shop, "more", 8091).await else { return Ok(None) };
                let bytes = alias(shop, "bytes", 8091).await?;
                let both = wait::until(SHORT, "both servers", async || {
                    let (first, second) = (server_at(bytes).await?, server_at(more).await?);
                    Ok((first.as_deref() == Some("2") && second.as_deref() == Some("3")).then_some(()))
                });
                Ok(both.await.is_ok().then(|| "one port, two loopback addresses, two servers".to_owned()))
            }
        ),
        row!("timeouts.idle of TCP", "services: { bytes: { timeouts: { idle: 300ms } } }\n", |shop| {
            let place = alias(shop, "bytes", 8091).await?;
            let closed = wait::until(SHORT, "an idle connection to end", async || {
                let mut stream = TcpStream::connect(place).await?;
                let read = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut [0; 1])).await;
                Ok(read.is_ok().then_some(()))
            });
            Ok(closed.await.is_ok().then(|| "a silent connection is closed".to_owned()))
        }),
        row!(
            "outlierDetection of TCP",
            "externals: [{ name: half, port: 8094, endpoints: ['127.9.9.103:8080', '127.9.9.113:8080'] }]\n\
             services: { half: { retry: { attempts: 0 }, outlierDetection: { consecutive5xx: 2 } } }\n",
            |shop| {
                let Ok(half) = alias(shop, "half", 8094).await else { return Ok(None) };
                wait::until(SHORT, "the listener of half", async || Ok(server_at(half).await?.map(drop)))
                    .await?;
                let ejected = wait::until(SHORT, "the dead endpoint to be ejected", async || {
                    let mut answered = 0;
                    for _ in 0..6 {
                        answered += usize::from(server_at(half).await?.is_some());
                    }
                    Ok((answered == 6).then_some(()))
                });
                Ok(ejected
                    .await
                    .is_ok()
                    .then(|| "an endpoint that refuses connections is left out".to_owned()))
            }
        ),
    ]
}
