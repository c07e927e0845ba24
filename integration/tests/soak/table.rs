//! The one table that a soak ends with.
//!
//! It computes nothing but widths. Invariant: the seed comes first.

use std::fmt::Write;

/// A row for each Envoy, under these names.
pub(crate) const COLUMNS: [&str; 13] = [
    "Envoy",
    "edits",
    "cuts",
    "slowest return",
    "cds/lds updates",
    "requests",
    "failed",
    "rejected",
    "intended",
    "fetch timeouts",
    "cached",
    "empty, gone",
    "equal at the end",
];

/// Columns as wide as their widest cell, numbers to the right.
pub(crate) fn render(rows: &[[String; COLUMNS.len()]]) -> String {
    let heads = COLUMNS.map(str::to_owned);
    let all = || std::iter::once(&heads).chain(rows);
    let widths: Vec<usize> =
        (0..COLUMNS.len()).map(|at| all().map(|row| row[at].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in all() {
        for (at, cell) in row.iter().enumerate() {
            // Writing to a string does not fail.
            let _ = match at {
                0 => write!(text, "{cell:<width$}", width = widths[at]),
                _ => write!(text, "  {cell:>width$}", width = widths[at]),
            };
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut row = [const { String::new() }; COLUMNS.len()];
        row[0] = "1.40.0-with-more".to_owned();
        row[5] = "123456789".to_owned();
        let text = render(&[row]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].len(), lines[1].len());
        assert!(lines[0].contains(" requests ") && lines[1].contains(" 123456789 "), "{text}");
    }
}
