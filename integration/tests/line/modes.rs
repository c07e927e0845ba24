//! Network modes: tasks at addresses of their own, on ports of a machine that they share, and on a machine's own ports.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, ensure};
use axum::Router;
use axum::routing::get;
use integration::aws::{Delivery, FakeAws, Fault, Operation};
use integration::control_plane::{ControlPlane, Setup, Sidecar, Sources};
use integration::envoy::Envoy;
use integration::http;
use integration::load::{Load, Plan, Way};
use integration::scene::{Scene, play};
use integration::shop::Shop;
use integration::stage::PROXY;
use integration::wait;
use integration::world::{
    AppProtocol, ContainerDefinition, DefinitionSpec, NetworkMode, PortMapping, ServiceSpec, StopPlan,
    TaskSpec, World,
};

const CLUSTER: &str = "prod-a";
const NAMESPACE: &str = "prod";
const LIMIT: Duration = Duration::from_secs(20);
/// How long a task that stops keeps accepting.
const HOLD: Duration = Duration::from_secs(3);
/// How often each sort of instance was asked about.
const ASKS: [Operation; 2] = [Operation::DescribeContainerInstances, Operation::DescribeInstances];

/// A service for each network mode, and a sidecar that calls them.
struct Modes {
    world: World,
    aws: FakeAws,
    server: ControlPlane,
    envoy: Envoy,
}

fn serve(world: &World, name: &str, network: NetworkMode, count: u32) -> anyhow::Result<Vec<String>> {
    let port = PortMapping::named("http", 8080, Some(AppProtocol::Http));
    let definition = DefinitionSpec::new(name, ContainerDefinition::new("app").port(port));
    world.register_definition(definition.network(network))?;
    let service = ServiceSpec::new(CLUSTER, name, name, count).served().settled();
    Ok(world.create_service(service.tag("legation:namespace", NAMESPACE))?)
}

impl Modes {
    /// All of it, over a world with one machine.
    async fn open(scene: &Scene) -> anyhow::Result<Self> {
        let world = World::new();
        world.create_cluster(CLUSTER)?;
        world.add_machine(CLUSTER)?;
        serve(&world, "own", NetworkMode::Awsvpc, 1)?;
        serve(&world, "bridged", NetworkMode::Bridge, 2)?;
        serve(&world, "hosted", NetworkMode::Host, 1)?;
        let aws = FakeAws::start(world.clone()).await?;
        let sources = Sources { clusters: vec![CLUSTER.to_owned()], ..Sources::default() };
        let setup = Setup::aws(&aws.url()).hearing(aws.queue_url()).namespace(NAMESPACE, sources);
        let setup = Setup { interval: Duration::from_secs(5), ..setup };
        let server = ControlPlane::start(scene.folder(), &setup).await?;
        let sidecar = Sidecar {
            task: "till-1".to_owned(),
            namespace: NAMESPACE.to_owned(),
            service: "till".to_owned(),
            zone: "eu-west-1a".to_owned(),
            container_ports: Vec::new(),
        };
        let mut envoy = Envoy::start(scene.folder(), "till", &server.bootstrap(&sidecar)?).await?;
        envoy.live().await?;
        Ok(Self { world, aws, server, envoy })
    }

    /// The places of a service that are in rotation, in order.
    async fn rotation(&self, service: &str) -> anyhow::Result<Vec<String>> {
        let answer = self.server.api(&format!("namespaces/{NAMESPACE}/services/{service}")).await?;
        let endpoints = answer["item"]["endpoints"].as_array().context("no endpoints")?;
        let healthy = endpoints.iter().filter(|endpoint| endpoint["state"] == "healthy");
        let mut places: Vec<_> = healthy
            .map(|endpoint| format!("{}:{}", endpoint["address"].as_str().unwrap_or("-"), endpoint["port"]))
            .collect();
        places.sort();
        Ok(places)
    }

