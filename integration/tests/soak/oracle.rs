//! What stock Envoy says of the configuration that it was sent, all the time: counters of clusters that are
//! gone again are gone with them.
//!
//! It judges nothing. Invariant: a counter that was raised at any look is kept.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use integration::envoy::{self, Envoy};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

const LOOKS: Duration = Duration::from_millis(500);

/// A counter that is not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Raised {
    /// The most that was seen.
    pub(crate) most: u64,
    /// Since when.
    pub(crate) first: Instant,
}

#[derive(Debug, Default)]
struct Seen {
    raised: BTreeMap<String, Raised>,
    looks: u64,
    looked_at: usize,
    failed: Option<String>,
}

/// Looks at an Envoy's counters until it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    seen: Arc<Mutex<Seen>>,
    _stop: DropGuard,
}

/// The figures of one Envoy.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    /// Counters that were raised.
    pub(crate) raised: BTreeMap<String, Raised>,
    /// Lines of its log that tell of a refusal.
    pub(crate) refusals: Vec<String>,
    /// Lines of its log that tell of something that did not come in time.
    pub(crate) timeouts: Vec<String>,
}

impl Figures {
    /// The sum of the counters with this end.
    pub(crate) fn sum(&self, counter: &str) -> u64 {
        self.raised.iter().filter(|(name, _)| name.ends_with(counter)).map(|(_, raised)| raised.most).sum()
    }
}

impl Watch {
    pub(crate) fn start(tracker: &TaskTracker, admin: SocketAddr) -> Self {
        let (stop, seen) = (CancellationToken::new(), Arc::new(Mutex::new(Seen::default())));
        let (token, notes) = (stop.clone(), seen.clone());
        tracker.spawn(async move {
            let pattern = format!("\\.({})$", envoy::ORACLE.join("|"));
            let mut tick = tokio::time::interval(LOOKS);
            while token.run_until_cancelled(tick.tick()).await.is_some() {
                let found = envoy::stats(admin, &pattern).await;
                let mut seen = notes.lock().unwrap_or_else(PoisonError::into_inner);
                match found {
                    Ok(counters) => seen.note(counters),
                    Err(error) => seen.failed = Some(format!("{error:#}")),
                }
            }
        });
        Self { seen, _stop: stop.drop_guard() }
    }

    /// What was seen until now, and what the log says.
    pub(crate) fn figures(&self, envoy: &Envoy) -> anyhow::Result<Figures> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let what = || format!("looking at {}", envoy.name());
        if let Some(error) = &seen.failed {
            return Err(anyhow::anyhow!("{error}")).with_context(what);
        }
        anyhow::ensure!(seen.looks > 0 && seen.looked_at > 20, "{}: hardly a counter was seen", envoy.name());
        let log = envoy.log()?;
        let lines = |word: &str| {
            let found = log.lines().filter(|line| line.contains(word));
            found.map(|line| line.chars().take(400).collect()).collect()
        };
        Ok(Figures {
            raised: seen.raised.clone(),
            // Each is told twice, by the subscription and by what it is for.
            refusals: lines(" gRPC config for "),
            timeouts: lines("initial fetch timed out"),
        })
    }
}

impl Seen {
    fn note(&mut self, counters: BTreeMap<String, u64>) {
        self.looks += 1;
        self.looked_at = self.looked_at.max(counters.len());
        for (name, count) in counters.into_iter().filter(|(_, count)| *count > 0) {
            // Of a sidecar whose service nobody knows the local cluster has nobody in it.
            if name == "cluster.local.update_empty" {
                continue;
            }
            let raised = self.raised.entry(name).or_insert(Raised { most: 0, first: Instant::now() });
            raised.most = raised.most.max(count);
        }
    }
}
