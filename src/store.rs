//! The latest snapshot of each namespace, and of each scope that a client is in: one writer, many readers.
//!
//! It is not a cache: nothing expires, and only the cell of a scope that nobody follows is ever taken away.
//!
//! Invariant: readers keep the writer waiting only while they say what they follow, and no snapshot with a dangling
//! reference gets in.

use std::sync::Arc;
use std::time::Instant;

use dashmap::DashMap;
use tokio::sync::watch;
use tracing::error;

use crate::model::{Namespace, Scope, Scoping};
use crate::snapshot::Snapshot;

mod follower;
mod interest;
mod scopes;

use follower::Cell;
pub use follower::Follower;
use scopes::Scopes;

type Cells = DashMap<Namespace, Arc<Cell>>;

/// The reading end.
#[derive(Clone, Debug)]
pub struct Store {
    cells: Arc<Cells>,
    scopes: Arc<Scopes>,
    // Both ends keep it, so that no reader is told of an end when the writer goes: a stopping server has streams.
    confirmed: Arc<watch::Sender<Option<Instant>>>,
}

/// The writing end. Not `Clone`.
#[derive(Debug)]
pub struct Writer {
    cells: Arc<Cells>,
    scopes: Arc<Scopes>,
    confirmed: Arc<watch::Sender<Option<Instant>>>,
}

/// An empty store: it stays so until every source has spoken once.
pub fn store() -> (Writer, Store) {
    let cells = Arc::new(Cells::new());
    let scopes = Arc::new(Scopes::default());
    let confirmed = Arc::new(watch::Sender::new(None));
    let writer =
        Writer { cells: Arc::clone(&cells), scopes: Arc::clone(&scopes), confirmed: Arc::clone(&confirmed) };
    (writer, Store { cells, scopes, confirmed })
}

impl Writer {
    /// Makes `snapshot` the latest of its scope. A snapshot that isn't closed is refused, loudly, and the
    /// last good one stays: Envoy would wait 15 s for what is missing.
    pub fn publish(&self, snapshot: Snapshot) {
        if let Some((from, to)) = snapshot.dangling() {
            error!(namespace = %snapshot.namespace, %from, %to, "snapshot refused: dangling reference");
            return;
        }
        let snapshot = Arc::new(snapshot);
        if !snapshot.scope.is_whole() {
            self.scopes.publish(snapshot);
            return;
        }
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

    /// The latest snapshot of a scope that is less or more than a namespace.
    pub fn latest_in(&self, scope: &Scope) -> Option<Arc<Snapshot>> {
        self.scopes.find(scope).map(|cell| Arc::clone(&cell.latest.borrow()))
    }

    /// Says who sees what. Publish first what follows from it.
    pub fn rule(&self, scoping: &Arc<Scoping>) {
        self.scopes.rule(scoping);
    }

    /// The scopes beside whole namespaces that are served or asked for, ordered.
    pub fn scopes(&self) -> Vec<Arc<Scope>> {
        self.scopes.all()
    }

    /// Resolves when a scope was asked for that is not served; cancel safe.
    pub async fn scope_asked(&self) {
        self.scopes.asked().await;
    }

    /// Whether someone follows a scope, or asks for it.
    pub fn is_wanted(&self, scope: &Scope) -> bool {
        self.scopes.is_wanted(scope)
    }

    /// Serves a scope no longer, unless someone follows it or asks for it.
    pub fn forget(&self, scope: &Scope) -> bool {
        self.scopes.forget(scope)
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

    /// What a client of a namespace sees, by the name of its service; `None` if there is no such namespace (yet).
    pub fn scope_of(&self, namespace: &str, service: &str) -> Option<Scope> {
        let namespace = self.cells.get(namespace).map(|cell| cell.key().clone())?;
        Some(self.scopes.of(&namespace, service))
    }

    /// Who sees what, now and from now on.
    pub fn scoping(&self) -> watch::Receiver<Arc<Scoping>> {
        self.scopes.scoping()
    }

    /// A follower in `task` of what it will follow in a scope, once that is served; `None` if there is no such
    /// namespace (yet).
    pub async fn follower_in(&self, scope: &Scope, task: &Arc<str>) -> Option<Follower> {
        if scope.is_whole() {
            return self.follower(scope.namespace.as_str(), task);
        }
        if !self.cells.contains_key(&scope.namespace) {
            return None;
        }
        Some(Follower::new(self.scopes.cell(scope).await, task))
    }

    /// The latest snapshot of a scope.
    pub fn latest_in(&self, scope: &Scope) -> Option<Arc<Snapshot>> {
        if scope.is_whole() {
            return self.latest(scope.namespace.as_str());
        }
        self.scopes.find(scope).map(|cell| Arc::clone(&cell.latest.borrow()))
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
