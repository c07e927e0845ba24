//! The AWS-like endpoint, seen through the SDKs that Legation uses: stages of a stop, pages, faults.

#[cfg(test)]
#[path = "support/sdk.rs"]
mod sdk;
#[cfg(test)]
mod support;

use std::time::{Duration, Instant};

use aws_sdk_ecs::error::ProvideErrorMetadata;
use aws_sdk_ecs::types::DesiredStatus;
use integration::aws::{FakeAws, Fault, Operation};
use integration::world::{CrashPlan, HealthCheck, NamespaceKind, Pace, ServiceSpec, StopPlan, TaskSpec};
use sdk::{cloud_map, code_of_list, described, listed, start};
use support::{served, version, world};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn each_stage_of_a_life_is_listed_and_described_as_ecs_does() {
    let world = world();
    let (_fake, ecs) = start(&world).await;
    let second = Duration::from_secs(1);
    let pace = Pace { provisioning: second, pending: second, healthy: Some(second), replacement: second };
    let arn = world.start_task(TaskSpec { pace: Some(pace), ..TaskSpec::standalone("c", "web") }).unwrap();
    let stages =
        [(1, "RUNNING PROVISIONING UNKNOWN"), (2, "RUNNING PENDING UNKNOWN"), (3, "RUNNING RUNNING UNKNOWN")];
    for (number, words) in stages {
        version(&world, &arn, number).await;
        assert_eq!(described(&ecs, &arn).await, (number, words.to_owned()));
        assert_eq!(listed(&ecs, 100).await, std::slice::from_ref(&arn));
    }
    support::ready(&world, std::slice::from_ref(&arn)).await;
    assert_eq!(described(&ecs, &arn).await, (3, "RUNNING RUNNING HEALTHY".to_owned()));

    let plan = StopPlan { deprovisioning: second, stopped: second, ..StopPlan::default() };
    world.stop_task(&arn, plan).unwrap();
    let stages = [
        (4, "STOPPED RUNNING HEALTHY"),
        (5, "STOPPED DEPROVISIONING HEALTHY"),
        (6, "STOPPED STOPPED HEALTHY"),
    ];
    for (number, words) in stages {
        version(&world, &arn, number).await;
        assert_eq!(described(&ecs, &arn).await, (number, words.to_owned()));
        assert!(listed(&ecs, 100).await.is_empty(), "a stopping task leaves the list at once");
    }
    let stopped = ecs.list_tasks().cluster("c").desired_status(DesiredStatus::Stopped).send().await.unwrap();
    assert_eq!(stopped.task_arns(), std::slice::from_ref(&arn));
    world.forget_task(&arn).unwrap();
    let answer = ecs.describe_tasks().cluster("c").tasks(&arn).send().await.unwrap();
    assert!(answer.tasks().is_empty());
    assert_eq!(answer.failures()[0].reason(), Some("MISSING"));
}

#[tokio::test]
async fn addresses_are_where_legation_reads_them() {
    let world = world();
    let (_fake, ecs) = start(&world).await;
    let task = served(&world, "web", "web", 1).await.remove(0);
    let answer = ecs.describe_tasks().cluster("c").tasks(&task.arn).send().await.unwrap();
    let shown = &answer.tasks()[0];
    let ip = task.ip.to_string();
    assert_eq!(shown.containers()[0].network_interfaces()[0].private_ipv4_address(), Some(ip.as_str()));
    let details = shown.attachments()[0].details();
    let address = details.iter().find(|d| d.name() == Some("privateIPv4Address"));
    assert_eq!(address.and_then(|d| d.value()), Some(ip.as_str()));
    let started = shown.started_at().unwrap().to_millis().unwrap() as u128;
    let truth = task.started.unwrap().wall.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    assert!(started.abs_diff(truth) <= 1, "{started} is not {truth}");
}

