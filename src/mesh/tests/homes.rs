//! Tests of several accounts and Regions: what is known of an address in one says nothing of another.
//!
//! It is not about calls. Invariant: where a namespace is fed from two, it is one network.

use super::*;

/// A view of the cluster prod-a in an account, feeding a namespace.
fn at_home(home: &str, namespace: &str, services: Vec<ServiceView>) -> Arc<View> {
    let mut view = view(Some("prod-a"), services);
    let own = Arc::make_mut(&mut view);
    (own.home, own.namespaces) = (Some(home.into()), [namespace.into()].into());
    view
}

fn younger(address: &str) -> ServiceView {
    let mut other = task("task/b", address, UP);
    other.started_at = at(200);
    service(spec("ledger", "ecs prod-a/ledger", 2, &[]), vec![other])
}

#[test]
fn an_address_elsewhere_is_another_unless_the_namespace_is_the_same() {
    let ours = || at_home("eu-west-1", "prod", vec![payments(vec![task("task/a", "10.0.0.1", UP)])]);
    for (home, namespace, reason) in [
        ("eu-west-1", "prod", "address-reused"),
        ("eu-west-1", "partner", "address-reused"),
        ("2/eu-west-1", "prod", "address-reused"),
        ("2/eu-west-1", "partner", "ready"),
        ("us-east-1", "partner", "ready"),
    ] {
        let mesh = joined(&[ours(), at_home(home, namespace, vec![younger("10.0.0.1")])]);
        assert_eq!(verdicts(&mesh, "payments")[0].2, reason, "{home} feeds {namespace}");
    }
}

#[test]
fn a_cluster_of_the_same_name_elsewhere_judges_nobody() {
    let map = |home: &str| {
        let members = vec![cloud_map("i", "10.0.0.9", Some("prod-a"))];
        let mut map = in_cloud_map("legacy", &[("legacy", 80)], members);
        Arc::make_mut(&mut map).home = Some(home.into());
        map
    };
    for (home, reason) in [("eu-west-1", "no-task"), ("2/eu-west-1", "ready")] {
        let mesh = joined(&[at_home("eu-west-1", "partner", vec![]), map(home)]);
        assert_eq!(verdicts(&mesh, "legacy")[0].2, reason, "{home}");
    }
}
