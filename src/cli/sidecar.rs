//! `legation sidecar`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::{Exit, Outcome, Stop, Terminal};
use crate::sidecar::drain::{Drained, drain};
use crate::sidecar::ending::Delay;
use crate::sidecar::envoy::{Envoy, EnvoyError};
use crate::sidecar::run::{self, Plan};

/// How long Envoy may take to answer one question where people do not say it.
const PATIENCE: Duration = Duration::from_secs(2);
/// Nobody waits longer, and clocks can be added to it.
const LONGEST: Duration = Duration::from_secs(86_400);

#[derive(Debug, Subcommand)]
pub(super) enum Sidecar {
    /// Tell whether Envoy serves by what the control plane sent, for the health check of its container
    ///
    /// It does from when it is LIVE and has accepted clusters and listeners, until it drains. That it has lost the control plane
    /// since then does not count: it serves by what it has. Exit code 0 or 1, within the timeout.
    Ready(Ready),
    /// Have Envoy let go of the clients of this task's service, and wait until they have gone
    ///
    /// Its health fails from now on, and each answer closes its connection; nothing is refused, and calls of this task go on.
    /// There is no way back: a drained Envoy is to be ended.
    Drain(Drain),
    /// Run a command as the init of a container, and put its end off while others need it
    ///
    /// Signals are passed on, but for real-time ones, CHLD, and those by which a process learns of a fault of its own, such as
    /// PIPE and BUS. Orphans are reaped, and the exit code is the command's, or 128 and the signal that ended it; 126 or 127 where
    /// it can't be started. A second stop signal, or the end of the command, ends every wait. With both --hold and --drain the
    /// command is told after the hold at the earliest. While the first names are waited for (--hosts) there is no command yet:
    /// TERM, INT, QUIT, HUP and the stop signal end all then.
    Run(Run),
}

#[derive(Debug, Args)]
pub(super) struct Ready {
    #[command(flatten)]
    admin: Admin,
    /// How long it may take.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = limit)]
    timeout: Duration,
}

#[derive(Debug, Args)]
pub(super) struct Drain {
    #[command(flatten)]
    admin: Admin,
    /// How long to wait for connections to end.
    #[arg(long = "for", value_name = "TIME", default_value = "20s", value_parser = time)]
    bound: Duration,
}

#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    admin: Admin,
    /// For an application: pass the stop signal on only after this time, in which clients learn that the task goes.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = time)]
    hold: Duration,
    /// For Envoy: drain at the stop signal, and pass it on when no connection is left, after this time at the latest.
    #[arg(long, value_name = "TIME", value_parser = time)]
    drain: Option<Duration>,
    /// The signal that asks for the end: STOPSIGNAL of the image.
    #[arg(long, value_enum, value_name = "SIGNAL", default_value_t = StopSignal::Term)]
    stop_signal: StopSignal,
    /// Keep the hosts file current with the names that this task may call; it takes user 0.
    #[arg(long)]
    hosts: bool,
    /// The hosts file.
    #[arg(long, value_name = "FILE", default_value = "/etc/hosts", requires = "hosts")]
    hosts_file: PathBuf,
    /// The command, and what it is called with.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, Args)]
struct Admin {
    /// Envoy's admin pages.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9901")]
    admin: SocketAddr,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum StopSignal {
    Term,
    Int,
    Quit,
    Hup,
    Usr1,
    Winch,
}

impl From<StopSignal> for run::StopSignal {
    fn from(signal: StopSignal) -> Self {
        match signal {
            StopSignal::Term => Self::Term,
            StopSignal::Int => Self::Int,
            StopSignal::Quit => Self::Quit,
            StopSignal::Hup => Self::Hup,
            StopSignal::Usr1 => Self::Usr1,
            StopSignal::Winch => Self::Winch,
        }
    }
}

/// A time that people wait, as in `1m 30s`.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time > LONGEST { Err("that is more than a day".to_owned()) } else { Ok(time) }
}

/// The time that an answer may take.
pub(super) fn limit(text: &str) -> Result<Duration, String> {
    time(text).and_then(|time| {
        if time.is_zero() { Err("no answer takes no time at all".to_owned()) } else { Ok(time) }
    })
}

pub(super) fn run(sidecar: Sidecar, terminal: &mut Terminal<'_>) -> Outcome {
    match sidecar {
        Sidecar::Ready(asked) => {
            let told = Envoy::at(asked.admin.admin, asked.timeout).ready();
            told.map(|()| Exit::Done).map_err(|why| Stop::Told(Exit::Failed, format!("not ready: {why}")))
        }
        Sidecar::Drain(asked) => self::drained(&asked, terminal),
        Sidecar::Run(asked) => {
            let plan = Plan {
                command: asked.command,
                delay: Delay { hold: asked.hold, drain: asked.drain },
                stop: asked.stop_signal.into(),
                hosts: asked.hosts.then_some(asked.hosts_file),
                admin: asked.admin.admin,
            };
            let ended = run::run(plan);
            ended.map(Exit::Command).map_err(|error| Stop::new(Exit::Command(error.code()), error, None))
        }
    }
}

fn drained(asked: &Drain, terminal: &mut Terminal<'_>) -> Outcome {
    let failed = |error: EnvoyError| Stop::new(Exit::Failed, error, None);
    match drain(&Envoy::at(asked.admin.admin, PATIENCE), asked.bound).map_err(failed)? {
        Drained::Empty(after) => {
            writeln!(
                terminal.err,
                "drained: no client is connected any more, after {:.1} s",
                after.as_secs_f64()
            )?;
        }
        Drained::Open(open) => writeln!(terminal.err, "the time is over: inbound connections left: {open}")?,
        Drained::Gone => writeln!(terminal.err, "Envoy has ended")?,
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_people_write_them_and_end_some_day() {
        assert_eq!(time("0s"), Ok(Duration::ZERO));
        assert_eq!(time("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(limit("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["", "5", "soon", "-1s", "2days", "1000000years"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
        assert!(limit("0s").is_err());
    }
}
