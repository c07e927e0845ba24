//! An application that calls another by its name at a steady rate, and counts.
//!
//! It repeats nothing: whatever is repeated is the sidecar's doing. It begins when it is told to (`POST /begin`), and tells what
//! became of every request (`GET /tally`).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::Args;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HOST, HeaderMap};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use integration::docker::tally::{Failure, Seen, Tally};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::task::TaskTracker;

/// How long a request may take: longer than the mesh's own limit, so that the mesh answers first.
const PATIENCE: Duration = Duration::from_secs(20);
const LONGEST: usize = 1 << 16;

/// Whom to call, and how.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Whom, as `payments:8080`.
    #[arg(long)]
    to: String,
    /// The service that must answer.
    #[arg(long)]
    expect: String,
    /// Go by this proxy, as with `HTTP_PROXY`; else by the name.
    #[arg(long)]
    proxy: Option<SocketAddr>,
    /// Requests each second.
    #[arg(long, default_value_t = 40)]
    rate: u32,
    /// Connections that are kept open.
    #[arg(long, default_value_t = 4)]
    connections: u32,
    /// Where it tells.
    #[arg(long, default_value_t = 9000)]
    port: u16,
}

#[derive(Debug)]
struct Caller {
    options: Options,
    calling: watch::Sender<bool>,
    tally: Mutex<Tally>,
}

/// Calls whenever it is told to, until the end.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let end = super::told_to_end()?;
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, options.port));
    let (calling, _) = watch::channel(false);
    let caller = Arc::new(Caller { options, calling, tally: Mutex::default() });
    let tracker = TaskTracker::new();
    for number in 0..caller.options.connections {
        tracker.spawn(caller.clone().work(number));
    }
    let order = |wanted| {
        post(async move |State(caller): State<Arc<Caller>>| {
            caller.calling.send_replace(wanted);
        })
    };
    let router = Router::new()
        .route("/health", get(async || StatusCode::OK))
        .route("/begin", order(true))
        .route("/end", order(false))
        .route("/tally", get(async |State(caller): State<Arc<Caller>>| Json(caller.tally().clone())))
        .with_state(caller);
    let listener =
        tokio::net::TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
    axum::serve(listener, router).with_graceful_shutdown(end).await.context("telling")
}

impl Caller {
    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One connection: a request whenever it is due. What nobody takes in time is not made up for.
    async fn work(self: Arc<Self>, number: u32) {
        let share = Duration::from_secs(1) * self.options.connections / self.options.rate.max(1);
        let first = tokio::time::Instant::now() + share * number / self.options.connections.max(1);
        let mut tick = tokio::time::interval_at(first, share);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut calling = self.calling.subscribe();
        let mut connection: Option<SendRequest<Body>> = None;
        loop {
            tick.tick().await;
            if calling.wait_for(|calling| *calling).await.is_err() {
                return;
            }
            self.tally().sent += 1;
            let outcome = tokio::time::timeout(PATIENCE, self.exchange(&mut connection)).await;
            let outcome = outcome.unwrap_or_else(|_| Err(format!("no answer in {PATIENCE:?}")));
            if outcome.is_err() {
                connection = None;
            }
            self.note(outcome);
        }
    }

    async fn exchange(
        &self,
        connection: &mut Option<SendRequest<Body>>,
    ) -> Result<(StatusCode, HeaderMap, String), String> {
        let open = match connection.take() {
            // One that was closed between two requests, as HTTP allows, is no failure.
            Some(mut open) => open.ready().await.is_ok().then_some(open),
            None => None,
        };
        let sender = match open {
            Some(open) => connection.insert(open),
            None => {
                connection.insert(self.connect().await.map_err(|error| format!("connecting: {error:#}"))?)
            }
        };
        let to = &self.options.to;
        let uri = if self.options.proxy.is_some() { format!("http://{to}/") } else { "/".to_owned() };
        let request =
            Request::get(uri).header(HOST, to).body(Body::empty()).map_err(|error| error.to_string())?;
        let response =
            sender.send_request(request).await.map_err(|error| format!("broken connection: {error}"))?;
        let (head, body) = response.into_parts();
        let body =
            to_bytes(Body::new(body), LONGEST).await.map_err(|error| format!("broken answer: {error}"))?;
        Ok((head.status, head.headers, String::from_utf8_lossy(&body).into_owned()))
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Body>> {
        let stream = match self.options.proxy {
            Some(proxy) => TcpStream::connect(proxy).await?,
            None => TcpStream::connect(&self.options.to).await?,
        };
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    fn note(&self, outcome: Result<(StatusCode, HeaderMap, String), String>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let mut tally = self.tally();
        let (status, headers, body) = match outcome {
            Ok(answer) => answer,
            Err(what) => return tally.fail(Failure { at, what }),
        };
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if status != StatusCode::OK {
            return tally.fail(Failure { at, what: format!("status {status}: {body}") });
        }
        if header("x-service") != self.options.expect {
            tally.misrouted += 1;
            let what = format!("{} was called and {} answered", self.options.to, header("x-service"));
            return tally.fail(Failure { at, what });
        }
        let arrived = header("x-at").parse().unwrap_or(at);
        tally.good(header("x-task"), Seen { requests: 1, last_at: arrived });
    }
}
