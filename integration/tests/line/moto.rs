//! An emulator of AWS that others wrote, unchanged; and ECS's events through its EventBridge and its queue.
//!
//! Of ECS it knows too little: tasks have neither versions nor addresses of their own, and raise no events. So ECS is
//! the endpoint that answers like it, whose events are put into moto's EventBridge.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use integration::aws::ask;
use integration::control_plane::{ControlPlane, Setup, Sources};
use integration::estate::{CLUSTER, NAMESPACE};
use integration::http::get;
use integration::process::{Process, free_ports, target_dir};
use integration::scene::play;
use integration::stage::raise_estate;
use integration::wait;
use integration::world::{StopPlan, TaskSpec, World};
use integration::{aws::FakeAws, aws::Operation};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(20);
/// Long before the next reading, which comes after half a minute.
const SOON: Duration = Duration::from_secs(8);

/// A running moto.
pub(crate) struct Moto {
    pub(crate) address: SocketAddr,
    _process: Process,
}

impl Moto {
    pub(crate) async fn start(folder: &Path) -> anyhow::Result<Self> {
        let program = target_dir()?.join("python/bin/moto_server");
        ensure!(program.is_file(), "{} is missing: run integration/setup.sh", program.display());
        let [port] = free_ports()?;
        let mut command = Command::new(program);
        command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        let mut process = Process::start("moto", command, &folder.join("moto.log"))?;
        let address = (Ipv4Addr::LOCALHOST, port).into();
        wait::until(LIMIT, "moto to answer", async || {
            process.still_runs()?;
            get(address, "/moto-api/data.json").await.map(Some)
        })
        .await?;
        Ok(Self { address, _process: process })
    }

    /// Where it is.
    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// One operation of a service that speaks awsJson.
    pub(crate) async fn ask(&self, service: &str, target: &str, input: Value) -> anyhow::Result<Value> {
        ask(self.address, service, target, input).await
    }

    /// A queue that a rule of EventBridge delivers the events of ECS to: its URL.
    async fn queue_of_events(&self) -> anyhow::Result<String> {
        let created = self.ask("sqs", "AmazonSQS.CreateQueue", json!({ "QueueName": "legation" })).await?;
        let url = created["QueueUrl"].as_str().context("a queue without URL")?.to_owned();
        let wanted = json!({ "QueueUrl": url, "AttributeNames": ["QueueArn"] });
        let attributes = self.ask("sqs", "AmazonSQS.GetQueueAttributes", wanted).await?;
        let arn = &attributes["Attributes"]["QueueArn"];
        let pattern = json!({ "source": ["aws.ecs"], "detail-type": ["ECS Task State Change"] });
        let rule = json!({ "Name": "ecs", "EventPattern": pattern.to_string() });
        self.ask("events", "AWSEvents.PutRule", rule).await?;
        let targets = json!({ "Rule": "ecs", "Targets": [{ "Id": "legation", "Arn": arn }] });
        self.ask("events", "AWSEvents.PutTargets", targets).await?;
        Ok(url)
    }

    async fn put_event(&self, detail: &Value) -> anyhow::Result<()> {
        let event = json!({
            "Source": "aws.ecs", "DetailType": "ECS Task State Change", "Detail": detail.to_string(),
            "Resources": [detail["taskArn"].as_str().unwrap_or("nothing")],
        });
        let answer = self.ask("events", "AWSEvents.PutEvents", json!({ "Entries": [event] })).await?;
        ensure!(answer["FailedEntryCount"] == 0, "{answer}");
        Ok(())
    }

    /// How many messages are in the queue, hidden ones too.
    async fn messages(&self, queue: &str) -> anyhow::Result<usize> {
        let names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];
        let wanted = json!({ "QueueUrl": queue, "AttributeNames": names });
        let answer = self.ask("sqs", "AmazonSQS.GetQueueAttributes", wanted).await?;
        let counts = names
            .map(|name| answer["Attributes"][name].as_str().and_then(|count| count.parse::<usize>().ok()));
        counts.into_iter().sum::<Option<usize>>().with_context(|| format!("no counts: {answer}"))
    }
}

