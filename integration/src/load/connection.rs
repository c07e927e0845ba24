//! One kept-alive connection, and one exchange over it.
//!
//! It counts nothing and repeats nothing. Invariant: an exchange is good only if its answer is complete and
//! is what a healthy task says: status 200, or the echo of its line.

use std::net::SocketAddr;

use axum::body::{Body, to_bytes};
use hyper::client::conn::{http1, http2};
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// The longest answer that is read.
const LONGEST: usize = 1 << 20;

/// One way through the sidecars.
#[derive(Debug, Clone)]
pub struct Way {
    /// What people call it.
    pub name: &'static str,
    /// Where connections go.
    pub address: SocketAddr,
    /// What is spoken.
    pub kind: Kind,
    /// Exchanges each second, over all connections.
    pub per_second: u32,
    /// How many connections each Envoy is to carry.
    pub at_least: u64,
}

/// What is spoken on a way.
#[derive(Debug, Clone)]
pub enum Kind {
    /// HTTP/1.1 to the alias, as `http://payments:8080/` goes when the name resolves to `address`.
    Direct {
        /// The alias with its port.
        host: String,
        /// The path.
        path: String,
    },
    /// HTTP/1.1 as with `HTTP_PROXY=http://<address>`: the whole URL in the request line.
    Proxy {
        /// The alias with its port.
        host: String,
        /// The path.
        path: String,
    },
    /// HTTP/2 with prior knowledge.
    Http2 {
        /// The alias with its port.
        host: String,
        /// The path.
        path: String,
    },
    /// Lines over TCP, each answered by a line that ends with it.
    Lines,
}

impl Way {
    /// 50 requests a second to an alias.
    pub fn direct(name: &'static str, address: SocketAddr, host: &str) -> Self {
        let kind = Kind::Direct { host: host.to_owned(), path: "/".to_owned() };
        Self { name, address, kind, per_second: 50, at_least: 2 }
    }

    /// 50 requests a second to an alias through `HTTP_PROXY`.
    pub fn proxy(name: &'static str, proxy: SocketAddr, host: &str) -> Self {
        let kind = Kind::Proxy { host: host.to_owned(), path: "/".to_owned() };
        Self { name, address: proxy, kind, per_second: 50, at_least: 2 }
    }

    /// 10 HTTP/2 requests a second to an alias.
    pub fn http2(name: &'static str, address: SocketAddr, host: &str) -> Self {
        let kind = Kind::Http2 { host: host.to_owned(), path: "/".to_owned() };
        Self { name, address, kind, per_second: 10, at_least: 1 }
    }

    /// 10 lines a second over TCP.
    pub fn lines(name: &'static str, address: SocketAddr) -> Self {
        Self { name, address, kind: Kind::Lines, per_second: 10, at_least: 1 }
    }

    /// The same way at another rate.
    pub fn at_rate(self, per_second: u32) -> Self {
        Self { per_second, ..self }
    }

    fn request(&self) -> Result<Request<Body>, String> {
        let request = match &self.kind {
            Kind::Direct { host, path } => Request::get(path).header(HOST, host),
            Kind::Proxy { host, path } => Request::get(format!("http://{host}{path}")).header(HOST, host),
            Kind::Http2 { host, path } => Request::get(format!("http://{host}{path}")),
            Kind::Lines => return Err("lines are no requests".to_owned()),
        };
        request.body(Body::empty()).map_err(|error| format!("building the request: {error}"))
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) enum Connection {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
    Lines(BufReader<TcpStream>, u64),
}

impl Connection {
    /// Connects.
    pub(super) async fn open(way: &Way) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("connecting to {}: {error}", way.address);
        let stream = TcpStream::connect(way.address).await.map_err(|error| failed(&error))?;
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        Ok(match way.kind {
            Kind::Direct { .. } | Kind::Proxy { .. } => {
                let (sender, connection) =
                    http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
                tokio::spawn(connection);
                Self::Http1(sender)
            }
            Kind::Http2 { .. } => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                    .await
                    .map_err(|error| failed(&error))?;
                tokio::spawn(connection);
                Self::Http2(sender)
            }
            Kind::Lines => Self::Lines(BufReader::new(stream), 0),
        })
    }

    /// Whether [`Connection::is_open`] knows, also after a failure.
    pub(super) fn tells_when_closed(&self) -> bool {
        !matches!(self, Self::Lines(..))
    }

    /// Whether it was closed since the last exchange. A line connection is found out by using it.
    pub(super) async fn is_open(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
            Self::Lines(..) => true,
        }
    }

    /// One request and its whole answer.
    pub(super) async fn exchange(&mut self, way: &Way) -> Result<(), String> {
        let response = match self {
            Self::Http1(sender) => sender.send_request(way.request()?).await,
            Self::Http2(sender) => sender.send_request(way.request()?).await,
            Self::Lines(stream, sent) => {
                *sent += 1;
                return line(stream, *sent).await.map_err(|error| format!("line {sent}: {error}"));
            }
        };
        let response = response.map_err(|error| format!("broken connection: {}", whole(&error)))?;
        let (head, body) = response.into_parts();
        let body = to_bytes(Body::new(body), LONGEST).await;
        let body = body.map_err(|error| format!("broken answer: {}", whole(&error)))?;
        if head.status == StatusCode::OK {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&body);
        Err(format!("status {}, headers {:?}, body {text:?}", head.status, head.headers))
    }
}

async fn line(stream: &mut BufReader<TcpStream>, number: u64) -> std::io::Result<()> {
    let line = format!("ping-{number}\n");
    stream.write_all(line.as_bytes()).await?;
    let mut echo = String::new();
    if stream.read_line(&mut echo).await? == 0 {
        return Err(std::io::Error::other("the connection was closed"));
    }
    if echo.ends_with(&format!(" {line}")) {
        Ok(())
    } else {
        Err(std::io::Error::other(format!("a strange echo: {echo:?}")))
    }
}

/// An error with its causes.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
