//! What becomes of tasks that are told to stop.

use super::*;
use crate::policy::Policy;

fn policy(style: &str) -> Arc<Policy> {
    let text = format!(
        "apiVersion: legation/v1alpha1\nkind: Policy\nservices: {{ payments: {{ drain: {{ style: {style} }} }} }}\n"
    );
    Arc::new(Policy::parse(&[("policy.yaml".into(), text)], &["prod".into()].into()).unwrap())
}

/// The states of tasks of payments, so many of which run and so many of which are told to stop.
fn states(style: &str, running: usize, stopping: usize) -> Vec<(&'static str, &'static str)> {
    let phase = |number| {
        if number < running { Phase::Running(Health::NoCheck) } else { Phase::Stopping(StopCause::Planned) }
    };
    let tasks = (0..running + stopping)
        .map(|number| task(&format!("task/{number}"), &format!("10.0.0.{}", number + 1), phase(number)));
    let views = [view(Some("prod-a"), vec![payments(tasks.collect())])];
    let mesh = joiner().join(&views, &policy(style));
    verdicts(&mesh, "payments").into_iter().map(|(_, state, reason)| (state, reason)).collect()
}

#[test]
fn they_are_gone_at_once_unless_they_are_to_drain() {
    assert_eq!(states("remove", 1, 1), [("healthy", "no-check"), ("absent", "stopping")]);
    assert_eq!(states("draining", 1, 1), [("healthy", "no-check"), ("draining", "stopping")]);
}

#[test]
fn never_more_drain_than_are_healthy_unless_nobody_is() {
    let states = |running, stopping| -> Vec<&str> {
        self::states("draining", running, stopping).into_iter().map(|(state, _)| state).collect()
    };
    assert_eq!(states(2, 3), ["healthy", "healthy", "draining", "draining", "absent"]);
    assert_eq!(self::states("draining", 0, 2), [("draining", "last-hope"), ("draining", "last-hope")]);
}
