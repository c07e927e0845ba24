//! An application that calls another by its name at a steady rate, and counts.
//!
//! The rate is kept whatever becomes of requests: one that waits holds up no other. It repeats nothing: whatever is repeated is the
//! sidecar's doing. It begins when it is told to (`POST /begin`), and tells what became of every request (`GET /tally`).
//! Invariant: a request is counted as sent when it begins, and once more when its outcome is known.

use std::collections::BTreeSet;
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
use integration::docker::caller;
use integration::docker::tally::{Failure, Tally};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// How long a request may take: longer than the mesh's own limit, so that the mesh answers first.
const PATIENCE: Duration = Duration::from_secs(20);
const LONGEST: usize = 1 << 16;

/// The answer, or what went wrong.
type Outcome = Result<(StatusCode, HeaderMap, String), String>;

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
    /// Where it tells.
    #[arg(long, default_value_t = caller::PORT)]
    port: u16,
}

#[derive(Debug)]
struct Caller {
    options: Options,
    calling: watch::Sender<bool>,
    tally: Mutex<Tally>,
    /// The numbers of the requests that have no outcome yet.
    open: Mutex<BTreeSet<u64>>,
    /// Connections that wait for the next request.
    idle: Mutex<Vec<SendRequest<Body>>>,
}

/// Calls whenever it is told to, until the end.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let end = super::told_to_end()?;
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, options.port));
    let (calling, _) = watch::channel(false);
    let caller = Arc::new(Caller {
        options,
        calling,
        tally: Mutex::default(),
        open: Mutex::default(),
        idle: Mutex::default(),
    });
    tokio::spawn(caller.clone().pace());
    let order = |wanted| {
        post(async move |State(caller): State<Arc<Caller>>| {
            caller.calling.send_replace(wanted);
        })
    };
    let router = Router::new()
        .route("/health", get(async || StatusCode::OK))
        .route("/begin", order(true))
        .route("/end", order(false))
        .route("/tally", get(async |State(caller): State<Arc<Caller>>| Json(caller.told())))
        .with_state(caller);
    let listener =
        tokio::net::TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
    axum::serve(listener, router).with_graceful_shutdown(end).await.context("telling")
}

impl Caller {
    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a request whenever one is due. What could not begin in time is not made up for.
    async fn pace(self: Arc<Self>) {
        let mut tick = tokio::time::interval(Duration::from_secs(1) / self.options.rate.max(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut calling = self.calling.subscribe();
        while calling.wait_for(|calling| *calling).await.is_ok() {
            tick.tick().await;
            let number = self.begin();
            tokio::spawn(self.clone().call(number));
        }
    }

    /// One request, over a connection that waits or a new one.
    async fn call(self: Arc<Self>, number: u64) {
        let outcome = tokio::time::timeout(PATIENCE, async {
            let mut sender = self.sender().await?;
            let answer = self.exchange(&mut sender).await?;
            self.idle().push(sender);
            Ok(answer)
        });
        self.note(outcome.await.unwrap_or_else(|_| Err(format!("no answer in {PATIENCE:?}"))));
        self.open().remove(&number);
    }

    fn begin(&self) -> u64 {
        let mut tally = self.tally();
        tally.sent += 1;
        self.open().insert(tally.sent);
        tally.sent
    }

    fn open(&self) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is to tell.
    fn told(&self) -> Tally {
        let tally = self.tally();
        let settled = self.open().first().map_or(tally.sent, |oldest| oldest - 1);
        Tally { settled, ..tally.clone() }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<SendRequest<Body>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn sender(&self) -> Result<SendRequest<Body>, String> {
        loop {
            let waiting = self.idle().pop();
            let Some(mut sender) = waiting else {
                return self.connect().await.map_err(|error| format!("connecting: {error:#}"));
            };
            // One that was closed between two requests, as HTTP allows, is no failure.
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
    }

    async fn exchange(&self, sender: &mut SendRequest<Body>) -> Outcome {
        let to = &self.options.to;
        let uri = if self.options.proxy.is_some() { format!("http://{to}/") } else { "/".to_owned() };
        let request = Request::get(uri).header(HOST, to).body(Body::empty());
        let request = request.map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| format!("broken connection: {error}"))?;
        let (head, body) = response.into_parts();
        let body = to_bytes(Body::new(body), LONGEST).await;
        let body = body.map_err(|error| format!("broken answer: {error}"))?;
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

    fn note(&self, outcome: Outcome) {
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
        tally.ok += 1;
    }
}
