//! A connection that may be bad: cut, held up, deaf or refused, as networks are between a sidecar and its
//! control plane.
//!
//! It knows nothing of what passes through, and decides nothing: whoever holds it says when it is how.
//! Invariant: the bytes of a connection arrive whole and in order, or the connection ends.

mod sever;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use sever::Sever;

/// How much is under way in one direction of one connection.
const BUFFER: usize = 16 << 10;

/// What becomes of bytes and of new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Everything passes.
    Through,
    /// Nothing passes now, and all of it later.
    Held,
    /// What arrives is lost, and nobody is told; so these connections end with the mood.
    Deaf,
    /// As [`Mood::Through`] for connections that are open; new ones are closed at once.
    Refusing,
}

/// How a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Both ends get a reset.
    Reset,
    /// Both ends see the other close.
    Close,
    /// The client gets a reset; the server hears nothing until the next cut or change of mood.
    ClientOnly,
    /// As [`Cable::sever_behind`] does: the client sees the server close, the server gets a reset.
    Severed,
}

/// A way to an address. Dropping it cuts everything.
#[derive(Debug)]
pub struct Cable {
    address: SocketAddr,
    line: watch::Sender<Line>,
    open: Arc<AtomicUsize>,
    _stop: DropGuard,
}

#[derive(Debug, Clone)]
struct Line {
    mood: Mood,
    cuts: u64,
    how: Cut,
    /// Behind which of the server's messages everything is cut.
    needle: Option<Arc<[u8]>>,
}

impl Default for Line {
    fn default() -> Self {
        Self { mood: Mood::Through, cuts: 0, how: Cut::Reset, needle: None }
    }
}

impl Cable {
    /// Listens on a free port of 127.0.0.1 and connects whoever comes with `to`.
    pub async fn lay(to: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("laying a cable")?;
        let address = listener.local_addr().context("laying a cable")?;
        let (line, _) = watch::channel(Line::default());
        let (stop, open) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let (accepting, counted, lines) = (stop.clone(), open.clone(), line.clone());
        tokio::spawn(async move {
            while let Some(accepted) = accepting.run_until_cancelled(listener.accept()).await {
                let Ok((client, _)) = accepted else { continue };
                let born = lines.borrow().cuts;
                let (line, lines) = (lines.subscribe(), lines.clone());
                let call = Call { client, to, line, lines, born, open: counted.clone() };
                let stop = accepting.clone();
                tokio::spawn(async move { stop.run_until_cancelled(call.carry()).await });
            }
        });
        Ok(Self { address, line, open, _stop: stop.drop_guard() })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections are open from end to end.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Changes what becomes of bytes and of new connections.
    pub fn set(&self, mood: Mood) {
        self.line.send_modify(|line| line.mood = mood);
    }

    /// Cuts every connection behind the server's next gRPC message that holds these bytes. Now the server has
    /// to be silent. [`Cable::severed`] tells when it has happened.
    pub fn sever_behind(&self, needle: &str) {
        self.line.send_modify(|line| line.needle = Some(needle.as_bytes().into()));
    }

    /// Waits until what [`Cable::sever_behind`] waits for has happened.
    pub async fn severed(&self) {
        // It cannot fail: the sender is ours.
        let _ = self.line.subscribe().wait_for(|line| line.needle.is_none()).await;
    }

    /// Cuts every connection; tells how many were open from end to end.
    pub fn cut(&self, how: Cut) -> usize {
        let open = self.open();
        self.line.send_modify(|line| {
            line.cuts += 1;
            line.how = how;
        });
        open
    }
}

/// One connection.
struct Call {
    client: TcpStream,
    to: SocketAddr,
    line: watch::Receiver<Line>,
    lines: watch::Sender<Line>,
    born: u64,
    open: Arc<AtomicUsize>,
}

/// Counts a connection for as long as it is open from end to end.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Call {
    async fn carry(mut self) {
        if self.line.borrow().mood == Mood::Refusing || !self.passes().await {
            reset(&self.client);
            return;
        }
        let Ok(mut server) = TcpStream::connect(self.to).await else {
            reset(&self.client);
            return;
        };
        let nodelay = self.client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
        if nodelay.is_err() {
            return;
        }
        self.open.fetch_add(1, Ordering::AcqRel);
        let counted = Counted(self.open.clone());
        let ended = self.relay(&mut server).await;
        drop(counted);
        if let Some(Cut::Severed) = ended {
            reset(&server);
            drop(server);
            // A reset could overtake what was said last.
            let _ = self.client.shutdown().await;
            swallow(&mut self.client).await;
            self.lines.send_modify(|line| line.needle = None);
            return;
        }
        match ended {
            Some(Cut::Reset) => {
                reset(&self.client);
                reset(&server);
            }
            Some(Cut::ClientOnly) => {
                reset(&self.client);
                drop(self.client);
                // The server's end stays as it is until something happens to the line.
                let _ = self.line.changed().await;
                reset(&server);
            }
            Some(Cut::Close | Cut::Severed) | None => {}
        }
    }

