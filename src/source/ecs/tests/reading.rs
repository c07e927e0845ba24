//! Tests of whole readings: paging, partial answers, and what is kept from one reading to the next.
//!
//! It is not about single rules; those have tables of their own.
//!
//! Invariant: after every failure, the next good reading shows that nothing was lost.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::world::{Cluster, refusal, service_arn, task_arn};
use super::{at, rule};
use crate::model::{Health, Phase, Place, Registration, ServiceKey, ServiceView, StopCause, View};
use crate::source::SourceError;
use crate::source::aws::scripted::Answer;
use crate::source::ecs::{Discover, EcsSource, Tasks, facts, tasks};

const RUNNING: Phase = Phase::Running(Health::NoCheck);

pub(super) fn prod(cluster: &Cluster) -> EcsSource {
    cluster.source(vec![rule("prod", Discover::Labelled)])
}

fn service<'a>(view: &'a View, name: &str) -> &'a Arc<ServiceView> {
    view.services.get(&ServiceKey::new("prod", name)).expect("the service")
}

/// The endpoints of payments: the task's id, `address:port`, phase.
pub(super) fn payments(view: &View) -> Vec<(String, String, Phase)> {
    let brief = |registration: &Registration| {
        let id = registration.instance.as_str().rsplit('/').next().unwrap_or_default().to_owned();
        let address = registration.address.map(|address| address.to_string()).unwrap_or_default();
        (id, format!("{address}:{}", registration.port.unwrap_or_default()), registration.phase)
    };
    service(view, "payments").registrations.iter().map(brief).collect()
}

async fn fails(source: &mut EcsSource) -> SourceError {
    source.sweep(None).await.expect_err("a failure")
}

#[tokio::test]
async fn a_cluster_becomes_a_view() {
    let cluster = Cluster::payments();
    cluster.world().task("c", "payments", 3);
    cluster.world().set("c", "group", json!("family:batch"));
    let view = prod(&cluster).sweep(None).await.expect("a view");
    let expected =
        [("a".into(), "10.0.0.1:8080".into(), RUNNING), ("b".into(), "10.0.0.2:8080".into(), RUNNING)];
    assert_eq!(payments(&view), expected);
    let service = service(&view, "payments");
    assert_eq!(service.spec.created_at, Some(at(100)));
    assert_eq!(service.registrations[0].zone.as_deref(), Some("eu-west-1a"));
    assert_eq!(service.registrations[0].started_at, Some(at(1_000)));
    assert_eq!(view.clusters, ["prod-a".into()].into(), "the short name of an ARN");
    assert_eq!(view.findings, []);
    let occupied: Vec<_> =
        view.occupied.iter().map(|(task, ports)| (task.as_str(), ports.to_vec())).collect();
    let all = ["a", "b", "c"].map(task_arn);
    let expected: Vec<_> = all.iter().map(|arn| (arn.as_str(), vec![8080, 15001])).collect();
    assert_eq!(occupied, expected, "standalone tasks have sidecars too");
    let ports: Vec<_> = view.occupied.values().collect();
    assert!(ports.windows(2).all(|pair| Arc::ptr_eq(pair[0], pair[1])), "one list for one revision");
    assert_eq!(view.tasks.len(), 3);
}

#[tokio::test]
async fn pages_and_batches_are_read_to_the_end() {
    let cluster = Cluster::payments();
    {
        let mut world = cluster.world();
        world.page = 7;
        for n in 0..25 {
            world.service(&format!("s{n}"), 200);
        }
        for n in 0..250 {
            world.task(&format!("t{n:03}"), "payments", 1_000 + n);
        }
    }
    let view = prod(&cluster).sweep(None).await.expect("a view");
    assert_eq!((view.services.len(), payments(&view).len()), (26, 252));
    let calls = ["ListServices", "ListTasks", "DescribeServices", "DescribeTasks", "DescribeTaskDefinition"];
    assert_eq!(calls.map(|call| cluster.count(call)), [4, 36, 3, 3, 26]);
}

