//! A thousand services of twenty tasks: what one stopped task costs on the wire, and that bytes are the
//! same in every process, however the world came about.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use integration::aws::FakeAws;
use integration::control_plane::{ControlPlane, Setup, Sources};
use integration::scene::play;
use integration::world::{
    AppProtocol, ContainerDefinition, DefinitionSpec, PortMapping, ServiceSpec, StopPlan, TaskSpec, World,
};
use legation::snapshot::ResourceType;

use crate::ads::{Ads, Received};

const SERVICES: usize = 1000;
const TASKS: usize = 20;
const CLUSTER: &str = "large-a";
const ZONES: [&str; 3] = ["eu-west-1a", "eu-west-1b", "eu-west-1c"];
/// One reading takes hundreds of calls.
const READING: Duration = Duration::from_secs(180);

fn name(service: usize) -> String {
    format!("service-{service:04}")
}

/// The same services and tasks, created in the order that `place` gives.
fn large_world(place: impl Fn(usize) -> usize) -> anyhow::Result<World> {
    let world = World::new();
    world.create_cluster(CLUSTER)?;
    let port = PortMapping::named("http", 8080, Some(AppProtocol::Http));
    world.register_definition(DefinitionSpec::new("app", ContainerDefinition::new("app").port(port)))?;
    let services: Vec<_> = (0..SERVICES).map(&place).collect();
    for service in &services {
        let spec = ServiceSpec::new(CLUSTER, &name(*service), "app", 0).zones(&ZONES).settled();
        world.create_service(spec.tag("legation:namespace", "large"))?;
    }
    for number in (0..SERVICES * TASKS).map(|number| services[number % SERVICES] * TASKS + number / SERVICES)
    {
        let (service, task) = (number / TASKS, number % TASKS);
        let [_, b, c, d] = u32::try_from(number)?.to_be_bytes();
        world.start_task(TaskSpec {
            ip: Some(Ipv4Addr::new(10, b, c, d)),
            zone: Some(ZONES[task % ZONES.len()].to_owned()),
            settled: true,
            ..TaskSpec::of_service(CLUSTER, &name(service))
        })?;
    }
    Ok(world)
}

async fn serve(folder: &Path, aws: &FakeAws) -> anyhow::Result<ControlPlane> {
    let sources = Sources { clusters: vec![CLUSTER.to_owned()], ..Sources::default() };
    let mut server = ControlPlane::prepare(folder, &Setup::aws(&aws.url()).namespace("large", sources))?;
    let started = Instant::now();
    server.run().await?;
    server.ready_within(READING).await?;
    println!("{} tasks read and translated after {:?}", SERVICES * TASKS, started.elapsed());
    Ok(server)
}

/// Everything that a server sends to one that asks for everything.
async fn everything(server: &ControlPlane) -> anyhow::Result<Ads> {
    let mut ads = Ads::open(server.xds(), "wire-1", "large").await?;
    ads.hold_everything(SERVICES, SERVICES + 1).await?;
    Ok(ads)
}

type Held = BTreeMap<(ResourceType, String), String>;

fn differences(one: &Held, other: &Held) -> Vec<String> {
    let differs = |(key, version): (&(ResourceType, String), &String)| {
        (other.get(key) != Some(version)).then(|| format!("{key:?}: {version} and {:?}", other.get(key)))
    };
    one.iter().filter_map(differs).take(5).collect()
}

#[test]
fn one_stopped_task_is_one_resource_on_the_wire_and_every_process_gives_the_same() -> anyhow::Result<()> {
    play("wire", async |scene| {
        let world = large_world(|service| service)?;
        let aws = FakeAws::start(world.clone()).await?;
        let mut server = serve(&scene.room("first")?, &aws).await?;
        let mut ads = everything(&server).await?;
        assert_eq!(ads.held.len(), 4 * SERVICES + 2, "clusters, assignments, listeners, routes");

        // A second process over the same world.
        let mut second = serve(&scene.room("second")?, &aws).await?;
        let same = everything(&second).await?.held;
        assert_eq!(differences(&ads.held, &same), [""; 0], "two processes, two versions");
        assert_eq!(same.len(), ads.held.len());
        second.stop().await?;

        // One task after the other: were there anything between two withdrawals, it would come first.
        for service in [123, 777, 124] {
            let task = world.tasks_of(CLUSTER, &name(service))[7].arn.clone();
            let before = ads.held.clone();
            world.stop_task(&task, StopPlan::default())?;
            let assignment = format!("large/{}", name(service));
            let expected = Received {
                kind: ResourceType::Endpoint,
                names: vec![assignment.clone()],
                removed: Vec::new(),
            };
            assert_eq!(ads.next().await?, expected);
            let key = (ResourceType::Endpoint, assignment);
            assert_ne!(ads.held[&key], before[&key], "the same version again");
        }
        let proxies = server.items("proxies").await?;
        let sent: u64 = proxies[0]["types"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|status| status["resources"].as_u64())
            .sum();
        assert_eq!(sent, ads.held.len() as u64 + 3, "the server counts what travelled");
        server.stop().await?;
        drop(aws);

        // Another world with the same content, created in another order, with other task ids.
        let shuffled = large_world(|service| (service * 617 + 41) % SERVICES)?;
        for service in [123, 777, 124] {
            let gone = world.tasks_of(CLUSTER, &name(service));
            let extra = shuffled.tasks_of(CLUSTER, &name(service));
            let extra = extra.iter().find(|task| gone.iter().all(|other| other.ip != task.ip));
            let extra = extra.ok_or_else(|| anyhow::anyhow!("both have the same tasks"))?;
            shuffled.stop_task(&extra.arn, StopPlan::default())?;
        }
        let aws = FakeAws::start(shuffled).await?;
        let mut third = serve(&scene.room("third")?, &aws).await?;
        let other = everything(&third).await?.held;
        assert_eq!(differences(&ads.held, &other), [""; 0], "another order, other versions");
        assert_eq!(other.len(), ads.held.len());
        third.stop().await
    })
}
