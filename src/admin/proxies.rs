//! The connected sidecars: how far each has come, and what it refused.

use std::collections::BTreeSet;
use std::time::SystemTime;

use axum::extract::State;
use serde_json::{Value, json};

use super::answer::{Answer, between, list as answer_list, time};
use super::{AdminState, Pages};
use crate::model::{Scope, ServiceName};
use crate::snapshot::ResourceType;
use crate::xds::clients::{Client, TypeStatus};

/// How a sidecar stands to what it should hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Sync {
    /// It holds the newest snapshot.
    Synced,
    /// It has not answered for the newest snapshot yet.
    Stale,
    /// It refused something that has not been mended since.
    Nacked,
}

impl Sync {
    /// Every one.
    pub(super) const ALL: [Self; 3] = [Self::Synced, Self::Stale, Self::Nacked];

    /// The word in metrics; the API has it in capitals.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Synced => "synced",
            Self::Stale => "stale",
            Self::Nacked => "nacked",
        }
    }
}

/// The state of a sidecar and since when, as far as that is known.
pub(super) fn sync(state: &AdminState, client: &Client) -> (Sync, SystemTime) {
    let types = || client.types.iter().map(|(_, status)| status);
    if let Some(first) = types().filter_map(|it| it.nack.as_ref()).map(|nack| nack.at).min() {
        return (Sync::Nacked, first);
    }
    let latest = state.store.latest_in(&client.scope);
    match latest.filter(|latest| latest.generation > client.synced_generation) {
        None => {
            let answered = types().filter_map(|it| it.acked).map(|(_, at)| at).max();
            (Sync::Synced, answered.unwrap_or(client.connected_at))
        }
        Some(latest) => {
            // Behind since the first response that it leaves unanswered, else since there is something to send.
            let unanswered = types().filter_map(|it| {
                let (sent, at) = it.sent?;
                it.acked.is_none_or(|(acked, _)| acked < sent).then_some(at)
            });
            (Sync::Stale, unanswered.min().unwrap_or(latest.seen_at.max(client.connected_at)))
        }
    }
}

/// `/api/v1/proxies`.
pub(super) async fn list(State(pages): State<Pages>) -> Answer {
    let now = SystemTime::now();
    let clients = pages.state.clients.list();
    let items = clients.iter().map(|client| describe(&pages.state, client, now)).collect();
    answer_list("ProxyList", None, items)
}

fn describe(state: &AdminState, client: &Client, now: SystemTime) -> Value {
    let (sync, since) = sync(state, client);
    let latest = state.store.latest_in(&client.scope).map(|snapshot| snapshot.generation);
    let types = client.types.iter().map(|(kind, status)| describe_type(*kind, status, now));
    json!({
        "id": client.node.id,
        "namespace": client.namespace.as_str(),
        "scope": describe_scope(&client.scope),
        "service": client.node.service,
        "cluster": client.node.cluster,
        "zone": client.node.zone,
        "userAgent": client.node.user_agent,
        "peer": client.peer,
        "stream": client.stream,
        "protocol": client.protocol.word(),
        "connectedAt": time(client.connected_at),
        "state": sync.word().to_ascii_uppercase(),
        "since": time(since),
        "ageMs": between(since, now),
        "generation": latest,
        "syncedGeneration": client.synced_generation,
        "types": types.collect::<Vec<_>>(),
        "withheldListeners": client.withheld,
        "containerPorts": client.node.occupied_ports,
    })
}

/// What a sidecar sees: `null` is a whole namespace, or all that another exports.
fn describe_scope(scope: &Scope) -> Value {
    let names = |names: &Option<BTreeSet<ServiceName>>| {
        names
            .as_ref()
            .map(|names| names.iter().map(ServiceName::as_str).map(str::to_owned).collect::<Vec<_>>())
    };
    let imports = scope.imports.iter();
    let imports = imports.map(|(namespace, services)| (namespace.to_string(), json!(names(services))));
    json!({ "uses": names(&scope.uses), "imports": imports.collect::<serde_json::Map<_, _>>() })
}

fn describe_type(kind: ResourceType, status: &TypeStatus, now: SystemTime) -> Value {
    let step = |step: Option<(u64, SystemTime)>| {
        step.map(
            |(generation, at)| json!({ "generation": generation, "at": time(at), "ageMs": between(at, now) }),
        )
    };
    let nack = status.nack.as_ref().map(|nack| {
        json!({
            "generation": nack.generation,
            "message": nack.message,
            "at": time(nack.at),
            "ageMs": between(nack.at, now),
        })
    });
    let rejected = status.rejected.iter();
    let rejected = rejected.map(|(name, rejection)| {
        let version = rejection.version.to_string();
        json!({ "name": name, "version": version, "reason": &*rejection.reason })
    });
    json!({
        "type": kind.word(),
        "short": kind.short(),
        "wildcard": status.wildcard,
        "subscribed": status.subscribed,
        "sent": step(status.sent),
        "acked": step(status.acked),
        "nacked": nack,
        "rejected": rejected.collect::<Vec<_>>(),
        "responses": status.responses,
        "resources": status.resources,
        "nacks": status.nacks,
    })
}
