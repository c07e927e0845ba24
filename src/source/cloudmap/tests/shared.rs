//! Namespaces that other accounts share.

use serde_json::{Value, json};

use super::scripts::{OTHER, Stage};
use super::*;

fn arn(account: &str, id: &str) -> String {
    format!("arn:aws:servicediscovery:eu-west-1:{account}:namespace/{id}")
}

fn shared(account: &str, name: &str) -> Value {
    let id = format!("ns-{name}-{account}");
    let properties = json!({"HttpProperties": {"HttpName": format!("{name}-http")}});
    json!({"Id": id, "Arn": arn(account, &id), "ResourceOwner": account, "Name": name, "Properties": properties})
}

#[tokio::test]
async fn a_shared_namespace_is_found_by_its_name_or_its_arn() {
    let by_arn = arn(OTHER, &format!("ns-common-{OTHER}"));
    for wanted in ["common", by_arn.as_str()] {
        let mut stage = Stage::new(wanted);
        stage.world().shared = vec![shared(OTHER, "common"), shared(OTHER, "other")];
        let view = stage.source.sweep().await.expect("a view");
        let ledger = &view.services[&ServiceKey::new("prod", "ledger")];
        assert_eq!(
            (ledger.registrations.len(), &*ledger.spec.origin),
            (1, "cloudmap 222222222222/common/ledger")
        );
        assert_eq!(view.findings, []);
        // The calls say whose it is, which the script checks.
        assert!(!stage.source.look().await && !stage.source.examine().await);
        assert_eq!(stage.count("DiscoverInstancesRevision"), 2);
    }
}

#[tokio::test]
async fn of_two_namespaces_with_one_name_the_own_is_read_and_the_other_told_of() {
    let mut stage = Stage::new("prod.local");
    stage.world().shared = vec![shared(OTHER, "prod.local")];
    let view = stage.source.sweep().await.expect("a view");
    let ledger = &view.services[&ServiceKey::new("prod", "ledger")];
    assert_eq!(&*ledger.spec.origin, "cloudmap prod.local/ledger");
    let [finding] = &view.findings[..] else { panic!("{:?}", view.findings) };
    assert_eq!((finding.code, finding.object.as_str()), ("NS002", "cloudmap prod.local"));
    assert!(finding.message.ends_with(&arn(OTHER, &format!("ns-prod.local-{OTHER}"))), "{}", finding.message);
}

#[tokio::test]
async fn several_shared_ones_are_no_answer() {
    let mut stage = Stage::new("common");
    stage.world().shared = vec![shared("333333333333", "common"), shared(OTHER, "common")];
    let error = stage.source.sweep().await.expect_err("which?");
    assert_eq!(error.code, "NamespaceAmbiguous");
    let (one, other) = (arn(OTHER, "ns-common-222222222222"), arn("333333333333", "ns-common-333333333333"));
    let expected = format!(
        "several accounts share a Cloud Map namespace called `common`; write the ARN of one: {one}, {other}"
    );
    assert_eq!(error.message, expected);
}

#[tokio::test]
async fn a_namespace_that_is_not_there_is_an_error_with_the_nearest() {
    let error = Stage::new("prod.locl").source.sweep().await.expect_err("no such namespace");
    assert_eq!(error.code, "NamespaceNotFound");
    let shown = "no Cloud Map namespace is called `prod.locl`; there are: prod, prod.local; did you mean `prod.local`?";
    assert_eq!(error.message, shown);

    let (right, wrong) = (arn(OTHER, "ns-common-222222222222"), arn(OTHER, "ns-common-222222222223"));
    let mut stage = Stage::new(&wrong);
    stage.world().shared = vec![shared(OTHER, "common")];
    let error = stage.source.sweep().await.expect_err("no such namespace");
    let shown = format!(
        "no Cloud Map namespace with the ARN `{wrong}` is shared with this account; there are: {right}; did you mean `{right}`?"
    );
    assert_eq!((error.code.as_str(), error.message), ("NamespaceNotFound", shown));
}
