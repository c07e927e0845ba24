//! Every operation fails in every way: no endpoint is lost, the operation is named, and it heals by itself.
//!
//! `make faults` has each last a minute, `LEGATION_FAULT` seconds; without it one, and little that takes long to be noticed: few
//! silences, and not the default namespace of a cluster. Several servers suffer side by side, each from one thing after the
//! other.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::future::join_all;
use integration::aws::{FakeAws, Fault, Operation};
use integration::control_plane::{ControlPlane, Setup, Sources};
use integration::estate::{CLUSTER, NAMESPACE};
use integration::scene::play;
use integration::stage::raise_estate;
use integration::wait;
use integration::world::{
    ContainerDefinition, DefinitionSpec, HealthCheck, NamespaceKind, NetworkMode, PortMapping,
    ServiceConnect, ServiceSpec, TaskSpec, World,
};

const OPERATIONS: [Operation; 19] = [
    Operation::DescribeClusters, // first, like silence: it is called once a minute
    Operation::GetNamespace,
    Operation::AssumeRole,
    Operation::ListServices,
    Operation::DescribeServices,
    Operation::ListTasks,
    Operation::DescribeTasks,
    Operation::DescribeTaskDefinition,
    Operation::DescribeContainerInstances,
    Operation::DescribeInstances,
    Operation::ListNamespaces,
    Operation::ListMapServices,
    Operation::GetServiceAttributes,
    Operation::ListInstances,
    Operation::GetInstancesHealthStatus,
    Operation::DiscoverInstances,
    Operation::DiscoverInstancesRevision,
    Operation::ReceiveMessage,
    Operation::DeleteMessageBatch,
];
/// Whose silence, of twenty seconds each, is tried where not everything is.
const SILENT: [Operation; 4] = [
    Operation::AssumeRole,
    Operation::DescribeTasks,
    Operation::ListMapServices,
    Operation::DiscoverInstancesRevision,
];
const FAULTS: [(&str, Fault); 6] = [
    ("silence", Fault::Hang), // first, because it takes the longest
    ("throttled", Fault::Throttle),
    ("HTTP 500", Fault::ServerError),
    ("denied", Fault::AccessDenied),
    ("garbage", Fault::Garbage),
    ("half pages", Fault::HalfPages),
];
const MAP: &str = "arn:aws:servicediscovery:eu-west-1:111122223333";
/// How many servers there are.
const AT_ONCE: usize = 12;
/// Less than there is of anything, so that each list has pages.
const PAGE: usize = 3;
/// Each fault, where not everything is tried.
const SHORT: Duration = Duration::from_secs(1);
/// How long a failure may take to be shown, and to be over once its cause is.
const LIMIT: Duration = Duration::from_secs(90);

fn period() -> Option<Duration> {
    let seconds = std::env::var("LEGATION_FAULT").ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// One operation that fails in one way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cell {
    operation: Operation,
    word: &'static str,
}

impl Cell {
    /// What is tried: everything that there is, or what is noticed soon.
    fn all(everything: bool) -> VecDeque<(Self, Fault)> {
        let pairs =
            FAULTS.iter().flat_map(|fault| OPERATIONS.iter().map(move |operation| (*operation, *fault)));
        let is_tried = |(operation, (_, fault)): &(Operation, (&str, Fault))| match fault {
            Fault::HalfPages => {
                // A namespace is asked for by its name, which takes one page.
                let is_list = operation.name().starts_with("List") && *operation != Operation::ListNamespaces;
                is_list || *operation == Operation::GetInstancesHealthStatus
            }
            Fault::Hang => everything || SILENT.contains(operation),
            _ => everything || *operation != Operation::DescribeClusters,
        };

        let cell = |(operation, (word, fault))| (Self { operation, word }, fault);
        pairs.filter(is_tried).map(cell).collect()
    }
}

/// What came of it.
#[derive(Clone, Copy)]
struct Outcome {
    /// Endpoints.
    lost: u64,
    /// Until it was shown, and from its end until nothing was shown any more.
    told: Duration,
    healed: Duration,
}

/// A small estate of its own, read by a server of its own.
struct Theatre {
    world: World,
    aws: FakeAws,
    server: ControlPlane,
    full: u64,
}

