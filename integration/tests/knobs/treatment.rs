//! How clients treat a service: timeouts, retries, ejections, balancing, limits and logs.
//!
//! Each observation says what it saw, or nothing. Invariant: it can be made without the knob too.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use hyper::Method;
use integration::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::shop::Shop;
use crate::{Row, row};

const LIMIT: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_secs(2);

/// Whether something comes within a time.
async fn within(time: Duration, what: &str, look: impl AsyncFnMut() -> anyhow::Result<Option<()>>) -> bool {
    wait::until(time, what, look).await.is_ok()
}

/// What is seen by one of two looks: a listener takes its workers a moment to change, and connections stay as they began.
async fn soon(
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<String>>,
) -> anyhow::Result<Option<String>> {
    for _ in 0..2 {
        if let Some(seen) = look().await? {
            return Ok(Some(seen));
        }
    }
    Ok(None)
}

/// How long a connection stays open on which this was asked, if it ends soon.
async fn silence(shop: &Shop, asked: &[u8], limit: Duration) -> anyhow::Result<Option<Duration>> {
    let mut stream = TcpStream::connect(shop.alias).await?;
    stream.write_all(asked).await?;
    let (began, mut rest) = (Instant::now(), Vec::new());
    let ended = tokio::time::timeout(limit, stream.read_to_end(&mut rest)).await;
    Ok(ended.is_ok().then(|| began.elapsed()))
}

pub(crate) fn rows() -> Vec<Row> {
    [timeouts(), retries(), ejections(), balancing(), newcomers(), limits(), logs()]
        .into_iter()
        .flatten()
        .collect()
}

fn timeouts() -> Vec<Row> {
    vec![
        row!("timeouts.request", "services: { pay: { timeouts: { request: 200ms } } }\n", |shop| {
            let (answer, took) = shop.timed(Method::GET, "/slow?ms=700").await?;
            Ok((answer.status == 504).then(|| format!("504 after {took:.0?}, not 200 after 700 ms")))
        }),
        row!(
            "timeouts.backendRequest",
            "services: { pay: { timeouts: { backendRequest: 150ms }, retry: { triggers: [gateway-error] } } }\n",
            |shop| {
                let answer = shop.ask(Method::GET, "/each?ms=600").await?;
                let attempts = shop.attempts("/each");
                Ok((answer.status == 504 && attempts == 3).then(|| "3 attempts, each given up".to_owned()))
            }
        ),
        row!("timeouts.idle", "services: { pay: { timeouts: { idle: 400ms } } }\n", |shop| {
            soon(async || {
                // Envoy lets a connection drain for 5 s before it closes it.
                let limit = Duration::from_secs(7);
                let ended = silence(shop, b"GET /idle HTTP/1.1\r\nhost: pay\r\n\r\n", limit).await?;
                Ok(ended.map(|after| format!("a silent connection closed after {after:.0?}")))
            })
            .await
        }),
        row!(
            "timeouts.streamIdle",
            "services: { pay: { timeouts: { streamIdle: 300ms, request: 0s } } }\n",
            |shop| {
                soon(async || {
                    let ended = silence(shop, b"GET /stall HTTP/1.1\r\nhost: pay\r\n\r\n", SHORT).await?;
                    Ok(ended.map(|after| format!("a silent stream was reset after {after:.0?}")))
                })
                .await
            }
        ),
        row!(
            "timeouts.request: 0s",
            "services: { pay: { timeouts: { request: 0s } } }\nnamespaces: { shop: { defaults: { timeouts: { request: 100ms } } } }\n",
            |shop| {
                // The namespace's 100 ms would end it; the policy without either is the profile's 15 s.
                let answer = shop.ask(Method::GET, "/long?ms=400").await?;
                let other = shop.ask_with(Method::GET, "/long?ms=400", &[("host", "other")]).await?;
                Ok((answer.status == 200 && other.status == 504)
                    .then(|| "no limit, where its neighbour has one".to_owned()))
            }
        ),
        row!("timeouts.connect", "services: { deaf: { timeouts: { connect: 100ms } } }\n", |shop| {
            let began = Instant::now();
            let answer = shop.ask_with(Method::GET, "/", &[("host", "deaf")]).await?;
            let took = began.elapsed();
            let is = answer.status == 503 && took < Duration::from_secs(1);
            Ok(is.then(|| format!("3 attempts given up after {took:.0?}, not 3 s")))
        }),
    ]
}

