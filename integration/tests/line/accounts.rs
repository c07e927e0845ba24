//! Several accounts and Regions, and tasks that no service runs.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, ensure};
use hyper::Method;
use integration::aws::FakeAws;
use integration::control_plane::{ControlPlane, Setup, Sources};
use integration::envoy::Envoy;
use integration::estate::{CLUSTER, NAMESPACE};
use integration::http::{request, send};
use integration::scene::play;
use integration::shop::sidecar;
use integration::stage::{Knowledge, PROXY, Stage, raise_estate};
use integration::wait;
use integration::world::{
    AppProtocol, ContainerDefinition, DefinitionSpec, PortMapping, Serve, ServiceSpec, StopPlan, TaskSpec,
    World, WorldConfig,
};

/// More than it takes, and less than until the next reading where events are heard.
const SOON: Duration = Duration::from_secs(10);
const PARTNER: &str = "444455556666";
const ROLE: &str = "arn:aws:iam::444455556666:role/legation";

fn http_definition(family: &str, port: u16) -> DefinitionSpec {
    let port = PortMapping::named("http", port, Some(AppProtocol::Http));
    DefinitionSpec::new(family, ContainerDefinition::new("app").port(port))
}

/// The account of a partner in another Region, whose cluster is called as ours is.
async fn raise_partner() -> anyhow::Result<World> {
    let (account, region) = (PARTNER.to_owned(), "us-east-1".to_owned());
    let world = World::with(WorldConfig { account, region, ..WorldConfig::default() });
    world.create_cluster(CLUSTER)?;
    world.register_definition(http_definition("invoices", 8090))?;
    let invoices = ServiceSpec::new(CLUSTER, "invoices", "invoices", 2).zones(&["us-east-1a", "us-east-1b"]);
    world.create_service(invoices.tag("legation:namespace", "partner").served())?;
    let is_up = |world: &World| world.tasks_of(CLUSTER, "invoices").iter().all(|task| task.ready());
    world.until(SOON, is_up).await?;
    Ok(world)
}

/// The sidecar of someone in a namespace, and the address of one alias there.
async fn join(
    server: &ControlPlane,
    folder: &std::path::Path,
    namespace: &str,
    alias: &str,
    port: u16,
) -> anyhow::Result<(Envoy, SocketAddr)> {
    let mut envoy = Envoy::start(folder, namespace, &server.bootstrap(&sidecar(namespace))?).await?;
    envoy.live().await?;
    let hosts = server.items(&format!("namespaces/{namespace}/hosts")).await?;
    let host = hosts.iter().find(|host| host["name"] == alias).with_context(|| format!("no host {alias}"))?;
    let address: Ipv4Addr = host["address"].as_str().context("a host without an address")?.parse()?;
    Ok((envoy, (address, port).into()))
}

async fn is_reached(alias: SocketAddr, name: &str) -> anyhow::Result<()> {
    let answer = send(alias, request(Method::GET, name, "/")?).await?;
    ensure!(answer.status == 200 && answer.text().contains(name), "{}: {}", answer.status, answer.text());
    Ok(())
}

/// Stops one task, and waits until a sidecar has only the others.
async fn is_withdrawn(world: &World, service: &str, envoy: &Envoy, cluster: &str) -> anyhow::Result<()> {
    let tasks = world.tasks_of(CLUSTER, service);
    let (gone, left) = tasks.split_first().context("nobody is there")?;
    world.stop_task(&gone.arn, StopPlan::hold(SOON))?;
    wait::until(SOON, format!("a stopped task of {service} to leave"), async || {
        let found = envoy.endpoints(cluster).await?;
        let is_gone = found.iter().all(|place| !place.starts_with(&format!("{}:", gone.ip)));
        Ok((is_gone && found.len() >= left.len()).then_some(()))
    })
    .await
}

