//! The connected clients and how far each has come: what people ask about.
//!
//! It is not the protocol's state: that is the session's, which is looked at here and never touched.
//!
//! Invariant: an entry lives exactly as long as its stream, and a look at it costs the stream nothing until
//! someone looks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use dashmap::DashMap;
use tokio::sync::broadcast;

use super::session::{Asked, Holding, Protocol, Rejection, Session};
use crate::model::Namespace;
use crate::snapshot::{Name, ProxyClass, ResourceType};
use crate::store::Follower;

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
    pub service: Arc<str>,
    /// `envoy 1.40.0`, as far as the client tells.
    pub user_agent: String,
    /// What kind of client it is.
    pub class: ProxyClass,
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
    /// The newest refusal, while something is refused or nothing has been accepted since.
    pub nack: Option<Nack>,
    /// Resources that it refused and that have not changed since.
    pub rejected: BTreeMap<Name, Rejection>,
    /// Responses sent.
    pub responses: u64,
    /// Resources and removals sent, in all responses: what really travelled.
    pub resources: u64,
    /// Responses refused.
    pub nacks: u64,
}

/// Who is connected, since when and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connected {
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
}

/// One connected client, as it was when it was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Client {
    /// Who it is.
    pub connected: Arc<Connected>,
    /// How it wants to be told.
    pub protocol: Protocol,
    /// The newest generation that it holds completely: everything sent, everything answered.
    pub synced_generation: u64,
    /// Aliases whose listener it can't have, because its own task occupies the port (`LSN002`).
    pub withheld: Vec<Name>,
    /// By type, those it asked for.
    pub types: Vec<(ResourceType, TypeStatus)>,
}

/// One connected client and how it stands to each resource.
#[derive(Debug)]
pub struct Inspected {
    /// The client.
    pub client: Client,
    /// By type, those it asked for: every resource by name.
    pub resources: BTreeMap<ResourceType, Vec<Holding>>,
}

impl std::ops::Deref for Client {
    type Target = Connected;

    fn deref(&self) -> &Connected {
        &self.connected
    }
}

/// A session with what people want to know beyond it.
#[derive(Debug)]
pub struct Watched {
    /// What the client holds and still needs.
    pub session: Session,
    /// How it learns of what is new.
    follower: Arc<Follower>,
    /// The newest generation that it is known to have held completely.
    pub(crate) synced: u64,
    /// What was sent and answered, by type.
    pub types: [Progress; ResourceType::ALL.len()],
}

/// What of a type's status does not follow from the session.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// The generation and time of the newest response.
    pub sent: Option<(u64, SystemTime)>,
    /// The generation and time of the newest accepted response.
    pub acked: Option<(u64, SystemTime)>,
    /// The newest refusal.
    pub nack: Option<Box<Nack>>,
    /// Responses sent.
    pub responses: u64,
    /// Resources and removals sent, in all responses.
    pub resources: u64,
    /// Responses refused.
    pub nacks: u64,
}

impl Progress {
    fn status(&self, asked: &Asked<'_>) -> TypeStatus {
        let accepted_since = |nack: &Nack| self.acked.is_some_and(|(_, at)| at >= nack.at);
        let stands = |nack: &&Nack| !asked.rejected.is_empty() || !accepted_since(nack);
        TypeStatus {
            wildcard: asked.wildcard,
            subscribed: asked.names,
            sent: self.sent,
            acked: self.acked,
            nack: self.nack.as_deref().filter(stands).cloned(),
            rejected: asked.rejected.clone(),
            responses: self.responses,
            resources: self.resources,
            nacks: self.nacks,
        }
    }
}

impl Watched {
    /// A session of which nothing was sent yet, with what tells it of what is new.
    pub fn new(session: Session, follower: Arc<Follower>) -> Self {
        Self { session, follower, synced: 0, types: Default::default() }
    }

    /// The newest generation that the client holds completely. What does not concern it is not sent to it, and it
    /// holds all of that too.
    pub fn synced_generation(&self) -> u64 {
        if self.session.is_settled() { self.follower.same_until().max(self.synced) } else { self.synced }
    }

