//! Tests of what a task is worth, and of knowledge that only moves forward.
//!
//! It is not about services or names.
//!
//! Invariant: the first table has every row of the endpoint states that ECS alone decides.

use std::collections::HashSet;

use aws_sdk_ecs::types::builders::TaskBuilder;
use aws_sdk_ecs::types::{Container, ContainerDefinition, HealthStatus, TaskStopCode};

use super::{at, checked, revision, task};
use crate::model::{Health, InstanceId, Phase, StopCause};
use crate::source::ecs::facts::{self, Revision};
use crate::source::ecs::tasks::{Answer, Tasks};

/// A revision with an application, a proxy (both checked) and a logger that is not essential.
fn two_checked() -> Revision {
    let logger = ContainerDefinition::builder().name("logger").essential(false);
    let (app, envoy) =
        (ContainerDefinition::builder().name("app"), ContainerDefinition::builder().name("envoy"));
    revision("payments:7", vec![checked(app), checked(envoy), checked(logger)])
}

fn unchecked() -> Revision {
    let logger = ContainerDefinition::builder().name("logger").essential(false);
    let app = ContainerDefinition::builder().name("app").build();
    revision("payments:7", vec![app, checked(logger)])
}

fn container(name: &str, health: &str, status: &str) -> Container {
    Container::builder().name(name).health_status(HealthStatus::from(health)).last_status(status).build()
}

/// The phase of a task that started at 1,000, at `now`.
fn phase(task: TaskBuilder, revision: &Revision, now: u64) -> Phase {
    let mut tasks = Tasks::default();
    tell(&mut tasks, vec![task], &[], now);
    let known = tasks.iter().next().expect("one task");
    known.phase(Some(revision), at(now))
}

/// Merges an answer in which every described task was listed.
fn tell(tasks: &mut Tasks, described: Vec<TaskBuilder>, missing: &[&str], now: u64) {
    let described: Vec<_> =
        described.into_iter().map(|task| facts::task(&task.build()).expect("complete")).collect();
    let listed: HashSet<InstanceId> = described.iter().map(|task| task.arn.clone()).collect();
    let missing = missing.iter().map(|arn| InstanceId::from(*arn)).collect();
    tasks.merge(Answer { listed, tasks: described, missing }, at(now));
}

fn stopped(arn: &str) -> TaskBuilder {
    task(arn).desired_status("STOPPED").last_status("STOPPED").version(6)
}

fn shown(tasks: &Tasks, now: u64) -> Vec<(String, Phase)> {
    tasks.iter().map(|known| (known.facts.arn.to_string(), known.phase(None, at(now)))).collect()
}

#[test]
fn statuses_decide_before_health() {
    let revision = unchecked();
    let running = Phase::Running(Health::NoCheck);
    let stopping = Phase::Stopping;
    for (desired, last, code, expected) in [
        ("RUNNING", "PROVISIONING", None, Phase::Starting),
        ("RUNNING", "PENDING", None, Phase::Starting),
        ("RUNNING", "ACTIVATING", None, Phase::Starting),
        ("RUNNING", "SOMETHING_NEW", None, Phase::Starting),
        ("RUNNING", "RUNNING", None, running),
        ("STOPPED", "RUNNING", None, stopping(StopCause::Planned)),
        ("STOPPED", "RUNNING", Some("UserInitiated"), stopping(StopCause::Planned)),
        ("STOPPED", "RUNNING", Some("ServiceSchedulerInitiated"), stopping(StopCause::Planned)),
        ("STOPPED", "RUNNING", Some("SomethingNew"), stopping(StopCause::Planned)),
        ("STOPPED", "RUNNING", Some("SpotInterruption"), stopping(StopCause::Spot)),
        ("STOPPED", "RUNNING", Some("TerminationNotice"), stopping(StopCause::Spot)),
        ("STOPPED", "RUNNING", Some("EssentialContainerExited"), stopping(StopCause::Crashed)),
        ("STOPPED", "RUNNING", Some("TaskFailedToStart"), stopping(StopCause::Crashed)),
        ("STOPPED", "RUNNING", Some("InfrastructureHealth"), stopping(StopCause::Crashed)),
        ("RUNNING", "DEACTIVATING", None, stopping(StopCause::Planned)),
        ("RUNNING", "STOPPING", Some("SpotInterruption"), stopping(StopCause::Spot)),
        ("STOPPED", "DEACTIVATING", None, stopping(StopCause::Planned)),
        ("STOPPED", "STOPPING", None, stopping(StopCause::Planned)),
        ("STOPPED", "ACTIVATING", None, stopping(StopCause::Planned)),
        ("STOPPED", "PENDING", Some("UserInitiated"), Phase::Stopped),
    ] {
        let code = code.map(TaskStopCode::from);
        let task = task("t").desired_status(desired).last_status(last).set_stop_code(code);
        assert_eq!(phase(task, &revision, 1_001), expected, "{desired} {last}");
    }
}

