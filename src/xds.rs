//! The discovery services: snapshots out, to each client what it asked for, by delta and state of the world.
//!
//! It knows nothing of AWS, services or policy: a snapshot's names and bytes are all it sees.
//!
//! Invariant: a stream ends only by its client, its age, shutdown or a violation of the protocol; an idle or
//! slow one delays nobody.

mod admission;
pub mod clients;
mod connection;
mod counts;
mod early;
mod health;
pub mod identity;
pub mod reader;
pub mod reflection;
mod server;
mod service;
pub mod session;
mod stream;
mod subscription;
mod tls;
mod wire;

pub use admission::StreamLimits;
pub use server::{Limits, Server, listen, serve};
pub use tls::{BadTls, Tls, TlsFiles};

/// The slim discovery messages, compiled from `proto/xds/discovery.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
pub mod proto {
    tonic::include_proto!("envoy.service.discovery.v3");
}
