//! YAML as a tree in which every value and every key knows its place.
//!
//! It is for files whose mistakes are told all at once: types that stop at the first are `yaml`'s. It does not know
//! what a file may say: that is its [`Shape`](super::shape::Shape).
//!
//! Invariant: no text makes it panic, and what it holds is no larger than the parser's limits on aliases allow.

use std::collections::HashMap;
use std::path::Path;

use serde::de::IgnoredAny;
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span};

use super::{BAD_VALUE, Document, Problem, REJECTED, Spot, Written, yaml};
use super::{Place, words};

/// One value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    /// Nothing, or `null`.
    Nothing(Spot),
    /// A single value as it was written.
    Scalar(Written),
    /// A list.
    List(Spot, Vec<Node>),
    /// A map, in the order of the file.
    Map(Spot, Vec<(Written, Node)>),
}

impl Node {
    /// Where it begins.
    pub fn spot(&self) -> Spot {
        match self {
            Self::Nothing(spot) | Self::List(spot, _) | Self::Map(spot, _) => *spot,
            Self::Scalar(Written { place: Place::File(spot), .. }) => *spot,
            Self::Scalar(_) => Spot::default(),
        }
    }

    /// The value of a key, if this is a map that has one.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let (_, value) = self.entries().iter().find(|(written, _)| written.text == key)?;
        (!matches!(value, Self::Nothing(_))).then_some(value)
    }

    /// The entries of a map; of anything else none.
    pub fn entries(&self) -> &[(Written, Self)] {
        match self {
            Self::Map(_, entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; of anything else none.
    pub fn items(&self) -> &[Self] {
        match self {
            Self::List(_, items) => items,
            _ => &[],
        }
    }

    /// A single value.
    pub fn written(&self) -> Option<&Written> {
        match self {
            Self::Scalar(written) => Some(written),
            _ => None,
        }
    }

    /// The text of a single value.
    pub fn text(&self) -> Option<&str> {
        self.written().map(|written| written.text.as_str())
    }

    /// What it is, for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Nothing(_) => "nothing",
            Self::Scalar(_) => "a single value",
            Self::List(..) => "a list",
            Self::Map(..) => "a map",
        }
    }
}

/// Reads the `text` of `file`. Keys that are written twice are told all together.
pub fn read_tree(file: &Path, text: &str) -> Result<Node, Vec<Problem>> {
    // What is no YAML, and what would grow too large, is told in the same words as everywhere.
    let _: IgnoredAny = yaml::read_yaml_with_repeated_keys(file, text).map_err(|problem| vec![problem])?;
    let document = Document::new(file, text);
    let mut reader = Reader {
        parser: Parser::new_from_str(document.text()),
        document,
        anchors: HashMap::new(),
        problems: Vec::new(),
    };
    let node = reader.document_node();
    match node {
        Some(node) if reader.problems.is_empty() => Ok(node),
        Some(_) => Err(reader.problems),
        None => Err(vec![document.whole(REJECTED, "the file can't be read")]),
    }
}

type Events<'a> = Parser<'a, serde_saphyr::granit_parser::StrInput<'a>>;

