//! xds.

pub mod clients;
