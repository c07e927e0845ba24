//! Commands, what they print and what they tell their caller.

use clap::CommandFactory as _;
use expect_test::{Expect, expect};

use super::*;

/// Runs a command as the process would; stdout and stderr.
fn call(arguments: &[&str]) -> (Exit, String, String) {
    let cli = match Cli::try_parse_from(["legation"].iter().chain(arguments)) {
        Ok(cli) => cli,
        Err(error) => return (Exit::Usage, String::new(), error.to_string()),
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut terminal = Terminal { out: &mut out, err: &mut err, colour: false };
    let exit = execute(cli.command, &mut terminal);
    (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

#[test]
fn the_arguments_are_sound() {
    Cli::command().debug_assert();
    let (exit, _, err) = call(&["serve"]);
    assert_eq!(exit, Exit::Usage, "{err}");
    assert!(Cli::try_parse_from(["legation", "ps", "--state", "stale,nacked"]).is_ok());
    assert!(Cli::try_parse_from(["legation", "ps", "--state", "broken"]).is_err());
}

/// A reader that has gone away.
struct Gone;

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let cli = Cli::try_parse_from(["legation", "hosts", "prod", "payments"]).unwrap();
    let mut err = Vec::new();
    let exit = execute(cli.command, &mut Terminal { out: &mut Gone, err: &mut err, colour: false });
    assert_eq!((exit, err.as_slice()), (Exit::Done, &[][..]));
}

mod files {
    use super::*;

    const CONFIG: &str = "namespaces:\n  prod:\n    files: [services.yaml]\n";
    const SERVICES: &str = "services:\n  payments:\n    endpoints: [{ address: 10.0.0.1, port: 80 }]\n";

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    /// Validates files of a folder; the folder's name is left out of what is printed.
    fn validate(folder: &tempfile::TempDir, names: &[&str], more: &[&str]) -> (Exit, String, String) {
        let paths: Vec<_> =
            names.iter().map(|name| folder.path().join(name).to_str().unwrap().to_owned()).collect();
        let arguments: Vec<_> = ["validate"]
            .into_iter()
            .chain(more.iter().copied())
            .chain(paths.iter().map(String::as_str))
            .collect();
        let (exit, out, err) = call(&arguments);
        let prefix = format!("{}/", folder.path().to_str().unwrap());
        (exit, out.replace(&prefix, ""), err.replace(&prefix, ""))
    }

    #[test]
    fn nothing_wrong_is_said_aloud() {
        let folder = folder(&[("legation.yaml", CONFIG), ("services.yaml", SERVICES)]);
        let answer = validate(&folder, &["legation.yaml", "services.yaml"], &[]);
        assert_eq!(answer, (Exit::Done, "no problems found\n".to_owned(), String::new()));
        let config = folder.path().join("legation.yaml");
        let (exit, out, err) = call(&["serve", "--check-config", "--config", config.to_str().unwrap()]);
        assert_eq!((exit, out.as_str()), (Exit::Done, "no problems found\n"), "{err}");
    }

    #[test]
    fn a_configuration_answers_for_the_files_it_names() {
        let broken = SERVICES.replace("port: 80", "port: 0");
        let folder = folder(&[("legation.yaml", CONFIG), ("services.yaml", &broken)]);
        let (exit, out, err) = validate(&folder, &["legation.yaml", "services.yaml"], &[]);
        assert_eq!((exit, err.as_str()), (Exit::Findings, "1 problem found\n"), "told once");
        expect![[r#"
            error[CFG002]: `0` is not a whole number from 1 to 65535
             --> services.yaml:3:44
              |
            3 |     endpoints: [{ address: 10.0.0.1, port: 0 }]
              |                                            ^

        "#]]
        .assert_eq(&out);
        let (exit, out, _) = validate(&folder, &["services.yaml"], &["-o", "json"]);
        assert_eq!(exit, Exit::Findings, "the code does not depend on the format");
        let list: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&list["items"][0]["code"], &list["items"][0]["line"]), (&"CFG002".into(), &3.into()));
        let config = folder.path().join("legation.yaml");
        let (exit, _, _) = call(&["serve", "--config", config.to_str().unwrap()]);
        assert_eq!(exit, Exit::Findings, "serve refuses to start");
    }

    #[test]
    fn files_of_one_namespace_are_looked_at_together() {
        let config = CONFIG.replace("[services.yaml]", "[services.yaml, more.yaml]");
        let more = "services:\n  pay:\n    aliases: [{ name: payments, port: 80 }]\n";
        let folder = folder(&[("legation.yaml", &config), ("services.yaml", SERVICES), ("more.yaml", more)]);
        let (exit, out, _) = validate(&folder, &["legation.yaml"], &[]);
        assert_eq!(exit, Exit::Findings);
        expect![[r#"
            error[NAME002]: the alias `payments:80` is there twice
             --> more.yaml:3:23
              |
            3 |     aliases: [{ name: payments, port: 80 }]
              |                       ^^^^^^^^ first at services.yaml:2

        "#]]
        .assert_eq(&out);
    }

    #[test]
    fn what_kind_of_file_it_is_shows_in_its_keys() {
        let nearly = SERVICES.replace("services:", "service:");
        let nothing = "name: legation\n";
        let broken = "namespaces: [\n";
        let folder = folder(&[("nearly.yaml", &nearly), ("nothing.yaml", nothing), ("broken.yaml", broken)]);
        for (name, expected) in [
            ("nearly.yaml", "did you mean `services`?"),
            ("nothing.yaml", "expected one of listen, aws, ecs"),
            ("broken.yaml", "broken.yaml:1:13"),
        ] {
            let (exit, out, _) = validate(&folder, &[name], &[]);
            assert_eq!(exit, Exit::Findings);
            assert!(out.contains(expected), "{name}: {out}");
        }
    }

    #[test]
    fn a_file_that_can_not_be_read_is_a_wrong_call() {
        let folder = folder(&[]);
        let (exit, out, err) = validate(&folder, &["nowhere.yaml"], &[]);
        assert_eq!((exit, out.as_str()), (Exit::Usage, ""));
        assert_eq!(err, "error: can't read nowhere.yaml: No such file or directory (os error 2)\n");
    }

    #[test]
    fn a_file_that_can_not_be_read_hides_no_other() {
        let broken = SERVICES.replace("port: 80", "port: 0");
        let folder = folder(&[("broken.yaml", &broken), ("services.yaml", SERVICES)]);
        let (exit, out, err) = validate(&folder, &["nowhere.yaml", "broken.yaml"], &[]);
        assert_eq!(exit, Exit::Usage);
        assert!(out.starts_with("error[CFG002]: `0` is not a whole number"), "{out}");
        assert!(err.starts_with("1 problem found\nerror: can't read nowhere.yaml: "), "{err}");
        let (exit, out, _) = validate(&folder, &["services.yaml", "nowhere.yaml"], &[]);
        assert_eq!((exit, out.as_str()), (Exit::Usage, ""), "not all is well");
    }
}

mod policy;

mod asking {
    use super::*;
    use crate::admin::tests::{World, world};
    use crate::xds::clients::Progress;
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    /// Calls commands against a real server over `world`.
    pub(super) async fn ask(
        world: &World,
        calls: &'static [&'static [&'static str]],
    ) -> Vec<(Exit, String, String)> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}/", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let pages = tokio::spawn(crate::admin::serve_admin(listener, world.state.clone(), shutdown.clone()));
        let answers = tokio::task::spawn_blocking(move || {
            let with_server = |call: &[&str]| self::call(&[call, &["--server", server.as_str()]].concat());
            calls.iter().map(|call| with_server(call)).collect()
        });
        let answers = answers.await.unwrap();
        shutdown.cancel();
        pages.await.unwrap().unwrap();
        answers
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_the_server_answers_is_what_is_shown() {
        let mut world = world();
        world.publish();
        world.connect("arn:aws:ecs:eu-west-1:123456789012:task/prod-a/0123", 1, Progress::default());
        let answers = ask(
            &world,
            &[
                &["services", "prod"],
                &["hosts", "prod"],
                &["hosts", "prod", "ledger.prod"],
                &["status"],
                &["ps"],
                &["ps", "--state", "nacked"],
                &["services", "prod", "-o", "json"],
            ],
        )
        .await;
        let [services, hosts, one, status, ps, nacked, json] = answers.try_into().unwrap();
        expect![[r#"
            SERVICE    PROTOCOL   ALIASES         HEALTHY   DRAINING   UNHEALTHY   ABSENT   BECAUSE             ORIGIN
            ledger     tcp        ledger:6379     0         0          0           0        -                   services.yaml:9
            payments   http       payments:8080   1         0          0           2        starting stopping   services.yaml:2
        "#]].assert_eq(&services.1);
        expect![[r#"
            127.175.74.75 ledger ledger.prod
            127.179.154.254 payments payments.prod
        "#]]
        .assert_eq(&hosts.1);
        assert_eq!(one.1, "127.175.74.75 ledger ledger.prod\n");
        assert!(
            status.1.contains(", ready\n") && status.1.contains("no port is named `htp`"),
            "{}",
            status.1
        );
        assert!(status.1.contains("sidecars: 1 synced, 0 stale, 0 nacked\n"), "{}", status.1);
        assert!(ps.1.contains("\nprod-a/0123   prod        checkout   eu-west-1a   SYNCED"), "{}", ps.1);
        assert_eq!(nacked.1, "no sidecars\n");
        let json: serde_json::Value = serde_json::from_str(&json.1).unwrap();
        assert_eq!(json["kind"], "ServiceList");
        for (exit, err) in
            [(services.0, services.2), (status.0, status.2), (ps.0, ps.2), (nacked.0, nacked.2)]
        {
            assert_eq!((exit, err.as_str()), (Exit::Done, ""));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_not_there_is_a_failure() {
        let world = world();
        world.publish();
        let answers =
            ask(&world, &[&["services", "prd"], &["services", "../status"], &["hosts", "prod", "pay"]]);
        let told =
            answers.await.into_iter().map(|(exit, _, err)| format!("{exit:?} {err}")).collect::<String>();
        expect![[r#"
            Failed error: no namespace `prd`; did you mean `prod`?
            Failed error: no namespace `../status`
            Failed error: no alias `pay` in namespace `prod`
        "#]]
        .assert_eq(&told);
    }

    #[test]
    fn nobody_there_is_told_apart() {
        for command in [&["status"][..], &["ps", "-o", "json"], &["services", "prod"], &["hosts", "prod"]] {
            let (exit, out, err) = call(&[command, &["--server", "http://127.0.0.1:1"]].concat());
            assert_eq!((exit, out.as_str()), (Exit::Unreachable, ""), "{command:?}");
            assert!(err.starts_with("error: no control plane answers at http://127.0.0.1:1: "), "{err}");
            assert!(err.contains("\n  help: is `legation serve` running here?"), "{err}");
        }
    }

    #[test]
    fn a_server_is_given_with_or_without_its_scheme() {
        for text in ["127.0.0.1:1", "http://127.0.0.1:1", "http://127.0.0.1:1/"] {
            let (exit, _, err) = call(&["status", "--server", text]);
            assert_eq!(exit, Exit::Unreachable, "{text}: {err}");
            assert!(err.contains("no control plane answers at http://127.0.0.1:1: "), "{err}");
        }
        for text in
            ["", "localhost", "https://localhost:1", "ftp://localhost:1", "http://localhost:1/api", ":1"]
        {
            for command in [&["status"][..], &["hosts", "prod"]] {
                let (exit, _, err) = call(&[command, &["--server", text]].concat());
                assert_eq!(exit, Exit::Usage, "{text}: {err}");
                let helpful = err.contains("expected `http://host:port` or `host:port`, like `http://127");
                assert!(helpful || text.is_empty(), "{err}");
            }
        }
    }

    #[test]
    fn without_a_server_addresses_follow_from_names() {
        if std::env::var_os("LEGATION_SERVER").is_some() {
            return; // then there is a server
        }
        let (exit, out, _) = call(&["hosts", "prod", "payments", "ledger.prod"]);
        assert_eq!(exit, Exit::Done);
        assert_eq!(out, "127.179.154.254 payments payments.prod\n127.175.74.75 ledger ledger.prod\n");
        let (exit, out, err) = call(&["hosts", "prod", "payments", "Pay ments"]);
        assert_eq!((exit, out.as_str()), (Exit::Usage, ""));
        assert!(err.starts_with("error: `Pay ments` is not a name\n"), "{err}");
    }
}

mod bootstraps {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::net::TcpListener;

    const BY_HAND: [&str; 8] = [
        "--server",
        "legation:18000",
        "--namespace",
        "prod",
        "--service",
        "checkout",
        "--node-id",
        "checkout-1",
    ];

    fn parse(arguments: &[&str]) -> super::super::Bootstrap {
        match Cli::try_parse_from(["legation", "bootstrap"].iter().chain(arguments)).unwrap().command {
            Command::Bootstrap(bootstrap) => bootstrap,
            other => panic!("{other:?}"),
        }
    }

    fn node(text: &str) -> serde_json::Value {
        serde_json::from_str::<serde_json::Value>(text).unwrap()["node"].clone()
    }

    #[test]
    fn by_hand_to_stdout_or_in_one_step_to_a_file() {
        let arguments = [&["bootstrap"], &BY_HAND[..], &["--container-port", "8080"]].concat();
        let (exit, out, err) = call(&arguments);
        assert_eq!((exit, err.as_str()), (Exit::Done, ""));
        assert_eq!(node(&out)["metadata"]["container_ports"], serde_json::json!([8080]));
        assert_eq!(node(&out)["cluster"], "checkout");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("envoy.yaml");
        let (exit, nothing, _) = call(&[&arguments[..], &["--out", path.to_str().unwrap()]].concat());
        assert_eq!((exit, nothing.as_str()), (Exit::Done, ""));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), out);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
        let (exit, _, err) = call(&[&arguments[..], &["--out", "/dev/null/envoy.yaml"]].concat());
        assert_eq!(exit, Exit::Failed);
        assert!(err.starts_with("error: can't write /dev/null/envoy.yaml: "), "{err}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let told = |arguments: &[&str]| match bootstrap::text(&parse(arguments), None).unwrap_err() {
            Stop::Told(exit, text) => format!("{exit:?}: {text}\n"),
            Stop::Io(error) => panic!("{error}"),
        };
        let all = told(&BY_HAND[..6])
            + &told(&[&BY_HAND[..2], &BY_HAND[6..]].concat())
            + &told(&[&BY_HAND[..4], &BY_HAND[6..]].concat())
            + &told(&[&BY_HAND[..], &["--container-port", "9901"]].concat());
        expect![[r#"
            Usage: error: no --node-id, and this is no ECS task: ECS_CONTAINER_METADATA_URI_V4 is not set
              help: give --node-id, --namespace and --service
            Usage: error: the mesh namespace is not known
              help: give --namespace, or label this container with `legation.namespace`
            Usage: error: the service is not known
              help: give --service, or leave --node-id out so that the task says it
            Usage: error: a container of this task listens on 9901: give Envoy's admin pages another port (--admin-port)
        "#]].assert_eq(&all);
        let (exit, _, err) = call(&["bootstrap", "--server", "legation"]);
        assert_eq!(exit, Exit::Usage);
        assert!(err.contains("expected a host and a port, like `legation.prod.internal:18000`"), "{err}");
    }

    /// Answers one request as the metadata endpoint would.
    fn endpoint(body: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}/v4/0123", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            assert_eq!(lines.next().unwrap().unwrap(), "GET /v4/0123/task HTTP/1.1");
            while !lines.next().unwrap().unwrap().is_empty() {}
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all((head + body).as_bytes()).unwrap();
        });
        base
    }

    const TASK: &str = r#"{ "TaskARN": "arn:aws:ecs:eu-west-1:123456789012:task/prod-a/0123", "Family": "checkout",
        "ServiceName": "checkout", "AvailabilityZone": "eu-west-1b", "Containers": [
        { "Labels": { "legation.namespace": "prod" }, "Ports": [{ "ContainerPort": 8080 }] }] }"#;

    #[test]
    fn a_task_knows_itself_and_flags_outrank_it() {
        let text = bootstrap::text(&parse(&BY_HAND[..2]), Some(&endpoint(TASK))).unwrap();
        expect![[r#"
            {
              "id": "arn:aws:ecs:eu-west-1:123456789012:task/prod-a/0123",
              "cluster": "checkout",
              "metadata": {
                "namespace": "prod",
                "service": "checkout",
                "container_ports": [
                  8080
                ]
              },
              "locality": {
                "zone": "eu-west-1b"
              }
            }"#]]
        .assert_eq(&format!("{:#}", node(&text)));
        let flags = [
            "--server",
            "legation:18000",
            "--namespace",
            "shared",
            "--zone",
            "z",
            "--container-port",
            "9090",
        ];
        let text = bootstrap::text(&parse(&flags), Some(&endpoint(TASK))).unwrap();
        let node = node(&text);
        assert_eq!(
            (&node["metadata"]["namespace"], &node["locality"]["zone"]),
            (&"shared".into(), &"z".into())
        );
        assert_eq!(node["metadata"]["container_ports"], serde_json::json!([8080, 9090]));
    }
}

mod tables {
    use super::*;
    use serde_json::json;

    fn check(text: &str, expected: Expect) {
        expected.assert_eq(text);
    }

    #[test]
    fn ages_are_short() {
        let ages = [0.0, 350.4, 1000.0, 119_999.0, 120_000.0, 7_200_000.0, 172_800_000.0, -5.0, 1e300];
        let told: Vec<_> = ages.iter().map(|age| table::age(&json!(age))).collect();
        assert_eq!(told[..8], ["0ms", "350ms", "1s", "119s", "2m", "2h", "2d", "0ms"]);
        assert!(told[8].ends_with('d'));
        assert_eq!(table::age(&json!(null)), "");
    }

    #[test]
    fn text_from_elsewhere_does_not_steer_the_terminal() {
        let text = table::table(&["NAME", "GAP"], [vec!["a\u{1b}[31m\nb".to_owned(), String::new()]]);
        check(
            &text,
            expect![[r#"
            NAME       GAP
            a [31m b   -
        "#]],
        );
    }

    #[test]
    fn a_failing_source_says_what_it_asked_for() {
        let failing = json!({ "operation": "ecs:ListTasks", "code": "ThrottlingException",
            "message": "Rate exceeded\nagain", "ageMs": 3000.0 });
        let told = show::source_state(&json!({ "synced": true, "failing": failing }));
        assert!(
            told.starts_with("failing for 3s: ecs:ListTasks: ThrottlingException: Rate exceeded"),
            "{told}"
        );
    }

    #[test]
    fn a_refusal_is_told_in_full() {
        let types = json!([
            { "short": "CDS", "sent": { "generation": 2 }, "acked": { "generation": 2 }, "nacked": null },
            { "short": "EDS", "sent": { "generation": 2 }, "acked": { "generation": 1 }, "nacked": null },
            { "short": "LDS", "sent": { "generation": 2 }, "acked": null,
              "nacked": { "generation": 2, "message": "bad\nlistener", "ageMs": 12_000.0 } },
            { "short": "RDS", "sent": null, "acked": null, "nacked": null },
        ]);
        let proxy = json!({
            "id": "checkout-1", "namespace": "prod", "service": "checkout", "zone": "", "state": "NACKED",
            "ageMs": 12_000.0, "userAgent": "envoy 1.40.0", "types": types,
            "withheldListeners": ["prod/payments:8080"],
        });
        check(
            &show::describe_proxies(&[proxy, json!({ "id": "odd" })]),
            expect![[r#"
            SIDECAR      NAMESPACE   SERVICE    ZONE   STATE    AGE   CDS       EDS       LDS       RDS        VERSION
            checkout-1   prod        checkout   -      NACKED   12s   SYNCED    STALE     NACKED    NOT_SENT   envoy 1.40.0
            odd          -           -          -      -        -     IGNORED   IGNORED   IGNORED   IGNORED    -

            checkout-1 refused LDS 12s ago: bad listener

            checkout-1 gets no listener for prod/payments:8080: its own task listens on the port (LSN002)
        "#]],
        );
    }
}
