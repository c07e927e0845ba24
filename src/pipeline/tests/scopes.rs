//! Scopes from the policy to the store: made when asked for, one withdrawal for all of them, and left when empty.

use super::*;
use crate::changes::Listener;
use crate::store::Follower;

struct Estate {
    running: Running,
    policy: watch::Sender<Loaded>,
}

fn loaded(text: &str) -> Loaded {
    let text = format!("apiVersion: legation/v1alpha1\nkind: Policy\n{text}");
    let texts = vec![("policy.yaml".into(), text)];
    let namespaces = BTreeSet::from(["prod".into(), "shared".into(), "tools".into()]);
    let policy = Policy::parse(&texts, &namespaces).unwrap_or_else(|problems| panic!("{problems:?}"));
    Loaded::of(texts, policy)
}

const USES: &str = "services: { checkout: { namespace: prod, uses: [shared/audit] } }\n\
    imports: [{ client: 'batch-*', namespace: prod, from: [shared] }]\n";

/// The services of `prod`, `shared` and `tools`, each with as many tasks as it says.
fn seen(services: &[(&str, &str, &[Phase])]) -> View {
    let mut all = View { clusters: ["prod-a".into()].into(), ..View::default() };
    for (namespace, name, phases) in services {
        let [(_, service)] = view(phases).services.into_iter().collect::<Vec<_>>().try_into().unwrap();
        let key = ServiceKey::new(*namespace, *name);
        let aliases = vec![Alias { name: (*name).into(), port: 8080 }];
        let spec = ServiceSpec { key: key.clone(), aliases, ..(*service.spec).clone() };
        let registrations = service.registrations.iter().map(|one| Registration {
            instance: format!("{}-{name}", one.instance).into(),
            address: one.address,
            ..one.clone()
        });
        let registrations = registrations.collect();
        let service = ServiceView { spec: Arc::new(spec), active: true, registrations };
        all.services.insert(key, Arc::new(service));
    }
    all
}

async fn estate(policy: &str, services: &[(&str, &str, &[Phase])]) -> Estate {
    let policy = watch::Sender::new(loaded(policy));
    let namespaces = BTreeSet::from(["prod".into(), "shared".into(), "tools".into()]);
    let mut running = start_for(namespaces, policy.clone(), GRACE);
    running.ecs.publish(seen(services), Instant::now());
    running.map.publish(View::default(), Instant::now());
    running.mesh.changed().await.unwrap();
    Estate { running, policy }
}

impl Estate {
    async fn client(&self, service: &str) -> Follower {
        let scope = self.running.store.scope_of("prod", service).unwrap();
        self.running.store.follower_in(&scope, &"task".into()).await.unwrap()
    }

    /// Publishes these services, and waits until they are in the mesh: it may turn for other reasons too.
    async fn sees(&mut self, services: &[(&str, &str, &[Phase])]) {
        self.running.ecs.publish(seen(services), Instant::now());
        let is_there = |mesh: &Arc<Mesh>| {
            let known = mesh.namespaces.values().map(|it| it.services.len()).sum::<usize>();
            let is_as_said = |(namespace, name, phases): &(&str, &str, &[Phase])| {
                let service = mesh.namespaces[*namespace].services.get(*name);
                let up = |service: &crate::model::Service| {
                    let up = |it: &&crate::model::Endpoint| it.verdict.state == crate::model::State::Healthy;
                    service.endpoints.iter().filter(up).count()
                };
                service.map(up) == Some(phases.iter().filter(|phase| **phase == UP).count())
            };
            known == services.len() && services.iter().all(is_as_said)
        };
        self.running.mesh.wait_for(is_there).await.unwrap();
    }
}

fn clusters(follower: &Follower) -> Vec<String> {
    follower.take().table(ResourceType::Cluster).keys().map(ToString::to_string).collect()
}

const TWO: &[Phase] = &[UP, UP];
const ONE: &[Phase] = &[UP, STOPPING];

#[tokio::test]
async fn a_scope_is_there_once_a_client_is_and_shares_what_is_said_of_services() {
    let services = [("prod", "web", TWO), ("shared", "audit", TWO), ("shared", "mail", TWO)];
    let estate = estate(USES, &services).await;
    assert!(
        estate.running.store.latest_in(&estate.running.store.scope_of("prod", "checkout").unwrap()).is_none()
    );
    let (narrow, wide) = (estate.client("checkout").await, estate.client("batch-1").await);
    assert_eq!(clusters(&narrow), ["shared/audit"]);
    assert_eq!(clusters(&wide), ["prod/web", "shared/audit", "shared/mail"]);
    assert_eq!(clusters(&estate.client("web").await), ["prod/web"], "its whole namespace");
    let shared = estate.running.store.latest("shared").unwrap();
    for (kind, name) in [
        (ResourceType::Cluster, "shared/audit"),
        (ResourceType::Endpoint, "shared/audit"),
        (ResourceType::Listener, "shared/audit:8080"),
        (ResourceType::Route, "shared/audit:8080"),
    ] {
        for follower in [&narrow, &wide] {
            let own = &follower.take().table(kind)[name].clone();
            assert!(Arc::ptr_eq(own, &shared.table(kind)[name]), "{name}");
        }
    }
}

