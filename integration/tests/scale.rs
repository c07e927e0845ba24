//! A cluster of 100,000 tasks, read within half of what AWS allows.
//!
//! It takes minutes, because that is what the budget makes of it: `make scale` runs it.

#![allow(missing_docs, reason = "tests")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use integration::aws::{FakeAws, Operation};
use integration::control_plane::{ControlPlane, Setup, Sources};
use integration::scene::play_alone;
use integration::{estate, vitals, wait};

const SERVICES: usize = 5_000;
const TASKS: u32 = 20;
const MINUTE: Duration = Duration::from_secs(60);
/// As the kernel counts memory, in KiB.
const GIB: u64 = 1 << 20;

/// The operations of each of AWS's buckets, and what half of it allows in a minute that begins with it full.
const BUCKETS: [(&str, &[Operation], u64); 3] = [
    ("cluster resource read", &[Operation::ListTasks, Operation::DescribeTasks], 650),
    ("service read", &[Operation::ListServices, Operation::DescribeServices], 650),
    ("task definition read", &[Operation::DescribeTaskDefinition], 625),
];

/// Counts calls minute by minute, and holds them against what is allowed.
async fn count(aws: &FakeAws, minutes: usize) -> anyhow::Result<()> {
    let mut before: BTreeMap<Operation, u64> = aws.faults().all_calls();
    for minute in 1..=minutes {
        tokio::time::sleep(MINUTE).await; // the measure itself
        let calls = aws.faults().all_calls();
        let since = |operation: &Operation| {
            calls.get(operation).copied().unwrap_or_default()
                - before.get(operation).copied().unwrap_or_default()
        };
        println!("minute {minute}, calls by operation:");
        for operation in calls.keys() {
            println!("  {:<25} {:>5}", operation.name(), since(operation));
        }
        for (name, operations, most) in BUCKETS {
            let made: u64 = operations.iter().map(since).sum();
            println!("  {name}: {made} of {most}");
            ensure!(made <= most, "{made} calls of {name} in a minute");
        }
        before = calls;
    }
    Ok(())
}

async fn readings(server: &ControlPlane) -> anyhow::Result<u64> {
    let status = server.api("status").await?;
    status["item"]["sources"][0]["readings"].as_u64().context("no source")
}

async fn generation(server: &ControlPlane) -> anyhow::Result<u64> {
    let namespaces = server.items("namespaces").await?;
    namespaces.first().and_then(|it| it["generation"].as_u64()).context("no namespace")
}

#[test]
#[ignore = "takes about eight minutes"]
fn a_hundred_thousand_tasks_are_read_within_half_of_what_aws_allows() -> anyhow::Result<()> {
    play_alone("scale", async |scene| {
        let aws = FakeAws::start(estate::large(SERVICES, TASKS)?).await?;
        let sources = Sources { clusters: vec![estate::LARGE.to_owned()], ..Sources::default() };
        let setup = Setup { call_budget: 50, interval: MINUTE / 2, ..Setup::aws(&aws.url()) };
        let mut server = ControlPlane::prepare(scene.folder(), &setup.namespace("prod", sources))?;
        let began = Instant::now();
        server.run().await?;
        let counting = count(&aws, 4);
        let ready = async {
            server.ready_within(MINUTE * 5).await?;
            anyhow::Ok(began.elapsed())
        };
        let (counted, ready) = tokio::join!(counting, ready);
        counted?;
        println!("ready after {:.0} s", ready?.as_secs_f64());
        let first = generation(&server).await?;
        let seen = readings(&server).await?;
        wait::until(MINUTE * 6, "another reading", async || {
            Ok((readings(&server).await? > seen).then_some(()))
        })
        .await?;
        ensure!(generation(&server).await? == first, "a reading without news published something");
        let memory = vitals::peak_memory(server.id().context("it has ended")?)?;
        println!("resident at most: {} MiB", memory >> 10);
        ensure!(memory > 0 && memory < GIB, "{memory} KiB");
        server.stop().await
    })
}
