//! The server under measure: the shipped program with a services file that we write.
//!
//! It knows nothing of the clients but their count. Invariant: each change of the file withdraws or restores one
//! endpoint of the one service that every client subscribes to.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use integration::control_plane::{ControlPlane, Setup, Sources};
use integration::{vitals, wait};
use serde_json::Value;

use crate::client::Fleet;

/// Endpoints of each service.
const TASKS: usize = 20;
/// How long all streams may take to be at rest.
const SETTLING: Duration = Duration::from_secs(120);
/// How many seconds an allocator has to give back what was let go.
const REST: u32 = 12;
/// Bytes that fill what HTTP/2 keeps for a client that reads nothing, and more.
const ENOUGH: usize = 300 * 1024;

/// The server and its file.
pub(crate) struct Served {
    server: ControlPlane,
    folder: PathBuf,
    file: PathBuf,
    services: usize,
    change: u64,
}

impl Served {
    pub(crate) async fn start(folder: &Path, services: usize) -> anyhow::Result<Self> {
        let own = folder.join("services");
        std::fs::create_dir_all(&own).context("making a folder for the services file")?;
        let file = own.join("prod.yaml");
        std::fs::write(&file, render(services, 0)).context("writing the services file")?;
        let sources = Sources { files: vec![file.clone()], ..Sources::default() };
        let server = ControlPlane::start(folder, &Setup::files().namespace("prod", sources)).await?;
        Ok(Self { server, folder: folder.to_owned(), file, services, change: 0 })
    }

    pub(crate) fn xds(&self) -> SocketAddr {
        self.server.xds()
    }

    /// Takes the changing endpoint of the common service away or brings it back. Returns the number of the
    /// change, which is the weight of what each client gets.
    pub(crate) fn withdraw(&mut self) -> anyhow::Result<u64> {
        self.change += 1;
        let draft = self.folder.join("prod.yaml.draft"); // not beside the file: that folder is watched
        std::fs::write(&draft, render(self.services, self.change)).context("writing the services file")?;
        std::fs::rename(&draft, &self.file).context("replacing the services file")?;
        Ok(self.change)
    }

    /// Waits until `streams` are connected and hold everything.
    pub(crate) async fn settled(&self, streams: usize) -> anyhow::Result<()> {
        wait::until(SETTLING, "every stream to be at rest", async || {
            let proxies = self.server.api("status").await?;
            let count = |path: &str| proxies.pointer(path).and_then(Value::as_u64);
            let synced = count("/item/proxies/synced").context("no count of proxies in the status")?;
            Ok((usize::try_from(synced)? >= streams).then_some(()))
        })
        .await
    }

    /// Changes until each stalled client has been sent more than HTTP/2 keeps for it.
    pub(crate) async fn fill(&mut self, stalled: &Fleet) -> anyhow::Result<()> {
        let each = TASKS * 40;
        for _ in 0..ENOUGH / each {
            self.withdraw()?;
            tokio::task::yield_now().await;
        }
        stalled.opened()
    }

    /// The resident memory in KiB when it has stopped falling: what was let go is given back within seconds.
    pub(crate) async fn memory_at_rest(&self) -> anyhow::Result<u64> {
        let mut lowest = self.memory()?;
        for _ in 0..REST {
            tokio::time::sleep(Duration::from_secs(1)).await;
            lowest = lowest.min(self.memory()?);
        }
        Ok(lowest)
    }

    /// The resident memory in KiB.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        vitals::memory(self.id()?)
    }

    /// The processor time so far.
    pub(crate) fn processor(&self) -> anyhow::Result<Duration> {
        vitals::processor(self.id()?)
    }

    fn id(&self) -> anyhow::Result<u32> {
        self.server.id().context("the server does not run")
    }
}

/// The services file after so many changes.
fn render(services: usize, change: u64) -> String {
    let mut text = "services:\n".to_owned();
    for service in 0..services {
        let _ = writeln!(text, "  s{service:04}:\n    appProtocol: http\n    endpoints:");
        for task in 0..TASKS {
            let _ = writeln!(
                text,
                "      - {{ address: 10.{}.{}.{task}, port: 8080 }}",
                service / 250,
                service % 250
            );
        }
        if service == 0 {
            let port = 10_000 + change % 50_000;
            let _ = writeln!(text, "      - {{ address: 10.200.0.1, port: {port} }}");
        }
    }
    text
}
