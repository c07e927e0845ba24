//! When a command that is to end is told so: not before others had time to learn of it, and not later than necessary.
//!
//! It knows no signals and no clock. Invariant: a command is told once for each time that its end is asked for, and by the
//! longer of the two times at the latest.

use std::time::{Duration, Instant};

/// How long the end of a command is put off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Delay {
    /// At least so long, because others still send what they do not know to be unwelcome.
    pub hold: Duration,
    /// At most so long, for as long as something is open; `None` where that is not looked at.
    pub drain: Option<Duration>,
}

/// The end of one command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ending {
    delay: Delay,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    /// Nobody has asked for the end.
    #[default]
    Wanted,
    /// It was asked for then, and the command does not know. `quiet` where nothing is open any more.
    Leaving { since: Instant, quiet: bool },
    /// The command was told.
    Told,
}

impl Ending {
    /// Of a command whose end is put off so.
    pub fn new(delay: Delay) -> Self {
        Self { delay, state: State::Wanted }
    }

    /// The end is asked for. True where the command is to be told at once: who asks twice will not wait.
    pub fn ask(&mut self, now: Instant) -> bool {
        match self.state {
            State::Wanted if self.delay.hold > Duration::ZERO || self.delay.drain.is_some() => {
                self.state = State::Leaving { since: now, quiet: false };
                false
            }
            _ => {
                self.state = State::Told;
                true
            }
        }
    }

    /// Nothing is open any more.
    pub fn quiet(&mut self) {
        if let State::Leaving { quiet, .. } = &mut self.state {
            *quiet = true;
        }
    }

    /// When the command is to be told, as things are now.
    pub fn due(&self) -> Option<Instant> {
        let State::Leaving { since, quiet } = self.state else { return None };
        let drain = self.delay.drain.filter(|_| !quiet).unwrap_or_default();
        Some(since + self.delay.hold.max(drain))
    }

    /// The command is being told.
    pub fn told(&mut self) {
        self.state = State::Told;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// Seconds after the request at which the command is told: with all that is open, and when all is closed.
    fn told_after(hold: u64, drain: Option<u64>) -> Option<(u64, u64)> {
        let now = Instant::now();
        let mut ending = Ending::new(Delay { hold: seconds(hold), drain: drain.map(seconds) });
        assert_eq!(ending.due(), None, "nobody has asked");
        if ending.ask(now) {
            assert_eq!(ending.due(), None, "it is told already");
            return None;
        }
        let busy = ending.due().unwrap();
        ending.quiet();
        Some(((busy - now).as_secs(), (ending.due().unwrap() - now).as_secs()))
    }

    #[test]
    fn a_hold_is_the_least_and_a_drain_the_most() {
        for (hold, drain, expected) in [
            (0, None, None),
            (5, None, Some((5, 5))),
            (0, Some(20), Some((20, 0))),
            (5, Some(20), Some((20, 5))),
            (30, Some(20), Some((30, 30))),
            (0, Some(0), Some((0, 0))),
        ] {
            assert_eq!(told_after(hold, drain), expected, "hold {hold}, drain {drain:?}");
        }
    }

    #[test]
    fn who_asks_twice_will_not_wait_and_is_passed_on_from_then_on() {
        let now = Instant::now();
        let mut ending = Ending::new(Delay { hold: seconds(60), drain: Some(seconds(60)) });
        assert!(!ending.ask(now));
        assert!(ending.ask(now + seconds(1)));
        assert_eq!(ending.due(), None);
        ending.quiet();
        assert_eq!(ending.due(), None);
        assert!(ending.ask(now + seconds(2)));

        let mut ending = Ending::new(Delay { hold: seconds(1), drain: None });
        assert!(!ending.ask(now));
        ending.told();
        assert_eq!(ending.due(), None, "once");
        assert!(ending.ask(now + seconds(3)), "it was told, and is told again");
    }
}
