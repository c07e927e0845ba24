//! Joining again gives what joining for the first time gives, and so does translating.

use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::snapshot::{ResourceType, Tables};
use crate::translate::Translator;

/// What one source sees, in numbers: services by name and age, each with an alias and tasks by place and phase.
pub(super) type Written = Vec<(u8, u8, u8, Vec<(u8, u8)>)>;

pub(super) fn written() -> impl Strategy<Value = Written> {
    let few = |to: u8| -> Range<u8> { 0..to };
    vec((few(4), few(3), few(4), vec((few(5), few(6)), 0..4)), 0..4)
}

pub(super) fn seen(ecs: bool, written: &Written) -> Arc<View> {
    let services = written.iter().map(|(name, age, alias, tasks)| {
        let origin = if ecs { format!("ecs prod-a/{name}-{age}") } else { format!("cloudmap prod/{name}") };
        let alias = format!("a{alias}");
        let aliases = [(alias.as_str(), 80)];
        let spec = spec(&format!("s{name}"), &origin, u64::from(*age), &aliases[..usize::from(age % 2)]);
        let registrations = tasks.iter().map(|(place, phase)| registered(ecs, *name, *place, *phase));
        service(spec, registrations.collect())
    });
    view(ecs.then_some("prod-a"), services.collect())
}

fn registered(ecs: bool, name: u8, place: u8, phase: u8) -> Registration {
    let phase = match phase {
        0 => Phase::Starting,
        1 => Phase::Stopped,
        2 => Phase::Stopping(StopCause::Planned),
        3 => Phase::Running(Health::Unhealthy { gate_over: true }),
        _ => Phase::Running(Health::Healthy),
    };
    let address = format!("10.0.0.{}", place + 1);
    if ecs {
        let started_at = at(u64::from(name) * 10 + u64::from(place));
        return Registration { started_at, ..task(&format!("task/{name}-{place}"), &address, phase) };
    }
    let member = cloud_map(&format!("i-{place}"), &address, (place != 4).then_some("prod-a"));
    if place.is_multiple_of(2) { of_service(member, &format!("s{name}")) } else { member }
}

pub(super) fn versions(tables: &Tables) -> Vec<(ResourceType, String, String)> {
    let each = ResourceType::ALL.into_iter().flat_map(|kind| tables[kind].values());
    each.map(|it| (it.kind, it.name.to_string(), it.version.to_string())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_before_makes_no_difference(
        steps in vec((written(), written(), any::<bool>(), any::<bool>()), 1..8),
    ) {
        let (mut again, mut translator) = (joiner(), Translator::default());
        let mut views = [seen(true, &Vec::new()), seen(false, &Vec::new())];
        for (ecs, map, of_ecs, of_map) in steps {
            // A source that says nothing new keeps its view.
            if of_ecs {
                views[0] = seen(true, &ecs);
            }
            if of_map {
                views[1] = seen(false, &map);
            }
            let (mesh, fresh) = (again.join(&views, &Arc::default()), joiner().join(&views, &Arc::default()));
            prop_assert_eq!(&mesh, &fresh);
            let namespace = &mesh.namespaces["prod"];
            let (tables, fresh) = (translator.translate(namespace), Translator::default().translate(namespace));
            prop_assert_eq!(versions(&tables), versions(&fresh));
            prop_assert_eq!(tables.dangling(), None);
        }
    }
}
