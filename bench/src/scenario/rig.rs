//! What a measurement stands on: a server with a world, the clients that subscribe to it, and their book.
//!
//! It measures nothing. Invariant: every change goes to the book first and to the server then.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tempfile::TempDir;

use super::Bench;
use crate::fleet::{Arrives, Book, Fleet};
use crate::machine::Mode;
use crate::server::{Kind, Server};
use crate::world::{Change, World};

/// How long all clients may take to get everything.
const OPENING: Duration = Duration::from_secs(120);
/// How long all clients may take to get a change.
const ROUND: Duration = Duration::from_secs(60);

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) services: usize,
    pub(super) tasks: usize,
    pub(super) streams: usize,
    pub(super) subscriptions: usize,
}

/// A server that serves a world.
pub(super) struct Rig {
    pub(super) server: Server,
    pub(super) world: World,
    pub(super) book: Rc<RefCell<Book>>,
    asked: Vec<Vec<usize>>,
    clusters: bool,
    _folder: TempDir,
}

impl Size {
    /// As it is told in results.
    pub(super) fn words(self) -> String {
        let Self { services, tasks, streams, subscriptions } = self;
        format!("{streams} streams x {subscriptions} of {services} x {tasks}")
    }

    /// A common service, and others that each stream has to itself as far as there are enough.
    pub(super) fn subscriptions(self) -> Vec<Vec<usize>> {
        let (services, count) = (self.services, self.subscriptions);
        let each = (0..self.streams).map(|stream| {
            let others = (0..count - 1).map(|other| 1 + (stream * (count - 1) + other) % (services - 1));
            std::iter::once(0).chain(others).collect()
        });
        each.collect()
    }
}

impl Rig {
    /// Nobody is connected yet.
    pub(super) async fn new(bench: &Bench, mode: Mode, size: Size, kind: Kind) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("making a folder")?;
        let mut server = Server::start(kind, &bench.programs, mode, folder.path()).await?;
        let world = World::new(size.services, size.tasks);
        let book = Rc::new(RefCell::new(Book::new(size.services)));
        let all = world.all();
        all.iter().for_each(|change| book.borrow_mut().announce(change, Instant::now()));
        server.load(&all).await?;
        let asked = size.subscriptions();
        Ok(Self { server, world, book, asked, clusters: false, _folder: folder })
    }

    /// Whoever connects asks for the clusters first, as Envoy does.
    pub(super) fn with_clusters(self) -> Self {
        Self { clusters: true, ..self }
    }

    /// Connects everyone; they hold everything when this returns.
    pub(super) async fn connect(&mut self, arrives: Arrives) -> anyhow::Result<Fleet> {
        self.connect_having_missed(0, arrives).await
    }

    /// The same, after so many services have changed since they knew what they hold.
    pub(super) async fn connect_having_missed(
        &mut self,
        services: usize,
        arrives: Arrives,
    ) -> anyhow::Result<Fleet> {
        let fleet = Fleet::new(self.server.door(), &self.book, &self.asked, arrives, self.clusters);
        let changes: Vec<_> = (0..services).map(|service| self.world.stop(service)).collect();
        changes.iter().for_each(|change| self.book.borrow_mut().announce(change, Instant::now()));
        self.server.apply(&changes).await?;
        fleet.open(OPENING).await?;
        Ok(fleet)
    }

    /// Has a change served, and waits until everyone has it.
    pub(super) async fn change(&mut self, fleet: &Fleet, change: Change) -> anyhow::Result<()> {
        self.book.borrow_mut().announce(&change, Instant::now());
        self.server.apply(&[change]).await?;
        self.current(fleet).await
    }

    /// How many clients ask for a service.
    pub(super) fn asking(&self, service: usize) -> usize {
        self.book.borrow().subscribers(service)
    }

    /// Waits until everyone has every change.
    pub(super) async fn current(&self, fleet: &Fleet) -> anyhow::Result<()> {
        fleet.current(ROUND).await
    }
}
