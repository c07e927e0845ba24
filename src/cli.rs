//! The command line: the server, its client, and the tools that need neither.
//!
//! It is not a place for logic: it reads arguments, calls the part in question, and prints.
//!
//! Invariant: stdout is data and stderr all else; the exit code never depends on the output format.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::offline::TYPES;
use crate::policy::Policy;

mod bootstrap;
mod check;
mod client;
mod hosts;
mod ready;
mod serve;
mod show;
mod sidecar;
mod table;
mod validate;
mod world;

/// What the process tells its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Exit {
    /// Done.
    Done,
    /// Failed.
    Failed,
    /// Asked for wrongly, or a file can't be read.
    Usage,
    /// Done, and something is wrong with what was looked at.
    Findings,
    /// The control plane can't be reached.
    Unreachable,
    /// What a command ended with that was run for the caller.
    Command(u8),
}

impl Exit {
    fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Findings => 3,
            Self::Unreachable => 4,
            Self::Command(code) => code,
        }
    }
}

/// Why a command ended early.
#[derive(Debug)]
enum Stop {
    /// For the caller, with the text for stderr.
    Told(Exit, String),
    /// Writing failed.
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Stop {
    /// An end with a message and perhaps a way out.
    fn new(exit: Exit, message: impl std::fmt::Display, help: Option<&str>) -> Self {
        let help = help.map(|help| format!("\n  help: {help}")).unwrap_or_default();
        Self::Told(exit, format!("error: {message}{help}"))
    }
}

type Outcome = Result<Exit, Stop>;

/// Where a command writes.
struct Terminal<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    /// Whether stdout takes colour.
    colour: bool,
}

/// An Envoy control plane for Amazon ECS: stopped tasks stop getting traffic within seconds.
#[derive(Debug, Parser)]
#[command(name = "legation", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// When to colour what people read.
    #[arg(long, value_enum, default_value_t = Colour::Auto, global = true)]
    color: Colour,
}

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 failed, 2 usage, 3 problems found, 4 control plane unreachable. `sidecar run` has its command's.";

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Colour {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the control plane
    Serve(Serve),
    /// Check configurations, policies and file sources, and tell every problem
    Validate {
        /// Server configurations, policies and file sources.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Print the JSON Schema of a file, for editors
    Schema {
        /// Of which file.
        #[arg(value_enum)]
        of: SchemaOf,
    },
    /// Check whether AWS allows what a server with this configuration needs
    Check(Check),
    /// Show sources, namespaces, sidecars and findings at one look
    Status(Ask),
    /// Show each sidecar: what it was sent, what it accepted, what it refused
    #[command(visible_alias = "ps")]
    Proxies {
        #[command(flatten)]
        ask: Ask,
        /// Only sidecars in these states.
        #[arg(long, value_enum, value_delimiter = ',', value_name = "STATE")]
        state: Vec<SyncState>,
    },
    /// Show the services of a namespace, or what is in force for one and where each value was said
    Services {
        /// The mesh namespace.
        namespace: String,
        /// One service.
        service: Option<String>,
        #[command(flatten)]
        ask: Ask,
    },
    /// Record what the sources of a server describe, as a file for `render`, `diff`, `serve`, or a ticket
    World {
        #[command(flatten)]
        whom: Whom,
    },
    /// Print what would be served: a recorded world, treated as these policies have it
    Render(Render),
    /// Show what would change for which services if these were the policies
    Diff(Diff),
    /// Explain where a request of a sidecar goes, and why
    Explain(Explain),
    /// Let go of endpoints that a source lacks and that are held back (finding SRC003)
    Release {
        /// The source, as `legation status` names it; without it all.
        source: Option<String>,
        #[command(flatten)]
        ask: Ask,
    },
    /// Print lines for /etc/hosts: the loopback address of each alias
    Hosts(Hosts),
    /// Write the bootstrap of a stock Envoy
    Bootstrap(Bootstrap),
    /// Help a stock Envoy in its container: health, draining, names, and the end
    #[command(subcommand)]
    Sidecar(sidecar::Sidecar),
    /// Tell whether the server is ready, for the health check of its container
    Ready(Ready),
}

#[derive(Debug, Args)]
struct Serve {
    /// The server configuration; without it, its text is in LEGATION_CONFIG. With or without it, that of one more policy may be in
    /// LEGATION_POLICY.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration, with its environment and its file sources, and end.
    #[arg(long)]
    check_config: bool,
}

#[derive(Debug, Args)]
struct Check {
    /// Before anything runs: each action of IAM is tried once, and nothing is changed.
    #[arg(long, required = true)]
    pre: bool,
    /// The server configuration; without it, its text is in LEGATION_CONFIG.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Whom to ask, and how to print the answer.
#[derive(Debug, Args)]
struct Ask {
    /// The admin address of the control plane.
    #[arg(long, value_name = "URL", env = "LEGATION_SERVER", default_value = client::USUAL, value_parser = client::url)]
    server: String,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Whom to ask.
#[derive(Debug, Args)]
struct Whom {
    /// The admin address of the control plane.
    #[arg(long, value_name = "URL", env = "LEGATION_SERVER", default_value = client::USUAL, value_parser = client::url)]
    server: String,
}

#[derive(Debug, Args)]
struct Render {
    /// Policies: files, and folders of them. Without any, nobody is treated otherwise than as described.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The recorded world, as `legation world` prints it.
    #[arg(short, long, value_name = "FILE")]
    world: PathBuf,
    /// Only this mesh namespace.
    #[arg(short, long)]
    namespace: Option<String>,
    /// Only resources of this type.
    #[arg(short = 't', long = "type", value_name = "TYPE", value_parser = TYPES)]
    kind: Option<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Shown::Yaml)]
    output: Shown,
}

/// Without `--world` the running server is asked for its world, and for the policies in force.
#[derive(Debug, Args)]
struct Diff {
    /// The new policies: files, and folders of them.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A recorded world in place of the server's; no server is asked then.
    #[arg(short, long, value_name = "FILE")]
    world: Option<PathBuf>,
    /// The old policies, in place of those in force; with --world there are none else.
    #[arg(short, long, value_name = "FILE")]
    against: Vec<PathBuf>,
    /// End with 3 if there are differences.
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    whom: Whom,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Shown::Table)]
    output: Shown,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Shown {
    /// For people.
    Table,
    /// As JSON.
    Json,
    /// As YAML.
    Yaml,
}

