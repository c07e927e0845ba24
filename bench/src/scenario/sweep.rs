//! S10: a cluster of 100,000 tasks, read whole again and again from an endpoint that answers like AWS, and told
//! of by the events of a queue.
//!
//! The peer has no part in it: it has no sources. Invariant: the endpoint runs with the clients, on another
//! core than what is measured, and every client ends with what the endpoint has.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use integration::aws::{Delivery, FakeAws, Operation};
use integration::estate::{self, LARGE as CLUSTER, of_large as service};
use integration::http;
use integration::world::{StopPlan, TaskSpec, World};

use super::rig::Size;
use super::withdrawal::{FIRST, HALF, LAST, Times};
use super::{Bench, Sample, Wanted};
use crate::fleet::{Arrives, Book, Fleet};
use crate::machine::Mode;
use crate::report::{Line, Target};
use crate::server::Server;
use crate::world::Change;

const SIZE: Size = Size { services: 5_000, tasks: 20, streams: 1_000, subscriptions: 20 };
/// How many services a call lists.
const PAGE: usize = 100;
/// How many stops are told by events.
const STOPS: usize = 25;
/// How many tasks go between two sweeps: one in a thousand.
const CHANGED: usize = 100;
/// Between the beginnings of two sweeps: more than one takes.
const INTERVAL: Duration = Duration::from_secs(15);
/// How long a sweep may keep us waiting.
const PATIENCE: Duration = Duration::from_secs(180);
const LOOKS: Duration = Duration::from_millis(250);

const QUIET: &str = "CPU of a sweep without news, s";
const NEWS: &str = "CPU of a sweep with 0.1 % changed, s";
const SDK: &str = "of that the SDK alone, s";
const BEYOND: &str = "CPU of a sweep with 0.1 % changed beyond the SDK's, s";
const SPURIOUS: &str = "snapshots published without news";
const PUSHED: &str = "pushes without news";

/// Measures it if it is wanted.
pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Line>> {
    if !bench.wants("S10") {
        return Ok(Vec::new());
    }
    let name = format!("S10: {}", SIZE.words());
    let wanted: [Wanted; 9] = [
        (FIRST, Target::AtMost(5.0)),
        (HALF, Target::None),
        (LAST, Target::None),
        (QUIET, Target::None),
        (NEWS, Target::None),
        (SDK, Target::None),
        (BEYOND, Target::AtMost(1.0)),
        (SPURIOUS, Target::Nothing),
        (PUSHED, Target::Nothing),
    ];
    bench.alone(&name, Mode::Pinned, &wanted, async || once(bench).await).await
}

async fn once(bench: &Bench) -> anyhow::Result<Sample> {
    let folder = tempfile::tempdir()?;
    let world = estate::large(SIZE.services, SIZE.tasks as u32)?;
    let aws = FakeAws::start(world.clone()).await.context("opening the endpoint")?;
    let sdk = sdk_alone(bench, &aws.url()).await?;
    let sources = format!(
        "aws: {{ region: eu-west-1, endpointUrl: {}, callBudgetPercent: 100000 }}\n\
         ecs: {{ interval: {}s, queueUrl: {} }}\nnamespaces: {{ prod: {{ clusters: [{CLUSTER}] }} }}\n",
        aws.url(),
        INTERVAL.as_secs(),
        aws.queue_url()
    );
    let mut server = Server::reading(&bench.programs, Mode::Pinned, folder.path(), &sources).await?;
    server.load(&[]).await?;
    let mut watch = Watch::start(&world, &server).await?;
    let first = state(&server).await?;
    let quiet = sweep(&server, &first).await?;
    let (pushed, listed) = (watch.pushed(), aws.calls(Operation::ListServices));

    // Between two sweeps.
    let mut sample = watch.events().await?.sample()?;
    let told = state(&server).await?;
    let pages = aws.calls(Operation::ListServices);
    anyhow::ensure!(pages == listed, "a sweep came between");

    aws.queue().deliver(Delivery { lost: 1.0, ..Delivery::default() });
    watch.stop_one_in_a_thousand()?;
    let mut news = sweep(&server, &told).await?;
    watch.current().await?;
    news.until_now(&server, &told)?; // with the pushes
    let read = aws.calls(Operation::ListServices) - pages;
    anyhow::ensure!(read == (SIZE.services / PAGE) as u64, "{read} calls for the services");
    let beyond_news = watch.pushed().abs_diff(watch.concerned());
    sample.extend([
        (QUIET, quiet.processor),
        (NEWS, news.processor),
        (SDK, sdk),
        (BEYOND, news.processor - sdk),
        (SPURIOUS, (quiet.after.generation - first.generation) as f64),
        (PUSHED, (pushed + beyond_news) as f64),
    ]);
    watch.fleet.finish().await?;
    Ok(sample)
}

/// The clients of what the endpoint has, and what they must hold.
struct Watch {
    world: World,
    book: Rc<RefCell<Book>>,
    fleet: Fleet,
}

impl Watch {
    /// They hold everything when this returns.
    async fn start(world: &World, server: &Server) -> anyhow::Result<Self> {
        let book = Rc::new(RefCell::new(Book::new(SIZE.services)));
        for service in 0..SIZE.services {
            book.borrow_mut().announce(&change(world, service, false), Instant::now());
        }
        let fleet = Fleet::new(server.door(), &book, &SIZE.subscriptions(), Arrives::Empty, false);
        fleet.open(PATIENCE).await?;
        let watch = Self { world: world.clone(), book, fleet };
        watch.pushed();
        Ok(watch)
    }

