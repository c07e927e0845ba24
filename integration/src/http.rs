//! A small HTTP/1.1 client for admin ports: one connection for each question.
//!
//! It is not the load generator. Invariant: every question ends within [`LIMIT`].

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use axum::body::{Body, Bytes, to_bytes};
use hyper::header::{HOST, HeaderMap};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long a question may take.
pub const LIMIT: Duration = Duration::from_secs(10);
/// The longest answer that is read: a config dump of a large mesh.
const LONGEST: usize = 256 << 20;

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header, if it is there and readable.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Asks one question.
pub async fn send(to: SocketAddr, request: Request<Body>) -> anyhow::Result<Answer> {
    let what = format!("{} {} at {to}", request.method(), request.uri());
    let asked = async { exchange(TcpStream::connect(to).await?, request).await };
    let limited = tokio::time::timeout(LIMIT, asked).await;
    limited.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in {LIMIT:?}"))).context(what)
}

/// Asks one question over a connection, which is closed then.
pub async fn exchange(stream: TcpStream, request: Request<Body>) -> anyhow::Result<Answer> {
    let exchange = async {
        stream.set_nodelay(true)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let asked = async {
            let response = sender.send_request(request).await?;
            let (head, body) = response.into_parts();
            let body = to_bytes(Body::new(body), LONGEST).await?;
            anyhow::Ok(Answer { status: head.status, headers: head.headers, body })
        };
        let mut asked = std::pin::pin!(asked);
        tokio::select! {
            answer = &mut asked => answer,
            // The answer may be complete when the server closes.
            _ = connection => asked.await,
        }
    };
    let limited = tokio::time::timeout(LIMIT, exchange).await;
    limited.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in {LIMIT:?}")))
}

/// A request with nothing but a host.
pub fn request(method: Method, host: &str, uri: &str) -> anyhow::Result<Request<Body>> {
    let request = Request::builder().method(method).uri(uri).header(HOST, host);
    request.body(Body::empty()).with_context(|| format!("building a request for {uri}"))
}

/// GET, whatever the status.
pub async fn get(to: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    send(to, request(Method::GET, &to.to_string(), path)?).await
}

/// GET that must succeed.
pub async fn get_ok(to: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    let answer = get(to, path).await?;
    anyhow::ensure!(answer.status.is_success(), "{path} at {to}: {}: {}", answer.status, answer.text());
    Ok(answer)
}

/// GET that must succeed with JSON.
pub async fn get_json(to: SocketAddr, path: &str) -> anyhow::Result<serde_json::Value> {
    let answer = get_ok(to, path).await?;
    serde_json::from_slice(&answer.body).with_context(|| format!("reading {path} at {to}"))
}
