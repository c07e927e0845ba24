//! A stopped task, from the stop to the last ACK, under load.

use std::time::Duration;

use anyhow::Context;
use integration::aws::Delivery;
use integration::load::Way;
use integration::scene::{play, play_alone};
use integration::stage::{Knowledge, Stage};
use integration::wait;
use integration::withdrawal::{Withdrawal, quantile, stop_tasks};
use integration::world::StopPlan;

const STOPS: usize = 20;
const HOLD: Duration = Duration::from_secs(3);
/// What is usual, and what never happens. A machine that pauses once may hold up the two withdrawals that are under way
/// together, and no more; what holds up more, or waits for a timer, is ours.
const USUAL: Duration = Duration::from_millis(50);
const NEVER: Duration = Duration::from_secs(1);

async fn withdraw(folder: &std::path::Path, knowledge: Knowledge) -> anyhow::Result<()> {
    let mut stage = Stage::open(folder, knowledge, None).await?;
    // As SQS may: half of them twice, and late enough to overtake each other.
    let late = Duration::from_millis(20);
    stage.aws.queue().deliver(Delivery { doubled: 0.5, late, by_sns: true, ..Delivery::default() });
    stage.start_sidecars(2).await?;
    let mut ways = stage.payments_ways().await?;
    ways.push(Way::http2("ledger", stage.alias("ledger", 50051).await?, "ledger:50051"));
    let load = stage.load(ways).await?;
    load.more(50).await?;

    let withdrawals = stop_tasks(&stage, STOPS, HOLD, |_, _| {}).await?;
    load.is_flawless()?;
    assert_eq!(withdrawals.len(), STOPS);
    for one in &withdrawals {
        assert_eq!(one.sidecars, 2, "{one:?}");
        assert!(one.requests > 0, "it was never in rotation: {one:?}");
        assert!(one.last_request.is_none_or(|last| last < one.closed), "a request came too late: {one:?}");
    }
    let seen_to_acked: Vec<_> = withdrawals.iter().map(|one| one.seen_to_acked).collect();
    let p99 = quantile(&seen_to_acked, 0.99);
    println!("seen → last ACK: median {:?}, p99 {p99:?}", quantile(&seen_to_acked, 0.5));
    assert!(quantile(&seen_to_acked, 0.9) <= USUAL && p99 < NEVER, "{withdrawals:#?}");
    if knowledge == Knowledge::Events {
        let seen: Vec<_> = withdrawals.iter().map(|one| one.seen).collect();
        println!("stop → seen: median {:?}, last {:?}", quantile(&seen, 0.5), quantile(&seen, 1.0));
        assert!(quantile(&seen, 0.9) <= USUAL * 2 && quantile(&seen, 1.0) < NEVER, "not by events: {seen:?}");
        let queue = stage.aws.queue();
        wait::until(NEVER, "every event to be deleted", async || Ok(queue.is_empty().then_some(()))).await?;
    }

    assert!(stage.oracle().await? >= 20, "hardly a counter was looked at");
    for envoy in &stage.envoys {
        let log = envoy.log()?;
        assert!(log.contains("all dependencies initialized"), "the log is not Envoy's");
        let warned: Vec<_> = log.lines().filter(|line| line.to_lowercase().contains("deprecated")).collect();
        assert!(warned.is_empty(), "{warned:#?}");
    }
    load.stop().await?;
    stage.close().await
}

#[test]
fn with_ecs_polled_each_second() -> anyhow::Result<()> {
    play_alone("polled", async |scene| withdraw(scene.folder(), Knowledge::Aws).await)
}

#[test]
fn with_events_from_a_queue() -> anyhow::Result<()> {
    play_alone("events", async |scene| withdraw(scene.folder(), Knowledge::Events).await)
}

#[test]
fn what_no_event_tells_the_next_reading_finds() -> anyhow::Result<()> {
    play("lost", async |scene| {
        let mut stage = Stage::open(scene.folder(), Knowledge::Events, None).await?;
        stage.start_sidecars(1).await?;
        stage.aws.queue().deliver(Delivery { lost: 1.0, ..Delivery::default() });
        stage.payments_settled().await?;
        let task = stage.prod.payments.running().first().context("payments has no task")?.arn.clone();
        stage.prod.world.stop_task(&task, StopPlan::hold(HOLD))?;
        let withdrawal = Withdrawal::follow(&stage, &task, HOLD).await?;
        assert!(withdrawal.seen > NEVER, "an event told it: {withdrawal:?}");
        stage.close().await
    })
}

#[test]
fn with_the_state_pushed_on_change() -> anyhow::Result<()> {
    play_alone("pushed", async |scene| withdraw(scene.folder(), Knowledge::File).await)
}