    /// Waits for a new connection until it may begin; false if it must not.
    async fn passes(&mut self) -> bool {
        let born = self.born;
        let decided = self.line.wait_for(|line| line.cuts != born || line.mood != Mood::Held).await;
        let Ok(line) = decided.map(|line| line.clone()) else { return false };
        if line.mood == Mood::Deaf {
            // Nobody answers, and nobody says so.
            let _ = self.line.wait_for(|line| line.cuts != born || line.mood != Mood::Deaf).await;
            return false;
        }
        line.cuts == born
    }

    /// Carries bytes until the line is cut or both ends have closed; tells how it was cut.
    async fn relay(&mut self, server: &mut TcpStream) -> Option<Cut> {
        let ((mut client_in, mut client_out), (mut server_in, mut server_out)) =
            (self.client.split(), server.split());
        let (mut up, mut down) = (Flow::default(), Flow::default());
        loop {
            let line = self.line.borrow_and_update().clone();
            if line.cuts != self.born {
                return Some(line.how);
            }
            down.sever = match (down.sever.take(), line.needle) {
                (sever, Some(needle)) => Some(sever.unwrap_or_else(|| Sever::behind(&needle))),
                (_, None) => None,
            };
            match line.mood {
                Mood::Through | Mood::Refusing => tokio::select! {
                    changed = self.line.changed() => changed.ok()?,
                    ended = both(
                        up.run(&mut client_in, &mut server_out),
                        down.run(&mut server_in, &mut client_out),
                    ) => {
                        return if down.severed { Some(Cut::Severed) } else { ended.err() };
                    }
                },
                Mood::Held => self.line.changed().await.ok()?,
                Mood::Deaf => {
                    tokio::select! {
                        changed = self.line.changed() => changed.ok()?,
                        // Who closes is not heard either.
                        () = deaf(&mut client_in) => {}
                        () = deaf(&mut server_in) => {}
                    }
                    return Some(Cut::Reset);
                }
            }
        }
    }
}

/// A reset instead of a proper end, once the socket is dropped.
fn reset(stream: &TcpStream) {
    // One that is gone already needs none.
    let _ = stream.set_zero_linger();
}

/// Waits until both directions have closed, or one has failed.
async fn both(
    up: impl Future<Output = std::io::Result<()>>,
    down: impl Future<Output = std::io::Result<()>>,
) -> Result<(), Cut> {
    tokio::try_join!(up, down).map(drop).map_err(|_| Cut::Reset)
}

/// Reads and forgets until the other end closes.
async fn swallow(from: &mut (impl AsyncRead + Unpin)) {
    let mut buffer = vec![0; BUFFER];
    while from.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
}

/// Reads and forgets, and does not even notice the end.
async fn deaf(from: &mut ReadHalf<'_>) {
    swallow(from).await;
    std::future::pending::<()>().await;
}

/// One direction. What was read and not yet written is kept here, so that it may be interrupted anywhere.
#[derive(Default)]
struct Flow {
    waiting: Vec<u8>,
    closed: bool,
    sever: Option<Sever>,
    severed: bool,
}

impl Flow {
    async fn run(&mut self, from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>) -> std::io::Result<()> {
        while !self.closed {
            while !self.waiting.is_empty() {
                let written = to.write(&self.waiting).await?;
                self.waiting.drain(..written);
            }
            if self.severed {
                return Err(std::io::Error::other("severed"));
            }
            self.waiting.reserve(BUFFER);
            self.closed = from.read_buf(&mut self.waiting).await? == 0;
            if let Some(sever) = &mut self.sever {
                (self.waiting, self.severed) = sever.feed(&std::mem::take(&mut self.waiting));
            }
        }
        to.shutdown().await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::wait;

    const SOON: Duration = Duration::from_secs(5);

    async fn pair() -> (Cable, TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let cable = Cable::lay(listener.local_addr().unwrap()).await.unwrap();
        let client = TcpStream::connect(cable.address()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let open = async || Ok((cable.open() == 1).then_some(()));
        wait::until(SOON, "the connection to be open", open).await.unwrap();
        (cable, client, server)
    }

    async fn arrives(from: &mut TcpStream, to: &mut TcpStream, text: &[u8]) {
        from.write_all(text).await.unwrap();
        let mut heard = vec![0; text.len()];
        tokio::time::timeout(SOON, to.read_exact(&mut heard)).await.unwrap().unwrap();
        assert_eq!(heard, text);
    }

    async fn hears_nothing(stream: &mut TcpStream) {
        let mut byte = [0];
        let heard = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut byte)).await;
        assert!(heard.is_err(), "heard {heard:?}");
    }

