//! Who connects, how, and to what: everything that is decided before a stream's first request.
//!
//! Invariant: a client is only a description; every connection made from it is a new one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use envoy_types::pb::envoy::config::core::v3::{BuildVersion, Locality, Node, node::UserAgentVersionType};
use envoy_types::pb::envoy::r#type::v3::SemanticVersion;
use envoy_types::pb::google::protobuf::{Struct, Value, value};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::wire::Wire;
use super::{Ask, Kind, Probe, Protocol};

/// How long a connection, or the headers of a stream, may take.
const LIMIT: Duration = Duration::from_secs(20);
/// Envoy has no limit on what it receives.
const NO_LIMIT: usize = 1 << 30;
/// The namespace of every case that does not say otherwise.
const NAMESPACE: &str = "prod";

/// A client to be.
#[derive(Debug, Clone)]
pub struct Client {
    /// The server.
    pub server: SocketAddr,
    /// How it wants to be told.
    pub protocol: Protocol,
    /// Who it says that it is; `None` says nothing.
    pub node: Option<Node>,
    /// The one type of its stream; `None` is the aggregated service.
    pub only: Option<Kind>,
    /// Whether every request carries the node.
    pub repeats_node: bool,
    /// The longest message that it takes.
    pub longest: usize,
    /// How many bytes of a stream it takes without reading them.
    pub window: Option<u32>,
}

/// An Envoy of that id in that namespace.
pub fn node(id: &str, namespace: &str) -> Node {
    let text = |text: &str| Value { kind: Some(value::Kind::StringValue(text.to_owned())) };
    let fields = [("namespace", text(namespace)), ("service", text("probe"))];
    let version = SemanticVersion { major_number: 1, minor_number: 40, patch: 0 };
    Node {
        id: id.to_owned(),
        cluster: format!("{namespace}/probe"),
        metadata: Some(Struct { fields: fields.map(|(key, value)| (key.to_owned(), value)).into() }),
        locality: Some(Locality { zone: "eu-west-1a".to_owned(), ..Locality::default() }),
        user_agent_name: "envoy".to_owned(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentBuildVersion(BuildVersion {
            version: Some(version),
            metadata: Some(Struct { fields: HashMap::new() }),
        })),
        ..Node::default()
    }
}

impl Client {
    /// An Envoy with an aggregated stream.
    pub fn new(server: SocketAddr, protocol: Protocol) -> Self {
        Self {
            server,
            protocol,
            node: Some(node("probe-1", NAMESPACE)),
            only: None,
            repeats_node: false,
            longest: NO_LIMIT,
            window: None,
        }
    }

    /// With another node id.
    pub fn id(self, id: &str) -> Self {
        Self { node: self.node.map(|node| Node { id: id.to_owned(), ..node }), ..self }
    }

    /// As another kind of client, such as `gRPC C-core`.
    pub fn agent(self, name: &str) -> Self {
        Self { node: self.node.map(|node| Node { user_agent_name: name.to_owned(), ..node }), ..self }
    }

    /// On the service of one type.
    pub fn only(self, kind: Kind) -> Self {
        Self { only: Some(kind), ..self }
    }

    /// A connection of its own.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.server))?;
        let endpoint = endpoint.connect_timeout(LIMIT).tcp_nodelay(true);
        let endpoint = match self.window {
            // The connection's window can't be smaller than HTTP/2 begins with.
            Some(window) => {
                endpoint.initial_stream_window_size(window).initial_connection_window_size(65_535)
            }
            None => endpoint,
        };
        let channel = endpoint.connect().await.with_context(|| format!("connecting to {}", self.server))?;
        Ok(Connection { channel })
    }

    /// A stream on a connection of its own.
    pub async fn open(&self) -> anyhow::Result<Probe> {
        self.connect().await?.open(self).await
    }

    /// The status with which the server refuses a stream that begins with this; an error if a response comes.
    pub async fn refusal(&self, first: Ask) -> anyhow::Result<Status> {
        let mut probe = match self.open().await {
            Ok(probe) => probe,
            Err(error) => return error.downcast::<Status>(),
        };
        probe.send(first);
        let end = probe.end().await?;
        anyhow::ensure!(end.responses.is_empty(), "a response before the end: {}", end.responses[0].told());
        anyhow::ensure!(end.status.code() != Code::Ok, "the stream ended without a reason");
        Ok(end.status)
    }
}

/// One TCP connection, which any number of streams may share. Clones share it.
#[derive(Debug, Clone)]
pub struct Connection {
    channel: Channel,
}

impl Connection {
    /// A stream on it. A refusal is a [`Status`].
    pub async fn open(&self, client: &Client) -> anyhow::Result<Probe> {
        let opening = Wire::open(self.channel.clone(), client.protocol, client.only, client.longest);
        let opened = tokio::time::timeout(LIMIT, opening).await;
        let wire = opened.map_err(|_| anyhow::anyhow!("no headers within {LIMIT:?}"))??;
        Ok(Probe::new(client.clone(), wire))
    }
}
