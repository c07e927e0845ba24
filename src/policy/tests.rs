//! What policies say, in which order, and how they lie over what sources describe.
//!
//! Invariant: every text is read as a file would be.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::model::{Action, PathMatch, ServiceKey};

mod mistakes;
mod origins;

fn namespaces() -> BTreeSet<Namespace> {
    ["prod".into()].into()
}

fn head(text: &str) -> Text {
    ("policy.yaml".into(), format!("apiVersion: legation/v1alpha1\nkind: Policy\n{text}"))
}

fn parse(text: &str) -> Policy {
    Policy::parse(&[head(text)], &namespaces()).unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// What is wrong with a text, as people read it.
fn problems(text: &str) -> Vec<String> {
    let problems = Policy::parse(&[head(text)], &namespaces()).expect_err("a mistake");
    problems.iter().map(ToString::to_string).collect()
}

fn spec(name: &str) -> Arc<ServiceSpec> {
    Arc::new(ServiceSpec {
        protocol: Protocol::Http,
        aliases: vec![Alias { name: name.into(), port: 8080 }],
        knobs: Knobs { request_timeout: Some(Duration::from_secs(7)), ..Knobs::default() },
        ..ServiceSpec::new(ServiceKey::new("prod", name), "ecs prod-a/payments")
    })
}

#[test]
fn the_service_outranks_its_description_which_outranks_the_defaults_of_its_namespace() {
    let policy = parse(
        "namespaces:\n  prod:\n    defaults: { timeouts: { request: 3s, idle: 30s }, retry: { attempts: 4, codes: [] } }\n\
         services:\n  payments: { retry: { attempts: 0 }, readiness: { gate: running }, appProtocol: grpc }\n",
    );
    let over = policy.over(&spec("payments"));
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!((over.knobs.request_timeout, over.knobs.idle_timeout), (seconds(7), seconds(30)));
    assert_eq!((over.knobs.retry_attempts, over.knobs.retry_codes.as_deref()), (Some(0), Some(&[][..])));
    assert_eq!((over.readiness, over.protocol), (Readiness::Running, Protocol::Grpc));
    let other = policy.over(&spec("ledger"));
    assert_eq!((other.knobs.retry_attempts, other.knobs.request_timeout), (Some(4), seconds(7)));
    let untouched = spec("ledger");
    assert!(Arc::ptr_eq(&untouched, &Policy::default().over(&untouched)));
    let envoy = parse("namespaces: { prod: { profile: envoy, defaults: { timeouts: { connect: 2s } } } }\n");
    let knobs = &envoy.over(&spec("ledger")).knobs;
    assert_eq!(
        (knobs.retry_attempts, knobs.connect_timeout, knobs.max_retries),
        (Some(0), seconds(2), Some(3))
    );
}

#[test]
fn rules_are_tried_in_the_order_of_gateway_api() {
    let policy = parse(
        "routes:
  - name: mixed
    parentRefs: [payments]
    rules:
      - matches:
          - { path: { value: / } }
          - { path: { value: /v2 }, method: POST }
          - { path: { type: RegularExpression, value: '/v[0-9]+' } }
          - { path: { value: /v2/long } }
          - { path: { type: Exact, value: /x } }
          - { path: { value: /v2 }, headers: [{ name: X-A, value: '1' }, { name: x-b, value: '2' }] }
          - { path: { value: /v2 }, headers: [{ name: x-a, value: '1' }] }
          - { path: { value: /v2 }, queryParams: [{ name: dry, value: '1' }] }
          - { path: { value: /v2 } }
        backendRefs: [{ service: payments, version: '58', weight: 5 }, { service: ledger }]
",
    );
    let over = policy.over(&spec("payments"));
    let shown = |rule: &Rule| {
        let (PathMatch::Exact(path) | PathMatch::Prefix(path) | PathMatch::Regex(path)) = &rule.matches.path;
        let (headers, query) = (rule.matches.headers.len(), rule.matches.query.len());
        format!("{path} {} {headers} {query}", rule.matches.method.as_deref().unwrap_or("-"))
    };
    let order: Vec<_> = over.rules.iter().map(shown).collect();
    assert_eq!(
        order,
        [
            "/x - 0 0",
            "/v[0-9]+ - 0 0",
            "/v2/long - 0 0",
            "/v2 POST 0 0",
            "/v2 - 2 0",
            "/v2 - 1 0",
            "/v2 - 0 1",
            "/v2 - 0 0",
            "/ - 0 0"
        ]
    );
    assert_eq!(&*over.rules[4].matches.headers[0].name, "x-a", "headers have no case");
    assert_eq!(over.versions.iter().map(|it| &**it).collect::<Vec<_>>(), ["58"]);
    assert_eq!(&*over.rules[0].origin, "policy.yaml:7");
    let Action::Forward(backends) = &over.rules[0].action else { panic!("{:?}", over.rules[0]) };
    assert_eq!((backends.len(), backends[0].weight, backends[1].weight), (2, 5, 1));
}

#[test]
fn several_files_are_one_policy_and_say_each_thing_once() {
    let (one, mut other) =
        (head("services: { payments: { retry: { attempts: 1 } } }\n"), head("services: { ledger: {} }\n"));
    other.0 = "other.yaml".into();
    let both = Policy::parse(&[one.clone(), other.clone()], &namespaces()).expect("a policy");
    assert_eq!(both.of(&"prod".into()).expect("prod").services.len(), 2);
    other.1.push_str("externals: [{ name: a, port: 1, endpoints: ['10.0.0.1:1'] }]\n");
    let mut twice = one.clone();
    twice.0 = "twice.yaml".into();
    let problems = Policy::parse(&[one, other, twice], &namespaces()).expect_err("a mistake");
    let told: Vec<_> = problems.iter().map(|it| (it.place(), it.suggestion.clone())).collect();
    assert_eq!(told, [("twice.yaml:3:13".to_owned(), Some("first at policy.yaml:3:13".to_owned()))]);
}

#[test]
fn where_there_are_several_namespaces_one_is_said() {
    let both = ["dev".into(), "prod".into()].into();
    let problems = Policy::parse(&[head("services: { payments: {} }\n")], &both).expect_err("a mistake");
    assert_eq!(problems[0].message, "`payments` may be in any of dev, prod");
    let policy =
        Policy::parse(&[head("services: { payments: { namespace: dev } }\n")], &both).expect("a policy");
    assert!(policy.of(&"dev".into()).is_some() && policy.of(&"prod".into()).is_none());
    // Without a configuration the files themselves say which there are.
    let alone = Policy::parse(&[head("services: { payments: { namespace: dev } }\n")], &BTreeSet::new());
    assert!(alone.expect("a policy").of(&"dev".into()).is_some());
}

#[test]
fn externals_are_services_of_their_own() {
    let text = "externals: [{ name: onprem, port: 9443, endpoints: ['10.9.0.4:9443', '[fd00::1]:9443'], zone: a }]\n";
    let view = parse(text).view();
    let (key, service) = view.services.iter().next().expect("it");
    assert_eq!((key.to_string().as_str(), service.registrations.len()), ("prod/onprem", 2));
    assert_eq!(service.spec.aliases[0].to_string(), "onprem:9443");
    assert_eq!(service.registrations[0].zone.as_deref(), Some("a"));
}

#[test]
fn every_mistake_of_a_file_is_told() {
    let told =
        problems("services:\n  payments: { timeouts: { request: 5 }, retry: { attempts: x } }\nroute: []\n");
    assert_eq!(told.len(), 3, "{told:?}");
}

#[test]
fn the_schema_is_the_one_that_is_published() {
    let published = include_str!("../../docs/policy.schema.json");
    let schema = format!("{:#}\n", Policy::schema());
    assert!(published == schema, "run `legation schema policy > docs/policy.schema.json`");
}
