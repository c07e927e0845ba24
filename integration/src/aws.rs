//! An endpoint that answers like AWS about a [`World`].
//!
//! ECS, Cloud Map and a queue of SQS over awsJson, and a little of EC2 and STS, with paging, batch limits, refusals and
//! faults. It changes nothing in the world, and checks of a signature only that there is one, and when it was made. Invariant: after a stop or an
//! outage the port stays reserved, so that connections are refused and the same port is opened again.

mod accounts;
mod ask;
mod buckets;
mod clock;
mod cloudmap;
mod deployments;
mod ecs;
mod faults;
mod machines;
mod queue;
mod render;
mod twists;
mod wire;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::world::{State, World};
pub use accounts::Accounts;
use accounts::Scope;
pub use ask::ask;
pub use buckets::Buckets;
use clock::Clock;
pub use faults::{Fault, Faults};
pub use queue::{Delivery, Queue};
pub use wire::{Api, Operation};
use wire::{ApiError, Input};

/// The longest request that is read.
const LONGEST: usize = 1 << 20;

/// Queues by name.
type Queues = Arc<Mutex<HashMap<String, Queue>>>;

/// A running endpoint. Dropping it closes it.
#[derive(Debug)]
pub struct FakeAws {
    address: SocketAddr,
    faults: Faults,
    buckets: Buckets,
    clock: Clock,
    queue: Queue,
    further: Queues,
    accounts: Accounts,
    server: JoinHandle<()>,
    events: JoinSet<()>,
}

impl FakeAws {
    /// Listens on 127.0.0.1, on a free port.
    pub async fn start(world: World) -> io::Result<Self> {
        Self::start_on(world, 0).await
    }

    /// Listens on 127.0.0.1, on a given port.
    pub async fn start_on(world: World, port: u16) -> io::Result<Self> {
        Self::start_at(world, SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await
    }

    /// Listens on a given address of this machine; on a free port, if the port is 0.
    pub async fn start_at(world: World, address: SocketAddr) -> io::Result<Self> {
        let reserved = reserve(address)?;
        let address = reserved.local_addr()?;
        let listener = reserve(address)?.listen(1024)?;
        let faults = Faults::new(world.clone());
        let (buckets, clock, accounts) = (Buckets::default(), Clock::default(), Accounts::new(world.clone()));
        let (queue, further) = (Queue::new(clock.clone()), Queues::default());
        let mut events = JoinSet::new();
        events.spawn(queue.clone().follow(world.clone(), world.events()));
        events.spawn(faults.clone().follow());
        let endpoint = Endpoint {
            accounts: accounts.clone(),
            faults: faults.clone(),
            buckets: buckets.clone(),
            clock: clock.clone(),
            queue: queue.clone(),
            further: further.clone(),
            requests: AtomicU64::new(1),
        };
        faults.set_listening(true);
        let server = tokio::spawn(Arc::new(endpoint).run(address, listener, reserved));
        Ok(Self { address, faults, buckets, clock, queue, further, accounts, server, events })
    }

    /// Answers for another account or Region as well, and has its events come to the same queue.
    pub fn join(&mut self, world: World) {
        self.events.spawn(self.queue.clone().follow(world.clone(), world.events()));
        self.accounts.add(world);
    }

    /// Its accounts, and the roles that lead into them.
    pub fn accounts(&self) -> Accounts {
        self.accounts.clone()
    }

    /// `http://<address>:<port>`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its faults and call counts.
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// AWS's own limits, which it keeps when it is told to.
    pub fn buckets(&self) -> Buckets {
        self.buckets.clone()
    }

    /// Puts its clock so many seconds ahead of ours, or behind.
    pub fn put_clock_ahead(&self, seconds: i64) {
        self.clock.put_ahead(seconds);
    }

    /// The queue that events come to, at [`FakeAws::queue_url`].
    pub fn queue(&self) -> Queue {
        self.queue.clone()
    }

    /// Opens another queue for the events of a world from now on, as each replica has one; where it is.
    pub fn open_queue(&mut self, name: &str, world: &World) -> String {
        let queue = Queue::new(self.clock.clone());
        self.events.spawn(queue.clone().follow(world.clone(), world.events()));
        let url = Queue::named(&self.url(), name);
        self.further.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), queue);
        url
    }

    /// Where the queue is.
    pub fn queue_url(&self) -> String {
        Queue::url(&self.url())
    }

    /// Calls of one operation so far, failed ones too.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.faults.calls(operation)
    }

    /// Stops listening and cuts every connection; returns when connections are refused.
    pub async fn stop(&self) {
        self.faults.want(false);
        self.faults.settled().await;
    }

    /// Listens again on the same port. Faults stay, except an outage of everything, which ends.
    pub async fn restart(&self) {
        self.faults.want(true);
        self.faults.settled().await;
    }
}

