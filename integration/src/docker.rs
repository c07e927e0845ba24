//! An estate in containers: tasks as ECS runs them in network mode `awsvpc`, on a Docker network.
//!
//! Each task is a network namespace with an address of its own, in which an application and a stock Envoy run as its task
//! definition says. The loopback estate of [`crate::estate`] is the quick one; this one has real addresses, real kernels' resets
//! and real ends. Invariant: everything that it makes in Docker has [`LABEL`], and what has that label is removed before the
//! next estate begins.

pub mod agent;
pub mod arrivals;
pub mod caller;
pub mod definition;
pub mod engine;
pub mod estate;
pub mod image;
mod life;
pub mod metadata;
pub mod ministack;
pub mod network;
pub mod server;
pub mod tally;

/// The label of everything that an estate makes.
pub const LABEL: &str = "legation.estate";
/// The label of a container that names its task, by ARN.
pub const TASK: &str = "legation.estate.task";
/// The label of a container that names it in its task definition.
pub const CONTAINER: &str = "legation.estate.container";
