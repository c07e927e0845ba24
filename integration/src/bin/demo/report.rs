//! What the demo claims, and the figures for it.
//!
//! It measures nothing itself. Invariant: a claim that does not hold makes the demo fail.

use std::time::Duration;

use integration::load::{Load, Totals};
use integration::stage::Stage;
use integration::withdrawal::{Withdrawal, quantile};

use crate::screen::{Screen, grouped, millis};

/// How many withdrawals are the least.
pub(crate) const LEAST: usize = 20;
/// What the 99th percentile from seen to the last ACK may be.
const BOUND: Duration = Duration::from_millis(50);

/// The heading of the timeline.
pub(crate) fn timeline_heading(screen: &Screen) {
    let columns = format!(
        "  {:>3}  {:<8} {:<11} {:>4}   {:>8}   {:>8}   {:>8}   {:>12}   {:>8}",
        "", "task", "zone", "stop", "→ seen", "→ pushed", "→ ACKed", "last request", "closed"
    );
    screen.line(screen.dim(columns));
}

/// One row of the timeline, in milliseconds since the stop.
pub(crate) fn timeline_row(screen: &Screen, number: usize, one: &Withdrawal) {
    let last = one.last_request.map_or_else(|| "none".to_owned(), millis);
    let in_time = one.last_request.is_none_or(|last| last < one.closed);
    let last = format!("{last:>12}");
    screen.line(format!(
        "  {number:>3}  {} {:<11} {:>4}   {:>8}   {:>8}   {}   {}   {}",
        screen.name(format!("{:<8}", one.task.get(..8).unwrap_or(&one.task))),
        one.zone,
        0,
        millis(one.seen),
        millis(one.pushed),
        screen.bold(format!("{:>8}", millis(one.acked))),
        if in_time { last } else { screen.bad(last) },
        screen.dim(format!("{:>8}", millis(one.closed))),
    ));
}

/// Prints everything that was measured; answers whether every claim holds.
pub(crate) async fn report(
    screen: &Screen,
    stage: &Stage,
    load: &Load,
    withdrawals: &[Withdrawal],
) -> anyhow::Result<bool> {
    screen.heading(&format!("{} withdrawals, in ms", withdrawals.len()));
    let slowest_ack = figures(screen, withdrawals);
    screen.heading("Requests while tasks were stopped");
    let failed = requests(screen, load);
    let carried = carried(screen, stage, load).await?;
    let raised = raised(stage).await?;

    screen.heading("So");
    let enough = withdrawals.len() >= LEAST;
    screen.claim(enough, format!("{} withdrawals, at least {LEAST} wanted", withdrawals.len()));
    screen.claim(failed == 0, format!("{} requests failed", grouped(failed)));
    let soon = slowest_ack <= BOUND;
    let bound = BOUND.as_millis();
    screen.claim(
        soon,
        format!("change seen → last ACK: p99 {} ms, at most {bound} wanted", millis(slowest_ack)),
    );
    screen.claim(carried, "both Envoys carried both ways");
    let (looked_at, names) = raised;
    let quiet = names.is_empty();
    screen.claim(
        quiet,
        format!("{looked_at} of Envoy's update_rejected, init_fetch_timeout and assignment_use_cached counters: {}",
            if quiet { "all 0".to_owned() } else { names.join(", ") }),
    );
    Ok(enough && failed == 0 && soon && carried && quiet)
}

/// The table; answers the 99th percentile from seen to the last ACK.
fn figures(screen: &Screen, withdrawals: &[Withdrawal]) -> Duration {
    screen.line(screen.dim(format!("  {:<22}{:>10}{:>10}{:>10}", "", "min", "median", "p99")));
    let row = |what: &str, values: Vec<Duration>, remark: &str| {
        let [min, median, p99] = [0.0, 0.5, 0.99].map(|share| quantile(&values, share));
        let numbers = [min, median, p99].map(|value| format!("{:>10}", millis(value))).concat();
        screen.line(format!("  {what:<22}{numbers}   {}", screen.dim(remark)));
        p99
    };
    let all = |value: fn(&Withdrawal) -> Duration| withdrawals.iter().map(value).collect::<Vec<_>>();
    row("stop → seen", all(|one| one.seen), "sources are polled every second");
    row("seen → pushed", all(|one| one.seen_to_pushed), "to the first sidecar");
    let p99 = row("seen → last ACK", all(|one| one.seen_to_acked), "from every sidecar");
    row("stop → last ACK", all(|one| one.acked), "");
    let last = withdrawals.iter().filter_map(|one| one.last_request).collect();
    row("stop → last request", last, "at the task that stops");
    row("stop → closed", all(|one| one.closed), "its application holds on to its listener until then");
    p99
}

/// What became of the requests; answers how many failed.
fn requests(screen: &Screen, load: &Load) -> u64 {
    let row = |name: &str, totals: &Totals| {
        let failed = format!("{:>6} failed", grouped(totals.failed));
        screen.line(format!(
            "  {} {:>9} good {}   {}",
            screen.name(format!("{name:<16}")),
            grouped(totals.ok),
            if totals.failed == 0 { screen.good(failed) } else { screen.bad(failed) },
            screen.dim(format!(
                "median {} ms, p99 {} ms, slowest {} ms",
                millis(totals.median),
                millis(totals.p99),
                millis(totals.max)
            )),
        ));
    };
    for (name, totals) in load.totals() {
        row(name, &totals);
    }
    for failure in load.failures() {
        screen.line(format!("    {}", screen.bad(failure)));
    }
    load.counts().1
}

/// Who carried what; answers whether every Envoy carried every way to payments.
async fn carried(screen: &Screen, stage: &Stage, load: &Load) -> anyhow::Result<bool> {
    let mut all = true;
    let spread = load.spread();
    for (place, envoy) in stage.envoys.iter().enumerate() {
        let stats = envoy.stats("^http\\.prod/.*\\.downstream_rq_2xx$").await?;
        // Some versions of Envoy keep the colon of `payments:8080` in the name.
        let requests =
            |way: &str| stats.iter().find(|(name, _)| name.contains(way)).map_or(0, |(_, count)| *count);
        let [direct, proxy] = ["/payments", "/@http-proxy"].map(requests);
        let connections = |way: &str| spread.get(way).and_then(|carried| carried.get(place)).copied();
        let [by_address, by_proxy] =
            ["by address", "by HTTP_PROXY"].map(|way| connections(way).unwrap_or_default());
        all &= direct > 0 && proxy > 0 && by_address >= 2 && by_proxy >= 2;
        screen.line(format!(
            "  {} {} by address on {by_address} connections, {} by HTTP_PROXY on {by_proxy}",
            screen.name(format!("{:<16}", envoy.name())),
            grouped(direct),
            grouped(proxy),
        ));
    }
    Ok(all)
}

/// How many counters were looked at, and those that are not zero.
async fn raised(stage: &Stage) -> anyhow::Result<(usize, Vec<String>)> {
    let (mut looked_at, mut names) = (0, Vec::new());
    for envoy in &stage.envoys {
        let oracle = envoy.oracle().await?;
        looked_at += oracle.looked_at;
        names.extend(oracle.raised.iter().map(|(name, value)| format!("{} {name} {value}", envoy.name())));
    }
    Ok((looked_at, names))
}
