//! What a client refuses: how little of it is said again, and how little of the rest suffers.
//!
//! Invariant: a client here refuses by content, as Envoy does; what it is told of the fault is only a hint.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use integration::probe::{Item, Kind, Probe, Protocol, Response};
use tokio::time::Instant;

use crate::case::{Case, Context};
use crate::rig::{Rig, Services, name};

/// A server that tells a refused resource again and again would do so thousands of times in this time.
const LONG_ENOUGH: Duration = Duration::from_secs(5);
/// Longer than an unanswered response holds up the next.
const SOON: Duration = Duration::from_secs(2);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::both(27, "always-NACK bounded", always_refused),
        Case::both(28, "poison isolated", poison),
        Case::both(29, "NACK, then fix", mended),
    ]
}

/// How often each (name, content) was sent.
#[derive(Default)]
struct Tally {
    responses: usize,
    /// Members of the first response.
    first: usize,
    sent: BTreeMap<(String, Vec<u8>), u32>,
}

impl Tally {
    fn note(&mut self, response: &Response) {
        self.responses += 1;
        if self.responses == 1 {
            self.first = response.resources.len();
        }
        for (name, item) in &response.resources {
            *self.sent.entry((name.clone(), item.any.value.clone())).or_default() += 1;
        }
    }

    /// At most 1 + ⌈log₂ n⌉ times each (I7).
    fn check(&self, kind: Kind) -> anyhow::Result<()> {
        let most = 1 + self.first.next_power_of_two().trailing_zeros();
        for ((name, _), times) in &self.sent {
            ensure!(*times <= most, "{kind} {name} was refused {times} times, of {} at first", self.first);
        }
        ensure!(self.responses <= 2 * self.first, "{} responses of {kind}", self.responses);
        Ok(())
    }
}

/// Refuses everything for a while.
async fn refuse_all(probe: &mut Probe) -> anyhow::Result<BTreeMap<Kind, Tally>> {
    let (deadline, mut tallies) = (Instant::now() + LONG_ENOUGH, BTreeMap::<Kind, Tally>::new());
    while let Ok(response) = tokio::time::timeout_at(deadline, probe.next()).await {
        let response = response.context("while everything is refused")?;
        tallies.entry(response.kind).or_default().note(&response);
        probe.nack(&response, "never");
    }
    probe.quiet(SOON, "still not silent").await?;
    Ok(tallies)
}

async fn always_refused(context: &Context) -> anyhow::Result<()> {
    let rig = Rig::start(context, Services::many(16)).await?;
    let names = |kind: Kind| if kind.has_wildcard() { Vec::new() } else { rig.services.names() };
    // Each type on a stream of its own, and all on one, where EDS follows CDS each time.
    let one = async |kind: Kind| {
        let mut probe = rig.open().await?;
        probe.subscribe(kind, &names(kind));
        let tallies = refuse_all(&mut probe).await?;
        tallies.get(&kind).context("nothing was sent")?.check(kind)
    };
    let all = async {
        let mut probe = rig.open().await?;
        Kind::SERVED.iter().for_each(|kind| probe.subscribe(*kind, &names(*kind)));
        for (kind, tally) in refuse_all(&mut probe).await? {
            let most = 8 * tally.first;
            ensure!(tally.responses <= most, "{kind}: {} responses on one stream", tally.responses);
        }
        Ok(())
    };
    let [clusters, endpoints, listeners, routes] = Kind::SERVED.map(one);
    futures_util::try_join!(clusters, endpoints, listeners, routes, all)?;
    rig.close().await
}

/// One of fifty is bad: whether the client names it or not, all others arrive.
async fn poison(context: &Context) -> anyhow::Result<()> {
    const COUNT: usize = 50;
    let mut rig = Rig::start(context, Services::many(COUNT)).await?;
    for (kind, hint) in Kind::SERVED.into_iter().flat_map(|kind| [(kind, true), (kind, false)]) {
        let told = || format!("{kind}, {} hint", if hint { "with a" } else { "without" });
        let mut probe = rig.open().await?;
        let all = rig.services.0.keys().filter(|_| !kind.has_wildcard());
        let asked: Vec<_> = all.map(|service| name(kind, service)).collect();
        probe.subscribe(kind, &asked);
        probe.until("everything", |held| held.count(kind) > COUNT).await?;
        let bad = name(kind, "s0017");
        let before = probe.held.clone();
        let good = before.get(kind, &bad).context("no such resource")?.clone();
        rig.publish(|services| {
            for number in 0..COUNT {
                services.touch(&format!("s{number:04}"));
                services.rehost(&format!("s{number:04}"));
            }
        })?;
        let deadline = Instant::now() + LONG_ENOUGH;
        let mut responses = 0;
        let current = |probe: &Probe| {
            let others = (0..COUNT).filter(|number| *number != 17);
            let mut names = others.map(|number| name(kind, &format!("s{number:04}")));
            names
                .all(|name| probe.held.get(kind, &name).is_some_and(|it| Some(it) != before.get(kind, &name)))
        };
        while !current(&probe) {
            let response = tokio::time::timeout_at(deadline, probe.next()).await;
            let response = response.with_context(|| format!("{}: others are held up", told()))??;
            let is_bad = response.resources.get(&bad).is_some_and(|it| *it != good);
            answer(&mut probe, &response, is_bad.then_some(if hint { &bad } else { "bad" }));
            responses += 1;
        }
        ensure!(responses < 40, "{}: {responses} responses", told());
        settle(&mut probe, &bad, &good).await.with_context(told)?;
        ensure!(probe.held.get(kind, &bad) == Some(&good), "{}: the last good one stays", told());
        is_reported(&rig, kind, &bad).await.with_context(told)?;

        rig.publish(|services| {
            services.touch("s0017");
            services.rehost("s0017");
        })?;
        let mended = probe.take().await.with_context(told)?;
        let item = mended.resources.get(&bad);
        ensure!(item.is_some_and(|it| *it != good), "{}: mended: {}", told(), mended.told());
        ensure!(probe.held.count(kind) == before.count(kind), "{}: something is lost", told());
    }
    rig.close().await
}

