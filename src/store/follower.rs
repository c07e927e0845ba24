//! One namespace's cell: the latest snapshot, and who is told that there is a newer one.
//!
//! It does not know what a follower does with it.
//!
//! Invariant: first the snapshot is there, then whoever it concerns is told. A follower that follows a name, and then
//! takes the latest snapshot, misses nothing of that name.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slab::Slab;
use tokio::sync::{Notify, watch};

use super::interest::Interest;
use crate::snapshot::{ResourceType, Snapshot};

/// The latest snapshot of a namespace with its followers.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) latest: watch::Sender<Arc<Snapshot>>,
    followers: Mutex<Followers>,
    /// The generation up to which everyone concerned has been told.
    announced: AtomicU64,
}

#[derive(Debug, Default)]
struct Followers {
    bells: Slab<Arc<Bell>>,
    interest: Interest,
}

/// How a follower is told.
#[derive(Debug, Default)]
struct Bell {
    rung: Notify,
    /// The generation that the follower took last.
    taken: AtomicU64,
    /// The first generation that concerns it and was not taken when it came.
    due: AtomicU64,
}

impl Cell {
    pub(super) fn new(snapshot: Arc<Snapshot>) -> Self {
        let announced = AtomicU64::new(snapshot.generation);
        Self { latest: watch::Sender::new(snapshot), followers: Mutex::default(), announced }
    }

    fn followers(&self) -> MutexGuard<'_, Followers> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn publish(&self, snapshot: Arc<Snapshot>) {
        let generation = snapshot.generation;
        self.latest.send_replace(Arc::clone(&snapshot));
        let (concerned, in_turn) = self.followers().to_tell(&snapshot);
        for bell in concerned.iter().filter(|bell| bell.first_due().is_none()) {
            bell.due.store(generation, Ordering::Release);
        }
        self.announced.store(generation, Ordering::Release);
        concerned.iter().chain(&in_turn).for_each(|bell| bell.rung.notify_one());
    }
}

impl Bell {
    /// The first generation that concerns the follower and is newer than what it took.
    fn first_due(&self) -> Option<u64> {
        let due = self.due.load(Ordering::Acquire);
        (due > self.taken.load(Ordering::Acquire)).then_some(due)
    }
}

impl Followers {
    /// The bells of those whom the newest change of `snapshot` concerns, and of others whose turn it is.
    fn to_tell(&self, snapshot: &Snapshot) -> (Vec<Arc<Bell>>, Vec<Arc<Bell>>) {
        let concerned = self.interest.concerned(snapshot);
        let in_turn =
            self.interest.in_turn(snapshot.generation).filter(|follower| !concerned.contains(*follower));
        let bell = |follower: u32| self.bells.get(follower as usize).map(Arc::clone);
        let in_turn = in_turn.filter_map(bell).collect();
        (concerned.iter().filter_map(bell).collect(), in_turn)
    }
}

/// Whoever follows some of what a namespace serves: told of changes until it is dropped.
#[derive(Debug)]
pub struct Follower {
    cell: Arc<Cell>,
    bell: Arc<Bell>,
    number: u32,
}

impl Follower {
    /// A follower in `task` that follows nothing yet.
    pub(super) fn new(cell: Arc<Cell>, task: &Arc<str>) -> Self {
        let bell = Arc::new(Bell::default());
        let mut followers = cell.followers();
        let key = followers.bells.insert(Arc::clone(&bell));
        let number = u32::try_from(key).unwrap_or(u32::MAX);
        followers.interest.enter(number, task);
        drop(followers);
        Self { cell, bell, number }
    }

    /// The only follower of a snapshot that stays the latest.
    #[cfg(test)]
    pub(crate) fn alone(snapshot: Arc<Snapshot>) -> Self {
        let follower = Self::new(Arc::new(Cell::new(snapshot)), &"task".into());
        follower.take();
        follower
    }

    /// Takes the latest snapshot.
    pub fn take(&self) -> Arc<Snapshot> {
        let snapshot = Arc::clone(&self.cell.latest.borrow());
        self.bell.taken.store(snapshot.generation, Ordering::Release);
        snapshot
    }

    /// Waits until it may be concerned by something newer than what it took last; cancel safe. Sometimes it is not.
    pub async fn concerned(&self) {
        self.bell.rung.notified().await;
    }

    /// Follows these names from now on, or no longer; `*` is every name of its type. What changed before is not
    /// told: take the latest snapshot after this.
    pub fn follow(&self, turned: &[(ResourceType, Arc<str>, bool)]) {
        let interest = &mut self.cell.followers().interest;
        for (kind, name, follows) in turned {
            if *follows {
                interest.follow(self.number, *kind, name);
            } else {
                interest.unfollow(self.number, *kind, name);
            }
        }
    }

    /// The newest generation that is, to this follower, the same as the one it took last.
    pub fn same_until(&self) -> u64 {
        let announced = self.cell.announced.load(Ordering::Acquire);
        let same = self.bell.first_due().map_or(announced, |due| due - 1);
        same.max(self.bell.taken.load(Ordering::Acquire))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut followers = self.cell.followers();
        for free in followers.interest.leave(self.number) {
            followers.bells.try_remove(free as usize);
        }
    }
}
