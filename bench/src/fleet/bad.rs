//! Clients that behave badly, beside those that are measured.
//!
//! Nothing is noted of what they get. Invariant: whatever happens to one, it goes on being bad until it is dropped.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::stream::{Asked, Stream, WINDOW};
use crate::door::Door;

/// What one that reads nothing can be sent: the least that HTTP/2 begins with.
const LITTLE: u32 = 65_535;
/// How late a slow client accepts.
const LATE: Duration = Duration::from_secs(1);
/// How long a restless client stays.
const STAY: Duration = Duration::from_secs(1);
/// Between two tries to connect.
const PAUSE: Duration = Duration::from_millis(100);

/// What is bad about a client.
#[derive(Debug, Clone, Copy)]
enum Habit {
    /// It reads nothing.
    Stalled,
    /// It accepts everything, late.
    Slow,
    /// It refuses everything.
    Refusing,
    /// It connects again and again.
    Restless,
}

/// Bad clients, as many of each habit. Dropping them ends them.
pub(crate) struct Bad {
    clients: Vec<JoinHandle<()>>,
}

impl Bad {
    /// They all ask for these services.
    pub(crate) fn connect(door: &Door, services: &[usize], of_each: usize) -> Self {
        let habits = [Habit::Stalled, Habit::Slow, Habit::Refusing, Habit::Restless];
        let habits = habits.into_iter().cycle().take(of_each * habits.len());
        let clients = habits.enumerate().map(|(place, habit)| {
            let number = 1_000_000 + place;
            let asked = Asked { number, services: services.to_vec(), presented: [].into(), clusters: None };
            let door = door.clone();
            tokio::task::spawn_local(async move {
                loop {
                    let _ = live(&door, &asked, habit).await; // and again
                    tokio::time::sleep(PAUSE).await;
                }
            })
        });
        Self { clients: clients.collect() }
    }
}

impl Drop for Bad {
    fn drop(&mut self) {
        self.clients.iter().for_each(JoinHandle::abort);
    }
}

async fn live(door: &Door, asked: &Asked, habit: Habit) -> anyhow::Result<()> {
    let window = if matches!(habit, Habit::Stalled) { LITTLE } else { WINDOW };
    let mut stream = Stream::open(door, asked, window).await?;
    match habit {
        Habit::Stalled => std::future::pending().await,
        Habit::Restless => tokio::time::timeout(STAY, accept(&mut stream, Duration::ZERO)).await?,
        Habit::Slow => accept(&mut stream, LATE).await,
        Habit::Refusing => loop {
            let response = stream.next().await?;
            stream.answer(response, Some("refused"))?;
        },
    }
}

async fn accept(stream: &mut Stream, late: Duration) -> anyhow::Result<()> {
    loop {
        let response = stream.next().await?;
        if late > Duration::ZERO {
            tokio::time::sleep(late).await;
        }
        stream.answer(response, None)?;
    }
}
