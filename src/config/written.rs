//! The configuration as it is written: every key, nothing checked but its shape.

use serde::Deserialize;

use crate::diagnostic::{Entries, Written};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct File {
    #[serde(default)]
    pub(super) listen: Option<Listen>,
    #[serde(default)]
    pub(super) aws: Option<Aws>,
    #[serde(default)]
    pub(super) ecs: Option<Ecs>,
    #[serde(default)]
    pub(super) cloud_map: Option<CloudMap>,
    pub(super) max_backoff: Option<Written>,
    pub(super) shutdown_grace: Option<Written>,
    #[serde(default)]
    pub(super) guard: Option<Guard>,
    #[serde(default)]
    pub(super) xds: Option<Xds>,
    pub(super) namespaces: Option<Entries<Option<Namespace>>>,
    pub(super) policies: Option<Vec<Written>>,
}

/// `listen`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Listen {
    pub(super) xds: Option<Written>,
    pub(super) metrics: Option<Written>,
    pub(super) admin: Option<Written>,
}

/// `aws`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Aws {
    pub(super) region: Option<Written>,
    pub(super) endpoint_url: Option<Written>,
    pub(super) call_budget_percent: Option<Written>,
}

/// `ecs`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Ecs {
    pub(super) interval: Option<Written>,
    pub(super) queue_url: Option<Written>,
    pub(super) receivers: Option<Written>,
}

/// `cloudMap`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct CloudMap {
    pub(super) interval: Option<Written>,
    pub(super) revision_interval: Option<Written>,
    pub(super) health_interval: Option<Written>,
}

/// `guard`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Guard {
    pub(super) max_withdrawal_percent: Option<Written>,
    pub(super) max_namespace_withdrawal_percent: Option<Written>,
    pub(super) min_endpoints: Option<Written>,
    pub(super) confirmations: Option<Written>,
}

/// `xds`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Xds {
    pub(super) max_stream_age: Option<Written>,
    pub(super) max_streams: Option<Written>,
    pub(super) max_streams_per_namespace: Option<Written>,
    pub(super) new_streams_per_second: Option<Written>,
    pub(super) max_names: Option<Written>,
    pub(super) cluster_grace: Option<Written>,
    pub(super) keepalive_interval: Option<Written>,
    pub(super) keepalive_timeout: Option<Written>,
    pub(super) write_timeout: Option<Written>,
    pub(super) tls: Option<Tls>,
}

/// `xds.tls`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Tls {
    pub(super) certificate_file: Written,
    pub(super) private_key_file: Written,
}

/// One entry of `namespaces`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Namespace {
    pub(super) clusters: Option<Vec<Written>>,
    pub(super) cloud_map: Option<Vec<Written>>,
    pub(super) files: Option<Vec<Written>>,
    pub(super) discover: Option<Written>,
    pub(super) assume_role: Option<Written>,
}
