//! How clients treat a service: every number that can be changed, in layers of which the higher wins value by value.
//!
//! It knows neither defaults nor Envoy: the profile's numbers are `translate`'s. Invariant: what a layer doesn't say, the
//! lower one says.

use std::sync::Arc;
use std::time::Duration;

/// Defines a layer: a structure of optional values.
macro_rules! layer {
    ($(#[$doc:meta])* pub struct $name:ident { $($(#[$about:meta])* $field:ident: $type:ty,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug, Default)]
        pub struct $name { $($(#[$about])* pub $field: Option<$type>,)+ }

        impl $name {
            /// This layer over a lower one.
            #[must_use]
            pub fn over(self, lower: &Self) -> Self {
                Self { $($field: self.$field.or_else(|| lower.$field.clone()),)+ }
            }
        }
    };
}

layer! {
    /// How clients treat one service. `None` means the lower layer's word, and at last the profile's.
    pub struct Knobs {
        /// The whole request, retries included; zero is none. Not for TCP.
        request_timeout: Duration,
        /// One attempt; zero is none.
        backend_request_timeout: Duration,
        /// A silent connection; zero is none.
        idle_timeout: Duration,
        /// A silent stream; zero is none.
        stream_idle_timeout: Duration,
        /// Opening a connection.
        connect_timeout: Duration,
        /// Retries after the first try, 0..=10.
        retry_attempts: u32,
        /// What is retried, in Envoy's words and order.
        retry_triggers: Arc<[Arc<str>]>,
        /// Answers that are retried.
        retry_codes: Arc<[u32]>,
        /// The first pause between tries; it grows to ten times this.
        retry_backoff: Duration,
        /// Whether a retry goes to another endpoint where there is one.
        retry_other_host: bool,
        /// Whether POST and PATCH are retried only when nothing was sent.
        retry_idempotent_only: bool,
        /// How many retries may be under way, as a share of what is.
        retry_budget: RetryBudget,
        /// Errors in a row that eject an endpoint; zero is never.
        consecutive_5xx: u32,
        /// How often ejections are looked at.
        outlier_interval: Duration,
        /// The first ejection; it grows with each one.
        base_ejection: Duration,
        /// The longest ejection.
        max_ejection: Duration,
        /// The share of a service that may be ejected at once.
        max_ejection_percent: u32,
        /// Which endpoint is next.
        balancing: Balancing,
        /// How long a new endpoint gets less.
        slow_start: Duration,
        /// Below this share of healthy endpoints all are used; zero is never.
        panic_percent: u32,
        /// Whether endpoints of the caller's own zone come first.
        zone_aware: bool,
        /// With fewer endpoints than this zones make no difference.
        zone_min_endpoints: u32,
        /// Over how many zones it is spread, as its source describes it; no policy says this.
        zones: u32,
        /// What sidecars ask its endpoints by themselves.
        health_check: HealthCheck,
        /// After how many requests a connection is closed.
        max_requests_per_connection: u32,
        /// After what time it is; zero is never.
        max_connection_duration: Duration,
        /// How connections are kept alive.
        tcp_keepalive: TcpKeepalive,
        /// Whether names of HTTP/1.1 headers keep their capitals.
        preserve_header_case: bool,
        /// How many streams one HTTP/2 connection may have.
        max_concurrent_streams: u32,
        /// How long all headers of a request may be together, in KiB.
        max_header_kilobytes: u32,
        /// How much a sidecar sends.
        outbound_limit: RateLimit,
        /// On which port its own sidecars take its requests in; zero if they do not.
        inbound_port: u16,
        /// How much a sidecar lets in to its own application.
        inbound_limit: RateLimit,
        /// How many connections a sidecar may have.
        max_connections: u32,
        /// How many requests may wait for one.
        max_pending_requests: u32,
        /// How many requests may be under way.
        max_requests: u32,
        /// How many retries may be under way.
        max_retries: u32,
        /// Whether each request is logged.
        access_log: bool,
        /// Whether the log has the query of a path.
        access_log_query: bool,
        /// Which share of requests is logged.
        access_log_percent: u32,
        /// How long a task that runs is waited for until its health check passes.
        max_wait: Duration,
        /// Whether a task that is told to stop stays known, without new requests, until it has stopped.
        drains: bool,
        /// Whether a task that has said nothing by then is waited for still.
        holds_the_silent: bool,
    }
}

/// Which endpoint is next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Balancing {
    /// One after the other.
    RoundRobin,
    /// Of two at random the one with fewer requests under way.
    LeastRequest,
    /// Any.
    Random,
    /// The same for the same value of this header, on a ring.
    RingHash(Arc<str>),
    /// The same for the same value of this header, by a table.
    Maglev(Arc<str>),
}

/// How many retries may be under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryBudget {
    /// This share of all requests under way, 0..=100.
    pub percent: u32,
    /// And always this many.
    pub min_parallel: u32,
}

/// What sidecars ask endpoints by themselves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthCheck {
    /// What they ask; `None` is what suits what is spoken there.
    pub probe: Option<Probe>,
    /// How often.
    pub interval: Duration,
    /// How long the answer may take.
    pub timeout: Duration,
    /// So many failures in a row take an endpoint out.
    pub unhealthy_threshold: u32,
    /// So many successes bring it back.
    pub healthy_threshold: u32,
}

/// What an endpoint is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Probe {
    /// To answer this path with 200.
    Http(Arc<str>),
    /// To say by gRPC's health service that this service of its own, or all of it, serves.
    Grpc(Arc<str>),
    /// To accept a connection.
    Tcp,
}

/// How connections are kept alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpKeepalive {
    /// How long one is silent before it is asked, in whole seconds.
    pub time: Duration,
    /// How long it has to answer before it is asked again, in whole seconds.
    pub interval: Duration,
    /// How often it is asked.
    pub probes: u32,
}

/// A bucket of tokens, one for each request, as each sidecar has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RateLimit {
    /// So many come,
    pub requests: u32,
    /// in this time.
    pub per: Duration,
    /// So many it holds at most.
    pub burst: u32,
}
