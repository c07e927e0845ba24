//! Who is concerned by a change: the followers of one namespace by what they asked for.
//!
//! It is not a queue: it says who must look at the latest snapshot, not what there is to see.
//!
//! Invariant: whoever a change concerns is named. To be named for nothing costs a look, to be left out a stale
//! endpoint; so whoever has gone is named until it is tidied away.

use std::sync::Arc;

use foldhash::HashMap;
use roaring::RoaringBitmap;

use crate::snapshot::{Name, ResourceType, Snapshot};

/// The name that stands for every resource of a type, as in xDS.
const EVERYTHING: &str = "*";

/// Every follower looks at one generation of so many, whether it is concerned or not: no more than so many old snapshots
/// are kept alive, and what changed since is always remembered ([`crate::snapshot::REMEMBERED_CHANGES`]).
const STRIDE: u64 = 32;

/// So many may have gone, and a quarter of all, before they are tidied away; or as many as followed so many names.
const UNTIDY: u64 = 64;
const UNTIDY_NAMES: usize = 1 << 16;

/// The followers, each by a small number of its own.
#[derive(Debug, Default)]
pub(super) struct Interest {
    present: RoaringBitmap,
    gone: RoaringBitmap,
    /// How many names those who have gone followed.
    gone_names: usize,
    /// By type and name, those who asked for it.
    named: [HashMap<Name, RoaringBitmap>; ResourceType::ALL.len()],
    /// By task, the sidecars in it: its ports decide what they may see.
    tasks: HashMap<Arc<str>, RoaringBitmap>,
}

impl Interest {
    /// Enters a follower in `task`.
    pub(super) fn enter(&mut self, follower: u32, task: &Arc<str>) {
        self.present.insert(follower);
        self.tasks.entry(Arc::clone(task)).or_default().insert(follower);
    }

    /// From now on `follower` is concerned by changes of `name`; `*` is every name.
    pub(super) fn follow(&mut self, follower: u32, kind: ResourceType, name: &Name) {
        self.named[kind as usize].entry(Name::clone(name)).or_default().insert(follower);
    }

    /// And from now on no longer.
    pub(super) fn unfollow(&mut self, follower: u32, kind: ResourceType, name: &str) {
        let named = &mut self.named[kind as usize];
        let Some(followers) = named.get_mut(name) else { return };
        followers.remove(follower);
        if followers.is_empty() {
            named.remove(name);
        }
    }

    /// A follower of so many names has gone. Returns those whose numbers are free again: it is cheaper to take many out at once than to
    /// keep for each what it asked for.
    pub(super) fn leave(&mut self, follower: u32, names: usize) -> Vec<u32> {
        self.gone.insert(follower);
        self.gone_names += names;
        let few = self.gone.len() < UNTIDY.max(self.present.len() / 4) && self.gone_names < UNTIDY_NAMES;
        if few && self.gone.len() < self.present.len() {
            return Vec::new();
        }
        let gone = std::mem::take(&mut self.gone);
        self.gone_names = 0;
        self.present -= &gone;
        self.named.iter_mut().for_each(|named| tidy(named, &gone));
        tidy(&mut self.tasks, &gone);
        gone.into_iter().collect()
    }

    /// Those whom the newest change of `snapshot` concerns.
    pub(super) fn concerned(&self, snapshot: &Snapshot) -> RoaringBitmap {
        let Some(tasks) = snapshot.moved_tasks() else { return self.present.clone() };
        let mut concerned = RoaringBitmap::new();
        let mut add =
            |followers: Option<&RoaringBitmap>| followers.into_iter().for_each(|it| concerned |= it);
        for (kind, named) in ResourceType::ALL.into_iter().zip(&self.named) {
            let Some(names) = snapshot.changed_since(snapshot.generation - 1, kind) else {
                return self.present.clone();
            };
            let mut names = names.peekable();
            add(names.peek().and_then(|_| named.get(EVERYTHING)));
            names.for_each(|name| add(named.get(name)));
        }
        tasks.iter().for_each(|task| add(self.tasks.get(task.as_str())));
        concerned
    }

    /// Those whose turn it is to look at this generation in any case.
    pub(super) fn in_turn(&self, generation: u64) -> impl Iterator<Item = u32> {
        self.present.iter().filter(move |follower| u64::from(*follower) % STRIDE == generation % STRIDE)
    }
}

