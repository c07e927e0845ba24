//! Ways in which the endpoint misbehaves, settable while it runs, and a count of every call.
//!
//! It decides what befalls a request; carrying it out is the endpoint's work. Invariant: a fault for one
//! operation outranks one for all.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::wire::Operation;
use crate::world::{State, World};

/// For how long it is remembered how the world was.
const REMEMBERED: Duration = Duration::from_secs(5);

/// One way to misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Connections are refused: the listener is closed and every connection cut. For one operation, its
    /// calls lose their connection instead of getting an answer.
    Outage,
    /// `ThrottlingException`, or Cloud Map's `RequestLimitExceeded`.
    Throttle,
    /// HTTP 500.
    ServerError,
    /// `AccessDeniedException`.
    AccessDenied,
    /// The request is read and never answered.
    Hang,
    /// HTTP 200 with a body that is not JSON.
    Garbage,
    /// The first page of a list is fine, every later one is throttled.
    HalfPages,
    /// An answer, but late.
    Delay(Duration),
    /// A clean answer in which every list is empty: the most treacherous of all.
    Empty,
    /// A clean answer from the moment the fault was set: the API is eventually consistent.
    Stale,
    /// Clean answers of now or of this long ago: as if of two copies one were behind.
    Behind(Duration),
    /// Of what is to be described, about half comes as `failures[]` with this reason, although it is there.
    Failures(&'static str),
    /// Each list comes in another order, and complete.
    Shuffled,
    /// Entries of lists move between pages while these are read: some come twice, and others not at all.
    Moving,
}

#[derive(Debug, Clone)]
struct Rule {
    fault: Fault,
    /// How many more calls it befalls.
    left: Option<u64>,
    /// For [`Fault::Stale`].
    frozen: Option<Arc<State>>,
}

#[derive(Debug, Default)]
struct Table {
    all: Option<Rule>,
    one: BTreeMap<Operation, Rule>,
    calls: BTreeMap<Operation, u64>,
    /// How long a page of a list may get; of one operation, if that was said.
    page: Option<usize>,
    page_of: BTreeMap<Operation, usize>,
    /// For [`Fault::Behind`], the world as it was lately, and from when on.
    past: VecDeque<(Instant, Arc<State>)>,
    dice: fastrand::Rng,
}

/// A handle on the faults of one endpoint; clones share them.
#[derive(Debug, Clone)]
pub struct Faults(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    world: World,
    table: Mutex<Table>,
    /// Whether the endpoint should listen, and whether it does.
    wanted: watch::Sender<bool>,
    listening: watch::Sender<bool>,
}

/// What befalls one request.
#[derive(Debug, Clone)]
pub(super) struct Fate {
    pub(super) fault: Option<Fault>,
    pub(super) frozen: Option<Arc<State>>,
    /// How long a page of a list may get.
    pub(super) page: Option<usize>,
    /// For whatever is left to chance.
    pub(super) seed: u64,
}

impl Table {
    fn is_behind(&self) -> bool {
        let mut rules = self.one.values().chain(&self.all);
        rules.any(|rule| matches!(rule.fault, Fault::Behind(_)))
    }

    /// Remembers how the world is from now on.
    fn remember(&mut self, now: Instant, world: &World) {
        self.past.push_back((now, Arc::new(world.snapshot())));
        let is_over = |(at, _): &(Instant, _)| now.saturating_duration_since(*at) > REMEMBERED;
        while self.past.get(1).is_some_and(is_over) {
            self.past.pop_front();
        }
    }

    /// The world as it is or as it was so long ago, as far as that is remembered.
    fn of_a_copy(&mut self, behind: Duration, now: Instant) -> Option<Arc<State>> {
        let age = if self.dice.bool() { behind } else { Duration::ZERO };
        let before = |(at, _): &&(Instant, _)| now.saturating_duration_since(*at) >= age;
        let then = self.past.iter().rev().find(before).or_else(|| self.past.front());
        then.map(|(_, state)| Arc::clone(state))
    }
}

impl Faults {
    pub(super) fn new(world: World) -> Self {
        let table = Mutex::new(Table { dice: fastrand::Rng::with_seed(7), ..Table::default() });
        let (wanted, listening) = (watch::Sender::new(true), watch::Sender::new(false));
        Self(Arc::new(Shared { world, table, wanted, listening }))
    }

    /// Befalls every operation, until cleared. An outage has begun when [`Faults::settled`] returns.
    pub fn set(&self, fault: Fault) {
        let rule = self.rule(fault, None);
        self.with(|table| table.all = Some(rule));
        self.0.wanted.send_replace(fault != Fault::Outage);
    }

