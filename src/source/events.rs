//! A queue of ECS events (SQS) as letters to the sources of their clusters.
//!
//! It is no source of its own: what events change is in the views of the clusters, and what they miss a reading of the
//! cluster finds. Its cell tells only how the queue itself fares.
//!
//! Invariant: a message is deleted only after what it tells has been taken in; one that can't be read is left to the
//! queue's dead-letter queue.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, Message};
use backon::BackoffBuilder;
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::message::{Told, read};
use super::aws::{Access, Clock, failed};
use super::ecs::{Outbox, TaskEvent};
use super::{CellWriter, SourceError, backoff};
use crate::model::{ClusterId, View};
use crate::telemetry::{Counter, EventLabels, Metrics, QueueLabels};

mod message;

const RECEIVE: &str = "sqs:ReceiveMessage";
const DELETE: &str = "sqs:DeleteMessage";
/// How long an empty queue is listened to in one call, in seconds: the most that SQS allows.
const LONG_POLL: i32 = 20;
/// How many messages come at a time: the most that SQS allows.
const BATCH: i32 = 10;
/// How many messages that can't be read are remembered, so that each is told once.
const REMEMBERED: usize = 1_000;

/// Where events come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The URL of the queue.
    pub queue_url: String,
    /// How many calls listen to it side by side.
    pub receivers: usize,
}

/// A cluster whose events are wanted.
#[derive(Clone, Debug)]
pub struct Addressee {
    /// Which one: one of the same name elsewhere is another.
    pub cluster: ClusterId,
    /// Where its letters go.
    pub outbox: Outbox,
}

/// The queue with those who want to hear.
#[derive(Debug)]
pub struct Queue {
    client: Client,
    /// AWS's, by which events are old.
    clock: Arc<Clock>,
    settings: Settings,
    addressees: Vec<Addressee>,
    metrics: Metrics,
    unreadable: Mutex<Unreadable>,
}

/// The messages that could not be read.
#[derive(Debug, Default)]
struct Unreadable {
    ids: HashSet<String>,
    order: VecDeque<String>,
}

/// What came for one cluster, with the receipts of its messages.
#[derive(Debug, Default)]
struct Parcel {
    events: Vec<TaskEvent>,
    asks_for_reading: bool,
    receipts: Vec<String>,
}

impl Queue {
    /// A queue that nobody listens to yet.
    pub fn new(access: &Access, settings: Settings, addressees: Vec<Addressee>, metrics: Metrics) -> Self {
        let (client, clock) = (access.sqs(), access.clock());
        Self { client, clock, settings, addressees, metrics, unreadable: Mutex::default() }
    }

    /// Listens until `shutdown`. Failures are waited out, the longer the more often they come.
    pub async fn run(self, cell: CellWriter, max_backoff: Duration, shutdown: CancellationToken) {
        let receivers = (0..self.settings.receivers).map(|_| self.listen(&cell, max_backoff));
        tokio::select! {
            () = shutdown.cancelled() => {}
            _ = join_all(receivers) => {}
        }
    }

    async fn listen(&self, cell: &CellWriter, max_backoff: Duration) {
        let (mut pauses, mut failed) = (backoff(max_backoff).build(), false);
        loop {
            let began = Instant::now();
            // After a failure nobody waits for a message to be sure that all is well again.
            match self.receive(if failed { 0 } else { LONG_POLL }).await {
                Ok(()) => {
                    failed = false;
                    cell.publish(View::default(), began);
                    pauses = backoff(max_backoff).build();
                }
                Err(error) => {
                    failed = true;
                    cell.fail(error);
                    tokio::time::sleep(pauses.next().unwrap_or(max_backoff)).await;
                }
            }
        }
    }

    /// Takes a batch of messages, for which it waits so many seconds, has it taken in, and deletes it.
    async fn receive(&self, seconds: i32) -> Result<(), SourceError> {
        let call = self.client.receive_message().queue_url(&self.settings.queue_url);
        let call = call.max_number_of_messages(BATCH).wait_time_seconds(seconds);
        let answer = call.send().await.map_err(|error| failed(RECEIVE, error))?;
        let (parcels, mut done) = self.sort(answer.messages());
        let (mut applied, mut left) = (BTreeSet::new(), BTreeSet::new());
        for (addressee, parcel) in parcels {
            let Some(addressee) = self.addressees.get(addressee) else { continue };
            let is_taken = addressee.outbox.send(parcel.events, parcel.asks_for_reading).await;
            if is_taken { &mut applied } else { &mut left }.extend(parcel.receipts);
        }
        applied.retain(|receipt| !left.contains(receipt));
        self.count("applied").inc_by(applied.len() as u64);
        done.extend(applied);
        self.delete(done).await
    }

