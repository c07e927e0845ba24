//! What is looked at from outside, in whatever world: callers' tallies, and what servers tell.
//!
//! Invariant: it changes nothing but by waiting.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use integration::docker::caller::Callers;
use integration::docker::server::Server;
use integration::docker::tally::Tally;
use integration::wait;

use crate::report::Row;

/// How long everything may take to settle after a change.
pub(crate) const SETTLING: Duration = Duration::from_secs(120);

/// Where a measurement began.
pub(crate) struct Mark(Tally);

impl Mark {
    pub(crate) async fn now(callers: &Callers) -> anyhow::Result<Self> {
        Ok(Self(callers.tally().await?))
    }

    /// What callers saw since then, as the beginnings of a row.
    pub(crate) async fn row(&self, callers: &Callers, world: &'static str) -> anyhow::Result<Row> {
        let (before, now) = (&self.0, callers.tally().await?);
        let failed = now.failed - before.failed;
        let told = now.failures.iter().filter(|failure| !before.failures.contains(failure));
        let told: Vec<_> = told.take(3).map(|failure| failure.what.trim().replace('\n', " ")).collect();
        Ok(Row {
            world,
            requests: now.ok + now.failed - before.ok - before.failed,
            failed,
            note: told.join("; "),
            ..Row::default()
        })
    }

    /// Goes on until there were enough requests since then.
    pub(crate) async fn enough(&self, callers: &Callers, requests: u64) -> anyhow::Result<()> {
        wait::until(SETTLING, format!("{requests} requests"), async || {
            let now = callers.tally().await?;
            Ok((now.ok + now.failed >= self.0.ok + self.0.failed + requests).then_some(()))
        })
        .await
    }
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

/// From a moment to the last ACK of the withdrawal of a task, on the slowest server.
pub(crate) async fn withdrawn(
    servers: &[&Server],
    task: &str,
    since: SystemTime,
) -> anyhow::Result<Duration> {
    let mut slowest = Duration::ZERO;
    for server in servers {
        let at = wait::until(SETTLING, format!("all ACKs of the withdrawal of {task}"), async || {
            let changes = server.items("changes").await?;
            let found =
                changes.into_iter().find(|change| change["instance"] == task && change["waiting"] == 0);
            // A server without sidecars that had it has nobody to wait for.
            Ok(found.map(|change| change["lastAckAt"].as_str().map(str::to_owned)))
        })
        .await?;
        if let Some(at) = at {
            let at: jiff::Timestamp = at.parse().with_context(|| at.clone())?;
            slowest = slowest.max(SystemTime::from(at).duration_since(since).unwrap_or_default());
        }
    }
    Ok(slowest)
}

/// From a moment to the last request that a task received; nothing if it received none after that.
pub(crate) async fn last_request(
    callers: &Callers,
    task: &str,
    since: SystemTime,
) -> anyhow::Result<Duration> {
    let id = task.rsplit('/').next().unwrap_or(task);
    let tally = callers.tally().await?;
    let last = tally.tasks.get(id).map_or(0, |seen| seen.last_at);
    let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Duration::from_micros(last).saturating_sub(since))
}
