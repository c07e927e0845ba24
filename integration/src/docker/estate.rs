//! A whole estate: a network, an account whose tasks are containers, and what answers like AWS for it.
//!
//! Invariant: it lives on one Docker network whose gateway is this machine: there AWS answers, and from there every task can be
//! reached at its own address.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::agent::Agent;
use super::arrivals::{self, Arrivals};
use super::caller::Callers;
use super::definition::Definition;
use super::engine::Engine;
use super::server::{NAME, Server, XDS};
use super::{CONTAINER, TASK, image};
use crate::aws::FakeAws;
use crate::estate::{CLUSTER, NAMESPACE, ZONES};
use crate::world::{Pace, Serve, ServiceSpec, Task, World, WorldConfig};

const NETWORK: &str = "legation-estate";
const SUBNET: &str = "10.213.0.0/16";
/// This machine, as the estate sees it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 1);
/// The first task; before it lie the servers.
const FIRST_TASK: Ipv4Addr = Ipv4Addr::new(10, 213, 1, 1);
/// How long tasks may take to come up, all together.
const UP: Duration = Duration::from_secs(120);

/// An estate that stands.
#[derive(Debug)]
pub struct Estate {
    /// The engine.
    pub engine: Engine,
    /// The account.
    pub world: World,
    /// What answers like AWS.
    pub aws: FakeAws,
    /// When requests arrived at its tasks.
    pub arrivals: Arrivals,
    agent: Agent,
    folder: TempDir,
}

impl Estate {
    /// Builds the images, the network and an empty cluster.
    pub async fn open() -> anyhow::Result<Self> {
        let engine = Engine::open().await?;
        image::build(&engine).await?;
        engine.create_network(NETWORK, SUBNET, GATEWAY).await?;
        let pace = Pace { replacement: Duration::from_millis(500), ..Pace::default() };
        let config = WorldConfig { addresses: Some(FIRST_TASK), pace, ..WorldConfig::default() };
        let world = World::with(config);
        world.create_cluster(CLUSTER)?;
        let aws = FakeAws::start_at(world.clone(), SocketAddr::from((GATEWAY, 0))).await?;
        let arrivals = Arrivals::start(GATEWAY).await?;
        let agent = Agent::start(world.clone(), engine.clone(), NETWORK, GATEWAY).await?;
        let folder = tempfile::tempdir().context("making a folder")?;
        Ok(Self { engine, world, aws, arrivals, agent, folder })
    }

    /// The agent.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Where files of the estate are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A control plane that hears of this account by events; it does not run yet.
    pub fn server(&mut self, number: u8, namespaces: &[&str]) -> anyhow::Result<Server> {
        let world = self.world.clone();
        self.aws.open_queue(&queue(number), &world);
        Ok(self.server_with(number, &self.config(number, namespaces))?.known_as(NAME))
    }

    /// A control plane of this configuration, which no sidecar knows; it does not run yet.
    pub fn server_with(&self, number: u8, config: &str) -> anyhow::Result<Server> {
        let ip = Ipv4Addr::new(10, 213, 0, 9 + number);
        Server::prepare(&self.engine, NETWORK, &format!("legation-{number}"), ip, self.folder.path(), config)
    }

    /// The configuration of one server that knows these namespaces.
    pub fn config(&self, number: u8, namespaces: &[&str]) -> String {
        let queue = self.aws.queue_url().replace("/legation", &format!("/{}", queue(number)));
        config(&self.aws.url(), &queue, namespaces)
    }

    /// The task definition that users copy, with the application that is called.
    pub fn called(&self, service: &str) -> anyhow::Result<Definition> {
        Definition::parse(&called(service, self.arrivals.address())?.to_string())
    }

    /// Registers a task definition.
    pub fn register(&self, definition: &Definition) -> anyhow::Result<String> {
        let registered = self.agent.register(definition)?;
        Ok(format!("{}:{}", registered.family, registered.revision))
    }

    /// Creates a service of so many tasks.
    pub fn create(&self, service: &str, definition: &str, count: u32) -> anyhow::Result<Vec<String>> {
        let mut spec = ServiceSpec::new(CLUSTER, service, definition, count).zones(&ZONES).replacing();
        spec.serve = Serve::Hosted;
        Ok(self.world.create_service(spec.tag("legation:namespace", NAMESPACE))?)
    }

    /// Waits until a service has as many tasks as it wants, all of them ready.
    pub async fn settled(&self, service: &str) -> anyhow::Result<Vec<std::sync::Arc<Task>>> {
        let all_ready = |world: &World| {
            let wanted = world.service(CLUSTER, service).map_or(0, |it| it.desired_count) as usize;
            let tasks = world.tasks_of(CLUSTER, service);
            tasks.len() == wanted && tasks.iter().all(|task| task.ready())
        };
        let waited = self.world.until(UP, all_ready).await;
        waited.with_context(|| format!("the tasks of {service}: {}", self.list(service)))?;
        Ok(self.world.tasks_of(CLUSTER, service))
    }

