//! Whether this process lives, and whether it may be asked.

use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use super::AdminState;
use crate::source::Cell;

const TEXT: [(header::HeaderName, &str); 1] = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];

/// Answers as long as the process can.
pub(super) async fn livez() -> Response {
    (TEXT, "ok\n").into_response()
}

/// One named condition of readiness.
struct Check {
    name: String,
    outcome: Result<String, String>,
}

/// Ready from the first full reading of every source on, even if AWS is down later, and until the end begins.
pub(super) async fn readyz(State(state): State<AdminState>, uri: Uri) -> Response {
    let checks = checks(&state);
    let ready = checks.iter().all(|check| check.outcome.is_ok());
    let (status, word) =
        if ready { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") };
    let query = uri.query().unwrap_or_default();
    let verbose = query.split('&').any(|part| part == "verbose" || part.starts_with("verbose="));
    let lines = checks.into_iter().filter(|_| verbose || !ready).map(|check| match check.outcome {
        Ok(text) => format!("[+]{} {text}\n", check.name),
        Err(text) => format!("[-]{} {text}\n", check.name),
    });
    let body = lines.collect::<String>() + word + "\n";
    (status, TEXT, body).into_response()
}

fn checks(state: &AdminState) -> Vec<Check> {
    let mut checks: Vec<_> = state.cells.iter().map(source).collect();
    checks.extend(state.queue.as_ref().map(queue));
    let published =
        if state.store.is_synced() { Ok("ok".to_owned()) } else { Err("is not published yet".to_owned()) };
    checks.push(Check { name: "snapshot".to_owned(), outcome: published });
    let running = if state.stopping.is_cancelled() {
        Err("is under way".to_owned())
    } else {
        Ok("not asked for".to_owned())
    };
    checks.push(Check { name: "shutdown".to_owned(), outcome: running });
    checks
}

/// A source that has spoken once is good: what it said is still served while it fails.
fn source(cell: &Cell) -> Check {
    let reading = cell.reading();
    let last_error = reading.failing.map(|failing| one_line(&failing.error.to_string()));
    let outcome = match (reading.view.is_some(), last_error) {
        (true, None) => Ok("ok".to_owned()),
        (true, Some(error)) => Ok(format!("ok, from an earlier reading: last error {error}")),
        (false, None) => Err("waiting for the first complete reading".to_owned()),
        (false, Some(error)) => Err(format!("waiting for the first complete reading: last error {error}")),
    };
    Check { name: cell.name.to_string(), outcome }
}

/// Without its queue the server is as good as one that has none: it is told, and is no reason to be unready.
fn queue(cell: &Cell) -> Check {
    let outcome = match cell.reading().failing {
        Some(failing) => format!(
            "fails, so that stops are seen by readings alone: {}",
            one_line(&failing.error.to_string())
        ),
        None => "ok".to_owned(),
    };
    Check { name: cell.name.to_string(), outcome: Ok(outcome) }
}

/// The first line of what may be a page.
fn one_line(text: &str) -> String {
    match text.trim().split_once('\n') {
        Some((first, _)) => format!("{first} …"),
        None => text.trim().to_owned(),
    }
}
