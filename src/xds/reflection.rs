//! gRPC reflection by Envoy's own descriptors, so that tools show what is inside a resource: our slim messages
//! would only say "bytes".
//!
//! It is not a list of what Envoy knows: only the named services are told.
//!
//! Invariant: made when it is first asked for, because it takes megabytes.

use std::sync::OnceLock;

use http::{Request, Response};
use tonic::body::Body;
use tonic::service::Routes;
use tonic_reflection::server::Builder;
use tower::ServiceExt;
use tracing::error;

/// The descriptors of everything that Envoy's configuration speaks: megabytes, so they are built in once.
pub static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/envoy-types.bin"));

/// Whether a path belongs to reflection, in its current or its former version.
pub fn concerns(path: &str) -> bool {
    path.starts_with("/grpc.reflection.")
}

/// Reflection over some services.
#[derive(Debug)]
pub struct Reflection {
    services: &'static [&'static str],
    routes: OnceLock<Routes>,
}

impl Reflection {
    /// Nothing is made yet.
    pub fn new(services: &'static [&'static str]) -> Self {
        Self { services, routes: OnceLock::new() }
    }

    /// The answer to a request for reflection.
    pub fn answer<B>(&self, request: Request<B>) -> impl Future<Output = Response<Body>> + Send + use<B>
    where
        B: http_body::Body<Data = bytes::Bytes, Error: Into<tonic::codegen::StdError>> + Send + 'static,
    {
        let routes = self.routes.get_or_init(|| routes(self.services)).clone();
        async move { routes.oneshot(request.map(Body::new)).await.unwrap_or_else(|never| match never {}) }
    }
}

fn routes(services: &[&str]) -> Routes {
    let builder = || {
        let builder = Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        services.iter().fold(builder, |builder, service| builder.with_service_name(*service))
    };
    match (builder().build_v1(), builder().build_v1alpha()) {
        (Ok(current), Ok(former)) => Routes::new(current).add_service(former).prepare(),
        (current, former) => {
            let error = current.err().or_else(|| former.err());
            error!(?error, "the descriptors can't be read: there is no reflection");
            Routes::default()
        }
    }
}
