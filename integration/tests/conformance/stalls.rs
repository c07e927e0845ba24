//! Clients that read nothing, and messages as long as they get.
//!
//! It is not about clients that are gone. Invariant: a client that is called stalled here has been sent more
//! than it takes, and the case has seen so.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use integration::control_plane::Setup;
use integration::probe::{Ask, Client, Kind, Probe};
use integration::wait;

use crate::case::{Case, Context};
use crate::fleet::{connections, each, percentile, streams};
use crate::rig::{Rig, Services, full};
use crate::vitals::Vitals;

/// How many bytes a stalled client takes without reading them.
const WINDOW: u32 = 64 * 1024;
/// What else may be on its way to it: what the server lets HTTP/2 keep, and a response or two (`xds.md`, 2.7).
const IN_FLIGHT: usize = WINDOW as usize + 64 * 1024 + 3 * 64 * 1024;

pub(crate) fn cases() -> Vec<Case> {
    let (whole, silent) = ("its clusters come in one response", "the client does not say what it holds");
    vec![
        Case::both(40, "many updates, stalled client", stalled_client).alone(),
        Case::both(41, "1 of 1,000 stalled", one_of_many).alone(),
        Case::delta_only(42, "4 MiB client, delta chunks", chunks, whole),
        Case::delta_only(43, "100k irv request", long_request, silent),
    ]
}

/// Admits as many streams as a case opens.
fn open_doors(setup: Setup) -> Setup {
    setup.xds("newStreamsPerSecond", 100_000)
}

/// Waits until so many streams are behind the newest snapshot.
async fn until_stale(rig: &Rig, count: usize) -> anyhow::Result<()> {
    wait::until(Duration::from_secs(20), format!("{count} streams to be behind"), async || {
        let status = rig.server.api("status").await?;
        let stale = status["item"]["proxies"]["stale"].as_u64().context("no count of stale proxies")?;
        ensure!(stale == count as u64, "{stale} are");
        Ok(Some(()))
    })
    .await
}

/// Changes the hosts of every service.
fn rehost_all(services: &mut Services) {
    let names: Vec<_> = services.0.keys().cloned().collect();
    names.iter().for_each(|name| services.rehost(name));
}

/// Every publication changes every assignment: were they queued, 40,000 would wait for each client, some 10 MB.
async fn stalled_client(context: &Context) -> anyhow::Result<()> {
    let (clients, warm, updates) = (8, 50, 200);
    let mut rig = Rig::start_with(context, "server", Services::many(200), open_doors).await?;
    let client = Client { window: Some(WINDOW), ..rig.client() };
    let mut stalled = each(0..clients, |_| {
        let client = client.clone();
        async move { client.open().await }
    })
    .await?;
    for probe in &mut stalled {
        rig.start_up(probe).await?;
    }
    let mut watcher = rig.open().await?;
    rig.watch(&mut watcher).await?;
    for _ in 0..warm {
        rig.publish_to(&mut watcher, rehost_all).await?;
    }
    until_stale(&rig, clients).await?;
    let before = Vitals(&rig.server).memory()?;
    for _ in 0..updates {
        rig.publish_to(&mut watcher, rehost_all).await?;
    }
    let after = Vitals(&rig.server).memory()?;
    ensure!(after < before + 12 * 1024, "{before} KiB grew to {after} KiB while {clients} clients stalled");
    until_stale(&rig, clients).await?;

    // They wake: first comes what was in flight, then the newest and nothing between.
    let newest = rig.open_started().await?.held;
    for probe in &mut stalled {
        let (mut stale, mut fresh, mut count) = (0, 0, 0);
        while !newest.differences(&probe.held).is_empty() {
            let response = probe.take().await?;
            count += 1;
            let mut content = response.resources.iter();
            if content.all(|(name, item)| newest.get(response.kind, name) == Some(item)) {
                fresh += response.bytes;
            } else {
                ensure!(fresh == 0, "old after new: {}", response.told());
                stale += response.bytes;
            }
        }
        ensure!(stale >= WINDOW as usize, "only {stale} bytes were old: it can't have stalled");
        ensure!(stale <= IN_FLIGHT, "{stale} bytes of old versions after the stall");
        ensure!(count <= 40, "{count} responses for {updates} updates");
        probe.silence("it holds the newest").await?;
        println!("C40: {before} KiB, then {after}; {stale} bytes were old, {count} responses");
    }
    drop((stalled, watcher));
    rig.close().await
}

/// A publication that each stream is told of: how long each waited for it.
async fn round(rig: &mut Rig, probes: Vec<Probe>) -> anyhow::Result<(Vec<Probe>, Vec<Duration>)> {
    let published = Instant::now();
    rig.publish(rehost_all)?;
    let told = each(probes, |mut probe| async move {
        let answer = probe.answer(Kind::Endpoint).await?;
        Ok((probe, answer.at))
    });
    let told = told.await?;
    Ok(told.into_iter().map(|(probe, at)| (probe, at - published)).unzip())
}

