//! Other processes with the same input: equal bytes, equal versions, and nobody loses what a replica does not
//! know yet.
//!
//! It is not about what is in the bytes, except that they are those of the first release. Invariant: two
//! servers are only compared when both have read the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use integration::aws::FakeAws;
use integration::probe::{Client, Held, Kind, Probe, Protocol, Relay};
use integration::wait;
use integration::world::World;

use crate::case::{Case, Context};
use crate::rig::{Rig, Services, full, listener, routes};

/// How soon a changed file must have been read.
const READS: Duration = Duration::from_secs(10);
/// The versions that every release must give `GOLDEN`.
const VERSIONS: &str = include_str!("../../../tests/golden/versions.txt");
/// The estate of `VERSIONS`, as a services file.
const GOLDEN: &str = include_str!("golden.yaml");

/// How an Envoy asks that was cut while clusters warmed (`xds.md`, item 44).
const WARMING: [Kind; 4] = [Kind::Endpoint, Kind::Listener, Kind::Route, Kind::Cluster];

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::both(36, "shuffle determinism", shuffled),
        Case::both(37, "restart, same versions", restarted),
        Case::both(38, "replica switch mid-update", switched),
        Case::delta_only(39, "lagging replica", lagging, "the client does not say what it holds"),
        Case::both(57, "golden bytes", golden),
    ]
}

/// Services of every kind, so that everything that could be ordered is there twice.
fn assorted() -> Services {
    let mut services = Services::of(&["a", "b", "c", "d", "e"]);
    for (name, protocol) in [("b", "tcp"), ("c", "grpc"), ("d", "http2")] {
        services.get(name).protocol = protocol;
    }
    for name in ["a", "b", "c"] {
        let hosts = &mut services.get(name).hosts;
        hosts.extend((10..30).map(|last| std::net::Ipv4Addr::new(10, 8, last, 30 - last)));
    }
    services
}

/// The same file with its services, and the keys and hosts of each, turned by so much.
fn turned(text: &str, by: usize) -> String {
    let (head, rest) = text.split_once('\n').unwrap_or((text, ""));
    let mut blocks: Vec<Vec<String>> = Vec::new();
    for line in rest.lines() {
        match blocks.last_mut() {
            Some(block) if line.starts_with("   ") => block.push(turned_list(line, by)),
            _ => blocks.push(vec![line.to_owned()]),
        }
    }
    let count = blocks.len().max(1);
    blocks.rotate_left(by % count);
    for block in &mut blocks {
        let keys = &mut block[1..];
        let count = keys.len().max(1);
        keys.rotate_left(by % count);
    }
    format!("{head}\n{}\n", blocks.concat().join("\n"))
}

/// A list on one line, turned.
fn turned_list(line: &str, by: usize) -> String {
    let Some((key, list)) = line.split_once(": [").filter(|_| line.contains("endpoints")) else {
        return line.to_owned();
    };
    let mut items: Vec<_> =
        list.trim_end_matches(']').split("}, ").map(|it| it.trim_end_matches('}')).collect();
    let count = items.len().max(1);
    items.rotate_left(by % count);
    format!("{key}: [{}}}]", items.join("}, "))
}

/// The version of each type as a whole, which only the state of the world tells; the names are known.
async fn whole_versions(client: &Client, held: &Held) -> anyhow::Result<BTreeMap<Kind, String>> {
    let mut versions = BTreeMap::new();
    if client.protocol == Protocol::Sotw {
        for kind in Kind::SERVED {
            let mut probe = client.clone().only(kind).open().await?;
            let names = if kind.has_wildcard() { Vec::new() } else { held.names(kind) };
            probe.subscribe(kind, &names);
            versions.insert(kind, probe.answer(kind).await?.version);
        }
    }
    Ok(versions)
}

/// Everything, with the versions that the protocol tells.
async fn everything(rig: &Rig) -> anyhow::Result<(Held, BTreeMap<Kind, String>)> {
    let held = rig.open_started().await?.held;
    let versions = whole_versions(&rig.client(), &held).await?;
    Ok((held, versions))
}

