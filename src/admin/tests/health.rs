//! Liveness and readiness.

use super::*;
use expect_test::expect;

#[tokio::test]
async fn not_ready_before_every_source_has_spoken() {
    let world = world();
    world.cloud_map.fail(throttled());
    let (status, text) = world.metrics("/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    expect![[r#"
        [-]ecs/prod-a waiting for the first complete reading
        [-]cloudmap/prod/map waiting for the first complete reading: last error servicediscovery:ListServices: ThrottlingException: Rate …
        [-]snapshot is not published yet
        [+]shutdown not asked for
        not ready
    "#]].assert_eq(&text);
    assert_eq!(world.metrics("/livez").await, (StatusCode::OK, "ok\n".to_owned()));
}

#[tokio::test]
async fn ready_even_if_aws_is_down_later_and_not_while_stopping() {
    let world = world();
    world.publish();
    assert_eq!(world.metrics("/readyz").await, (StatusCode::OK, "ready\n".to_owned()));
    world.cloud_map.fail(throttled());
    let (status, text) = world.metrics("/readyz?verbose").await;
    assert_eq!(status, StatusCode::OK);
    expect![[r#"
        [+]ecs/prod-a ok
        [+]cloudmap/prod/map ok, from an earlier reading: last error servicediscovery:ListServices: ThrottlingException: Rate …
        [+]snapshot ok
        [+]shutdown not asked for
        ready
    "#]].assert_eq(&text);
    world.state.stopping.cancel();
    let (status, text) = world.metrics("/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(text.contains("[-]shutdown is under way\nnot ready\n"), "{text}");
}

#[tokio::test]
async fn a_queue_of_events_keeps_nobody_waiting_and_is_told_when_it_fails() {
    let mut world = world();
    world.publish();
    let (queue, queue_cell) = cell("events/legation");
    world.state.queue = Some(queue_cell);
    assert_eq!(world.metrics("/readyz").await, (StatusCode::OK, "ready\n".to_owned()), "nothing came yet");
    queue.fail(throttled());
    let (status, text) = world.metrics("/readyz?verbose").await;
    assert_eq!(status, StatusCode::OK);
    let told = "[+]events/legation fails, so that stops are seen by readings alone: ";
    assert!(text.contains(told), "{text}");
    let (_, metrics) = world.metrics("/metrics").await;
    assert!(metrics.contains("legation_source_failing{source=\"events/legation\"} 1"), "{metrics}");
}
