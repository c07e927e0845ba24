//! The figures of a run, whatever way it went.
//!
//! Invariant: what can't be asked any more is shown as such and stops nothing.

use std::fmt::Write;

use integration::agreement;
use integration::envoy::Ads;

use crate::run::Run;
use crate::stage::Car;
use crate::table::{self, COLUMNS};

impl Run {
    /// The table, and below it what was done.
    pub(crate) async fn report(&self) -> String {
        let mut rows = Vec::new();
        for number in 0..self.stage.cars.len() {
            rows.push(self.row(number).await);
        }
        let settings = self.settings;
        let mut text = format!("\nsoak: SEED={} MINUTES={}\n\n", settings.seed, settings.minutes);
        text.push_str(&table::render(&rows));
        let (ok, failed) = self.stage.shared.counts();
        let kinds: Vec<_> = self.editor.made.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "\nThrough the port that all share: {ok} requests, {failed} failed. Restarts: {}.\nEdits: {}.\nClients that refuse: {}.",
            self.restarts,
            kinds.join(", "),
            self.crowd.report().join("; ")
        );
        text
    }

    async fn row(&self, number: usize) -> [String; COLUMNS.len()] {
        let (car, suffered) = (&self.stage.cars[number], &self.suffered[number]);
        let (ok, failed) = car.load.counts();
        let figures = self.watches[number].figures(&car.envoy).unwrap_or_default();
        let intended = self
            .refusal
            .as_ref()
            .map_or(0, |refusal| figures.refusals.iter().filter(|line| refusal.explains(car, line)).count());
        [
            car.version.to_owned(),
            self.editor.count().to_string(),
            suffered.cuts.to_string(),
            format!("{:.1} s", suffered.slowest.as_secs_f64()),
            updates(car).await.unwrap_or_else(|_| "?".to_owned()),
            (ok + failed).to_string(),
            failed.to_string(),
            figures.sum("update_rejected").to_string(),
            intended.to_string(),
            figures.sum("init_fetch_timeout").to_string(),
            figures.sum("assignment_use_cached").to_string(),
            figures.sum("update_empty").to_string(),
            self.equal(car).await.unwrap_or_else(|_| "?".to_owned()),
        ]
    }

    /// How many resources are the same on both sides, or how many differ.
    async fn equal(&self, car: &Car) -> anyhow::Result<String> {
        let server = self.stage.server.read().await;
        let refused = self.refusal.as_ref().map(|it| it.refused(car)).unwrap_or_default();
        let served = agreement::served(&server, &car.namespace, &refused).await?;
        let held = agreement::held(&car.envoy).await?;
        let differences = agreement::differences(&served, &held, Ads::Delta).len();
        let all =
            served.clusters.len() + served.listeners.len() + served.routes.len() + served.endpoints.len();
        Ok(if differences == 0 {
            format!("{all} of {all}")
        } else {
            format!("{differences} of {all} differ")
        })
    }
}

/// How often an Envoy has taken clusters and listeners.
async fn updates(car: &Car) -> anyhow::Result<String> {
    let clusters = car.envoy.stat("cluster_manager.cds.update_success").await?;
    let listeners = car.envoy.stat("listener_manager.lds.update_success").await?;
    Ok(format!("{clusters}/{listeners}"))
}
