//! A delta ADS client that keeps what it is sent and accepts everything: the wire, without an Envoy.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use envoy_types::pb::envoy::service::discovery::v3::Resource;
use legation::snapshot::ResourceType;
use legation::xds::proto::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use legation::xds::proto::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Struct, Value, value};
use prost::Message;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

const LIMIT: Duration = Duration::from_secs(60);
const LONGEST: usize = 64 << 20;

/// An open stream and what it has brought.
pub(crate) struct Ads {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    /// The version of everything held, by type and name.
    pub(crate) held: BTreeMap<(ResourceType, String), String>,
}

/// One response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) kind: ResourceType,
    pub(crate) names: Vec<String>,
    pub(crate) removed: Vec<String>,
}

fn node(id: &str, namespace: &str) -> Node {
    let text = |text: &str| Value { kind: Some(value::Kind::StringValue(text.to_owned())) };
    let fields = [("namespace".to_owned(), text(namespace)), ("service".to_owned(), text("wire"))];
    let metadata = Some(Struct { fields: fields.into_iter().collect() });
    Node { id: id.to_owned(), cluster: "wire".to_owned(), metadata, ..Node::default() }
}

impl Ads {
    /// Opens a stream and asks for every cluster.
    pub(crate) async fn open(server: SocketAddr, id: &str, namespace: &str) -> Result<Self, Status> {
        let connected = AggregatedDiscoveryServiceClient::connect(format!("http://{server}")).await;
        let client = connected.map_err(|error| Status::unknown(format!("connecting: {error:?}")))?;
        let (requests, outbox) = mpsc::channel(64);
        let first = DeltaDiscoveryRequest {
            node: Some(node(id, namespace)),
            type_url: ResourceType::Cluster.type_url().to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        requests.try_send(first).map_err(|_| Status::internal("a full queue"))?;
        let outbox = futures_util::stream::unfold(outbox, |mut outbox| async move {
            outbox.recv().await.map(|request| (request, outbox))
        });
        let mut client = client.max_decoding_message_size(LONGEST);
        let responses = client.delta_aggregated_resources(outbox).await?.into_inner();
        Ok(Self { requests, responses, held: BTreeMap::new() })
    }

    /// Asks for these names too; none is everything, for a first request of a type that knows that.
    pub(crate) async fn subscribe(&self, kind: ResourceType, names: Vec<String>) -> anyhow::Result<()> {
        let request = DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: names,
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).await.context("the stream is closed")
    }

    /// The next response, which it accepts.
    pub(crate) async fn next(&mut self) -> Result<Received, Status> {
        let next = tokio::time::timeout(LIMIT, self.responses.message()).await;
        let response =
            next.map_err(|_| Status::deadline_exceeded(format!("nothing came in {LIMIT:?}")))??;
        let response = response.ok_or_else(|| Status::aborted("the server ended the stream"))?;
        let kind = ResourceType::from_type_url(&response.type_url)
            .ok_or_else(|| Status::internal(format!("a strange type {}", response.type_url)))?;
        let mut names = Vec::new();
        for bytes in &response.resources {
            let resource =
                Resource::decode(bytes.clone()).map_err(|error| Status::internal(error.to_string()))?;
            self.held.insert((kind, resource.name.clone()), resource.version);
            names.push(resource.name);
        }
        for name in &response.removed_resources {
            self.held.remove(&(kind, name.clone()));
        }
        let accept = DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(accept).await.map_err(|_| Status::aborted("the stream is closed"))?;
        Ok(Received { kind, names, removed: response.removed_resources })
    }

    /// Receives until `count` resources of a type are held.
    pub(crate) async fn hold(&mut self, kind: ResourceType, count: usize) -> Result<Vec<String>, Status> {
        loop {
            let names: Vec<_> =
                self.held.keys().filter(|key| key.0 == kind).map(|key| key.1.clone()).collect();
            if names.len() >= count {
                return Ok(names);
            }
            self.next().await?;
        }
    }

    /// Subscribes as Envoy does, until everything that clusters and listeners refer to is held.
    pub(crate) async fn hold_everything(&mut self, clusters: usize, listeners: usize) -> anyhow::Result<()> {
        let names = self.hold(ResourceType::Cluster, clusters).await?;
        self.subscribe(ResourceType::Endpoint, names.clone()).await?;
        self.hold(ResourceType::Endpoint, clusters).await?;
        self.subscribe(ResourceType::Listener, Vec::new()).await?;
        // An HTTP listener's routes have its name.
        let routes = self.hold(ResourceType::Listener, listeners).await?;
        let count = routes.len();
        self.subscribe(ResourceType::Route, routes).await?;
        self.hold(ResourceType::Route, count).await?;
        Ok(())
    }
}
