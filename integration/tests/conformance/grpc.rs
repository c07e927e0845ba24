//! C48 to C51: gRPC's own client, with nothing between it and us.
//!
//! It is grpcio, whose calls a Python program makes on our word; the servers that it reaches are grpcio's too.
//! Invariant: a call fails only where the case says so.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use integration::control_plane::ControlPlane;
use integration::process::free_ports;
use integration::python::Python;
use integration::shop::ServicesFile;
use integration::wait;
use serde::Deserialize;

use crate::case::{Case, Context};

const NO_DELTA: &str = "gRPC knows no delta";
/// What is not a wait for something else.
const SOON: Duration = Duration::from_secs(5);
/// Longer than gRPC waits for a resource that nobody tells it of.
const LATE: Duration = Duration::from_secs(30);
/// gRPC knows at once, not when its timer of 15 s ends.
const AT_ONCE: Duration = Duration::from_secs(2);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::sotw_only(48, "grpcio end to end", end_to_end, NO_DELTA),
        Case::sotw_only(49, "grpcio: a missing name", missing_name, NO_DELTA),
        Case::sotw_only(50, "grpcio: weights and health", weights, NO_DELTA),
        Case::sotw_only(51, "grpcio: delete, re-add, roll out", deleted_and_rolled_out, NO_DELTA),
    ]
}

/// What became of calls.
#[derive(Debug, Deserialize)]
struct Calls {
    answers: BTreeMap<String, u64>,
    ok: u64,
    failed: u64,
    errors: Vec<String>,
    slowest: f64,
}

/// One endpoint of the file: its name, port, zone and health.
#[derive(Debug, Clone)]
struct Endpoint {
    name: String,
    port: u16,
    zone: &'static str,
    health: &'static str,
}

/// A mesh whose services gRPC servers offer and a gRPC client calls.
struct Mesh {
    file: ServicesFile,
    server: ControlPlane,
    backends: Python,
    client: Python,
    all: Vec<Endpoint>,
}

/// Services with their endpoints.
type Services<'a> = [(&'a str, &'a [Endpoint])];

fn written(services: &Services<'_>) -> String {
    let mut text = String::from(if services.is_empty() { "services: {}\n" } else { "services:\n" });
    for (name, endpoints) in services {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "  {name}:\n    aliases: [{{ name: {name}, port: 8080 }}]\n    appProtocol: grpc\n    endpoints:{}",
            if endpoints.is_empty() { " []" } else { "" }
        );
        for Endpoint { port, zone, health, .. } in *endpoints {
            let place = format!("address: 127.0.0.1, port: {port}, zone: {zone}, health: {health}");
            let _ = writeln!(text, "      - {{ {place} }}");
        }
    }
    text
}

/// `count` servers, the first half in one zone, the rest in another.
fn endpoints(ports: &[u16], in_first: usize) -> Vec<Endpoint> {
    let zone = |at| if at < in_first { "eu-west-1a" } else { "eu-west-1b" };
    let all = ports.iter().enumerate();
    all.map(|(at, port)| Endpoint { name: format!("b{at}"), port: *port, zone: zone(at), health: "healthy" })
        .collect()
}

fn client(folder: &Path, server: &ControlPlane, errors_as_data: bool) -> anyhow::Result<Python> {
    let bootstrap = serde_json::json!({
        "xds_servers": [{
            "server_uri": server.xds().to_string(),
            "channel_creds": [{ "type": "insecure" }],
            "server_features": ["xds_v3"],
        }],
        "node": { "id": "grpc-task-1", "cluster": "prod/web", "metadata": { "namespace": "prod" } },
    });
    let (place, flag) = (folder.join("grpc.json"), if errors_as_data { "true" } else { "false" });
    std::fs::write(&place, bootstrap.to_string()).context("writing gRPC's bootstrap")?;
    let environment = [
        ("GRPC_XDS_BOOTSTRAP", place.as_os_str()),
        ("GRPC_EXPERIMENTAL_XDS_DATA_ERROR_HANDLING", OsStr::new(flag)),
    ];
    Python::start(folder, "grpc_calls.py", [], environment)
}

