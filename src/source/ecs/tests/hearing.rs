//! Tests of events: what they change at once, what they can't tell, and that no order of them misleads.
//!
//! It is not about the queue. Invariant: an event is the JSON that ECS sends.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::reading::payments;
use super::world::{ARN, Cluster, refusal, task_arn};
use super::{at, rule};
use crate::model::{Health, InstanceId, Phase, Place, StopCause, View};
use crate::source::ecs::facts::Status;
use crate::source::ecs::tasks::{Answer, Tasks};
use crate::source::ecs::view::Drawn;
use crate::source::ecs::{Discover, Letter, Outbox, TaskEvent, mailbox};
use crate::source::{Cell, Pace, cell};

pub(super) const RUNNING: Phase = Phase::Running(Health::NoCheck);

pub(super) fn event(changes: Value) -> TaskEvent {
    let mut detail = json!({
        "taskArn": task_arn("a"), "clusterArn": format!("{ARN}cluster/prod-a"), "version": 4,
        "taskDefinitionArn": format!("{ARN}task-definition/payments:1"), "group": "service:payments",
        "startedBy": "ecs-svc/payments", "desiredStatus": "RUNNING", "lastStatus": "RUNNING",
        "updatedAt": jiff::Timestamp::now().to_string(), "createdAt": "1970-01-01T00:16:30Z", "startedAt": "1970-01-01T00:16:40Z", "availabilityZone": "eu-west-1a",
        "containers": [{"name": "app", "lastStatus": "RUNNING",
            "networkInterfaces": [{"privateIpv4Address": "10.0.0.1"}]}],
    });
    for (key, value) in changes.as_object().expect("changes") {
        detail[key] = value.clone();
    }
    serde_json::from_value(detail).expect("an event")
}

fn own(host: u8) -> Place {
    Place::whole([10, 0, 0, host].into())
}

fn stop() -> TaskEvent {
    event(json!({"desiredStatus": "STOPPED", "stopCode": "UserInitiated"}))
}

/// A third task, at an address of its own.
pub(super) fn newcomer(changes: Value) -> TaskEvent {
    let interface = json!([{"privateIpv4Address": "10.0.0.3"}]);
    let containers = json!([{"name": "app", "lastStatus": "RUNNING", "networkInterfaces": interface}]);
    let mut all = json!({"taskArn": task_arn("c"), "version": 3, "containers": containers});
    for (key, value) in changes.as_object().expect("changes") {
        all[key] = value.clone();
    }
    event(all)
}

/// A source at work, which has read the cluster once and will not do so again.
pub(super) struct Running {
    outbox: Outbox,
    pub(super) cell: Cell,
    token: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

impl Running {
    pub(super) async fn start(cluster: &Cluster) -> Self {
        let (outbox, inbox) = mailbox();
        let source = cluster.source_hearing(vec![rule("prod", Discover::Labelled)], inbox);
        let (writer, mut cell) = cell("ecs/prod-a");
        let token = CancellationToken::new();
        let pace = Pace { interval: Duration::from_secs(3600), max_backoff: Duration::from_secs(1) };
        tokio::spawn(source.run(writer, pace, token.clone()));
        while cell.reading().view.is_none() {
            assert!(cell.changed().await, "it ended");
        }
        Self { outbox, cell, token }
    }

    pub(super) async fn tell(&self, event: TaskEvent) {
        assert!(self.outbox.send(vec![event], false).await, "nobody took it in");
    }

    pub(super) fn view(&self) -> std::sync::Arc<View> {
        self.cell.reading().view.expect("it has spoken")
    }

