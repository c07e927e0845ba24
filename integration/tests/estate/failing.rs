//! What nobody plans: crashes, tasks that hang, sick tasks, an address that is somebody else's now.
//!
//! Invariant: times count from the moment in which something went wrong, not from when somebody noticed.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use hyper::Method;
use integration::estate::CLUSTER;
use integration::http;
use integration::world::{StopPlan, Task, TaskSpec, World};

use crate::look;
use crate::report::{Bound, Row};
use crate::stage::Stage;

/// Kills the application of the oldest task; when it died.
async fn kill_oldest(stage: &Stage) -> anyhow::Result<(String, SystemTime)> {
    let task = stage.oldest(1).remove(0);
    let app = stage.estate.container(&task.arn, "app").await?;
    let at = SystemTime::now();
    stage.estate.engine.signal(&app, "SIGKILL").await?;
    Ok((task.arn.clone(), at))
}

/// Crashes, one after the other; what each application had in flight may be lost.
async fn crashes(stage: &mut Stage, count: usize, withdrawn: Duration) -> anyhow::Result<Row> {
    let mark = stage.mark().await?;
    let mut died = Vec::new();
    for _ in 0..count {
        let (arn, at) = kill_oldest(stage).await?;
        stage.over(&arn).await?;
        stage.estate.settled("payments").await?;
        stage.rotation("payments").await?;
        stage.synced().await?;
        died.push((arn, at));
    }
    let mut row = stage.since(mark).await?;
    for (arn, at) in &died {
        row.withdrawn.push(stage.withdrawn(arn, *at).await?);
        row.last_request.push(stage.last_request(arn, *at));
    }
    row.bound.withdrawn = Some(withdrawn);
    let died: Vec<_> = died.into_iter().map(|(_, at)| at).collect();
    look::only_what_was_in_flight(&mut row, &died, stage.sizes.share());
    Ok(row)
}

/// Applications die, and ECS notices at once. What was in flight may be lost; what comes later is repeated elsewhere.
pub(crate) async fn crash(stage: &mut Stage) -> anyhow::Result<Row> {
    crashes(stage, stage.sizes.stops, Duration::from_secs(1)).await
}

/// ECS notices only after ten seconds, as Fargate has been seen to: until then sidecars help themselves.
pub(crate) async fn late_crash(stage: &mut Stage) -> anyhow::Result<Row> {
    let late = Duration::from_secs(10);
    stage.estate.agent().notice_after(late);
    let row = crashes(stage, 2, late * 2).await;
    stage.estate.agent().notice_after(Duration::ZERO);
    row
}

/// Tells an application how to be from now on.
async fn tell(task: &Task, path: &str) -> anyhow::Result<()> {
    let address = SocketAddr::from((task.ip, 8080));
    http::send(address, http::request(Method::POST, &address.to_string(), path)?).await.map(drop)
}

/// The application neither answers nor ends, until its health check tells. What it takes until then is lost, and nothing else.
pub(crate) async fn hang(stage: &mut Stage) -> anyhow::Result<Row> {
    let mark = stage.mark().await?;
    let task = stage.oldest(1).remove(0);
    let at = SystemTime::now();
    tell(&task, "/hang").await?;
    let told = |world: &World| world.task(&task.arn).is_some_and(|it| it.stopping.is_some());
    stage.estate.world.until(Duration::from_secs(60), told).await?;
    stage.estate.settled("payments").await?;
    stage.rotation("payments").await?;
    let withdrawn = vec![stage.withdrawn(&task.arn, at).await?];
    let row = stage.since(mark).await?;
    let last_request = vec![stage.last_request(&task.arn, at)];
    // Its share of the requests, for as long as the health check may take: two failures, each after two seconds and two more.
    let noticed = Duration::from_secs(10);
    let limit = Some(noticed);
    let bound = Bound {
        failed: u64::from(stage.sizes.share()) * noticed.as_secs(),
        withdrawn: limit,
        last_request: limit,
        ..Bound::default()
    };
    Ok(Row { withdrawn, last_request, bound, ..row })
}

/// The application answers, and its health check fails.
pub(crate) async fn unhealthy(stage: &mut Stage) -> anyhow::Result<Row> {
    let mark = stage.mark().await?;
    let task = stage.oldest(1).remove(0);
    let at = SystemTime::now();
    tell(&task, "/sick").await?;
    stage.over(&task.arn).await?;
    stage.estate.settled("payments").await?;
    stage.rotation("payments").await?;
    let mut row = stage.since(mark).await?;
    row.withdrawn.push(stage.withdrawn(&task.arn, at).await?);
    row.last_request.push(stage.last_request(&task.arn, at));
    let limit = Some(Duration::from_secs(10));
    Ok(Row { bound: Bound { withdrawn: limit, last_request: limit, ..Bound::default() }, ..row })
}

/// Another service gets the address of a stopped task at once, and no caller of the old one reaches it.
pub(crate) async fn reuse(stage: &mut Stage) -> anyhow::Result<Row> {
    let mark = stage.mark().await?;
    let world = stage.estate.world.clone();
    if world.service(CLUSTER, "squatter").is_none() {
        let definition = stage.estate.register(&stage.estate.called("squatter")?)?;
        stage.estate.create("squatter", &definition, 0)?;
    }
    let (mut stopped, mut squatters) = (Vec::new(), Vec::new());
    for _ in 0..stage.sizes.stops.div_ceil(2).min(5) {
        let task = stage.oldest(1).remove(0);
        world.stop_task(&task.arn, StopPlan::default())?;
        stage.over(&task.arn).await?;
        let spec = TaskSpec { ip: Some(task.ip), ..TaskSpec::of_service(CLUSTER, "squatter") };
        let squatter = world.start_task(spec)?;
        let ready = |world: &World| world.task(&squatter).is_some_and(|it| it.ready());
        world.until(Duration::from_secs(60), ready).await?;
        stopped.push(task.arn.clone());
        squatters.push(squatter);
        stage.callers.more(20).await?;
    }
    stage.estate.settled("payments").await?;
    let mut row = stage.since(mark).await?;
    stage.follow(&mut row, &stopped).await?;
    for squatter in squatters {
        world.stop_task(&squatter, StopPlan::default())?;
    }
    let misrouted = stage.callers.tally().await?.misrouted;
    anyhow::ensure!(misrouted == 0, "{misrouted} requests reached another service");
    row.note = format!("{} addresses were another service's at once; {}", stopped.len(), row.note);
    let limit = Some(Duration::from_millis(500));
    Ok(Row { bound: Bound { withdrawn: limit, last_request: limit, ..Bound::default() }, ..row })
}
