//! Control planes that end, fail, are replaced or cut off, and AWS that does not answer. None of it may cost a request.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context;
use integration::aws::Fault;
use integration::docker::image;
use integration::estate::CLUSTER;
use integration::wait;
use integration::world::StopPlan;

use crate::report::{Bound, Row};
use crate::stage::Stage;

/// Nothing fails; what is withdrawn afterwards is withdrawn as soon as ever.
fn bound(withdrawn: Option<Duration>) -> Bound {
    Bound { failed: 0, withdrawn, requests: 0 }
}

/// Callers go on for so long.
async fn meanwhile(stage: &Stage, period: Duration) -> anyhow::Result<()> {
    let rate = u64::from(stage.sizes.rate);
    let seconds = period.as_secs().max(1);
    for _ in 0..seconds {
        stage.callers.more(rate * 9 / 10).await?;
    }
    Ok(())
}

/// Stops the oldest task, waits for its end, and adds what came of it.
async fn stop_one(stage: &Stage) -> anyhow::Result<Vec<String>> {
    let task = stage.oldest(1).remove(0);
    stage.estate.world.stop_task(&task.arn, StopPlan::default())?;
    stage.over(&task.arn).await?;
    stage.estate.settled("payments").await?;
    Ok(vec![task.arn.clone()])
}

/// Both are killed, and come again.
pub(crate) async fn killed(stage: &mut Stage) -> anyhow::Result<Row> {
    let mark = stage.mark().await?;
    for server in &mut stage.servers {
        server.kill().await?;
    }
    meanwhile(stage, stage.sizes.outage).await?;
    for server in &mut stage.servers {
        server.start().await?;
    }
    stage.synced().await?;
    let stopped = stop_one(stage).await?;
    let mut row = stage.since(&mark).await?;
    stage.follow(&mut row, &stopped).await?;
    Ok(Row { bound: bound(Some(Duration::from_millis(500))), ..row })
}

/// One after the other is replaced by the next release.
pub(crate) async fn upgraded(stage: &mut Stage) -> anyhow::Result<Row> {
    let mark = stage.mark().await?;
    for number in 0..stage.servers.len() {
        let server = &mut stage.servers[number];
        server.stop().await?;
        server.run(image::NEXT).await?;
        server.ready().await?;
        stage.synced().await?;
    }
    let stopped = stop_one(stage).await?;
    let mut row = stage.since(&mark).await?;
    stage.follow(&mut row, &stopped).await?;
    Ok(Row { bound: bound(Some(Duration::from_millis(500))), ..row })
}

/// One of two is killed, and a task is stopped at that very moment: its sidecars go to the other.
pub(crate) async fn failover(stage: &mut Stage) -> anyhow::Result<Row> {
    let mark = stage.mark().await?;
    stage.servers[0].kill().await?;
    let task = stage.oldest(1).remove(0);
    stage.estate.world.stop_task(&task.arn, StopPlan::default())?;
    stage.over(&task.arn).await?;
    stage.estate.settled("payments").await?;
    stage.synced().await?;
    let mut row = stage.since(&mark).await?;
    stage.follow(&mut row, std::slice::from_ref(&task.arn)).await?;
    stage.servers[0].start().await?;
    Ok(Row { bound: bound(Some(Duration::from_secs(5))), ..row })
}

/// Both are cut off from those who call by name, without a word; a task is stopped meanwhile; then the network heals.
pub(crate) async fn partition(stage: &mut Stage) -> anyhow::Result<Row> {
    let mark = stage.mark().await?;
    let servers: Vec<IpAddr> = stage.servers.iter().map(|server| server.ip().into()).collect();
    let mut cut = Vec::new();
    for task in stage.estate.world.tasks_of(CLUSTER, "checkout") {
        let envoy = stage.estate.container(&task.arn, "envoy").await?;
        let inside = stage.estate.engine.inside(&envoy).await?;
        for server in &servers {
            inside.cut_off(*server).await?;
        }
        cut.push(inside);
    }
    let stopped = stage.oldest(1).remove(0);
    stage.estate.world.stop_task(&stopped.arn, StopPlan::default())?;
    meanwhile(stage, stage.sizes.outage).await?;
    for inside in &cut {
        for server in &servers {
            inside.heal(*server).await?;
        }
    }
    stage.over(&stopped.arn).await?;
    stage.estate.settled("payments").await?;
    stage.synced().await?;
    let mut row = stage.since(&mark).await?;
    let at =
        stage.task(&stopped.arn)?.stopping.map(|stamp| stamp.wall).unwrap_or_else(std::time::SystemTime::now);
    row.last_request.push(stage.last_request(&stopped.arn, at).await?);
    row.note = format!("{} sidecars kept what they had, a stopped task in it; {}", cut.len(), row.note);
    Ok(Row { bound: bound(None), ..row })
}

/// Nothing of AWS answers; nothing is taken away. Then it answers again, and the next stop is seen as ever.
pub(crate) async fn without_aws(stage: &mut Stage) -> anyhow::Result<Row> {
    let mark = stage.mark().await?;
    let faults = stage.estate.aws.faults();
    faults.set(Fault::Outage);
    meanwhile(stage, stage.sizes.outage).await?;
    stage.rotation("payments").await?;
    faults.clear();
    wait::until(Duration::from_secs(120), "sources that are well again", async || {
        for server in stage.up() {
            let status = server.api("status").await?;
            let sources = status["item"]["sources"].as_array().context("a status without sources")?;
            anyhow::ensure!(sources.iter().all(|source| source["failing"].is_null()), "{sources:?}");
        }
        Ok(Some(()))
    })
    .await?;
    let stopped = stop_one(stage).await?;
    let mut row = stage.since(&mark).await?;
    stage.follow(&mut row, &stopped).await?;
    Ok(Row { bound: bound(Some(Duration::from_millis(500))), ..row })
}
