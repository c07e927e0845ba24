//! The life of tasks: versions, servers, stops, crashes, replacements.

#[cfg(test)]
mod support;

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use integration::world::{
    ContainerDefinition, CrashPlan, DefinitionSpec, DeploymentStatus, DesiredStatus, Health, HealthCheck,
    LastStatus, NamespaceKind, Pace, PortMapping, RolloutState, Serve, ServerKind, ServiceRegistry,
    ServiceSpec, ServiceStatus, StopCode, StopPlan, TaskSpec, World, WorldError,
};
use support::{SOON, address, get, history, ready, served, version, world};

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[tokio::test]
async fn a_planned_stop_has_six_versions() {
    let world = world();
    let task = served(&world, "web", "web", 1).await.remove(0);
    world.stop_task(&task.arn, StopPlan::default()).unwrap();
    world.stop_task(&task.arn, StopPlan::default()).unwrap();
    version(&world, &task.arn, 6).await;
    let expected = [
        (1, "RUNNING", "PROVISIONING"),
        (2, "RUNNING", "PENDING"),
        (3, "RUNNING", "RUNNING"),
        (4, "STOPPED", "RUNNING"),
        (5, "STOPPED", "DEPROVISIONING"),
        (6, "STOPPED", "STOPPED"),
    ];
    assert_eq!(history(&world, &task.arn), expected);
    let times = world.timeline(&task.arn).unwrap();
    let order = [
        Some(times.created),
        times.running,
        times.healthy,
        times.stop_requested,
        times.stopped_accepting,
        times.execution_stopped,
        times.stopped,
    ];
    assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{order:?}");
    let task = world.task(&task.arn).unwrap();
    assert_eq!((task.stop_code, task.containers[0].exit_code), (Some(StopCode::UserInitiated), Some(0)));
}

#[tokio::test]
async fn a_crash_has_five_versions_and_is_noticed_late() {
    let world = world();
    let task = served(&world, "web", "web", 1).await.remove(0);
    let plan = CrashPlan { notice: millis(300), ..CrashPlan::default() };
    world.crash_task(&task.arn, plan).await.unwrap();
    let refused = get(address(&task), "/").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert!(world.task(&task.arn).unwrap().in_service(), "ECS has not noticed yet");
    version(&world, &task.arn, 5).await;
    assert_eq!(
        history(&world, &task.arn)[2..],
        [(3, "RUNNING", "RUNNING"), (4, "STOPPED", "DEPROVISIONING"), (5, "STOPPED", "STOPPED")]
    );
    let times = world.timeline(&task.arn).unwrap();
    assert!(times.stop_requested.unwrap() - times.execution_stopped.unwrap() >= millis(300));
    let task = world.task(&task.arn).unwrap();
    assert_eq!(task.stop_code, Some(StopCode::EssentialContainerExited));
    assert_eq!(task.containers[0].exit_code, Some(1));
    assert!(world.crash_task(&task.arn, plan).await.is_err(), "it does not run");
}

#[tokio::test]
async fn a_crash_cuts_requests_in_flight() {
    let world = world();
    let task = served(&world, "web", "web", 1).await.remove(0);
    let slow = tokio::spawn(get(address(&task), "/slow?ms=60000"));
    while task.log.in_flight() == 0 {
        tokio::time::sleep(millis(1)).await;
    }
    world.crash_task(&task.arn, CrashPlan::default()).await.unwrap();
    let cut = tokio::time::timeout(SOON, slow).await.expect("cut at once").unwrap();
    assert!(cut.is_err(), "{cut:?}");
    assert_eq!(task.log.in_flight(), 0);
}

#[tokio::test]
async fn a_stopping_task_serves_during_grace_and_then_refuses() {
    let world = world();
    let task = served(&world, "web", "web", 1).await.remove(0);
    let at = address(&task);
    world.stop_task(&task.arn, StopPlan::hold(millis(400))).unwrap();
    let stop = world.timeline(&task.arn).unwrap().stop_requested.unwrap();
    assert!(world.tasks_of("c", "web").is_empty(), "it leaves the list at once");

    let (status, body) = get(at, "/anything").await.unwrap();
    assert_eq!(status, 200);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body, serde_json::json!({ "task": task.id, "service": "web", "zone": "eu-west-1a" }));
    let slow = tokio::spawn(get(at, "/slow?ms=900"));

    let closed = |world: &World| world.timeline(&task.arn).is_some_and(|t| t.stopped_accepting.is_some());
    world.until(SOON, closed).await.unwrap();
    let times = world.timeline(&task.arn).unwrap();
    assert!(times.stopped_accepting.unwrap() - stop >= millis(400), "grace is kept");
    assert_eq!(get(at, "/").await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(slow.await.unwrap().unwrap().0, 200, "what is in flight is answered");

    version(&world, &task.arn, 6).await;
    let times = world.timeline(&task.arn).unwrap();
    assert_eq!(times.requests, 2);
    assert!(times.last_request.unwrap() < times.stopped_accepting.unwrap());
    assert!(times.execution_stopped.unwrap() - stop >= millis(900), "the process waited for its request");
}

