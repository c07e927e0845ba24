//! The words that people write into tags, attributes and files: durations, names, aliases.
//!
//! It is not a reader of any format, and it knows no key: it judges one value and says what would be right.
//!
//! Invariant: whatever is refused comes with the place of the wrong part and the words that would be right.

use std::ops::Range;
use std::time::Duration;

use crate::diagnostic::{self, words::nearest};
use crate::model::Alias;

/// The longest timeout that may be written.
pub const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// The most retries that may be written.
pub const MOST_RETRIES: u32 = 10;

const LONGEST_DISCOVERY_NAME: usize = 64;
const LONGEST_ALIAS_NAME: usize = 127;

/// A value that can't be taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wrong {
    /// Which bytes of the value are wrong.
    pub at: Range<usize>,
    /// What would be right, for people.
    pub why: String,
}

impl Wrong {
    /// The whole of `text` is wrong.
    pub fn all(text: &str, why: impl Into<String>) -> Self {
        Self { at: 0..text.len(), why: why.into() }
    }

    /// The same, for a part that begins `offset` bytes into a longer value.
    #[must_use]
    pub fn shifted(self, offset: usize) -> Self {
        Self { at: self.at.start + offset..self.at.end + offset, ..self }
    }
}

/// A duration as GEP-2257 defines it, such as `1h30m`.
pub fn duration(text: &str) -> Result<Duration, Wrong> {
    let wrong = || Wrong::all(text, "expected a duration such as `500ms`, `15s` or `1h30m`");
    diagnostic::words::duration(text).ok_or_else(wrong)
}

/// A duration of at most [`LONGEST_TIMEOUT`]; zero is none.
pub fn timeout(text: &str) -> Result<Duration, Wrong> {
    let timeout = duration(text)?;
    if timeout > LONGEST_TIMEOUT {
        return Err(Wrong::all(text, "expected at most `24h`; `0s` is none"));
    }
    Ok(timeout)
}

/// A port on which a sidecar without privileges may listen.
pub fn inbound_port(text: &str) -> Result<u16, Wrong> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| plain && *port >= 1024);
    port.ok_or_else(|| Wrong::all(text, "expected a port from 1024 to 65535"))
}

/// A number of retries, 0 to [`MOST_RETRIES`].
pub fn retries(text: &str) -> Result<u32, Wrong> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = plain.then(|| text.parse().ok()).flatten().filter(|number| *number <= MOST_RETRIES);
    number.ok_or_else(|| Wrong::all(text, format!("expected a number from 0 to {MOST_RETRIES}")))
}

/// Judges a discovery name: up to 64 of `a-z 0-9 _ -`, not beginning with `-`.
pub fn discovery_name(text: &str) -> Result<(), Wrong> {
    name(text, LONGEST_DISCOVERY_NAME, "_-", "a-z, 0-9, `_` and `-`")
}

/// Judges the name in an alias: up to 127 of `a-z 0-9 _ . -`, not beginning with `-` or `.`.
pub fn alias_name(text: &str) -> Result<(), Wrong> {
    name(text, LONGEST_ALIAS_NAME, "_-.", "a-z, 0-9, `_`, `.` and `-`")
}

fn name(text: &str, longest: usize, marks: &str, words: &str) -> Result<(), Wrong> {
    if text.is_empty() || text.len() > longest {
        let why = format!("expected 1 to {longest} characters of {words}, found {}", text.chars().count());
        return Err(Wrong::all(text, why));
    }
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bad = |(at, c): (usize, char)| {
        let right = letter(c) || (marks.contains(c) && (at > 0 || c == '_'));
        (!right).then(|| (at..at + c.len_utf8(), at == 0 && marks.contains(c)))
    };
    match text.char_indices().find_map(bad) {
        None => Ok(()),
        Some((at, true)) => Err(Wrong { at, why: "a name begins with a letter, a digit or `_`".into() }),
        Some((at, false)) => Err(Wrong { at, why: format!("expected only {words} in lower case") }),
    }
}

/// One alias, `name:port`.
pub fn alias(text: &str) -> Result<Alias, Wrong> {
    let Some((name, port)) = text.rsplit_once(':') else {
        return Err(Wrong::all(text, "expected `name:port`, such as `payments:8080`"));
    };
    alias_name(name)?;
    let plain = port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse() {
        Ok(number) if plain && number > 0 => Ok(Alias { name: name.into(), port: number }),
        _ => Err(Wrong { at: name.len() + 1..text.len(), why: "expected a port from 1 to 65535".into() }),
    }
}

/// Aliases separated by spaces, in the order written; one that is written twice counts once.
pub fn aliases(text: &str) -> Result<Vec<Alias>, Wrong> {
    let mut aliases = Vec::new();
    for (at, word) in words(text) {
        let alias = alias(word).map_err(|wrong| wrong.shifted(at))?;
        if !aliases.contains(&alias) {
            aliases.push(alias);
        }
    }
    if aliases.is_empty() {
        return Err(Wrong::all(text, "expected `name:port`, such as `payments:8080`"));
    }
    Ok(aliases)
}

/// The words of `text` with the byte where each begins.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    text.split(' ').filter_map(move |word| {
        let begin = at;
        at += word.len() + 1;
        (!word.is_empty()).then_some((begin, word))
    })
}

/// `; did you mean …?`, or nothing when no candidate is alike.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
}

