//! Twenty-six mistakes that people make in policy files, each with the words that it is told with.
//!
//! Invariant: each text has the one mistake of its name.

use expect_test::{Expect, expect};

use super::problems;

fn check(text: &str, expected: Expect) {
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
          | ^^^^^^^ did you mean `services`? expected one of apiVersion, kind, namespaces, services, routes, rateLimits, externals"#]],
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
fn two_aliases_at_one_place() {
    check(
        "services:\n  a:\n    aliases: [{ name: a, port: 80, localhostPort: 18080, address: 127.200.0.1 }]\n  b:\n    aliases: [{ name: b, port: 80, localhostPort: 18080, address: 127.200.0.1 }]\n",
        expect![[r#"
            error[NAME002]: the port 18080 of localhost in `prod` is there twice
             --> policy.yaml:7:51
              |
            7 |     aliases: [{ name: b, port: 80, localhostPort: 18080, address: 127.200.0.1 }]
              |                                                   ^^^^^ first at policy.yaml:5:51

            error[NAME002]: the address 127.200.0.1 in `prod` is there twice
             --> policy.yaml:7:67
              |
            7 |     aliases: [{ name: b, port: 80, localhostPort: 18080, address: 127.200.0.1 }]
              |                                                                   ^^^^^^^^^^^ first at policy.yaml:5:67"#]],
    );
}

#[test]
fn addresses_and_ports_that_are_taken() {
    check(
        "services:\n  a:\n    aliases: [{ name: a, port: 80, localhostPort: 15001, address: 127.0.0.1 }, { name: a, port: 81, address: 10.0.0.1 }]\n    inbound: { port: 8080 }\n  b: { inbound: { mode: sidecars, port: 80 } }\n",
        expect![[r#"
            error[CFG002]: the sidecar's own proxy listens there
             --> policy.yaml:5:51
              |
            5 |     aliases: [{ name: a, port: 80, localhostPort: 15001, address: 127.0.0.1 }, { name: a, port: 81, address: 10.0.0.1 }]
              |                                                   ^^^^^ choose another port

            error[CFG002]: `127.0.0.1` is not a loopback address that is free
             --> policy.yaml:5:67
              |
            5 |     aliases: [{ name: a, port: 80, localhostPort: 15001, address: 127.0.0.1 }, { name: a, port: 81, address: 10.0.0.1 }]
              |                                                                   ^^^^^^^^^ write it like `127.200.0.1`

            error[CFG002]: `10.0.0.1` is not a loopback address that is free
             --> policy.yaml:5:110
              |
            5 |     aliases: [{ name: a, port: 80, localhostPort: 15001, address: 127.0.0.1 }, { name: a, port: 81, address: 10.0.0.1 }]
              |                                                                                                              ^^^^^^^^ write it like `127.200.0.1`

            error[CFG002]: `a` has the address 127.0.0.1 already
             --> policy.yaml:5:110
              |
            5 |     aliases: [{ name: a, port: 80, localhostPort: 15001, address: 127.0.0.1 }, { name: a, port: 81, address: 10.0.0.1 }]
              |                                                                                                              ^^^^^^^^ aliases of one name have one address

            error[CFG002]: a port has no effect in this mode
             --> policy.yaml:6:22
              |
            6 |     inbound: { port: 8080 }
              |                      ^^^^ add `mode: sidecar`

            error[CFG002]: unknown word `sidecars`
             --> policy.yaml:7:25
              |
            7 |   b: { inbound: { mode: sidecars, port: 80 } }
              |                         ^^^^^^^^ did you mean `sidecar`? expected one of direct, sidecar

            error[CFG002]: `80` is not a whole number from 1024 to 65535
             --> policy.yaml:7:41
              |
            7 |   b: { inbound: { mode: sidecars, port: 80 } }
              |                                         ^^

            error[CFG002]: a port has no effect in this mode
             --> policy.yaml:7:41
              |
            7 |   b: { inbound: { mode: sidecars, port: 80 } }
              |                                         ^^ add `mode: sidecar`"#]],
    );
}

#[test]
fn one_name_at_two_addresses() {
    check(
        "services:\n  a:\n    aliases: [{ name: a, port: 80, address: 127.200.0.1 }, { name: a.prod, port: 81, address: 127.200.0.2 }]\n",
        expect![[r#"
            error[CFG002]: `a` has the address 127.200.0.1 already
             --> policy.yaml:5:95
              |
            5 |     aliases: [{ name: a, port: 80, address: 127.200.0.1 }, { name: a.prod, port: 81, address: 127.200.0.2 }]
              |                                                                                               ^^^^^^^^^^^ aliases of one name have one address"#]],
    );
}

#[test]
fn rate_limits_that_say_too_little_or_it_twice() {
    check(
        "rateLimits:\n  - { service: a, at: inbond, requests: 0 }\n  - { service: a, per: 1s }\n  - { service: a, requests: 1 }\n  - { service: a, requests: 2 }\n",
        expect![[r#"
            error[CFG002]: unknown word `inbond`
             --> policy.yaml:4:23
              |
            4 |   - { service: a, at: inbond, requests: 0 }
              |                       ^^^^^^ did you mean `inbound`? expected one of outbound, inbound

            error[CFG002]: `0` is not a whole number from 1 to 2147483647
             --> policy.yaml:4:41
              |
            4 |   - { service: a, at: inbond, requests: 0 }
              |                                         ^

            error[CFG002]: the key `requests` is missing
             --> policy.yaml:5:5
              |
            5 |   - { service: a, per: 1s }
              |     ^

            error[CFG002]: the outbound rate limit of `prod/a` is there twice
             --> policy.yaml:7:16
              |
            7 |   - { service: a, requests: 2 }
              |                ^ first at policy.yaml:6:16"#]],
    );
}

#[test]
fn a_health_check_without_a_path_and_zones_of_no_kind() {
    check(
        "services:\n  a:\n    healthCheck: { path: health, type: htp, interval: 1ms }\n    loadBalancing: { zoneAware: { mode: always, minEndpoints: auto } }\n    retry: { budget: { percent: 200 } }\n",
        expect![[r#"
            error[CFG002]: `health` is not a path
             --> policy.yaml:5:26
              |
            5 |     healthCheck: { path: health, type: htp, interval: 1ms }
              |                          ^^^^^^ write it like `/health`

            error[CFG002]: unknown word `htp`
             --> policy.yaml:5:40
              |
            5 |     healthCheck: { path: health, type: htp, interval: 1ms }
              |                                        ^^^ did you mean `http`? expected one of http, grpc, tcp

            error[CFG002]: `1ms` is out of range
             --> policy.yaml:5:55
              |
            5 |     healthCheck: { path: health, type: htp, interval: 1ms }
              |                                                       ^^^ 100ms to 1h

            error[CFG002]: unknown word `always`
             --> policy.yaml:6:41
              |
            6 |     loadBalancing: { zoneAware: { mode: always, minEndpoints: auto } }
              |                                         ^^^^^^ expected one of prefer, none

            error[CFG002]: `auto` is not a whole number from 1 to 2147483647
             --> policy.yaml:6:63
              |
            6 |     loadBalancing: { zoneAware: { mode: always, minEndpoints: auto } }
              |                                                               ^^^^

            error[CFG002]: `200` is not a whole number from 0 to 100
             --> policy.yaml:7:33
              |
            7 |     retry: { budget: { percent: 200 } }
              |                                 ^^^"#]],
    );
}
