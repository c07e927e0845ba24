//! S9: stock Envoys under load, and how long a backend that left still gets requests.
//!
//! The peer has no part in it: it serves load assignments alone. Invariant: a backend that left goes on answering, so
//! that what fails is not for want of it.

use std::time::{Duration, Instant};

use anyhow::Context;
use integration::envoy::{self, Envoy};
use integration::load::{Load, Plan, Way};
use integration::wait;
use legation::bootstrap::{self, Inputs};
use legation::vip;

use super::rollout::percentile;
use super::{Bench, Sample, Wanted};
use crate::backends::Backend;
use crate::machine::Mode;
use crate::report::{Line, Target};
use crate::server::{Kind, Server};
use crate::world::{self, Change};

const ENVOYS: usize = 20;
const SERVICES: usize = 10;
const BACKENDS: usize = 5;
const WITHDRAWALS: usize = 30;
/// Requests of each service in a second.
const RATE: u32 = 200;
/// The port of each alias.
const PORT: u16 = 8080;
/// How long a backend without requests must stay without, to be left alone for good.
const QUIET: Duration = Duration::from_millis(500);
/// How long a backend that is back may wait for a request.
const BACK: Duration = Duration::from_secs(30);

const LAST: &str = "p99 from the event to the last request, ms";
const HALF: &str = "p50 from the event to the last request, ms";
const FAILED: &str = "failed requests";
const REQUESTS: &str = "requests";

/// Measures it if it is wanted.
pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Line>> {
    if !bench.wants("S9") {
        return Ok(Vec::new());
    }
    let name = format!("S9: {ENVOYS} Envoys, {SERVICES} services x {BACKENDS} backends");
    let wanted: [Wanted; 4] = [
        (LAST, Target::AtMost(100.0)),
        (HALF, Target::None),
        (FAILED, Target::Nothing),
        (REQUESTS, Target::None),
    ];
    bench.alone(&name, Mode::Free, &wanted, async || once(bench).await).await
}

async fn once(bench: &Bench) -> anyhow::Result<Sample> {
    let folder = tempfile::tempdir()?;
    let mut server = Server::start(Kind::Legation, &bench.programs, Mode::Free, folder.path()).await?;
    let mut services = Vec::new();
    for service in 0..SERVICES {
        let mut backends = Vec::new();
        for place in 0..BACKENDS {
            backends.push(Backend::open(service, place).await?);
        }
        services.push(backends);
    }
    let all: Vec<_> = (0..SERVICES).map(|service| change(&services, service, None)).collect();
    server.load(&all).await?;
    let mut envoys = Vec::new();
    for number in 0..ENVOYS {
        envoys.push(start_envoy(&server, folder.path(), number).await?);
    }
    for envoy in &mut envoys {
        envoy.live().await?;
    }
    let load = Load::start(Plan { ways: ways(), envoys: envoys.iter().map(Envoy::admin).collect() }).await?;
    for backend in services.iter().flatten() {
        tokio::time::timeout(BACK, backend.next()).await.context("a backend gets no requests")?;
    }
    let mut after = Vec::new();
    for round in 0..WITHDRAWALS {
        let (service, place) = (round % SERVICES, round / SERVICES % BACKENDS);
        let event = Instant::now();
        server.apply(&[change(&services, service, Some(place))]).await?;
        let backend = &services[service][place];
        while tokio::time::timeout(QUIET, backend.next()).await.is_ok() {}
        after.push(backend.last().map_or(Duration::ZERO, |last| last.saturating_duration_since(event)));
        server.apply(&[change(&services, service, None)]).await?;
        tokio::time::timeout(BACK, backend.next()).await.context("who is back gets no requests")?;
    }
    let (requests, failed) = load.counts();
    load.stop().await?;
    for envoy in &envoys {
        is_current(envoy, &services).await?;
    }
    let millis = |percent| percentile(&after, percent).map(|it| it.as_secs_f64() * 1e3);
    Ok([(LAST, millis(99)?), (HALF, millis(50)?), (FAILED, failed as f64), (REQUESTS, requests as f64)]
        .into())
}

/// Waits until an Envoy has every backend of every service, and refused nothing.
async fn is_current(envoy: &Envoy, services: &[Vec<Backend>]) -> anyhow::Result<()> {
    for (service, backends) in services.iter().enumerate() {
        let mut all: Vec<_> = backends.iter().map(|backend| backend.address.to_string()).collect();
        all.sort();
        let what = format!("{} to have all of service {service}", envoy.name());
        wait::until(BACK, what, async || {
            Ok((envoy.endpoints(&world::name(service)).await? == all).then_some(()))
        })
        .await?;
    }
    let refused = envoy.stats("update_rejected$").await?;
    anyhow::ensure!(refused.values().all(|count| *count == 0), "{} refused: {refused:?}", envoy.name());
    Ok(())
}

/// A service with all its backends, or all but one.
fn change(services: &[Vec<Backend>], service: usize, without: Option<usize>) -> Change {
    let backends = services[service].iter().enumerate();
    let endpoints = backends.filter(|(place, _)| Some(*place) != without).map(|(_, backend)| backend.address);
    Change { service, endpoints: endpoints.collect(), withdraws: without.is_some() }
}

async fn start_envoy(server: &Server, folder: &std::path::Path, number: usize) -> anyhow::Result<Envoy> {
    let name = format!("sidecar-{number}");
    let [admin] = integration::process::free_ports()?;
    let address = server.door().address;
    let text = bootstrap::render(&Inputs {
        node_id: name.clone(),
        cluster: name.clone(),
        namespace: "prod".to_owned(),
        service: name.clone(),
        zone: None,
        server: bootstrap::Server { host: address.ip().to_string(), port: address.port() },
        ca_file: None,
        admin_port: admin,
        container_ports: Vec::new(),
    })?;
    Envoy::start_binary(&envoy::binary()?, folder, &name, &text).await
}

fn ways() -> Vec<Way> {
    let names = ["s0000", "s0001", "s0002", "s0003", "s0004", "s0005", "s0006", "s0007", "s0008", "s0009"];
    let way = |name: &'static str| {
        let address = (vip::address("prod", name, 0), PORT).into();
        // The kernel spreads connections over all Envoys: each has some, if not of every way.
        Way { at_least: 0, ..Way::direct(name, address, &format!("{name}:{PORT}")).at_rate(RATE) }
    };
    debug_assert!(world::name(SERVICES - 1).ends_with(names[SERVICES - 1]));
    names.into_iter().take(SERVICES).map(way).collect()
}
