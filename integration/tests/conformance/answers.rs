//! Answers that are late, that answer something old, or that say more than one thing.
//!
//! What is refused is looked at elsewhere. Invariant: the server never needs an answer in order to go on.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use integration::probe::{Ask, Kind, Probe, Response};
use tokio::time::Instant;

use crate::case::{Case, Context};
use crate::rig::{Rig, Services, full, name, sent};

/// As long as Envoy withholds the answer for clusters while one of them warms, and a little more.
const WITHHELD: Duration = Duration::from_secs(20);
/// Between two changes.
const PACE: Duration = Duration::from_secs(2);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::both(31, "CDS ACK withheld 20 s: EDS and next CDS flow", withheld),
        Case::both(32, "stale nonce, new name", stale_nonce),
        Case::both(33, "ACK and subscribe in one", answer_and_ask),
        Case::both(34, "unique nonces", nonces),
    ]
}

/// Accepts everything but clusters, up to the load assignment that follows them.
async fn without_clusters(probe: &mut Probe) -> anyhow::Result<Vec<Response>> {
    let mut responses: Vec<Response> = Vec::new();
    let told = |responses: &[Response], kind, name: &str| {
        responses.iter().any(|it| it.kind == kind && it.mentions(name))
    };
    while !(told(&responses, Kind::Cluster, &full("a")) && told(&responses, Kind::Endpoint, &full("a"))) {
        let response = probe.next_within(PACE).await;
        let response = response.with_context(|| format!("CDS is not answered: {responses:#?}"))?;
        if response.kind != Kind::Cluster {
            probe.ack(&response);
        }
        responses.push(response);
    }
    Ok(responses)
}

async fn withheld(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, Services::of(&["a", "b"])).await?;
    let mut probe = rig.open_started().await?;
    let until = Instant::now() + WITHHELD;
    let mut pace = tokio::time::interval(PACE);
    let (mut newest, mut leads) = (None, HashSet::new());
    while Instant::now() < until {
        pace.tick().await;
        rig.publish(|services| services.touch("a"))?;
        let update = without_clusters(&mut probe).await?;
        let [clusters, endpoints] = [Kind::Cluster, Kind::Endpoint]
            .map(|kind| update.iter().position(|it| it.kind == kind && it.mentions(&full("a"))));
        ensure!(clusters < endpoints, "EDS ends the wait only behind CDS: {update:#?}");
        leads.extend(update.iter().map(|it| it.kind).filter(|kind| *kind >= Kind::Listener));
        newest = update.into_iter().rev().find(|it| it.kind == Kind::Cluster);
    }
    // What leads to clusters waits for them, but not for ever.
    ensure!(leads == [Kind::Listener, Kind::Route].into(), "{leads:?} went meanwhile");
    probe.ack(&newest.context("no clusters")?);
    let update = rig.publish_to(&mut probe, |services| services.touch("b")).await?;
    let endpoints = sent(&update, Kind::Endpoint);
    ensure!(endpoints.last().is_some_and(|last| *last == [full("b")]), "as before: {update:#?}");
    drop(probe);
    rig.close().await
}

async fn stale_nonce(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, Services::of(&["a", "b", "c", "d"])).await?;
    for kind in Kind::SERVED {
        let names = |services: &[&str]| services.iter().map(|it| name(kind, it)).collect::<Vec<_>>();
        let mut probe = rig.open().await?;
        probe.subscribe(kind, &names(&["a", "b"]));
        let first = probe.answer(kind).await?;
        rig.publish(|services| {
            services.touch("a");
            services.rehost("a");
        })?;
        let second = probe.next().await?;
        probe.nack(&second, "no");
        // As the unified mux does: it goes on with the nonce that it accepted last.
        let asked = |services: &[&str], add: &str, nonce: &str| {
            let subscribe = vec![name(kind, add)];
            let version = first.version.clone();
            Ask { subscribe, names: names(services), version, ..Ask::of(kind).nonce(nonce) }
        };
        probe.send(asked(&["a", "b", "c"], "c", &first.nonce));
        let answer = probe.next().await.context("a name beside an old nonce")?;
        ensure!(answer.mentions(&name(kind, "c")), "{kind}: {}", answer.told());
        let again = answer.resources.get(&name(kind, "a")) == second.resources.get(&name(kind, "a"));
        ensure!(!again, "what was refused comes again: {}", answer.told());
        // Nor does an unknown nonce, or an old refusal, keep a name from being heard.
        let refusal = Ask { error: Some("an old one".to_owned()), ..asked(&["a", "b", "c", "d"], "d", "77") };
        probe.send(refusal);
        let answer = probe.next().await.context("a name beside an unknown nonce")?;
        ensure!(answer.mentions(&name(kind, "d")), "{kind}: {}", answer.told());
    }
    rig.close().await
}

async fn answer_and_ask(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, Services::of(&["a", "b", "c"])).await?;
    for kind in Kind::SERVED {
        let names = |services: &[&str]| services.iter().map(|it| name(kind, it)).collect::<Vec<_>>();
        let mut probe = rig.open().await?;
        probe.subscribe(kind, &names(&["a"]));
        let first = probe.next().await?;
        let accepted = Ask { version: first.version.clone(), ..Ask::of(kind).nonce(&first.nonce) };
        probe.send(Ask { subscribe: names(&["b"]), names: names(&["a", "b"]), ..accepted.clone() });
        let second = probe.next().await.context("accepted, and asked for more")?;
        ensure!(second.mentions(&name(kind, "b")), "{kind}: {}", second.told());
        ensure!(kind.has_wildcard() || !second.mentions(&name(kind, "a")), "accepted: {}", second.told());

        // A refusal that asks for more: of that, and nothing of what was refused.
        let refused = Ask { error: Some("no".to_owned()), ..accepted.nonce(&second.nonce) };
        probe.send(Ask { subscribe: names(&["c"]), names: names(&["a", "b", "c"]), ..refused });
        let third = probe.next().await.context("refused, and asked for more")?;
        ensure!(third.mentions(&name(kind, "c")), "{kind}: {}", third.told());
        ensure!(!third.resources.contains_key(&name(kind, "b")), "refused: {}", third.told());
        drop(probe);
    }
    // The first answer was heard as one: nothing waits for it.
    let mut probe = rig.open().await?;
    rig.watch(&mut probe).await?;
    let update = rig.publish_to(&mut probe, |services| services.touch("a")).await?;
    ensure!(update.len() == 1, "only the sentinel is asked for: {update:#?}");
    drop(probe);
    rig.close().await
}

async fn nonces(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, Services::of(&["a", "b"])).await?;
    let mut probe = rig.open_started().await?;
    let mut seen = HashSet::new();
    for round in 0..40 {
        let update = rig
            .publish_to(&mut probe, |services| match round % 3 {
                0 => services.touch("a"),
                1 => services.rehost("b"),
                _ => services.get("a").request += 1,
            })
            .await?;
        for response in update {
            let (nonce, told) = (response.nonce.clone(), response.told());
            ensure!(!nonce.is_empty() && seen.insert(nonce), "used before, by whatever type: {told}");
        }
    }
    // The same content again has another nonce.
    let mut same = HashSet::new();
    for _ in 0..5 {
        probe.unsubscribe(Kind::Endpoint, &[full("a")]);
        probe.subscribe(Kind::Endpoint, &[full("a")]);
        let answer = probe.answer(Kind::Endpoint).await?;
        ensure!(same.insert(answer.nonce.clone()) && seen.insert(answer.nonce.clone()), "{}", answer.told());
    }
    drop(probe);
    rig.close().await
}