#[tokio::test]
async fn sigkill_ends_what_does_not_finish() {
    let world = world();
    let task = served(&world, "web", "web", 1).await.remove(0);
    let slow = tokio::spawn(get(address(&task), "/slow?ms=60000"));
    while task.log.in_flight() == 0 {
        tokio::time::sleep(millis(1)).await;
    }
    let plan = StopPlan { kill_after: Some(millis(200)), ..StopPlan::default() };
    world.stop_task(&task.arn, plan).unwrap();
    assert!(slow.await.unwrap().is_err(), "it was cut");
    version(&world, &task.arn, 6).await;
    assert_eq!(world.task(&task.arn).unwrap().containers[0].exit_code, Some(137));
}

#[tokio::test]
async fn a_task_stopped_before_it_ran_never_listens() {
    let world = world();
    let pace = Pace { pending: Duration::from_secs(60), ..Pace::default() };
    let spec =
        TaskSpec { serve: Some(Serve::Declared), pace: Some(pace), ..TaskSpec::standalone("c", "web") };
    let arn = world.start_task(spec).unwrap();
    version(&world, &arn, 2).await;
    assert!(get(address(&world.task(&arn).unwrap()), "/").await.is_err(), "PENDING accepts nothing");
    world.stop_task(&arn, StopPlan::default()).unwrap();
    version(&world, &arn, 5).await;
    let task = world.task(&arn).unwrap();
    assert_eq!(task.last_status, LastStatus::Stopped);
    assert!(task.started.is_none() && task.execution_stopped.is_none());
}

#[tokio::test]
async fn statuses_can_be_asked_for() {
    let world = world();
    let task = served(&world, "web", "web", 1).await.remove(0);
    for status in [204, 404, 503] {
        assert_eq!(get(address(&task), &format!("/status/{status}")).await.unwrap().0, status);
    }
    assert_eq!(get(address(&task), "/status/100").await.unwrap().0, 200, "1xx is no final answer");
    assert_eq!(get(address(&task), "/status/x").await.unwrap().0, 200);
    assert_eq!((task.log.requests(), task.log.connections()), (5, 5));
    assert!(task.log.last_request_at().unwrap().elapsed() < SOON);
}

#[tokio::test]
async fn http2_tasks_speak_prior_knowledge_and_finish_streams() {
    let world = world();
    let spec = TaskSpec {
        serve: Some(Serve::As(ServerKind::H2c)),
        settled: true,
        ..TaskSpec::standalone("c", "plain")
    };
    let arn = world.start_task(spec).unwrap();
    let task = world.task(&arn).unwrap();
    let stream = tokio::net::TcpStream::connect(address(&task)).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut client, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = |path: &str| {
        let uri = format!("http://{}{path}", address(&task));
        hyper::Request::get(uri).body(axum::body::Body::empty()).unwrap()
    };
    assert_eq!(client.send_request(request("/status/503")).await.unwrap().status(), 503);
    let slow = client.send_request(request("/slow?ms=300"));
    let slow = tokio::spawn(slow);
    while task.log.in_flight() == 0 {
        tokio::time::sleep(millis(1)).await;
    }
    world.stop_task(&arn, StopPlan::default()).unwrap();
    let answer = slow.await.unwrap().unwrap();
    let body = axum::body::to_bytes(axum::body::Body::new(answer.into_body()), 4096).await.unwrap();
    assert!(String::from_utf8_lossy(&body).contains(&task.id));
    tokio::time::timeout(SOON, connection).await.expect("GOAWAY ends the connection").unwrap().unwrap();
}