#[derive(Debug, Args)]
struct Explain {
    /// Who asks: a sidecar's id, the end of it, or its service.
    client: String,
    /// What is asked: a service, or an alias as it is dialled.
    service: String,
    /// The mesh namespace; else the client's.
    #[arg(short, long)]
    namespace: Option<String>,
    /// The path, with its query.
    #[arg(long, default_value = "/")]
    path: String,
    /// The method.
    #[arg(long, default_value = "GET")]
    method: String,
    /// A header.
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Args)]
struct Hosts {
    /// The mesh namespace.
    namespace: String,
    /// Alias names; with names and no server, nobody is asked: the addresses follow from the names, unless two
    /// names of the namespace collide.
    names: Vec<String>,
    /// The admin address of the control plane.
    #[arg(long, value_name = "URL", env = "LEGATION_SERVER", value_parser = client::url)]
    server: Option<String>,
}

/// Without `--node-id` the task metadata endpoint of ECS is asked; flags outrank what it says.
#[derive(Debug, Args)]
struct Bootstrap {
    /// Where sidecars reach the control plane.
    #[arg(long, value_name = "HOST:PORT")]
    server: crate::bootstrap::Server,
    /// The CA of the control plane's certificate, where the sidecar finds it as PEM; without it no TLS is spoken.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<String>,
    /// The mesh namespace; else what the label `legation.namespace` of this container says, in an ECS task.
    #[arg(long)]
    namespace: Option<String>,
    /// The service that the sidecar belongs to; else the ECS service.
    #[arg(long)]
    service: Option<String>,
    /// The Envoy node cluster; else the service.
    #[arg(long)]
    cluster: Option<String>,
    /// Who the sidecar is; else the task ARN.
    #[arg(long)]
    node_id: Option<String>,
    /// The availability zone by name; else the task's.
    #[arg(long)]
    zone: Option<String>,
    /// The port of Envoy's own admin pages, on loopback.
    #[arg(long, value_name = "PORT", default_value_t = 9901, value_parser = clap::value_parser!(u16).range(1..))]
    admin_port: u16,
    /// A port that a container of the task listens on; ECS tells of none of a container that has yet to start.
    #[arg(long = "container-port", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    container_ports: Vec<u16>,
    /// Write here, in one step, and not to stdout; its folder is made.
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Copy this program there, in one step, for containers that have no shell: it is `sidecar` that they need.
    #[arg(long, value_name = "FILE")]
    copy_self: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Ready {
    /// Where the server tells its health.
    #[arg(long, value_name = "URL", default_value = ready::USUAL, value_parser = client::url)]
    server: String,
    /// How long it may take.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = sidecar::limit)]
    timeout: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// As the API answers.
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum SyncState {
    Synced,
    Stale,
    Nacked,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum SchemaOf {
    /// Of policy files.
    Policy,
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help that nobody reads to its end is no failure.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage.code()));
        }
    };
    let (mut out, mut err) = (io::stdout(), io::stderr());
    let colour = wants_colour(cli.color, out.is_terminal());
    let mut terminal = Terminal { out: &mut out, err: &mut err, colour };
    ExitCode::from(execute(cli.command, &mut terminal).code())
}

