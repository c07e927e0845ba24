//! An example estate: the one that the demo, the guides and the end-to-end tests speak of.
//!
//! Cluster `prod-a` and namespace `prod`, in three zones of eu-west-1. It uses the world's public API
//! only. Invariant: what it declares (names, ports, protocols, tags) is what its tasks really speak; those of
//! [`large`] exist only in the API.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::world::{
    AppProtocol, ClientAlias, ContainerDefinition, CrashPlan, DefinitionSpec, Health, HealthCheck,
    LastStatus, NamespaceKind, NetworkMode, PortMapping, ServiceConnect, ServiceConnectService,
    ServiceRegistry, ServiceSpec, ServiceStatus, Stage, StopPlan, Strategy, Task, TaskSpec, World,
    WorldError,
};

/// The zones of the estate.
pub const ZONES: [&str; 3] = ["eu-west-1a", "eu-west-1b", "eu-west-1c"];
/// The cluster.
pub const CLUSTER: &str = "prod-a";
/// The namespace.
pub const NAMESPACE: &str = "prod";

/// One service of the estate.
#[derive(Debug, Clone)]
pub struct Member {
    /// ECS service name, which is also its name in the namespace.
    pub service: String,
    /// Task definition family.
    pub family: String,
    /// Port name; a client offers none.
    pub port_name: Option<String>,
    /// Container port, which is also the alias port.
    pub port: Option<u16>,
    /// Its first tasks, by ARN, one zone after the other.
    pub tasks: Vec<String>,
    world: World,
}

impl Member {
    /// The tasks that ECS wants to run now.
    pub fn running(&self) -> Vec<Arc<Task>> {
        self.world.tasks_of(CLUSTER, &self.service)
    }
}

/// The estate.
#[derive(Debug, Clone)]
pub struct Prod {
    /// Its world.
    pub world: World,
    /// ARN of the cluster.
    pub cluster_arn: String,
    /// Id of the Cloud Map namespace.
    pub namespace_id: String,
    /// Three HTTP tasks, one per zone: `payments:8080`.
    pub payments: Member,
    /// Two gRPC tasks: `ledger:50051`.
    pub ledger: Member,
    /// One TCP task: `redis:6379`.
    pub redis: Member,
    /// Three tasks that only call, one per zone.
    pub checkout: Member,
}

/// Builds the estate; its tasks come up at the world's pace and are replaced when they leave.
pub fn prod(world: &World) -> Result<Prod, WorldError> {
    let cluster_arn = world.create_cluster(CLUSTER)?;
    let namespace_id = world.create_namespace(NAMESPACE, NamespaceKind::Http)?;
    let http = Some(PortMapping::named("http", 8080, Some(AppProtocol::Http)));
    let grpc = Some(PortMapping::named("grpc", 50051, Some(AppProtocol::Grpc)));
    let tcp = Some(PortMapping::named("redis", 6379, None));
    Ok(Prod {
        payments: member(world, "payments", http, 3)?,
        ledger: member(world, "ledger", grpc, 2)?,
        redis: member(world, "redis", tcp, 1)?,
        checkout: member(world, "checkout", None, 3)?,
        world: world.clone(),
        cluster_arn,
        namespace_id,
    })
}

fn member(world: &World, name: &str, port: Option<PortMapping>, count: u32) -> Result<Member, WorldError> {
    let mut app = ContainerDefinition { stop_timeout: Some(60), ..ContainerDefinition::new("app") };
    app.image = format!("registry.example/{name}:1");
    let mut spec = ServiceSpec::new(CLUSTER, name, name, count).zones(&ZONES).replacing();
    spec = spec.tag("legation:namespace", NAMESPACE);
    let (mut port_name, mut port_number) = (None, None);
    match port {
        Some(port) => {
            port_name = port.name.clone();
            port_number = Some(port.container_port);
            app = app.port(port).checked();
            spec = spec.served();
        }
        None => spec = spec.tag("legation:role", "client"),
    }
    world.register_definition(DefinitionSpec::new(name, app))?;
    let tasks = world.create_service(spec)?;
    Ok(Member {
        service: name.to_owned(),
        family: name.to_owned(),
        port_name,
        port: port_number,
        tasks,
        world: world.clone(),
    })
}

/// Adds one of everything that the API can show beside the estate: a Service Connect service, one with
/// `serviceRegistries`, members from outside ECS, a RunTask client, a planned stop and a crash, all over
/// and describable, a deployment under way, a deleted service, and enough services for several pages.
pub async fn gallery(prod: &Prod) -> Result<(), WorldError> {
    let world = &prod.world;
    service_connect(prod)?;
    registered(world)?;
    let batch = ContainerDefinition::new("batch").label("legation.role", "client");
    world.register_definition(DefinitionSpec::new("batch", batch))?;
    let mut run = TaskSpec::standalone(CLUSTER, "batch");
    run.tags.insert("legation:namespace".to_owned(), NAMESPACE.to_owned());
    run.settled = true;
    let stopped = world.start_task(run.clone())?;
    let crashed = world.start_task(run.clone())?;
    world.start_task(run)?;
    world.stop_task(&stopped, StopPlan::default())?;
    world.crash_task(&crashed, CrashPlan::default()).await?;

    for number in 0..25 {
        let name = format!("idle-{number:02}");
        world.create_service(ServiceSpec::new(CLUSTER, &name, "batch", 0))?;
    }
    world.create_service(ServiceSpec::new(CLUSTER, "gone", "batch", 1).settled())?;
    world.delete_service(CLUSTER, "gone", StopPlan::default())?;
    world.create_service(ServiceSpec::new(CLUSTER, "rolling", "batch", 2).settled())?;
    world.begin_deployment(CLUSTER, "rolling", "batch:1", None)?;
    world.start_task(TaskSpec { settled: true, ..TaskSpec::of_service(CLUSTER, "rolling") })?;
    canary(world)?;
    world.create_cluster("spare")?;
    world.set_default_namespace("spare", NAMESPACE)?;
    for _ in 0..120 {
        world.start_task(TaskSpec { settled: true, ..TaskSpec::standalone("spare", "batch") })?;
    }
    on_machines(world)?;
    let over = |world: &World| {
        let ended = |arn| world.task(arn).is_some_and(|task| task.last_status == LastStatus::Stopped);
        let gone = world.service(CLUSTER, "gone").is_some_and(|s| s.status == ServiceStatus::Inactive);
        ended(&stopped) && ended(&crashed) && gone
    };
    world.until(Duration::from_secs(10), over).await
}

