//! One ADS stream, delta or state-of-the-world, from a client that is no Envoy.
//!
//! It moves messages and keeps no state but what the protocol wants echoed. Invariant: a message of a type or
//! with a name that nobody asked about is an error, not something to skip.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::protobuf::{Any, Struct, Value, value};
use envoy_types::pb::google::rpc::Status as Detail;
use prost::Message;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

const LONGEST: usize = 64 << 20;

/// The types, in the order in which they refer to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Cluster,
    Endpoint,
    Listener,
    Route,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Cluster, Self::Endpoint, Self::Listener, Self::Route];

    fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    fn of(type_url: &str) -> Result<Self, Status> {
        let found = Self::ALL.into_iter().find(|kind| kind.type_url() == type_url);
        found.ok_or_else(|| Status::internal(format!("a strange type {type_url}")))
    }
}

/// Which of the two methods of ADS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Method {
    Delta,
    Sotw,
}

/// One resource as it came.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) name: String,
    /// Of its bytes.
    pub(crate) content: u64,
    /// Delta only.
    pub(crate) version: String,
    /// The names that it refers to: assignments of a cluster, routes of a listener.
    pub(crate) refers: BTreeSet<String>,
}

/// One response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) kind: Kind,
    pub(crate) nonce: String,
    version: String,
    pub(crate) resources: Vec<Received>,
    pub(crate) removed: Vec<String>,
}

enum Ends {
    Delta(mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>),
    Sotw(mpsc::Sender<DiscoveryRequest>, Streaming<DiscoveryResponse>),
}

/// An open stream.
pub(crate) struct Wire {
    ends: Ends,
    node: Option<Node>,
    names: BTreeMap<Kind, BTreeSet<String>>,
    /// State of the world: the last nonce, and the last version that was accepted.
    last: BTreeMap<Kind, (String, String)>,
}

fn node(id: &str, namespace: &str) -> Node {
    let text = Value { kind: Some(value::Kind::StringValue(namespace.to_owned())) };
    let fields = [("namespace".to_owned(), text)].into_iter().collect();
    Node { id: id.to_owned(), metadata: Some(Struct { fields }), ..Node::default() }
}

fn gone<T>(_: T) -> Status {
    Status::aborted("the stream is closed")
}

impl Wire {
    pub(crate) async fn open(
        server: SocketAddr,
        method: Method,
        id: &str,
        namespace: &str,
    ) -> Result<Self, Status> {
        let connected = AggregatedDiscoveryServiceClient::connect(format!("http://{server}")).await;
        let client = connected.map_err(|error| Status::unavailable(format!("connecting: {error:?}")))?;
        let mut client = client.max_decoding_message_size(LONGEST);
        let ends = match method {
            Method::Delta => {
                let (requests, outbox) = mpsc::channel(256);
                let responses = client.delta_aggregated_resources(stream(outbox)).await?.into_inner();
                Ends::Delta(requests, responses)
            }
            Method::Sotw => {
                let (requests, outbox) = mpsc::channel(256);
                let responses = client.stream_aggregated_resources(stream(outbox)).await?.into_inner();
                Ends::Sotw(requests, responses)
            }
        };
        Ok(Self { ends, node: Some(node(id, namespace)), names: BTreeMap::new(), last: BTreeMap::new() })
    }

    /// The first request of a type: for everything if no name is given. `held` is what is held already.
    pub(crate) async fn begin(
        &mut self,
        kind: Kind,
        names: &BTreeSet<String>,
        held: HashMap<String, String>,
    ) -> Result<(), Status> {
        self.names.insert(kind, names.clone());
        let type_url = kind.type_url().to_owned();
        let node = self.node.take();
        match &self.ends {
            Ends::Delta(requests, _) => {
                let request = DeltaDiscoveryRequest {
                    node,
                    type_url,
                    resource_names_subscribe: names.iter().cloned().collect(),
                    initial_resource_versions: held,
                    ..DeltaDiscoveryRequest::default()
                };
                requests.send(request).await.map_err(gone)
            }
            Ends::Sotw(requests, _) => {
                let resource_names = names.iter().cloned().collect();
                let request =
                    DiscoveryRequest { node, type_url, resource_names, ..DiscoveryRequest::default() };
                requests.send(request).await.map_err(gone)
            }
        }
    }

    /// Whether a type was asked for.
    pub(crate) fn has_begun(&self, kind: Kind) -> bool {
        self.names.contains_key(&kind)
    }

    /// Asks for exactly these names from now on.
    pub(crate) async fn subscribe(&mut self, kind: Kind, names: &BTreeSet<String>) -> Result<(), Status> {
        let before = self.names.insert(kind, names.clone()).unwrap_or_default();
        if before == *names {
            return Ok(());
        }
        let type_url = kind.type_url().to_owned();
        match &self.ends {
            Ends::Delta(requests, _) => {
                let request = DeltaDiscoveryRequest {
                    type_url,
                    resource_names_subscribe: names.difference(&before).cloned().collect(),
                    resource_names_unsubscribe: before.difference(names).cloned().collect(),
                    ..DeltaDiscoveryRequest::default()
                };
                requests.send(request).await.map_err(gone)
            }
            Ends::Sotw(..) => self.repeat(kind, None).await,
        }
    }

