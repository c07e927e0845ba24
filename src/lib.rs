//! Legation.

pub mod admin;
pub mod app;
pub mod bootstrap;
pub mod changes;
pub mod cli;
pub mod config;
pub mod diagnostic;
pub mod mesh;
pub mod model;
pub mod pipeline;
pub mod shutdown;
pub mod snapshot;
pub mod source;
pub mod store;
pub mod telemetry;
pub mod translate;
pub mod vip;
pub mod xds;
