//! The parent of one command: a small init that knows when its child should hear that it is to end.
//!
//! It is no supervisor: when the command ends, so does it, with the same code. Invariant: every child that ends is reaped,
//! also those that were somebody else's; the command hears every signal that the helper gets, and those that ask for its end in
//! due time. Not meant for it, and not passed on, are SIGCHLD and what a process gets for a fault of its own (SIGPIPE, SIGBUS,
//! SIGXCPU and the like); SIGKILL and SIGSTOP can't be heard, and real-time signals are not listened for.
//!
//! The command stays in the process group that it was started in, and is a child of the main thread: Envoy has itself ended
//! when the thread that started it does.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::drain::{LOOKS, Quiet};
use super::ending::{Delay, Ending};
use super::envoy::{Connections, Envoy, EnvoyError};
use super::hosts::{Hosts, Look};
use super::say;

/// What is passed on as it comes, unless it is what asks for the end: all that one process sends to another.
const SIGNALS: &[Signal] = &[
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::ABORT,
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::TERM,
    Signal::CONT,
    Signal::TSTP,
    Signal::TTIN,
    Signal::TTOU,
    Signal::URG,
    Signal::VTALARM,
    Signal::PROF,
    Signal::WINCH,
    Signal::IO,
    #[cfg(target_os = "linux")]
    Signal::POWER,
    #[cfg(target_os = "linux")]
    Signal::STKFLT,
];
/// What ends the helper itself while there is no command yet.
const ENDS: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];
/// How long one question to Envoy may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at the names.
const NAMES: Duration = Duration::from_secs(1);
/// How long a command waits for the first names.
const FIRST_NAMES: Duration = Duration::from_secs(5);

/// What to run, and how it ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The program, and what it is called with.
    pub command: Vec<OsString>,
    /// How long its end is put off.
    pub delay: Delay,
    /// The signal that asks for the end.
    pub stop: StopSignal,
    /// The hosts file that is kept current, if one is.
    pub hosts: Option<PathBuf>,
    /// Envoy's admin pages.
    pub admin: SocketAddr,
}

/// A signal by which a container may be told to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum StopSignal {
    /// SIGTERM.
    #[default]
    Term,
    /// SIGINT.
    Int,
    /// SIGQUIT.
    Quit,
    /// SIGHUP.
    Hup,
    /// SIGUSR1.
    Usr1,
    /// SIGWINCH.
    Winch,
}

/// A command that did not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It can't be started.
    #[error("can't start {0}: {1}")]
    NoCommand(String, io::Error),
    /// We can't do our work.
    #[error("can't run: {0}")]
    Io(#[from] io::Error),
}

impl RunError {
    /// The code that shells end with.
    pub fn code(&self) -> u8 {
        match self {
            Self::NoCommand(_, error) if error.kind() == io::ErrorKind::NotFound => 127,
            Self::NoCommand(..) => 126,
            Self::Io(_) => 1,
        }
    }
}

impl From<StopSignal> for Signal {
    fn from(stop: StopSignal) -> Self {
        match stop {
            StopSignal::Term => Self::TERM,
            StopSignal::Int => Self::INT,
            StopSignal::Quit => Self::QUIT,
            StopSignal::Hup => Self::HUP,
            StopSignal::Usr1 => Self::USR1,
            StopSignal::Winch => Self::WINCH,
        }
    }
}

/// Runs the command until it ends, and answers its code: 128 and the number of the signal where one ended it.
pub fn run(plan: Plan) -> Result<u8, RunError> {
    adopt_orphans();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(life(plan));
    // A question to Envoy must not keep us.
    runtime.shutdown_background();
    code
}

/// Has orphans of the command come to us even where we are not process 1. A sandbox may forbid it; then they go where they went
/// before.
#[cfg(target_os = "linux")]
fn adopt_orphans() {
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// No other system lets anybody but process 1 have them.
#[cfg(not(target_os = "linux"))]
fn adopt_orphans() {}

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    /// A signal came.
    Signal(Signal),
    /// A child may have ended.
    Child,
    /// Nobody is connected to Envoy any more.
    Quiet,
}

async fn life(plan: Plan) -> Result<u8, RunError> {
    let (sender, mut events) = mpsc::unbounded_channel();
    listen(&sender)?;
    let envoy = Envoy::at(plan.admin, PATIENCE);
    let stop = Signal::from(plan.stop);
    if let Some(file) = &plan.hosts {
        // Envoy itself needs no names, and would be waited for in vain.
        let waits = plan.delay.drain.is_none();
        let first = keep_names(Hosts::new(file.clone(), envoy.clone()), waits);
        tokio::pin!(first);
        loop {
            tokio::select! {
                () = &mut first => break,
                Some(event) = events.recv() => match event {
                    Event::Signal(signal) if signal == stop || ENDS.contains(&signal) => {
                        return Ok(code_of(signal));
                    }
                    _ => {}
                },
            }
        }
    }
    let child = start(&plan.command)?;
    let mut ending = Ending::new(plan.delay);
    loop {
        let due = ending.due();
        let wait = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = wait => {
                ending.told();
                pass_on(child, stop);
            }
            Some(event) = events.recv() => match event {
                Event::Child => {
                    if let Some(code) = reap(child)? {
                        return Ok(code);
                    }
                }
                Event::Quiet => ending.quiet(),
                Event::Signal(signal) if signal == stop => {
                    let is_first = ending.due().is_none();
                    if ending.ask(Instant::now()) {
                        pass_on(child, stop);
                    } else if is_first && plan.delay.drain.is_some() {
                        tokio::spawn(watch_connections(envoy.clone(), sender.clone()));
                    }
                }
                Event::Signal(signal) => pass_on(child, signal),
            },
        }
    }
}

