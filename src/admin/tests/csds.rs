//! What each client holds, in Envoy's own words.

use envoy_types::pb::envoy::service::status::v3::ClientStatusRequest;

use super::super::csds::Csds;
use super::*;

/// Each resource of each client as `client name config-status client-status`.
fn told(world: &World, request: &ClientStatusRequest) -> Vec<String> {
    let csds = Csds { clients: world.state.clients.clone() };
    let answer = csds.answer(request).unwrap();
    let each = answer.config.iter().flat_map(|client| {
        let id = &client.node.as_ref().unwrap().id;
        client.generic_xds_configs.iter().map(move |it| {
            let shown = it.xds_config.as_ref().map_or("nothing", |_| "its content");
            let error = it.error_state.as_ref().map_or("", |error| &error.details);
            let (config, client) = (it.config_status().as_str_name(), it.client_status().as_str_name());
            format!("{id} {} {config} {client} {shown} {error}", it.name).trim_end().to_owned()
        })
    });
    each.collect()
}

fn answer(session: &mut Session, error: Option<&str>) {
    let response = session.next_response(Instant::now()).unwrap();
    let request = session::Request {
        type_url: ResourceType::Endpoint.type_url().to_owned(),
        names: Names::Increment(Vec::new(), Vec::new()),
        nonce: response.nonce.to_string(),
        error: error.map(ToOwned::to_owned),
        ..Default::default()
    };
    session.on_request(request).unwrap();
}

#[test]
fn every_resource_of_every_client_has_its_state() {
    let mut world = world();
    world.publish();
    let (mut sent, mut synced, mut refusing) = (world.session(), world.session(), world.session());
    sent.next_response(Instant::now()).unwrap();
    answer(&mut synced, None);
    answer(&mut refusing, Some("bad endpoint"));
    let asking = world.session();
    for (id, session) in [("asking", asking), ("refusing", refusing), ("sent", sent), ("synced", synced)] {
        world.connect_session(id, 0, Progress::default(), session);
    }
    let everyone = ClientStatusRequest::default();
    expect_test::expect![[r#"
        [
            "asking prod/payments NOT_SENT REQUESTED nothing",
            "refusing prod/payments ERROR NACKED nothing bad endpoint",
            "sent prod/payments STALE REQUESTED its content",
            "synced prod/payments SYNCED ACKED its content",
        ]
    "#]]
    .assert_debug_eq(&told(&world, &everyone));
    let bare = ClientStatusRequest { exclude_resource_contents: true, ..Default::default() };
    assert!(told(&world, &bare).iter().all(|line| line.contains(" nothing")));
}

#[test]
fn a_client_is_found_by_its_id_and_by_nothing_else() {
    use envoy_types::pb::envoy::r#type::matcher::v3::{
        NodeMatcher, RegexMatcher, StringMatcher, string_matcher::MatchPattern,
    };
    let mut world = world();
    world.publish();
    for id in ["checkout-1", "checkout-2", "web-1"] {
        world.connect(id, 1, Progress::default());
    }
    let request = |pattern: MatchPattern, ignore_case| {
        let node_id = Some(StringMatcher { match_pattern: Some(pattern), ignore_case });
        let matcher = NodeMatcher { node_id, ..Default::default() };
        ClientStatusRequest { node_matchers: vec![matcher], ..Default::default() }
    };
    for (pattern, ignore_case, count) in [
        (MatchPattern::Exact("web-1".to_owned()), false, 1),
        (MatchPattern::Exact("WEB-1".to_owned()), false, 0),
        (MatchPattern::Exact("WEB-1".to_owned()), true, 1),
        (MatchPattern::Prefix("checkout".to_owned()), false, 2),
        (MatchPattern::Suffix("-1".to_owned()), false, 2),
        (MatchPattern::Contains("out".to_owned()), false, 2),
    ] {
        assert_eq!(told(&world, &request(pattern.clone(), ignore_case)).len(), count, "{pattern:?}");
    }
    let csds = Csds { clients: world.state.clients.clone() };
    let regex = MatchPattern::SafeRegex(RegexMatcher { regex: ".*".to_owned(), ..Default::default() });
    let status = csds.answer(&request(regex, false)).unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
}