#[test]
fn containers_that_are_gone_make_a_stopped_task() {
    for last in ["DEPROVISIONING", "STOPPED", "DELETED"] {
        let mut tasks = Tasks::default();
        tell(&mut tasks, vec![task("t")], &[], 1_001);
        tell(&mut tasks, vec![stopped("t").last_status(last)], &[], 1_002);
        assert_eq!(shown(&tasks, 1_002), [("t".into(), Phase::Stopped)], "{last}");
    }
}

#[test]
fn health_is_judged_over_essential_containers_with_a_check() {
    let (unknown, unhealthy) =
        (|gate_over| Health::Unknown { gate_over }, |gate_over| Health::Unhealthy { gate_over });
    for (app, envoy, logger, at_once, later) in [
        ("HEALTHY", "HEALTHY", "UNHEALTHY", Health::Healthy, Health::Healthy),
        ("HEALTHY", "UNKNOWN", "HEALTHY", unknown(false), unknown(true)),
        ("UNKNOWN", "UNKNOWN", "HEALTHY", unknown(false), unknown(true)),
        ("UNKNOWN", "UNHEALTHY", "HEALTHY", unhealthy(false), unhealthy(true)),
        ("HEALTHY", "UNHEALTHY", "HEALTHY", unhealthy(false), unhealthy(true)),
        ("SOMETHING_NEW", "HEALTHY", "HEALTHY", unknown(false), unknown(true)),
    ] {
        let task = || {
            let task = task("t").containers(container("app", app, "RUNNING"));
            task.containers(container("envoy", envoy, "RUNNING"))
                .containers(container("logger", logger, "RUNNING"))
        };
        let two = two_checked();
        assert_eq!(phase(task(), &two, 1_000 + 479), Phase::Running(at_once), "{app} {envoy} {logger}");
        assert_eq!(phase(task(), &two, 1_000 + 480), Phase::Running(later), "{app} {envoy} {logger}");
        assert_eq!(phase(task(), &unchecked(), 1_001), Phase::Running(Health::NoCheck));
    }
    // A container that should be checked and is not even reported has not spoken.
    let half = task("t").containers(container("app", "HEALTHY", "RUNNING"));
    assert_eq!(phase(half, &two_checked(), 1_001), Phase::Running(unknown(false)));
    // Without a start the gate counts from the creation; without either it stays closed.
    let created =
        task("t").set_started_at(None).created_at(aws_sdk_ecs::primitives::DateTime::from_secs(900));
    assert_eq!(phase(created, &two_checked(), 1_380), Phase::Running(unknown(true)));
    let timeless = task("t").set_started_at(None);
    assert_eq!(phase(timeless, &two_checked(), 999_999), Phase::Running(unknown(false)));
}