#[tokio::test]
async fn tcp_tasks_echo_lines_after_their_name() {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    let world = world();
    let app = ContainerDefinition::new("app").port(PortMapping::named("redis", 6379, None));
    world.register_definition(DefinitionSpec::new("redis", app)).unwrap();
    let spec = TaskSpec { serve: Some(Serve::Declared), settled: true, ..TaskSpec::standalone("c", "redis") };
    let arn = world.start_task(spec).unwrap();
    let task = world.task(&arn).unwrap();
    let stream = tokio::net::TcpStream::connect(task.endpoint("redis").unwrap()).await.unwrap();
    let mut stream = BufReader::new(stream);
    for line in ["PING\n", "\n"] {
        stream.get_mut().write_all(line.as_bytes()).await.unwrap();
        let mut echo = String::new();
        stream.read_line(&mut echo).await.unwrap();
        assert_eq!(echo, format!("{} {line}", task.id));
    }
    assert_eq!((task.log.requests(), task.log.connections()), (2, 1));
    world.stop_task(&arn, StopPlan::default()).unwrap();
    let mut rest = String::new();
    let end = tokio::time::timeout(SOON, stream.read_line(&mut rest)).await.expect("closed on SIGTERM");
    assert_eq!(end.unwrap(), 0);
}

#[tokio::test]
async fn a_replacement_takes_the_zone_but_not_the_address() {
    let world = world();
    let spec = ServiceSpec::new("c", "web", "web", 3).zones(&["z1", "z2", "z3"]).served();
    let arns = world.create_service(spec).unwrap();
    ready(&world, &arns).await;
    let zones: Vec<_> = arns.iter().map(|arn| world.task(arn).unwrap().zone.clone()).collect();
    assert_eq!(zones, ["z1", "z2", "z3"]);
    let new = world.replace_task(&arns[1], StopPlan::default()).unwrap();
    ready(&world, std::slice::from_ref(&new)).await;
    let (old, new) = (world.task(&arns[1]).unwrap(), world.task(&new).unwrap());
    assert_eq!(new.zone, "z2");
    assert_ne!(new.ip, old.ip);
    assert_eq!(get(address(&new), "/").await.unwrap().0, 200);
    assert_eq!(world.tasks_of("c", "web").len(), 3);
}

#[tokio::test]
async fn a_service_replaces_what_leaves_and_no_more() {
    let world = world();
    let spec = ServiceSpec::new("c", "web", "web", 4).zones(&["z1", "z2"]).served().replacing();
    let arns = world.create_service(spec).unwrap();
    ready(&world, &arns).await;
    world.stop_task(&arns[0], StopPlan::default()).unwrap();
    world.stop_task(&arns[1], StopPlan::default()).unwrap();
    world.crash_task(&arns[2], CrashPlan::default()).await.unwrap();
    // Replaced by hand: the service has no reason to act.
    world.replace_task(&arns[3], StopPlan::default()).unwrap();
    let stopped = |world: &World| {
        let all = |status| arns.iter().all(|arn| world.task(arn).is_some_and(|t| t.last_status == status));
        let tasks = world.tasks_of("c", "web");
        all(LastStatus::Stopped) && tasks.len() == 4 && tasks.iter().all(|task| task.ready())
    };
    world.until(SOON, stopped).await.unwrap();
    tokio::time::sleep(millis(200)).await;
    let tasks = world.tasks_of("c", "web");
    let in_zone = |zone| tasks.iter().filter(|task| task.zone == zone).count();
    assert_eq!((tasks.len(), in_zone("z1"), in_zone("z2")), (4, 2, 2));
    assert!(tasks.iter().all(|task| !arns.contains(&task.arn)));
}

#[tokio::test]
async fn an_address_can_be_reused_and_a_clash_is_an_error() {
    let world = world();
    let task = served(&world, "web", "web", 1).await.remove(0);
    let again = || TaskSpec {
        ip: Some(task.ip),
        serve: Some(Serve::Declared),
        settled: true,
        ..TaskSpec::standalone("c", "plain")
    };
    match world.start_task(again()) {
        Err(WorldError::Bind(at, error)) => {
            assert_eq!((at, error.kind()), (address(&task).into(), ErrorKind::AddrInUse));
        }
        other => panic!("the address is taken: {other:?}"),
    }
    get(address(&task), "/").await.unwrap();
    world.stop_task(&task.arn, StopPlan::default()).unwrap();
    version(&world, &task.arn, 6).await;
    let new = world.start_task(again()).expect("the address is free, even with connections in TIME_WAIT");
    let (_, body) = get(address(&task), "/").await.unwrap();
    assert!(body.contains(new.rsplit('/').next().unwrap()) && !body.contains(&task.id));
}