/// Refuses with these words, or accepts.
fn answer(probe: &mut Probe, response: &Response, words: Option<&str>) {
    match words {
        Some(words) => probe.nack(response, &format!("Error adding/updating {words}: no")),
        None => probe.ack(response),
    }
}

/// Goes on as before until nothing comes any more.
async fn settle(probe: &mut Probe, bad: &str, good: &Item) -> anyhow::Result<()> {
    let deadline = Instant::now() + SOON;
    while let Ok(response) = tokio::time::timeout_at(deadline, probe.next()).await {
        let response = response?;
        let is_bad = response.resources.get(bad).is_some_and(|it| it != good);
        answer(probe, &response, is_bad.then_some("bad"));
    }
    probe.quiet(SOON / 4, "not at rest").await
}

/// The admin port shows exactly that one.
async fn is_reported(rig: &Rig, kind: Kind, bad: &str) -> anyhow::Result<()> {
    let proxies = rig.server.items("proxies").await?;
    let types = proxies.iter().filter_map(|proxy| proxy["types"].as_array()).flatten();
    let shown = types.filter(|it| it["short"] == kind.short()).filter_map(|it| it["rejected"].as_array());
    let rejected: Vec<_> = shown.flatten().filter_map(|it| it["name"].as_str()).collect();
    ensure!(rejected == [bad], "shown as refused: {rejected:?}");
    Ok(())
}

async fn mended(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, Services::of(&["a", "b"])).await?;
    for kind in Kind::SERVED {
        let (a, b) = (name(kind, "a"), name(kind, "b"));
        let mut probe = rig.open().await?;
        probe.subscribe(kind, &[&a, &b]);
        probe.answer(kind).await?;
        let good = probe.held.get(kind, &a).context("no a")?.clone();
        let change = |services: &mut Services, service: &str| {
            services.touch(service);
            services.rehost(service);
        };
        rig.publish(|services| change(services, "a"))?;
        let refused = probe.next().await?;
        let bad = refused.resources.get(&a).context("a has changed")?.clone();
        let nacks = rig.metric("legation_xds_nacks_total").await?;
        probe.nack(&refused, "no");
        probe.silence("refused").await?;
        probe.quiet(SOON, "refused, and not changed since").await?;
        ensure!(rig.metric("legation_xds_nacks_total").await? == nacks + 1, "not counted (56)");
        let log = rig.server.log()?;
        let told = log.lines().any(|line| line.contains("WARN") && line.contains(&format!("{a}\"")));
        ensure!(told, "not told (56): {log}");

        rig.publish(|services| change(services, "b"))?;
        let others = probe.take().await?;
        ensure!(others.mentions(&b), "another goes on: {}", others.told());
        let left_out = kind.has_wildcard() && context.protocol == Protocol::Sotw;
        let stands_for_it = others.resources.get(&a);
        let right = if left_out { stands_for_it == Some(&good) } else { stands_for_it.is_none() };
        ensure!(right, "in place of what was refused: {}", others.told());

        rig.publish(|services| change(services, "a"))?;
        let fixed = probe.take().await?;
        let item = fixed.resources.get(&a);
        ensure!(item.is_some_and(|it| *it != good && *it != bad), "mended: {}", fixed.told());
        // Who asks for it again gets even what it refused.
        rig.publish(|services| change(services, "a"))?;
        let refused = probe.next().await?;
        probe.nack(&refused, "no");
        probe.unsubscribe(kind, &[&a]);
        probe.subscribe(kind, &[&a]);
        let again = probe.take().await?;
        ensure!(again.resources.get(&a) == refused.resources.get(&a), "asked for again: {}", again.told());
    }
    rig.close().await
}