    /// Waits until payments is like that.
    pub(super) async fn until(&mut self, wanted: impl Fn(&[(String, String, Phase)]) -> bool) {
        let come = async {
            while !wanted(&payments(&self.view())) {
                assert!(self.cell.changed().await, "it ended");
            }
        };
        let come = tokio::time::timeout(Duration::from_secs(20), come).await;
        assert!(come.is_ok(), "{:?}", payments(&self.cell.reading().view.expect("a view")));
    }
}

#[tokio::test]
async fn a_stop_is_in_the_view_when_it_was_taken_in_and_costs_no_call() {
    let cluster = Cluster::payments();
    let running = Running::start(&cluster).await;
    let (calls, reading) = (cluster.script.calls().len(), running.cell.reading());
    running.tell(stop()).await;
    let view = running.view();
    assert_eq!(payments(&view)[0].2, Phase::Stopping(StopCause::Planned));
    assert_eq!(payments(&view)[1].2, RUNNING);
    assert_eq!(view.tasks[&own(1)].phase, Phase::Stopping(StopCause::Planned));
    let after = running.cell.reading();
    assert_eq!((after.as_of, after.readings), (reading.as_of, reading.readings), "no reading");
    running.tell(event(json!({"version": 3}))).await; // late
    assert_eq!(running.view(), view);
    running.tell(event(json!({"version": 6, "desiredStatus": "STOPPED", "lastStatus": "STOPPED"}))).await;
    let view = running.view();
    assert_eq!(payments(&view)[0].2, Phase::Stopped);
    assert!(!view.occupied.contains_key(&InstanceId::from(task_arn("a").as_str())));
    assert!(!view.tasks.contains_key(&own(1)));
    running.tell(event(json!({"version": 7}))).await; // from the dead
    assert_eq!(running.view(), view);
    assert_eq!(cluster.script.calls().len(), calls);
}

#[tokio::test]
async fn a_new_task_of_a_known_definition_is_there_without_a_call() {
    let cluster = Cluster::payments();
    let running = Running::start(&cluster).await;
    let calls = cluster.script.calls().len();
    running.tell(newcomer(json!({"lastStatus": "PENDING", "containers": [], "version": 2}))).await;
    assert_eq!(payments(&running.view())[2].2, Phase::Starting);
    running.tell(newcomer(json!({}))).await;
    assert_eq!(payments(&running.view())[2], ("c".into(), "10.0.0.3:8080".into(), RUNNING));
    assert_eq!(cluster.script.calls().len(), calls);
    // At the address of one that stops: the younger is believed.
    let at_a = json!([{"name": "app", "networkInterfaces": [{"privateIpv4Address": "10.0.0.1"}]}]);
    let younger = json!({"containers": at_a, "version": 4, "startedAt": "1970-01-01T00:20:00Z"});
    running.tell(newcomer(younger)).await;
    let view = running.view();
    assert_eq!(view.tasks[&own(1)].instance.as_str(), task_arn("c"));
    assert!(!view.tasks.contains_key(&own(3)));
}

#[tokio::test]
async fn an_unknown_definition_is_read_once() {
    let cluster = Cluster::payments();
    let mut running = Running::start(&cluster).await;
    cluster.world().definition("payments:2", 9090);
    let of_two = json!({"taskDefinitionArn": format!("{ARN}task-definition/payments:2")});
    running.tell(newcomer(of_two.clone())).await;
    running.until(|payments| payments.len() == 3 && payments[2].1 == "10.0.0.3:9090").await;
    running.tell(newcomer(json!({"version": 4, "taskDefinitionArn": of_two["taskDefinitionArn"]}))).await;
    assert_eq!(cluster.count("DescribeTaskDefinition"), 2);
    assert_eq!(cluster.count("DescribeTasks"), 1);
}

#[tokio::test]
async fn health_is_asked_for_and_no_event_takes_it_away() {
    let cluster = Cluster::payments();
    let healthy = json!([{"name": "app", "lastStatus": "RUNNING", "healthStatus": "HEALTHY",
        "networkInterfaces": [{"privateIpv4Address": "10.0.0.1"}]}]);
    {
        let mut world = cluster.world();
        let definition = world.definitions.values_mut().next().expect("a definition");
        definition["containerDefinitions"][0]["healthCheck"] = json!({"command": ["CMD", "true"]});
        world.set("a", "containers", healthy.clone());
        let now = jiff::Timestamp::now().as_second();
        world.task("c", "payments", 3);
        world.set("c", "startedAt", json!(now));
        world.set("c", "containers", healthy);
    }
    let mut running = Running::start(&cluster).await;
    running.tell(event(json!({}))).await;
    assert_eq!(payments(&running.view())[0].2, Phase::Running(Health::Healthy), "as before the event");
    // One that nobody has described yet.
    let now = jiff::Timestamp::now().to_string();
    running.tell(event(json!({"taskArn": task_arn("d"), "version": 3, "startedAt": now}))).await;
    assert_eq!(payments(&running.view())[3].2, Phase::Running(Health::Unknown { gate_over: false }));
    {
        let mut world = cluster.world();
        let mut c = world.tasks["c"].clone();
        c["taskArn"] = json!(task_arn("d"));
        world.tasks.insert("d".into(), c);
    }
    running.until(|payments| payments[3].2 == Phase::Running(Health::Healthy)).await;
    assert_eq!(cluster.count("ListTasks"), 1, "it was no reading");
}

#[tokio::test]
async fn nothing_is_published_before_the_first_reading_however_much_is_heard() {
    let cluster = Cluster::payments();
    cluster.world().faults = vec![("ListServices", refusal("AccessDeniedException")); 100];
    let (outbox, inbox) = mailbox();
    let source = cluster.source_hearing(vec![rule("prod", Discover::Labelled)], inbox);
    let (writer, mut cell) = cell("ecs/prod-a");
    let token = CancellationToken::new();
    let pace = Pace { interval: Duration::from_secs(3600), max_backoff: Duration::from_millis(50) };
    tokio::spawn(source.run(writer, pace, token.clone()));
    for version in 4..9 {
        assert!(outbox.send(vec![event(json!({"version": version}))], false).await, "nobody took it in");
        assert!(cell.changed().await, "it ended");
        assert_eq!(cell.reading().view, None);
    }
    token.cancel();
}

#[tokio::test]
async fn who_is_only_known_by_an_old_event_is_asked_about_before_it_is_believed() {
    let cluster = Cluster::payments();
    let mut running = Running::start(&cluster).await;
    let before = running.view();
    let old = json!({"updatedAt": "2020-01-01T00:00:00Z"});
    running.tell(newcomer(old.clone())).await; // of whom ECS knows nothing any more
    while cluster.count("DescribeTasks") < 2 {
        tokio::time::sleep(Duration::from_millis(20)).await; // for the call, which nothing else tells of
    }
    running.tell(stop()).await; // after the answer
    assert_eq!(payments(&running.view()).len(), 2);
    cluster.world().task("c", "payments", 3);
    running.tell(newcomer(old)).await;
    assert_eq!(payments(&running.view()).len(), 2);
    running.until(|payments| payments.len() == 3 && payments[2].2 == RUNNING).await;
    assert_eq!(before.clusters, running.view().clusters);
}

#[tokio::test]
async fn a_task_of_a_service_that_is_not_known_asks_for_another_reading() {
    let cluster = Cluster::payments();
    let mut running = Running::start(&cluster).await;
    let now = jiff::Timestamp::now().to_string();
    running.tell(newcomer(json!({"createdAt": now}))).await;
    running.tell(newcomer(json!({"version": 4, "group": "service:gone", "desiredStatus": "STOPPED"}))).await;
    assert_eq!(cluster.count("ListTasks"), 1, "a known service, or one that goes, is no reason");
    running
        .tell(newcomer(json!({"taskArn": task_arn("d"), "group": "service:ledger", "createdAt": now})))
        .await;
    let early = async {
        while cluster.count("ListTasks") == 1 {
            assert!(running.cell.changed().await, "it ended");
        }
    };
    tokio::time::timeout(Duration::from_secs(20), early).await.expect("an early reading");
}

#[tokio::test]
async fn a_task_of_another_region_is_nobody_here() {
    let cluster = Cluster::payments();
    let running = Running::start(&cluster).await;
    let elsewhere = ARN.replace("eu-west-1", "us-east-1");
    let (cluster_arn, arn) = (format!("{elsewhere}cluster/prod-a"), format!("{elsewhere}task/prod-a/x"));
    let before = running.view();
    running.tell(newcomer(json!({"clusterArn": cluster_arn, "taskArn": arn}))).await;
    assert_eq!(running.view(), before);
}

#[test]
fn an_event_that_is_no_news_revives_nobody() {
    let facts = |version: i64| event(json!({"version": version})).facts().expect("complete");
    let mut tasks = Tasks::default();
    tasks.learn(vec![facts(3)], at(2_000));
    for _ in 0..2 {
        let missing = vec![facts(3).arn];
        tasks.merge(Answer { listed: HashSet::new(), tasks: vec![], missing }, at(2_000));
    }
    let phase = |tasks: &Tasks| tasks.iter().next().expect("shown").phase(None, at(2_001));
    assert_eq!(phase(&tasks), Phase::Stopped);
    tasks.hear(facts(3), at(2_001)); // delivered once more
    assert_eq!(phase(&tasks), Phase::Stopped);
    tasks.hear(facts(4), at(2_001));
    assert_eq!(phase(&tasks), RUNNING, "ECS speaks of it again");
}

/// What is drawn after an event is what a reading of the same would draw.
#[tokio::test]
async fn to_draw_what_changed_is_to_draw_everything() {
    let cluster = Cluster::payments();
    cluster.world().service("ledger", 100);
    let mut source = cluster.source(vec![rule("prod", Discover::Labelled)]);
    source.sweep(None).await.expect("a view");
    let (writer, _cell) = cell("ecs/prod-a");
    writer.publish(source.drawn.view.clone(), std::time::Instant::now());
    let mut dice = fastrand::Rng::with_seed(11);
    for step in 0..2_000 {
        let (task, host) = (dice.u8(0..6), dice.u8(1..4));
        let service = ["payments", "ledger", "stranger"][usize::from(task % 3)];
        let (last, desired) =
            [("PENDING", "RUNNING"), ("RUNNING", "RUNNING"), ("RUNNING", "STOPPED")][dice.usize(0..3)];
        let last = if dice.u8(0..40) == 0 { "STOPPED" } else { last };
        let interface = json!([{"privateIpv4Address": format!("10.0.0.{host}")}]);
        let started = format!("1970-01-01T00:{:02}:00Z", dice.u8(0..60));
        let told = event(json!({
            "taskArn": task_arn(&format!("{}-{task}", step / 200)), "version": dice.i64(1..9), "lastStatus": last,
            "desiredStatus": desired, "group": format!("service:{service}"), "startedAt": started,
            "taskDefinitionArn": format!("{ARN}task-definition/{service}:1"),
            "containers": [{"name": "app", "lastStatus": last, "networkInterfaces": interface}],
        }));
        source.hear(Some(&writer), vec![Letter::of(vec![told])]);
        let whole = source.knowledge(SystemTime::now()).draw(&Drawn::default());
        assert_eq!(source.drawn.view, whole.view, "after step {step}");
    }
}

/// The life of a task: what each of its versions says.
fn life(id: usize, ends: bool) -> Vec<TaskEvent> {
    let told = |version: i64, last: &str, desired: &str| {
        let (arn, task) = (task_arn(&id.to_string()), json!([{"name": "app", "lastStatus": last}]));
        event(json!({"taskArn": arn, "version": version, "lastStatus": last, "desiredStatus": desired,
            "containers": task}))
    };
    let mut life = vec![
        told(1, "PROVISIONING", "RUNNING"),
        told(2, "PENDING", "RUNNING"),
        told(3, "RUNNING", "RUNNING"),
    ];
    if ends {
        life.extend([
            told(4, "RUNNING", "STOPPED"),
            told(5, "DEPROVISIONING", "STOPPED"),
            told(6, "STOPPED", "STOPPED"),
        ]);
    }
    life
}

/// What reaches the source: one event, or an answer that is a little old.
#[derive(Clone, Debug)]
enum Told {
    Event { task: usize, version: usize },
    Answer { versions: Vec<usize> },
}

const TASKS: usize = 4;

fn told() -> impl Strategy<Value = Told> {
    prop_oneof![
        4 => (0..TASKS, 0_usize..6).prop_map(|(task, version)| Told::Event { task, version }),
        1 => prop::collection::vec(0_usize..6, TASKS).prop_map(|versions| Told::Answer { versions }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Events lost, doubled and in any order, between answers that are older than some of them: after the next reading
    /// what is known is what the cluster is.
    #[test]
    fn no_order_of_events_and_answers_misleads(
        ends in prop::collection::vec(any::<bool>(), TASKS),
        told in prop::collection::vec(told(), 0..40),
    ) {
        let lives: Vec<_> = ends.iter().enumerate().map(|(id, ends)| life(id, *ends)).collect();
        let facts = |task: usize, version: usize| {
            let life: &Vec<TaskEvent> = &lives[task];
            life[version.min(life.len() - 1)].facts().expect("complete")
        };
        let listed: HashSet<InstanceId> = (0..TASKS).map(|task| facts(task, 0).arn).collect();
        let mut tasks = Tasks::default();
        for one in told {
            match one {
                Told::Event { task, version } => drop(tasks.hear(facts(task, version), at(2_000))),
                Told::Answer { versions } => {
                    let described = versions.into_iter().enumerate().map(|(task, version)| facts(task, version));
                    let answer = Answer { listed: listed.clone(), tasks: described.collect(), missing: vec![] };
                    tasks.merge(answer, at(2_000));
                }
            }
        }
        let last: Vec<_> = (0..TASKS).map(|task| facts(task, usize::MAX)).collect();
        tasks.merge(Answer { listed, tasks: last.clone(), missing: vec![] }, at(2_000));
        for facts in last {
            let known = tasks.get(&facts.arn);
            match facts.status {
                Status::Gone => {
                    let phase = known.map(|known| known.phase(None, at(2_000)));
                    prop_assert!(phase.is_none_or(|phase| phase == Phase::Stopped), "{phase:?}");
                }
                _ => prop_assert_eq!(&known.expect("it runs").facts, &facts),
            }
        }
        let indexed: Vec<_> = tasks.of_group("payments").map(|known| known.facts.arn.clone()).collect();
        let all: Vec<_> = tasks.iter().map(|known| known.facts.arn.clone()).collect();
        prop_assert_eq!(indexed, all, "the index has lost or kept someone");
    }
}
