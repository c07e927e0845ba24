//! Parts of a service and shifts between its revisions: which clusters there are, and where requests go.
//!
//! Invariant: a view is closed whatever is shifted, and no listener changes.

use envoy_types::pb::envoy::config::endpoint::v3::LbEndpoint;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteAction, route, route_action::ClusterSpecifier};

use super::*;
use crate::model::{Action, Backend, Match, Revision, Rule, Shift, Subset, TestHeader, Which};

fn shift(blue: (u32, u32), green: (u32, u32)) -> Option<Arc<Shift>> {
    let revision =
        |id: &str, (production, test): (u32, u32)| Revision { id: id.into(), production, test, serves: true };
    let header = TestHeader { name: "x-test".into(), value: None };
    Some(Arc::new(Shift { revisions: vec![revision("1", blue), revision("2", green)], header }))
}

/// Three blue endpoints and one green one.
fn shifted(protocol: Protocol, shift: Option<Arc<Shift>>) -> Service {
    let mut service = service("payments", protocol, 8080, &[]);
    let spec = Arc::make_mut(&mut service.spec);
    spec.shift = shift;
    let awaits = |id: &str| {
        spec.shift.iter().flat_map(|it| &it.revisions).any(|it| *it.id == *id && it.production == 0)
    };
    let one = |n: u8| {
        let revision = if n == 14 { "2" } else { "1" };
        let traits = Traits { revision: Some(revision.into()), ..Traits::default() };
        let endpoint = Endpoint {
            traits,
            verdict: Verdict { state: State::Healthy, reason: Reason::Ready },
            ..endpoint(n)
        };
        if awaits(revision) {
            let verdict = Verdict { state: State::Absent, reason: Reason::AwaitingShift };
            Endpoint { verdict, apart: Some(State::Healthy), ..endpoint }
        } else {
            endpoint
        }
    };
    service.endpoints = [11, 12, 13, 14].into_iter().map(one).collect();
    service
}

fn rule(backends: Vec<Backend>) -> Rule {
    Rule {
        name: "rule".into(),
        matches: Match { path: crate::model::PathMatch::Prefix("/v2".into()), ..Match::default() },
        request_headers: Default::default(),
        response_headers: Default::default(),
        action: Action::Forward(backends),
        mirror: None,
        fault: Default::default(),
        knobs: Knobs::default(),
        origin: "policy.yaml:1".into(),
    }
}

fn names(tables: &Tables, kind: ResourceType) -> Vec<&str> {
    tables[kind].keys().map(|name| &**name).filter(|name| name.starts_with("prod/payments")).collect()
}

/// The endpoints of a load assignment: the end of the address, and the weight.
fn members(tables: &Tables, name: &str) -> Vec<(String, Option<u32>)> {
    let resource = &tables[ResourceType::Endpoint][name];
    let assignment = ClusterLoadAssignment::decode(&*resource.any().unwrap().value).unwrap();
    let place = |it: &LbEndpoint| {
        let Some(HostIdentifier::Endpoint(host)) = &it.host_identifier else { panic!("no endpoint") };
        let bytes = format!("{:?}", host.address);
        ["10.0.0.11", "10.0.0.12", "10.0.0.13", "10.0.0.14"]
            .into_iter()
            .find(|it| bytes.contains(it))
            .unwrap()[7..]
            .to_owned()
    };
    let all = assignment.endpoints.iter().flat_map(|it| &it.lb_endpoints);
    let mut all: Vec<_> = all.map(|it| (place(it), it.load_balancing_weight.map(|it| it.value))).collect();
    all.sort();
    all
}

