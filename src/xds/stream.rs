//! One task per stream: feeds the session from the wire and the store, and the wire from the session.
//!
//! It decides nothing about what is sent.
//!
//! Invariant: pulled, never pushed. A response is built when HTTP/2 asks for one, from the newest snapshot,
//! and no lock is held across an await.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::Stream;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, Streaming};
use tracing::{debug, info, warn};

use super::clients::{Client, Clients, Nack, Node, Registered};
use super::proto::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use super::proto::{ControlPlane, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node as ProtoNode, value};
use super::session::{Heard, Response, Session};
use crate::changes::Ledger;
use crate::model::Namespace;
use crate::snapshot::{ResourceType, Slice, Snapshot};
use crate::store::Store;
use crate::telemetry::{Metrics, StageLabels, StreamLabels, TypeLabels};

/// A reconnect presents the version of everything the client holds: 1.8 MiB for 20,000 clusters.
const MAX_REQUEST_BYTES: usize = 64 * 1024 * 1024;
/// The queue of connections not yet accepted: with the usual 128 a reconnect storm takes seconds.
const BACKLOG: u32 = 4096;
/// A NACK's text is cut here.
const NACK_TEXT_BYTES: usize = 4096;
/// No namespace has a longer name.
const LONGEST_NAMESPACE: usize = 255;
/// No task ARN is longer.
const LONGEST_NODE_ID: usize = 2048;
/// How long to wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// On shutdown streams close this far apart, so that replicas are not stormed.
const CLOSE_APART: Duration = Duration::from_millis(10);

/// The server's parts, shared by every stream.
#[derive(Clone, Debug)]
pub struct Server {
    /// Where snapshots come from.
    pub store: Store,
    /// Who is connected.
    pub clients: Clients,
    /// What left and who knows.
    pub ledger: Ledger,
    /// What is counted.
    pub metrics: Metrics,
    /// Told to clients: which replica, which version.
    pub identifier: Arc<str>,
    /// Ends every stream, within `grace`.
    pub stopping: CancellationToken,
    /// How long streams may take to end.
    pub grace: Duration,
}

