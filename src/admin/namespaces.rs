//! The mesh as it is, and what is served for it.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::answer::{Answer, Failure, Segments, list as answer_list, milliseconds, one, time};
use super::{AdminState, Pages, json};
use crate::model::{Endpoint, Mesh, MeshNamespace, Service, Shift, State as Rotation, Which};
use crate::policy::Effective;
use crate::snapshot::ResourceType;
use crate::vip;

/// `/api/v1/namespaces`.
pub(super) async fn list(State(pages): State<Pages>) -> Answer {
    let mesh = pages.state.mesh();
    let clients = pages.state.clients.list();
    let items = mesh.namespaces.values().map(|namespace| {
        let snapshot = pages.state.store.latest(namespace.name.as_str());
        let endpoints = namespace.services.values().flat_map(|service| service.endpoints.iter());
        json!({
            "name": namespace.name.as_str(),
            "generation": snapshot.as_ref().map(|snapshot| snapshot.generation),
            "seenAt": time(snapshot.as_ref().map(|snapshot| snapshot.seen_at)),
            "services": namespace.services.len(),
            "endpoints": endpoints.count(),
            "proxies": clients.iter().filter(|it| it.namespace == namespace.name).count(),
        })
    });
    answer_list("NamespaceList", None, items.collect())
}

/// `/api/v1/namespaces/{namespace}/services`.
pub(super) async fn services(State(pages): State<Pages>, Segments(name): Segments<String>) -> Answer {
    let mesh = pages.state.mesh();
    let namespace = find(&pages.state, &mesh, &name)?;
    let items = namespace.services.values().map(|service| describe(namespace, service)).collect();
    answer_list("ServiceList", generation(&pages.state, &name), items)
}

/// `/api/v1/namespaces/{namespace}/services/{service}`.
pub(super) async fn service(
    State(pages): State<Pages>,
    Segments((name, service)): Segments<(String, String)>,
) -> Answer {
    let mesh = pages.state.mesh();
    let namespace = find(&pages.state, &mesh, &name)?;
    let found = namespace.services.get(service.as_str()).ok_or_else(|| {
        let known = namespace.services.keys().map(|name| name.as_str());
        Failure::not_found(&format!("service in namespace `{name}` called"), &service, known)
    })?;
    let mut item = describe(namespace, found);
    let policy = Arc::clone(&pages.state.policy.borrow().policy);
    item["treatment"] = treatment(&policy.effective(&found.spec, None));
    one("Service", generation(&pages.state, &name), item)
}

/// `/api/v1/namespaces/{namespace}/hosts`.
pub(super) async fn hosts(State(pages): State<Pages>, Segments(name): Segments<String>) -> Answer {
    let mesh = pages.state.mesh();
    let namespace = find(&pages.state, &mesh, &name)?;
    let items = namespace.addresses.iter().map(|(alias, address)| {
        json!({ "name": alias, "address": address, "names": [alias, format!("{alias}.{name}")] })
    });
    answer_list("HostList", generation(&pages.state, &name), items.collect())
}

/// `/api/v1/namespaces/{namespace}/resources/{kind}`.
pub(super) async fn resources(
    State(pages): State<Pages>,
    Segments((name, word)): Segments<(String, String)>,
) -> Answer {
    let words = ResourceType::ALL.map(ResourceType::word);
    let kind = ResourceType::ALL.into_iter().find(|kind| kind.word() == word);
    let kind = kind.ok_or_else(|| Failure::not_found("resource type", &word, words))?;
    let Some(snapshot) = pages.state.store.latest(&name) else {
        let mesh = pages.state.mesh();
        find(&pages.state, &mesh, &name)?;
        return Err(not_yet());
    };
    // A dump is long work: it must neither hold up streams nor run many times at once.
    let _turn = pages.dumps.acquire().await.map_err(|error| broken(&error))?;
    let dump = tokio::task::spawn_blocking(move || {
        let items = snapshot.table(kind).values().map(|resource| json::shown(resource));
        items.collect::<anyhow::Result<Vec<_>>>().map(|items| (snapshot.generation, items))
    });
    let (generation, items) =
        dump.await.map_err(|error| broken(&error))?.map_err(|error| broken(&format!("{error:#}")))?;
    answer_list("ResourceList", Some(generation), items)
}

