//! Translated again and again is translated once.

use super::*;
use crate::model::{Action, Backend, Fault, HeaderChanges, Match, Revision, Shift, TestHeader};

/// How a service is described: whether it is there, its alias, protocol, attempts, whom a rule names, whether a deployment
/// shifts its traffic, and whether sidecars take its requests in.
type Written = (bool, u8, bool, u8, u8, bool, bool);

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn described(number: usize, (_, alias, is_http, attempts, named, shifts, inbound): Written) -> Service {
    let protocol = if is_http { Protocol::Http } else { Protocol::Tcp };
    let mut service = service(NAMES[number], protocol, 8080 + u16::from(alias), &[2, 3]);
    let spec = Arc::make_mut(&mut service.spec);
    spec.knobs.retry_attempts = Some(u32::from(attempts));
    spec.knobs.inbound_port = inbound.then_some(15_006);
    let rule = |name: &&str| Rule {
        name: "r".into(),
        matches: Match::default(),
        request_headers: HeaderChanges::default(),
        response_headers: HeaderChanges::default(),
        action: Action::Forward(vec![Backend::all_of(&(**name).into())]),
        mirror: None,
        fault: Fault::default(),
        knobs: Knobs::default(),
        origin: "policy.yaml:1".into(),
    };
    spec.rules = NAMES.get(usize::from(named)).filter(|_| is_http).map(rule).into_iter().collect();
    let revision = |id: &str| Revision { id: id.into(), production: 500, test: 0, serves: true };
    let header = TestHeader { name: "x-test".into(), value: None };
    spec.shift = shifts.then(|| Arc::new(Shift { revisions: vec![revision("1"), revision("2")], header }));
    service
}

fn described_all(written: &[Written]) -> MeshNamespace {
    let there = written.iter().enumerate().filter(|(_, it)| it.0);
    namespace(there.map(|(number, it)| described(number, *it)))
}

fn any_service() -> impl Strategy<Value = Written> {
    (
        prop::bool::weighted(0.9),
        0..2_u8,
        prop::bool::weighted(0.8),
        0..3_u8,
        0..6_u8,
        any::<bool>(),
        any::<bool>(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever one description changes, in itself and in those who name it, is said anew.
    #[test]
    fn one_change_after_the_other_gives_what_is_given_at_once(
        first in prop::collection::vec(any_service(), NAMES.len()),
        changes in prop::collection::vec((0..NAMES.len(), any_service()), 1..8),
    ) {
        let (mut written, mut translator) = (first, Translator::default());
        translator.translate(&described_all(&written));
        for (number, service) in changes {
            written[number] = service;
            let now = described_all(&written);
            let (again, once) = (translator.translate(&now), Translator::default().translate(&now));
            for kind in ResourceType::ALL {
                prop_assert_eq!(&again[kind], &once[kind], "{:?}", kind);
            }
            prop_assert_eq!(again.dangling(), None);
        }
    }
}