/// Listens with a long queue.
pub fn listen(address: std::net::SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves ADS until `server.stopping`, then until its streams have ended, at most for the grace.
pub async fn serve(listener: TcpListener, server: Server) -> Result<(), tonic::transport::Error> {
    let (stopping, grace) = (server.stopping.clone(), server.grace);
    let service = AggregatedDiscoveryServiceServer::new(server).max_decoding_message_size(MAX_REQUEST_BYTES);
    let serving = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(Some(65_536))
        .add_service(service)
        .serve_with_incoming_shutdown(accept(listener), stopping.clone().cancelled_owned());
    let deadline = async {
        stopping.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        served = serving => served,
        () = deadline => {
            warn!(?grace, "streams were still open at the deadline and are cut");
            Ok(())
        }
    }
}

/// Connections as they come. An error, such as too many open files, is told once and waited out: to try again
/// at once would only burn a core.
fn accept(listener: TcpListener) -> impl Stream<Item = std::io::Result<TcpStream>> {
    async_stream::stream! {
        let mut failing = false;
        loop {
            match listener.accept().await {
                Ok((connection, _)) => {
                    failing = false;
                    // Without it an update waits up to 45 ms for the client's delayed ACK.
                    let _ = connection.set_nodelay(true);
                    yield Ok(connection);
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(%error, "sidecars can't connect");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Server {
    type DeltaAggregatedResourcesStream =
        Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::DeltaAggregatedResourcesStream>, Status> {
        if self.stopping.is_cancelled() {
            return Err(Status::unavailable("shutting down"));
        }
        if !self.store.is_synced() {
            // Never an empty answer: it would read as "delete everything".
            return Err(Status::unavailable(
                "waiting for the first complete reading of every source; see /readyz?verbose",
            ));
        }
        let peer = request.remote_addr().map(|address| address.to_string()).unwrap_or_default();
        Ok(tonic::Response::new(Box::pin(run(self.clone(), peer, request.into_inner()))))
    }
}

fn run(
    server: Server,
    peer: String,
    mut requests: Streaming<DeltaDiscoveryRequest>,
) -> impl Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send {
    async_stream::try_stream! {
        let Some(first) = first_request(&mut requests, &server.stopping).await? else { return };
        let opened = Connection::open(server, peer, &first);
        let mut connection = opened.inspect_err(|status| info!(reason = status.message(), "sidecar refused"))?;
        connection.on_request(&first)?;
        let closing = connection.server.closing();
        tokio::pin!(closing);
        loop {
            while let Some(response) = connection.next_response() {
                yield response;
            }
            if !connection.drive(&mut requests, closing.as_mut()).await? {
                break;
            }
        }
    }
}

async fn first_request(
    requests: &mut Streaming<DeltaDiscoveryRequest>,
    stopping: &CancellationToken,
) -> Result<Option<DeltaDiscoveryRequest>, Status> {
    tokio::select! {
        () = stopping.cancelled() => Ok(None),
        message = requests.message() => message,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

impl Server {
    /// Resolves when this stream is to close: after `stopping`, each at its own moment.
    fn closing(&self) -> impl Future<Output = ()> + Send + use<> {
        let (stopping, clients, grace) = (self.stopping.clone(), self.clients.clone(), self.grace);
        async move {
            stopping.cancelled().await;
            let streams = u32::try_from(clients.len()).unwrap_or(u32::MAX);
            let spread = CLOSE_APART.saturating_mul(streams.saturating_sub(1)).min(grace / 2);
            tokio::time::sleep(spread.mul_f64(fastrand::f64())).await;
        }
    }
}

/// One open stream.
struct Connection {
    server: Server,
    session: Session,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    node: Node,
    namespace: Namespace,
    stream: u64,
    registered: Registered,
}

impl Connection {
    fn open(server: Server, peer: String, first: &DeltaDiscoveryRequest) -> Result<Self, Status> {
        let (node, namespace) = identify(first.node.as_ref())?;
        let Some(mut snapshots) = server.store.subscribe(&namespace) else {
            return Err(unknown_namespace(&namespace, &server.store));
        };
        let snapshot = snapshots.borrow_and_update().clone();
        let namespace = snapshot.namespace.clone();
        let session = Session::new(Slice::new(snapshot, &node.id, &node.occupied_ports));
        let stream = server.ledger.new_stream();
        let registered = server.clients.register(Client {
            stream,
            node: node.clone(),
            namespace: namespace.clone(),
            peer,
            connected_at: SystemTime::now(),
            synced_generation: 0,
            withheld: session.slice().withheld().map(|listener| Arc::clone(&listener.name)).collect(),
            types: Default::default(),
        });
        let labels = StreamLabels { namespace: namespace.to_string(), protocol: "delta" };
        server.metrics.streams.get_or_create(&labels).inc();
        begin_series(&server.metrics, &namespace);
        info!(node = %node.id, %namespace, service = node.service, envoy = node.user_agent, "sidecar connected");
        Ok(Self { server, session, snapshots, node, namespace, stream, registered })
    }

    /// Waits for the next thing to happen and takes it in; `false` when the stream is to end.
    async fn drive(
        &mut self,
        requests: &mut Streaming<DeltaDiscoveryRequest>,
        closing: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<bool, Status> {
        let deadline = self.session.next_deadline();
        tokio::select! {
            biased;
            () = closing => return Ok(false),
            message = requests.message() => match message? {
                Some(request) => self.on_request(&request)?,
                None => return Ok(false),
            },
            changed = self.snapshots.changed() => match changed {
                Ok(()) => self.on_snapshot(),
                Err(_) => return Ok(false),
            },
            () = sleep_until(deadline) => {}
        }
        Ok(true)
    }

    fn on_request(&mut self, request: &DeltaDiscoveryRequest) -> Result<(), Status> {
        if let Some(node) =
            request.node.as_ref().filter(|node| !node.id.is_empty() && *node.id != *self.node.id)
        {
            let message = format!("this stream belongs to node {}, not {}", self.node.id, node.id);
            return Err(Status::invalid_argument(message));
        }
        let heard = self.session.on_request(request);
        let kind = match heard.map_err(|violation| Status::invalid_argument(violation.to_string()))? {
            Heard::Ack(kind, generation, names) => {
                self.on_ack(kind, generation, &names);
                kind
            }
            Heard::Nack(kind, generation, names, message) => {
                self.on_nack(kind, generation, &names, &message);
                kind
            }
            Heard::Names(kind) => kind,
            Heard::UnknownType => {
                debug!(node = %self.node.id, type_url = request.type_url, "unknown type");
                return Ok(());
            }
        };
        self.show(kind);
        Ok(())
    }

    fn on_ack(&mut self, kind: ResourceType, generation: u64, names: &[Arc<str>]) {
        let now = SystemTime::now();
        self.server.metrics.acks.get_or_create(&self.labels(kind)).inc();
        self.registered.update(|client| {
            let status = client.types.entry(kind).or_default();
            status.acked = Some((generation, now));
            status.nack = None;
        });
        if kind == ResourceType::Endpoint {
            for name in names {
                let after = self.server.ledger.acked(name, generation, self.stream, &self.node.id, now);
                self.observe("acked", &after);
            }
        }
    }

    fn on_nack(&mut self, kind: ResourceType, generation: u64, names: &[Arc<str>], message: &str) {
        let message = &message[..message.floor_char_boundary(NACK_TEXT_BYTES)];
        warn!(node = %self.node.id, r#type = kind.short(), ?names, message, "sidecar refused configuration");
        self.server.metrics.nacks.get_or_create(&self.labels(kind)).inc();
        self.registered.update(|client| {
            let status = client.types.entry(kind).or_default();
            status.nack = Some(Nack { generation, message: message.to_owned(), at: SystemTime::now() });
            status.nacks += 1;
        });
    }

    fn on_snapshot(&mut self) {
        let snapshot = self.snapshots.borrow_and_update().clone();
        self.session.on_slice(Slice::new(snapshot, &self.node.id, &self.node.occupied_ports));
        let slice = self.session.slice();
        self.registered.update(|client| {
            client.withheld = slice.withheld().map(|listener| Arc::clone(&listener.name)).collect();
        });
    }

    fn next_response(&mut self) -> Option<DeltaDiscoveryResponse> {
        let Some(response) = self.session.next_response(Instant::now()) else {
            if self.session.is_settled() {
                let generation = self.session.slice().snapshot().generation;
                self.registered.update(|client| client.synced_generation = generation);
            }
            return None;
        };
        self.note_sent(&response);
        Some(DeltaDiscoveryResponse {
            system_version_info: response.generation.to_string(),
            resources: response.resources.iter().map(|resource| resource.bytes.clone()).collect(),
            type_url: response.kind.type_url().to_owned(),
            nonce: response.nonce.to_string(),
            removed_resources: response.removed.iter().map(ToString::to_string).collect(),
            control_plane: Some(ControlPlane { identifier: self.server.identifier.to_string() }),
        })
    }

    fn note_sent(&mut self, response: &Response) {
        let now = SystemTime::now();
        self.server.metrics.responses.get_or_create(&self.labels(response.kind)).inc();
        self.registered.update(|client| {
            let status = client.types.entry(response.kind).or_default();
            status.sent = Some((response.generation, now));
            status.responses += 1;
            status.resources += (response.resources.len() + response.removed.len()) as u64;
        });
        if response.kind == ResourceType::Endpoint {
            for resource in &response.resources {
                let after = self.server.ledger.sent(&resource.name, response.generation, self.stream, now);
                self.observe("pushed", &after);
            }
        }
    }

    /// Shows people what is asked for of one type.
    fn show(&self, kind: ResourceType) {
        let Some(asked) = self.session.asked(kind) else { return };
        self.registered.update(|client| {
            let status = client.types.entry(kind).or_default();
            status.wildcard = asked.wildcard;
            status.subscribed = asked.names;
            status.rejected.clone_from(asked.rejected);
        });
    }

    fn observe(&self, stage: &'static str, after: &[Duration]) {
        let labels = StageLabels { op: "withdraw", stage };
        for after in after {
            self.server.metrics.propagation.get_or_create(&labels).observe(after.as_secs_f64());
        }
    }

    fn labels(&self, kind: ResourceType) -> TypeLabels {
        type_labels(&self.namespace, kind)
    }
}

fn type_labels(namespace: &Namespace, kind: ResourceType) -> TypeLabels {
    TypeLabels { namespace: namespace.to_string(), r#type: kind.short() }
}

/// Begins every count at zero: to Prometheus a series that begins at one has not increased.
fn begin_series(metrics: &Metrics, namespace: &Namespace) {
    for kind in ResourceType::ALL {
        for family in [&metrics.responses, &metrics.acks, &metrics.nacks] {
            drop(family.get_or_create(&type_labels(namespace, kind)));
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let labels = StreamLabels { namespace: self.namespace.to_string(), protocol: "delta" };
        self.server.metrics.streams.get_or_create(&labels).dec();
        info!(node = %self.node.id, namespace = %self.namespace, "sidecar disconnected");
    }
}

/// Who is there, and the namespace that it asks for.
fn identify(node: Option<&ProtoNode>) -> Result<(Node, String), Status> {
    let node = node.filter(|node| !node.id.is_empty());
    let node = node.ok_or_else(|| Status::invalid_argument("the first request must carry node.id"))?;
    if node.id.len() > LONGEST_NODE_ID {
        return Err(Status::invalid_argument(format!("node.id is longer than {LONGEST_NODE_ID} bytes")));
    }
    let field = |key: &str| node.metadata.as_ref()?.fields.get(key)?.kind.as_ref();
    let text = |key: &str| match field(key) {
        Some(value::Kind::StringValue(text)) => Some(text.clone()),
        _ => None,
    };
    let namespace = text("namespace").filter(|namespace| !namespace.is_empty()).ok_or_else(|| {
        let message = format!("node {} must name its mesh namespace in node.metadata.namespace", node.id);
        Status::invalid_argument(message)
    })?;
    if namespace.len() > LONGEST_NAMESPACE {
        let message = format!("node.metadata.namespace is longer than {LONGEST_NAMESPACE} bytes");
        return Err(Status::invalid_argument(message));
    }
    let occupied_ports = match field("container_ports") {
        Some(value::Kind::ListValue(list)) => list.values.iter().filter_map(port).collect(),
        _ => Vec::new(),
    };
    let version = node.user_agent_build_version.as_ref().and_then(|build| build.version.as_ref());
    let version = version.map(|v| format!(" {}.{}.{}", v.major_number, v.minor_number, v.patch));
    let node = Node {
        id: node.id.as_str().into(),
        cluster: node.cluster.clone(),
        zone: node.locality.as_ref().map(|locality| locality.zone.clone()).unwrap_or_default(),
        service: text("service").unwrap_or_default(),
        user_agent: format!("{}{}", node.user_agent_name, version.unwrap_or_default()),
        occupied_ports,
    };
    Ok((node, namespace))
}

fn port(value: &super::proto::Value) -> Option<u16> {
    match value.kind {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked by the range")]
        Some(value::Kind::NumberValue(port)) if (1.0..=65535.0).contains(&port) => Some(port as u16),
        _ => None,
    }
}

fn unknown_namespace(asked: &str, store: &Store) -> Status {
    let known: Vec<_> = store.namespaces().iter().map(ToString::to_string).collect();
    let near = known.iter().min_by_key(|name| strsim::damerau_levenshtein(name, asked));
    let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    Status::unavailable(format!("no namespace {asked} here{hint} (there are: {})", known.join(", ")))
}

#[cfg(test)]
mod tests;
