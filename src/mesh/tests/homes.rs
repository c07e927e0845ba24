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

#[test]
fn a_cluster_of_the_same_name_in_another_region_judges_nobody_even_of_the_same_namespace() {
    for (home, reason) in [("eu-west-1", "no-task"), ("2/eu-west-1", "no-task"), ("us-east-1", "ready")] {
        let members = vec![cloud_map("i", "10.0.0.9", Some("prod-a"))];
        let map = at_map(in_cloud_map("legacy", &[("legacy", 80)], members));
        let mesh = joined(&[at_home(home, "prod", vec![]), map]);
        assert_eq!(verdicts(&mesh, "legacy")[0].2, reason, "{home}");
    }
}

/// The same, its tasks in a subnet.
fn within(view: Arc<View>, subnet: &str) -> Arc<View> {
    let mut view = view;
    let own = Arc::make_mut(&mut view);
    let tasks = own.tasks.iter().map(|(place, task)| (place.within(Subnet::read(subnet)), task.clone()));
    own.tasks = tasks.collect();
    view
}

#[test]
fn an_address_in_another_subnet_is_in_another_vpc() {
    let ours = || at_home("eu-west-1", "prod", vec![payments(vec![task("task/a", "10.0.0.1", UP)])]);
    let theirs = || at_home("eu-west-1", "partner", vec![younger("10.0.0.1")]);
    for (own, other, reason) in [
        ("subnet-1", "subnet-1", "address-reused"),
        ("subnet-1", "", "address-reused"),
        ("", "subnet-1", "address-reused"),
        ("subnet-1", "subnet-2", "ready"),
    ] {
        let mesh = joined(&[within(ours(), own), within(theirs(), other)]);
        assert_eq!(verdicts(&mesh, "payments")[0].2, reason, "{own} and {other}");
    }
}

#[test]
fn of_two_vpcs_with_an_address_cloud_map_means_the_one_with_the_service() {
    for (subnet, reason) in [("subnet-1", "no-task"), ("subnet-2", "ready")] {
        let ours = service(spec("other", "ecs prod-a/other", 1, &[]), vec![task("task/a", "10.0.0.1", UP)]);
        let ours = within(at_home("eu-west-1", "prod", vec![ours]), "subnet-1");
        let theirs = within(at_home("eu-west-1", "partner", vec![younger("10.0.0.1")]), subnet);
        let member = of_service(cloud_map("i", "10.0.0.1", Some("prod-a")), "other");
        let map = at_map(in_cloud_map("legacy", &[("legacy", 80)], vec![member]));
        let mesh = joined(&[ours, theirs, map]);
        assert_eq!(verdicts(&mesh, "legacy")[0].2, reason, "{subnet}");
    }
}

#[test]
fn what_cloud_map_keeps_of_a_stopped_task_is_that_task_whatever_it_says_of_its_cluster() {
    let gone = Phase::Stopped;
    let ours = at_home("eu-west-1", "prod", vec![payments(vec![task("task/prod-a/a", "10.0.0.1", gone)])]);
    let members = vec![cloud_map("a", "10.0.0.1", None), cloud_map("b", "10.0.0.2", None)];
    let mesh = joined(&[ours, in_cloud_map("payments", &[("payments", 80)], members)]);
    let verdicts = verdicts(&mesh, "payments");
    let said: Vec<_> = verdicts.iter().map(|(id, _, reason)| (id.as_str(), *reason)).collect();
    assert_eq!(said, [("b", "ready"), ("task/prod-a/a", "stopped")]);
}

#[test]
fn a_task_of_both_families_is_one_endpoint_on_either_address() {
    let mut ours = at_home("eu-west-1", "prod", vec![payments(vec![task("task/a", "10.0.0.1", UP)])]);
    let own = Arc::make_mut(&mut ours);
    let state = own.tasks.values().next().expect("a task").clone();
    own.tasks.insert(Place::whole("fd00::1".parse().expect("an address")), state);
    let member = |id| of_service(cloud_map(id, "fd00::1", Some("prod-a")), "payments");
    let map = in_cloud_map("payments", &[("payments", 80)], vec![member("i")]);
    let both = joined(&[Arc::clone(&ours), at_map(map)]);
    assert_eq!(verdicts(&both, "payments").len(), 1);
    // And where ECS describes no such service, Cloud Map's is served.
    let alone = joined(&[ours, at_map(in_cloud_map("legacy", &[("legacy", 80)], vec![member("i")]))]);
    assert_eq!(verdicts(&alone, "legacy")[0].2, "ready");
}

fn at_map(mut map: Arc<View>) -> Arc<View> {
    Arc::make_mut(&mut map).home = Some("eu-west-1".into());
    map
}
