//! Tasks that have no address of their own: where they are, what it costs to know, and that none goes with another.
//!
//! It is not about the mesh. Invariant: instances and their addresses are told by the scripted AWS alone.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::reading::{payments, prod};
use super::rule;
use super::world::{ARN, Cluster, machine_arn, refusal, task_arn};
use crate::model::{Health, Phase, Place, ServiceKey, StopCause, View};
use crate::source::aws::scripted::Answer;
use crate::source::cell;
use crate::source::ecs::view::Drawn;
use crate::source::ecs::{Discover, EcsSource, Letter, TaskEvent};

const RUNNING: Phase = Phase::Running(Health::NoCheck);
const ASKS: [&str; 2] = ["DescribeContainerInstances", "DescribeInstances"];

/// Both tasks of payments on one instance.
fn on_one_machine(mode: &str) -> Cluster {
    let cluster = Cluster::payments();
    {
        let mut world = cluster.world();
        world.machine("m", "10.9.0.1");
        world.network("payments", mode);
        world.place("a", "m", 32_768);
        world.place("b", "m", 32_769);
    }
    cluster
}

fn shown(view: &View) -> Vec<(String, String)> {
    payments(view).into_iter().map(|(id, place, _)| (id, place)).collect()
}

fn at(places: [(&str, &str); 2]) -> Vec<(String, String)> {
    places.map(|(id, place)| (id.to_owned(), place.to_owned())).into()
}

fn owners(view: &View) -> Vec<(String, Option<u16>)> {
    let brief = |(place, task): (&Place, &crate::model::TaskState)| {
        (task.instance.as_str().rsplit('/').next().unwrap_or_default().to_owned(), place.port)
    };
    view.tasks.iter().map(brief).collect()
}

fn codes(view: &View) -> Vec<(&'static str, &str)> {
    view.findings.iter().map(|finding| (finding.code, finding.message.as_str())).collect()
}

#[tokio::test]
async fn each_mode_has_its_address_and_port() {
    let bridge = prod(&on_one_machine("bridge")).sweep(None).await.expect("a view");
    assert_eq!(shown(&bridge), at([("a", "10.9.0.1:32768"), ("b", "10.9.0.1:32769")]));
    assert_eq!(owners(&bridge), [("a".to_owned(), Some(32_768)), ("b".to_owned(), Some(32_769))]);
    assert!(bridge.occupied.values().all(|ports| ports.is_empty()), "each container has its own ports");
    assert!(bridge.unplaced.is_empty());

    let cluster = on_one_machine("host");
    cluster.world().machine("n", "10.9.0.2");
    cluster.world().place("b", "n", 1); // not what counts here
    let host = prod(&cluster).sweep(None).await.expect("a view");
    assert_eq!(shown(&host), at([("a", "10.9.0.1:8080"), ("b", "10.9.0.2:8080")]));
    let ports = [("a", 8080), ("a", 15_001), ("b", 8080), ("b", 15_001)];
    assert_eq!(owners(&host), ports.map(|(id, port)| (id.to_owned(), Some(port))));
    assert!(host.occupied.values().all(|ports| **ports == [8080, 15_001]));

    let none = prod(&on_one_machine("none")).sweep(None).await.expect("a view");
    assert_eq!(shown(&none), at([("a", ":0"), ("b", ":0")]));

    // What a definition does not say, its tasks do: the bridge is ECS's default.
    let cluster = on_one_machine("bridge");
    cluster.world().definitions.values_mut().for_each(|one| one["networkMode"] = Value::Null);
    let unsaid = prod(&cluster).sweep(None).await.expect("a view");
    assert_eq!(shown(&unsaid), shown(&bridge));
}

