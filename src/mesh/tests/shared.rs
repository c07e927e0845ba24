//! Tasks that share an address (network modes `bridge` and `host`): what one of them does, and what happens to it, is
//! nothing to the others.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const MACHINE: &str = "10.0.0.1";

/// A task on one port of the machine.
fn on(id: &str, port: u16, phase: Phase) -> Registration {
    Registration { port: Some(port), ..task(id, MACHINE, phase) }
}

fn began(seconds: u64, registration: Registration) -> Registration {
    Registration { started_at: at(seconds), ..registration }
}

/// The same in Cloud Map, as ECS registers tasks of a service there.
fn mapped(id: &str, port: u16, service: &str) -> Registration {
    let registration = Registration { port: Some(port), ..cloud_map(id, MACHINE, Some("prod-a")) };
    of_service(registration, service)
}

/// A cluster whose tasks have the ports that they are registered with, and nothing else of the machine's address.
fn shared(services: Vec<ServiceView>) -> Arc<View> {
    let mut view = view(Some("prod-a"), services);
    let seen = Arc::make_mut(&mut view);
    seen.tasks.clear();
    for service in seen.services.values() {
        for one in service.registrations.iter().filter(|one| one.phase != Phase::Stopped) {
            let (Some(address), Some(port)) = (one.address, one.port) else { continue };
            let task = TaskState {
                instance: one.instance.clone(),
                service: Some(service.spec.key.name.shared()),
                phase: one.phase,
                started_at: one.started_at,
            };
            let youngest = seen.tasks.entry(Place::shared(address, port)).or_insert_with(|| task.clone());
            if (task.started_at, &task.instance) > (youngest.started_at, &youngest.instance) {
                *youngest = task;
            }
        }
    }
    view
}

fn ledger(registrations: Vec<Registration>) -> ServiceView {
    service(spec("ledger", "ecs prod-a/ledger", 2, &[("ledger", 50051)]), registrations)
}

fn said(mesh: &Mesh, name: &str) -> Vec<(String, &'static str)> {
    verdicts(mesh, name).into_iter().map(|(instance, _, reason)| (instance, reason)).collect()
}

