//! Where requests go, and what whole namespaces and other services have.
//!
//! Each observation says what it saw, or nothing. Invariant: it can be made without the knob too.

use std::time::Duration;

use hyper::Method;
use integration::wait;

use crate::{Row, row};

const LIMIT: Duration = Duration::from_secs(10);

/// A route of `pay` with one rule.
macro_rules! rule {
    ($rule:literal) => {
        concat!("routes: [{ name: one, parentRefs: [pay], rules: [{ ", $rule, " }] }]\n")
    };
}

pub(crate) fn rows() -> Vec<Row> {
    [matches(), filters(), answers(), destinations(), wholes()].into_iter().flatten().collect()
}

/// Whether one request comes to `other` and another does not.
macro_rules! told_apart {
    ($shop:ident, $to_other:expr, $to_pay:expr) => {{
        let (other, pay) = ($to_other.await?, $to_pay.await?);
        let is = other.header("x-server") == Some("2") && pay.header("x-server") != Some("2");
        is.then(|| "one request comes to the other service, its neighbour does not".to_owned())
    }};
}

fn matches() -> Vec<Row> {
    vec![
        row!(
            "matches.path Exact",
            rule!("matches: [{ path: { type: Exact, value: /x } }], backendRefs: [{ service: other }]"),
            |shop| { Ok(told_apart!(shop, shop.ask(Method::GET, "/x?a=b"), shop.ask(Method::GET, "/x/y"))) }
        ),
        row!(
            "matches.path PathPrefix",
            rule!("matches: [{ path: { value: /v2 } }], backendRefs: [{ service: other }]"),
            |shop| { Ok(told_apart!(shop, shop.ask(Method::GET, "/v2/a"), shop.ask(Method::GET, "/v20"))) }
        ),
        row!(
            "matches.path RegularExpression",
            rule!(
                "matches: [{ path: { type: RegularExpression, value: '/v[0-9]+' } }], backendRefs: [{ service: other }]"
            ),
            |shop| { Ok(told_apart!(shop, shop.ask(Method::GET, "/v31"), shop.ask(Method::GET, "/v31/a"))) }
        ),
        row!(
            "matches.method",
            rule!("matches: [{ method: POST }], backendRefs: [{ service: other }]"),
            |shop| { Ok(told_apart!(shop, shop.ask(Method::POST, "/m"), shop.ask(Method::GET, "/m"))) }
        ),
        row!(
            "matches.headers",
            rule!(
                "matches: [{ headers: [{ name: X-Canary, value: '1' }] }], backendRefs: [{ service: other }]"
            ),
            |shop| {
                Ok(told_apart!(
                    shop,
                    shop.ask_with(Method::GET, "/h", &[("x-canary", "1")]),
                    shop.ask_with(Method::GET, "/h", &[("x-canary", "2")])
                ))
            }
        ),
        row!(
            "matches.headers RegularExpression",
            rule!(
                "matches: [{ headers: [{ type: RegularExpression, name: x-user, value: 'a.*' }] }], backendRefs: [{ service: other }]"
            ),
            |shop| {
                Ok(told_apart!(
                    shop,
                    shop.ask_with(Method::GET, "/h", &[("x-user", "anna")]),
                    shop.ask_with(Method::GET, "/h", &[("x-user", "bert")])
                ))
            }
        ),
        row!(
            "matches.queryParams",
            rule!(
                "matches: [{ queryParams: [{ name: dry, value: 'true' }] }], backendRefs: [{ service: other }]"
            ),
            |shop| {
                Ok(told_apart!(
                    shop,
                    shop.ask(Method::GET, "/q?a=1&dry=true"),
                    shop.ask(Method::GET, "/q?dry=false")
                ))
            }
        ),
    ]
}

