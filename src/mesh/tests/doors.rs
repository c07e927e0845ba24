//! Who takes requests in for whom, and what a policy says in vain.

use super::*;
use crate::policy::Policy;
use crate::translate::Translator;

fn policy(text: &str) -> Arc<Policy> {
    let text = format!("apiVersion: legation/v1alpha1\nkind: Policy\n{text}");
    Arc::new(Policy::parse(&[("policy.yaml".into(), text)], &["prod".into()].into()).unwrap())
}

/// Services of one ECS service, each with a task.
fn of_one_home(names: &[&str]) -> Arc<View> {
    let mut view = View::default();
    for (number, name) in (1_u64..).zip(names) {
        let spec = ServiceSpec {
            home: "shop".into(),
            ..(*spec(name, "ecs prod-a/shop", number, &[(name, 8080)])).clone()
        };
        let registrations = vec![task("task/a", "10.0.0.1", Phase::Running(Health::NoCheck))];
        let service = ServiceView { spec: Arc::new(spec), active: true, registrations };
        view.services.insert(ServiceKey::new("prod", *name), Arc::new(service));
    }
    Arc::new(view)
}

fn joined(view: Arc<View>, policy: &Arc<Policy>) -> Mesh {
    joiner().join(&[view, Arc::new(policy.view())], policy)
}

#[test]
fn of_one_ecs_service_one_has_a_port_and_the_others_are_told() {
    let both = "services: { api: { inbound: { mode: sidecar } }, admin: { inbound: { mode: sidecar } } }\n";
    let mesh = joined(of_one_home(&["api", "admin"]), &policy(both));
    let port = |name: &str| mesh.namespaces["prod"].services[name].spec.knobs.inbound_port;
    assert_eq!((port("api"), port("admin")), (Some(15_006), None), "the older has it");
    let [finding] = &*mesh.findings else { panic!("{:?}", mesh.findings) };
    assert_eq!((finding.code, finding.object.as_str()), ("LSN002", "prod/admin"));
    let tables = Translator::default().translate(&mesh.namespaces["prod"]);
    assert_eq!(tables.dangling(), None);

    let apart =
        both.replace("admin: { inbound: { mode: sidecar", "admin: { inbound: { port: 15007, mode: sidecar");
    let mesh = joined(of_one_home(&["api", "admin"]), &policy(&apart));
    assert_eq!(mesh.findings, []);
}

#[test]
fn what_has_no_sidecar_is_dialled_itself() {
    let text = "services: { far: { inbound: { mode: sidecar } } }\n\
                externals: [{ name: far, port: 80, endpoints: ['10.9.0.4:9443'] }]\n";
    let mesh = joined(of_one_home(&["api"]), &policy(text));
    let far = &mesh.namespaces["prod"].services["far"];
    assert_eq!(far.spec.knobs.inbound_port, None);
    let member = Registration {
        member: Member::CloudMap { cluster: None, service: None },
        ..task("i-1", "10.0.0.7", Phase::Running(Health::NoCheck))
    };
    let view = view(None, vec![payments(vec![member])]);
    let mesh = joined(view, &policy("services: { payments: { inbound: { mode: sidecar } } }\n"));
    assert!(!mesh.namespaces["prod"].services["payments"].endpoints[0].is_alone);
}

#[test]
fn what_is_said_in_vain_is_told() {
    let text = "services: { api: { healthCheck: { type: grpc } }, far: { appProtocol: tcp } }\n\
                rateLimits: [{ service: api, at: inbound, requests: 1 }]\n\
                externals: [{ name: far, port: 80, endpoints: ['far.example:80'] }]\n\
                routes: [{ name: a, parentRefs: [api], rules: [{ backendRefs: [{ service: far, version: '1' }] }] }]\n";
    let mesh = joined(of_one_home(&["api"]), &policy(text));
    let told: Vec<_> = mesh.findings.iter().map(|it| it.message.as_str()).collect();
    assert_eq!(told.len(), 3, "{told:?}");
    for part in ["is not asked by gRPC", "add `inbound`", "which have no parts"] {
        assert!(told.iter().any(|it| it.contains(part)), "{part}: {told:?}");
    }
}
