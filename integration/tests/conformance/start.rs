//! How a stream begins: who asks, for what first, and what it is told before it has asked.
//!
//! It is not about reconnecting. Invariant: every case here begins with a stream that nobody has used.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::xds::core::v3::ContextParams;
use integration::aws::FakeAws;
use integration::probe::{Ask, Client, Kind, Probe, Relay, node};
use integration::wait;
use integration::world::World;
use tonic::Code;

use crate::case::{Case, Context};
use crate::rig::{Rig, Services, full, routes, sent};

/// How soon something must come that nothing holds up.
const SOON: Duration = Duration::from_secs(1);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::both(1, "start-up order", start_up_order),
        Case::both(2, "node once", node_once),
        Case::both(3, "no node", no_node),
        Case::both(4, "headers first", headers_first),
        Case::both(5, "unknown type", unknown_type),
        Case::both(6, "two streams, one node", two_streams),
        Case::both(25, "empty first CDS", empty_first),
        Case::both(26, "cold start: UNAVAILABLE", cold_start),
        Case::both(56, "non-ADS CDS and EDS", one_type),
    ]
}

/// Every order of four things.
fn orders(kinds: &[Kind]) -> Vec<Vec<Kind>> {
    if kinds.is_empty() {
        return vec![Vec::new()];
    }
    let each = kinds.iter().flat_map(|first| {
        let rest: Vec<_> = kinds.iter().copied().filter(|kind| kind != first).collect();
        orders(&rest).into_iter().map(|rest| [vec![*first], rest].concat()).collect::<Vec<_>>()
    });
    each.collect()
}

/// What an Envoy that knows the names asks for; nothing where there is a wildcard.
fn names(rig: &Rig, kind: Kind) -> Vec<String> {
    match kind {
        Kind::Endpoint => rig.services.names(),
        Kind::Route => rig.services.0.keys().map(|name| routes(name)).chain([full("@http-proxy")]).collect(),
        _ => Vec::new(),
    }
}

async fn start_up_order(context: &Context) -> anyhow::Result<()> {
    let rig = Rig::start(context, Services::of(&["a", "b"])).await?;
    let everything = |probe: &Probe| Kind::SERVED.iter().map(|kind| probe.held.count(*kind)).sum::<usize>();
    for order in orders(&Kind::SERVED) {
        // All at once, and one after the other.
        let (mut eager, mut patient) = (rig.open().await?, rig.open().await?);
        order.iter().for_each(|kind| eager.subscribe(*kind, &names(&rig, *kind)));
        let mut responses = Vec::new();
        while everything(&eager) < 3 + 3 + 4 + 4 {
            responses.push(eager.take().await.with_context(|| format!("in the order {order:?}"))?);
        }
        rig.is_all(&eager.held).with_context(|| format!("in the order {order:?}"))?;
        let first = |kind| responses.iter().position(|it| it.kind == kind);
        if order.iter().position(|kind| *kind == Kind::Cluster) == Some(0) {
            ensure!(first(Kind::Cluster) < first(Kind::Listener), "LDS before CDS: {responses:#?}");
        }
        for kind in &order {
            patient.subscribe(*kind, &names(&rig, *kind));
            // Endpoints that came before their clusters come again behind them.
            let answered = patient.collect(kind.short(), |response| response.kind == *kind).await;
            answered.with_context(|| format!("in the order {order:?}"))?;
        }
        rig.is_all(&patient.held).with_context(|| format!("one by one, in the order {order:?}"))?;
    }
    for kind in Kind::SERVED {
        let mut probe = rig.client().only(kind).open().await?;
        probe.subscribe(kind, &names(&rig, kind));
        let answer = probe.answer(kind).await?;
        ensure!(answer.resources.len() >= 3, "a stream for {kind} alone: {}", answer.told());
    }
    rig.close().await
}

async fn node_once(context: &Context) -> anyhow::Result<()> {
    let rig = Rig::start(context, Services::of(&["a", "b"])).await?;
    let mut once = rig.open_started().await?;
    let mut always = Client { repeats_node: true, ..rig.client() }.open().await?;
    rig.start_up(&mut always).await?;
    ensure!(once.held == always.held, "{:?}", once.held.differences(&always.held));

    // The same node with something new to say of itself is no other node.
    let parameters = ContextParams { params: [("shard".to_owned(), "7".to_owned())].into() };
    let clusters = Kind::Cluster.type_url().to_owned();
    let more = Node {
        dynamic_parameters: [(clusters, parameters)].into(),
        ..once_node().context("the probe has no node")?
    };
    once.send(Ask { node: Some(more), names: once.names(Kind::Endpoint), ..Ask::of(Kind::Endpoint) });
    once.silence("new parameters of the same node").await?;

    let other = Some(node("another", "prod"));
    once.send(Ask { node: other, names: once.names(Kind::Endpoint), ..Ask::of(Kind::Endpoint) });
    let end = once.end().await?;
    ensure!(end.status.code() == Code::InvalidArgument, "another node on one stream: {:?}", end.status);
    drop((once, always));
    rig.close().await
}