    /// Accepts a response, or refuses it.
    pub(crate) async fn answer(&mut self, response: &Response, refuse: bool) -> Result<(), Status> {
        let detail =
            refuse.then(|| Detail { code: 3, message: "refused at random".to_owned(), ..Detail::default() });
        match &self.ends {
            Ends::Delta(requests, _) => {
                let request = DeltaDiscoveryRequest {
                    type_url: response.kind.type_url().to_owned(),
                    response_nonce: response.nonce.clone(),
                    error_detail: detail,
                    ..DeltaDiscoveryRequest::default()
                };
                requests.send(request).await.map_err(gone)
            }
            Ends::Sotw(..) => {
                let last = self.last.entry(response.kind).or_default();
                last.0.clone_from(&response.nonce);
                if !refuse {
                    last.1.clone_from(&response.version);
                }
                self.repeat(response.kind, detail).await
            }
        }
    }

    /// State of the world: every request says everything.
    async fn repeat(&self, kind: Kind, error_detail: Option<Detail>) -> Result<(), Status> {
        let Ends::Sotw(requests, _) = &self.ends else { return Ok(()) };
        let (response_nonce, version_info) = self.last.get(&kind).cloned().unwrap_or_default();
        let request = DiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            resource_names: self.names.get(&kind).into_iter().flatten().cloned().collect(),
            response_nonce,
            version_info,
            error_detail,
            ..DiscoveryRequest::default()
        };
        requests.send(request).await.map_err(gone)
    }

    /// The next response.
    pub(crate) async fn next(&mut self) -> Result<Response, Status> {
        let ended = || Status::aborted("the server ended the stream");
        match &mut self.ends {
            Ends::Delta(_, responses) => {
                let response = responses.message().await?.ok_or_else(ended)?;
                let kind = Kind::of(&response.type_url)?;
                let resources = response.resources.into_iter().map(|resource| {
                    let body = resource.resource.ok_or_else(|| Status::internal("no body"))?;
                    let inner = received(kind, &body, resource.version)?;
                    if inner.name != resource.name {
                        return Err(Status::internal(format!("{} in {}", inner.name, resource.name)));
                    }
                    Ok(inner)
                });
                let resources = resources.collect::<Result<_, Status>>()?;
                let (nonce, removed) = (response.nonce, response.removed_resources);
                Ok(Response { kind, nonce, version: String::new(), resources, removed })
            }
            Ends::Sotw(_, responses) => {
                let response = responses.message().await?.ok_or_else(ended)?;
                let kind = Kind::of(&response.type_url)?;
                let bodies = response.resources.iter();
                let resources = bodies.map(|body| received(kind, body, String::new()));
                let resources = resources.collect::<Result<_, Status>>()?;
                let (nonce, version) = (response.nonce, response.version_info);
                Ok(Response { kind, nonce, version, resources, removed: Vec::new() })
            }
        }
    }
}

fn stream<T: Send + 'static>(outbox: mpsc::Receiver<T>) -> impl futures_util::Stream<Item = T> + Send {
    futures_util::stream::unfold(outbox, |mut outbox| async move {
        outbox.recv().await.map(|request| (request, outbox))
    })
}

fn decode<T: Message + Default>(body: &Any) -> Result<T, Status> {
    T::decode(body.value.as_slice()).map_err(|error| Status::internal(error.to_string()))
}

fn received(kind: Kind, body: &Any, version: String) -> Result<Received, Status> {
    if body.type_url != kind.type_url() {
        return Err(Status::internal(format!("{} among {kind:?}", body.type_url)));
    }
    let mut refers = BTreeSet::new();
    let name = match kind {
        Kind::Cluster => {
            let cluster: Cluster = decode(body)?;
            if let Some(eds) = cluster.eds_cluster_config {
                let shared = Some(eds.service_name).filter(|name| !name.is_empty());
                refers.insert(shared.unwrap_or_else(|| cluster.name.clone()));
            }
            cluster.name
        }
        Kind::Endpoint => decode::<ClusterLoadAssignment>(body)?.cluster_name,
        Kind::Listener => {
            let listener: Listener = decode(body)?;
            let filters = listener.filter_chains.iter().flat_map(|chain| &chain.filters);
            for config in filters.filter_map(|filter| filter.config_type.as_ref()) {
                if let filter::ConfigType::TypedConfig(config) = config
                    && config.type_url.ends_with("HttpConnectionManager")
                    && let Some(RouteSpecifier::Rds(rds)) =
                        decode::<HttpConnectionManager>(config)?.route_specifier
                {
                    refers.insert(rds.route_config_name);
                }
            }
            listener.name
        }
        Kind::Route => decode::<RouteConfiguration>(body)?.name,
    };
    let mut content = DefaultHasher::new();
    body.value.hash(&mut content);
    Ok(Received { name, content: content.finish(), version, refers })
}
