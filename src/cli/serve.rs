//! `legation serve`.

use super::validate::{configuration, examine, report};
use super::{Exit, Format, Outcome, Serve, Stop, Terminal, environment};
use crate::config::Config;
use crate::source::file;
use crate::{app, telemetry};

pub(super) fn run(serve: &Serve, terminal: &mut Terminal<'_>) -> Outcome {
    let (name, text) = configuration(serve.config.as_deref(), environment())?;
    let config = Config::parse(&name, &text, environment());
    // Two files that don't agree keep no server from starting: the first has its way, and it is a finding.
    let look = if serve.check_config { file::examine_together } else { file::examine };
    let problems = match &config {
        Ok(config) => examine(config, look),
        Err(problems) => problems.clone(),
    };
    let config = match config {
        Ok(config) if problems.is_empty() && !serve.check_config => config,
        _ => return report(&problems, Format::Table, terminal),
    };
    telemetry::start_logging();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Stop::new(Exit::Failed, format!("can't start: {error}"), None))?;
    let outcome = runtime.block_on(app::serve(config));
    // A thread that waits for a medium that does not answer must not keep the process.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => Ok(Exit::Done),
        Err(error) => Err(Stop::new(Exit::Failed, format!("{error:#}"), None)),
    }
}