impl Drop for FakeAws {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Takes a port without listening on it. Several sockets may hold it; only one of them ever listens.
fn reserve(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

struct Endpoint {
    accounts: Accounts,
    faults: Faults,
    buckets: Buckets,
    clock: Clock,
    queue: Queue,
    further: Queues,
    requests: AtomicU64,
}

impl Endpoint {
    /// Listens whenever it is wanted. The reserved socket keeps the port in between.
    async fn run(self: Arc<Self>, address: SocketAddr, listener: TcpListener, _reserved: TcpSocket) {
        let mut wanted = self.faults.wanted();
        let mut listener = Some(listener);
        loop {
            let open = *wanted.borrow_and_update();
            if !open {
                listener = None;
                self.faults.set_listening(false);
                if wanted.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let opened = match listener.take() {
                Some(listener) => Ok(listener),
                None => reserve(address).and_then(|socket| socket.listen(1024)),
            };
            let open = match opened {
                Ok(open) => open,
                Err(error) => {
                    tracing::error!(%address, %error, "cannot listen again yet");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            self.faults.set_listening(true);
            let mut connections = JoinSet::new();
            while *wanted.borrow_and_update() {
                tokio::select! {
                    accepted = open.accept() => match accepted {
                        Ok((stream, _)) => drop(connections.spawn(self.clone().serve(stream))),
                        Err(error) => {
                            tracing::warn!(%address, %error, "accept failed");
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                    },
                    changed = wanted.changed() => if changed.is_err() { return },
                    Some(_) = connections.join_next() => {}
                }
            }
            drop(open);
            connections.shutdown().await;
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let service = service_fn(|request| self.clone().answer(request));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        // An error ends the connection, which is what a lost one looks like.
        let _ = connection.await;
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Lost> {
        let scope = Scope::of(request.headers());
        if scope.as_ref().is_some_and(Scope::is_sts) {
            return self.answer_sts(request).await;
        }
        if machines::speaks_ec2(&request) {
            return self.answer_ec2(request, scope).await;
        }
        let target = request.headers().get("x-amz-target").and_then(|value| value.to_str().ok());
        let operation = target.and_then(Operation::of_target);
        let outcome = match (operation, self.check(&request)) {
            (Some(operation), Ok(())) if request.method() == Method::POST => {
                match to_bytes(Body::new(request.into_body()), LONGEST).await {
                    Ok(body) => self.perform(operation, scope.as_ref(), &body).await?,
                    Err(error) => Err(ApiError::new("SerializationException", error.to_string())),
                }
            }
            (Some(_), Err(refusal)) if request.method() == Method::POST => Err(refusal),
            _ => Err(ApiError::new("UnknownOperationException", "The operation is not known here.")),
        };
        let (status, body) = match outcome {
            Ok(body) => (StatusCode::OK, body),
            Err(error) => (
                StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                Outcome::Json(error.body(operation.map(Operation::api))),
            ),
        };
        Ok(self.response(status, operation.map_or(Api::Ecs, Operation::api), body))
    }

    /// Answers a call to STS.
    async fn answer_sts(&self, request: Request<Incoming>) -> Result<Response<Body>, Lost> {
        let body = to_bytes(Body::new(request.into_body()), LONGEST).await.map_err(|_| Lost)?;
        let fault = self.faults.befall(Operation::AssumeRole).fault;
        let account = self.accounts.world(None).map(|home| home.read(|state| state.account.clone()));
        let account = account.unwrap_or_default();
        let outcome = match befallen(fault, Operation::AssumeRole, &account).await? {
            Some(outcome) => outcome,
            None => self.accounts.assume(&body).map(Outcome::Xml),
        };
        let (status, body) = match outcome {
            Ok(body) => (StatusCode::OK, body),
            Err(error) => {
                let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                (status, Outcome::Xml(accounts::refusal(&error)))
            }
        };
        Ok(self.response(status, Api::Sts, body))
    }

    /// Refuses what is not signed, or not now.
    fn check(&self, request: &Request<Incoming>) -> Result<(), ApiError> {
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        if !header(AUTHORIZATION.as_str()).is_some_and(|value| value.starts_with("AWS4-")) {
            return Err(ApiError::new("MissingAuthenticationTokenException", "Missing Authentication Token"));
        }
        header("x-amz-date").map_or(Ok(()), |signed_at| self.clock.check(signed_at))
    }

    fn response(&self, status: StatusCode, api: Api, body: Outcome) -> Response<Body> {
        let (kind, bytes) = match body {
            Outcome::Json(mut value) => {
                self.clock.shift(&mut value);
                (api.content_type(), value.to_string())
            }
            Outcome::Xml(text) => ("text/xml;charset=UTF-8", text),
            Outcome::Garbage => (api.content_type(), "<html>upstream connect error</html".to_owned()),
        };
        let mut response = Response::new(Body::from(bytes));
        *response.status_mut() = status;
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let id = format!("{number:08x}-0000-4000-8000-{number:012x}");
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.extend(self.clock.date().map(|date| (DATE, date)));
        if let Ok(id) = HeaderValue::from_str(&id) {
            headers.insert("x-amzn-requestid", id);
        }
        response
    }

    /// The queue that a call is about: the last part of its URL is its name.
    fn queue_of(&self, input: &Value) -> Queue {
        let name = input["QueueUrl"].as_str().and_then(|url| url.rsplit('/').next()).unwrap_or_default();
        let further = self.further.lock().unwrap_or_else(PoisonError::into_inner);
        further.get(name).unwrap_or(&self.queue).clone()
    }

    /// Lets a request meet its fate, and answers it from the world that its signature is about.
    async fn perform(
        &self,
        operation: Operation,
        scope: Option<&Scope>,
        body: &[u8],
    ) -> Result<Result<Outcome, ApiError>, Lost> {
        let api = operation.api();
        let Some(world) = self.accounts.world(scope) else {
            let message = "The security token included in the request is invalid.";
            return Ok(Err(ApiError::new("UnrecognizedClientException", message)));
        };
        let fate = self.faults.befall(operation);
        let region = scope.map_or("", Scope::region);
        let place = world.read(|state| format!("{}/{region}", state.account));
        if !self.buckets.admit(&place, operation, Instant::now()) {
            return Ok(Err(ApiError::throttled(api)));
        }
        let Ok(input) = serde_json::from_slice::<Value>(if body.is_empty() { b"{}" } else { body }) else {
            return Ok(Err(ApiError::new("SerializationException", "the request is not JSON")));
        };
        if fate.fault == Some(Fault::HalfPages) && wire::asks_for_later_page(&input) {
            return Ok(Err(ApiError::throttled(api)));
        }
        let account = world.read(|state| state.account.clone());
        if let Some(outcome) = befallen(fate.fault, operation, &account).await? {
            return Ok(outcome);
        }
        if operation.api() == Api::Sqs {
            return Ok(self.queue_of(&input).answer(operation, &input).await.map(Outcome::Json));
        }
        let input = match fate.page {
            Some(most) => twists::limited(operation, input, most),
            None => input,
        };
        let answer = |state: &State| {
            twists::twisted(fate.fault, operation, &input, fate.seed, |input| {
                look_up(operation, state, input)
            })
        };
        let answer = match &fate.frozen {
            Some(frozen) => answer(frozen),
            None => world.read(answer),
        };
        Ok(answer.map(Outcome::Json))
    }
}

/// What a fault alone makes of a request, if it leaves nothing else to be said.
async fn befallen(
    fault: Option<Fault>,
    operation: Operation,
    account: &str,
) -> Result<Option<Result<Outcome, ApiError>>, Lost> {
    Ok(Some(match fault {
        Some(Fault::Outage) => return Err(Lost),
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Throttle) => Err(ApiError::throttled(operation.api())),
        Some(Fault::ServerError) => Err(ApiError::server(operation.api())),
        Some(Fault::Garbage) => Ok(Outcome::Garbage),
        Some(Fault::AccessDenied) => Err(ApiError::denied(operation, account)),
        Some(Fault::Delay(delay)) => {
            tokio::time::sleep(delay).await;
            return Ok(None);
        }
        _ => return Ok(None),
    }))
}

/// The body of a successful answer.
enum Outcome {
    Json(Value),
    Xml(String),
    Garbage,
}

/// A request whose connection is to be cut.
#[derive(Debug)]
struct Lost;

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is cut on purpose")
    }
}

impl std::error::Error for Lost {}

impl From<Infallible> for Lost {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

fn look_up(operation: Operation, state: &State, input: &Value) -> Result<Value, ApiError> {
    let input = Input::new(input, operation.api())?;
    match operation.api() {
        Api::Ecs => ecs::answer(operation, state, input),
        Api::CloudMap => cloudmap::answer(operation, state, input),
        Api::Ec2 => machines::describe_instances(state, input),
        Api::Sqs | Api::Sts => {
            Err(ApiError::new("UnknownOperationException", "Neither queues nor roles are part of the world."))
        }
    }
}
