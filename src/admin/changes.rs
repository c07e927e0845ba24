//! Withdrawals: from the source's sight of a stop to the last sidecar's agreement.

use std::time::SystemTime;

use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::Pages;
use super::answer::{
    Answer, Failure, Segments, between, list as answer_list, milliseconds, one as answer_one, time,
};
use crate::changes::Change;
use crate::xds::clients::Client;

/// How many of the sidecars that are still awaited are named.
const NAMED: usize = 10;

/// The sidecars that were there before the withdrawal and don't hold it yet.
pub(super) fn waiting<'a>(change: &Change, clients: &'a [Client]) -> impl Iterator<Item = &'a Client> {
    let (streams, withdrawal) = (change.streams_before, change.withdrawal.clone());
    clients.iter().filter(move |client| {
        let generation = withdrawal.generation_in(&client.scope);
        client.stream < streams && generation.is_some_and(|generation| client.synced_generation < generation)
    })
}

/// `/api/v1/changes`, newest first.
pub(super) async fn list(State(pages): State<Pages>) -> Answer {
    let clients = pages.state.clients.list();
    let now = SystemTime::now();
    let items = pages.state.ledger.list().iter().map(|change| describe(change, &clients, now)).collect();
    answer_list("ChangeList", None, items)
}

/// `/api/v1/changes/{id}`.
pub(super) async fn one(State(pages): State<Pages>, Segments(id): Segments<String>) -> Answer {
    let changes = pages.state.ledger.list();
    let found = changes.iter().find(|change| id.parse() == Ok(change.id)).ok_or_else(|| {
        let known = match (changes.last(), changes.first()) {
            (Some(oldest), Some(newest)) => format!("remembered are {} to {}", oldest.id, newest.id),
            _ => "none has happened yet".to_owned(),
        };
        Failure::new(StatusCode::NOT_FOUND, "NOT_FOUND", format!("no change `{id}`: {known}"))
    })?;
    answer_one("Change", None, describe(found, &pages.state.clients.list(), SystemTime::now()))
}

fn describe(change: &Change, clients: &[Client], now: SystemTime) -> Value {
    let (left, progress) = (&change.withdrawal, &change.progress);
    let since_seen = |at: Option<SystemTime>| between(left.seen_at, at);
    let waiting: Vec<_> = waiting(change, clients).map(|client| &client.node.id).collect();
    let slowest = progress.slowest.iter();
    let slowest = slowest.map(|it| json!({ "id": it.node, "afterMs": milliseconds(it.after) }));
    json!({
        "id": change.id,
        "namespace": left.service.namespace.as_str(),
        "service": left.service.name.as_str(),
        "instance": left.instance.as_str(),
        "address": left.address,
        "port": left.port,
        "reason": left.reason.as_str(),
        "assignment": left.assignment,
        "generation": left.generation,
        "seenAt": time(left.seen_at),
        "publishedAt": time(left.published_at),
        "firstSentAt": time(progress.first_sent_at),
        "lastSentAt": time(progress.last_sent_at),
        "firstAckAt": time(progress.first_ack_at),
        "lastAckAt": time(progress.last_ack_at),
        "sinceSeenMs": {
            "published": since_seen(Some(left.published_at)),
            "firstSent": since_seen(progress.first_sent_at),
            "lastSent": since_seen(progress.last_sent_at),
            "firstAck": since_seen(progress.first_ack_at),
            "lastAck": since_seen(progress.last_ack_at),
        },
        "ageMs": between(left.seen_at, now),
        "sent": progress.sent,
        "acked": progress.acked,
        "waiting": waiting.len(),
        "waitingFor": waiting.iter().take(NAMED).collect::<Vec<_>>(),
        "slowest": slowest.collect::<Vec<_>>(),
    })
}
