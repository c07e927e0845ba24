//! Waiting for something that can be observed, within a limit.
//!
//! It is not for pacing: nothing here waits for time to pass. Invariant: a wait ends with what was awaited,
//! or with an error that says what was awaited, for how long, and what was seen last.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

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
        let hung = until::<()>(limit, "an answer", async || std::future::pending().await).await;
        assert!(hung.unwrap_err().to_string().contains("an answer"));
    }
}