impl Mesh {
    /// Starts servers on all ports, a control plane over what `first` makes of them, and a client.
    async fn open<const N: usize>(
        context: &Context,
        in_first: usize,
        first: impl Fn(&[Endpoint]) -> String,
    ) -> anyhow::Result<Self> {
        let (folder, all) = (context.folder(), endpoints(&free_ports::<N>()?, in_first));
        let words = all.iter().map(|it| format!("{}=127.0.0.1:{}", it.name, it.port));
        let mut backends = Python::start(folder, "grpc_backends.py", words, [])?;
        ensure!(backends.line(LATE).await? == "ready", "the servers did not start");
        let file = ServicesFile::new(folder, &first(&all))?;
        let server = file.serve(folder, "prod").await?;
        let client = client(folder, &server, false)?;
        Ok(Self { file, server, backends, client, all })
    }

    /// Calls one after the other.
    async fn call(&mut self, target: &str, count: u32, each: Duration) -> anyhow::Result<Calls> {
        call(&mut self.client, target, count, each).await
    }

    /// As [`Mesh::call`], and none may fail.
    async fn call_well(&mut self, target: &str, count: u32) -> anyhow::Result<Calls> {
        let calls = self.call(target, count, SOON).await?;
        ensure!(calls.failed == 0 && calls.ok == u64::from(count), "{target}: {calls:?}");
        Ok(calls)
    }

    async fn begin(&mut self, target: &str) -> anyhow::Result<()> {
        let said = self.client.ask(&format!("begin {target} {}", SOON.as_secs()), SOON).await?;
        ensure!(said == "{}", "{said}");
        Ok(())
    }

    /// Ends calls that have been made without a pause; none may have failed.
    async fn end_well(&mut self, target: &str) -> anyhow::Result<Calls> {
        let calls: Calls = serde_json::from_str(&self.client.ask(&format!("end {target}"), LATE).await?)?;
        ensure!(calls.failed == 0 && calls.ok > 0, "{target}: {calls:?}");
        Ok(calls)
    }

    /// Calls until exactly these answer. No call may fail meanwhile.
    async fn until_answered_by(&mut self, target: &str, wanted: &[&Endpoint]) -> anyhow::Result<()> {
        let names: Vec<_> = wanted.iter().map(|endpoint| endpoint.name.as_str()).collect();
        let rounds = 8 * u32::try_from(names.len())?;
        wait::until(LATE, format!("answers of {names:?} alone"), async || {
            let calls = self.call_well(target, rounds).await?;
            let heard: Vec<_> = calls.answers.keys().map(String::as_str).collect();
            ensure!(heard == names, "{heard:?} answered");
            Ok(Some(()))
        })
        .await
    }

    /// Waits until a server is asked no more, and stops it.
    async fn stop(&mut self, endpoint: &Endpoint) -> anyhow::Result<()> {
        let mut before = None;
        let mut quiet = 0;
        wait::until(SOON, format!("{} to be asked no more", endpoint.name), async || {
            let asked = self.backends.ask(&format!("asked {}", endpoint.name), SOON).await?;
            quiet = if before.replace(asked.clone()) == Some(asked) { quiet + 1 } else { 0 };
            // Looks are 20 ms apart, and a call is made every few of them.
            Ok((quiet == 25).then_some(()))
        })
        .await?;
        let said = self.backends.ask(&format!("stop {}", endpoint.name), SOON).await?;
        ensure!(said == "stopped", "{said}");
        Ok(())
    }

    /// What the server says of the client.
    async fn proxies(&self) -> anyhow::Result<Vec<serde_json::Value>> {
        self.server.items("proxies").await
    }

    /// An error if the client has refused anything.
    async fn nothing_refused(&self) -> anyhow::Result<()> {
        let proxies = self.proxies().await?;
        ensure!(!proxies.is_empty(), "no client is connected");
        for proxy in proxies {
            let refused = proxy["types"].as_array().into_iter().flatten().filter(|it| it["nacks"] != 0);
            let refused: Vec<_> = refused.collect();
            ensure!(refused.is_empty(), "the client refused: {refused:?}");
        }
        Ok(())
    }

    async fn close(mut self) -> anyhow::Result<()> {
        self.nothing_refused().await?;
        self.server.stop().await
    }
}