/// `line`, indented, with carets on a line of their own under its bytes `at`.
pub fn caret(line: &str, at: &Range<usize>) -> String {
    let printable: String = line.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    let before = line.char_indices().take_while(|(byte, _)| *byte < at.start).count();
    let under = line.char_indices().filter(|(byte, _)| at.contains(byte)).count().max(1);
    format!("  {printable}\n  {:before$}{:^<under$}", "", "")
}

/// Whether it can be the version of a service.
pub(super) fn version(value: &str) -> Result<(), Wrong> {
    let is_sound = |c: char| c.is_ascii_alphanumeric() || "+-=._:/".contains(c);
    if (1..=64).contains(&value.len()) && value.chars().all(is_sound) {
        return Ok(());
    }
    Err(Wrong::all(value, "expected 1 to 64 letters, digits and `+-=._:/`".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alias_of(name: &str, port: u16) -> Alias {
        Alias { name: name.into(), port }
    }

    #[test]
    fn durations_follow_gep_2257() {
        let right: [(&str, u64); 8] = [
            ("0s", 0),
            ("15s", 15_000),
            ("500ms", 500),
            ("1h30m", 5_400_000),
            ("1h1m1s1ms", 3_661_001),
            ("99999h", 99_999 * 3_600_000),
            ("1m1m", 120_000),
            ("00010s", 10_000),
        ];
        for (text, millis) in right {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        let wrong = [
            "",
            "0",
            "15",
            "s",
            "15 s",
            " 15s",
            "15s ",
            "1.5s",
            "-1s",
            "+1s",
            "1us",
            "1d",
            "100000s",
            "1h1m1s1ms1h",
            "1h 30m",
            "15S",
            "١s",
            "1min",
            "1hour",
        ];
        for text in wrong {
            let refused = duration(text).expect_err(text);
            assert_eq!(refused.at, 0..text.len(), "{text}");
        }
    }

    #[test]
    fn timeouts_end_at_a_day_and_retries_at_ten() {
        assert_eq!(timeout("24h"), Ok(LONGEST_TIMEOUT));
        assert!(timeout("24h1ms").expect_err("too long").why.contains("24h"));
        assert_eq!(retries("0"), Ok(0));
        assert_eq!(retries("10"), Ok(10));
        for text in ["", "11", "-1", "+1", "two", "1.0", "99999999999"] {
            assert_eq!(retries(text).expect_err(text).why, "expected a number from 0 to 10");
        }
    }

    #[test]
    fn names_keep_to_their_letters() {
        let long = "a".repeat(64);
        for text in ["a", "payments-http", "_x", "0", long.as_str()] {
            assert_eq!(discovery_name(text), Ok(()), "{text}");
        }
        assert_eq!(discovery_name(&"a".repeat(65)).expect_err("long").at, 0..65);
        assert_eq!(discovery_name("").expect_err("empty").at, 0..0);
        assert_eq!(discovery_name("pay.ments").expect_err("dot").at, 3..4);
        assert_eq!(discovery_name("Payments").expect_err("upper").at, 0..1);
        assert_eq!(discovery_name("-pay").expect_err("dash").at, 0..1);
        assert_eq!(discovery_name("päy").expect_err("umlaut").at, 1..3);
        assert_eq!(alias_name("payments.prod"), Ok(()));
        assert_eq!(alias_name(&"a".repeat(127)), Ok(()));
        assert_eq!(alias_name(&"a".repeat(128)).expect_err("long").at, 0..128);
        assert_eq!(alias_name(".prod").expect_err("dot").at, 0..1);
    }

    #[test]
    fn aliases_are_separated_by_spaces_and_point_at_the_wrong_one() {
        assert_eq!(aliases("payments:8080"), Ok(vec![alias_of("payments", 8080)]));
        assert_eq!(aliases(" b:2  a:1 b:2 "), Ok(vec![alias_of("b", 2), alias_of("a", 1)]));
        for (text, at) in [
            ("payments", 0..8),
            ("a:1 payments:", 13..13),
            ("a:1 b:65536", 6..11),
            ("a:1 b:0", 6..7),
            ("a:+1", 2..4),
            ("a:1 B:2", 4..5),
            ("a:1,b:2", 1..2),
            ("", 0..0),
            ("  ", 0..2),
        ] {
            assert_eq!(aliases(text).expect_err(text).at, at, "{text}");
        }
    }

    #[test]
    fn the_nearest_word_is_found_or_none() {
        assert_eq!(nearest("htp", ["http", "admin"]), Some("http"));
        assert_eq!(nearest("grcp", ["tcp", "http", "http2", "grpc"]), Some("grpc"));
        assert_eq!(nearest("HTTP", ["tcp", "http", "http2"]), Some("http"));
        assert_eq!(nearest("web", ["http", "admin"]), None);
        assert_eq!(did_you_mean("pord", ["dev", "prod"]), "; did you mean `prod`?");
        assert_eq!(did_you_mean("zzz", ["dev"]), "");
    }

    #[test]
    fn carets_stand_under_the_wrong_part() {
        assert_eq!(caret("key = abc", &(6..9)), "  key = abc\n        ^^^");
        assert_eq!(caret("ä = b", &(5..6)), "  ä = b\n      ^");
        assert_eq!(caret("key = ", &(6..6)), "  key = \n        ^");
        assert_eq!(caret("a\nb", &(2..3)), "  a?b\n    ^");
    }
}
