//! What the AWS SDK alone needs to read an ECS cluster: the calls of Legation's source, whose answers are
//! parsed and dropped.
//!
//! It is no source: it keeps nothing. `sdk URL CLUSTER SECONDS` reads, waits so long and prints the processor
//! seconds of reading again. Invariant: the same calls with the same batches as the source makes, and as long a
//! pause: meanwhile the allocator gives memory back.

use std::time::Duration;

use anyhow::Context;
use aws_sdk_ecs::Client;
use aws_sdk_ecs::types::{DesiredStatus, ServiceField};
use futures_util::{StreamExt, TryStreamExt, stream};
use integration::vitals;
use legation::source::aws::Aws;

/// As in the source.
const AT_ONCE: usize = 6;

/// The product's own.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "sdk URL CLUSTER SECONDS";
    let (url, cluster) = arguments.next().zip(arguments.next()).context(usage)?;
    let pause = Duration::from_secs(arguments.next().context(usage)?.parse().context(usage)?);
    let aws = Aws { region: Some("eu-west-1".to_owned()), endpoint_url: Some(url) };
    let client = Client::new(&aws.load().await);
    let processor = || vitals::processor(std::process::id());
    read(&client, &cluster).await?;
    tokio::time::sleep(pause).await;
    let before = processor()?;
    read(&client, &cluster).await?;
    println!("{}", processor()?.saturating_sub(before).max(Duration::from_millis(1)).as_secs_f64());
    Ok(())
}

async fn read(client: &Client, cluster: &str) -> anyhow::Result<()> {
    tokio::try_join!(services(client, cluster), tasks(client, cluster))?;
    Ok(())
}

async fn services(client: &Client, cluster: &str) -> anyhow::Result<()> {
    let pages = client.list_services().cluster(cluster).max_results(100).into_paginator().items().send();
    let arns: Vec<String> = pages.try_collect().await.context("listing services")?;
    let calls = arns.chunks(10).map(|batch| {
        let call = client.describe_services().cluster(cluster).include(ServiceField::Tags);
        call.set_services(Some(batch.to_vec())).send()
    });
    let answers = stream::iter(calls).buffer_unordered(AT_ONCE);
    answers.try_for_each(async |_| Ok(())).await.context("describing services")
}

async fn tasks(client: &Client, cluster: &str) -> anyhow::Result<()> {
    let call = client.list_tasks().cluster(cluster).desired_status(DesiredStatus::Running).max_results(100);
    let arns: Vec<String> =
        call.into_paginator().items().send().try_collect().await.context("listing tasks")?;
    let calls = arns
        .chunks(100)
        .map(|batch| client.describe_tasks().cluster(cluster).set_tasks(Some(batch.to_vec())).send());
    let answers = stream::iter(calls).buffer_unordered(AT_ONCE);
    answers.try_for_each(async |_| Ok(())).await.context("describing tasks")
}
