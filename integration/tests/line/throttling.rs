//! AWS's own token buckets: by default none of them is ever emptied, and a tool that empties one costs time and nothing
//! else.
//!
//! The buckets are a little or much smaller than AWS's, so that they are felt within seconds.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use axum::body::Body;
use hyper::{Method, Request};
use integration::aws::{FakeAws, Operation};
use integration::control_plane::{ControlPlane, Setup, Sources};
use integration::estate::{LARGE, NAMESPACE, large, of_large};
use integration::http::send;
use integration::scene::play;
use integration::wait;
use integration::world::{StopPlan, World};
use legation::config::Config;

/// How long calls are watched.
const WATCHED: Duration = Duration::from_secs(8);
const LIMIT: Duration = Duration::from_secs(60);
/// The bucket of the calls that list and describe tasks, and those.
const BUCKET: &str = "ecs cluster resource read";
const TASKS: [Operation; 2] = [Operation::ListTasks, Operation::DescribeTasks];

/// What a configuration that says nothing of it allows.
fn default_budget() -> anyhow::Result<u32> {
    let text = "namespaces: { prod: { clusters: [prod-a] } }";
    let config = Config::parse(Path::new("legation.yaml"), text, []);
    Ok(config.map_err(|problems| anyhow::anyhow!("{problems:?}"))?.aws.call_budget)
}

/// A server that reads the cluster twice a second, as far as it may.
fn setup(aws: &FakeAws, call_budget: u32) -> Setup {
    let sources = Sources { clusters: vec![LARGE.to_owned()], ..Sources::default() };
    let interval = Duration::from_millis(500);
    Setup { call_budget, interval, ..Setup::aws(&aws.url()).namespace(NAMESPACE, sources) }
}

fn calls(aws: &FakeAws) -> u64 {
    TASKS.into_iter().map(|operation| aws.calls(operation)).sum()
}

#[test]
fn by_default_aws_refuses_no_call_for_being_one_too_many() -> anyhow::Result<()> {
    play("budget", async |scene| {
        // A reading takes twenty calls about tasks.
        let aws = FakeAws::start(large(60, 16)?).await?;
        let budget = default_budget()?;
        ensure!(budget == 50, "{budget} % by default");
        aws.buckets().keep(budget + 5);
        let mut server = ControlPlane::start(&scene.room("modest")?, &setup(&aws, budget)).await?;
        wait::throughout(WATCHED, "calls go through", async |_| {
            let refused = aws.buckets().refused();
            ensure!(refused == 0, "{refused} of {} calls about tasks were refused", calls(&aws));
            Ok(())
        })
        .await?;
        let made = calls(&aws);
        ensure!(made > 100, "{made} calls: it did not come to what may be made");
        server.stop().await?;

        // What watches nothing is refused soon: the buckets are there.
        aws.buckets().keep(budget + 5);
        let mut server = ControlPlane::prepare(&scene.room("greedy")?, &setup(&aws, 10_000))?;
        server.run().await?;
        let refused = async || Ok((aws.buckets().refused() > 0).then_some(()));
        wait::until(LIMIT, "a call that is one too many", refused).await?;
        server.stop().await
    })
}

/// Lists tasks as fast as it can, whatever comes of it.
async fn greedy_tool(aws: &FakeAws) -> anyhow::Result<()> {
    loop {
        let credential = "Credential=AKIDOTHER/20260101/eu-west-1/ecs/aws4_request";
        let request = Request::builder()
            .method(Method::POST)
            .uri("/")
            .header("host", aws.address().to_string())
            .header("x-amz-target", "AmazonEC2ContainerServiceV20141113.ListTasks")
            .header("authorization", format!("AWS4-HMAC-SHA256 {credential}, Signature=0"))
            .body(Body::from(format!(r#"{{"cluster":"{LARGE}","maxResults":1}}"#)))?;
        send(aws.address(), request).await?;
        tokio::time::sleep(Duration::from_millis(20)).await; // the pace of that tool
    }
}

async fn in_rotation(server: &ControlPlane) -> anyhow::Result<u64> {
    let services = server.items(&format!("namespaces/{NAMESPACE}/services")).await?;
    Ok(services.iter().filter_map(|service| service["counts"]["healthy"].as_u64()).sum())
}

async fn rate(server: &ControlPlane) -> anyhow::Result<f64> {
    let sample = format!(r#"legation_aws_call_rate{{bucket="{BUCKET}",home="eu-west-1"}}"#);
    server.metric(&sample).await?.with_context(|| format!("no {sample}"))
}

async fn failing(server: &ControlPlane) -> anyhow::Result<String> {
    Ok(server.api("status").await?["item"]["sources"][0]["failing"].to_string())
}

#[test]
fn a_tool_that_empties_the_bucket_slows_it_down_and_takes_nothing_away() -> anyhow::Result<()> {
    play("greedy-tool", async |scene| {
        let world: World = large(10, 3)?;
        let aws = FakeAws::start(world.clone()).await?;
        // A fifth of what AWS allows, and half of that by default.
        aws.buckets().keep(20);
        let mut server = ControlPlane::start(scene.folder(), &setup(&aws, 10)).await?;
        let (full, whole) = (in_rotation(&server).await?, rate(&server).await?);
        ensure!((full, whole) == (30, 2.0), "{full} endpoints, {whole} calls a second");

        let suffering = async {
            let told = async || Ok(failing(&server).await?.contains("ThrottlingException").then_some(()));
            wait::until(LIMIT, "the source to tell of it", told).await?;
            let slower = async || Ok((rate(&server).await? <= whole / 2.0).then_some(()));
            wait::until(LIMIT, "fewer calls", slower).await?;
            wait::throughout(WATCHED / 2, "nothing is lost", async |_| {
                ensure!(server.is_ready().await?, "/readyz does not say 200");
                ensure!(in_rotation(&server).await? == full);
                Ok(())
            })
            .await?;
            rate(&server).await
        };
        let slow = tokio::select! {
            slow = suffering => slow?,
            failed = greedy_tool(&aws) => return failed,
        };

        let stopped = world.tasks_of(LARGE, &of_large(3)).first().context("no task")?.arn.clone();
        world.stop_task(&stopped, StopPlan::default())?;
        let seen = async || Ok((in_rotation(&server).await? == full - 1).then_some(()));
        wait::until(LIMIT, "a reading that sees what has changed", seen).await?;
        let faster = async || Ok((rate(&server).await? > slow).then_some(()));
        wait::until(LIMIT, "more calls again", faster).await?;
        ensure!(failing(&server).await? == "null", "{}", failing(&server).await?);
        server.stop().await
    })
}
