//! Tests of the calls to EC2 against a scripted server.

use aws_config::Region;
use aws_types::origin::Origin;
use aws_types::service_config::LoadServiceConfig;

use super::*;
use crate::source::aws::scripted::{Answer, Scripted, access};

const ONE: &str = "<DescribeInstancesResponse><reservationSet><item><instancesSet><item><instanceId>i-1</instanceId>\
     <privateIpAddress>10.0.0.1</privateIpAddress></item></instancesSet></item></reservationSet>";

/// Answers are literals elsewhere.
fn text(status: u16, body: String) -> Answer {
    Answer::Text(status, body.leak())
}

fn refusal(status: u16, code: &str) -> Answer {
    let error = format!("<Error><Code>{code}</Code><Message>not\nyou</Message></Error>");
    text(status, format!("<Response><Errors>{error}</Errors></Response>"))
}

async fn fails(script: &Scripted) -> SourceError {
    script.access().ec2().addresses(&["i-1"]).await.expect_err("a failure")
}

#[tokio::test]
async fn pages_are_read_to_the_end_and_what_is_unknown_is_left_out() {
    let script = Scripted::start(|operation, request| {
        assert_eq!(operation, "DescribeInstances");
        let of = |key: &str| request[key].as_str().unwrap_or_default().to_owned();
        assert_eq!((of("Version"), of("Filter.1.Name")), (VERSION.to_owned(), "instance-id".to_owned()));
        assert_eq!((of("Filter.1.Value.1"), of("Filter.1.Value.2")), ("i-1".to_owned(), "i-2 &".to_owned()));
        match of("NextToken").as_str() {
            "" => text(200, format!("{ONE}<nextToken>more</nextToken></DescribeInstancesResponse>")),
            "more" => {
                Answer::Text(200, "<DescribeInstancesResponse><reservationSet/></DescribeInstancesResponse>")
            }
            other => panic!("no such page: {other}"),
        }
    });
    let found = script.access().ec2().addresses(&["i-1", "i-2 &"]).await.expect("an answer");
    assert_eq!(found, BTreeMap::from([("i-1".to_owned(), (IpAddr::from([10, 0, 0, 1]), None))]));
    assert_eq!(script.calls(), ["DescribeInstances"; 2]);
}

#[tokio::test]
async fn refusals_and_silence_are_told_as_of_any_other_call() {
    let denied = Scripted::start(|_, _| refusal(403, "UnauthorizedOperation"));
    assert_eq!(fails(&denied).await.to_string(), "ec2:DescribeInstances: UnauthorizedOperation: not you");
    assert_eq!(denied.calls().len(), 1);
    for (answer, code, calls) in [
        (refusal(503, "RequestLimitExceeded"), "RequestLimitExceeded", 2),
        (Answer::Text(503, "upstream is down"), "http-503", 2),
        (Answer::Text(200, "<html>login"), "bad-response", 2),
        (Answer::Text(200, ONE), "bad-response", 2),
        (Answer::Silence, "timeout", 2),
    ] {
        let script = Scripted::start(move |_, _| answer.clone());
        let error = fails(&script).await;
        assert_eq!((error.code.as_str(), script.calls().len()), (code, calls), "{error}");
    }
}

#[tokio::test]
async fn ec2_is_where_the_partition_has_it() {
    let script = Scripted::start(|_, _| Answer::Silence);
    for (region, url) in [
        ("eu-west-1", "https://ec2.eu-west-1.amazonaws.com"),
        ("cn-north-1", "https://ec2.cn-north-1.amazonaws.com.cn"),
        ("us-gov-west-1", "https://ec2.us-gov-west-1.amazonaws.com"),
    ] {
        let mut config = script.config().into_builder().region(Region::new(region));
        config.set_endpoint_url(None);
        assert_eq!(access(config.build()).ec2().endpoint().await.expect("it is known"), url);
    }
    // As the SDK's own clients have it: what is said of EC2 outranks what the environment says of everything.
    #[derive(Debug)]
    struct Environment;
    impl LoadServiceConfig for Environment {
        fn load_config(&self, key: ServiceConfigKey<'_>) -> Option<String> {
            (key.service_id() == "EC2").then(|| "http://ec2.internal".to_owned())
        }
    }
    let environment = || script.config().into_builder().service_config(Environment);
    let url = access(environment().build()).ec2().endpoint().await.expect("it is known");
    assert_eq!(url, "http://ec2.internal");
    let mut said = environment();
    said.insert_origin("endpoint_url", Origin::shared_config());
    assert_eq!(
        access(said.build()).ec2().endpoint().await.expect("it is known"),
        script.config().endpoint_url().expect("it is said")
    );

    let nowhere = script.config().into_builder().region(None).build();
    let error = access(nowhere).ec2().addresses(&["i-1"]).await.expect_err("unsigned");
    assert_eq!(error.operation, "ec2:DescribeInstances");
}
