//! Commands about policies: what they say of a running server, and what they say offline.
//!
//! Invariant: every output is told whole, or the part that matters word by word.

use expect_test::expect;

use super::asking::ask;
use super::*;
use crate::admin::tests::explain::with_policy;

#[tokio::test(flavor = "multi_thread")]
async fn each_value_is_shown_with_where_it_was_said() {
    let world = with_policy();
    let answers = ask(
        &world,
        &[
            &["services", "prod", "payments"],
            &["explain", "checkout", "payments"],
            &["services", "prod", "pay"],
        ],
    );
    let [one, explained, none] = answers.await.try_into().unwrap();
    let said = |text: &str| -> String {
        let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        let said = lines.filter(|line| line.starts_with("timeouts.request") || line.contains("yaml"));
        said.collect::<Vec<_>>().join("\n")
    };
    expect![[r#"
        payments http payments:8080 1 0 0 2 starting stopping services.yaml:2
        appProtocol http services.yaml:3
        timeouts.request 5s policy.yaml:4"#]]
    .assert_eq(&said(&one.1));
    expect![[r#"
        name ok prod/payments speaks http, described by services.yaml:2, treated by policy.yaml:4
        appProtocol http services.yaml:3
        timeouts.request 5s policy.yaml:4"#]]
    .assert_eq(&said(&explained.1));
    assert_eq!((one.0, explained.0, none.0), (Exit::Done, Exit::Done, Exit::Failed));
    assert!(explained.1.ends_with("\nit goes through\n"), "{}", explained.1);
}
