//! The generated clients of Envoy's own definitions, behind one face.
//!
//! It knows no protocol beyond method names. Invariant: a message is read only when it is asked for, so that a
//! client that reads nothing holds the server up as far as HTTP/2 lets it.

use std::pin::Pin;

use envoy_types::pb::envoy::service::cluster::v3::cluster_discovery_service_client::ClusterDiscoveryServiceClient as Cds;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient as Ads;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::endpoint::v3::endpoint_discovery_service_client::EndpointDiscoveryServiceClient as Eds;
use envoy_types::pb::envoy::service::listener::v3::listener_discovery_service_client::ListenerDiscoveryServiceClient as Lds;
use envoy_types::pb::envoy::service::route::v3::route_discovery_service_client::RouteDiscoveryServiceClient as Rds;
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient as Sds;
use futures_util::Stream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::rules::Rules;
use super::{Ask, Kind, Protocol, Response};

/// A stream of either protocol.
pub(super) enum Wire {
    Delta(Option<UnboundedSender<DeltaDiscoveryRequest>>, Box<Streaming<DeltaDiscoveryResponse>>),
    Sotw(Option<UnboundedSender<DiscoveryRequest>>, Box<Streaming<DiscoveryResponse>>),
}

/// What came.
pub(super) enum Came {
    Response(anyhow::Result<Response>),
    End(Status),
}

fn outgoing<T: Send + 'static>(queue: UnboundedReceiver<T>) -> Pin<Box<dyn Stream<Item = T> + Send>> {
    Box::pin(futures_util::stream::unfold(queue, |mut queue| async move {
        queue.recv().await.map(|request| (request, queue))
    }))
}

macro_rules! call {
    ($client:ident, $method:ident, $channel:expr, $longest:expr) => {{
        let (requests, queue) = unbounded_channel();
        let mut client = $client::new($channel).max_decoding_message_size($longest);
        (Some(requests), Box::new(client.$method(outgoing(queue)).await?.into_inner()))
    }};
}

impl Wire {
    /// Opens a stream; returns when the response's headers are there.
    pub(super) async fn open(
        channel: Channel,
        protocol: Protocol,
        only: Option<Kind>,
        longest: usize,
    ) -> Result<Self, Status> {
        if protocol == Protocol::Delta {
            let (requests, responses) = match only {
                None => call!(Ads, delta_aggregated_resources, channel, longest),
                Some(Kind::Cluster) => call!(Cds, delta_clusters, channel, longest),
                Some(Kind::Endpoint) => call!(Eds, delta_endpoints, channel, longest),
                Some(Kind::Secret) => call!(Sds, delta_secrets, channel, longest),
                Some(Kind::Listener) => call!(Lds, delta_listeners, channel, longest),
                Some(Kind::Route) => call!(Rds, delta_routes, channel, longest),
            };
            return Ok(Self::Delta(requests, responses));
        }
        let (requests, responses) = match only {
            None => call!(Ads, stream_aggregated_resources, channel, longest),
            Some(Kind::Cluster) => call!(Cds, stream_clusters, channel, longest),
            Some(Kind::Endpoint) => call!(Eds, stream_endpoints, channel, longest),
            Some(Kind::Secret) => call!(Sds, stream_secrets, channel, longest),
            Some(Kind::Listener) => call!(Lds, stream_listeners, channel, longest),
            Some(Kind::Route) => call!(Rds, stream_routes, channel, longest),
        };
        Ok(Self::Sotw(requests, responses))
    }

    /// Sends a request. One that nobody reads any more is lost; the stream's end says why.
    pub(super) fn send(&self, ask: Ask) {
        let _ = match self {
            Self::Delta(requests, _) => requests.as_ref().is_some_and(|to| to.send(ask.delta()).is_ok()),
            Self::Sotw(requests, _) => requests.as_ref().is_some_and(|to| to.send(ask.sotw()).is_ok()),
        };
    }

    /// Says that no more requests follow.
    pub(super) fn half_close(&mut self) {
        match self {
            Self::Delta(requests, _) => drop(requests.take()),
            Self::Sotw(requests, _) => drop(requests.take()),
        }
    }

    /// Reads what comes next.
    pub(super) async fn next(&mut self, rules: &mut Rules) -> Came {
        let came = match self {
            Self::Delta(_, responses) => responses.message().await.map(|it| it.map(|it| rules.delta(it))),
            Self::Sotw(_, responses) => responses.message().await.map(|it| it.map(|it| rules.sotw(it))),
        };
        match came {
            Ok(Some(response)) => Came::Response(response),
            Ok(None) => Came::End(Status::ok("")),
            Err(status) => Came::End(status),
        }
    }
}