fn retries() -> Vec<Row> {
    vec![
        row!("retry.attempts", "services: { pay: { retry: { attempts: 0 } } }\n", |shop| {
            shop.ask(Method::POST, "/fail?status=503").await?;
            let attempts = shop.attempts("/fail");
            Ok((attempts == 1).then(|| "a POST answered 503 is sent once, not 3 times".to_owned()))
        }),
        row!(
            "retry.triggers",
            "services: { pay: { retry: { triggers: [gateway-error], codes: [] } } }\n",
            |shop| {
                shop.ask(Method::GET, "/bad?status=502").await?;
                let attempts = shop.attempts("/bad");
                Ok((attempts == 3).then(|| "502 is sent 3 times, not once".to_owned()))
            }
        ),
        row!(
            "retry.triggers (App Mesh's words)",
            "services: { pay: { retry: { triggers: [server-error], codes: [] } } }\n",
            |shop| {
                shop.ask(Method::GET, "/bad?status=500").await?;
                let attempts = shop.attempts("/bad");
                Ok((attempts == 3).then(|| "500 is sent 3 times, not once".to_owned()))
            }
        ),
        row!("retry.codes", "services: { pay: { retry: { codes: [429] } } }\n", |shop| {
            shop.ask(Method::GET, "/busy?status=429").await?;
            let attempts = shop.attempts("/busy");
            Ok((attempts == 3).then(|| "429 is sent 3 times, not once".to_owned()))
        }),
        row!("retry.backoff", "services: { pay: { retry: { backoff: 2s } } }\n", |shop| {
            // The pause is drawn from nothing to 2 s: of four one is long.
            let asked = (0..4).map(|_| shop.timed(Method::GET, "/fail?status=503"));
            let mut longest = Duration::ZERO;
            for (_, took) in futures_util::future::try_join_all(asked).await? {
                longest = longest.max(took);
            }
            Ok((longest > Duration::from_millis(400))
                .then(|| format!("the retries of one took {longest:.1?}")))
        }),
        row!(
            "retry.otherHost",
            "services: { pay: { retry: { otherHost: false, attempts: 1 }, loadBalancing: { type: Random }, outlierDetection: { consecutive5xx: 0 } } }\n",
            |shop| {
                shop.servers[0].fails.store(true, Ordering::Relaxed);
                let mut failed = 0;
                for _ in 0..60 {
                    failed += usize::from(shop.ask(Method::GET, "/one").await?.status == 503);
                }
                Ok((failed > 3).then(|| format!("{failed} of 60 went to the failing host twice, not 0")))
            }
        ),
        row!("retry.idempotentOnly", "services: { pay: { retry: { idempotentOnly: true } } }\n", |shop| {
            shop.ask(Method::POST, "/post?status=503").await?;
            shop.ask(Method::GET, "/get?status=503").await?;
            let (post, get) = (shop.attempts("/post"), shop.attempts("/get"));
            Ok((post == 1 && get == 3).then(|| "POST once, GET 3 times".to_owned()))
        }),
    ]
}

/// How many hosts of `pay` are out.
async fn ejected(shop: &Shop) -> anyhow::Result<u64> {
    shop.envoy.stat("cluster.shop/pay.outlier_detection.ejections_active").await
}

fn ejections() -> Vec<Row> {
    vec![
        row!(
            "outlierDetection.consecutive5xx",
            "services: { pay: { outlierDetection: { consecutive5xx: 2 } } }\n",
            |shop| {
                shop.servers[0].fails.store(true, Ordering::Relaxed);
                // Both of Envoy's threads take turns: of four requests two to four fail there, and the profile allows five.
                for _ in 0..4 {
                    shop.ask(Method::GET, "/x").await?;
                }
                let by = shop.answered(10, "/y").await?;
                let (out, failures) = (ejected(shop).await?, shop.servers[0].seen().len());
                Ok((out == 1 && by[0] == 0 && failures < 5)
                    .then(|| format!("out after {failures} failures, not 5")))
            }
        ),
        row!(
            "outlierDetection.interval, baseEjectionTime",
            "services: { pay: { outlierDetection: { consecutive5xx: 3, interval: 1s, baseEjectionTime: 1s, maxEjectionTime: 1s }, retry: { attempts: 0 } } }\n",
            |shop| {
                shop.servers[0].fails.store(true, Ordering::Relaxed);
                for _ in 0..12 {
                    shop.ask(Method::GET, "/x").await?;
                }
                shop.servers[0].fails.store(false, Ordering::Relaxed);
                anyhow::ensure!(ejected(shop).await? == 1, "nobody is out");
                let began = Instant::now();
                let back = within(Duration::from_secs(5), "it to be back", async || {
                    Ok((ejected(shop).await? == 0).then_some(()))
                })
                .await;
                Ok(back.then(|| format!("out, and back after {:.1?}, not 30 s", began.elapsed())))
            }
        ),
        row!(
            "outlierDetection.maxEjectionPercent",
            "services: { pay: { outlierDetection: { maxEjectionPercent: 100 } } }\n",
            |shop| {
                shop.servers[..2].iter().for_each(|server| server.fails.store(true, Ordering::Relaxed));
                for _ in 0..24 {
                    shop.ask(Method::GET, "/x").await?;
                }
                Ok((ejected(shop).await? == 2).then(|| "both of two are out, not one".to_owned()))
            }
        ),
    ]
}

