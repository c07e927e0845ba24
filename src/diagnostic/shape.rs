//! What a file may say: one table of keys, from which its check, its JSON Schema and its reference follow.
//!
//! It knows no file: the table of each belongs to whoever reads it.
//!
//! Invariant: a file that passed holds no key and no value that its table doesn't know, and everything that is wrong with
//! one that did not is told at once.

use std::time::Duration;

use super::check::{Checker, NameRule};
use super::words::{choice, short};
use super::{BAD_VALUE, Node, UNKNOWN_KEY, Written};

/// What a value may be.
#[derive(Debug)]
pub enum Shape {
    /// The whole file: a map, in which keys that begin with `x-` are passed over, for anchors and notes.
    File(&'static [Key]),
    /// A map with these keys.
    Map(&'static [Key]),
    /// A map from names to values of one shape.
    Names(NameRule, &'static Self),
    /// A map from any words, of at most so many characters, to values of one shape.
    Pairs(usize, &'static Self),
    /// A list of values of one shape.
    List(&'static Self),
    /// A duration as GEP-2257 has it.
    Duration(Duration, Duration),
    /// A whole number.
    Number(u32, u32),
    /// `true` or `false`.
    Switch,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A name.
    Name(NameRule),
    /// Any text, of at most so many characters.
    Text(usize),
    /// Text of a kind: what it is, an example, and whether some text is that.
    Kind(&'static str, &'static str, fn(&str) -> bool),
}

/// One key of a map.
#[derive(Debug)]
pub struct Key {
    /// As it is written.
    pub name: &'static str,
    /// What it means, for people.
    pub about: &'static str,
    /// What holds where it is not written, if that can be said.
    pub default: Option<&'static str>,
    /// Whether it has to be there.
    pub required: bool,
    /// What its value may be.
    pub shape: &'static Shape,
}

impl Key {
    /// A key that may be left out.
    pub const fn new(name: &'static str, shape: &'static Shape, about: &'static str) -> Self {
        Self { name, about, default: None, required: false, shape }
    }

    /// The same, with what holds without it.
    #[must_use]
    pub const fn or(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }

    /// The same, and it has to be there.
    #[must_use]
    pub const fn required(self) -> Self {
        Self { required: true, ..self }
    }
}

impl Shape {
    /// Tells everything about `node` that this does not allow.
    pub fn examine(&self, node: &Node, checker: &mut Checker<'_>) {
        match (self, node) {
            (_, Node::Nothing(_)) => {} // nothing is said
            (Self::File(keys), Node::Map(..)) => examine_keys(keys, node, true, checker),
            (Self::Map(keys), Node::Map(..)) => examine_keys(keys, node, false, checker),
            (Self::Names(rule, shape), Node::Map(_, entries)) => {
                for (name, value) in entries {
                    checker.name(name, *rule);
                    shape.examine(value, checker);
                }
            }
            (Self::Pairs(longest, shape), Node::Map(_, entries)) => {
                for (word, value) in entries {
                    Self::Text(*longest).examine_text(word, checker);
                    shape.examine(value, checker);
                }
            }
            (Self::List(shape), Node::List(_, items)) => {
                items.iter().for_each(|item| shape.examine(item, checker));
            }
            (_, Node::Scalar(written)) if !self.is_collection() => self.examine_text(written, checker),
            _ => {
                let message = format!("expected {}, found {}", self.kind(), node.kind());
                let problem = checker.document().at(node.spot(), BAD_VALUE, message);
                checker.add(problem);
            }
        }
    }

    fn examine_text(&self, written: &Written, checker: &mut Checker<'_>) {
        let text = written.text.as_str();
        match self {
            Self::Duration(least, most) => drop(checker.duration(written, *least, *most)),
            Self::Number(least, most) => drop(checker.number(written, *least, *most)),
            Self::Name(rule) => drop(checker.name(written, *rule)),
            Self::Switch if matches!(text, "true" | "false") => {}
            Self::Switch => {
                checker.bad(
                    written,
                    format!("`{}` is neither true nor false", short(text)),
                    "write `true` or `false`",
                );
            }
            Self::Word(words) if words.contains(&text) => {}
            Self::Word(words) => {
                checker.bad(written, format!("unknown word `{}`", short(text)), choice(text, words));
            }
            Self::Text(longest) if text.trim().is_empty() || text.chars().count() > *longest => {
                checker.bad(written, format!("expected 1 to {longest} characters"), "write some text");
            }
            Self::Kind(what, example, is) if !is(text) => {
                checker.bad(
                    written,
                    format!("`{}` is not {what}", short(text)),
                    format!("write it like `{example}`"),
                );
            }
            _ => {}
        }
    }

    fn is_collection(&self) -> bool {
        matches!(self, Self::File(_) | Self::Map(_) | Self::Names(..) | Self::Pairs(..) | Self::List(_))
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::File(_) | Self::Map(_) => "a map, with a key on each line",
            Self::Names(..) => "a map from names to descriptions",
            Self::Pairs(..) => "a map from words to words, like `{ tier: gold }`",
            Self::List(_) => "a list, like `[a, b]`",
            _ => "a single value",
        }
    }
}

fn examine_keys(keys: &'static [Key], node: &Node, passes_notes: bool, checker: &mut Checker<'_>) {
    for (written, value) in node.entries() {
        match keys.iter().find(|key| key.name == written.text) {
            Some(key) => key.shape.examine(value, checker),
            None if passes_notes && written.text.starts_with("x-") => {}
            None => {
                let known: Vec<_> = keys.iter().map(|key| key.name).collect();
                let message = format!("unknown key `{}`", short(&written.text));
                let problem = checker.document().with(written, UNKNOWN_KEY, message);
                checker.add(problem.suggesting(choice(&written.text, &known)));
            }
        }
    }
    for key in keys.iter().filter(|key| key.required && node.get(key.name).is_none()) {
        let message = format!("the key `{}` is missing", key.name);
        let problem = checker.document().at(node.spot(), BAD_VALUE, message);
        checker.add(problem);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Document, read_tree};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    static TIME: Shape = Shape::Duration(Duration::ZERO, SECOND);
    static MODE: Shape = Shape::Word(&["remove", "draining"]);
    static COUNT: Shape = Shape::Number(0, 10);
    static COUNTS: Shape = Shape::List(&COUNT);
    static SERVICE: Shape = Shape::Map(&[
        Key::new("time", &TIME, "How long.").or("1s"),
        Key::new("mode", &MODE, "How.").required(),
        Key::new("counts", &COUNTS, "How often."),
    ]);
    static SERVICES: Shape = Shape::Names(NameRule { what: "a service", longest: 9, dots: false }, &SERVICE);
    static FILE: Shape = Shape::File(&[Key::new("services", &SERVICES, "Who.")]);

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let text = "\
services:
  a: { time: 2s, mode: remov, counts: [1, x, 11] }
  B: { tim: 1s, mode: remove }
  c: [mode]
  d: { mode: ~, counts: 7 }
x-notes: { any: thing }
y: 1
";
        let path = Path::new("a.yaml");
        let node = read_tree(path, text).expect("YAML");
        let mut checker = Checker::new(Document::new(path, text));
        FILE.examine(&node, &mut checker);
        let problems = checker.finish(()).expect_err("problems");
        let told: Vec<_> = problems.iter().map(|it| format!("{} {}", it.place(), it.message)).collect();
        expect_test::expect![[r#"
            a.yaml:2:14 `2s` is out of range
            a.yaml:2:24 unknown word `remov`
            a.yaml:2:43 `x` is not a whole number from 0 to 10
            a.yaml:2:46 `11` is not a whole number from 0 to 10
            a.yaml:3:3 `B` can't be the name of a service
            a.yaml:3:8 unknown key `tim`
            a.yaml:4:6 expected a map, with a key on each line, found a list
            a.yaml:5:6 the key `mode` is missing
            a.yaml:5:25 expected a list, like `[a, b]`, found a single value
            a.yaml:7:1 unknown key `y`"#]]
        .assert_eq(&told.join("\n"));
    }
}
