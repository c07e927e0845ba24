//! Tests of what a service offers, layer by layer.
//!
//! It is not about calls or tasks.
//!
//! Invariant: every finding is compared with its object.

use std::time::Duration;

use aws_sdk_ecs::types::builders::ServiceConnectServiceBuilder;
use aws_sdk_ecs::types::{
    ApplicationProtocol, ContainerDefinition, Deployment, Service, ServiceConnectClientAlias,
    ServiceConnectConfiguration, ServiceConnectService, ServiceConnectTlsConfiguration, Tag,
    TimeoutConfiguration, TransportProtocol,
};

use super::world::DEV_NAMESPACE;
use super::{port, revision, rule};
use crate::model::{Finding, Protocol, Readiness, ServiceSpec};
use crate::source::ecs::defaults::Names;
use crate::source::ecs::describe::{self, Cluster};
use crate::source::ecs::facts::{self, Revision};
use crate::source::ecs::task_tags::TaskTags;
use crate::source::ecs::{Discover, NamespaceRule};

const HTTP: Option<ApplicationProtocol> = Some(ApplicationProtocol::Http);

/// The revision payments:7 with these ports.
fn with_ports(ports: &[(&str, i32, Option<ApplicationProtocol>)]) -> Revision {
    let ports = ports.iter().map(|(name, number, protocol)| port(name, *number, protocol.clone()).build());
    let app = ContainerDefinition::builder().name("app").set_port_mappings(Some(ports.collect())).build();
    revision("payments:7", vec![app])
}

fn one_port() -> Revision {
    with_ports(&[("http", 8080, HTTP)])
}

fn two_ports() -> Revision {
    with_ports(&[("http", 8080, HTTP), ("admin", 9000, Some(ApplicationProtocol::Grpc))])
}

/// A service with these tags and this Service Connect block.
struct Given<'a> {
    name: &'a str,
    tags: &'a [(&'a str, &'a str)],
    connect: Option<ServiceConnectConfiguration>,
    rules: Vec<NamespaceRule>,
    /// The cluster's default namespace.
    default: Option<&'a str>,
}

impl Default for Given<'_> {
    fn default() -> Self {
        let rules = vec![rule("prod", Discover::Labelled)];
        Self { name: "payments", tags: &[], connect: None, rules, default: None }
    }
}

impl Given<'_> {
    fn described(self, revision: &Revision) -> (Vec<ServiceSpec>, Vec<Finding>) {
        let deployment = Deployment::builder().id("ecs-svc/1").status("PRIMARY");
        let deployment = deployment.set_service_connect_configuration(self.connect).build();
        let tags = self.tags.iter().map(|(key, value)| Tag::builder().key(*key).value(*value).build());
        let service = Service::builder()
            .service_arn(format!("arn:aws:ecs:eu-west-1:1:service/prod-a/{}", self.name))
            .service_name(self.name)
            .status("ACTIVE")
            .deployments(deployment)
            .set_tags(Some(tags.collect()))
            .build();
        let facts = facts::service(&service).expect("complete");
        let names = Names::from([(DEV_NAMESPACE.to_owned(), "dev".to_owned())]);
        let cluster = Cluster { name: "prod-a", rules: &self.rules, default: self.default, names: &names };
        let (offers, findings) = describe::describe(cluster, &facts, &TaskTags::default(), revision);
        (offers.into_iter().map(|offer| (*offer.spec).clone()).collect(), findings)
    }

    /// The offers as `namespace/name protocol alias…`, and the findings as `code object`.
    fn brief(self, revision: &Revision) -> (Vec<String>, Vec<String>) {
        let (specs, findings) = self.described(revision);
        let aliases = |spec: &ServiceSpec| spec.aliases.iter().map(|a| format!(" {a}")).collect::<String>();
        let spec = |spec: &ServiceSpec| format!("{} {}{}", spec.key, spec.protocol.as_str(), aliases(spec));
        let finding = |finding: &Finding| format!("{} {}", finding.code, finding.object);
        (specs.iter().map(spec).collect(), findings.iter().map(finding).collect())
    }
}

