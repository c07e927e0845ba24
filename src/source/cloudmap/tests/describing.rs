//! How services are described: by their own attributes, and below these by those of their instances.

use super::*;

const OBJECT: &str = "cloudmap prod.local/ledger";

/// One service called like this.
struct Service {
    name: &'static str,
    created_at: Option<SystemTime>,
    labels: BTreeMap<String, String>,
    members: Members,
}

fn service(name: &'static str, attributes: &[(&str, &str)], instances: &[HttpInstanceSummary]) -> Service {
    let facts = instances.iter().map(|one| members::discovered(one, false).expect("complete")).collect();
    let label = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let labels = attributes.iter().map(label).collect();
    Service { name, created_at: None, labels, members: Members::new(facts, None, false) }
}

fn view(services: &[Service], before: &Services) -> (Services, Vec<Finding>) {
    let known = services.iter().map(|service| describe::Known {
        name: service.name,
        created_at: service.created_at,
        labels: &service.labels,
        instances: &service.members.instances,
    });
    describe::view(&"prod".into(), "prod.local", known, before)
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("prod", name)
}

fn shown(spec: &ServiceSpec) -> String {
    let aliases: String = spec.aliases.iter().map(|alias| format!(" {alias}")).collect();
    format!("{}{aliases}", spec.protocol.as_str())
}

/// The view of one service called ledger, as `protocol alias…`, with its findings.
fn described(attributes: &[(&str, &str)], instances: &[HttpInstanceSummary]) -> (String, Vec<Finding>) {
    let (seen, findings) = view(&[service("ledger", attributes, instances)], &Services::new());
    (shown(&seen.get(&key("ledger")).expect("the service").spec), findings)
}

fn member(id: &str, attributes: &[(&str, &str)]) -> HttpInstanceSummary {
    let place = [("AWS_INSTANCE_IPV4", "10.0.0.1"), ("AWS_INSTANCE_PORT", "9000")];
    instance(id, &[&place[..], attributes].concat())
}

