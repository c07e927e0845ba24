//! The whole line, with stock Envoy at its end.
//!
//! Each test has the loopback for itself. `make line` runs them; they need what `integration/setup.sh` gets.

#![allow(missing_docs, reason = "tests")]

mod accounts;
mod admission;
mod ads;
mod changes;
mod cloudmap;
mod crowd;
mod demo;
mod faults;
mod harness;
mod iam;
mod modes;
mod names;
mod outage;
mod registry;
mod restart;
mod suspicion;
mod tls;
mod tools;
mod wire;
mod withdrawals;
