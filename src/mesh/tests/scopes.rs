//! Who sees what of which namespace, and what is wrong with that.

use super::super::scope::scoped;
use super::*;
use crate::model::{Import, MeshNamespace, Scope};
use crate::policy::Policy;

fn namespaces() -> BTreeSet<Namespace> {
    ["prod", "shared", "tools"].map(Namespace::from).into()
}

fn of(namespace: &str, name: &str, aliases: &[(&str, u16)]) -> ServiceView {
    let spec = spec(name, &format!("ecs {namespace}/{name}"), 1, aliases);
    let spec = ServiceSpec { key: ServiceKey::new(namespace, name), ..(*spec).clone() };
    let up = task(&format!("task/{namespace}-{name}"), "10.0.0.1", Phase::Running(Health::Healthy));
    service(Arc::new(spec), vec![Registration { address: None, member: Member::File, ..up }])
}

fn estate() -> Arc<View> {
    view(
        None,
        vec![
            of("prod", "payments", &[("payments", 80)]),
            of("prod", "canary", &[("canary", 80)]),
            of("prod", "web", &[("web", 80), ("mail", 80)]),
            of("shared", "audit", &[("audit", 80), ("audit.shared", 81)]),
            of("shared", "mail", &[("mail", 80)]),
            of("tools", "audit", &[("audit", 80)]),
        ],
    )
}

fn policy(text: &str) -> Arc<Policy> {
    let text = format!("apiVersion: legation/v1alpha1\nkind: Policy\n{text}");
    let policy = Policy::parse(&[("policy.yaml".into(), text)], &namespaces());
    Arc::new(policy.unwrap_or_else(|problems| panic!("{problems:?}")))
}

fn mesh(text: &str) -> Mesh {
    Joiner::new(&namespaces()).join(&[estate()], &policy(text))
}

fn seen_by(mesh: &Mesh, client: &str) -> Arc<MeshNamespace> {
    scoped(mesh, &mesh.scoping.of(&"prod".into(), client), None)
}

/// Services with the names that they may be called by.
fn shown(namespace: &MeshNamespace) -> Vec<String> {
    let of = |service: &Service| {
        let aliases: Vec<_> = service.spec.aliases.iter().map(ToString::to_string).collect();
        format!("{} [{}]", service.spec.key, aliases.join(" "))
    };
    namespace.all().map(of).collect()
}

fn told(mesh: &Mesh) -> Vec<String> {
    mesh.findings.iter().map(|it| format!("{} {}: {}", it.code, it.object, it.message)).collect()
}

#[test]
fn an_import_brings_what_is_exported_beside_the_whole_namespace() {
    let mesh = mesh(
        "imports: [{ client: 'batch-*', namespace: prod, from: [shared, tools] }]\n\
         namespaces: { shared: { exports: ['aud*'] } }\n",
    );
    assert_eq!(
        shown(&seen_by(&mesh, "batch-1")),
        [
            "prod/canary [canary:80]",
            "prod/payments [payments:80]",
            "prod/web [web:80 mail:80]",
            "shared/audit [audit:80 audit.shared:81]",
            "tools/audit [audit:80]"
        ]
    );
    let other = seen_by(&mesh, "web");
    assert_eq!(other.imported, Imported::default());
    assert!(other.services.ptr_eq(&mesh.namespaces["prod"].services), "a copy costs nothing");
    let imported = seen_by(&mesh, "batch-1").imported.clone();
    assert!(imported.services["tools"].ptr_eq(&mesh.namespaces["tools"].services));
    let keys: Vec<_> =
        imported.addresses.iter().map(|((of, name), at)| format!("{of} {name} {at}")).collect();
    assert_eq!(keys[0], "shared audit 127.229.97.22", "as at home, for both of its names");
    assert_eq!(keys.len(), 2);
}

#[test]
fn who_says_what_it_uses_sees_that_and_itself() {
    let mesh = mesh("services: { web: { namespace: prod, uses: [payments, shared/audit] } }\n");
    assert_eq!(
        shown(&seen_by(&mesh, "web")),
        [
            "prod/payments [payments:80]",
            "prod/web [web:80 mail:80]",
            "shared/audit [audit:80 audit.shared:81]"
        ]
    );
    assert_eq!(told(&mesh), [""; 0]);
}

