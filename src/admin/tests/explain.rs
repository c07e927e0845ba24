//! Why a request goes where it goes.
//!
//! Invariant: each step is told, and the verdict is the first that fails.

use super::*;
use crate::policy::Policy;

pub(crate) const POLICY: &str = "\
apiVersion: legation/v1alpha1
kind: Policy
services:
  payments: { timeouts: { request: 5s } }
routes:
  - name: canary
    parentRefs: [payments]
    rules:
      - matches: [{ path: { value: /v2 }, method: POST, headers: [{ type: RegularExpression, name: X-User, value: 'a.*' }] }]
        backendRefs: [{ service: payments, version: '58', weight: 1 }, { service: gone, weight: 1 }]
        retry: { attempts: 0 }
      - matches: [{ path: { type: Exact, value: /old } }]
        filters: [{ type: RequestRedirect, requestRedirect: { path: { replaceFullPath: /new } } }]
";

/// The steps of an explanation, and its verdict.
pub(super) async fn explained(world: &World, query: &str) -> Vec<String> {
    let (status, answer) = world.admin(&format!("/api/v1/explain?{query}")).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let step = |step: &Value| {
        let ok = if step["ok"] == true { "ok" } else { "no" };
        let says = step["says"].as_str().unwrap();
        let says = says.split(" for ").next().unwrap(); // how long is not told twice alike
        format!("{} {ok}: {says}", step["step"].as_str().unwrap())
    };
    let steps = answer["item"]["steps"].as_array().unwrap().iter().map(step);
    steps.chain([answer["item"]["verdict"].as_str().unwrap().to_owned()]).collect()
}

pub(crate) fn with_policy() -> World {
    let mut world = world();
    world.publish();
    let namespaces = BTreeSet::from(["prod".into()]);
    let texts = vec![("policy.yaml".into(), POLICY.to_owned())];
    let policy = Policy::parse(&texts, &namespaces).unwrap();
    let view = file::parse(Path::new("services.yaml"), SERVICES, &"prod".into()).unwrap();
    let mesh = Joiner::new(&namespaces).join(&[Arc::new(view)], &Arc::new(policy.clone()));
    world.state.policy = watch::channel(Loaded::of(texts, policy)).1;
    world.mesh.send_replace(Arc::new(mesh));
    world.connect("arn:aws:ecs:eu-west-1:1:task/prod-a/c1", 1, Progress::default());
    world
}

