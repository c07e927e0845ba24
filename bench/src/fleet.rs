//! Thousands of delta streams on one thread, and one book of what they hold.
//!
//! It is no model of Envoy: it asks for load assignments by name, perhaps for their clusters first, and accepts
//! everything. Invariant: nothing is measured of a fleet in which any stream has ended or held anything wrong.

mod bad;
mod book;
mod stream;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

pub(crate) use bad::Bad;
pub(crate) use book::Book;
use book::Held;
use stream::{Asked, Stream, WINDOW};

use crate::door::Door;

/// How many streams are opened at the same time.
const AT_ONCE: usize = 200;
/// How long it is listened for what should not come.
const SETTLE: Duration = Duration::from_millis(300);

/// What clients hold when they connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrives {
    /// Nothing: they are new.
    Empty,
    /// The latest of everything, and they say so: they were connected before.
    Holding,
}

/// Streams that are open. Dropping it closes them.
pub(crate) struct Fleet {
    book: Rc<RefCell<Book>>,
    streams: Vec<JoinHandle<()>>,
    /// Who may connect now.
    turns: Arc<Semaphore>,
    /// How many are open.
    open: Rc<Cell<usize>>,
}

impl Fleet {
    /// A stream for each list of services, which may ask for their clusters first; none is opened yet.
    pub(crate) fn new(
        door: &Door,
        book: &Rc<RefCell<Book>>,
        subscriptions: &[Vec<usize>],
        arrives: Arrives,
        clusters: bool,
    ) -> Self {
        let (turns, open) = (Arc::new(Semaphore::new(0)), Rc::new(Cell::new(0)));
        let streams = subscriptions.iter().enumerate().map(|(number, services)| {
            let (book, turns, open) = (Rc::clone(book), Arc::clone(&turns), Rc::clone(&open));
            let door = door.clone();
            let (presented, presented_clusters) = match arrives {
                Arrives::Empty => Default::default(),
                Arrives::Holding => (book.borrow().presented(services), book.borrow().clusters(services)),
            };
            let mut member = Member::new(Rc::clone(&book), services, arrives == Arrives::Holding);
            let clusters = clusters.then_some(presented_clusters);
            let asked = Asked { number, services: services.clone(), presented, clusters };
            tokio::task::spawn_local(async move {
                if let Err(error) = live(&door, &asked, &turns, &open, &mut member).await {
                    book.borrow_mut().fail(format!("stream {number}: {error:#}"));
                }
            })
        });
        let streams = streams.collect();
        Self { book: Rc::clone(book), streams, turns, open }
    }

    /// Opens the streams. They hold everything when this returns.
    pub(crate) async fn open(&self, limit: Duration) -> anyhow::Result<()> {
        self.turns.add_permits(AT_ONCE);
        self.current(limit).await.context("opening the streams")
    }

    /// Waits until every stream is open and holds the latest of all that it asked for.
    pub(crate) async fn current(&self, limit: Duration) -> anyhow::Result<()> {
        let changed = self.book.borrow().changed();
        let until = tokio::time::Instant::now() + limit;
        loop {
            let current = self.book.borrow().is_current()?;
            if current && self.open.get() == self.streams.len() {
                return Ok(());
            }
            tokio::time::timeout_at(until, changed.notified())
                .await
                .context("not every stream holds the latest in time")?;
        }
    }

    /// How many streams there are.
    pub(crate) fn len(&self) -> usize {
        self.streams.len()
    }

    /// Ends a measurement: nobody is told anything else any more, and everyone still holds the latest.
    pub(crate) async fn finish(self) -> anyhow::Result<()> {
        tokio::time::sleep(SETTLE).await; // that nothing comes can't be awaited
        self.current(SETTLE).await.context("at the end")?;
        self.close().await;
        Ok(())
    }

    /// Closes every stream; when this returns they are.
    pub(crate) async fn close(mut self) {
        self.streams.iter().for_each(JoinHandle::abort);
        for stream in std::mem::take(&mut self.streams) {
            let _ = stream.await; // ended as it was told to
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.streams.iter().for_each(JoinHandle::abort);
    }
}

/// What one stream holds, entered in the book for as long as the stream lives.
struct Member {
    book: Rc<RefCell<Book>>,
    held: Held,
}

impl Member {
    fn new(book: Rc<RefCell<Book>>, services: &[usize], holding: bool) -> Self {
        let held = book.borrow_mut().subscribe(services, holding);
        Self { book, held }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.book.borrow_mut().leave(&self.held);
    }
}

async fn live(
    door: &Door,
    asked: &Asked,
    turns: &Semaphore,
    open: &Cell<usize>,
    member: &mut Member,
) -> anyhow::Result<()> {
    let turn = turns.acquire().await.context("the turns are closed")?;
    let mut stream = Stream::open(door, asked, WINDOW).await?;
    drop(turn);
    stream.take_clusters(asked, &member.book).await?;
    open.set(open.get() + 1);
    member.book.borrow().changed().notify_one();
    stream.follow(&member.book, &mut member.held).await
}