/// Each route as `path headers → cluster*weight …`.
fn routes(tables: &Tables, name: &str) -> Vec<String> {
    let resource = &tables[ResourceType::Route][name];
    let configuration = RouteConfiguration::decode(&*resource.any().unwrap().value).unwrap();
    let to = |action: &RouteAction| match &action.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => name.clone(),
        Some(ClusterSpecifier::WeightedClusters(all)) => {
            let one = |it: &envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight| {
                format!("{}*{}", it.name, it.weight.map(|it| it.value).unwrap_or_default())
            };
            all.clusters.iter().map(one).collect::<Vec<_>>().join(" ")
        }
        other => panic!("{other:?}"),
    };
    let shown = |it: &Route| {
        let matches = it.r#match.as_ref().unwrap();
        let headers: Vec<_> = matches.headers.iter().map(|it| it.name.clone()).collect();
        let Some(route::Action::Route(action)) = &it.action else { panic!("{it:?}") };
        format!("{}[{}] {}", it.name, headers.join(","), to(action)).replace("prod/payments", "p")
    };
    configuration.virtual_hosts.iter().flat_map(|host| &host.routes).map(shown).collect()
}

#[test]
fn a_revision_that_awaits_its_shift_is_reached_by_tests_alone() {
    let tables =
        Translator::default().translate(&namespace([shifted(Protocol::Http, shift((1_000, 0), (0, 1_000)))]));
    assert_eq!(tables.dangling(), None);
    assert_eq!(names(&tables, ResourceType::Cluster), ["prod/payments", "prod/payments@revision=2"]);
    let green = [("14".to_owned(), None)];
    let blue = ["11", "12", "13"].map(|end| (end.to_owned(), None));
    assert_eq!(members(&tables, "prod/payments"), blue);
    assert_eq!(members(&tables, "prod/payments@revision=2"), green);
    assert_eq!(routes(&tables, "prod/payments:8080"), ["[x-test] p@revision=2", "[] p"]);
    assert_eq!(routes(&tables, "prod/payments"), ["[x-test] p@revision=2", "[] p"], "of gRPC libraries too");
}

#[test]
fn requests_are_split_by_weights_and_bytes_by_those_of_endpoints() {
    let split = || shift((900, 0), (100, 1_000));
    let tables = Translator::default().translate(&namespace([shifted(Protocol::Http, split())]));
    assert_eq!(tables.dangling(), None);
    let both = "[] p@revision=1*900 p@revision=2*100";
    assert_eq!(routes(&tables, "prod/payments:8080"), ["[x-test] p@revision=2", both]);
    let of = |weight| Some(weight);
    let weighed = [("11", of(300_000)), ("12", of(300_000)), ("13", of(300_000)), ("14", of(100_000))];
    assert_eq!(members(&tables, "prod/payments"), weighed.map(|(end, weight)| (end.to_owned(), weight)));
    let bytes = Translator::default().translate(&namespace([shifted(Protocol::Tcp, split())]));
    assert_eq!(members(&bytes, "prod/payments"), members(&tables, "prod/payments"));
}

#[test]
fn no_listener_changes_with_a_shift_and_in_the_end_all_is_as_before() {
    for protocol in [Protocol::Http, Protocol::Tcp] {
        let mut translator = Translator::default();
        let before = translator.translate(&namespace([shifted(protocol, None)]));
        for (blue, green) in [
            ((1_000, 0), (0, 0)),
            ((1_000, 0), (0, 1_000)),
            ((500, 0), (500, 1_000)),
            ((0, 0), (1_000, 1_000)),
        ] {
            let during = translator.translate(&namespace([shifted(protocol, shift(blue, green))]));
            assert_eq!(during.dangling(), None);
            let listeners = |tables: &Tables| {
                versions(tables).into_iter().filter(|it| it.0 == ResourceType::Listener).collect::<Vec<_>>()
            };
            assert_eq!(listeners(&during), listeners(&before));
        }
        let after = translator.translate(&namespace([shifted(protocol, None)]));
        assert_eq!(versions(&after), versions(&before));
    }
}