fn same(one: &(Held, BTreeMap<Kind, String>), other: &(Held, BTreeMap<Kind, String>)) -> anyhow::Result<()> {
    ensure!(one.0 == other.0, "{:?}", one.0.differences(&other.0));
    ensure!(one.1 == other.1, "versions of whole types: {:?} and {:?}", one.1, other.1);
    Ok(())
}

async fn shuffled(context: &Context) -> anyhow::Result<()> {
    let rig = Rig::start(context, assorted()).await?;
    let first = everything(&rig).await?;
    let mut probe = rig.open_started().await?;
    for by in 1..5 {
        let other = turned(&rig.services.yaml(), by);
        ensure!(other != rig.services.yaml(), "nothing was turned");
        let mut second = Rig::prepare(context, &format!("turned-{by}"), rig.services.clone(), |setup| setup)?;
        second.write_text(&other)?;
        second.server.run().await?;
        second.server.ready().await?;
        same(&first, &everything(&second).await?).with_context(|| format!("turned by {by}"))?;
        second.close().await?;

        // The same server reads it in that order, and has nothing to say.
        let before = rig.readings("services.yaml").await?;
        rig.write_text(&other)?;
        let read = async || Ok((rig.readings("services.yaml").await? > before).then_some(()));
        wait::until(READS, "the turned file to be read", read).await?;
        probe.silence("the same in another order").await?;
    }
    drop(probe);
    rig.close().await
}

async fn restarted(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, assorted()).await?;
    let mut first = everything(&rig).await?;
    for gently in [true, false] {
        if gently {
            rig.server.stop().await?
        } else {
            rig.server.kill()?
        }
        rig.server.run().await?;
        rig.server.ready().await?;
        same(&first, &everything(&rig).await?)?;

        // Who comes back with everything is told so, and no more.
        let mut probe = rig.open().await?;
        probe.adopt(first.0);
        for kind in Kind::SERVED {
            let names: Vec<_> = match kind.has_wildcard() {
                true => Vec::new(),
                false => probe.held.names(kind).into_iter().map(str::to_owned).collect(),
            };
            probe.resume(kind, &names);
            if context.protocol == Protocol::Sotw || kind.has_wildcard() {
                let answer = probe.answer(kind).await?;
                let held = context.protocol == Protocol::Delta;
                ensure!(answer.resources.is_empty() == held, "after a restart: {}", answer.told());
            }
        }
        if context.protocol == Protocol::Delta {
            probe.silence("everything is held").await?;
        }
        rig.is_all(&probe.held)?;
        first.0 = std::mem::take(&mut probe.held);
    }
    rig.close().await
}

/// Comes back with what it holds, in that order, and asks for what that refers to.
fn come_back(probe: &mut Probe, held: Held, order: [Kind; 4]) -> anyhow::Result<()> {
    probe.adopt(held);
    for kind in order {
        let names: Vec<_> = match kind.has_wildcard() {
            true => Vec::new(),
            false => probe.held.names(kind).into_iter().map(str::to_owned).collect(),
        };
        // Nothing held is nothing asked for.
        if kind.has_wildcard() || !names.is_empty() {
            probe.resume(kind, &names);
        }
    }
    probe.follow()
}

async fn switched(context: &Context) -> anyhow::Result<()> {
    let services = Services::of(&["a", "b", "c"]);
    let no_grace = |setup: integration::control_plane::Setup| setup.xds("clusterGrace", "0s");
    let one = Rig::start_with(context, "one", services.clone(), no_grace).await?;
    let other = Rig::start_with(context, "other", services, no_grace).await?;
    let relay = Relay::start(one.server.xds()).await?;
    let mut held = one.open_started().await?.held;
    let mut rigs = [one, other];
    let mut watchers = [rigs[0].open().await?, rigs[1].open().await?];
    for (rig, watcher) in rigs.iter().zip(&mut watchers) {
        rig.watch(watcher).await?;
    }
    // The update is cut after each number of responses that a client can have had of it.
    for taken in 0..6 {
        let (from, to) = (taken % 2, (taken + 1) % 2);
        relay.lead_to(rigs[from].server.xds());
        let client = Client { server: relay.address(), ..rigs[from].client() };
        let mut probe = client.open().await?;
        come_back(&mut probe, held, WARMING)?;
        settle(&rigs[from], &mut probe).await.with_context(|| format!("before update {taken}"))?;

        let (goes, comes) = (format!("new-{}", taken.max(1) - 1), format!("new-{taken}"));
        let edit = |services: &mut Services| {
            services.touch("a");
            services.rehost("c");
            services.remove(&goes);
            services.add(&comes);
        };
        for (rig, watcher) in rigs.iter_mut().zip(&mut watchers) {
            rig.publish_to(watcher, edit).await?;
        }
        for _ in 0..taken {
            probe.take().await?;
            probe.follow()?;
        }
        relay.lead_to(rigs[to].server.xds());
        let lost = probe.end().await?;
        ensure!(lost.status.code() != tonic::Code::Ok, "a cut connection ended well");
        let mut next = client.open().await?;
        come_back(&mut next, std::mem::take(&mut probe.held), WARMING)?;
        // A source pass that began after the stream did: only then is what is missing really gone.
        rigs[to].write()?;
        settle(&rigs[to], &mut next).await.with_context(|| format!("cut after {taken} responses"))?;
        held = std::mem::take(&mut next.held);
    }
    drop(watchers);
    let [one, other] = rigs;
    one.close().await?;
    other.close().await
}

