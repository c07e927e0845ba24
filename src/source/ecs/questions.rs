//! Which tasks ECS is asked about between two readings, and when.
//!
//! It asks nobody, and believes nothing: what is answered is taken in like any other answer.
//!
//! Invariant: every question ends, at the latest when its task is known to have gone; and no more is due at a time than
//! one call can ask.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::InstanceId;

/// How many tasks one call can ask about.
const AT_ONCE: usize = 100;
/// Of those, as many for departed tasks while others wait, and as many for them and for doubtful ones together.
const FOR_DEPARTED: usize = 60;
const NOT_FOR_YOUNG: usize = 80;
/// Between two looks at young tasks whose health is not known: events do not tell it.
const LOOK: Duration = Duration::from_secs(2);
/// The same while a deployment goes on: ECS stops old tasks as soon as new ones are healthy.
const HURRIED_LOOK: Duration = Duration::from_millis(200);
/// When a task whose sidecar has gone is asked about, after it went: of a crash ECS may learn ten seconds late.
const AFTER_DEPARTURE: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(6),
    Duration::from_secs(10),
];

/// The open questions.
#[derive(Debug, Default)]
pub(super) struct Questions {
    /// Tasks that only an event knows which is older than the last reading: ECS is asked before they are believed.
    unsure: BTreeSet<InstanceId>,
    /// Tasks that run and whose health is not known yet.
    young: BTreeSet<InstanceId>,
    /// Which of the young was asked about last: all have their turn.
    last: Option<InstanceId>,
    /// When the last look at these was.
    looked: Option<Instant>,
    /// Whether the next is to come soon.
    hurried: bool,
    /// Tasks whose sidecar has gone.
    departed: BTreeMap<InstanceId, Departure>,
    /// After a call that failed, nothing is asked before.
    pause: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Departure {
    since: Instant,
    /// How often the task was asked about since.
    asked: usize,
}

impl Departure {
    fn due(self) -> Instant {
        self.since + AFTER_DEPARTURE[self.asked.min(AFTER_DEPARTURE.len() - 1)]
    }
}

impl Questions {
    /// Asks once about a task.
    pub(super) fn doubt(&mut self, task: InstanceId) {
        self.unsure.insert(task);
    }

    /// Asks for the health of a task again and again, or no longer.
    pub(super) fn watch(&mut self, task: &InstanceId, is_young: bool) {
        if is_young {
            self.young.insert(task.clone());
        } else {
            self.young.remove(task);
        }
    }

    /// The only tasks whose health is asked for from now on.
    pub(super) fn watch_only(&mut self, young: BTreeSet<InstanceId>) {
        self.young = young;
    }

    /// Asks for the health of young tasks soon, because others have been told to stop: perhaps they are taking their place.
    pub(super) fn hurry(&mut self) {
        self.hurried |= !self.young.is_empty();
    }

    /// When the next look is due; at once, if there never was one.
    fn look_at(&self) -> Option<Instant> {
        self.looked.map(|looked| looked + if self.hurried { HURRIED_LOOK } else { LOOK })
    }

    /// Asks about a task at once, because its sidecar has gone, and some times more.
    pub(super) fn miss(&mut self, task: InstanceId, now: Instant) {
        // Whoever comes and goes all the time is asked about once a second.
        let soon = AFTER_DEPARTURE[1];
        if self.departed.get(&task).is_none_or(|known| known.since + soon <= now) {
            self.departed.insert(task, Departure { since: now, asked: 0 });
        }
    }

    /// Its sidecar is back, or the task is known to have gone.
    pub(super) fn stop_missing(&mut self, task: &InstanceId) {
        self.departed.remove(task);
    }

    /// When the next question is due.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let look = self.look_at().unwrap_or_else(Instant::now);
        let look = (!self.young.is_empty() || !self.unsure.is_empty()).then_some(look);
        let departed = self.departed.values().map(|departure| departure.due());
        let next = look.into_iter().chain(departed).min()?;
        Some(self.pause.map_or(next, |pause| next.max(pause)))
    }

    /// Asks about these again, because the call about them failed.
    pub(super) fn put_back(&mut self, tasks: Vec<InstanceId>, now: Instant) {
        self.pause = Some(now + LOOK);
        for task in tasks {
            if let Some(departure) = self.departed.get_mut(&task) {
                departure.asked = departure.asked.saturating_sub(1);
            } else if !self.young.contains(&task) {
                self.unsure.insert(task);
            }
        }
    }

