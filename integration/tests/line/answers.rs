//! Answers that look complete and are not: failures about what is there, pages that shift while they are read.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use integration::aws::{FakeAws, Fault, Operation};
use integration::control_plane::{ControlPlane, Setup, Sources};
use integration::estate::{LARGE, NAMESPACE, large, of_large};
use integration::scene::play;
use integration::wait;
use integration::world::{HealthCheck, NamespaceKind, StopPlan, TaskSpec, World};

const LIMIT: Duration = Duration::from_secs(20);
/// Both are more than a page, a batch or half of either.
const SERVICES: usize = 12;
const TASKS: u32 = 10;
const MEMBERS: u8 = 7;

/// A cluster and a Cloud Map namespace, read often.
struct Stand {
    world: World,
    aws: FakeAws,
    server: ControlPlane,
    full: u64,
}

impl Stand {
    async fn open(folder: &Path) -> anyhow::Result<Self> {
        let world = large(SERVICES, TASKS)?;
        let namespace = world.create_namespace("legacy", NamespaceKind::Http)?;
        for member in 0..MEMBERS {
            let service =
                world.create_map_service(&namespace, &format!("old-{member}"), HealthCheck::None)?;
            world.register_address(&service, "only", [10, 9, 8, member].into(), 8080)?;
        }
        let aws = FakeAws::start(world.clone()).await?;
        let sources = Sources {
            clusters: vec![LARGE.to_owned()],
            cloud_map: vec!["legacy".to_owned()],
            ..Sources::default()
        };
        let setup = Setup::aws(&aws.url()).namespace(NAMESPACE, sources);
        let setup = Setup { interval: Duration::from_millis(300), ..setup };
        let server = ControlPlane::start(folder, &setup).await?;
        let full = SERVICES as u64 * u64::from(TASKS) + u64::from(MEMBERS);
        let stand = Self { world, aws, server, full };
        ensure!(stand.in_rotation().await? == full);
        Ok(stand)
    }

    async fn in_rotation(&self) -> anyhow::Result<u64> {
        let services = self.server.items(&format!("namespaces/{NAMESPACE}/services")).await?;
        Ok(services.iter().filter_map(|service| service["counts"]["healthy"].as_u64()).sum())
    }

    /// How many readings of each source have succeeded, or failed.
    async fn counts(&self, what: &str) -> anyhow::Result<Vec<u64>> {
        let status = self.server.api("status").await?;
        let sources = status["item"]["sources"].as_array().context("no sources")?;
        Ok(sources.iter().filter_map(|source| source[what].as_u64()).collect())
    }

    /// Waits until every source was read so many times more, while nothing is lost.
    async fn read(&self, times: u64) -> anyhow::Result<()> {
        let before = self.counts("readings").await?;
        wait::until(LIMIT, format!("{times} readings"), async || {
            let lost = self.full - self.in_rotation().await?.min(self.full);
            let now = self.counts("readings").await?;
            let read = before.iter().zip(&now).all(|(before, now)| *now >= before + times);
            Ok((read || lost > 0).then_some(lost))
        })
        .await
        .and_then(|lost| {
            ensure!(lost == 0, "{lost} endpoints were lost");
            Ok(())
        })
    }
}

#[test]
fn failures_about_what_is_there_take_nothing_away() -> anyhow::Result<()> {
    play("failures-in-answers", async |scene| {
        let mut stand = Stand::open(scene.folder()).await?;
        let faults = stand.aws.faults();
        for operation in [Operation::DescribeTasks, Operation::DescribeServices] {
            // Once, twice in a row, and for as long as it may.
            for readings in [1, 2, 4] {
                faults.set_for(operation, Fault::Failures("MISSING"));
                stand
                    .read(readings)
                    .await
                    .with_context(|| format!("{operation:?} MISSING {readings} times"))?;
                faults.clear();
                stand.read(1).await?;
            }
            faults.set_for(operation, Fault::Failures("ACCESS_DENIED"));
            let name = format!("{}: ACCESS_DENIED", operation.action());
            let told = async || {
                let findings = stand.server.items("findings").await?;
                ensure!(stand.in_rotation().await? == stand.full, "something was lost");
                Ok(findings
                    .iter()
                    .any(|finding| finding["message"].to_string().contains(&name))
                    .then_some(()))
            };
            wait::until(LIMIT, format!("a finding of {name}"), told).await?;
            faults.clear();
            stand.read(1).await?;
        }
        let changes = stand.server.items("changes").await?;
        ensure!(changes.is_empty(), "withdrawn: {changes:?}");
        stand.server.stop().await
    })
}

#[test]
fn pages_that_shift_while_they_are_read_lose_nothing_and_double_nothing() -> anyhow::Result<()> {
    play("pages", async |scene| {
        let mut stand = Stand::open(scene.folder()).await?;
        let faults = stand.aws.faults();
        faults.limit_pages(5);
        for (number, fault) in [Fault::Shuffled, Fault::Moving].into_iter().enumerate() {
            for list in [Operation::ListTasks, Operation::ListServices, Operation::ListMapServices] {
                faults.set_for(list, fault);
            }
            stand.read(5).await.with_context(|| format!("{fault:?}"))?;
            ensure!(stand.server.items("changes").await?.len() == number, "something was withdrawn");

            // What is so is seen all the same.
            let old = stand.world.tasks_of(LARGE, &of_large(number)).first().context("no task")?.arn.clone();
            let new = TaskSpec { settled: true, ..TaskSpec::of_service(LARGE, &of_large(number)) };
            let new = stand.world.start_task(new)?;
            stand.world.stop_task(&old, StopPlan::default())?;
            let path = format!("namespaces/{NAMESPACE}/services/{}", of_large(number));
            let both = async || {
                let answer = stand.server.api(&path).await?;
                let endpoints = answer["item"]["endpoints"].as_array().context("no endpoints")?;
                let is_in = |arn: &String| {
                    endpoints.iter().any(|one| one["state"] == "healthy" && one["instance"] == arn.as_str())
                };
                Ok((is_in(&new) && !is_in(&old)).then_some(()))
            };
            wait::until(LIMIT, format!("{fault:?}: one to come and one to go"), both).await?;
        }
        ensure!(stand.in_rotation().await? == stand.full);
        stand.server.stop().await
    })
}
