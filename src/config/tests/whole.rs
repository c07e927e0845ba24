//! A configuration with every key, and what becomes of it.
//!
//! It is not about mistakes. Invariant: a key that is not read fails the test.

use super::*;

pub(super) const WHOLE: &str = "\
listen: { xds: '[::]:18001', metrics: 127.0.0.1:9091, admin: '[::1]:19001' }
aws: { region: eu-west-1, endpointUrl: http://127.0.0.1:4566, callBudgetPercent: 25 }
guard: { maxWithdrawalPercent: 40, maxNamespaceWithdrawalPercent: 20, minEndpoints: 5, confirmations: 3 }
ecs: { interval: 5s, queueUrl: 'https://sqs.eu-west-1.amazonaws.com/1/legation-a', receivers: 3 }
cloudMap: { interval: 1m, revisionInterval: 3s, healthInterval: 4s }
maxBackoff: 20s
shutdownGrace: 500ms
namespaces:
  prod:
    clusters: [prod-a, arn:aws:ecs:eu-west-1:123456789012:cluster/prod-b]
    cloudMap: [prod]
    files: [services.yaml, /etc/more.yaml]
    discover: all
    assumeRole: arn:aws:iam::123456789012:role/legation
  shared:
    files: [shared.yaml]
    assumeRole: null
";
#[test]
fn every_key_is_read() {
    let mut config = parse(WHOLE, &[("PATH", "/bin"), ("LEGATION_SERVER", "http://elsewhere")]).unwrap();
    every_namespace().assert_debug_eq(&std::mem::take(&mut config.namespaces));
    every_key().assert_debug_eq(&config);
}

fn every_namespace() -> Expect {
    expect![[r#"
        {
            "prod": NamespaceConfig {
                clusters: [
                    "prod-a",
                    "arn:aws:ecs:eu-west-1:123456789012:cluster/prod-b",
                ],
                cloud_map: [
                    "prod",
                ],
                files: [
                    "conf/services.yaml",
                    "/etc/more.yaml",
                ],
                discover: All,
                assume_role: Some(
                    "arn:aws:iam::123456789012:role/legation",
                ),
            },
            "shared": NamespaceConfig {
                clusters: [],
                cloud_map: [],
                files: [
                    "conf/shared.yaml",
                ],
                discover: Labelled,
                assume_role: None,
            },
        }
    "#]]
}

fn every_key() -> Expect {
    expect![[r#"
        Config {
            listen: Listen {
                xds: [::]:18001,
                metrics: 127.0.0.1:9091,
                admin: [::1]:19001,
            },
            aws: Aws {
                region: Some(
                    "eu-west-1",
                ),
                endpoint_url: Some(
                    "http://127.0.0.1:4566",
                ),
                call_budget: 25,
            },
            ecs_interval: 5s,
            ecs_queue: Some(
                Queue {
                    url: "https://sqs.eu-west-1.amazonaws.com/1/legation-a",
                    receivers: 3,
                },
            ),
            cloud_map_interval: 60s,
            cloud_map_revision_interval: 3s,
            cloud_map_health_interval: 4s,
            max_backoff: 20s,
            shutdown_grace: 500ms,
            guard: Guard {
                max_withdrawal_percent: 40,
                max_namespace_withdrawal_percent: 20,
                min_endpoints: 5,
                confirmations: 3,
            },
            xds: Xds {
                max_stream_age: 1800s,
                max_streams: 20000,
                max_streams_per_namespace: 20000,
                new_streams_per_second: 500,
                max_names: 100000,
                cluster_grace: 5s,
                keepalive_interval: 30s,
                keepalive_timeout: 10s,
                write_timeout: 60s,
            },
            tls: None,
            namespaces: {},
            policies: [],
            policy_text: None,
        }
    "#]]
}
