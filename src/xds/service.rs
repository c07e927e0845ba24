//! What is offered on the xDS port: discovery by path, and health and reflection beside it.
//!
//! It is no framework: the discovery services share one shape and differ in two words.
//!
//! Invariant: a stream that is refused gets its status before any response, and one that is admitted its
//! headers before its first request (`xds.md`, items 4 and 11).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body as TonicBody;

use super::admission::{Permit, Refused};
use super::connection::{Body, Link};
use super::server::Running;
use super::session::{Protocol, Terms};
use super::stream::{Opening, Requests, refused, run};
use crate::snapshot::ResourceType;

/// The method of a path: which protocol, for which type.
fn method(path: &str) -> Option<(Protocol, Option<ResourceType>)> {
    let (service, method) = path.strip_prefix("/envoy.service.")?.split_once('/')?;
    let (only, noun) = match service {
        "discovery.v3.AggregatedDiscoveryService" => (None, "AggregatedResources"),
        "cluster.v3.ClusterDiscoveryService" => (Some(ResourceType::Cluster), "Clusters"),
        "endpoint.v3.EndpointDiscoveryService" => (Some(ResourceType::Endpoint), "Endpoints"),
        "secret.v3.SecretDiscoveryService" => (Some(ResourceType::Secret), "Secrets"),
        "listener.v3.ListenerDiscoveryService" => (Some(ResourceType::Listener), "Listeners"),
        "route.v3.RouteDiscoveryService" => (Some(ResourceType::Route), "Routes"),
        _ => return None,
    };
    let protocol = match method.strip_suffix(noun)? {
        "Stream" => Protocol::StateOfTheWorld,
        "Delta" => Protocol::Delta,
        _ => return None,
    };
    Some((protocol, only))
}

/// The services of one connection.
#[derive(Clone, Debug)]
pub(super) struct Service {
    server: Arc<Running>,
    link: Arc<Link>,
}

impl Service {
    pub(super) fn new(server: Arc<Running>, link: Arc<Link>) -> Self {
        Self { server, link }
    }

    fn open(&self, protocol: Protocol, only: Option<ResourceType>, body: Incoming) -> Response<TonicBody> {
        let permit = match self.admit() {
            Ok(permit) => permit,
            Err((why, status)) => return refused(&self.server.metrics, why, status).into_http(),
        };
        let requests = Requests::new(protocol, body);
        let opening = Opening {
            server: Arc::clone(&self.server),
            link: Arc::clone(&self.link),
            terms: Terms { protocol, only, max_names: self.server.limits.max_names },
            permit,
            opened: Instant::now(),
        };
        let body = TonicBody::new(Body::new(Arc::clone(&self.link), run(opening, requests)));
        let mut response = Response::new(body);
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(header::CONTENT_TYPE, grpc);
        response
    }

    fn admit(&self) -> Result<Permit, (Refused, Status)> {
        if self.server.stopping.is_cancelled() {
            return Err((Refused::Stopping, Status::unavailable("shutting down")));
        }
        if !self.server.store.is_synced() {
            // Never an empty answer: it would read as "delete everything".
            let message = "waiting for the first complete reading of every source; see /readyz?verbose";
            return Err((Refused::NotSynced, Status::unavailable(message)));
        }
        self.server.admission.enter()
    }
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<TonicBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        match method(request.uri().path()) {
            Some((protocol, only)) => {
                let response = self.open(protocol, only, request.into_body());
                Box::pin(std::future::ready(Ok(response)))
            }
            None => {
                let answer = self.server.health.answer(request, self.link.peer);
                Box::pin(async { Ok(answer.await) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_those_of_envoy() {
        use Protocol::{Delta, StateOfTheWorld};
        use ResourceType::{Cluster, Endpoint, Listener, Route, Secret};
        for (path, expected) in [
            (
                "discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
                Some((StateOfTheWorld, None)),
            ),
            ("discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources", Some((Delta, None))),
            ("cluster.v3.ClusterDiscoveryService/StreamClusters", Some((StateOfTheWorld, Some(Cluster)))),
            ("endpoint.v3.EndpointDiscoveryService/DeltaEndpoints", Some((Delta, Some(Endpoint)))),
            ("secret.v3.SecretDiscoveryService/DeltaSecrets", Some((Delta, Some(Secret)))),
            ("listener.v3.ListenerDiscoveryService/DeltaListeners", Some((Delta, Some(Listener)))),
            ("route.v3.RouteDiscoveryService/StreamRoutes", Some((StateOfTheWorld, Some(Route)))),
            ("route.v3.RouteDiscoveryService/FetchRoutes", None),
            ("route.v3.RouteDiscoveryService/StreamClusters", None),
            ("status.v3.ClientStatusDiscoveryService/StreamClientStatus", None),
        ] {
            assert_eq!(method(&format!("/envoy.service.{path}")), expected, "{path}");
        }
    }
}
