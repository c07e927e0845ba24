//! Anything may happen in a cluster, and AWS tells of it badly: what is served in the end is what is so, and on the way
//! nobody was withdrawn who ran and was well.
//!
//! `LEGATION_SEEDS` tries more of them, `LEGATION_SEED` one again: the same choices, if not at the same moments.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use fastrand::Rng;
use futures_util::future::try_join_all;
use integration::aws::FakeAws;
use integration::control_plane::{ControlPlane, Setup, Sources};
use integration::estate::NAMESPACE;
use integration::scene::play;
use integration::wait;
use integration::world::World;

use self::happenings::{CLUSTER, Cluster};

mod happenings;
mod weather;

/// How many are tried, and how many of them side by side.
const SEEDS: u64 = 8;
const STEPS: usize = 150;
/// How many steps one weather lasts: some readings.
const WEATHER: usize = 30;
/// How long the next reading, and another one that confirms it, may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A cluster in turmoil and the server that watches it.
struct Turmoil {
    cluster: Cluster,
    aws: FakeAws,
    server: ControlPlane,
    /// The withdrawals that were looked at, by number.
    looked_at: BTreeSet<u64>,
    /// Who was in rotation at the last look.
    rotation: happenings::Rotation,
}

impl Turmoil {
    async fn begin(folder: &Path) -> anyhow::Result<Self> {
        let cluster = Cluster::new(World::new())?;
        let aws = FakeAws::start(cluster.world.clone()).await?;
        let sources = Sources { clusters: vec![CLUSTER.to_owned()], ..Sources::default() };
        let setup = Setup::aws(&aws.url()).hearing(aws.queue_url()).namespace(NAMESPACE, sources);
        let setup = Setup { interval: weather::INTERVAL, max_backoff: weather::INTERVAL, ..setup };
        let server = ControlPlane::start(folder, &setup).await?;
        Ok(Self { cluster, aws, server, looked_at: BTreeSet::new(), rotation: happenings::Rotation::new() })
    }

    /// An error if somebody left, be it with its service, for whom there was no reason.
    async fn look(&mut self) -> anyhow::Result<()> {
        let (rotation, _) = self.served().await?;
        for gone in self.rotation.difference(&rotation) {
            ensure!(
                self.cluster.had_reason_to_leave(&gone.1),
                "no longer in rotation without reason: {gone:?}"
            );
        }
        self.rotation = rotation;
        for change in self.server.items("changes").await? {
            let id = change["id"].as_u64().context("a change without id")?;
            let task = change["instance"].as_str().context("a change without instance")?;
            if self.looked_at.insert(id) {
                ensure!(self.cluster.had_reason_to_leave(task), "withdrawn without reason: {change}");
            }
        }
        Ok(())
    }

    /// What the server has in rotation: service, task, port; and the timeout of each service.
    async fn served(&self) -> anyhow::Result<(happenings::Rotation, happenings::Timeouts)> {
        let services = self.server.items(&format!("namespaces/{NAMESPACE}/services")).await?;
        let (mut rotation, mut timeouts) = (happenings::Rotation::new(), happenings::Timeouts::new());
        for service in services {
            let name = service["name"].as_str().context("a service without name")?;
            let endpoints = service["endpoints"].as_array().context("a service without endpoints")?;
            for endpoint in endpoints.iter().filter(|endpoint| endpoint["state"] == "healthy") {
                let (task, port) = (endpoint["instance"].as_str(), endpoint["port"].as_u64());
                let (task, port) = task.zip(port).with_context(|| format!("{endpoint}"))?;
                rotation.insert((name.to_owned(), task.to_owned(), port));
            }
            timeouts.extend(service["requestTimeoutMs"].as_f64().map(|it| (name.to_owned(), it as u64)));
        }
        Ok((rotation, timeouts))
    }

    async fn run(&mut self, dice: &mut Rng) -> anyhow::Result<()> {
        for step in 0..STEPS {
            if step % WEATHER == 0 {
                weather::change(dice, &self.aws);
            }
            self.cluster.happen(dice).await?;
            tokio::time::sleep(Duration::from_millis(dice.u64(5..60))).await; // the pace of what happens
            self.look().await?;
        }
        self.aws.faults().clear();
        self.aws.queue().deliver(integration::aws::Delivery::default());
        wait::until(LIMIT, "what is served to be what is so", async || {
            let (rotation, timeouts) = self.served().await?;
            let truth = self.cluster.rotation();
            let (lacks, exceeds): (Vec<_>, Vec<_>) =
                (truth.difference(&rotation).collect(), rotation.difference(&truth).collect());
            ensure!(lacks.is_empty() && exceeds.is_empty(), "it lacks {lacks:?} and still has {exceeds:?}");
            let wrong: Vec<_> = self
                .cluster
                .timeouts()
                .into_iter()
                .filter(|(name, it)| timeouts.get(name) != Some(it))
                .collect();
            ensure!(wrong.is_empty(), "timeouts are {timeouts:?}, not {wrong:?}");
            Ok(Some(()))
        })
        .await?;
        self.look().await
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn whatever_happens_and_however_it_is_told_the_view_comes_to_be_the_world() -> anyhow::Result<()> {
    play("turmoil", async |scene| {
        let seeds = match number("LEGATION_SEED") {
            Some(seed) => vec![seed],
            None => (1..=number("LEGATION_SEEDS").unwrap_or(SEEDS)).collect(),
        };
        for together in seeds.chunks(4) {
            let runs = together.iter().map(async |seed| {
                let mut turmoil = Turmoil::begin(&scene.room(&format!("seed-{seed}"))?).await?;
                let outcome = turmoil.run(&mut Rng::with_seed(*seed)).await;
                outcome.with_context(|| format!("LEGATION_SEED={seed}"))?;
                let (withdrawn, calls) = (turmoil.looked_at.len(), turmoil.aws.faults().all_calls());
                println!("seed {seed}: {withdrawn} withdrawals, {} calls", calls.values().sum::<u64>());
                ensure!(withdrawn > 10, "hardly anything happened");
                turmoil.server.stop().await
            });
            try_join_all(runs).await?;
        }
        Ok(())
    })
}
