//! C22, C52, C59 and C60: what only a stock Envoy can tell, told incrementally and by the state of the world.
//!
//! What goes over the wire is the other modules' business; here it counts what applications notice. Invariant:
//! whatever a case is about, Envoy refuses nothing, waits for nothing in vain, and no request fails.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use integration::agreement::{disagreements, held};
use integration::backends::{Backends, PORT};
use integration::cable::{Cable, Mood};
use integration::envoy::{Ads, Envoy};
use integration::load::{Load, Plan, Way};
use integration::loopback::{is_own, with_own};
use integration::probe::Protocol;
use integration::scene::{Scene, play_on};
use integration::shop::{Shop, sidecar};
use integration::stage::PROXY;
use integration::wait;
use integration::world::AppProtocol;

use crate::case::{Case, Context};

/// Far below the 15 s after which Envoy gives up waiting.
const SOON: Duration = Duration::from_secs(10);
/// How long a cluster stays that nothing refers to any more, and then some.
const GRACE: Duration = Duration::from_secs(20);
/// C59: from the moment when the server can be reached again.
const RECOVERY: Duration = Duration::from_secs(2);
/// C22: how often, one after the other.
const RENAMED: u32 = 20;
/// C22: how often while nothing gets through, and for how long: longer than a network usually takes to come back.
const HELD_UP: u32 = 3;
const HOLD: Duration = Duration::from_secs(2);
const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

pub(crate) fn cases() -> Vec<Case> {
    let cases = [
        Case::both(22, "rename a cluster: no 503", renamed),
        Case::both(52, "DRAINING roll-out: no panic", rolled_out),
        // It looks at the clock.
        Case::both(59, "cut while warming: recovery", cut_while_warming).alone(),
        Case::both(60, "after churn, Envoy's counters are 0", churned),
    ];
    // Where sidecars share a loopback they take turns.
    if with_own(is_own) { cases.into() } else { cases.into_iter().map(Case::alone).collect() }
}

fn ads(context: &Context) -> Ads {
    match context.protocol {
        Protocol::Delta => Ads::Delta,
        Protocol::Sotw => Ads::Sotw,
    }
}

/// A service of the file.
struct Entry<'a> {
    name: &'a str,
    alias: &'a str,
    protocol: &'a str,
    more: &'a str,
    endpoints: Vec<(Ipv4Addr, &'a str)>,
}

impl<'a> Entry<'a> {
    fn new(name: &'a str, protocol: &'a str, addresses: &[Ipv4Addr]) -> Self {
        let endpoints = addresses.iter().map(|address| (*address, "healthy")).collect();
        Self { name, alias: name, protocol, more: "", endpoints }
    }
}

fn file(entries: &[Entry<'_>]) -> String {
    let mut text = String::from(if entries.is_empty() { "services: {}\n" } else { "services:\n" });
    for Entry { name, alias, protocol, more, endpoints } in entries {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "  {name}:\n    aliases: [{{ name: {alias}, port: {PORT} }}]\n    appProtocol: {protocol}"
        );
        text.push_str(more);
        text.push_str(if endpoints.is_empty() { "    endpoints: []\n" } else { "    endpoints:\n" });
        for (address, health) in endpoints {
            let _ = writeln!(text, "      - {{ address: {address}, port: {PORT}, health: {health} }}");
        }
    }
    text
}

/// The addresses of the shop's aliases.
async fn alias(shop: &Shop, name: &str) -> anyhow::Result<SocketAddr> {
    let hosts = shop.server.items("namespaces/shop/hosts").await?;
    let host = hosts.iter().find(|host| host["name"] == name).and_then(|host| host["address"].as_str());
    Ok(SocketAddr::from((host.context("no such alias")?.parse::<Ipv4Addr>()?, PORT)))
}

