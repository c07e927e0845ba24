//! The policies of `deploy/iam/` allow what Legation calls, and nothing else.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use integration::aws::{Api, FakeAws, Fault, Operation};
use integration::control_plane::{ControlPlane, Setup, Sources, binary};
use integration::estate::{CLUSTER, NAMESPACE};
use integration::scene::play;
use integration::stage::raise_estate;
use integration::wait;
use integration::world::{
    AppProtocol, ContainerDefinition, DefinitionSpec, HealthCheck, NamespaceKind, NetworkMode, PortMapping,
    ServiceSpec, StopPlan, Strategy, World,
};
use serde_json::Value;

const MAP: &str = "arn:aws:servicediscovery:eu-west-1:111122223333";
const LIMIT: Duration = Duration::from_secs(20);

/// The action that IAM looks at for a call.
fn action(operation: Operation) -> String {
    let service = match operation.api() {
        Api::Ecs => "ecs",
        Api::CloudMap => "servicediscovery",
        Api::Sqs => "sqs",
        Api::Ec2 => "ec2",
        Api::Sts => "sts",
    };
    let name = if operation == Operation::DeleteMessageBatch { "DeleteMessage" } else { operation.name() };
    format!("{service}:{name}")
}

fn allowed() -> anyhow::Result<BTreeSet<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/iam");
    let mut actions = BTreeSet::new();
    for entry in std::fs::read_dir(&folder).context("deploy/iam")? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let policy: Value = serde_json::from_slice(&std::fs::read(path)?)?;
        for statement in policy["Statement"].as_array().context("no statements")? {
            let listed = statement["Action"].as_array().context("no actions")?;
            actions.extend(listed.iter().filter_map(|action| action.as_str().map(str::to_owned)));
        }
    }
    Ok(actions)
}

/// `legation check --pre`: how it ended and what it printed.
fn check(server: &ControlPlane) -> anyhow::Result<(Option<i32>, String)> {
    let mut command = Command::new(binary()?);
    command.args(["check", "--pre", "--config"]).arg(server.config());
    command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
    let output = command.output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
}

#[test]
fn the_policies_allow_every_call_and_no_other() -> anyhow::Result<()> {
    play("iam", async |scene| {
        let world = World::new();
        let prod = raise_estate(&world).await?;
        world.add_machine(CLUSTER)?;
        let port = PortMapping::named("http", 8080, Some(AppProtocol::Http));
        let shared = DefinitionSpec::new("shared", ContainerDefinition::new("app").port(port));
        world.register_definition(shared.network(NetworkMode::Bridge))?;
        let shared = ServiceSpec::new(CLUSTER, "shared", "shared", 1).settled();
        world.create_service(shared.tag("legation:namespace", NAMESPACE))?;
        // Deployments that shift traffic: one that the service names, and one that has to be looked for.
        for (name, count) in [("named", 0), ("unnamed", 1)] {
            world.create_service(ServiceSpec::new(CLUSTER, name, "shared", count).settled())?;
            world.set_strategy(CLUSTER, name, Strategy::Canary)?;
        }
        world.begin_shift(CLUSTER, "named", "shared")?;
        world.begin_deployment(CLUSTER, "unnamed", "shared", None)?;
        let namespace = world.create_namespace("legacy", NamespaceKind::Http)?;
        let old = world.create_map_service(&namespace, "old", HealthCheck::Custom)?;
        // As many as one answer holds: they are listed too.
        for number in 0..1_000_u16 {
            let [high, low] = number.to_be_bytes();
            world.register_address(&old, &format!("i-{number:03}"), [10, 9, high, low].into(), 8080)?;
        }
        world.set_default_namespace(CLUSTER, &format!("{MAP}:namespace/{namespace}"))?;
        world.create_cluster("spare")?;
        let aws = FakeAws::start(world.clone()).await?;
        let clusters = vec![CLUSTER.to_owned()];
        let shared = Sources { clusters: clusters.clone(), ..Sources::default() };
        let spare = Sources {
            clusters: vec!["spare".to_owned()],
            assume_role: Some("arn:aws:iam::111122223333:role/reader".to_owned()),
            ..Sources::default()
        };
        let sources = Sources { clusters, cloud_map: vec!["legacy".to_owned()], ..Sources::default() };
        let setup = Setup::aws(&aws.url()).hearing(aws.queue_url()).namespace(NAMESPACE, sources);
        let setup = setup.namespace("shared", shared).namespace("spare", spare);
        let mut server = ControlPlane::start(scene.folder(), &setup).await?;
        let task = prod.payments.running().first().context("payments has no task")?.arn.clone();
        world.stop_task(&task, StopPlan::default())?;
        for late in [Operation::DeleteMessageBatch, Operation::DiscoverInstancesRevision] {
            let called = async || Ok((aws.calls(late) > 0).then_some(()));
            wait::until(LIMIT, format!("{late:?}"), called).await?;
        }
        let called: BTreeSet<_> = aws.faults().all_calls().into_keys().map(action).collect();
        assert_eq!(called, allowed()?);

        let (code, text) = check(&server)?;
        ensure!(code == Some(0) && text.contains("27 of 27 actions allowed"), "{code:?}: {text}");
        let tried: BTreeSet<_> = aws.faults().all_calls().into_keys().map(action).collect();
        assert_eq!(tried, called, "what is tried is what is called");
        aws.faults().set_for(Operation::ListTasks, Fault::AccessDenied);
        let (code, text) = check(&server)?;
        // Without a task that tells of an instance, what is needed to know of instances is not tried.
        ensure!(code == Some(3) && text.contains("23 of 25 actions allowed"), "{code:?}: {text}");
        ensure!(text.contains("\"ecs:ListTasks\"") && !text.contains("\"ecs:ListServices\""), "{text}");
        server.stop().await
    })
}