fn balancing() -> Vec<Row> {
    vec![
        row!(
            "loadBalancing.type: LeastRequest",
            "services: { pay: { loadBalancing: { type: LeastRequest } } }\n",
            |shop| {
                shop.servers[0].is_slow.store(true, Ordering::Relaxed);
                let asked = (0..40_u64).map(async |number| {
                    tokio::time::sleep(Duration::from_millis(15 * number)).await; // one after the other
                    shop.ask(Method::GET, "/least").await
                });
                futures_util::future::try_join_all(asked).await?;
                let slow = shop.servers[0].seen().len();
                Ok((slow < 16).then(|| format!("{slow} of 40 go to the one that is slow, not 20")))
            }
        ),
        row!(
            "loadBalancing.type: ConsistentHash",
            "services: { pay: { loadBalancing: { type: ConsistentHash, consistentHash: { header: x-user } } } }\n",
            |shop| {
                let mut served = std::collections::BTreeSet::new();
                for user in 0..12 {
                    let mut by = std::collections::BTreeSet::new();
                    for _ in 0..4 {
                        let answer =
                            shop.ask_with(Method::GET, "/h", &[("x-user", &format!("user-{user}"))]).await?;
                        by.insert(answer.header("x-server").context("no server")?.to_owned());
                    }
                    if by.len() > 1 {
                        return Ok(None);
                    }
                    served.extend(by);
                }
                Ok((served.len() == 2).then(|| "12 users, each always at one of both servers".to_owned()))
            }
        ),
        row!(
            "loadBalancing.consistentHash.algorithm",
            "services: { pay: { loadBalancing: { type: ConsistentHash, consistentHash: { header: x-user, algorithm: Maglev } } } }\n",
            |shop| {
                let answers =
                    shop.envoy.stats("cluster\\.shop/pay\\.maglev_lb\\.min_entries_per_host$").await?;
                shop.ask_with(Method::GET, "/h", &[("x-user", "a")]).await?;
                Ok((!answers.is_empty()).then(|| "by a table of Maglev, not a ring".to_owned()))
            }
        ),
        row!(
            "loadBalancing.type: Random",
            "services: { pay: { loadBalancing: { type: Random } } }\n",
            |shop| {
                // One connection for each question: round robin takes turns for each of Envoy's two threads.
                let mut runs = 0;
                let mut last = (String::new(), 0);
                for _ in 0..120 {
                    let answer = shop.ask(Method::GET, "/r").await?;
                    let server = answer.header("x-server").context("no server")?.to_owned();
                    last = if server == last.0 { (server, last.1 + 1) } else { (server, 1) };
                    runs = runs.max(last.1);
                }
                Ok((runs >= 4).then(|| format!("{runs} in a row at one server; turns give 3 at most")))
            }
        ),
    ]
}

fn newcomers() -> Vec<Row> {
    vec![
        row!(
            "loadBalancing.slowStart",
            "services: { pay: { loadBalancing: { slowStart: 3s } } }\n",
            |shop| {
                shop.endpoints(&[(0, "healthy")]).await?;
                tokio::time::sleep(Duration::from_millis(3_200)).await; // until the first is new no more
                shop.endpoints(&[(0, "healthy"), (3, "healthy")]).await?;
                let by = shop.answered(100, "/s").await?;
                Ok((by[3] < 35).then(|| format!("{} of 100 go to the new one, not 50", by[3])))
            }
        ),
        row!(
            "loadBalancing.panicThresholdPercent",
            "services: { pay: { loadBalancing: { panicThresholdPercent: 0 } } }\n",
            |shop| {
                shop.endpoints(&[(0, "healthy"), (1, "unhealthy"), (3, "unhealthy")]).await?;
                let by = shop.answered(30, "/p").await?;
                Ok((by[0] == 30).then(|| "30 of 30 go to the one that is healthy".to_owned()))
            }
        ),
    ]
}

