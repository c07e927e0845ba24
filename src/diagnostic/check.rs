//! Checks of single values that several files share, gathering every problem.
//!
//! It knows no key and no default: those are its callers'.
//!
//! Invariant: a check that answers `None` has left a problem behind.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use super::words::{choice, duration, spell};
use super::{BAD_VALUE, Document, Problem, Written};

/// A document under examination.
#[derive(Debug)]
pub struct Checker<'a> {
    document: Document<'a>,
    problems: Vec<Problem>,
}

/// What a name may look like.
#[derive(Clone, Copy, Debug)]
pub struct NameRule {
    /// What is named, for people: `namespace`.
    pub what: &'static str,
    /// The longest name.
    pub longest: usize,
    /// Whether dots are allowed.
    pub dots: bool,
}

impl NameRule {
    /// Whether this can be a name.
    pub fn admits(&self, name: &str) -> bool {
        let sound = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        sound && name.len() <= self.longest && name.chars().all(|c| self.allows(c))
    }

    fn allows(&self, c: char) -> bool {
        c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-') || (self.dots && c == '.')
    }
}

impl<'a> Checker<'a> {
    /// Nothing wrong so far.
    pub fn new(document: Document<'a>) -> Self {
        Self { document, problems: Vec::new() }
    }

    /// The document.
    pub fn document(&self) -> Document<'a> {
        self.document
    }

    /// Adds a problem.
    pub fn add(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Adds a problem with a value, and what would be right.
    pub fn bad(&mut self, written: &Written, message: impl Into<String>, suggestion: impl Into<String>) {
        self.problems.push(self.document.with(written, BAD_VALUE, message).suggesting(suggestion));
    }

    /// `checked`, or every problem in the order of the file.
    pub fn finish<T>(mut self, checked: T) -> Result<T, Vec<Problem>> {
        if self.problems.is_empty() {
            return Ok(checked);
        }
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        Err(self.problems)
    }

    /// A duration within limits.
    pub fn duration(&mut self, written: &Written, least: Duration, most: Duration) -> Option<Duration> {
        let Some(found) = duration(&written.text) else {
            let message = format!("`{}` is not a duration", written.text);
            self.bad(written, message, "write a number and a unit, like `500ms`, `30s`, `1h30m`");
            return None;
        };
        if found < least || found > most {
            let message = format!("`{}` is out of range", written.text);
            self.bad(written, message, format!("{} to {}", spell(least), spell(most)));
            return None;
        }
        Some(found)
    }

    /// A whole number within limits.
    pub fn number(&mut self, written: &Written, least: u32, most: u32) -> Option<u32> {
        let number = written.text.parse().ok().filter(|number| (least..=most).contains(number));
        if number.is_none() {
            let message = format!("`{}` is not a whole number from {least} to {most}", written.text);
            self.add(self.document.with(written, BAD_VALUE, message));
        }
        number
    }

    /// A port that can be dialled.
    pub fn port(&mut self, written: &Written) -> Option<u16> {
        self.number(written, 1, u16::MAX.into()).and_then(|port| port.try_into().ok())
    }

    /// A word of a closed list.
    pub fn word<T: Copy>(&mut self, written: &Written, words: &[(&'static str, T)]) -> Option<T> {
        let found = words.iter().find(|(word, _)| *word == written.text).map(|(_, value)| *value);
        if found.is_none() {
            let known = words.iter().map(|(word, _)| *word).collect::<Vec<_>>();
            let suggestion = choice(&written.text, &known);
            self.bad(written, format!("unknown word `{}`", written.text), suggestion);
        }
        found
    }

    /// Anything that the standard library reads: an address, an address with a port.
    pub fn parsed<T: FromStr>(&mut self, written: &Written, what: &str, example: &str) -> Option<T> {
        let found = written.text.parse().ok();
        if found.is_none() {
            self.bad(
                written,
                format!("`{}` is not {what}", written.text),
                format!("write it like `{example}`"),
            );
        }
        found
    }

    /// A name in lower case.
    pub fn name<'w>(&mut self, written: &'w Written, rule: NameRule) -> Option<&'w str> {
        let name = written.text.as_str();
        if rule.admits(name) {
            return Some(name);
        }
        let marks = if rule.dots { "`_`, `-`, `.`" } else { "`_`, `-`" };
        let message = format!("`{name}` can't be the name of {}", rule.what);
        let allowed =
            format!("1 to {} of a-z, 0-9, {marks}, beginning with a letter or a digit", rule.longest);
        let lower = name.to_ascii_lowercase();
        let suggestion = if lower != name && lower.chars().all(|c| rule.allows(c)) {
            format!("did you mean `{lower}`? allowed: {allowed}")
        } else {
            allowed
        };
        self.bad(written, message, suggestion);
        None
    }

    /// Whether `key` is new in `seen`; if not, the second occurrence is the problem.
    pub fn unique<K: Ord + Display>(
        &mut self,
        seen: &mut BTreeMap<K, Written>,
        key: K,
        written: &Written,
        (code, what): (&'static str, &str),
    ) -> bool {
        let Some(first) = seen.get(&key) else {
            seen.insert(key, written.clone());
            return true;
        };
        let problem = self.document.with(written, code, format!("{what} `{key}` is there twice"));
        let first = self.document.with(first, code, "").place();
        self.add(if first.is_empty() { problem } else { problem.suggesting(format!("first at {first}")) });
        false
    }
}
