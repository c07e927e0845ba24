//! What is wrong in a file that a person wrote, shown with its line, a caret and a way out.
//!
//! It is not a log and not a finding about the running mesh: it ends a start, or keeps the last good file.
//!
//! Invariant: a problem holds all that it shows, so it can be rendered long after the file has changed.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

pub mod check;
pub mod schema;
pub mod shape;
mod spot;
mod tree;
pub mod words;
mod yaml;

pub use spot::Spot;
pub use tree::{Node, read_tree};
pub use yaml::{Entries, Place, Written, read_yaml, to_yaml};

/// A key that is not known.
pub const UNKNOWN_KEY: &str = "CFG001";
/// A value that is not allowed.
pub const BAD_VALUE: &str = "CFG002";
/// A file that can't be read at all.
pub const REJECTED: &str = "CFG003";
/// A name that two services claim.
pub const TWO_SERVICES: &str = "NAME002";

/// One thing that is wrong at one place of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The file as it was named, or empty when it is not about a file.
    pub file: Arc<str>,
    /// The line, from 1; 0 when it is about the whole file.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// How many characters are wrong; at least 1.
    pub length: u32,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub suggestion: Option<String>,
    /// The stable code, such as `CFG001`.
    pub code: &'static str,
    /// The line as it is written.
    pub excerpt: Arc<str>,
}

impl Problem {
    /// A problem with the whole of `file`, or with no file at all when that is empty.
    pub fn whole(file: impl Into<Arc<str>>, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line: 0,
            column: 0,
            length: 0,
            message: message.into(),
            suggestion: None,
            code,
            excerpt: Arc::default(),
        }
    }

    /// The same problem with what would be right.
    pub fn suggesting(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into());
        self
    }

    /// `services.yaml:7:3`, as far as the place is known.
    pub fn place(&self) -> String {
        if self.line == 0 {
            self.file.to_string()
        } else {
            format!("{}:{}:{}", self.file, self.line, self.column)
        }
    }

    /// The problem as people read it: message, place, line, caret. Without a newline at its end.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let title = Level::ERROR.primary_title(self.message.as_str()).id(self.code);
        if self.line == 0 {
            let origin = (!self.file.is_empty()).then(|| annotate_snippets::Origin::path(&*self.file));
            let help = self.suggestion.as_deref().map(|text| Level::HELP.message(text));
            let group = match (origin, help) {
                (Some(origin), Some(help)) => title.element(origin).element(help),
                (Some(origin), None) => title.element(origin),
                (None, Some(help)) => title.element(help),
                (None, None) => annotate_snippets::Group::with_title(title),
            };
            return renderer.render(&[group]);
        }
        let start = byte_of(&self.excerpt, self.column.saturating_sub(1));
        let end =
            byte_of(&self.excerpt, self.column.saturating_add(self.length).saturating_sub(1)).max(start);
        let mut caret = AnnotationKind::Primary.span(start..end);
        if let Some(suggestion) = &self.suggestion {
            caret = caret.label(suggestion.as_str());
        }
        let snippet = Snippet::source(&*self.excerpt).line_start(self.line as usize).path(&*self.file);
        renderer.render(&[title.element(snippet.annotation(caret))])
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Problem {}

/// Every problem, with an empty line between two.
pub fn render_all(problems: &[Problem], colour: bool) -> String {
    problems.iter().map(|problem| problem.render(colour)).collect::<Vec<_>>().join("\n\n")
}

fn byte_of(line: &str, characters: u32) -> usize {
    line.char_indices().nth(characters as usize).map_or(line.len(), |(at, _)| at)
}

/// A file's text and its name, from which problems are made.
#[derive(Clone, Copy, Debug)]
pub struct Document<'a> {
    file: &'a Path,
    text: &'a str,
}

impl<'a> Document<'a> {
    /// The text of `file`.
    pub fn new(file: &'a Path, text: &'a str) -> Self {
        Self { file, text: text.strip_prefix('\u{feff}').unwrap_or(text) }
    }

    /// The text, without a byte order mark.
    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// The folder that relative paths in the file start from.
    pub fn folder(&self) -> &'a Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    /// A problem with the whole file.
    pub fn whole(&self, code: &'static str, message: impl Into<String>) -> Problem {
        Problem::whole(self.file.display().to_string(), code, message)
    }

