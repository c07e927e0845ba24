//! Endpoints of revisions between which a deployment shifts traffic.

use super::*;
use crate::model::{Reason, Revision, Share, Shift, TestHeader};

const UP: Phase = Phase::Running(Health::Healthy);

fn of_revision(id: &str, address: &str, phase: Phase, revision: &str, share: Share) -> Registration {
    let traits = Traits { revision: Some(revision.into()), share, ..Traits::default() };
    Registration { traits, ..task(id, address, phase) }
}

/// Payments on its way from revision 1 to revision 2.
fn shifting(registrations: Vec<Registration>) -> ServiceView {
    let revision = |id: &str, production| Revision { id: id.into(), production, test: 0, serves: true };
    let header = TestHeader { name: "x-test".into(), value: None };
    let shift = Shift { revisions: vec![revision("1", 900), revision("2", 100)], header };
    let mut payments = payments(registrations);
    Arc::make_mut(&mut payments.spec).shift = Some(Arc::new(shift));
    payments
}

#[test]
fn who_awaits_a_shift_is_out_of_the_whole_and_in_its_part() {
    let registrations = vec![
        of_revision("a", "10.0.0.1", UP, "1", Share::Full),
        of_revision("b", "10.0.0.2", UP, "2", Share::Awaits),
        of_revision("c", "10.0.0.3", Phase::Starting, "2", Share::Awaits),
    ];
    let mesh = joined(&[view(Some("prod-a"), vec![shifting(registrations)])]);
    let expected =
        [("a", "healthy", "ready"), ("b", "absent", "awaiting-shift"), ("c", "absent", "starting")];
    assert_eq!(
        verdicts(&mesh, "payments"),
        expected.map(|(id, state, reason)| (id.to_owned(), state, reason))
    );
    let apart: Vec<_> =
        mesh.namespaces["prod"].services["payments"].endpoints.iter().map(|it| it.apart).collect();
    assert_eq!(apart, [None, Some(State::Healthy), None]);
}

#[test]
fn whose_share_is_not_known_beats_nobody_and_who_awaits_does_not() {
    let leaving = Phase::Stopping(StopCause::Planned);
    let rows = [
        (UP, Share::Unknown, "healthy ready", "absent awaiting-shift"),
        (leaving, Share::Unknown, "absent stopping", "healthy last-hope"),
        (leaving, Share::Awaits, "draining last-hope", "absent awaiting-shift"),
    ];
    for (old, share, first, second) in rows {
        let registrations = vec![
            of_revision("a", "10.0.0.1", old, "1", Share::Full),
            of_revision("b", "10.0.0.2", UP, "2", share),
        ];
        let mesh = joined(&[view(Some("prod-a"), vec![shifting(registrations)])]);
        let told: Vec<_> = verdicts(&mesh, "payments")
            .into_iter()
            .map(|(_, state, reason)| format!("{state} {reason}"))
            .collect();
        assert_eq!(told, [first, second], "{old:?} {share:?}");
    }
    assert_eq!(Reason::AwaitingShift.as_str(), "awaiting-shift");
}

#[test]
fn a_revision_that_serves_nobody_is_marked_so() {
    let mut joiner = joiner();
    for (health, serves) in
        [(UP, true), (Phase::Running(Health::Unhealthy { gate_over: true }), false), (UP, true)]
    {
        let registrations = vec![
            of_revision("a", "10.0.0.1", UP, "1", Share::Full),
            of_revision("b", "10.0.0.2", health, "2", Share::Full),
        ];
        let views = [view(Some("prod-a"), vec![shifting(registrations)])];
        let mesh = joiner.join(&views, &Arc::default());
        let shift = mesh.namespaces["prod"].services["payments"].spec.shift.clone().expect("a shift");
        let told: Vec<_> = shift.revisions.iter().map(|it| it.serves).collect();
        assert_eq!(told, [true, serves]);
        let again = joiner.join(&views, &Arc::default());
        assert!(
            Arc::ptr_eq(&again.namespaces["prod"], &mesh.namespaces["prod"]),
            "nothing new is the same memory"
        );
    }
}
