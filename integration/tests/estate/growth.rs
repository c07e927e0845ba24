//! What is new: a namespace, a service, two hundred services.
//!
//! Invariant: those who call payments lose nothing, whatever comes beside it.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use integration::aws::FakeAws;
use integration::docker::caller::Callers;
use integration::docker::definition::Definition;
use integration::docker::estate::{GATEWAY, calling, config};
use integration::docker::image;
use integration::estate::{CLUSTER, LARGE, NAMESPACE, ZONES, large};
use integration::world::{
    AppProtocol, ContainerDefinition, DefinitionSpec, PortMapping, Serve, ServiceSpec, StopPlan, World,
};

use crate::look::Mark;
use crate::report::{Bound, Row};
use crate::stage::Stage;

/// A namespace that no server knows yet.
const LATER: &str = "later";
const SERVICES: usize = 200;
const THOUSAND: usize = 1000;
const UP: Duration = Duration::from_secs(120);

/// Puts a task definition into that namespace.
fn of_later(definition: &mut Definition) {
    for container in &mut definition.container_definitions {
        container.docker_labels.insert("legation.namespace".to_owned(), LATER.to_owned());
    }
}

/// A sidecar of a namespace that no server knows waits, and its application with it. When servers know it, both come up.
pub(crate) async fn early(stage: &mut Stage) -> anyhow::Result<Row> {
    let mark = stage.mark().await?;
    let world = stage.estate.world.clone();
    let mut definition = calling("early", "books", 8080, 20, false)?;
    of_later(&mut definition);
    let calls = stage.estate.register(&definition)?;
    let create = |name: &str, definition: &str| -> anyhow::Result<Vec<String>> {
        let mut spec = ServiceSpec::new(CLUSTER, name, definition, 1).zones(&ZONES);
        spec.serve = Serve::Hosted;
        Ok(world.create_service(spec.tag("legation:namespace", LATER))?)
    };
    let caller = create("early", &calls)?.remove(0);
    let envoy_runs = async || stage.estate.container(&caller, "envoy").await.map(Some);
    integration::wait::until(UP, "the early sidecar", envoy_runs).await?;
    stage.callers.more(u64::from(stage.sizes.rate) * 3).await?;
    let comes = |world: &World| world.task(&caller).is_none_or(|task| task.started.is_some());
    anyhow::ensure!(!comes(&world), "the application came up before its sidecar had a configuration");

    let mut books = stage.estate.called("books")?;
    of_later(&mut books);
    let books = stage.estate.register(&books)?;
    create("books", &books)?;
    let began = Instant::now();
    for (server, number) in stage.servers.iter_mut().zip(1..) {
        server.stop().await?;
        server.configure(&stage.estate.config(number, &[NAMESPACE, LATER]))?;
        server.start().await?;
    }
    let tasks = stage.estate.settled("early").await.context("the early task")?;
    stage.estate.settled("books").await?;
    stage.rotation_in(LATER, "books").await?;
    let took = began.elapsed();
    let callers = Callers::at(tasks.iter().map(|task| task.ip)).await?;
    stage.hold_the_newest(&[caller]).await?;
    callers.begin(20).await?;
    callers.end().await?;
    let (own, _) = Mark::zero().row(&callers, "").await?;
    for name in ["early", "books"] {
        world.set_desired_count(CLUSTER, name, 0, StopPlan::default())?;
    }
    let mut row = stage.since(mark).await?;
    (row.requests, row.failed) = (row.requests + own.requests, row.failed + own.failed);
    row.note =
        format!("served {:.1} s after servers were told; {}{}", took.as_secs_f64(), own.note, row.note);
    let bound = Bound { took: Some(Duration::from_secs(60)), ..Bound::default() };
    Ok(Row { took: Some(took), bound, ..row })
}

/// A service that did not exist when its callers started is called by its name, without a restart of anything.
pub(crate) async fn new_service(stage: &mut Stage) -> anyhow::Result<Row> {
    let mark = stage.mark().await?;
    let world = stage.estate.world.clone();
    let mut all = Vec::new();
    for (name, proxy) in [("waiting-by-name", false), ("waiting-by-proxy", true)] {
        let definition = stage.estate.register(&calling(name, "ledger", 8080, 20, proxy)?)?;
        stage.estate.create(name, &definition, 1)?;
        all.extend(stage.estate.settled(name).await?);
    }
    let callers = Callers::at(all.iter().map(|task| task.ip)).await?;
    callers.tell_to_begin().await?;
    let ledger = stage.estate.register(&stage.estate.called("ledger")?)?;
    stage.estate.create("ledger", &ledger, 2)?;
    stage.estate.settled("ledger").await?;
    let began = Instant::now();
    callers.more(1).await?;
    let took = began.elapsed();
    // From here on they are callers like others.
    let known = Mark::now(&callers).await?;
    callers.more(100).await?;
    callers.end().await?;
    let (own, _) = known.row(&callers, "").await?;
    for name in ["waiting-by-name", "waiting-by-proxy", "ledger"] {
        world.set_desired_count(CLUSTER, name, 0, StopPlan::default())?;
    }
    let mut row = stage.since(mark).await?;
    (row.requests, row.failed) = (row.requests + own.requests, row.failed + own.failed);
    row.note = format!(
        "all reach it {:.1} s after its tasks were ready; {}{}",
        took.as_secs_f64(),
        own.note,
        row.note
    );
    let bound = Bound { took: Some(Duration::from_secs(15)), ..Bound::default() };
    Ok(Row { took: Some(took), bound, ..row })
}

