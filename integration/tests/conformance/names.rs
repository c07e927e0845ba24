//! Names that are asked for: again, no more, too early, never, and of what comes and goes.
//!
//! Wildcards are looked at elsewhere. Invariant: whoever asks for a name is answered.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use integration::probe::{Client, Kind, Protocol, Response};

use crate::case::{Case, Context};
use crate::rig::{Rig, Services, full, listener, name, sent};

/// `NOT_FOUND` of `google.rpc.Code`.
const NOT_FOUND: i32 = 5;
/// How soon something must come that nothing holds up.
const SOON: Duration = Duration::from_secs(1);
const NO_LIST: &str = "names that were never asked for can't be unsubscribed from";
const NO_WORD: &str = "no secrets are served yet, and there is no word for an absent one";
const DELTA_ONLY: &str = "on-demand CDS is delta only";

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::both(10, "resubscribe at same version", resubscribe),
        Case::both(11, "unsubscribe forgets", unsubscribe_forgets),
        Case::delta_only(13, "phantom unsubscribe", phantom_unsubscribe, NO_LIST),
        Case::both(14, "future resource", future_resource),
        Case::both(15, "removed, then recreated", recreated),
        Case::delta_only(53, "SDS after LDS", no_secrets, NO_WORD),
        Case::delta_only(55, "ODCDS missing", on_demand, DELTA_ONLY),
    ]
}

/// The client and the name for each type: gRPC asks for listeners by name, Envoy for the rest.
fn asked(client: &Client, kind: Kind) -> (Client, String) {
    match kind {
        Kind::Listener => (client.clone().agent("gRPC Go"), "a".to_owned()),
        kind => (client.clone(), name(kind, "a")),
    }
}

async fn resubscribe(context: &Context) -> anyhow::Result<()> {
    let rig = Rig::start(context, Services::of(&["a", "b"])).await?;
    for kind in Kind::SERVED {
        let (client, name) = asked(&rig.client(), kind);
        let mut probe = client.open().await?;
        let mut before = None;
        for round in ["first", "again", "once more"] {
            probe.subscribe(kind, &[&name]);
            let answer = probe.answer(kind).await.with_context(|| format!("{kind}, {round}"))?;
            ensure!(answer.names() == [&name], "{kind}, {round}: {}", answer.told());
            let item = answer.resources.into_values().next();
            ensure!(before.is_none() || before == item, "{kind}: it has not changed");
            before = item;
            probe.unsubscribe(kind, &[&name]);
        }
        probe.silence("no longer asked for").await?;
    }
    // In delta a name that is asked for twice is sent twice.
    for kind in Kind::SERVED.into_iter().filter(|_| context.protocol == Protocol::Delta) {
        let (client, name) = asked(&rig.client(), kind);
        let mut probe = client.open().await?;
        for _ in 0..3 {
            probe.subscribe(kind, &[&name]);
            let answer = probe.answer(kind).await?;
            ensure!(answer.names() == [&name], "{kind} is asked for again: {}", answer.told());
        }
    }
    rig.close().await
}

async fn unsubscribe_forgets(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, Services::of(&["a", "b"])).await?;
    for kind in Kind::SERVED {
        let mut probe = rig.open().await?;
        rig.watch(&mut probe).await?;
        let (a, b) = (name(kind, "a"), name(kind, "b"));
        probe.subscribe(kind, &[&a, &b]);
        let first = probe.answer(kind).await?;
        probe.unsubscribe(kind, &[&a]);
        let update = rig
            .publish_to(&mut probe, |services| {
                services.touch("a");
                services.rehost("a");
            })
            .await?;
        let told = update.iter().any(|it| it.kind == kind && it.mentions(&a));
        ensure!(!told, "{kind}: a is no longer asked for: {update:#?}");
        probe.subscribe(kind, &[&a]);
        let again = probe.answer(kind).await?;
        let item = again.resources.get(&a).with_context(|| format!("asked for again: {}", again.told()))?;
        ensure!(Some(item) != first.resources.get(&a), "{kind}: the former version");
        ensure!(kind.has_wildcard() || !again.mentions(&b), "{kind}: b is held: {}", again.told());
    }
    rig.close().await
}

async fn phantom_unsubscribe(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, Services::of(&["a"])).await?;
    let mut probe = rig.open_started().await?;
    for kind in Kind::ALL {
        probe.unsubscribe(kind, &["never"]);
        probe.silence("a name that was never asked for").await?;
    }
    // Also before anything else.
    let mut first = rig.open().await?;
    first.unsubscribe(Kind::Endpoint, &["never"]);
    first.silence("a name that was never asked for").await?;
    let update = rig.publish_to(&mut probe, |services| services.touch("a")).await?;
    ensure!(sent(&update, Kind::Cluster) == [[full("a")]], "the stream goes on: {update:#?}");
    drop((probe, first));
    rig.close().await
}

