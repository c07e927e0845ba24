//! How streams end, by whose will, and that nothing is left of them.
//!
//! It is not about what they carry. Invariant: every end that a case counts is seen by the client too.

use std::time::{Duration, Instant};

use anyhow::ensure;
use integration::control_plane::Setup;
use integration::probe::{Client, Connection, Held, Kind, Probe, Protocol, Relay};
use integration::wait;
use tonic::{Code, Status};

use crate::case::{Case, Context};
use crate::fleet::{Pauses, closest, connections, each, outlive, streams};
use crate::rig::{Rig, Services, full};
use crate::vitals::Vitals;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::both(44, "max age, jitter", max_age),
        Case::both(45, "1,000 reconnects", reconnects).alone(),
        Case::both(46, "SIGTERM drain", drain).alone(),
        Case::both(47, "blackholed client freed", blackholed),
        Case::both(54, "TTL off", no_ttl),
        Case::both(58, "leak soak", soak).alone(),
    ]
}

/// Admits as many streams as a case opens.
fn open_doors(setup: Setup) -> Setup {
    setup.xds("newStreamsPerSecond", 100_000)
}

/// Comes back with everything, in the usual order.
fn resume(probe: &mut Probe, held: &Held) {
    probe.adopt(held.clone());
    for kind in Kind::SERVED {
        let names: Vec<_> = match kind.has_wildcard() {
            true => Vec::new(),
            false => held.names(kind),
        };
        probe.resume(kind, &names);
    }
}

/// The age at which streams end, give or take a fifth, and the longest pause of the machine that their ends can be
/// judged beside.
const AGE: Duration = Duration::from_secs(5);
const MOST_PAUSE: Duration = Duration::from_millis(200);

/// A stream that ended of age: when, after how long; and the same client's next stream.
struct Aged {
    ended: Instant,
    lived: Duration,
    next: Probe,
}

/// A stream that has started up, on a connection of its own that its client keeps, and since when.
struct Living {
    client: Client,
    born: Instant,
    connection: Connection,
    probe: Probe,
}

async fn be_born(client: Client, count: usize) -> anyhow::Result<Living> {
    let born = Instant::now();
    let connection = client.connect().await?;
    let mut probe = connection.open(&client).await?;
    probe.start_up(count, count + 1).await?;
    Ok(Living { client, born, connection, probe })
}

/// Lives until the server ends it, and comes back on another connection.
async fn live(living: Living) -> anyhow::Result<(Aged, Connection)> {
    let Living { client, born, connection, mut probe } = living;
    let (status, ended) = outlive(&mut probe).await?;
    ensure!(status.code() == Code::Ok, "the end of its age: {status:?}");
    let mut next = client.open().await?;
    resume(&mut next, &std::mem::take(&mut probe.held));
    Ok((Aged { ended, lived: ended - born, next }, connection))
}

/// Forty streams from birth to end, each with the connection that its client keeps; and the longest pause of the
/// machine meanwhile.
async fn live_out(rig: &mut Rig, client: &Client) -> anyhow::Result<(Vec<Aged>, Vec<Connection>, Duration)> {
    let (pauses, target) = (Pauses::watch(), rig.services.0.len());
    let clients = (0..40).map(|number| client.clone().id(&format!("aged-{number}")));
    let young = each(clients, |client| be_born(client, target)).await?;
    let mut living = std::pin::pin!(each(young, live));
    // Meanwhile there is something to tell, also to those that are about to end.
    let aged = loop {
        rig.publish(|services| services.rehost("a"))?;
        let between = Duration::from_millis(200);
        if let Ok(aged) = tokio::time::timeout(between, living.as_mut()).await {
            break aged?;
        }
    };
    let (aged, old) = aged.into_iter().unzip();
    Ok((aged, old, pauses.longest()))
}