fn told(findings: &[Finding]) -> String {
    let lines = findings.iter().map(|it| format!("{} {}\n{}", it.code, it.object, it.message));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn instances_describe_their_service() {
    let port = |id: &str, port: &str| member(id, &[("AWS_INSTANCE_PORT", port)]);
    assert_eq!(described(&[], &[port("a", "9001"), port("b", "9000")]), ("tcp ledger:9000".into(), vec![]));
    let said = [("legation.protocol", "grpc"), ("legation.alias", "books:80 books:81")];
    assert_eq!(
        described(&[], &[member("a", &said), port("b", "1")]),
        ("grpc books:80 books:81".into(), vec![])
    );
    let (text, findings) = described(&[], &[member("a", &[("legation.protocol", "grcp")])]);
    assert_eq!(text, "tcp ledger:9000");
    expect_test::expect![[r"
        CFG002 cloudmap prod.local/ledger, attribute legation.protocol of instance a
        expected one of `tcp`, `http`, `http2`, `grpc`; did you mean `grpc`?
          legation.protocol = grcp
                              ^^^^"]]
    .assert_eq(&told(&findings));
}

#[test]
fn where_instances_differ_all_replicas_take_the_same() {
    let protocol = |id: &str, word: &str| member(id, &[("legation.protocol", word), ("legation.xyz", word)]);
    let all = [protocol("a", "http2"), protocol("b", "http"), protocol("c", "bytes"), protocol("d", "http")];
    let (text, findings) = described(&[], &all);
    assert_eq!(text, "http ledger:9000");
    expect_test::expect![[r#"
        CFG001 cloudmap prod.local/ledger, attribute legation.xyz of instance c
        unknown key `legation.xyz`; this release knows `namespace`, `role`, `readiness`, `version`, `discovery-name`, `alias`, `protocol`, `timeout.request`, `timeout.idle`, `retry.attempts`, `inbound`
          legation.xyz = bytes
                   ^^^
        CFG002 cloudmap prod.local/ledger, attribute legation.protocol of instance a
        instance `b` says `http`, which is taken
          legation.protocol = http2
                              ^^^^^
        CFG002 cloudmap prod.local/ledger, attribute legation.protocol of instance c
        expected one of `tcp`, `http`, `http2`, `grpc`
          legation.protocol = bytes
                              ^^^^^"#]]
    .assert_eq(&told(&findings));
    let [a, b, c, d] = all;
    assert_eq!(described(&[], &[d, c, b, a]), (text, findings), "in any order");
}

#[test]
fn the_service_outranks_its_instances_value_by_value() {
    let of_service = [
        ("protocol.http", "http"),
        ("timeout.request", "3s"),
        ("timeout.idle.http", "1m"),
        ("retry.attempts", "0"),
        ("readiness", "running"),
        ("discovery-name", "books"),
    ];
    let one = member("a", &[("legation.protocol", "tcp"), ("legation.alias.web", "books:80")]);
    let (seen, findings) = view(&[service("ledger", &of_service, &[one])], &Services::new());
    assert_eq!(findings, []);
    let spec = &seen[&key("books")].spec;
    assert_eq!(shown(spec), "http books:80");
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let knobs = (spec.knobs.request_timeout, spec.knobs.idle_timeout, spec.knobs.retry_attempts);
    assert_eq!(knobs, (seconds(3), seconds(60), Some(0)));
    assert_eq!((spec.readiness, &*spec.origin), (Readiness::Running, OBJECT));
    for role in ["none", "client"] {
        let (seen, findings) = view(&[service("ledger", &[("role", role)], &[member("a", &[])])], &seen);
        assert!(seen.is_empty() && findings.is_empty(), "{role}: {findings:?}");
    }
}

#[test]
fn what_is_wrong_with_an_attribute_is_told_in_its_own_words() {
    let wrong = [
        ("namespace", "shared"),
        ("alais", "books:80"),
        ("alias.http", "books:80"),
        ("protocol.tcp", "tcp"),
        ("retry.attempts", "11"),
        ("role.http", "none"),
        ("timeout.request", "3s"),
        ("version", "7"),
    ];
    let (text, findings) = described(&wrong, &[member("a", &[])]);
    assert_eq!(text, "tcp books:80");
    expect_test::expect![[r#"
        CFG001 cloudmap prod.local/ledger, attribute legation.alais
        unknown key `legation.alais`; did you mean `legation.alias`?
          legation.alais = books:80
                   ^^^^^
        CFG001 cloudmap prod.local/ledger, attribute legation.namespace
        the configuration says which namespace the services of Cloud Map join; this has no effect
          legation.namespace = shared
                   ^^^^^^^^^
        CFG001 cloudmap prod.local/ledger, attribute legation.role.http
        `legation.role` is about the whole service and names no port
          legation.role.http = none
                       ^^^^^
        CFG002 cloudmap prod.local/ledger, attribute legation.protocol.tcp
        a service of Cloud Map has one port, which other attributes call `http`; this has no effect
          legation.protocol.tcp = tcp
                            ^^^
        CFG002 cloudmap prod.local/ledger, attribute legation.retry.attempts
        expected a number from 0 to 10
          legation.retry.attempts = 11
                                    ^^
        CFG002 cloudmap prod.local/ledger, attribute legation.timeout.request
        a request timeout has no effect on TCP"#]]
    .assert_eq(&told(&findings));
}

#[test]
fn an_empty_service_keeps_its_description() {
    let full =
        || service("ledger", &[("timeout.idle", "5s")], &[member("a", &[("legation.protocol", "http")])]);
    let (first, _) = view(&[full(), service("new", &[], &[])], &Services::new());
    assert_eq!(first[&key("new")].spec.aliases, []);
    let (again, _) = view(&[service("new", &[], &[]), full()], &first);
    assert!(again.iter().all(|(key, service)| Arc::ptr_eq(service, &first[key])), "the same memory");
    let (empty, _) = view(&[service("ledger", &[("timeout.idle", "5s")], &[])], &first);
    assert!(Arc::ptr_eq(&empty[&key("ledger")].spec, &first[&key("ledger")].spec));
    assert_eq!(empty[&key("ledger")].registrations, []);
    let (edited, _) = view(&[service("ledger", &[("protocol", "grpc")], &[])], &first);
    assert_eq!(
        shown(&edited[&key("ledger")].spec),
        "grpc ledger:9000",
        "what the service says itself counts"
    );
}

#[test]
fn names_that_cannot_be_are_left_out_and_the_older_keeps_a_name() {
    let (seen, findings) =
        view(&[service("Ledger.v2", &[], &[]), service("ledger", &[], &[])], &Services::new());
    assert_eq!(seen.len(), 1);
    assert_eq!((findings.len(), findings[0].code), (1, "CFG002"));
    assert_eq!(findings[0].object, "cloudmap prod.local/Ledger.v2");
    assert!(findings[0].message.ends_with("\n  Ledger.v2\n  ^"), "{}", findings[0].message);
    let named = |year: u64, name| Service {
        created_at: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(year)),
        ..service(name, &[("discovery-name", "books")], &[member(name, &[])])
    };
    let both = [named(2, "a"), named(1, "Ledger.v2")];
    let (seen, findings) = view(&both, &Services::new());
    assert_eq!(seen[&key("books")].registrations[0].instance.as_str(), "Ledger.v2");
    assert_eq!((seen.len(), findings.len(), findings[0].code), (1, 1, "NAME002"));
    assert_eq!(findings[0].object, "cloudmap prod.local/a");
    assert!(findings[0].message.contains("belongs to cloudmap prod.local/Ledger.v2, which is older"));
}

#[test]
fn instances_without_a_place_are_told_of_together() {
    let host =
        |id: &str| instance(id, &[("AWS_INSTANCE_CNAME", "db.example.com"), ("AWS_INSTANCE_PORT", "80")]);
    let portless = instance("p", &[("AWS_INSTANCE_IPV4", "10.0.0.1")]);
    let all = [host("a"), host("b"), host("c"), host("d"), portless, member("m", &[])];
    expect_test::expect![[r"
        EP001 cloudmap prod.local/ledger
        1 of 6 instances tell no port, and get no traffic: register one from 1 to 65535 as AWS_INSTANCE_PORT (p)
        EP001 cloudmap prod.local/ledger
        4 of 6 instances are registered by a host name, AWS_INSTANCE_CNAME, which is not supported, and get no traffic: register AWS_INSTANCE_IPV4 or AWS_INSTANCE_IPV6 (a, b, c, …)"]]
    .assert_eq(&told(&described(&[], &all).1));
}
