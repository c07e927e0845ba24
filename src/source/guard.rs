//! What a reading lacks without a word about it, held back until that is sure: an answer can be wrong and look complete.
//!
//! It is not about what a source tells: a task that is told to stop, and an instance that is told to be ill, go at once.
//! Nor about failures, of which a view never shrinks.
//!
//! Invariant: what is held back stays as it was until a second complete reading, or as many as are wanted, lacks it too,
//! which comes no sooner than readings usually do.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::HashSet;
use imbl::ordmap::DiffItem;

use crate::model::{
    Finding, InstanceId, Member, Namespace, Phase, Registration, ServiceKey, ServiceView, TaskState, View,
};

/// From when on a loss is too large to be believed at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// More than this share of a service's endpoints, in percent.
    pub service_percent: u32,
    /// More than this share of a namespace's, in percent.
    pub namespace_percent: u32,
    /// Fewer are believed whatever their share.
    pub at_least: u32,
    /// How many readings have to lack what is held back, until it is believed; 2 at least.
    pub confirmations: u32,
}

/// The losses of one source that are held back.
#[derive(Debug)]
pub(super) struct Guard {
    limits: Limits,
    held: BTreeMap<ServiceKey, Held>,
}

/// One service of which something is held back.
#[derive(Debug)]
struct Held {
    /// As it was.
    before: Arc<ServiceView>,
    lost: Vec<Registration>,
    /// How many readings that can confirm losses have lacked them.
    seen: u32,
}

impl Guard {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, held: BTreeMap::new() }
    }

    /// Puts back into `view`, a complete reading, what it lacks of `before` and is not believed to have gone.
    /// `after_failure` says that the attempt before it failed: then an empty answer proves nothing either. `confirms`
    /// says that enough time has passed since the reading before: else what is held stays held.
    pub(super) fn judge(&mut self, before: &View, view: &mut View, after_failure: bool, confirms: bool) {
        let mut losses = losses(before, view);
        let too_many = |namespace: &Namespace| {
            let of = |key: &ServiceKey| key.namespace == *namespace;
            let lost = losses.iter().filter(|(key, _)| of(key)).map(|(_, loss)| loss.lost.len()).sum();
            let services = before.services.iter().filter(|(key, _)| of(key));
            let all = services.map(|(_, service)| serving(service).count()).sum();
            self.exceeds(lost, all, self.limits.namespace_percent)
        };
        let namespaces: BTreeSet<Namespace> = losses.keys().map(|key| key.namespace.clone()).collect();
        let namespaces: BTreeSet<_> = namespaces.into_iter().filter(too_many).collect();
        losses.retain(|key, loss| {
            let left = view.services.get(key).is_some_and(|service| !service.registrations.is_empty());
            let all = serving(&loss.before).count();
            namespaces.contains(&key.namespace)
                || (after_failure && !left)
                || self.exceeds(loss.lost.len(), all, self.limits.service_percent)
        });
        let more = u32::from(confirms);
        losses.values_mut().for_each(|loss| loss.seen = more);
        let known = std::mem::replace(&mut self.held, losses);
        let needed = self.limits.confirmations;
        let is_open = |held: &Held| !confirms || held.seen.saturating_add(1) < needed;
        for (key, held) in known.into_iter().filter(|(_, held)| is_open(held)) {
            match self.held.entry(key) {
                Entry::Vacant(entry) => {
                    _ = entry.insert(Held { seen: held.seen.saturating_add(more), ..held })
                }
                Entry::Occupied(mut entry) => entry.get_mut().lost.extend(held.lost),
            }
        }
        self.restore(view);
    }

    fn exceeds(&self, lost: usize, all: usize, percent: u32) -> bool {
        lost >= self.limits.at_least as usize && lost * 100 > all * percent as usize
    }

    /// Whether anything is held back.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Holds back nothing from now on, and takes out of `view` what it had put there.
    pub(super) fn let_go(&mut self, view: &mut View) {
        for (key, held) in std::mem::take(&mut self.held) {
            if let Some(service) = view.services.get(&key) {
                let service = ServiceView::clone(service);
                view.services.insert(key.clone(), Arc::new(held.taken_out(service)));
            }
            let object = held.object(&key);
            view.findings.retain(|one| one.code != CODE || one.object != object);
        }
    }

    /// Puts back into `view` what is held back, unless something is told of it.
    pub(super) fn restore(&self, view: &mut View) {
        for (key, held) in &self.held {
            let now = view.services.get(key).map(|now| held.taken_out(ServiceView::clone(now)));
            let told = Told { view, service: now.as_ref() };
            let lost: Vec<_> = held.lost.iter().filter(|one| told.lacks(one)).cloned().collect();
            let empty = ServiceView { registrations: Vec::new(), ..ServiceView::clone(&held.before) };
            let mut service = now.unwrap_or(empty);
            let again: HashSet<&InstanceId> = lost.iter().map(|one| &one.instance).collect();
            service.registrations.retain(|one| !again.contains(&one.instance) || is_whole(one));
            let finding = (!lost.is_empty()).then(|| held.finding(key, lost.len()));
            service.registrations.extend(lost.into_iter().map(|one| Registration { held: true, ..one }));
            service.registrations.sort_by(|a, b| (&a.instance, a.port).cmp(&(&b.instance, b.port)));
            let object = held.object(key);
            view.findings.retain(|one| one.code != CODE || one.object != object);
            view.findings.extend(finding);
            view.services.insert(key.clone(), Arc::new(service));
        }
        view.findings.sort();
    }
}