async fn max_age(context: &Context) -> anyhow::Result<()> {
    let setup = |setup: Setup| open_doors(setup).xds("maxStreamAge", "5s");
    let mut rig = Rig::start_with(context, "server", Services::of(&["a"]), setup).await?;
    let relay = Relay::start(rig.server.xds()).await?;
    let client = Client { server: relay.address(), ..rig.client() };
    let (mut aged, mut old, mut pause) = live_out(&mut rig, &client).await?;
    if pause > MOST_PAUSE {
        // All that ended while the machine stood still seems to have ended at once: another generation is judged.
        drop((aged, old));
        (aged, old, pause) = live_out(&mut rig, &client).await?;
    }
    for Aged { lived, .. } in &aged {
        let bounds = AGE.mul_f64(0.8)..AGE.mul_f64(1.2) + Duration::from_secs(2);
        ensure!(bounds.contains(lived), "lived {lived:?}; the machine paused for {pause:?}");
    }
    let half = closest(aged.iter().map(|it| it.ended).collect(), 0.5);
    ensure!(half > AGE.mul_f64(0.08), "half ended within {half:?}; the machine paused for {pause:?}");

    // Nothing is lost: whoever came back holds the newest.
    let hosts: Vec<_> = rig.services.0["a"].hosts.iter().map(|host| format!("{host}:8080")).collect();
    let newest = |held: &Held| {
        held.get(Kind::Endpoint, &full("a")).is_some_and(|it| it.hosts().is_ok_and(|it| it == hosts))
    };
    let count = aged.len();
    let mut back = Vec::new();
    for Aged { mut next, .. } in aged {
        next.until("the newest hosts after its end", newest).await?;
        rig.is_all(&next.held)?;
        back.push(next);
    }
    // The server ends the connections of old age too, though their clients keep them.
    let what = format!("{count} connections to be closed");
    let closed = async || Ok((relay.open() <= back.len()).then_some(()));
    wait::until(Duration::from_secs(8), what, closed).await?;
    drop((old, back));
    rig.close().await
}

/// A stream that was admitted: after how many refusals, and when.
struct Admitted {
    probe: Probe,
    refusals: u64,
    at: Instant,
    resources: usize,
}

/// Reconnects until it is admitted, with pauses that grow as Envoy's do.
async fn insist(
    client: Client,
    connection: Connection,
    held: std::sync::Arc<Held>,
) -> anyhow::Result<Admitted> {
    let mut refusals = 0;
    loop {
        let mut probe = match connection.open(&client).await {
            Ok(probe) => probe,
            Err(error) => {
                let status = error.downcast::<Status>()?;
                ensure!(status.code() == Code::Unavailable, "refused with {status:?}");
                refusals += 1;
                let longest = 500 * refusals.min(6);
                let pause = Duration::from_millis(longest / 2).mul_f64(1.0 + jitter(&client));
                tokio::time::sleep(pause).await;
                continue;
            }
        };
        let at = Instant::now();
        resume(&mut probe, &held);
        let due = match client.protocol {
            Protocol::Delta => vec![Kind::Cluster, Kind::Listener],
            Protocol::Sotw => Kind::SERVED.to_vec(),
        };
        let mut resources = 0;
        for kind in due {
            resources += probe
                .collect(kind.short(), |it| it.kind == kind)
                .await?
                .iter()
                .map(|it| it.resources.len())
                .sum::<usize>();
        }
        return Ok(Admitted { probe, refusals, at, resources });
    }
}

/// A fraction that differs from client to client.
fn jitter(client: &Client) -> f64 {
    let id = client.node.as_ref().map(|node| node.id.as_str()).unwrap_or_default();
    f64::from(id.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % 1_000)
        / 1e3
}

async fn reconnects(context: &Context) -> anyhow::Result<()> {
    let (count, rate) = (1_000, 250);
    let setup = |setup: Setup| setup.xds("newStreamsPerSecond", rate);
    let mut rig = Rig::start_with(context, "server", Services::of(&["a", "b", "c"]), setup).await?;
    let held = std::sync::Arc::new(rig.open_started().await?.held);
    let shared = connections(&rig.client(), 50).await?;
    let processor = Vitals(&rig.server).processor()?;
    let all = (0..count)
        .map(|number| (rig.client().id(&format!("back-{number:04}")), shared[number % shared.len()].clone()));
    let admitted = each(all, |(client, connection)| insist(client, connection, held.clone())).await?;
    let spent = Vitals(&rig.server).processor()? - processor;
    let refusals: u64 = admitted.iter().map(|it| it.refusals).sum();
    let counted = Vitals(&rig.server).metric("legation_xds_refused_streams_total", "too-fast").await?;
    ensure!(refusals > 0 && refusals == counted, "{refusals} refused, {counted} counted");
    let every = (2 * rate + rate / 4) as f64 / count as f64;
    let second = closest(admitted.iter().map(|it| it.at).collect(), every);
    ensure!(second > Duration::from_millis(900), "{every} of them admitted within {second:?}");
    println!("C45: {refusals} refusals, {spent:?} of processor time");
    ensure!(spent < Duration::from_millis(20) * u32::try_from(count)?, "it cost {spent:?}");
    let resources: usize = admitted.iter().map(|it| it.resources).sum();
    let full_set = context.protocol == Protocol::Sotw;
    ensure!(full_set || resources == 0, "{resources} resources sent that were held");
    Vitals(&rig.server).until_streams(count as u64).await?;

    // All of them converge, and go on.
    rig.publish(|services| services.rehost("b"))?;
    let probes = admitted.into_iter().map(|it| it.probe);
    let back = each(probes, |mut probe| async move {
        let answer = probe.answer(Kind::Endpoint).await?;
        ensure!(answer.names() == [full("b")], "after the storm: {}", answer.told());
        Ok(probe)
    });
    let back = back.await?;
    for probe in &back {
        rig.is_all(&probe.held)?;
    }
    drop((back, shared));
    rig.close().await
}