struct Reader<'a> {
    parser: Events<'a>,
    document: Document<'a>,
    anchors: HashMap<usize, Node>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    /// What comes next, less comments.
    fn next(&mut self) -> Option<(Event<'a>, Span)> {
        loop {
            let next = self.parser.next_event()?.ok()?;
            if !matches!(next.0, Event::Comment(..)) {
                return Some(next);
            }
        }
    }

    fn document_node(&mut self) -> Option<Node> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentStart(..) => {}
                Event::StreamEnd | Event::DocumentEnd => return None,
                event => return self.node(event, span),
            }
        }
    }

    /// The value that an event begins.
    fn node(&mut self, event: Event<'a>, span: Span) -> Option<Node> {
        let spot = Spot::from(span);
        let (node, anchor) = match event {
            Event::Alias(id) => return self.anchors.get(&id).cloned(),
            Event::Scalar(text, style, anchor, _) => (scalar(text.into_owned(), style, spot), anchor),
            Event::SequenceStart(_, anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => items.push(self.node(event, span)?),
                    }
                }
                (Node::List(spot, items), anchor)
            }
            Event::MappingStart(_, anchor, _) => (Node::Map(spot, self.entries()?), anchor),
            _ => return None,
        };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Some(node)
    }

    fn entries(&mut self) -> Option<Vec<(Written, Node)>> {
        let mut entries: Vec<(Written, Node)> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Some(entries);
            }
            let spot = Spot::from(span);
            let key = self.node(event, span)?;
            let (event, span) = self.next()?;
            let value = self.node(event, span)?;
            let Node::Scalar(key) = key else {
                self.problems.push(self.document.at(spot, BAD_VALUE, "a key must be a single word"));
                continue;
            };
            if entries.iter().any(|(known, _)| known.text == key.text) {
                let message = format!("the key `{}` is written twice", words::short(&key.text));
                let problem = self.document.with(&key, BAD_VALUE, message);
                self.problems.push(problem.suggesting("remove one of them"));
                continue;
            }
            entries.push((key, value));
        }
    }
}

fn scalar(text: String, style: ScalarStyle, spot: Spot) -> Node {
    if style == ScalarStyle::Plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL") {
        return Node::Nothing(spot);
    }
    Node::Scalar(Written { text, place: Place::File(spot) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tree(text: &str) -> Result<Node, Vec<String>> {
        let problems = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect();
        read_tree(Path::new("a.yaml"), text).map_err(problems)
    }

    #[test]
    fn values_keep_what_was_written_and_where() {
        let node = tree("a: &x\n  version: 1.10\n  none: ~\nb: [yes, '', \"é\"]\nc: *x\n").expect("YAML");
        let version = node.get("a").and_then(|a| a.get("version")).and_then(Node::written).expect("it");
        assert_eq!(
            (&*version.text, &version.place),
            ("1.10", &Place::File(Spot { line: 2, column: 12, length: 4 }))
        );
        assert_eq!(node.get("a").expect("a").get("none"), None);
        let items: Vec<_> = node.get("b").expect("b").items().iter().map(Node::text).collect();
        assert_eq!(items, [Some("yes"), Some(""), Some("é")]);
        assert_eq!(node.get("c"), node.get("a"));
        let key = &node.entries()[1].0;
        assert_eq!((&*key.text, &key.place), ("b", &Place::File(Spot { line: 4, column: 1, length: 1 })));
    }

    #[test]
    fn comments_may_be_anywhere() {
        let text = "# a file\na: # a map\n  # of one\n  b: [1, # and\n    2] # two\n# end\n";
        let node = tree(text).expect("YAML");
        let items = node.get("a").and_then(|a| a.get("b")).expect("b").items();
        assert_eq!(items.iter().map(Node::text).collect::<Vec<_>>(), [Some("1"), Some("2")]);
    }

    #[test]
    fn every_repeated_key_is_told() {
        let problems = tree("a: 1\na: 2\nb: {c: 1, c: 2}\n[x]: 1\n").expect_err("problems");
        assert_eq!(problems.len(), 3, "{problems:?}");
        expect_test::expect![[r#"
            error[CFG002]: the key `c` is written twice
             --> a.yaml:3:11
              |
            3 | b: {c: 1, c: 2}
              |           ^ remove one of them"#]]
        .assert_eq(&problems[1]);
    }

    #[test]
    fn what_is_no_yaml_is_told_as_everywhere() {
        for text in ["", "a: [\n", "a:\n\tb: 1\n", "a: *x\n", "a: 1\n---\nb: 1\n"] {
            assert_eq!(tree(text).expect_err("no YAML").len(), 1, "{text:?}");
        }
        let bomb: String = (1..30)
            .map(|n| format!("a{n}: &a{n} [{}]\n", format!("*a{},", n - 1).repeat(10).trim_end_matches(',')))
            .collect();
        assert_eq!(tree(&format!("a0: &a0 [x]\n{bomb}")).expect_err("a bomb").len(), 1);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-z:{}\\[\\], \n\t\"'&*!|>é#-]{0,60}") {
            let _ = tree(&text);
        }
    }
}
