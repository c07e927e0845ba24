//! Every command in the README is run: against the estate that `make demo` leaves standing, on its ports.
//!
//! It doesn't judge what commands print, except that they print something and succeed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use axum::Json;
use axum::routing::get;
use integration::control_plane::Ports;
use integration::process::target_dir;
use integration::scene::{Scene, play};
use integration::stage::{Knowledge, Stage};
use integration::{control_plane, estate, wait};
use serde_json::json;

/// A fenced block: its language and its lines.
type Block = (String, String);

fn readme() -> anyhow::Result<Vec<Block>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join("README.md")).context("reading the README")?;
    let mut parts = text.split("```");
    let mut blocks = Vec::new();
    parts.next();
    while let (Some(block), after) = (parts.next(), parts.next()) {
        let (language, lines) = block.split_once('\n').context("an empty block")?;
        blocks.push((language.to_owned(), lines.to_owned()));
        ensure!(after.is_some(), "the README ends inside a block");
    }
    Ok(blocks)
}

/// The commands of every `sh` block, without their comments.
fn commands() -> anyhow::Result<Vec<String>> {
    let blocks = readme()?;
    let shell = blocks.iter().filter(|(language, _)| language == "sh");
    let lines = shell.flat_map(|(_, text)| text.lines());
    let commands = lines.map(|line| line.split(" # ").next().unwrap_or(line).trim().to_owned());
    Ok(commands.filter(|command| !command.is_empty()).collect())
}

/// The files that the README shows, by the name in their first line.
fn files() -> anyhow::Result<BTreeMap<String, String>> {
    let yaml = readme()?.into_iter().filter(|(language, _)| language == "yaml");
    let named = yaml.filter_map(|(_, text)| {
        let name = text.lines().next()?.strip_prefix("# ")?.to_owned();
        Some((name, text))
    });
    Ok(named.collect())
}

/// A shell where `legation` is the program under test and AWS is the estate's endpoint.
struct Shell {
    folder: PathBuf,
    program: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Shell {
    fn command(&self, line: &str) -> anyhow::Result<Command> {
        let bin = self.program.parent().context("the program has no folder")?;
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("sh");
        // The guide is read in the checkout, where the program is in target/debug.
        let line = line.replace("target/debug/legation", "legation");
        command.args(["-ec", &format!("exec {line}")]).current_dir(&self.folder).stdin(Stdio::null());
        command.env("PATH", format!("{}:{path}", bin.display()));
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        Ok(command)
    }

    fn run(&self, line: &str) -> anyhow::Result<()> {
        let output = self.command(line)?.output().with_context(|| format!("running `{line}`"))?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "`{line}` failed: {}\n{out}{err}", output.status);
        let is_told = !out.trim().is_empty() || !err.trim().is_empty() || line.contains(" > ");
        ensure!(is_told, "`{line}` said nothing");
        Ok(())
    }

    /// Starts what runs until it is told to end, and waits until it says that it is up.
    async fn serve(&self, line: &str) -> anyhow::Result<()> {
        let log = self.folder.join("serve.log");
        let mut command = self.command(line)?;
        let mut child =
            command.stderr(std::fs::File::create(&log)?).spawn().context("starting the server")?;
        let up = wait::until(std::time::Duration::from_secs(20), "the server of the guide", async || {
            Ok(std::fs::read_to_string(&log)?.contains("legation is up").then_some(()))
        });
        let outcome = up.await.with_context(|| std::fs::read_to_string(&log).unwrap_or_default());
        child.kill()?;
        child.wait()?;
        outcome
    }
}

/// The task metadata endpoint, as a task of the estate sees it.
async fn metadata() -> anyhow::Result<String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let task = json!({
        "Cluster": estate::CLUSTER,
        "TaskARN": "arn:aws:ecs:eu-west-1:111122223333:task/prod-a/0123456789abcdef0123456789abcdef",
        "Family": "checkout", "Revision": "1", "ServiceName": "checkout", "AvailabilityZone": "eu-west-1a",
        "Containers": [{ "Name": "app", "Labels": {}, "Ports": [{ "ContainerPort": 8080, "Protocol": "tcp" }] }],
    });
    let router = axum::Router::new().route("/v4/task", get(move || std::future::ready(Json(task.clone()))));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(format!("http://{address}/v4"))
}