    /// Keeps in mind how far the client is, before there is more for it to hold.
    pub fn note_synced(&mut self) {
        self.synced = self.synced_generation();
    }

    fn look(&self, connected: &Arc<Connected>) -> Client {
        let session = &self.session;
        let types = ResourceType::ALL.into_iter().filter_map(|kind| {
            let asked = session.asked(kind)?;
            Some((kind, self.types[kind as usize].status(&asked)))
        });
        Client {
            connected: Arc::clone(connected),
            protocol: session.terms().protocol,
            synced_generation: self.synced_generation(),
            withheld: session.slice().withheld().map(|listener| listener.name.clone()).collect(),
            types: types.collect(),
        }
    }
}

/// The session of a stream, which the stream works on and others only look at: one lock for each stream, which
/// nobody holds for longer than one step.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<Watched>>);

impl Shared {
    /// To be worked on or looked at, and let go at once.
    pub fn lock(&self) -> MutexGuard<'_, Watched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client that is there, or has gone unasked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Presence {
    /// Its node id.
    pub node: Arc<str>,
    /// Whether it is there.
    pub here: bool,
}

/// So many comings and goings are kept for who listens. Beyond that some are missed.
const PRESENCES: usize = 16 * 1024;

/// Every connected client. Clones share the table.
#[derive(Clone, Debug)]
pub struct Clients {
    table: Arc<DashMap<u64, (Arc<Connected>, Shared)>>,
    presences: broadcast::Sender<Presence>,
}

impl Default for Clients {
    fn default() -> Self {
        Self { table: Arc::default(), presences: broadcast::Sender::new(PRESENCES) }
    }
}

/// Removes the entry when the stream ends.
#[derive(Debug)]
pub struct Registered {
    clients: Clients,
    /// Who it is.
    pub connected: Arc<Connected>,
    /// Its session.
    pub shared: Shared,
}

impl Clients {
    /// Enters a client for as long as the answer lives.
    pub fn register(&self, connected: Connected, watched: Watched) -> Registered {
        let (connected, shared) = (Arc::new(connected), Shared(Arc::new(Mutex::new(watched))));
        self.table.insert(connected.stream, (Arc::clone(&connected), shared.clone()));
        self.tell(&connected.node.id, true);
        Registered { clients: self.clone(), connected, shared }
    }

    /// Who comes and who goes unasked, from now on.
    pub fn presences(&self) -> broadcast::Receiver<Presence> {
        self.presences.subscribe()
    }

    /// Tells that the stream of a client has ended, though nobody here ended it.
    pub(super) fn note_departure(&self, node: &Arc<str>) {
        self.tell(node, false);
    }

    fn tell(&self, node: &Arc<str>, here: bool) {
        let _ = self.presences.send(Presence { node: Arc::clone(node), here }); // nobody may be listening
    }

    /// The entries, ordered by namespace, node id and stream; the table is not held while one is looked at.
    fn entries(&self) -> Vec<(Arc<Connected>, Shared)> {
        let mut entries: Vec<_> = self.table.iter().map(|entry| entry.value().clone()).collect();
        entries.sort_by(|(a, _), (b, _)| {
            (&a.namespace, &a.node.id, a.stream).cmp(&(&b.namespace, &b.node.id, b.stream))
        });
        entries
    }

    /// The connected clients, ordered by namespace, node id and stream.
    pub fn list(&self) -> Vec<Client> {
        self.entries().iter().map(|(connected, shared)| shared.lock().look(connected)).collect()
    }

    /// The connected clients that are `wanted`, with every resource that each asked for or holds.
    pub fn inspect(&self, wanted: impl Fn(&Connected) -> bool) -> Vec<Inspected> {
        let entries = self.entries().into_iter().filter(|(connected, _)| wanted(connected));
        let each = entries.map(|(connected, shared)| {
            let watched = shared.lock();
            let asked = ResourceType::ALL.into_iter().filter(|kind| watched.session.asked(*kind).is_some());
            let resources = asked.map(|kind| (kind, watched.session.resources(kind))).collect();
            Inspected { client: watched.look(&connected), resources }
        });
        each.collect()
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

impl Drop for Registered {
    fn drop(&mut self) {
        self.clients.table.remove(&self.connected.stream);
    }
}
