//! How events and hints reach the source of their cluster, and how it says that it has taken events in.
//!
//! It knows no queue. Invariant: whoever sent a letter learns that it was taken in, or that it never will be.

use tokio::sync::{mpsc, oneshot};

use super::TaskEvent;
use crate::model::InstanceId;

/// How many letters may wait: whoever sends more waits too, and so leaves events in their queue.
const WAITING: usize = 64;

/// Events about one cluster that came together.
#[derive(Debug)]
pub struct Letter {
    pub(in crate::source) events: Vec<TaskEvent>,
    /// Something happened that only a reading tells: a deployment, a container instance.
    pub(in crate::source) asks_for_reading: bool,
    pub(in crate::source) hints: Vec<Hint>,
    taken_in: oneshot::Sender<()>,
}

/// What the sidecar of a task makes likely, and nobody believes without asking.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hint {
    /// It went unasked, and its task may have gone too.
    Gone(InstanceId),
    /// It is there.
    Here(InstanceId),
}

impl Letter {
    /// A letter whose answer nobody awaits.
    #[cfg(test)]
    pub(super) fn of(events: Vec<TaskEvent>) -> Self {
        Self { events, asks_for_reading: false, hints: Vec::new(), taken_in: oneshot::channel().0 }
    }

    pub(in crate::source) fn done(self) {
        let _ = self.taken_in.send(()); // whoever sent it may be gone
    }
}

/// Where letters to one cluster go.
#[derive(Clone, Debug)]
pub struct Outbox(mpsc::Sender<Letter>);

/// Where they come from.
#[derive(Debug, Default)]
pub struct Inbox(Option<mpsc::Receiver<Letter>>);

/// A way for letters to one cluster.
pub fn mailbox() -> (Outbox, Inbox) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Outbox(sender), Inbox(Some(receiver)))
}

impl Outbox {
    /// Sends events, and waits until they have been taken in; `false` if they never will be.
    pub async fn send(&self, events: Vec<TaskEvent>, asks_for_reading: bool) -> bool {
        let (taken_in, answer) = oneshot::channel();
        let letter = Letter { events, asks_for_reading, hints: Vec::new(), taken_in };
        self.0.send(letter).await.is_ok() && answer.await.is_ok()
    }

    /// Sends hints, which are lost when nobody is there any more; the next reading finds what they were about.
    pub async fn hint(&self, hints: Vec<Hint>) {
        let letter =
            Letter { events: Vec::new(), asks_for_reading: false, hints, taken_in: oneshot::channel().0 };
        let _ = self.0.send(letter).await;
    }
}

impl Inbox {
    /// Every letter that waits, as soon as there is one; cancel safe. Without a queue there never is.
    pub(in crate::source) async fn next(&mut self) -> Vec<Letter> {
        let mut letters = Vec::new();
        if let Some(receiver) = &mut self.0
            && receiver.recv_many(&mut letters, WAITING).await > 0
        {
            return letters;
        }
        self.0 = None; // whoever could send is gone
        std::future::pending().await
    }
}
