//! Every operation fails in every way: no endpoint is lost, the operation is named, and it heals by itself.
//!
//! `make faults` has each last a minute, `LEGATION_FAULT` seconds; without it one, and no silence, which takes the
//! longest to be noticed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use integration::aws::{FakeAws, Fault, Operation};
use integration::control_plane::{ControlPlane, Setup, Sources};
use integration::estate::{CLUSTER, NAMESPACE};
use integration::scene::play;
use integration::stage::raise_estate;
use integration::wait;
use integration::world::{HealthCheck, NamespaceKind, TaskSpec, World};

const OPERATIONS: [Operation; 12] = [
    Operation::ListServices,
    Operation::DescribeServices,
    Operation::ListTasks,
    Operation::DescribeTasks,
    Operation::ListMapServices,
    Operation::GetServiceAttributes,
    Operation::ListInstances,
    Operation::GetInstancesHealthStatus,
    Operation::DiscoverInstances,
    Operation::DiscoverInstancesRevision,
    Operation::ReceiveMessage,
    Operation::DeleteMessageBatch,
];
const FAULTS: [(&str, Fault); 6] = [
    ("throttled", Fault::Throttle),
    ("HTTP 500", Fault::ServerError),
    ("denied", Fault::AccessDenied),
    ("garbage", Fault::Garbage),
    ("half pages", Fault::HalfPages),
    ("silence", Fault::Hang),
];
/// How long a failure may take to be shown, and to be over once its cause is.
const LIMIT: Duration = Duration::from_secs(90);

fn period() -> Option<Duration> {
    let seconds = std::env::var("LEGATION_FAULT").ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
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
        for name in ["old", "older"] {
            let service = world.create_map_service(&namespace, name, HealthCheck::None)?;
            world.register_address(&service, "only", [10, 9, 8, 7].into(), 8080)?;
        }
        register_thousand(&world, &namespace)?;
        let aws = FakeAws::start(world.clone()).await?;
        let clusters = vec![CLUSTER.to_owned()];
        let sources = Sources { clusters, cloud_map: vec!["legacy".to_owned()], ..Sources::default() };
        let setup = Setup::aws(&aws.url()).hearing(aws.queue_url()).namespace(NAMESPACE, sources);
        let setup = Setup { interval: Duration::from_millis(500), ..setup };
        let server = ControlPlane::start(&folder, &setup).await?;
        let mut theatre = Self { world, aws, server, full: 0 };
        theatre.full = theatre.in_rotation().await?;
        ensure!(theatre.full > 5, "hardly an endpoint: {}", theatre.full);
        Ok(theatre)
    }

    async fn in_rotation(&self) -> anyhow::Result<u64> {
        let services = self.server.items(&format!("namespaces/{NAMESPACE}/services")).await?;
        Ok(services.iter().filter_map(|service| service["counts"]["healthy"].as_u64()).sum())
    }

    /// The findings about sources that fail.
    async fn failing(&self) -> anyhow::Result<Vec<String>> {
        let findings = self.server.items("findings").await?;
        let of_sources =
            findings.iter().filter(|finding| finding["code"] == "SRC001" || finding["code"] == "SRC002");
        Ok(of_sources.map(|finding| finding["message"].to_string()).collect())
    }

    /// One operation fails for a while. Returns how many endpoints were lost meanwhile, and how long it took to heal.
    async fn suffer(
        &self,
        operation: Operation,
        fault: Fault,
        period: Duration,
    ) -> anyhow::Result<(u64, Duration)> {
        self.aws.faults().set_for(operation, fault);
        if operation == Operation::DeleteMessageBatch {
            self.say_something()?; // else nothing is there to be deleted
        }
        let name = format!("{}:{}", prefix(operation), said(operation));
        let named = wait::until(LIMIT, format!("a finding that names {name}"), async || {
            Ok(self.failing().await?.iter().any(|message| message.contains(&name)).then_some(()))
        });
        // Of few things there is but one page.
        if fault != Fault::HalfPages {
            named.await?;
        }
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
        Ok((self.full - least, cleared.elapsed()))
    }

    /// Has ECS tell of a task.
    fn say_something(&self) -> anyhow::Result<()> {
        let tasks = self.world.tasks_of(CLUSTER, "checkout");
        let task = tasks.first().context("checkout has no task")?;
        self.world.start_task(TaskSpec::standalone(CLUSTER, &task.definition.arn))?;
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

fn prefix(operation: Operation) -> &'static str {
    match operation.api() {
        integration::aws::Api::Ecs => "ecs",
        integration::aws::Api::CloudMap => "servicediscovery",
        integration::aws::Api::Sqs => "sqs",
        integration::aws::Api::Ec2 => "ec2",
    }
}

fn said(operation: Operation) -> &'static str {
    if operation == Operation::DeleteMessageBatch { "DeleteMessage" } else { operation.name() }
}

#[test]
fn whatever_fails_nothing_is_lost_and_it_heals() -> anyhow::Result<()> {
    play("faults", async |scene| {
        let given = period();
        let faults: Vec<_> =
            FAULTS.into_iter().filter(|(_, fault)| given.is_some() || *fault != Fault::Hang).collect();
        let period = given.unwrap_or(Duration::from_secs(1));
        let rows = faults.iter().enumerate().map(async |(number, (word, fault))| {
            let mut theatre = Theatre::open(scene.room(&format!("fault-{number}"))?).await?;
            let mut cells = BTreeMap::new();
            for operation in OPERATIONS {
                let outcome = theatre.suffer(operation, *fault, period).await;
                cells.insert(operation, outcome.with_context(|| format!("{word}, {operation:?}"))?);
            }
            theatre.server.stop().await?;
            anyhow::Ok((*word, cells))
        });
        let rows = try_join_all(rows).await?;
        println!("endpoints lost / time to recover, after {period:?} of each");
        for operation in OPERATIONS {
            print!("{:<42}", format!("{}:{}", prefix(operation), said(operation)));
            for (word, cells) in &rows {
                let (lost, healed) = cells[&operation];
                print!(" | {word}: {lost} / {:>5.2} s", healed.as_secs_f64());
            }
            println!();
        }
        ensure!(
            rows.iter().all(|(_, cells)| cells.values().all(|(lost, _)| *lost == 0)),
            "endpoints were lost"
        );
        Ok(())
    })
}
