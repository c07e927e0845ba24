//! S6: everyone connects again at once, with nothing, with everything, or with all but the newest.
//!
//! It is not about clients that come one by one. Invariant: a storm is over when everyone holds the latest of
//! everything, and a change made then has reached them.

use std::time::Instant;

use super::rig::{Rig, Size};
use super::{Bench, Sample, Wanted};
use crate::fleet::Arrives;
use crate::machine::{self, Mode};
use crate::report::{Line, Target};
use crate::server::Kind;

const WALL: &str = "until everyone is back, ms";
const CPU: &str = "server CPU, ms";
const BYTES: &str = "share of all bytes sent again, %";
const DROPS: &str = "connections dropped by the kernel";

/// What clients have missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Storm {
    /// They come with nothing.
    Empty,
    /// They hold everything.
    Current,
    /// One service in a hundred changed while they were away.
    Changed,
}

/// Measures all that is wanted.
pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Line>> {
    let size = Size { services: 1_000, tasks: 20, streams: 5_000, subscriptions: 20 };
    let wide = Size { streams: 1_000, subscriptions: 1_000, ..size };
    let storms = [Storm::Empty, Storm::Current, Storm::Changed];
    let all = [(size, 1.0 / 2.0), (wide, 1.0 / 4.0)];
    let all = all.into_iter().flat_map(|(size, wall)| storms.map(|storm| (size, wall, storm)));
    let mut lines = Vec::new();
    for (size, wall, storm) in all.filter(|_| bench.wants("S6")) {
        let is_wide = size.streams == wide.streams;
        if bench.quick && (storm == Storm::Changed || is_wide) {
            continue;
        }
        let what = match storm {
            Storm::Empty => "new",
            Storm::Current => "current",
            Storm::Changed => "1 % changed",
        };
        let name = format!("S6, {what}: {}", size.words());
        let bytes = if storm == Storm::Current { Target::AtMost(2.0) } else { Target::None };
        let wall = if storm == Storm::Empty { Target::Ratio(wall) } else { Target::None };
        let wanted: [Wanted; 4] =
            [(WALL, wall), (CPU, Target::None), (BYTES, bytes), (DROPS, Target::Nothing)];
        lines.extend(match storm {
            Storm::Empty => {
                let once = async |kind| once(bench, size, storm, kind).await;
                bench.in_turns(&name, Mode::Pinned, &wanted, once).await?
            }
            // What counts is its share of what Legation itself sends.
            Storm::Current | Storm::Changed => {
                let once = async || once(bench, size, storm, Kind::Legation).await;
                bench.alone(&name, Mode::Pinned, &wanted, once).await?
            }
        });
    }
    Ok(lines)
}

async fn once(bench: &Bench, size: Size, storm: Storm, kind: Kind) -> anyhow::Result<Sample> {
    let mut rig = Rig::new(bench, Mode::Pinned, size, kind).await?;
    if storm != Storm::Empty {
        // A client that comes back and asks for load assignments before clusters was cut off while these warmed, and is
        // sent all of them whatever it holds.
        rig = rig.with_clusters();
    }
    let fleet = rig.connect(Arrives::Empty).await?;
    let all = rig.book.borrow_mut().received();
    fleet.close().await;
    let arrives = if storm == Storm::Empty { Arrives::Empty } else { Arrives::Holding };
    let away = if storm == Storm::Changed { size.services / 100 } else { 0 };
    let (dropped, processor, started) = (machine::dropped()?, rig.server.processor()?, Instant::now());
    let fleet = rig.connect_having_missed(away, arrives).await?;
    let sent = rig.book.borrow_mut().received();
    let probe = rig.world.stop(0);
    rig.change(&fleet, probe).await?;
    let wall = started.elapsed();
    let processor = rig.server.processor()?.saturating_sub(processor);
    fleet.finish().await?;
    Ok([
        (WALL, wall.as_secs_f64() * 1e3),
        (CPU, processor.as_secs_f64() * 1e3),
        (BYTES, sent as f64 / all as f64 * 100.0),
        (DROPS, machine::dropped()?.saturating_sub(dropped) as f64),
    ]
    .into())
}
