//! A place in a text.
//!
//! It knows no text. Invariant: a place that the parser does not tell is line 0.

use serde_saphyr::{Location, granit_parser};

/// A line and a column from 1, and how many characters from there on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Spot {
    /// From 1; 0 where it is not known.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
    /// In characters; 0 where it is not known.
    pub length: u32,
}

fn small(number: impl TryInto<u32>) -> u32 {
    number.try_into().unwrap_or(u32::MAX)
}

impl From<Location> for Spot {
    fn from(location: Location) -> Self {
        let length = small(location.span().len());
        Self { line: small(location.line()), column: small(location.column()), length }
    }
}

impl From<granit_parser::Span> for Spot {
    fn from(span: granit_parser::Span) -> Self {
        let is_short = span.start.line() == span.end.line();
        let length = if is_short { span.end.col().saturating_sub(span.start.col()) } else { 0 };
        Self { line: small(span.start.line()), column: small(span.start.col() + 1), length: small(length) }
    }
}