/// The node that every probe says that it is.
fn once_node() -> Option<Node> {
    let nowhere = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
    Client::new(nowhere, integration::probe::Protocol::Delta).node
}

async fn no_node(context: &Context) -> anyhow::Result<()> {
    let rig = Rig::start(context, Services::of(&["a"])).await?;
    let known = once_node().context("the probe has no node")?;
    let nodes = [
        ("no node", None),
        ("no id", Some(node("", "prod"))),
        ("no metadata", Some(Node { metadata: None, ..known })),
        ("an empty namespace", Some(node("probe-1", ""))),
    ];
    for (what, node) in nodes {
        let client = Client { node, ..rig.client() };
        for client in [client.clone(), client.only(Kind::Cluster)] {
            let status = client.refusal(Ask::of(Kind::Cluster)).await.context(what)?;
            ensure!(status.code() == Code::InvalidArgument, "{what}: {status:?}");
        }
    }
    let elsewhere = Client { node: Some(node("probe-1", "nowhere")), ..rig.client() };
    let status = elsewhere.refusal(Ask::of(Kind::Cluster)).await?;
    ensure!(status.code() == Code::Unavailable, "a namespace that nobody knows: {status:?}");
    rig.close().await
}

async fn headers_first(context: &Context) -> anyhow::Result<()> {
    let rig = Rig::start(context, Services::of(&["a"])).await?;
    let services = Kind::ALL.map(|kind| rig.client().only(kind));
    for client in [rig.client()].into_iter().chain(services) {
        let connection = client.connect().await?;
        let headers = tokio::time::timeout(SOON, connection.open(&client)).await;
        let mut probe = headers.with_context(|| format!("no headers of {:?}", client.only))??;
        let kind = client.only.unwrap_or(Kind::Cluster);
        if kind != Kind::Secret {
            probe.subscribe(kind, &names(&rig, kind));
            probe.answer(kind).await?;
        }
    }
    rig.close().await
}

async fn unknown_type(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, Services::of(&["a"])).await?;
    let strange = Ask { type_url: "type.googleapis.com/foo.Bar".to_owned(), ..Ask::default() };
    // First of all, in the midst, with names and without.
    let mut probe = rig.open().await?;
    probe.send(strange.clone());
    rig.start_up(&mut probe).await?;
    for names in [&[][..], &["a"], &["*"]] {
        probe.send(strange.clone().names(names));
    }
    probe.silence("a type that nobody knows").await?;
    let update = rig.publish_to(&mut probe, |services| services.touch("a")).await?;
    ensure!(!sent(&update, Kind::Cluster).is_empty(), "the other types don't go on: {update:#?}");
    drop(probe);
    rig.close().await
}

async fn two_streams(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, Services::of(&["a", "b"])).await?;
    let (mut one, mut two) = (rig.open_started().await?, rig.open_started().await?);
    ensure!(one.held == two.held, "{:?}", one.held.differences(&two.held));

    // What one accepts is not accepted by the other.
    rig.publish_to(&mut one, |services| services.touch("a")).await?;
    let update = two.collect("the same update", |it| it.kind == Kind::Route).await?;
    ensure!(sent(&update, Kind::Endpoint) == [[full("a")]], "the other stream: {update:#?}");
    ensure!(one.held == two.held, "{:?}", one.held.differences(&two.held));

    // What one refuses, or no longer wants, the other still gets.
    rig.publish(|services| services.rehost("a"))?;
    let refused = two.next().await?;
    two.nack(&refused, "not for me");
    two.unsubscribe(Kind::Endpoint, &[full("b")]);
    ensure!(one.take().await?.names() == [full("a")], "refused by the other stream");
    rig.publish(|services| services.rehost("b"))?;
    ensure!(one.take().await?.names() == [full("b")], "unsubscribed by the other stream");
    two.silence("refused and unsubscribed").await?;

    drop(two);
    rig.publish(|services| services.rehost("a"))?;
    ensure!(one.take().await?.names() == [full("a")], "when the other stream has ended");
    drop(one);
    rig.close().await
}

