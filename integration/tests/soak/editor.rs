//! The hand that edits: steadily, also while the server is away, and sometimes badly.
//!
//! What it writes is the script's. Invariant: a bad file is written only over one that the server knows, and
//! the server then knows the same still.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::watch;

use crate::script::{Edit, Kind, Script};
use crate::stage::Stage;

/// Edits in a second; what is missed while something is looked at is made up for.
const RATE: u32 = 10;

pub(crate) struct Editor {
    pub(crate) script: Script,
    /// Since when services are gone that are never written again.
    pub(crate) gone: BTreeMap<String, Instant>,
    /// How many edits were made, by kind.
    pub(crate) made: BTreeMap<Kind, u64>,
    /// How many in all, for who waits for the next.
    pub(crate) progress: watch::Sender<u64>,
}

impl Editor {
    pub(crate) fn new(script: Script) -> Self {
        Self { script, gone: BTreeMap::new(), made: BTreeMap::new(), progress: watch::Sender::new(0) }
    }

    /// How many edits were made.
    pub(crate) fn count(&self) -> u64 {
        *self.progress.borrow()
    }

    /// Edits until the time has come.
    pub(crate) async fn work(&mut self, stage: &Stage, end: Instant) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE);
        while Instant::now() < end {
            tick.tick().await;
            let edit = self.script.next();
            if edit.kind == Kind::Bad {
                // While the server is restarted nobody could say that nothing changed.
                let Ok(server) = stage.server.try_read() else { continue };
                self.spoil(stage, &server, &edit).await?;
            } else {
                stage.write(&edit.text)?;
            }
            let gone = std::mem::take(&mut self.script.gone).into_iter();
            self.gone.extend(gone.map(|name| (name, Instant::now())));
            *self.made.entry(edit.kind).or_default() += 1;
            self.progress.send_modify(|count| *count += 1);
        }
        // The last may have been a bad one.
        stage.write(&self.script.text())
    }

    /// A bad file changes nothing, and is told.
    async fn spoil(
        &self,
        stage: &Stage,
        server: &integration::control_plane::ControlPlane,
        edit: &Edit,
    ) -> anyhow::Result<()> {
        stage.write(&self.script.text())?;
        stage.known(server, &self.script.mesh).await?;
        stage.write(&edit.text)?;
        stage.sources(server, true).await?;
        let still = stage.known(server, &self.script.mesh).await;
        still.with_context(|| format!("after this bad file:\n{}", edit.text))
    }
}
