//! Thousands of delta streams, each on a connection of its own, that keep what they are sent.
//!
//! It is no model of Envoy: it asks as Envoy does and accepts everything. Invariant: a round is over when every
//! stream has received it, and a stream that ends is an error.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::future::try_join_all;
use legation::snapshot::ResourceType;
use legation::xds::proto::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use legation::xds::proto::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Struct, Value, value};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};

/// How long one stream may take to be opened, refusals included.
const OPENING: Duration = Duration::from_secs(120);
/// Between a refusal and the next try.
const PAUSE: Duration = Duration::from_millis(200);
/// How many streams are opened at the same time.
const AT_ONCE: usize = 200;

/// What the clients do with what they are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// They take it and accept it.
    Reading,
    /// They read nothing, and allow HTTP/2 the least.
    Stalled,
}

/// What each stream has received last: the port of the endpoint that changes.
type Received = watch::Receiver<(u32, Instant)>;

/// Streams that are open.
pub(crate) struct Fleet {
    received: Vec<Received>,
    tasks: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Fleet {
    pub(crate) async fn open(
        server: SocketAddr,
        streams: usize,
        subscriptions: usize,
        kind: Kind,
    ) -> anyhow::Result<Self> {
        let turns = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
        let open = Arc::new(AtomicUsize::new(0));
        let (mut received, mut tasks) = (Vec::new(), Vec::new());
        for number in 0..streams {
            let (told, last) = watch::channel((0, Instant::now()));
            let (turns, open) = (Arc::clone(&turns), Arc::clone(&open));
            received.push(last);
            tasks.push(tokio::spawn(async move {
                let turn = turns.acquire().await.context("the turns are closed")?;
                let client = Client { server, number, subscriptions, kind };
                let stream = tokio::time::timeout(OPENING, client.open()).await;
                let mut stream = stream.with_context(|| format!("opening stream {number}"))??;
                if kind == Kind::Reading {
                    stream.hold_everything(subscriptions).await?;
                }
                open.fetch_add(1, Ordering::AcqRel);
                drop(turn);
                stream.follow(kind, &told).await
            }));
        }
        let fleet = Self { received, tasks };
        while open.load(Ordering::Acquire) < streams {
            fleet.opened()?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(fleet)
    }

    /// Whether every stream is still there.
    pub(crate) fn opened(&self) -> anyhow::Result<()> {
        let ended = self.tasks.iter().filter(|task| task.is_finished()).count();
        anyhow::ensure!(ended == 0, "{ended} streams have ended");
        Ok(())
    }

    /// Waits until every stream has received the change of that number. Returns how long after `since` each did.
    pub(crate) async fn received(
        &self,
        change: u64,
        since: Instant,
        limit: Duration,
    ) -> anyhow::Result<Vec<Duration>> {
        let port = u32::try_from(10_000 + change % 50_000)?;
        let each = self.received.iter().cloned().map(|mut received| async move {
            let told = received.wait_for(|(last, _)| *last == port).await.context("a stream has ended")?;
            anyhow::Ok(told.1.saturating_duration_since(since))
        });
        tokio::time::timeout(limit, try_join_all(each)).await.context("not every stream received it")?
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Who opens a stream.
#[derive(Debug, Clone, Copy)]
struct Client {
    server: SocketAddr,
    number: usize,
    subscriptions: usize,
    kind: Kind,
}

/// An open stream.
struct Open {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    /// The channel ends with the last handle on it.
    _channel: Channel,
}

impl Client {
    /// Tries until it is admitted.
    async fn open(&self) -> anyhow::Result<Open> {
        let mut endpoint = Endpoint::from_shared(format!("http://{}", self.server))?.tcp_nodelay(true);
        if self.kind == Kind::Stalled {
            endpoint = endpoint.initial_stream_window_size(1_024);
        }
        let channel = endpoint.connect().await.context("connecting")?;
        loop {
            let (requests, outbox) = mpsc::channel(8);
            let names = (0..self.subscriptions).map(|service| format!("prod/s{service:04}"));
            let request = DeltaDiscoveryRequest {
                node: Some(self.node()),
                type_url: ResourceType::Endpoint.type_url().to_owned(),
                resource_names_subscribe: names.collect(),
                ..DeltaDiscoveryRequest::default()
            };
            requests.send(request).await.context("a full queue")?;
            let outbox = futures_util::stream::unfold(outbox, |mut outbox| async move {
                outbox.recv().await.map(|request| (request, outbox))
            });
            let mut client = AggregatedDiscoveryServiceClient::new(channel.clone());
            match client.delta_aggregated_resources(outbox).await {
                Ok(response) => {
                    return Ok(Open { requests, responses: response.into_inner(), _channel: channel });
                }
                Err(status) if status.code() == Code::Unavailable => tokio::time::sleep(PAUSE).await,
                Err(status) => return Err(status.into()),
            }
        }
    }

    fn node(&self) -> Node {
        let namespace = Value { kind: Some(value::Kind::StringValue("prod".to_owned())) };
        let fields = [("namespace".to_owned(), namespace)].into();
        Node { id: format!("task/{}", self.number), metadata: Some(Struct { fields }), ..Node::default() }
    }
}

impl Open {
    async fn next(&mut self) -> anyhow::Result<DeltaDiscoveryResponse> {
        let response = self.responses.message().await?.context("the server ended the stream")?;
        let accept = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(accept).await.context("the stream is closed")?;
        Ok(response)
    }

    async fn hold_everything(&mut self, names: usize) -> anyhow::Result<()> {
        let mut held = BTreeSet::new();
        while held.len() < names {
            for bytes in self.next().await?.resources {
                held.insert(assignment(&bytes)?.0);
            }
        }
        Ok(())
    }

    async fn follow(mut self, kind: Kind, told: &watch::Sender<(u32, Instant)>) -> anyhow::Result<()> {
        if kind == Kind::Stalled {
            return std::future::pending().await;
        }
        loop {
            let response = self.next().await?;
            let now = Instant::now();
            for bytes in &response.resources {
                let (name, port) = assignment(bytes)?;
                if name == "prod/s0000" {
                    told.send_replace((port, now));
                }
            }
        }
    }
}

/// The name of a load assignment, and the highest port in it.
fn assignment(bytes: &[u8]) -> anyhow::Result<(String, u32)> {
    use envoy_types::pb::envoy::config::core::v3::{address::Address, socket_address::PortSpecifier};
    use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier};
    use envoy_types::pb::envoy::service::discovery::v3::Resource;
    use prost::Message;
    let resource = Resource::decode(bytes)?;
    let body = resource.resource.context("a resource without a body")?;
    let assignment = ClusterLoadAssignment::decode(&*body.value)?;
    let endpoints = assignment.endpoints.iter().flat_map(|locality| &locality.lb_endpoints);
    let ports = endpoints.filter_map(|endpoint| match endpoint.host_identifier.as_ref()? {
        HostIdentifier::Endpoint(endpoint) => match endpoint.address.as_ref()?.address.as_ref()? {
            Address::SocketAddress(socket) => match socket.port_specifier.as_ref()? {
                PortSpecifier::PortValue(port) => Some(*port),
                PortSpecifier::NamedPort(_) => None,
            },
            _ => None,
        },
        HostIdentifier::EndpointName(_) => None,
    });
    Ok((resource.name, ports.max().unwrap_or_default()))
}
