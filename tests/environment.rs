//! `legation serve` without a file: its configuration and a policy as texts in the environment, as a task definition has them.
//!
//! Invariant: the server is ended by its test, however that ends.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const POLICY: &str = "\
apiVersion: legation/v1alpha1
kind: Policy
services: { payments: { timeouts: { request: 7s } } }
externals: [{ name: payments, port: 80, appProtocol: http, endpoints: ['10.0.0.1:80'] }]
";

fn legation(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_legation"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_server_is_configured_by_texts_and_tells_its_container_that_it_is_ready() {
    let folder = tempfile::tempdir().unwrap();
    let services = folder.path().join("services.yaml");
    std::fs::write(&services, "services: { ledger: { endpoints: [{ address: 10.0.0.2, port: 80 }] } }\n")
        .unwrap();
    // Held until all are known, so that they differ.
    let held = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [metrics, admin] = held.each_ref().map(|it| it.local_addr().unwrap().to_string());
    drop(held);
    let config = format!(
        "listen: {{ xds: '127.0.0.1:0', metrics: '{metrics}', admin: '{admin}' }}\nnamespaces: {{ prod: {{ files: ['{}'] }} }}\n",
        services.display()
    );
    let mut serve = legation(&["serve"]);
    serve.env("LEGATION_CONFIG", config).env("LEGATION_POLICY", POLICY);
    let mut server = Server(serve.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let deadline = Instant::now() + LIMIT;
    let ready = loop {
        let output: Output = legation(&["ready", "--server", &metrics]).output().unwrap();
        if output.status.success() {
            break output;
        }
        assert!(matches!(output.status.code(), Some(1 | 4)), "{}", output.status);
        assert_eq!(server.0.try_wait().unwrap(), None, "the server has ended");
        assert!(Instant::now() < deadline, "{}", text(&output.stderr));
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!((text(&ready.stdout), text(&ready.stderr)), (String::new(), String::new()));
    let shown = legation(&["services", "prod", "payments", "--server", &admin]).output().unwrap();
    let shown = text(&shown.stdout);
    let said = shown.lines().find(|line| line.contains("7s") && line.contains("LEGATION_POLICY:3"));
    assert!(said.is_some(), "{shown}");
}

#[test]
fn mistakes_in_texts_are_told_by_the_names_of_their_variables() {
    let check = |config: &str, policy: &str| {
        let mut serve = legation(&["serve", "--check-config"]);
        let output = serve.env("LEGATION_CONFIG", config).env("LEGATION_POLICY", policy).output().unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let config = "namespaces: { prod: { clusters: [prod-a] } }\n";
    assert_eq!(check(config, POLICY).0, Some(0));
    let (code, out, _) = check(config, &POLICY.replace("7s", "seven"));
    assert_eq!(code, Some(3));
    assert!(out.contains("LEGATION_POLICY:3:"), "{out}");
    let (code, out, _) = check(&config.replace("clusters", "clustres"), POLICY);
    assert_eq!(code, Some(3));
    assert!(out.contains("LEGATION_CONFIG:1:"), "{out}");
    let (code, _, err) = check("", POLICY);
    assert_eq!(code, Some(2));
    assert!(err.contains("give --config FILE, or the text of the configuration in LEGATION_CONFIG"), "{err}");
}

#[test]
fn beside_a_file_the_policy_is_in_force_and_the_configuration_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("legation.yaml");
    std::fs::write(&file, "namespaces: { prod: { clusters: [prod-a] } }\n").unwrap();
    let check = |policy: &str| {
        let mut serve = legation(&["serve", "--check-config", "--config", &file.display().to_string()]);
        let output = serve.env("LEGATION_CONFIG", "{}").env("LEGATION_POLICY", policy).output().unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, out, err) = check(POLICY);
    assert_eq!((code, out.as_str()), (Some(0), "no problems found\n"));
    assert!(err.starts_with("warning: LEGATION_CONFIG is not read, because --config names "), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
    let (code, out, _) = check(&POLICY.replace("7s", "seven"));
    assert_eq!(code, Some(3));
    assert!(out.contains("LEGATION_POLICY:3:"), "{out}");
}
