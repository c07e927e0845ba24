//! Streams in both directions: WebSocket and gRPC, through stock Envoy.
//!
//! They are no requests that end, and yet the time of a request is theirs where it is not zero.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use integration::scene::play;
use integration::wait;
use legation::snapshot::ResourceType;
use legation::xds::proto::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use legation::xds::proto::{DeltaDiscoveryRequest, Node, Struct, Value, value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::shop::Shop;

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_websocket_works_and_outlives_the_time_of_a_request() -> anyhow::Result<()> {
    play("websocket", async |scene| {
        let mut shop = Shop::open(scene.folder()).await?;
        shop.apply("services: { socket: { timeouts: { request: 500ms } } }\n").await?;
        let mut stream = shop.upgraded().await?;
        let (began, mut answer) = (Instant::now(), [0; 4]);
        while began.elapsed() < Duration::from_secs(2) {
            stream.write_all(b"ping").await?;
            stream.read_exact(&mut answer).await.context("the socket was cut")?;
            tokio::time::sleep(Duration::from_millis(100)).await; // the measure itself
        }
        ensure!(&answer == b"ping");
        shop.close().await
    })
}

/// A policy with a gRPC service that is known to speak in streams: the control plane itself.
fn policy(shop: &Shop, request: &str) -> String {
    format!(
        "externals: [{{ name: control, port: 18000, appProtocol: grpc, endpoints: ['{}'] }}]\n\
         services: {{ control: {{ aliases: [{{ name: control, port: 18000, address: 127.200.8.8 }}], timeouts: {{ request: {request} }} }} }}\n",
        shop.control.xds()
    )
}

fn ask(kind: ResourceType, names: &[&str]) -> DeltaDiscoveryRequest {
    let text = |text: &str| Value { kind: Some(value::Kind::StringValue(text.to_owned())) };
    let fields = [("namespace".to_owned(), text("shop")), ("service".to_owned(), text("wire"))];
    DeltaDiscoveryRequest {
        node: Some(Node {
            id: "through-envoy".to_owned(),
            metadata: Some(Struct { fields: fields.into_iter().collect() }),
            ..Node::default()
        }),
        type_url: kind.type_url().to_owned(),
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

async fn channel() -> anyhow::Result<Channel> {
    let place = Channel::from_static("http://127.200.8.8:18000");
    wait::until(LIMIT, "the listener of control", async || Ok(place.connect().await.ok())).await
}

/// How long the answer to one question goes on, which by itself never ends; `None` if it outlives `limit`.
async fn watched(limit: Duration) -> anyhow::Result<Option<Duration>> {
    let mut health = HealthClient::new(channel().await?);
    let began = Instant::now();
    let mut answers = health.watch(HealthCheckRequest::default()).await?.into_inner();
    let first = answers.message().await?.context("an end instead of an answer")?;
    ensure!(first.status() == ServingStatus::Serving, "{first:?}");
    let ended = tokio::time::timeout(limit, answers.message()).await;
    Ok(ended.is_ok().then(|| began.elapsed()))
}

/// Asks and is answered, again and again on one stream, for a while.
async fn conversed(time: Duration) -> anyhow::Result<()> {
    let mut client = AggregatedDiscoveryServiceClient::new(channel().await?);
    let (requests, mut outbox) = mpsc::channel(8);
    requests.send(ask(ResourceType::Cluster, &[])).await?;
    let outbox = futures_util::stream::poll_fn(move |context| outbox.poll_recv(context));
    let began = Instant::now();
    let mut responses = client.delta_aggregated_resources(outbox).await?.into_inner();
    responses.message().await?.context("an end instead of clusters")?;
    while began.elapsed() < time {
        // Whoever asks for a name again is sent it again.
        requests.send(ask(ResourceType::Endpoint, &["shop/pay"])).await?;
        let response = tokio::time::timeout(LIMIT, responses.message()).await??;
        let response = response.with_context(|| format!("an end after {:?}", began.elapsed()))?;
        ensure!(response.type_url == ResourceType::Endpoint.type_url());
        tokio::time::sleep(Duration::from_millis(100)).await; // the measure itself
    }
    Ok(())
}

#[test]
fn a_stream_of_grpc_ends_with_the_time_of_a_request_unless_that_is_zero() -> anyhow::Result<()> {
    play("grpc-stream", async |scene| {
        let mut shop = Shop::open(scene.folder()).await?;
        shop.apply(&policy(&shop, "700ms")).await?;
        let lived = watched(Duration::from_secs(4)).await?;
        ensure!(lived.is_some_and(|it| it < Duration::from_secs(3)), "with 700 ms it lived for {lived:?}");
        // The time of a request begins when all of it is there.
        conversed(Duration::from_secs(2)).await?;
        shop.apply(&policy(&shop, "0s")).await?;
        let lived = watched(Duration::from_secs(3)).await?;
        ensure!(lived.is_none(), "with 0s it lived for {lived:?} only");
        shop.close().await
    })
}