#[tokio::test]
async fn pages_are_complete_while_the_list_changes() {
    let world = world();
    let (_fake, ecs) = start(&world).await;
    let arns = world.create_service(ServiceSpec::new("c", "web", "web", 250).settled()).unwrap();
    let mut sorted = arns.clone();
    sorted.sort();
    for size in [1, 7, 99, 100] {
        assert_eq!(listed(&ecs, size).await, sorted, "pages of {size}");
    }

    let first = ecs.list_tasks().cluster("c").send().await.unwrap();
    assert_eq!(first.task_arns(), &sorted[..100]);
    // The last of the first page leaves, and so does one which is still to come; new ones appear.
    world.stop_task(&sorted[99], StopPlan::default()).unwrap();
    world.stop_task(&sorted[200], StopPlan::default()).unwrap();
    for _ in 0..20 {
        world.start_task(TaskSpec { settled: true, ..TaskSpec::of_service("c", "web") }).unwrap();
    }
    let mut seen = first.task_arns().to_vec();
    let mut token = first.next_token().map(str::to_owned);
    while let Some(next) = token {
        let page = ecs.list_tasks().cluster("c").next_token(next).send().await.unwrap();
        seen.extend_from_slice(page.task_arns());
        token = page.next_token().map(str::to_owned);
    }
    let stayed = sorted.iter().enumerate().filter(|(index, _)| *index != 200).map(|(_, arn)| arn);
    assert!(stayed.clone().all(|arn| seen.iter().filter(|other| *other == arn).count() == 1));
    assert!(!seen.contains(&sorted[200]));
}

#[tokio::test]
async fn a_wrong_token_is_an_invalid_parameter() {
    let world = world();
    let (_fake, ecs) = start(&world).await;
    world.create_cluster("d").unwrap();
    world.create_service(ServiceSpec::new("c", "web", "web", 3).settled()).unwrap();
    let page = ecs.list_tasks().cluster("c").max_results(2).send().await.unwrap();
    let token = page.next_token().unwrap();
    for (cluster, token) in [("c", "nonsense"), ("d", token), ("c", &token[1..])] {
        let refused = ecs.list_tasks().cluster(cluster).next_token(token).send().await.unwrap_err();
        assert!(refused.into_service_error().is_invalid_parameter_exception(), "{cluster} {token}");
    }
    let rest = ecs.list_tasks().cluster("c").max_results(2).next_token(token).send().await.unwrap();
    assert_eq!((rest.task_arns().len(), rest.next_token()), (1, None));
}

#[tokio::test]
async fn an_outage_refuses_connections_and_ends_on_the_same_port() {
    let world = world();
    let (fake, ecs) = start(&world).await;
    let (faults, url) = (fake.faults(), fake.url());
    for _ in 0..3 {
        assert!(listed(&ecs, 100).await.is_empty());
        let mut held = tokio::net::TcpStream::connect(fake.address()).await.unwrap();
        // An answer on it, so that it was surely accepted.
        held.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut head = [0; 12];
        held.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 400");
        faults.set(Fault::Outage);
        faults.settled().await;
        let end = tokio::time::timeout(support::SOON, held.read_to_end(&mut Vec::new())).await;
        end.expect("an old connection is cut").expect("in an orderly way");
        let refused = tokio::net::TcpStream::connect(fake.address()).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        let error = ecs.list_tasks().cluster("c").send().await.unwrap_err();
        assert!(
            error.as_service_error().is_none(),
            "no answer at all, not even on an old connection: {error:?}"
        );
        faults.clear();
        faults.settled().await;
        assert_eq!(fake.url(), url);
    }
    fake.stop().await;
    assert!(tokio::net::TcpStream::connect(fake.address()).await.is_err());
    fake.restart().await;
    assert!(listed(&ecs, 100).await.is_empty());
    faults.set(Fault::Outage);
    faults.settled().await;
    fake.restart().await;
    assert!(listed(&ecs, 100).await.is_empty(), "a restart ends an outage");
}

#[tokio::test]
async fn a_given_port_is_used_and_a_taken_one_refused() {
    let world = world();
    let (fake, _) = start(&world).await;
    let port = fake.address().port();
    fake.stop().await;
    drop(fake);
    // The endpoint's sockets close when its task has ended.
    let mut again = FakeAws::start_on(world.clone(), port).await;
    while again.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
        again = FakeAws::start_on(world.clone(), port).await;
    }
    assert_eq!(again.unwrap().address().port(), port);
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(FakeAws::start_on(world, other.local_addr().unwrap().port()).await.is_err());
}

