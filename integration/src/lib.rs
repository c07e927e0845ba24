//! Legation against the real thing: real Envoy, and an endpoint that answers like AWS.
//!
//! This crate holds what integration tests, the demo and the benchmarks stand on. It is not part of the
//! product. Invariant: nothing here talks to AWS; every address it uses is on loopback.

pub mod aws;
pub mod estate;
pub mod world;