#[test]
fn clusters_of_one_name_in_two_accounts_and_regions_are_served_and_a_refused_role_loses_nothing()
-> anyhow::Result<()> {
    play("accounts", async |scene| {
        let home = World::new();
        raise_estate(&home).await?;
        let partner = raise_partner().await?;
        let mut aws = FakeAws::start(home.clone()).await?;
        aws.join(partner.clone());
        aws.accounts().lend_for(Duration::from_secs(1));
        let own = Sources { clusters: vec![CLUSTER.to_owned()], ..Sources::default() };
        let theirs = Sources {
            clusters: vec![format!("arn:aws:ecs:us-east-1:{PARTNER}:cluster/{CLUSTER}")],
            assume_role: Some(ROLE.to_owned()),
            ..Sources::default()
        };
        let setup = Setup::aws(&aws.url()).hearing(aws.queue_url());
        let setup = setup.namespace(NAMESPACE, own).namespace("partner", theirs);
        let setup = Setup { interval: Duration::from_secs(2), ..setup };
        let mut server = ControlPlane::start(scene.folder(), &setup).await?;
        let status = server.api("status").await?;
        let sources = status["item"]["sources"].as_array().context("no sources")?;
        let names: Vec<_> = sources.iter().filter_map(|source| source["name"].as_str()).collect();
        let expected = ["ecs/eu-west-1/prod-a", "ecs/us-east-1/prod-a"];
        ensure!(expected.iter().all(|name| names.contains(name)), "{names:?}");
        ensure!(aws.accounts().lent() > 0, "nobody took the role on");

        let (ours, payments) = join(&server, scene.folder(), NAMESPACE, "payments", 8080).await?;
        let (other, invoices) = join(&server, scene.folder(), "partner", "invoices", 8090).await?;
        is_reached(payments, "payments").await?;
        is_reached(invoices, "invoices").await?;
        is_withdrawn(&home, "payments", &ours, "prod/payments").await?;
        is_withdrawn(&partner, "invoices", &other, "partner/invoices").await?;

        let before = other.endpoints("partner/invoices").await?;
        aws.accounts().refuse(true);
        let names_it = async || {
            let findings = server.items("findings").await?;
            let about = |finding: &serde_json::Value| finding["message"].to_string();
            let named =
                findings.iter().any(|it| it["code"] == "SRC001" && about(it).contains("sts:AssumeRole"));
            Ok(named.then_some(()))
        };
        wait::until(SOON, "a finding that names sts:AssumeRole", names_it).await?;
        wait::throughout(Duration::from_secs(5), "what was read stays", async |_| {
            ensure!(server.is_ready().await?, "it is not ready");
            ensure!(other.endpoints("partner/invoices").await? == before, "endpoints were lost");
            is_reached(invoices, "invoices").await
        })
        .await?;
        aws.accounts().refuse(false);
        let is_well = async || Ok((names_it().await?.is_none()).then_some(()));
        wait::until(SOON, "the role to be taken on again", is_well).await?;
        for envoy in [ours, other] {
            ensure!(envoy.oracle().await?.raised.is_empty(), "{} raised something", envoy.name());
            envoy.stop().await?;
        }
        server.stop().await
    })
}

#[test]
fn standalone_tasks_that_ask_for_it_are_reached_by_their_family_and_leave_when_they_stop()
-> anyhow::Result<()> {
    play("standalone", async |scene| {
        let mut stage = Stage::open(scene.folder(), Knowledge::Events, None).await?;
        stage.start_sidecars(1).await?;
        let world = stage.prod.world.clone();
        world.register_definition(http_definition("jobs", 8070))?;
        let mut member = TaskSpec { serve: Some(Serve::Declared), ..TaskSpec::standalone(CLUSTER, "jobs") };
        let silent = world.start_task(member.clone())?;
        member.tags.insert("legation:namespace".to_owned(), NAMESPACE.to_owned());
        let mut members = vec![world.start_task(member.clone())?, world.start_task(member)?];
        members.sort();
        let are_in = async || Ok((stage.rotation("jobs").await? == members).then_some(()));
        wait::until(SOON, format!("the members, and not {silent}"), are_in).await?;
        stage.synced().await?;
        let answer = send(PROXY, request(Method::GET, "jobs:8070", "http://jobs:8070/")?).await?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());

        let stops = world.task(&members[0]).context("it is forgotten")?;
        world.stop_task(&stops.arn, StopPlan::hold(SOON))?;
        let other = world.task(&members[1]).context("it is forgotten")?;
        let is_out = async || {
            let found = stage.envoys[0].endpoints("prod/jobs").await?;
            Ok((found == [format!("{}:8070", other.ip)]).then_some(()))
        };
        wait::until(Duration::from_secs(2), "the stopped member to leave Envoy", is_out).await?;
        stage.oracle().await?;
        stage.close().await
    })
}
