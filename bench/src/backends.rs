//! Backends that answer every request, and remember when the last one came.
//!
//! They are no tasks: nothing ever stops them, so that a request too many is counted and not refused. Invariant: each
//! has a loopback address of its own.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::time::Instant;

use anyhow::Context;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// The port of every backend.
const PORT: u16 = 8080;

/// One backend. Dropping it ends it.
pub(crate) struct Backend {
    pub(crate) address: SocketAddrV4,
    seen: Rc<Seen>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    last: Cell<Option<Instant>>,
    changed: Notify,
}

impl Backend {
    /// Number `place` of a service.
    pub(crate) async fn open(service: usize, place: usize) -> anyhow::Result<Self> {
        let octet = |number: usize| u8::try_from(number + 1).context("too many backends");
        let address = SocketAddrV4::new(Ipv4Addr::new(127, 77, octet(service)?, octet(place)?), PORT);
        let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
        let seen = Rc::new(Seen::default());
        let noted = Rc::clone(&seen);
        let accepting = tokio::task::spawn_local(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::task::spawn_local(answer(connection, Rc::clone(&noted)));
            }
        });
        Ok(Self { address, seen, accepting })
    }

    /// When the last request came.
    pub(crate) fn last(&self) -> Option<Instant> {
        self.seen.last.get()
    }

    /// Waits for the next request.
    pub(crate) async fn next(&self) {
        self.seen.changed.notified().await;
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn answer(connection: TcpStream, seen: Rc<Seen>) {
    let service = service_fn(|_: Request<hyper::body::Incoming>| {
        seen.last.set(Some(Instant::now()));
        seen.changed.notify_waiters();
        std::future::ready(Ok::<_, Infallible>(Response::new(http_body_util::Full::new(Bytes::from_static(
            b"ok",
        )))))
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(connection), service).await; // the client has gone
}
