//! One open stream: feeds the session from the wire and the store, and the wire from the session.
//!
//! It decides nothing about what is sent.
//!
//! Invariant: pulled, never pushed. A response is built when HTTP/2 asks for one, from the newest snapshot that
//! concerns the client, and no lock is held across an await.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::Stream;
use hyper::body::Incoming;
use tokio::sync::watch;
use tonic::Status;
use tracing::{debug, info, warn};

use super::admission::{Permit, Refused};
use super::clients::{Connected, Nack, Registered, Watched};
use super::connection::Link;
use super::counts::Counts;
use super::early::Early;
use super::identity::{identify, unknown_namespace};
use super::proto::{DeltaDiscoveryRequest, DiscoveryRequest, Node as ProtoNode};
use super::reader::Reader;
use super::server::Running;
use super::session::{Heard, Protocol, Refusal, Request, Response, Session, Terms};
use super::wire::Pieces;
use crate::changes::Listener;
use crate::model::{Scope, Scoping};
use crate::snapshot::{Name, ResourceType, Slice};
use crate::store::Follower;
use crate::telemetry::{Metrics, RefusedLabels, StreamLabels};

/// How long a client may wait for a scope that nobody was in before.
const SCOPE_MADE: Duration = Duration::from_secs(10);
/// How long a stream that is to end waits for the answers to what it has sent.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// What the client sends.
pub(super) struct Requests {
    reader: Reader<Incoming>,
    protocol: Protocol,
}

impl Requests {
    pub(super) fn new(protocol: Protocol, body: Incoming) -> Self {
        Self { reader: Reader::new(body), protocol }
    }

    /// The next request, with the node that it may carry; `None` when the client has ended the stream.
    async fn next(&mut self) -> Result<Option<(Option<ProtoNode>, Request)>, Status> {
        Ok(match self.protocol {
            Protocol::Delta => {
                let request = self.reader.next::<DeltaDiscoveryRequest>().await?;
                request.map(|mut request| (request.node.take(), request.into()))
            }
            Protocol::StateOfTheWorld => {
                let request = self.reader.next::<DiscoveryRequest>().await?;
                request.map(|mut request| (request.node.take(), request.into()))
            }
        })
    }
}

/// A stream that may be opened: what is known before its first request.
pub(super) struct Opening {
    pub(super) server: Arc<Running>,
    pub(super) link: Arc<Link>,
    pub(super) terms: Terms,
    pub(super) permit: Permit,
    pub(super) opened: Instant,
}

/// The bytes of the responses, until the client, the connection or a violation ends the stream.
pub(super) fn run(
    opening: Opening,
    mut requests: Requests,
) -> impl Stream<Item = Result<Bytes, Status>> + Send {
    async_stream::try_stream! {
        let link = Arc::clone(&opening.link);
        let Some((node, request)) = first_request(&link, &mut requests).await? else { return };
        let mut stream = OpenStream::open(opening, node.as_ref()).await?;
        stream.on_asked(request)?;
        loop {
            while let Some(response) = stream.next_response() {
                for piece in stream.pieces(response) {
                    yield piece;
                }
            }
            if stream.is_over() || !stream.drive(&mut requests).await? {
                break;
            }
        }
    }
}