/// A server starts that finds a thousand services of three tasks each, and reads them within half of what AWS allows.
pub(crate) async fn start_up(stage: &mut Stage) -> anyhow::Result<Row> {
    let mark = stage.mark().await?;
    let world = large(THOUSAND, 3)?;
    let mut aws = FakeAws::start_at(world.clone(), SocketAddr::from((GATEWAY, 0))).await?;
    aws.buckets().keep(100);
    let queue = aws.open_queue("legation-9", &world);
    let text = config(&aws.url(), &queue, &[NAMESPACE]).replace(CLUSTER, LARGE);
    let mut server = stage.estate.server_with(9, &text)?;
    let began = Instant::now();
    server.run(image::LEGATION).await?;
    server.answers().await?;
    let answers = began.elapsed();
    server.ready().await?;
    let ready = began.elapsed();
    let status = server.api("status").await?;
    anyhow::ensure!(status["item"]["services"] == THOUSAND, "{status}");
    server.stop().await?;
    aws.stop().await;
    let mut row = stage.since(mark).await?;
    row.note = format!(
        "it answers after {:.2} s, and has read all after {:.1} s; {}",
        answers.as_secs_f64(),
        ready.as_secs_f64(),
        row.note
    );
    let bound = Bound { took: Some(Duration::from_secs(60)), ..Bound::default() };
    Ok(Row { took: Some(ready), bound, ..row })
}

/// Two hundred services of three tasks each come, to which every live Envoy is told the way; tasks of them go.
pub(crate) async fn many(stage: &mut Stage) -> anyhow::Result<Row> {
    let mark = stage.mark().await?;
    let world = stage.estate.world.clone();
    let mut alone = stage.estate.called("fleet")?;
    alone.container_definitions.retain(|container| container.name != "app");
    let fleet = stage.estate.register(&alone)?;
    stage.estate.create("fleet", &fleet, stage.sizes.live)?;
    let fleet: Vec<String> =
        stage.estate.settled("fleet").await?.iter().map(|task| task.arn.clone()).collect();
    stage.hold_the_newest(&fleet).await?;

    let port = PortMapping::named("http", 8080, Some(AppProtocol::Http));
    world.register_definition(DefinitionSpec::new("listed", ContainerDefinition::new("app").port(port)))?;
    let began = Instant::now();
    for number in 0..SERVICES {
        let spec =
            ServiceSpec::new(CLUSTER, &format!("listed-{number:03}"), "listed", 3).zones(&ZONES).settled();
        world.create_service(spec.tag("legation:namespace", NAMESPACE))?;
    }
    let last = format!("listed-{:03}", SERVICES - 1);
    stage.rotation(&last).await?;
    stage.hold_the_newest(&fleet).await?;
    stage.synced().await?;
    let took = began.elapsed();
    let mut stopped: Vec<(String, SystemTime)> = Vec::new();
    for number in 0..stage.sizes.stops.max(10) {
        let task = world.tasks_of(CLUSTER, &format!("listed-{number:03}")).remove(0);
        stopped.push((task.arn.clone(), SystemTime::now()));
        world.stop_task(&task.arn, StopPlan::default())?;
        stage.callers.more(5).await?;
    }
    let mut row = stage.since(mark).await?;
    for (arn, at) in &stopped {
        row.withdrawn.push(stage.withdrawn(arn, *at).await?);
    }
    let envoys =
        fleet.len() + stage.estate.world.tasks_of(CLUSTER, "payments").len() + stage.sizes.callers as usize;
    row.note = format!(
        "{envoys} Envoys hold all {:.1} s after the first was created; {}",
        took.as_secs_f64(),
        row.note
    );
    world.set_desired_count(CLUSTER, "fleet", 0, StopPlan::default())?;
    for number in 0..SERVICES {
        world.delete_service(CLUSTER, &format!("listed-{number:03}"), StopPlan::default())?;
    }
    let bound = Bound {
        withdrawn: Some(Duration::from_millis(500)),
        took: Some(Duration::from_secs(30)),
        ..Bound::default()
    };
    Ok(Row { took: Some(took), bound, ..row })
}