/// Has signals come as events.
fn listen(sender: &mpsc::UnboundedSender<Event>) -> io::Result<()> {
    let of_others = SIGNALS.iter().map(|it| (SignalKind::from_raw(it.as_raw()), Event::Signal(*it)));
    for (kind, event) in of_others.chain([(SignalKind::child(), Event::Child)]) {
        let (mut stream, sender) = (signal(kind)?, sender.clone());
        tokio::spawn(async move { while stream.recv().await.is_some() && sender.send(event).is_ok() {} });
    }
    Ok(())
}

fn start(command: &[OsString]) -> Result<Pid, RunError> {
    let (program, arguments) = command.split_first().ok_or_else(|| io::Error::other("no command"))?;
    let child = Command::new(program).args(arguments).spawn();
    let child = child.map_err(|error| RunError::NoCommand(program.display().to_string(), error))?;
    // It is reaped with all others, by its id.
    let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    Ok(id.ok_or_else(|| io::Error::other("no process id"))?)
}

/// It can't be another's process yet: nobody else reaps it, and until then its id is taken.
fn pass_on(child: Pid, signal: Signal) {
    if let Err(error) = kill_process(child, signal) {
        say(format!("can't pass a signal on: {error}"));
    }
}

/// Takes in every child that has ended; the code of the command if it is among them. Signals of one kind that come together
/// are one.
fn reap(command: Pid) -> io::Result<Option<u8>> {
    let mut code = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((child, status))) if child == command => code = code.or(code_after(status)),
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(code),
            Err(error) => return Err(error.into()),
        }
    }
}

fn code_after(status: WaitStatus) -> Option<u8> {
    let signalled = || status.terminating_signal().map(|number| 128 + number);
    status.exit_status().or_else(signalled).and_then(|code| u8::try_from(code).ok())
}

fn code_of(signal: Signal) -> u8 {
    u8::try_from(128 + signal.as_raw()).unwrap_or(1)
}

/// Has Envoy say that it goes, and tells when nobody is connected any more.
async fn watch_connections(envoy: Envoy, sender: mpsc::UnboundedSender<Event>) {
    let asked = blocking(envoy.clone(), |envoy| envoy.drain()).await;
    match asked {
        Ok(()) => {}
        // Then there is nobody to be connected to.
        Err(EnvoyError::Absent(_)) => {
            let _ = sender.send(Event::Quiet);
            return;
        }
        Err(error) => say(error),
    }
    let mut quiet = Quiet::default();
    loop {
        if let Ok(open) = blocking(envoy.clone(), to_be_served).await
            && quiet.see(open, Instant::now())
        {
            let _ = sender.send(Event::Quiet);
            return;
        }
        tokio::time::sleep(LOOKS).await;
    }
}

/// The connections that something may yet be wanted of. Clients keep connections open to whatever they know.
fn to_be_served(envoy: &Envoy) -> Result<u64, EnvoyError> {
    let Connections { inbound, outbound } = envoy.connections()?;
    if outbound == 0 && inbound > 0 && envoy.has_nobody_behind()? {
        return Ok(0);
    }
    Ok(inbound + outbound)
}

async fn blocking<T: Send + 'static>(
    envoy: Envoy,
    ask: impl FnOnce(&Envoy) -> Result<T, EnvoyError> + Send + 'static,
) -> Result<T, EnvoyError> {
    let asked = tokio::task::spawn_blocking(move || ask(&envoy)).await;
    asked.unwrap_or_else(|error| Err(EnvoyError::Lost(error.to_string())))
}

/// Keeps the names current from now on, and returns when they are for the first time, if that `waits`.
async fn keep_names(mut hosts: Hosts, waits: bool) {
    let (sender, first) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut sender = Some(sender);
        loop {
            let looked = tokio::task::spawn_blocking(move || (hosts.look(), hosts)).await;
            let Ok((look, again)) = looked else { return };
            hosts = again;
            let pause = match look {
                Look::Waiting if sender.is_some() => LOOKS,
                Look::Waiting => NAMES,
                Look::Current | Look::Failed => {
                    let _ = sender.take().map(|sender| sender.send(()));
                    NAMES
                }
            };
            tokio::time::sleep(pause).await;
        }
    });
    if waits && tokio::time::timeout(FIRST_NAMES, first).await.is_err() {
        say(format!("Envoy has told no names for {} s; the command starts without", FIRST_NAMES.as_secs()));
    }
}
