//! The protocol, case by case: C1 to C60, each in delta and in state of the world.
//!
//! A case starts its own server and meets it only where clients do. `make conformance` runs them all and ends
//! with a table; with a filter, such as `C17` or `(sotw)`, only what matches runs. Invariant: a number without a
//! case fails the run, as does an applicable case that did not pass.

#![allow(missing_docs, reason = "tests")]

mod answers;
mod case;
mod envoy;
mod fleet;
mod grpc;
mod life;
mod names;
mod order;
mod refusals;
mod replicas;
mod report;
mod resume;
mod rig;
mod stalls;
mod start;
mod vitals;
mod wildcards;

use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::sync::{Arc, PoisonError, RwLock};

use case::{Case, Context, Run};
use integration::loopback::with_own;
use integration::probe::Protocol;
use libtest_mimic::{Arguments, Failed, Trial};
use report::{Outcome, Report};

/// Every case there is to be.
const EXPECTED: RangeInclusive<u8> = 1..=60;
/// How many cases run at a time, if nobody says otherwise.
const AT_A_TIME: usize = 4;

/// One module's `cases()` after the other.
fn cases() -> Vec<Case> {
    let modules: &[fn() -> Vec<Case>] = &[
        start::cases,
        wildcards::cases,
        names::cases,
        resume::cases,
        replicas::cases,
        stalls::cases,
        life::cases,
        order::cases,
        refusals::cases,
        answers::cases,
        grpc::cases,
        envoy::cases,
    ];
    modules.iter().flat_map(|cases| cases()).collect()
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_A_TIME);
    let complete = arguments.filter.is_none() && arguments.skip.is_empty() && !arguments.ignored;
    let listing = arguments.list;
    let (report, turn) = (Report::default(), Arc::new(RwLock::new(())));
    let trials = cases().into_iter().flat_map(|case| trials(case, &report, &turn)).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if listing {
        return ExitCode::SUCCESS;
    }
    print!("{}{}", report.table(EXPECTED, complete), report.summary());
    let missing = report.missing(EXPECTED);
    if conclusion.has_failed() || (complete && !missing.is_empty()) {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// A case's trials. Those that measure time wait for their turn and let nothing run beside them; the others have a loopback of
/// their own where that can be had.
fn trials(mut case: Case, report: &Report, turn: &Arc<RwLock<()>>) -> Vec<Trial> {
    let (number, title, alone) = (case.number, case.title, case.alone);
    let mut trials = Vec::new();
    for protocol in Protocol::BOTH {
        let body = match std::mem::replace(case.run(protocol), Run::NotApplicable("")) {
            Run::Body(body) => body,
            Run::NotApplicable(why) => {
                report.note(number, title, protocol, Outcome::NotApplicable(why));
                continue;
            }
        };
        report.note(number, title, protocol, Outcome::Skipped);
        let (report, turn) = (report.clone(), Arc::clone(turn));
        trials.push(Trial::test(format!("C{number} {title} ({protocol})"), move || {
            let _only = alone.then(|| turn.write().unwrap_or_else(PoisonError::into_inner));
            let _beside = (!alone).then(|| turn.read().unwrap_or_else(PoisonError::into_inner));
            let note = |outcome| report.note(number, title, protocol, outcome);
            note(Outcome::Failed("it did not end".to_owned()));
            let failed = |error: anyhow::Error, logs: String| {
                note(Outcome::Failed(format!("{error:#}")));
                Failed::from(format!("{error:#}\n{logs}"))
            };
            let context = Context::new(number, protocol).map_err(|error| failed(error, String::new()))?;
            let run = || body(&context);
            let outcome = if alone { run() } else { with_own(run) };
            outcome.map_err(|error| failed(error, context.logs()))?;
            note(Outcome::Passed);
            Ok(())
        }));
    }
    trials
}
