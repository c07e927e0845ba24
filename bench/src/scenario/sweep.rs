//! S10, the sweep: a cluster of 100,000 tasks, read whole again and again from an endpoint that answers like AWS.
//!
//! The peer has no part in it: it has no sources. Invariant: the endpoint runs with the clients, on another core than
//! what is measured, and a sweep that finds nothing new publishes nothing.

use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use integration::aws::FakeAws;
use integration::estate::{self, LARGE as CLUSTER, of_large as service};
use integration::http;
use integration::world::StopPlan;

use super::{Bench, Sample, Wanted};
use crate::machine::Mode;
use crate::report::{Line, Target};
use crate::server::Server;

const SERVICES: usize = 5_000;
const TASKS: u32 = 20;
/// How many tasks go between two sweeps: one in a thousand.
const CHANGED: usize = 100;
/// Between the beginnings of two sweeps: more than one takes.
const INTERVAL: Duration = Duration::from_secs(30);
/// How long a sweep may keep us waiting.
const PATIENCE: Duration = Duration::from_secs(180);
const LOOKS: Duration = Duration::from_millis(250);

const QUIET: &str = "CPU of a sweep without news, s";
const NEWS: &str = "CPU of a sweep with 0.1 % changed, s";
const SDK: &str = "of that the SDK alone, s";
const BEYOND: &str = "CPU of a sweep with 0.1 % changed beyond the SDK's, s";
const SPURIOUS: &str = "snapshots published without news";

/// Measures it if it is wanted.
pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Line>> {
    if bench.quick || !bench.wants("S10") {
        return Ok(Vec::new());
    }
    let name = format!("S10, sweep: {SERVICES} services x {TASKS} tasks");
    let wanted: [Wanted; 5] = [
        (QUIET, Target::None),
        (NEWS, Target::None),
        (SDK, Target::None),
        (BEYOND, Target::AtMost(1.0)),
        (SPURIOUS, Target::Nothing),
    ];
    bench.alone(&name, Mode::Pinned, &wanted, async || once(bench).await).await
}

async fn once(bench: &Bench) -> anyhow::Result<Sample> {
    let folder = tempfile::tempdir()?;
    let world = estate::large(SERVICES, TASKS)?;
    let aws = FakeAws::start(world.clone()).await.context("opening the endpoint")?;
    let sdk = sdk_alone(bench, &aws.url()).await?;
    let sources = format!(
        "aws: {{ region: eu-west-1, endpointUrl: {}, callBudgetPercent: 100000 }}\necs: {{ interval: {}s }}\n\
         namespaces: {{ prod: {{ clusters: [{CLUSTER}] }} }}\n",
        aws.url(),
        INTERVAL.as_secs()
    );
    let mut server = Server::reading(&bench.programs, Mode::Pinned, folder.path(), &sources).await?;
    server.load(&[]).await?;
    let first = state(&server).await?;
    let quiet = sweep(&server, &first).await?;
    let going = (0..CHANGED).map(|number| world.tasks_of(CLUSTER, &service(number * SERVICES / CHANGED)));
    for tasks in going.collect::<Vec<_>>() {
        let task = tasks.first().context("a service without tasks")?;
        world.stop_task(&task.arn, StopPlan::default())?;
    }
    let news = sweep(&server, &quiet.after).await?;
    anyhow::ensure!(news.after.generation > quiet.after.generation, "nobody noticed that tasks went");
    Ok([
        (QUIET, quiet.processor),
        (NEWS, news.processor),
        (SDK, sdk),
        (BEYOND, news.processor - sdk),
        (SPURIOUS, (quiet.after.generation - first.generation) as f64),
    ]
    .into())
}

/// The processor seconds that the SDK takes for the same calls.
async fn sdk_alone(bench: &Bench, url: &str) -> anyhow::Result<f64> {
    let mut command = Command::new("taskset");
    command.args(["-c", Mode::Pinned.server_cores()]).arg(&bench.programs.sdk);
    command.args([url, CLUSTER, &INTERVAL.as_secs().to_string()]);
    crate::server::with_credentials(&mut command);
    let output = tokio::process::Command::from(command).output().await.context("running the SDK alone")?;
    let (said, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    said.trim().parse().with_context(|| format!("the SDK alone says {said:?} and {complaint}"))
}

/// What a server has read and published.
struct State {
    readings: u64,
    generation: u64,
    processor: Duration,
}

/// One sweep, by what it left.
struct Swept {
    after: State,
    processor: f64,
}

async fn readings(server: &Server) -> anyhow::Result<u64> {
    let status = http::get_json(server.admin(), "/api/v1/status").await?;
    let sources = status["item"]["sources"].as_array().into_iter().flatten();
    let mut ecs =
        sources.filter(|source| source["name"].as_str().is_some_and(|name| name.starts_with("ecs/")));
    let readings = ecs.next().and_then(|source| source["readings"].as_u64());
    readings.with_context(|| format!("no ECS source in {status}"))
}

async fn state(server: &Server) -> anyhow::Result<State> {
    let (readings, processor) = (readings(server).await?, server.processor()?);
    let namespaces = http::get_json(server.admin(), "/api/v1/namespaces").await?;
    let generation = namespaces["items"][0]["generation"].as_u64().context("no generation")?;
    Ok(State { readings, generation, processor })
}

/// Waits for the next sweep to end. To look more often would count as its work.
async fn sweep(server: &Server, before: &State) -> anyhow::Result<Swept> {
    let mut looks = tokio::time::interval(LOOKS);
    let over = async {
        while readings(server).await? == before.readings {
            looks.tick().await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, over).await.context("waiting for the next sweep")??;
    let after = state(server).await?;
    anyhow::ensure!(after.readings == before.readings + 1, "a sweep passed unseen");
    let processor = after.processor.saturating_sub(before.processor).as_secs_f64();
    Ok(Swept { after, processor })
}