fn find<'a>(state: &AdminState, mesh: &'a Mesh, name: &str) -> Result<&'a Arc<MeshNamespace>, Failure> {
    if let Some(namespace) = mesh.namespaces.get(name) {
        return Ok(namespace);
    }
    if !state.store.is_synced() {
        return Err(not_yet());
    }
    Err(Failure::not_found("namespace", name, mesh.namespaces.keys().map(|name| name.as_str())))
}

pub(super) fn not_yet() -> Failure {
    let message = "nothing is served until every source has been read once: see /readyz?verbose";
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, "NOT_READY", message)
}

pub(super) fn broken(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", error.to_string())
}

fn generation(state: &AdminState, namespace: &str) -> Option<u64> {
    state.store.latest(namespace).map(|snapshot| snapshot.generation)
}

/// What is in force, and where each value was said.
pub(super) fn treatment(effective: &[Effective]) -> Value {
    let value = |it: &Effective| json!({ "key": it.key, "value": it.value, "origin": it.origin });
    effective.iter().map(value).collect()
}

fn describe_endpoint(endpoint: &Endpoint) -> Value {
    let mut value = json!({
        "instance": endpoint.instance.as_str(),
        "address": endpoint.address,
        "port": endpoint.port,
        "zone": endpoint.zone,
        "state": endpoint.verdict.state.as_str(),
        "reason": endpoint.verdict.reason.as_str(),
    });
    let traits = &endpoint.traits;
    let deployment = traits.deployment.map(Which::as_str);
    let told = [
        ("version", traits.version.as_deref()),
        ("deployment", deployment),
        ("revision", traits.revision.as_deref()),
    ];
    for (key, word) in told.into_iter().filter_map(|(key, word)| Some((key, word?))) {
        value[key] = json!(word);
    }
    value
}

/// Weights are percentages, as ECS has them.
fn describe_shift(shift: &Shift) -> Value {
    let percent = |thousandths: u32| f64::from(thousandths) / 10.0;
    let revisions = shift.revisions.iter().map(|it| {
        json!({
            "revision": it.id,
            "productionWeight": percent(it.production),
            "testWeight": percent(it.test),
            "serves": it.serves,
        })
    });
    let header = json!({ "name": shift.header.name, "value": shift.header.value });
    json!({ "revisions": revisions.collect::<Vec<_>>(), "testHeader": header })
}

fn describe(namespace: &MeshNamespace, service: &Service) -> Value {
    let spec = &service.spec;
    let aliases = spec.aliases.iter().map(|alias| {
        let base = vip::base_name(namespace.name.as_str(), &alias.name);
        json!({ "name": alias.name, "port": alias.port, "address": namespace.addresses.get(base) })
    });
    let count = |state| service.endpoints.iter().filter(|endpoint| endpoint.verdict.state == state).count();
    let endpoints = service.endpoints.iter().map(describe_endpoint);
    json!({
        "name": spec.key.name.as_str(),
        "namespace": spec.key.namespace.as_str(),
        "protocol": spec.protocol.as_str(),
        "aliases": aliases.collect::<Vec<_>>(),
        "requestTimeoutMs": spec.knobs.request_timeout.map(milliseconds),
        "idleTimeoutMs": spec.knobs.idle_timeout.map(milliseconds),
        "retryAttempts": spec.knobs.retry_attempts,
        "readiness": spec.readiness.as_str(),
        "createdAt": time(spec.created_at),
        "origin": &*spec.origin,
        "subsets": spec.subsets.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "shift": spec.shift.as_ref().map(|shift| describe_shift(shift)),
        "counts": {
            "healthy": count(Rotation::Healthy),
            "draining": count(Rotation::Draining),
            "unhealthy": count(Rotation::Unhealthy),
            "absent": count(Rotation::Absent),
        },
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}
