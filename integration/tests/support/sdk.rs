//! The SDKs that Legation uses, pointed at the AWS-like endpoint.

use std::time::Duration;

use aws_sdk_ecs::Client as Ecs;
use aws_sdk_ecs::config::retry::RetryConfig;
use aws_sdk_ecs::config::timeout::TimeoutConfig;
use aws_sdk_ecs::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_ecs::error::ProvideErrorMetadata;
use aws_sdk_ecs::types::TaskField;
use aws_sdk_servicediscovery::Client as CloudMap;
use integration::aws::FakeAws;
use integration::world::World;

/// The endpoint over a world, and an ECS client of it that does not retry.
pub(crate) async fn start(world: &World) -> (FakeAws, Ecs) {
    let fake = FakeAws::start(world.clone()).await.unwrap();
    let config = aws_sdk_ecs::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(fake.url())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("dummy", "dummy", None, None, "tests"))
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().operation_timeout(Duration::from_secs(5)).build())
        .build();
    (fake, Ecs::from_conf(config))
}

/// A Cloud Map client of an endpoint.
pub(crate) fn cloud_map(fake: &FakeAws) -> CloudMap {
    let config = aws_sdk_servicediscovery::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(fake.url())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("dummy", "dummy", None, None, "tests"))
        .retry_config(RetryConfig::disabled())
        .build();
    CloudMap::from_conf(config)
}

/// Every task that ListTasks shows, in pages of a size.
pub(crate) async fn listed(ecs: &Ecs, page: i32) -> Vec<String> {
    let pages = ecs.list_tasks().cluster("c").into_paginator().page_size(page).items().send();
    pages.collect::<Result<Vec<_>, _>>().await.unwrap()
}

/// Version, desired status, last status and health of a task, as DescribeTasks says.
pub(crate) async fn described(ecs: &Ecs, arn: &str) -> (u64, String) {
    let answer = ecs.describe_tasks().cluster("c").tasks(arn).include(TaskField::Tags).send().await.unwrap();
    let task = answer.tasks().first().expect("it is describable");
    let health = task.health_status().map(|health| health.as_str());
    let words = [task.desired_status(), task.last_status(), health].map(Option::unwrap_or_default);
    (task.version() as u64, words.join(" "))
}

/// The error code of ListTasks.
pub(crate) async fn code_of_list(ecs: &Ecs) -> String {
    let error = ecs.list_tasks().cluster("c").send().await.expect_err("a fault is set").into_service_error();
    error.code().unwrap_or_default().to_owned()
}