/// `canary`, of which a new revision has a tenth of production.
fn canary(world: &World) -> Result<(), WorldError> {
    world.create_service(ServiceSpec::new(CLUSTER, "canary", "batch", 2).settled())?;
    world.set_strategy(CLUSTER, "canary", Strategy::Canary)?;
    world.begin_shift(CLUSTER, "canary", "batch:1")?;
    world.start_task(TaskSpec { settled: true, ..TaskSpec::of_service(CLUSTER, "canary") })?;
    world.shift(CLUSTER, "canary", Stage::ProductionTrafficShift, (10.0, 100.0))
}

/// `invoices`, still on Service Connect.
fn service_connect(prod: &Prod) -> Result<(), WorldError> {
    let world = &prod.world;
    let port = PortMapping::named("api", 9000, Some(AppProtocol::Http2));
    let app = ContainerDefinition::new("app").port(port).checked();
    let mut definition = DefinitionSpec::new("invoices", app);
    definition.tags.insert("team".to_owned(), "billing".to_owned());
    world.register_definition(definition)?;
    let offer = ServiceConnectService {
        port_name: "api".to_owned(),
        discovery_name: Some("invoices".to_owned()),
        client_aliases: vec![ClientAlias { port: 9000, dns_name: Some("invoices".to_owned()) }],
        ingress_port_override: Some(15000),
        timeout: Some(json!({ "idleTimeoutSeconds": 60, "perRequestTimeoutSeconds": 5 })),
        tls: None,
    };
    let mut spec = ServiceSpec::new(CLUSTER, "invoices", "invoices", 2).zones(&ZONES).settled();
    spec.service_connect =
        Some(ServiceConnect { enabled: true, namespace: Some(NAMESPACE.to_owned()), services: vec![offer] });
    world.create_service(spec).map(drop)
}

/// A cluster with a machine, which runs a task of network mode `bridge`.
fn on_machines(world: &World) -> Result<(), WorldError> {
    let cluster = "with-machines";
    world.create_cluster(cluster)?;
    let machine = world.add_machine(cluster)?;
    world.put_attribute(&machine, "legation.address", "192.168.7.1")?;
    let app = ContainerDefinition::new("app").port(PortMapping::named("shared", 8080, None));
    world.register_definition(DefinitionSpec::new("shared", app).network(NetworkMode::Bridge))?;
    world.create_service(ServiceSpec::new(cluster, "shared", "shared", 1).settled()).map(drop)
}

/// `search`, which ECS registers in a private DNS namespace together with two members from outside, and `audit` in a
/// namespace that another account shares.
fn registered(world: &World) -> Result<(), WorldError> {
    let namespace = world.create_namespace("legacy.internal", NamespaceKind::DnsPrivate)?;
    let id = world.create_map_service(&namespace, "search", HealthCheck::Custom)?;
    let registry = world.map_service(&id).map(|service| ServiceRegistry {
        registry_arn: service.arn,
        container_name: Some("app".to_owned()),
        container_port: Some(7700),
    });
    let app = ContainerDefinition::new("app").port(PortMapping::named("search", 7700, None));
    world.register_definition(DefinitionSpec::new("search", app))?;
    let mut spec = ServiceSpec::new(CLUSTER, "search", "search", 2).zones(&ZONES).settled();
    spec.registries.extend(registry);
    world.create_service(spec)?;
    world.set_service_attributes(&id, &[("legation.protocol", "http"), ("team", "search")])?;
    world.register_address(&id, "vm-1", Ipv4Addr::new(127, 0, 8, 1), 7700)?;
    world.register_address(&id, "vm-2", Ipv4Addr::new(127, 0, 8, 2), 7700)?;
    world.set_instance_health(&id, "vm-2", Health::Unhealthy)?;
    let shared = world.share_namespace(SHARED_BY, "common")?;
    let audit = world.create_map_service(&shared, "audit", HealthCheck::Route53)?;
    world.register_address(&audit, "vm-3", Ipv4Addr::new(127, 0, 8, 3), 7800)
}

/// The account that shares a namespace in the gallery.
const SHARED_BY: &str = "222222222222";

/// The cluster of [`large`].
pub const LARGE: &str = "large";

/// A service of [`large`], by its number.
pub fn of_large(number: usize) -> String {
    format!("s{number:04}")
}

/// A cluster of so many services with so many tasks each, which exist only in the API.
pub fn large(services: usize, tasks: u32) -> Result<World, WorldError> {
    let world = World::new();
    world.create_cluster(LARGE)?;
    let container = ContainerDefinition {
        ports: vec![PortMapping::named("http", 8080, Some(AppProtocol::Http))],
        ..ContainerDefinition::new("app")
    };
    world.register_definition(DefinitionSpec::new("app", container))?;
    for number in 0..services {
        let spec = ServiceSpec::new(LARGE, &of_large(number), "app", tasks).zones(&ZONES).settled();
        world.create_service(spec.tag("legation:namespace", NAMESPACE))?;
    }
    Ok(world)
}
