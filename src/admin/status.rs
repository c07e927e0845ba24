//! One look at everything: sources, counts, findings.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::SystemTime;

use axum::extract::State;
use serde_json::{Value, json};

use super::answer::{Answer, between, list as answer_list, one, time};
use super::proxies::{Sync, sync};
use super::{AdminState, Pages};
use crate::diagnostic::Problem;
use crate::model::{Finding, Namespace};
use crate::source::Cell;
use crate::xds::clients::Client;

/// `/api/v1/status`.
pub(super) async fn status(State(pages): State<Pages>) -> Answer {
    let (state, now) = (&pages.state, SystemTime::now());
    let (mesh, clients) = (state.mesh(), state.clients.list());
    let synced = |wanted| clients.iter().filter(|client| sync(state, client).0 == wanted).count();
    let services = mesh.namespaces.values().map(|namespace| namespace.services.len());
    let endpoints = mesh
        .namespaces
        .values()
        .flat_map(|namespace| namespace.services.values())
        .map(|service| service.endpoints.len());
    one(
        "Status",
        None,
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "startedAt": time(state.started_at),
            "uptimeMs": between(state.started_at, now),
            "ready": state.store.is_synced() && !state.stopping.is_cancelled(),
            "stopping": state.stopping.is_cancelled(),
            "sources": state.every_cell().map(|cell| source(cell, now)).collect::<Vec<_>>(),
            "namespaces": mesh.namespaces.len(),
            "services": services.sum::<usize>(),
            "endpoints": endpoints.sum::<usize>(),
            "proxies": {
                "synced": synced(Sync::Synced),
                "stale": synced(Sync::Stale),
                "nacked": synced(Sync::Nacked),
            },
            "findings": all_findings(state, &clients).len(),
        }),
    )
}

fn source(cell: &Cell, now: SystemTime) -> Value {
    let reading = cell.reading();
    let failing = reading.failing.map(|failing| {
        json!({
            "since": time(failing.since),
            "ageMs": between(failing.since, now),
            "count": failing.count,
            "operation": failing.error.operation,
            "code": failing.error.code,
            "message": failing.error.message,
        })
    });
    json!({
        "name": cell.name,
        "synced": reading.view.is_some(),
        "asOf": time(reading.as_of),
        "ageMs": reading.as_of.map(|at| between(at, now)),
        "changedAt": time(reading.changed_at),
        "failing": failing,
        "readings": reading.readings,
        "errors": reading.errors,
    })
}

/// `/api/v1/findings`.
pub(super) async fn findings(State(pages): State<Pages>) -> Answer {
    let clients = pages.state.clients.list();
    let items = all_findings(&pages.state, &clients)
        .into_iter()
        .map(|finding| json!({ "code": finding.code, "object": finding.object, "message": finding.message }));
    answer_list("FindingList", None, items.collect())
}

/// What is wrong with the descriptions, and what only shows in sources and sidecars.
pub(super) fn all_findings(state: &AdminState, clients: &[Client]) -> Vec<Finding> {
    let mut findings = state.mesh().findings.clone();
    for cell in state.every_cell() {
        if let Some(failing) = cell.reading().failing {
            let what = format!("{} readings in a row failed, the newest with ", failing.count);
            findings.push(failing.error.finding(format!("source {}", cell.name), &what));
        }
    }
    findings.extend(state.policy.borrow().rejected.iter().map(rejected));
    let zoned = zoned_namespaces(state);
    for client in clients {
        let object = format!("sidecar {}", client.node.id);
        for (kind, status) in &client.types {
            if let Some(nack) = &status.nack {
                let message = format!("{} refused: {}", kind.short(), nack.message);
                findings.push(Finding { code: "XDS001", object: object.clone(), message });
            }
        }
        if !client.withheld.is_empty() {
            let listeners = client.withheld.join(", ");
            let message = format!(
                "the task itself listens on the ports of {listeners}: give the alias another port, such as 80, or bind the application to one address"
            );
            findings.push(Finding { code: "LSN002", object: object.clone(), message });
        }
        if client.node.zone.is_empty() && zoned.contains(&client.namespace) {
            let message = "node.locality.zone is empty: it can't prefer endpoints of its own zone".to_owned();
            findings.push(Finding { code: "ZONE001", object, message });
        }
    }
    findings.sort();
    findings
}

/// What keeps a policy from being in force.
fn rejected(problem: &Problem) -> Finding {
    let message = format!("the policy is as it was before, because: {}", problem.render(false));
    Finding { code: "CFG003", object: format!("policy {}", problem.place()), message }
}

/// `/api/v1/policy`.
pub(super) async fn policy(State(pages): State<Pages>) -> Answer {
    let loaded = pages.state.policy.borrow().clone();
    let problem = |it: &Problem| {
        let suggestion = it.suggestion.as_deref();
        json!({ "code": it.code, "place": it.place(), "message": it.message, "suggestion": suggestion })
    };
    let text = |(file, text): &(PathBuf, String)| json!({ "file": file.display().to_string(), "text": text });
    one(
        "Policy",
        None,
        json!({
            "since": time(loaded.since),
            "files": loaded.files().map(|file| file.display().to_string()).collect::<Vec<_>>(),
            "texts": loaded.texts().iter().map(text).collect::<Vec<_>>(),
            "rejected": loaded.rejected.iter().map(problem).collect::<Vec<_>>(),
        }),
    )
}

/// Namespaces in which a zone makes a difference.
fn zoned_namespaces(state: &AdminState) -> BTreeSet<Namespace> {
    let mesh = state.mesh();
    let zoned = mesh.namespaces.values().filter(|namespace| {
        let mut endpoints = namespace.services.values().flat_map(|service| service.endpoints.iter());
        endpoints.any(|endpoint| endpoint.zone.is_some())
    });
    zoned.map(|namespace| namespace.name.clone()).collect()
}