    fn list(&self, service: &str) -> String {
        let tasks = self.world.tasks_of(CLUSTER, service);
        let one = |task: &std::sync::Arc<Task>| format!("{} {} {}", task.id, task.last_status, task.health);
        tasks.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// The callers among the tasks of a service.
    pub async fn callers(&self, service: &str) -> anyhow::Result<Callers> {
        Callers::at(self.settled(service).await?.iter().map(|task| task.ip)).await
    }

    /// One container of a running task.
    pub async fn container(&self, task: &str, container: &str) -> anyhow::Result<String> {
        self.engine.find(&[(TASK, task), (CONTAINER, container)]).await
    }

    /// Ends everything.
    pub async fn close(self) -> anyhow::Result<()> {
        self.aws.stop().await;
        self.agent.quit().await;
        self.engine.sweep().await
    }
}

/// The configuration of a server that hears of an account by a queue.
pub fn config(aws: &str, queue: &str, namespaces: &[&str]) -> String {
    let namespaces: serde_json::Map<_, _> =
        namespaces.iter().map(|name| ((*name).to_owned(), json!({ "clusters": [CLUSTER] }))).collect();
    let config = json!({
        "listen": { "xds": format!("0.0.0.0:{XDS}"), "metrics": "0.0.0.0:9090" },
        "aws": { "region": "eu-west-1", "endpointUrl": aws },
        "ecs": { "interval": "30s", "queueUrl": queue },
        "shutdownGrace": "5s",
        "namespaces": namespaces,
    });
    format!("{config:#}\n")
}

/// The queue of a replica: each needs every event.
fn queue(number: u8) -> String {
    format!("legation-{number}")
}

/// The task definition that users copy, as the API takes it, with the application that is called.
pub fn called(service: &str, arrivals: SocketAddr) -> anyhow::Result<Value> {
    let mut own = with_app(service, &["/app", "serve", "--service", service], 8080)?;
    let environment = container(&mut own, "app")?["environment"].as_array_mut();
    let told = json!({ "name": arrivals::VARIABLE, "value": arrivals.to_string() });
    environment.context("the application has no environment")?.push(told);
    Ok(own)
}

/// The task definition that users copy, with an application that calls `to`, by its name or by the sidecar's proxy.
pub fn calling(family: &str, to: &str, port: u16, rate: u32, proxy: bool) -> anyhow::Result<Definition> {
    let mut own = calling_json(family, to, port, rate)?;
    if proxy {
        let app = container(&mut own, "app")?;
        let command = app["command"].as_array_mut().context("the application has no command")?;
        command.extend(["--proxy", "127.0.0.1:15001"].map(Value::from));
    }
    Definition::parse(&own.to_string())
}

/// The same by name, as the API takes it.
pub fn calling_json(family: &str, to: &str, port: u16, rate: u32) -> anyhow::Result<Value> {
    let (to_port, rate) = (format!("{to}:{port}"), rate.to_string());
    let command = ["/app", "call", "--to", &to_port, "--expect", to, "--rate", &rate];
    let mut own = with_app(family, &command, super::caller::PORT)?;
    let app = container(&mut own, "app")?;
    // It offers nothing, and writes names into its hosts file, which only root may.
    app["portMappings"] = json!([{ "containerPort": super::caller::PORT }]);
    app["user"] = json!("0");
    let entry_point = app["entryPoint"].as_array_mut().context("the application has no entry point")?;
    let end =
        entry_point.iter().position(|word| word == "--").context("the entry point does not end in --")?;
    entry_point.insert(end, json!("--hosts"));
    Ok(own)
}

fn container<'a>(definition: &'a mut Value, name: &str) -> anyhow::Result<&'a mut Value> {
    let containers = definition["containerDefinitions"].as_array_mut().context("no containers")?;
    containers.iter_mut().find(|container| container["name"] == name).with_context(|| format!("no {name}"))
}

/// `deploy/task-definition.json`, whose images and application are ours.
fn with_app(family: &str, command: &[&str], port: u16) -> anyhow::Result<Value> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/task-definition.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let text = text.replace("<XDS_ADDRESS>", &format!("{NAME}:{XDS}"));
    let mut own: Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    own["family"] = json!(family);
    for (name, image) in [("legation-init", image::LEGATION), ("envoy", image::ENVOY), ("app", image::APP)] {
        let container = container(&mut own, name)?;
        container["image"] = json!(image);
        container.as_object_mut().context("a container")?.remove("logConfiguration");
    }
    let init = container(&mut own, "legation-init")?;
    for word in init["command"].as_array_mut().into_iter().flatten().filter(|word| *word == "8080") {
        *word = json!(port.to_string());
    }
    let app = container(&mut own, "app")?;
    app["command"] = json!(command);
    app["portMappings"][0]["containerPort"] = json!(port);
    let at = format!("127.0.0.1:{port}");
    app["healthCheck"] =
        json!({ "command": ["CMD", "/app", "ready", "--at", at], "interval": 2, "timeout": 2, "retries": 2 });
    Ok(own)
}
