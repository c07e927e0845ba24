//! What a sidecar sees, and why it does not see something.
//!
//! Invariant: whoever does not see a service is told the line that would let it.

use super::explain::explained;
use super::*;
use crate::policy::Policy;

const POLICY: &str = "\
apiVersion: legation/v1alpha1
kind: Policy
namespaces:
  tools: { exports: [hammer] }
services:
  checkout: { namespace: prod, uses: [payments, shared/audit, tools/hammer] }
imports:
  - { client: 'batch-*', namespace: prod, from: [shared, tools] }
";

fn three_namespaces() -> World {
    let mut world = world();
    world.publish();
    let namespaces: BTreeSet<Namespace> = ["prod", "shared", "tools"].map(Namespace::from).into();
    let texts = vec![("policy.yaml".into(), POLICY.to_owned())];
    let policy = Policy::parse(&texts, &namespaces).unwrap();
    let of = |namespace: &str, services: &str| {
        Arc::new(file::parse(Path::new("services.yaml"), services, &namespace.into()).unwrap())
    };
    let named = |name: &str| {
        format!(
            "services:\n  {name}:\n    aliases: [{{ name: {name}, port: 80 }}]\n    appProtocol: http\n    endpoints: [{{ address: 10.0.0.1, port: 80 }}]\n"
        )
    };
    let views = [of("prod", SERVICES), of("shared", &named("audit")), of("tools", &named("saw"))];
    let mesh = Joiner::new(&namespaces).join(&views, &Arc::new(policy.clone()));
    world.state.policy = watch::channel(Loaded::of(texts, policy)).1;
    let scope = mesh.scoping.of(&"prod".into(), "checkout");
    let seen = crate::mesh::scope::scoped(&mesh, &scope, None);
    let tables = Translator::default().translate(&seen);
    let snapshot = Snapshot::first("prod".into(), tables, Vec::new(), at(0)).in_scope(&Arc::new(scope));
    world.mesh.send_replace(Arc::new(mesh));
    let slice = Slice::new(Arc::new(snapshot), ProxyClass::Sidecar, "task", &[]);
    let terms = Terms { protocol: Protocol::Delta, only: None, max_names: 100 };
    let session = Session::new(terms, slice, Instant::now());
    world.connect_session("task/c1", 1, Progress::default(), session);
    world
}

#[tokio::test]
async fn a_sidecar_shows_its_scope() {
    let world = three_namespaces();
    let (_, body) = world.admin("/api/v1/proxies").await;
    let item = &body["items"][0];
    let scope = serde_json::json!({
        "uses": ["checkout", "payments"],
        "imports": { "shared": ["audit"], "tools": ["hammer"] },
    });
    assert_eq!((&item["namespace"], &item["scope"]), (&"prod".into(), &scope));
}

#[tokio::test]
async fn it_is_said_who_sees_what_and_which_line_would_let_others() {
    let world = three_namespaces();
    let mut told = Vec::new();
    for query in [
        "client=checkout&service=payments",
        "client=checkout&service=shared/audit",
        "client=checkout&service=audit:80",
        "client=checkout&service=ledger",
        "client=checkout&service=saw.tools",
        "client=batch-1&service=audit&namespace=prod",
        "client=batch-1&service=saw&namespace=prod",
        "client=web&service=audit.shared&namespace=prod",
        "client=web&service=payments&namespace=prod",
        "client=web&service=nobody&namespace=prod",
    ] {
        let steps = explained(&world, query).await;
        let two = steps.iter().take(if steps[0].starts_with("scope") { 2 } else { 1 });
        told.push(format!("{query}\n  {}", two.cloned().collect::<Vec<_>>().join("\n  ")));
    }
    expect_test::expect![[r#"
        client=checkout&service=payments
          scope ok: checkout sees prod/payments: prod (checkout, payments) + shared (audit) + tools (hammer), as policy.yaml:6 says
          name ok: prod/payments speaks http, described by services.yaml:2
        client=checkout&service=shared/audit
          scope ok: checkout sees shared/audit: prod (checkout, payments) + shared (audit) + tools (hammer), as policy.yaml:6 says
          name ok: shared/audit speaks http, described by services.yaml:2
        client=checkout&service=audit:80
          scope ok: checkout sees shared/audit: prod (checkout, payments) + shared (audit) + tools (hammer), as policy.yaml:6 says
          name ok: shared/audit speaks http, described by services.yaml:2
        client=checkout&service=ledger
          scope no: checkout does not see prod/ledger, which is in its own namespace: add `ledger` to its `uses` at policy.yaml:6
          name ok: prod/ledger speaks tcp, described by services.yaml:9
        client=checkout&service=saw.tools
          scope no: checkout does not see tools/saw, which is in another namespace (NS001): add `tools/saw` to its `uses` at policy.yaml:6; tools does not export `saw`: add it to `exports` at policy.yaml:4
          name ok: tools/saw speaks http, described by services.yaml:2
        client=batch-1&service=audit&namespace=prod
          scope ok: batch-1 sees shared/audit: prod + shared + tools, as policy.yaml:8 says
          name ok: shared/audit speaks http, described by services.yaml:2
        client=batch-1&service=saw&namespace=prod
          scope no: tools does not export `saw`: add it to `exports` at policy.yaml:4
          name ok: tools/saw speaks http, described by services.yaml:2
        client=web&service=audit.shared&namespace=prod
          scope no: web does not see shared/audit, which is in another namespace (NS001): a policy imports it with `imports: [{ client: web, namespace: prod, from: [shared] }]`, or its service in ECS with the tag `legation:imports = shared`
          name ok: shared/audit speaks http, described by services.yaml:2
        client=web&service=payments&namespace=prod
          name ok: prod/payments speaks http, described by services.yaml:2
        client=web&service=nobody&namespace=prod
          name no: no service of prod is called `nobody`; expected one of ledger, payments"#]].assert_eq(&told.join("\n"));
}
