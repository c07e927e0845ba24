//! A hundred sidecars that hear of stopped tasks by events.

use std::time::Duration;

use anyhow::ensure;
use integration::estate::NAMESPACE;
use integration::scene::{Scene, play, play_alone};
use integration::stage::{Knowledge, Stage};
use integration::wait;
use integration::withdrawal::quantile;
use integration::world::StopPlan;
use legation::snapshot::ResourceType;

use crate::ads::Ads;

const SIDECARS: u64 = 100;
/// `LEGATION_STOPS` takes more, and then holds p99 against [`TARGET`]: for an optimized server on a machine at rest.
const STOPS: usize = 20;
const TARGET: Duration = Duration::from_millis(30);
const LIMIT: Duration = Duration::from_secs(20);
/// What never happens, however busy the machine: how fast it usually is, `bench/` tells.
const NEVER: Duration = Duration::from_secs(1);

/// From the moment Legation heard of a stop until the last sidecar had accepted it.
async fn heard_to_acked(stage: &Stage, task: &str) -> anyhow::Result<Duration> {
    wait::until(LIMIT, format!("{SIDECARS} ACKs of the withdrawal of {task}"), async || {
        let change = stage.change(task).await?;
        let done = change.filter(|change| change["acked"].as_u64() >= Some(SIDECARS));
        let millis = done.and_then(|change| change["sinceSeenMs"]["lastAck"].as_f64());
        Ok(millis.map(|millis| Duration::from_secs_f64(millis / 1000.0)))
    })
    .await
}

#[test]
fn a_hundred_sidecars_hear_of_stopped_tasks_by_events() -> anyhow::Result<()> {
    let asked = std::env::var("LEGATION_STOPS").ok().map(|stops| stops.parse::<usize>()).transpose()?;
    let test = async |scene: &Scene| {
        let stage = Stage::open(scene.folder(), Knowledge::Events, None).await?;
        stage.payments_settled().await?;
        let clusters = stage.server.items(&format!("namespaces/{NAMESPACE}/resources/clusters")).await?.len();
        let listeners = stage.server.items(&format!("namespaces/{NAMESPACE}/resources/listeners")).await?;
        // An API listener is for gRPC libraries, and binds nothing.
        let bound = |one: &&serde_json::Value| one["resource"].to_string().contains("portValue");
        let listeners = listeners.iter().filter(bound).count();
        ensure!(clusters > 2 && listeners > 2, "{clusters} clusters, {listeners} listeners");
        for number in 0..SIDECARS {
            let mut ads = Ads::open(stage.server.xds(), &format!("wire-{number}"), NAMESPACE).await?;
            ads.hold(ResourceType::Cluster, clusters).await?;
            ads.subscribe(ResourceType::Endpoint, vec![format!("{NAMESPACE}/payments")]).await?;
            ads.hold(ResourceType::Endpoint, 1).await?;
            tokio::spawn(async move { while ads.next().await.is_ok() {} });
        }
        let mut times = Vec::new();
        for _ in 0..asked.unwrap_or(STOPS) {
            let task = stage.payments_settled().await?.swap_remove(0);
            stage.prod.world.stop_task(&task, StopPlan::default())?;
            times.push(heard_to_acked(&stage, &task).await?);
        }
        let (median, p99) = (quantile(&times, 0.5), quantile(&times, 0.99));
        println!("heard → last of {SIDECARS} ACKs: median {median:?}, p99 {p99:?}");
        ensure!(p99 < if asked.is_some() { TARGET } else { NEVER }, "{times:?}");
        stage.close().await
    };
    if asked.is_some() { play_alone("crowd", test) } else { play("crowd", test) }
}