fn filters() -> Vec<Row> {
    vec![
        row!(
            "filters RequestHeaderModifier",
            rule!(
                "filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: x-env, value: '100%' }], add: [{ name: x-more, value: b }], remove: [x-debug] } }]"
            ),
            |shop| {
                shop.ask_with(Method::GET, "/f", &[("x-env", "test"), ("x-more", "a"), ("x-debug", "1")])
                    .await?;
                let seen = shop.servers.iter().flat_map(|it| it.seen()).find(|it| it.path.starts_with("/f"));
                let headers = seen.map(|seen| seen.headers).unwrap_or_default();
                let all = |name: &str| {
                    headers
                        .get_all(name)
                        .iter()
                        .filter_map(|it| it.to_str().ok())
                        .collect::<Vec<_>>()
                        .join(",")
                };
                let is = all("x-env") == "100%" && all("x-more") == "a,b" && !headers.contains_key("x-debug");
                Ok(is.then(|| "one is set, one added, one gone".to_owned()))
            }
        ),
        row!(
            "filters ResponseHeaderModifier",
            rule!(
                "filters: [{ type: ResponseHeaderModifier, responseHeaderModifier: { set: [{ name: x-new, value: a }], remove: [x-old] } }]"
            ),
            |shop| {
                let answer = shop.ask(Method::GET, "/f").await?;
                let is = answer.header("x-new") == Some("a") && answer.header("x-old").is_none();
                Ok(is.then(|| "one is there, one gone".to_owned()))
            }
        ),
        row!(
            "filters RequestMirror",
            rule!("filters: [{ type: RequestMirror, requestMirror: { backendRef: { service: other } } }]"),
            |shop| {
                let answer = shop.ask(Method::GET, "/copy").await?;
                let come = wait::until(Duration::from_secs(2), "a copy", async || {
                    let seen = shop.servers[2].seen();
                    Ok(seen.iter().any(|it| it.path.starts_with("/copy")).then_some(()))
                });
                let is = come.await.is_ok() && answer.header("x-server") != Some("2");
                Ok(is.then(|| "the other service gets a copy, and does not answer".to_owned()))
            }
        ),
        row!(
            "filters RequestMirror percent",
            rule!(
                "filters: [{ type: RequestMirror, requestMirror: { backendRef: { service: other }, percent: 30 } }]"
            ),
            |shop| {
                shop.answered(100, "/copy").await?;
                let copies = shop.servers[2].seen().len();
                Ok((5..=60).contains(&copies).then(|| format!("{copies} copies of 100")))
            }
        ),
    ]
}

fn answers() -> Vec<Row> {
    vec![
        row!(
            "filters RequestRedirect",
            rule!(
                "matches: [{ path: { type: Exact, value: /old } }], filters: [{ type: RequestRedirect, requestRedirect: { path: { replaceFullPath: /new }, statusCode: 308 } }]"
            ),
            |shop| {
                let answer = shop.ask(Method::GET, "/old").await?;
                let is =
                    answer.status == 308 && answer.header("location").is_some_and(|it| it.ends_with("/new"));
                Ok(is.then(|| "308 to /new".to_owned()))
            }
        ),
        row!(
            "filters Fault delay",
            rule!("filters: [{ type: Fault, fault: { delay: { fixed: 300ms } } }]"),
            |shop| {
                let (answer, took) = shop.timed(Method::GET, "/d").await?;
                Ok((answer.status == 200 && took >= Duration::from_millis(290))
                    .then(|| format!("200 after {took:.0?}")))
            }
        ),
        row!(
            "filters Fault abort",
            rule!("filters: [{ type: Fault, fault: { abort: { status: 418, percent: 50 } } }]"),
            |shop| {
                let mut aborted = 0;
                for _ in 0..60 {
                    aborted += usize::from(shop.ask(Method::GET, "/a").await?.status == 418);
                }
                Ok((12..=48).contains(&aborted).then(|| format!("{aborted} of 60 are answered 418")))
            }
        ),
    ]
}

