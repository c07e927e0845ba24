//! What looks as if it were gone and need not be: a sidecar that leaves, an answer that lacks much.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, ensure};
use integration::aws::{Delivery, FakeAws, Fault, Operation};
use integration::control_plane::{ControlPlane, Setup, Sources};
use integration::estate::{CLUSTER, NAMESPACE};
use integration::scene::play;
use integration::stage::{Knowledge, Stage};
use integration::wait;
use integration::world::{HealthCheck, NamespaceKind, ServiceSpec, StopPlan, TaskSpec, World};
use legation::snapshot::ResourceType;

use crate::ads::Ads;

/// Long before the next reading, which comes after half a minute.
const SOON: Duration = Duration::from_secs(5);
const MEMBERS: u8 = 5;

#[test]
fn a_stream_that_ends_has_its_task_asked_about() -> anyhow::Result<()> {
    play("hint", async |scene| {
        let stage = Stage::open(scene.folder(), Knowledge::Events, None).await?;
        stage.payments_settled().await?;
        // Nothing but the hint tells of what follows.
        stage.aws.queue().deliver(Delivery { lost: 1.0, ..Delivery::default() });
        let task = stage.prod.payments.running().first().context("payments has no task")?.arn.clone();
        let is_in_rotation =
            async || anyhow::Ok(stage.rotation("payments").await?.iter().any(|one| one.contains(&task)));

        let asked = stage.aws.calls(Operation::DescribeTasks);
        let mut sidecar = Ads::open(stage.server.xds(), &task, NAMESPACE).await?;
        sidecar.hold(ResourceType::Cluster, 1).await?;
        drop(sidecar);
        let is_asked = async || Ok((stage.aws.calls(Operation::DescribeTasks) > asked).then_some(()));
        wait::until(SOON, "the task whose sidecar went to be asked about", is_asked).await?;
        ensure!(is_in_rotation().await?, "a hint withdrew it");

        let mut sidecar = Ads::open(stage.server.xds(), &task, NAMESPACE).await?;
        sidecar.hold(ResourceType::Cluster, 1).await?;
        stage.prod.world.stop_task(&task, StopPlan::hold(SOON * 4))?;
        ensure!(is_in_rotation().await?, "an event told it");
        drop(sidecar);
        let is_out = async || Ok((!is_in_rotation().await?).then_some(()));
        wait::until(SOON, "the stopped task to leave", is_out).await?;
        stage.close().await
    })
}

#[test]
fn an_address_that_another_service_got_takes_no_requests_of_the_first() -> anyhow::Result<()> {
    play("reuse", async |scene| {
        let mut stage = Stage::open(scene.folder(), Knowledge::Events, None).await?;
        stage.start_sidecars(1).await?;
        let load = stage.load(stage.payments_ways().await?).await?;
        load.more(50).await?;
        let world = stage.prod.world.clone();
        let old = stage.prod.payments.running().first().context("payments has no task")?.clone();
        let family = &stage.prod.payments.family;
        world.create_service(
            ServiceSpec::new(CLUSTER, "audit", family, 0)
                .tag("legation:namespace", NAMESPACE)
                .zones(&[&old.zone]) // an address stays in its subnet
                .served(),
        )?;
        // An event of a service that nobody knows asks for a reading, and a reading would see the stop.
        world.start_task(TaskSpec::of_service(CLUSTER, "audit"))?;
        wait::until(SOON * 4, "audit to be known", async || {
            let services = stage.server.items(&format!("namespaces/{NAMESPACE}/services")).await?;
            Ok(services.iter().any(|service| service["name"] == "audit").then_some(()))
        })
        .await?;

        // Nobody hears that the old one stops; that a new one began at its address is heard.
        stage.aws.queue().deliver(Delivery { lost: 1.0, ..Delivery::default() });
        world.stop_task(&old.arn, StopPlan::default())?;
        world.until(SOON, |world| world.task(&old.arn).is_some_and(|task| task.closed.is_some())).await?;
        tokio::time::sleep(SOON).await; // how soon an address was seen again
        stage.aws.queue().deliver(Delivery::default());
        let new =
            world.start_task(TaskSpec { ip: Some(old.ip), ..TaskSpec::of_service(CLUSTER, "audit") })?;
        let runs = |world: &World| world.task(&new).is_some_and(|task| task.ready());
        world.until(SOON, runs).await.context("the new task")?;
        load.more(500).await?;
        let task = world.task(&new).context("the new task is forgotten")?;
        ensure!(task.log.requests() == 0, "{} requests of payments came to audit", task.log.requests());
        let service = stage.server.api(&format!("namespaces/{NAMESPACE}/services/payments")).await?;
        ensure!(service.to_string().contains("address-reused"), "{service}");
        load.stop().await?;
        stage.close().await
    })
}

