//! AWS's clock and ours are minutes apart: calls are signed so that AWS takes them, and events are believed as ever.

use std::time::Duration;

use anyhow::{Context, ensure};
use integration::aws::{FakeAws, Operation};
use integration::control_plane::{ControlPlane, Setup, Sources};
use integration::estate::NAMESPACE;
use integration::scene::play;
use integration::wait;
use integration::world::{
    AppProtocol, ContainerDefinition, DefinitionSpec, PortMapping, ServiceSpec, StopPlan, TaskSpec, World,
};

/// Long before the next reading, which comes after half a minute.
const SOON: Duration = Duration::from_secs(10);
const CLUSTER: &str = "c";
/// How far AWS is ahead, in seconds: more than a signature may be off.
const SKEWS: [i64; 2] = [420, -420];

#[test]
fn a_clock_that_is_minutes_off_changes_nothing() -> anyhow::Result<()> {
    play("skew", async |scene| {
        for ahead in SKEWS {
            let world = World::new();
            world.create_cluster(CLUSTER)?;
            let port = PortMapping::named("http", 8080, Some(AppProtocol::Http));
            world.register_definition(DefinitionSpec::new(
                "web",
                ContainerDefinition::new("app").port(port),
            ))?;
            let spec = ServiceSpec::new(CLUSTER, "web", "web", 2).settled();
            world.create_service(spec.tag("legation:namespace", NAMESPACE))?;
            let aws = FakeAws::start(world.clone()).await?;
            aws.put_clock_ahead(ahead);
            let sources = Sources { clusters: vec![CLUSTER.to_owned()], ..Sources::default() };
            let setup = Setup::aws(&aws.url()).hearing(aws.queue_url()).namespace(NAMESPACE, sources);
            let folder = scene.room(&format!("ahead-{ahead}"))?;
            let mut server = ControlPlane::start(&folder, &setup).await.context("a first reading")?;
            let healthy = async || {
                let answer = server.api(&format!("namespaces/{NAMESPACE}/services/web")).await?;
                answer["item"]["counts"]["healthy"].as_u64().with_context(|| format!("{answer}"))
            };
            ensure!(healthy().await? == 2);

            // Who is heard of for the first time is new, so nobody has to be asked.
            let asked = aws.calls(Operation::DescribeTasks);
            let new = world.start_task(TaskSpec::of_service(CLUSTER, "web"))?;
            let come = async || Ok((healthy().await? == 3).then_some(()));
            wait::until(SOON, format!("AWS {ahead} s ahead: the new task"), come).await?;
            ensure!(
                aws.calls(Operation::DescribeTasks) == asked,
                "AWS {ahead} s ahead: ECS was asked about it"
            );
            world.stop_task(&new, StopPlan::default())?;
            let gone = async || Ok((healthy().await? == 2).then_some(()));
            wait::until(SOON, format!("AWS {ahead} s ahead: the stopped task to leave"), gone).await?;
            let lag = server.metric(r#"legation_source_lag_seconds{queue="legation"}"#).await?;
            ensure!(lag.is_some_and(|lag| lag < 5.0), "AWS {ahead} s ahead: an event {lag:?} s old");
            server.stop().await?;
        }
        Ok(())
    })
}
