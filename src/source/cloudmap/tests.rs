//! Tests of the Cloud Map source: the mapping, and readings against a scripted AWS.
//!
//! It is not code of the product.
//!
//! Invariant: the mapping is tested on the SDK's own types.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_servicediscovery::types::{HealthStatus, HttpInstanceSummary};

use super::attributes::Attributes;
use super::describe::{self, Services};
use super::members::{self, Fault, Listed, Members};
use super::{CloudMapSource, SourceError};
use crate::model::{Finding, Health, Member, Phase, Readiness, Registration, ServiceKey, ServiceSpec, View};

mod describing;
mod reading;
mod scripts;
mod shared;

impl CloudMapSource {
    /// A whole reading.
    async fn sweep(&mut self) -> Result<View, SourceError> {
        let listed = self.listing().await;
        self.take_in(listed).await
    }
}

fn instance(id: &str, attributes: &[(&str, &str)]) -> HttpInstanceSummary {
    let base = HttpInstanceSummary::builder().instance_id(id);
    attributes.iter().fold(base, |built, (key, value)| built.attributes(*key, *value)).build()
}

fn registered(instance: &HttpInstanceSummary) -> Registration {
    members::discovered(instance, false).expect("complete").registration
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
    let one = registered(&instance("i-1", &all));
    assert_eq!(one.instance.as_str(), "i-1");
    assert_eq!(one.address.map(|address| address.to_string()).as_deref(), Some("10.0.0.1"));
    assert_eq!((one.port, one.zone.as_deref()), (Some(9000), Some("eu-west-1a")));
    let in_ecs = Member::CloudMap { cluster: Some("prod-a".into()), service: Some("payments".into()) };
    assert_eq!(one.member, in_ecs);
    assert_eq!((one.phase, one.foreign_tls), (Phase::Running(Health::NoCheck), false));
    let six = registered(&instance("i", &[("AWS_INSTANCE_IPV6", "fd00::1"), ("AvailabilityZone", "b")]));
    assert_eq!(six.address.map(|address| address.to_string()).as_deref(), Some("fd00::1"));
    let outside = Member::CloudMap { cluster: None, service: None };
    assert_eq!((six.zone.as_deref(), six.member), (Some("b"), outside.clone()));
    let elsewhere = members::discovered(&instance("i-1", &all), true).expect("complete");
    assert_eq!(elsewhere.registration.member, outside, "another account has clusters of its own");
    for port in ["0", "65536", "http", "", "-1"] {
        let odd =
            registered(&instance("i", &[("AWS_INSTANCE_IPV4", "db.local"), ("AWS_INSTANCE_PORT", port)]));
        assert_eq!((odd.address, odd.port), (None, None), "{port}");
    }
    let nameless = HttpInstanceSummary::builder().build();
    assert_eq!(members::discovered(&nameless, false), Err("InstanceId"));
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
        assert_eq!(registered(&one).phase, Phase::Running(health));
    }
}

#[test]
fn what_cannot_be_reached_says_why_unless_ecs_registered_it() {
    let address = ("AWS_INSTANCE_IPV4", "10.0.0.1");
    let fault = |attributes: &[(&str, &str)]| {
        members::discovered(&instance("i", attributes), false).expect("complete").fault
    };
    assert_eq!(fault(&[address, ("AWS_INSTANCE_PORT", "80")]), None);
    assert_eq!(fault(&[("AWS_INSTANCE_IPV6", "fd00::1"), ("AWS_INSTANCE_PORT", "80")]), None);
    assert_eq!(fault(&[address, ("AWS_INSTANCE_CNAME", "db"), ("AWS_INSTANCE_PORT", "80")]), None);
    assert_eq!(fault(&[address]), Some(Fault::NoPort));
    assert_eq!(fault(&[]), Some(Fault::NoAddress));
    assert_eq!(fault(&[("AWS_INSTANCE_CNAME", "db.example.com")]), Some(Fault::HostName));
    assert_eq!(fault(&[("AWS_ALIAS_DNS_NAME", "lb.example.com")]), Some(Fault::LoadBalancer));
    assert_eq!(fault(&[address, ("ECS_CLUSTER_NAME", "prod-a")]), None);
}

#[test]
fn an_instance_that_is_told_twice_is_one() {
    let facts = |id: &str, port: &str| {
        let attributes = [("AWS_INSTANCE_IPV4", "10.0.0.1"), ("AWS_INSTANCE_PORT", port)];
        members::discovered(&instance(id, &attributes), false).expect("complete")
    };
    let members = Members::new(vec![facts("b", "1"), facts("a", "2"), facts("b", "3")], None, true);
    let seen: Vec<_> = members
        .instances
        .iter()
        .map(|one| (one.registration.instance.as_str(), one.registration.port))
        .collect();
    assert_eq!(seen, [("a", Some(2)), ("b", Some(1))], "the first of them, by id");
}

fn listed(names: &[String]) -> BTreeMap<String, Listed> {
    let one = |name: &String| Listed {
        name: name.clone(),
        reference: format!("srv-{name}"),
        is_checked: false,
        created_at: None,
    };
    names.iter().map(|name| (name.clone(), one(name))).collect()
}

#[test]
fn attributes_are_asked_for_in_turn() {
    let names: Vec<_> = (0..50).map(|number| format!("s{number:02}")).collect();
    let services = listed(&names);
    let answer = |key: &str| Some(BTreeMap::from([(key.to_owned(), "x".to_owned())]));
    let mut attributes = Attributes::default();
    let first = attributes.due(&services);
    assert_eq!(first.len(), 50, "at first everyone");
    for reference in first {
        attributes.learn(reference, answer("legation.alias"));
    }
    let mut asked: Vec<String> = Vec::new();
    for _ in 0..3 {
        let due = attributes.due(&services);
        assert_eq!(due.len(), 20);
        for reference in due {
            attributes.learn(reference.clone(), answer("other"));
            asked.push(reference);
        }
    }
    asked.truncate(50);
    asked.sort();
    asked.dedup();
    assert_eq!(asked.len(), 50, "nobody twice before everybody once");

    // Who did not answer is asked again with the next reading, after the others that did not, and keeps what it said.
    attributes.learn("srv-s00".to_owned(), answer("legation.protocol"));
    attributes.learn("srv-s00".to_owned(), None);
    let due = attributes.due(&services);
    assert_eq!((due.len(), due.last().map(String::as_str)), (21, Some("srv-s00")));
    assert!(attributes.of(&services["s00"]).contains_key("protocol"));
    let one = listed(&names[..1]);
    attributes.retain(&one);
    assert!(attributes.of(&services["s01"]).is_empty());
    assert_eq!(attributes.due(&services)[0], "srv-s01", "whoever is new comes first");
}
