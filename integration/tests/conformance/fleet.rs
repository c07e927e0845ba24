//! Many streams at once, on as many connections as the machine's files allow.
//!
//! It is no load generator: each stream does what its case says. Invariant: an action on many streams ends when
//! each has ended, or with the first that failed.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use integration::probe::{Client, Connection, Probe};
use tonic::Status;

/// Does the same with each, all at once; what each brought.
pub(crate) async fn each<I, T, F>(
    all: impl IntoIterator<Item = I>,
    act: impl Fn(I) -> F,
) -> anyhow::Result<Vec<T>>
where
    F: Future<Output = anyhow::Result<T>>,
{
    futures_util::future::try_join_all(all.into_iter().map(act)).await
}

/// So many connections.
pub(crate) async fn connections(client: &Client, count: usize) -> anyhow::Result<Vec<Connection>> {
    each(0..count, |_| {
        let client = client.clone();
        async move { client.connect().await }
    })
    .await
}

/// So many streams that have asked nothing yet, spread over these connections; each is another node.
pub(crate) async fn streams(
    client: &Client,
    connections: &[Connection],
    count: usize,
) -> anyhow::Result<Vec<Probe>> {
    each(connections.iter().cycle().take(count).enumerate(), |(number, connection)| {
        let (client, connection) = (client.clone().id(&format!("probe-{number:05}")), connection.clone());
        async move { connection.open(&client).await }
    })
    .await
}

/// Accepts whatever comes until the stream ends: how, and when.
pub(crate) async fn outlive(probe: &mut Probe) -> anyhow::Result<(Status, Instant)> {
    loop {
        if let Err(error) = probe.take().await {
            return Ok((error.downcast::<Status>()?, Instant::now()));
        }
    }
}

/// How long the machine stands still: a thread that wants to wake every few milliseconds, and how late it does.
pub(crate) struct Pauses {
    longest: mpsc::Receiver<Duration>,
    /// Dropped to end the watch.
    watching: mpsc::Sender<()>,
}

impl Pauses {
    pub(crate) fn watch() -> Self {
        const TICK: Duration = Duration::from_millis(10);
        let ((watching, ended), (tell, longest)) = (mpsc::channel(), mpsc::channel());
        std::thread::spawn(move || {
            let (mut latest, mut longest) = (Instant::now(), Duration::ZERO);
            while ended.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
                longest = longest.max(latest.elapsed().saturating_sub(TICK));
                latest = Instant::now();
            }
            let _ = tell.send(longest.max(latest.elapsed())); // or nobody wants to know
        });
        Self { longest, watching }
    }

    /// The longest pause since it was watched.
    pub(crate) fn longest(self) -> Duration {
        drop(self.watching);
        self.longest.recv().unwrap_or_default()
    }
}

/// The shortest time within which that part of the moments lies.
pub(crate) fn closest(mut moments: Vec<Instant>, part: f64) -> Duration {
    moments.sort();
    let count = ((moments.len() as f64 * part) as usize).clamp(1, moments.len().max(1));
    moments.windows(count).map(|some| some[count - 1] - some[0]).min().unwrap_or_default()
}

/// The value that so many in a hundred do not exceed.
pub(crate) fn percentile(mut times: Vec<Duration>, percent: usize) -> Duration {
    times.sort();
    let at = (times.len() * percent / 100).min(times.len().saturating_sub(1));
    times.get(at).copied().unwrap_or_default()
}
