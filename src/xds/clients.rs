//! The connected sidecars and how far each has come: what people ask about.
//!
//! It is not the protocol's state: that is the session's, and nothing here decides what is sent.
//!
//! Invariant: an entry lives exactly as long as its stream.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use dashmap::DashMap;

use crate::model::Namespace;
use crate::snapshot::{ResourceType, Version};

/// Who is at the other end of a stream, from the first request's `node`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Node {
    /// The node id: the task ARN where our bootstrap made it.
    pub id: Arc<str>,
    /// The node cluster.
    pub cluster: String,
    /// The availability zone.
    pub zone: String,
    /// The service that the sidecar belongs to, as it says.
    pub service: String,
    /// `envoy 1.40.0`, as far as the client tells.
    pub user_agent: String,
    /// Container ports of its own task, as its bootstrap declares them.
    pub occupied_ports: Vec<u16>,
}

/// A refused response.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nack {
    /// The generation of the refused response.
    pub generation: u64,
    /// The client's words, cut at 4 KiB.
    pub message: String,
    /// When it came.
    pub at: SystemTime,
}

/// How far a client has come with one type.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TypeStatus {
    /// Whether it asks for everything.
    pub wildcard: bool,
    /// How many names it asks for.
    pub subscribed: usize,
    /// The generation and time of the newest response.
    pub sent: Option<(u64, SystemTime)>,
    /// The generation and time of the newest accepted response.
    pub acked: Option<(u64, SystemTime)>,
    /// The newest refusal, until a later response is accepted.
    pub nack: Option<Nack>,
    /// Resources that it refused and that have not changed since, with the refused version.
    pub rejected: BTreeMap<Arc<str>, Version>,
    /// Responses sent.
    pub responses: u64,
    /// Resources and removals sent, in all responses: what really travelled.
    pub resources: u64,
    /// Responses refused.
    pub nacks: u64,
}

/// One connected sidecar.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Client {
    /// The stream's number.
    pub stream: u64,
    /// Who it is.
    pub node: Node,
    /// What it sees.
    pub namespace: Namespace,
    /// Its address.
    pub peer: String,
    /// Since when.
    pub connected_at: SystemTime,
    /// The newest generation that it holds completely: everything sent, everything answered.
    pub synced_generation: u64,
    /// Aliases whose listener it can't have, because its own task occupies the port (`LSN002`).
    pub withheld: Vec<Arc<str>>,
    /// By type, those it asked for.
    pub types: BTreeMap<ResourceType, TypeStatus>,
}

/// Every connected sidecar. Clones share the table.
#[derive(Clone, Debug, Default)]
pub struct Clients {
    table: Arc<DashMap<u64, Client>>,
}

/// Removes the entry when the stream ends.
#[derive(Debug)]
pub struct Registered {
    clients: Clients,
    stream: u64,
}

impl Clients {
    /// Enters a client for as long as the answer lives.
    pub fn register(&self, client: Client) -> Registered {
        let stream = client.stream;
        self.table.insert(stream, client);
        Registered { clients: self.clone(), stream }
    }

    /// The connected sidecars, ordered by namespace, node id and stream.
    pub fn list(&self) -> Vec<Client> {
        let mut clients: Vec<_> = self.table.iter().map(|client| client.clone()).collect();
        clients
            .sort_by(|a, b| (&a.namespace, &a.node.id, a.stream).cmp(&(&b.namespace, &b.node.id, b.stream)));
        clients
    }

    /// How many are connected.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether none is connected.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

impl Registered {
    /// Changes the client's entry.
    pub fn update(&self, change: impl FnOnce(&mut Client)) {
        if let Some(mut client) = self.clients.table.get_mut(&self.stream) {
            change(&mut client);
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.clients.table.remove(&self.stream);
    }
}
