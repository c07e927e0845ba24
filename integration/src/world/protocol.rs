//! What a task's server says: HTTP/1.1, HTTP/2 with prior knowledge, or echoed lines.
//!
//! `/slow?ms=N` waits, `/status/N` answers that status, everything else gets 200; the body names the
//! task, its service and its zone. It serves one connection and knows nothing of listening. Invariant:
//! once draining begins, a request that was already read is answered, then the connection closes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::server::{Identity, Phase, reached};

/// The longest that `/slow` waits.
const SLOWEST: Duration = Duration::from_secs(600);
/// The longest line a TCP client may send.
const LONGEST_LINE: u64 = 64 * 1024;

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Serves one HTTP/1.1 connection.
pub(super) async fn http1(
    stream: TcpStream,
    me: Arc<Identity>,
    mut phase: watch::Receiver<Phase>,
) -> Outcome {
    let dead = phase.clone();
    let service = service_fn(move |request| answer(request, me.clone(), dead.clone()));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return Ok(result?),
        _ = reached(&mut phase, Phase::Draining) => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}

/// Serves one HTTP/2 connection without TLS or upgrade.
pub(super) async fn h2c(stream: TcpStream, me: Arc<Identity>, mut phase: watch::Receiver<Phase>) -> Outcome {
    let dead = phase.clone();
    let service = service_fn(move |request| answer(request, me.clone(), dead.clone()));
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return Ok(result?),
        _ = reached(&mut phase, Phase::Draining) => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}

async fn answer(
    request: Request<Incoming>,
    me: Arc<Identity>,
    mut phase: watch::Receiver<Phase>,
) -> Result<Response<Body>, Infallible> {
    let _in_flight = me.log.begin();
    if request.uri().path() == "/slow" {
        let wait = query_number(request.uri().query(), "ms").unwrap_or(0);
        tokio::select! {
            _ = tokio::time::sleep(Duration::from_millis(wait).min(SLOWEST)) => {}
            // Nobody is left to hear the answer.
            _ = reached(&mut phase, Phase::Killed) => {}
        }
    }
    let status =
        request.uri().path().strip_prefix("/status/").and_then(|code| code.parse::<StatusCode>().ok());
    let body = serde_json::json!({ "task": me.task, "service": me.service, "zone": me.zone });
    let mut response = Response::new(Body::from(body.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // 1xx are no final answers.
    if let Some(status) = status.filter(|status| !status.is_informational()) {
        *response.status_mut() = status;
    }
    Ok(response)
}

fn query_number(query: Option<&str>, key: &str) -> Option<u64> {
    let pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(name, _)| *name == key).find_map(|(_, value)| value.parse().ok())
}

/// Echoes lines, each after the task's id.
pub(super) async fn lines(
    stream: TcpStream,
    me: Arc<Identity>,
    mut phase: watch::Receiver<Phase>,
) -> Outcome {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = (&mut read).take(LONGEST_LINE);
        tokio::select! {
            biased;
            received = limited.read_until(b'\n', &mut line) => if received? == 0 { return Ok(()) },
            _ = reached(&mut phase, Phase::Draining) => return Ok(()),
        }
        let _in_flight = me.log.begin();
        let mut echo = format!("{} ", me.task).into_bytes();
        echo.extend_from_slice(&line);
        if !echo.ends_with(b"\n") {
            echo.push(b'\n');
        }
        write.write_all(&echo).await?;
    }
}