/// The first request; `None` when the stream ends before it.
async fn first_request(
    link: &Link,
    requests: &mut Requests,
) -> Result<Option<(Option<ProtoNode>, Request)>, Status> {
    tokio::select! {
        () = link.retired() => Ok(None),
        message = requests.next() => message,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Counts a refusal and says it, loudly only where someone must mend something.
pub(super) fn refused(metrics: &Metrics, why: Refused, status: Status) -> Status {
    metrics.refused.get_or_create(&RefusedLabels { reason: why.word() }).inc();
    match why {
        Refused::Identity | Refused::UnknownNamespace => info!(reason = status.message(), "sidecar refused"),
        _ => debug!(reason = status.message(), "sidecar refused"),
    }
    status
}

fn not_made(scope: &Scope) -> Status {
    Status::unavailable(format!("what {scope} is was not made in {} s; try again", SCOPE_MADE.as_secs()))
}

/// One open stream.
struct OpenStream {
    server: Arc<Running>,
    link: Arc<Link>,
    registered: Registered,
    counts: Arc<Counts>,
    protocol: Protocol,
    follower: Arc<Follower>,
    scoping: watch::Receiver<Arc<Scoping>>,
    confirmed: watch::Receiver<Option<Instant>>,
    early: Early,
    /// The generation up to which everything about endpoints is said.
    told: u64,
    /// Set when the stream is to end as soon as everything is answered, at the latest then.
    ends_by: Option<Instant>,
    /// Set when the client is to see something else, which another stream will serve: this one begins to end then.
    leaves_scope_at: Option<Instant>,
    _permit: Permit,
}

impl OpenStream {
    async fn open(opening: Opening, node: Option<&ProtoNode>) -> Result<Self, Status> {
        let Opening { server, link, terms, mut permit, opened } = opening;
        let refuse = |(why, status)| refused(&server.metrics, why, status);
        let (node, namespace) = identify(node).map_err(|status| refuse((Refused::Identity, status)))?;
        let unknown = || refuse((Refused::UnknownNamespace, unknown_namespace(&namespace, &server.store)));
        // Before the look at it: whoever sees something else from then on is told.
        let scoping = server.store.scoping();
        let scope = server.store.scope_of(&namespace, &node.service).ok_or_else(unknown)?;
        permit.enter_namespace(&scope.namespace).map_err(refuse)?;
        let follower = server.store.follower_in(&scope, &node.id);
        let follower = tokio::time::timeout(SCOPE_MADE, follower).await.map_err(|_| not_made(&scope))?;
        let follower = follower.ok_or_else(unknown)?;
        let snapshot = follower.take();
        let (namespace, scope) = (snapshot.namespace.clone(), Arc::clone(&snapshot.scope));
        let slice =
            Slice::new(snapshot, node.class, &node.id, &node.occupied_ports).in_service(&node.service);
        let confirmed = server.store.confirmed();
        let labels = StreamLabels { namespace: namespace.to_string(), protocol: terms.protocol.word() };
        server.metrics.streams.get_or_create(&labels).inc();
        let counts = server.counts(&namespace);
        info!(
            node = %node.id, %scope, service = &*node.service, client = node.user_agent,
            protocol = terms.protocol.word(), "sidecar connected"
        );
        let connected = Connected {
            stream: server.ledger.new_stream(),
            node,
            namespace,
            scope,
            peer: link.peer.to_string(),
            connected_at: SystemTime::now(),
        };
        let follower = Arc::new(follower);
        let watched = Watched::new(Session::new(terms, slice, opened), Arc::clone(&follower));
        let registered = server.clients.register(connected, watched);
        let protocol = terms.protocol;
        Ok(Self {
            server,
            link,
            registered,
            counts,
            protocol,
            follower,
            scoping,
            confirmed,
            // On a stream for one type the order says nothing.
            early: if terms.only.is_some() { Early::Done } else { Early::default() },
            told: 0,
            ends_by: None,
            leaves_scope_at: None,
            _permit: permit,
        })
    }

    /// Waits for the next thing to happen and takes it in; `false` when the stream is to end.
    async fn drive(&mut self, requests: &mut Requests) -> Result<bool, Status> {
        let (deadline, awaits_confirmation) = {
            let watched = self.registered.shared.lock();
            (watched.session.next_deadline(), watched.session.awaits_confirmation())
        };
        let deadline = deadline.into_iter().chain(self.early.deadline()).chain(self.ends_by).min();
        let ending = self.ends_by.is_some();
        tokio::select! {
            biased;
            () = self.link.retired(), if !ending => self.end(),
            () = sleep_until(self.leaves_scope_at), if !ending => self.end(),
            Ok(()) = self.scoping.changed(), if !ending => self.on_scoping(),
            message = requests.next() => match message? {
                Some((node, request)) => {
                    self.check_node(node.as_ref())?;
                    self.on_asked(request)?;
                }
                None => return Ok(false),
            },
            () = self.follower.concerned() => self.on_snapshot(),
            // Whoever waits for nothing is not woken by each pass of a source.
            changed = self.confirmed.changed(), if awaits_confirmation => match changed {
                Ok(()) => self.on_confirmed(),
                Err(_) => return Ok(false),
            },
            () = sleep_until(deadline) => {
                self.early.overdue(Instant::now()).map(|request| self.on_request(request)).transpose()?;
            }
        }
        Ok(true)
    }

    /// From now on the stream ends as soon as everything is answered.
    fn end(&mut self) {
        self.ends_by = Some(Instant::now() + LAST_ANSWERS);
    }

    /// A client that is to see something else is served that by a stream of its own, and comes for it at once. Where there
    /// are many they come one after the other, as they are admitted.
    fn on_scoping(&mut self) {
        let scope = {
            let Connected { node, namespace, .. } = &*self.registered.connected;
            self.scoping.borrow_and_update().of(namespace, &node.service)
        };
        if scope == *self.registered.connected.scope {
            self.leaves_scope_at = None;
        } else if self.leaves_scope_at.is_none() {
            let wait = self.server.moment_to_return();
            info!(node = %self.registered.connected.node.id, %scope, "sidecar sees something else from now on");
            self.leaves_scope_at = Some(Instant::now() + wait);
        }
    }

    /// Whether the stream was to end and now may: between responses, so that nothing is torn.
    fn is_over(&self) -> bool {
        let settled = || self.registered.shared.lock().session.is_settled();
        self.ends_by.is_some_and(|by| settled() || Instant::now() >= by)
    }

    fn check_node(&self, node: Option<&ProtoNode>) -> Result<(), Status> {
        let own = &self.registered.connected.node.id;
        match node.filter(|node| !node.id.is_empty() && *node.id != **own) {
            Some(node) => {
                let other: String = node.id.chars().take(200).collect();
                Err(Status::invalid_argument(format!("this stream belongs to node {own}, not {other}")))
            }
            None => Ok(()),
        }
    }

    fn on_asked(&mut self, request: Request) -> Result<(), Status> {
        self.early.pass(request, Instant::now()).into_iter().try_for_each(|request| self.on_request(request))
    }

    fn on_request(&mut self, request: Request) -> Result<(), Status> {
        let type_url = request.type_url.clone();
        // A request is about what is served now, and whoever says much is told of it all the same.
        self.on_snapshot();
        let (heard, turned) = {
            let session = &mut self.registered.shared.lock().session;
            (session.on_request(request), session.turned())
        };
        if !turned.is_empty() {
            // In this order: what changes after the look is told.
            self.follower.follow(&turned);
            self.on_snapshot();
        }
        match heard.map_err(super::server::violated)? {
            Heard::Ack(kind, generation, names) => self.on_ack(kind, generation, &names),
            Heard::Nack(kind, generation, refusal) => self.on_nack(kind, generation, &refusal),
            Heard::Names(_) => {}
            Heard::UnknownType => {
                debug!(node = %self.registered.connected.node.id, type_url, "unknown type");
            }
        }
        // What was confirmed before the first request came is confirmed for what it presents too.
        self.on_confirmed();
        Ok(())
    }

    fn on_ack(&self, kind: ResourceType, generation: u64, names: &[Name]) {
        let now = SystemTime::now();
        self.counts.acks[kind as usize].inc();
        self.registered.shared.lock().types[kind as usize].acked = Some((generation, now));
        if kind == ResourceType::Endpoint {
            let Connected { stream, scope, node, .. } = &*self.registered.connected;
            let listener = Listener { stream: *stream, scope };
            for name in names {
                let after = self.server.ledger.acked(name, generation, listener, &node.id, now);
                self.counts.acked(&after);
            }
        }
    }

    fn on_nack(&self, kind: ResourceType, generation: u64, refusal: &Refusal) {
        let message = &*refusal.reason;
        let node = &self.registered.connected.node.id;
        // Told once, when it is known what is refused; until then the search is nobody's business.
        for (name, version) in &refusal.guilty {
            warn!(%node, r#type = kind.short(), resource = %name, %version, message, "sidecar refused a resource");
        }
        if refusal.guilty.is_empty() {
            debug!(%node, r#type = kind.short(), members = refusal.members, message, "sidecar refused a response");
        }
        self.counts.nacks[kind as usize].inc();
        let status = &mut self.registered.shared.lock().types[kind as usize];
        let nack = Nack { generation, message: message.to_owned(), at: SystemTime::now() };
        status.nack = Some(Box::new(nack));
        status.nacks += 1;
    }

    /// Takes in the latest snapshot, unless that has been done.
    fn on_snapshot(&self) {
        let mut watched = self.registered.shared.lock();
        watched.note_synced();
        let snapshot = self.follower.take();
        if snapshot.generation != watched.session.slice().snapshot().generation {
            let node = &self.registered.connected.node;
            let slice =
                Slice::new(snapshot, node.class, &node.id, &node.occupied_ports).in_service(&node.service);
            watched.session.on_slice(slice);
        }
    }

    fn on_confirmed(&mut self) {
        if !self.registered.shared.lock().session.awaits_confirmation() {
            return;
        }
        let began = *self.confirmed.borrow_and_update();
        if let Some(began) = began {
            // What was published before it was confirmed must be known before it is believed.
            self.on_snapshot();
            self.registered.shared.lock().session.on_confirmed(began);
        }
    }

    fn next_response(&mut self) -> Option<Response> {
        let mut watched = self.registered.shared.lock();
        let Some(response) = watched.session.next_response(Instant::now()) else {
            // Whoever has asked for none may still be told what went meanwhile.
            let asked = watched.session.asked(ResourceType::Endpoint).is_some();
            if asked && !watched.session.owes(ResourceType::Endpoint) {
                self.told = watched.session.slice().snapshot().generation;
            }
            return None;
        };
        let now = SystemTime::now();
        let status = &mut watched.types[response.kind as usize];
        status.sent = Some((response.generation, now));
        status.responses += 1;
        status.resources += (response.resources.len() + response.removed.len()) as u64;
        drop(watched);
        self.note_sent(&response, now);
        Some(response)
    }

    fn pieces(&self, response: Response) -> Pieces {
        Pieces::new(response, self.protocol, &self.server.identifier)
    }

    fn note_sent(&self, response: &Response, now: SystemTime) {
        let Connected { stream, scope, node, .. } = &*self.registered.connected;
        let listener = Listener { stream: *stream, scope };
        self.counts.responses[response.kind as usize].inc();
        match response.kind {
            ResourceType::Endpoint => {
                let resources = response.resources.iter().map(|resource| &resource.name);
                for name in resources.chain(&response.removed) {
                    let after = self.server.ledger.sent(name, self.told, response.generation, listener, now);
                    self.counts.pushed(&after);
                }
            }
            ResourceType::Secret => {
                for name in &response.removed {
                    warn!(node = %node.id, secret = %name, "sidecar asks for a secret that is not served");
                }
            }
            _ => {}
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let Connected { namespace, node, .. } = &*self.registered.connected;
        let labels = StreamLabels { namespace: namespace.to_string(), protocol: self.protocol.word() };
        self.server.metrics.streams.get_or_create(&labels).dec();
        info!(node = %node.id, %namespace, "sidecar disconnected");
        if self.ends_by.is_none() {
            self.server.clients.note_departure(&node.id);
        }
    }
}
