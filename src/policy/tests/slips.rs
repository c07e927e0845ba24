//! More mistakes: about where services are found, how much may come, and connections.

use expect_test::expect;

use super::mistakes::check;

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
