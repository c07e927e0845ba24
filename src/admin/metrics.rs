//! `/metrics`: the counters of hot paths, and what is looked up at the time of asking.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::AdminState;
use super::changes::waiting;
use super::proxies::{Sync, sync};
use super::status::all_findings;
use crate::source::{Cell, Reading};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Prometheus asks for OpenMetrics; everyone else gets the older text.
pub(super) async fn metrics(State(state): State<AdminState>, headers: HeaderMap) -> Response {
    let mut figures = Registry::default();
    figures.register_collector(Box::new(Figures(state.clone())));
    let mut text = String::new();
    let encoded = encode_registry(&mut text, &state.registry)
        .and_then(|()| encode_registry(&mut text, &figures))
        .and_then(|()| encode_eof(&mut text));
    if let Err(error) = encoded {
        return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response();
    }
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    if accepted.into_iter().any(|value| value.contains("application/openmetrics-text")) {
        ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response()
    } else {
        ([(header::CONTENT_TYPE, CLASSIC)], classic(&text)).into_response()
    }
}

/// OpenMetrics in the older text: there a counter is described under its name with `_total`, and there are
/// neither units nor an end.
fn classic(text: &str) -> String {
    let counters: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .map(|name| (format!("# HELP {name} "), format!("# TYPE {name} "), name))
        .collect();
    let mut classic = String::with_capacity(text.len());
    for line in text.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF") {
        let described = line.starts_with("# ").then(|| {
            counters.iter().find(|(help, kind, _)| line.starts_with(help) || line.starts_with(kind))
        });
        match described.flatten() {
            Some((_, _, name)) => classic.push_str(&line.replacen(name, &format!("{name}_total"), 1)),
            None => classic.push_str(line),
        }
        classic.push('\n');
    }
    classic
}

/// What is looked up at the time of asking.
#[derive(Debug)]
struct Figures(AdminState);

/// The values of one family, by labels.
type Values<const N: usize> = BTreeMap<[(&'static str, String); N], f64>;

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let build = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("revision", option_env!("LEGATION_REVISION").unwrap_or("unknown").to_owned()),
        ];
        gauges(&mut encoder, "legation_build_info", "What runs.", &Values::from([(build, 1.0)]))?;
        self.policy(&mut encoder)?;
        self.sources(&mut encoder)?;
        self.mesh(&mut encoder)?;
        self.sidecars(&mut encoder)
    }
}

impl Figures {
    fn policy(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (is_good, good_at, rejections) = {
            let loaded = self.0.policy.borrow();
            (loaded.rejected.is_empty(), loaded.good_at, loaded.rejections)
        };
        let help = "Whether the policy files, as they are now, are in force.";
        gauge(encoder, "legation_config_last_reload_successful", help, f64::from(u8::from(is_good)))?;
        let help = "When they were last found good, after a change or a rejection.";
        let good_at = seconds(SystemTime::UNIX_EPOCH, good_at);
        gauge(encoder, "legation_config_last_reload_success_timestamp_seconds", help, good_at)?;
        let (name, help) =
            ("legation_config_rejected_reloads", "Reloads that left the last good policy in force.");
        let counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(rejections).encode(counter)
    }

