//! Where each value in force was said.

use super::*;
use crate::model::{Origin, Said};
use crate::policy::said::ENVOY;

/// What is in force, less what nobody said.
fn told(policy: &Policy, spec: &ServiceSpec) -> Vec<String> {
    let effective = policy.effective(&policy.over(&Arc::new(spec.clone())), None);
    let said = effective.iter().filter(|it| !["default", "service-connect"].contains(&&*it.origin));
    said.map(|it| format!("{}: {}  {}", it.key, it.value, it.origin)).collect()
}

const LAYERS: &str = "\
namespaces:
  prod:
    defaults:
      timeouts: { request: 3s, idle: 30s, connect: 2000ms }
      retry:
        attempts: 4
        codes: [502,
          503]
services:
  payments:
    timeouts:
      idle: 40s
    readiness: { gate: running }
    aliases:
      - { name: pay, port: 80 }
";

#[test]
fn each_value_is_told_with_its_own_line() {
    let policy = parse(LAYERS);
    let mut payments = (*spec("payments")).clone();
    let tag = Said::new("timeouts.request", "7s", "tag service/payments");
    payments.origin = Origin::new("ecs prod-a/payments", [tag]);
    expect_test::expect![[r#"
        aliases: [{ name: pay, port: 80 }]  policy.yaml:17
        timeouts.request: 7s  tag service/payments
        timeouts.idle: 40s  policy.yaml:14
        timeouts.connect: 2s  policy.yaml:6
        retry.attempts: 4  policy.yaml:8
        retry.codes: [502, 503]  policy.yaml:9
        readiness.gate: running  policy.yaml:15"#]]
    .assert_eq(&told(&policy, &payments).join("\n"));
}

#[test]
fn what_nobody_said_is_told_with_whose_it_is() {
    let effective = Policy::default()
        .effective(&ServiceSpec { knobs: Knobs::default(), ..(*spec("payments")).clone() }, None);
    let told: Vec<_> =
        effective.iter().map(|it| format!("{}: {}  {}", it.key, it.value, it.origin)).collect();
    expect_test::expect![[r#"
        aliases: [{ name: payments, port: 8080 }]  default
        appProtocol: http  default
        inbound.mode: direct  default
        timeouts.request: 15s  service-connect
        timeouts.backendRequest: 0s  default
        timeouts.idle: 5m  service-connect
        timeouts.streamIdle: 5m  default
        timeouts.connect: 1s  default
        retry.attempts: 2  service-connect
        retry.triggers: [connect-failure, refused-stream, unavailable]  default
        retry.codes: [503]  default
        retry.backoff: 25ms  default
        retry.otherHost: true  default
        retry.idempotentOnly: false  default
        outlierDetection.consecutive5xx: 5  service-connect
        outlierDetection.interval: 30s  service-connect
        outlierDetection.baseEjectionTime: 30s  service-connect
        outlierDetection.maxEjectionTime: 5m  service-connect
        outlierDetection.maxEjectionPercent: 50  default
        loadBalancing.type: RoundRobin  service-connect
        loadBalancing.slowStart: 0s  default
        loadBalancing.panicThresholdPercent: 50  default
        loadBalancing.zoneAware.mode: prefer  service-connect
        circuitBreaker.maxConnections: 2147483647  default
        circuitBreaker.maxPendingRequests: 2147483647  default
        circuitBreaker.maxParallelRequests: 2147483647  default
        circuitBreaker.maxParallelRetries: 2147483647  default
        connectionPool.maxConnectionDuration: 0s  default
        protocolOptions.preserveHeaderCase: false  default
        protocolOptions.maxHeaderKilobytes: 60  default
        readiness.gate: healthy  service-connect
        readiness.maxWait: 8m  service-connect
        readiness.onExpiry: serve  default
        drain.style: remove  default
        accessLog.enabled: true  default
        accessLog.includeQueryParameters: false  default
        accessLog.samplePercent: 100  default"#]]
    .assert_eq(&told.join("\n"));
    let tcp = ServiceSpec { protocol: Protocol::Tcp, ..(*spec("redis")).clone() };
    let of_tcp = Policy::default().effective(&tcp, None);
    let idle = of_tcp.iter().find(|it| it.key == "timeouts.idle").expect("it");
    assert_eq!(idle.value, "1h");
    assert!(of_tcp.iter().all(|it| it.key != "timeouts.request" && it.key != "retry.codes"), "{of_tcp:?}");
}

#[test]
fn a_hash_goes_with_the_balancer_that_wants_it() {
    let hashed = "loadBalancing: { type: ConsistentHash, consistentHash: { header: x-user } }";
    let policy = parse(&format!(
        "namespaces: {{ prod: {{ defaults: {{ {hashed} }} }} }}\nservices: {{ payments: {{ loadBalancing: {{ type: Random }} }} }}\n"
    ));
    let keys = |name: &str| -> Vec<String> {
        let effective = policy.effective(&policy.over(&spec(name)), None);
        let of_it =
            effective.iter().filter(|it| it.key.starts_with("loadBalancing.") && !it.key.contains("slow"));
        of_it.map(|it| format!("{}: {}", it.key, it.value)).collect()
    };
    let panic = "loadBalancing.panicThresholdPercent: 50";
    assert!(!keys("payments").iter().any(|it| it.contains("Hash")), "{:?}", keys("payments"));
    assert!(keys("payments").contains(&panic.to_owned()));
    let of_other = keys("ledger");
    for wanted in
        ["type: ConsistentHash", "consistentHash.header: x-user", "consistentHash.algorithm: RingHash"]
    {
        assert!(of_other.contains(&format!("loadBalancing.{wanted}")), "{of_other:?}");
    }
}

#[test]
fn a_section_is_one_layers_or_nobodys() {
    let policy = parse(
        "namespaces: { prod: { defaults: { healthCheck: { path: /health, interval: 5s } } } }
services:
  payments:
    healthCheck: {}
    retry: { budget: { percent: 30 } }
rateLimits:
  - { service: payments, requests: 10, burst: 20 }
",
    );
    let keys = |name: &str| -> Vec<String> {
        let effective = policy.effective(&policy.over(&spec(name)), None);
        let of_it = effective.iter().filter(|it| {
            ["healthCheck", "retry.budget", "rateLimits", "connectionPool.tcp"]
                .iter()
                .any(|of| it.key.starts_with(of))
        });
        of_it.map(|it| format!("{}: {}  {}", it.key, it.value, it.origin)).collect()
    };
    expect_test::expect![[r#"
        retry.budget.percent: 30  policy.yaml:7
        retry.budget.minParallel: 3  default
        healthCheck.interval: 10s  default
        healthCheck.timeout: 2s  default
        healthCheck.unhealthyThreshold: 3  default
        healthCheck.healthyThreshold: 2  default
        rateLimits.outbound: { requests: 10, per: 1s, burst: 20 }  policy.yaml:9"#]]
    .assert_eq(&keys("payments").join("\n"));
    expect_test::expect![[r#"
        healthCheck.path: /health  policy.yaml:3
        healthCheck.interval: 5s  policy.yaml:3
        healthCheck.timeout: 2s  default
        healthCheck.unhealthyThreshold: 3  default
        healthCheck.healthyThreshold: 2  default"#]]
    .assert_eq(&keys("ledger").join("\n"));
}

#[test]
fn a_rule_outranks_its_service() {
    let policy = parse(
        "services: { payments: { timeouts: { request: 9s } } }\nroutes:\n  - name: slow\n    parentRefs: [payments]\n    rules:\n      - timeouts:\n          request: 60s\n      - { matches: [{ method: GET }], retry: { attempts: 0 } }\n",
    );
    let over = policy.over(&spec("payments"));
    let of = |rule: &Rule, key: &str| {
        let effective = policy.effective(&over, Some(rule));
        let found = effective.into_iter().find(|it| it.key == key).expect("it");
        format!("{} {}", found.value, found.origin)
    };
    let [get, slow] = &*over.rules else { panic!("{:?}", over.rules) };
    assert_eq!(of(slow, "timeouts.request"), "1m policy.yaml:9");
    assert_eq!(of(get, "timeouts.request"), "9s policy.yaml:3");
    assert_eq!(of(get, "retry.attempts"), "0 policy.yaml:10");
}

/// The words of the profile are its numbers.
#[test]
fn the_profile_envoy_is_told_as_it_is() {
    let sections: BTreeSet<_> = ENVOY.iter().filter_map(|(key, _)| key.split('.').next()).collect();
    let section = |section: &&str| {
        let of_it = ENVOY.iter().filter_map(|(key, value)| {
            Some(format!("{}: {value}", key.strip_prefix(*section)?.strip_prefix('.')?))
        });
        format!("{section}: {{ {} }}", of_it.collect::<Vec<_>>().join(", "))
    };
    let defaults = sections.iter().map(section).collect::<Vec<_>>().join(", ");
    let written = parse(&format!("namespaces: {{ prod: {{ defaults: {{ {defaults} }} }} }}\n"));
    let profile =
        parse("namespaces:\n  prod:\n    profile: envoy\n    defaults: { retry: { attempts: 1 } }\n");
    assert_eq!(written.of(&"prod".into()).expect("prod").defaults.knobs, envoy());
    let told = told(&profile, &ServiceSpec { knobs: Knobs::default(), ..(*spec("payments")).clone() });
    assert!(told.contains(&"timeouts.idle: 1h  policy.yaml:5 (profile envoy)".to_owned()), "{told:?}");
    assert!(told.contains(&"retry.attempts: 1  policy.yaml:6".to_owned()), "{told:?}");
}

/// Whatever moves in the file, what is translated stays as it was.
#[test]
fn another_line_says_the_same() {
    let text = "services: { payments: { retry: { attempts: 0 } } }\nroutes: [{ name: a, parentRefs: [payments], rules: [{ timeouts: { request: 1s } }] }]\n";
    let (before, after) = (parse(text), parse(&format!("# moved\n{text}")));
    let (before, after) = (before.over(&spec("payments")), after.over(&spec("payments")));
    assert!(*before != *after && before.says_the_same(&after), "only the lines differ");
    let other = parse(&text.replace("1s", "2s")).over(&spec("payments"));
    assert!(!before.says_the_same(&other));
}