fn tagged<'a>(tags: &'a [(&'a str, &'a str)]) -> Given<'a> {
    Given { tags, ..Given::default() }
}

fn block(
    namespace: &str,
    services: Vec<ServiceConnectServiceBuilder>,
) -> Option<ServiceConnectConfiguration> {
    let services = services.into_iter().map(|service| service.build().expect("a port name")).collect();
    let block = ServiceConnectConfiguration::builder().enabled(true).namespace(namespace);
    Some(block.set_services(Some(services)).build())
}

fn connected(namespace: &str, services: Vec<ServiceConnectServiceBuilder>) -> Given<'static> {
    Given { connect: block(namespace, services), ..Given::default() }
}

fn sc(port: &str) -> ServiceConnectServiceBuilder {
    ServiceConnectService::builder().port_name(port)
}

fn alias(name: Option<&str>, port: i32) -> ServiceConnectClientAlias {
    let alias = ServiceConnectClientAlias::builder().port(port).set_dns_name(name.map(str::to_owned));
    alias.build().expect("a port")
}

const NONE: [&str; 0] = [];

#[test]
fn defaults_name_a_service_after_itself_and_its_ports() {
    let label = [("legation:namespace", "prod")];
    let (offers, findings) = tagged(&label).brief(&one_port());
    assert_eq!(offers, ["prod/payments http payments:8080"]);
    assert_eq!(findings, NONE);
    let (offers, _) = tagged(&label).brief(&two_ports());
    assert_eq!(
        offers,
        ["prod/payments-http http payments-http:8080", "prod/payments-admin grpc payments-admin:9000"]
    );
    let (offers, _) = Given { name: "Payments", ..tagged(&label) }.brief(&one_port());
    assert_eq!(offers, ["prod/payments http payments:8080"], "lower case");
    let (offers, findings) = tagged(&label).brief(&with_ports(&[]));
    assert_eq!((offers.len(), findings.len()), (0, 0), "a client needs no port");
}

#[test]
fn only_the_labelled_join_unless_all_do() {
    let all = || Given { rules: vec![rule("prod", Discover::All)], ..Given::default() };
    assert_eq!(Given::default().brief(&one_port()), (vec![], vec![]));
    assert_eq!(tagged(&[("team", "blue")]).brief(&one_port()), (vec![], vec![]));
    assert_eq!(all().brief(&one_port()).0, ["prod/payments http payments:8080"]);
    assert_eq!(tagged(&[("legation:role", "auto")]).brief(&one_port()).0.len(), 1);
    assert_eq!(connected("prod", vec![sc("http")]).brief(&one_port()).0.len(), 1);
    let off = ServiceConnectConfiguration::builder().enabled(false).namespace("prod").build();
    let off = Given { connect: Some(off), ..Given::default() };
    assert_eq!(off.brief(&one_port()), (vec![], vec![]));
}

#[test]
fn roles_keep_a_service_from_being_offered() {
    let client = [("legation:role", "client"), ("legation:alias/htp", "a:1")];
    let (offers, findings) = tagged(&client).brief(&one_port());
    assert_eq!(offers, NONE);
    assert_eq!(findings, ["PORT001 ecs prod-a/payments, tag legation:alias/htp"]);
    let none = [("legation:role", "none"), ("legation:alias/htp", "a:1")];
    assert_eq!(tagged(&none).brief(&one_port()), (vec![], vec![]));
    let bad = [("legation:role", "server")];
    let (offers, findings) = tagged(&bad).brief(&one_port());
    assert_eq!(offers.len(), 1, "a bad value leaves the lower layer in force");
    assert_eq!(findings, ["CFG002 ecs prod-a/payments, tag legation:role"]);
}

