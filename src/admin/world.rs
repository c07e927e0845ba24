//! `/api/v1/world`: what every source describes, joined, as a file that is looked at elsewhere.
//!
//! It has no envelope, so that the answer is that file.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::State;

use super::Pages;
use super::answer::Answer;
use super::namespaces::{broken, not_yet};
use crate::mesh;
use crate::model::View;
use crate::source::Cell;
use crate::source::file::world::World;

/// `/api/v1/world`.
pub(super) async fn world(State(pages): State<Pages>) -> Answer {
    let recorded_at = SystemTime::now();
    let (state, mesh) = (&pages.state, pages.state.mesh());
    let views: Option<Vec<Arc<View>>> = state.cells.iter().map(|cell: &Cell| cell.reading().view).collect();
    let Some(views) = views.filter(|_| state.store.is_synced()) else { return Err(not_yet()) };
    let _turn = pages.dumps.acquire().await.map_err(|error| broken(&error))?;
    let record = move || {
        let namespaces = mesh::world(&views, mesh.namespaces.keys());
        World { recorded_at, namespaces }.to_json()
    };
    let recorded = tokio::task::spawn_blocking(record).await;
    Ok(Json(recorded.map_err(|error| broken(&error))?))
}
