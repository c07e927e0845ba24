//! The latest snapshot of each namespace: one writer, many readers.
//!
//! It is not a cache: nothing expires and no cell is ever taken away.
//!
//! Invariant: readers keep the writer waiting only while they say what they follow, and no snapshot with a dangling
//! reference gets in.

use std::sync::Arc;
use std::time::Instant;

use dashmap::DashMap;
use tokio::sync::watch;
use tracing::error;

use crate::model::Namespace;
use crate::snapshot::Snapshot;

mod follower;
mod interest;

use follower::Cell;
pub use follower::Follower;

type Cells = DashMap<Namespace, Arc<Cell>>;

/// The reading end.
#[derive(Clone, Debug)]
pub struct Store {
    cells: Arc<Cells>,
    // Both ends keep it, so that no reader is told of an end when the writer goes: a stopping server has streams.
    confirmed: Arc<watch::Sender<Option<Instant>>>,
}

/// The writing end. Not `Clone`.
#[derive(Debug)]
pub struct Writer {
    cells: Arc<Cells>,
    confirmed: Arc<watch::Sender<Option<Instant>>>,
}

/// An empty store: it stays so until every source has spoken once.
pub fn store() -> (Writer, Store) {
    let cells = Arc::new(Cells::new());
    let confirmed = Arc::new(watch::Sender::new(None));
    (Writer { cells: Arc::clone(&cells), confirmed: Arc::clone(&confirmed) }, Store { cells, confirmed })
}

impl Writer {
    /// Makes `snapshot` the latest of its namespace. A snapshot that isn't closed is refused, loudly, and the
    /// last good one stays: Envoy would wait 15 s for what is missing.
    pub fn publish(&self, snapshot: Snapshot) {
        if let Some((from, to)) = snapshot.dangling() {
            error!(namespace = %snapshot.namespace, %from, %to, "snapshot refused: dangling reference");
            return;
        }
        let snapshot = Arc::new(snapshot);
        let cell = self.cells.get(&snapshot.namespace).map(|cell| Arc::clone(&cell));
        match cell {
            Some(cell) => cell.publish(snapshot),
            None => {
                self.cells.insert(snapshot.namespace.clone(), Arc::new(Cell::new(snapshot)));
            }
        }
    }

    /// Says that everything any source knew at `began` is published. Never goes back.
    pub fn confirm(&self, began: Instant) {
        self.confirmed.send_if_modified(|confirmed| {
            let forward = confirmed.is_none_or(|before| before < began);
            if forward {
                *confirmed = Some(began);
            }
            forward
        });
    }

    /// The latest snapshot of a namespace.
    pub fn latest(&self, namespace: &Namespace) -> Option<Arc<Snapshot>> {
        self.cells.get(namespace).map(|cell| Arc::clone(&cell.latest.borrow()))
    }
}

impl Store {
    /// Whether all that every source said once is published: every namespace, not only the first of them.
    pub fn is_synced(&self) -> bool {
        self.confirmed.borrow().is_some()
    }

    /// The moment of which it is sure that everything any source knew then is published, now and from now on.
    pub fn confirmed(&self) -> watch::Receiver<Option<Instant>> {
        self.confirmed.subscribe()
    }

    /// Every snapshot of a namespace, now and from now on; `None` if there is no such namespace (yet).
    pub fn subscribe(&self, namespace: &str) -> Option<watch::Receiver<Arc<Snapshot>>> {
        self.cells.get(namespace).map(|cell| cell.latest.subscribe())
    }

    /// A follower in `task` of what it will follow in a namespace; `None` if there is no such namespace (yet).
    pub fn follower(&self, namespace: &str, task: &Arc<str>) -> Option<Follower> {
        let cell = self.cells.get(namespace).map(|cell| Arc::clone(&cell))?;
        Some(Follower::new(cell, task))
    }

    /// The latest snapshot of a namespace.
    pub fn latest(&self, namespace: &str) -> Option<Arc<Snapshot>> {
        self.cells.get(namespace).map(|cell| Arc::clone(&cell.latest.borrow()))
    }

    /// The namespaces there are, sorted.
    pub fn namespaces(&self) -> Vec<Namespace> {
        let mut names: Vec<_> = self.cells.iter().map(|cell| cell.key().clone()).collect();
        names.sort();
        names
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn it_is_synced_when_everything_is_published_and_not_with_the_first_namespace() {
        let (writer, store) = store();
        for namespace in ["other", "prod"] {
            assert!(!store.is_synced());
            let now = SystemTime::UNIX_EPOCH;
            writer.publish(Snapshot::first(namespace.into(), Default::default(), Vec::new(), now));
        }
        assert!(!store.is_synced(), "who publishes says when it is all");
        writer.confirm(Instant::now());
        assert!(store.is_synced());
    }
}
