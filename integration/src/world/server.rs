//! The real server of a task: it listens on the task's own loopback address.
//!
//! It knows nothing of ECS. Its phases only move forward: bound, serving, draining, killed. Bound means
//! that the address is taken but connections are refused; draining means that nothing new is accepted
//! while requests in flight finish; killed means that every connection is cut. Invariant: a request is
//! noted in the [`RequestLog`] the moment it arrives, before it is answered.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::protocol;

/// What a task's server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServerKind {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    H2c,
    /// Lines, each echoed after the task's name.
    Tcp,
}

/// What a server received; cheap enough to be written for every request.
#[derive(Debug, Default)]
pub struct RequestLog {
    requests: AtomicU64,
    connections: AtomicU64,
    in_flight: AtomicU64,
    /// Nanoseconds since [`ZERO`], plus one; 0 is never.
    last: AtomicU64,
}

/// The moment from which request times are counted.
static ZERO: LazyLock<Instant> = LazyLock::new(Instant::now);

impl RequestLog {
    /// Requests (or lines) received so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Acquire)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Acquire)
    }

    /// Requests being answered now.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Acquire)
    }

    /// When the latest request arrived.
    pub fn last_request_at(&self) -> Option<Instant> {
        let nanos = self.last.load(Ordering::Acquire).checked_sub(1)?;
        Some(*ZERO + Duration::from_nanos(nanos))
    }

    /// Notes a request; it is in flight until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        let nanos = ZERO.elapsed().as_nanos() as u64;
        self.last.fetch_max(nanos + 1, Ordering::AcqRel);
        self.requests.fetch_add(1, Ordering::AcqRel);
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        InFlight(self.clone())
    }
}

/// A request which is being answered.
pub(super) struct InFlight(Arc<RequestLog>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Where a server is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Serving,
    Draining,
    Killed,
}

/// What a server says about itself, and where it writes what it received.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) task: String,
    pub(super) service: String,
    pub(super) zone: String,
    pub(super) log: Arc<RequestLog>,
}

/// Sockets that hold a task's ports without listening yet.
#[derive(Debug)]
pub(super) struct Bound {
    sockets: Vec<(TcpSocket, ServerKind, SocketAddr)>,
}

impl Bound {
    /// Takes the ports, or says which one is not to be had.
    pub(super) fn bind(ip: Ipv4Addr, ports: &[(u16, ServerKind)]) -> Result<Self, (SocketAddr, io::Error)> {
        // The clock of the request logs starts no later than the first server.
        LazyLock::force(&ZERO);
        let mut sockets = Vec::with_capacity(ports.len());
        for (port, kind) in ports {
            let address = SocketAddr::V4(SocketAddrV4::new(ip, *port));
            let socket = bound_socket(address).map_err(|error| (address, error))?;
            sockets.push((socket, *kind, address));
        }
        Ok(Self { sockets })
    }

    /// Starts to listen. Must be called inside a tokio runtime.
    pub(super) fn listen(self, identity: Identity) -> Result<TaskServer, (SocketAddr, io::Error)> {
        let (phase, _) = watch::channel(Phase::Serving);
        let tracker = TaskTracker::new();
        let identity = Arc::new(identity);
        let mut listeners = Vec::with_capacity(self.sockets.len());
        for (socket, kind, address) in self.sockets {
            listeners.push((socket.listen(1024).map_err(|error| (address, error))?, kind));
        }
        for (listener, kind) in listeners {
            let port = Port { kind, identity: identity.clone(), phase: phase.subscribe() };
            tracker.spawn(port.accept(listener, tracker.clone()));
        }
        tracker.close();
        Ok(TaskServer { phase, tracker })
    }
}

fn bound_socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // A replacement may take over an address whose old connections linger in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// A listening server.
#[derive(Debug)]
pub(crate) struct TaskServer {
    phase: watch::Sender<Phase>,
    tracker: TaskTracker,
}

impl TaskServer {
    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let moves = to > *phase;
            if moves {
                *phase = to;
            }
            moves
        });
    }

    /// Accepts nothing more, and waits until what is in flight is answered; cuts it at the deadline.
    /// Returns whether everything finished by itself.
    pub(super) async fn drain(&self, deadline: Instant) -> bool {
        self.advance(Phase::Draining);
        let finished = tokio::time::timeout_at(deadline.into(), self.tracker.wait()).await.is_ok();
        if !finished {
            self.kill().await;
        }
        finished
    }

    /// Dies at once, as on SIGKILL; returns when nothing listens any more.
    pub(super) async fn kill(&self) {
        self.advance(Phase::Killed);
        self.tracker.wait().await;
    }
}

/// One listening port.
struct Port {
    kind: ServerKind,
    identity: Arc<Identity>,
    phase: watch::Receiver<Phase>,
}

impl Port {
    async fn accept(mut self, listener: TcpListener, tracker: TaskTracker) {
        loop {
            tokio::select! {
                biased;
                _ = reached(&mut self.phase, Phase::Draining) => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        self.identity.log.connections.fetch_add(1, Ordering::AcqRel);
                        tracker.spawn(serve(self.kind, stream, self.identity.clone(), self.phase.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(task = self.identity.task, %error, "accept failed");
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                },
            }
        }
    }
}

/// Waits until a phase is reached; a server that was dropped counts as killed.
pub(super) async fn reached(phase: &mut watch::Receiver<Phase>, wanted: Phase) {
    let _ = phase.wait_for(|phase| *phase >= wanted).await;
}

async fn serve(kind: ServerKind, stream: TcpStream, identity: Arc<Identity>, phase: watch::Receiver<Phase>) {
    let _ = stream.set_nodelay(true);
    let mut killed = phase.clone();
    let conversation = async {
        match kind {
            ServerKind::Http1 => protocol::http1(stream, identity, phase).await,
            ServerKind::H2c => protocol::h2c(stream, identity, phase).await,
            ServerKind::Tcp => protocol::lines(stream, identity, phase).await,
        }
    };
    tokio::select! {
        biased;
        _ = reached(&mut killed, Phase::Killed) => {}
        // How a client leaves is its own affair: only what it asked for is of interest.
        _ = conversation => {}
    }
}
