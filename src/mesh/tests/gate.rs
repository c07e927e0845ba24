//! How long a task that runs is waited for: as its check may take, or less where a policy says so.

use proptest::prelude::*;

use super::*;
use crate::policy::Policy;

const START: u64 = 1_000;

fn policy(readiness: &str) -> Arc<Policy> {
    let text = format!(
        "apiVersion: legation/v1alpha1\nkind: Policy\nservices: {{ payments: {{ readiness: {{ {readiness} }} }} }}\n"
    );
    Arc::new(Policy::parse(&[("policy.yaml".into(), text)], &["prod".into()].into()).unwrap())
}

/// One task of payments beside one that keeps it in rotation.
fn views(health: Health, began: Option<u64>) -> [Arc<View>; 1] {
    let began = began.and_then(at);
    let one = Registration { started_at: began, ..task("task/a", "10.0.0.1", Phase::Running(health)) };
    let neighbour = task("task/z", "10.0.0.9", Phase::Running(Health::Healthy));
    [view(Some("prod-a"), vec![payments(vec![one, neighbour])])]
}

fn verdict(mesh: &Mesh) -> (&'static str, &'static str) {
    let (_, state, reason) = verdicts(mesh, "payments")[0];
    (state, reason)
}

#[test]
fn a_wait_ends_when_the_policy_says_so_and_somebody_wakes_up() {
    let views = views(Health::Unknown { gate_over: false }, Some(START));
    let mut joiner = joiner();
    let mut join = |now: u64, policy: &Arc<Policy>| {
        joiner.tell_time(at(now).unwrap());
        let mesh = joiner.join(&views, policy);
        (verdict(&mesh).1, joiner.next_due())
    };
    let short = policy("maxWait: 60s");
    assert_eq!(join(START + 10, &Arc::default()), ("awaiting-health", None), "only the source knows");
    assert_eq!(join(START + 10, &short), ("awaiting-health", at(START + 60)));
    assert_eq!(join(START + 59, &short), ("awaiting-health", at(START + 60)));
    assert_eq!(join(START + 60, &short), ("gate-expired", None), "the views are as they were");
    assert_eq!(join(START + 60, &policy("maxWait: 90s")), ("awaiting-health", at(START + 90)));
    assert_eq!(join(START + 60, &policy("maxWait: 60s, onExpiry: hold")), ("awaiting-health", None));
    assert_eq!(join(START + 60, &policy("maxWait: 90s, gate: running")), ("ready", None));
    assert_eq!(join(START + 60, &policy("maxWait: 0s")), ("gate-expired", None));
}

/// The whole table, as it is written in `product.md`, section 6.
fn expected(
    health: Health,
    began: Option<u64>,
    now: u64,
    wait: Option<u64>,
    holds: bool,
) -> (&'static str, &'static str) {
    let is_over = |gate_over| gate_over || began.zip(wait).is_some_and(|(began, wait)| began + wait <= now);
    match health {
        Health::NoCheck => ("healthy", "no-check"),
        Health::Healthy => ("healthy", "ready"),
        Health::Unknown { gate_over } if is_over(gate_over) && !holds => ("healthy", "gate-expired"),
        Health::Unhealthy { gate_over } if is_over(gate_over) => ("unhealthy", "container-unhealthy"),
        Health::Unknown { .. } | Health::Unhealthy { .. } => ("absent", "awaiting-health"),
    }
}

fn healths() -> impl Strategy<Value = Health> {
    prop_oneof![
        Just(Health::NoCheck),
        Just(Health::Healthy),
        any::<bool>().prop_map(|gate_over| Health::Unknown { gate_over }),
        any::<bool>().prop_map(|gate_over| Health::Unhealthy { gate_over }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_moment_has_its_verdict_whatever_was_joined_before(
        health in healths(),
        began in prop::option::of(START..START + 3),
        wait in prop::option::of(0..4_u64),
        holds in any::<bool>(),
        moments in prop::collection::vec(START..START + 9, 1..5),
    ) {
        let wait_words = wait.map(|wait| format!("maxWait: {wait}s, ")).unwrap_or_default();
        let policy = policy(&format!("{wait_words}onExpiry: {}", if holds { "hold" } else { "serve" }));
        let views = views(health, began);
        let mut again = joiner();
        let mut moments = moments;
        moments.sort_unstable(); // clocks of AWS go on
        for now in moments {
            again.tell_time(at(now).unwrap());
            let mesh = again.join(&views, &policy);
            prop_assert_eq!(verdict(&mesh), expected(health, began, now, wait, holds));
            // Until somebody is due nothing changes; and who is due is not due already.
            let later = again.next_due();
            prop_assert!(later.is_none_or(|due| Some(due) > at(now)));
            let last = later.map_or(START + 99, |due| due.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() - 1);
            prop_assert_eq!(verdict(&mesh), expected(health, began, last, wait, holds));
        }
    }
}
