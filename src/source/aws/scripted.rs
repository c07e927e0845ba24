//! A scripted AWS for tests: an HTTP server on loopback that answers each operation as told.
//!
//! It is not an emulator: it remembers nothing but the names of the calls.
//!
//! Invariant: it answers one request per connection, in the order of arrival.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_ecs::config::{Credentials, SharedCredentialsProvider};
use aws_sdk_ecs::primitives::{DateTime, DateTimeFormat};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use super::{Access, Budget, Limits};
use crate::telemetry::Metrics;

/// What the script says to one call.
#[derive(Clone, Debug)]
pub(in crate::source) enum Answer {
    /// A status and a document.
    Json(u16, Value),
    /// A status and something else.
    Text(u16, &'static str),
    /// Nothing, on an open connection.
    Silence,
    /// Headers and the beginning of a body.
    HalfBody,
}

type Script = dyn Fn(&str, &Value) -> Answer + Send + Sync;

/// The server; it ends with its value.
pub(in crate::source) struct Scripted {
    url: String,
    calls: Arc<Mutex<Vec<String>>>,
    /// How many seconds its clock is ahead of ours.
    ahead: Arc<AtomicI64>,
    server: AbortHandle,
}

impl Scripted {
    /// Starts a server whose `script` is given the operation's name and the request.
    pub(in crate::source) fn start(script: impl Fn(&str, &Value) -> Answer + Send + Sync + 'static) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        listener.set_nonblocking(true).expect("a socket");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let listener = TcpListener::from_std(listener).expect("a runtime");
        let (calls, ahead) = (Arc::new(Mutex::new(Vec::new())), Arc::<AtomicI64>::default());
        let (script, log): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&calls));
        let clock = Arc::clone(&ahead);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&script), Arc::clone(&log), Arc::clone(&clock)));
            }
        });
        Self { url, calls, ahead, server: server.abort_handle() }
    }

    /// Puts its clock so many seconds ahead of ours, or behind.
    pub(in crate::source) fn put_clock_ahead(&self, seconds: i64) {
        self.ahead.store(seconds, Ordering::Relaxed);
    }

    /// The configuration of clients that talk to it.
    pub(in crate::source) fn config(&self) -> SdkConfig {
        config(&self.url)
    }

    /// Access to it, as clients share it.
    pub(in crate::source) fn access(&self) -> Access {
        access(self.config())
    }

    /// The operations called so far.
    pub(in crate::source) fn calls(&self) -> Vec<String> {
        self.calls.lock().expect("no panic").clone()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Access with that configuration.
pub(in crate::source) fn access(config: SdkConfig) -> Access {
    Access::new(config, Arc::new(Budget::new(50, Metrics::unread())))
}

/// The configuration of clients that talk to `url` and lose patience soon.
pub(in crate::source) fn config(url: &str) -> SdkConfig {
    let millis = Duration::from_millis;
    let limits = Limits { connect: millis(500), attempt: millis(300), operation: millis(3_000) };
    let credentials = Credentials::new("test", "test", None, None, "test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .endpoint_url(url)
        .timeout_config(limits.timeouts())
        .retry_config(limits.retries().with_initial_backoff(millis(1)))
        .build()
}

async fn serve(
    mut stream: TcpStream,
    script: Arc<Script>,
    log: Arc<Mutex<Vec<String>>>,
    ahead: Arc<AtomicI64>,
) {
    let Some((operation, request)) = read(&mut stream).await else { return };
    log.lock().expect("no panic").push(operation.clone());
    let (status, body) = match script(&operation, &request) {
        Answer::Json(status, document) => (status, document.to_string()),
        Answer::Text(status, text) => (status, text.to_owned()),
        Answer::Silence => return std::future::pending().await,
        Answer::HalfBody => {
            let half = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"taskArns\":";
            drop(stream.write_all(half.as_bytes()).await);
            return std::future::pending().await;
        }
    };
    let (length, date) = (body.len(), date(ahead.load(Ordering::Relaxed)));
    let answer = format!(
        "HTTP/1.1 {status} X\r\nconnection: close\r\ndate: {date}\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    drop(stream.write_all(answer.as_bytes()).await);
}

/// So many seconds from now, as HTTP says it.
fn date(ahead: i64) -> String {
    let at = DateTime::from_secs(DateTime::from(SystemTime::now()).secs() + ahead);
    at.fmt(DateTimeFormat::HttpDate).expect("a date of our days")
}

/// The operation (the last word of `x-amz-target`, or the action of a form) and the document of one request.
async fn read(stream: &mut TcpStream) -> Option<(String, Value)> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        (stream.read_buf(&mut bytes).await.ok()? > 0).then_some(())?;
    };
    let text = String::from_utf8_lossy(bytes.get(..head)?).to_lowercase();
    let header = |name: &str| text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
    let length: usize = header("content-length:").and_then(|length| length.parse().ok()).unwrap_or(0);
    while bytes.len() < head + length {
        (stream.read_buf(&mut bytes).await.ok()? > 0).then_some(())?;
    }
    let raw = String::from_utf8_lossy(bytes.get(..head)?).into_owned();
    let body = bytes.get(head..)?;
    let Some(target) = raw.lines().find(|line| line.to_lowercase().starts_with("x-amz-target:")) else {
        let form = form(std::str::from_utf8(body).ok()?);
        return Some((form["Action"].as_str()?.to_owned(), form));
    };
    let operation = target.rsplit('.').next()?.trim().to_owned();
    Some((operation, serde_json::from_slice(body).unwrap_or_default()))
}

/// A form as a document of strings.
fn form(text: &str) -> Value {
    let decoded = |text: &str| {
        let mut parts = text.split('%');
        let mut whole = parts.next().unwrap_or_default().replace('+', " ");
        for part in parts {
            let (code, rest) = part.split_at(2);
            whole.push(u8::from_str_radix(code, 16).expect("a code of ASCII").into());
            whole.push_str(rest);
        }
        Value::String(whole)
    };
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    Value::Object(pairs.map(|(key, value)| (key.to_owned(), decoded(value))).collect())
}