    /// The tasks to ask about now.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<InstanceId> {
        self.pause = None;
        let looks = self.look_at().is_none_or(|at| at <= now);
        let others = looks && !(self.young.is_empty() && self.unsure.is_empty());
        let mut due: Vec<_> = self.departed.iter().map(|(task, departure)| (departure.due(), task)).collect();
        due.retain(|(at, _)| *at <= now);
        due.sort();
        due.truncate(if others { FOR_DEPARTED } else { AT_ONCE });
        let mut tasks: Vec<_> = due.into_iter().map(|(_, task)| task.clone()).collect();
        for task in &tasks {
            if let Some(departure) = self.departed.get_mut(task) {
                departure.asked += 1;
            }
        }
        self.departed.retain(|_, departure| departure.asked < AFTER_DEPARTURE.len());
        if looks {
            (self.looked, self.hurried) = (Some(now), false);
            let room = NOT_FOR_YOUNG - tasks.len().min(NOT_FOR_YOUNG);
            let unsure: Vec<_> = self.unsure.iter().take(room).cloned().collect();
            self.unsure.retain(|task| !unsure.contains(task));
            tasks.extend(unsure.into_iter().filter(|task| !tasks.contains(task)).collect::<Vec<_>>());
            self.take_young(&mut tasks);
        }
        tasks
    }

    /// The young that come after the one that was asked about last, as far as there is room; then from the beginning.
    fn take_young(&mut self, tasks: &mut Vec<InstanceId>) {
        let last = self.last.take();
        let after = |task: &&InstanceId| last.as_ref().is_none_or(|last| *task > last);
        let (later, earlier): (Vec<_>, Vec<_>) = self.young.iter().partition(after);
        let room = AT_ONCE - tasks.len();
        let next: Vec<_> = later.into_iter().chain(earlier).take(room).cloned().collect();
        self.last = next.last().cloned();
        let next: Vec<_> = next.into_iter().filter(|task| !tasks.contains(task)).collect();
        tasks.extend(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks(range: std::ops::Range<usize>) -> Vec<InstanceId> {
        range.map(|number| format!("task/{number:04}").as_str().into()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_lost_its_sidecar_is_asked_about_at_once_and_some_times_more() {
        let (mut questions, began) = (Questions::default(), Instant::now());
        questions.miss("a".into(), began);
        questions.miss("b".into(), began);
        let mut asked = Vec::new();
        while let Some(at) = questions.next_at() {
            for task in questions.take_due(at) {
                asked.push(((at - began).as_secs(), task.as_str().to_owned()));
            }
            if at == began + Duration::from_secs(1) {
                questions.stop_missing(&"b".into()); // it is back
            }
        }
        let asked: Vec<_> = asked.iter().map(|(at, task)| (*at, task.as_str())).collect();
        assert_eq!(asked, [(0, "a"), (0, "b"), (1, "a"), (1, "b"), (3, "a"), (6, "a"), (10, "a")]);
    }

    #[tokio::test(start_paused = true)]
    async fn many_are_asked_about_in_turn_and_the_most_urgent_first() {
        let (mut questions, now) = (Questions::default(), Instant::now());
        questions.watch_only(tasks(0..150).into_iter().collect());
        tasks(200..260).into_iter().for_each(|task| questions.miss(task, now));
        questions.doubt("unsure".into());
        let first = questions.take_due(now);
        assert_eq!(first.len(), AT_ONCE);
        assert_eq!(first[..60], tasks(200..260)[..], "{first:?}");
        assert_eq!(first[60].as_str(), "unsure");
        assert_eq!(first[61..], tasks(0..39)[..]);
        assert_eq!(questions.next_at(), Some(now + Duration::from_secs(1)), "the departed again");
        tasks(200..260).iter().for_each(|task| questions.stop_missing(task));
        let later = questions.next_at().expect("young ones");
        assert_eq!(later, now + LOOK);
        assert_eq!(questions.take_due(later), tasks(39..139));
        let next = questions.take_due(later + LOOK);
        assert_eq!(next[..11], tasks(139..150)[..]);
        questions.watch_only(BTreeSet::new());
        assert_eq!(questions.next_at(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn while_others_stop_the_young_are_looked_at_sooner() {
        let (mut questions, now) = (Questions::default(), Instant::now());
        questions.hurry(); // for nobody
        questions.watch(&"a".into(), true);
        assert_eq!(questions.take_due(now).len(), 1);
        assert_eq!(questions.next_at(), Some(now + LOOK));
        questions.hurry();
        assert_eq!(questions.next_at(), Some(now + HURRIED_LOOK));
        assert_eq!(questions.take_due(now + HURRIED_LOOK).len(), 1);
        assert_eq!(questions.next_at(), Some(now + HURRIED_LOOK + LOOK), "once");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_answered_is_asked_again_and_not_at_once() {
        let (mut questions, now) = (Questions::default(), Instant::now());
        questions.miss("a".into(), now);
        questions.doubt("b".into());
        let asked = questions.take_due(now);
        assert_eq!(asked.len(), 2);
        questions.put_back(asked, now);
        assert_eq!(questions.next_at(), Some(now + LOOK));
        assert_eq!(questions.take_due(now + LOOK).len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_longest_is_asked_about_first_however_many_there_are() {
        let (mut questions, now) = (Questions::default(), Instant::now());
        tasks(0..150).into_iter().for_each(|task| questions.miss(task, now));
        questions.take_due(now);
        let later = now + Duration::from_secs(2); // the first hundred are due again
        assert_eq!(questions.take_due(later)[..50], tasks(100..150)[..]);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_comes_and_goes_is_asked_about_once_a_second() {
        let (mut questions, now) = (Questions::default(), Instant::now());
        questions.miss("a".into(), now);
        assert_eq!(questions.take_due(now).len(), 1);
        questions.miss("a".into(), now + Duration::from_millis(10));
        assert_eq!(questions.next_at(), Some(now + Duration::from_secs(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_at_once_are_asked_about_a_hundred_at_a_time() {
        let (mut questions, now) = (Questions::default(), Instant::now());
        tasks(0..1_000).into_iter().for_each(|task| questions.miss(task, now));
        for call in 0..10 {
            assert_eq!(questions.next_at(), Some(now), "call {call}");
            assert_eq!(questions.take_due(now).len(), AT_ONCE);
        }
        assert_eq!(questions.next_at(), Some(now + Duration::from_secs(1)));
    }
}