#[tokio::test]
async fn an_instance_is_asked_for_once_and_only_for_those_who_need_it() {
    let cluster = on_one_machine("bridge");
    let mut source = prod(&cluster);
    let first = source.sweep(None).await.expect("a view");
    assert_eq!(source.sweep(None).await.expect("a view"), first);
    assert_eq!(ASKS.map(|call| cluster.count(call)), [1, 1]);

    // Nobody needs to know where others are: tasks with addresses of their own, of nobody here, without a service.
    let cluster = on_one_machine("awsvpc");
    {
        let mut world = cluster.world();
        world.task("a", "payments", 1);
        world.set("a", "containerInstanceArn", json!(machine_arn("m")));
        world.service("agent", 100);
        world.services.get_mut("agent").expect("agent")["tags"] = json!([]);
        world.network("agent", "host");
        for id in ["daemon", "single"] {
            world.task(id, "agent", 9);
            world.place(id, "m", 32_800);
        }
        world.set("single", "group", json!("family:agent"));
    }
    let view = prod(&cluster).sweep(None).await.expect("a view");
    assert_eq!(ASKS.map(|call| cluster.count(call)), [0, 0]);
    assert_eq!(view.unplaced, ["agent".into(), "payments".into()].into(), "b has no address yet");
}

#[tokio::test]
async fn an_instance_that_was_registered_anew_is_there_under_both_names() {
    let cluster = on_one_machine("bridge");
    {
        let mut world = cluster.world();
        world.machine("n", "10.9.0.2");
        world.place("b", "n", 32_769);
        world.machines.get_mut("n").expect("n")["ec2InstanceId"] = json!("i-m");
    }
    let view = prod(&cluster).sweep(None).await.expect("a view");
    assert_eq!(shown(&view), at([("a", "10.9.0.1:32768"), ("b", "10.9.0.1:32769")]));
}

#[tokio::test]
async fn many_instances_are_asked_for_a_hundred_at_a_time() {
    let cluster = on_one_machine("bridge");
    for number in 0..249 {
        let (id, mut world) = (format!("t{number:03}"), cluster.world());
        world.machine(&id, &format!("10.8.0.{}", number % 250 + 1));
        world.task(&id, "payments", 1_000 + number);
        world.place(&id, &id, 32_768);
    }
    let view = prod(&cluster).sweep(None).await.expect("a view");
    assert_eq!(ASKS.map(|call| cluster.count(call)), [3, 3]);
    assert!(payments(&view).iter().all(|(_, place, _)| !place.starts_with(':')), "{:?}", payments(&view));
}

#[tokio::test]
async fn a_look_up_that_fails_is_a_finding_and_takes_nothing_away() {
    let cluster = on_one_machine("bridge");
    let mut source = prod(&cluster);
    let before = source.sweep(None).await.expect("a view");
    {
        let mut world = cluster.world();
        world.machine("n", "10.9.0.2");
        world.task("c", "payments", 3);
        world.place("c", "n", 32_768);
    }
    let denied = "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>not you</Message></Error></Errors></Response>";
    for (operation, answer, told) in [
        (
            "DescribeInstances",
            Answer::Text(403, denied),
            "ec2:DescribeInstances: UnauthorizedOperation: not you",
        ),
        ("DescribeInstances", Answer::Text(200, "<html>"), "ec2:DescribeInstances: bad-response"),
        (
            "DescribeContainerInstances",
            refusal("AccessDeniedException"),
            "ecs:DescribeContainerInstances: Access",
        ),
        (
            "DescribeContainerInstances",
            Answer::Json(200, json!({})),
            "ecs:DescribeContainerInstances: bad-response",
        ),
    ] {
        cluster.world().faults = vec![(operation, answer.clone()), (operation, answer)];
        let view = source.sweep(None).await.expect("a view in spite of it");
        cluster.world().faults.clear();
        assert_eq!(payments(&view)[..2], payments(&before)[..], "nothing is lost");
        assert_eq!(payments(&view)[2], ("c".into(), ":32768".into(), RUNNING));
        assert!(
            matches!(codes(&view)[..], [("SRC001", message)] if message.contains(told)),
            "{:?}",
            codes(&view)
        );
        assert_eq!(view.unplaced, ["payments".into()].into());
    }
    let view = source.sweep(None).await.expect("a view");
    assert_eq!(payments(&view)[2].1, "10.9.0.2:32768", "it was asked for again");
    assert_eq!((codes(&view), view.unplaced.len()), (vec![], 0));
}

