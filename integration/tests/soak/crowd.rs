//! The clients that refuse at random, and the calm one that they are compared with.
//!
//! They live in the namespace of the newest Envoy and reach the server without a cable. Invariant: what they
//! refuse is their own affair: no Envoy and no calm client is told anything else because of them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use fastrand::Rng;
use integration::control_plane::ControlPlane;
use integration::wait;
use tokio_util::task::TaskTracker;

use crate::contrary::{Contrary, Notes};
use crate::wire::{Kind, Method};

/// How long everything may take to settle once nothing is refused.
const SETTLING: Duration = Duration::from_secs(30);
/// A response of n members may be told from its bad one by halves: 1 + log2(n), here for some hundred.
const REPEATS: u32 = 9;
const METHODS: [Method; 2] = [Method::Delta, Method::Sotw];

pub(crate) struct Crowd {
    contrary: Vec<Contrary>,
    namespace: String,
    tracker: TaskTracker,
}

impl Crowd {
    /// Begins.
    pub(crate) fn gather(server: &ControlPlane, namespace: &str, seed: u64) -> Self {
        let tracker = TaskTracker::new();
        let one = |(number, method)| {
            let rng = Rng::with_seed(seed ^ (0xc0_ffee + number as u64));
            Contrary::start(&tracker, server.xds(), method, namespace, Some(rng))
        };
        let contrary = METHODS.into_iter().enumerate().map(one).collect();
        Self { contrary, namespace: namespace.to_owned(), tracker }
    }

    /// Nobody refuses, and everybody holds the newest of everything; then they go on.
    pub(crate) async fn settle(&self, server: &ControlPlane) -> anyhow::Result<()> {
        self.contrary.iter().for_each(|one| one.set_calm(true));
        let calm = self.calm(server).await?;
        for one in &self.contrary {
            wait::until(SETTLING, format!("the {:?} client that refuses", one.method), async || {
                let differences = one.differences(&calm);
                anyhow::ensure!(differences.is_empty(), "{differences:#?}");
                Ok(Some(()))
            })
            .await?;
            let repeats = one.notes().repeats;
            anyhow::ensure!(repeats <= REPEATS, "{:?}: the same came {repeats} times", one.method);
        }
        self.contrary.iter().for_each(|one| one.set_calm(false));
        Ok(())
    }

    /// What a new client that refuses nothing holds: everything that is served.
    async fn calm(&self, server: &ControlPlane) -> anyhow::Result<Notes> {
        let mut served = BTreeMap::new();
        for (kind, word) in Kind::ALL.into_iter().zip(["clusters", "endpoints", "listeners", "routes"]) {
            for item in server.items(&format!("namespaces/{}/resources/{word}", self.namespace)).await? {
                // Neither what gRPC libraries ask for, nor where a sidecar's own service runs.
                let is_local = item["name"].as_str().is_some_and(|name| name.contains("/@local/"));
                if item["resource"].get("apiListener").is_none() && !is_local {
                    let text =
                        |key: &str| item[key].as_str().map(str::to_owned).context("no name or version");
                    served.insert((kind, text("name")?), text("version")?);
                }
            }
        }
        // Routes that no listener has are not asked for.
        let asked = |notes: &Notes| {
            let (held, routes) = (notes.all_versions(), notes.referred(Kind::Route));
            let mut wanted = served.clone();
            wanted.retain(|(kind, name), _| *kind != Kind::Route || routes.contains(name));
            (wanted, held)
        };
        let calm = Contrary::start(&self.tracker, server.xds(), Method::Delta, &self.namespace, None);
        wait::until(SETTLING, "a new client to hold what is served", async || {
            let notes = calm.notes();
            let (wanted, held) = asked(&notes);
            anyhow::ensure!(wanted == held, "{} served, {} held: {}", wanted.len(), held.len(), notes.ended);
            Ok(Some(notes))
        })
        .await
    }

    /// What they have seen, in words.
    pub(crate) fn report(&self) -> Vec<String> {
        let one = |one: &Contrary| {
            let Notes { streams, responses, refused, repeats, .. } = one.notes();
            format!(
                "{:?}: {responses} responses on {streams} streams, {refused} refused, the same at most {repeats} times",
                one.method
            )
        };
        self.contrary.iter().map(one).collect()
    }

    /// An error if one of them refused nothing.
    pub(crate) fn refused(&self) -> anyhow::Result<()> {
        for one in &self.contrary {
            let notes = one.notes();
            anyhow::ensure!(notes.refused > 0, "{:?} refused nothing: {}", one.method, notes.ended);
        }
        Ok(())
    }

    /// Ends all of them.
    pub(crate) async fn leave(self) {
        drop(self.contrary);
        self.tracker.close();
        self.tracker.wait().await;
    }
}