async fn one_of_many(context: &Context) -> anyhow::Result<()> {
    let (count, rounds) = (1_000, 6);
    let mut rig = Rig::start_with(context, "server", Services::many(150), open_doors).await?;
    let client = Client { window: Some(16 * 1024), ..rig.client() };
    let shared = connections(&client, 20).await?;
    let probes = streams(&client, &shared, count).await?;
    let mut probes = each(probes, |mut probe| async move {
        probe.subscribe(Kind::Endpoint, &[full("s0007"), full("s0042")]);
        probe.answer(Kind::Endpoint).await?;
        Ok(probe)
    })
    .await?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    // The first rounds fill caches.
    for number in 0..rounds + 2 {
        let (back, times) = round(&mut rig, probes).await?;
        probes = back;
        if number >= 2 {
            without.extend(times);
        }
    }
    until_stale(&rig, 0).await?;
    // It asks for everything and reads nothing, on a connection with others, and once on its own.
    let mut stalled = [shared[0].open(&client.clone().id("stalled")).await?, client.open().await?];
    for probe in &mut stalled {
        probe.subscribe::<&str>(Kind::Cluster, &[]);
        probe.subscribe(Kind::Endpoint, &rig.services.names());
        probe.subscribe::<&str>(Kind::Listener, &[]);
    }
    for _ in 0..rounds {
        let (back, times) = round(&mut rig, probes).await?;
        probes = back;
        with.extend(times);
    }
    until_stale(&rig, stalled.len()).await?;
    let (without, with) = (percentile(without, 99), percentile(with, 99));
    println!("C41: p99 of {count} streams {without:?}, beside a stalled one {with:?}");
    ensure!(with <= without.mul_f64(1.5) + Duration::from_millis(150), "p99 was {without:?} and is {with:?}");
    for probe in &mut stalled {
        let all = |held: &integration::probe::Held| held.count(Kind::Endpoint) == rig.services.0.len();
        probe.until("what the stalled one asked for", all).await?;
    }
    drop((probes, stalled, shared));
    rig.close().await
}

/// Clusters of several MiB for a client that takes 4 MiB at a time, as gRPC does unless told otherwise.
async fn chunks(context: &Context) -> anyhow::Result<()> {
    let services = Services::many(6_000);
    let count = services.0.len() + 1;
    let rig = Rig::start_with(context, "server", services, |setup| setup).await?;
    let mut probe = Client { longest: 4 << 20, ..rig.client() }.open().await?;
    let (mut bytes, mut responses) = (0, 0);
    for kind in [Kind::Cluster, Kind::Listener] {
        probe.subscribe::<&str>(kind, &[]);
        let expected = if kind == Kind::Cluster { count } else { count + 1 };
        // Nobody answers before all of it is there: a chunk does not wait for the one before it.
        let mut unanswered = Vec::new();
        let mut had = 0;
        while had < expected {
            let response = probe.next().await?;
            ensure!(response.kind == kind, "{}", response.told());
            had += response.resources.len();
            unanswered.push(response);
        }
        ensure!(unanswered.len() > 1, "{kind} in one response of {} bytes", unanswered[0].bytes);
        let all = unanswered.iter().map(|response| response.bytes).sum::<usize>();
        ensure!(all > 2 << 20, "all of {kind} is only {all} bytes");
        bytes += all;
        responses += unanswered.len();
        unanswered.iter().for_each(|response| probe.ack(response));
    }
    ensure!(bytes > 4 << 20, "all clusters and listeners are only {bytes} bytes");
    println!("C42: {bytes} bytes in {responses} responses");
    probe.follow()?;
    let names = rig.services.names();
    let all = |held: &integration::probe::Held| held.count(Kind::Endpoint) == names.len();
    probe.until("every assignment", all).await?;
    let all = |held: &integration::probe::Held| held.count(Kind::Route) == names.len() + 1;
    probe.until("all routes", all).await?;
    rig.is_all(&probe.held)?;
    drop(probe);
    rig.close().await
}

/// A reconnect that presents 100,000 clusters, of which the server knows three.
async fn long_request(context: &Context) -> anyhow::Result<()> {
    const PRESENTED: usize = 100_000;
    let rig = Rig::start(context, Services::of(&["a", "b"])).await?;
    let known = rig.open_started().await?.held;
    let gone = |number: usize| format!("prod/gone-with-a-long-name-{number:06}");
    let mut presented: HashMap<_, _> = (0..PRESENTED).map(|it| (gone(it), format!("{it:016x}"))).collect();
    presented.extend(known.versions(Kind::Cluster));
    let first = Ask { presented, ..Ask::of(Kind::Cluster) };
    let mut probe = rig.open().await?;
    probe.send(first);
    let answer = probe.answer(Kind::Cluster).await?;
    ensure!(answer.resources.is_empty(), "sent though it is held: {}", answer.told());
    // A source pass that began after the stream did: what is missing is really gone.
    rig.write()?;
    let mut removed = answer.removed;
    while removed.len() < PRESENTED {
        let response = probe.answer(Kind::Cluster).await?;
        ensure!(response.resources.is_empty(), "sent though it is held: {}", response.told());
        ensure!(!response.removed.is_empty(), "an empty response: {}", response.told());
        removed.extend(response.removed);
    }
    ensure!(removed.iter().eq((0..PRESENTED).map(gone).collect::<Vec<_>>().iter()), "others were removed");
    probe.silence("all is said").await?;
    drop(probe);
    rig.close().await
}