    /// Where the world has these tasks.
    fn places(&self, tasks: &[String]) -> anyhow::Result<Vec<String>> {
        let place = |task: &String| {
            let task = self.world.task(task).context("no such task")?;
            Ok(task.endpoint("http").context("no such port")?.to_string())
        };
        let mut places = tasks.iter().map(place).collect::<anyhow::Result<Vec<_>>>()?;
        places.sort();
        Ok(places)
    }

    async fn until_rotation_is(&self, service: &str, tasks: &[String]) -> anyhow::Result<()> {
        let expected = self.places(tasks)?;
        wait::until(LIMIT, format!("{service} to be at {expected:?}"), async || {
            let found = self.rotation(service).await?;
            ensure!(found == expected, "it is at {found:?}");
            Ok(Some(()))
        })
        .await
    }

    fn tasks(&self, service: &str) -> Vec<String> {
        self.world.tasks_of(CLUSTER, service).iter().map(|task| task.arn.clone()).collect()
    }

    async fn close(mut self) -> anyhow::Result<()> {
        let oracle = self.envoy.oracle().await?;
        ensure!(oracle.raised.is_empty(), "Envoy raised {:?}", oracle.raised);
        self.envoy.stop().await?;
        self.server.stop().await
    }
}

#[test]
fn every_mode_is_reached_and_a_stop_withdraws_one_of_two_on_a_machine() -> anyhow::Result<()> {
    play("modes", async |scene| {
        let stage = Modes::open(scene).await?;
        for service in ["own", "bridged", "hosted"] {
            stage.until_rotation_is(service, &stage.tasks(service)).await?;
        }
        let bridged = stage.tasks("bridged");
        let [leaving, staying] =
            [0, 1].map(|number| stage.world.task(&bridged[number]).expect("it is there"));
        ensure!(
            leaving.ip == staying.ip && leaving.host_port(8080) != staying.host_port(8080),
            "{bridged:?}"
        );

        let ways = ["own", "bridged", "hosted"].map(|name| match name {
            "own" => Way::proxy("own", PROXY, "own:8080"),
            "bridged" => Way::proxy("bridged", PROXY, "bridged:8080"),
            _ => Way::proxy("hosted", PROXY, "hosted:8080"),
        });
        let load = Load::start(Plan { ways: ways.into(), envoys: vec![stage.envoy.admin()] }).await?;
        load.more(100).await?;
        for task in ["own", "bridged", "hosted"].into_iter().flat_map(|service| stage.tasks(service)) {
            let task = stage.world.task(&task).context("no such task")?;
            ensure!(task.log.requests() > 0, "{} of {:?} got none", task.id, task.service);
        }

        stage.world.stop_task(&leaving.arn, StopPlan::hold(HOLD))?;
        stage.until_rotation_is("bridged", &bridged[1..]).await?;
        let stopped = |world: &World| world.task(&leaving.arn).is_some_and(|task| task.stopped.is_some());
        stage.world.until(HOLD * 3, stopped).await?;
        stage.until_rotation_is("bridged", &bridged[1..]).await?;
        load.more(100).await?;
        load.is_flawless()?;
        let changes = stage.server.items("changes").await?;
        let withdrawn: Vec<_> = changes.iter().map(|change| &change["instance"]).collect();
        ensure!(withdrawn == [&leaving.arn], "{withdrawn:?}");

        // Another comes to the machine, which costs no call; and one to a new machine, which costs one of each.
        let asks = || ASKS.map(|operation| stage.aws.calls(operation));
        ensure!(asks() == [1, 1], "{:?}", asks());
        stage.world.start_task(TaskSpec::of_service(CLUSTER, "bridged"))?;
        stage.until_rotation_is("bridged", &stage.tasks("bridged")).await?;
        ensure!(asks() == [1, 1], "{:?}", asks());
        stage.world.add_machine(CLUSTER)?;
        stage.world.start_task(TaskSpec::of_service(CLUSTER, "hosted"))?;
        stage.until_rotation_is("hosted", &stage.tasks("hosted")).await?;
        ensure!(asks() == [2, 2], "{:?}", asks());
        load.more(100).await?;
        load.is_flawless()?;
        load.stop().await?;
        stage.close().await
    })
}