/// A Cloud Map namespace of one service with some members, read every five seconds.
async fn read_slowly(folder: &std::path::Path, world: &World, aws: &FakeAws) -> anyhow::Result<ControlPlane> {
    let namespace = world.create_namespace("legacy", NamespaceKind::Http)?;
    let service = world.create_map_service(&namespace, "ledger", HealthCheck::None)?;
    for member in 1..=MEMBERS {
        world.register_address(&service, &format!("i-{member}"), Ipv4Addr::new(10, 9, 8, member), 8080)?;
    }
    let sources = Sources { cloud_map: vec!["legacy".to_owned()], ..Sources::default() };
    let setup = Setup { interval: SOON, ..Setup::aws(&aws.url()).namespace("prod", sources) };
    ControlPlane::start(folder, &setup).await
}

async fn in_rotation(server: &ControlPlane) -> anyhow::Result<u64> {
    let services = server.items("namespaces/prod/services").await?;
    let count = services.first().and_then(|service| service["counts"]["healthy"].as_u64());
    count.with_context(|| format!("no service: {services:?}"))
}

async fn held_is_shown(server: &ControlPlane) -> anyhow::Result<()> {
    wait::until(SOON * 3, "the finding of what is held", async || {
        let findings = server.items("findings").await?;
        Ok(findings.iter().any(|finding| finding["code"] == "SRC003").then_some(()))
    })
    .await
}

#[test]
fn an_answer_that_lacks_everything_is_not_believed_at_once() -> anyhow::Result<()> {
    play("guard", async |scene| {
        let world = World::new();
        let aws = FakeAws::start(world.clone()).await?;
        let mut server = read_slowly(scene.folder(), &world, &aws).await?;
        ensure!(in_rotation(&server).await? == u64::from(MEMBERS));

        // One answer is empty, and the next is not.
        aws.faults().set_times(Operation::DiscoverInstances, Fault::Empty, 1);
        held_is_shown(&server).await?;
        ensure!(in_rotation(&server).await? == u64::from(MEMBERS), "an empty answer was believed");
        let endpoints = server.api("namespaces/prod/services/ledger").await?.to_string();
        ensure!(endpoints.contains("withdrawal-held"), "{endpoints}");
        let none = async || {
            let findings = server.items("findings").await?;
            Ok((!findings.iter().any(|finding| finding["code"] == "SRC003")).then_some(()))
        };
        wait::until(SOON * 3, "the finding to go", none).await?;
        ensure!(server.items("changes").await?.is_empty(), "something was withdrawn");

        // Now they are gone, and someone knows it.
        aws.faults().set_for(Operation::DiscoverInstances, Fault::Empty);
        held_is_shown(&server).await?;
        let admin = format!("http://{}", server.admin());
        let said = server.command(&["release", "cloudmap/prod/legacy", "--server", &admin])?;
        ensure!(said.contains("cloudmap/prod/legacy"), "{said}");
        let gone = async || Ok((in_rotation(&server).await? == 0).then_some(()));
        wait::until(Duration::from_secs(2), "the released members to leave", gone).await?;
        server.stop().await
    })
}
