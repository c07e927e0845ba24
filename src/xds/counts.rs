//! What the streams of one namespace count, looked up once for all of them.
//!
//! It is not about who is connected, nor does it name what it counts: telemetry does.
//!
//! Invariant: every series exists before anything is counted: to Prometheus one that begins at one has not increased.

use std::time::Duration;

use crate::model::Namespace;
use crate::snapshot::ResourceType;
use crate::telemetry::{Counter, Histogram, Metrics, StageLabels, TypeLabels};

/// One counter for each type.
pub(super) type ByType = [Counter; ResourceType::ALL.len()];

/// The series of one namespace.
#[derive(Debug)]
pub(super) struct Counts {
    /// Responses sent.
    pub(super) responses: ByType,
    /// Responses accepted.
    pub(super) acks: ByType,
    /// Responses refused.
    pub(super) nacks: ByType,
    pushed: Histogram,
    acked: Histogram,
}

impl Counts {
    pub(super) fn of(metrics: &Metrics, namespace: &Namespace) -> Self {
        let labels =
            |kind: ResourceType| TypeLabels { namespace: namespace.to_string(), r#type: kind.short() };
        let stage = |stage| metrics.propagation.get_or_create_owned(&StageLabels { op: "withdraw", stage });
        Self {
            responses: ResourceType::ALL.map(|kind| metrics.responses.get_or_create_owned(&labels(kind))),
            acks: ResourceType::ALL.map(|kind| metrics.acks.get_or_create_owned(&labels(kind))),
            nacks: ResourceType::ALL.map(|kind| metrics.nacks.get_or_create_owned(&labels(kind))),
            pushed: stage("pushed"),
            acked: stage("acked"),
        }
    }

    /// Withdrawals were sent to a sidecar so long after they were seen.
    pub(super) fn pushed(&self, after: &[Duration]) {
        after.iter().for_each(|after| self.pushed.observe(after.as_secs_f64()));
    }

    /// Withdrawals were accepted by a sidecar so long after they were seen.
    pub(super) fn acked(&self, after: &[Duration]) {
        after.iter().for_each(|after| self.acked.observe(after.as_secs_f64()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_there_before_anything_is_counted() {
        let mut registry = prometheus_client::registry::Registry::default();
        let metrics = Metrics::register(&mut registry);
        let _ = Counts::of(&metrics, &"prod".into());
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for name in ["responses", "acks", "nacks"] {
            for kind in ["CDS", "EDS", "SDS", "LDS", "RDS"] {
                let line = format!("legation_xds_{name}_total{{namespace=\"prod\",type=\"{kind}\"}} 0\n");
                assert!(text.contains(&line), "{line} is not in\n{text}");
            }
        }
    }
}