async fn drain(context: &Context) -> anyhow::Result<()> {
    const GRACE: Duration = Duration::from_secs(5);
    let count = 1_000;
    let rig = Rig::start_with(context, "server", Services::many(100), open_doors).await?;
    let small = Client { window: Some(16 * 1024), ..rig.client() };
    // One reads nothing, one answers nothing: the end must not wait for them.
    let mut stalled = small.clone().id("stalled").open().await?;
    stalled.subscribe::<&str>(Kind::Cluster, &[]);
    stalled.subscribe(Kind::Endpoint, &rig.services.names());
    stalled.subscribe::<&str>(Kind::Listener, &[]);
    let mut mute = rig.client().id("mute").open().await?;
    mute.subscribe(Kind::Endpoint, &[full("s0001")]);
    mute.next().await?;
    let shared = connections(&rig.client(), 100).await?;
    let probes = each(streams(&rig.client(), &shared, count).await?, |mut probe| async move {
        probe.subscribe(Kind::Endpoint, &[full("s0002")]);
        probe.answer(Kind::Endpoint).await?;
        Ok(probe)
    })
    .await?;
    Vitals(&rig.server).until_streams(count as u64 + 2).await?;
    let newcomer = rig.client();
    let asked = Instant::now();
    let ends = each(probes, |mut probe| async move { outlive(&mut probe).await });
    let muted = async {
        let end = mute.end().await?;
        let refused = newcomer.connect().await.is_err();
        ensure!(refused, "it still accepts connections while it ends");
        Ok(end.status)
    };
    let closing = async {
        rig.close().await?;
        anyhow::Ok(asked.elapsed())
    };
    let (took, ends, muted) = tokio::try_join!(closing, ends, muted)?;
    ensure!(took < GRACE + Duration::from_secs(2), "it took {took:?} to end");
    ensure!(muted.code() == Code::Ok, "who answers nothing: {muted:?}");
    let bad = ends.iter().find(|(status, _)| status.code() != Code::Ok);
    ensure!(bad.is_none(), "a stream ended with {bad:?}");
    let half = closest(ends.iter().map(|(_, at)| *at).collect(), 0.5);
    println!("C46: ended after {took:?}, the closest half of the streams within {half:?}");
    ensure!(half > Duration::from_millis(400), "half of the streams ended within {half:?}");
    drop((stalled, shared));
    Ok(())
}

async fn blackholed(context: &Context) -> anyhow::Result<()> {
    let setup = |setup: Setup| {
        let setup = setup.xds("keepaliveInterval", "500ms").xds("keepaliveTimeout", "1500ms");
        setup.xds("writeTimeout", "2s")
    };
    let mut rig = Rig::start_with(context, "server", Services::many(100), setup).await?;
    let mut idle = rig.open_started().await?;
    let relay = Relay::start(rig.server.xds()).await?;
    let mut lost = Client { server: relay.address(), ..rig.client() }.id("lost").open().await?;
    rig.start_up(&mut lost).await?;
    Vitals(&rig.server).until_streams(2).await?;

    // Its packets no longer arrive, and nobody says so.
    let files = Vitals(&rig.server).files()?;
    relay.hold();
    let held = Instant::now();
    Vitals(&rig.server).until_streams(1).await?;
    let freed = held.elapsed();
    ensure!(freed < Duration::from_secs(5), "a dead client was kept for {freed:?}");
    let closed = async || Ok((Vitals(&rig.server).files()? < files).then_some(()));
    wait::until(Duration::from_secs(5), "its socket to be closed", closed).await?;

    // Alive, but it takes nothing of what is sent.
    let mut stalled = Client { window: Some(16 * 1024), ..rig.client() }.id("stalled").open().await?;
    stalled.subscribe::<&str>(Kind::Cluster, &[]);
    stalled.subscribe(Kind::Endpoint, &rig.services.names());
    Vitals(&rig.server).until_streams(2).await?;
    let began = Instant::now();
    Vitals(&rig.server).until_streams(1).await?;
    ensure!(began.elapsed() < Duration::from_secs(8), "kept for {:?}", began.elapsed());

    // One that only had nothing to say is still there.
    rig.publish(|services| services.rehost("s0003"))?;
    ensure!(idle.take().await?.names() == [full("s0003")], "an idle client");
    drop((idle, lost, stalled));
    rig.close().await
}

