//! A client that comes back and says what it holds.
//!
//! It comes back to the same server; others are looked at elsewhere. Invariant: what a client presents is what
//! it was sent before, unless the case says how it differs.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use integration::control_plane::Setup;
use integration::probe::{Ask, Held, Kind, Probe, Response};
use integration::wait;

use crate::case::{Case, Context};
use crate::rig::{Rig, Services, full, listener, name, sent};

const SOON: Duration = Duration::from_secs(1);
const NOTHING_PRESENTED: &str = "a client presents no versions of single resources";

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::each(16, "irv match, mismatch, gone", presented, claimed),
        Case::both(17, "EDS before CDS, matching irv", endpoints_first),
        Case::delta_only(18, "CDS changed, EDS irv matches", cluster_changed, NOTHING_PRESENTED),
        Case::each(30, "NACK, reconnect, orphan", orphan_delta, orphan_sotw),
    ]
}

/// A new stream of a client that holds this.
async fn back(rig: &Rig, held: &Held) -> anyhow::Result<Probe> {
    let mut probe = rig.open().await?;
    probe.adopt(held.clone());
    Ok(probe)
}

/// What a client presents: `b` at another version, and something that has never been.
fn altered(held: &Held, kind: Kind) -> Vec<(String, String)> {
    let mut versions = held.versions(kind);
    for (held, version) in &mut versions {
        if *held == name(kind, "b") {
            "older".clone_into(version);
        }
    }
    versions.push((name(kind, "gone"), "1".to_owned()));
    versions
}

async fn presented(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, Services::of(&["a", "b"])).await?;
    let before = rig.open_started().await?.held;
    let mut probe = back(&rig, &before).await?;
    let mut responses = Vec::new();
    for kind in Kind::SERVED {
        let presented = altered(&before, kind).into_iter().collect();
        let names = match kind {
            Kind::Endpoint | Kind::Route => {
                // To ask for endpoints without a cluster would be to tell of an orphan (54).
                let asked = altered(&before, kind).into_iter().map(|(name, _)| name);
                asked.filter(|asked| *asked != name(kind, "gone")).collect()
            }
            _ => Vec::new(),
        };
        if kind == Kind::Listener {
            // Another reading, by which what is gone is known to be gone.
            let readings = rig.readings("services.yaml").await?;
            rig.write()?;
            let read = async || Ok((rig.readings("services.yaml").await? > readings).then_some(()));
            wait::until(SOON * 5, "another reading", read).await?;
        }
        probe.send(Ask { presented, ..Ask::of(kind).names(&names) });
        // What is known to be gone may go before.
        let news = |it: &Response| it.kind == kind && !it.resources.is_empty();
        let answers = probe.collect(kind.short(), news).await?;
        let names = answers.iter().flat_map(Response::names).collect::<Vec<_>>();
        ensure!(names == [name(kind, "b")], "{kind}: only b differs: {names:?}");
        responses.extend(answers);
    }
    let gone = |kind| name(kind, "gone");
    let mut left = vec![Kind::Cluster, Kind::Endpoint, Kind::Listener];
    left.retain(|kind| !responses.iter().any(|it| it.kind == *kind && it.removed.contains(&gone(*kind))));
    while !left.is_empty() {
        let response = probe.take().await.with_context(|| format!("not removed: {left:?}"))?;
        ensure!(response.resources.is_empty(), "nothing else differs: {}", response.told());
        left.retain(|kind| *kind != response.kind || !response.removed.contains(&gone(*kind)));
    }
    // Only the first map counts (42).
    let again =
        Ask { presented: altered(&before, Kind::Cluster).into_iter().collect(), ..Ask::of(Kind::Cluster) };
    probe.send(again);
    probe.silence("a later map of versions").await?;

    // What is presented is not asked for by that.
    let mut other = back(&rig, &before).await?;
    let presented = before.versions(Kind::Endpoint).into_iter().collect();
    other.subscribe::<&str>(Kind::Cluster, &[]);
    other.answer(Kind::Cluster).await?;
    rig.watch(&mut other).await?;
    other.send(Ask { presented, ..Ask::of(Kind::Endpoint).names(&[full("b")]) });
    other.barrier().await?;
    let update = rig.publish_to(&mut other, |services| services.rehost("a")).await?;
    ensure!(sent(&update, Kind::Endpoint).is_empty(), "a was presented, not asked for: {update:#?}");
    drop((probe, other));
    rig.close().await
}

