//! The one order that people can give: to let go what is held back.
//!
//! It takes away nothing that a source still sees.
//!
//! Invariant: no page can give it through a browser: only JSON is heard, and none that tells where it comes from.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use serde::Deserialize;
use serde_json::json;
use tracing::info;

use super::Pages;
use super::answer::{Answer, Failure, one};

/// What is ordered.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    /// The source's name; without it every source.
    source: Option<String>,
}

/// `POST /api/v1/release`.
pub(super) async fn release(State(pages): State<Pages>, order: Result<Json<Order>, JsonRejection>) -> Answer {
    let Json(Order { source }) = order.map_err(|rejection| {
        let status = rejection.status();
        let message = format!("send JSON like {{\"source\": \"ecs/prod-a\"}}: {}", rejection.body_text());
        Failure::new(status, "BAD_REQUEST", message)
    })?;
    let cells = &pages.state.cells;
    let wanted: Vec<_> =
        cells.iter().filter(|cell| source.as_deref().is_none_or(|name| name == &*cell.name)).collect();
    if let Some(source) = source.filter(|_| wanted.is_empty()) {
        return Err(Failure::not_found("source", &source, cells.iter().map(|cell| &*cell.name)));
    }
    let released = wanted.into_iter().filter(|cell| cell.release());
    let names: Vec<_> = released.map(|cell| &*cell.name).collect();
    for name in &names {
        info!(source = name, "ordered to let go what is held back");
    }
    one("Release", None, json!({ "sources": names }))
}