/// Accepts and follows until the client holds exactly what a new client of that server is given; then nothing
/// more may come.
async fn settle(rig: &Rig, probe: &mut Probe) -> anyhow::Result<()> {
    let fresh = rig.open_started().await?.held;
    let differences = |held: &Held| fresh.differences(held);
    while !differences(&probe.held).is_empty() {
        let next = probe.take().await;
        next.with_context(|| format!("while it differs: {:?}", differences(&probe.held)))?;
        probe.follow()?;
        // What was on its way when it was no longer asked for is ignored.
        for kind in [Kind::Endpoint, Kind::Route] {
            let asked = probe.names(kind);
            let strays: Vec<_> = probe.held.names(kind).into_iter().map(str::to_owned).collect();
            for stray in strays.iter().filter(|name| !asked.contains(name)) {
                probe.held.forget(kind, stray);
            }
        }
    }
    // What state of the world sends again at a reconnect is the same again.
    for late in probe.barrier().await? {
        let again = probe.protocol() == Protocol::Sotw || late.kind == Kind::Endpoint;
        let nothing = late.resources.is_empty() && late.removed.is_empty();
        ensure!(again || nothing, "later: {}", late.told());
    }
    ensure!(differences(&probe.held).is_empty(), "afterwards: {:?}", differences(&probe.held));
    probe.silence("it holds everything").await
}

async fn lagging(context: &Context) -> anyhow::Result<()> {
    let ahead = Rig::start(context, Services::of(&["a", "late", "never"])).await?;
    let mut held = ahead.open_started().await?.held;

    // The second replica has been ready, but one of its sources has been stuck since.
    let world = World::new();
    world.create_cluster("prod-a")?;
    let aws = FakeAws::start(world).await?;
    let relay = Relay::start(aws.url().trim_start_matches("http://").parse()?).await?;
    let mut behind = Rig::start_with(context, "behind", Services::of(&["a"]), |mut setup| {
        setup.aws = Some(format!("http://{}", relay.address()));
        let sources = setup.namespaces.values_mut();
        sources.for_each(|sources| sources.clusters.push("prod-a".to_owned()));
        setup.xds("clusterGrace", "0s")
    })
    .await?;
    for (name, service) in &ahead.services.0 {
        if behind.services.0.contains_key(name) {
            behind.services.0.insert(name.clone(), service.clone());
        }
    }
    let mut watcher = behind.open().await?;
    behind.watch(&mut watcher).await?;
    behind.publish_to(&mut watcher, |_| {}).await?;
    relay.hold();

    let mut probe = behind.open().await?;
    held.forget(Kind::Route, &routes("zz"));
    come_back(&mut probe, held, Kind::SERVED)?;
    let told = probe.barrier().await?;
    let gone: Vec<_> = told.iter().flat_map(|response| &response.removed).collect();
    ensure!(gone.is_empty(), "a replica that lags removed {gone:?}");
    for name in ["late", "never"] {
        ensure!(probe.held.get(Kind::Cluster, &full(name)).is_some(), "{name} is lost");
        let hosts = probe.held.get(Kind::Endpoint, &full(name)).context("no assignment")?.hosts()?;
        ensure!(hosts.len() == 2, "{name} has lost hosts: {hosts:?}");
    }
    // It catches up with one of the two, which the client holds already.
    let late = ahead.services.0["late"].clone();
    let update = behind.publish_to(&mut watcher, |services| {
        services.0.insert("late".to_owned(), late);
    });
    update.await?;
    let told = probe.barrier().await?;
    let gone: Vec<_> = told.iter().flat_map(|response| &response.removed).collect();
    ensure!(gone.is_empty(), "one source still lags, and yet it removed {gone:?}");
    let again = |response: &&integration::probe::Response| {
        response.kind == Kind::Cluster && response.mentions(&full("late"))
    };
    ensure!(told.iter().find(again).is_none(), "sent though it is held: {told:#?}");

    // Once every source has completed a pass, what none of them knows is gone, and nothing else.
    relay.release();
    let away = |held: &Held| held.get(Kind::Cluster, &full("never")).is_none();
    let told = probe.until("the end of what nobody knows", away).await?;
    let mut gone: Vec<_> = told.iter().flat_map(|response| &response.removed).cloned().collect();
    gone.retain(|name| !name.starts_with("barrier"));
    gone.sort();
    gone.dedup();
    ensure!(gone == [full("never"), listener("never")], "removed: {gone:?}");
    drop((probe, watcher));
    behind.close().await?;
    ahead.close().await
}

