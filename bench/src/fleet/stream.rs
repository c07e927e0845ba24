//! One delta stream on a connection of its own: asks, takes what comes and accepts it.
//!
//! It is no gRPC library: it speaks HTTP/2 and the envelope of gRPC itself, to leave the processor to the
//! server under measure. Invariant: every response is handed to the book before it is accepted.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use anyhow::Context;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::{self, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use legation::xds::proto::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status, Struct, Value, value,
};
use prost::Message;
use tokio::task::AbortHandle;

use super::book::{Book, Held};
use crate::door::Door;
use crate::world;

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ASSIGNMENT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const AGGREGATED: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// Room for what a client has not read yet: more than any response.
pub(super) const WINDOW: u32 = 4 << 20;
/// The flag of compression and the length, before each message.
const PREFIX: usize = 5;

/// `INVALID_ARGUMENT` of `google.rpc.Code`.
const INVALID_ARGUMENT: i32 = 3;

/// What a stream asks for.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) number: usize,
    pub(super) services: Vec<usize>,
    /// What it says that it holds, from an earlier stream.
    pub(super) presented: HashMap<String, String>,
    /// The same of their clusters, if it asks for these first.
    pub(super) clusters: Option<HashMap<String, String>>,
}

/// An open stream. Dropping it closes the connection.
pub(super) struct Stream {
    requests: SendStream<Bytes>,
    /// Until the server has begun to answer: some servers begin when there is something to say.
    begins: Option<ResponseFuture>,
    responses: Option<RecvStream>,
    buffer: BytesMut,
    connection: AbortHandle,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Stream {
    /// Connects and asks, with so much room for what is not read yet.
    pub(super) async fn open(door: &Door, asked: &Asked, window: u32) -> anyhow::Result<Self> {
        let wire = door.enter().await?;
        let mut builder = client::Builder::new();
        builder.initial_window_size(window).initial_connection_window_size(window);
        let (client, connection) = builder.handshake(wire).await.context("speaking HTTP/2")?;
        let connection = tokio::task::spawn_local(async move {
            let _ = connection.await; // whoever reads a stream of it learns of its end
        });
        let connection = connection.abort_handle();
        let (requests, begins) = request(client, door.address, asked).await?;
        Ok(Self { requests, begins: Some(begins), responses: None, buffer: BytesMut::new(), connection })
    }

    /// The next response.
    pub(super) async fn next(&mut self) -> anyhow::Result<DeltaDiscoveryResponse> {
        loop {
            if let Some(message) = self.message() {
                return DeltaDiscoveryResponse::decode(message).context("reading a response");
            }
            if let Some(begins) = &mut self.begins {
                self.responses = Some(begun(begins.await.context("waiting for the answer")?)?);
                self.begins = None;
            }
            let responses = self.responses.as_mut().context("nothing was asked")?;
            let data = responses.data().await.context("the server ended the stream")?;
            let data = data.context("reading from the stream")?;
            responses.flow_control().release_capacity(data.len())?;
            self.buffer.put(data);
        }
    }

    fn message(&mut self) -> Option<Bytes> {
        let prefix = self.buffer.get(..PREFIX)?;
        let length = u32::from_be_bytes(prefix[1..].try_into().ok()?) as usize;
        if self.buffer.len() < PREFIX + length {
            return None;
        }
        self.buffer.advance(PREFIX);
        Some(self.buffer.split_to(length).freeze())
    }

    /// Accepts a response, or refuses it for a reason.
    pub(super) fn answer(
        &mut self,
        response: DeltaDiscoveryResponse,
        refused: Option<&str>,
    ) -> anyhow::Result<()> {
        let error = |message: &str| Status { code: INVALID_ARGUMENT, message: message.to_owned() };
        let request = DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            error_detail: refused.map(error),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send_data(framed(&request), false).context("answering a response")
    }

    /// Takes in the clusters that it asked for and does not hold, and asks for load assignments then.
    pub(super) async fn take_clusters(
        &mut self,
        asked: &Asked,
        book: &Rc<RefCell<Book>>,
    ) -> anyhow::Result<()> {
        let Some(held) = &asked.clusters else { return Ok(()) };
        let names = asked.services.iter().map(|service| world::name(*service));
        let mut missing: HashSet<_> = names.filter(|name| !held.contains_key(name)).collect();
        while !missing.is_empty() {
            let response = self.next().await?;
            anyhow::ensure!(
                response.type_url == CLUSTER,
                "{} came before it was asked for",
                response.type_url
            );
            for encoded in &response.resources {
                let name = book.borrow_mut().take_cluster(encoded)?;
                anyhow::ensure!(missing.remove(&name), "cluster {name} was not asked for, or is held");
            }
            self.answer(response, None)?;
        }
        let request = assignments(asked);
        self.requests.send_data(framed(&request), false).context("asking for load assignments")
    }

    /// Takes in what comes, until the stream ends, which is an error.
    pub(super) async fn follow(&mut self, book: &Rc<RefCell<Book>>, held: &mut Held) -> anyhow::Result<()> {
        loop {
            let response = self.next().await?;
            let now = Instant::now();
            {
                let mut book = book.borrow_mut();
                anyhow::ensure!(
                    response.removed_resources.is_empty(),
                    "{:?} went",
                    response.removed_resources
                );
                for encoded in &response.resources {
                    match response.type_url.as_str() {
                        CLUSTER => drop(book.take_cluster(encoded)?),
                        _ => book.take(held, encoded, now)?,
                    }
                }
            }
            self.answer(response, None)?;
        }
    }
}

async fn request(
    client: SendRequest<Bytes>,
    server: SocketAddr,
    asked: &Asked,
) -> anyhow::Result<(SendStream<Bytes>, ResponseFuture)> {
    let request = http::Request::post(format!("http://{server}{AGGREGATED}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let mut client = client.ready().await.context("waiting for a free stream")?;
    let (response, mut requests) = client.send_request(request, false).context("asking")?;
    requests.send_data(framed(&first(asked)), false).context("asking")?;
    Ok((requests, response))
}

fn begun(response: http::Response<RecvStream>) -> anyhow::Result<RecvStream> {
    anyhow::ensure!(response.status() == 200, "answered by {}", response.status());
    let refused = response.headers().get("grpc-status");
    anyhow::ensure!(refused.is_none(), "refused: {:?}", response.headers());
    Ok(response.into_body())
}

fn first(asked: &Asked) -> DeltaDiscoveryRequest {
    let namespace = Value { kind: Some(value::Kind::StringValue("prod".to_owned())) };
    let metadata = Some(Struct { fields: [("namespace".to_owned(), namespace)].into() });
    let node = Node { id: format!("task/{}", asked.number), metadata, ..Node::default() };
    let request = match &asked.clusters {
        Some(held) => asking(CLUSTER, asked, held),
        None => assignments(asked),
    };
    DeltaDiscoveryRequest { node: Some(node), ..request }
}

fn assignments(asked: &Asked) -> DeltaDiscoveryRequest {
    asking(ASSIGNMENT, asked, &asked.presented)
}

fn asking(type_url: &str, asked: &Asked, held: &HashMap<String, String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        resource_names_subscribe: asked.services.iter().map(|service| world::name(*service)).collect(),
        initial_resource_versions: held.clone().into_iter().collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn framed(request: &DeltaDiscoveryRequest) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX + request.encoded_len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(request.encoded_len()).unwrap_or(u32::MAX));
    frame.put(request.encode_to_vec().as_slice());
    frame.freeze()
}