#[tokio::test]
async fn a_service_that_cannot_start_leaves_nothing_behind() {
    let world = world();
    let clash = ContainerDefinition::new("app")
        .port(PortMapping::named("a", 7000, None))
        .port(PortMapping::named("b", 7000, None));
    world.register_definition(DefinitionSpec::new("clash", clash)).unwrap();
    let spec = || ServiceSpec::new("c", "clash", "clash", 2).served().settled();
    assert!(matches!(world.create_service(spec()), Err(WorldError::Bind(..))));
    assert!(world.service("c", "clash").is_none());
    assert!(world.create_service(ServiceSpec { serve: Serve::No, ..spec() }).is_ok());
}

#[tokio::test]
async fn health_raises_no_version() {
    let world = world();
    let task = served(&world, "web", "web", 1).await.remove(0);
    let before = *world.changes().borrow();
    world.set_health(&task.arn, "app", Health::Unhealthy).unwrap();
    let now = world.task(&task.arn).unwrap();
    assert_eq!((now.health, now.version, now.ready()), (Health::Unhealthy, 3, false));
    assert!(*world.changes().borrow() > before, "but it is a change");
    assert!(world.set_health(&task.arn, "nothing", Health::Healthy).is_err());
}

#[tokio::test]
async fn a_checked_task_waits_for_its_health() {
    let world = world();
    let pace = Pace { healthy: None, ..Pace::default() };
    let spec = |family| TaskSpec { pace: Some(pace), ..TaskSpec::standalone("c", family) };
    let (checked, plain) = (world.start_task(spec("web")).unwrap(), world.start_task(spec("plain")).unwrap());
    version(&world, &checked, 3).await;
    version(&world, &plain, 3).await;
    assert!(!world.task(&checked).unwrap().ready());
    assert!(world.task(&plain).unwrap().ready());
    world.set_health(&checked, "app", Health::Healthy).unwrap();
    assert!(world.task(&checked).unwrap().ready());
    assert!(world.timeline(&checked).unwrap().healthy.is_some());
}

#[tokio::test]
async fn a_rolling_deployment_never_has_too_few_tasks() {
    let world = world();
    let old = served(&world, "web", "web", 3).await;
    let first = world.service("c", "web").unwrap().deployments[0].id.clone();
    world.register_definition(DefinitionSpec::new("web", ContainerDefinition::new("app"))).unwrap();
    let watch = tokio::spawn({
        let world = world.clone();
        async move {
            let (mut changes, mut fewest, mut shapes) = (world.changes(), usize::MAX, Vec::new());
            loop {
                changes.mark_unchanged();
                fewest = fewest.min(world.tasks_of("c", "web").iter().filter(|task| task.ready()).count());
                let deployments = world.service("c", "web").unwrap().deployments;
                let shape: Vec<_> = deployments.iter().map(|d| (d.status, d.rollout)).collect();
                let over =
                    shapes.len() > 1 && shape == [(DeploymentStatus::Primary, RolloutState::Completed)];
                if shapes.last() != Some(&shape) {
                    shapes.push(shape);
                }
                if over || changes.changed().await.is_err() {
                    return (fewest, shapes);
                }
            }
        }
    });
    let id = world.roll_service("c", "web", "web", StopPlan::default()).await.unwrap();
    let (fewest, shapes) = tokio::time::timeout(SOON, watch).await.expect("it ends").unwrap();
    assert!(fewest >= 3, "only {fewest} were ready");
    assert!(shapes.iter().any(|shape| shape.len() == 2), "two deployments side by side: {shapes:?}");
    let service = world.service("c", "web").unwrap();
    assert_eq!((service.deployments.len(), service.revisions.len()), (1, 2));
    assert_eq!(service.deployments[0].id, id);
    assert_ne!(first, id);
    assert!(
        world
            .tasks_of("c", "web")
            .iter()
            .all(|t| t.definition.revision == 2 && t.started_by == Some(id.clone()))
    );
    assert!(old.iter().all(|task| world.task(&task.arn).unwrap().desired_status == DesiredStatus::Stopped));
}

