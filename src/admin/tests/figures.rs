//! What Prometheus reads.

use super::*;

#[tokio::test]
async fn every_line_is_prometheus_text_and_every_name_ends_as_it_should() {
    let mut world = world();
    world.publish();
    world.cloud_map.fail(throttled());
    world.connect("checkout-1", 0, Progress::default());
    world.withdraw();
    let labels = TypeLabels { namespace: "prod".to_owned(), r#type: "EDS" };
    world.metrics.nacks.get_or_create(&labels).inc();
    let (status, text) = world.metrics("/metrics").await;
    assert_eq!(status, StatusCode::OK);

    let mut kinds = std::collections::BTreeMap::new();
    for line in text.lines() {
        if let Some(described) = line.strip_prefix("# TYPE ") {
            let (name, kind) = described.split_once(' ').unwrap();
            assert!(kinds.insert(name, kind).is_none(), "{name} is described twice");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
        let name = series.split('{').next().unwrap();
        let family =
            ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(kinds.contains_key(name) || kinds[family] == "histogram", "{line} is not described");
        assert!(name.starts_with("legation_"), "{line}");
        assert!(!series.contains("payments-"), "a task id in a label: {line}");
    }
    for wanted in [
        "legation_source_failing{source=\"cloudmap/prod/map\"} 1.0",
        "legation_source_failing{source=\"ecs/prod-a\"} 0.0",
        "legation_config_last_reload_successful 1.0",
        "legation_config_rejected_reloads_total 0",
        "legation_source_readings_total{source=\"ecs/prod-a\"} 1",
        "legation_source_errors_total{source=\"cloudmap/prod/map\"} 1",
        "legation_services{namespace=\"prod\"} 2.0",
        "legation_endpoints{namespace=\"prod\",az=\"eu-west-1b\",state=\"absent\",reason=\"starting\"} 1.0",
        "legation_proxies{namespace=\"prod\",state=\"stale\"} 1.0",
        "legation_proxies{namespace=\"prod\",state=\"nacked\"} 0.0",
        "legation_withdrawals_pending{namespace=\"prod\"} 1.0",
        "legation_findings{code=\"SRC002\"} 1.0",
        "legation_findings{code=\"PORT001\"} 1.0",
        "legation_xds_nacks_total{namespace=\"prod\",type=\"EDS\"} 1",
    ] {
        assert!(text.lines().any(|line| line == wanted), "{wanted} is not in\n{text}");
    }
    for wanted in [
        "legation_source_age_seconds{",
        "legation_source_last_success_timestamp_seconds{",
        "legation_build_info{",
        "legation_config_last_reload_success_timestamp_seconds 1",
    ] {
        assert!(text.contains(wanted), "{wanted}");
    }
}

#[tokio::test]
async fn prometheus_gets_open_metrics() {
    let world = world();
    let request = Request::get("/metrics")
        .header(header::ACCEPT, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
        .body(Body::empty())
        .unwrap();
    let response = metrics_router(world.state.clone()).oneshot(request).await.unwrap();
    assert!(
        response.headers()[header::CONTENT_TYPE]
            .to_str()
            .unwrap()
            .starts_with("application/openmetrics-text")
    );
    let (_, text) = text(response).await;
    assert!(text.ends_with("# EOF\n"), "{text}");
    let (_, classic) = world.metrics("/metrics").await;
    assert!(!classic.contains("# EOF"));
}

#[tokio::test]
async fn a_rejected_policy_is_a_figure() {
    let mut world = world();
    let mut rejected = Loaded::none();
    rejected.rejected = [crate::diagnostic::Problem::whole("policy.yaml", "CFG001", "unknown key")].into();
    (rejected.rejections, rejected.good_at) = (3, at(0));
    world.state.policy = watch::channel(rejected).1;
    let (_, text) = world.metrics("/metrics").await;
    for wanted in [
        "legation_config_last_reload_successful 0.0",
        "legation_config_last_reload_success_timestamp_seconds 1767225600.0",
        "legation_config_rejected_reloads_total 3",
        "legation_findings{code=\"CFG003\"} 1.0",
    ] {
        assert!(text.lines().any(|line| line == wanted), "{wanted} is not in\n{text}");
    }
}
