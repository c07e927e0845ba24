//! The scopes that some client is served in: asked for by streams, made by the writer, gone when nobody is there.
//!
//! It decides nothing about who sees what. Invariant: a scope that anyone follows is kept, and one that is asked for is
//! made in the writer's next turn.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use super::follower::Cell;
use crate::model::{Namespace, Scope, Scoping};
use crate::snapshot::Snapshot;

/// What streams and the writer know of scopes.
#[derive(Debug, Default)]
pub(super) struct Scopes {
    /// Those that are served or asked for; the latter have no cell yet.
    cells: Mutex<BTreeMap<Arc<Scope>, Option<Arc<Cell>>>>,
    asked: Notify,
    /// Counts up when a scope that was asked for is there.
    come: watch::Sender<u64>,
    /// Who sees what.
    scoping: watch::Sender<Arc<Scoping>>,
}

impl Scopes {
    fn cells(&self) -> MutexGuard<'_, BTreeMap<Arc<Scope>, Option<Arc<Cell>>>> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cell of a scope, if it is there; if not, it is asked for.
    pub(super) fn ask(&self, scope: &Scope) -> Option<Arc<Cell>> {
        let mut cells = self.cells();
        if let Some(known) = cells.get(scope) {
            return known.clone();
        }
        cells.insert(Arc::new(scope.clone()), None);
        drop(cells);
        self.asked.notify_one();
        None
    }

    /// The cell of a scope, once it is there.
    pub(super) async fn cell(&self, scope: &Scope) -> Arc<Cell> {
        let mut come = self.come.subscribe();
        loop {
            come.borrow_and_update();
            if let Some(cell) = self.ask(scope) {
                return cell;
            }
            let _ = come.changed().await; // the sender is here
        }
    }

    pub(super) fn find(&self, scope: &Scope) -> Option<Arc<Cell>> {
        self.cells().get(scope).cloned().flatten()
    }

    pub(super) fn publish(&self, snapshot: Arc<Snapshot>) {
        if let Some(cell) = self.find(&snapshot.scope) {
            cell.publish(snapshot);
            return;
        }
        self.cells().insert(Arc::clone(&snapshot.scope), Some(Arc::new(Cell::new(snapshot))));
        self.come.send_modify(|count| *count += 1);
    }

    /// Resolves when something was asked for; cancel safe.
    pub(super) async fn asked(&self) {
        self.asked.notified().await;
    }

    pub(super) fn all(&self) -> Vec<Arc<Scope>> {
        self.cells().keys().cloned().collect()
    }

    /// Forgets a scope unless someone follows it, or asks for it.
    pub(super) fn forget(&self, scope: &Scope) -> bool {
        let mut cells = self.cells();
        // Whoever has it took it under this lock.
        let is_idle =
            cells.get(scope).and_then(Option::as_ref).is_some_and(|cell| Arc::strong_count(cell) == 1);
        if is_idle {
            cells.remove(scope);
        }
        is_idle
    }

    /// Whether someone follows a scope or asks for it.
    pub(super) fn is_wanted(&self, scope: &Scope) -> bool {
        let cells = self.cells();
        cells.get(scope).is_some_and(|cell| cell.as_ref().is_none_or(|cell| Arc::strong_count(cell) > 1))
    }

    pub(super) fn rule(&self, scoping: &Arc<Scoping>) {
        self.scoping.send_if_modified(|known| {
            let is_new = !Arc::ptr_eq(known, scoping);
            known.clone_from(scoping);
            is_new
        });
    }

    pub(super) fn scoping(&self) -> watch::Receiver<Arc<Scoping>> {
        self.scoping.subscribe()
    }

    pub(super) fn of(&self, namespace: &Namespace, service: &str) -> Scope {
        self.scoping.borrow().of(namespace, service)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use futures_util::FutureExt;

    use super::super::store;
    use super::*;

    fn narrow() -> Scope {
        Scope { uses: Some(["payments".into()].into()), ..Scope::whole("prod".into()) }
    }

    fn first(scope: &Arc<Scope>) -> Snapshot {
        Snapshot::first("prod".into(), Default::default(), Vec::new(), SystemTime::UNIX_EPOCH).in_scope(scope)
    }

    #[tokio::test]
    async fn a_scope_is_made_when_asked_for_and_kept_while_followed() {
        let (writer, store) = store();
        writer.publish(first(&Arc::new(Scope::whole("prod".into()))));
        let scope = narrow();
        assert!(writer.scopes().is_empty(), "nobody is there");
        let (asking, task) = (store.clone(), "task".into());
        let mut follower = Box::pin(asking.follower_in(&scope, &task));
        assert!((&mut follower).now_or_never().is_none());
        writer.scope_asked().now_or_never().expect("the writer is told");
        let [asked] = writer.scopes().try_into().unwrap();
        assert_eq!(*asked, scope);
        assert!(writer.latest_in(&asked).is_none());
        assert!(!writer.forget(&asked), "someone waits for it");
        writer.publish(first(&asked));
        let follower = follower.await.expect("it is there");
        assert_eq!(follower.take().scope, asked);
        assert!(!writer.forget(&asked), "it is followed");
        assert_eq!(store.latest("prod").unwrap().scope, Arc::new(Scope::whole("prod".into())));
        drop(follower);
        assert!(writer.forget(&asked));
        assert!(writer.scopes().is_empty());
        assert!(store.latest_in(&scope).is_none());
    }

    #[tokio::test]
    async fn a_scope_of_no_namespace_is_not_waited_for() {
        let (_writer, store) = store();
        assert!(store.follower_in(&narrow(), &"task".into()).await.is_none());
    }
}