    fn sources(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let readings: Vec<(&Cell, Reading)> =
            self.0.every_cell().map(|cell| (cell, cell.reading())).collect();
        let each = |figure: &dyn Fn(&Reading) -> Option<f64>| -> Values<1> {
            let values = readings
                .iter()
                .filter_map(|(cell, reading)| Some(([("source", cell.name.to_string())], figure(reading)?)));
            values.collect()
        };
        let success = each(&|reading| reading.as_of.map(|at| seconds(SystemTime::UNIX_EPOCH, at)));
        let help = "When a source was last read completely.";
        gauges(encoder, "legation_source_last_success_timestamp_seconds", help, &success)?;
        let now = SystemTime::now();
        let age = each(&|reading| reading.as_of.map(|at| seconds(at, now)));
        gauges(encoder, "legation_source_age_seconds", "How old what a source last said is.", &age)?;
        let failing = each(&|reading| Some(f64::from(u8::from(reading.failing.is_some()))));
        gauges(encoder, "legation_source_failing", "Whether the newest reading failed.", &failing)?;
        for (name, help, count) in [
            ("legation_source_readings", "Complete readings.", (|it| it.readings) as fn(&Reading) -> u64),
            ("legation_source_errors", "Failed readings.", |it| it.errors),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (cell, reading) in &readings {
                let labels = [("source", cell.name.to_string())];
                ConstCounter::new(count(reading)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn mesh(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mesh = self.0.mesh();
        let mut services: Values<1> = Values::new();
        let mut endpoints: Values<4> = Values::new();
        for namespace in mesh.namespaces.values() {
            let name = namespace.name.to_string();
            *services.entry([("namespace", name.clone())]).or_default() = count(namespace.services.len());
            for endpoint in namespace.services.values().flat_map(|service| service.endpoints.iter()) {
                let labels = [
                    ("namespace", name.clone()),
                    ("az", endpoint.zone.as_deref().unwrap_or_default().to_owned()),
                    ("state", endpoint.verdict.state.as_str().to_owned()),
                    ("reason", endpoint.verdict.reason.as_str().to_owned()),
                ];
                *endpoints.entry(labels).or_default() += 1.0;
            }
        }
        gauges(encoder, "legation_services", "Known services.", &services)?;
        gauges(encoder, "legation_endpoints", "Known endpoints, served or not.", &endpoints)
    }

    fn sidecars(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (clients, mesh, now) = (self.0.clients.list(), self.0.mesh(), SystemTime::now());
        let labels = |namespace: &str, state: Sync| {
            [("namespace", namespace.to_owned()), ("state", state.word().to_owned())]
        };
        // Zeros are there from the start, so that an alert sees the first one.
        let known =
            mesh.namespaces.keys().flat_map(|name| Sync::ALL.map(|state| labels(name.as_str(), state)));
        let mut proxies: Values<2> = known.map(|labels| (labels, 0.0)).collect();
        for client in &clients {
            let labels = labels(client.namespace.as_str(), sync(&self.0, client).0);
            *proxies.entry(labels).or_default() += 1.0;
        }
        gauges(encoder, "legation_proxies", "Connected sidecars.", &proxies)?;

        let names = || mesh.namespaces.keys().map(|name| [("namespace", name.to_string())]);
        let mut pending: Values<1> = names().map(|labels| (labels, 0.0)).collect();
        let mut oldest = pending.clone();
        for change in self.0.ledger.list().iter().filter(|change| waiting(change, &clients).next().is_some())
        {
            let labels = [("namespace", change.withdrawal.service.namespace.to_string())];
            *pending.entry(labels.clone()).or_default() += 1.0;
            let age = oldest.entry(labels).or_default();
            *age = age.max(seconds(change.withdrawal.seen_at, now));
        }
        let help = "Withdrawals that a sidecar does not hold yet.";
        gauges(encoder, "legation_withdrawals_pending", help, &pending)?;
        let help = "How long ago the oldest of them was seen.";
        gauges(encoder, "legation_withdrawal_oldest_age_seconds", help, &oldest)?;

        let mut findings: Values<1> = Values::new();
        for finding in all_findings(&self.0, &clients) {
            *findings.entry([("code", finding.code.to_owned())]).or_default() += 1.0;
        }
        gauges(encoder, "legation_findings", "Diagnosed problems.", &findings)
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn gauges<const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: &Values<N>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        ConstGauge::new(*value).encode(family.encode_family(labels)?)?;
    }
    Ok(())
}

fn seconds(from: SystemTime, to: SystemTime) -> f64 {
    to.duration_since(from).unwrap_or_default().as_secs_f64()
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::INFINITY, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn the_older_text_describes_what_it_counts() {
        let open = "# HELP a_acks Accepted.\n# TYPE a_acks counter\na_acks_total{x=\"a # TYPE\"} 1\n\
            # HELP a_acks_seconds Time.\n# TYPE a_acks_seconds gauge\n# UNIT a_acks_seconds seconds\na_acks_seconds 1\n# EOF\n";
        expect![[r#"
            # HELP a_acks_total Accepted.
            # TYPE a_acks_total counter
            a_acks_total{x="a # TYPE"} 1
            # HELP a_acks_seconds Time.
            # TYPE a_acks_seconds gauge
            a_acks_seconds 1
        "#]]
        .assert_eq(&classic(open));
    }
}
