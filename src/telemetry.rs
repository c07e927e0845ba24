//! Logs and counters.
//!
//! It is not a place for decisions: whatever is counted here is decided elsewhere.
//!
//! Invariant: no task ids in labels, so the number of series is bounded by services and reasons.

use std::io::IsTerminal;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
pub use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tracing_subscriber::EnvFilter;

/// What is logged unless `RUST_LOG` says otherwise. The SDK of AWS is silent below errors: its warnings dump a
/// whole call for each attempt, and the sources name a failure once, when it begins.
const FILTER: &str = "info,aws_config=error,aws_credential_types=error,aws_runtime=error,\
    aws_sdk_ecs=error,aws_sdk_servicediscovery=error,aws_sdk_sqs=error,aws_sdk_sso=error,aws_sdk_ssooidc=error,\
    aws_sdk_sts=error,aws_sigv4=error,aws_smithy_http_client=error,aws_smithy_runtime=error,\
    aws_smithy_runtime_api=error,aws_smithy_types=error";

/// Labels of a count of responses, ACKs or NACKs.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct TypeLabels {
    /// The mesh namespace.
    pub namespace: String,
    /// `CDS`, `EDS`, `SDS`, `LDS` or `RDS`.
    pub r#type: &'static str,
}

/// Labels of a count of streams.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct StreamLabels {
    /// The mesh namespace.
    pub namespace: String,
    /// `delta` or `sotw`.
    pub protocol: &'static str,
}

/// Labels of a count of refused streams.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct RefusedLabels {
    /// Why: `too-fast`, `full`, …
    pub reason: &'static str,
}

/// Labels of a step of a withdrawal.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct StageLabels {
    /// `withdraw`.
    pub op: &'static str,
    /// `pushed` or `acked`, each counted once for each sidecar.
    pub stage: &'static str,
}

/// Labels of a count of events.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct EventLabels {
    /// The name of the queue.
    pub queue: String,
    /// `applied`, `ignored` (of no cluster that is watched), `unreadable`, or `undeleted` although taken in.
    pub outcome: &'static str,
}

/// Labels of what is said of a queue.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct QueueLabels {
    /// The name of the queue.
    pub queue: String,
}

/// Labels of a count of calls to AWS.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct CallLabels {
    /// As IAM names it: `ecs:ListTasks`.
    pub operation: String,
    /// `answered`, `throttled` or `failed`.
    pub outcome: &'static str,
}

/// Labels of what is said of one of AWS's limits.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct BucketLabels {
    /// Its name: `ecs service read`.
    pub bucket: &'static str,
    /// The Region that it is of: `eu-west-1`, or `123456789012/eu-west-1` in another account than the own.
    pub home: String,
}

/// What hot paths count. Clones share the counters.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Open streams.
    pub streams: Family<StreamLabels, Gauge>,
    /// Responses sent.
    pub responses: Family<TypeLabels, Counter>,
    /// Responses accepted.
    pub acks: Family<TypeLabels, Counter>,
    /// Responses refused.
    pub nacks: Family<TypeLabels, Counter>,
    /// Streams refused.
    pub refused: Family<RefusedLabels, Counter>,
    /// From a source's sight of a change to a sidecar.
    pub propagation: Family<StageLabels, Histogram>,
    /// From a changed view to the published snapshots.
    pub build: Histogram,
    /// Messages of queues.
    pub events: Family<EventLabels, Counter>,
    /// How old the newest event was when it came.
    pub lag: Family<QueueLabels, Gauge<f64, AtomicU64>>,
    /// Attempts at calls to AWS.
    pub aws_calls: Family<CallLabels, Counter>,
    /// How many calls a second go out at most, by AWS's own buckets.
    pub aws_call_rate: Family<BucketLabels, Gauge<f64, AtomicU64>>,
}

impl Metrics {
    /// New counters that nobody reads.
    pub fn unread() -> Self {
        Self::register(&mut Registry::default())
    }

    /// New counters, registered under `legation_*`.
    pub fn register(registry: &mut Registry) -> Self {
        let seconds =
            || Histogram::new([0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0]);
        let metrics = Self {
            streams: Family::default(),
            responses: Family::default(),
            acks: Family::default(),
            nacks: Family::default(),
            refused: Family::default(),
            propagation: Family::new_with_constructor(seconds),
            build: Histogram::new([0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0]),
            events: Family::default(),
            lag: Family::default(),
            aws_calls: Family::default(),
            aws_call_rate: Family::default(),
        };
        let registry = registry.sub_registry_with_prefix("legation");
        registry.register("xds_streams", "Open streams", metrics.streams.clone());
        registry.register("xds_responses", "Responses sent", metrics.responses.clone());
        registry.register("xds_acks", "Responses accepted", metrics.acks.clone());
        registry.register("xds_nacks", "Responses refused", metrics.nacks.clone());
        registry.register("xds_refused_streams", "Streams refused", metrics.refused.clone());
        registry.register_with_unit(
            "propagation",
            "From a source's sight of a change to a sidecar",
            Unit::Seconds,
            metrics.propagation.clone(),
        );
        registry.register_with_unit(
            "snapshot_build_duration",
            "From a changed view to the published snapshots",
            Unit::Seconds,
            metrics.build.clone(),
        );
        registry.register("source_events", "Events of ECS that came", metrics.events.clone());
        let help = "How old the newest event was when it came";
        registry.register_with_unit("source_lag", help, Unit::Seconds, metrics.lag.clone());
        registry.register("aws_calls", "Attempts at calls to AWS", metrics.aws_calls.clone());
        let help = "How many calls a second go to AWS at most; less than usual after throttling";
        registry.register("aws_call_rate", help, metrics.aws_call_rate.clone());
        metrics
    }
}

/// Starts logging to stderr: as text to a terminal, else as JSON. `RUST_LOG` sets the levels.
pub fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(FILTER));
    let terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if terminal { builder.init() } else { builder.json().flatten_event(true).init() }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_sdk_of_aws_does_not_dump_its_warnings() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(FILTER))
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "aws_config::meta::credentials::chain", "dumped");
            tracing::warn!(target: "aws_smithy_runtime::client::orchestrator", "dumped");
            tracing::error!(target: "aws_smithy_runtime::client::orchestrator", "one");
            tracing::info!(target: "legation::source", "two");
            tracing::debug!(target: "legation::source", "verbose");
        });
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("one") && text.contains("two"), "{text}");
        assert!(!text.contains("dumped") && !text.contains("verbose"), "{text}");
    }
}