#[tokio::test]
async fn faults_befall_one_operation_or_all() {
    let world = world();
    let (fake, ecs) = start(&world).await;
    let faults = fake.faults();
    faults.set_times(Operation::ListTasks, Fault::Throttle, 2);
    assert_eq!(code_of_list(&ecs).await, "ThrottlingException");
    assert!(ecs.list_clusters().send().await.is_ok(), "others are spared");
    assert_eq!(code_of_list(&ecs).await, "ThrottlingException");
    assert!(listed(&ecs, 100).await.is_empty(), "twice only");
    assert_eq!((fake.calls(Operation::ListTasks), fake.calls(Operation::ListClusters)), (3, 1));

    faults.set(Fault::ServerError);
    faults.set_for(Operation::ListTasks, Fault::AccessDenied);
    assert_eq!(code_of_list(&ecs).await, "AccessDeniedException");
    let error = ecs.list_clusters().send().await.unwrap_err();
    assert_eq!(error.raw_response().map(|raw| raw.status().as_u16()), Some(500));
    faults.clear_for(Operation::ListTasks);
    assert_eq!(code_of_list(&ecs).await, "ServerException");
    faults.clear();

    faults.set_for(Operation::ListTasks, Fault::Garbage);
    let error = ecs.list_tasks().cluster("c").send().await.unwrap_err();
    assert!(error.as_service_error().is_none(), "unreadable: {error:?}");
    faults.set_for(Operation::ListTasks, Fault::Outage);
    let error = ecs.list_tasks().cluster("c").send().await.unwrap_err();
    assert!(error.raw_response().is_none(), "the connection is lost: {error:?}");
    faults.clear_for(Operation::ListTasks);
    assert!(listed(&ecs, 100).await.is_empty());
    assert_eq!(faults.all_calls()[&Operation::ListTasks], 8);
}

#[tokio::test]
async fn slow_and_silent_answers() {
    let world = world();
    let (fake, ecs) = start(&world).await;
    let begin = Instant::now();
    fake.faults().set(Fault::Delay(Duration::from_millis(300)));
    ecs.list_clusters().send().await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(300));
    fake.faults().set(Fault::Hang);
    let waiting = tokio::time::timeout(Duration::from_millis(500), ecs.list_clusters().send()).await;
    assert!(waiting.is_err(), "it never answers");
    assert_eq!(fake.calls(Operation::ListClusters), 2, "but the call arrived");
    tokio::time::timeout(support::SOON, fake.stop())
        .await
        .expect("a hanging request does not hold up a stop");
}

#[tokio::test]
async fn treacherous_answers_are_clean() {
    let world = world();
    let (fake, ecs) = start(&world).await;
    let arns = world.create_service(ServiceSpec::new("c", "web", "web", 120).settled()).unwrap();
    let faults = fake.faults();
    faults.set(Fault::Empty);
    assert!(listed(&ecs, 100).await.is_empty());
    let answer = ecs.describe_tasks().cluster("c").tasks(&arns[0]).send().await.unwrap();
    assert!(answer.tasks().is_empty() && answer.failures().is_empty());

    faults.set(Fault::HalfPages);
    let page = ecs.list_tasks().cluster("c").send().await.unwrap();
    assert_eq!(page.task_arns().len(), 100);
    let next = page.next_token().unwrap();
    let refused = ecs.list_tasks().cluster("c").next_token(next).send().await.unwrap_err();
    assert_eq!(refused.into_service_error().code(), Some("ThrottlingException"));

    faults.set(Fault::Stale);
    world.crash_task(&arns[0], CrashPlan { notice: Duration::ZERO, ..CrashPlan::default() }).await.unwrap();
    version(&world, &arns[0], 5).await;
    assert_eq!(listed(&ecs, 100).await.len(), 120);
    assert_eq!(described(&ecs, &arns[0]).await.0, 3, "older than the truth");
    faults.clear();
    assert_eq!(listed(&ecs, 100).await.len(), 119);
    assert_eq!(described(&ecs, &arns[0]).await.0, 5);
}

#[tokio::test]
async fn a_clock_that_is_off_refuses_what_is_signed_by_another() {
    let world = world();
    let (fake, ecs) = start(&world).await;
    let arn = world.create_service(ServiceSpec::new("c", "web", "web", 1).settled()).unwrap().remove(0);
    fake.put_clock_ahead(600);
    assert_eq!(code_of_list(&ecs).await, "InvalidSignatureException");
    assert_eq!(listed(&ecs, 100).await.len(), 1, "the refusal told the time, and the SDK signs by it");
    let answer = ecs.describe_tasks().cluster("c").tasks(&arn).send().await.unwrap();
    let shown = answer.tasks()[0].started_at().unwrap().secs() as u64;
    let truth = world.task(&arn).unwrap().started.unwrap().wall;
    let truth = truth.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(shown.abs_diff(truth + 600) <= 1, "{shown} is not ten minutes after {truth}");
}