#[test]
fn service_connect_is_layer_one() {
    let (offers, findings) =
        connected("prod", vec![sc("http").client_aliases(alias(None, 80))]).brief(&two_ports());
    assert_eq!(offers, ["prod/http http http.prod:80"], "only what the block lists, under its defaults");
    assert_eq!(findings, NONE);
    let full = sc("http").discovery_name("pay").client_aliases(alias(Some("payments"), 8080));
    let timeouts =
        TimeoutConfiguration::builder().idle_timeout_seconds(60).per_request_timeout_seconds(0).build();
    let (specs, _) = connected("prod", vec![full.timeout(timeouts)]).described(&one_port());
    let spec = &specs[0];
    assert_eq!(spec.key.to_string(), "prod/pay");
    assert_eq!(spec.aliases[0].to_string(), "payments:8080");
    assert_eq!(spec.knobs.idle_timeout, Some(Duration::from_secs(60)));
    assert_eq!(spec.knobs.request_timeout, Some(Duration::ZERO), "zero is none, not the profile's");
    assert_eq!(&*spec.origin, "ecs prod-a/payments");
    // A client only, and an ARN that names no namespace.
    assert_eq!(connected("prod", vec![]).brief(&one_port()), (vec![], vec![]));
    let arn = "arn:aws:servicediscovery:eu-west-1:1:namespace/ns-1";
    let (offers, _) = connected(arn, vec![sc("http").client_aliases(alias(None, 80))]).brief(&one_port());
    assert_eq!(offers, ["prod/http http http.prod:80"]);
    let (offers, _) = connected("prod", vec![sc("http")]).brief(&one_port());
    assert_eq!(offers, ["prod/http http http:8080"], "an alias is always there");
}

#[test]
fn service_connect_can_be_wrong_too() {
    let (offers, findings) = connected("prod", vec![sc("htp"), sc("http")]).brief(&one_port());
    assert_eq!(offers, ["prod/http http http:8080"]);
    assert_eq!(findings, ["PORT001 ecs prod-a/payments, Service Connect"]);
    let (offers, findings) = connected("staging", vec![sc("http")]).brief(&one_port());
    assert_eq!(offers, NONE);
    assert_eq!(findings, ["CFG002 ecs prod-a/payments, Service Connect"]);
    let bad = sc("http").client_aliases(alias(Some("Pay ments"), 80));
    let (offers, findings) = connected("prod", vec![bad]).brief(&one_port());
    assert_eq!(offers, ["prod/http http http:8080"]);
    assert_eq!(findings, ["CFG002 ecs prod-a/payments, port http, Service Connect"]);
    let tls = sc("http").tls(ServiceConnectTlsConfiguration::builder().build());
    let (_, findings) = connected("prod", vec![tls]).brief(&one_port());
    assert_eq!(findings, ["TLS002 ecs prod-a/payments, port http"]);
}

#[test]
fn tags_win_value_by_value() {
    let tags = [
        ("legation:discovery-name/http", "pay"),
        ("legation:alias/http", "payments:80 payments:8080"),
        ("legation:protocol/http", "grpc"),
        ("legation:timeout.request/http", "500ms"),
        ("legation:retry.attempts/http", "0"),
        ("legation:readiness", "running"),
    ];
    let timeouts =
        TimeoutConfiguration::builder().idle_timeout_seconds(60).per_request_timeout_seconds(9).build();
    let under = sc("http").discovery_name("low").client_aliases(alias(Some("low"), 1)).timeout(timeouts);
    let given = Given { connect: block("prod", vec![under]), ..tagged(&tags) };
    let (specs, findings) = given.described(&one_port());
    assert_eq!(findings, []);
    let spec = &specs[0];
    assert_eq!(spec.key.to_string(), "prod/pay");
    let aliases: Vec<_> = spec.aliases.iter().map(ToString::to_string).collect();
    assert_eq!(aliases, ["payments:80", "payments:8080"], "a list is replaced whole");
    assert_eq!(spec.protocol, Protocol::Grpc);
    assert_eq!(spec.knobs.request_timeout, Some(Duration::from_millis(500)));
    assert_eq!(spec.knobs.idle_timeout, Some(Duration::from_secs(60)), "the lower layer's");
    assert_eq!(spec.knobs.retry_attempts, Some(0));
    assert_eq!(spec.readiness, Readiness::Running);
    let said = spec.origin.said().iter().map(|said| format!("{} {} {}", said.key, said.value, said.place));
    assert_eq!(
        said.collect::<Vec<_>>(),
        [
            "aliases  tag service/payments",
            "appProtocol grpc tag service/payments",
            "readiness.gate running tag service/payments",
            "retry.attempts 0 tag service/payments",
            "timeouts.idle 1m serviceConnectConfiguration",
            "timeouts.request 500ms tag service/payments",
        ]
    );
    // A new discovery name takes the default alias with it, and a tag offers what the block does not.
    let (offers, _) = tagged(&[("legation:discovery-name/http", "pay")]).brief(&one_port());
    assert_eq!(offers, ["prod/pay http pay:8080"]);
    let also = Given {
        connect: block("prod", vec![sc("http")]),
        ..tagged(&[("legation:timeout.idle/admin", "1s")])
    };
    assert_eq!(
        also.brief(&two_ports()).0,
        ["prod/http http http:8080", "prod/payments-admin grpc payments-admin:9000"]
    );
}

