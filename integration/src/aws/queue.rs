//! A standard queue of SQS, with the events of ECS in it as EventBridge or SNS delivers them.
//!
//! It promises what SQS promises: at least once, in any order, and again when nobody deletes. How badly it keeps to even
//! that is up to a [`Delivery`]. Invariant: an event says what the task was when its version rose, and nothing of health
//! or tags.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::clock::Clock;
use super::render;
use super::wire::{ApiError, Operation};
use crate::world::{Task, World};

/// The longest that a call waits for messages.
const LONGEST_POLL: Duration = Duration::from_secs(20);
/// How long a message that was received and not deleted is hidden.
const HIDDEN: Duration = Duration::from_secs(30);

/// How events come.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// The share that is lost.
    pub lost: f64,
    /// The share that comes twice.
    pub doubled: f64,
    /// How late each is at most: what is later overtakes.
    pub late: Duration,
    /// Whether SNS wraps them.
    pub by_sns: bool,
}

impl Default for Delivery {
    fn default() -> Self {
        Self { lost: 0.0, doubled: 0.0, late: Duration::ZERO, by_sns: false }
    }
}

/// The queue; clones share it.
#[derive(Debug, Clone)]
pub struct Queue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    content: Mutex<Content>,
    arrived: Notify,
    clock: Clock,
}

#[derive(Debug, Default)]
struct Content {
    delivery: Delivery,
    waiting: Vec<Message>,
    /// By receipt, those received and not deleted, and until when they are hidden.
    in_flight: HashMap<String, (Message, Instant)>,
    sent: u64,
    receipts: u64,
}

#[derive(Debug, Clone)]
struct Message {
    id: String,
    body: String,
}

impl Queue {
    /// An empty queue of events that are dated by this clock.
    pub(super) fn new(clock: Clock) -> Self {
        Self(Arc::new(Shared { clock, ..Shared::default() }))
    }

    /// Where it is.
    pub fn url(endpoint: &str) -> String {
        Self::named(endpoint, "legation")
    }

    /// Where one of this name is.
    pub(super) fn named(endpoint: &str, name: &str) -> String {
        format!("{endpoint}/000000000000/{name}")
    }

    /// How events come from now on.
    pub fn deliver(&self, delivery: Delivery) {
        self.content().delivery = delivery;
    }

    fn send(&self, body: String) {
        let mut content = self.content();
        content.sent += 1;
        let id = format!("message-{}", content.sent);
        content.waiting.push(Message { id, body });
        drop(content);
        self.0.arrived.notify_waiters();
    }

