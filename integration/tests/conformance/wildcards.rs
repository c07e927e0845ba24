//! What "everything" means: for whom, for which types, and until when.
//!
//! Invariant: a subscription is judged by what is sent when something changes, not by what the server says of it.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use integration::probe::{Ask, Kind, Probe, Protocol, Response};

use crate::case::{Case, Context};
use crate::rig::{Rig, Services, full, name, sent};

/// The two types that have a wildcard.
const FULL: [Kind; 2] = [Kind::Cluster, Kind::Listener];

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::both(7, "legacy wildcard table", legacy),
        Case::each(8, "explicit wildcard table", explicit_delta, explicit_sotw),
        Case::both(9, "empty EDS first", empty_is_nothing),
        Case::each(12, "unsubscribe under wildcard", unsubscribe_delta, unsubscribe_sotw),
    ]
}

/// Which of `a` and `b` a client is sent when both change.
async fn told(rig: &mut Rig, probe: &mut Probe, kind: Kind) -> anyhow::Result<BTreeSet<&'static str>> {
    let both = |services: &mut Services| ALL.iter().for_each(|it| services.touch(it));
    let update = rig.publish_to(probe, both).await?;
    let update: Vec<&Response> = update.iter().filter(|it| it.kind == kind).collect();
    let mentioned = |service: &&str| update.iter().any(|it| it.mentions(&name(kind, service)));
    Ok(["a", "b"].into_iter().filter(mentioned).collect())
}

/// A step of a table: what is done, and what is told from then on.
struct Step {
    says: &'static str,
    adds: &'static [&'static str],
    drops: &'static [&'static str],
    told: &'static [&'static str],
}

const ALL: &[&str] = &["a", "b"];

/// Goes through a table with one stream.
async fn walk(rig: &mut Rig, kind: Kind, steps: &[Step]) -> anyhow::Result<()> {
    let mut probe = rig.open().await?;
    rig.watch(&mut probe).await?;
    let names = |services: &[&str]| services.iter().map(|it| name(kind, it)).collect::<Vec<_>>();
    for step in steps {
        let says = || format!("{kind} {}", step.says);
        if !step.adds.is_empty() || step.drops.is_empty() {
            probe.subscribe(kind, &names(step.adds));
            let came = probe.barrier().await?;
            let expected =
                if step.adds.is_empty() || step.adds.contains(&"*") { step.told } else { step.adds };
            for service in expected {
                let answered = came.iter().any(|response| response.mentions(&name(kind, service)));
                ensure!(answered, "{}: {service} is not sent: {came:#?}", says());
            }
        }
        if !step.drops.is_empty() {
            probe.unsubscribe(kind, &names(step.drops));
            probe.barrier().await?;
        }
        let told = told(rig, &mut probe, kind).await.with_context(says)?;
        ensure!(told == step.told.iter().copied().collect(), "{}: told of {told:?}", says());
    }
    Ok(())
}

async fn legacy(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, Services::of(&["a", "b"])).await?;
    // To keep the wildcard beside a name, state of the world has to say it, and delta must not.
    let beside: &[&str] = if context.protocol == Protocol::Sotw { &["*", "a"] } else { &["a"] };
    for kind in FULL {
        let steps = [
            Step { says: "[]", adds: &[], drops: &[], told: ALL },
            Step { says: "[] and a", adds: beside, drops: &[], told: ALL },
            Step { says: "a", adds: &[], drops: &["*"], told: &["a"] },
            Step { says: "nothing", adds: &[], drops: &["a"], told: &[] },
        ];
        walk(&mut rig, kind, &steps).await?;
        // A first request that names something is no wildcard.
        let steps = [
            Step { says: "b first", adds: &["b"], drops: &[], told: &["b"] },
            Step { says: "b no more", adds: &[], drops: &["b"], told: &[] },
        ];
        walk(&mut rig, kind, &steps).await?;
    }
    rig.close().await
}

/// Both protocols: `*` may come first or later, beside names, and again.
async fn explicit(rig: &mut Rig) -> anyhow::Result<()> {
    for kind in FULL {
        let steps = [
            Step { says: "*", adds: &["*"], drops: &[], told: ALL },
            Step { says: "* and a", adds: &["a"], drops: &[], told: ALL },
            Step { says: "a without *", adds: &[], drops: &["*"], told: &["a"] },
            Step { says: "nothing", adds: &[], drops: &["a"], told: &[] },
            Step { says: "* again", adds: &["*"], drops: &[], told: ALL },
        ];
        walk(rig, kind, &steps).await?;
        let steps = [
            Step { says: "a first", adds: &["a"], drops: &[], told: &["a"] },
            Step { says: "a and *", adds: &["*"], drops: &[], told: ALL },
            Step { says: "* without a", adds: &[], drops: &["a"], told: ALL },
        ];
        walk(rig, kind, &steps).await?;
    }
    Ok(())
}

