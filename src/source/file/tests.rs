//! Files that people write, and what they are told.

use expect_test::{Expect, expect};

use super::super::{Cell, cell};
use super::*;
use crate::diagnostic::render_all;

const WHOLE: &str = "\
services:
  payments:
    aliases: [{ name: payments, port: 80 }, { name: pay.internal, port: 8080 }]
    appProtocol: http
    timeouts: { request: 15s, idle: 300s }
    retry: { attempts: 3 }
    endpoints:
      - { address: 127.0.1.2, port: 8080, zone: eu-west-1b, id: payments-2, health: draining }
      - { address: 127.0.1.1, port: 8080, zone: eu-west-1a, id: payments-1, health: healthy }
  ledger:
    endpoints: [{ address: '2001:db8::7', port: 9443 }]
  later:
    aliases: [{ name: later, port: 80 }]
";

fn parse(text: &str) -> Result<View, Vec<Problem>> {
    super::parse(Path::new("services.yaml"), text, &"prod".into())
}

fn check(text: &str, expected: Expect) {
    expected.assert_eq(&render_all(&parse(text).unwrap_err(), false));
}

#[test]
fn every_key_is_read() {
    let view = parse(WHOLE).unwrap();
    let mut text = String::new();
    for service in view.services.values() {
        let spec = &service.spec;
        let aliases: Vec<_> = spec.aliases.iter().map(ToString::to_string).collect();
        text += &format!(
            "{} {:?} {aliases:?} from {}\n  {:?}\n",
            spec.key, spec.protocol, spec.origin, spec.knobs
        );
        for it in &service.registrations {
            text +=
                &format!("  {} {:?} {:?} {:?} {:?}\n", it.instance, it.address, it.port, it.zone, it.phase);
        }
    }
    expect![[r#"
        prod/later Tcp ["later:80"] from services.yaml:12
          Knobs { request_timeout: None, backend_request_timeout: None, idle_timeout: None, stream_idle_timeout: None, connect_timeout: None, retry_attempts: None, retry_triggers: None, retry_codes: None, retry_backoff: None, retry_other_host: None, retry_idempotent_only: None, retry_budget: None, consecutive_5xx: None, outlier_interval: None, base_ejection: None, max_ejection: None, max_ejection_percent: None, balancing: None, slow_start: None, panic_percent: None, zone_aware: None, zone_min_endpoints: None, zones: None, health_check: None, max_requests_per_connection: None, max_connection_duration: None, tcp_keepalive: None, preserve_header_case: None, max_concurrent_streams: None, max_header_kilobytes: None, outbound_limit: None, inbound_port: None, inbound_limit: None, max_connections: None, max_pending_requests: None, max_requests: None, max_retries: None, access_log: None, access_log_query: None, access_log_percent: None, max_wait: None, drains: None, holds_the_silent: None }
        prod/ledger Tcp ["ledger:9443"] from services.yaml:10
          Knobs { request_timeout: None, backend_request_timeout: None, idle_timeout: None, stream_idle_timeout: None, connect_timeout: None, retry_attempts: None, retry_triggers: None, retry_codes: None, retry_backoff: None, retry_other_host: None, retry_idempotent_only: None, retry_budget: None, consecutive_5xx: None, outlier_interval: None, base_ejection: None, max_ejection: None, max_ejection_percent: None, balancing: None, slow_start: None, panic_percent: None, zone_aware: None, zone_min_endpoints: None, zones: None, health_check: None, max_requests_per_connection: None, max_connection_duration: None, tcp_keepalive: None, preserve_header_case: None, max_concurrent_streams: None, max_header_kilobytes: None, outbound_limit: None, inbound_port: None, inbound_limit: None, max_connections: None, max_pending_requests: None, max_requests: None, max_retries: None, access_log: None, access_log_query: None, access_log_percent: None, max_wait: None, drains: None, holds_the_silent: None }
          [2001:db8::7]:9443 Some(2001:db8::7) Some(9443) None Running(NoCheck)
        prod/payments Http ["payments:80", "pay.internal:8080"] from services.yaml:2
          Knobs { request_timeout: Some(15s), backend_request_timeout: None, idle_timeout: Some(300s), stream_idle_timeout: None, connect_timeout: None, retry_attempts: Some(3), retry_triggers: None, retry_codes: None, retry_backoff: None, retry_other_host: None, retry_idempotent_only: None, retry_budget: None, consecutive_5xx: None, outlier_interval: None, base_ejection: None, max_ejection: None, max_ejection_percent: None, balancing: None, slow_start: None, panic_percent: None, zone_aware: None, zone_min_endpoints: None, zones: None, health_check: None, max_requests_per_connection: None, max_connection_duration: None, tcp_keepalive: None, preserve_header_case: None, max_concurrent_streams: None, max_header_kilobytes: None, outbound_limit: None, inbound_port: None, inbound_limit: None, max_connections: None, max_pending_requests: None, max_requests: None, max_retries: None, access_log: None, access_log_query: None, access_log_percent: None, max_wait: None, drains: None, holds_the_silent: None }
          payments-1 Some(127.0.1.1) Some(8080) Some("eu-west-1a") Running(Healthy)
          payments-2 Some(127.0.1.2) Some(8080) Some("eu-west-1b") Stopping(Planned)
    "#]]
    .assert_eq(&text);
}

#[test]
fn a_service_says_at_least_a_port() {
    check(
        "services:\n  payments: {}\n",
        expect![[r#"
        error[CFG002]: `payments` has neither `aliases` nor `endpoints`
         --> services.yaml:2:3
          |
        2 |   payments: {}
          |   ^^^^^^^^ so nobody knows its port"#]],
    );
    check(
        "services:\n  payments:\n",
        expect![[r#"
        error[CFG002]: `payments` has neither `aliases` nor `endpoints`
         --> services.yaml:2:3
          |
        2 |   payments:
          |   ^^^^^^^^ so nobody knows its port"#]],
    );
    assert_eq!(parse("services: {}").unwrap(), View::default());
    check(
        "service: {}\n",
        expect![[r#"
        error[CFG001]: unknown key `service`
         --> services.yaml:1:1
          |
        1 | service: {}
          | ^^^^^^^ did you mean `services`? expected `services`"#]],
    );
    check(
        "{}\n",
        expect![[r#"
        error[CFG002]: the key `services` is missing
         --> services.yaml:1:1
          |
        1 | {}
          | ^"#]],
    );
}

#[test]
fn a_name_has_one_owner() {
    let text = "\
services:
  payments:
    aliases: [{ name: pay, port: 80 }]
  ledger:
    aliases: [{ name: pay, port: 81 }, { name: pay, port: 80 }]
  pay:
    endpoints: [{ address: 10.0.0.1, port: 81 }]
";
    check(
        text,
        expect![[r#"
        error[NAME002]: the alias `pay:80` is there twice
         --> services.yaml:5:48
          |
        5 |     aliases: [{ name: pay, port: 81 }, { name: pay, port: 80 }]
          |                                                ^^^ first at services.yaml:3:23

        error[NAME002]: the alias `pay:81` is there twice
         --> services.yaml:6:3
          |
        6 |   pay:
          |   ^^^ first at services.yaml:5:23"#]],
    );
}

#[test]
fn an_endpoint_is_there_once() {
    let text = "\
services:
  payments:
    endpoints:
      - { address: 10.0.0.1, port: 80, id: a }
      - { address: 10.0.0.2, port: 80, id: a }
      - { address: 10.0.0.1, port: 80, id: b }
";
    check(
        text,
        expect![[r#"
        error[CFG002]: the id `a` is there twice
         --> services.yaml:5:44
          |
        5 |       - { address: 10.0.0.2, port: 80, id: a }
          |                                            ^ first at services.yaml:4:44

        error[CFG002]: the endpoint `10.0.0.1:80` is there twice
         --> services.yaml:6:20
          |
        6 |       - { address: 10.0.0.1, port: 80, id: b }
          |                    ^^^^^^^^ first at services.yaml:4:20"#]],
    );
}

#[test]
fn wrong_values_are_told_together() {
    let text = "\
services:
  Payments:
    aliases: [{ name: pay_ments!, port: 0 }]
    appProtocol: htpp
    timeouts: { request: 15, idle: 25h }
    retry: { attempts: 11 }
";
    check(
        text,
        expect![[r#"
        error[CFG002]: `Payments` can't be the name of a service
         --> services.yaml:2:3
          |
        2 |   Payments:
          |   ^^^^^^^^ did you mean `payments`? allowed: 1 to 64 of a-z, 0-9, `_`, `-`, beginning with a letter or a digit

        error[CFG002]: `pay_ments!` can't be the name of an alias
         --> services.yaml:3:23
          |
        3 |     aliases: [{ name: pay_ments!, port: 0 }]
          |                       ^^^^^^^^^^ 1 to 127 of a-z, 0-9, `_`, `-`, `.`, beginning with a letter or a digit

        error[CFG002]: `0` is not a whole number from 1 to 65535
         --> services.yaml:3:41
          |
        3 |     aliases: [{ name: pay_ments!, port: 0 }]
          |                                         ^

        error[CFG002]: unknown word `htpp`
         --> services.yaml:4:18
          |
        4 |     appProtocol: htpp
          |                  ^^^^ did you mean `http`? expected one of tcp, http, http2, grpc

        error[CFG002]: `15` is not a duration
         --> services.yaml:5:26
          |
        5 |     timeouts: { request: 15, idle: 25h }
          |                          ^^ write a number and a unit, like `500ms`, `30s`, `1h30m`

        error[CFG002]: `25h` is out of range
         --> services.yaml:5:36
          |
        5 |     timeouts: { request: 15, idle: 25h }
          |                                    ^^^ 0s to 24h

        error[CFG002]: `11` is not a whole number from 0 to 10
         --> services.yaml:6:24
          |
        6 |     retry: { attempts: 11 }
          |                        ^^"#]],
    );
}

#[test]
fn endpoints_can_be_dialled() {
    let text = "\
services:
  payments:
    endpoints:
      - { address: payments.internal, port: 65536, health: fine }
      - { address: 0.0.0.0, port: 80, id: '' }
      - { address: 10.0.0.1, port: 80, id: '10.0.0.2:80' }
      - { address: 10.0.0.2, port: 80 }
";
    check(
        text,
        expect![[r#"
            error[CFG002]: `payments.internal` is not an IP address
             --> services.yaml:4:20
              |
            4 |       - { address: payments.internal, port: 65536, health: fine }
              |                    ^^^^^^^^^^^^^^^^^ write it like `10.0.1.7`

            error[CFG002]: `65536` is not a whole number from 1 to 65535
             --> services.yaml:4:45
              |
            4 |       - { address: payments.internal, port: 65536, health: fine }
              |                                             ^^^^^

            error[CFG002]: unknown word `fine`
             --> services.yaml:4:60
              |
            4 |       - { address: payments.internal, port: 65536, health: fine }
              |                                                            ^^^^ expected one of healthy, unhealthy, draining, starting, no-check, awaiting-health, gate-expired, failing-early, interrupted, crashed, stopped

            error[CFG002]: nobody can dial `0.0.0.0`
             --> services.yaml:5:20
              |
            5 |       - { address: 0.0.0.0, port: 80, id: '' }
              |                    ^^^^^^^ write the address of one instance

            error[CFG002]: expected 1 to 255 characters
             --> services.yaml:5:43
              |
            5 |       - { address: 0.0.0.0, port: 80, id: '' }
              |                                           ^^

            error[CFG002]: the id `10.0.0.2:80` is there twice
             --> services.yaml:7:20
              |
            7 |       - { address: 10.0.0.2, port: 80 }
              |                    ^^^^^^^^ first at services.yaml:6:44"#]],
    );
}

#[test]
fn bytes_have_no_requests() {
    let text = "\
services:
  ledger:
    timeouts: { request: 15s }
    endpoints: [{ address: 10.0.0.1, port: 80 }]
";
    check(
        text,
        expect![[r#"
        error[CFG002]: there are no requests in tcp
         --> services.yaml:3:26
          |
        3 |     timeouts: { request: 15s }
          |                          ^^^ remove it, or set `appProtocol`"#]],
    );
}

#[test]
fn a_file_that_is_gone() {
    let problems = load(Path::new("/nowhere/services.yaml"), &"prod".into()).unwrap_err();
    expect![[r#"
        error[CFG003]: can't read the services: No such file or directory (os error 2)
        --> /nowhere/services.yaml"#]]
    .assert_eq(&render_all(&problems, false));
}

#[cfg(unix)]
#[test]
fn only_a_regular_file_of_some_size_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (pipe, large) = (folder.path().join("pipe"), folder.path().join("large"));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::fs::File::create(&large).unwrap().set_len((16 << 20) + 1).unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&pipe, &link).unwrap();
    let device = Path::new("/dev/zero");
    for (path, expected) in [
        (pipe.as_path(), "it is a pipe, a socket or a device and not a regular file"),
        (&link, "it is a pipe, a socket or a device and not a regular file"),
        (device, "it is a pipe, a socket or a device and not a regular file"),
        (folder.path(), "it is a folder and not a regular file"),
        (&large, "it is larger than 16 MiB"),
    ] {
        let problems = load(path, &"prod".into()).unwrap_err();
        assert_eq!(problems[0].message, format!("can't read the services: {expected}"), "{path:?}");
    }
}

#[tokio::test]
async fn a_medium_that_does_not_answer_hangs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("services.yaml");
    std::fs::write(&path, ONE).unwrap();
    let mut source = FileSource::new(path.clone(), "prod".into());
    source.patience = Duration::from_millis(20);
    let (answer, answered) = tokio::sync::oneshot::channel();
    source.visit = Some(tokio::spawn(async { answered.await.unwrap() }));
    let began = source.began;
    for _ in 0..2 {
        let error = source.sweep().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{}: timeout: the file did not answer within 20ms", path.display())
        );
    }
    answer.send((None, Ok(TWO.to_owned()))).unwrap();
    assert_eq!(source.sweep().await.unwrap().services.len(), 2, "the visit under way is the one that ends");
    assert_eq!(source.began, began, "and what was written since it began is not claimed to be known");
    source.patience = PATIENCE;
    assert_eq!(source.sweep().await.unwrap().services.len(), 1, "and the next is a new one");
    assert!(source.began > began);
}

#[test]
fn a_large_file_takes_no_more_than_its_share() {
    let service = |n: usize| {
        let (high, low) = (n / 250, n % 250 + 1);
        format!("  s-{n}:\n    endpoints:\n      - {{ address: 10.0.{high}.{low}, port: 80 }}\n")
    };
    let text = "services:\n".to_owned() + &(0..20_000).map(service).collect::<String>();
    let began = std::time::Instant::now();
    let view = parse(&text).unwrap();
    assert_eq!(view.services.len(), 20_000);
    // Generous for a busy machine: what grows with the square takes far longer.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

/// A running file source in a folder of its own.
struct Running {
    folder: tempfile::TempDir,
    cell: Cell,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

const ONE: &str = "services: { a: { endpoints: [{ address: 10.0.0.1, port: 80 }] } }";
const TWO: &str = "services: { a: { endpoints: [{ address: 10.0.0.1, port: 80 }] },
  b: { endpoints: [{ address: 10.0.0.2, port: 80 }] } }";

impl Running {
    fn start(prepare: impl FnOnce(&Path) -> PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = prepare(folder.path());
        let (writer, cell) = cell("file/services.yaml");
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(path, "prod".into(), writer, shutdown.clone()));
        Self { folder, cell, shutdown, task }
    }

    /// Waits until `done`, well within the time of a poll.
    async fn until(&mut self, done: impl Fn(&super::super::Reading) -> bool) -> super::super::Reading {
        let wait = async {
            loop {
                let reading = self.cell.reading();
                if done(&reading) {
                    return reading;
                }
                assert!(self.cell.changed().await);
            }
        };
        tokio::time::timeout(POLL / 2, wait).await.expect("told by the watcher and not by the poll")
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

fn services(reading: &super::super::Reading) -> usize {
    reading.view.as_ref().map_or(0, |view| view.services.len())
}

#[tokio::test]
async fn a_change_is_seen_and_a_bad_file_keeps_the_last_good_one() {
    let mut running = Running::start(|folder| {
        let path = folder.join("services.yaml");
        std::fs::write(&path, ONE).unwrap();
        path
    });
    let path = running.folder.path().join("services.yaml");
    let first = running.until(|reading| services(reading) == 1).await;

    std::fs::write(&path, "services: { a: {").unwrap();
    let failing = running.until(|reading| reading.failing.is_some()).await;
    let error = failing.failing.unwrap().error;
    assert_eq!(error.code, REJECTED);
    assert!(error.message.contains("services.yaml:1:"), "{}", error.message);
    assert_eq!(failing.view, first.view, "the last good file stays");

    std::fs::write(&path, TWO).unwrap();
    let second = running.until(|reading| services(reading) == 2 && reading.failing.is_none()).await;
    let old = first.view.unwrap().services.values().next().cloned().unwrap();
    let new = second.view.unwrap().services.values().next().cloned().unwrap();
    assert!(Arc::ptr_eq(&old, &new), "an unchanged service keeps its allocation");

    std::fs::remove_file(&path).unwrap();
    let gone = running.until(|reading| reading.failing.is_some()).await;
    assert_eq!(services(&gone), 2);
    running.stop().await;
}

#[tokio::test]
async fn an_editor_may_rename_over_the_file() {
    let mut running = Running::start(|folder| {
        let path = folder.join("services.yaml");
        std::fs::write(&path, ONE).unwrap();
        path
    });
    running.until(|reading| services(reading) == 1).await;
    let draft = running.folder.path().join(".services.yaml.swp");
    std::fs::write(&draft, TWO).unwrap();
    std::fs::rename(&draft, running.folder.path().join("services.yaml")).unwrap();
    running.until(|reading| services(reading) == 2).await;
    running.stop().await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_volume_may_swap_a_link() {
    use std::os::unix::fs::symlink;

    let mut running = Running::start(|folder| {
        for (name, text) in [("..one", ONE), ("..two", TWO)] {
            std::fs::create_dir(folder.join(name)).unwrap();
            std::fs::write(folder.join(name).join("services.yaml"), text).unwrap();
        }
        symlink("..one", folder.join("..data")).unwrap();
        symlink("..data/services.yaml", folder.join("services.yaml")).unwrap();
        folder.join("services.yaml")
    });
    running.until(|reading| services(reading) == 1).await;
    let folder = running.folder.path().to_owned();
    symlink("..two", folder.join("..data_tmp")).unwrap();
    std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    running.until(|reading| services(reading) == 2).await;
    running.stop().await;
}

#[tokio::test]
async fn neither_reading_nor_a_busy_neighbour_wakes_it() {
    let mut running = Running::start(|folder| {
        let path = folder.join("services.yaml");
        std::fs::write(&path, ONE).unwrap();
        path
    });
    running.until(|reading| services(reading) == 1).await;
    let mut log = std::fs::File::create(running.folder.path().join("busy.log")).unwrap();
    for _ in 0..8 {
        std::io::Write::write_all(&mut log, b"line\n").unwrap();
        tokio::time::sleep(SETTLE).await;
    }
    assert!(running.cell.reading().readings <= 3, "{}", running.cell.reading().readings);
    running.stop().await;
}

#[test]
fn a_recorded_world_is_a_file_too() {
    let text = include_str!("../../../tests/golden/offline/world.json");
    let parse = |namespace: &str| super::parse(Path::new("world.json"), text, &namespace.into());
    assert_eq!(parse("prod").unwrap().services.len(), 3);
    assert_eq!(parse("staging").unwrap().services.len(), 0);
    let problems = render_all(&parse("prd").unwrap_err(), false);
    assert!(problems.contains("has no namespace `prd`") && problems.contains("`prod`"), "{problems}");
}
