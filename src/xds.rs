//! The Aggregated Discovery Service: snapshots out, to each sidecar what it asked for.
//!
//! It knows nothing of AWS, services or policy: a snapshot's names and bytes are all it sees.
//!
//! Invariant: a stream ends only by its client, by shutdown or by a violation of the protocol; an idle or
//! slow one delays nobody.

pub mod clients;
pub mod session;
mod stream;
mod subscription;

pub use stream::{Server, listen, serve};

/// The slim discovery messages, compiled from `proto/xds/discovery.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
pub mod proto {
    tonic::include_proto!("envoy.service.discovery.v3");
}