async fn explicit_sotw(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, Services::of(&["a", "b"])).await?;
    explicit(&mut rig).await?;
    rig.close().await
}

async fn explicit_delta(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, Services::of(&["a", "b"])).await?;
    explicit(&mut rig).await?;
    for kind in FULL {
        let mut probe = rig.open().await?;
        rig.watch(&mut probe).await?;
        let star = vec!["*".to_owned()];
        probe.send(Ask { subscribe: star.clone(), unsubscribe: star, ..Ask::of(kind) });
        probe.silence("added and dropped in one request").await?;
        ensure!(told(&mut rig, &mut probe, kind).await?.is_empty(), "{kind}: dropped in the same request");
        probe.subscribe(kind, &[name(kind, "a")]);
        let answer = probe.answer(kind).await?;
        ensure!(answer.names() == [name(kind, "a")], "{kind}: {}", answer.told());
        ensure!(told(&mut rig, &mut probe, kind).await?.len() == 1, "{kind}: a and nothing else");
    }
    rig.close().await
}

async fn empty_is_nothing(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, Services::of(&["a"])).await?;
    let mut probe = rig.open().await?;
    for kind in [Kind::Endpoint, Kind::Route, Kind::Secret] {
        probe.subscribe::<&str>(kind, &[]);
    }
    // Routes can't be the barrier where they are part of the question.
    probe.subscribe::<&str>(Kind::Cluster, &[]);
    let first = probe.take().await?;
    ensure!(first.kind == Kind::Cluster, "nothing was asked for: {}", first.told());
    rig.publish(|services| {
        services.rehost("a");
        services.touch("a");
    })?;
    let update = probe.take().await?;
    ensure!(update.kind == Kind::Cluster, "nothing was asked for: {}", update.told());
    probe.silence("endpoints, routes and secrets have no wildcard").await?;
    probe.subscribe(Kind::Endpoint, &[full("a")]);
    ensure!(probe.answer(Kind::Endpoint).await?.names() == [full("a")], "what is named is sent");

    // To gRPC nothing is nothing, whatever the type.
    let mut grpc = rig.client().agent("gRPC C-core linux").open().await?;
    for kind in Kind::ALL {
        grpc.subscribe::<&str>(kind, &[]);
    }
    grpc.silence("a gRPC client that names nothing").await?;
    rig.watch(&mut grpc).await?;
    let update = rig.publish_to(&mut grpc, |services| services.touch("a")).await?;
    ensure!(update.len() == 1, "a gRPC client that names nothing: {update:#?}");
    grpc.subscribe(Kind::Listener, &["a"]);
    ensure!(grpc.answer(Kind::Listener).await?.names() == ["a"], "its own listener is sent");
    drop((probe, grpc));
    rig.close().await
}

async fn unsubscribe_delta(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, Services::of(&["a", "b"])).await?;
    for kind in FULL {
        let mut probe = rig.open().await?;
        rig.watch(&mut probe).await?;
        probe.subscribe(kind, &["*".to_owned(), name(kind, "a"), "gone".to_owned()]);
        probe.barrier().await?;
        // What is said of it tells the client whether the wildcard has it.
        probe.unsubscribe(kind, &[name(kind, "a")]);
        let answer = probe.answer(kind).await?;
        ensure!(answer.names() == [name(kind, "a")], "the wildcard has it: {}", answer.told());
        probe.unsubscribe(kind, &["gone"]);
        let answer = probe.answer(kind).await?;
        ensure!(answer.removed.contains("gone"), "the wildcard has it not: {}", answer.told());
        ensure!(told(&mut rig, &mut probe, kind).await?.len() == 2, "{kind}: the wildcard goes on");
    }
    rig.close().await
}

async fn unsubscribe_sotw(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, Services::of(&["a", "b"])).await?;
    for kind in FULL {
        let mut probe = rig.open().await?;
        rig.watch(&mut probe).await?;
        probe.subscribe(kind, &["*".to_owned(), name(kind, "a")]);
        probe.barrier().await?;
        probe.unsubscribe(kind, &[name(kind, "a")]);
        // Whatever it is answered, it must not be without `a`, or it would delete it.
        for response in probe.barrier().await? {
            ensure!(response.mentions(&name(kind, "a")), "deletes a: {}", response.told());
        }
        let update = rig.publish_to(&mut probe, |services| services.touch("b")).await?;
        let full = sent(&update, kind);
        let both = |names: &Vec<&str>| ALL.iter().all(|it| names.contains(&name(kind, it).as_str()));
        ensure!(!full.is_empty() && full.iter().all(both), "the wildcard goes on: {update:#?}");
    }
    rig.close().await
}
