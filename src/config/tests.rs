//! Settings that people write, and what they are told.

use expect_test::{Expect, expect};

use self::whole::WHOLE;
use super::*;

mod whole;

fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config, Vec<Problem>> {
    let environment = environment.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    Config::parse(Path::new("conf/legation.yaml"), text, environment)
}

fn check(text: &str, environment: &[(&str, &str)], expected: Expect) {
    let problems = parse(text, environment).unwrap_err();
    expected.assert_eq(&crate::diagnostic::render_all(&problems, false));
}

#[test]
fn a_certificate_has_two_files_beside_the_configuration() {
    let with = |tls: &str| {
        parse(&format!("xds: {{ tls: {tls} }}\nnamespaces: {{ prod: {{ clusters: [a] }} }}\n"), &[])
    };
    let tls = with("{ certificateFile: tls.crt, privateKeyFile: /run/tls.key }").unwrap().tls.unwrap();
    assert_eq!(tls.certificate_file, Path::new("conf/tls.crt"));
    assert_eq!(tls.private_key_file, Path::new("/run/tls.key"));
    assert!(with("{ certificateFile: tls.crt }").is_err());
    assert!(with("{ certificateFile: tls.crt, privateKeyFile: '' }").is_err());
}

#[test]
fn only_namespaces_are_needed() {
    let config = parse("namespaces: { prod: { clusters: [prod-a] } }", &[]).unwrap();
    assert_eq!(config.listen, Listen::default());
    assert_eq!(config.listen.admin.to_string(), "127.0.0.1:19000");
    assert_eq!(config.aws, Aws::default());
    assert_eq!(
        [config.ecs_interval, config.cloud_map_interval, config.max_backoff],
        [Duration::from_secs(30); 3]
    );
    assert_eq!(config.shutdown_grace, Duration::from_secs(10));
    assert_eq!(config.namespaces["prod"].discover, Discover::Labelled);
}

#[test]
fn the_environment_outranks_the_file() {
    let variables = [
        ("LEGATION_LISTEN__XDS", "127.0.0.1:1"),
        ("LEGATION_AWS__REGION", "us-east-1"),
        ("LEGATION_CLOUD_MAP__INTERVAL", "7s"),
        ("LEGATION_MAX_BACKOFF", "8s"),
    ];
    let config = parse(WHOLE, &variables).unwrap();
    assert_eq!(config.listen.xds.to_string(), "127.0.0.1:1");
    assert_eq!(config.listen.metrics.to_string(), "127.0.0.1:9091", "a variable replaces one key");
    assert_eq!(config.aws.region.as_deref(), Some("us-east-1"));
    assert_eq!(config.cloud_map_interval, Duration::from_secs(7));
    assert_eq!(config.max_backoff, Duration::from_secs(8));
}