    /// What came for each addressee, and the receipts of what concerns none.
    fn sort(&self, messages: &[Message]) -> (BTreeMap<usize, Parcel>, Vec<String>) {
        let (mut parcels, mut strangers) = (BTreeMap::<usize, Parcel>::new(), Vec::new());
        for message in messages {
            let Some(receipt) = message.receipt_handle() else { continue };
            let told = match read(message.body().unwrap_or_default()) {
                Ok(told) => told,
                Err(why) => {
                    self.leave(message, &why);
                    continue;
                }
            };
            self.note_lag(told.at());
            let addressees = told.cluster().map(|arn| self.addressees_of(arn)).unwrap_or_default();
            if addressees.is_empty() {
                self.count("ignored").inc();
                strangers.push(receipt.to_owned());
            }
            for addressee in addressees {
                let parcel = parcels.entry(addressee).or_default();
                parcel.receipts.push(receipt.to_owned());
                match &told {
                    Told::Task { event, .. } => parcel.events.push(TaskEvent::clone(event)),
                    Told::Other { .. } => parcel.asks_for_reading = true,
                }
            }
        }
        (parcels, strangers)
    }

    /// Who wants to hear of a cluster: everyone whose cluster it may be. Nobody believes what is about another account.
    fn addressees_of(&self, arn: &str) -> Vec<usize> {
        let Some(cluster) = ClusterId::read(arn) else { return Vec::new() };
        let all = self.addressees.iter().enumerate();
        all.filter(|(_, addressee)| addressee.cluster.may_be(&cluster)).map(|(number, _)| number).collect()
    }

    /// Leaves a message where it is: after some tries SQS moves it to the dead-letter queue, where people find it.
    fn leave(&self, message: &Message, why: &str) {
        let id = message.message_id().unwrap_or_default();
        let mut unreadable = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        if !unreadable.ids.insert(id.to_owned()) {
            return;
        }
        unreadable.order.push_back(id.to_owned());
        if unreadable.order.len() > REMEMBERED
            && let Some(oldest) = unreadable.order.pop_front()
        {
            unreadable.ids.remove(&oldest);
        }
        self.count("unreadable").inc();
        warn!(
            queue = self.settings.queue_url,
            message = id,
            why,
            "an event can't be read and is left in its queue"
        );
    }

    async fn delete(&self, receipts: Vec<String>) -> Result<(), SourceError> {
        if receipts.is_empty() {
            return Ok(());
        }
        let entry = |(number, receipt): (usize, String)| {
            DeleteMessageBatchRequestEntry::builder().id(number.to_string()).receipt_handle(receipt).build()
        };
        let entries: Result<Vec<_>, _> = receipts.into_iter().enumerate().map(entry).collect();
        let entries = entries.map_err(|error| super::aws::bad_response(DELETE, error))?;
        let call = self.client.delete_message_batch().queue_url(&self.settings.queue_url);
        let answer = call.set_entries(Some(entries)).send().await.map_err(|error| failed(DELETE, error))?;
        self.count("undeleted").inc_by(answer.failed().len() as u64);
        for failure in answer.failed() {
            debug!(code = failure.code(), message = failure.message(), "an event comes once more");
        }
        Ok(())
    }

    fn count(&self, outcome: &'static str) -> Counter {
        let queue = self.queue();
        self.metrics.events.get_or_create_owned(&EventLabels { queue, outcome })
    }

    fn note_lag(&self, at: Option<SystemTime>) {
        // What seems to come from the future is new: AWS's clock is known to about a second.
        if let Some(lag) = at.map(|at| self.clock.now().duration_since(at).unwrap_or_default()) {
            self.metrics.lag.get_or_create(&QueueLabels { queue: self.queue() }).set(lag.as_secs_f64());
        }
    }

    fn queue(&self) -> String {
        queue_name(&self.settings.queue_url).to_owned()
    }
}

/// The name of a queue, which is the last word of its URL.
pub fn queue_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

#[cfg(test)]
mod tests;
