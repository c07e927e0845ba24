//! Waiting for something that can be observed, within a limit.
//!
//! It is not for pacing: time passes here only while something is looked at. Invariant: a wait ends with what was awaited,
//! or with an error that says what was awaited, for how long, and what was seen last.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// The pause between two looks at what is to stay as it is.
const LOOKS: Duration = Duration::from_millis(250);

/// Looks until `probe` answers something. A failing look is looked again, and told if the limit passes.
pub async fn until<T>(
    limit: Duration,
    what: impl Display,
    mut probe: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    let mut last_error = None;
    loop {
        match tokio::time::timeout_at(deadline.into(), probe()).await {
            Ok(Ok(Some(found))) => return Ok(found),
            Ok(Ok(None)) => last_error = None,
            Ok(Err(error)) => last_error = Some(error),
            Err(_) => {}
        }
        if Instant::now() + PAUSE > deadline {
            return Err(match last_error {
                Some(error) => error.context(format!("waited {limit:?} in vain for {what}")),
                None => anyhow::anyhow!("waited {limit:?} in vain for {what}"),
            });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Looks again and again for as long as `period`, and ends with the first look that fails.
pub async fn throughout(
    period: Duration,
    what: impl Display,
    mut probe: impl AsyncFnMut(Duration) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let started = Instant::now();
    while started.elapsed() < period {
        let age = started.elapsed();
        probe(age).await.map_err(|error| error.context(format!("{what}: no longer so after {age:?}")))?;
        tokio::time::sleep(LOOKS).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_returns_what_was_found_and_tells_what_was_not() {
        let mut looks = 0;
        let found = until(Duration::from_secs(5), "the third look", async || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(found.await.unwrap(), 3);

        let limit = Duration::from_millis(50);
        let error = until::<()>(limit, "rain", async || anyhow::bail!("dry")).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "waited 50ms in vain for rain: dry");
        let mut steps = 0;
        let stays = throughout(Duration::from_secs(60), "fair weather", async |_| {
            steps += 1;
            anyhow::ensure!(steps < 3, "rain");
            Ok(())
        });
        assert!(format!("{:#}", stays.await.unwrap_err()).starts_with("fair weather: no longer so"));
        let hung = until::<()>(limit, "an answer", async || std::future::pending().await).await;
        assert!(hung.unwrap_err().to_string().contains("an answer"));
    }
}