/// `NO_COLOR`, `TERM=dumb` and `CLICOLOR_FORCE` as everywhere; the flag outranks them.
fn wants_colour(flag: Colour, terminal: bool) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    match flag {
        Colour::Always => true,
        Colour::Never => false,
        Colour::Auto if set("NO_COLOR") => false,
        Colour::Auto if std::env::var_os("CLICOLOR_FORCE").is_some_and(|value| value != "0") => true,
        Colour::Auto => terminal && std::env::var_os("TERM").is_none_or(|term| term != "dumb"),
    }
}

fn execute(command: Command, terminal: &mut Terminal<'_>) -> Exit {
    let outcome = match command {
        Command::Serve(serve) => serve::run(&serve, terminal),
        Command::Validate { files, output } => validate::run(&files, output, terminal),
        Command::Schema { of: SchemaOf::Policy } => {
            writeln!(terminal.out, "{:#}", Policy::schema()).map(|()| Exit::Done).map_err(Stop::Io)
        }
        Command::Check(check) => check::run(&check, terminal),
        Command::Status(ask) => show::status(&ask, terminal),
        Command::Proxies { ask, state } => show::proxies(&ask, &state, terminal),
        Command::Services { namespace, service: Some(service), ask } => {
            show::service(&namespace, &service, &ask, terminal)
        }
        Command::Services { namespace, service: None, ask } => show::services(&namespace, &ask, terminal),
        Command::World { whom } => world::run(&whom, terminal),
        Command::Render(render) => world::render(&render, terminal),
        Command::Diff(diff) => world::diff(&diff, terminal),
        Command::Explain(explain) => show::explain(&explain, terminal),
        Command::Release { source, ask } => show::release(source.as_deref(), &ask, terminal),
        Command::Hosts(hosts) => hosts::run(&hosts, terminal),
        Command::Bootstrap(bootstrap) => bootstrap::run(&bootstrap, terminal),
        Command::Sidecar(sidecar) => sidecar::run(sidecar, terminal),
        Command::Ready(ready) => ready::run(&ready),
    };
    let outcome = outcome.and_then(|exit| terminal.out.flush().map(|()| exit).map_err(Stop::Io));
    match outcome {
        Ok(exit) => exit,
        // Whoever read us has seen enough.
        Err(Stop::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
        Err(Stop::Io(error)) => {
            let _ = writeln!(terminal.err, "error: can't write: {error}");
            Exit::Failed
        }
        Err(Stop::Told(exit, text)) => {
            let _ = writeln!(terminal.err, "{text}");
            exit
        }
    }
}

/// The environment, less what is not text: none of our variables is.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

#[cfg(test)]
mod tests;