    /// A problem at `spot`; the caret covers what the parser says, up to the end of the line.
    pub fn at(&self, spot: Spot, code: &'static str, message: impl Into<String>) -> Problem {
        let Some(written) = self.line(spot) else { return self.whole(code, message) };
        let Spot { line, column, length: told } = spot;
        let rest = &written[byte_of(written, column.saturating_sub(1))..];
        let length = if told > 0 { told.min(characters(rest.trim_end())) } else { word_length(rest) };
        Problem { line, column, length: length.max(1), excerpt: written.into(), ..self.whole(code, message) }
    }

    /// `services.yaml:7`: where `written` stands, without a look at the text.
    pub fn origin(&self, written: &Written) -> String {
        match &written.place {
            Place::File(spot) => self.line_of(*spot),
            Place::Variable(name) => name.clone(),
        }
    }

    /// `services.yaml:7`: a place, without a look at the text.
    pub fn line_of(&self, spot: Spot) -> String {
        if spot.line > 0 {
            format!("{}:{}", self.file.display(), spot.line)
        } else {
            self.file.display().to_string()
        }
    }

    fn line(&self, spot: Spot) -> Option<&'a str> {
        let index = usize::try_from(spot.line).ok()?.checked_sub(1)?;
        self.text.lines().nth(index)
    }

    /// Whether the line of `spot` begins with a tab.
    fn indented_by_tab(&self, spot: Spot) -> bool {
        let line = self.line(spot).unwrap_or_default();
        line.chars().take_while(|c| c.is_whitespace()).any(|c| c == '\t')
    }

    /// A problem with what was `written`, in the file or in the environment.
    pub fn with(&self, written: &Written, code: &'static str, message: impl Into<String>) -> Problem {
        match &written.place {
            Place::File(spot) => self.at(*spot, code, message),
            Place::Variable(name) => Problem::whole("", code, format!("{name}: {}", message.into())),
        }
    }
}

fn characters(text: &str) -> u32 {
    u32::try_from(text.chars().count()).unwrap_or(u32::MAX)
}

fn word_length(rest: &str) -> u32 {
    let end = rest.find(|c: char| c.is_whitespace() || matches!(c, ':' | ',' | ']' | '}'));
    characters(&rest[..end.unwrap_or(rest.len())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn problem() -> Problem {
        Problem {
            file: "legation.yaml".into(),
            line: 7,
            column: 3,
            length: 9,
            message: "unknown key `intervall`".to_owned(),
            suggestion: Some("did you mean `interval`? expected one of interval, maxBackoff".to_owned()),
            code: UNKNOWN_KEY,
            excerpt: "  intervall: 30s".into(),
        }
    }

    #[test]
    fn a_problem_shows_its_line_and_a_caret() {
        expect![[r#"
            error[CFG001]: unknown key `intervall`
             --> legation.yaml:7:3
              |
            7 |   intervall: 30s
              |   ^^^^^^^^^ did you mean `interval`? expected one of interval, maxBackoff"#]]
        .assert_eq(&problem().to_string());
        assert_eq!(problem().place(), "legation.yaml:7:3");
    }

    #[test]
    fn a_caret_counts_characters_and_never_leaves_the_line() {
        let far = Problem { excerpt: "é: ü".into(), column: 4, length: 90, ..problem() };
        expect![[r#"
            error[CFG001]: unknown key `intervall`
             --> legation.yaml:7:4
              |
            7 | é: ü
              |    ^ did you mean `interval`? expected one of interval, maxBackoff"#]]
        .assert_eq(&far.to_string());
        let outside = Problem { column: u32::MAX, length: 1, suggestion: None, ..problem() };
        assert!(outside.to_string().contains("7 |   intervall: 30s"), "a wrong place must not panic");
    }

    #[test]
    fn a_problem_with_a_whole_file_or_with_none() {
        let whole = Problem::whole("gone.yaml", REJECTED, "can't read it: no such file");
        expect![[r#"
            error[CFG003]: can't read it: no such file
            --> gone.yaml"#]]
        .assert_eq(&whole.to_string());
        let variable = Problem::whole("", BAD_VALUE, "LEGATION_ECS__INTERVAL: `10` is not a duration");
        expect![[r#"
            error[CFG002]: LEGATION_ECS__INTERVAL: `10` is not a duration
             |
             = help: write it like `30s`"#]]
        .assert_eq(&variable.suggesting("write it like `30s`").to_string());
    }

    #[test]
    fn colour_is_only_there_when_asked_for() {
        assert!(problem().render(true).contains('\u{1b}'));
        assert!(!problem().render(false).contains('\u{1b}'));
    }
}
