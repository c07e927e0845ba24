//! The helper beside a stock Envoy: the same binary as the server, copied into containers that have no shell.
//!
//! It is no control plane and asks none: what it knows it is told by the Envoy of its own task, at its admin pages. It needs
//! no credentials, and no other program.
//!
//! Invariant: whatever Envoy does or fails to do, a health check ends in its time, and a command that was asked to end is
//! told so within its bound.

use std::fmt::Display;
use std::io::Write as _;

pub mod drain;
pub mod ending;
pub mod envoy;
pub mod hosts;
pub mod names;
pub mod run;

/// A line for whoever reads the container's log. That nobody reads is no reason to stop.
fn say(message: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "legation sidecar: {message}");
}