#[test]
fn what_a_route_leads_to_comes_along_without_a_name() {
    let mesh = mesh(
        "services: { cli: { namespace: prod, uses: [payments] } }\n\
         routes: [{ name: canary, namespace: prod, parentRefs: [payments], rules: [{ backendRefs: [{ service: payments, weight: 9 }, { service: canary }] }] }]\n",
    );
    let seen = seen_by(&mesh, "cli");
    assert_eq!(shown(&seen), ["prod/canary []", "prod/payments [payments:80]"]);
    let again = scoped(&mesh, &mesh.scoping.of(&"prod".into(), "cli"), Some(&seen));
    assert!(Arc::ptr_eq(&seen, &again));
    let tables = crate::translate::Translator::default().translate(&seen);
    assert_eq!(tables.dangling(), None);
    assert!(tables[crate::snapshot::ResourceType::Listener].keys().all(|name| !name.contains("canary")));
    assert_eq!(told(&mesh), [""; 0], "who only calls needs no service of its name");
}

#[test]
fn a_name_that_somebody_has_is_told_and_stays_with_it() {
    let mesh = mesh("imports: [{ client: '*', namespace: prod, from: [tools, shared] }]\n");
    assert_eq!(
        told(&mesh),
        [
            "NAME002 shared/mail: clients of prod that import shared reach it as `mail.shared`: `mail` is a name of prod",
            "NAME002 tools/audit: clients of prod that import tools reach it as `audit.tools`: `audit` is a name of shared"
        ]
    );
}

#[test]
fn an_address_that_is_taken_is_probed_past() {
    let mut mesh = mesh("imports: [{ client: '*', namespace: prod, from: [shared] }]\n");
    let home = mesh.namespaces["shared"].addresses["audit"];
    let taken = Arc::new([("payments".into(), home)].into());
    let own = MeshNamespace { addresses: taken, ..(*mesh.namespaces["prod"]).clone() };
    mesh.namespaces.insert("prod".into(), Arc::new(own));
    let seen = seen_by(&mesh, "any");
    let address = seen.imported.addresses[&("shared".into(), "audit".into())];
    assert_ne!(address, home);
    assert_eq!(address, crate::vip::address("shared", "audit", 1));
}

#[test]
fn what_is_not_there_is_told() {
    let mesh = mesh(
        "services: { web: { namespace: prod, uses: [paymets, shared/adit] } }\n\
         namespaces: { tools: { exports: [] } }\n",
    );
    assert_eq!(
        told(&mesh),
        [
            "CFG002 policy policy.yaml:3: `web` uses prod/paymets, but no service of prod is called `paymets`; did you mean `payments`?",
            "CFG002 policy policy.yaml:3: `web` uses shared/adit, but no service of shared is called `adit`; did you mean `audit`?"
        ]
    );
    assert_eq!(shown(&seen_by(&mesh, "web")), ["prod/web [web:80 mail:80]"]);
}

#[test]
fn tags_import_for_one_service_and_what_they_get_wrong_is_told() {
    let import = |from: &[&str]| Import {
        client: "batch".into(),
        from: from.iter().map(|name| Namespace::from(*name)).collect(),
        origin: "ecs prod-a/batch, tag legation:imports".into(),
    };
    let mut view = (*estate()).clone();
    view.imports = vec![("prod".into(), import(&["tools", "shraed", "prod"]))];
    let mut joiner = Joiner::new(&namespaces());
    let mesh = joiner.join(&[Arc::new(view.clone())], &Arc::default());
    assert_eq!(mesh.scoping.of(&"prod".into(), "batch").to_string(), "prod + tools");
    assert_eq!(mesh.scoping.of(&"prod".into(), "batch-2"), Scope::whole("prod".into()));
    assert_eq!(
        told(&mesh),
        [
            "CFG002 ecs prod-a/batch, tag legation:imports: clients of prod see it anyway",
            "CFG002 ecs prod-a/batch, tag legation:imports: the namespace `shraed` is not configured; did you mean `shared`?"
        ]
    );
    view.imports = vec![("prod".into(), import(&["shared"]))];
    let mesh = joiner.join(&[Arc::new(view.clone())], &Arc::default());
    assert_eq!(mesh.scoping.of(&"prod".into(), "batch").to_string(), "prod + shared", "a tag has changed");
    view.imports.clear();
    let mesh = joiner.join(&[Arc::new(view)], &Arc::default());
    assert_eq!(*mesh.scoping, Default::default());
}