#[test]
fn a_wrong_variable_is_named() {
    let variables = [
        ("LEGATION_ECS__INTERVAL", "10"),
        ("LEGATION_LISTEN__ADMIN", "0.0.0.0:19000"),
        ("LEGATION_LISTEN__XSD", "0.0.0.0:1"),
        ("LEGATION_PORT", "tcp://10.0.0.1:18000"),
    ];
    check(
        WHOLE,
        &variables,
        expect![[r#"
            error[CFG001]: unknown environment variable `LEGATION_LISTEN__XSD`
             |
             = help: did you mean `LEGATION_LISTEN__XDS`?

            error[CFG002]: LEGATION_LISTEN__ADMIN: admin must listen on loopback, not on 0.0.0.0
             |
             = help: write `127.0.0.1:19000`: admin has no authentication yet

            error[CFG002]: LEGATION_ECS__INTERVAL: `10` is not a duration
             |
             = help: write a number and a unit, like `500ms`, `30s`, `1h30m`"#]],
    );
}

#[test]
fn problems_are_told_together() {
    let text = "\
listen: { xds: localhost:18000, metrics: 0.0.0.0:19000, admin: 0.0.0.0:19000 }
aws: { region: eu west 1, endpointUrl: '127.0.0.1:4566' }
ecs: { interval: 30, queueUrl: legation }
maxBackoff: 50ms
namespaces: { prod: { clusters: [prod-a], discover: labeled } }
";
    check(
        text,
        &[],
        expect![[r#"
            error[CFG002]: `localhost:18000` is not an address with a port
             --> conf/legation.yaml:1:16
              |
            1 | listen: { xds: localhost:18000, metrics: 0.0.0.0:19000, admin: 0.0.0.0:19000 }
              |                ^^^^^^^^^^^^^^^ write it like `0.0.0.0:18000`

            error[CFG002]: admin must listen on loopback, not on 0.0.0.0
             --> conf/legation.yaml:1:64
              |
            1 | listen: { xds: localhost:18000, metrics: 0.0.0.0:19000, admin: 0.0.0.0:19000 }
              |                                                                ^^^^^^^^^^^^^ write `127.0.0.1:19000`: admin has no authentication yet

            error[CFG002]: admin and metrics can't share 0.0.0.0:19000
             --> conf/legation.yaml:1:64
              |
            1 | listen: { xds: localhost:18000, metrics: 0.0.0.0:19000, admin: 0.0.0.0:19000 }
              |                                                                ^^^^^^^^^^^^^ give each its own port

            error[CFG002]: `eu west 1` is not a Region
             --> conf/legation.yaml:2:16
              |
            2 | aws: { region: eu west 1, endpointUrl: '127.0.0.1:4566' }
              |                ^^^^^^^^^ write it like `eu-west-1`

            error[CFG002]: `127.0.0.1:4566` is not the URL of an endpoint
             --> conf/legation.yaml:2:40
              |
            2 | aws: { region: eu west 1, endpointUrl: '127.0.0.1:4566' }
              |                                        ^^^^^^^^^^^^^^^^ write it like `http://127.0.0.1:4566`

            error[CFG002]: `30` is not a duration
             --> conf/legation.yaml:3:18
              |
            3 | ecs: { interval: 30, queueUrl: legation }
              |                  ^^ write a number and a unit, like `500ms`, `30s`, `1h30m`

            error[CFG002]: `legation` is not the URL of a queue
             --> conf/legation.yaml:3:32
              |
            3 | ecs: { interval: 30, queueUrl: legation }
              |                                ^^^^^^^^ write it like `https://sqs.eu-west-1.amazonaws.com/123456789012/legation`

            error[CFG002]: `50ms` is out of range
             --> conf/legation.yaml:4:13
              |
            4 | maxBackoff: 50ms
              |             ^^^^ 100ms to 1h

            error[CFG002]: unknown word `labeled`
             --> conf/legation.yaml:5:53
              |
            5 | namespaces: { prod: { clusters: [prod-a], discover: labeled } }
              |                                                     ^^^^^^^ did you mean `labelled`? expected one of labelled, all"#]],
    );
}

#[test]
fn namespaces_have_names_and_sources() {
    let text = "\
namespaces:
  Prod:
    clusters: [prod-a, prod/a, 'arn:aws:ecs:eu-west-1:1:cluster/prod-a']
    files: [a.yaml, ./a.yaml]
  empty: {}
  nothing:
";
    check(
        text,
        &[],
        expect![[r#"
        error[CFG002]: `Prod` can't be the name of a namespace
         --> conf/legation.yaml:2:3
          |
        2 |   Prod:
          |   ^^^^ did you mean `prod`? allowed: 1 to 127 of a-z, 0-9, `_`, `-`, `.`, beginning with a letter or a digit

        error[CFG002]: `prod/a` is neither the name nor the ARN of an ECS cluster
         --> conf/legation.yaml:3:24
          |
        3 |     clusters: [prod-a, prod/a, 'arn:aws:ecs:eu-west-1:1:cluster/prod-a']
          |                        ^^^^^^ write it like `prod-a` or `arn:aws:ecs:eu-west-1:123456789012:cluster/prod-a`

        error[CFG002]: the cluster `prod-a` is there twice
         --> conf/legation.yaml:3:32
          |
        3 |     clusters: [prod-a, prod/a, 'arn:aws:ecs:eu-west-1:1:cluster/prod-a']
          |                                ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ first at conf/legation.yaml:3:16

        error[CFG002]: the file `conf/a.yaml` is there twice
         --> conf/legation.yaml:4:21
          |
        4 |     files: [a.yaml, ./a.yaml]
          |                     ^^^^^^^^ first at conf/legation.yaml:4:13

        error[CFG002]: the namespace `empty` has no source
         --> conf/legation.yaml:5:3
          |
        5 |   empty: {}
          |   ^^^^^ give it `clusters`, `cloudMap` or `files`

        error[CFG002]: the namespace `nothing` has no source
         --> conf/legation.yaml:6:3
          |
        6 |   nothing:
          |   ^^^^^^^ give it `clusters`, `cloudMap` or `files`"#]],
    );
}

#[test]
fn a_cloud_map_namespace_has_a_name_or_an_arn() {
    let shared = "arn:aws:servicediscovery:eu-west-1:123456789012:namespace/ns-0123456789abcdef";
    let with =
        |cloud_map: &str| parse(&format!("namespaces: {{ prod: {{ cloudMap: ['{cloud_map}'] }} }}\n"), &[]);
    for right in ["prod.local", shared] {
        assert_eq!(with(right).unwrap().namespaces["prod"].cloud_map, [right]);
    }
    for wrong in ["arn:aws:ecs:eu-west-1:123456789012:cluster/prod-a", &shared[..58], "arn:"] {
        let problem = crate::diagnostic::render_all(&with(wrong).unwrap_err(), false);
        let expected = "is neither the name nor the ARN of a Cloud Map namespace";
        assert!(problem.contains("CFG002") && problem.contains(expected), "{problem}");
    }
}

#[test]
fn a_configuration_without_namespaces() {
    check(
        "ecs: { interval: 30s }\n",
        &[],
        expect![[r#"
        error[CFG002]: there is no namespace
        --> conf/legation.yaml
         = help: name one under `namespaces`, with its `clusters` or `files`"#]],
    );
    check(
        "namespaces: {}\n",
        &[],
        expect![[r#"
        error[CFG002]: there is no namespace
        --> conf/legation.yaml
         = help: name one under `namespaces`, with its `clusters` or `files`"#]],
    );
}

#[test]
fn unknown_keys_at_every_depth() {
    check(
        "namespace:\n  prod: {}\n",
        &[],
        expect![[r#"
            error[CFG001]: unknown key `namespace`
             --> conf/legation.yaml:1:1
              |
            1 | namespace:
              | ^^^^^^^^^ did you mean `namespaces`? expected one of listen, aws, ecs, cloudMap, maxBackoff, shutdownGrace, guard, xds, namespaces, policies"#]],
    );
    check(
        "namespaces:\n  prod:\n    cluster: [prod-a]\n",
        &[],
        expect![[r#"
        error[CFG001]: unknown key `cluster`
         --> conf/legation.yaml:3:5
          |
        3 |     cluster: [prod-a]
          |     ^^^^^^^ did you mean `clusters`? expected one of clusters, cloudMap, files, discover, assumeRole"#]],
    );
    check(
        "cloudmap: { interval: 30s }\n",
        &[],
        expect![[r#"
            error[CFG001]: unknown key `cloudmap`
             --> conf/legation.yaml:1:1
              |
            1 | cloudmap: { interval: 30s }
              | ^^^^^^^^ did you mean `cloudMap`? expected one of listen, aws, ecs, cloudMap, maxBackoff, shutdownGrace, guard, xds, namespaces, policies"#]],
    );
}

#[test]
fn the_same_namespace_twice() {
    check(
        "namespaces:\n  prod: { clusters: [a] }\n  prod: { clusters: [b] }\n",
        &[],
        expect![[r#"
        error[CFG002]: the key `prod` is written twice
         --> conf/legation.yaml:3:3
          |
        3 |   prod: { clusters: [b] }
          |   ^^^^ remove one of them"#]],
    );
}

#[test]
fn two_listeners_on_one_port() {
    check(
        "listen: { metrics: 10.0.0.1:18000 }\nnamespaces: { prod: { clusters: [a] } }\n",
        &[],
        expect![[r#"
            error[CFG002]: metrics and xds can't share 10.0.0.1:18000
             --> conf/legation.yaml:1:20
              |
            1 | listen: { metrics: 10.0.0.1:18000 }
              |                    ^^^^^^^^^^^^^^ give each its own port"#]],
    );
    let free = "listen: { xds: '127.0.0.1:0', metrics: '127.0.0.1:0', admin: '127.0.0.1:0' }\n";
    assert!(parse(&format!("{free}namespaces: {{ prod: {{ clusters: [a] }} }}\n"), &[]).is_ok());
}

#[test]
fn a_missing_file_is_a_problem() {
    let problems = Config::load(Path::new("/nowhere/legation.yaml"), []).unwrap_err();
    expect![[r#"
        error[CFG003]: can't read the configuration: No such file or directory (os error 2)
        --> /nowhere/legation.yaml"#]]
    .assert_eq(&crate::diagnostic::render_all(&problems, false));
}

#[test]
fn what_sidecars_are_allowed() {
    let text = "xds: { maxStreamAge: 1h, maxStreams: 50, clusterGrace: 0s }\nnamespaces: { prod: { clusters: [a] } }\n";
    let xds = parse(text, &[("LEGATION_XDS__MAX_STREAMS", "60")]).unwrap().xds;
    let expected =
        Xds { max_stream_age: Duration::from_secs(3600), cluster_grace: Duration::ZERO, ..Xds::default() };
    assert_eq!(xds, Xds { max_streams: 60.try_into().unwrap(), ..expected });
    check(
        "xds: { maxStream: 50, maxNames: 0, writeTimeout: 1ms }\nnamespaces: { prod: { clusters: [a] } }\n",
        &[],
        expect![[r#"
            error[CFG001]: unknown key `maxStream`
             --> conf/legation.yaml:1:8
              |
            1 | xds: { maxStream: 50, maxNames: 0, writeTimeout: 1ms }
              |        ^^^^^^^^^ did you mean `maxStreams`? expected one of maxStreamAge, maxStreams, maxStreamsPerNamespace, newStreamsPerSecond, maxNames, clusterGrace, keepaliveInterval, keepaliveTimeout, writeTimeout, tls"#]],
    );
    check(
        "xds: { maxNames: 0, writeTimeout: 1ms }\nnamespaces: { prod: { clusters: [a] } }\n",
        &[],
        expect![[r#"
            error[CFG002]: `0` is not a whole number from 1 to 1000000
             --> conf/legation.yaml:1:18
              |
            1 | xds: { maxNames: 0, writeTimeout: 1ms }
              |                  ^

            error[CFG002]: `1ms` is out of range
             --> conf/legation.yaml:1:35
              |
            1 | xds: { maxNames: 0, writeTimeout: 1ms }
              |                                   ^^^ 100ms to 24h"#]],
    );
}

#[test]
fn a_cluster_has_one_account_and_one_role() {
    let role = "arn:aws:iam::123456789012:role/legation";
    let text = format!(
        "\
aws: {{ region: eu-west-1 }}
namespaces:
  prod: {{ clusters: [prod-a, 'arn:aws:ecs:us-east-1:1:cluster/prod-a'] }}
  shared: {{ clusters: [prod-a], assumeRole: {role} }}
"
    );
    let config = parse(&text, &[]).unwrap();
    assert_eq!(config.namespaces["prod"].clusters.len(), 2, "two Regions");
    assert_eq!(config.namespaces["shared"].assume_role.as_deref(), Some(role));
    let text = "\
namespaces:
  prod: { clusters: ['arn:aws:ecs:us-east-1:123456789012:cluster/prod-a'] }
  bad: { clusters: [prod-a], assumeRole: legation }
  far: { clusters: ['arn:aws:ecs:us-east-1:1:cluster/prod-a'], assumeRole: 'arn:aws:iam::123456789012:role/a' }
  two: { clusters: ['arn:aws:ecs:us-east-1:123456789012:cluster/prod-a'], assumeRole: 'arn:aws:iam::123456789012:role/b' }
  none: { files: [a.yaml], assumeRole: 'arn:aws:iam::123456789012:role/c' }
";
    check(
        text,
        &[],
        expect![[r#"
        error[CFG002]: `legation` is not the ARN of a role
         --> conf/legation.yaml:3:42
          |
        3 |   bad: { clusters: [prod-a], assumeRole: legation }
          |                                          ^^^^^^^^ write it like `arn:aws:iam::123456789012:role/legation`

        error[CFG002]: the cluster is of the account 1, and the role of 123456789012
         --> conf/legation.yaml:4:21
          |
        4 |   far: { clusters: ['arn:aws:ecs:us-east-1:1:cluster/prod-a'], assumeRole: 'arn:aws:iam::123456789012:role/a' }
          |                     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ give its namespace a role of the same account

        error[CFG002]: the cluster `prod-a` is read with the role `arn:aws:iam::123456789012:role/b`
         --> conf/legation.yaml:5:21
          |
        5 |   two: { clusters: ['arn:aws:ecs:us-east-1:123456789012:cluster/prod-a'], assumeRole: 'arn:aws:iam::123456789012:role/b' }
          |                     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ and with no role at conf/legation.yaml:2:22; take one

        error[CFG002]: a role, and nothing of AWS that it could read
         --> conf/legation.yaml:6:40
          |
        6 |   none: { files: [a.yaml], assumeRole: 'arn:aws:iam::123456789012:role/c' }
          |                                        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ give the namespace `clusters` or `cloudMap`, or take `assumeRole` away"#]],
    );
}