impl Theatre {
    async fn open(folder: PathBuf) -> anyhow::Result<Self> {
        let world = World::new();
        raise_estate(&world).await?;
        let namespace = world.create_namespace("legacy", NamespaceKind::Http)?;
        for number in 0..=PAGE {
            let service =
                world.create_map_service(&namespace, &format!("old-{number}"), HealthCheck::None)?;
            world.register_address(&service, "only", [10, 9, 8, 7].into(), 8080)?;
        }
        register_thousand(&world, &namespace)?;
        world.create_namespace("bare", NamespaceKind::Http)?; // whose existence each reading makes sure of
        world.add_machine(CLUSTER)?;
        let app = ContainerDefinition::new("app").port(PortMapping::named("http", 8080, None));
        world.register_definition(DefinitionSpec::new("shared", app).network(NetworkMode::Bridge))?;
        let shared = ServiceSpec::new(CLUSTER, "shared", "shared", 1).settled();
        world.create_service(shared.tag("legation:role", "auto"))?; // where the default namespace says
        world.set_default_namespace(CLUSTER, NAMESPACE)?;
        world.create_cluster("lent")?; // read with a role
        let app = ContainerDefinition::new("app").port(PortMapping::named("http", 8080, None));
        world.register_definition(DefinitionSpec::new("lent", app))?;
        let lent = ServiceSpec::new("lent", "lent", "lent", 1).settled();
        world.create_service(lent.tag("legation:role", "auto"))?;
        let aws = FakeAws::start(world.clone()).await?;
        aws.accounts().lend_for(Duration::from_secs(1)); // so that each reading takes the role on
        aws.faults().limit_pages(PAGE);
        aws.faults().limit_pages_of(Operation::ListInstances, 300); // of a thousand
        let clusters = vec![CLUSTER.to_owned()];
        // Two namespaces, so that the cluster's default one matters.
        let other = Sources { clusters: clusters.clone(), ..Sources::default() };
        let sources = Sources {
            clusters,
            cloud_map: ["legacy", "bare"].map(str::to_owned).into(),
            ..Sources::default()
        };
        let setup = Setup::aws(&aws.url()).hearing(aws.queue_url());
        let lent = Sources {
            clusters: vec!["lent".to_owned()],
            assume_role: Some("arn:aws:iam::111122223333:role/reader".to_owned()),
            ..Sources::default()
        };
        let setup = setup.namespace("other", other).namespace(NAMESPACE, sources).namespace("lent", lent);
        let setup = Setup { interval: Duration::from_millis(700), ..setup };
        let server = ControlPlane::start(&folder, &setup).await?;
        let mut theatre = Self { world, aws, server, full: 0 };
        theatre.full = theatre.in_rotation().await?;
        ensure!(theatre.full > 5, "hardly an endpoint: {}", theatre.full);
        Ok(theatre)
    }

    async fn in_rotation(&self) -> anyhow::Result<u64> {
        let mut healthy = 0;
        for namespace in [NAMESPACE, "lent"] {
            let services = self.server.items(&format!("namespaces/{namespace}/services")).await?;
            healthy +=
                services.iter().filter_map(|service| service["counts"]["healthy"].as_u64()).sum::<u64>();
        }
        Ok(healthy)
    }

    /// The findings about sources that fail, and about what is held back.
    async fn failing(&self) -> anyhow::Result<Vec<String>> {
        let findings = self.server.items("findings").await?;
        let is_of_sources = |finding: &&serde_json::Value| {
            finding["code"].as_str().is_some_and(|code| ["SRC001", "SRC002", "SRC003"].contains(&code))
        };
        let of_sources = findings.iter().filter(is_of_sources);
        Ok(of_sources.map(|finding| finding["message"].to_string()).collect())
    }

    /// How often each source was read.
    async fn readings(&self) -> anyhow::Result<Vec<u64>> {
        let status = self.server.api("status").await?;
        let sources = status["item"]["sources"].as_array().context("no sources")?;
        Ok(sources.iter().filter_map(|source| source["readings"].as_u64()).collect())
    }

    /// One operation fails for a while.
    async fn suffer(
        &mut self,
        operation: Operation,
        fault: Fault,
        period: Duration,
    ) -> anyhow::Result<Outcome> {
        // Those before may have left more tasks than there were.
        self.full = self.in_rotation().await?;
        let (name, began) = (action(operation), Instant::now());
        self.aws.faults().set_for(operation, fault);
        self.provoke(operation)?;
        wait::until(LIMIT, format!("a finding that names {name}"), async || {
            Ok(self.failing().await?.iter().any(|message| message.contains(&name)).then_some(()))
        })
        .await?;
        let told = began.elapsed();
        let mut least = self.full;
        wait::throughout(period, format!("{name} fails"), async |_| {
            ensure!(self.server.is_ready().await?, "/readyz does not say 200");
            least = least.min(self.in_rotation().await?);
            Ok(())
        })
        .await?;
        self.aws.faults().clear_for(operation);
        let cleared = Instant::now();
        wait::until(LIMIT, format!("{name} to be well again"), async || {
            Ok(self.failing().await?.is_empty().then_some(()))
        })
        .await?;
        let healed = cleared.elapsed();
        // What is held back goes with a second reading: two more, and it would have gone. In a hurry nobody waits for it.
        let before = if period > SHORT { self.readings().await? } else { Vec::new() };
        wait::until(LIMIT, "two more readings of every source", async || {
            let now = self.readings().await?;
            let done = before.iter().zip(&now).all(|(before, now)| *now >= before + 2);
            Ok(done.then_some(()))
        })
        .await?;
        Ok(Outcome { lost: self.full.saturating_sub(least.min(self.in_rotation().await?)), told, healed })
    }