    /// Befalls one operation, until cleared.
    pub fn set_for(&self, operation: Operation, fault: Fault) {
        let rule = self.rule(fault, None);
        self.with(|table| table.one.insert(operation, rule));
    }

    /// Befalls the next `times` calls of one operation.
    pub fn set_times(&self, operation: Operation, fault: Fault, times: u64) {
        let rule = self.rule(fault, Some(times));
        self.with(|table| table.one.insert(operation, rule));
    }

    /// Ends every fault. After an outage (or a stop), [`Faults::settled`] returns when it listens again.
    pub fn clear(&self) {
        self.with(|table| {
            table.all = None;
            table.one.clear();
        });
        self.0.wanted.send_replace(true);
    }

    /// Ends the fault of one operation.
    pub fn clear_for(&self, operation: Operation) {
        self.with(|table| table.one.remove(&operation));
    }

    /// Lets no page of a list have more entries than this, however many are asked for.
    pub fn limit_pages(&self, most: usize) {
        self.with(|table| table.page = Some(most));
    }

    /// The same for the list of one operation, whatever holds for others.
    pub fn limit_pages_of(&self, operation: Operation, most: usize) {
        self.with(|table| table.page_of.insert(operation, most));
    }

    /// Waits until the endpoint listens, or does not, as the faults want it.
    pub async fn settled(&self) {
        let (mut wanted, mut listening) = (self.0.wanted.subscribe(), self.0.listening.subscribe());
        // The senders live as long as this handle.
        while *wanted.borrow_and_update() != *listening.borrow_and_update() {
            let _ = tokio::select! {
                changed = wanted.changed() => changed,
                changed = listening.changed() => changed,
            };
        }
    }

    /// Calls of one operation so far, failed ones too.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.with(|table| table.calls.get(&operation).copied().unwrap_or_default())
    }

    /// Calls of every operation so far.
    pub fn all_calls(&self) -> BTreeMap<Operation, u64> {
        self.with(|table| table.calls.clone())
    }

    fn rule(&self, fault: Fault, left: Option<u64>) -> Rule {
        let frozen = (fault == Fault::Stale).then(|| Arc::new(self.0.world.snapshot()));
        if matches!(fault, Fault::Behind(_)) {
            self.with(|table| {
                table.past.clear();
                table.remember(Instant::now(), &self.0.world);
            });
        }
        Rule { fault, left, frozen }
    }

    fn with<R>(&self, act: impl FnOnce(&mut Table) -> R) -> R {
        act(&mut self.0.table.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts a call and decides on it.
    pub(super) fn befall(&self, operation: Operation) -> Fate {
        let now = Instant::now();
        self.with(|table| {
            *table.calls.entry(operation).or_default() += 1;
            let spent = table.one.get(&operation).is_some_and(|rule| rule.left == Some(0));
            if spent {
                table.one.remove(&operation);
            }
            let rule = match table.one.get_mut(&operation) {
                Some(rule) => {
                    rule.left = rule.left.map(|left| left - 1);
                    Some(&*rule)
                }
                None => table.all.as_ref(),
            };
            let fault = rule.map(|rule| rule.fault);
            let frozen = match fault {
                Some(Fault::Behind(behind)) => table.of_a_copy(behind, now),
                _ => rule.and_then(|rule| rule.frozen.clone()),
            };
            let page = table.page_of.get(&operation).copied().or(table.page);
            Fate { fault, frozen, page, seed: table.dice.u64(..) }
        })
    }

    /// Remembers how the world is after each change, while that matters.
    pub(super) async fn follow(self) {
        let mut changes = self.0.world.changes();
        while changes.changed().await.is_ok() {
            self.with(|table| {
                if table.is_behind() {
                    table.remember(Instant::now(), &self.0.world);
                }
            });
        }
    }

    /// Whether the endpoint should listen.
    pub(super) fn wanted(&self) -> watch::Receiver<bool> {
        self.0.wanted.subscribe()
    }

    /// Closes the endpoint, or opens it and ends an outage of everything.
    pub(super) fn want(&self, listening: bool) {
        if listening {
            self.with(|table| table.all = table.all.take().filter(|rule| rule.fault != Fault::Outage));
        }
        self.0.wanted.send_replace(listening);
    }

    pub(super) fn set_listening(&self, listening: bool) {
        self.0.listening.send_replace(listening);
    }
}
