//! A response, in the words of both protocols at once.
//!
//! It is not judged here. Invariant: what was sent is kept as it was; nothing is decoded away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use anyhow::Context;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier};
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use super::{Kind, Protocol};

/// One response.
#[derive(Debug, Clone)]
pub struct Response {
    /// In which protocol.
    pub protocol: Protocol,
    /// Of which type.
    pub kind: Kind,
    /// To be answered with.
    pub nonce: String,
    /// Of the whole (state of the world), or of the server's state, for people (delta).
    pub version: String,
    /// By name.
    pub resources: BTreeMap<String, Item>,
    /// Gone (delta).
    pub removed: BTreeSet<String>,
    /// Names with an error, and its code.
    pub errors: BTreeMap<String, i32>,
    /// How long the message is.
    pub bytes: usize,
    /// When it was read.
    pub at: Instant,
}

impl Response {
    /// The names of its resources.
    pub fn names(&self) -> Vec<&str> {
        self.resources.keys().map(String::as_str).collect()
    }

    /// Whether it says anything about a name.
    pub fn mentions(&self, name: &str) -> bool {
        self.resources.contains_key(name) || self.removed.contains(name) || self.errors.contains_key(name)
    }

    /// For people.
    pub fn told(&self) -> String {
        let Self { kind, nonce, version, removed, errors, .. } = self;
        let mut names = self.names().join(" ");
        if names.len() > 600 {
            names.truncate((0..=600).rev().find(|end| names.is_char_boundary(*end)).unwrap_or_default());
            names.push('…');
        }
        let (count, gone) = (self.resources.len(), removed.iter().take(20).collect::<Vec<_>>());
        format!("{kind} #{nonce} v{version} {count} [{names}] removed {gone:?} errors {errors:?}")
    }
}

/// One resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Its own version; empty in state of the world, which has none.
    pub version: String,
    /// Its content.
    pub any: Any,
}

impl Item {
    fn decode<M: Message + Default>(&self) -> anyhow::Result<M> {
        M::decode(&*self.any.value).with_context(|| format!("decoding a {}", self.any.type_url))
    }

    /// The name inside.
    pub fn inner_name(&self) -> anyhow::Result<String> {
        match Kind::of(&self.any.type_url) {
            Some(Kind::Cluster) => self.decode::<Cluster>().map(|it| it.name),
            Some(Kind::Endpoint) => self.decode::<ClusterLoadAssignment>().map(|it| it.cluster_name),
            Some(Kind::Secret) => self.decode::<Secret>().map(|it| it.name),
            Some(Kind::Listener) => self.decode::<Listener>().map(|it| it.name),
            Some(Kind::Route) => self.decode::<RouteConfiguration>().map(|it| it.name),
            None => anyhow::bail!("a resource of the strange type {:?}", self.any.type_url),
        }
    }

    /// As a cluster.
    pub fn cluster(&self) -> anyhow::Result<Cluster> {
        self.decode()
    }

    /// As a load assignment.
    pub fn assignment(&self) -> anyhow::Result<ClusterLoadAssignment> {
        self.decode()
    }

    /// As a listener.
    pub fn listener(&self) -> anyhow::Result<Listener> {
        self.decode()
    }

    /// As a route configuration.
    pub fn routes(&self) -> anyhow::Result<RouteConfiguration> {
        self.decode()
    }

    /// The addresses of a load assignment, as `10.0.0.1:80`.
    pub fn hosts(&self) -> anyhow::Result<Vec<String>> {
        let assignment = self.assignment()?;
        let endpoints = assignment.endpoints.iter().flat_map(|locality| &locality.lb_endpoints);
        let hosts = endpoints.map(|endpoint| {
            let Some(HostIdentifier::Endpoint(host)) = &endpoint.host_identifier else { return None };
            let address = host.address.as_ref()?.address.as_ref()?;
            let envoy_types::pb::envoy::config::core::v3::address::Address::SocketAddress(socket) = address
            else {
                return None;
            };
            use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier::PortValue;
            let Some(PortValue(port)) = socket.port_specifier else { return None };
            Some(format!("{}:{port}", socket.address))
        });
        hosts.collect::<Option<_>>().context("a host without an address")
    }

    /// Whether there is nothing in it but a name: no hosts, no virtual hosts.
    pub fn is_empty(&self) -> anyhow::Result<bool> {
        Ok(match Kind::of(&self.any.type_url) {
            Some(Kind::Endpoint) => self.assignment()?.endpoints.is_empty(),
            Some(Kind::Route) => self.routes()?.virtual_hosts.is_empty(),
            _ => false,
        })
    }

    /// The names that an Envoy asks for because of it: load assignments of a cluster, routes of a listener.
    pub fn wants(&self) -> anyhow::Result<Vec<(Kind, String)>> {
        match Kind::of(&self.any.type_url) {
            Some(Kind::Cluster) => {
                let cluster = self.cluster()?;
                let name = cluster.eds_cluster_config.map(|eds| match eds.service_name {
                    name if name.is_empty() => cluster.name,
                    name => name,
                });
                Ok(name.into_iter().map(|name| (Kind::Endpoint, name)).collect())
            }
            Some(Kind::Listener) => routes_of(&self.listener()?),
            _ => Ok(Vec::new()),
        }
    }
}

fn routes_of(listener: &Listener) -> anyhow::Result<Vec<(Kind, String)>> {
    const MANAGER: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let filters = listener.filter_chains.iter().flat_map(|chain| &chain.filters);
    let typed = filters.filter_map(|filter| match &filter.config_type {
        Some(filter::ConfigType::TypedConfig(any)) => Some(any),
        _ => None,
    });
    let api = listener.api_listener.iter().filter_map(|api| api.api_listener.as_ref());
    let managers = typed.chain(api).filter(|any| any.type_url == MANAGER);
    let mut names = Vec::new();
    for any in managers {
        let manager = HttpConnectionManager::decode(&*any.value).context("decoding a connection manager")?;
        if let Some(RouteSpecifier::Rds(rds)) = manager.route_specifier {
            names.push((Kind::Route, rds.route_config_name));
        }
    }
    Ok(names)
}