#[tokio::test]
async fn what_has_not_changed_is_the_same_memory() {
    let cluster = Cluster::payments();
    cluster.world().service("ledger", 100);
    let mut source = prod(&cluster);
    let first = source.sweep(None).await.expect("a view");
    let second = source.sweep(None).await.expect("a view");
    assert_eq!(first, second);
    assert!(Arc::ptr_eq(service(&first, "payments"), service(&second, "payments")));
    assert!(first.occupied == second.occupied && first.tasks == second.tasks);
    assert_eq!(cluster.count("DescribeTaskDefinition"), 2, "revisions never change");
    cluster.world().set("a", "desiredStatus", json!("STOPPED"));
    cluster.world().set("a", "version", json!(4));
    let third = source.sweep(None).await.expect("a view");
    assert!(Arc::ptr_eq(service(&second, "ledger"), service(&third, "ledger")));
    assert!(!Arc::ptr_eq(service(&second, "payments"), service(&third, "payments")));
    assert!(Arc::ptr_eq(&service(&second, "payments").spec, &service(&third, "payments").spec));
    assert_eq!(second.occupied, third.occupied, "a stopping sidecar still listens");
}

#[tokio::test]
async fn a_stop_is_seen_confirmed_and_shown() {
    let cluster = Cluster::payments();
    let mut source = prod(&cluster);
    source.sweep(None).await.expect("a view");
    // ECS stops listing a task as soon as it is told to stop.
    cluster.world().unlisted.insert("a".into());
    let view = source.sweep(None).await.expect("a view");
    assert_eq!(payments(&view)[0].2, RUNNING, "a listing alone withdraws nobody");
    cluster.world().set("a", "desiredStatus", json!("STOPPED"));
    cluster.world().set("a", "version", json!(4));
    let view = source.sweep(None).await.expect("a view");
    assert_eq!(payments(&view)[0].2, Phase::Stopping(StopCause::Planned));
    cluster.world().set("a", "lastStatus", json!("DEPROVISIONING"));
    cluster.world().set("a", "version", json!(5));
    let view = source.sweep(None).await.expect("a view");
    assert_eq!(payments(&view)[0].2, Phase::Stopped);
    assert_eq!((view.occupied.len(), view.tasks.len()), (1, 1));
    // A replica of ECS that is behind.
    cluster.world().unlisted.clear();
    cluster.world().task("a", "payments", 1);
    let view = source.sweep(None).await.expect("a view");
    assert_eq!(payments(&view)[0].2, Phase::Stopped);
}

#[tokio::test]
async fn missing_ends_only_what_is_not_listed() {
    let cluster = Cluster::payments();
    cluster.world().service("ledger", 100);
    let mut source = prod(&cluster);
    let first = source.sweep(None).await.expect("a view");
    {
        let mut world = cluster.world();
        world.tasks.remove("a");
        world.services.remove("ledger");
        world.invented = ["a".into(), "ledger".into()].into();
    }
    assert_eq!(source.sweep(None).await.expect("a view"), first, "listed and missing: nothing is lost");
    cluster.world().invented.clear();
    source.sweep(None).await.expect("a view"); // one answer may be late
    let view = source.sweep(None).await.expect("a view");
    assert_eq!(payments(&view)[0].2, Phase::Stopped);
    assert_eq!(view.services.len(), 1);
    // A service that a listing forgets is asked about, like a task; an inactive one is over.
    cluster.world().unlisted.insert("payments".into());
    assert_eq!(source.sweep(None).await.expect("a view").services.len(), 1);
    cluster.world().services.get_mut("payments").expect("it is there")["status"] = json!("INACTIVE");
    assert_eq!(source.sweep(None).await.expect("a view").services.len(), 0);
}

