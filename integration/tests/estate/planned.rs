//! What ECS plans: deployments, scaling, stops. None of it may cost a request.
//!
//! Invariant: a row is measured once every stopped task is over.

use std::time::Duration;

use integration::estate::CLUSTER;
use integration::world::{StopPlan, TaskSpec};

use crate::look::Mark;
use crate::report::{Bound, Row};
use crate::stage::Stage;

/// From the stop to the last ACK.
const WITHDRAWN: Duration = Duration::from_millis(500);
/// Tasks that a deployment starts at a time.
const AT_A_TIME: usize = 4;

/// What came of stopped tasks, once there were requests enough.
async fn row(stage: &mut Stage, mark: Mark, stopped: &[String]) -> anyhow::Result<Row> {
    for arn in stopped {
        stage.over(arn).await?;
    }
    mark.enough(&stage.callers, stage.sizes.requests).await?;
    let mut row = stage.since(mark).await?;
    stage.follow(&mut row, stopped).await?;
    let (requests, limit) = (stage.sizes.requests, Some(WITHDRAWN));
    Ok(Row { bound: Bound { withdrawn: limit, last_request: limit, requests, ..Bound::default() }, ..row })
}

/// Every task is replaced by one of the next revision: new ones come up first, old ones go as these are ready.
pub(crate) async fn roll(stage: &mut Stage) -> anyhow::Result<Row> {
    let mark = stage.mark().await?;
    let next = stage.estate.register(&stage.estate.called("payments")?)?;
    let world = stage.estate.world.clone();
    let mut old = stage.oldest(usize::MAX);
    let stopped: Vec<String> = old.iter().map(|task| task.arn.clone()).collect();
    world.begin_deployment(CLUSTER, "payments", &next, None)?;
    while !old.is_empty() {
        let batch: Vec<_> = old.drain(..AT_A_TIME.min(old.len())).collect();
        let mut new = Vec::new();
        for task in &batch {
            let spec =
                TaskSpec { zone: Some(task.zone.clone()), ..TaskSpec::of_service(CLUSTER, "payments") };
            new.push(world.start_task(spec)?);
        }
        let ready = |world: &integration::world::World| {
            new.iter().all(|arn| world.task(arn).is_some_and(|task| task.ready()))
        };
        world.until(Duration::from_secs(120), ready).await?;
        for task in &batch {
            world.stop_task(&task.arn, StopPlan::default().by_scheduler())?;
        }
    }
    row(stage, mark, &stopped).await
}

/// Twice as many tasks, and as many as before.
pub(crate) async fn scale(stage: &mut Stage) -> anyhow::Result<Row> {
    let mark = stage.mark().await?;
    let (world, count) = (stage.estate.world.clone(), stage.sizes.tasks);
    let more = count + count / 2;
    world.set_desired_count(CLUSTER, "payments", more, StopPlan::default())?;
    stage.estate.settled("payments").await?;
    stage.rotation("payments").await?;
    stage.synced().await?;
    let stopped = world.set_desired_count(CLUSTER, "payments", count, StopPlan::default())?;
    row(stage, mark, &stopped).await
}

/// Somebody stops tasks, and ECS replaces them.
pub(crate) async fn stop(stage: &mut Stage) -> anyhow::Result<Row> {
    let mark = stage.mark().await?;
    let mut stopped = Vec::new();
    while stopped.len() < stage.sizes.stops {
        let pair = stage.oldest(2.min(stage.sizes.stops - stopped.len()));
        for task in &pair {
            stage.estate.world.stop_task(&task.arn, StopPlan::default())?;
            stopped.push(task.arn.clone());
        }
        stage.estate.settled("payments").await?;
        stage.rotation("payments").await?;
        stage.synced().await?;
    }
    row(stage, mark, &stopped).await
}
