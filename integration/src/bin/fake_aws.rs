//! Runs the AWS-like endpoint alone, over the example estate.
//!
//! It prints one line of JSON with its URL once every task of the estate is ready, and runs until it is
//! interrupted or, with `--until-eof`, until its input closes. Its queue holds the events of every task from the
//! beginning.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use integration::aws::{FakeAws, Fault, Operation};
use integration::estate;
use integration::world::World;
use tokio::sync::oneshot;

/// An endpoint that answers like AWS ECS, Cloud Map and SQS, over a small estate of real servers.
#[derive(Debug, Parser)]
struct Options {
    /// Port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Also hold one of everything the API can show: stopped tasks, Service Connect, Cloud Map members.
    #[arg(long)]
    gallery: bool,
    /// Also open an endpoint for each fault, over the same world.
    #[arg(long)]
    faulty: bool,
    /// End when standard input closes.
    #[arg(long)]
    until_eof: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let world = World::new();
    let fake = FakeAws::start_on(world.clone(), options.port).await.context("opening the endpoint")?;
    let prod = estate::prod(&world).context("building the estate")?;
    if options.gallery {
        estate::gallery(&prod).await.context("building the gallery")?;
    }
    let members = [&prod.payments, &prod.ledger, &prod.redis, &prod.checkout];
    let ready = |_: &World| members.iter().all(|member| member.running().iter().all(|task| task.ready()));
    world.until(Duration::from_secs(10), ready).await.context("the estate did not come up")?;

    let faulty = if options.faulty { open_faulty(&world).await? } else { BTreeMap::new() };
    let urls: BTreeMap<&str, String> = faulty.iter().map(|(name, fake)| (*name, fake.url())).collect();
    let line = serde_json::json!({
        "url": fake.url(), "faulty": urls, "cluster": estate::CLUSTER, "namespace": estate::NAMESPACE,
        "queue": fake.queue_url(), "operations": Operation::ALL.iter().map(|it| it.action()).collect::<Vec<_>>(),
    });
    let mut out = std::io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("printing the URL")?;

    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("waiting for an interrupt")?,
        () = end_of_input(), if options.until_eof => {}
    }
    fake.stop().await;
    Ok(())
}

/// One endpoint for each fault that answers.
async fn open_faulty(world: &World) -> anyhow::Result<BTreeMap<&'static str, FakeAws>> {
    let faults = [
        ("throttle", Fault::Throttle),
        ("server-error", Fault::ServerError),
        ("access-denied", Fault::AccessDenied),
        ("half-pages", Fault::HalfPages),
        ("garbage", Fault::Garbage),
        ("empty", Fault::Empty),
        ("missing", Fault::Failures("MISSING")),
        ("shuffled", Fault::Shuffled),
    ];
    let mut open = BTreeMap::new();
    for (name, fault) in faults {
        let fake = FakeAws::start(world.clone()).await.context("opening a faulty endpoint")?;
        fake.faults().set(fault);
        open.insert(name, fake);
    }
    Ok(open)
}

/// Reads on a thread of its own, which does not keep the process alive.
async fn end_of_input() {
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        // An unreadable input has ended as well; nobody may be waiting any more.
        let _ = std::io::stdin().read_to_end(&mut rest);
        let _ = ended.send(());
    });
    let _ = end.await;
}