#[test]
fn an_essential_container_that_ended_is_a_crash() {
    let two = two_checked();
    let with = |name: &str| task("t").containers(container(name, "HEALTHY", "STOPPED"));
    let crashed = Phase::Stopping(StopCause::Crashed);
    assert_eq!(phase(with("app"), &two, 1_001), crashed, "seen before ECS decides anything");
    assert_eq!(phase(with("envoy").desired_status("STOPPED"), &two, 1_001), crashed);
    assert_eq!(phase(with("app").last_status("ACTIVATING"), &two, 1_001), crashed);
    assert_eq!(phase(with("logger"), &unchecked(), 1_001), Phase::Running(Health::NoCheck));
    assert_eq!(phase(with("stranger"), &unchecked(), 1_001), Phase::Running(Health::NoCheck));
    // In a stop that was asked for, the application is expected to end first.
    let planned = with("app").desired_status("STOPPED").stop_code(TaskStopCode::UserInitiated);
    let mut tasks = Tasks::default();
    tell(&mut tasks, vec![planned], &[], 1_001);
    let known = tasks.iter().next().expect("one task");
    let whole = known.phase(Some(&two), at(1_001));
    assert_eq!(whole, Phase::Stopping(StopCause::Planned));
    assert_eq!(known.phase_of_port(whole, "app"), Phase::Stopped);
    assert_eq!(known.phase_of_port(whole, "envoy"), whole);
    assert_eq!(known.phase_of_port(crashed, "app"), crashed);
    let running = Phase::Running(Health::NoCheck);
    assert_eq!(known.phase_of_port(running, "app"), crashed, "whatever else of the task goes on");
}

#[test]
fn older_versions_undo_nothing_and_equal_ones_bring_health() {
    let mut tasks = Tasks::default();
    tell(&mut tasks, vec![task("t").version(4).desired_status("STOPPED")], &[], 1_001);
    tell(&mut tasks, vec![task("t").version(3)], &[], 1_002);
    assert_eq!(shown(&tasks, 1_002), [("t".into(), Phase::Stopping(StopCause::Planned))]);
    tell(&mut tasks, vec![task("t").version(9)], &[], 1_003);
    let still = [("t".into(), Phase::Stopping(StopCause::Planned))];
    assert_eq!(shown(&tasks, 1_003), still, "an order to stop is never taken back");

    let health = |word: &str| task("t").containers(container("app", word, "RUNNING")).version(3);
    let mut tasks = Tasks::default();
    for (word, healthy) in [("UNKNOWN", None), ("HEALTHY", Some(true)), ("UNHEALTHY", Some(false))] {
        tell(&mut tasks, vec![health(word)], &[], 1_001);
        assert_eq!(tasks.iter().next().expect("one task").facts.containers[0].healthy, healthy);
    }
    tell(&mut tasks, vec![health("HEALTHY").version(2)], &[], 1_002);
    assert_eq!(tasks.iter().next().expect("one task").facts.containers[0].healthy, Some(false));
}

#[test]
fn an_answer_that_has_not_heard_of_health_yet_takes_none_away() {
    let health = |word: &str| task("t").containers(container("app", word, "RUNNING"));
    let mut tasks = Tasks::default();
    let told = |tasks: &Tasks| tasks.iter().next().expect("one task").facts.containers[0].healthy;
    tell(&mut tasks, vec![health("HEALTHY")], &[], 1_001);
    tell(&mut tasks, vec![health("UNKNOWN")], &[], 1_002); // of a copy of ECS that is behind
    assert_eq!(told(&tasks), Some(true));
    tell(&mut tasks, vec![health("UNHEALTHY")], &[], 1_003);
    tell(&mut tasks, vec![health("UNKNOWN")], &[], 1_004);
    assert_eq!(told(&tasks), Some(false));
    tell(&mut tasks, vec![health("UNKNOWN").version(4)], &[], 1_005);
    assert_eq!(told(&tasks), None, "something happened since");
}