    async fn is_reset(stream: &mut TcpStream) {
        let read = tokio::time::timeout(SOON, stream.read(&mut [0])).await.unwrap();
        assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_what_is_held_arrives_later() {
        let (cable, mut client, mut server) = pair().await;
        arrives(&mut client, &mut server, b"up").await;
        arrives(&mut server, &mut client, b"down").await;
        cable.set(Mood::Held);
        server.write_all(b"late").await.unwrap();
        hears_nothing(&mut client).await;
        cable.set(Mood::Through);
        arrives(&mut server, &mut client, b"").await;
        let mut heard = [0; 4];
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"late");
        // Many times a buffer, held and let go again and again on the way.
        let sent: Vec<u8> = (0..1 << 20).map(|n: u32| n.to_le_bytes()[1]).collect();
        let mut got = vec![0; sent.len()];
        let (mut reader, mut writer) = (client, server);
        let flips = async {
            for _ in 0..50 {
                cable.set(Mood::Held);
                tokio::task::yield_now().await;
                cable.set(Mood::Through);
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        };
        let (wrote, read, ()) = tokio::join!(writer.write_all(&sent), reader.read_exact(&mut got), flips);
        wrote.unwrap();
        read.unwrap();
        assert!(got == sent, "the bytes arrived in another order");
    }

    #[tokio::test]
    async fn a_cut_ends_what_is_open_and_new_connections_pass() {
        let (cable, mut client, mut server) = pair().await;
        assert_eq!(cable.cut(Cut::Reset), 1);
        is_reset(&mut client).await;
        is_reset(&mut server).await;
        let closed = async || Ok((cable.open() == 0).then_some(()));
        wait::until(SOON, "nothing to be open", closed).await.unwrap();
        assert_eq!(cable.cut(Cut::Reset), 0);

        let (cable, mut client, mut server) = pair().await;
        cable.cut(Cut::Close);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);

        let (cable, mut client, mut server) = pair().await;
        cable.cut(Cut::ClientOnly);
        is_reset(&mut client).await;
        hears_nothing(&mut server).await;
        cable.set(Mood::Through);
        is_reset(&mut server).await;
    }

    #[tokio::test]
    async fn a_deaf_line_loses_everything_and_its_connections_end_with_it() {
        let (cable, mut client, mut server) = pair().await;
        cable.set(Mood::Deaf);
        client.write_all(b"lost").await.unwrap();
        hears_nothing(&mut server).await;
        let mut late = TcpStream::connect(cable.address()).await.unwrap();
        hears_nothing(&mut late).await;
        cable.set(Mood::Through);
        is_reset(&mut client).await;
        is_reset(&mut server).await;
        is_reset(&mut late).await;
    }

    #[tokio::test]
    async fn a_refusing_line_takes_nobody_new() {
        let (cable, mut client, mut server) = pair().await;
        cable.set(Mood::Refusing);
        arrives(&mut client, &mut server, b"still").await;
        let mut late = TcpStream::connect(cable.address()).await.unwrap();
        is_reset(&mut late).await;
        drop(cable);
        assert!(client.read(&mut [0]).await.is_ok_and(|count| count == 0), "dropping it cuts everything");
    }

    #[tokio::test]
    async fn a_severed_line_ends_behind_the_message() {
        let (cable, mut client, mut server) = pair().await;
        cable.sever_behind("wanted");
        // Two frames of HTTP/2, each with one gRPC message.
        let frame = |text: &str| {
            let length = u8::try_from(text.len()).unwrap();
            let mut frame = vec![0, 0, length + 5, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, length];
            frame.extend(text.bytes());
            frame
        };
        let heard = frame("is wanted");
        server.write_all(&[heard.clone(), frame("more")].concat()).await.unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, heard);
        is_reset(&mut server).await;
        drop(client);
        tokio::time::timeout(SOON, cable.severed()).await.unwrap();
    }
}