#[tokio::test]
async fn any_failure_is_a_failure_of_the_whole() {
    let cluster = Cluster::payments();
    let mut source = prod(&cluster);
    let first = source.sweep(None).await.expect("a view");
    let json = |document: Value| Answer::Json(200, document);
    let failure = |arn: String| json!([{"arn": arn, "reason": "ACCESS_DENIED", "detail": "no"}]);
    let partial_tasks = json!({"tasks": [], "failures": failure(task_arn("a"))});
    let partial_services = json!({"services": [], "failures": failure(service_arn("payments"))});
    let looped = json!({"taskArns": [task_arn("a")], "nextToken": "again"});
    for (operation, faults, code) in [
        ("ListServices", vec![refusal("AccessDeniedException")], "AccessDeniedException"),
        (
            "ListTasks",
            vec![refusal("ThrottlingException"); 6], // three times, two attempts each
            "ThrottlingException",
        ),
        ("ListTasks", vec![json(json!({}))], "bad-response"),
        ("ListServices", vec![json(json!({}))], "bad-response"),
        ("ListTasks", vec![json(looped.clone()), json(looped)], "bad-response"),
        ("DescribeTasks", vec![json(json!({"tasks": [], "failures": []}))], "bad-response"),
        ("DescribeServices", vec![json(json!({"services": []}))], "bad-response"),
        ("DescribeTasks", vec![json(json!({"tasks": [{"taskArn": "x"}]}))], "bad-response"),
        ("DescribeTasks", vec![json(partial_tasks)], "ACCESS_DENIED"),
        ("DescribeServices", vec![json(partial_services)], "ACCESS_DENIED"),
        ("DescribeServices", vec![Answer::Silence, Answer::Silence], "timeout"),
    ] {
        let before = cluster.count(operation);
        cluster.world().faults = faults.iter().map(|fault| (operation, fault.clone())).collect();
        let error = fails(&mut source).await;
        assert_eq!(
            (error.operation.as_str(), error.code.as_str()),
            (&*format!("ecs:{operation}"), code),
            "{error}"
        );
        assert_eq!(cluster.count(operation) - before, faults.len(), "every fault was met");
        cluster.world().faults.clear();
        assert_eq!(source.sweep(None).await.expect("a view"), first, "{operation}: {error}");
    }
}

#[tokio::test]
async fn revisions_that_arrived_before_a_failure_are_kept() {
    let cluster = Cluster::payments();
    for n in 0..5 {
        cluster.world().service(&format!("s{n}"), 200);
    }
    let broken =
        cluster.world().definitions.remove("arn:aws:ecs:eu-west-1:1:task-definition/s4:1").expect("it");
    let mut source = prod(&cluster);
    assert_eq!(fails(&mut source).await.operation, "ecs:DescribeTaskDefinition");
    let asked = cluster.count("DescribeTaskDefinition");
    cluster.world().definitions.insert("arn:aws:ecs:eu-west-1:1:task-definition/s4:1".into(), broken);
    let throttled = || ("DescribeTaskDefinition", refusal("ThrottlingException"));
    cluster.world().faults = vec![throttled(), throttled(), throttled()];
    source.sweep(None).await.expect("a view, in spite of throttling");
    let again = cluster.count("DescribeTaskDefinition") - asked;
    assert!((4..=4 + 5).contains(&again), "three refusals and what was missing, not everything: {again}");
}

#[tokio::test]
async fn a_call_that_aws_finds_too_often_is_made_again_within_the_reading() {
    let cluster = Cluster::payments();
    cluster.world().page = 1;
    for operation in ["ListTasks", "DescribeTasks", "ListServices", "DescribeServices"] {
        cluster.world().faults = vec![(operation, refusal("ThrottlingException")); 3];
        prod(&cluster).sweep(None).await.expect("a view, in spite of throttling");
        assert!(cluster.world().faults.is_empty(), "{operation}");
    }
}

