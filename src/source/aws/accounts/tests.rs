//! Tests of roles against a scripted STS: who calls, and what is told when nobody may.
//!
//! It is not about who is shown which account. Invariant: no call goes out as oneself where a role was asked for.

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_sdk_ecs::config::Credentials;
use serde_json::json;

use super::*;
use crate::source::aws::probe::{self, Permission};
use crate::source::aws::scripted::{Answer, Scripted};

const ROLE: &str = "arn:aws:iam::123456789012:role/legation";
const REFUSAL: &str = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code>\
    <Message>not you</Message></Error><RequestId>1</RequestId></ErrorResponse>";
const LOAN: &str = "<AssumeRoleResponse><AssumeRoleResult><AssumedRoleUser><AssumedRoleId>A:legation</AssumedRoleId>\
    <Arn>arn:aws:sts::123456789012:assumed-role/legation/legation</Arn></AssumedRoleUser><Credentials>\
    <AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>\
    <Expiration>2999-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>";

async fn accounts(script: &Scripted) -> Accounts {
    let loader = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("own", "own", None, None, "test"))
        .retry_config(RetryConfig::standard().with_initial_backoff(Duration::from_millis(1)))
        .endpoint_url(script.config().endpoint_url().expect("its URL"));
    Accounts::new(loader.load().await, 50, Metrics::unread())
}

fn script(status: u16, sts: &'static str) -> Scripted {
    Scripted::start(move |operation, _| match operation {
        "AssumeRole" => Answer::Text(status, sts),
        "ListTasks" => Answer::Json(200, json!({"taskArns": []})),
        _ => Answer::Json(400, json!({"__type": "ClientException"})),
    })
}

#[tokio::test]
async fn a_role_is_taken_on_once_for_all_clients() {
    let script = script(200, LOAN);
    let access = accounts(&script).await.access(Some(ROLE), Some("us-east-1")).await;
    for client in [access.ecs(), access.clone().ecs()] {
        client.list_tasks().send().await.expect("an answer");
    }
    assert_eq!(script.calls(), ["AssumeRole", "ListTasks", "ListTasks"]);
    assert_eq!(&*access.home(), "123456789012/us-east-1");
    let probe = probe::role(&access).await.expect("a role");
    assert_eq!((probe.action, &*probe.object, probe.permission), (ASSUME_ROLE, ROLE, Permission::Allowed));
}

#[tokio::test]
async fn whoever_may_not_take_it_on_calls_nothing_and_is_told_so() {
    for (status, answer, code, message) in
        [(403, REFUSAL, "AccessDenied", "not you"), (503, "upstream is down", "http-503", "HTTP 503")]
    {
        let script = script(status, answer);
        let access = accounts(&script).await.access(Some(ROLE), None).await;
        let error = access.ecs().list_tasks().send().await.expect_err("no credentials");
        let error = failed("ecs:ListTasks", error);
        assert_eq!((&*error.operation, &*error.code), (ASSUME_ROLE, code), "{error}");
        assert!(error.message.contains(message), "{error}");
        assert!(script.calls().iter().all(|call| call == "AssumeRole"), "{:?}", script.calls());
    }
    let script = Scripted::start(|_, _| Answer::Silence);
    let access = accounts(&script).await.access(Some(ROLE), None).await;
    let error = failed("ecs:ListTasks", access.ecs().list_tasks().send().await.expect_err("no credentials"));
    assert_eq!((&*error.operation, &*error.code), (ASSUME_ROLE, "timeout"), "{error}");
    let script = self::script(403, REFUSAL);
    let access = accounts(&script).await.access(Some(ROLE), None).await;
    let denied = probe::role(&access).await.expect("a role").permission;
    assert_eq!(denied, Permission::Denied("not you".to_owned()));
    let probes = probe::cluster(&access, "prod-a").await;
    assert!(probes.iter().all(|probe| matches!(probe.permission, Permission::Unknown(_))), "{probes:?}");
}

#[tokio::test]
async fn an_account_and_region_has_one_budget() {
    let script = script(200, LOAN);
    let mut accounts = accounts(&script).await;
    assert_eq!(accounts.region(), "eu-west-1");
    let own = accounts.access(None, None).await;
    let same = accounts.access(None, Some("eu-west-1")).await;
    let role = accounts.access(Some(ROLE), None).await;
    let other = accounts.access(Some("arn:aws:iam::123456789012:role/other"), None).await;
    let elsewhere = accounts.access(Some(ROLE), Some("us-east-1")).await;
    assert!(Arc::ptr_eq(&own.budget(), &same.budget()) && Arc::ptr_eq(&role.budget(), &other.budget()));
    assert!(!Arc::ptr_eq(&own.budget(), &role.budget()));
    assert!(!Arc::ptr_eq(&role.budget(), &elsewhere.budget()));
    assert!(probe::role(&own).await.is_none());
}
