//! The table of `product.md`, section 6, row by row, and what joining several sources means.

use std::time::{Duration, SystemTime};

use super::*;
use crate::model::{
    Alias, Health, InstanceId, Member, Phase, Place, Protocol, Readiness, Registration, State, StopCause,
    Subnet, TaskState, Traits, Verdict,
};

mod again;
mod doors;
mod drain;
mod gate;
mod homes;
mod recorded;
mod scopes;
mod shared;
mod shifts;

fn at(seconds: u64) -> Option<SystemTime> {
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

fn spec(name: &str, origin: &str, created: u64, aliases: &[(&str, u16)]) -> Arc<ServiceSpec> {
    Arc::new(ServiceSpec {
        protocol: Protocol::Http,
        aliases: aliases.iter().map(|(name, port)| Alias { name: (*name).into(), port: *port }).collect(),
        created_at: at(created),
        ..ServiceSpec::new(ServiceKey::new("prod", name), origin)
    })
}

fn task(id: &str, address: &str, phase: Phase) -> Registration {
    Registration {
        instance: id.into(),
        address: address.parse().ok(),
        port: Some(8080),
        zone: Some("eu-west-1a".into()),
        traits: Traits::default(),
        phase,
        started_at: at(100),
        member: Member::Ecs,
        foreign_tls: false,
        held: false,
    }
}

fn service(spec: Arc<ServiceSpec>, registrations: Vec<Registration>) -> ServiceView {
    ServiceView { spec, active: true, registrations }
}

fn view(cluster: Option<&str>, services: Vec<ServiceView>) -> Arc<View> {
    let named = |service: &ServiceView| service.spec.key.name.shared();
    let tasks = services
        .iter()
        .flat_map(|service| {
            service.registrations.iter().map(move |registration| (named(service), registration))
        })
        .filter(|(_, registration)| registration.member == Member::Ecs)
        .filter_map(|(name, registration)| {
            let task = TaskState {
                instance: registration.instance.clone(),
                service: Some(name.clone()),
                phase: registration.phase,
                started_at: registration.started_at,
            };
            Some((Place::whole(registration.address?), task))
        })
        .collect();
    Arc::new(View {
        services: services.into_iter().map(|service| (service.spec.key.clone(), Arc::new(service))).collect(),
        clusters: cluster.into_iter().map(Into::into).collect(),
        tasks,
        ..View::default()
    })
}

fn joined(views: &[Arc<View>]) -> Mesh {
    joiner().join(views, &Arc::default())
}

fn joiner() -> Joiner {
    Joiner::new(&BTreeSet::from(["prod".into()]))
}

fn payments(registrations: Vec<Registration>) -> ServiceView {
    service(spec("payments", "ecs prod-a/payments", 1, &[("payments", 8080)]), registrations)
}

fn verdicts(mesh: &Mesh, name: &str) -> Vec<(String, &'static str, &'static str)> {
    let endpoints = mesh.namespaces["prod"].services[name].endpoints.iter();
    let verdict = |endpoint: &Endpoint| {
        let Verdict { state, reason } = endpoint.verdict;
        (endpoint.instance.to_string(), state.as_str(), reason.as_str())
    };
    endpoints.map(verdict).collect()
}

#[test]
fn one_verdict_with_its_reason_for_each_phase() {
    let running = Phase::Running;
    let rows: &[(Phase, Readiness, &str, &str)] = &[
        (Phase::Starting, Readiness::Healthy, "absent", "starting"),
        (running(Health::NoCheck), Readiness::Healthy, "healthy", "no-check"),
        (running(Health::Healthy), Readiness::Healthy, "healthy", "ready"),
        (running(Health::Unknown { gate_over: false }), Readiness::Healthy, "absent", "awaiting-health"),
        (running(Health::Unknown { gate_over: false }), Readiness::Running, "healthy", "ready"),
        (running(Health::Unknown { gate_over: true }), Readiness::Healthy, "healthy", "gate-expired"),
        (running(Health::Unhealthy { gate_over: false }), Readiness::Healthy, "absent", "awaiting-health"),
        (
            running(Health::Unhealthy { gate_over: true }),
            Readiness::Healthy,
            "unhealthy",
            "container-unhealthy",
        ),
        (Phase::Stopping(StopCause::Planned), Readiness::Healthy, "absent", "stopping"),
        (Phase::Stopping(StopCause::Spot), Readiness::Healthy, "absent", "spot-interruption"),
        (Phase::Stopping(StopCause::Crashed), Readiness::Healthy, "absent", "crashed"),
        (Phase::Stopped, Readiness::Healthy, "absent", "stopped"),
    ];
    for (phase, readiness, state, reason) in rows {
        // The neighbour keeps the service in rotation, so that no last hope is needed.
        let neighbour = task("task/z", "10.0.0.9", running(Health::Healthy));
        let mut service = payments(vec![task("task/a", "10.0.0.1", *phase), neighbour]);
        service.spec = Arc::new(ServiceSpec { readiness: *readiness, ..(*service.spec).clone() });
        let mesh = joined(&[view(Some("prod-a"), vec![service])]);
        assert_eq!(verdicts(&mesh, "payments")[0], ("task/a".to_owned(), *state, *reason), "{phase:?}");
    }
}

#[test]
fn a_task_without_address_or_port_or_with_foreign_tls_is_absent() {
    let healthy = Phase::Running(Health::Healthy);
    let mut tls = task("task/c", "10.0.0.3", healthy);
    tls.foreign_tls = true;
    let mut portless = task("task/b", "10.0.0.2", healthy);
    portless.port = None;
    let tasks = vec![task("task/a", "unknown", healthy), portless, tls];
    let mesh = joined(&[view(Some("prod-a"), vec![payments(tasks)])]);
    let reasons: Vec<_> = verdicts(&mesh, "payments").into_iter().map(|(_, _, reason)| reason).collect();
    assert_eq!(reasons, ["no-address", "no-port", "foreign-tls"]);
}

#[test]
fn the_last_stopping_task_is_kept_as_last_hope_but_a_crashed_one_is_not() {
    let stopping = |id, cause| task(id, "10.0.0.1", Phase::Stopping(cause));
    let mesh = joined(&[view(Some("prod-a"), vec![payments(vec![stopping("task/a", StopCause::Planned)])])]);
    assert_eq!(verdicts(&mesh, "payments"), [("task/a".to_owned(), "draining", "last-hope")]);
    let mesh = joined(&[view(Some("prod-a"), vec![payments(vec![stopping("task/a", StopCause::Crashed)])])]);
    assert_eq!(verdicts(&mesh, "payments"), [("task/a".to_owned(), "absent", "crashed")]);
}

#[test]
fn a_known_service_stays_when_it_is_empty_and_so_does_its_namespace() {
    let mesh = joined(&[view(Some("prod-a"), vec![payments(vec![])])]);
    assert!(mesh.namespaces["prod"].services["payments"].endpoints.is_empty());
    let mesh = joined(&[view(Some("prod-a"), vec![])]);
    assert!(mesh.namespaces["prod"].services.is_empty());
}

#[test]
fn an_address_belongs_to_the_younger_task() {
    let old = task("task/old", "10.0.0.1", Phase::Running(Health::Healthy));
    let mut young = task("task/young", "10.0.0.1", Phase::Running(Health::Healthy));
    young.started_at = at(200);
    let ledger = service(spec("ledger", "ecs prod-a/ledger", 2, &[("ledger", 50051)]), vec![young]);
    let mut both = view(Some("prod-a"), vec![payments(vec![old]), ledger]);
    let young = TaskState {
        instance: InstanceId::from("task/young"),
        service: Some("ledger".into()),
        phase: Phase::Running(Health::Healthy),
        started_at: at(200),
    };
    let view = Arc::make_mut(&mut both);
    view.tasks = [(Place::whole("10.0.0.1".parse().unwrap()), young)].into_iter().collect();
    let mesh = joined(&[both]);
    assert_eq!(verdicts(&mesh, "payments"), [("task/old".to_owned(), "absent", "address-reused")]);
    assert_eq!(verdicts(&mesh, "ledger"), [("task/young".to_owned(), "healthy", "ready")]);
}

fn cloud_map(id: &str, address: &str, cluster: Option<&str>) -> Registration {
    let member = Member::CloudMap { cluster: cluster.map(Into::into), service: None };
    // Cloud Map doesn't know when an instance began.
    Registration { member, started_at: None, ..task(id, address, Phase::Running(Health::Healthy)) }
}

#[test]
fn an_instance_known_to_both_is_one_endpoint_and_ecs_wins() {
    let ecs = view(
        Some("prod-a"),
        vec![payments(vec![
            task("task/a", "10.0.0.1", Phase::Stopping(StopCause::Planned)),
            task("task/b", "10.0.0.2", Phase::Running(Health::Healthy)),
        ])],
    );
    let map = view(
        None,
        vec![service(
            spec("payments", "cloudmap prod/payments", 9, &[]),
            vec![
                cloud_map("i-a", "10.0.0.1", Some("prod-a")),
                cloud_map("i-stale", "10.0.0.7", Some("prod-a")),
                cloud_map("i-elsewhere", "10.0.0.8", Some("unwatched")),
                cloud_map("i-outside", "10.0.0.9", None),
            ],
        )],
    );
    let mesh = joined(&[ecs, map]);
    assert_eq!(
        verdicts(&mesh, "payments"),
        [
            ("i-elsewhere".to_owned(), "healthy", "ready"),
            ("i-outside".to_owned(), "healthy", "ready"),
            ("i-stale".to_owned(), "absent", "no-task"),
            ("task/a".to_owned(), "absent", "stopping"),
            ("task/b".to_owned(), "healthy", "ready"),
        ]
    );
    let spec = &mesh.namespaces["prod"].services["payments"].spec;
    assert_eq!(&*spec.origin, "ecs prod-a/payments", "ECS describes, Cloud Map adds");
}

#[test]
fn a_cloud_map_name_follows_the_ecs_task_behind_it() {
    let ecs = view(
        Some("prod-a"),
        vec![payments(vec![
            task("task/a", "10.0.0.1", Phase::Stopping(StopCause::Planned)),
            task("task/b", "10.0.0.2", Phase::Running(Health::Healthy)),
        ])],
    );
    let spec = spec("pay-legacy", "cloudmap prod/pay-legacy", 9, &[("pay-legacy", 80)]);
    let members =
        vec![cloud_map("i-a", "10.0.0.1", Some("prod-a")), cloud_map("i-b", "10.0.0.2", Some("prod-a"))];
    let mesh = joined(&[ecs, view(None, vec![service(spec, members)])]);
    assert_eq!(
        verdicts(&mesh, "pay-legacy"),
        [("i-a".to_owned(), "absent", "stopping"), ("i-b".to_owned(), "healthy", "ready")]
    );
}

#[test]
fn the_older_service_keeps_a_contested_name_and_alias() {
    let old = service(spec("payments", "ecs prod-a/payments", 1, &[("payments", 8080)]), vec![]);
    let young = service(spec("payments", "ecs prod-b/payments", 2, &[("payments", 8080)]), vec![]);
    let other = service(spec("pay", "ecs prod-b/pay", 3, &[("payments.prod", 8080), ("pay", 80)]), vec![]);
    let mesh = joined(&[view(Some("prod-b"), vec![young, other]), view(Some("prod-a"), vec![old])]);
    let services = &mesh.namespaces["prod"].services;
    assert_eq!(&*services["payments"].spec.origin, "ecs prod-a/payments");
    assert_eq!(services["pay"].spec.aliases, [Alias { name: "pay".into(), port: 80 }]);
    let findings: Vec<_> = mesh.findings.iter().map(|f| (f.code, f.object.as_str())).collect();
    assert_eq!(findings, [("NAME002", "ecs prod-b/pay"), ("NAME002", "ecs prod-b/payments")]);
}

#[test]
fn what_did_not_change_keeps_its_arc() {
    let tasks = |phase| vec![task("task/a", "10.0.0.1", phase)];
    let ledger = || service(spec("ledger", "ecs prod-a/ledger", 2, &[("ledger", 50051)]), vec![]);
    let mut joiner = joiner();
    let running = payments(tasks(Phase::Running(Health::Healthy)));
    let first = joiner.join(&[view(Some("prod-a"), vec![running.clone(), ledger()])], &Arc::default());
    let again = joiner.join(&[view(Some("prod-a"), vec![running, ledger()])], &Arc::default());
    assert!(Arc::ptr_eq(&first.namespaces["prod"], &again.namespaces["prod"]));

    let crashed = payments(tasks(Phase::Stopping(StopCause::Crashed)));
    let changed = joiner.join(&[view(Some("prod-a"), vec![crashed, ledger()])], &Arc::default());
    let (old, new) = (&first.namespaces["prod"].services, &changed.namespaces["prod"].services);
    assert!(Arc::ptr_eq(&old["ledger"].endpoints, &new["ledger"].endpoints));
    assert!(Arc::ptr_eq(&old["payments"].spec, &new["payments"].spec));
    assert!(!Arc::ptr_eq(&old["payments"].endpoints, &new["payments"].endpoints));
}

fn in_cloud_map(name: &str, aliases: &[(&str, u16)], members: Vec<Registration>) -> Arc<View> {
    let mut spec = spec(name, &format!("cloudmap prod/{name}"), 0, aliases);
    Arc::make_mut(&mut spec).created_at = None;
    view(None, vec![service(spec, members)])
}

fn of_service(mut registration: Registration, name: &str) -> Registration {
    if let Member::CloudMap { service, .. } = &mut registration.member {
        *service = Some(name.into());
    }
    registration
}

const UP: Phase = Phase::Running(Health::Healthy);

fn service_of_ledger() -> ServiceView {
    service(
        spec("ledger", "ecs prod-a/ledger", 2, &[("ledger", 50051)]),
        vec![task("task/ledger", "10.0.0.5", UP)],
    )
}

#[test]
fn a_stale_cloud_map_instance_never_reaches_the_task_that_has_its_address_now() {
    let ledger = service_of_ledger();
    let stale = of_service(cloud_map("i", "10.0.0.5", Some("prod-a")), "payments");
    let map = in_cloud_map("payments", &[("payments", 8080)], vec![stale]);
    let mesh = joined(&[view(Some("prod-a"), vec![ledger]), map]);
    assert_eq!(verdicts(&mesh, "payments"), [("i".to_owned(), "absent", "no-task")]);
}

#[test]
fn what_service_connect_left_never_reaches_the_task_that_has_its_address_now() {
    // It says neither cluster nor service.
    let map = |address| in_cloud_map("payments", &[("payments", 8080)], vec![cloud_map("i", address, None)]);
    let ecs = || vec![payments(vec![task("task/a", "10.0.0.1", UP)]), service_of_ledger()];
    let mesh = joined(&[view(Some("prod-a"), ecs()), map("10.0.0.5")]);
    assert_eq!(verdicts(&mesh, "payments")[0], ("i".to_owned(), "absent", "no-task"));
    let mesh = joined(&[view(Some("prod-a"), ecs()), map("10.0.0.7")]);
    assert_eq!(
        verdicts(&mesh, "payments")[0],
        ("i".to_owned(), "healthy", "ready"),
        "nobody's task is there"
    );
    let mesh = joined(&[view(Some("prod-a"), vec![service_of_ledger()]), map("10.0.0.5")]);
    assert_eq!(verdicts(&mesh, "payments")[0].2, "ready", "ECS knows no such service");
}

#[test]
fn an_address_whose_task_is_known_is_that_tasks_whoever_else_has_none() {
    let stale = || of_service(cloud_map("i", "10.0.0.5", Some("prod-a")), "payments");
    let map = || in_cloud_map("payments", &[("payments", 8080)], vec![stale()]);
    let heir = |service: Option<&str>| {
        let ledger = service_of_ledger();
        let mut ecs = view(Some("prod-a"), vec![ledger]);
        let own = Arc::make_mut(&mut ecs);
        own.unplaced = ["payments".into()].into();
        let places: Vec<_> = own.tasks.keys().copied().collect();
        for place in places {
            own.tasks.get_mut(&place).expect("it is there").service = service.map(Into::into);
        }
        ecs
    };
    // Tasks of payments that are nowhere known do not make another's address theirs.
    for service in [Some("ledger"), None] {
        let mesh = joined(&[heir(service), map()]);
        assert_eq!(verdicts(&mesh, "payments"), [("i".to_owned(), "absent", "no-task")], "{service:?}");
    }
    // Nor do those of another cluster that has a service of that name.
    let mut other = view(Some("prod-b"), vec![]);
    Arc::make_mut(&mut other).unplaced = ["payments".into()].into();
    let mesh = joined(&[view(Some("prod-a"), vec![]), other, map()]);
    assert_eq!(verdicts(&mesh, "payments"), [("i".to_owned(), "absent", "no-task")]);
}

#[test]
fn where_ecs_tells_no_addresses_cloud_map_is_believed() {
    let mut ecs = view(Some("prod-a"), vec![]);
    Arc::make_mut(&mut ecs).unplaced = ["legacy".into()].into();
    let members =
        ["legacy", "other"].map(|name| of_service(cloud_map(name, "10.0.0.7", Some("prod-a")), name));
    let [mut legacy, other] = members;
    legacy.address = "10.0.0.8".parse().ok();
    let mesh = joined(&[ecs, in_cloud_map("legacy", &[("legacy", 80)], vec![legacy, other])]);
    assert_eq!(
        verdicts(&mesh, "legacy"),
        [("legacy".to_owned(), "healthy", "ready"), ("other".to_owned(), "absent", "no-task")]
    );
}

#[test]
fn one_task_on_two_ports_and_one_place_in_two_sources_are_one_endpoint() {
    let ecs = view(Some("prod-a"), vec![payments(vec![task("task/a", "10.0.0.1", UP)])]);
    let mut ingress = cloud_map("i", "10.0.0.1", Some("prod-a"));
    ingress.port = Some(9090);
    let outside = cloud_map("outside", "10.0.0.2", None);
    let map = in_cloud_map("payments", &[], vec![ingress, outside]);
    let mut in_file = task("file", "10.0.0.2", Phase::Running(Health::Unhealthy { gate_over: true }));
    in_file.member = Member::File;
    let file = view(None, vec![service(spec("payments", "file", 0, &[]), vec![in_file])]);
    assert_eq!(
        verdicts(&joined(&[ecs, map, file]), "payments"),
        [("outside".to_owned(), "healthy", "ready"), ("task/a".to_owned(), "healthy", "ready")]
    );
}

#[test]
fn an_ecs_service_comes_before_cloud_map_and_a_standing_one_before_one_that_is_deleted() {
    let ecs = service(spec("payments-http", "ecs prod-a/payments", 200, &[("payments", 8080)]), vec![]);
    let mesh =
        joined(&[view(Some("prod-a"), vec![ecs]), in_cloud_map("payments", &[("payments", 8080)], vec![])]);
    let services = &mesh.namespaces["prod"].services;
    assert_eq!(
        (services["payments-http"].spec.aliases.len(), services["payments"].spec.aliases.len()),
        (1, 0)
    );

    let mut old = payments(vec![task("task/a", "10.0.0.1", Phase::Stopped)]);
    old.active = false;
    let new = service(
        spec("payments", "ecs prod-b/payments", 2, &[("payments", 8080)]),
        vec![task("task/b", "10.0.0.2", UP)],
    );
    let mesh = joined(&[view(Some("prod-a"), vec![old]), view(Some("prod-b"), vec![new])]);
    assert_eq!(verdicts(&mesh, "payments"), [("task/b".to_owned(), "healthy", "ready")]);
    assert_eq!(mesh.findings, []);
}

#[test]
fn a_task_that_has_stopped_hides_nobody_at_its_old_address() {
    let ecs = view(Some("prod-a"), vec![payments(vec![task("task/a", "10.0.0.1", Phase::Stopped)])]);
    let map = in_cloud_map("payments", &[], vec![cloud_map("outside", "10.0.0.1", None)]);
    assert_eq!(
        verdicts(&joined(&[ecs, map]), "payments"),
        [("outside".to_owned(), "healthy", "ready"), ("task/a".to_owned(), "absent", "stopped")]
    );
}
