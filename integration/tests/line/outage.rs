//! AWS is gone, then throttles everything: what is served stays, and its age is shown.

use std::time::{Duration, SystemTime};

use integration::aws::Fault;
use integration::scene::play;
use integration::stage::{Knowledge, Stage};
use integration::wait;
use integration::withdrawal::stop_tasks;
use serde_json::Value;

/// How long each kind of trouble lasts: `LEGATION_OUTAGE` seconds, else 30.
fn period() -> Duration {
    let seconds = std::env::var("LEGATION_OUTAGE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(30))
}

async fn source(stage: &Stage) -> anyhow::Result<Value> {
    let status = stage.server.api("status").await?;
    let sources = status["item"]["sources"].as_array().cloned().unwrap_or_default();
    anyhow::ensure!(sources.len() == 1, "one source is configured: {status}");
    Ok(sources[0].clone())
}

/// Nothing served changes, the server stays ready, its age grows and the error is shown, for the period.
async fn nothing_moves(stage: &Stage, before: &Served, error: &str) -> anyhow::Result<()> {
    let limit = Duration::from_secs(10);
    let shown = wait::until(limit, format!("a failing source that tells of {error:?}"), async || {
        let source = source(stage).await?;
        anyhow::ensure!(source["failing"].to_string().contains(error), "{source}");
        Ok(Some(source))
    });
    let first = shown.await?;
    let age = |source: &Value| source["ageMs"].as_f64().unwrap_or_default();
    let mut oldest = age(&first);
    wait::throughout(period(), format!("unchanged while {error:?}"), async |passed| {
        anyhow::ensure!(stage.server.is_ready().await?, "/readyz does not say 200");
        let now = stage.resources().await?;
        for ((kind, old), (_, new)) in before.iter().zip(&now) {
            anyhow::ensure!(old == new, "the {kind} changed");
        }
        let source = source(stage).await?;
        anyhow::ensure!(source["failing"]["message"].is_string(), "no error is shown: {source}");
        anyhow::ensure!(source["asOf"] == first["asOf"], "a reading succeeded: {source}");
        anyhow::ensure!(age(&source) >= oldest, "the age went back: {source}");
        let least = passed.as_secs_f64() * 1000.0;
        anyhow::ensure!(age(&source) >= least, "an age of less than {least} ms: {source}");
        oldest = age(&source);
        Ok(())
    })
    .await?;
    let last = source(stage).await?;
    let more = last["failing"]["count"].as_u64() > first["failing"]["count"].as_u64();
    anyhow::ensure!(more, "it was not tried again: first {first}, then {last}");
    Ok(())
}

type Served = Vec<(&'static str, Vec<u8>)>;

#[test]
fn aws_gone_and_then_throttling_moves_nothing_and_heals_by_itself() -> anyhow::Result<()> {
    play("outage", async |scene| {
        let mut stage = Stage::open(scene.folder(), Knowledge::Aws, None).await?;
        stage.start_sidecars(2).await?;
        let load = stage.load(stage.payments_ways().await?).await?;
        load.more(20).await?;
        let before = stage.resources().await?;
        assert!(before.iter().all(|(_, bytes)| bytes.len() > 200), "hardly anything is served");
        let process = stage.server.id();

        stage.aws.stop().await;
        nothing_moves(&stage, &before, "connect").await?;
        load.is_flawless()?;

        stage.aws.faults().set(Fault::Throttle);
        stage.aws.restart().await;
        nothing_moves(&stage, &before, "Throttling").await?;
        load.is_flawless()?;
        let errors = source(&stage).await?["errors"].as_u64();
        assert!(errors > Some(0), "errors are counted: {errors:?}");

        let healed_from = SystemTime::now();
        stage.aws.faults().clear();
        let healthy = async || {
            let source = source(&stage).await?;
            anyhow::ensure!(source["failing"].is_null(), "{source}");
            Ok(Some(()))
        };
        wait::until(Duration::from_secs(15), "a good reading", healthy).await?;
        println!("healed after {:?}", healed_from.elapsed()?);
        assert_eq!(stage.resources().await?, before, "the world did not change");
        let withdrawals = stop_tasks(&stage, 2, Duration::from_secs(3), |_, _| {}).await?;
        assert_eq!(withdrawals.len(), 2);
        assert_eq!(stage.server.id(), process, "it was restarted");
        load.is_flawless()?;
        stage.oracle().await?;
        load.stop().await?;
        stage.close().await
    })
}
