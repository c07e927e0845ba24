//! Tests of the ECS source: its layers, its tasks, and whole readings against a scripted AWS.
//!
//! It is not code of the product.
//!
//! Invariant: everything is made of the SDK's own types or of the JSON that ECS sends.

mod describing;
mod hearing;
mod judging;
mod modes;
mod namespaces;
mod partial;
mod reading;
mod shifting;
mod skew;
mod standalone;
mod unread;
mod world;

use std::time::{Duration, SystemTime};

use aws_sdk_ecs::primitives::DateTime;
use aws_sdk_ecs::types::builders::{ContainerDefinitionBuilder, PortMappingBuilder, TaskBuilder};
use aws_sdk_ecs::types::{
    ApplicationProtocol, ContainerDefinition, HealthCheck, PortMapping, Task, TaskDefinition,
};

use super::facts::{self, Revision};
use super::{Discover, NamespaceRule};

/// A time, in seconds since the epoch.
fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn rule(namespace: &str, discover: Discover) -> NamespaceRule {
    NamespaceRule { namespace: namespace.into(), discover }
}

fn port(name: &str, number: i32, protocol: Option<ApplicationProtocol>) -> PortMappingBuilder {
    PortMapping::builder().name(name).container_port(number).set_app_protocol(protocol)
}

fn checked(container: ContainerDefinitionBuilder) -> ContainerDefinition {
    // One that takes as long as any may: eight minutes.
    let check = HealthCheck::builder().command("CMD").interval(60).retries(10).build().expect("a check");
    container.health_check(check).build()
}

/// The revision `name` of these containers.
fn revision(name: &str, containers: Vec<ContainerDefinition>) -> Revision {
    let arn = format!("arn:aws:ecs:eu-west-1:1:task-definition/{name}");
    let definition = TaskDefinition::builder().task_definition_arn(arn);
    let definition = definition.set_container_definitions(Some(containers)).build();
    facts::revision(&definition).expect("it has an ARN")
}

/// A running task of version 3, started at 1,000.
fn task(arn: &str) -> TaskBuilder {
    Task::builder()
        .task_arn(arn)
        .task_definition_arn("payments:7")
        .desired_status("RUNNING")
        .last_status("RUNNING")
        .started_at(DateTime::from_secs(1_000))
        .version(3)
}
