//! Twenty-six mistakes that people make in policy files, each with the words that it is told with.
//!
//! Invariant: each text has the one mistake of its name.

use expect_test::{Expect, expect};

use super::problems;

pub(super) fn check(text: &str, expected: Expect) {
    expected.assert_eq(&problems(text).join("\n\n"));
}

#[test]
fn an_unknown_key() {
    check(
        "services:\n  payments:\n    timeouts: { requst: 5s }\n",
        expect![[r#"
        error[CFG001]: unknown key `requst`
         --> policy.yaml:5:17
          |
        5 |     timeouts: { requst: 5s }
          |                 ^^^^^^ did you mean `request`? expected one of request, backendRequest, idle, streamIdle, connect"#]],
    );
}

#[test]
fn an_unknown_section() {
    check(
        "service: {}\n",
        expect![[r#"
        error[CFG001]: unknown key `service`
         --> policy.yaml:3:1
          |
        3 | service: {}
          | ^^^^^^^ did you mean `services`? expected one of apiVersion, kind, namespaces, services, routes, rateLimits, externals, imports"#]],
    );
}

#[test]
fn a_duration_without_a_unit() {
    check(
        "services: { payments: { timeouts: { request: 15 } } }\n",
        expect![[r#"
        error[CFG002]: `15` is not a duration
         --> policy.yaml:3:46
          |
        3 | services: { payments: { timeouts: { request: 15 } } }
          |                                              ^^ write a number and a unit, like `500ms`, `30s`, `1h30m`"#]],
    );
}

#[test]
fn a_duration_out_of_range() {
    check(
        "services: { payments: { timeouts: { connect: 2m } } }\n",
        expect![[r#"
        error[CFG002]: `2m` is out of range
         --> policy.yaml:3:46
          |
        3 | services: { payments: { timeouts: { connect: 2m } } }
          |                                              ^^ 10ms to 1m"#]],
    );
}

#[test]
fn too_many_attempts() {
    check(
        "services: { payments: { retry: { attempts: 11 } } }\n",
        expect![[r#"
        error[CFG002]: `11` is not a whole number from 0 to 10
         --> policy.yaml:3:44
          |
        3 | services: { payments: { retry: { attempts: 11 } } }
          |                                            ^^"#]],
    );
}

#[test]
fn an_unknown_trigger() {
    check(
        "services: { payments: { retry: { triggers: [conect-failure] } } }\n",
        expect![[r#"
        error[CFG002]: unknown word `conect-failure`
         --> policy.yaml:3:45
          |
        3 | services: { payments: { retry: { triggers: [conect-failure] } } }
          |                                             ^^^^^^^^^^^^^^ did you mean `connect-failure`? expected one of 5xx, gateway-error, reset, reset-before-request, connect-failure, refused-stream, retriable-4xx, cancelled, deadline-exceeded, internal, resource-exhausted, unavailable, server-error, client-error, stream-error, connection-error"#]],
    );
}

#[test]
fn a_code_that_is_no_error() {
    check(
        "services: { payments: { retry: { codes: [200] } } }\n",
        expect![[r#"
        error[CFG002]: `200` is not a whole number from 400 to 599
         --> policy.yaml:3:42
          |
        3 | services: { payments: { retry: { codes: [200] } } }
          |                                          ^^^"#]],
    );
}

#[test]
fn a_single_value_for_a_list() {
    check(
        "services: { payments: { retry: { codes: 503 } } }\n",
        expect![[r#"
        error[CFG002]: expected a list, like `[a, b]`, found a single value
         --> policy.yaml:3:41
          |
        3 | services: { payments: { retry: { codes: 503 } } }
          |                                         ^^^"#]],
    );
}

#[test]
fn a_boolean_word_of_yaml_1_1() {
    check(
        "services: { payments: { accessLog: { enabled: yes } } }\n",
        expect![[r#"
        error[CFG002]: `yes` is neither true nor false
         --> policy.yaml:3:47
          |
        3 | services: { payments: { accessLog: { enabled: yes } } }
          |                                               ^^^ write `true` or `false`"#]],
    );
}

#[test]
fn an_unknown_balancer() {
    check(
        "services: { payments: { loadBalancing: { type: roundrobin } } }\n",
        expect![[r#"
        error[CFG002]: unknown word `roundrobin`
         --> policy.yaml:3:48
          |
        3 | services: { payments: { loadBalancing: { type: roundrobin } } }
          |                                                ^^^^^^^^^^ did you mean `RoundRobin`? expected one of RoundRobin, LeastRequest, Random, ConsistentHash"#]],
    );
}

#[test]
fn nothing_to_hash() {
    check(
        "services: { payments: { loadBalancing: { type: ConsistentHash } } }\n",
        expect![[r#"
        error[CFG002]: nothing says what is hashed
         --> policy.yaml:3:48
          |
        3 | services: { payments: { loadBalancing: { type: ConsistentHash } } }
          |                                                ^^^^^^^^^^^^^^ add `consistentHash: { header: x-user }`"#]],
    );
}

#[test]
fn a_hash_that_is_not_asked_for() {
    check(
        "services: { payments: { loadBalancing: { consistentHash: { header: x-user } } } }\n",
        expect![[r#"
            error[CFG002]: `consistentHash` has no effect without `type: ConsistentHash`
             --> policy.yaml:3:58
              |
            3 | services: { payments: { loadBalancing: { consistentHash: { header: x-user } } } }
              |                                                          ^"#]],
    );
}

#[test]
fn an_ejection_that_ends_before_it_began() {
    check(
        "services: { payments: { outlierDetection: { baseEjectionTime: 60s, maxEjectionTime: 30s } } }\n",
        expect![[r#"
            error[CFG002]: the longest ejection is shorter than the first
             --> policy.yaml:3:85
              |
            3 | services: { payments: { outlierDetection: { baseEjectionTime: 60s, maxEjectionTime: 30s } } }
              |                                                                                     ^^^ at least `baseEjectionTime`"#]],
    );
}

#[test]
fn requests_in_tcp() {
    check(
        "services: { redis: { appProtocol: tcp, timeouts: { request: 5s } } }\n",
        expect![[r#"
        error[CFG002]: `request` is about requests, and there are none in tcp
         --> policy.yaml:3:52
          |
        3 | services: { redis: { appProtocol: tcp, timeouts: { request: 5s } } }
          |                                                    ^^^^^^^ remove it, or set `appProtocol`"#]],
    );
}

#[test]
fn a_namespace_that_is_not_configured() {
    check(
        "services: { payments: { namespace: pord } }\n",
        expect![[r#"
        error[CFG002]: the namespace `pord` is not configured
         --> policy.yaml:3:36
          |
        3 | services: { payments: { namespace: pord } }
          |                                    ^^^^ did you mean `prod`?"#]],
    );
}

#[test]
fn a_service_that_is_there_twice() {
    check(
        "services: { payments: { namespace: prod }, payments: { retry: { attempts: 1 } } }\n",
        expect![[r#"
            error[CFG002]: the key `payments` is written twice
             --> policy.yaml:3:44
              |
            3 | services: { payments: { namespace: prod }, payments: { retry: { attempts: 1 } } }
              |                                            ^^^^^^^^ remove one of them"#]],
    );
}

#[test]
fn two_services_with_one_alias() {
    check(
        "services:\n  payments: { aliases: [{ name: pay, port: 80 }] }\n  ledger: { aliases: [{ name: pay, port: 80 }] }\n",
        expect![[r#"
            error[NAME002]: the alias `pay:80` in `prod` is there twice
             --> policy.yaml:5:31
              |
            5 |   ledger: { aliases: [{ name: pay, port: 80 }] }
              |                               ^^^ first at policy.yaml:4:33"#]],
    );
}

#[test]
fn a_name_in_upper_case() {
    check(
        "services: { Payments: {} }\n",
        expect![[r#"
        error[CFG002]: `Payments` can't be the name of a service
         --> policy.yaml:3:13
          |
        3 | services: { Payments: {} }
          |             ^^^^^^^^ did you mean `payments`? allowed: 1 to 64 of a-z, 0-9, `_`, `-`, beginning with a letter or a digit"#]],
    );
}

#[test]
fn weights_that_sum_to_nothing() {
    check(
        "routes:\n  - name: split\n    parentRefs: [payments]\n    rules:\n      - backendRefs: [{ service: payments, weight: 0 }]\n",
        expect![[r#"
            error[CFG002]: the weights of a rule sum to nothing, so its requests go nowhere
             --> policy.yaml:7:22
              |
            7 |       - backendRefs: [{ service: payments, weight: 0 }]
              |                      ^"#]],
    );
}

#[test]
fn a_path_that_is_none() {
    check(
        "routes:\n  - name: v2\n    parentRefs: [payments]\n    rules:\n      - matches: [{ path: { value: v2 } }]\n",
        expect![[r#"
            error[CFG002]: `v2` is no path
             --> policy.yaml:7:36
              |
            7 |       - matches: [{ path: { value: v2 } }]
              |                                    ^^ write it like `/v2`"#]],
    );
}

#[test]
fn an_expression_that_is_none() {
    check(
        "routes:\n  - name: v2\n    parentRefs: [payments]\n    rules:\n      - matches: [{ headers: [{ type: RegularExpression, name: x-a, value: '(' }] }]\n",
        expect![[r#"
            error[CFG002]: `(` is no regular expression
             --> policy.yaml:7:76
              |
            7 |       - matches: [{ headers: [{ type: RegularExpression, name: x-a, value: '(' }] }]
              |                                                                            ^^^ unclosed group"#]],
    );
}

#[test]
fn a_filter_that_says_nothing() {
    check(
        "routes:\n  - name: v2\n    parentRefs: [payments]\n    rules:\n      - filters: [{ type: RequestMirror }]\n",
        expect![[r#"
            error[CFG002]: RequestMirror says nothing
             --> policy.yaml:7:27
              |
            7 |       - filters: [{ type: RequestMirror }]
              |                           ^^^^^^^^^^^^^ add `requestMirror`"#]],
    );
}

#[test]
fn a_filter_with_the_body_of_another() {
    check(
        "routes:\n  - name: v2\n    parentRefs: [payments]\n    rules:\n      - filters: [{ type: Fault, requestMirror: { backendRef: { service: a } } }]\n",
        expect![[r#"
            error[CFG002]: Fault says nothing
             --> policy.yaml:7:27
              |
            7 |       - filters: [{ type: Fault, requestMirror: { backendRef: { service: a } } }]
              |                           ^^^^^ add `fault`

            error[CFG002]: `requestMirror` has no effect in Fault
             --> policy.yaml:7:34
              |
            7 |       - filters: [{ type: Fault, requestMirror: { backendRef: { service: a } } }]
              |                                  ^^^^^^^^^^^^^ remove it"#]],
    );
}

#[test]
fn a_redirect_with_backends() {
    check(
        "routes:\n  - name: old\n    parentRefs: [payments]\n    rules:\n      - filters: [{ type: RequestRedirect, requestRedirect: { hostname: new } }]\n        backendRefs: [{ service: payments }]\n",
        expect![[r#"
            error[CFG002]: a redirect goes to no service
             --> policy.yaml:8:22
              |
            8 |         backendRefs: [{ service: payments }]
              |                      ^"#]],
    );
}

#[test]
fn a_route_without_parents() {
    check(
        "routes: [{ name: v2, rules: [] }]\n",
        expect![[r#"
        error[CFG002]: the key `parentRefs` is missing
         --> policy.yaml:3:10
          |
        3 | routes: [{ name: v2, rules: [] }]
          |          ^"#]],
    );
}

#[test]
fn an_external_without_a_port() {
    check(
        "externals: [{ name: onprem, port: 9443, endpoints: [10.9.0.4] }]\n",
        expect![[r#"
        error[CFG002]: `10.9.0.4` is not an address or a name, with a port
         --> policy.yaml:3:53
          |
        3 | externals: [{ name: onprem, port: 9443, endpoints: [10.9.0.4] }]
          |                                                     ^^^^^^^^ write it like `10.9.0.4:9443`"#]],
    );
}

#[test]
fn a_deployment_that_is_none() {
    check(
        "routes: [{ name: r, parentRefs: [pay], rules: [{ backendRefs: [{ service: pay, deployment: primry }] }] }]\n",
        expect![[r#"
            error[CFG002]: unknown word `primry`
             --> policy.yaml:3:92
              |
            3 | routes: [{ name: r, parentRefs: [pay], rules: [{ backendRefs: [{ service: pay, deployment: primry }] }] }]
              |                                                                                            ^^^^^^ did you mean `primary`? expected one of primary, previous"#]],
    );
}

#[test]
fn a_key_of_a_part_that_is_unknown() {
    check(
        "routes: [{ name: r, parentRefs: [pay], rules: [{ backendRefs: [{ service: pay, label: { tier: gold } }] }] }]\n",
        expect![[r#"
            error[CFG001]: unknown key `label`
             --> policy.yaml:3:80
              |
            3 | routes: [{ name: r, parentRefs: [pay], rules: [{ backendRefs: [{ service: pay, label: { tier: gold } }] }] }]
              |                                                                                ^^^^^ did you mean `labels`? expected one of service, version, deployment, labels, weight"#]],
    );
}

#[test]
fn labels_that_are_no_map() {
    check(
        "routes: [{ name: r, parentRefs: [pay], rules: [{ backendRefs: [{ service: pay, labels: [tier] }] }] }]\n",
        expect![[r#"
            error[CFG002]: expected a map from words to words, like `{ tier: gold }`, found a list
             --> policy.yaml:3:88
              |
            3 | routes: [{ name: r, parentRefs: [pay], rules: [{ backendRefs: [{ service: pay, labels: [tier] }] }] }]
              |                                                                                        ^"#]],
    );
}

#[test]
fn labels_without_any() {
    check(
        "routes: [{ name: r, parentRefs: [pay], rules: [{ backendRefs: [{ service: pay, labels: {} }] }] }]\n",
        expect![[r#"
            error[CFG002]: no label, so nothing is told apart: say one, or remove `labels`
             --> policy.yaml:3:88
              |
            3 | routes: [{ name: r, parentRefs: [pay], rules: [{ backendRefs: [{ service: pay, labels: {} }] }] }]
              |                                                                                        ^"#]],
    );
}

#[test]
fn a_label_without_a_value() {
    check(
        "routes: [{ name: r, parentRefs: [pay], rules: [{ backendRefs: [{ service: pay, labels: { tier: } }] }] }]\n",
        expect![[r#"
            error[CFG002]: the label `tier` has no value
             --> policy.yaml:3:90
              |
            3 | routes: [{ name: r, parentRefs: [pay], rules: [{ backendRefs: [{ service: pay, labels: { tier: } }] }] }]
              |                                                                                          ^^^^ say which it is"#]],
    );
}
