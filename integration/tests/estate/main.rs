//! The estate in containers: what its callers see while tasks, control planes and networks come and go.
//!
//! `make estate` runs it, prints a table and writes `REPORT.md` and `report.json`: below the target folder, and with `FULL=1`, in
//! full size, into `integration/`. Scenarios share one estate and run one after the other; `ONLY=crash` takes some. Invariant: a row says
//! what was measured, whether its bound was met or not, and a bound that was not met fails the run.

#![allow(missing_docs, reason = "tests")]

mod control;
mod failing;
mod growth;
mod look;
mod planned;
mod report;
mod second;
mod stage;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use integration::process::target_dir;
use libtest_mimic::{Arguments, Failed, Trial};
use report::{Report, Row};
use stage::{Sizes, Stage};

/// A scenario: its name in the report, and what it does to the estate.
type Scenario = (&'static str, Play);
type Play = for<'a> fn(&'a mut Stage) -> stage::Running<'a>;

/// Every scenario, in the order in which they run.
const SCENARIOS: &[Scenario] = &[
    ("rolling deployment", |stage| Box::pin(planned::roll(stage))),
    ("scale out and in", |stage| Box::pin(planned::scale(stage))),
    ("StopTask", |stage| Box::pin(planned::stop(stage))),
    ("crash (SIGKILL)", |stage| Box::pin(failing::crash(stage))),
    ("crash, noticed 10 s late", |stage| Box::pin(failing::late_crash(stage))),
    ("task that hangs", |stage| Box::pin(failing::hang(stage))),
    ("unhealthy task", |stage| Box::pin(failing::unhealthy(stage))),
    ("address reuse", |stage| Box::pin(failing::reuse(stage))),
    ("control plane killed and restarted", |stage| Box::pin(control::killed(stage))),
    ("control plane upgraded", |stage| Box::pin(control::upgraded(stage))),
    ("two control planes, one fails", |stage| Box::pin(control::failover(stage))),
    ("control plane cut off from sidecars", |stage| Box::pin(control::partition(stage))),
    ("AWS cut off", |stage| Box::pin(control::without_aws(stage))),
    ("start with 1,000 services", |stage| Box::pin(growth::start_up(stage))),
    ("sidecar before its namespace", |stage| Box::pin(growth::early(stage))),
    ("new service reaches running clients", |stage| Box::pin(growth::new_service(stage))),
    ("200 services, live Envoys", |stage| Box::pin(growth::many(stage))),
    ("ministack: rolling deployment", |stage| Box::pin(second::roll(stage))),
    ("ministack: scale out and in", |stage| Box::pin(second::scale(stage))),
    ("ministack: StopTask", |stage| Box::pin(second::stop(stage))),
    ("ministack: crash (SIGKILL)", |stage| Box::pin(second::crash(stage))),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if arguments.filter.is_none() {
        arguments.filter = std::env::var("ONLY").ok().filter(|only| !only.is_empty());
    }
    let _ = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::WARN)
        .with_writer(std::io::stderr)
        .try_init();
    let full = std::env::var("FULL").is_ok_and(|full| !full.is_empty());
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => Arc::new(runtime),
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (stage, report) = (Arc::new(Mutex::new(Place::Empty)), Report::default());
    let trials = SCENARIOS.iter().map(|(name, run)| {
        let (stage, report, runtime) = (stage.clone(), report.clone(), runtime.clone());
        Trial::test(*name, move || {
            let mut stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
            let played = runtime.block_on(play(&mut stage, full, *run, &report));
            let row =
                played.unwrap_or_else(|error| Row { broken: Some(format!("{error:#}")), ..Row::default() });
            let row = Row { scenario: name, ..row };
            let judged = row.judge();
            report.note(row);
            judged.map_err(|error| Failed::from(format!("{error:#}")))
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if arguments.list {
        return ExitCode::SUCCESS;
    }
    let place = std::mem::replace(&mut *stage.lock().unwrap_or_else(PoisonError::into_inner), Place::Empty);
    let closed = match place {
        Place::Built(stage) => runtime.block_on(stage.close()),
        Place::Empty | Place::Unbuildable(_) => Ok(()),
    };
    let written = write(&report, full);
    for error in [closed.as_ref().err(), written.as_ref().err()].into_iter().flatten() {
        eprintln!("{error:#}");
    }
    println!("{}{}", report.table(), report.summary());
    match conclusion.has_failed() || closed.is_err() || written.is_err() {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

/// The estate, if it was built. What can't be built is not tried again for each scenario.
enum Place {
    Empty,
    Built(Box<Stage>),
    Unbuildable(String),
}

/// Plays one scenario on the estate, which is built for the first.
async fn play(place: &mut Place, full: bool, run: Play, report: &Report) -> anyhow::Result<Row> {
    if matches!(place, Place::Empty) {
        *place = match Stage::open(if full { Sizes::full() } else { Sizes::small() }, report).await {
            Ok(stage) => Place::Built(Box::new(stage)),
            Err(error) => Place::Unbuildable(format!("the estate can't be built: {error:#}")),
        };
    }
    match place {
        Place::Built(stage) => {
            stage.calm().await.context("before the scenario")?;
            run(stage).await
        }
        Place::Unbuildable(why) => anyhow::bail!("{why}"),
        Place::Empty => anyhow::bail!("no estate"),
    }
}

/// Into the checkout in full size, else below the target folder.
fn write(report: &Report, full: bool) -> anyhow::Result<()> {
    let folder = if full { PathBuf::from(env!("CARGO_MANIFEST_DIR")) } else { target_dir()?.join("estate") };
    report.write(&folder).context("writing the report")
}