#[test]
fn rules_come_first_and_those_that_name_the_whole_service_follow_its_weights() {
    let version = Subset { version: Some("58".into()), ..Subset::default() };
    let whole = |weight| Backend { weight, ..Backend::all_of(&"payments".into()) };
    let mut payments = shifted(Protocol::Http, shift((750, 0), (250, 1_000)));
    let spec = Arc::make_mut(&mut payments.spec);
    spec.rules = [rule(vec![whole(3), Backend { subset: version.clone(), ..whole(1) }])].into();
    spec.subsets = [version].into();
    let mut checkout = service("checkout", Protocol::Http, 80, &[]);
    Arc::make_mut(&mut checkout.spec).rules = [rule(vec![whole(1)])].into();
    let mut translator = Translator::default();
    let tables = translator.translate(&namespace([payments.clone(), checkout.clone()]));
    assert_eq!(tables.dangling(), None);
    assert_eq!(
        routes(&tables, "prod/payments:8080"),
        [
            "rule[x-test] p@revision=2*3 p@58*1",
            "rule[] p@revision=1*2250 p@revision=2*750 p@58*1000",
            "[x-test] p@revision=2",
            "[] p@revision=1*750 p@revision=2*250"
        ]
    );
    let of_checkout = |tables: &Tables| routes(tables, "prod/checkout:80").remove(0);
    assert_eq!(of_checkout(&tables), "rule[] p@revision=1*750 p@revision=2*250");
    Arc::make_mut(&mut payments.spec).shift = shift((500, 0), (500, 1_000));
    let tables = translator.translate(&namespace([payments.clone(), checkout.clone()]));
    assert_eq!(
        of_checkout(&tables),
        "rule[] p@revision=1*500 p@revision=2*500",
        "though it is another's shift"
    );
    let fresh = Translator::default().translate(&namespace([payments, checkout]));
    assert_eq!(versions(&tables), versions(&fresh));
}

#[test]
fn each_part_has_the_endpoints_that_it_means() {
    let label = |value: &str| ("tier".into(), value.into());
    let part = |subset: Subset| Subset { ..subset };
    let primary = part(Subset { deployment: Some(Which::Primary), ..Subset::default() });
    let gold = part(Subset { labels: vec![label("gold")], ..Subset::default() });
    let mut payments = shifted(Protocol::Http, None);
    Arc::make_mut(&mut payments.spec).subsets = [gold, primary].into();
    let one = |endpoint: &Endpoint| {
        let is_new = endpoint.traits.revision.as_deref() == Some("2");
        let labels = Arc::new([label(if is_new { "gold" } else { "silver" })].into());
        let deployment = Some(if is_new { Which::Primary } else { Which::Previous });
        Endpoint { traits: Traits { labels, deployment, ..Traits::default() }, ..endpoint.clone() }
    };
    payments.endpoints = payments.endpoints.iter().map(one).collect();
    let tables = Translator::default().translate(&namespace([payments]));
    let parts = ["prod/payments", "prod/payments@deployment=primary", "prod/payments@label.tier=gold"];
    assert_eq!(names(&tables, ResourceType::Cluster), parts);
    assert_eq!(parts.map(|name| members(&tables, name).len()), [4, 1, 1]);
}

/// What Envoy gets while a canary has its tenth, in canonical JSON.
#[test]
fn the_routes_of_a_canary_are_golden() {
    let tables =
        Translator::default().translate(&namespace([shifted(Protocol::Http, shift((900, 0), (100, 1_000)))]));
    let json = |kind, name: &str| crate::admin::json::resource_json(&tables[kind][name]).unwrap();
    let both = serde_json::json!([
        json(ResourceType::Route, "prod/payments:8080"),
        json(ResourceType::Endpoint, "prod/payments"),
        json(ResourceType::Endpoint, "prod/payments@revision=2"),
    ]);
    expect_test::expect_file!["../../../tests/golden/shift/canary.out.json"]
        .assert_eq(&format!("{both:#}\n"));
}
