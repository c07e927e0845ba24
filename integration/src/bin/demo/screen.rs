//! How the demo looks: colour on a terminal only, columns that stay in line.
//!
//! It knows no figures. Invariant: what is piped into a file holds no escape sequence.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Where the demo is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    colour: bool,
}

impl Screen {
    /// Standard output, in colour if it is a terminal that wants it.
    pub(crate) fn new() -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self { colour: std::io::stdout().is_terminal() && !plain }
    }

    /// One line, at once.
    pub(crate) fn line(&self, text: impl Display) {
        let mut out = std::io::stdout().lock();
        // Whoever closed the output has seen enough.
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }

    /// A heading after an empty line.
    pub(crate) fn heading(&self, text: &str) {
        self.line(format!("\n{}", self.bold(text)));
    }

    fn paint(&self, code: &str, text: impl Display) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    /// Important.
    pub(crate) fn bold(&self, text: impl Display) -> String {
        self.paint("1", text)
    }

    /// Unimportant.
    pub(crate) fn dim(&self, text: impl Display) -> String {
        self.paint("2", text)
    }

    /// Good.
    pub(crate) fn good(&self, text: impl Display) -> String {
        self.paint("32", text)
    }

    /// Bad.
    pub(crate) fn bad(&self, text: impl Display) -> String {
        self.paint("1;31", text)
    }

    /// A name.
    pub(crate) fn name(&self, text: impl Display) -> String {
        self.paint("36", text)
    }

    /// A claim that holds or not.
    pub(crate) fn claim(&self, holds: bool, text: impl Display) {
        let mark = if holds { self.good("✓") } else { self.bad("✗ FAILED:") };
        self.line(format!("  {mark} {text}"));
    }
}

/// Milliseconds with one decimal.
pub(crate) fn millis(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64() * 1000.0)
}

/// A number with its thousands set apart.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_easy_to_read() {
        assert_eq!([7, 1234, 1_234_567].map(grouped), ["7", "1,234", "1,234,567"]);
        assert_eq!(millis(Duration::from_micros(2_345)), "2.3");
    }
}