async fn claimed(context: &Context) -> anyhow::Result<()> {
    let rig = Rig::start(context, Services::of(&["a", "b"])).await?;
    let before = rig.open_started().await?;
    // Whatever version and nonce it claims, the first request is answered (35, 36).
    for kind in Kind::SERVED {
        let version = before.version(kind).to_owned();
        for names in [vec![name(kind, "a")], vec![name(kind, "a"), name(kind, "b")]] {
            let mut probe = rig.open().await?;
            let ask = Ask { version: version.clone(), ..Ask::of(kind).names(&names).nonce("77") };
            probe.send(ask);
            let answer = probe.next_within(SOON).await.with_context(|| format!("{kind} claims {version}"))?;
            ensure!(answer.names() == names, "{kind} claims {version}: {}", answer.told());
        }
    }
    drop(before);
    rig.close().await
}

async fn endpoints_first(context: &Context) -> anyhow::Result<()> {
    let rig = Rig::start(context, Services::of(&["a", "b"])).await?;
    let before = rig.open_started().await?.held;
    let mut probe = back(&rig, &before).await?;
    // As after a cut while a cluster warmed: it holds equal assignments and waits for them all the same.
    let names = rig.services.names();
    probe.resume(Kind::Endpoint, &names);
    let answer = probe.answer(Kind::Endpoint).await?;
    ensure!(answer.names() == names, "every assignment: {}", answer.told());
    probe.resume::<&str>(Kind::Cluster, &[]);
    let answer = probe.answer(Kind::Cluster).await?;
    let rest = probe.barrier().await?;
    if answer.resources.is_empty() {
        ensure!(rest.is_empty(), "no cluster was sent, so nothing warms: {rest:#?}");
    } else {
        // An assignment before its cluster does not count.
        let sent = sent(&rest, Kind::Endpoint).concat();
        ensure!(answer.names().iter().all(|name| sent.contains(name)), "every assignment again: {rest:#?}");
    }
    rig.is_all(&{ before })?;
    rig.close().await
}

async fn cluster_changed(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, Services::of(&["a", "b"])).await?;
    let before = rig.open_started().await?.held;
    let names = rig.services.names();
    // Nothing has changed: nothing is sent.
    let mut unchanged = back(&rig, &before).await?;
    unchanged.resume::<&str>(Kind::Cluster, &[]);
    let answer = unchanged.answer(Kind::Cluster).await?;
    ensure!(answer.resources.is_empty(), "every cluster is held: {}", answer.told());
    unchanged.resume(Kind::Endpoint, &names);
    unchanged.silence("every assignment is held, and no cluster was sent").await?;
    drop(unchanged);

    rig.publish(|services| services.touch("a"))?;
    let mut fresh = rig.open_started().await?;
    let changed = |held: &Held| held.get(Kind::Cluster, &full("a")) != before.get(Kind::Cluster, &full("a"));
    fresh.until("the change", changed).await?;
    // One after the other, and both at once.
    for at_once in [false, true] {
        let mut probe = back(&rig, &before).await?;
        probe.resume::<&str>(Kind::Cluster, &[]);
        if at_once {
            probe.resume(Kind::Endpoint, &names);
        }
        let answer = probe.answer(Kind::Cluster).await?;
        ensure!(answer.names() == [full("a")], "a has changed: {}", answer.told());
        if !at_once {
            probe.resume(Kind::Endpoint, &names);
        }
        let answer = probe.answer(Kind::Endpoint).await?;
        ensure!(answer.names() == [full("a")], "a warms, though its assignment is held: {}", answer.told());
        probe.silence("nothing else differs").await?;
    }
    drop(fresh);
    rig.close().await
}

