//! A canary of ECS followed through stock Envoy: parts of a service, the test header, and weights of requests and of bytes.
//!
//! The tasks are real; which of them answers tells where a request went. Invariant: no request fails, whatever is shifted.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use axum::body::Body;
use hyper::Request;
use integration::aws::FakeAws;
use integration::control_plane::{ControlPlane, Setup, Sources};
use integration::envoy::Envoy;
use integration::http::send;
use integration::scene::play;
use integration::shop::sidecar;
use integration::stage::PROXY;
use integration::wait;
use integration::world::{
    AppProtocol, ContainerDefinition, DefinitionSpec, PortMapping, ServiceSpec, ShiftStatus, Stage, StopPlan,
    Strategy, TaskSpec, World,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LIMIT: Duration = Duration::from_secs(30);
const CLUSTER: &str = "prod-a";
/// The header that Service Connect takes for a test.
const TEST: (&str, &str) = ("x-amzn-ecs-blue-green-test", "1");
const POLICY: &str = "apiVersion: legation/v1alpha1
kind: Policy
routes:
  - name: parts
    parentRefs: [pay]
    rules:
      - matches: [{ headers: [{ name: x-part, value: primary }] }]
        backendRefs: [{ service: pay, deployment: primary }]
      - matches: [{ headers: [{ name: x-part, value: previous }] }]
        backendRefs: [{ service: pay, deployment: previous }]
      - matches: [{ headers: [{ name: x-part, value: gold }] }]
        backendRefs: [{ service: pay, labels: { tier: gold } }]
";

/// Two services of two tasks, one of requests and one of bytes, whose deployments shift traffic.
struct Rig {
    world: World,
    control: ControlPlane,
    envoy: Envoy,
    bytes: SocketAddr,
    _aws: FakeAws,
}

fn define(world: &World, family: &str, protocol: Option<AppProtocol>, tier: &str) -> anyhow::Result<()> {
    let port = PortMapping::named("main", 8080, protocol);
    let app = ContainerDefinition::new("app").port(port).label("tier", tier);
    world.register_definition(DefinitionSpec::new(family, app))?;
    Ok(())
}

impl Rig {
    async fn open(folder: &Path) -> anyhow::Result<Self> {
        let world = World::new();
        world.create_cluster(CLUSTER)?;
        for (name, protocol) in [("pay", Some(AppProtocol::Http)), ("bytes", None)] {
            define(&world, name, protocol, "silver")?;
            let spec = ServiceSpec::new(CLUSTER, name, name, 2).served().tag("legation:namespace", "shop");
            world.create_service(spec)?;
            world.set_strategy(CLUSTER, name, Strategy::Canary)?;
            define(&world, name, protocol, "gold")?;
        }
        let policies = folder.join("policies");
        std::fs::create_dir_all(&policies)?;
        std::fs::write(policies.join("policy.yaml"), POLICY)?;
        let aws = FakeAws::start(world.clone()).await?;
        let sources = Sources { clusters: vec![CLUSTER.to_owned()], ..Sources::default() };
        let setup = Setup { policies: vec![policies], ..Setup::aws(&aws.url()) };
        let control = ControlPlane::start(folder, &setup.namespace("shop", sources)).await?;
        let mut envoy = Envoy::start(folder, "till", &control.bootstrap(&sidecar("shop"))?).await?;
        envoy.live().await?;
        let hosts = control.items("namespaces/shop/hosts").await?;
        let host = hosts.iter().find(|host| host["name"] == "bytes").context("no host bytes")?;
        let address: Ipv4Addr = host["address"].as_str().context("no address")?.parse()?;
        let rig = Self { world, control, envoy, bytes: (address, 8080).into(), _aws: aws };
        for service in ["pay", "bytes"] {
            let up = async || {
                Ok((rig.envoy.endpoints(&format!("shop/{service}")).await?.len() == 2).then_some(()))
            };
            wait::until(LIMIT, format!("the endpoints of {service}"), up).await?;
        }
        Ok(rig)
    }

    /// Begins a deployment and starts its two tasks; returns their ids once ECS has them run.
    async fn deploy(&self, service: &str) -> anyhow::Result<BTreeSet<String>> {
        self.world.begin_shift(CLUSTER, service, &format!("{service}:2"))?;
        let start = || self.world.start_task(TaskSpec::of_service(CLUSTER, service));
        let arns = [start()?, start()?];
        let ready = |world: &World| arns.iter().all(|arn| world.task(arn).is_some_and(|task| task.ready()));
        self.world.until(LIMIT, ready).await?;
        let id = |arn: &String| Some(self.world.task(arn)?.id.clone());
        Ok(arns.iter().filter_map(id).collect())
    }

    /// Has a service's deployment be there, and waits until the sidecar is.
    async fn shift(&self, service: &str, stage: Stage, production: f64, test: f64) -> anyhow::Result<()> {
        self.world.shift(CLUSTER, service, stage, (production, test))?;
        let path = format!("namespaces/shop/services/{service}");
        wait::until(LIMIT, format!("{production} % of {service}"), async || {
            let shift = self.control.api(&path).await?["item"]["shift"].clone();
            let all = shift["revisions"].as_array().cloned().unwrap_or_default();
            let is_there =
                all.iter().any(|it| it["productionWeight"] == production && it["testWeight"] == test);
            Ok(is_there.then_some(()))
        })
        .await?;
        self.synced().await
    }

    async fn synced(&self) -> anyhow::Result<()> {
        wait::until(LIMIT, "the sidecar to be synced", async || {
            let proxies = self.control.items("proxies").await?;
            Ok(proxies.iter().all(|proxy| proxy["state"] == "SYNCED").then_some(()))
        })
        .await
    }

    /// How many of so many requests the new tasks answer.
    async fn new_of(
        &self,
        count: usize,
        new: &BTreeSet<String>,
        headers: &[(&str, &str)],
    ) -> anyhow::Result<usize> {
        let mut answered = 0;
        for _ in 0..count {
            let mut request = Request::builder().uri("http://pay:8080/").header("host", "pay:8080");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let answer = send(PROXY, request.body(Body::empty())?).await?;
            let text = answer.text();
            ensure!(answer.status == 200, "{}: {text}", answer.status);
            answered += usize::from(new.iter().any(|id| text.contains(id.as_str())));
        }
        Ok(answered)
    }

    /// How many of so many connections come to the new tasks.
    async fn connections(&self, count: usize, new: &BTreeSet<String>) -> anyhow::Result<usize> {
        let mut reached = 0;
        for _ in 0..count {
            let mut stream = TcpStream::connect(self.bytes).await?;
            stream.write_all(b"x\n").await?;
            let mut line = Vec::new();
            while !line.ends_with(b"\n") {
                line.push(stream.read_u8().await.context("a connection without an answer")?);
            }
            let text = String::from_utf8_lossy(&line).into_owned();
            reached += usize::from(new.iter().any(|id| text.contains(id.as_str())));
        }
        Ok(reached)
    }

    /// Stops the old tasks and ends the deployment.
    async fn finish(&self, service: &str, new: &BTreeSet<String>) -> anyhow::Result<()> {
        for task in self.world.tasks_of(CLUSTER, service).iter().filter(|task| !new.contains(&task.id)) {
            self.world.stop_task(&task.arn, StopPlan::default().by_scheduler())?;
        }
        self.world.end_shift(CLUSTER, service, ShiftStatus::Successful)?;
        let path = format!("namespaces/shop/services/{service}");
        wait::until(LIMIT, format!("the end of the shift of {service}"), async || {
            Ok(self.control.api(&path).await?["item"]["shift"].is_null().then_some(()))
        })
        .await
    }
}

/// Four standard deviations around so many of a hundred.
fn around(count: usize, percent: f64) -> std::ops::RangeInclusive<usize> {
    let (many, part) = (count as f64, percent / 100.0);
    let spread = 4.0 * (many * part * (1.0 - part)).sqrt();
    (many * part - spread).max(0.0) as usize..=(many * part + spread).ceil() as usize
}

#[test]
fn a_canary_of_ecs_is_followed() -> anyhow::Result<()> {
    play("deployments", async |scene| {
        let rig = Rig::open(scene.folder()).await?;
        let listeners = rig.envoy.stat("listener_manager.listener_modified").await?;
        requests(&rig).await?;
        bytes(&rig).await?;
        let modified = rig.envoy.stat("listener_manager.listener_modified").await?;
        ensure!(modified == listeners, "a listener was changed");
        let oracle = rig.envoy.oracle().await?;
        ensure!(oracle.raised.is_empty(), "Envoy raised {:?}", oracle.raised);
        rig.envoy.stop().await?;
        let mut control = rig.control;
        control.stop().await
    })
}

async fn requests(rig: &Rig) -> anyhow::Result<()> {
    let seen = |knob: &str, what: String| println!("{knob:<44} | {what}");
    let new = rig.deploy("pay").await?;
    rig.shift("pay", Stage::PostScaleUp, 0.0, 0.0).await?;
    ensure!(rig.new_of(60, &new, &[]).await? == 0, "a revision of weight 0 gets requests");
    ensure!(rig.new_of(20, &new, &[TEST]).await? == 0, "no test goes anywhere yet");
    for (part, count) in [("primary", 20), ("previous", 0), ("gold", 20)] {
        let answered = rig.new_of(20, &new, &[("x-part", part)]).await?;
        ensure!(answered == count, "{part}: {answered} of 20 to the new tasks");
        seen(
            "backendRefs: a part of a service",
            format!("{part}: {answered} of 20 requests to the new tasks"),
        );
    }
    rig.shift("pay", Stage::PostTestTrafficShift, 0.0, 100.0).await?;
    let tests = rig.new_of(40, &new, &[TEST]).await?;
    let others = rig.new_of(60, &new, &[]).await?;
    ensure!((tests, others) == (40, 0), "{tests} of 40 tests, {others} of 60 others");
    seen("deployment, test header", "40 of 40 tests to the new tasks, 0 of 60 others".to_owned());

    rig.shift("pay", Stage::ProductionTrafficShift, 10.0, 100.0).await?;
    let (count, bounds) = (1_000, around(1_000, 10.0));
    let answered = rig.new_of(count, &new, &[]).await?;
    ensure!(bounds.contains(&answered), "{answered} of {count} are not in {bounds:?}");
    seen("deployment, canary of 10 %", format!("{answered} of {count} requests to the new tasks"));
    let path = "explain?client=till-1&service=pay";
    let steps = rig.control.api(path).await?.to_string();
    ensure!(steps.contains("revision") && steps.contains("weight 100"), "{steps}");

    rig.shift("pay", Stage::BakeTime, 100.0, 100.0).await?;
    ensure!(rig.new_of(60, &new, &[]).await? == 60, "the old revision gets requests");
    seen("deployment, all shifted", "60 of 60 requests to the new tasks".to_owned());
    rig.finish("pay", &new).await?;
    ensure!(rig.new_of(60, &new, &[]).await? == 60, "somebody else answers");
    let left = async || {
        let dump = rig.envoy.config_dump().await?.to_string();
        Ok((!dump.contains("shop/pay@revision")).then_some(()))
    };
    wait::until(LIMIT, "the clusters of revisions to leave", left).await
}

async fn bytes(rig: &Rig) -> anyhow::Result<()> {
    let new = rig.deploy("bytes").await?;
    rig.shift("bytes", Stage::PostScaleUp, 0.0, 0.0).await?;
    ensure!(rig.connections(40, &new).await? == 0, "a revision of weight 0 gets connections");
    rig.shift("bytes", Stage::ProductionTrafficShift, 10.0, 0.0).await?;
    let (count, bounds) = (600, around(600, 10.0));
    let reached = rig.connections(count, &new).await?;
    ensure!(bounds.contains(&reached), "{reached} of {count} are not in {bounds:?}");
    println!(
        "{:<44} | {reached} of {count} connections to the new tasks",
        "deployment, canary of 10 %, bytes"
    );
    rig.shift("bytes", Stage::BakeTime, 100.0, 0.0).await?;
    ensure!(rig.connections(40, &new).await? == 40, "the old revision gets connections");
    rig.finish("bytes", &new).await
}