async fn empty_first(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::prepare(context, "empty", Services::default(), |setup| setup)?;
    rig.write()?;
    rig.server.run().await?;
    rig.server.ready().await?;
    let mut probe = rig.open().await?;
    for (kind, expected) in [(Kind::Cluster, &[][..]), (Kind::Listener, &["prod/@http-proxy"])] {
        probe.subscribe::<&str>(kind, &[]);
        let answer = probe.next_within(SOON).await?;
        ensure!(answer.kind == kind && answer.names() == expected, "an empty mesh: {}", answer.told());
        probe.ack(&answer);
    }
    probe.silence("there is nothing more to say").await?;

    // The first answer comes even if everything is held already.
    rig.publish(|services| services.add("a"))?;
    let mut before = rig.open_started().await?;
    let mut probe = rig.open().await?;
    probe.adopt(std::mem::take(&mut before.held));
    for kind in [Kind::Cluster, Kind::Listener] {
        probe.resume::<&str>(kind, &[]);
        let answer = probe.next_within(SOON).await?;
        ensure!(answer.kind == kind, "{kind} with everything held: {}", answer.told());
        probe.ack(&answer);
    }
    drop((probe, before));
    rig.close().await
}

async fn cold_start(context: &Context) -> anyhow::Result<()> {
    // The file speaks at once, but ECS does not.
    let world = World::new();
    world.create_cluster("prod-a")?;
    let aws = FakeAws::start(world).await?;
    let relay = Relay::start(aws.url().trim_start_matches("http://").parse()?).await?;
    relay.hold();
    let mut rig = Rig::prepare(context, "cold", Services::of(&["a"]), |mut setup| {
        setup.aws = Some(format!("http://{}", relay.address()));
        let sources = setup.namespaces.values_mut();
        sources.for_each(|sources| sources.clusters.push("prod-a".to_owned()));
        setup
    })?;
    rig.write()?;
    rig.server.run().await?;
    let read = async || Ok((rig.readings("services.yaml").await? > 0).then_some(()));
    wait::until(SOON * 10, "the file to be read", read).await?;
    let clients = [rig.client(), rig.client().only(Kind::Cluster), rig.client().agent("gRPC C-core")];
    for client in &clients {
        let status = client.refusal(Ask::of(Kind::Cluster)).await?;
        ensure!(status.code() == Code::Unavailable, "nothing is known yet: {status:?}");
    }
    ensure!(!rig.server.is_ready().await?, "ready though a source has not spoken");
    relay.release();
    rig.server.ready().await?;
    drop(rig.open_started().await.context("once every source has spoken")?);
    rig.close().await
}

async fn one_type(context: &Context) -> anyhow::Result<()> {
    let mut rig = Rig::start(context, Services::of(&["a", "b"])).await?;
    let silent = Ask { type_url: String::new(), ..Ask::default() };
    let names = rig.services.names();
    for kind in [Kind::Cluster, Kind::Endpoint] {
        let client = rig.client().only(kind);
        let other = client.refusal(Ask::of(Kind::Listener)).await?;
        ensure!(other.code() == Code::InvalidArgument, "LDS on a stream for {kind}: {other:?}");
        for ask in [silent.clone(), Ask::of(kind)] {
            let mut probe = client.open().await?;
            probe.send(ask.names(&names));
            let answer = probe.next().await?;
            ensure!(answer.names() == names, "{kind} alone: {}", answer.told());
        }
    }
    let status = rig.client().refusal(silent).await?;
    ensure!(status.code() == Code::InvalidArgument, "no type on an aggregated stream: {status:?}");

    // As Envoys without ADS do it: a stream for clusters, one for the endpoints of each.
    let mut clusters = rig.client().only(Kind::Cluster).open().await?;
    clusters.subscribe::<&str>(Kind::Cluster, &[]);
    clusters.until("every cluster", |held| held.count(Kind::Cluster) == names.len()).await?;
    let (mut a, mut b) = (rig.client().only(Kind::Endpoint).open().await?, rig.client().open().await?);
    a.subscribe(Kind::Endpoint, &[full("a")]);
    b.subscribe(Kind::Endpoint, &[full("b")]);
    ensure!(a.answer(Kind::Endpoint).await?.names() == [full("a")], "more than was asked for");
    ensure!(b.answer(Kind::Endpoint).await?.names() == [full("b")], "more than was asked for");
    rig.publish(|services| services.rehost("a"))?;
    ensure!(a.answer(Kind::Endpoint).await?.names() == [full("a")], "another update");
    b.silence("it did not ask for what changed").await?;
    rig.publish(|services| services.touch("b"))?;
    let update = clusters.answer(Kind::Cluster).await?;
    ensure!(update.resources.contains_key(&full("b")), "clusters alone: {}", update.told());
    drop((clusters, a, b));
    rig.close().await
}