#[tokio::test]
async fn the_first_reading_wants_every_instance_of_those_who_are_offered() {
    let cluster = on_one_machine("bridge");
    cluster.world().faults = vec![("DescribeContainerInstances", refusal("ThrottlingException")); 2];
    let mut source = prod(&cluster);
    let error = source.sweep(None).await.expect_err("no view");
    assert_eq!(error.operation, "ecs:DescribeContainerInstances");
    assert_eq!(payments(&source.sweep(None).await.expect("a view")).len(), 2);
    // Who may not ask does without: the others of the cluster don't wait.
    cluster.world().faults = vec![("DescribeContainerInstances", refusal("AccessDeniedException"))];
    let view = prod(&cluster).sweep(None).await.expect("a view");
    assert_eq!(shown(&view), at([("a", ":32768"), ("b", ":32769")]));
    assert!(matches!(codes(&view)[..], [("SRC001", _)]));
    // That AWS tells no address is an answer.
    let cluster = on_one_machine("bridge");
    cluster.world().addresses.clear();
    let view = prod(&cluster).sweep(None).await.expect("a view");
    assert!(
        matches!(codes(&view)[..], [("EP001", message)] if message.starts_with("1, such as m, have no address"))
    );
}

#[tokio::test]
async fn the_first_reading_knows_where_those_of_the_default_namespace_are() {
    let cluster = on_one_machine("bridge");
    let auto = json!([{"key": "legation:role", "value": "auto"}]);
    cluster.world().services.get_mut("payments").expect("payments")["tags"] = auto;
    cluster.world().default = Some("prod");
    let rules = vec![rule("dev", Discover::Labelled), rule("prod", Discover::Labelled)];
    let view = cluster.source(rules).sweep(None).await.expect("a view");
    assert_eq!(shown(&view), at([("a", "10.9.0.1:32768"), ("b", "10.9.0.1:32769")]));
}

#[tokio::test]
async fn people_may_say_an_address_and_say_another_later() {
    let cluster = on_one_machine("bridge");
    let written = |value: Value| {
        let attributes =
            json!([{"name": "ecs.os-type", "value": "linux"}, {"name": "legation.address", "value": value}]);
        cluster.world().machines.get_mut("m").expect("m")["attributes"] = attributes;
    };
    cluster.world().machines.get_mut("m").expect("m")["ec2InstanceId"] = json!("mi-0123");
    let mut source = prod(&cluster);
    let view = source.sweep(None).await.expect("a view");
    assert_eq!(shown(&view), at([("a", ":32768"), ("b", ":32769")]));
    let hint =
        "aws ecs put-attributes --cluster prod-a --attributes name=legation.address,value=ADDRESS,targetId=";
    assert!(
        matches!(codes(&view)[..], [("EP001", told)] if told.contains("outside EC2") && told.contains(hint)),
        "{:?}",
        codes(&view)
    );
    for (value, address) in [("192.168.7.1", "192.168.7.1"), ("fd00::7", "fd00::7"), ("soon", "fd00::7")] {
        written(json!(value));
        let view = source.sweep(None).await.expect("a view");
        let places = ["32768", "32769"].map(|port| format!("{address}:{port}"));
        assert_eq!(shown(&view).into_iter().map(|(_, place)| place).collect::<Vec<_>>(), places);
        let wrong = codes(&view).iter().any(|(code, told)| *code == "CFG002" && told.contains("= soon"));
        assert_eq!(wrong, value == "soon", "{:?}", codes(&view));
    }
    assert_eq!(cluster.count("DescribeInstances"), 0, "EC2 has nothing to say");
}

fn event(id: &str, changes: Value) -> TaskEvent {
    let mut detail = json!({
        "taskArn": task_arn(id), "clusterArn": format!("{ARN}cluster/prod-a"), "version": 4,
        "taskDefinitionArn": format!("{ARN}task-definition/payments:1"), "group": "service:payments",
        "startedBy": "ecs-svc/payments", "desiredStatus": "RUNNING", "lastStatus": "RUNNING",
        "updatedAt": jiff::Timestamp::now().to_string(), "startedAt": "1970-01-01T00:16:40Z",
    });
    for (key, value) in changes.as_object().expect("changes") {
        detail[key] = value.clone();
    }
    serde_json::from_value(detail).expect("an event")
}

