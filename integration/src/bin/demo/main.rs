//! The main job, live: tasks stop under load, and one sees how soon each sidecar knew.
//!
//! Everything is real but AWS: servers, Legation, two stock Envoys, connections. Invariant: whatever way it
//! ends, nothing that it started is left behind.

mod report;
mod screen;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use integration::control_plane::Ports;
use integration::load::{Load, Way};
use integration::process::is_free;
use integration::scene::Scene;
use integration::stage::{Knowledge, PROXY, Stage};
use integration::withdrawal::{Withdrawal, stop_tasks};
use tokio::signal::unix::{SignalKind, signal};

use screen::Screen;

/// How many tasks are stopped.
const STOPS: usize = 24;
/// How long a stopping task's application keeps accepting, as behind `legation sidecar run --hold 3s`.
const HOLD: Duration = Duration::from_secs(3);
/// How many sidecars there are.
const SIDECARS: usize = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let screen = Screen::new();
    match run(&screen).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            screen.line(format!("\n{} {error:#}", screen.bad("The demo failed:")));
            ExitCode::FAILURE
        }
    }
}

async fn interrupted() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for signals")?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt.context("listening for signals"),
        _ = terminate.recv() => Ok(()),
    }
}

/// Shows everything, and runs on until it is interrupted; answers whether every claim holds.
async fn run(screen: &Screen) -> anyhow::Result<bool> {
    let once = std::env::var_os("ONCE").is_some_and(|value| !value.is_empty() && value != "0");
    let scene = Scene::open("demo")?;
    let shown = tokio::select! {
        shown = show(screen, &scene) => shown,
        interrupted = interrupted() => {
            interrupted?;
            anyhow::bail!("interrupted before the end");
        }
    };
    let (stage, load, holds) = shown?;
    if !once {
        show_addresses(screen, &stage).await?;
        interrupted().await?;
        screen.line("\nStopping.");
    }
    load.stop().await?;
    stage.close().await?;
    Ok(holds)
}

/// Stops tasks under load; answers what runs, and whether every claim holds.
async fn show(screen: &Screen, scene: &Scene) -> anyhow::Result<(Stage, Load, bool)> {
    screen.line(screen.bold("Legation: when a task is going away, its clients know."));
    let mut stage = Stage::open(scene.folder(), Knowledge::Aws, usual_ports()?).await?;
    stage.start_sidecars(SIDECARS).await?;
    let load = stage.load(ways(&stage).await?).await?;
    show_picture(screen, &stage, &load).await?;
    screen.heading(&format!(
        "Stopping {STOPS} tasks of payments, one or two at a time, each replaced; times in ms since the stop"
    ));
    report::timeline_heading(screen);
    let row = |number, one: &Withdrawal| report::timeline_row(screen, number, one);
    let withdrawals = stop_tasks(&stage, STOPS, HOLD, row).await?;
    let holds = report::report(screen, &stage, &load, &withdrawals).await?;
    Ok((stage, load, holds))
}

/// The ports that the guides speak of, if they are free.
fn usual_ports() -> anyhow::Result<Option<Ports>> {
    let usual = Ports { xds: 18000, metrics: 9090, admin: 19000 };
    Ok([usual.xds, usual.metrics, usual.admin].into_iter().all(is_free).then_some(usual))
}

async fn ways(stage: &Stage) -> anyhow::Result<Vec<Way>> {
    let (payments, ledger) = (stage.alias("payments", 8080).await?, stage.alias("ledger", 50051).await?);
    Ok(vec![
        Way::direct("by address", payments, "payments:8080").at_rate(60),
        Way::proxy("by HTTP_PROXY", PROXY, "payments:8080").at_rate(60),
        Way::http2("ledger (HTTP/2)", ledger, "ledger:50051"),
        Way::lines("redis (TCP)", stage.alias("redis", 6379).await?),
    ])
}

/// What runs where.
async fn show_picture(screen: &Screen, stage: &Stage, load: &Load) -> anyhow::Result<()> {
    let payments = stage.alias("payments", 8080).await?;
    let [one, two] = stage.envoys.as_slice() else { anyhow::bail!("there are not two sidecars") };
    let server = &stage.server;
    let name = |text: &str| screen.name(text);
    screen.line(format!(
        "
  {} ──── requests ────▶ {} ──── requests ────▶ {}
                          (two checkout tasks)                 real servers, in three zones
                                   ▲                                       │
                                   │ delta ADS                             │ states, zones, health
                                   │                                       ▼
                            {} ◀──── polls, 1 s ──── {}
",
        name("load"),
        name("2 stock Envoys"),
        name("payments ×3, ledger ×2, redis ×1"),
        name("legation serve"),
        name("answers like AWS"),
    ));
    let spread: Vec<_> = load
        .spread()
        .iter()
        .map(|(way, carried)| {
            format!("{way} {}", carried.iter().map(u64::to_string).collect::<Vec<_>>().join("+"))
        })
        .collect();
    let fact = |what: &str, how: String| screen.line(screen.dim(format!("  {what:<12} {how}")));
    let version = one.version().await?;
    fact("Envoys", format!("{version}, pids {} and {}", one.id(), two.id()));
    fact(
        "Legation",
        format!("pid {}, sidecars connect to {}", server.id().unwrap_or_default(), server.xds()),
    );
    fact("like AWS", stage.aws.url());
    fact("load", format!("http://payments:8080 by its address {payments}, and by HTTP_PROXY={PROXY}"));
    fact("connections", format!("on the two Envoys: {}", spread.join(", ")));
    Ok(())
}

/// Where to look while everything runs on.
async fn show_addresses(screen: &Screen, stage: &Stage) -> anyhow::Result<()> {
    let (admin, metrics) = (stage.server.admin(), stage.server.metrics());
    let payments = stage.alias("payments", 8080).await?;
    let program = integration::control_plane::binary()?;
    let here = std::env::current_dir().unwrap_or_default();
    let program = program.strip_prefix(&here).unwrap_or(&program).display();
    // Its default.
    let server = if admin.port() == 19000 { String::new() } else { format!(" --server http://{admin}") };
    screen.heading("Everything runs on, load included. Look around:");
    let show =
        |what: &str, how: String| screen.line(format!("  {} {how}", screen.name(format!("{what:<12}"))));
    show("Legation", format!("{program} status{server}"));
    show("", format!("{program} proxies{server}"));
    show("", format!("{program} services prod{server}"));
    for path in ["status", "changes", "namespaces/prod/resources/endpoints"] {
        show("", format!("curl -s http://{admin}/api/v1/{path}"));
    }
    show("", format!("curl -s 'http://{metrics}/readyz?verbose'"));
    show("", format!("curl -s http://{metrics}/metrics"));
    for envoy in &stage.envoys {
        show(envoy.name(), format!("http://{}/", envoy.admin()));
    }
    show("payments", format!("curl -s --resolve payments:8080:{} http://payments:8080/", payments.ip()));
    show("", format!("curl -s -x http://{PROXY} http://payments:8080/"));
    show(
        "",
        format!("curl -si -x http://{PROXY} http://paymets:8080/   # no such name: 404 with the reason"),
    );
    screen.line(format!("\n{}", screen.bold("Ctrl-C ends it.")));
    Ok(())
}