async fn golden(context: &Context) -> anyhow::Result<()> {
    let mut given = Vec::new();
    for room in ["one", "other"] {
        let mut rig = Rig::prepare(context, room, Services::default(), |setup| setup)?;
        rig.write_text(GOLDEN)?;
        rig.server.run().await?;
        rig.server.ready().await?;
        given.push(golden_resources(&rig.client()).await?);
        if context.protocol == Protocol::Delta {
            ensure!(lines(&given) == VERSIONS, "not the versions of the first release:\n{}", lines(&given));
        } else {
            // Their bytes are those of the delta protocol, whose versions are known.
            let delta = Client { protocol: Protocol::Delta, ..rig.client() };
            for (one, other) in golden_resources(&delta).await?.iter().zip(&given[0]) {
                let content = |held: &Held, kind| {
                    held.all(kind).map(|(name, it)| (name.to_owned(), it.any.clone())).collect::<Vec<_>>()
                };
                for kind in Kind::SERVED {
                    ensure!(content(one, kind) == content(other, kind), "{kind} of the two protocols differ");
                }
            }
        }
        rig.close().await?;
    }
    ensure!(given[0] == given[1], "two processes, other bytes");
    Ok(())
}

/// What an Envoy and a gRPC client that ask for everything are given.
async fn golden_resources(client: &Client) -> anyhow::Result<Vec<Held>> {
    let mut envoy = client.open().await?;
    envoy.start_up(4, 5).await?;
    let mut grpc = client.clone().agent("gRPC C-core").open().await?;
    let names = |kind| VERSIONS.lines().filter_map(move |line| line.strip_prefix(kind)?.split(' ').next());
    let listeners: Vec<_> = names("LDS ").filter(|name| !name.starts_with("prod/")).collect();
    let routes = names("RDS ").filter(|name| !name.contains([':', '@'])).count();
    grpc.subscribe(Kind::Listener, &listeners);
    grpc.until("its listeners", |held| held.count(Kind::Listener) == listeners.len()).await?;
    grpc.follow()?;
    grpc.until("its routes", |held| held.count(Kind::Route) == routes).await?;
    Ok(vec![std::mem::take(&mut envoy.held), std::mem::take(&mut grpc.held)])
}

/// As in the file of versions.
fn lines(given: &[Vec<Held>]) -> String {
    let mut lines = BTreeSet::new();
    for (kind, held) in Kind::SERVED.into_iter().flat_map(|kind| given[0].iter().map(move |it| (kind, it))) {
        lines.extend(held.all(kind).map(|(name, item)| format!("{kind} {name} {}\n", item.version)));
    }
    let in_order = |kind: Kind| lines.iter().filter(move |line| line.starts_with(kind.short()));
    Kind::SERVED.into_iter().flat_map(in_order).map(String::as_str).collect()
}