/// What is said of a name that is not there (2.5).
fn missing(it: &Response, kind: Kind, name: &str) -> anyhow::Result<()> {
    let empty = match it.resources.get(name) {
        Some(item) => item.is_empty()?,
        None => false,
    };
    let removed = it.removed.contains(name);
    let error = it.errors.get(name) == Some(&NOT_FOUND);
    let right = match (kind, it.protocol) {
        (Kind::Cluster | Kind::Endpoint | Kind::Secret, Protocol::Delta) => removed,
        (Kind::Route, _) | (Kind::Endpoint, Protocol::Sotw) => empty,
        (Kind::Cluster | Kind::Listener, Protocol::Sotw) => error && it.resources.is_empty(),
        _ => false,
    };
    ensure!(right, "{kind} {name} is missing: {}", it.told());
    Ok(())
}

async fn future_resource(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, Services::of(&["a"])).await?;
    let mut probe = rig.open().await?;
    for kind in Kind::SERVED {
        let x = name(kind, "x");
        probe.subscribe(kind, &[&x]);
        if (kind, context.protocol) == (Kind::Listener, Protocol::Delta) {
            probe.silence("Envoy's own timer ends the wait for a listener").await?;
            continue;
        }
        let answer = probe.answer(kind).await?;
        missing(&answer, kind, &x)?;
        probe.silence("said once").await?;
    }
    rig.publish(|services| services.add("x"))?;
    let served = |kind: Kind| name(kind, "x");
    probe
        .until("everything of x", |held| {
            let full =
                |kind| held.get(kind, &served(kind)).is_some_and(|it| it.is_empty().is_ok_and(|no| !no));
            Kind::SERVED.into_iter().all(full)
        })
        .await?;
    probe.silence("sent once").await?;
    drop(probe);
    rig.close().await
}

async fn recreated(context: &Context) -> anyhow::Result<()> {
    let services = Services::of(&["a", "b"]);
    let settings = |setup: integration::control_plane::Setup| setup.xds("clusterGrace", "1s");
    let mut rig = Rig::start_with(context, "server", services, settings).await?;
    let mut wild = rig.open_started().await?;
    let mut named = rig.open().await?;
    for kind in Kind::SERVED {
        named.subscribe(kind, &[name(kind, "a")]);
        named.answer(kind).await?;
    }
    for _ in 0..2 {
        rig.publish(|services| services.remove("a"))?;
        for probe in [&mut wild, &mut named] {
            probe
                .until("a to be gone", |held| {
                    let gone = |kind| held.get(kind, &name(kind, "a")).is_none();
                    let hosts = held.get(Kind::Endpoint, &full("a"));
                    let empty = hosts.is_none_or(|it| it.is_empty().unwrap_or_default());
                    gone(Kind::Cluster) && gone(Kind::Listener) && empty
                })
                .await?;
        }
        rig.publish(|services| services.add("a"))?;
        for probe in [&mut wild, &mut named] {
            let back = probe
                .until("a to be back", |held| {
                    let there = |kind| held.get(kind, &name(kind, "a")).is_some();
                    let hosts = held.get(Kind::Endpoint, &full("a"));
                    let full = hosts.is_some_and(|it| it.is_empty().is_ok_and(|no| !no));
                    there(Kind::Cluster) && there(Kind::Listener) && full
                })
                .await?;
            let again = back.iter().any(|it| it.kind == Kind::Cluster && it.mentions(&full("a")));
            ensure!(again, "the cluster is sent again: {back:#?}");
        }
    }
    ensure!(wild.held.get(Kind::Listener, &listener("b")).is_some(), "b was never touched");
    drop((wild, named));
    rig.close().await
}

async fn no_secrets(context: &Context) -> anyhow::Result<()> {
    let rig = Rig::start(context, Services::of(&["a"])).await?;
    for client in [rig.client(), rig.client().only(Kind::Secret)] {
        let mut probe = client.open().await?;
        for _ in 0..2 {
            probe.subscribe(Kind::Secret, &["prod/certificate"]);
            let answer = probe.next_within(SOON).await?;
            probe.ack(&answer);
            missing(&answer, Kind::Secret, "prod/certificate")?;
        }
    }
    rig.close().await
}

async fn on_demand(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, Services::of(&["a", "b"])).await?;
    let mut named = rig.open().await?;
    let mut wild = rig.open_started().await?;
    for probe in [&mut named, &mut wild] {
        for missing_name in ["prod/x", "nobody", "xdstp://elsewhere/envoy.config.cluster.v3.Cluster/x"] {
            probe.subscribe(Kind::Cluster, &[missing_name]);
            let answer = probe.next_within(SOON).await?;
            probe.ack(&answer);
            missing(&answer, Kind::Cluster, missing_name)?;
            ensure!(answer.resources.is_empty(), "{missing_name} was asked for: {}", answer.told());
        }
    }
    named.subscribe(Kind::Cluster, &[full("a")]);
    let answer = named.next_within(SOON).await?;
    named.ack(&answer);
    ensure!(answer.names() == [full("a")] && answer.removed.is_empty(), "on demand: {}", answer.told());
    rig.publish(|services| services.add("x"))?;
    for probe in [&mut named, &mut wild] {
        let answer = probe.collect("x", |it| it.mentions(&full("x"))).await?;
        let kinds: Vec<_> = answer.iter().map(|it| it.kind).collect();
        ensure!(kinds == [Kind::Cluster], "x is there now: {answer:#?}");
    }
    drop((named, wild));
    rig.close().await
}
