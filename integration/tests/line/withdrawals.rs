//! A stopped task, from the stop to the last ACK, under load.

use std::time::Duration;

use integration::load::Way;
use integration::scene::play;
use integration::stage::{Knowledge, Stage};
use integration::wait;
use integration::withdrawal::{quantile, stop_tasks};

const STOPS: usize = 20;
const HOLD: Duration = Duration::from_secs(3);
/// What is usual, and what never happens. A machine that pauses once may hold up the two withdrawals that are under way
/// together, and no more; what holds up more, or waits for a timer, is ours.
const USUAL: Duration = Duration::from_millis(50);
const NEVER: Duration = Duration::from_secs(1);

async fn withdraw(folder: &std::path::Path, knowledge: Knowledge) -> anyhow::Result<()> {
    let mut stage = Stage::open(folder, knowledge, None).await?;
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
    play("polled", async |scene| withdraw(scene.folder(), Knowledge::Aws).await)
}

#[test]
fn with_events_from_a_queue() -> anyhow::Result<()> {
    play("events", async |scene| withdraw(scene.folder(), Knowledge::Events).await)
}

#[test]
fn with_the_state_pushed_on_change() -> anyhow::Result<()> {
    play("pushed", async |scene| withdraw(scene.folder(), Knowledge::File).await)
}