    /// Sees to it that there is something to be asked or done, and that nobody waits for a message meanwhile.
    fn provoke(&self, operation: Operation) -> anyhow::Result<()> {
        let world = &self.world;
        let definition = match operation {
            Operation::DescribeTaskDefinition => {
                world.register_definition(DefinitionSpec::new("batch", ContainerDefinition::new("batch")))?
            }
            Operation::ReceiveMessage | Operation::DeleteMessageBatch => {
                let tasks = world.tasks_of(CLUSTER, "checkout");
                tasks.first().context("checkout has no task")?.definition.clone()
            }
            Operation::DescribeContainerInstances | Operation::DescribeInstances => {
                world.add_machine(CLUSTER)?;
                world.start_task(TaskSpec { settled: true, ..TaskSpec::of_service(CLUSTER, "shared") })?;
                return Ok(());
            }
            Operation::GetNamespace => {
                // Nobody knows yet whether it is one of ours.
                let name = format!("new-{}", self.aws.calls(operation));
                let id = world.create_namespace(&name, NamespaceKind::Http)?;
                let namespace = Some(format!("{MAP}:namespace/{id}"));
                let connect = ServiceConnect { enabled: true, namespace, services: Vec::new() };
                let client = ServiceSpec::new(CLUSTER, &name, "shared", 0);
                world.create_service(ServiceSpec { service_connect: Some(connect), ..client })?;
                return Ok(());
            }
            _ => return Ok(()),
        };
        world.start_task(TaskSpec::standalone(CLUSTER, &definition.arn))?;
        Ok(())
    }
}

/// A service of more instances than one answer holds, of which somebody tells the health.
fn register_thousand(world: &World, namespace: &str) -> anyhow::Result<()> {
    let service = world.create_map_service(namespace, "crowd", HealthCheck::Custom)?;
    for number in 0..1_000_u16 {
        let [high, low] = number.to_be_bytes();
        world.register_address(&service, &format!("i-{number:03}"), [10, 8, high, low].into(), 8080)?;
    }
    Ok(())
}

/// How Legation names an operation.
fn action(operation: Operation) -> String {
    let name = operation.action();
    if operation == Operation::DeleteMessageBatch { "sqs:DeleteMessage".to_owned() } else { name }
}

fn show(outcomes: &BTreeMap<Cell, Outcome>, period: Duration) {
    println!("endpoints lost / seconds until it was told / seconds to recover, after {period:?} of each");
    print!("{:<42}", "");
    FAULTS.iter().for_each(|(word, _)| print!(" | {word:^20}"));
    println!();
    for operation in OPERATIONS {
        print!("{:<42}", action(operation));
        for (word, _) in FAULTS {
            let shown = outcomes.get(&Cell { operation, word }).map_or("-".to_owned(), |outcome| {
                let Outcome { lost, told, healed } = outcome;
                format!("{lost} / {:.2} / {:.2}", told.as_secs_f64(), healed.as_secs_f64())
            });
            print!(" | {shown:>20}");
        }
        println!();
    }
}

#[test]
fn whatever_fails_nothing_is_lost_and_it_heals() -> anyhow::Result<()> {
    play("faults", async |scene| {
        let given = period();
        let (cells, began) = (Mutex::new(Cell::all(given.is_some())), Instant::now());
        let period = given.unwrap_or(SHORT);
        let next = || cells.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let servers = (0..AT_ONCE).map(async |number| {
            let mut theatre = Theatre::open(scene.room(&format!("server-{number}"))?).await?;
            let mut outcomes = Vec::new();
            while let Some((cell, fault)) = next() {
                let outcome = theatre.suffer(cell.operation, fault, period).await;
                outcomes
                    .push((cell, outcome.with_context(|| format!("{}, {:?}", cell.word, cell.operation))?));
            }
            theatre.server.stop().await?;
            anyhow::Ok(outcomes)
        });
        let (done, mut failed) = (join_all(servers).await, None);
        let outcomes: BTreeMap<_, _> = done
            .into_iter()
            .filter_map(|one| one.map_err(|error| failed = Some(error)).ok())
            .flatten()
            .collect();
        show(&outcomes, period);
        failed.map_or(Ok(()), Err)?;
        println!("{} of them on {AT_ONCE} servers in {:.0?}", outcomes.len(), began.elapsed());
        ensure!(outcomes.values().all(|outcome| outcome.lost == 0), "endpoints were lost");
        Ok(())
    })
}
