//! The envelope around every answer, and the errors.

use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::diagnostic::words::nearest;

/// An answer that is not what was asked for.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Failure {
    /// `status` with a stable `code` and a `message` for people.
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// There is no `what` called `name`, but perhaps a similar one.
    pub(super) fn not_found<'a>(what: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let near = nearest(name, known).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", format!("no {what} `{name}`{near}"))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = json!({ "error": { "code": self.code, "message": self.message } });
        (self.status, Json(body)).into_response()
    }
}

/// What every handler answers.
pub(super) type Answer = Result<Json<Value>, Failure>;

/// A list in its envelope; `generation` is the snapshot's where the list is of one namespace.
pub(super) fn list(kind: &str, generation: Option<u64>, items: Vec<Value>) -> Answer {
    Ok(Json(json!({
        "apiVersion": "legation/v1",
        "kind": kind,
        "generation": generation,
        "items": items,
        "next": null,
    })))
}

/// One object in its envelope.
pub(super) fn one(kind: &str, generation: Option<u64>, item: Value) -> Answer {
    Ok(Json(json!({ "apiVersion": "legation/v1", "kind": kind, "generation": generation, "item": item })))
}

/// The fallback of the admin pages.
pub(super) async fn no_such_path(uri: Uri) -> Failure {
    const PREFIX: &str = "/api/v1/";
    const PAGES: [&str; 8] =
        ["status", "findings", "policy", "world", "explain", "namespaces", "proxies", "changes"];
    let page = uri.path().strip_prefix(PREFIX).and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let near = nearest(page, PAGES).map(|near| format!("{PREFIX}{near}"));
    Failure::not_found("such path", uri.path(), near.as_deref())
}

/// The fallback of the metrics port, which people confuse with that of the admin pages.
pub(super) async fn no_such_figures(uri: Uri) -> Failure {
    let path = uri.path();
    if path == "/api" || path.starts_with("/api/") {
        let message = format!(
            "no path `{path}` on the metrics port; is this the admin address? its usual port is 19000"
        );
        return Failure::new(StatusCode::NOT_FOUND, "NOT_FOUND", message);
    }
    Failure::not_found("such path", path, ["/livez", "/readyz", "/metrics"])
}

/// The variables of a path.
#[derive(Debug)]
pub(super) struct Segments<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Segments<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Path(segments) = Path::from_request_parts(parts, state)
            .await
            .map_err(|error| Failure::new(error.status(), "BAD_PATH", error.body_text()))?;
        Ok(Self(segments))
    }
}

/// RFC 3339 with microseconds; `null` when it has not happened.
pub(super) fn time(at: impl Into<Option<SystemTime>>) -> Value {
    at.into()
        .and_then(|at| Timestamp::try_from(at).ok())
        .map_or(Value::Null, |at| Value::String(format!("{at:.6}")))
}

/// Milliseconds with their microseconds.
pub(super) fn milliseconds(duration: Duration) -> Value {
    let microseconds = u32::try_from(duration.as_micros()).map_or(duration.as_secs_f64() * 1e6, f64::from);
    json!(microseconds / 1000.0)
}

/// Milliseconds from one moment to the other; zero if the clock was set back.
pub(super) fn between(from: SystemTime, to: impl Into<Option<SystemTime>>) -> Value {
    to.into().map_or(Value::Null, |to| milliseconds(to.duration_since(from).unwrap_or_default()))
}