const CODE: &str = "SRC003";

impl Held {
    fn object(&self, key: &ServiceKey) -> String {
        format!("{}, service {key}", self.before.spec.origin)
    }

    /// That so many are still missing.
    fn finding(&self, key: &ServiceKey, lost: usize) -> Finding {
        let all = serving(&self.before).count();
        let message = format!(
            "{lost} of {all} endpoints are missing from one answer, and nothing says that they stopped; they stay until \
             the next reading lacks them too, or `legation release` lets them go"
        );
        Finding { code: CODE, object: self.object(key), message }
    }

    /// The service without what was put back into it.
    fn taken_out(&self, mut service: ServiceView) -> ServiceView {
        let lost: HashSet<_> = self.lost.iter().map(|one| (&one.instance, one.port)).collect();
        service.registrations.retain(|one| !one.held || !lost.contains(&(&one.instance, one.port)));
        service
    }
}

/// Those that may get traffic, less those that were held back already: what two readings lack is gone.
fn serving(service: &ServiceView) -> impl Iterator<Item = &Registration> {
    let serves = |one: &&Registration| matches!(one.phase, Phase::Running(_)) && is_whole(one) && !one.held;
    service.registrations.iter().filter(serves)
}

/// What might get traffic before and of which nothing is told now, by service.
fn losses(before: &View, now: &View) -> BTreeMap<ServiceKey, Held> {
    let mut losses = BTreeMap::new();
    for change in before.services.diff(&now.services) {
        let (key, old, new) = match change {
            DiffItem::Add(..) => continue,
            DiffItem::Update { old: (key, old), new: (_, new) } => (key, old, Some(&**new)),
            DiffItem::Remove(key, old) => (key, old, None),
        };
        let told = Told { view: now, service: new };
        let lost: Vec<_> = serving(old).filter(|one| told.lacks(one)).cloned().collect();
        if !lost.is_empty() {
            losses.insert(key.clone(), Held { before: Arc::clone(old), lost, seen: 0 });
        }
    }
    losses
}

/// What a view tells of the instances of a service.
#[derive(Clone, Copy)]
struct Told<'a> {
    view: &'a View,
    service: Option<&'a ServiceView>,
}

impl Told<'_> {
    /// Whether nothing is told of an instance, or that it runs and no longer where.
    fn lacks(&self, one: &Registration) -> bool {
        let registered = self.service.map_or(&[][..], |service| &service.registrations);
        // They are ordered by instance.
        let first = registered.partition_point(|other| other.instance < one.instance);
        let mut own =
            registered[first..].iter().take_while(|other| other.instance == one.instance).peekable();
        if own.peek().is_some() {
            return own.all(|other| matches!(other.phase, Phase::Running(_)) && !is_whole(other));
        }
        if one.member == Member::Ecs {
            // A task without its service: is it still known to run?
            let Some(address) = one.address else { return false };
            let runs = |task: &TaskState| matches!(task.phase, Phase::Running(_));
            let mut there = self.view.tasks_at(address, one.port).map(|(_, task)| task);
            return there.any(|task| task.instance == one.instance && runs(task));
        }
        // One that was registered anew under another name is there.
        !registered.iter().any(|other| (other.address, other.port) == (one.address, one.port))
    }
}

