//! What comes before what on one stream, and what must follow.
//!
//! Invariant: order is judged on the wire, by a client that answers everything at once.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use integration::control_plane::Setup;
use integration::probe::{Kind, Response};
use integration::wait;

use crate::case::{Case, Context};
use crate::rig::{Rig, Services, full, listener, name, routes, sent};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::both(35, "no-op republish silent", no_op),
        Case::both(19, "shared EDS name", no_shared_name),
        Case::both(20, "EDS after CDS", endpoints_follow),
        Case::both(21, "LDS/RDS after CDS/EDS", additions_in_order),
        Case::both(23, "stop the last task: empty CLA", last_host),
        Case::both(24, "RDS never removed", routes_stay),
    ]
}

/// Where the first response of a type that says something of a service is.
fn place(responses: &[Response], kind: Kind, service: &str) -> Option<usize> {
    responses.iter().position(|it| it.kind == kind && it.mentions(&name(kind, service)))
}

async fn no_shared_name(context: &Context) -> anyhow::Result<()> {
    let rig = Rig::start(context, Services::of(&["a"])).await?;
    // Several names for one service, and several services behind one host.
    rig.write_text(
        "services:
  a:
    aliases: [{ name: a, port: 8080 }, { name: a, port: 80 }, { name: other, port: 80 }]
    appProtocol: http
    endpoints: [{ address: 10.7.0.1, port: 8080 }]
  b: { appProtocol: grpc, endpoints: [{ address: 10.7.0.1, port: 9090 }] }
  c: { endpoints: [{ address: 10.7.0.1, port: 8080 }] }
",
    )?;
    let mut probe = rig.open().await?;
    probe.subscribe::<&str>(Kind::Cluster, &[]);
    probe.until("every cluster", |held| held.get(Kind::Cluster, "prod/c").is_some()).await?;
    let mut wanted = Vec::new();
    for (cluster, item) in probe.held.all(Kind::Cluster) {
        let wants = item.wants()?;
        ensure!(wants == [(Kind::Endpoint, cluster.to_owned())], "{cluster} wants {wants:?}");
        wanted.push(cluster.to_owned());
    }
    // So each assignment is asked for once, and comes once.
    probe.subscribe(Kind::Endpoint, &wanted);
    let answer = probe.answer(Kind::Endpoint).await?;
    ensure!(answer.names() == wanted, "one for each cluster: {}", answer.told());
    drop(probe);
    rig.close().await
}

async fn endpoints_follow(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, Services::of(&["a", "b", "c"])).await?;
    let mut probe = rig.open_started().await?;
    let before = probe.held.clone();
    let edits: [fn(&mut Services); 4] = [
        |services| services.touch("a"),
        |services| services.get("a").idle += 1,
        |services| services.get("a").protocol = "http2",
        |services| ["a", "b"].iter().for_each(|it| services.touch(it)),
    ];
    for (round, edit) in edits.into_iter().enumerate() {
        let changed: &[&str] = if round == 3 { &["a", "b"] } else { &["a"] };
        let update = rig.publish_to(&mut probe, edit).await?;
        for service in changed {
            let cluster = place(&update, Kind::Cluster, service);
            let cluster =
                cluster.with_context(|| format!("round {round}: no cluster {service}: {update:#?}"))?;
            let follows = place(&update[cluster..], Kind::Endpoint, service);
            ensure!(follows == Some(1), "round {round}: EDS of {service} is at {follows:?}: {update:#?}");
            let assignment = update[cluster + 1].resources.get(&full(service));
            let held = before.get(Kind::Endpoint, &full(service));
            ensure!(assignment.is_some() && assignment == held, "it has not changed, and comes all the same");
        }
        let others = place(&update, Kind::Endpoint, "c");
        ensure!(others.is_none(), "round {round}: the cluster c was not sent: {update:#?}");
    }
    // Who never asked for endpoints gets none.
    let mut clusters = rig.open().await?;
    clusters.subscribe::<&str>(Kind::Cluster, &[]);
    clusters.answer(Kind::Cluster).await?;
    rig.watch(&mut clusters).await?;
    let update = rig.publish_to(&mut clusters, |services| services.touch("a")).await?;
    ensure!(sent(&update, Kind::Endpoint).is_empty(), "nobody asked for endpoints: {update:#?}");
    drop((probe, clusters));
    rig.close().await
}

