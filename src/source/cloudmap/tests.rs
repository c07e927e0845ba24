//! Tests of the Cloud Map source: the mapping, and readings against a scripted AWS.
//!
//! It is not code of the product.
//!
//! Invariant: the mapping is tested on the SDK's own types.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use aws_sdk_servicediscovery::types::{HealthStatus, HttpInstanceSummary};
use serde_json::{Value, json};

use super::members::{self, ServiceFacts};
use super::{CloudMapSource, Settings};
use crate::model::{Finding, Health, Member, Phase, Registration, ServiceKey, ServiceView};
use crate::source::Sweep;
use crate::source::aws::scripted::{Answer, Scripted};

fn instance(id: &str, attributes: &[(&str, &str)]) -> HttpInstanceSummary {
    let base = HttpInstanceSummary::builder().instance_id(id);
    attributes.iter().fold(base, |built, (key, value)| built.attributes(*key, *value)).build()
}

fn facts(name: &str, instances: &[HttpInstanceSummary]) -> ServiceFacts {
    members::service(name, instances).expect("complete")
}

fn registered(instance: HttpInstanceSummary) -> Registration {
    facts("ledger", &[instance]).instances.remove(0).registration
}

type Seen = imbl::OrdMap<ServiceKey, Arc<ServiceView>>;

fn view(services: Vec<ServiceFacts>, before: &Seen) -> (Seen, Vec<Finding>) {
    members::view(&"prod".into(), "prod.local", services, before)
}

/// The view of one service called ledger, as `protocol alias…`, with its findings.
fn described(instances: &[HttpInstanceSummary]) -> (String, Vec<Finding>) {
    let (seen, findings) = view(vec![facts("ledger", instances)], &Seen::new());
    let spec = &seen.get(&ServiceKey::new("prod", "ledger")).expect("the service").spec;
    let aliases: String = spec.aliases.iter().map(|alias| format!(" {alias}")).collect();
    (format!("{}{aliases}", spec.protocol.as_str()), findings)
}

#[test]
fn attributes_become_a_registration() {
    let all = [
        ("AWS_INSTANCE_IPV4", "10.0.0.1"),
        ("AWS_INSTANCE_IPV6", "fd00::1"),
        ("AWS_INSTANCE_PORT", "9000"),
        ("AVAILABILITY_ZONE", "eu-west-1a"),
        ("ECS_CLUSTER_NAME", "prod-a"),
        ("ECS_SERVICE_NAME", "payments"),
    ];
    let one = registered(instance("i-1", &all));
    assert_eq!(one.instance.as_str(), "i-1");
    assert_eq!(one.address.map(|address| address.to_string()).as_deref(), Some("10.0.0.1"));
    assert_eq!((one.port, one.zone.as_deref()), (Some(9000), Some("eu-west-1a")));
    assert_eq!(
        one.member,
        Member::CloudMap { cluster: Some("prod-a".into()), service: Some("payments".into()) }
    );
    assert_eq!((one.phase, one.foreign_tls), (Phase::Running(Health::NoCheck), false));
    let six = registered(instance("i", &[("AWS_INSTANCE_IPV6", "fd00::1"), ("AvailabilityZone", "b")]));
    assert_eq!(six.address.map(|address| address.to_string()).as_deref(), Some("fd00::1"));
    assert_eq!(
        (six.zone.as_deref(), six.member),
        (Some("b"), Member::CloudMap { cluster: None, service: None })
    );
    for port in ["0", "65536", "http", "", "-1"] {
        let odd =
            registered(instance("i", &[("AWS_INSTANCE_IPV4", "db.local"), ("AWS_INSTANCE_PORT", port)]));
        assert_eq!((odd.address, odd.port), (None, None), "{port}");
    }
    let nameless = HttpInstanceSummary::builder().build();
    assert_eq!(members::service("x", &[nameless]), Err("InstanceId"));
}

#[test]
fn health_is_cloud_maps_word() {
    for (status, health) in [
        (Some(HealthStatus::Healthy), Health::Healthy),
        (Some(HealthStatus::Unhealthy), Health::Unhealthy { gate_over: true }),
        (Some(HealthStatus::UnknownValue), Health::NoCheck),
        (Some(HealthStatus::from("NEW")), Health::NoCheck),
        (None, Health::NoCheck),
    ] {
        let one = HttpInstanceSummary::builder().instance_id("i").set_health_status(status).build();
        assert_eq!(registered(one).phase, Phase::Running(health));
    }
}

