//! Clients that behave badly, beside those that are measured.
//!
//! They are no part of what is measured. Invariant: whatever happens to one, it goes on being bad until it is
//! dropped, and that it was is proven.

use std::cell::Cell;
use std::rc::Rc;
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

/// Every habit.
const HABITS: [Habit; 4] = [Habit::Stalled, Habit::Slow, Habit::Refusing, Habit::Restless];

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

/// How often each habit was lived out: streams opened, and answers given.
#[derive(Debug, Default)]
struct Deeds {
    opened: [Cell<usize>; 4],
    answered: [Cell<usize>; 4],
}

impl Deeds {
    fn add(of: &[Cell<usize>; 4], habit: Habit) {
        let count = &of[habit as usize];
        count.set(count.get() + 1);
    }
}

/// Bad clients, as many of each habit. Dropping them ends them.
pub(crate) struct Bad {
    clients: Vec<JoinHandle<()>>,
    of_each: usize,
    deeds: Rc<Deeds>,
}

impl Bad {
    /// They all ask for these services.
    pub(crate) fn connect(door: &Door, services: &[usize], of_each: usize) -> Self {
        let (deeds, habits) = (Rc::new(Deeds::default()), HABITS);
        let habits = habits.into_iter().cycle().take(of_each * habits.len());
        let clients = habits.enumerate().map(|(place, habit)| {
            let number = 1_000_000 + place;
            let asked = Asked { number, services: services.to_vec(), presented: [].into(), clusters: None };
            let (door, deeds) = (door.clone(), Rc::clone(&deeds));
            tokio::task::spawn_local(async move {
                loop {
                    let _ = live(&door, &asked, habit, &deeds).await; // and again
                    tokio::time::sleep(PAUSE).await;
                }
            })
        });
        Self { clients: clients.collect(), of_each, deeds }
    }

    /// An error if they were not as bad as they should be: each connected, and the restless often; all but the stalled ones
    /// answered.
    pub(crate) fn prove(&self) -> anyhow::Result<()> {
        for habit in HABITS {
            let [opened, answered] =
                [&self.deeds.opened, &self.deeds.answered].map(|of| of[habit as usize].get() / self.of_each);
            let proven = match habit {
                Habit::Stalled => opened >= 1 && answered == 0,
                Habit::Slow | Habit::Refusing => opened >= 1 && answered >= 5,
                Habit::Restless => opened >= 5 && answered >= 5,
            };
            anyhow::ensure!(
                proven,
                "{habit:?} clients connected {opened} times each and answered {answered}"
            );
        }
        Ok(())
    }
}

impl Drop for Bad {
    fn drop(&mut self) {
        self.clients.iter().for_each(JoinHandle::abort);
    }
}

async fn live(door: &Door, asked: &Asked, habit: Habit, deeds: &Deeds) -> anyhow::Result<()> {
    let window = if matches!(habit, Habit::Stalled) { LITTLE } else { WINDOW };
    let mut stream = Stream::open(door, asked, window).await?;
    Deeds::add(&deeds.opened, habit);
    let answered = || Deeds::add(&deeds.answered, habit);
    match habit {
        Habit::Stalled => std::future::pending().await,
        Habit::Restless => tokio::time::timeout(STAY, accept(&mut stream, Duration::ZERO, answered)).await?,
        Habit::Slow => accept(&mut stream, LATE, answered).await,
        Habit::Refusing => loop {
            let response = stream.next().await?;
            stream.answer(response, Some("refused"))?;
            answered();
        },
    }
}

async fn accept(stream: &mut Stream, late: Duration, answered: impl Fn()) -> anyhow::Result<()> {
    loop {
        let response = stream.next().await?;
        if late > Duration::ZERO {
            tokio::time::sleep(late).await;
        }
        stream.answer(response, None)?;
        answered();
    }
}