#[test]
fn only_a_confirmed_end_drops_a_task() {
    let mut tasks = Tasks::default();
    tell(&mut tasks, vec![task("a"), task("b"), task("c")], &[], 1_001);
    let listed = |arns: &[&str]| arns.iter().map(|arn| InstanceId::from(*arn)).collect::<HashSet<_>>();
    let asked: Vec<_> = tasks.to_ask(&listed(&["a", "d"])).iter().map(ToString::to_string).collect();
    assert_eq!(asked, ["a", "b", "c", "d"], "what is no longer listed is asked about");
    // `a` is listed and missing: a contradiction. `b` is neither listed nor known. `c` is unlisted and runs.
    let c = facts::task(&task("c").build()).expect("complete");
    let answer = Answer { listed: listed(&["a"]), tasks: vec![c], missing: vec!["a".into(), "b".into()] };
    tasks.merge(answer.clone(), at(1_002));
    tasks.merge(answer, at(1_002)); // and once more: one answer may be late
    let running = Phase::Running(Health::NoCheck);
    let expected = [("a".into(), running), ("b".into(), Phase::Stopped), ("c".into(), running)];
    assert_eq!(shown(&tasks, 1_002), expected);
    // A task that was never known and is missing is nothing at all.
    tell(&mut tasks, vec![], &["z"], 1_003);
    assert_eq!(shown(&tasks, 1_003).len(), 3);
}

#[test]
fn a_gone_task_is_shown_for_a_minute_and_never_comes_back() {
    let mut tasks = Tasks::default();
    tell(&mut tasks, vec![task("t")], &[], 1_001);
    tell(&mut tasks, vec![stopped("t")], &[], 1_010);
    let listed = HashSet::from([InstanceId::from("t")]);
    assert_eq!(tasks.to_ask(&listed), [], "nobody asks about the dead");
    tell(&mut tasks, vec![task("t").version(7)], &[], 1_011);
    assert_eq!(shown(&tasks, 1_069), [("t".into(), Phase::Stopped)]);
    tell(&mut tasks, vec![], &[], 1_069);
    assert_eq!(shown(&tasks, 1_069), [("t".into(), Phase::Stopped)]);
    tell(&mut tasks, vec![], &[], 1_070);
    assert_eq!(shown(&tasks, 1_070), []);
    tell(&mut tasks, vec![task("t").version(99)], &[], 1_071);
    assert_eq!(shown(&tasks, 1_071), []);
    assert_eq!(tasks.to_ask(&listed), []);
    tell(&mut tasks, vec![], &[], 1_010 + 3_600);
    assert_eq!(tasks.to_ask(&listed).len(), 1, "after an hour ECS has forgotten it, and so may we");
    // A task that is seen for the first time after its end has nothing to tell.
    tell(&mut tasks, vec![stopped("late")], &[], 9_000);
    assert_eq!(shown(&tasks, 9_000), []);
    assert_eq!(tasks.to_ask(&HashSet::from([InstanceId::from("late")])), []);
}

#[test]
fn the_graveyard_is_bounded() {
    let mut tasks = Tasks::default();
    let dead = |range: std::ops::Range<u32>| range.map(|n| stopped(&format!("t{n}"))).collect::<Vec<_>>();
    tell(&mut tasks, dead(0..50_010), &[], 1_000);
    let ask = |n: u32| HashSet::from([InstanceId::from(format!("t{n}"))]);
    assert_eq!(tasks.to_ask(&ask(9)).len(), 1, "the oldest were let go");
    assert_eq!(tasks.to_ask(&ask(10)), []);
    assert_eq!(tasks.to_ask(&ask(50_009)), []);
}

#[test]
fn a_task_is_missed_twice_before_it_is_gone_and_comes_back_when_it_is_there_again() {
    let mut tasks = Tasks::default();
    let phase = |tasks: &Tasks, now| tasks.iter().next().map(|known| known.phase(None, at(now)));
    tell(&mut tasks, vec![task("t")], &[], 2_000);
    let running = phase(&tasks, 2_000);
    tasks.merge(Answer { missing: vec!["t".into()], ..Answer::default() }, at(2_001));
    assert_eq!(phase(&tasks, 2_001), running, "one late answer is no proof");
    tasks.merge(Answer { missing: vec!["t".into()], ..Answer::default() }, at(2_002));
    assert_eq!(phase(&tasks, 2_002), Some(Phase::Stopped));
    assert_eq!(tasks.to_ask(&["t".into()].into()), ["t".into()]);
    tell(&mut tasks, vec![task("t")], &[], 2_003);
    assert_eq!(phase(&tasks, 2_003), running);
}
