//! One TCP connection: HTTP/2 with a pulse, an age and an end.
//!
//! It is not about what its streams carry.
//!
//! Invariant: a connection ends by its client, by its age, by shutdown, or because nobody takes what is sent;
//! in the first three cases its streams end between responses.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::Stream;
use http::HeaderMap;
use http_body::Frame;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tonic::Status;
use tracing::{debug, warn};

use super::server::{Limits, Running};
use super::service;

/// What a stalled client can make HTTP/2 keep for each of its streams.
const SEND_BUFFER: usize = 16 * 1024;
/// From the end of its age or the shutdown on, how long streams get beyond the last answers they wait for.
const STREAMS_END: Duration = Duration::from_secs(5);
/// How often it is looked at whether the client still takes what is sent.
const LOOK: Duration = Duration::from_secs(5);

/// What a connection and its streams know of each other.
#[derive(Debug)]
pub(super) struct Link {
    /// The other end.
    pub(super) peer: SocketAddr,
    retire: CancellationToken,
    epoch: Instant,
    /// How many streams have handed over bytes that HTTP/2 has not taken.
    waiting: AtomicUsize,
    /// When one of them last got on, in milliseconds after `epoch`.
    progress: AtomicU64,
}

impl Link {
    pub(super) fn new(peer: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            peer,
            retire: CancellationToken::new(),
            epoch: Instant::now(),
            waiting: AtomicUsize::new(0),
            progress: AtomicU64::new(0),
        })
    }

    /// Resolves when the streams of this connection are to end.
    pub(super) fn retired(&self) -> WaitForCancellationFuture<'_> {
        self.retire.cancelled()
    }

    fn note_progress(&self) {
        let since = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.progress.store(since, Ordering::Relaxed);
    }

    /// How long the client has taken nothing although there was something.
    fn stalled_for(&self) -> Duration {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return Duration::ZERO;
        }
        self.epoch.elapsed().saturating_sub(Duration::from_millis(self.progress.load(Ordering::Relaxed)))
    }
}

/// The body of a response: bytes as HTTP/2 asks for them, and the status at the end.
pub(super) struct Body<S> {
    link: Arc<Link>,
    /// `None` once the end has been told.
    frames: Option<Pin<Box<S>>>,
    /// Bytes were handed over and no more have been asked for since.
    handed_over: bool,
}

impl<S> Body<S> {
    pub(super) fn new(link: Arc<Link>, frames: S) -> Self {
        Self { link, frames: Some(Box::pin(frames)), handed_over: false }
    }

    fn taken(&mut self) {
        if std::mem::take(&mut self.handed_over) {
            self.link.waiting.fetch_sub(1, Ordering::Relaxed);
            self.link.note_progress();
        }
    }
}

impl<S: Stream<Item = Result<Bytes, Status>>> http_body::Body for Body<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.taken();
        let Some(frames) = &mut self.frames else { return Poll::Ready(None) };
        let status = match std::task::ready!(frames.as_mut().poll_next(context)) {
            Some(Ok(bytes)) => {
                self.handed_over = true;
                if self.link.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
                    self.link.note_progress();
                }
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.frames = None; // all that the stream held is let go with its end
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }
}

impl<S> Drop for Body<S> {
    fn drop(&mut self) {
        self.taken();
    }
}

/// The same where clients must speak TLS. A future of its own: without TLS no connection pays for the room it takes.
pub(super) async fn serve_tls(
    tcp: TcpStream,
    peer: SocketAddr,
    server: Arc<Running>,
    cut: CancellationToken,
) {
    let Some(tls) = &server.tls else { return };
    tokio::select! {
        () = server.stopping.cancelled() => {}
        accepted = tls.accept(tcp) => match accepted {
            Ok(stream) => Box::pin(serve(stream, peer, Arc::clone(&server), cut.clone())).await,
            Err(error) => debug!(%peer, %error, "no TLS with this client"),
        },
    }
}

/// Serves one connection until it ends; `cut` ends it at once.
pub(super) async fn serve<I>(io: I, peer: SocketAddr, server: Arc<Running>, cut: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let link = Link::new(peer);
    let limits = server.limits;
    let service = service::Service::new(Arc::clone(&server), Arc::clone(&link));
    let mut connection = pin!(http2(&limits).serve_connection(TokioIo::new(io), service));
    let mut retiring = pin!(retiring(Arc::clone(&server)));
    let mut ends_by = None;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!(%peer, %error, "connection ended");
                }
                return;
            }
            () = cut.cancelled() => return,
            () = retiring.as_mut(), if ends_by.is_none() => {
                link.retire.cancel();
                connection.as_mut().graceful_shutdown();
                ends_by = Some(Instant::now() + STREAMS_END);
            }
            () = tokio::time::sleep(LOOK.min(limits.write_timeout / 4)) => {}
        }
        let stalled = link.stalled_for();
        if stalled >= limits.write_timeout {
            warn!(%peer, ?stalled, "sidecar takes nothing that is sent and is cut");
            return;
        }
        if ends_by.is_some_and(|by| Instant::now() >= by) {
            debug!(%peer, "connection outlived its end and is cut");
            return;
        }
    }
}

fn http2(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout)
        .max_concurrent_streams(limits.streams.in_all)
        .max_send_buf_size(SEND_BUFFER);
    http
}

/// Resolves when the connection is old enough, or at its own moment after shutdown began.
async fn retiring(server: Arc<Running>) {
    let age = server.limits.max_stream_age.mul_f64(fastrand::f64().mul_add(0.4, 0.8));
    tokio::select! {
        () = tokio::time::sleep(age) => {}
        () = server.stopping.cancelled() => tokio::time::sleep(server.moment_to_close()).await,
    }
}
