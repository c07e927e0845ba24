//! The soak: three versions of Envoy under load, while a mesh is edited without a pause, the way to the
//! server is troubled and the server is restarted; at the end every Envoy runs with exactly what is served,
//! no request has failed, and no Envoy has anything to complain of.
//!
//! `make soak` runs it, `MINUTES=10` for as long as a release asks for, `SEED=…` to repeat a story. It is not
//! about how fast anything is. Invariant: whatever way it ends, the seed and the figures are told.

#![allow(missing_docs, reason = "tests")]

mod contrary;
mod crowd;
mod editor;
mod mesh;
mod oracle;
mod refusal;
mod report;
mod run;
mod script;
mod settings;
mod stage;
mod table;
mod trouble;
mod wire;

use integration::scene::play;

use crate::run::Run;
use crate::settings::Settings;

#[test]
fn three_envoys_hold_what_is_served_after_edits_cuts_and_restarts() -> anyhow::Result<()> {
    let settings = Settings::from_environment()?;
    println!("SEED={} MINUTES={}", settings.seed, settings.minutes);
    play("soak", async |scene| {
        let mut run = Run::open(scene, settings).await?;
        let outcome = run.phases().await;
        println!("{}", run.report().await);
        outcome?;
        run.close().await
    })
}
