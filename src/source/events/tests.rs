//! Tests of the queue against a scripted SQS: what is deleted, what is left, who hears.
//!
//! It is not code of the product. Invariant: a message is deleted only when the source says that it was taken in.

use std::sync::Arc;

use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::source::aws::scripted::{Answer, Scripted};
use crate::source::ecs::{Inbox, mailbox};

const CLUSTER: &str = "arn:aws:ecs:eu-west-1:1:cluster/prod-a";

fn task(id: &str, cluster: &str) -> String {
    let arn = format!("{}/{id}", cluster.replace(":cluster/", ":task/"));
    json!({"taskArn": arn, "taskDefinitionArn": "d:1", "clusterArn": cluster, "lastStatus": "RUNNING", "version": 4})
        .to_string()
}

/// A queue that holds these bodies, and tells which receipts were deleted.
struct Fixture {
    queue: Queue,
    inbox: Option<Inbox>,
    deleted: mpsc::UnboundedReceiver<Vec<String>>,
    _script: Scripted,
}

fn fixture(bodies: Vec<String>, cluster: &str) -> Fixture {
    let (tell, deleted) = mpsc::unbounded_channel();
    let bodies = Arc::new(bodies);
    let script = Scripted::start(move |operation, request| match operation {
        "ReceiveMessage" => {
            let message = |(number, body): (usize, &String)| json!({"MessageId": format!("m{number}"), "ReceiptHandle": format!("r{number}"), "Body": body});
            Answer::Json(200, json!({"Messages": bodies.iter().enumerate().map(message).collect::<Vec<_>>()}))
        }
        _ => {
            let entries = request["Entries"].as_array().cloned().unwrap_or_default();
            let receipt = |entry: &Value| entry["ReceiptHandle"].as_str().unwrap_or_default().to_owned();
            let _ = tell.send(entries.iter().map(receipt).collect());
            Answer::Json(200, json!({"Successful": [], "Failed": []}))
        }
    });
    let (outbox, inbox) = mailbox();
    let addressee = Addressee { cluster: ClusterId::read(cluster).expect("a cluster"), outbox };
    let settings = Settings { queue_url: "https://sqs.test/1/legation-a".to_owned(), receivers: 1 };
    let metrics = Metrics::register(&mut Registry::default());
    let queue = Queue::new(&script.access(), settings, vec![addressee], metrics);
    Fixture { queue, inbox: Some(inbox), deleted, _script: script }
}

/// Answers every letter, and tells how many tasks the letters were about.
fn answer(mut inbox: Inbox) -> watch::Receiver<(usize, bool)> {
    let (tell, told) = watch::channel((0, false));
    tokio::spawn(async move {
        loop {
            for letter in inbox.next().await {
                tell.send_modify(|(tasks, asked)| {
                    *tasks += letter.events.len();
                    *asked |= letter.asks_for_reading;
                });
                letter.done();
            }
        }
    });
    told
}

#[tokio::test]
async fn what_was_taken_in_or_concerns_nobody_is_deleted_and_the_unreadable_is_left() {
    let other =
        json!({"detail-type": "ECS Service Action", "source": "aws.ecs", "detail": {"clusterArn": CLUSTER}});
    let bodies = vec![
        task("a", CLUSTER),
        "poison".to_owned(),
        task("b", "arn:aws:ecs:eu-west-1:1:cluster/elsewhere"),
        other.to_string(),
        task("c", "arn:aws:ecs:eu-north-1:1:cluster/prod-a"),
    ];
    let mut fixture = fixture(bodies, CLUSTER);
    let told = answer(fixture.inbox.take().expect("an inbox"));
    for _ in 0..2 {
        fixture.queue.receive(LONG_POLL).await.expect("a batch");
        let mut deleted = fixture.deleted.recv().await.expect("a deletion");
        deleted.sort();
        assert_eq!(deleted, ["r0", "r2", "r3", "r4"]);
    }
    assert_eq!(*told.borrow(), (2, true), "the same message twice is heard twice");
    assert_eq!(fixture.queue.count("applied").get(), 4);
    assert_eq!(fixture.queue.count("ignored").get(), 4);
    assert_eq!(fixture.queue.count("unreadable").get(), 1, "told once");
}

#[tokio::test]
async fn what_nobody_takes_in_stays_in_the_queue() {
    let mut fixture = fixture(vec![task("a", CLUSTER)], "prod-a");
    drop(fixture.inbox.take());
    fixture.queue.receive(LONG_POLL).await.expect("a batch");
    assert!(fixture.deleted.try_recv().is_err());
}

#[tokio::test]
async fn a_queue_that_refuses_is_told() {
    let refusal = json!({"__type": "com.amazonaws.sqs#QueueDoesNotExist", "message": "no such queue"});
    let script = Scripted::start(move |_, _| Answer::Json(400, refusal.clone()));
    let settings = Settings { queue_url: "https://sqs.test/1/gone".to_owned(), receivers: 1 };
    let metrics = Metrics::register(&mut Registry::default());
    let queue = Queue::new(&script.access(), settings, Vec::new(), metrics);
    let error = queue.receive(LONG_POLL).await.expect_err("a refusal");
    assert_eq!((&*error.operation, &*error.code), ("sqs:ReceiveMessage", "QueueDoesNotExist"));
}

#[tokio::test]
async fn whoever_may_watch_a_cluster_hears_its_events() {
    let script = Scripted::start(|_, _| Answer::Json(200, json!({})));
    let settings = Settings { queue_url: "https://sqs.test/1/legation-a".to_owned(), receivers: 1 };
    let addressees = ["prod-a", CLUSTER, "arn:aws:ecs:us-east-1:2:cluster/prod-a"].map(|cluster| {
        let mut cluster = ClusterId::read(cluster).expect("a cluster");
        cluster.region.get_or_insert("eu-west-1".to_owned());
        Addressee { cluster, outbox: mailbox().0 }
    });
    let metrics = Metrics::register(&mut Registry::default());
    let queue = Queue::new(&script.access(), settings, addressees.into(), metrics);
    for (arn, addressees) in [
        (CLUSTER, vec![0, 1]),
        ("arn:aws:ecs:us-east-1:2:cluster/prod-a", vec![2]),
        ("arn:aws:ecs:eu-west-1:7:cluster/prod-a", vec![0]),
        ("arn:aws:ecs:us-east-1:7:cluster/prod-a", vec![]),
        ("arn:aws:ecs:eu-west-1:1:cluster/prod-b", vec![]),
        ("prod", vec![]),
    ] {
        assert_eq!(queue.addressees_of(arn), addressees, "{arn}");
    }
}
