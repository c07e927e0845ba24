//! The xDS port: accepts connections until shutdown, and ends them by its deadline.
//!
//! It knows no protocol.
//!
//! Invariant: shutdown always ends within the grace, however the clients behave.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tracing::warn;

use super::admission::{Admission, StreamLimits};
use super::clients::Clients;
use super::connection;
use super::counts::Counts;
use super::health::Health;
use super::session::Violation;
use super::tls::Tls;
use crate::changes::Ledger;
use crate::model::Namespace;
use crate::store::Store;
use crate::telemetry::Metrics;

/// The queue of connections not yet accepted: with the usual 128 a reconnect storm takes seconds.
const BACKLOG: u32 = 4096;
/// How long to wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// On shutdown connections close this far apart, so that replicas are not stormed.
const CLOSE_APART: Duration = Duration::from_millis(10);

/// What the server allows its clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// How many streams.
    pub streams: StreamLimits,
    /// How long a connection lives, spread by a fifth either way.
    pub max_stream_age: Duration,
    /// How many names of one type a stream may ask for.
    pub max_names: usize,
    /// Between two pings.
    pub keepalive_interval: Duration,
    /// How long the answer to a ping may take.
    pub keepalive_timeout: Duration,
    /// How long a client may take nothing of what is sent.
    pub write_timeout: Duration,
}

/// What the server is made of.
#[derive(Debug)]
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
    /// What clients are allowed.
    pub limits: Limits,
    /// Set where clients must speak TLS.
    pub tls: Option<Tls>,
}

/// A server at work, shared by its connections.
#[derive(Debug)]
pub(super) struct Running {
    server: Server,
    pub(super) admission: Arc<Admission>,
    pub(super) health: Health,
    counts: DashMap<Namespace, Arc<Counts>>,
}

impl std::ops::Deref for Running {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Running {
    /// What the streams of a namespace count.
    pub(super) fn counts(&self, namespace: &Namespace) -> Arc<Counts> {
        let known = self.counts.get(namespace).map(|counts| Arc::clone(&counts));
        known.unwrap_or_else(|| {
            let counts = || Arc::new(Counts::of(&self.metrics, namespace));
            Arc::clone(&self.counts.entry(namespace.clone()).or_insert_with(counts))
        })
    }

    /// How long until a client that must come again does: all of them are as many as may come.
    pub(super) fn moment_to_return(&self) -> Duration {
        let clients = u32::try_from(self.clients.len()).unwrap_or(u32::MAX);
        let each = Duration::from_secs(1) / self.limits.streams.new_per_second.get();
        each.saturating_mul(clients).mul_f64(fastrand::f64())
    }

    /// How long after shutdown began one connection closes: each at its own moment.
    pub(super) fn moment_to_close(&self) -> Duration {
        let others = u32::try_from(self.clients.len()).unwrap_or(u32::MAX).saturating_sub(1);
        CLOSE_APART.saturating_mul(others).min(self.grace / 2).mul_f64(fastrand::f64())
    }
}

/// Listens with a long queue.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves xDS, health and reflection until `server.stopping`, then until its connections have ended, at most for
/// the grace.
pub async fn serve(listener: TcpListener, server: Server) {
    let (stopping, grace) = (server.stopping.clone(), server.grace);
    let (admission, health) = (Admission::new(server.limits.streams), Health::new());
    let watching = health.clone().watch(server.store.confirmed());
    let server = Arc::new(Running { server, admission, health, counts: DashMap::new() });
    let (connections, cut) = (TaskTracker::new(), CancellationToken::new());
    let following = async {
        match &server.tls {
            Some(tls) => tls.follow().await,
            None => std::future::pending().await,
        }
    };
    let accepting = async {
        let mut failing = false;
        loop {
            if let Some((tcp, peer)) = accept(&listener, &mut failing).await {
                let (server, cut) = (Arc::clone(&server), cut.clone());
                if server.tls.is_some() {
                    connections.spawn(connection::serve_tls(tcp, peer, server, cut));
                } else {
                    connections.spawn(connection::serve(tcp, peer, server, cut));
                }
            }
        }
    };
    tokio::select! {
        () = stopping.cancelled() => {}
        () = accepting => {}
        () = watching => {}
        () = following => {}
    }
    drop(listener);
    server.health.stop().await;
    connections.close();
    if tokio::time::timeout(grace, connections.wait()).await.is_err() {
        warn!(?grace, connections = connections.len(), "still open at the deadline and cut");
    }
    cut.cancel();
}

/// The next connection. An error, such as too many open files, is told once and waited out: to try again at once
/// would only burn a core.
async fn accept(listener: &TcpListener, failing: &mut bool) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok((tcp, peer)) => {
            *failing = false;
            // Without it an update waits up to 45 ms for the client's delayed ACK.
            let _ = tcp.set_nodelay(true);
            Some((tcp, peer))
        }
        Err(error) => {
            if !std::mem::replace(failing, true) {
                warn!(%error, "sidecars can't connect");
            }
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// What the client is told who broke the rules.
pub(super) fn violated(violation: Violation) -> Status {
    match violation {
        Violation::TooManyNames { .. } => Status::resource_exhausted(violation.to_string()),
        Violation::NoType | Violation::OtherType { .. } => Status::invalid_argument(violation.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_connection_sends_at_once() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let connecting = tokio::spawn(TcpStream::connect(address));
        let (accepted, _) = accept(&listener, &mut false).await.unwrap();
        assert!(accepted.nodelay().unwrap());
        connecting.await.unwrap().unwrap();
    }
}