#[tokio::test]
async fn each_task_is_reached_as_its_own_deployment_says() {
    let cluster = Cluster::payments();
    {
        let mut world = cluster.world();
        world.definition("payments:2", 9090);
        world.set("b", "taskDefinitionArn", json!("arn:aws:ecs:eu-west-1:1:task-definition/payments:2"));
        world.definition("payments:3", 0);
        world.task("c", "payments", 3);
        world.set("c", "taskDefinitionArn", json!("arn:aws:ecs:eu-west-1:1:task-definition/payments:3"));
    }
    let mut source = prod(&cluster);
    let view = source.sweep(None).await.expect("a view");
    let ports: Vec<_> = service(&view, "payments").registrations.iter().map(|one| one.port).collect();
    assert_eq!(ports, [Some(8080), Some(9090), None], "the port of the task's own revision");
    {
        let mut world = cluster.world();
        let port = json!({"portName": "http", "ingressPortOverride": 15555, "tls": {"issuerCertificateAuthority": {}}});
        world.connect("payments", json!({"enabled": true, "namespace": "prod", "services": [port]}));
        let older = json!({"id": "ecs-svc/older", "status": "ACTIVE"});
        let payments = world.services.get_mut("payments").expect("it is there");
        payments["deployments"].as_array_mut().expect("a list").push(older);
        world.set("b", "startedBy", json!("ecs-svc/older"));
        world.set("c", "startedBy", json!("somebody else"));
    }
    let view = source.sweep(None).await.expect("a view");
    let reached: Vec<_> =
        service(&view, "http").registrations.iter().map(|one| (one.port, one.foreign_tls)).collect();
    assert_eq!(reached, [(Some(15555), true), (Some(9090), false), (Some(15555), true)]);
    assert_eq!(view.findings.iter().map(|finding| finding.code).collect::<Vec<_>>(), ["TLS002"]);
}

#[tokio::test]
async fn the_older_service_keeps_a_name() {
    let cluster = Cluster::payments();
    cluster.world().service("new-payments", 300);
    let tags = json!([{"key": "legation:discovery-name/http", "value": "payments"}]);
    cluster.world().services.get_mut("new-payments").expect("it is there")["tags"] = tags;
    let mut source = prod(&cluster);
    let view = source.sweep(None).await.expect("a view");
    assert_eq!(&*service(&view, "payments").spec.origin, "ecs prod-a/payments");
    assert_eq!((view.services.len(), view.findings.len()), (1, 1));
    let finding = &view.findings[0];
    assert_eq!((finding.code, finding.object.as_str()), ("NAME002", "ecs prod-a/new-payments, port http"));
    assert!(finding.message.contains("belongs to ecs prod-a/payments"), "{}", finding.message);
    cluster.world().services.get_mut("payments").expect("it is there")["status"] = json!("DRAINING");
    let view = source.sweep(None).await.expect("a view");
    assert_eq!(
        &*service(&view, "payments").spec.origin,
        "ecs prod-a/new-payments",
        "a leaving owner gives way"
    );
    assert_eq!(view.findings, []);
}

#[tokio::test]
async fn an_empty_cluster_is_an_empty_view() {
    let cluster = Cluster::payments();
    cluster.world().services.clear();
    cluster.world().tasks.clear();
    let view = prod(&cluster).sweep(None).await.expect("a view");
    assert_eq!((view.services.len(), view.occupied.len(), view.clusters.len()), (0, 0, 1));
    assert_eq!(cluster.count("DescribeTasks") + cluster.count("DescribeServices"), 0);
}

#[tokio::test]
async fn addresses_belong_to_the_youngest_and_only_in_awsvpc() {
    let cluster = Cluster::payments();
    {
        let mut world = cluster.world();
        world.task("c", "payments", 1);
        world.set("c", "lastStatus", json!("PENDING"));
        world.set("c", "startedAt", Value::Null);
        world.set("c", "createdAt", json!(2_000));
    }
    let mut source = prod(&cluster);
    let view = source.sweep(None).await.expect("a view");
    let place = Place::whole("10.0.0.1".parse().expect("an address"));
    let owner = view.tasks.get(&place).expect("somebody");
    assert_eq!((owner.instance.as_str(), owner.phase), (task_arn("c").as_str(), Phase::Starting));
    assert_eq!(owner.started_at, Some(at(2_000)));
    let cluster = Cluster::payments();
    cluster.world().definitions.values_mut().for_each(|one| one["networkMode"] = json!("bridge"));
    let view = prod(&cluster).sweep(None).await.expect("a view");
    assert_eq!(view.tasks.len(), 0);
    assert!(service(&view, "payments").registrations.iter().all(|one| one.address.is_none()));
}