#[test]
fn without_the_permission_nothing_else_is_lost() -> anyhow::Result<()> {
    play("modes-denied", async |scene| {
        let stage = Modes::open(scene).await?;
        stage.until_rotation_is("hosted", &stage.tasks("hosted")).await?;
        let before = stage.tasks("hosted");
        stage.aws.faults().set_for(Operation::DescribeInstances, Fault::AccessDenied);
        stage.world.add_machine(CLUSTER)?;
        stage.world.start_task(TaskSpec::of_service(CLUSTER, "hosted"))?;
        let told = async || {
            let findings = stage.server.items("findings").await?;
            let tells = |it: &serde_json::Value| it["message"].to_string().contains("ec2:DescribeInstances");
            Ok(findings.iter().any(|finding| finding["code"] == "SRC001" && tells(finding)).then_some(()))
        };
        wait::until(LIMIT, "a finding that names ec2:DescribeInstances", told).await?;
        // Events and readings go on, and what was known stays.
        stage.aws.queue().deliver(Delivery::default());
        stage.world.start_task(TaskSpec::of_service(CLUSTER, "own"))?;
        stage.until_rotation_is("own", &stage.tasks("own")).await?;
        stage.until_rotation_is("bridged", &stage.tasks("bridged")).await?;
        stage.until_rotation_is("hosted", &before).await?;
        ensure!(stage.server.is_ready().await?, "/readyz does not say 200");
        ensure!(stage.server.items("changes").await?.is_empty(), "something was withdrawn");

        stage.aws.faults().clear_for(Operation::DescribeInstances);
        stage.until_rotation_is("hosted", &stage.tasks("hosted")).await?;
        stage.close().await
    })
}

#[test]
fn a_machine_outside_ec2_is_where_people_say() -> anyhow::Result<()> {
    play("modes-anywhere", async |scene| {
        let stage = Modes::open(scene).await?;
        let machine = stage.world.add_external_machine(CLUSTER)?;
        let task = stage.world.start_task(TaskSpec::of_service(CLUSTER, "hosted"))?;
        let told = async || {
            let findings = stage.server.items("findings").await?;
            let tells = |it: &serde_json::Value| it["message"].to_string().contains(&machine);
            Ok(findings.iter().any(|finding| finding["code"] == "EP001" && tells(finding)).then_some(()))
        };
        wait::until(LIMIT, "a finding that says what to do", told).await?;
        let address = stage.world.task(&task).context("no such task")?.ip.to_string();
        stage.world.put_attribute(&machine, "legation.address", &address)?;
        stage.until_rotation_is("hosted", &stage.tasks("hosted")).await?;
        ensure!(stage.aws.calls(Operation::DescribeInstances) == 1, "EC2 was asked about it");
        stage.close().await
    })
}

#[test]
fn an_address_of_ipv6_is_reached() -> anyhow::Result<()> {
    play("modes-ipv6", async |scene| {
        let listener = tokio::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await;
        let listener = listener.context("this machine has no ::1")?;
        let port = listener.local_addr()?.port();
        let router = Router::new().route("/", get(|| async { "six" }));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let services = format!(
            "services:\n  six:\n    appProtocol: http\n    aliases: [{{ name: six, port: 8080 }}]\n    endpoints:\n      \
             - {{ address: \"::1\", port: {port} }}\n"
        );
        let shop = Shop::open(scene, &services).await?;
        let alias = async || {
            let hosts = shop.server.items("namespaces/shop/hosts").await?;
            let host = hosts.iter().find(|host| host["name"] == "six");
            let address = host.and_then(|host| host["address"].as_str()).context("no host six")?;
            let alias: SocketAddr = format!("{address}:8080").parse()?;
            let answer = http::get(alias, "/").await?;
            Ok((answer.text() == "six").then_some(()))
        };
        wait::until(LIMIT, "the server at ::1 to answer by its alias", alias).await?;
        shop.close().await
    })
}
