//! Control planes that end, fail, are replaced or cut off, and AWS that does not answer. None of it may cost a request.
//!
//! Invariant: what is taken away is there again when a scenario ends well.

use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use hyper::Method;
use integration::aws::Fault;
use integration::docker::image;
use integration::docker::network::Inside;
use integration::estate::CLUSTER;
use integration::wait;
use integration::world::StopPlan;

use crate::look::Mark;
use crate::report::{Bound, Row};
use crate::stage::Stage;

/// Envoy's own pages.
const ENVOY: u16 = 9901;

/// Callers go on for so long.
async fn meanwhile(stage: &Stage, period: Duration) -> anyhow::Result<()> {
    let began = Instant::now();
    while began.elapsed() < period {
        stage.callers.more(u64::from(stage.sizes.rate) / 2).await?;
    }
    Ok(())
}

/// Stops the oldest task: all is as ever, and nothing has failed since the mark.
async fn stop_one(stage: &mut Stage, mark: Mark) -> anyhow::Result<Row> {
    stage.synced().await?;
    let task = stage.oldest(1).remove(0);
    stage.estate.world.stop_task(&task.arn, StopPlan::default())?;
    stage.over(&task.arn).await?;
    stage.estate.settled("payments").await?;
    let mut row = stage.since(mark).await?;
    stage.follow(&mut row, std::slice::from_ref(&task.arn)).await?;
    let limit = Some(Duration::from_millis(500));
    Ok(Row { bound: Bound { withdrawn: limit, last_request: limit, ..Bound::default() }, ..row })
}

/// Both are killed, and come again.
pub(crate) async fn killed(stage: &mut Stage) -> anyhow::Result<Row> {
    let mark = stage.mark().await?;
    for server in &mut stage.servers {
        server.kill().await?;
    }
    let outage = stage.sizes.outage;
    meanwhile(stage, outage).await?;
    for server in &mut stage.servers {
        server.start().await?;
    }
    let row = stop_one(stage, mark).await?;
    let note = format!("none for {} s, then a stop as ever; {}", outage.as_secs(), row.note);
    Ok(Row { note, ..row })
}

/// One after the other is replaced, in place of the next release by the same.
pub(crate) async fn upgraded(stage: &mut Stage) -> anyhow::Result<Row> {
    let mark = stage.mark().await?;
    for number in 0..stage.servers.len() {
        let server = &mut stage.servers[number];
        server.stop().await?;
        server.run(image::NEXT).await?;
        server.ready().await?;
        stage.synced().await?;
    }
    let row = stop_one(stage, mark).await?;
    let note = format!("the other image holds the same program; a stop as ever; {}", row.note);
    Ok(Row { note, ..row })
}

/// One of two is killed, and a task is stopped at that very moment: its sidecars go to the other, and learn of it there.
pub(crate) async fn failover(stage: &mut Stage) -> anyhow::Result<Row> {
    let mark = stage.mark().await?;
    stage.servers[0].kill().await?;
    let task = stage.oldest(1).remove(0);
    let at = SystemTime::now();
    stage.estate.world.stop_task(&task.arn, StopPlan::default())?;
    stage.synced().await?;
    let withdrawn = at.elapsed().unwrap_or_default();
    stage.over(&task.arn).await?;
    stage.estate.settled("payments").await?;
    let mut row = stage.since(mark).await?;
    row.withdrawn.push(withdrawn);
    row.last_request.push(stage.last_request(&task.arn, at));
    stage.servers[0].start().await?;
    row.note = format!("withdrawn: until all are at the other, synced; {}", row.note);
    let limit = Some(Duration::from_secs(5));
    Ok(Row { bound: Bound { withdrawn: limit, last_request: limit, ..Bound::default() }, ..row })
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
            stage.cut_off(inside, *server).await?;
        }
        cut.push(inside);
    }
    let stopped = stage.oldest(1).remove(0);
    let at = SystemTime::now();
    stage.estate.world.stop_task(&stopped.arn, StopPlan::default())?;
    let outage = stage.sizes.outage;
    meanwhile(stage, outage).await?;
    let address = stopped.ip.to_string();
    for inside in &cut {
        anyhow::ensure!(holds(*inside, &address).await?, "a sidecar learned of the stop through the cut");
    }
    stage.heal().await?;
    stage.over(&stopped.arn).await?;
    stage.estate.settled("payments").await?;
    stage.synced().await?;
    for inside in &cut {
        wait::until(Duration::from_secs(60), "a healed sidecar to let go", async || {
            Ok((!holds(*inside, &address).await?).then_some(()))
        })
        .await?;
    }
    let mut row = stage.since(mark).await?;
    row.last_request.push(stage.last_request(&stopped.arn, at));
    row.note = format!(
        "{} sidecars cut off for {} s kept the stopped task until then; {}",
        cut.len(),
        outage.as_secs(),
        row.note
    );
    Ok(Row { bound: Bound::default(), ..row })
}

/// Whether an Envoy has an endpoint at this address.
async fn holds(envoy: Inside, address: &str) -> anyhow::Result<bool> {
    let answer = envoy.ask(Method::GET, ENVOY, "/clusters").await?;
    Ok(answer.text().contains(&format!("::{address}:")))
}

/// Nothing of AWS answers; nothing is taken away. Then it answers again, and the next stop is seen as ever.
pub(crate) async fn without_aws(stage: &mut Stage) -> anyhow::Result<Row> {
    let mark = stage.mark().await?;
    let faults = stage.estate.aws.faults();
    faults.set(Fault::Outage);
    let outage = stage.sizes.outage;
    meanwhile(stage, outage).await?;
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
    let row = stop_one(stage, mark).await?;
    let note = format!("no answer for {} s, then a stop as ever; {}", outage.as_secs(), row.note);
    Ok(Row { note, ..row })
}
