//! The second world: ECS as ministack plays it, with tasks as `python/ministack_world` runs them.
//!
//! It shares no code with the first: others wrote the API, and another program drives Docker. It is told what to do by the calls
//! that every client of AWS makes. Invariant: nothing is known of its tasks but what its API answers.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::image;
use crate::aws::ask;
use crate::estate::{CLUSTER, NAMESPACE};
use crate::python::Python;
use crate::wait;

/// The label of everything that it makes in Docker.
pub const LABEL: &str = "legation.ministack";

const START: Duration = Duration::from_secs(60);
/// How long tasks may take to come up or go.
const SETTLING: Duration = Duration::from_secs(180);

/// A running world. [`Ministack::close`] ends it and its containers; dropping it leaves these to the next sweep.
#[derive(Debug)]
pub struct Ministack {
    address: SocketAddr,
    program: Python,
}

/// A task, as its API tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its ARN.
    pub arn: String,
    /// Its address.
    pub ip: Option<Ipv4Addr>,
    /// The task definition, with its revision.
    pub definition: String,
    /// Where it was last.
    pub status: String,
    /// How it is.
    pub health: String,
}

impl Ministack {
    /// Starts it on a Docker network whose gateway is this machine, with an empty cluster.
    pub async fn start(
        folder: &Path,
        docker: &str,
        network: &str,
        gateway: Ipv4Addr,
    ) -> anyhow::Result<Self> {
        let gateway = gateway.to_string();
        let arguments = [
            ("--network", network),
            ("--bind", &gateway),
            ("--gateway", &gateway),
            ("--pause-image", image::APP),
            ("--pause-command", "pause"),
            ("--most-files", "20000"),
        ];
        let arguments = arguments.into_iter().flat_map(|(key, value)| [key.to_owned(), value.to_owned()]);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let environment = [("DOCKER_HOST", OsStr::new(docker)), ("PATH", path.as_os_str())];
        let mut program = Python::start_in("ministack", folder, "ministack_world", arguments, environment)?;
        let line = program.line(START).await?;
        let address = line.strip_prefix("ready http://").with_context(|| line.clone())?.parse()?;
        let own = Self { address, program };
        own.ecs("CreateCluster", json!({ "clusterName": CLUSTER })).await?;
        Ok(own)
    }

    /// Ends it, and all of its containers.
    pub async fn close(self) -> anyhow::Result<()> {
        self.program.end(START).await
    }