async fn additions_in_order(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, Services::of(&["a"])).await?;
    let mut probe = rig.open_started().await?;
    for round in 0..5 {
        let new = format!("new{round}");
        // A client that knows the names beforehand: then nothing orders the responses but the server.
        probe.subscribe(Kind::Endpoint, &[full(&new)]);
        probe.subscribe(Kind::Route, &[routes(&new)]);
        probe.barrier().await?;
        let update = rig.publish_to(&mut probe, |services| services.add(&new)).await?;
        let places = Kind::SERVED.map(|kind| place(&update, kind, &new));
        ensure!(places.iter().all(Option::is_some), "not all of {new}: {update:#?}");
        ensure!(places.is_sorted(), "{new} comes in the order {places:?}: {update:#?}");
    }
    rig.is_all(&probe.held)?;
    drop(probe);
    rig.close().await
}

async fn last_host(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, Services::of(&["a", "b"])).await?;
    let mut probe = rig.open_started().await?;
    for _ in 0..2 {
        for left in [1, 0, 2] {
            rig.publish(|services| {
                let mut whole = Services::of(&["b", "a"]);
                services.get("a").hosts = whole.get("a").hosts[..left].to_vec();
            })?;
            let update = probe.next_within(Duration::from_secs(2)).await?;
            probe.ack(&update);
            ensure!(update.kind == Kind::Endpoint && update.names() == [full("a")], "{}", update.told());
            let hosts = update.resources[&full("a")].hosts()?;
            ensure!(hosts.len() == left, "{left} hosts are left: {hosts:?}");
            probe.silence("no cluster goes because its hosts do").await?;
        }
    }
    // A service that is new and has no hosts yet.
    rig.publish(|services| services.get("new").hosts.clear())?;
    probe.until("the cluster", |held| held.get(Kind::Cluster, &full("new")).is_some()).await?;
    probe.follow()?;
    probe.until("its assignment", |held| held.get(Kind::Endpoint, &full("new")).is_some()).await?;
    let hosts = probe.held.get(Kind::Endpoint, &full("new")).context("no assignment")?.hosts()?;
    ensure!(hosts.is_empty(), "it has no hosts: {hosts:?}");
    drop(probe);
    rig.close().await
}

async fn routes_stay(context: &Context) -> anyhow::Result<()> {
    let settings = |setup: Setup| setup.xds("clusterGrace", "500ms");
    let services = Services::of(&["a", "b", "c"]);
    let mut rig = Rig::start_with(context, "server", services, settings).await?;
    let mut probe = rig.open_started().await?;
    // A service that goes, and one that no longer has routes. The probe itself refuses removed routes.
    rig.publish(|services| {
        services.remove("a");
        services.get("b").protocol = "tcp";
    })?;
    let update = probe
        .until("the service to be gone", |held| {
            let gone = |kind| held.get(kind, &name(kind, "a")).is_none();
            gone(Kind::Cluster) && gone(Kind::Listener)
        })
        .await?;
    let later = rig.publish_to(&mut probe, |services| services.touch("c")).await?;
    for response in update.iter().chain(&later).filter(|it| it.kind == Kind::Route) {
        let said = ["a", "b"].iter().any(|service| response.mentions(&routes(service)));
        ensure!(!said, "routes whose listener goes first: {}", response.told());
    }
    let first = |kind| update.iter().position(|it| it.kind == kind);
    ensure!(first(Kind::Listener).is_some(), "the listener goes: {update:#?}");
    let b = probe.held.get(Kind::Listener, &listener("b")).context("the listener of b")?;
    ensure!(b.wants()?.is_empty(), "b is TCP now");

    // Who still asks for them, or asks for them again, gets empty ones.
    for service in ["a", "b"] {
        probe.unsubscribe(Kind::Route, &[routes(service)]);
        probe.subscribe(Kind::Route, &[routes(service)]);
        let answer = probe.answer(Kind::Route).await?;
        let item = answer.resources.get(&routes(service)).context("not answered")?;
        ensure!(item.is_empty()?, "there are no routes any more: {}", answer.told());
    }
    // Also when it comes back and presents them.
    let mut held = probe.held.clone();
    let mut back = rig.open().await?;
    std::mem::swap(&mut back.held, &mut held);
    let names: Vec<_> = back.held.names(Kind::Route).into_iter().map(str::to_owned).collect();
    back.resume(Kind::Route, &names);
    for response in back.barrier().await? {
        ensure!(response.removed.is_empty(), "routes removed: {}", response.told());
    }
    drop((probe, back));
    rig.close().await
}

async fn no_op(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, Services::of(&["a", "b"])).await?;
    let mut probe = rig.open_started().await?;
    let readings = rig.readings("services.yaml").await?;
    rig.write()?;
    let read = async || Ok((rig.readings("services.yaml").await? > readings).then_some(()));
    wait::until(Duration::from_secs(10), "another reading", read).await?;
    probe.silence("the same services once more").await?;
    rig.publish(|services| services.rehost("a"))?;
    let update = probe.take().await?;
    ensure!(update.names() == [full("a")], "only what changed: {}", update.told());
    drop(probe);
    rig.close().await
}