#[test]
fn instances_describe_their_service() {
    let port = |id: &str, port: &str| instance(id, &[("AWS_INSTANCE_PORT", port)]);
    assert_eq!(described(&[port("a", "9001"), port("b", "9000")]), ("tcp ledger:9000".into(), vec![]));
    assert_eq!(described(&[instance("a", &[])]), ("tcp".into(), vec![]));
    let said = [
        ("AWS_INSTANCE_PORT", "9000"),
        ("legation.protocol", "grpc"),
        ("legation.alias", "books:80 books:81"),
    ];
    assert_eq!(described(&[instance("a", &said), port("b", "1")]), ("grpc books:80 books:81".into(), vec![]));
    let (text, findings) =
        described(&[instance("a", &[("legation.protocol", "grcp"), ("AWS_INSTANCE_PORT", "1")])]);
    assert_eq!((text.as_str(), findings.len(), findings[0].code), ("tcp ledger:1", 1, "CFG002"));
    assert_eq!(findings[0].object, "cloudmap prod.local/ledger, attribute legation.protocol");
    expect_test::expect![[r"
        expected one of tcp, http, http2, grpc; did you mean `grpc`?
          legation.protocol = grcp
                              ^^^^"]]
    .assert_eq(&findings[0].message);
    let protocol = |id: &str, word: &str| instance(id, &[("legation.protocol", word)]);
    let both = [protocol("a", "http2"), protocol("b", "http")];
    let (text, findings) = described(&both);
    assert_eq!((text.as_str(), findings.len()), ("http", 1));
    let [a, b] = both;
    assert_eq!(described(&[b, a]), (text, findings), "in any order");
}

#[test]
fn an_empty_service_keeps_its_description() {
    let full =
        facts("ledger", &[instance("a", &[("AWS_INSTANCE_PORT", "9000"), ("legation.protocol", "http")])]);
    let (first, _) = view(vec![full.clone(), facts("new", &[])], &Seen::new());
    let key = ServiceKey::new("prod", "ledger");
    assert_eq!(first[&ServiceKey::new("prod", "new")].spec.aliases, []);
    let (again, _) = view(vec![full, facts("new", &[])], &first);
    assert!(again.iter().all(|(key, service)| Arc::ptr_eq(service, &first[key])), "the same memory");
    let (empty, _) = view(vec![facts("ledger", &[])], &first);
    assert!(Arc::ptr_eq(&empty[&key].spec, &first[&key].spec));
    assert_eq!(empty[&key].registrations, []);
    assert_eq!(&*empty[&key].spec.origin, "cloudmap prod.local/ledger");
}

#[test]
fn names_that_cannot_be_are_left_out() {
    let (seen, findings) = view(vec![facts("Ledger.v2", &[]), facts("ledger", &[])], &Seen::new());
    assert_eq!(seen.len(), 1);
    assert_eq!((findings.len(), findings[0].code), (1, "CFG002"));
    assert_eq!(findings[0].object, "cloudmap prod.local/Ledger.v2");
    assert!(findings[0].message.ends_with("\n  Ledger.v2\n  ^"), "{}", findings[0].message);
}

/// Cloud Map with one namespace; `state` is its id, its services and the next fault.
#[derive(Default)]
struct World {
    id: &'static str,
    services: BTreeMap<String, Value>,
    revision: i64,
    fault: Option<(&'static str, Answer)>,
}

fn answer(world: &mut World, operation: &str, request: &Value) -> Answer {
    if let Some((_, fault)) = world.fault.take_if(|(of, _)| *of == operation) {
        return fault;
    }
    let first = request["NextToken"].is_null();
    let json = match operation {
        "ListNamespaces" if first => {
            json!({"Namespaces": [{"Id": "ns-0", "Name": "prod"}], "NextToken": "2"})
        }
        "ListNamespaces" => {
            let properties = json!({"HttpProperties": {"HttpName": "prod-http"}});
            json!({"Namespaces": [{"Id": world.id, "Name": "prod.local", "Properties": properties}]})
        }
        "ListServices" => {
            let right = request["Filters"][0]["Values"] == json!([world.id]);
            let mut names = world.services.keys().filter(|_| right).skip(usize::from(!first));
            let page: Vec<_> =
                names.next().map(|name| json!({"Id": name, "Name": name})).into_iter().collect();
            json!({"Services": page, "NextToken": if first { names.next() } else { None }})
        }
        "DiscoverInstances" => {
            let asked = (&request["NamespaceName"], &request["MaxResults"], &request["HealthStatus"]);
            assert_eq!(asked, (&json!("prod-http"), &json!(1_000), &json!("ALL")));
            let Some(instances) = world.services.get(request["ServiceName"].as_str().expect("a name")) else {
                return Answer::Json(400, json!({"__type": "ServiceNotFound", "Message": "no"}));
            };
            json!({"Instances": instances, "InstancesRevision": revision(world, request)})
        }
        "DiscoverInstancesRevision" => json!({"InstancesRevision": revision(world, request)}),
        _ => return Answer::Text(404, "no"),
    };
    Answer::Json(200, json)
}

/// Only the ledger's ever changes.
fn revision(world: &World, request: &Value) -> i64 {
    if request["ServiceName"] == "ledger" { world.revision } else { 7 }
}

fn start(namespace: &str) -> (Arc<Mutex<World>>, Scripted, CloudMapSource) {
    let instances = |id: &str, port: u16| {
        json!([{"InstanceId": id, "HealthStatus": "HEALTHY",
                "Attributes": {"AWS_INSTANCE_IPV4": "10.9.0.1", "AWS_INSTANCE_PORT": port.to_string()}}])
    };
    let services = [("books", instances("b", 81)), ("ledger", instances("l", 80))];
    let services = services.map(|(name, instances)| (name.to_owned(), instances)).into();
    let world = Arc::new(Mutex::new(World { id: "ns-1", services, revision: 1, fault: None }));
    let told = Arc::clone(&world);
    let script = Scripted::start(move |operation, request| {
        answer(&mut told.lock().expect("no panic"), operation, request)
    });
    let settings = Settings { cloud_map_namespace: namespace.into(), namespace: "prod".into() };
    let source = CloudMapSource::new(&script.access(), settings);
    (world, script, source)
}

#[tokio::test]
async fn a_namespace_becomes_a_view_and_is_found_once() {
    let (_world, script, mut source) = start("prod.local");
    let first = source.sweep().await.expect("a view");
    let names: Vec<_> = first.services.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["prod/books", "prod/ledger"]);
    let ledger = &first.services[&ServiceKey::new("prod", "ledger")];
    assert_eq!(ledger.registrations[0].phase, Phase::Running(Health::Healthy));
    assert_eq!(first.clusters.len(), 0, "it holds no cluster completely");
    assert_eq!(source.sweep().await.expect("a view"), first);
    let count = |operation: &str| script.calls().iter().filter(|call| *call == operation).count();
    assert_eq!((count("ListNamespaces"), count("ListServices"), count("DiscoverInstances")), (2, 4, 4));
}

#[tokio::test]
async fn only_what_has_another_revision_is_read_anew() {
    let (world, script, mut source) = start("prod.local");
    let first = source.sweep().await.expect("a view");
    let count = |operation: &str| script.calls().iter().filter(|call| *call == operation).count();
    assert!(!source.look().await);
    assert_eq!((count("DiscoverInstances"), count("DiscoverInstancesRevision")), (2, 2));

    {
        let mut world = world.lock().expect("no panic");
        world.services.insert("ledger".to_owned(), json!([]));
        world.revision = 2;
    }
    assert!(source.look().await);
    assert_eq!((count("DiscoverInstances"), count("DiscoverInstancesRevision")), (3, 4));
    let (ledger, books) = (ServiceKey::new("prod", "ledger"), ServiceKey::new("prod", "books"));
    let view = source.draw();
    assert!(view.services[&ledger].registrations.is_empty());
    assert!(Arc::ptr_eq(&view.services[&books], &first.services[&books]));
    assert!(!source.look().await, "once is enough");

    let refusal = Answer::Json(400, json!({"__type": "AccessDeniedException", "Message": "no"}));
    world.lock().expect("no panic").fault = Some(("DiscoverInstancesRevision", refusal));
    assert!(source.look().await, "it is told");
    let findings = source.draw().findings;
    assert_eq!(findings.iter().map(|finding| finding.code).collect::<Vec<_>>(), ["SRC001"]);
    assert!(findings[0].message.contains("servicediscovery:DiscoverInstancesRevision"), "{findings:?}");
    assert!(source.look().await && source.draw().findings.is_empty(), "and it is over");
}

#[tokio::test]
async fn a_namespace_that_is_not_there_is_an_error_with_the_nearest() {
    let (_world, _script, mut source) = start("prod.locl");
    let error = source.sweep().await.expect_err("no such namespace");
    assert_eq!(error.code, "NamespaceNotFound");
    let shown = "no Cloud Map namespace is called `prod.locl`; there are: prod, prod.local; did you mean `prod.local`?";
    assert_eq!(error.message, shown);
}

#[tokio::test]
async fn any_failure_is_a_failure_of_the_whole() {
    let (world, _script, mut source) = start("prod.local");
    let first = source.sweep().await.expect("a view");
    let refusal = |code: &str| Answer::Json(400, json!({"__type": code, "Message": "no"}));
    for (operation, fault, code) in [
        ("ListServices", refusal("InvalidInput"), "InvalidInput"),
        ("DiscoverInstances", refusal("ServiceNotFound"), "ServiceNotFound"),
        ("DiscoverInstances", Answer::Json(200, json!({})), "bad-response"),
        ("DiscoverInstances", Answer::Json(200, json!({"Instances": [{}]})), "bad-response"),
        ("ListServices", Answer::Json(200, json!({})), "bad-response"),
    ] {
        world.lock().expect("no panic").fault = Some((operation, fault));
        let error = source.sweep().await.expect_err("a failure");
        assert_eq!((error.operation, error.code), (format!("servicediscovery:{operation}"), code.to_owned()));
        assert_eq!(source.sweep().await.expect("a view"), first);
    }
}

#[tokio::test]
async fn emptiness_is_believed_only_of_a_namespace_that_exists() {
    let (world, _script, mut source) = start("prod.local");
    let first = source.sweep().await.expect("a view");
    // Made anew under another id: the old id lists nothing.
    world.lock().expect("no panic").id = "ns-2";
    assert_eq!(source.sweep().await.expect("a view"), first);
    world.lock().expect("no panic").services.clear();
    assert_eq!(source.sweep().await.expect("a view").services.len(), 0);
}

#[tokio::test]
async fn a_service_that_a_listing_lost_has_not_gone_before_discovery_says_so() {
    let (world, script, mut source) = start("prod.local");
    let first = source.sweep().await.expect("a view");
    for (listed, calls) in [(vec!["books"], 2), (vec!["books", "books", "ledger"], 2), (vec![], 2)] {
        let page: Vec<_> = listed.iter().map(|name| json!({"Id": name, "Name": name})).collect();
        let whole = Answer::Json(200, json!({"Services": page}));
        let before = script.calls().iter().filter(|call| *call == "DiscoverInstances").count();
        world.lock().expect("no panic").fault = Some(("ListServices", whole));
        assert_eq!(source.sweep().await.expect("a view"), first, "{listed:?}");
        let after = script.calls().iter().filter(|call| *call == "DiscoverInstances").count();
        assert_eq!(after - before, calls, "each is asked about once: {listed:?}");
    }
    world.lock().expect("no panic").services.remove("ledger");
    let view = source.sweep().await.expect("a view");
    assert_eq!(view.services.keys().map(ToString::to_string).collect::<Vec<_>>(), ["prod/books"]);
    source.sweep().await.expect("a view");
    assert_eq!(source.known.len(), 1, "nobody asks about it any more");
}

#[tokio::test]
async fn a_service_that_was_deleted_does_not_keep_others_from_being_looked_at() {
    let (world, _script, mut source) = start("prod.local");
    let first = source.sweep().await.expect("a view");
    {
        let mut world = world.lock().expect("no panic");
        // Books are asked for first.
        let gone = Answer::Json(400, json!({"__type": "ServiceNotFound", "Message": "no"}));
        world.fault = Some(("DiscoverInstancesRevision", gone));
        world.services.insert("ledger".to_owned(), json!([]));
        world.revision = 2;
    }
    assert!(source.look().await);
    let view = source.draw();
    assert_eq!(view.findings, first.findings);
    assert!(view.services[&ServiceKey::new("prod", "ledger")].registrations.is_empty());
}