/// Puts what ECS tells of its tasks from now on into moto's EventBridge.
async fn pass_on(aws: &FakeAws, moto: &Moto) -> anyhow::Result<()> {
    let input = json!({ "QueueUrl": aws.queue_url(), "MaxNumberOfMessages": 10, "WaitTimeSeconds": 1 });
    loop {
        let received = ask(aws.address(), "sqs", "AmazonSQS.ReceiveMessage", input.clone()).await?;
        for message in received["Messages"].as_array().into_iter().flatten() {
            let event: Value = serde_json::from_str(message["Body"].as_str().unwrap_or_default())?;
            moto.put_event(&event["detail"]).await?;
        }
    }
}

#[test]
fn events_through_eventbridge_and_sqs_are_taken_in_and_deleted() -> anyhow::Result<()> {
    play("moto-events", async |scene| {
        let (world, moto) = (World::new(), Moto::start(scene.folder()).await?);
        let prod = raise_estate(&world).await?;
        let aws = FakeAws::start(world.clone()).await?;
        let queue = moto.queue_of_events().await?;
        let legacy = moto.namespace("CreateHttpNamespace", json!({ "Name": "legacy" })).await?;
        let old = moto.service(&legacy, "old", false).await?;
        moto.register(&old, "only", "10.9.8.7:8080".parse()?).await?;

        // Each service has a place of its own, which the environment says.
        let places = [("ECS", aws.url()), ("SQS", moto.url()), ("SERVICEDISCOVERY", moto.url())];
        let environment =
            places.map(|(service, url)| (format!("AWS_ENDPOINT_URL_{service}"), url)).into_iter().collect();
        let sources = Sources {
            clusters: vec![CLUSTER.to_owned()],
            cloud_map: vec!["legacy".to_owned()],
            ..Sources::default()
        };
        let setup = Setup { environment, ..Setup::files().hearing(queue.clone()) };
        let mut server = ControlPlane::start(scene.folder(), &setup.namespace(NAMESPACE, sources)).await?;
        ensure!(aws.calls(Operation::ListMapServices) + aws.calls(Operation::ReceiveMessage) == 0);
        let counts = async |service: &str| {
            let answer = server.api(&format!("namespaces/{NAMESPACE}/services/{service}")).await?;
            answer["item"]["counts"]["healthy"].as_u64().with_context(|| format!("{answer}"))
        };
        ensure!(
            (counts("old").await?, counts("payments").await?) == (1, 3),
            "what moto and ECS hold is served"
        );

        let events = async |outcome: &str| {
            let sample = format!(r#"legation_source_events_total{{queue="legation",outcome="{outcome}"}}"#);
            anyhow::Ok(server.metric(&sample).await?.unwrap_or_default())
        };
        let play = async {
            moto.put_event(&json!({ "version": "four" })).await?;
            let task = prod.payments.running().first().context("payments has no task")?.arn.clone();
            world.start_task(TaskSpec::of_service(CLUSTER, "payments"))?;
            let more = async || Ok((counts("payments").await? == 4).then_some(()));
            wait::until(SOON, "the new task, by its event", more).await?;
            world.set_desired_count(CLUSTER, "payments", 3, StopPlan::default())?;
            let fewer = async || Ok((counts("payments").await? == 3).then_some(()));
            wait::until(SOON, "the stopped task to leave, by its event", fewer).await?;
            ensure!(world.task(&task).is_some(), "it was forgotten");
            // Each task has three versions on its way up, and three on its way down.
            let done = async || {
                let (left, applied) = (moto.messages(&queue).await?, events("applied").await?);
                let unreadable = events("unreadable").await?;
                let is_done = left == 1 && applied >= 6.0 && unreadable == 1.0;
                ensure!(is_done, "{left} messages are left, {applied} were applied, {unreadable} unreadable");
                Ok(Some(()))
            };
            wait::until(SOON, "all but the unreadable message to be applied and deleted", done).await?;
            anyhow::Ok(())
        };
        tokio::select! {
            played = play => played?,
            failed = pass_on(&aws, &moto) => failed?,
        }
        server.stop().await
    })
}