fn bound(host_port: u16) -> Value {
    let binding = json!({"containerPort": 8080, "hostPort": host_port, "protocol": "tcp"});
    json!([{"name": "app", "lastStatus": "RUNNING", "networkBindings": [binding]}])
}

fn on(machine: &str, host_port: u16) -> Value {
    json!({"containerInstanceArn": machine_arn(machine), "containers": bound(host_port)})
}

#[tokio::test]
async fn the_end_of_one_task_is_not_the_end_of_its_neighbour() {
    let cluster = on_one_machine("bridge");
    let mut source = prod(&cluster);
    source.sweep(None).await.expect("a view");
    let (writer, _cell) = cell("ecs/prod-a");
    writer.publish(source.drawn.view.clone(), std::time::Instant::now());
    let calls = cluster.script.calls().len();
    let mut hear = |event| source.hear(Some(&writer), vec![Letter::of(vec![event])]);
    let mut stop = on("m", 32_768);
    (stop["desiredStatus"], stop["lastStatus"], stop["version"]) =
        (json!("STOPPED"), json!("STOPPED"), json!(6));
    hear(event("a", stop));
    let mut young = on("m", 32_768); // whose port is a's
    young["startedAt"] = json!("1970-01-01T00:20:00Z");
    hear(event("c", young));
    let view = &source.drawn.view;
    let places = ["10.9.0.1:32768", "10.9.0.1:32769", "10.9.0.1:32768"];
    let phases = [Phase::Stopped, RUNNING, RUNNING];
    let expected = ["a", "b", "c"].into_iter().zip(places).zip(phases);
    let expected: Vec<_> = expected.map(|((id, place), phase)| (id.into(), place.into(), phase)).collect();
    assert_eq!(payments(view), expected);
    assert_eq!(owners(view), [("c".to_owned(), Some(32_768)), ("b".to_owned(), Some(32_769))]);
    assert_eq!(cluster.script.calls().len(), calls, "a known instance costs no call");
}

#[tokio::test]
async fn standalone_members_and_what_tags_of_tasks_offer_need_their_instances_too() {
    let batch = |world: &mut super::world::World, id: &str, tags: &[(&str, &str)]| {
        world.standalone(id, "batch", 3, tags);
        world.network("batch", "bridge");
        world.place(id, "n", 40_000);
    };
    let cluster = on_one_machine("bridge");
    {
        let mut world = cluster.world();
        world.machine("n", "10.9.0.2");
        // The service says nothing; a task of it does.
        world.services.get_mut("payments").expect("it")["tags"] = json!([]);
        world.tag("a", &[("namespace", "prod")]);
        batch(&mut world, "silent", &[]);
    }
    let mut source = prod(&cluster);
    let view = source.sweep(None).await.expect("a view");
    assert_eq!(shown(&view), at([("a", "10.9.0.1:32768"), ("b", "10.9.0.1:32769")]));
    assert_eq!(ASKS.map(|call| cluster.count(call)), [1, 1]);
    assert_eq!(source.drawn.view.tasks.len(), 2, "where who serves nobody is, nobody asks");

    batch(&mut cluster.world(), "c", &[("namespace", "prod")]);
    let view = source.sweep(None).await.expect("a view");
    let service = &view.services[&ServiceKey::new("prod", "batch")];
    let (c, known) = (&service.registrations[0], &view.tasks);
    assert_eq!((c.address, c.port), ("10.9.0.2".parse().ok(), Some(40_000)));
    assert_eq!((known.len(), service.registrations.len()), (3, 1));
    assert_eq!(ASKS.map(|call| cluster.count(call)), [2, 2]);
}

#[tokio::test]
async fn an_instance_that_an_event_names_is_asked_for_at_once() {
    let cluster = on_one_machine("bridge");
    let mut source = prod(&cluster);
    source.sweep(None).await.expect("a view");
    cluster.world().machine("n", "10.9.0.2");
    let (writer, mut cell) = cell("ecs/prod-a");
    writer.publish(source.drawn.view.clone(), std::time::Instant::now());
    source.hear(Some(&writer), vec![Letter::of(vec![event("c", on("n", 40_000))])]);
    assert_eq!(payments(&source.drawn.view)[2].1, ":40000", "not known yet");
    let rest = source.rest(&writer, tokio::time::Instant::now(), tokio::time::Instant::now());
    rest.await;
    assert!(cell.changed().await);
    assert_eq!(payments(&cell.reading().view.expect("a view"))[2].1, "10.9.0.2:40000");
    assert_eq!(ASKS.map(|call| cluster.count(call)), [2, 2]);
}