async fn call(client: &mut Python, target: &str, count: u32, each: Duration) -> anyhow::Result<Calls> {
    let order = format!("call {target} {count} {}", each.as_secs_f64());
    let said = client.ask(&order, each * count + SOON).await?;
    serde_json::from_str(&said).with_context(|| format!("reading {said}"))
}

async fn end_to_end(context: &Context) -> anyhow::Result<()> {
    let payments = |endpoints: &[Endpoint]| written(&[("payments", endpoints)]);
    let mut mesh = Mesh::open::<3>(context, 2, |all| payments(&all[..2])).await?;
    for target in ["xds:///payments", "xds:///payments:8080"] {
        let calls = mesh.call_well(target, 100).await?;
        ensure!(calls.answers.len() == 2, "{target}: not both answered: {calls:?}");
    }
    let proxies = mesh.proxies().await?;
    let known = |proxy: &serde_json::Value| {
        proxy["id"] == "grpc-task-1" && proxy["namespace"] == "prod" && proxy["state"] == "SYNCED"
    };
    ensure!(proxies.iter().any(known), "the server does not know the client so: {proxies:?}");

    // One comes, one goes.
    let all = mesh.all.clone();
    mesh.file.write(&payments(&all))?;
    mesh.until_answered_by("xds:///payments", &[&all[0], &all[1], &all[2]]).await?;
    mesh.file.write(&payments(&all[1..]))?;
    mesh.until_answered_by("xds:///payments", &[&all[1], &all[2]]).await?;
    mesh.call_well("xds:///payments:8080", 20).await?;
    mesh.close().await
}

async fn missing_name(context: &Context) -> anyhow::Result<()> {
    let mut mesh = Mesh::open::<1>(context, 1, |all| written(&[("payments", all)])).await?;
    mesh.call_well("xds:///payments", 10).await?;
    // Without the flag gRPC does not listen to what it is told, and waits for its timer of 15 s.
    let slow = mesh.call("xds:///paymets", 1, LATE).await?;
    ensure!(slow.failed == 1 && slow.errors[0].starts_with("UNAVAILABLE"), "{slow:?}");
    ensure!((14.0..20.0).contains(&slow.slowest), "{slow:?}");
    mesh.call_well("xds:///payments", 10).await?;

    let mut told = client(&context.room("told")?, &mesh.server, true)?;
    for target in ["xds:///paymets", "xds:///payments:8081"] {
        let fast = call(&mut told, target, 1, LATE).await?;
        ensure!(fast.failed == 1 && fast.errors[0].starts_with("UNAVAILABLE"), "{fast:?}");
        ensure!(fast.slowest < AT_ONCE.as_secs_f64(), "{fast:?}");
        let name = target.trim_start_matches("xds:///");
        let ours = fast.errors[0].contains("legation") && fast.errors[0].contains(name);
        ensure!(ours, "the error is not in our words: {fast:?}");
    }
    let good = call(&mut told, "xds:///payments", 10, SOON).await?;
    ensure!(good.failed == 0, "{good:?}");

    // What is missing may come; then it is there without asking again.
    let all = mesh.all.clone();
    mesh.file.write(&written(&[("payments", &all), ("paymets", &all)]))?;
    let came = wait::until(LATE, "the missing name to be there", async || {
        Ok((call(&mut told, "xds:///paymets", 1, SOON).await?.ok == 1).then_some(()))
    });
    came.await?;
    mesh.close().await
}