/// A rig whose clusters leave at once, and a client that has just refused `x` and `y` together.
async fn refused(context: &Context) -> anyhow::Result<(Rig, Probe, Response)> {
    let settings = |setup: Setup| setup.xds("clusterGrace", "0s");
    let mut rig = Rig::start_with(context, "server", Services::of(&["a"]), settings).await?;
    let mut probe = rig.open_started().await?;
    rig.publish(|services| ["x", "y"].iter().for_each(|name| services.add(name)))?;
    let mut response = probe.next().await?;
    while response.kind != Kind::Cluster {
        probe.ack(&response);
        response = probe.next().await?;
    }
    ensure!(response.mentions(&full("x")) && response.mentions(&full("y")), "both: {}", response.told());
    // It has applied x, and does not tell.
    probe.nack(&response, "Error adding/updating cluster(s) prod/y: no");
    Ok((rig, probe, response))
}

/// Removes `x` and `y`, and waits until that is published.
async fn remove_both(rig: &mut Rig) -> anyhow::Result<()> {
    rig.publish(|services| ["x", "y"].iter().for_each(|name| services.remove(name)))?;
    let gone = async || {
        let mut probe = rig.open().await?;
        probe.subscribe::<&str>(Kind::Cluster, &[]);
        let held = probe.answer(Kind::Cluster).await?;
        Ok((!held.mentions(&full("x")) && !held.mentions(&full("y"))).then_some(()))
    };
    wait::until(SOON * 5, "x and y to be gone", gone).await
}

async fn orphan_delta(context: &Context) -> anyhow::Result<()> {
    // On the same stream: what was only ever refused is removed by name, since it may have been applied.
    let (mut rig, mut probe, _) = refused(context).await?;
    remove_both(&mut rig).await?;
    let mut removed = Vec::new();
    while removed.len() < 2 {
        let response = probe.take().await.with_context(|| format!("removed so far: {removed:?}"))?;
        if response.kind == Kind::Cluster {
            removed.extend(response.removed);
        }
    }
    ensure!(removed == [full("x"), full("y")], "what may have been applied: {removed:?}");
    drop(probe);
    rig.close().await?;

    // Cut before x could be sent again: then an assignment that is asked for is all that tells of the orphan.
    let (mut rig, probe, _) = refused(context).await?;
    let held = probe.held.clone();
    ensure!(held.get(Kind::Cluster, &full("x")).is_none(), "refused");
    drop(probe);
    remove_both(&mut rig).await?;
    let mut probe = back(&rig, &held).await?;
    probe.resume::<&str>(Kind::Cluster, &[]);
    let mut names = rig.services.names();
    names.push(full("x"));
    probe.resume(Kind::Endpoint, &names);
    probe.resume::<&str>(Kind::Listener, &[]);
    let routes: Vec<_> = held.names(Kind::Route).into_iter().map(str::to_owned).collect();
    probe.resume(Kind::Route, &routes);
    let orphan = |it: &Response| it.kind == Kind::Cluster && it.removed.contains(&full("x"));
    probe.collect("the removal of the orphan", orphan).await?;
    drop(probe);
    rig.close().await
}

async fn orphan_sotw(context: &Context) -> anyhow::Result<()> {
    let (mut rig, mut probe, refused) = refused(context).await?;
    // Innocent x comes again, without y.
    let again = probe.collect("x without y", |it| it.kind == Kind::Cluster).await?;
    let again = again.last().context("no answer")?;
    ensure!(again.mentions(&full("x")) && !again.mentions(&full("y")), "x alone: {}", again.told());
    ensure!(refused.resources.get(&full("a")) == again.resources.get(&full("a")), "a is left out");
    remove_both(&mut rig).await?;
    drop(probe);
    let mut probe = rig.open().await?;
    rig.start_up(&mut probe).await?;
    let listeners = [listener("x"), listener("y")];
    ensure!(listeners.iter().all(|it| probe.held.get(Kind::Listener, it).is_none()), "still there");
    drop(probe);
    rig.close().await
}
