//! The estate in containers: what its callers see while tasks, control planes and networks come and go.
//!
//! `make estate` runs it and prints a table; `FULL=1` in full size, and then it also writes `integration/REPORT.md` and
//! `integration/report.json`. Scenarios share one estate and run one after the other; `ONLY=crash` takes some. Invariant: a row says
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

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

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
    let (stage, report) = (Arc::new(Mutex::new(None::<Stage>)), Report::default());
    let trials = SCENARIOS.iter().map(|(name, run)| {
        let (stage, report, runtime) = (stage.clone(), report.clone(), runtime.clone());
        Trial::test(*name, move || {
            let mut stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
            runtime
                .block_on(play(&mut stage, full, name, *run, &report))
                .map_err(|error| Failed::from(format!("{error:#}")))
        })
    });
    let complete = arguments.filter.is_none() && arguments.skip.is_empty();
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if arguments.list {
        return ExitCode::SUCCESS;
    }
    let stage = stage.lock().unwrap_or_else(PoisonError::into_inner).take();
    let closed = stage.map_or(Ok(()), |stage| runtime.block_on(stage.close()));
    if let Err(error) = &closed {
        eprintln!("the estate could not be closed: {error:#}");
    }
    print!("{}", report.table());
    if full
        && complete
        && let Err(error) = report.write()
    {
        eprintln!("the report could not be written: {error:#}");
        return ExitCode::FAILURE;
    }
    println!("{}", report.summary());
    if conclusion.has_failed() || closed.is_err() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Plays one scenario on the estate, which is built for the first.
async fn play(
    stage: &mut Option<Stage>,
    full: bool,
    name: &'static str,
    run: Play,
    report: &Report,
) -> anyhow::Result<()> {
    if stage.is_none() {
        *stage = Some(Stage::open(if full { Sizes::full() } else { Sizes::small() }, report).await?);
    }
    let Some(stage) = stage else { anyhow::bail!("no estate") };
    stage.calm().await?;
    let row: Row = run(stage).await.map(|row| Row { scenario: name, ..row })?;
    let judged = row.judge();
    report.note(row);
    judged
}