async fn weights(context: &Context) -> anyhow::Result<()> {
    let payments = |endpoints: &[Endpoint]| written(&[("payments", endpoints)]);
    // Three in one zone, one in the other: each gets a quarter, unless zones weigh the same.
    let mut mesh = Mesh::open::<4>(context, 3, payments).await?;
    let calls = mesh.call_well("xds:///payments", 800).await?;
    for endpoint in &mesh.all {
        let share = *calls.answers.get(&endpoint.name).unwrap_or(&0);
        ensure!((130..=270).contains(&share), "{} got {share} of 800: {calls:?}", endpoint.name);
    }

    // Who is not healthy gets nothing and counts for nothing: now two in one zone, one in the other.
    let mut some = mesh.all.clone();
    some[0].health = "unhealthy";
    mesh.file.write(&payments(&some))?;
    mesh.until_answered_by("xds:///payments", &[&some[1], &some[2], &some[3]]).await?;
    let calls = mesh.call_well("xds:///payments", 600).await?;
    for endpoint in &some[1..] {
        let share = *calls.answers.get(&endpoint.name).unwrap_or(&0);
        ensure!((130..=270).contains(&share), "{} got {share} of 600: {calls:?}", endpoint.name);
    }

    // A whole zone is out, one way or another; then it is the only one.
    for (health, out) in [("draining", 3..4), ("unhealthy", 3..4), ("starting", 3..4), ("unhealthy", 0..3)] {
        let mut some = mesh.all.clone();
        some[out.clone()].iter_mut().for_each(|endpoint| endpoint.health = health);
        mesh.file.write(&payments(&some))?;
        let left: Vec<_> = some.iter().filter(|endpoint| endpoint.health == "healthy").collect();
        mesh.until_answered_by("xds:///payments", &left).await?;
    }

    // Nobody is left: told at once, without waiting for anyone.
    mesh.file.write(&payments(&[]))?;
    let empty = wait::until(SOON, "a call to fail", async || {
        let calls = mesh.call("xds:///payments", 1, LATE).await?;
        Ok((calls.failed == 1).then_some(calls))
    });
    let calls = empty.await?;
    ensure!(calls.errors[0].starts_with("UNAVAILABLE"), "{calls:?}");
    ensure!(calls.slowest < AT_ONCE.as_secs_f64(), "{calls:?}");
    let all = mesh.all.clone();
    mesh.file.write(&payments(&all))?;
    wait::until(SOON, "a call to succeed", async || {
        Ok((mesh.call("xds:///payments", 1, SOON).await?.ok == 1).then_some(()))
    })
    .await?;
    mesh.close().await
}

async fn deleted_and_rolled_out(context: &Context) -> anyhow::Result<()> {
    let both = |all: &[Endpoint]| written(&[("payments", &all[..1]), ("ledger", &all[1..4])]);
    let mut mesh = Mesh::open::<12>(context, 12, both).await?;
    let all = mesh.all.clone();
    mesh.call_well("xds:///payments", 10).await?;
    mesh.begin("xds:///ledger").await?;
    for _ in 0..5 {
        mesh.file.write(&written(&[("ledger", &all[1..4])]))?;
        wait::until(SOON, "a call to what is deleted to fail", async || {
            Ok((mesh.call("xds:///payments", 1, LATE).await?.failed == 1).then_some(()))
        })
        .await?;
        mesh.file.write(&both(&all))?;
        let began = Instant::now();
        wait::until(SOON, "a call to what is there again to succeed", async || {
            Ok((mesh.call("xds:///payments", 1, SOON).await?.ok == 1).then_some(()))
        })
        .await?;
        ensure!(began.elapsed() < SOON, "there again only after {:?}", began.elapsed());
    }
    mesh.end_well("xds:///ledger").await?;

    // Three serve; one comes, and the oldest drains, goes and ends; until all are others.
    mesh.begin("xds:///ledger").await?;
    mesh.begin("xds:///ledger:8080").await?;
    for newest in 4..all.len() {
        let oldest = newest - 3;
        let mut serving = all[oldest..=newest].to_vec();
        serving[0].health = "draining";
        mesh.file.write(&written(&[("payments", &all[..1]), ("ledger", &serving)]))?;
        let left: Vec<_> = serving[1..].iter().collect();
        let mut names = left.clone();
        names.sort_by(|one, other| one.name.cmp(&other.name));
        mesh.until_answered_by("xds:///ledger", &names).await?;
        mesh.file.write(&written(&[("payments", &all[..1]), ("ledger", &serving[1..])]))?;
        mesh.stop(&serving[0]).await?;
    }
    for target in ["xds:///ledger", "xds:///ledger:8080"] {
        let calls = mesh.end_well(target).await?;
        ensure!(calls.answers.len() == all.len() - 1, "{target}: not everyone answered: {calls:?}");
    }
    mesh.call_well("xds:///payments", 10).await?;
    mesh.close().await
}
