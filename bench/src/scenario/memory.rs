//! S7: what idle streams cost, and whether storms leave anything behind.
//!
//! It is no matter of time, and most of a turn is waiting, so that all turns of a server run at once if they
//! can. Invariant: memory is read when it has stopped falling, and what is counted is the growth over a server
//! that serves the same to nobody.

use std::time::Duration;

use super::rig::{Rig, Size};
use super::{Bench, Sample, Wanted};
use crate::fleet::Arrives;
use crate::machine::Mode;
use crate::report::{Line, Target};
use crate::server::{Kind, Server};

/// How long the slower of the two allocators keeps what was let go.
const DECAY: Duration = Duration::from_secs(11);

/// With more streams than this servers take turns.
const TOGETHER: usize = 5_000;

const EACH: &str = "resident per idle stream, KiB";
const GROWTH: &str = "growth by storms, %";

/// What is measured.
#[derive(Debug, Clone, Copy)]
struct Plan {
    mode: Mode,
    size: Size,
    target: Target,
    storms: usize,
    /// Whether the peer is measured too: what must be reached is no ratio.
    beside: bool,
}

fn plans(quick: bool) -> Vec<Plan> {
    let size = Size { services: 1_000, tasks: 20, streams: 1_000, subscriptions: 20 };
    let base = Plan { mode: Mode::Pinned, size, target: Target::AtMost(26.0), storms: 0, beside: false };
    let many = |streams| Plan { size: Size { streams, ..size }, ..base };
    if quick {
        return vec![many(5_000)];
    }
    let wide = Plan { size: Size { subscriptions: 1_000, ..size }, target: Target::AtMost(60.0), ..base };
    let tls = Plan { mode: Mode::Tls, target: Target::None, ..many(5_000) };
    vec![Plan { storms: 10, ..base }, Plan { beside: true, ..many(5_000) }, many(10_000), wide, tls]
}

/// Measures all that is wanted.
pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for plan in plans(bench.quick).iter().filter(|_| bench.wants("S7")) {
        let name = format!("S7: {}", plan.size.words());
        let wanted: [Wanted; 2] = [(EACH, plan.target), (GROWTH, Target::AtMost(5.0))];
        let wanted = if plan.storms > 0 { &wanted[..] } else { &wanted[..1] };
        // The clients of all turns together must not be more than there may be open files.
        let together = plan.size.streams <= TOGETHER;
        let kinds = if plan.beside { bench.kinds(&name, plan.mode) } else { vec![Kind::Legation] };
        let once = async |kind| once(bench, plan, kind).await;
        lines.extend(if together {
            bench.together(&kinds, &name, plan.mode, wanted, once).await?
        } else {
            bench.turns_of(&kinds, &name, plan.mode, wanted, once).await?
        });
    }
    Ok(lines)
}

async fn once(bench: &Bench, plan: &Plan, kind: Kind) -> anyhow::Result<Sample> {
    let mut rig = Rig::new(bench, plan.mode, plan.size, kind).await?;
    let before = at_rest(&rig.server).await?;
    let mut fleet = rig.connect(Arrives::Empty).await?;
    let idle = at_rest(&rig.server).await?;
    rig.current(&fleet).await?; // nobody left meanwhile
    let each = idle.saturating_sub(before) as f64 / plan.size.streams as f64;
    let mut sample = Sample::from([(EACH, each)]);
    for _ in 0..plan.storms {
        fleet.close().await;
        fleet = rig.connect(Arrives::Empty).await?;
    }
    if plan.storms > 0 {
        let after = at_rest(&rig.server).await?;
        rig.current(&fleet).await?;
        sample.insert(GROWTH, (after as f64 / idle as f64 - 1.0) * 100.0);
    }
    fleet.finish().await?;
    Ok(sample)
}

/// The resident memory in KiB when the allocator has given back what it will.
async fn at_rest(server: &Server) -> anyhow::Result<u64> {
    tokio::time::sleep(DECAY).await;
    let mut lowest = server.memory()?;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = server.memory()?;
        if now >= lowest {
            return Ok(lowest);
        }
        lowest = now;
    }
}
