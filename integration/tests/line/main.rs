//! The whole line, with stock Envoy at its end.
//!
//! Each test has a loopback for itself. `make line` runs them; they need what `integration/setup.sh` gets.

#![allow(missing_docs, reason = "tests")]

mod accounts;
mod admission;
mod ads;
mod answers;
mod changes;
mod cloudmap;
mod crowd;
mod demo;
mod faults;
mod harness;
mod iam;
mod modes;
mod moto;
mod names;
mod outage;
mod registry;
mod restart;
mod sidecar;
mod skew;
mod suspicion;
mod throttling;
mod tls;
mod tools;
mod turmoil;
mod wire;
mod withdrawals;
