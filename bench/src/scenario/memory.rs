//! S7: what idle streams cost, and whether storms leave anything behind.
//!
//! Invariant: memory is read when it has stopped falling, and what is counted is the growth over a server that serves
//! the same to nobody.

use std::time::Duration;

use super::rig::{Rig, Size};
use super::{Bench, Sample, Wanted};
use crate::fleet::Arrives;
use crate::machine::Mode;
use crate::report::{Line, Target};
use crate::server::{Kind, Server};

/// How many seconds an allocator has to give back what was let go.
const REST: usize = 12;

const EACH: &str = "resident per idle stream, KiB";
const GROWTH: &str = "growth by storms, %";

/// Measures all that is wanted.
pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Line>> {
    let size = Size { services: 1_000, tasks: 20, streams: 1_000, subscriptions: 20 };
    let wide = (Size { subscriptions: 1_000, ..size }, 60.0, 0);
    let sizes = match bench.quick {
        true => vec![(Size { streams: 5_000, ..size }, 26.0, 0)],
        false => vec![
            (size, 26.0, 10),
            (Size { streams: 5_000, ..size }, 26.0, 0),
            (Size { streams: 10_000, ..size }, 26.0, 0),
            wide,
        ],
    };
    let mut lines = Vec::new();
    for (size, most, storms) in sizes.into_iter().filter(|_| bench.wants("S7")) {
        let name = format!("S7: {}", size.words());
        let growth = if storms > 0 { Target::AtMost(5.0) } else { Target::None };
        let wanted: [Wanted; 2] = [(EACH, Target::AtMost(most)), (GROWTH, growth)];
        let wanted = if storms > 0 { &wanted[..] } else { &wanted[..1] };
        let once = async |kind| once(bench, size, storms, kind).await;
        lines.extend(bench.in_turns(&name, Mode::Pinned, wanted, once).await?);
    }
    Ok(lines)
}

async fn once(bench: &Bench, size: Size, storms: usize, kind: Kind) -> anyhow::Result<Sample> {
    let mut rig = Rig::new(bench, Mode::Pinned, size, kind).await?;
    let before = at_rest(&rig.server).await?;
    let mut fleet = rig.connect(Arrives::Empty).await?;
    let idle = at_rest(&rig.server).await?;
    let mut sample = Sample::from([(EACH, idle.saturating_sub(before) as f64 / size.streams as f64)]);
    for _ in 0..storms {
        fleet.close().await;
        fleet = rig.connect(Arrives::Empty).await?;
    }
    if storms > 0 {
        let after = at_rest(&rig.server).await?;
        sample.insert(GROWTH, (after as f64 / idle as f64 - 1.0) * 100.0);
    }
    fleet.close().await;
    Ok(sample)
}

/// The resident memory in KiB when it has stopped falling.
async fn at_rest(server: &Server) -> anyhow::Result<u64> {
    let mut lowest = server.memory()?;
    let mut unchanged = 0;
    for _ in 0..REST {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = server.memory()?;
        unchanged = if now < lowest { 0 } else { unchanged + 1 };
        lowest = lowest.min(now);
        if unchanged == 4 {
            break;
        }
    }
    Ok(lowest)
}
