//! One namespace's cell: the latest snapshot, and who is told that there is a newer one.
//!
//! It does not know what a follower does with it.
//!
//! Invariant: first the snapshot is there, then whoever it concerns is told. A follower that follows a name, and then
//! takes the latest snapshot, misses nothing of that name.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slab::Slab;
use tokio::sync::{Notify, watch};

use super::interest::Interest;
use crate::snapshot::{Name, ResourceType, Snapshot};

/// How many names are taken in before others have their turn.
const AT_ONCE: usize = 256;

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
    /// The first and the last generation that concern it and that it has not taken.
    due: Mutex<Option<(u64, u64)>>,
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
        concerned.iter().for_each(|bell| bell.note_due(generation));
        self.announced.store(generation, Ordering::Release);
        concerned.iter().chain(&in_turn).for_each(|bell| bell.rung.notify_one());
    }
}

impl Bell {
    fn due(&self) -> MutexGuard<'_, Option<(u64, u64)>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_due(&self, generation: u64) {
        let mut due = self.due();
        let first = due.map_or(generation, |(first, _)| first);
        *due = Some((first, generation));
    }

    /// What came while the follower took `generation` stays due.
    fn note_taken(&self, generation: u64) {
        let mut due = self.due();
        *due =
            due.filter(|(_, last)| *last > generation).map(|(first, last)| (first.max(generation + 1), last));
        self.taken.store(generation, Ordering::Release);
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
    /// How many names it has followed.
    names: AtomicUsize,
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
        Self { cell, bell, number, names: AtomicUsize::new(0) }
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
        self.bell.note_taken(snapshot.generation);
        snapshot
    }

    /// Waits until it may be concerned by something newer than what it took last; cancel safe. Sometimes it is not.
    pub async fn concerned(&self) {
        self.bell.rung.notified().await;
    }

    /// Follows these names from now on, or no longer; `*` is every name of its type. What changed before is not
    /// told: take the latest snapshot after this.
    pub fn follow(&self, turned: &[(ResourceType, Name, bool)]) {
        for some in turned.chunks(AT_ONCE) {
            let interest = &mut self.cell.followers().interest;
            for (kind, name, follows) in some {
                if *follows {
                    interest.follow(self.number, *kind, name);
                } else {
                    interest.unfollow(self.number, *kind, name);
                }
            }
        }
        let more = turned.iter().filter(|(_, _, follows)| *follows).count();
        self.names.fetch_add(more, Ordering::Relaxed);
    }

    /// The newest generation that is, to this follower, the same as the one it took last.
    pub fn same_until(&self) -> u64 {
        let announced = self.cell.announced.load(Ordering::Acquire);
        let same = self.bell.due().map_or(announced, |(first, _)| first - 1);
        same.max(self.bell.taken.load(Ordering::Acquire))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut followers = self.cell.followers();
        for free in followers.interest.leave(self.number, *self.names.get_mut()) {
            followers.bells.try_remove(free as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use futures_util::FutureExt;

    use super::*;
    use crate::snapshot::{Resource, Tables};

    /// A world of load assignments with these contents.
    fn publish(cell: &Cell, contents: &[(&str, &str)]) {
        let mut tables = Tables::default();
        for (name, content) in contents {
            let resource = Resource::encode(ResourceType::Endpoint, (*name).into(), &(*content).to_owned());
            tables.insert(Arc::new(resource));
        }
        let latest = Arc::clone(&cell.latest.borrow());
        let next = latest.next(tables, Vec::new(), SystemTime::UNIX_EPOCH);
        cell.publish(Arc::new(next.expect("something differs")));
    }

    fn told(follower: &Follower) -> bool {
        follower.concerned().now_or_never().is_some()
    }

    #[test]
    fn whoever_follows_is_told_and_is_as_far_as_what_concerns_it() {
        let first = Snapshot::first("prod".into(), Tables::default(), Vec::new(), SystemTime::UNIX_EPOCH);
        let cell = Arc::new(Cell::new(Arc::new(first)));
        let follower = Follower::new(Arc::clone(&cell), &"task".into());
        follower.follow(&[(ResourceType::Endpoint, "x".into(), true)]);
        assert_eq!(follower.take().generation, 1);

        publish(&cell, &[("y", "1")]); // 2
        assert!(!told(&follower));
        assert_eq!(follower.same_until(), 2, "what does not concern it is not behind");
        publish(&cell, &[("y", "1"), ("x", "1")]); // 3
        publish(&cell, &[("y", "2"), ("x", "1")]); // 4
        assert!(told(&follower));
        assert_eq!(follower.same_until(), 2);
        assert_eq!(follower.take().generation, 4);
        assert_eq!(follower.same_until(), 4);

        follower.follow(&[(ResourceType::Endpoint, "x".into(), false)]);
        publish(&cell, &[("y", "2")]); // 5
        assert!(!told(&follower));
    }

    #[test]
    fn what_comes_while_something_is_taken_stays_due() {
        let bell = Bell::default();
        bell.note_due(8);
        bell.note_due(9); // between the look at 8 and the note of it
        bell.note_taken(8);
        assert_eq!(*bell.due(), Some((9, 9)));
        bell.note_taken(9);
        assert_eq!(*bell.due(), None);
    }
}