    /// How many messages are in it, hidden ones too.
    pub fn len(&self) -> usize {
        let content = self.content();
        content.waiting.len() + content.in_flight.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of every task of this world whose version rises.
    pub(super) async fn follow(self, world: World, mut events: mpsc::UnboundedReceiver<Arc<Task>>) {
        let mut dice = fastrand::Rng::with_seed(7);
        while let Some(task) = events.recv().await {
            let delivery = self.content().delivery.clone();
            if dice.f64() < delivery.lost {
                continue;
            }
            let mut detail = world.read(|state| render::task(state, &task, false));
            self.0.clock.shift(&mut detail);
            let body = event(detail, &task, &self.0.clock.now().to_string());
            let body = if delivery.by_sns { wrapped(&body) } else { body };
            for _ in 0..if dice.f64() < delivery.doubled { 2 } else { 1 } {
                let (queue, body) = (self.clone(), body.to_string());
                let late = delivery.late.mul_f64(dice.f64());
                tokio::spawn(async move {
                    tokio::time::sleep(late).await;
                    queue.send(body);
                });
            }
        }
    }

    /// Answers a call.
    pub(super) async fn answer(&self, operation: Operation, input: &Value) -> Result<Value, ApiError> {
        match operation {
            Operation::ReceiveMessage => Ok(self.receive(input).await),
            _ => Ok(self.delete(input)),
        }
    }

    async fn receive(&self, input: &Value) -> Value {
        let seconds = Duration::from_secs(input["WaitTimeSeconds"].as_u64().unwrap_or_default());
        let until = Instant::now() + seconds.min(LONGEST_POLL);
        let most = input["MaxNumberOfMessages"].as_u64().unwrap_or(1).clamp(1, 10);
        let hidden = input["VisibilityTimeout"].as_u64().map_or(HIDDEN, Duration::from_secs);
        loop {
            let mut arrived = std::pin::pin!(self.0.arrived.notified());
            arrived.as_mut().enable(); // what arrives while it is looked is not missed
            let taken = self.content().take(most as usize, hidden, Instant::now());
            let late = tokio::time::timeout_at(until, arrived);
            if !taken.is_empty() || late.await.is_err() {
                return json!({ "Messages": taken });
            }
        }
    }

    fn delete(&self, input: &Value) -> Value {
        let mut content = self.content();
        let entries = input["Entries"].as_array().into_iter().flatten();
        let done = entries.map(|entry| {
            let receipt = entry["ReceiptHandle"].as_str().unwrap_or_default();
            content.in_flight.remove(receipt);
            json!({ "Id": entry["Id"] })
        });
        let done: Vec<_> = done.collect();
        json!({ "Successful": done, "Failed": [] })
    }
}

impl Content {
    fn take(&mut self, most: usize, hidden: Duration, now: Instant) -> Vec<Value> {
        let shown: Vec<_> =
            self.in_flight.iter().filter(|(_, (_, until))| *until <= now).map(|(id, _)| id.clone()).collect();
        for receipt in shown {
            self.waiting.extend(self.in_flight.remove(&receipt).map(|(message, _)| message));
        }
        let count = most.min(self.waiting.len());
        let taken: Vec<_> = self.waiting.drain(..count).collect();
        let each = taken.into_iter().map(|message| {
            self.receipts += 1;
            let receipt = format!("receipt-{}", self.receipts);
            let shown = json!({
                "MessageId": message.id, "ReceiptHandle": receipt, "Body": message.body,
                "MD5OfBody": "00000000000000000000000000000000",
            });
            self.in_flight.insert(receipt, (message, now + hidden));
            shown
        });
        each.collect()
    }
}

/// What EventBridge delivers of a task.
fn event(mut detail: Value, task: &Task, now: &str) -> Value {
    if let Some(members) = detail.as_object_mut() {
        members.remove("healthStatus");
        members.remove("tags");
        for (key, value) in members.iter_mut().filter(|(key, _)| key.ends_with("At")) {
            *value = value.as_f64().map_or(Value::Null, |seconds| json!(text(seconds)));
            debug_assert!(!value.is_null(), "{key} is a time");
        }
        members.insert("updatedAt".to_owned(), json!(now));
        for container in members.get_mut("containers").and_then(Value::as_array_mut).into_iter().flatten() {
            container.as_object_mut().map(|members| members.remove("healthStatus"));
        }
        for attachment in members.get_mut("attachments").and_then(Value::as_array_mut).into_iter().flatten() {
            attachment["type"] = json!("eni");
        }
    }
    let mut place = task.arn.split(':').skip(3); // arn:aws:ecs:Region:account:…
    let (region, account) = (place.next(), place.next());
    json!({
        "version": "0", "id": format!("{}-{}", task.id, task.version), "detail-type": "ECS Task State Change",
        "source": "aws.ecs", "account": account, "time": now, "region": region,
        "resources": [task.arn], "detail": detail,
    })
}

fn text(seconds: f64) -> String {
    jiff::Timestamp::from_millisecond((seconds * 1e3) as i64).unwrap_or_default().to_string()
}

fn wrapped(event: &Value) -> Value {
    json!({
        "Type": "Notification", "MessageId": event["id"], "TopicArn": "arn:aws:sns:eu-west-1:000000000000:ecs",
        "Message": event.to_string(), "Timestamp": event["time"], "SignatureVersion": "1", "Signature": "",
    })
}