#[tokio::test]
async fn limits_are_kept_when_asked_for_and_copies_are_behind() {
    let world = world();
    let (fake, ecs) = start(&world).await;
    fake.buckets().keep(5);
    for _ in 0..5 {
        assert!(listed(&ecs, 100).await.is_empty());
    }
    assert_eq!(code_of_list(&ecs).await, "ThrottlingException", "no more than the burst at once");
    assert_eq!(fake.buckets().refused(), 1);
    fake.buckets().keep(100);
    fake.faults().set_for(Operation::ListTasks, Fault::Behind(Duration::from_secs(5)));
    assert!(listed(&ecs, 100).await.is_empty());
    world.create_service(ServiceSpec::new("c", "web", "web", 1).settled()).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        seen.insert(listed(&ecs, 100).await.len());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1], "some copies know it, and some do not");
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let world = world();
    let (fake, _) = start(&world).await;
    let post = |target: &str, signed: bool, body: &str| {
        let mut request = ureq::post(fake.url()).header("x-amz-target", target);
        if signed {
            request = request.header("authorization", "AWS4-HMAC-SHA256 Credential=dummy");
        }
        let body = body.to_owned();
        let request = request.config().http_status_as_error(false).build();
        async move {
            let sent = tokio::task::spawn_blocking(move || {
                let mut response = request.send(&body).expect("an answer");
                (response.status().as_u16(), response.body_mut().read_to_string().expect("text"))
            });
            let (status, body) = sent.await.expect("sent");
            let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
            (status, body["__type"].as_str().unwrap_or_default().to_owned())
        }
    };
    let target = "AmazonEC2ContainerServiceV20141113.ListTasks";
    let cases = [
        (post("AmazonEC2ContainerServiceV20141113.Nothing", true, "{}").await, "UnknownOperationException"),
        (post("", true, "{}").await, "UnknownOperationException"),
        (post(target, false, "{}").await, "MissingAuthenticationTokenException"),
        (post(target, true, "{").await, "SerializationException"),
        (post(target, true, "[]").await, "SerializationException"),
        (post(target, true, r#"{"cluster":7}"#).await, "SerializationException"),
        (post(target, true, r#"{"cluster":"c","maxResults":"x"}"#).await, "SerializationException"),
        (post(target, true, r#"{"cluster":"c","maxResults":-1}"#).await, "InvalidParameterException"),
        (post(target, true, r#"{"cluster":"c","maxResults":1e99}"#).await, "SerializationException"),
        (post(target, true, "").await, "ClusterNotFoundException"),
        (post(target, true, &"x".repeat(2 << 20)).await, "SerializationException"),
    ];
    for ((status, kind), expected) in cases {
        assert_eq!((status, kind.as_str()), (400, expected));
    }
}

#[tokio::test]
async fn the_cloud_map_sdk_reads_it_too() {
    let world = world();
    let (fake, _) = start(&world).await;
    let map = cloud_map(&fake);
    let namespace = world.create_namespace_as("n", "n-http", NamespaceKind::Http).unwrap();
    let id = world.create_map_service(&namespace, "s", HealthCheck::None).unwrap();
    for number in 0..150_u8 {
        world.register_address(&id, &format!("i{number}"), [10, 0, 0, number].into(), 80).unwrap();
    }
    let shown = map.get_namespace().id(&namespace).send().await.unwrap();
    let properties = shown.namespace().and_then(|ns| ns.properties()).and_then(|p| p.http_properties());
    assert_eq!(properties.and_then(|p| p.http_name()), Some("n-http"));
    let pages = map.list_instances().service_id(&id).into_paginator().send();
    let pages = pages.collect::<Result<Vec<_>, _>>().await.unwrap();
    assert_eq!(pages.iter().map(|page| page.instances().len()).collect::<Vec<_>>(), [100, 50]);
    fake.faults().set(Fault::Throttle);
    let error = map.list_namespaces().send().await.unwrap_err();
    assert_eq!(error.into_service_error().code(), Some("RequestLimitExceeded"));
}
