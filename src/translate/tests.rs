//! Canonical bytes, shared resources and closed views; the golden pairs are in `tests/golden.rs`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::model::{Alias, Knobs, Protocol, Readiness, Reason, Service, ServiceKey, State, Verdict};
use crate::snapshot::ResourceType;
use crate::vip;

fn service(name: &str, protocol: Protocol, port: u16, endpoints: &[u8]) -> Service {
    let spec = ServiceSpec {
        key: ServiceKey::new("prod", name),
        protocol,
        aliases: vec![Alias { name: name.into(), port }],
        knobs: Knobs::default(),
        readiness: Readiness::Healthy,
        created_at: None,
        origin: "test".into(),
    };
    Service { spec: Arc::new(spec), endpoints: endpoints.iter().map(|n| endpoint(*n)).collect() }
}

fn endpoint(n: u8) -> Endpoint {
    let (state, reason) = match n % 4 {
        0 => (State::Absent, Reason::Starting),
        1 => (State::Unhealthy, Reason::ContainerUnhealthy),
        _ => (State::Healthy, Reason::Ready),
    };
    Endpoint {
        instance: format!("task/{n}").into(),
        address: Some(Ipv4Addr::new(10, 0, 0, n).into()),
        port: Some(8080),
        zone: (!n.is_multiple_of(5)).then(|| format!("eu-west-1{}", char::from(b'a' + n % 3)).into()),
        verdict: Verdict { state, reason },
    }
}

fn namespace(services: impl IntoIterator<Item = Service>) -> MeshNamespace {
    let services: BTreeMap<_, _> =
        services.into_iter().map(|service| (service.spec.key.name.clone(), service)).collect();
    let names: Vec<Arc<str>> = services.keys().map(ServiceName::shared).collect();
    let (addresses, _) = vip::assign("prod", &names);
    MeshNamespace { name: "prod".into(), services, addresses: Arc::new(addresses) }
}

fn estate() -> Vec<Service> {
    vec![
        service("payments", Protocol::Http, 8080, &[1, 2, 3, 4, 5, 6]),
        service("ledger", Protocol::Grpc, 50051, &[7, 8]),
        service("search", Protocol::Http2, 80, &[]),
        service("redis", Protocol::Tcp, 6379, &[9]),
    ]
}

fn versions(tables: &Tables) -> Vec<(ResourceType, String, String)> {
    let each = ResourceType::ALL.into_iter().flat_map(|kind| tables[kind].values());
    each.map(|r| (r.kind, r.name.to_string(), r.version.to_string())).collect()
}

#[test]
fn views_are_closed_and_empty_services_have_an_empty_assignment() {
    let tables = Translator::default().translate(&namespace(estate()));
    assert_eq!(tables.dangling(), None);
    assert!(tables[ResourceType::Endpoint].contains_key("prod/search"));
    let listeners: Vec<_> = tables[ResourceType::Listener].keys().map(ToString::to_string).collect();
    assert_eq!(
        listeners,
        ["prod/@http-proxy", "prod/ledger:50051", "prod/payments:8080", "prod/redis:6379", "prod/search:80"]
    );
}

#[test]
fn what_did_not_change_is_the_same_resource() {
    let before = namespace(estate());
    let mut translator = Translator::default();
    let old = translator.translate(&before);
    let mut after = before.clone();
    let payments = after.services.get_mut("payments").unwrap();
    payments.endpoints =
        payments.endpoints.iter().filter(|e| *e.instance.as_str() != *"task/2").cloned().collect();
    let new = translator.translate(&after);
    let changed: Vec<_> = ResourceType::ALL
        .into_iter()
        .flat_map(|kind| new[kind].values())
        .filter(|resource| !Arc::ptr_eq(resource, &old[resource.kind][&resource.name]))
        .map(|resource| (resource.kind, resource.name.to_string()))
        .collect();
    assert_eq!(changed, [(ResourceType::Endpoint, "prod/payments".to_owned())]);
}

#[test]
fn no_two_virtual_hosts_share_a_domain() {
    use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
    use prost::Message;
    let aliases = [("payments", 8080), ("payments.prod", 8080), ("payments.prod.prod", 80), ("payments", 80)];
    let specs: Vec<_> = (0..4)
        .map(|n| {
            let mut service = service(&format!("service-{n}"), Protocol::Http, 80, &[]);
            let (name, port) = aliases[n];
            Arc::make_mut(&mut service.spec).aliases = vec![Alias { name: name.into(), port }];
            service.spec
        })
        .collect();
    let routes = route::proxy_routes(&"prod".into(), &specs);
    let routes = RouteConfiguration::decode(&*routes.any().unwrap().value).unwrap();
    let domains: Vec<_> = routes.virtual_hosts.iter().flat_map(|host| &host.domains).collect();
    let distinct: std::collections::BTreeSet<_> = domains.iter().collect();
    assert_eq!(distinct.len(), domains.len(), "{domains:?}");
}

/// Versions that this estate has had since the first release: if they change, every sidecar rebuilds what it
/// holds when Legation is upgraded, so a change here is a decision.
#[test]
fn the_bytes_are_the_same_in_any_process_and_release() {
    let tables = Translator::default().translate(&namespace(estate()));
    let lines: Vec<_> = versions(&tables)
        .into_iter()
        .map(|(kind, name, version)| format!("{} {name} {version}", kind.short()))
        .collect();
    expect_test::expect_file!["../../tests/golden/versions.txt"].assert_eq(&(lines.join("\n") + "\n"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_in_which_things_are_told_does_not_matter(
        services in Just(estate()).prop_shuffle(),
        endpoints in Just(vec![1_u8, 2, 3, 4, 5, 6]).prop_shuffle(),
    ) {
        let mut shuffled = services;
        for service in &mut shuffled {
            if service.spec.key.name.as_str() == "payments" {
                service.endpoints = endpoints.iter().map(|n| endpoint(*n)).collect();
            }
        }
        let expected = Translator::default().translate(&namespace(estate()));
        let got = Translator::default().translate(&namespace(shuffled));
        prop_assert_eq!(versions(&got), versions(&expected));
    }
}
