//! The server dies and comes back under load: nobody notices, and nothing is sent twice.

use std::collections::BTreeMap;
use std::time::Duration;

use integration::scene::play;
use integration::stage::{Knowledge, Stage};
use integration::wait;
use integration::withdrawal::stop_tasks;
use serde_json::Value;

const TYPES: [&str; 4] = ["clusters", "endpoints", "listeners", "routes"];

/// What is served, by type and name.
async fn versions(stage: &Stage) -> anyhow::Result<BTreeMap<(&'static str, String), String>> {
    let mut versions = BTreeMap::new();
    for kind in TYPES {
        for item in stage.server.items(&format!("namespaces/prod/resources/{kind}")).await? {
            let text = |key: &str| item[key].as_str().unwrap_or_default().to_owned();
            versions.insert((kind, text("name")), text("version"));
        }
    }
    Ok(versions)
}

/// One figure of every type of every sidecar, once every sidecar has asked for every type.
async fn figures(stage: &Stage, key: &str) -> anyhow::Result<BTreeMap<(String, String), u64>> {
    wait::until(Duration::from_secs(15), "every sidecar to ask for every type", async || {
        stage.synced().await?;
        let mut figures = BTreeMap::new();
        for proxy in stage.server.items("proxies").await? {
            let id = proxy["id"].as_str().unwrap_or_default();
            for status in proxy["types"].as_array().into_iter().flatten() {
                let asked = status["wildcard"] == true || status["subscribed"].as_u64() > Some(0);
                anyhow::ensure!(asked, "not asked for: {status}");
                let kind = status["type"].as_str().unwrap_or_default();
                let figure = status[key].as_u64().unwrap_or(u64::MAX);
                figures.insert((id.to_owned(), kind.to_owned()), figure);
            }
        }
        let all = figures.len() == stage.envoys.len() * TYPES.len();
        anyhow::ensure!(all, "there are {figures:?}");
        Ok(Some(figures))
    })
    .await
}

#[test]
fn a_killed_server_is_not_missed_and_sends_nothing_again() -> anyhow::Result<()> {
    play("restart", async |scene| {
        let mut stage = Stage::open(scene.folder(), Knowledge::Aws, None).await?;
        stage.start_sidecars(2).await?;
        let load = stage.load(stage.payments_ways().await?).await?;
        load.more(20).await?;
        // More than the first snapshot, so that versions do not depend on how one came to it.
        stop_tasks(&stage, 3, Duration::from_secs(3), |_, _| {}).await?;
        let before = versions(&stage).await?;
        assert!(before.len() > 8, "{before:?}");
        let first = figures(&stage, "resources").await?;
        assert!(first.values().all(|sent| *sent > 0), "at first everything is sent: {first:?}");

        stage.server.kill()?;
        load.more(50).await?;
        load.is_flawless()?;
        stage.server.run().await?;
        stage.server.ready().await?;
        let sent = figures(&stage, "resources").await?;
        assert!(sent.values().all(|sent| *sent == 0), "sent again after a restart: {sent:?}");
        assert_eq!(versions(&stage).await?, before, "another process, other versions");
        load.more(20).await?;

        // And what changes from now on arrives: one assignment with each response, nothing else.
        stop_tasks(&stage, 2, Duration::from_secs(3), |_, _| {}).await?;
        let sent = figures(&stage, "resources").await?;
        let responses = figures(&stage, "responses").await?;
        for ((id, kind), count) in &sent {
            if kind == "endpoints" {
                let pushes = responses[&(id.clone(), kind.clone())];
                assert!(*count >= 1 && *count <= pushes, "{count} assignments in {pushes} responses");
            } else {
                assert_eq!(*count, 0, "{kind} were sent to {id}");
            }
        }
        load.is_flawless()?;
        stage.oracle().await?;
        load.stop().await?;
        stage.close().await
    })
}

#[test]
fn a_server_that_is_asked_to_stop_ends_in_time_and_is_not_missed() -> anyhow::Result<()> {
    play("graceful", async |scene| {
        let mut stage = Stage::open(scene.folder(), Knowledge::Aws, None).await?;
        stage.start_sidecars(2).await?;
        let load = stage.load(stage.payments_ways().await?).await?;
        load.more(20).await?;
        stage.server.stop().await?;
        load.more(50).await?;
        stage.server.run().await?;
        stage.server.ready().await?;
        let sent = figures(&stage, "resources").await?;
        assert!(sent.values().all(|sent| *sent == 0), "sent again after a restart: {sent:?}");
        load.is_flawless()?;
        let log = stage.server.log()?;
        let panicked = log.lines().find(|line| line.contains("panicked"));
        assert_eq!(panicked, None);
        let proxies: Vec<Value> = stage.server.items("proxies").await?;
        assert_eq!(proxies.len(), 2);
        stage.oracle().await?;
        load.stop().await?;
        stage.close().await
    })
}