/// How many of these answers are 503.
fn refused(answers: &[integration::http::Answer]) -> usize {
    answers.iter().filter(|answer| answer.status == 503).count()
}

fn limits() -> Vec<Row> {
    vec![
        row!(
            "circuitBreaker.maxParallelRequests",
            "services: { pay: { circuitBreaker: { maxParallelRequests: 2 }, retry: { attempts: 0 } } }\n",
            |shop| {
                let refused = refused(&shop.burst(10, "/b?ms=400").await?);
                Ok((refused >= 6).then(|| format!("{refused} of 10 at once are refused")))
            }
        ),
        row!(
            "circuitBreaker.maxConnections, maxPendingRequests",
            "services: { pay: { circuitBreaker: { maxConnections: 1, maxPendingRequests: 1 }, retry: { attempts: 0 } } }\n",
            |shop| {
                let refused = refused(&shop.burst(10, "/c?ms=400").await?);
                Ok((refused >= 4).then(|| {
                    format!("{refused} of 10 at once find neither a connection nor a place in line")
                }))
            }
        ),
        row!(
            "circuitBreaker.maxParallelRetries",
            "services: { pay: { circuitBreaker: { maxParallelRetries: 1 }, retry: { backoff: 300ms } } }\n",
            |shop| {
                shop.burst(12, "/r?status=503&ms=100").await?;
                let attempts = shop.attempts("/r");
                Ok((attempts < 30).then(|| format!("12 requests are {attempts} attempts, not 36")))
            }
        ),
    ]
}

/// The lines of Envoy's log about a path.
async fn logged(shop: &Shop, path: &str) -> anyhow::Result<Vec<serde_json::Value>> {
    let log = shop.envoy.log()?;
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    Ok(lines.filter(|line| line["path"].as_str().is_some_and(|it| it.starts_with(path))).collect())
}

/// Asks by the alias's own listener, whose log is the service's.
async fn asked_by_alias(shop: &Shop, path: &str) -> anyhow::Result<()> {
    let request = integration::http::request(Method::GET, "pay:8090", path)?;
    integration::http::send(shop.alias, request).await.map(drop)
}

fn logs() -> Vec<Row> {
    vec![
        row!("accessLog.enabled", "services: { pay: { accessLog: { enabled: false } } }\n", |shop| {
            soon(async || {
                let before = logged(shop, "/log").await?.len();
                asked_by_alias(shop, "/log").await?;
                let told = within(Duration::from_secs(1), "a line", async || {
                    Ok((logged(shop, "/log").await?.len() > before).then_some(()))
                });
                Ok((!told.await).then(|| "no line of JSON for a request".to_owned()))
            })
            .await
        }),
        row!(
            "accessLog.includeQueryParameters",
            "services: { pay: { accessLog: { includeQueryParameters: true } } }\n",
            |shop| {
                soon(async || {
                    let before = logged(shop, "/query").await?.len();
                    asked_by_alias(shop, "/query?token=1").await?;
                    wait::until(LIMIT, "a line", async || {
                        Ok((logged(shop, "/query").await?.len() > before).then_some(()))
                    })
                    .await?;
                    let lines = logged(shop, "/query").await?;
                    let is =
                        |line: &serde_json::Value| line["path"] == "/query?token=1" && line["status"] == 200;
                    Ok(lines.iter().any(is).then(|| "the line has the query".to_owned()))
                })
                .await
            }
        ),
        row!(
            "accessLog.samplePercent",
            "services: { pay: { accessLog: { samplePercent: 10 } } }\n",
            |shop| {
                soon(async || {
                    let before = logged(shop, "/sample").await?.len();
                    for _ in 0..60 {
                        asked_by_alias(shop, "/sample").await?;
                    }
                    let lines = async || anyhow::Ok(logged(shop, "/sample").await?.len() - before);
                    let all = async || Ok((lines().await? == 60).then_some(()));
                    within(Duration::from_secs(1), "all lines", all).await;
                    let lines = lines().await?;
                    Ok((lines < 30).then(|| format!("{lines} lines for 60 requests")))
                })
                .await
            }
        ),
    ]
}