async fn guide(scene: &Scene) -> anyhow::Result<()> {
    let usual = Ports { xds: 18000, metrics: 9090, admin: 19000 };
    let mut stage = Stage::open(&scene.room("stage")?, Knowledge::Aws, Some(usual)).await?;
    stage.start_sidecars(1).await?;
    let folder = scene.room("guide")?;
    for (name, text) in files()? {
        std::fs::write(folder.join(name), text)?;
    }
    let shell = Shell {
        folder,
        program: control_plane::binary()?,
        environment: vec![
            ("AWS_ACCESS_KEY_ID", "guide".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "guide".to_owned()),
            ("LEGATION_AWS__ENDPOINT_URL", stage.aws.url()),
            ("ECS_CONTAINER_METADATA_URI_V4", metadata().await?),
        ],
    };
    let mut ran = 0;
    for command in commands()? {
        if let Some(target) = command.strip_prefix("make ") {
            known_target(target)?;
        } else if command.starts_with("legation serve") {
            // The estate's own server has the usual ports.
            let free = "LEGATION_LISTEN__XDS=127.0.0.1:0 LEGATION_LISTEN__METRICS=127.0.0.1:0 \
                        LEGATION_LISTEN__ADMIN=127.0.0.1:0";
            shell.serve(&format!("env {free} {command}")).await?;
            ran += 1;
        } else {
            shell.run(&command)?;
            ran += 1;
        }
    }
    ensure!(ran > 10, "only {ran} commands were found in the README");
    shell.run("legation validate services.yaml")?;
    rendered_as_served(&shell, &stage).await?;
    stage.close().await
}

/// The recorded world of the estate, rendered without a server, is what its server serves.
async fn rendered_as_served(shell: &Shell, stage: &Stage) -> anyhow::Result<()> {
    shell.run("legation world > live.json")?;
    shell.run("legation render --world live.json --output json > live.out.json")?;
    let text = std::fs::read_to_string(shell.folder.join("live.out.json"))?;
    let rendered: serde_json::Value = serde_json::from_str(&text).context("what was rendered")?;
    for kind in ["clusters", "endpoints", "listeners", "routes"] {
        let path = format!("namespaces/{}/resources/{kind}", estate::NAMESPACE);
        let served = stage.server.items(&path).await?;
        let rendered = &rendered["namespaces"][estate::NAMESPACE][kind];
        ensure!(!served.is_empty() && *rendered == json!(served), "{kind}: {rendered:#} and {served:#?}");
    }
    Ok(())
}

/// The targets themselves are run elsewhere: `make test` is what runs this, and the demo has a test of its own.
fn known_target(target: &str) -> anyhow::Result<()> {
    let makefile = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Makefile");
    let text = std::fs::read_to_string(makefile).context("reading the Makefile")?;
    let name = target.split(' ').next().unwrap_or(target);
    if !text.lines().any(|line| line.starts_with(&format!("{name}:"))) {
        bail!("the README names `make {target}`, which the Makefile does not have");
    }
    Ok(())
}

#[test]
fn every_command_of_the_readme_works() -> anyhow::Result<()> {
    play("guide", guide)
}

/// Reads the schema's path, then policies: `+` before one that fits, `-` before one that does not.
const VALIDATE: &str = "\
import json, sys, jsonschema, yaml
validator = jsonschema.Draft202012Validator(json.load(open(sys.argv[1])))
jsonschema.Draft202012Validator.check_schema(validator.schema)
for name in sys.argv[2:]:
    problems = [problem.message for problem in validator.iter_errors(yaml.safe_load(open(name[1:])))]
    assert bool(problems) == (name[0] == '-'), (name, problems)
";

#[test]
fn every_policy_that_is_shown_fits_the_published_schema() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = tempfile::tempdir()?;
    let mut policies = Vec::new();
    for (name, text) in files()?.into_iter().filter(|(_, text)| text.contains("kind: Policy")) {
        let (right, wrong) = (folder.path().join(&name), folder.path().join(format!("wrong-{name}")));
        std::fs::write(&right, &text)?;
        let mistaken = text.replace("attempts: 2", "attempts: many").replace("\nservices:", "\nservice:");
        std::fs::write(&wrong, mistaken)?;
        policies.extend([format!("+{}", right.display()), format!("-{}", wrong.display())]);
    }
    ensure!(!policies.is_empty(), "the README shows no policy");
    for golden in ["clusters/knobs", "clusters/reach", "listeners/reach", "routes/limits", "routes/rules"] {
        policies.push(format!("+{}", root.join(format!("tests/golden/{golden}.policy.yaml")).display()));
    }
    let python = target_dir()?.join("python/bin/python");
    let mut command = Command::new(python);
    let output =
        command.arg("-c").arg(VALIDATE).arg(root.join("docs/policy.schema.json")).args(policies).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
