//! A TCP relay between clients and a server, which can cut, hold and lead elsewhere.
//!
//! It knows nothing of what it carries. Invariant: while it holds, not a byte passes and nobody is told.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::DropGuard;

/// What happens to what passes.
#[derive(Debug, Clone, Copy)]
struct Order {
    target: SocketAddr,
    /// Connections of an earlier number are cut.
    epoch: u64,
    held: bool,
}

/// A relay on a free port of 127.0.0.1. It ends when it is dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    order: watch::Sender<Order>,
    open: Arc<AtomicUsize>,
    _ends: DropGuard,
}

impl Relay {
    /// A relay to `target`.
    pub async fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("opening a relay")?;
        let address = listener.local_addr()?;
        let (order, orders) = watch::channel(Order { target, epoch: 0, held: false });
        let (open, ends) = (Arc::new(AtomicUsize::new(0)), tokio_util::sync::CancellationToken::new());
        let (count, ended) = (Arc::clone(&open), ends.clone());
        tokio::spawn(async move {
            while let Some(Ok((client, _))) = ended.run_until_cancelled(listener.accept()).await {
                tokio::spawn(ended.clone().run_until_cancelled_owned(carry(
                    client,
                    orders.clone(),
                    Arc::clone(&count),
                )));
            }
        });
        Ok(Self { address, order, open, _ends: ends.drop_guard() })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it carries.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Cuts every connection; new ones pass.
    pub fn cut(&self) {
        self.order.send_modify(|order| order.epoch += 1);
    }

    /// Cuts every connection; new ones lead elsewhere.
    pub fn lead_to(&self, target: SocketAddr) {
        self.order.send_modify(|order| {
            order.target = target;
            order.epoch += 1;
        });
    }

    /// Lets nothing pass any more, and keeps the connections.
    pub fn hold(&self) {
        self.order.send_modify(|order| order.held = true);
    }

    /// Lets everything pass again, what was held back first.
    pub fn release(&self) {
        self.order.send_modify(|order| order.held = false);
    }
}

struct Count(Arc<AtomicUsize>);

impl Drop for Count {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Carries one connection until one side closes it or it is cut.
async fn carry(client: TcpStream, mut orders: watch::Receiver<Order>, open: Arc<AtomicUsize>) {
    open.fetch_add(1, Ordering::AcqRel);
    let _count = Count(open);
    let Order { target, epoch, .. } = *orders.borrow();
    let Ok(server) = TcpStream::connect(target).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let passing = (orders.clone(), orders.clone());
    tokio::select! {
        () = pass(from_client, to_server, passing.0) => {}
        () = pass(from_server, to_client, passing.1) => {}
        _ = orders.wait_for(|order| order.epoch != epoch) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut orders: watch::Receiver<Order>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(read) = from.read(&mut buffer).await else { return };
        // What is held back is not lost for good: nobody could tell that from a slow network.
        if orders.wait_for(|order| !order.held).await.is_err() {
            return;
        }
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
