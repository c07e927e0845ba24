//! Legation beside go-control-plane and the kernel, on this machine, in one run.
//!
//! It is no test of what is right, but a server that is wrong scores nothing. Invariant: whatever is written down was
//! measured by this run.

mod backends;
mod door;
mod fleet;
mod floor;
mod machine;
mod report;
mod scenario;
mod server;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tokio::task::LocalSet;

use report::Line;
use scenario::Bench;
use server::Programs;

/// What stands above every table.
const READING: &str = "\
# Measured

`make bench` writes this file. Legation runs as it is shipped, with one more source that is fed over a socket,
and with two limits raised: on new streams (`xds.newStreamsPerSecond`), so that a storm is one, and on calls
to AWS (`aws.callBudgetPercent`), so that a sweep costs what it costs. The peer is a small server of go-
control-plane's parts; the floor is the kernel alone: the same bytes to as many connections, and a short
answer from each, once after the others. All get the same world and the same changes and take turns in
processes of their own. A server scores nothing unless, in every turn, every client that is measured ends with
exactly what the world is, in order and without a refusal. Pinned: the server on one core, the clients on the
other. Figures are medians; where there were several turns, with the least and the most in brackets. The ratio
is Legation's share of what LinearCache needs in the same run; SnapshotCache takes part only where fan-out is
measured at its smallest, and nobody but Legation where no ratio is wanted.

* S1 to S3: 50 rounds, in a quick run 20 (S2: 5). In each a task goes and another comes in the same moment.
  The processor's time comes in hundredths of a second. The floor beside TLS has none.
* S4: each withdrawal at each client counts. S8 is the same beside 40 bad clients that ask for everything
  which changes.
* S5: a rate is held for two seconds and counts if its changes are told no more than half a second late. Where
  that ends the ramp, the server takes in orders no faster, or the clients' core, which tells them, can do no
  more: then the knee lies where it says or higher.
* S6, with what was held: clients ask for the clusters first, as Envoy does, when they are new and when they
  come back.
* S7: the turns of a server run at the same time, but for 10,000 streams. The peer's memory holds what its
  collector has not looked at yet.
* S10: from the moment when the endpoint is told that a task stops. The cluster is read every 15 s, and the
  changes of the sweep are told by no event.
* S9: half of 0.00 ms means that no request came after the event; a backend gets one in about 25 ms, over all
  Envoys. This one is judged free, since Envoys need both cores.
";

/// A quick run fails where a figure is so many times worse than its target.
const FAR_OFF: f64 = 3.0;

/// Measures Legation beside go-control-plane.
#[derive(Debug, Parser)]
struct Plan {
    /// Less of everything, for CI: fails only where a target is missed by far.
    #[arg(long)]
    quick: bool,
    /// Only these scenarios, such as `S1,S3`.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Measure although others are at work on this machine.
    #[arg(long)]
    busy: bool,
    /// Fail where there is no peer.
    #[arg(long)]
    beside: bool,
    /// The peer, built from `bench/peers/go-control-plane`; without it Legation is measured alone.
    #[arg(long)]
    peer: Option<PathBuf>,
    /// Where `RESULTS.md` and `results.json` go.
    #[arg(long)]
    results: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let plan = Plan::parse();
    rlimit::increase_nofile_limit(u64::MAX).context("raising the limit of open files")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let fed = std::env::current_exe()?.with_file_name("fed");
    let bench = Bench {
        programs: Programs {
            floor: fed.with_file_name("floor"),
            sdk: fed.with_file_name("sdk"),
            fed,
            peer: plan.peer.clone(),
        },
        quick: plan.quick,
        busy: plan.busy,
        only: plan.only.clone(),
    };
    if plan.peer.is_none() {
        anyhow::ensure!(!plan.beside, "no Go, so no peer to measure Legation beside");
        eprintln!("no Go, so no peer: Legation and the floor are measured alone");
    }
    let preface = preface(&plan)?; // before this thread has a core of its own
    let lines = runtime.block_on(LocalSet::new().run_until(bench.run()))?;
    let table = report::table(&preface, &lines);
    println!("{table}");
    if let Some(folder) = &plan.results {
        std::fs::write(folder.join("RESULTS.md"), &table).context("writing the table")?;
        std::fs::write(folder.join("results.json"), report::json(&lines)? + "\n")
            .context("writing the JSON")?;
    }
    Ok(verdict(&plan, &lines))
}

fn preface(plan: &Plan) -> anyhow::Result<String> {
    let machine = machine::describe()?;
    let versions = machine::versions(plan.peer.as_deref())?;
    let busy = if plan.busy { " Others may have been at work meanwhile." } else { "" };
    Ok(format!("{READING}\nMachine: {machine}. {versions}.{busy}\n"))
}

fn verdict(plan: &Plan, lines: &[Line]) -> ExitCode {
    let limit = if plan.quick { FAR_OFF } else { f64::INFINITY };
    let far_off: Vec<_> = lines.iter().filter(|line| line.excess().is_some_and(|it| it > limit)).collect();
    for line in &far_off {
        eprintln!("{}: {} misses its target by far", line.scenario, line.metric);
    }
    let wrong = lines.iter().any(|line| !line.figures.wrong.is_empty());
    if far_off.is_empty() && !wrong { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