/// Whether it is told where the instance is.
fn is_whole(one: &Registration) -> bool {
    one.address.is_some() && one.port.is_some()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::model::{Health, Place, Protocol, ServiceSpec, StopCause};

    fn guard() -> Guard {
        of(2)
    }

    fn of(confirmations: u32) -> Guard {
        Guard::new(Limits { service_percent: 50, namespace_percent: 30, at_least: 3, confirmations })
    }

    fn key(name: &str) -> ServiceKey {
        ServiceKey { namespace: Namespace::from("prod"), name: name.into() }
    }

    /// Services as `a=3`: so many endpoints, the first of which are those before too.
    fn view(services: &[(&str, usize)]) -> View {
        let mut view = View::default();
        for (name, count) in services {
            let spec = ServiceSpec {
                protocol: Protocol::Http,
                aliases: Vec::new(),
                ..ServiceSpec::new(key(name), "test")
            };
            let registration = |number: usize| Registration {
                instance: format!("{name}-{number:03}").as_str().into(),
                address: Some([10, 0, name.as_bytes()[0], u8::try_from(number).unwrap()].into()),
                port: Some(80),
                zone: None,
                version: None,
                phase: Phase::Running(Health::NoCheck),
                started_at: None,
                member: Member::CloudMap { cluster: None, service: None },
                foreign_tls: false,
                held: false,
            };
            let registrations = (0..*count).map(registration).collect();
            let service = ServiceView { spec: Arc::new(spec), active: true, registrations };
            view.services.insert(key(name), Arc::new(service));
        }
        view
    }

    fn shown(view: &View) -> String {
        let of = |(key, service): (&ServiceKey, &Arc<ServiceView>)| {
            let held = service.registrations.iter().filter(|one| one.held).count();
            format!("{}={}/{held}", key.name, service.registrations.len())
        };
        view.services.iter().map(of).collect::<Vec<_>>().join(" ")
    }

    /// Judges one reading after another; what readers see after each, with what is held after the `/`.
    fn judged(readings: &[&[(&str, usize)]], after_failure: bool) -> Vec<String> {
        let (mut guard, mut seen) = (guard(), view(readings[0]));
        let later = readings[1..].iter().map(|reading| {
            let mut now = view(reading);
            guard.judge(&seen, &mut now, after_failure, true);
            assert_eq!(now.findings.len(), guard.held.len());
            assert!(now.findings.iter().all(|finding| finding.code == "SRC003"), "{:?}", now.findings);
            seen = now;
            shown(&seen)
        });
        later.collect()
    }

    #[test]
    fn a_large_loss_is_held_once_and_then_believed() {
        let large: [&[_]; 5] = [
            &[("a", 8), ("b", 40)],
            &[("a", 3), ("b", 40)],
            &[("a", 3), ("b", 40)],
            &[("a", 2), ("b", 40)],
            &[("a", 0), ("b", 40)],
        ];
        let expected = ["a=8/5 b=40/0", "a=3/0 b=40/0", "a=2/0 b=40/0", "a=0/0 b=40/0"];
        assert_eq!(judged(&large, false), expected, "two of two are few");
        let back: [&[_]; 3] = [&[("a", 8), ("b", 40)], &[("b", 40)], &[("a", 8), ("b", 40)]];
        assert_eq!(judged(&back, false), ["a=8/8 b=40/0", "a=8/0 b=40/0"], "a service that vanished");
    }

    #[test]
    fn as_many_readings_as_are_wanted_confirm_a_loss() {
        for wanted in 2..6 {
            let (mut guard, mut seen) = (of(wanted), view(&[("a", 8)]));
            // Every other reading comes too early to confirm anything, the first too.
            for number in 1..=2 * wanted {
                let mut now = view(&[("a", 1)]);
                guard.judge(&seen, &mut now, false, number % 2 == 0);
                seen = now;
                assert_eq!(shown(&seen), if number < 2 * wanted { "a=8/7" } else { "a=1/0" });
            }
        }
    }

    #[test]
    fn what_is_newly_lost_is_judged_anew() {
        let readings: [&[_]; 4] = [&[("a", 30)], &[("a", 12)], &[("a", 2)], &[("a", 2)]];
        assert_eq!(judged(&readings, false), ["a=30/18", "a=12/10", "a=2/0"]);
        let readings: [&[_]; 3] = [&[("a", 30)], &[("a", 25)], &[("a", 10)]];
        assert_eq!(judged(&readings, false), ["a=25/0", "a=25/15"]);
    }

    #[test]
    fn many_small_losses_are_a_large_one() {
        let before: Vec<_> = ["a", "b", "c", "d"].map(|name| (name, 2)).into();
        let after: Vec<_> = ["a", "b", "c", "d"].map(|name| (name, 1)).into();
        assert_eq!(
            judged(&[&before, &after, &after], false),
            ["a=2/1 b=2/1 c=2/1 d=2/1", "a=1/0 b=1/0 c=1/0 d=1/0"]
        );
    }

    #[test]
    fn after_a_failure_nothing_is_no_answer() {
        let readings: [&[_]; 3] = [&[("a", 1), ("b", 9)], &[("b", 9)], &[("b", 9)]];
        assert_eq!(judged(&readings, false), ["b=9/0", "b=9/0"]);
        assert_eq!(judged(&readings, true), ["a=1/1 b=9/0", "b=9/0"]);
    }

    #[test]
    fn what_is_told_goes_at_once() {
        let before = view(&[("a", 8)]);
        let mut now = view(&[("a", 8)]);
        let mut service = ServiceView::clone(&now.services[&key("a")]);
        for one in &mut service.registrations {
            one.phase = Phase::Stopping(StopCause::Planned);
        }
        now.services.insert(key("a"), Arc::new(service));
        let told = now.clone();
        let mut guard = guard();
        guard.judge(&before, &mut now, true, true);
        assert_eq!(now, told);
        // And whoever was told to stop is not missed.
        let mut none = view(&[]);
        guard.judge(&told, &mut none, false, true);
        assert_eq!(shown(&none), "");
    }

    #[test]
    fn an_event_does_not_take_away_what_is_held() {
        let (before, mut now) = (view(&[("a", 8)]), view(&[]));
        let mut guard = guard();
        guard.judge(&before, &mut now, false, true);
        let mut amended = view(&[("a", 1)]);
        guard.restore(&mut amended);
        assert_eq!(shown(&amended), "a=8/7", "the event is believed");
        assert!(amended.findings[0].message.starts_with("7 of 8 endpoints"), "{:?}", amended.findings);
        let mut all = view(&[("a", 8)]);
        guard.restore(&mut all);
        assert_eq!((shown(&all).as_str(), all.findings.len()), ("a=8/0", 0), "nothing is missing any more");
        let mut again = amended.clone();
        guard.restore(&mut again);
        assert_eq!(again, amended, "once is enough");
        guard.let_go(&mut amended);
        assert_eq!(shown(&amended), "a=1/0");
        assert!(amended.findings.is_empty() && !guard.holds());
    }

    #[test]
    fn a_reading_that_comes_early_confirms_nothing() {
        let (before, mut seen) = (view(&[("a", 8)]), view(&[]));
        let mut guard = guard();
        guard.judge(&before, &mut seen, false, true);
        let mut early = view(&[]);
        guard.judge(&seen, &mut early, false, false);
        assert_eq!(shown(&early), "a=8/8");
        let mut later = view(&[]);
        guard.judge(&early, &mut later, false, true);
        assert_eq!(shown(&later), "");
    }

    #[test]
    fn what_an_early_reading_lacks_first_takes_two_more() {
        let (before, mut early) = (view(&[("a", 8)]), view(&[]));
        let mut guard = guard();
        guard.judge(&before, &mut early, false, false);
        let mut first = view(&[]);
        guard.judge(&early, &mut first, false, true);
        assert_eq!(shown(&first), "a=8/8", "the first that can confirm it confirms nothing");
        let mut second = view(&[]);
        guard.judge(&first, &mut second, false, true);
        assert_eq!(shown(&second), "");
    }

    /// The same services as ECS has them, with these of their tasks running.
    fn of_ecs(services: &[(&str, usize)], running: std::ops::Range<usize>) -> View {
        let mut view = view(services);
        let keys: Vec<_> = view.services.keys().cloned().collect();
        for key in keys {
            let mut service = ServiceView::clone(&view.services[&key]);
            service.registrations.iter_mut().for_each(|one| one.member = Member::Ecs);
            view.services.insert(key, Arc::new(service));
        }
        for number in running {
            let address: IpAddr = [10, 0, b'a', u8::try_from(number).unwrap()].into();
            let instance = format!("a-{number:03}").as_str().into();
            let phase = Phase::Running(Health::NoCheck);
            let task = TaskState { instance, service: None, phase, started_at: None };
            view.tasks.insert(Place::whole(address), task);
        }
        view
    }

    #[test]
    fn tasks_of_a_service_that_vanished_stay_while_they_are_known_to_run() {
        let before = of_ecs(&[("a", 8)], 0..8);
        let mut guard = guard();
        let mut deleted = of_ecs(&[], 0..0); // all of them have stopped, says ECS
        guard.judge(&before, &mut deleted, false, true);
        assert_eq!(shown(&deleted), "");
        let mut vanished = of_ecs(&[], 0..8);
        guard.judge(&before, &mut vanished, false, true);
        assert_eq!(shown(&vanished), "a=8/8");
        // An event tells that three have stopped: it knows nothing of the service, and shares what was put back.
        let mut amended = View { tasks: of_ecs(&[], 3..8).tasks, ..vanished.clone() };
        guard.restore(&mut amended);
        assert_eq!(shown(&amended), "a=5/5");
    }

    #[test]
    fn a_neighbour_on_the_same_machine_is_not_the_task_that_vanished() {
        let before = of_ecs(&[("a", 4)], 0..0);
        let machine: IpAddr = [10, 9, 0, 1].into();
        let on_one = |view: &View, running: &[usize]| {
            let mut view = view.clone();
            for key in view.services.keys().cloned().collect::<Vec<_>>() {
                let mut service = ServiceView::clone(&view.services[&key]);
                for (number, one) in service.registrations.iter_mut().enumerate() {
                    (one.address, one.port) = (Some(machine), u16::try_from(32_768 + number).ok());
                }
                view.services.insert(key, Arc::new(service));
            }
            for number in running {
                let (instance, phase) =
                    (format!("a-{number:03}").as_str().into(), Phase::Running(Health::NoCheck));
                let task = TaskState { instance, service: None, phase, started_at: None };
                view.tasks.insert(Place::shared(machine, u16::try_from(32_768 + number).unwrap()), task);
            }
            view
        };
        let before = on_one(&before, &[0, 1, 2, 3]);
        let mut guard = guard();
        let mut vanished = on_one(&of_ecs(&[], 0..0), &[1, 2, 3]); // of the first is told that it stopped
        guard.judge(&before, &mut vanished, false, true);
        assert_eq!(shown(&vanished), "a=3/3");
        let ports: Vec<_> = vanished.services[&key("a")].registrations.iter().map(|one| one.port).collect();
        assert_eq!(ports, [Some(32_769), Some(32_770), Some(32_771)]);
    }

    #[test]
    fn an_answer_without_addresses_is_not_believed_either() {
        let before = of_ecs(&[("a", 4)], 0..4);
        let mut guard = guard();
        let blank = || {
            let mut view = of_ecs(&[("a", 4)], 0..0);
            let mut service = ServiceView::clone(&view.services[&key("a")]);
            service.registrations.iter_mut().for_each(|one| one.address = None);
            view.services.insert(key("a"), Arc::new(service));
            view
        };
        let mut now = blank();
        guard.judge(&before, &mut now, false, true);
        assert_eq!(shown(&now), "a=4/4");
        assert!(now.services[&key("a")].registrations.iter().all(is_whole));
        let mut again = blank();
        guard.judge(&now, &mut again, false, true);
        assert_eq!(shown(&again), "a=4/0", "twice is believed");
    }
}