fn destinations() -> Vec<Row> {
    vec![
        row!(
            "backendRefs.weight",
            rule!("backendRefs: [{ service: pay, weight: 95 }, { service: other, weight: 5 }]"),
            |shop| {
                let by = shop.answered(400, "/w").await?;
                // 20 are expected; four standard deviations are 17.
                Ok((3..=37).contains(&by[2]).then(|| format!("{} of 400 go to the one of 5 %", by[2])))
            }
        ),
        row!(
            "rules.timeouts.request",
            rule!("matches: [{ path: { value: /slow } }], timeouts: { request: 150ms }"),
            |shop| {
                let slow = shop.ask(Method::GET, "/slow?ms=500").await?;
                let usual = shop.ask(Method::GET, "/usual?ms=500").await?;
                Ok((slow.status == 504 && usual.status == 200)
                    .then(|| "504 on its path, 200 beside it".to_owned()))
            }
        ),
        row!(
            "rules.retry.attempts",
            rule!("matches: [{ path: { value: /once } }], retry: { attempts: 0 }"),
            |shop| {
                shop.ask(Method::GET, "/once?status=503").await?;
                shop.ask(Method::GET, "/thrice?status=503").await?;
                let (once, thrice) = (shop.attempts("/once"), shop.attempts("/thrice"));
                Ok((once == 1 && thrice == 3).then(|| "once on its path, 3 times beside it".to_owned()))
            }
        ),
    ]
}

fn wholes() -> Vec<Row> {
    vec![
        row!(
            "namespaces.defaults",
            "namespaces: { shop: { defaults: { retry: { attempts: 0 } } } }\n",
            |shop| {
                shop.ask(Method::GET, "/fail?status=503").await?;
                Ok((shop.attempts("/fail") == 1).then(|| "every service of it is asked once".to_owned()))
            }
        ),
        row!("namespaces.profile: envoy", "namespaces: { shop: { profile: envoy } }\n", |shop| {
            shop.ask(Method::GET, "/fail?status=503").await?;
            Ok((shop.attempts("/fail") == 1).then(|| "no retries, as Envoy has none by itself".to_owned()))
        }),
        row!(
            "services.aliases",
            "services: { pay: { aliases: [{ name: pay, port: 8090 }, { name: cash, port: 80 }] } }\n",
            |shop| {
                let answer = shop.ask_with(Method::GET, "/", &[("host", "cash")]).await?;
                Ok((answer.status == 200).then(|| "http://cash leads to it too".to_owned()))
            }
        ),
        row!("services.appProtocol", "services: { bytes: { appProtocol: http } }\n", |shop| {
            let answer = shop.ask_with(Method::GET, "/", &[("host", "bytes:8091")]).await?;
            Ok((answer.status == 200).then(|| "it is found by its Host".to_owned()))
        }),
        row!("readiness.maxWait", "services: { pay: { readiness: { maxWait: 1s } } }\n", |shop| {
            let young = "awaiting-health, startedAt: '2026-01-01T00:00:00Z'";
            let is = shop.is_in_rotation(young).await?;
            Ok(is.then(|| "a task that has said nothing for longer is served".to_owned()))
        }),
        row!("readiness.onExpiry", "services: { pay: { readiness: { onExpiry: hold } } }\n", |shop| {
            let is = shop.is_in_rotation("gate-expired").await?;
            Ok((!is).then(|| "a task that never said anything is held back".to_owned()))
        }),
        row!(
            "externals",
            "externals: [{ name: far, port: 8060, appProtocol: http, endpoints: ['127.9.9.103:8080'] }]\n",
            |shop| {
                let answer = shop.ask_with(Method::GET, "/", &[("host", "far:8060")]).await?;
                Ok((answer.header("x-server") == Some("3")).then(|| "its server answers".to_owned()))
            }
        ),
        row!("a policy with a mistake", "", |shop| {
            // Last: what was in force stays, and the mistake is shown.
            if shop.is_first_look() {
                return Ok(None);
            }
            shop.break_policy()?;
            wait::until(LIMIT, "the rejection", async || {
                let findings = shop.control.items("findings").await?;
                Ok(findings.iter().any(|it| it["code"] == "CFG003").then_some(()))
            })
            .await?;
            let answer = shop.ask(Method::GET, "/mark").await?;
            let is = answer.header("x-mark").is_some();
            Ok(is.then(|| "CFG003, and the last good one stays in force".to_owned()))
        }),
    ]
}
