//! One stopped task, from the stop to the last request that reached it.
//!
//! It measures and judges nothing. Invariant: all times are of one machine's clocks, and a measurement ends
//! only when the task has stopped accepting, so that "last request" is final.

use std::time::{Duration, SystemTime};

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::stage::Stage;
use crate::wait;
use crate::world::StopPlan;

/// How long a withdrawal may take, its task's hold not included.
const LIMIT: Duration = Duration::from_secs(30);

/// How many stops overlap, again and again.
const ROUNDS: [usize; 3] = [1, 1, 2];

/// What happened, as time since the stop unless said otherwise.
#[derive(Debug, Clone)]
pub struct Withdrawal {
    /// The task.
    pub task: String,
    /// Its zone.
    pub zone: String,
    /// When the stop was recorded, on the clock.
    pub stopped_at: SystemTime,
    /// Legation's source had read it.
    pub seen: Duration,
    /// The first sidecar was sent it.
    pub pushed: Duration,
    /// The last sidecar had accepted it.
    pub acked: Duration,
    /// From seen to the first push, on Legation's clock.
    pub seen_to_pushed: Duration,
    /// From seen to the last ACK, on Legation's clock.
    pub seen_to_acked: Duration,
    /// The last request arrived at the task; none if it had served nothing since the stop.
    pub last_request: Option<Duration>,
    /// The task stopped accepting.
    pub closed: Duration,
    /// How many requests it served in its life.
    pub requests: u64,
    /// How many sidecars accepted it.
    pub sidecars: u64,
}

impl Withdrawal {
    /// Follows a stop to its end.
    pub async fn follow(stage: &Stage, task: &str, hold: Duration) -> anyhow::Result<Self> {
        let closed = |world: &crate::world::World| world.task(task).is_some_and(|task| task.closed.is_some());
        stage.prod.world.until(LIMIT + hold, closed).await.with_context(|| format!("the end of {task}"))?;
        let expected = stage.envoys.len() as u64;
        let what = format!("{expected} ACKs of the withdrawal of {task}");
        let change = wait::until(LIMIT, what, async || {
            let change = stage.change(task).await?;
            Ok(change.filter(|change| change["acked"].as_u64() >= Some(expected)))
        });
        Self::of(stage, task, &change.await?)
    }

    fn of(stage: &Stage, arn: &str, change: &Value) -> anyhow::Result<Self> {
        let task = stage.prod.world.task(arn).context("the task is forgotten")?;
        let stop = task.stopping.context("the task was never stopped")?;
        let closed = task.closed.context("the task still accepts")?;
        let at = |key: &str| moment(change, key);
        let after = |at: SystemTime| at.duration_since(stop.wall).unwrap_or_default();
        let since_seen = |key: &str| {
            let millis = change["sinceSeenMs"][key].as_f64();
            millis
                .map(|millis| Duration::from_secs_f64(millis / 1000.0))
                .with_context(|| format!("no {key}: {change}"))
        };
        let last_request = task.log.last_request_at();
        Ok(Self {
            task: task.id.clone(),
            zone: task.zone.clone(),
            stopped_at: stop.wall,
            seen: after(at("seenAt")?),
            pushed: after(at("firstSentAt")?),
            acked: after(at("lastAckAt")?),
            seen_to_pushed: since_seen("firstSent")?,
            seen_to_acked: since_seen("lastAck")?,
            last_request: last_request.and_then(|last| last.checked_duration_since(stop.at)),
            closed: closed.at.duration_since(stop.at),
            requests: task.log.requests(),
            sidecars: change["acked"].as_u64().unwrap_or_default(),
        })
    }
}

/// Stops tasks of payments, the oldest first, alone and two at once, at every moment between two readings.
/// Each keeps accepting for `hold` and is replaced; the next is stopped when its replacement is in rotation.
/// `show` sees each withdrawal as it ends, in the order of the stops.
pub async fn stop_tasks(
    stage: &Stage,
    stops: usize,
    hold: Duration,
    mut show: impl FnMut(usize, &Withdrawal),
) -> anyhow::Result<Vec<Withdrawal>> {
    let (stopped, mut to_follow) = mpsc::channel::<String>(stops.max(1));
    let stopping = async move {
        let mut left = stops;
        for (round, size) in ROUNDS.into_iter().cycle().enumerate() {
            stage.payments_settled().await?;
            // Not always right after a reading, when everything has just settled.
            tokio::time::sleep(Duration::from_millis(round as u64 * 377 % 1000)).await;
            for task in oldest(stage, size.min(left)) {
                let plan = StopPlan::hold(hold);
                stage.prod.world.stop_task(&task, plan).with_context(|| format!("stopping {task}"))?;
                left -= 1;
                stopped.send(task).await.context("nobody follows")?;
            }
            if left == 0 {
                break;
            }
        }
        anyhow::Ok(())
    };
    let following = async {
        let (mut open, mut done) = (FuturesOrdered::new(), Vec::new());
        loop {
            tokio::select! {
                Some(task) = to_follow.recv() => {
                    open.push_back(async move { Withdrawal::follow(stage, &task, hold).await });
                }
                Some(one) = open.next() => {
                    let one = one?;
                    show(done.len() + 1, &one);
                    done.push(one);
                }
                else => break anyhow::Ok(done),
            }
        }
    };
    let ((), withdrawals) = tokio::try_join!(stopping, following)?;
    stage.payments_settled().await?;
    stage.synced().await?;
    Ok(withdrawals)
}

/// The oldest tasks of payments.
fn oldest(stage: &Stage, count: usize) -> Vec<String> {
    let mut tasks = stage.prod.payments.running();
    tasks.sort_by_key(|task| task.created.at);
    tasks.iter().take(count).map(|task| task.arn.clone()).collect()
}

fn moment(change: &Value, key: &str) -> anyhow::Result<SystemTime> {
    let text = change[key].as_str().with_context(|| format!("no {key}: {change}"))?;
    let at: jiff::Timestamp = text.parse().with_context(|| format!("{key}: {text}"))?;
    Ok(at.into())
}

/// The value below which a share of the sorted `values` lies; the smallest for a share of 0.
pub fn quantile(values: &[Duration], share: f64) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 values")]
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let values: Vec<_> = (1..=24).rev().map(Duration::from_millis).collect();
        let at = |share| quantile(&values, share).as_millis();
        assert_eq!((at(0.0), at(0.5), at(0.99), at(1.0)), (1, 12, 24, 24));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