#[tokio::test]
async fn each_step_from_the_name_to_the_sidecar_is_told() {
    let world = with_policy();
    let told = explained(&world, "client=checkout&service=payments").await;
    expect_test::expect![[r#"
        name ok: prod/payments speaks http, described by services.yaml:2, treated by policy.yaml:4
        listener ok: payments:8080 is 127.179.154.254:8080
        route ok: no rule is about it, so it goes to the service itself; request timeout 5s, retries 2 (profile)
        endpoints ok: payments (weight 1): 1 absent (starting) in eu-west-1b, 1 absent (stopping) in eu-west-1b, 1 healthy (no-check) in eu-west-1a
        sidecar ok: arn:aws:ecs:eu-west-1:1:task/prod-a/c1 is synced
        it goes through"#]].assert_eq(&told.join("\n"));
    let told = explained(
        &world,
        "client=c1&service=payments.prod:8080&path=/v2/x?a=b&method=post&header=x-user:%20anna",
    )
    .await;
    let (_, answer) =
        world.admin("/api/v1/explain?client=c1&service=payments&path=/v2&method=POST&header=x-user:a").await;
    let retries = serde_json::json!({ "key": "retry.attempts", "value": "0", "origin": "policy.yaml:11" });
    assert!(answer["item"]["treatment"].as_array().unwrap().contains(&retries), "{answer:#}");
    expect_test::expect![[r#"
        name ok: prod/payments speaks http, described by services.yaml:2, treated by policy.yaml:4
        listener ok: payments:8080 is 127.179.154.254:8080
        route ok: canary (policy.yaml:9); request timeout 5s, retries 0
        endpoints no: payments version 58 (weight 1): none
        endpoints no: gone (weight 1): there is no such service
        sidecar ok: arn:aws:ecs:eu-west-1:1:task/prod-a/c1 is synced
        it fails at: endpoints"#]]
    .assert_eq(&told.join("\n"));
    let told = explained(&world, "client=c1&service=payments&path=/old").await;
    expect_test::expect![[r#"
        name ok: prod/payments speaks http, described by services.yaml:2, treated by policy.yaml:4
        listener ok: payments:8080 is 127.179.154.254:8080
        route ok: canary (policy.yaml:12) answers 302 to /new
        sidecar ok: arn:aws:ecs:eu-west-1:1:task/prod-a/c1 is synced
        it goes through"#]]
    .assert_eq(&told.join("\n"));
    let told = explained(&world, "client=checkot&service=ledgr&namespace=prod").await;
    expect_test::expect![[r#"
        name no: no service of prod is called `ledgr`; did you mean `ledger`?
        sidecar no: no sidecar of `checkot` is connected; did you mean `checkout`?
        it fails at: name"#]]
    .assert_eq(&told.join("\n"));
}

#[tokio::test]
async fn a_question_that_makes_no_sense_is_refused_with_words() {
    let world = with_policy();
    for (query, words) in [
        ("client=a", "say which service"),
        ("service=a", "say which client"),
        ("client=a&service=b&pat=/", "did you mean `path`?"),
        ("client=checkout&service=payments&namespace=pord", "did you mean `prod`?"),
    ] {
        let (status, answer) = world.admin(&format!("/api/v1/explain?{query}")).await;
        assert!(status.is_client_error(), "{query}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(words), "{query}: {answer}");
    }
}

#[tokio::test]
async fn a_shift_is_told_with_its_revisions_and_tests() {
    use crate::model::{Revision, Shift, TestHeader};
    let world = with_policy();
    let revision = |id: &str, production, test| Revision { id: id.into(), production, test, serves: true };
    let header = TestHeader { name: "x-test".into(), value: Some("1".into()) };
    let shift = Shift { revisions: vec![revision("7", 900, 0), revision("8", 100, 1_000)], header };
    let mut mesh = crate::model::Mesh::clone(&world.mesh.borrow());
    let prod = Arc::make_mut(mesh.namespaces.get_mut("prod").unwrap());
    let payments = prod.services.get_mut("payments").unwrap();
    Arc::make_mut(&mut payments.spec).shift = Some(Arc::new(shift));
    let mut endpoints = payments.endpoints.to_vec();
    endpoints.iter_mut().for_each(|endpoint| endpoint.traits.revision = Some("7".into()));
    payments.endpoints = endpoints.into();
    world.mesh.send_replace(Arc::new(mesh));
    let told = async |query: &str| {
        let told = explained(&world, &format!("client=checkout&service=payments{query}")).await;
        told.into_iter()
            .filter(|it| it.starts_with("route") || it.starts_with("endpoints"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    expect_test::expect![[r#"
        route ok: no rule is about it, so it goes to the service itself; request timeout 5s, retries 2 (profile)
        endpoints ok: payments revision 7 (weight 900): 1 absent (starting) in eu-west-1b, 1 absent (stopping) in eu-west-1b, 1 healthy (no-check) in eu-west-1a
        endpoints no: payments revision 8 (weight 100): none"#]].assert_eq(&told("").await);
    expect_test::expect![[r#"
        route ok: no rule is about it, so it goes to the service itself, as a test of its deployment (header x-test); request timeout 5s, retries 2 (profile)
        endpoints no: payments revision 8 (weight 1000): none"#]].assert_eq(&told("&header=X-Test:1").await);
    assert_eq!(told("&header=x-test:2").await, told("").await);
    let (_, answer) = world.admin("/api/v1/namespaces/prod/services/payments").await;
    let first = &answer["item"]["shift"]["revisions"][0];
    assert_eq!((&first["revision"], &first["productionWeight"]), (&"7".into(), &90.0.into()));
}
