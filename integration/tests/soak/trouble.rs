//! Trouble on the way between an Envoy and the server: cut, held up, deaf, refused.
//!
//! Invariant: one cable at a time, never for longer than [`LONGEST`], and the Envoy is back before it is
//! troubled again; so that a fetch that takes 15 s is not the cables' fault.

use std::time::{Duration, Instant};

use anyhow::Context;
use fastrand::Rng;
use integration::cable::{Cable, Cut, Mood};
use integration::wait;
use tokio::sync::watch;

use crate::stage::Stage;

/// Between the beginnings of two troubles.
const PACE: Duration = Duration::from_millis(2500);
const LONGEST: Duration = Duration::from_secs(3);
/// An Envoy's pauses before it connects again are at most 2 s.
const BACK: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Cut(Cut),
    Held,
    HeldThenCut,
    Deaf,
    Refused,
}

const ALL: [Trouble; 7] = [
    Trouble::Cut(Cut::Reset),
    Trouble::Cut(Cut::Close),
    Trouble::Cut(Cut::ClientOnly),
    Trouble::Held,
    Trouble::HeldThenCut,
    Trouble::Deaf,
    Trouble::Refused,
];

/// What the cables went through, by Envoy.
#[derive(Debug, Clone, Default)]
pub(crate) struct Suffered {
    /// Connections ended.
    pub(crate) cuts: u64,
    /// The longest from a heal to the next connection.
    pub(crate) slowest: Duration,
}

/// Makes trouble until the time has come; half of it right after an edit.
pub(crate) async fn work(
    stage: &Stage,
    rng: &mut Rng,
    mut edits: watch::Receiver<u64>,
    suffered: &mut [Suffered],
    end: Instant,
) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(PACE);
    tick.tick().await;
    let mut turn = rng.usize(..stage.cars.len());
    loop {
        tick.tick().await;
        if Instant::now() >= end {
            return Ok(());
        }
        turn = (turn + rng.usize(1..stage.cars.len())) % stage.cars.len();
        let (car, cable) = (&stage.cars[turn], &stage.cars[turn].cable);
        let trouble = rng.choice(ALL).context("no trouble")?;
        if rng.bool() {
            // Into the middle of what an edit causes: it is read 50 ms later. The last may have been made.
            let Ok(edited) = tokio::time::timeout_at(end.into(), edits.changed()).await else {
                return Ok(());
            };
            edited.context("the editor is gone")?;
            tokio::time::sleep(Duration::from_millis(rng.u64(..120))).await;
        }
        let pause = Duration::from_millis(rng.u64(200..LONGEST.as_millis() as u64));
        suffered[turn].cuts += apply(cable, trouble, pause).await;
        // The server may be away for a while, and then nobody comes back.
        let _here = stage.server.read().await;
        let healed = Instant::now();
        let what = format!("Envoy {} to be back after {trouble:?}", car.version);
        wait::until(BACK, what, async || Ok((cable.open() > 0).then_some(()))).await?;
        suffered[turn].slowest = suffered[turn].slowest.max(healed.elapsed());
    }
}

/// Makes trouble and heals it; tells how many connections it ended.
async fn apply(cable: &Cable, trouble: Trouble, pause: Duration) -> u64 {
    let ended = match trouble {
        Trouble::Cut(how) => {
            let ended = cable.cut(how);
            if how == Cut::ClientOnly {
                // Meanwhile the server has two streams of one node.
                tokio::time::sleep(pause).await;
            }
            ended
        }
        Trouble::Held | Trouble::HeldThenCut => {
            cable.set(Mood::Held);
            tokio::time::sleep(pause).await;
            if trouble == Trouble::Held { 0 } else { cable.cut(Cut::Reset) }
        }
        Trouble::Deaf => {
            cable.set(Mood::Deaf);
            tokio::time::sleep(pause).await;
            cable.open()
        }
        Trouble::Refused => {
            cable.set(Mood::Refusing);
            let ended = cable.cut(Cut::Reset);
            tokio::time::sleep(pause).await;
            ended
        }
    };
    cable.set(Mood::Through);
    ended as u64
}
