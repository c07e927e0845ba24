//! The clients of the floor: they take bytes and answer.
//!
//! They know no protocol. Invariant: a push is over when every client has all of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use integration::process::{Process, free_ports};
use integration::{vitals, wait};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::machine::Mode;

const START: Duration = Duration::from_secs(10);
/// The answer to a push.
const ANSWER: [u8; 128] = [0; 128];

/// Connections to the floor. Dropping it closes them.
pub(crate) struct Floor {
    process: Process,
    control: BufReader<TcpStream>,
    bytes: usize,
    clients: Vec<JoinHandle<()>>,
    arrived: mpsc::UnboundedReceiver<Instant>,
}

impl Floor {
    /// So many connections, each of which gets so many bytes with each push.
    pub(crate) async fn open(
        program: &Path,
        mode: Mode,
        folder: &Path,
        streams: usize,
        bytes: usize,
    ) -> anyhow::Result<Self> {
        let [xds, control] = free_ports()?;
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut command = Command::new("taskset");
        command.args(["-c", mode.server_cores()]).arg(program);
        command.args([local(xds).to_string(), local(control).to_string()]);
        let mut process = Process::start("floor", command, &folder.join("floor.log"))?;
        let control = wait::until(START, "the floor to take orders", async || {
            process.still_runs()?;
            Ok(Some(TcpStream::connect(local(control)).await?))
        })
        .await?;
        control.set_nodelay(true)?;
        let (tell, arrived) = mpsc::unbounded_channel();
        let mut clients = Vec::new();
        let mut floor = BufReader::new(control);
        floor.get_mut().write_all(format!("open {streams}\n").as_bytes()).await?;
        for _ in 0..streams {
            let client = TcpStream::connect(local(xds)).await.context("connecting to the floor")?;
            client.set_nodelay(true)?;
            let tell = tell.clone();
            clients.push(tokio::task::spawn_local(async move {
                let _ = answer(client, bytes, &tell).await; // a missing answer is noticed by who waits for it
            }));
        }
        let mut floor = Self { process, control: floor, bytes, clients, arrived };
        floor.obeyed().await?;
        Ok(floor)
    }

    async fn obeyed(&mut self) -> anyhow::Result<()> {
        let mut line = String::new();
        self.control.read_line(&mut line).await.context("waiting for the floor")?;
        anyhow::ensure!(line == "ok\n", "the floor answers {line:?}");
        Ok(())
    }

    /// One push. Returns how long after it began each client had it.
    pub(crate) async fn push(&mut self) -> anyhow::Result<Vec<Duration>> {
        let started = Instant::now();
        self.control.get_mut().write_all(format!("push {}\n", self.bytes).as_bytes()).await?;
        let mut after = Vec::with_capacity(self.clients.len());
        while after.len() < self.clients.len() {
            let at = self.arrived.recv().await.context("no client is left")?;
            after.push(at.saturating_duration_since(started));
        }
        self.obeyed().await?;
        Ok(after)
    }

    /// The processor time so far.
    pub(crate) fn processor(&self) -> anyhow::Result<Duration> {
        vitals::processor(self.process.id())
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.clients.iter().for_each(JoinHandle::abort);
    }
}

async fn answer(
    mut client: TcpStream,
    bytes: usize,
    tell: &mpsc::UnboundedSender<Instant>,
) -> anyhow::Result<()> {
    let mut buffer = vec![0; bytes];
    loop {
        client.read_exact(&mut buffer).await?;
        tell.send(Instant::now())?;
        client.write_all(&ANSWER).await?;
    }
}