/// Takes those who have gone out of each entry.
fn tidy<K: Eq + std::hash::Hash>(entries: &mut HashMap<K, RoaringBitmap>, gone: &RoaringBitmap) {
    entries.retain(|_, followers| {
        *followers -= gone;
        !followers.is_empty()
    });
    entries.shrink_to_fit();
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::model::OccupiedPorts;
    use crate::snapshot::{REMEMBERED_CHANGES, Resource, Tables};

    fn snapshot(versions: &[(ResourceType, &str, &str)]) -> Tables {
        let mut tables = Tables::default();
        for (kind, name, content) in versions {
            tables.insert(Arc::new(Resource::encode(*kind, (*name).into(), &(*content).to_owned())));
        }
        tables
    }

    fn next(of: &Snapshot, versions: &[(ResourceType, &str, &str)]) -> Snapshot {
        of.next(snapshot(versions), Vec::new(), SystemTime::UNIX_EPOCH).unwrap()
    }

    fn numbers(followers: &RoaringBitmap) -> Vec<u32> {
        followers.iter().collect()
    }

    #[test]
    fn a_change_concerns_those_who_asked_for_it() {
        use ResourceType::{Cluster, Endpoint};
        let mut interest = Interest::default();
        for (follower, task) in (0..5).zip(["a", "b", "c", "d", "e"]) {
            interest.enter(follower, &task.into());
        }
        interest.follow(0, Endpoint, &"x".into());
        interest.follow(1, Endpoint, &"x".into());
        interest.follow(1, Endpoint, &"y".into());
        interest.follow(2, Cluster, &"*".into());
        interest.follow(3, Cluster, &"x".into());

        let first =
            Snapshot::first("prod".into(), snapshot(&[(Endpoint, "x", "1")]), vec![], SystemTime::UNIX_EPOCH);
        assert_eq!(numbers(&interest.concerned(&first)), [0, 1, 2, 3, 4], "whatever was before");
        let changed = next(&first, &[(Endpoint, "x", "2")]);
        assert_eq!(numbers(&interest.concerned(&changed)), [0, 1]);
        let removed = next(&changed, &[(Endpoint, "y", "1")]);
        assert_eq!(numbers(&interest.concerned(&removed)), [0, 1]);
        let cluster = next(&removed, &[(Endpoint, "y", "1"), (Cluster, "z", "1")]);
        assert_eq!(numbers(&interest.concerned(&cluster)), [2]);
        let ports = OccupiedPorts::unit("d".into(), Arc::from([8080]));
        let ports = cluster.next(cluster.tables().clone(), vec![ports], SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(numbers(&interest.concerned(&ports)), [3], "its own task's ports");

        interest.unfollow(1, Endpoint, "x");
        assert_eq!(numbers(&interest.concerned(&changed)), [0]);
    }

    #[test]
    fn everyone_looks_before_changes_are_forgotten() {
        let mut interest = Interest::default();
        (0..100).for_each(|follower| interest.enter(follower, &"task".into()));
        let mut turns: Vec<u32> =
            (7..7 + STRIDE).flat_map(|generation| interest.in_turn(generation)).collect();
        turns.sort_unstable();
        assert_eq!(turns, (0..100).collect::<Vec<_>>(), "each once");
        assert!(STRIDE < REMEMBERED_CHANGES as u64);
    }

    #[test]
    fn whoever_has_gone_leaves_nothing() {
        let mut interest = Interest::default();
        for follower in 0..1_000_u32 {
            interest.enter(follower, &format!("task/{follower}").into());
            interest.follow(follower, ResourceType::Endpoint, &format!("s{}", follower % 10).into());
        }
        let mut free: Vec<_> = (0..1_000).flat_map(|follower| interest.leave(follower, 1)).collect();
        free.sort_unstable();
        assert_eq!(free, (0..1_000).collect::<Vec<_>>());
        assert!(interest.present.is_empty() && interest.gone.is_empty() && interest.tasks.is_empty());
        assert!(interest.named.iter().all(HashMap::is_empty));

        (0..2).for_each(|follower| interest.enter(follower, &"task".into()));
        interest.follow(0, ResourceType::Endpoint, &"one of many".into());
        assert_eq!(
            interest.leave(0, UNTIDY_NAMES),
            [0],
            "whoever followed much is not kept though others stay"
        );
    }
}
