//! A world that is recorded is the one that is served.

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;

use super::again::{seen, versions, written};
use super::*;
use crate::model::{Import, Origin, Revision, Said, Share, Shift, TestHeader, Which};
use crate::policy::Policy;
use crate::source::file::world::{self, World};
use crate::translate::Translator;

const POLICIES: [&str; 3] = [
    "",
    "services: { s0: { readiness: { gate: running } }, s1: { retry: { attempts: 0 } } }\n",
    "namespaces: { prod: { defaults: { timeouts: { request: 3s } } } }\n",
];

fn policy(text: &str) -> Arc<Policy> {
    let text = format!("apiVersion: legation/v1alpha1\nkind: Policy\n{text}");
    Arc::new(Policy::parse(&[("policy.yaml".into(), text)], &["prod".into()].into()).unwrap())
}

/// What is served of a mesh, and why.
fn served(mesh: &Mesh) -> Vec<(ServiceName, Vec<Endpoint>)> {
    let services = mesh.namespaces["prod"].services.iter();
    let in_it = |endpoint: &&Endpoint| endpoint.verdict.state != State::Absent;
    services.map(|(name, it)| (name.clone(), it.endpoints.iter().filter(in_it).cloned().collect())).collect()
}

fn recorded(views: &[Arc<View>]) -> World {
    let namespaces = [Namespace::from("prod"), Namespace::from("empty")];
    World { recorded_at: at(77).unwrap(), namespaces: super::super::world(views, namespaces.iter()) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_recorded_is_what_is_served(ecs in written(), map in written(), policies in 0..3_usize) {
        let views: [Arc<View>; 2] = [seen(true, &ecs), seen(false, &map)];
        let (world, policy) = (recorded(&views), policy(POLICIES[policies]));
        let alone = [Arc::new(world.namespaces["prod"].clone())];
        let (mesh, again) = (joiner().join(&views, &policy), joiner().join(&alone, &policy));
        prop_assert_eq!(served(&mesh), served(&again));
        let tables = |mesh: &Mesh| versions(&Translator::default().translate(&mesh.namespaces["prod"]));
        prop_assert_eq!(tables(&mesh), tables(&again));
    }

    #[test]
    fn what_is_written_is_read_again(ecs in written(), map in written(), marks in vec(any::<u8>(), 4)) {
        let mut world = recorded(&[seen(true, &ecs), seen(false, &map)]);
        let view = world.namespaces.get_mut("prod").unwrap();
        for (key, known) in view.services.clone() {
            let mut service = (*known).clone();
            let spec = Arc::make_mut(&mut service.spec);
            let said = Said::new("timeouts.request", "1s", "tag service/a \"b\"");
            spec.origin = Origin::new("ecs prod-a/ü", marks[0].is_multiple_of(2).then_some(said));
            spec.protocol = Protocol::WORDS[usize::from(marks[1]) % 4].parse().unwrap();
            spec.readiness = if marks[1] > 99 { Readiness::Running } else { Readiness::Healthy };
            spec.knobs.idle_timeout = (marks[2] > 9).then(|| Duration::from_millis(u64::from(marks[2])));
            let header = TestHeader { name: "x-test".into(), value: (marks[2] > 99).then(|| "1".into()) };
            let revision = Revision { id: "7".into(), production: 900, test: 0, serves: marks[3] > 9 };
            let shift = Shift { revisions: vec![revision], header };
            spec.shift = (marks[1] > 49).then(|| Arc::new(shift));
            spec.knobs.zones = (marks[0] > 9).then(|| u32::from(marks[0] % 5 + 1));
            spec.knobs.inbound_port = (marks[1] > 9).then(|| u16::from(marks[1]));
            spec.home = if marks[2] > 99 { "family".into() } else { spec.key.name.clone() };
            spec.knobs.retry_attempts = (marks[3] > 9).then(|| u32::from(marks[3] % 11));
            if let Some(first) = service.registrations.first_mut() {
                first.traits.version = Some("58".into());
                if marks[1] > 49 {
                    first.traits.deployment = Some(Which::Previous);
                    first.traits.labels = Arc::new([("tier".into(), "gold".into())].into());
                    first.traits.revision = Some("7".into());
                    first.traits.share = Share::Awaits;
                }
                first.started_at = first.started_at.map(|at| at + Duration::from_nanos(u64::from(marks[0])));
                (first.held, first.foreign_tls) = (marks[1] > 9, marks[2] > 9);
                first.phase = PHASES[usize::from(marks[3]) % PHASES.len()];
                if marks[0] > 99 {
                    (first.address, first.port) = (None, None);
                }
            }
            view.services.insert(key, Arc::new(service));
        }
        let crew = vec![("euw1-az1".into(), [10, 0, 0, marks[0]].into())];
        world.namespaces.get_mut("prod").unwrap().crews.insert(ServiceKey::new("prod", "caller"), crew.into());
        let from = ["shared".into(), "tools".into()].into();
        let import = Import { client: "batch-*".into(), from, origin: "ecs prod-a/batch".into() };
        world.namespaces.get_mut("prod").unwrap().imports = (marks[0] > 49).then(|| ("prod".into(), import)).into_iter().collect();
        for text in [format!("{:#}", world.to_json()), world.to_json().to_string()] {
            prop_assert!(world::is_world(&text));
            prop_assert_eq!(&world::read(Path::new("world.json"), &text).unwrap(), &world);
        }
    }
}

const PHASES: [Phase; 8] = [
    Phase::Starting,
    Phase::Stopped,
    Phase::Stopping(StopCause::Crashed),
    Phase::Stopping(StopCause::Spot),
    Phase::Running(Health::NoCheck),
    Phase::Running(Health::Unknown { gate_over: false }),
    Phase::Running(Health::Unknown { gate_over: true }),
    Phase::Running(Health::Unhealthy { gate_over: false }),
];

/// What tags say of imports is in the world of the namespace whose clients are meant.
#[test]
fn imports_are_recorded() {
    let import =
        Import { client: "web".into(), from: ["shared".into()].into(), origin: "ecs prod-a/web".into() };
    let view = View { imports: vec![("prod".into(), import)], ..View::default() };
    let world = recorded(&[Arc::new(view.clone())]);
    assert_eq!(world.namespaces["prod"].imports, view.imports);
    assert_eq!(world.namespaces["empty"].imports, []);
}