#[tokio::test]
async fn scaling_and_deleting() {
    let world = world();
    let first = served(&world, "web", "web", 2).await;
    let more = world.set_desired_count("c", "web", 4, StopPlan::default()).unwrap();
    assert_eq!(more.len(), 2);
    ready(&world, &more).await;
    let less = world.set_desired_count("c", "web", 1, StopPlan::default()).unwrap();
    assert_eq!(less.len(), 3);
    let left = world.tasks_of("c", "web");
    assert!(left.len() == 1 && left[0].arn == first[0].arn, "the oldest stays");
    let stopping = world.task(&less[0]).unwrap();
    assert_eq!(stopping.stop_code, Some(StopCode::ServiceSchedulerInitiated));

    world.delete_service("c", "web", StopPlan::default()).unwrap();
    assert_eq!(world.service("c", "web").unwrap().status, ServiceStatus::Draining);
    let gone = |world: &World| world.service("c", "web").is_some_and(|s| s.status == ServiceStatus::Inactive);
    world.until(SOON, gone).await.unwrap();
    assert!(world.start_task(TaskSpec::of_service("c", "web")).is_err());
    world.forget_task(&first[0].arn).unwrap();
    assert!(world.task(&first[0].arn).is_none());
}

#[tokio::test]
async fn registrations_follow_tasks_and_revisions_ignore_health() {
    let world = world();
    let namespace = world.create_namespace("internal", NamespaceKind::DnsPrivate).unwrap();
    let id = world.create_map_service(&namespace, "web", HealthCheck::Custom).unwrap();
    let registry_arn = world.map_service(&id).unwrap().arn;
    let mut spec = ServiceSpec::new("c", "web", "web", 2);
    spec.registries.push(ServiceRegistry { registry_arn, ..ServiceRegistry::default() });
    let arns = world.create_service(spec).unwrap();
    assert!(world.map_service(&id).unwrap().instances.is_empty(), "nothing is registered before RUNNING");
    ready(&world, &arns).await;
    let full = world.map_service(&id).unwrap();
    let task = world.task(&arns[0]).unwrap();
    let instance = &full.instances[&task.id];
    assert_eq!(full.instances.len(), 2);
    assert_eq!(instance.health, Health::Healthy);
    assert_eq!(instance.attributes["AWS_INSTANCE_IPV4"], task.ip.to_string());
    assert_eq!(instance.attributes["AWS_INSTANCE_PORT"], "8080");

    world.set_health(&arns[0], "app", Health::Unhealthy).unwrap();
    let sick = world.map_service(&id).unwrap();
    assert_eq!(sick.instances[&task.id].health, Health::Unhealthy);
    assert_eq!(sick.revision, full.revision, "health is no revision");

    world.stop_task(&arns[0], StopPlan::hold(Duration::from_secs(5))).unwrap();
    let shrunk = world.map_service(&id).unwrap();
    assert!(!shrunk.instances.contains_key(&task.id), "gone the moment the stop is recorded");
    assert!(shrunk.revision > sick.revision);
}

#[test]
fn without_a_runtime_only_settled_tasks_can_be() {
    let world = world();
    assert!(matches!(world.start_task(TaskSpec::standalone("c", "web")), Err(WorldError::NoRuntime)));
    let spec = TaskSpec { settled: true, ..TaskSpec::standalone("c", "web") };
    let arn = world.start_task(spec.clone()).unwrap();
    assert!(world.task(&arn).unwrap().ready());
    assert!(matches!(world.stop_task(&arn, StopPlan::default()), Err(WorldError::NoRuntime)));
    assert!(world.start_task(TaskSpec { serve: Some(Serve::Declared), ..spec }).is_err());
}

#[test]
fn twenty_thousand_tasks_are_made_in_a_moment() {
    let world = world();
    let begin = Instant::now();
    for number in 0..1000 {
        let name = format!("service-{number:04}");
        world.create_service(ServiceSpec::new("c", &name, "web", 20).zones(&["z1", "z2"]).settled()).unwrap();
    }
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(3), "took {took:?}, even for a debug build on a busy machine");
    println!("made 20,000 tasks in {took:?}");
    let mut addresses: Vec<_> = (0..1000)
        .flat_map(|number| world.tasks_of("c", &format!("service-{number:04}")))
        .map(|task| task.ip)
        .collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 20_000);
    let (first, end) = (Ipv4Addr::new(127, 0, 16, 0), Ipv4Addr::new(127, 128, 0, 0));
    assert!(addresses.iter().all(|ip| (first..end).contains(ip)));
}
