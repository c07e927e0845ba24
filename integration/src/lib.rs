//! Legation against real Envoy and an endpoint that answers like AWS.
pub mod control_plane;
pub mod envoy;
pub mod http;
pub mod load;
pub mod process;
pub mod scene;
pub mod wait;