    /// Where its clients ask.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn ecs(&self, operation: &str, input: Value) -> anyhow::Result<Value> {
        ask(self.address, "ecs", &format!("AmazonEC2ContainerServiceV20141113.{operation}"), input).await
    }

    /// A queue that a rule of EventBridge sends the events of ECS to: its URL.
    pub async fn queue(&self, name: &str) -> anyhow::Result<String> {
        let created = ask(self.address, "sqs", "AmazonSQS.CreateQueue", json!({ "QueueName": name })).await?;
        let url = created["QueueUrl"].as_str().context("a queue without URL")?.to_owned();
        let wanted = json!({ "QueueUrl": url, "AttributeNames": ["QueueArn"] });
        let attributes = ask(self.address, "sqs", "AmazonSQS.GetQueueAttributes", wanted).await?;
        let arn = &attributes["Attributes"]["QueueArn"];
        let pattern = json!({ "source": ["aws.ecs"], "detail-type": ["ECS Task State Change"] });
        let rule = json!({ "Name": "ecs", "EventPattern": pattern.to_string() });
        ask(self.address, "events", "AWSEvents.PutRule", rule).await?;
        let targets = json!({ "Rule": "ecs", "Targets": [{ "Id": name, "Arn": arn }] });
        ask(self.address, "events", "AWSEvents.PutTargets", targets).await?;
        Ok(url)
    }

    /// Registers a task definition, given as the API takes it; its family with its revision.
    pub async fn register(&self, definition: &Value) -> anyhow::Result<String> {
        let answer = self.ecs("RegisterTaskDefinition", definition.clone()).await?;
        let arn =
            answer["taskDefinition"]["taskDefinitionArn"].as_str().context("a definition without ARN")?;
        Ok(arn.rsplit('/').next().unwrap_or(arn).to_owned())
    }

    /// Creates a service.
    pub async fn create(&self, service: &str, definition: &str, count: u32) -> anyhow::Result<()> {
        let input = json!({
            "cluster": CLUSTER,
            "serviceName": service,
            "taskDefinition": definition,
            "desiredCount": count,
            "launchType": "FARGATE",
            "networkConfiguration": { "awsvpcConfiguration": { "subnets": ["subnet-1"], "securityGroups": ["sg-1"] } },
            "tags": [{ "key": "legation:namespace", "value": NAMESPACE }],
        });
        self.ecs("CreateService", input).await.map(drop)
    }

    /// Rolls a service to another definition.
    pub async fn roll(&self, service: &str, definition: &str) -> anyhow::Result<()> {
        let input = json!({ "cluster": CLUSTER, "service": service, "taskDefinition": definition });
        self.ecs("UpdateService", input).await.map(drop)
    }

    /// Scales a service.
    pub async fn scale(&self, service: &str, count: u32) -> anyhow::Result<()> {
        let input = json!({ "cluster": CLUSTER, "service": service, "desiredCount": count });
        self.ecs("UpdateService", input).await.map(drop)
    }

    /// Stops a task.
    pub async fn stop(&self, task: &str) -> anyhow::Result<()> {
        self.ecs("StopTask", json!({ "cluster": CLUSTER, "task": task })).await.map(drop)
    }

    /// The tasks of a service that ECS wants, in order of ARN.
    pub async fn tasks(&self, service: &str) -> anyhow::Result<Vec<Seen>> {
        let listed = self.ecs("ListTasks", json!({ "cluster": CLUSTER, "serviceName": service })).await?;
        let arns = &listed["taskArns"];
        if arns.as_array().is_none_or(Vec::is_empty) {
            return Ok(Vec::new());
        }
        let told = self.ecs("DescribeTasks", json!({ "cluster": CLUSTER, "tasks": arns })).await?;
        let wanted =
            told["tasks"].as_array().into_iter().flatten().filter(|task| task["desiredStatus"] == "RUNNING");
        let mut seen: Vec<Seen> = wanted.map(Seen::read).collect();
        seen.sort_by(|one, other| one.arn.cmp(&other.arn));
        Ok(seen)
    }

    /// Waits until a service has so many healthy tasks, all of one definition, and no other.
    pub async fn settled(&self, service: &str, count: usize, definition: &str) -> anyhow::Result<Vec<Seen>> {
        wait::until(SETTLING, format!("{count} healthy tasks of {service}"), async || {
            let tasks = self.tasks(service).await?;
            let well = |task: &Seen| {
                task.health == "HEALTHY"
                    && task.status == "RUNNING"
                    && task.definition.ends_with(&format!("/{definition}"))
            };
            ensure!(tasks.len() == count && tasks.iter().all(well), "{tasks:?}");
            Ok(Some(tasks))
        })
        .await
    }

    /// When the stop of a task was recorded, if it was.
    pub async fn stopped_at(&self, task: &str) -> anyhow::Result<std::time::SystemTime> {
        let told = self.ecs("DescribeTasks", json!({ "cluster": CLUSTER, "tasks": [task] })).await?;
        let at = told["tasks"][0]["stoppingAt"]
            .as_f64()
            .with_context(|| format!("{task} does not stop: {told}"))?;
        Ok(std::time::UNIX_EPOCH + Duration::from_secs_f64(at))
    }

    /// Waits until a task is STOPPED.
    pub async fn over(&self, task: &str) -> anyhow::Result<()> {
        wait::until(SETTLING, format!("the end of {task}"), async || {
            let told = self.ecs("DescribeTasks", json!({ "cluster": CLUSTER, "tasks": [task] })).await?;
            Ok((told["tasks"][0]["lastStatus"] == "STOPPED").then_some(()))
        })
        .await
    }
}

impl Seen {
    fn read(task: &Value) -> Self {
        let word = |key: &str| task[key].as_str().unwrap_or_default().to_owned();
        let details = task["attachments"][0]["details"].as_array().into_iter().flatten();
        let ip = details
            .filter(|detail| detail["name"] == "privateIPv4Address")
            .find_map(|it| it["value"].as_str());
        Self {
            arn: word("taskArn"),
            ip: ip.and_then(|ip| ip.parse().ok()),
            definition: word("taskDefinitionArn"),
            status: word("lastStatus"),
            health: word("healthStatus"),
        }
    }
}
