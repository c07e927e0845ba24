//! Commands about policies: what they say of a running server, and what they say offline.
//!
//! Invariant: every output is told whole, or the part that matters word by word.

use expect_test::expect;

use super::asking::ask;
use super::*;
use crate::admin::tests::explain::with_policy;

#[tokio::test(flavor = "multi_thread")]
async fn each_value_is_shown_with_where_it_was_said() {
    let world = with_policy();
    let answers = ask(
        &world,
        &[
            &["services", "prod", "payments"],
            &["explain", "checkout", "payments"],
            &["services", "prod", "pay"],
        ],
    );
    let [one, explained, none] = answers.await.try_into().unwrap();
    let said = |text: &str| -> String {
        let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        let said = lines.filter(|line| line.starts_with("timeouts.request") || line.contains("yaml"));
        said.collect::<Vec<_>>().join("\n")
    };
    expect![[r#"
        payments http payments:8080 1 0 0 2 starting stopping services.yaml:2
        appProtocol http services.yaml:3
        timeouts.request 5s policy.yaml:4"#]]
    .assert_eq(&said(&one.1));
    expect![[r#"
        name ok prod/payments speaks http, described by services.yaml:2, treated by policy.yaml:4
        appProtocol http services.yaml:3
        timeouts.request 5s policy.yaml:4"#]]
    .assert_eq(&said(&explained.1));
    assert_eq!((one.0, explained.0, none.0), (Exit::Done, Exit::Done, Exit::Failed));
    assert!(explained.1.ends_with("\nit goes through\n"), "{}", explained.1);
}

const WORLD: &str = "tests/golden/offline/world.json";
const OLD: &str = "tests/golden/offline/old.yaml";
const NEW: &str = "tests/golden/offline/new.yaml";
const SAME: &str = "tests/golden/offline/same.yaml";

/// Runs a command that asks nobody.
fn offline(arguments: &[&str]) -> (Exit, String) {
    let (exit, out, err) = call(arguments);
    (exit, format!("{out}{err}"))
}

fn golden(name: &str) -> expect_test::ExpectFile {
    expect_test::expect_file![format!("{}/tests/golden/offline/{name}", env!("CARGO_MANIFEST_DIR"))]
}

#[test]
fn a_world_is_rendered_as_a_policy_has_it() {
    let (exit, all) = offline(&["render", NEW, "--world", WORLD]);
    assert_eq!(exit, Exit::Done, "{all}");
    golden("render.yaml").assert_eq(&all);
    let (_, table) = offline(&["render", NEW, "--world", WORLD, "-o", "table"]);
    golden("render.txt").assert_eq(&table);
    let json = |arguments: &[&str]| -> serde_json::Value {
        let (exit, text) = offline(&[&["render", "--world", WORLD, "-o", "json"], arguments].concat());
        assert_eq!(exit, Exit::Done, "{text}");
        serde_json::from_str(&text).unwrap()
    };
    let whole = json(&[NEW]);
    let part = json(&[NEW, "-n", "prod", "-t", "routes"]);
    assert_eq!(part["namespaces"]["prod"]["routes"], whole["namespaces"]["prod"]["routes"]);
    let types = part["namespaces"]["prod"].as_object().unwrap();
    assert_eq!((types.len(), part["namespaces"].as_object().unwrap().len()), (1, 1));
    assert_ne!(json(&[]), whole, "without a policy");
}

#[test]
fn what_can_not_be_rendered_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let broken = file(
        "broken.yaml",
        "apiVersion: legation/v1alpha1\nkind: Policy\nservices: { a: { retry: { attempts: 99 } } }\n",
    );
    let world = std::fs::read_to_string(WORLD).unwrap();
    let odd = file(
        "odd.json",
        &world.replace("awaiting-health", "awaiting").replace("\"address\": \"10.0.0.11\"", "\"addres\": 1"),
    );
    let ill = file("ill.json", &world.replace("awaiting-health", "awaiting"));
    for (arguments, exit, wanted) in [
        (&["render", &broken, "-w", WORLD][..], Exit::Failed, "`99` is not a whole number"),
        (
            &["render", NEW, "-w", OLD],
            Exit::Usage,
            "is no recorded world\n  help: `legation world` prints one",
        ),
        (&["render", NEW, "-w", "nowhere.json"], Exit::Usage, "can't read nowhere.json"),
        (&["render", "nowhere.yaml", "-w", WORLD], Exit::Usage, "can't read nowhere.yaml"),
        (
            &["render", NEW, "-w", WORLD, "-n", "prd"],
            Exit::Failed,
            "no namespace `prd`\n  help: did you mean `prod`?",
        ),
        (&["render", NEW, "-w", WORLD, "-t", "secrets"], Exit::Usage, "possible values: clusters"),
        (&["render", NEW, "-w", &odd], Exit::Failed, "did you mean `address`?"),
        (&["render", NEW, "-w", &ill], Exit::Failed, "unknown word `awaiting`"),
        (&["diff", NEW, "-w", WORLD, "-a", &broken], Exit::Failed, "`99` is not a whole number"),
        (&["validate", &ill], Exit::Findings, "unknown word `awaiting`"),
        (&["validate", WORLD], Exit::Done, "no problems found"),
    ] {
        let (told, text) = offline(arguments);
        assert!(told == exit && text.contains(wanted), "{arguments:?}: {told:?}\n{text}");
    }
}

#[test]
fn a_policy_is_compared_with_another() {
    let arguments = ["diff", NEW, "--world", WORLD, "--against", OLD];
    let (exit, text) = offline(&arguments);
    assert_eq!(exit, Exit::Done, "{text}");
    golden("diff.txt").assert_eq(&text);
    for (shown, name) in [("json", "diff.json"), ("yaml", "diff.yaml")] {
        let (exit, text) = offline(&[&arguments[..], &["-o", shown, "--exit-code"]].concat());
        assert_eq!(exit, Exit::Findings, "{text}");
        golden(name).assert_eq(&text);
    }
    for same in [SAME, OLD] {
        let (exit, text) = offline(&["diff", same, "-w", WORLD, "-a", OLD, "--exit-code"]);
        assert_eq!((exit, text.as_str()), (Exit::Done, "no differences\n"));
    }
    let (exit, text) = offline(&["diff", OLD, "-w", WORLD, "--exit-code"]);
    assert!(exit == Exit::Findings && text.contains("route beta"), "against no policy at all: {text}");
    let folder = tempfile::tempdir().unwrap();
    let unnoticed = folder.path().join("unnoticed.yaml");
    let more = "  reports:\n    readiness: { gate: running }";
    let old = std::fs::read_to_string(OLD).unwrap();
    std::fs::write(&unnoticed, old.replace("  reports:", more)).unwrap();
    let (exit, text) = offline(&["diff", unnoticed.to_str().unwrap(), "-w", WORLD, "-a", OLD, "--exit-code"]);
    assert_eq!(exit, Exit::Findings);
    assert!(
        text.contains("nobody would notice\n")
            && text.ends_with("0 services would change; nothing is sent\n"),
        "{text}"
    );
}

/// What a server serves is what is rendered of the world that is recorded there.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_recorded_renders_as_it_is_served() {
    let world = with_policy();
    world.republish();
    let folder = tempfile::tempdir().unwrap();
    let [world_file, policy_file] =
        ["world.json", "policy.yaml"].map(|name| folder.path().join(name).display().to_string());
    let [(exit, recorded, err)] = ask(&world, &[&["world"]]).await.try_into().unwrap();
    assert_eq!(exit, Exit::Done, "{err}");
    assert_eq!(recorded.matches("10.0.0.").count(), 4, "{recorded}");
    std::fs::write(&world_file, recorded).unwrap();
    std::fs::write(&policy_file, crate::admin::tests::explain::POLICY).unwrap();
    let (exit, rendered) = offline(&["render", &policy_file, "-w", &world_file, "-o", "json"]);
    assert_eq!(exit, Exit::Done, "{rendered}");
    let rendered: serde_json::Value = serde_json::from_str(&rendered).unwrap();
    for kind in crate::offline::TYPES {
        let (_, served) = world.admin(&format!("/api/v1/namespaces/prod/resources/{kind}")).await;
        assert!(!served["items"].as_array().unwrap().is_empty());
        assert_eq!(rendered["namespaces"]["prod"][kind], served["items"], "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_compared_with_the_one_in_force() {
    let world = with_policy();
    world.republish();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.yaml");
    let diff = async |text: &str| {
        std::fs::write(&path, text).unwrap();
        let words: Vec<&'static str> =
            vec!["diff", Box::leak(path.display().to_string().into_boxed_str()), "--exit-code"];
        let words: &'static [&'static str] = Vec::leak(words);
        let calls: &'static [&'static [&'static str]] = Vec::leak(vec![words]);
        let [(exit, out, err)] = ask(&world, calls).await.try_into().unwrap();
        (exit, format!("{out}{err}"))
    };
    let text = crate::admin::tests::explain::POLICY;
    assert_eq!(diff(text).await, (Exit::Done, "no differences\n".to_owned()));
    let (exit, out) = diff(&text.replace("request: 5s", "request: 6s")).await;
    assert_eq!(exit, Exit::Findings, "{out}");
    assert!(out.contains("timeouts.request") && out.contains("5s (policy.yaml:4)"), "{out}");
    let (exit, ..) = call(&["diff", NEW, "--server", "http://127.0.0.1:1"]);
    assert_eq!(exit, Exit::Unreachable);
}
