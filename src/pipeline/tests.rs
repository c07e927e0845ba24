//! From cells to the store: when it publishes, when it doesn't, and what it enters in the ledger.

use std::net::Ipv4Addr;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;

use super::*;
use crate::model::{
    Alias, Health, Member, Phase, Protocol, Registration, ServiceSpec, ServiceView, StopCause,
};
use crate::source::{self, CellWriter, SourceError};
use crate::store::{Store, store};

const GRACE: Duration = Duration::from_millis(200);

struct Running {
    ecs: CellWriter,
    map: CellWriter,
    store: Store,
    mesh: watch::Receiver<Arc<Mesh>>,
    ledger: Ledger,
    policy: watch::Sender<Loaded>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn start() -> Running {
    start_with(GRACE)
}

fn start_with(cluster_grace: Duration) -> Running {
    start_under(cluster_grace, Loaded::none())
}

fn start_under(cluster_grace: Duration, loaded: Loaded) -> Running {
    let ((ecs, ecs_cell), (map, map_cell)) = (source::cell("ecs/prod-a"), source::cell("cloudmap/prod"));
    let (writer, store) = store();
    let (mesh_in, mesh) = watch::channel(Arc::new(Mesh::default()));
    let (ledger, stop) = (Ledger::default(), CancellationToken::new());
    let (policy, policies) = watch::channel(loaded);
    let pipeline = Pipeline {
        namespaces: BTreeSet::from(["prod".into(), "empty".into()]),
        cells: vec![ecs_cell, map_cell],
        policy: policies,
        clock: Arc::default(),
        writer,
        mesh: mesh_in,
        ledger: ledger.clone(),
        metrics: Metrics::register(&mut Registry::default()),
        cluster_grace,
    };
    let task = tokio::spawn(pipeline.run(stop.clone()));
    Running { ecs, map, store, mesh, ledger, policy, stop, task }
}

fn view(phases: &[Phase]) -> View {
    let key = ServiceKey::new("prod", "payments");
    let spec = ServiceSpec {
        protocol: Protocol::Http,
        aliases: vec![Alias { name: "payments".into(), port: 8080 }],
        ..ServiceSpec::new(key.clone(), "ecs prod-a/payments")
    };
    let registrations = (1..).zip(phases).map(|(n, phase)| Registration {
        instance: format!("task/{n}").into(),
        address: Some(Ipv4Addr::new(10, 0, 0, n).into()),
        port: Some(8080),
        zone: None,
        version: None,
        phase: *phase,
        started_at: None,
        member: Member::Ecs,
        foreign_tls: false,
        held: false,
    });
    let service = ServiceView { spec: Arc::new(spec), active: true, registrations: registrations.collect() };
    View {
        services: [(key, Arc::new(service))].into_iter().collect(),
        clusters: ["prod-a".into()].into(),
        ..View::default()
    }
}

const UP: Phase = Phase::Running(Health::Healthy);
const STOPPING: Phase = Phase::Stopping(StopCause::Planned);

#[tokio::test]
async fn nothing_is_published_before_every_source_has_spoken_and_then_every_namespace_is() {
    let mut running = start();
    running.ecs.publish(view(&[UP, UP]), Instant::now());
    running.map.fail(error());
    // A turn of the loop would have published by the time the next source speaks.
    tokio::task::yield_now().await;
    assert!(!running.store.is_synced());
    running.map.publish(View::default(), Instant::now());
    running.mesh.changed().await.unwrap();
    assert_eq!(running.store.namespaces(), ["empty".into(), "prod".into()]);
    assert_eq!(running.store.latest("prod").unwrap().generation, 1);
}

fn error() -> SourceError {
    let code = "ThrottlingException".to_owned();
    SourceError { operation: "ecs:ListTasks".to_owned(), code, message: "Rate exceeded".to_owned() }
}

#[tokio::test]
async fn an_error_and_an_equal_reading_change_nothing() {
    let mut running = start();
    running.ecs.publish(view(&[UP, UP]), Instant::now());
    running.map.publish(View::default(), Instant::now());
    running.mesh.changed().await.unwrap();
    let before = running.store.latest("prod").unwrap();
    running.ecs.fail(error());
    running.ecs.publish(view(&[UP, UP]), Instant::now());
    running.map.fail(error());
    // The next real change comes after those, so their turns are over once it is seen.
    running.ecs.publish(view(&[UP, STOPPING]), Instant::now());
    running.mesh.changed().await.unwrap();
    assert_eq!(running.store.latest("prod").unwrap().generation, before.generation + 1);
}

#[tokio::test]
async fn a_stopped_task_leaves_its_assignment_and_is_entered_in_the_ledger_once() {
    let mut running = start();
    running.ecs.publish(view(&[UP, UP]), Instant::now());
    running.map.publish(View::default(), Instant::now());
    running.mesh.changed().await.unwrap();
    let before = running.store.latest("prod").unwrap();
    running.ecs.publish(view(&[UP, STOPPING]), Instant::now());
    running.mesh.changed().await.unwrap();
    let after = running.store.latest("prod").unwrap();
    for kind in ResourceType::ALL {
        let same = before.table(kind).iter().all(|(name, old)| Arc::ptr_eq(old, &after.table(kind)[name]));
        assert_eq!(same, kind != ResourceType::Endpoint, "{kind:?}");
    }
    running.ecs.publish(view(&[UP, Phase::Stopped]), Instant::now());
    running.mesh.changed().await.unwrap();
    let [change] = running.ledger.list().try_into().unwrap();
    assert_eq!(change.withdrawal.instance.as_str(), "task/2");
    assert_eq!(
        (change.withdrawal.reason, change.withdrawal.generation),
        (Reason::Stopping, after.generation)
    );
    assert!(change.withdrawal.seen_at <= change.withdrawal.published_at);
}

#[tokio::test]
async fn it_ends_when_asked_and_when_a_source_is_lost() {
    let running = start();
    running.stop.cancel();
    running.task.await.unwrap();
    let Running { ecs, task, .. } = start();
    drop(ecs);
    task.await.unwrap();
}

#[tokio::test]
async fn what_every_source_knew_is_confirmed_when_it_is_published() {
    let running = start();
    let mut confirmed = running.store.confirmed();
    let began = Instant::now();
    running.ecs.publish(view(&[UP]), began);
    tokio::task::yield_now().await;
    assert_eq!(*confirmed.borrow(), None);
    running.map.publish(View::default(), began + GRACE);
    assert_eq!(*confirmed.wait_for(Option::is_some).await.unwrap(), Some(began), "the oldest reading counts");
    running.ecs.fail(error());
    running.ecs.publish(view(&[UP]), began + GRACE * 2);
    let later = Some(began + GRACE);
    assert_eq!(*confirmed.wait_for(|it| *it != Some(began)).await.unwrap(), later, "though nothing changed");
}

fn nothing() -> View {
    View { clusters: ["prod-a".into()].into(), ..View::default() }
}

fn has(kind: ResourceType) -> impl Fn(&Arc<Snapshot>) -> bool {
    move |snapshot| snapshot.table(kind).contains_key("prod/payments")
}

#[tokio::test]
async fn a_service_that_left_keeps_its_cluster_for_the_grace_and_counts_as_withdrawn_after_it() {
    let mut running = start();
    running.ecs.publish(view(&[UP]), Instant::now());
    running.map.publish(View::default(), Instant::now());
    running.mesh.changed().await.unwrap();
    let mut snapshots = running.store.subscribe("prod").unwrap();
    running.ecs.publish(nothing(), Instant::now());
    let left = snapshots.wait_for(|it| !has(ResourceType::Route)(it)).await.unwrap().clone();
    assert!(has(ResourceType::Cluster)(&left) && has(ResourceType::Endpoint)(&left));
    let gone = snapshots.wait_for(|it| !has(ResourceType::Cluster)(it)).await.unwrap().clone();
    assert!(!has(ResourceType::Endpoint)(&gone));
    assert_eq!(gone.generation, left.generation + 1);
    let [change] = running.ledger.list().try_into().unwrap();
    assert_eq!(change.withdrawal.generation, gone.generation, "who holds the one before has the endpoint");
    assert_eq!(change.withdrawal.seen_at, left.seen_at);
    assert!(change.withdrawal.published_at > gone.seen_at && gone.seen_at > left.seen_at);
}

#[tokio::test]
async fn what_nothing_leads_to_is_withdrawn_after_the_grace_too() {
    let mut running = start();
    let mut unnamed = view(&[UP]);
    let key = ServiceKey::new("prod", "payments");
    let service = Arc::make_mut(unnamed.services.get_mut(&key).unwrap());
    let spec = ServiceSpec { protocol: Protocol::Tcp, aliases: Vec::new(), ..(*service.spec).clone() };
    service.spec = Arc::new(spec);
    running.ecs.publish(unnamed, Instant::now());
    running.map.publish(View::default(), Instant::now());
    running.mesh.changed().await.unwrap();
    let mut snapshots = running.store.subscribe("prod").unwrap();
    let before = snapshots.borrow_and_update().generation;
    running.ecs.publish(nothing(), Instant::now());
    snapshots.wait_for(|it| !has(ResourceType::Cluster)(it)).await.unwrap();
    let [change] = running.ledger.list().try_into().unwrap();
    assert_eq!(change.withdrawal.generation, before + 1, "nothing differs until then");
}

#[tokio::test]
async fn what_is_back_within_the_grace_has_not_been_withdrawn() {
    let mut running = start_with(Duration::from_secs(600));
    running.ecs.publish(view(&[UP, UP]), Instant::now());
    running.map.publish(View::default(), Instant::now());
    running.mesh.changed().await.unwrap();
    let mut snapshots = running.store.subscribe("prod").unwrap();
    running.ecs.publish(nothing(), Instant::now());
    snapshots.wait_for(|it| !has(ResourceType::Route)(it)).await.unwrap();
    running.ecs.publish(view(&[UP, STOPPING]), Instant::now());
    let back = snapshots.wait_for(has(ResourceType::Route)).await.unwrap().clone();
    let [change] = running.ledger.list().try_into().unwrap();
    assert_eq!((change.withdrawal.instance.as_str(), change.withdrawal.reason), ("task/2", Reason::Stopping));
    assert_eq!(change.withdrawal.generation, back.generation);
    assert_eq!(change.withdrawal.seen_at, back.seen_at);
}

fn loaded(text: &str) -> Loaded {
    let text = format!("apiVersion: legation/v1alpha1\nkind: Policy\n{text}");
    let texts = vec![("policy.yaml".into(), text)];
    Loaded::read(texts, &["prod".into(), "empty".into()].into()).unwrap()
}

#[tokio::test]
async fn a_policy_whose_lines_move_publishes_nothing_but_is_told_with_its_lines() {
    let text = "services:\n  payments: { namespace: prod, retry: { attempts: 1 } }\n\
        routes: [{ name: a, namespace: prod, parentRefs: [payments], rules: [{ timeouts: { request: 1s } }] }]\n";
    let mut running = start_under(GRACE, loaded(text));
    running.ecs.publish(view(&[UP, UP]), Instant::now());
    running.map.publish(View::default(), Instant::now());
    running.mesh.changed().await.unwrap();
    let rule = |mesh: &Mesh| mesh.namespaces["prod"].services["payments"].spec.rules[0].origin.to_string();
    assert_eq!(rule(&running.mesh.borrow()), "policy.yaml:5");
    running.policy.send_replace(loaded(&format!("# moved\n{text}")));
    running.mesh.changed().await.unwrap();
    assert_eq!(rule(&running.mesh.borrow()), "policy.yaml:6");
    assert_eq!(running.store.latest("prod").unwrap().generation, 1);
    running.policy.send_replace(loaded(&text.replace("1s", "2s")));
    running.mesh.changed().await.unwrap();
    assert_eq!(running.store.latest("prod").unwrap().generation, 2);
}

#[tokio::test]
async fn a_wait_that_a_policy_shortens_ends_although_no_source_speaks() {
    let text = "services: { payments: { namespace: prod, readiness: { maxWait: 1s } } }\n";
    let mut running = start_under(GRACE, loaded(text));
    let mut seen = view(&[Phase::Running(Health::Unknown { gate_over: false })]);
    let service = seen.services.get_mut(&ServiceKey::new("prod", "payments")).unwrap();
    Arc::make_mut(service).registrations[0].started_at = Some(SystemTime::now());
    running.ecs.publish(seen, Instant::now());
    running.map.publish(View::default(), Instant::now());
    let mut reason = async || {
        running.mesh.changed().await.unwrap();
        running.mesh.borrow().namespaces["prod"].services["payments"].endpoints[0].verdict.reason
    };
    assert_eq!(reason().await, Reason::AwaitingHealth);
    let came = tokio::time::timeout(Duration::from_secs(20), reason()).await;
    assert_eq!(came.expect("somebody wakes up"), Reason::GateExpired);
}