/// 1,000 services of 20 tasks: taking a reading in must not be what a sweep waits for.
#[tokio::test]
async fn twenty_thousand_tasks_are_taken_in_quickly() {
    let cluster = Cluster::payments();
    let mut source = prod(&cluster);
    let sighting = || {
        let mut world = cluster.world();
        for n in 0..1_000 {
            world.service(&format!("s{n:03}"), 200);
        }
        let of = |json: &Value| {
            aws_sdk_ecs::types::Deployment::builder()
                .id("1")
                .status("PRIMARY")
                .task_definition(json["deployments"][0]["taskDefinition"].as_str().expect("an ARN"))
                .build()
        };
        let services = world.services.iter().map(|(name, json)| {
            let tag = aws_sdk_ecs::types::Tag::builder().key("legation:namespace").value("prod").build();
            let service = aws_sdk_ecs::types::Service::builder().service_arn(service_arn(name));
            let service = service.service_name(name).tags(tag).deployments(of(json)).build();
            facts::service(&service).expect("complete")
        });
        let services: crate::source::ecs::Services =
            services.map(|service| (Arc::clone(&service.arn), service)).collect();
        let tasks: Vec<_> = (0..20_000u32)
            .map(|n| {
                let service = format!("s{:03}", n % 1_000);
                let task = super::task(&task_arn(&n.to_string())).group(format!("service:{service}"));
                let definition = format!("arn:aws:ecs:eu-west-1:1:task-definition/{service}:1");
                facts::task(&task.task_definition_arn(definition).build()).expect("complete")
            })
            .collect();
        let answer = tasks::Answer { listed: Default::default(), tasks, missing: vec![] };
        super::super::Sighting { services, tasks: answer }
    };
    let app = aws_sdk_ecs::types::ContainerDefinition::builder().name("app");
    let app = super::checked(app.port_mappings(super::port("http", 8080, None).build()));
    let revision = Arc::new(super::revision("any:1", vec![app]));
    let (first, second) = (sighting(), sighting());
    for service in first.services.values() {
        let definition = service.definition.clone().expect("a deployment");
        source.revisions.insert(definition, Arc::clone(&revision));
    }
    assert_eq!(Tasks::default(), source.tasks);
    source.take_in(first, at(2_000));
    let started = Instant::now();
    source.take_in(second, at(2_000));
    let (took, view) = (started.elapsed(), source.drawn.view.clone());
    let registrations: usize = view.services.values().map(|service| service.registrations.len()).sum();
    assert_eq!((view.occupied.len(), registrations), (20_000, 20_000));
    // Unoptimised and on a busy machine; optimised it is a tenth of this.
    assert!(took.as_secs() < 3, "{took:?}");
}

#[test]
fn events_that_ask_for_readings_do_not_put_off_the_one_that_confirms() {
    let (began, seconds) = (tokio::time::Instant::now(), std::time::Duration::from_secs);
    let mut due = None;
    // Events ask for a reading every five seconds; what lies thirty seconds after the last regular one is regular.
    for at in [5, 10, 15, 20, 25] {
        let wake = began + seconds(at + 30);
        due = Some(crate::source::ecs::regular(due.or(Some(began + seconds(30))), wake, true));
        assert_eq!(due, Some(began + seconds(30)));
    }
    let after = began + seconds(60);
    assert_eq!(crate::source::ecs::regular(due, after, false), after);
    let sooner = began + seconds(26);
    assert_eq!(crate::source::ecs::regular(due, sooner, true), sooner, "a failure is repeated when it is");
}
