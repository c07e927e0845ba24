//! Canonical bytes, shared resources and closed views; the golden pairs are in `tests/golden.rs`.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use envoy_types::pb::envoy::config::core::v3::HealthStatus;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier};
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::model::{
    Alias, Imported, Knobs, Protocol, Reason, Service, ServiceKey, State, Subset, Traits, Verdict,
};
use crate::snapshot::{ProxyClass, ResourceType};
use crate::vip;

mod again;
mod shifting;

fn service(name: &str, protocol: Protocol, port: u16, endpoints: &[u8]) -> Service {
    let spec = ServiceSpec {
        protocol,
        aliases: vec![Alias { name: name.into(), port }],
        ..ServiceSpec::new(ServiceKey::new("prod", name), "test")
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
        traits: Traits::default(),
        verdict: Verdict { state, reason },
        apart: None,
        is_alone: true,
    }
}

fn namespace(services: impl IntoIterator<Item = Service>) -> MeshNamespace {
    let services: crate::model::Services =
        services.into_iter().map(|service| (service.spec.key.name.clone(), service)).collect();
    let names: Vec<Arc<str>> = services.keys().map(ServiceName::shared).collect();
    let (addresses, _) = vip::assign("prod", &names, &BTreeMap::new());
    MeshNamespace {
        crews: OrdMap::new(),
        name: "prod".into(),
        services,
        addresses: Arc::new(addresses),
        defaults: Knobs::default(),
        imported: Imported::default(),
    }
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

fn listeners(tables: &Tables, class: ProxyClass) -> Vec<&str> {
    let listeners = tables[ResourceType::Listener].values();
    listeners.filter(|it| it.only_for == Some(class)).map(|it| &*it.name).collect()
}

#[test]
fn views_are_closed_and_empty_services_have_an_empty_assignment() {
    let tables = Translator::default().translate(&namespace(estate()));
    assert_eq!(tables.dangling(), None);
    assert!(tables[ResourceType::Endpoint].contains_key("prod/search"));
    assert_eq!(
        listeners(&tables, ProxyClass::Sidecar),
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
fn a_service_described_anew_is_encoded_again_alone() {
    let before = namespace(estate());
    let mut translator = Translator::default();
    let old = translator.translate(&before);
    let mut after = before.clone();
    let payments = after.services.get_mut("payments").unwrap();
    Arc::make_mut(&mut payments.spec).knobs.retry_attempts = Some(0);
    let new = translator.translate(&after);
    let each = ResourceType::ALL.into_iter().flat_map(|kind| new[kind].values());
    let again = each.filter(|resource| !Arc::ptr_eq(resource, &old[resource.kind][&resource.name]));
    let names: BTreeSet<_> = again.map(|resource| resource.name.split(['.', ':']).next().unwrap()).collect();
    assert_eq!(names, ["payments", "prod/@http-proxy", "prod/payments"].into());
}

#[test]
fn where_something_is_written_is_nothing_to_envoy() {
    let before = namespace(estate());
    let mut translator = Translator::default();
    let old = translator.translate(&before);
    let mut after = before.clone();
    let payments = after.services.get_mut("payments").unwrap();
    Arc::make_mut(&mut payments.spec).origin = "elsewhere".into();
    let new = translator.translate(&after);
    let each = ResourceType::ALL.into_iter().flat_map(|kind| new[kind].values());
    let again: Vec<_> =
        each.filter(|it| !Arc::ptr_eq(it, &old[it.kind][&it.name])).map(|it| &it.name).collect();
    assert!(again.is_empty(), "{again:?}");
}

#[test]
fn an_alias_that_goes_over_to_another_service_keeps_its_listener() {
    let before =
        Translator::default().translate(&namespace([service("payments", Protocol::Http, 8080, &[2])]));
    let mut heir = service("payments-2", Protocol::Http, 8080, &[3]);
    let spec = Arc::make_mut(&mut heir.spec);
    spec.aliases = vec![Alias { name: "payments".into(), port: 8080 }];
    let mut after = namespace([heir]);
    let (addresses, _) = vip::assign("prod", &["payments".into()], &BTreeMap::new());
    after.addresses = Arc::new(addresses);
    let after = Translator::default().translate(&after);
    let version = |tables: &Tables, kind| tables[kind]["prod/payments:8080"].version;
    assert_eq!(version(&before, ResourceType::Listener), version(&after, ResourceType::Listener));
    assert_ne!(version(&before, ResourceType::Route), version(&after, ResourceType::Route));
    let leads_to = &after[ResourceType::Route]["prod/payments:8080"].depends_on;
    assert_eq!(leads_to[..], [(ResourceType::Cluster, "prod/payments-2".into())]);
}

#[test]
fn a_name_without_a_port_follows_the_service_that_it_means() {
    let routes_of =
        |tables: &Tables, name: &str| tables[ResourceType::Listener][name].depends_on[0].1.to_string();
    let shared = |port| {
        let mut search = service("search", Protocol::Http, port, &[]);
        Arc::make_mut(&mut search.spec).aliases[0].name = "payments".into();
        search
    };
    let mut translator = Translator::default();
    let one =
        translator.translate(&namespace([service("payments", Protocol::Http, 8080, &[]), shared(9000)]));
    assert_eq!(
        listeners(&one, ProxyClass::Grpc),
        [
            "payments",
            "payments.prod",
            "payments.prod:8080",
            "payments.prod:9000",
            "payments:8080",
            "payments:9000"
        ]
    );
    assert_eq!(routes_of(&one, "payments"), "prod/payments", "the lowest port, where nobody has port 80");
    let other =
        translator.translate(&namespace([service("payments", Protocol::Http, 8080, &[]), shared(80)]));
    assert_eq!(routes_of(&other, "payments"), "prod/search");
    assert_eq!(routes_of(&other, "payments.prod"), "prod/search");
    assert_eq!(routes_of(&other, "payments:8080"), "prod/payments");
    assert_eq!(
        versions(&other),
        versions(
            &Translator::default()
                .translate(&namespace([service("payments", Protocol::Http, 8080, &[]), shared(80),]))
        ),
        "whatever was before"
    );
}

#[test]
fn the_host_routed_proxy_and_grpc_know_the_same_names() {
    let tables = Translator::default().translate(&namespace(estate()));
    let routes = &tables[ResourceType::Route]["prod/@http-proxy"];
    let mut hosts = domains(routes);
    hosts.retain(|host| host != "*");
    hosts.sort();
    assert_eq!(listeners(&tables, ProxyClass::Grpc), hosts);
}

fn domains(routes: &Resource) -> Vec<String> {
    let routes = RouteConfiguration::decode(&*routes.any().unwrap().value).unwrap();
    routes.virtual_hosts.into_iter().flat_map(|host| host.domains).collect()
}

fn proxy_routes(namespace: &crate::model::Namespace, specs: &[Arc<ServiceSpec>]) -> Resource {
    let names = host::names(namespace, specs);
    let named = specs.iter().filter_map(|spec| Some((spec, names.get(&spec.key)?)));
    let hosts: Vec<_> =
        named.map(|(spec, names)| route::host(spec, names, &|_: &ServiceName| None)).collect();
    route::proxy_routes(namespace, hosts.iter())
}

#[test]
fn no_two_virtual_hosts_share_a_domain() {
    let aliases = [("payments", 8080), ("payments.prod", 8080), ("payments.prod.prod", 80), ("payments", 80)];
    let specs: Vec<_> = (0..4)
        .map(|n| {
            let mut service = service(&format!("service-{n}"), Protocol::Http, 80, &[]);
            let (name, port) = aliases[n];
            Arc::make_mut(&mut service.spec).aliases = vec![Alias { name: name.into(), port }];
            service.spec
        })
        .collect();
    let prod = "prod".into();
    let domains = domains(&proxy_routes(&prod, &specs));
    let distinct: BTreeSet<_> = domains.iter().collect();
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

    /// `xds.md`, item 92: gRPC refuses the whole assignment, or skips a locality without a word.
    #[test]
    fn a_load_assignment_is_one_that_grpc_takes(endpoints in prop::collection::vec(any_endpoint(), 0..12)) {
        let spec = ServiceSpec::new(ServiceKey::new("prod", "payments"), "test");
        let resource = endpoint::load_assignment(&spec, &Subset::default(), &endpoints);
        let assignment = ClusterLoadAssignment::decode(&*resource.any().unwrap().value).unwrap();
        let (mut localities, mut places) = (BTreeSet::new(), BTreeSet::new());
        for group in &assignment.endpoints {
            let locality = group.locality.as_ref().expect("a locality");
            prop_assert_eq!(group.priority, 0, "priorities are contiguous from 0");
            let place = (locality.region.clone(), locality.zone.clone(), locality.sub_zone.clone());
            prop_assert!(localities.insert(place), "two equal localities");
            let healthy = group.lb_endpoints.iter().filter(|it| it.health_status() == HealthStatus::Healthy);
            let weight = group.load_balancing_weight.map(|weight| weight.value as usize);
            prop_assert_eq!(weight, Some(healthy.count()).filter(|usable| *usable > 0));
            for it in &group.lb_endpoints {
                let Some(HostIdentifier::Endpoint(host)) = &it.host_identifier else { panic!("no endpoint") };
                prop_assert!(places.insert(host.encode_to_vec()), "a place twice");
            }
        }
        let present = endpoints.iter().filter(|it| it.verdict.state != State::Absent);
        let present: BTreeSet<_> = present.filter_map(|it| it.address.zip(it.port)).collect();
        prop_assert_eq!(places.len(), present.len(), "nobody is lost");
    }
}

/// Few places and zones, so that many coincide.
fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let zone = prop::option::of(prop::sample::select(vec!["", "eu-west-1a", "eu-west-1b"]));
    let state = [State::Healthy, State::Draining, State::Unhealthy, State::Absent];
    let port = prop::option::of(8080_u16..8082);
    (0_u8..9, 1_u8..4, port, zone, prop::sample::select(state.to_vec())).prop_map(
        |(n, host, port, zone, state)| Endpoint {
            instance: format!("task/{n}").into(),
            address: Some(Ipv4Addr::new(10, 0, 0, host).into()),
            port,
            zone: zone.map(Arc::from),
            traits: Traits::default(),
            verdict: Verdict { state, reason: Reason::Ready },
            apart: None,
            is_alone: true,
        },
    )
}

#[test]
fn imported_services_have_their_long_name_and_the_short_one_where_nobody_has_it() {
    let of = |namespace: &str, name: &str, port| {
        let service = service(name, Protocol::Http, port, &[2]);
        let key = ServiceKey::new(namespace, name);
        Service { spec: Arc::new(ServiceSpec { key, ..(*service.spec).clone() }), ..service }
    };
    let mut scope = namespace([of("prod", "payments", 8080), of("prod", "mail", 25)]);
    let foreign = [("shared", "audit", 80), ("shared", "mail", 80), ("tools", "audit", 80)];
    let mut addresses = crate::model::ForeignAddresses::new();
    for (home, name, port) in foreign {
        let services = scope.imported.services.entry(home.into()).or_default();
        services.insert(name.into(), of(home, name, port));
        addresses.insert((home.into(), name.into()), vip::address(home, name, 0));
    }
    scope.imported.addresses = Arc::new(addresses);
    let mut translator = Translator::default();
    let tables = translator.translate(&scope);
    assert_eq!(tables.dangling(), None);
    let clusters: Vec<_> = tables[ResourceType::Cluster].keys().map(|name| &**name).collect();
    assert_eq!(clusters, ["prod/mail", "prod/payments", "shared/audit", "shared/mail", "tools/audit"]);
    assert!(listeners(&tables, ProxyClass::Sidecar).contains(&"shared/audit:80"));
    let specs: Vec<_> = scope.all().map(|service| Arc::clone(&service.spec)).collect();
    let names = host::names(&scope.name, &specs);
    let names = |namespace, name| names[&ServiceKey::new(namespace, name)].join(" ");
    assert_eq!(names("shared", "audit"), "audit:80 audit.shared:80 audit audit.shared");
    assert_eq!(names("shared", "mail"), "mail.shared:80 mail.shared", "prod has a mail");
    assert_eq!(names("tools", "audit"), "audit.tools:80 audit.tools", "shared comes first");
    assert_eq!(names("prod", "mail"), "mail:25 mail.prod:25 mail mail.prod");
    // Again from nothing it is the same, and what is imported no longer leaves nothing behind.
    assert_eq!(versions(&tables), versions(&Translator::default().translate(&scope)));
    scope.imported = Imported::default();
    let alone = translator.translate(&scope);
    assert_eq!(versions(&alone), versions(&Translator::default().translate(&scope)));
}

/// Whoever may see something of a home is told by its name, for only names and bytes are compared.
#[test]
fn what_goes_over_to_another_home_has_another_name() {
    let inbound = |home: &str| {
        let mut service = service("payments", Protocol::Http, 8080, &[2]);
        let spec = Arc::make_mut(&mut service.spec);
        (spec.home, spec.knobs.inbound_port) = (home.into(), Some(15_006));
        let tables = Translator::default().translate(&namespace([service]));
        let listeners = tables[ResourceType::Listener].values().filter(|it| it.home.is_some());
        listeners.map(|it| it.name.clone()).collect::<Vec<_>>()
    };
    let (old, new) = (inbound("payments"), inbound("payments-v2"));
    assert_eq!((old.len(), new.len()), (1, 1));
    assert_ne!(old, new);
}
