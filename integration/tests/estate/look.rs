//! What is looked at from outside, in whatever world: callers' tallies, and what servers tell.
//!
//! Invariant: it changes nothing but by waiting.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use integration::docker::arrivals::Arrivals;
use integration::docker::caller::Callers;
use integration::docker::server::Server;
use integration::docker::tally::{Failure, Tally};
use integration::wait;

use crate::report::Row;

/// How long everything may take to settle after a change.
pub(crate) const SETTLING: Duration = Duration::from_secs(120);

/// Where a measurement began.
pub(crate) struct Mark(Tally);

impl Mark {
    /// Before anything.
    pub(crate) fn zero() -> Self {
        Self(Tally::default())
    }

    /// Now, with everything before accounted for.
    pub(crate) async fn now(callers: &Callers) -> anyhow::Result<Self> {
        callers.settled().await.map(Self)
    }

    /// What callers saw since then, once the outcome of every request so far is known; and where the next measurement begins, so
    /// that no failure is nobody's.
    pub(crate) async fn row(&self, callers: &Callers, world: &'static str) -> anyhow::Result<(Row, Self)> {
        let (before, now) = (&self.0, callers.settled().await?);
        let failed = now.failed - before.failed;
        let told = now.failures.iter().filter(|failure| !before.failures.contains(failure));
        let failures: Vec<_> = told.cloned().collect();
        let requests = now.known() - before.known();
        let note = in_words(&failures);
        Ok((Row { world, requests, failed, failures, note, ..Row::default() }, Self(now)))
    }

    /// Goes on until there were enough requests since then.
    pub(crate) async fn enough(&self, callers: &Callers, requests: u64) -> anyhow::Result<()> {
        wait::until(SETTLING, format!("{requests} requests"), async || {
            let now = callers.tally().await?;
            Ok((now.known() >= self.0.known() + requests).then_some(()))
        })
        .await
    }
}

/// What failures say, each once and three at most, with how often.
fn in_words(failures: &[Failure]) -> String {
    let mut counts = BTreeMap::<&str, usize>::new();
    for failure in failures {
        *counts.entry(failure.what.trim()).or_default() += 1;
    }
    counts.iter().take(3).map(|(what, count)| format!("{count} x {what}")).collect::<Vec<_>>().join("; ")
}

/// How soon after a death requests are told to have failed that were in flight.
const TOLD: Duration = Duration::from_secs(2);

/// Bounds what deaths of tasks may cost that get `rate` requests a second each: what they had in flight, which is at most what comes
/// in a tenth of a second on two cores that carry the whole estate, and nothing else. By Service Connect's numbers this is not
/// repeated, as the application may have acted on it; everything later is.
pub(crate) fn only_what_was_in_flight(row: &mut Row, died: &[SystemTime], rate: u32) {
    let each = u64::from(rate).div_ceil(10);
    row.bound.failed = died.len() as u64 * each;
    row.bound.in_flight = true;
    let mut explained = vec![0; died.len()];
    for failure in row.failures.iter().filter(|failure| was_in_flight(failure)) {
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(failure.at);
        let follows = |died: &SystemTime| at.duration_since(*died).is_ok_and(|since| since < TOLD);
        if let Some(death) = died.iter().rposition(follows) {
            explained[death] += 1;
        }
    }
    row.stray = row.failed - explained.into_iter().map(|count| each.min(count)).sum::<u64>();
}

/// Whether a request failed as one does whose server had it when the connection ended: before its answer began, as Envoy says, or after.
fn was_in_flight(failure: &Failure) -> bool {
    failure.what.contains("reset reason: connection termination") || failure.what.starts_with("broken answer")
}

/// Waits until each of these sidecars is connected to some server and holds its newest snapshot.
pub(crate) async fn hold_the_newest(servers: &[&Server], wanted: &[String]) -> anyhow::Result<()> {
    wait::until(SETTLING, "every sidecar to be synced", async || {
        let mut synced = Vec::new();
        for server in servers {
            let proxies = server.items("proxies").await?;
            let held = proxies.iter().filter(|proxy| proxy["state"] == "SYNCED");
            synced.extend(held.filter_map(|proxy| proxy["id"].as_str().map(str::to_owned)));
        }
        let missing: Vec<_> = wanted.iter().filter(|arn| !synced.contains(arn)).collect();
        anyhow::ensure!(missing.is_empty(), "{} of {} are not: {missing:?}", missing.len(), wanted.len());
        Ok(Some(()))
    })
    .await
}

/// Waits until exactly the tasks that are wanted of a service, in order of ARN, are in rotation on every server.
pub(crate) async fn rotation(
    servers: &[&Server],
    namespace: &str,
    service: &str,
    mut wanted: impl AsyncFnMut() -> anyhow::Result<Vec<String>>,
) -> anyhow::Result<()> {
    wait::until(SETTLING, format!("the tasks of {service}, and only they, to be in rotation"), async || {
        let wanted = wanted().await?;
        for server in servers {
            let answer = server.api(&format!("namespaces/{namespace}/services/{service}")).await?;
            let endpoints = answer["item"]["endpoints"].as_array().context("a service without endpoints")?;
            let healthy = endpoints.iter().filter(|endpoint| endpoint["state"] == "healthy");
            let mut found: Vec<_> =
                healthy.filter_map(|endpoint| endpoint["instance"].as_str().map(str::to_owned)).collect();
            found.sort();
            anyhow::ensure!(found == wanted, "ECS wants {wanted:?}, in rotation are {found:?}");
        }
        Ok(Some(()))
    })
    .await
}

/// From a moment to the last ACK of the withdrawal of a task, over these servers, of `least` sidecars at least.
pub(crate) async fn withdrawn(
    servers: &[&Server],
    task: &str,
    since: SystemTime,
    least: u64,
) -> anyhow::Result<Duration> {
    let last = wait::until(SETTLING, format!("{least} ACKs of the withdrawal of {task}"), async || {
        let (mut acked, mut last) = (0, None);
        for server in servers {
            let changes = server.items("changes").await?;
            let Some(change) = changes.into_iter().find(|change| change["instance"] == task) else {
                return Ok(None);
            };
            anyhow::ensure!(change["waiting"] == 0, "{change}");
            acked += change["acked"].as_u64().unwrap_or_default();
            if let Some(at) = change["lastAckAt"].as_str() {
                let at: jiff::Timestamp = at.parse().with_context(|| at.to_owned())?;
                last = last.max(Some(SystemTime::from(at)));
            }
        }
        anyhow::ensure!(acked >= least, "{acked} sidecars have agreed");
        Ok(last)
    })
    .await?;
    Ok(last.duration_since(since).unwrap_or_default())
}

/// From a moment to the last request that arrived at a task; nothing if none did after that.
pub(crate) fn last_request(arrivals: &Arrivals, task: &str, since: SystemTime) -> Duration {
    let last = arrivals.last(task);
    last.and_then(|last| last.duration_since(since).ok()).unwrap_or_default()
}