/// Waits until Envoy runs with exactly what is served.
async fn agreed(context: &Context, shop: &Shop, limit: Duration) -> anyhow::Result<()> {
    wait::until(limit, "Envoy to hold what is served", async || {
        let found = disagreements(&shop.server, "shop", &shop.envoy, ads(context), &[].into()).await?;
        anyhow::ensure!(found.is_empty(), "{found:#?}");
        Ok(Some(()))
    })
    .await
}

/// Waits until Envoy has exactly these clusters. Its counters say nothing: connections keep them.
async fn clusters(envoy: &Envoy, wanted: &[String]) -> anyhow::Result<()> {
    wait::until(GRACE, format!("only the clusters {wanted:?}"), async || {
        let held: Vec<_> = held(envoy).await?.clusters.into_keys().collect();
        anyhow::ensure!(held == wanted, "{held:?}");
        Ok(Some(()))
    })
    .await
}

/// Waits until Envoy has the clusters of the renamed services, whatever else it has.
async fn has_renamed(shop: &Shop, ending: &str) -> anyhow::Result<()> {
    let wanted = ["cache", "feed", "web"].map(|name| format!("shop/{name}{ending}"));
    wait::until(SOON, format!("the clusters {wanted:?}"), async || {
        let held = held(&shop.envoy).await?.clusters;
        Ok(wanted.iter().all(|name| held.contains_key(name)).then_some(()))
    })
    .await
}

async fn renamed(context: &Context) -> anyhow::Result<()> {
    play_on("c22", async |scene| {
        let backends = Backends::new()?;
        let web = backends.start("web", Some(AppProtocol::Http), 2).await?;
        let feed = backends.start("feed", Some(AppProtocol::Http2), 2).await?;
        let cache = backends.start("cache", None, 1).await?;
        // The services are renamed; the aliases, which applications know, are not.
        let named = |ending: &str| {
            let [web_name, feed_name, cache_name] =
                ["web", "feed", "cache"].map(|name| format!("{name}{ending}"));
            file(&[
                Entry { alias: "web", ..Entry::new(&web_name, "http", &web) },
                Entry { alias: "feed", ..Entry::new(&feed_name, "http2", &feed) },
                Entry { alias: "cache", ..Entry::new(&cache_name, "tcp", &cache) },
            ])
        };
        let (shop, cable) = Shop::open_by_cable(scene, &named(""), ads(context)).await?;
        let ways = vec![
            Way::direct("direct", alias(&shop, "web").await?, "web:8080").at_rate(300),
            Way::proxy("proxy", PROXY, "web:8080").at_rate(300),
            Way::http2("http2", alias(&shop, "feed").await?, "feed:8080").at_rate(100),
            Way::lines("lines", alias(&shop, "cache").await?).at_rate(50),
        ];
        let load = Load::start(Plan { ways, envoys: vec![shop.envoy.admin()] }).await?;
        load.more(50).await?;
        // Many times, since what may go wrong takes a millisecond: a route to a cluster that is not there yet.
        for number in 0..RENAMED {
            let ending = format!("-{number}");
            shop.write(&named(&ending))?;
            has_renamed(&shop, &ending).await?;
        }
        for number in 0..HELD_UP {
            let ending = format!("-held-up-{number}");
            cable.set(Mood::Held);
            shop.write(&named(&ending))?;
            tokio::time::sleep(HOLD).await; // nothing happens meanwhile: that is what it is about
            cable.set(Mood::Through);
            has_renamed(&shop, &ending).await?;
        }
        load.more(50).await?;
        let lost = shop.envoy.stats("^http\\..*\\.no_cluster$").await?;
        let lost: Vec<_> = lost.into_iter().filter(|(_, count)| *count > 0).collect();
        anyhow::ensure!(lost.is_empty(), "routes led to clusters that were not there: {lost:?}");
        // And back, to names that have just been removed.
        for ending in ["-new", ""] {
            shop.write(&named(ending))?;
            let wanted = ["cache", "feed", "web"].map(|name| format!("shop/{name}{ending}"));
            clusters(&shop.envoy, &wanted).await?;
            load.more(100).await?;
            load.is_flawless().with_context(|| format!("renamed to {wanted:?}"))?;
        }
        agreed(context, &shop, SOON).await?;
        load.stop().await?;
        shop.close().await
    })
    .await
}