    /// How many load assignments have come since this was asked last.
    fn pushed(&self) -> u64 {
        self.book.borrow_mut().assignments()
    }

    async fn current(&self) -> anyhow::Result<()> {
        self.fleet.current(PATIENCE).await
    }

    /// One task after the other of the service that all ask for goes, and another comes.
    async fn events(&mut self) -> anyhow::Result<Times> {
        let mut times = Times::default();
        // The oldest goes: no state ever comes back.
        let tasks = self.world.tasks_of(CLUSTER, &service(0));
        let mut tasks: VecDeque<_> = tasks.iter().map(|task| task.arn.clone()).collect();
        for _ in 0..STOPS {
            self.book.borrow_mut().withdrawals();
            let oldest = tasks.pop_front().context("no task is left")?;
            self.stop(0, &oldest)?;
            self.current().await?;
            times.round(self.book.borrow_mut().withdrawals(), self.fleet.len())?;
            let spec = TaskSpec { settled: true, ..TaskSpec::of_service(CLUSTER, &service(0)) };
            tasks.push_back(self.world.start_task(spec)?);
            self.book.borrow_mut().announce(&change(&self.world, 0, false), Instant::now());
            self.current().await?;
        }
        self.pushed();
        Ok(times)
    }

    fn stop_one_in_a_thousand(&self) -> anyhow::Result<()> {
        changed().try_for_each(|number| {
            let tasks = self.world.tasks_of(CLUSTER, &service(number));
            self.stop(number, &tasks.first().context("a service without tasks")?.arn)
        })
    }

    fn stop(&self, number: usize, task: &str) -> anyhow::Result<()> {
        let at = Instant::now();
        self.world.stop_task(task, StopPlan::default())?;
        self.book.borrow_mut().announce(&change(&self.world, number, true), at);
        Ok(())
    }

    /// How many pushes the changed services are worth: one to each who asks for one of them.
    fn concerned(&self) -> u64 {
        let changed: Vec<_> = changed().collect();
        let asked = SIZE.subscriptions().into_iter().flatten();
        asked.filter(|service| changed.contains(service)).count() as u64
    }
}

/// The services of which a task goes between two sweeps; not the one that all ask for, whose tasks are told of by events.
fn changed() -> impl Iterator<Item = usize> {
    (0..CHANGED).map(|number| number * SIZE.services / CHANGED + 1)
}

/// What the endpoint has of a service.
fn change(world: &World, number: usize, withdraws: bool) -> Change {
    let tasks = world.tasks_of(CLUSTER, &service(number));
    let running = tasks.iter().filter(|task| task.in_service());
    Change {
        service: number,
        endpoints: running.filter_map(|task| task.endpoint("http")).collect(),
        withdraws,
    }
}

/// The processor seconds that the SDK takes for the same calls.
async fn sdk_alone(bench: &Bench, url: &str) -> anyhow::Result<f64> {
    let mut command = Command::new("taskset");
    command.args(["-c", Mode::Pinned.server_cores()]).arg(&bench.programs.sdk);
    command.args([url, CLUSTER, &INTERVAL.as_secs().to_string()]);
    crate::server::with_credentials(&mut command);
    let output = tokio::process::Command::from(command).output().await.context("running the SDK alone")?;
    let (said, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    said.trim().parse().with_context(|| format!("the SDK alone says {said:?} and {complaint}"))
}

/// What a server has read and published.
struct State {
    readings: u64,
    generation: u64,
    processor: Duration,
}

/// One sweep, by what it left.
struct Swept {
    after: State,
    processor: f64,
}

async fn readings(server: &Server) -> anyhow::Result<u64> {
    let status = http::get_json(server.admin(), "/api/v1/status").await?;
    let sources = status["item"]["sources"].as_array().into_iter().flatten();
    let mut ecs =
        sources.filter(|source| source["name"].as_str().is_some_and(|name| name.starts_with("ecs/")));
    let readings = ecs.next().and_then(|source| source["readings"].as_u64());
    readings.with_context(|| format!("no ECS source in {status}"))
}

async fn state(server: &Server) -> anyhow::Result<State> {
    let (readings, processor) = (readings(server).await?, server.processor()?);
    let namespaces = http::get_json(server.admin(), "/api/v1/namespaces").await?;
    let generation = namespaces["items"][0]["generation"].as_u64().context("no generation")?;
    Ok(State { readings, generation, processor })
}

/// Waits for the next sweep to end. To look more often would count as its work.
async fn sweep(server: &Server, before: &State) -> anyhow::Result<Swept> {
    let mut looks = tokio::time::interval(LOOKS);
    let over = async {
        while readings(server).await? == before.readings {
            looks.tick().await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, over).await.context("waiting for the next sweep")??;
    let after = state(server).await?;
    anyhow::ensure!(after.readings == before.readings + 1, "a sweep passed unseen");
    let mut swept = Swept { after, processor: 0.0 };
    swept.until_now(server, before)?;
    Ok(swept)
}

impl Swept {
    /// Counts what the server has done since.
    fn until_now(&mut self, server: &Server, before: &State) -> anyhow::Result<()> {
        self.processor = server.processor()?.saturating_sub(before.processor).as_secs_f64();
        Ok(())
    }
}