#[tokio::test]
async fn what_a_reading_found_after_an_event_named_it_is_not_asked_for_again() {
    let cluster = on_one_machine("bridge");
    let mut source = prod(&cluster);
    source.sweep(None).await.expect("a view");
    {
        let mut world = cluster.world();
        world.machine("n", "10.9.0.2");
        world.place("b", "n", 40_000);
    }
    let (writer, _cell) = cell("ecs/prod-a");
    source.hear(Some(&writer), vec![Letter::of(vec![event("c", on("n", 40_001))])]);
    source.sweep(Some(&writer)).await.expect("a view");
    assert_eq!(ASKS.map(|call| cluster.count(call)), [2, 2], "the reading asks, for another task there");
    source.rest(&writer, tokio::time::Instant::now(), tokio::time::Instant::now()).await;
    assert_eq!(ASKS.map(|call| cluster.count(call)), [2, 2]);
}

/// What is drawn after an event is what a reading of the same would draw, however tasks share machines and ports.
#[tokio::test]
async fn to_draw_what_changed_is_to_draw_everything() {
    let cluster = on_one_machine("bridge");
    {
        let mut world = cluster.world();
        world.machine("n", "10.9.0.1"); // after m has gone, nobody told
        world.machine("o", "10.9.0.2");
        for (service, mode) in [("hosted", "host"), ("own", "awsvpc")] {
            world.service(service, 100);
            world.network(service, mode);
            world.task(service, service, 7);
        }
        world.place("hosted", "o", 8080);
        world.task("x", "payments", 8);
        world.place("x", "n", 32_770);
    }
    let mut source: EcsSource = cluster.source(vec![rule("prod", Discover::Labelled)]);
    source.sweep(None).await.expect("a view");
    let (writer, _cell) = cell("ecs/prod-a");
    writer.publish(source.drawn.view.clone(), std::time::Instant::now());
    let mut dice = fastrand::Rng::with_seed(5);
    let mut shared = 0;
    for step in 0..2_000 {
        let task = dice.u8(0..9);
        let service = ["payments", "hosted", "own"][usize::from(task % 3)];
        let (last, desired) =
            [("PENDING", "RUNNING"), ("RUNNING", "RUNNING"), ("RUNNING", "STOPPED")][dice.usize(0..3)];
        let last = if dice.u8(0..40) == 0 { "STOPPED" } else { last };
        let mut changes = on(["m", "n", "o", "unknown"][dice.usize(0..4)], 32_768 + dice.u16(0..3));
        if service == "own" {
            let interface = json!([{"privateIpv4Address": format!("10.9.0.{}", dice.u8(1..4))}]);
            changes["containers"] = json!([{"name": "app", "networkInterfaces": interface}]);
        }
        changes["version"] = json!(dice.i64(1..9));
        (changes["lastStatus"], changes["desiredStatus"]) = (json!(last), json!(desired));
        changes["startedAt"] = json!(format!("1970-01-01T00:{:02}:00Z", dice.u8(0..60)));
        changes["group"] = json!(format!("service:{service}"));
        changes["taskDefinitionArn"] = json!(format!("{ARN}task-definition/{service}:1"));
        let told = event(&format!("{}-{task}", step / 200), changes);
        source.hear(Some(&writer), vec![Letter::of(vec![told])]);
        let whole = source.knowledge(SystemTime::now()).draw(&Drawn::default());
        assert_eq!(source.drawn.view, whole.view, "after step {step}");
        shared += usize::from(source.drawn.view.tasks.keys().any(|place| place.port.is_some()));
    }
    assert!(shared > 1_000, "hardly anything was shared: {shared}");
    let stopping =
        |(_, _, phase): &(String, String, Phase)| matches!(phase, Phase::Stopping(StopCause::Planned));
    assert!(payments(&source.drawn.view).iter().any(stopping), "nothing stops");
}