async fn rolled_out(context: &Context) -> anyhow::Result<()> {
    play_on("c52", async |scene| {
        let backends = Backends::new()?;
        let all = backends.start("web", Some(AppProtocol::Http), 12).await?;
        let mut serving: Vec<_> = all[..6].iter().map(|address| (*address, "healthy")).collect();
        let written = |serving: &[(Ipv4Addr, &'static str)]| {
            file(&[Entry { endpoints: serving.to_vec(), ..Entry::new("web", "http", &[]) }])
        };
        let (shop, _cable) = Shop::open_by_cable(scene, &written(&serving), ads(context)).await?;
        let ways = vec![Way::direct("direct", alias(&shop, "web").await?, "web:8080").at_rate(200)];
        let load = Load::start(Plan { ways, envoys: vec![shop.envoy.admin()] }).await?;
        load.more(50).await?;

        // Half of the new ones first, so that more drain than serve; then the other half.
        for half in [0..3, 3..6] {
            for number in half.clone() {
                serving[number].1 = "draining";
                serving.push((all[6 + number], "healthy"));
            }
            shop.write(&written(&serving))?;
            load.more(50).await?;
            for number in half {
                let (old, new) = (all[number], all[6 + number]);
                let (gone, there) = (format!("{old}:{PORT}"), format!("{new}:{PORT}"));
                wait::until(SOON, format!("{new} instead of {old}"), async || {
                    let endpoints = shop.envoy.endpoints("shop/web").await?;
                    Ok((!endpoints.contains(&gone) && endpoints.contains(&there)).then_some(()))
                })
                .await?;
                backends.stop("web", old).await?;
            }
            load.more(50).await?;
        }
        serving.retain(|(_, health)| *health == "healthy");
        shop.write(&written(&serving))?;
        agreed(context, &shop, SOON).await?;
        load.is_flawless()?;
        for counter in ["lb_healthy_panic", "upstream_rq_retry", "upstream_cx_connect_fail"] {
            let count = shop.envoy.stat(&format!("cluster.shop/web.{counter}")).await?;
            anyhow::ensure!(count == 0, "{counter} is {count}");
        }
        for address in &all[6..] {
            anyhow::ensure!(backends.log("web", *address)?.requests() > 0, "{address} was asked nothing");
        }
        load.stop().await?;
        shop.close().await
    })
    .await
}

/// Waits until no cluster warms and everything is as served; as long as that takes is returned.
async fn recovered(context: &Context, shop: &Shop, cable: &Cable) -> anyhow::Result<Duration> {
    let began = Instant::now();
    cable.set(Mood::Through);
    agreed(context, shop, SOON).await?;
    Ok(began.elapsed())
}

async fn cut_while_warming(context: &Context) -> anyhow::Result<()> {
    play_on("c59", async |scene| {
        let backends = Backends::new()?;
        let web = backends.start("web", Some(AppProtocol::Http), 2).await?;
        let idle = |seconds: u32| {
            let more = format!("    timeouts: {{ idle: {seconds}s }}\n");
            file(&[Entry { more: &more, ..Entry::new("web", "http", &web) }])
        };
        let (shop, cable) = Shop::open_by_cable(scene, &idle(100), ads(context)).await?;
        let ways = vec![Way::direct("direct", alias(&shop, "web").await?, "web:8080").at_rate(100)];
        let load = Load::start(Plan { ways, envoys: vec![shop.envoy.admin()] }).await?;
        for round in 0..5 {
            agreed(context, &shop, SOON).await?;
            load.more(10).await?;
            cable.sever_behind(CLUSTER);
            cable.set(Mood::Refusing);
            shop.write(&idle(200 + round))?;
            tokio::time::timeout(SOON, cable.severed()).await.context("no cluster was sent")?;
            let warming = shop.envoy.stat("cluster_manager.warming_clusters").await?;
            anyhow::ensure!(warming == 1, "round {round}: {warming} clusters warm, so nothing is tested");
            let took = recovered(context, &shop, &cable).await?;
            anyhow::ensure!(took < RECOVERY, "round {round}: recovered only after {took:?}");
        }
        load.is_flawless()?;
        load.stop().await?;
        start_cut_while_warming(scene, context, &shop).await?;
        shop.close().await
    })
    .await
}

/// The same with an Envoy that has just started.
async fn start_cut_while_warming(scene: &Scene, context: &Context, shop: &Shop) -> anyhow::Result<()> {
    let cable = Cable::lay(shop.server.xds()).await?;
    cable.sever_behind(CLUSTER);
    let bootstrap = shop.server.bootstrap_via(&sidecar("shop"), cable.address())?;
    let bootstrap = ads(context).told(&bootstrap)?;
    let mut envoy = Envoy::start(scene.folder(), "late", &bootstrap).await?;
    tokio::time::timeout(SOON, cable.severed()).await.context("no cluster was sent")?;
    let began = Instant::now();
    envoy.live().await?;
    let took = began.elapsed();
    anyhow::ensure!(took < RECOVERY, "LIVE only {took:?} after the cut");
    let oracle = envoy.oracle().await?;
    anyhow::ensure!(oracle.raised.is_empty(), "Envoy raised {:?}", oracle.raised);
    envoy.stop().await
}

async fn churned(context: &Context) -> anyhow::Result<()> {
    play_on("c60", async |scene| {
        let backends = Backends::new()?;
        let web = backends.start("web", Some(AppProtocol::Http), 2).await?;
        let nowhere: Vec<_> = (1..=3).map(|last| Ipv4Addr::new(10, 0, 0, last)).collect();
        let entry = || Entry::new("web", "http", &web);
        let (shop, _cable) = Shop::open_by_cable(scene, &file(&[entry()]), ads(context)).await?;
        let ways = vec![Way::direct("direct", alias(&shop, "web").await?, "web:8080").at_rate(100)];
        let load = Load::start(Plan { ways, envoys: vec![shop.envoy.admin()] }).await?;
        for round in 0..12 {
            let more = format!("    timeouts: {{ idle: {}s }}\n", 100 + round);
            let cart = |protocol, count| Entry::new("cart", protocol, &nowhere[..count]);
            let steps = [
                vec![entry(), cart("http", round % 4)],
                vec![Entry { more: &more, ..entry() }, cart("http", (round + 1) % 4)],
                vec![cart("tcp", 2), entry()],
                vec![Entry { name: "trolley", ..cart("grpc", 1) }, entry()],
                vec![entry()],
            ];
            for step in &steps {
                let before = generation(&shop).await?;
                shop.write(&file(step))?;
                let taken = async || Ok((generation(&shop).await? > before).then_some(()));
                wait::until(SOON, "the edit to be served", taken).await?;
                if round % 3 == 0 {
                    agreed(context, &shop, GRACE).await?;
                }
                // Counters of clusters that go are gone with them.
                let oracle = shop.envoy.oracle().await?;
                anyhow::ensure!(oracle.raised.is_empty(), "Envoy raised {:?}", oracle.raised);
            }
        }
        agreed(context, &shop, GRACE).await?;
        load.more(20).await?;
        load.is_flawless()?;
        load.stop().await?;
        shop.close().await
    })
    .await
}

async fn generation(shop: &Shop) -> anyhow::Result<u64> {
    let namespaces = shop.server.items("namespaces").await?;
    let shop = namespaces.iter().find(|namespace| namespace["name"] == "shop");
    shop.and_then(|shop| shop["generation"].as_u64()).context("no generation of the shop")
}
