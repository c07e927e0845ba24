//! Legation against the real thing: real Envoy, and an endpoint that answers like AWS.
//!
//! This crate holds what integration tests, the demo and the benchmarks stand on. It is not part of the
//! product. Invariant: nothing here talks to AWS; every address it uses is on loopback, or on a Docker network that it made
//! itself (`docker`).

pub mod agreement;
pub mod aws;
pub mod backends;
pub mod cable;
pub mod control_plane;
pub mod docker;
pub mod envoy;
pub mod estate;
pub mod feed;
pub mod http;
pub mod load;
pub mod loopback;
pub mod probe;
pub mod process;
pub mod python;
pub mod scene;
pub mod shop;
pub mod stage;
pub mod vitals;
pub mod wait;
pub mod withdrawal;
pub mod world;