/// Nothing on the wire expires; the rules that hold for every response refuse a `ttl`, and a wrapper that
/// could carry one.
async fn no_ttl(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, Services::of(&["a", "b"])).await?;
    let mut probe = rig.open_started().await?;
    for (name, item) in probe.held.all(Kind::Endpoint) {
        let policy = item.assignment()?.policy.unwrap_or_default();
        ensure!(policy.endpoint_stale_after.is_none(), "the hosts of {name} grow stale (item 95)");
    }
    let edit = |services: &mut Services| {
        services.touch("a");
        services.rehost("b");
        services.add("c");
    };
    let update = rig.publish_to(&mut probe, edit).await?;
    ensure!(update.len() >= 3, "the update: {update:#?}");
    probe.follow()?;
    let all = |held: &Held| rig.is_all(held).is_ok();
    probe.until("what is new", all).await?;
    // What could expire would be refreshed.
    probe.quiet(Duration::from_secs(3), "a heartbeat").await?;
    drop(probe);
    rig.close().await
}

/// One stream, to one of the ends that a stream can have.
async fn end_somehow(way: usize, client: Client, connection: Connection) -> anyhow::Result<()> {
    let mut probe = connection.open(&client).await?;
    if way.is_multiple_of(4) {
        return Ok(()); // cancelled before it has asked
    }
    probe.subscribe::<&str>(Kind::Cluster, &[]);
    probe.subscribe(Kind::Endpoint, &[full("a"), full("nobody")]);
    match way % 4 {
        1 => drop(probe.answer(Kind::Cluster).await?),
        2 => {
            probe.collect("its assignments", |it| it.kind == Kind::Endpoint).await?;
            probe.half_close();
            let (status, _) = outlive(&mut probe).await?;
            ensure!(status.code() == Code::Ok, "after a half-close: {status:?}");
        }
        _ => {
            let refused = probe.next().await?;
            probe.nack(&refused, "not this");
        }
    }
    Ok(())
}

async fn soak(context: &Context) -> anyhow::Result<()> {
    let (rounds, each_round) = (6, 600);
    let setup = |setup: Setup| open_doors(setup).xds("keepaliveInterval", "1s");
    let rig = Rig::start_with(context, "server", Services::of(&["a", "b"]), setup).await?;
    let relay = Relay::start(rig.server.xds()).await?;
    let client = Client { server: relay.address(), ..rig.client() };
    let (mut memory, mut files) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let shared = connections(&client, 30).await?;
        let all = (0..each_round).map(|number: usize| {
            let client = client.clone().id(&format!("soak-{round}-{number:05}"));
            (number / 30, client, shared[number % 30].clone())
        });
        each(all, |(way, client, connection)| end_somehow(way, client, connection)).await?;
        // And some that live when their connection is cut.
        let cut = streams(&client, &shared, 100).await?;
        let cut = each(cut, |mut probe| async move {
            probe.subscribe::<&str>(Kind::Cluster, &[]);
            probe.answer(Kind::Cluster).await?;
            Ok(probe)
        });
        let cut = cut.await?;
        Vitals(&rig.server).until_streams(100).await?;
        relay.cut();
        drop((cut, shared));
        Vitals(&rig.server).until_streams(0).await?;
        let gone = async || Ok((relay.open() == 0).then_some(()));
        wait::until(Duration::from_secs(5), "every connection to be closed", gone).await?;
        memory.push(Vitals(&rig.server).memory()?);
        files.push(Vitals(&rig.server).files()?);
    }
    println!("C58: {memory:?} KiB, {files:?} files");
    // The first rounds fill what is kept for good, such as threads and the allocator's arenas.
    ensure!(memory[rounds - 1] < memory[1] + 6 * 1024, "memory grows: {memory:?} KiB");
    ensure!(files[rounds - 1] <= files[0] + 2, "files stay open: {files:?}");
    rig.close().await
}