#[test]
fn the_namespace_is_said_or_the_only_one() {
    let two = || vec![rule("dev", Discover::Labelled), rule("prod", Discover::Labelled)];
    let in_two = |tags: &'static [(&'static str, &'static str)]| Given { rules: two(), ..tagged(tags) };
    assert_eq!(
        in_two(&[("legation:namespace", "dev")]).brief(&one_port()).0,
        ["dev/payments http payments:8080"]
    );
    assert_eq!(
        in_two(&[("legation:role", "auto")]).brief(&one_port()),
        (vec![], vec!["CFG002 ecs prod-a/payments".into()])
    );
    assert_eq!(in_two(&[]).brief(&one_port()), (vec![], vec![]), "it asked for nothing");
    let all =
        Given { rules: vec![rule("dev", Discover::All), rule("prod", Discover::All)], ..Given::default() };
    assert_eq!(all.brief(&one_port()).1, ["CFG002 ecs prod-a/payments"]);
    let by_connect = Given { rules: two(), ..connected("dev", vec![sc("http")]) };
    assert_eq!(by_connect.brief(&one_port()).0, ["dev/http http http:8080"]);
    let by_arn = |arn| Given { rules: two(), ..connected(arn, vec![sc("http")]) };
    assert_eq!(by_arn(DEV_NAMESPACE).brief(&one_port()).0, ["dev/http http http:8080"]);
    let nobodys =
        Given { default: Some("prod"), ..by_arn("arn:aws:servicediscovery:eu-west-1:1:namespace/ns-3") };
    assert_eq!(nobodys.brief(&one_port()), (vec![], vec![]), "it is told where the ARN is read");
    let by_default = |default, tags: &'static [(&'static str, &'static str)]| Given {
        default: Some(default),
        ..in_two(tags)
    };
    let some = &[("legation:role", "auto")];
    assert_eq!(by_default("dev", some).brief(&one_port()).0, ["dev/payments http payments:8080"]);
    assert_eq!(by_default("dev", &[]).brief(&one_port()), (vec![], vec![]), "it asks nobody in");
    let prod = &[("legation:namespace", "prod")];
    assert_eq!(by_default("dev", prod).brief(&one_port()).0, ["prod/payments http payments:8080"]);
    let (_, findings) = by_default("test", some).described(&one_port());
    assert_eq!(
        findings[0].message,
        "cluster prod-a feeds `dev`, `prod`, and not its default namespace `test`; say which with the tag \
         legation:namespace"
    );
    let both =
        Given { tags: &[("legation:namespace", "prod")], rules: two(), ..connected("dev", vec![sc("http")]) };
    assert_eq!(both.brief(&one_port()).0, ["prod/http http http:8080"], "the tag wins");
    let (specs, findings) = tagged(&[("legation:namespace", "pord")]).described(&one_port());
    assert_eq!(specs, [], "it never joins a namespace that it did not name");
    expect_test::expect![[r"
        namespace `pord` is not fed by cluster prod-a, which feeds `prod`; did you mean `prod`?
          legation:namespace = pord
                               ^^^^"]]
    .assert_eq(&findings[0].message);
}

#[test]
fn a_port_that_is_not_there_is_shown_with_those_that_are() {
    let tags = [("legation:alias/htp", "payments:8080")];
    let (specs, findings) = tagged(&tags).described(&two_ports());
    assert_eq!(specs.len(), 2, "the service itself joins");
    assert_eq!((findings.len(), findings[0].code), (1, "PORT001"));
    expect_test::expect![[r"
        no container port is named `htp` in task definition payments:7, which has `http`, `admin`; did you mean `http`?
          legation:alias/htp = payments:8080
                         ^^^"]]
    .assert_eq(&findings[0].message);
    let (_, findings) = tagged(&[("legation:alias/", "a:1")]).described(&with_ports(&[]));
    assert!(
        findings[0].message.starts_with(
            "no container port is named `` in task definition payments:7, which names no ports\n"
        )
    );
}

#[test]
fn what_is_tcp_is_told_so() {
    let bare = with_ports(&[("db", 5432, None)]);
    let (offers, findings) = tagged(&[("legation:role", "auto")]).brief(&bare);
    assert_eq!(offers, ["prod/payments tcp payments:5432"]);
    assert_eq!(findings, ["PROTO001 ecs prod-a/payments, port db"]);
    let said = [("legation:protocol/db", "tcp"), ("legation:timeout.request/db", "5s")];
    let (specs, findings) = tagged(&said).described(&bare);
    assert_eq!(specs[0].knobs.request_timeout, None);
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].object, "ecs prod-a/payments, tag legation:timeout.request/db");
    assert!(findings[0].message.contains("no effect on TCP"));
}

#[test]
fn what_cannot_be_offered_says_why() {
    let dns = port("dns", 53, None).protocol(TransportProtocol::Udp).build();
    let app = ContainerDefinition::builder().name("app").port_mappings(dns);
    let mixed = revision("payments:7", vec![app.port_mappings(port("http", 80, HTTP).build()).build()]);
    let (offers, findings) = tagged(&[("legation:role", "auto")]).brief(&mixed);
    assert_eq!(offers, ["prod/payments http payments:80"], "UDP does not count");
    assert_eq!(findings, NONE);
    let (_, findings) = tagged(&[("legation:alias/dns", "dns:53")]).brief(&mixed);
    assert_eq!(findings, ["CFG002 ecs prod-a/payments, port dns"]);
    let long = "a".repeat(65);
    let (offers, findings) = Given { name: &long, ..tagged(&[("legation:role", "auto")]) }.brief(&one_port());
    assert_eq!(offers, NONE);
    assert_eq!(findings, [format!("CFG002 ecs prod-a/{long}, port http")]);
}

#[test]
fn labels_are_enough_to_join_and_a_tag_outranks_them() {
    let labelled = |namespace: &str| {
        let http = port("http", 8080, HTTP).build();
        let app = ContainerDefinition::builder().name("app").port_mappings(http);
        let app = app.docker_labels("legation.alias.http", "pay:80").docker_labels("com.example", "x");
        revision("payments:7", vec![app.docker_labels("legation.namespace", namespace).build()])
    };
    let expected = (vec!["prod/payments http pay:80".to_owned()], Vec::new());
    assert_eq!(tagged(&[]).brief(&labelled("prod")), expected);
    let over = [("legation:alias/http", "payments:8080")];
    assert_eq!(tagged(&over).brief(&labelled("prod")).0, ["prod/payments http payments:8080"]);
    let (offers, findings) = tagged(&[]).brief(&labelled("prd"));
    assert_eq!(offers, Vec::<String>::new());
    assert_eq!(findings, ["CFG002 ecs prod-a/payments, label legation.namespace of container app"]);
}
