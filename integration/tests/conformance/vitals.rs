//! What the kernel and the metrics know of a server: memory, processor time, open files, streams.
//!
//! It sets no bounds. Invariant: everything is read at the moment of asking; nothing is remembered.

use std::time::Duration;

use anyhow::Context as _;
use integration::control_plane::ControlPlane;
use integration::{http, vitals, wait};

/// How long a server may take to forget streams that have ended.
const FORGETS: Duration = Duration::from_secs(15);

/// The vitals of a running server.
pub(crate) struct Vitals<'a>(pub(crate) &'a ControlPlane);

impl Vitals<'_> {
    fn id(&self) -> anyhow::Result<u32> {
        self.0.id().context("the server does not run")
    }

    /// The resident memory in KiB.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        vitals::memory(self.id()?)
    }

    /// The processor time so far.
    pub(crate) fn processor(&self) -> anyhow::Result<Duration> {
        vitals::processor(self.id()?)
    }

    /// How many files and sockets it has open.
    pub(crate) fn files(&self) -> anyhow::Result<usize> {
        vitals::files(self.id()?)
    }

    /// The sum of the series of a metric whose labels contain that text.
    pub(crate) async fn metric(&self, name: &str, labels: &str) -> anyhow::Result<u64> {
        let text = http::get_ok(self.0.metrics(), "/metrics").await?.text();
        let series = text
            .lines()
            .filter_map(|line| line.strip_prefix(name))
            .filter(|rest| rest.starts_with(['{', ' ']) && rest.contains(labels));
        let values = series.filter_map(|rest| rest.rsplit(' ').next()).map(str::parse::<u64>);
        values.sum::<Result<u64, _>>().with_context(|| format!("reading {name}"))
    }

    /// How many streams are open.
    pub(crate) async fn streams(&self) -> anyhow::Result<u64> {
        self.metric("legation_xds_streams", "").await
    }

    /// Waits until so many streams are open, everywhere that they are counted.
    pub(crate) async fn until_streams(&self, count: u64) -> anyhow::Result<()> {
        wait::until(FORGETS, format!("{count} open streams"), async || {
            let (gauge, listed) = (self.streams().await?, self.0.api("status").await?);
            let proxies = &listed["item"]["proxies"];
            let known: u64 =
                ["synced", "stale", "nacked"].iter().filter_map(|word| proxies[word].as_u64()).sum();
            anyhow::ensure!(gauge == count && known == count, "{gauge} in the metrics, {known} in the API");
            Ok(Some(()))
        })
        .await
    }
}