#[tokio::test]
async fn one_stopped_task_is_one_withdrawal_for_the_clients_of_all_scopes() {
    let mut estate = estate(USES, &[("prod", "web", TWO), ("shared", "audit", TWO)]).await;
    let (narrow, wide) = (estate.client("checkout").await, estate.client("batch-1").await);
    // The generations of the namespace and of a scope go apart.
    estate.sees(&[("prod", "web", TWO), ("shared", "audit", TWO), ("shared", "mail", TWO)]).await;
    estate.sees(&[("prod", "web", ONE), ("shared", "audit", TWO), ("shared", "mail", TWO)]).await;
    let generations = [narrow.take().generation, wide.take().generation];
    assert_eq!(generations, [1, 3]);
    let ledger = estate.running.ledger.clone();
    let streams: Vec<_> = (0..3).map(|_| ledger.new_stream()).collect();
    estate.sees(&[("prod", "web", ONE), ("shared", "audit", ONE), ("shared", "mail", TWO)]).await;
    let [change, of_web] = ledger.list().try_into().unwrap();
    assert_eq!(of_web.withdrawal.service.to_string(), "prod/web");
    assert_eq!(change.withdrawal.instance.as_str(), "task/2-audit");
    let audience = &change.withdrawal.audience;
    let audience: Vec<_> = audience.iter().map(|(scope, at)| format!("{scope}: {at}")).collect();
    assert_eq!(audience, ["shared: 3", "prod + shared: 4", "prod (checkout) + shared (audit): 2"]);
    assert_eq!(change.withdrawal.generation, 3);
    let shared = estate.running.store.latest("shared").unwrap();
    for (stream, snapshot) in streams.into_iter().zip([shared, narrow.take(), wide.take()]) {
        let (generation, listener) = (snapshot.generation, Listener { stream, scope: &snapshot.scope });
        let now = SystemTime::now();
        assert_eq!(ledger.sent("shared/audit", generation - 1, generation, listener, now).len(), 1);
        assert_eq!(ledger.acked("shared/audit", generation, listener, &"node".into(), now).len(), 1);
    }
    let [change, _] = ledger.list().try_into().unwrap();
    assert_eq!((change.progress.sent, change.progress.acked), (3, 3));
}

#[tokio::test]
async fn what_a_client_may_no_longer_see_is_no_withdrawal() {
    let estate = estate(USES, &[("prod", "web", TWO), ("shared", "audit", TWO)]).await;
    let mut running = estate.running;
    let scope = running.store.scope_of("prod", "batch-1").unwrap();
    let wide = running.store.follower_in(&scope, &"task".into()).await.unwrap();
    wide.take();
    estate.policy.send_replace(loaded(
        &format!("{USES}namespaces: {{ shared: {{ exports: [mail] }} }}\n")
            .replace("uses: [shared/audit]", "uses: [web]"),
    ));
    while clusters(&wide) != ["prod/web"] {
        running.mesh.changed().await.unwrap(); // the last time after the grace
    }
    assert_eq!(running.ledger.list(), []);
    assert_eq!(clusters(&running.store.follower("shared", &"task".into()).unwrap()), ["shared/audit"]);
}

#[tokio::test]
async fn what_happens_elsewhere_makes_no_snapshot_of_a_scope() {
    let mut estate =
        estate(USES, &[("prod", "web", TWO), ("shared", "audit", TWO), ("tools", "hammer", TWO)]).await;
    let narrow = estate.client("checkout").await;
    let before = narrow.take();
    estate.sees(&[("prod", "web", ONE), ("shared", "audit", TWO), ("tools", "hammer", ONE)]).await;
    estate.sees(&[("prod", "more", ONE), ("shared", "audit", TWO), ("shared", "mail", ONE)]).await;
    assert!(Arc::ptr_eq(&before, &narrow.take()));
}

#[tokio::test]
async fn who_sees_what_is_told_after_a_change_of_the_policy() {
    let estate = estate(USES, &[("prod", "web", TWO), ("shared", "audit", TWO)]).await;
    let store = estate.running.store.clone();
    let mut scoping = store.scoping();
    assert!(store.scope_of("prod", "web").unwrap().is_whole());
    estate.policy.send_replace(loaded("imports: [{ client: web, namespace: prod, from: [shared] }]\n"));
    scoping.changed().await.unwrap();
    assert_eq!(store.scope_of("prod", "web").unwrap().to_string(), "prod + shared");
    assert!(store.scope_of("prod", "checkout").unwrap().is_whole());
}