fn told(verdicts: &[(&str, &'static str)]) -> Vec<(String, &'static str)> {
    verdicts.iter().map(|(instance, reason)| ((*instance).to_owned(), *reason)).collect()
}

#[test]
fn one_that_stops_or_ends_takes_no_neighbour_with_it() {
    for (phase, reason) in [
        (Phase::Stopping(StopCause::Planned), "stopping"),
        (Phase::Stopping(StopCause::Crashed), "crashed"),
        (Phase::Stopped, "stopped"),
        (Phase::Starting, "starting"),
    ] {
        // Whoever began last is no heir of the others.
        for age in [50, 500] {
            let leaving = began(age, on("task/a", 32_768, phase));
            let neighbours = payments(vec![leaving, on("task/b", 32_769, UP)]);
            let mesh = joined(&[shared(vec![neighbours, ledger(vec![on("task/c", 32_770, UP)])])]);
            assert_eq!(said(&mesh, "payments"), told(&[("task/a", reason), ("task/b", "ready")]));
            assert_eq!(said(&mesh, "ledger"), told(&[("task/c", "ready")]));
        }
    }
}

#[test]
fn a_port_belongs_to_the_younger_task_and_only_that_port() {
    let old = payments(vec![on("task/a", 32_768, UP), on("task/b", 32_769, UP)]);
    let young = ledger(vec![began(200, on("task/c", 32_768, UP))]);
    let mesh = joined(&[shared(vec![old, young])]);
    assert_eq!(said(&mesh, "payments"), told(&[("task/a", "address-reused"), ("task/b", "ready")]));
    assert_eq!(said(&mesh, "ledger"), told(&[("task/c", "ready")]));
}

#[test]
fn an_address_that_went_from_a_task_to_a_machine_or_back_is_reused_on_every_port() {
    let whole = |seconds| began(seconds, task("task/own", MACHINE, UP));
    let owner = |seconds| TaskState {
        instance: "task/own".into(),
        service: Some("payments".into()),
        phase: UP,
        started_at: at(seconds),
    };
    for (seconds, own, other) in [(50, "address-reused", "ready"), (500, "ready", "address-reused")] {
        let mut view = shared(vec![payments(vec![]), ledger(vec![on("task/c", 32_768, UP)])]);
        let seen = Arc::make_mut(&mut view);
        let place = Place::whole(MACHINE.parse().expect("an address"));
        seen.tasks.insert(place, owner(seconds));
        let offered = payments(vec![whole(seconds)]);
        seen.services.insert(offered.spec.key.clone(), Arc::new(offered));
        let mesh = joined(&[view]);
        assert_eq!(said(&mesh, "payments"), told(&[("task/own", own)]), "began at {seconds}");
        assert_eq!(said(&mesh, "ledger"), told(&[("task/c", other)]), "began at {seconds}");
    }
}

#[test]
fn cloud_map_is_joined_by_address_and_port() {
    let ecs = shared(vec![
        payments(vec![on("task/a", 32_768, UP), on("task/b", 32_769, Phase::Stopping(StopCause::Planned))]),
        ledger(vec![on("task/c", 32_770, UP)]),
    ]);
    let members = || {
        vec![
            mapped("i-a", 32_768, "payments"),
            mapped("i-b", 32_769, "payments"),
            mapped("i-c", 32_770, "payments"), // the port is ledger's now
            mapped("i-d", 32_771, "payments"), // of whom nobody knows
        ]
    };
    // Under the same name, each task is one endpoint and ECS wins.
    let mesh = joined(&[ecs.clone(), in_cloud_map("payments", &[], members())]);
    let expected = [("i-c", "no-task"), ("i-d", "no-task"), ("task/a", "ready"), ("task/b", "stopping")];
    assert_eq!(said(&mesh, "payments"), told(&expected));
    // Under another, each lives and dies with the task at its port.
    let mesh = joined(&[ecs, in_cloud_map("legacy", &[("legacy", 80)], members())]);
    let expected = [("i-a", "ready"), ("i-b", "stopping"), ("i-c", "no-task"), ("i-d", "no-task")];
    assert_eq!(said(&mesh, "legacy"), told(&expected));
}

#[test]
fn a_neighbour_does_not_hide_whose_port_ecs_has_not_told() {
    let mut unbound = on("task/b", 1, UP);
    unbound.port = None;
    let mut ecs = shared(vec![payments(vec![on("task/a", 32_768, UP), unbound])]);
    Arc::make_mut(&mut ecs).unplaced = ["payments".into()].into();
    // ECS registers a task under its id; others may call it otherwise.
    for (a, b) in [("i-a", "i-b"), ("a", "b")] {
        let members = vec![mapped(a, 32_768, "payments"), mapped(b, 32_769, "payments")];
        let mesh = joined(&[Arc::clone(&ecs), in_cloud_map("payments", &[], members)]);
        assert_eq!(
            said(&mesh, "payments"),
            told(&[(b, "ready"), ("task/a", "ready"), ("task/b", "no-port")])
        );
    }
}

/// One task of a step: its service, its port, when it began, and its phase.
type Written = (u8, u8, u8, u8);

fn seen(tasks: &[Written]) -> Arc<View> {
    let of = |name: u8| -> Vec<Registration> {
        let own = tasks.iter().enumerate().filter(|(_, task)| task.0 == name);
        let registered = own.map(|(number, (_, port, age, phase))| {
            let phase = match phase {
                0 => Phase::Starting,
                1 => Phase::Stopping(StopCause::Planned),
                2 => Phase::Stopped,
                _ => UP,
            };
            let id = format!("task/{number}-{name}");
            began(u64::from(*age), on(&id, 32_768 + u16::from(*port), phase))
        });
        registered.collect()
    };
    shared(vec![payments(of(0)), ledger(of(1))])
}

fn serving(mesh: &Mesh, name: &str) -> BTreeSet<(String, u16)> {
    let endpoints = mesh.namespaces["prod"].services[name].endpoints.iter();
    let healthy = endpoints.filter(|endpoint| endpoint.verdict.state == State::Healthy);
    healthy.map(|one| (one.instance.to_string(), one.port.expect("a port"))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever was before: at each port of the machine serves the youngest task there if it is up, and nobody else.
    #[test]
    fn at_each_port_serves_the_youngest(steps in vec(vec((0..2_u8, 0..4_u8, 1..9_u8, 0..6_u8), 0..8), 1..6)) {
        let mut again = joiner();
        for tasks in steps {
            let view = seen(&tasks);
            let mesh = again.join(&[Arc::clone(&view)], &Arc::default());
            prop_assert_eq!(&mesh, &joiner().join(&[Arc::clone(&view)], &Arc::default()));
            for (name, of) in [("payments", 0), ("ledger", 1)] {
                let up = tasks.iter().enumerate().filter(|(_, task)| task.0 == of && task.3 > 2);
                let youngest = up.filter(|(_, (_, port, age, _))| {
                    let there = tasks.iter().filter(|other| other.1 == *port && other.3 != 2);
                    there.map(|other| other.2).max() == Some(*age)
                });
                let expected: BTreeSet<_> = youngest
                    .map(|(number, task)| (format!("task/{number}-{of}"), 32_768 + u16::from(task.1)))
                    .collect();
                prop_assert_eq!(serving(&mesh, name), expected);
            }
        }
    }
}
