//! What tools expect beside the discovery services: gRPC health and reflection.
//!
//! It is not the admin API: nobody learns here what a sidecar holds.
//!
//! Invariant: healthy only from the first complete reading of every source until shutdown; reflection only for
//! clients on this machine.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::ServiceExt;

use super::reflection::{self, Reflection};

/// Each is healthy with the whole; the last is health itself.
const SERVICES: [&str; 7] = [
    "envoy.service.discovery.v3.AggregatedDiscoveryService",
    "envoy.service.cluster.v3.ClusterDiscoveryService",
    "envoy.service.endpoint.v3.EndpointDiscoveryService",
    "envoy.service.secret.v3.SecretDiscoveryService",
    "envoy.service.listener.v3.ListenerDiscoveryService",
    "envoy.service.route.v3.RouteDiscoveryService",
    "grpc.health.v1.Health",
];

/// Health and reflection. Clones share both.
#[derive(Clone, Debug)]
pub(super) struct Health {
    reporter: HealthReporter,
    health: Routes,
    reflection: Arc<Reflection>,
}

impl Health {
    /// Not healthy yet.
    pub(super) fn new() -> Self {
        let reporter = HealthReporter::new();
        let service = HealthService::from_health_reporter(reporter.clone());
        let health = Routes::new(HealthServer::new(service)).prepare();
        Self { reporter, health, reflection: Arc::new(Reflection::new(&SERVICES)) }
    }

    /// Healthy as soon as anything is confirmed. Never ends.
    pub(super) async fn watch(self, mut confirmed: watch::Receiver<Option<Instant>>) {
        self.say(ServingStatus::NotServing).await;
        if confirmed.wait_for(Option::is_some).await.is_ok() {
            self.say(ServingStatus::Serving).await;
        }
        std::future::pending().await
    }

    /// Not healthy any more.
    pub(super) async fn stop(&self) {
        self.say(ServingStatus::NotServing).await;
    }

    async fn say(&self, status: ServingStatus) {
        for service in SERVICES.into_iter().chain([""]) {
            self.reporter.set_service_status(service, status).await;
        }
    }

    /// The answer to anything that is not discovery.
    pub(super) fn answer(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> impl Future<Output = Response<Body>> + Send + use<> {
        let (server, local) = (self.clone(), peer.ip().to_canonical().is_loopback());
        async move {
            match (reflection::concerns(request.uri().path()), local) {
                (true, true) => server.reflection.answer(request).await,
                (true, false) => {
                    Status::permission_denied("reflection is only for clients on this machine").into_http()
                }
                (false, _) => server.health.oneshot(request).await.unwrap_or_else(|never| match never {}),
            }
        }
    }
}
