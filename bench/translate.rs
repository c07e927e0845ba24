//! How long the pure part takes: 1,000 services of 20 tasks, one of which stops.
//!
//! `cargo bench -p bench` prints the time of a join, of a translation from nothing, and of the
//! re-translation after one stop; and the same for a policy of 1,000 services, of which one changes. What is done again must
//! stay under 5 ms.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::collections::BTreeSet;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use legation::mesh::Joiner;
use legation::model::{
    Alias, Health, Member, Namespace, Phase, Place, Protocol, Registration, ServiceKey, ServiceSpec,
    ServiceView, StopCause, TaskState, View,
};
use legation::policy::{Policy, Text};
use legation::translate::Translator;

const SERVICES: usize = 1000;
const TASKS: usize = 20;

fn registration(service: usize, task: usize, phase: Phase) -> Registration {
    let n = u32::try_from(service * TASKS + task).unwrap();
    Registration {
        instance: format!("arn:aws:ecs:eu-west-1:000000000000:task/prod-a/{n:032x}").into(),
        address: Some(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n))),
        port: Some(8080),
        zone: Some(["eu-west-1a", "eu-west-1b", "eu-west-1c"][task % 3].into()),
        version: None,
        phase,
        started_at: None,
        member: Member::Ecs,
        foreign_tls: false,
        held: false,
    }
}

fn view(stopped: Option<usize>) -> Arc<View> {
    let services = (0..SERVICES).map(|service| {
        let name = format!("service-{service:04}");
        let spec = ServiceSpec {
            protocol: Protocol::Http,
            aliases: vec![Alias { name: name.as_str().into(), port: 8080 }],
            ..ServiceSpec::new(ServiceKey::new("prod", name.as_str()), format!("ecs prod-a/{name}"))
        };
        let phase = |task| match stopped {
            Some(stopped) if (service, task) == (stopped, 0) => Phase::Stopping(StopCause::Planned),
            _ => Phase::Running(Health::Healthy),
        };
        let registrations = (0..TASKS).map(|task| registration(service, task, phase(task))).collect();
        (spec.key.clone(), Arc::new(ServiceView { spec: Arc::new(spec), active: true, registrations }))
    });
    let services: Vec<(ServiceKey, Arc<ServiceView>)> = services.collect();
    let tasks = services.iter().flat_map(|(_, service)| &service.registrations).map(|registration| {
        let state = TaskState {
            instance: registration.instance.clone(),
            service: None,
            phase: registration.phase,
            started_at: None,
        };
        (Place::whole(registration.address.unwrap()), state)
    });
    let tasks = tasks.collect();
    let services = services.iter().cloned().collect();
    Arc::new(View { services, clusters: ["prod-a".into()].into(), tasks, ..View::default() })
}

fn bench(criterion: &mut Criterion) {
    let namespaces: BTreeSet<Namespace> = ["prod".into()].into();
    let views = [[view(None)], [view(Some(500))]];
    let mut joiner = Joiner::new(&namespaces);
    let policy = Arc::default();
    let [before, after] = [joiner.join(&views[0], &policy), joiner.join(&views[1], &policy)];

    criterion.bench_function("join 20,000 tasks after one stop", |bench| {
        let mut turn = views.iter().cycle();
        bench.iter(|| joiner.join(black_box(turn.next().unwrap()), &policy));
    });
    criterion.bench_function("translate 1,000 services from nothing", |bench| {
        bench.iter(|| Translator::default().translate(black_box(&before.namespaces["prod"])));
    });
    criterion.bench_function("re-translate 1,000 services after one stop", |bench| {
        let mut translator = Translator::default();
        let mut turn = [&before, &after].into_iter().cycle();
        translator.translate(&before.namespaces["prod"]);
        bench.iter(|| translator.translate(black_box(&turn.next().unwrap().namespaces["prod"])));
    });
}

/// A policy that says something of every service, and of one something of its own.
fn policy_text(special: u32) -> Text {
    let mut text = "apiVersion: legation/v1alpha1\nkind: Policy\nservices:\n".to_owned();
    for service in 0..SERVICES {
        let seconds = if service == 500 { special } else { 5 };
        text += &format!(
            "  service-{service:04}:\n    timeouts: {{ request: {seconds}s }}\n    retry: {{ attempts: 1 }}\n    outlierDetection: {{ consecutive5xx: 3 }}\n"
        );
    }
    text += "routes:\n";
    for service in 0..SERVICES {
        text += &format!(
            "  - name: route-{service}\n    parentRefs: [service-{service:04}]\n    rules:\n      - matches: [{{ path: {{ value: /v2 }} }}]\n        timeouts: {{ request: 2s }}\n"
        );
    }
    ("policy.yaml".into(), text)
}

fn bench_policy(criterion: &mut Criterion) {
    let namespaces: BTreeSet<Namespace> = ["prod".into()].into();
    let texts = [[policy_text(7)], [policy_text(8)]];
    criterion.bench_function("load a policy of 1,000 services and 1,000 routes", |bench| {
        bench.iter(|| Policy::parse(black_box(&texts[0]), &namespaces).unwrap());
    });
    let policies = texts.map(|text| Arc::new(Policy::parse(&text, &namespaces).unwrap()));
    let views = [view(None)];
    let mut joiner = Joiner::new(&namespaces);
    joiner.join(&views, &policies[0]);
    criterion.bench_function("join 20,000 tasks after one service's policy changed", |bench| {
        let mut turn = policies.iter().cycle();
        bench.iter(|| joiner.join(&views, black_box(turn.next().unwrap())));
    });
    let [before, after] = policies.each_ref().map(|policy| joiner.join(&views, policy));
    criterion.bench_function("re-translate 1,000 services after one service's policy changed", |bench| {
        let mut translator = Translator::default();
        let mut turn = [&before, &after].into_iter().cycle();
        bench.iter(|| translator.translate(black_box(&turn.next().unwrap().namespaces["prod"])));
    });
}

criterion_group!(benches, bench, bench_policy);
criterion_main!(benches);
