//! What is not answered, and how.

use super::*;

async fn message(world: &World, path: &str, expected: StatusCode) -> String {
    let (status, body) = world.admin(path).await;
    assert_eq!(status, expected, "{path}");
    format!("{}: {}", body["error"]["code"].as_str().unwrap(), body["error"]["message"].as_str().unwrap())
}

#[tokio::test]
async fn what_is_not_there_and_what_was_perhaps_meant() {
    let world = world();
    let early = message(&world, "/api/v1/namespaces/prod/services", StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(early.starts_with("NOT_READY: nothing is served until"), "{early}");
    world.publish();
    for (path, expected) in [
        ("/api/v1/namespaces/prd/services", "NOT_FOUND: no namespace `prd`; did you mean `prod`?"),
        ("/api/v1/namespaces/prd/resources/clusters", "NOT_FOUND: no namespace `prd`; did you mean `prod`?"),
        (
            "/api/v1/namespaces/prod/services/payment",
            "NOT_FOUND: no service in namespace `prod` called `payment`; did you mean `payments`?",
        ),
        (
            "/api/v1/namespaces/prod/resources/cluster",
            "NOT_FOUND: no resource type `cluster`; did you mean `clusters`?",
        ),
        ("/api/v1/changes/1", "NOT_FOUND: no change `1`: none has happened yet"),
        ("/api/v1/changes/x", "NOT_FOUND: no change `x`: none has happened yet"),
        ("/api/v1/proxys", "NOT_FOUND: no such path `/api/v1/proxys`; did you mean `/api/v1/proxies`?"),
        ("/", "NOT_FOUND: no such path `/`"),
    ] {
        assert_eq!(message(&world, path, StatusCode::NOT_FOUND).await, expected);
    }
}

#[tokio::test]
async fn a_page_elsewhere_can_not_read_through_its_visitors_browser() {
    let world = world();
    for (host, expected) in [
        ("127.0.0.1:19000", StatusCode::OK),
        ("[::1]:19000", StatusCode::OK),
        ("rebound.example.com:19000", StatusCode::FORBIDDEN),
        ("10.0.0.7:19000", StatusCode::FORBIDDEN),
    ] {
        let request = Request::get("/api/v1/status").header(header::HOST, host).body(Body::empty()).unwrap();
        let response = admin_router(world.state.clone()).oneshot(request).await.unwrap();
        assert_eq!(response.status(), expected, "{host}");
        assert!(!response.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
    }
    let absolute = Request::get("http://rebound.example.com/api/v1/status").header(header::HOST, "localhost");
    let response =
        admin_router(world.state.clone()).oneshot(absolute.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    let nameless = Request::get("/api/v1/status").body(Body::empty()).unwrap();
    let response = admin_router(world.state.clone()).oneshot(nameless).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn nothing_can_be_changed() {
    let world = world();
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        for path in ["/api/v1/status", "/nowhere"] {
            let request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
            let response = admin_router(world.state.clone())
                .oneshot(request.body(Body::empty()).unwrap())
                .await
                .unwrap();
            assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert_eq!(response.headers()[header::ALLOW], "GET, HEAD");
        }
        let request = Request::builder().method(method).uri("/metrics").body(Body::empty()).unwrap();
        let response = metrics_router(world.state.clone()).oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} /metrics");
    }
}

#[tokio::test]
async fn the_metrics_port_shows_nothing_else() {
    let world = world();
    world.publish();
    for (path, expected) in [
        ("/api/v1/status", "is this the admin address? its usual port is 19000"),
        ("/metric", "did you mean `/metrics`?"),
    ] {
        let (status, body) = world.metrics(path).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{body}");
        assert!(body.contains(expected), "{body}");
    }
}

#[tokio::test]
async fn a_path_that_is_no_text_is_told_like_anything_else() {
    let world = world();
    world.publish();
    for path in
        ["/api/v1/changes/%ff", "/api/v1/namespaces/%ff/services", "/api/v1/namespaces/prod/services/%ff"]
    {
        let told = message(&world, path, StatusCode::BAD_REQUEST).await;
        assert!(told.starts_with("BAD_PATH: Invalid URL: Invalid UTF-8"), "{told}");
    }
}

#[tokio::test]
async fn it_ends_when_told_even_if_a_caller_lingers() {
    let world = world();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(serve_admin(listener, world.state.clone(), shutdown.clone()));
    let mut lingering = tokio::net::TcpStream::connect(address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut lingering, b"GET /api").await.unwrap();
    world.state.stopping.cancel();
    assert!(!server.is_finished(), "it answers while the process drains");
    shutdown.cancel();
    tokio::time::timeout(LAST_ANSWERS * 5, server).await.unwrap().unwrap().unwrap();
}
