//! The environment above the file: `LEGATION_<SECTION>__<KEY>` for scalar keys.

use super::written::File;
use crate::diagnostic::words::did_you_mean;
use crate::diagnostic::{Place, Problem, UNKNOWN_KEY, Written};

/// Every variable that is read. Two have no section; the other variables of Legation belong to its client.
const VARIABLES: [&str; 27] = [
    "LEGATION_LISTEN__XDS",
    "LEGATION_LISTEN__METRICS",
    "LEGATION_LISTEN__ADMIN",
    "LEGATION_AWS__REGION",
    "LEGATION_AWS__ENDPOINT_URL",
    "LEGATION_AWS__CALL_BUDGET_PERCENT",
    "LEGATION_ECS__INTERVAL",
    "LEGATION_ECS__QUEUE_URL",
    "LEGATION_ECS__RECEIVERS",
    "LEGATION_CLOUD_MAP__INTERVAL",
    "LEGATION_CLOUD_MAP__REVISION_INTERVAL",
    "LEGATION_CLOUD_MAP__HEALTH_INTERVAL",
    "LEGATION_MAX_BACKOFF",
    "LEGATION_SHUTDOWN_GRACE",
    "LEGATION_GUARD__MAX_WITHDRAWAL_PERCENT",
    "LEGATION_GUARD__MAX_NAMESPACE_WITHDRAWAL_PERCENT",
    "LEGATION_GUARD__MIN_ENDPOINTS",
    "LEGATION_GUARD__CONFIRMATIONS",
    "LEGATION_XDS__MAX_STREAM_AGE",
    "LEGATION_XDS__MAX_STREAMS",
    "LEGATION_XDS__MAX_STREAMS_PER_NAMESPACE",
    "LEGATION_XDS__NEW_STREAMS_PER_SECOND",
    "LEGATION_XDS__MAX_NAMES",
    "LEGATION_XDS__CLUSTER_GRACE",
    "LEGATION_XDS__KEEPALIVE_INTERVAL",
    "LEGATION_XDS__KEEPALIVE_TIMEOUT",
    "LEGATION_XDS__WRITE_TIMEOUT",
];

/// Replaces what variables say; answers the variables that look like ours and are not.
///
/// Only names with two underscores count as such: orchestrators invent others from a service's name, such as
/// `LEGATION_PORT`.
pub(super) fn apply(
    file: &mut File,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Vec<Problem> {
    let mut strangers = Vec::new();
    for (name, text) in environment {
        if let Some(slot) = slot(file, &name) {
            *slot = Some(Written { text, place: Place::Variable(name) });
        } else if name.starts_with("LEGATION_") && name.contains("__") {
            let problem = Problem::whole("", UNKNOWN_KEY, format!("unknown environment variable `{name}`"));
            strangers.push(match did_you_mean(&name, VARIABLES) {
                Some(suggestion) => problem.suggesting(suggestion),
                None => problem,
            });
        }
    }
    strangers
}

fn slot<'a>(file: &'a mut File, name: &str) -> Option<&'a mut Option<Written>> {
    Some(match name {
        "LEGATION_LISTEN__XDS" => &mut file.listen.get_or_insert_default().xds,
        "LEGATION_LISTEN__METRICS" => &mut file.listen.get_or_insert_default().metrics,
        "LEGATION_LISTEN__ADMIN" => &mut file.listen.get_or_insert_default().admin,
        "LEGATION_AWS__REGION" => &mut file.aws.get_or_insert_default().region,
        "LEGATION_AWS__ENDPOINT_URL" => &mut file.aws.get_or_insert_default().endpoint_url,
        "LEGATION_AWS__CALL_BUDGET_PERCENT" => &mut file.aws.get_or_insert_default().call_budget_percent,
        "LEGATION_ECS__INTERVAL" => &mut file.ecs.get_or_insert_default().interval,
        "LEGATION_ECS__QUEUE_URL" => &mut file.ecs.get_or_insert_default().queue_url,
        "LEGATION_ECS__RECEIVERS" => &mut file.ecs.get_or_insert_default().receivers,
        "LEGATION_CLOUD_MAP__INTERVAL" => &mut file.cloud_map.get_or_insert_default().interval,
        "LEGATION_CLOUD_MAP__REVISION_INTERVAL" => {
            &mut file.cloud_map.get_or_insert_default().revision_interval
        }
        "LEGATION_CLOUD_MAP__HEALTH_INTERVAL" => &mut file.cloud_map.get_or_insert_default().health_interval,
        "LEGATION_MAX_BACKOFF" => &mut file.max_backoff,
        "LEGATION_SHUTDOWN_GRACE" => &mut file.shutdown_grace,
        "LEGATION_GUARD__MAX_WITHDRAWAL_PERCENT" => {
            &mut file.guard.get_or_insert_default().max_withdrawal_percent
        }
        "LEGATION_GUARD__MAX_NAMESPACE_WITHDRAWAL_PERCENT" => {
            &mut file.guard.get_or_insert_default().max_namespace_withdrawal_percent
        }
        "LEGATION_GUARD__MIN_ENDPOINTS" => &mut file.guard.get_or_insert_default().min_endpoints,
        "LEGATION_GUARD__CONFIRMATIONS" => &mut file.guard.get_or_insert_default().confirmations,
        _ => return slot_of_xds(file, name.strip_prefix("LEGATION_XDS__")?),
    })
}

fn slot_of_xds<'a>(file: &'a mut File, key: &str) -> Option<&'a mut Option<Written>> {
    let xds = file.xds.get_or_insert_default();
    Some(match key {
        "MAX_STREAM_AGE" => &mut xds.max_stream_age,
        "MAX_STREAMS" => &mut xds.max_streams,
        "MAX_STREAMS_PER_NAMESPACE" => &mut xds.max_streams_per_namespace,
        "NEW_STREAMS_PER_SECOND" => &mut xds.new_streams_per_second,
        "MAX_NAMES" => &mut xds.max_names,
        "CLUSTER_GRACE" => &mut xds.cluster_grace,
        "KEEPALIVE_INTERVAL" => &mut xds.keepalive_interval,
        "KEEPALIVE_TIMEOUT" => &mut xds.keepalive_timeout,
        "WRITE_TIMEOUT" => &mut xds.write_timeout,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_has_its_own_slot() {
        let mut file: File = serde_saphyr::from_str("{}").unwrap();
        for name in VARIABLES {
            let slot = slot(&mut file, name).expect(name);
            assert_eq!(*slot, None, "{name} shares a slot");
            *slot = Some(Written { text: name.to_owned(), place: Place::Variable(name.to_owned()) });
        }
    }
}
