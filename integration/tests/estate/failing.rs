//! What nobody plans: crashes, tasks that hang, sick tasks, an address that is somebody else's now.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use hyper::Method;
use integration::docker::estate::called;
use integration::estate::CLUSTER;
use integration::http;
use integration::world::{StopPlan, Task, TaskSpec};

use crate::report::{Bound, Row};
use crate::stage::Stage;

/// Connections that each caller keeps.
const CONNECTIONS: u64 = 4;

/// Kills the application of the oldest task; when it died.
async fn kill_oldest(stage: &Stage) -> anyhow::Result<(String, SystemTime)> {
    let task = stage.oldest(1).remove(0);
    let app = stage.estate.container(&task.arn, "app").await?;
    let at = SystemTime::now();
    stage.estate.engine.signal(&app, "SIGKILL").await?;
    Ok((task.arn.clone(), at))
}

/// Crashes, one after the other; what is measured counts from the death.
async fn crashes(stage: &mut Stage, count: usize) -> anyhow::Result<Row> {
    let mark = stage.mark().await?;
    let mut died = Vec::new();
    for _ in 0..count {
        died.push(kill_oldest(stage).await?);
        let (arn, _) = &died[died.len() - 1];
        stage.over(arn).await?;
        stage.estate.settled("payments").await?;
        stage.rotation("payments").await?;
        stage.synced().await?;
    }
    let mut row = stage.since(&mark).await?;
    for (arn, at) in died {
        row.withdrawn.push(stage.withdrawn(&arn, at).await?);
        row.last_request.push(stage.last_request(&arn, at).await?);
    }
    Ok(row)
}

/// Applications die, and ECS notices at once. What was in flight is repeated elsewhere.
pub(crate) async fn crash(stage: &mut Stage) -> anyhow::Result<Row> {
    let count = stage.sizes.stops;
    let row = crashes(stage, count).await?;
    let failed = count as u64 * u64::from(stage.sizes.callers);
    Ok(Row { bound: Bound { failed, withdrawn: Some(Duration::from_secs(1)), requests: 0 }, ..row })
}

/// ECS notices only after ten seconds, as Fargate has been seen to: until then sidecars help themselves.
pub(crate) async fn late_crash(stage: &mut Stage) -> anyhow::Result<Row> {
    let late = Duration::from_secs(10);
    stage.estate.agent().notice_after(late);
    let row = crashes(stage, 2).await;
    stage.estate.agent().notice_after(Duration::ZERO);
    let bound = Bound { failed: 2 * u64::from(stage.sizes.callers), withdrawn: Some(late * 2), requests: 0 };
    Ok(Row { bound, ..row? })
}

/// The application neither answers nor ends, until its health check tells. Each connection loses one request to it.
pub(crate) async fn hang(stage: &mut Stage) -> anyhow::Result<Row> {
    let mark = stage.mark().await?;
    let task = stage.oldest(1).remove(0);
    let app = stage.estate.container(&task.arn, "app").await?;
    let at = SystemTime::now();
    stage.estate.engine.freeze(&app).await?;
    let replaced =
        |world: &integration::world::World| world.task(&task.arn).is_some_and(|it| it.stopping.is_some());
    stage.estate.world.until(Duration::from_secs(60), replaced).await?;
    stage.estate.settled("payments").await?;
    stage.rotation("payments").await?;
    let withdrawn = vec![stage.withdrawn(&task.arn, at).await?];
    // Longer than a request may take: what it holds has failed by then.
    let requests = u64::from(stage.sizes.callers * stage.sizes.rate) * 16;
    stage.enough(&mark, requests).await?;
    let row = stage.since(&mark).await?;
    let last_request = vec![stage.last_request(&task.arn, at).await?];
    let failed = CONNECTIONS * u64::from(stage.sizes.callers);
    let bound = Bound { failed, withdrawn: Some(Duration::from_secs(20)), requests };
    Ok(Row { withdrawn, last_request, bound, ..row })
}

/// The application answers, and its health check fails.
pub(crate) async fn unhealthy(stage: &mut Stage) -> anyhow::Result<Row> {
    let mark = stage.mark().await?;
    let task: std::sync::Arc<Task> = stage.oldest(1).remove(0);
    let address = SocketAddr::from((task.ip, 8080));
    let at = SystemTime::now();
    http::send(address, http::request(Method::POST, &address.to_string(), "/sick")?).await?;
    stage.over(&task.arn).await?;
    stage.estate.settled("payments").await?;
    stage.rotation("payments").await?;
    let mut row = stage.since(&mark).await?;
    row.withdrawn.push(stage.withdrawn(&task.arn, at).await?);
    row.last_request.push(stage.last_request(&task.arn, at).await?);
    Ok(Row { bound: Bound { failed: 0, withdrawn: Some(Duration::from_secs(15)), requests: 0 }, ..row })
}

/// Another service gets the address of a stopped task at once, and no caller of the old one reaches it.
pub(crate) async fn reuse(stage: &mut Stage) -> anyhow::Result<Row> {
    let mark = stage.mark().await?;
    let world = stage.estate.world.clone();
    if world.service(CLUSTER, "squatter").is_none() {
        let definition = stage.estate.register(&called("squatter")?)?;
        stage.estate.create("squatter", &definition, 0)?;
    }
    let (mut stopped, mut squatters) = (Vec::new(), Vec::new());
    for _ in 0..stage.sizes.stops.min(5) {
        let task = stage.oldest(1).remove(0);
        world.stop_task(&task.arn, StopPlan::default())?;
        stage.over(&task.arn).await?;
        let spec = TaskSpec { ip: Some(task.ip), ..TaskSpec::of_service(CLUSTER, "squatter") };
        let squatter = world.start_task(spec)?;
        let ready = |world: &integration::world::World| world.task(&squatter).is_some_and(|it| it.ready());
        world.until(Duration::from_secs(60), ready).await?;
        stopped.push(task.arn.clone());
        squatters.push(squatter);
        stage.callers.more(20).await?;
    }
    stage.estate.settled("payments").await?;
    let mut row = stage.since(&mark).await?;
    stage.follow(&mut row, &stopped).await?;
    for squatter in squatters {
        world.stop_task(&squatter, StopPlan::default())?;
    }
    let misrouted = stage.callers.tally().await?.misrouted;
    anyhow::ensure!(misrouted == 0, "{misrouted} requests reached another service");
    let note = format!("{} addresses were another service's at once; {}", stopped.len(), row.note);
    Ok(Row {
        bound: Bound { failed: 0, withdrawn: Some(Duration::from_millis(500)), requests: 0 },
        note,
        ..row
    })
}
