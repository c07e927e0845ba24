//! Waiting until nobody is connected any more.
//!
//! It closes nothing: Envoy is asked to have its clients go, and they are given the time. Invariant: the wait ends by its
//! bound, whether Envoy answers or not.

use std::time::{Duration, Instant};

use super::envoy::{Connections, Envoy, EnvoyError};

/// Between two looks.
pub const LOOKS: Duration = Duration::from_millis(250);
/// So long nothing must have been open: between two requests of a client that connects anew for each there is nothing either.
const QUIET: Duration = Duration::from_secs(1);

/// Since when nothing is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Quiet {
    since: Option<Instant>,
}

impl Quiet {
    /// Takes in what is open now; true where nothing has been for long enough.
    pub fn see(&mut self, open: u64, now: Instant) -> bool {
        if open > 0 {
            self.since = None;
            return false;
        }
        now.duration_since(*self.since.get_or_insert(now)) >= QUIET
    }
}

/// How a drain came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drained {
    /// After so long nobody was connected any more.
    Empty(Duration),
    /// So many were when the time was over, as far as Envoy told.
    Open(u64),
    /// Envoy ended meanwhile.
    Gone,
}

/// Asks Envoy to let go of the clients of the task's own service, and waits until they have gone, for `bound` at most. The
/// calls of its applications go on.
pub fn drain(envoy: &Envoy, bound: Duration) -> Result<Drained, EnvoyError> {
    let started = Instant::now();
    envoy.drain()?;
    let (mut quiet, mut open) = (Quiet::default(), 0);
    loop {
        match envoy.connections() {
            Ok(Connections { inbound, .. }) => {
                open = inbound;
                if quiet.see(open, Instant::now()) {
                    return Ok(Drained::Empty(started.elapsed()));
                }
            }
            Err(EnvoyError::Absent(_)) => return Ok(Drained::Gone),
            // It may be busy; the bound holds.
            Err(_) => {}
        }
        let left = bound.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Ok(Drained::Open(open));
        }
        std::thread::sleep(LOOKS.min(left));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_without_connections_is_not_enough() {
        let (start, mut quiet) = (Instant::now(), Quiet::default());
        let mut see = |milliseconds, open| quiet.see(open, start + Duration::from_millis(milliseconds));
        assert!(!see(0, 2));
        assert!(!see(250, 0));
        assert!(!see(1249, 0));
        assert!(!see(1250, 1), "somebody came back");
        assert!(!see(1500, 0));
        assert!(see(2500, 0));
    }
}
