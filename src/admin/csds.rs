//! The Client Status Discovery Service: what each client holds, for tools that speak Envoy's own words.
//!
//! It is not on the xDS port: whoever asks here sees every client.
//!
//! Invariant: read-only, and what a secret holds is never shown.

use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::Request as AxumRequest;
use axum::routing::any;
use envoy_types::pb::envoy::admin::v3::{ClientResourceStatus, UpdateFailureState};
use envoy_types::pb::envoy::config::core::v3::{Locality, Node};
use envoy_types::pb::envoy::service::status::v3::client_config::GenericXdsConfig;
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_server::{
    ClientStatusDiscoveryService, ClientStatusDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::status::v3::{
    ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{NodeMatcher, StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf::Timestamp;
use futures_util::{Stream, StreamExt};
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use crate::snapshot::ResourceType;
use crate::xds::clients::{Clients, Inspected, TypeStatus};
use crate::xds::reflection::Reflection;
use crate::xds::session::Holding;

/// The service, and reflection for tools that must be told what there is.
pub(super) fn router(clients: Clients) -> axum::Router {
    let service = ClientStatusDiscoveryServiceServer::new(Csds { clients });
    let reflection = Arc::new(Reflection::new(&["envoy.service.status.v3.ClientStatusDiscoveryService"]));
    let reflect = any(move |request: AxumRequest| {
        let reflection = Arc::clone(&reflection);
        async move { reflection.answer(request).await }
    });
    Routes::new(service)
        .into_axum_router()
        .reset_fallback()
        .route("/grpc.reflection.v1.ServerReflection/{*rest}", reflect.clone())
        .route("/grpc.reflection.v1alpha.ServerReflection/{*rest}", reflect)
}

#[derive(Clone, Debug)]
pub(super) struct Csds {
    pub(super) clients: Clients,
}

#[tonic::async_trait]
impl ClientStatusDiscoveryService for Csds {
    type StreamClientStatusStream = Pin<Box<dyn Stream<Item = Result<ClientStatusResponse, Status>> + Send>>;

    async fn stream_client_status(
        &self,
        request: Request<Streaming<ClientStatusRequest>>,
    ) -> Result<Response<Self::StreamClientStatusStream>, Status> {
        let csds = self.clone();
        let answers = request.into_inner().map(move |request| csds.answer(&request?));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        self.answer(request.get_ref()).map(Response::new)
    }
}

impl Csds {
    pub(super) fn answer(&self, request: &ClientStatusRequest) -> Result<ClientStatusResponse, Status> {
        let wanted = request.node_matchers.iter().map(node_pattern).collect::<Result<Vec<_>, _>>()?;
        let matches = |id: &str| wanted.is_empty() || wanted.iter().any(|(it, cased)| fits(it, *cased, id));
        let inspected = self.clients.inspect(|client| matches(&client.node.id));
        let contents = !request.exclude_resource_contents;
        Ok(ClientStatusResponse { config: inspected.iter().map(|it| client_config(it, contents)).collect() })
    }
}

/// The pattern of a matcher's node id, and whether case does not count.
fn node_pattern(matcher: &NodeMatcher) -> Result<(MatchPattern, bool), Status> {
    let unfit =
        || Status::invalid_argument("node_matchers: only node_id, by exact, prefix, suffix or contains");
    if !matcher.node_metadatas.is_empty() {
        return Err(unfit());
    }
    match &matcher.node_id {
        Some(StringMatcher { match_pattern: Some(pattern), ignore_case }) => match pattern {
            MatchPattern::SafeRegex(_) | MatchPattern::Custom(_) => Err(unfit()),
            pattern => Ok((pattern.clone(), *ignore_case)),
        },
        _ => Err(unfit()),
    }
}

fn fits(pattern: &MatchPattern, ignore_case: bool, id: &str) -> bool {
    let same = |text: &str| if ignore_case { text.to_ascii_lowercase() } else { text.to_owned() };
    let id = same(id);
    match pattern {
        MatchPattern::Exact(text) => id == same(text),
        MatchPattern::Prefix(text) => id.starts_with(&same(text)),
        MatchPattern::Suffix(text) => id.ends_with(&same(text)),
        MatchPattern::Contains(text) => id.contains(&same(text)),
        MatchPattern::SafeRegex(_) | MatchPattern::Custom(_) => false,
    }
}

fn client_config(inspected: &Inspected, contents: bool) -> ClientConfig {
    let client = &inspected.client;
    let configs = client.types.iter().flat_map(|(kind, status)| {
        let holdings = inspected.resources.get(kind).into_iter().flatten();
        holdings.map(move |holding| config(*kind, holding, status, contents))
    });
    ClientConfig {
        node: Some(Node {
            id: client.node.id.to_string(),
            cluster: client.node.cluster.clone(),
            locality: Some(Locality { zone: client.node.zone.clone(), ..Default::default() }),
            user_agent_name: client.node.user_agent.clone(),
            ..Default::default()
        }),
        generic_xds_configs: configs.collect(),
        client_scope: client.namespace.to_string(),
        ..Default::default()
    }
}

fn config(kind: ResourceType, holding: &Holding, status: &TypeStatus, contents: bool) -> GenericXdsConfig {
    let (config_status, client_status) = states(holding);
    let held = holding.held.map(|version| version.to_string()).unwrap_or_default();
    let current = holding.served.as_ref().filter(|served| holding.held == Some(served.version));
    let shown = current.filter(|_| contents && kind != ResourceType::Secret);
    GenericXdsConfig {
        type_url: kind.type_url().to_owned(),
        name: holding.name.to_string(),
        version_info: held,
        xds_config: shown.and_then(|resource| resource.any().ok()),
        last_updated: status.acked.map(|(_, at)| timestamp(at)),
        config_status: config_status.into(),
        client_status: client_status.into(),
        error_state: holding.rejected.as_ref().map(|rejection| UpdateFailureState {
            last_update_attempt: status.nack.as_ref().map(|nack| timestamp(nack.at)),
            details: rejection.reason.to_string(),
            version_info: rejection.version.to_string(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// How the server and how the client stand to a resource.
fn states(holding: &Holding) -> (ConfigStatus, ClientResourceStatus) {
    let Some(served) = &holding.served else {
        return match holding.held {
            Some(_) => (ConfigStatus::Stale, ClientResourceStatus::Acked),
            None => (ConfigStatus::NotSent, ClientResourceStatus::DoesNotExist),
        };
    };
    if holding.rejected.as_ref().is_some_and(|rejection| rejection.version == served.version) {
        return (ConfigStatus::Error, ClientResourceStatus::Nacked);
    }
    match holding.held {
        Some(version) if version == served.version && !holding.awaited => {
            (ConfigStatus::Synced, ClientResourceStatus::Acked)
        }
        Some(version) if version == served.version => (ConfigStatus::Stale, ClientResourceStatus::Requested),
        Some(_) => (ConfigStatus::Stale, ClientResourceStatus::Acked),
        None => (ConfigStatus::NotSent, ClientResourceStatus::Requested),
    }
}

fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    }
}
