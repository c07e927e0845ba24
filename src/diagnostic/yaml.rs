//! YAML into types, strictly, with errors that a person can act on.
//!
//! It is not lenient: unknown and repeated keys are errors, and `yes` is a word.
//!
//! Invariant: no text makes it panic.

use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_saphyr::{Error, Location, MessageFormatter, Spanned, UserMessageFormatter};

use super::words::{choice, short};
use super::{BAD_VALUE, Document, Problem, REJECTED, Spot, UNKNOWN_KEY};

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// A place in the file.
    File(Spot),
    /// An environment variable.
    Variable(String),
}

/// A scalar as it was written, to be checked later: so that one wrong value doesn't hide the next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// The text.
    pub text: String,
    /// Where it stands.
    pub place: Place,
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<String>::deserialize(deserializer)?;
        Ok(Self { text: spanned.value, place: Place::File(spanned.referenced.into()) })
    }
}

/// A map in the order of the file, with the places of its keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entries<T>(pub Vec<(Written, T)>);

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Pairs<T> {
            type Value = Entries<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from names to descriptions")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(Pairs(PhantomData))
    }
}

/// Reads the `text` of `file`.
pub fn read_yaml<T: DeserializeOwned>(file: &Path, text: &str) -> Result<T, Problem> {
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    read_with(file, text, options)
}

/// The same, whatever is written twice.
pub(super) fn read_yaml_with_repeated_keys<T: DeserializeOwned>(
    file: &Path,
    text: &str,
) -> Result<T, Problem> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
    };
    read_with(file, text, options)
}

/// A value as YAML.
pub fn to_yaml(value: &impl Serialize) -> Result<String, String> {
    let text = serde_saphyr::to_string(value).map_err(|error| error.to_string())?;
    Ok(if text.ends_with('\n') { text } else { text + "\n" })
}

fn read_with<T: DeserializeOwned>(
    file: &Path,
    text: &str,
    options: serde_saphyr::Options,
) -> Result<T, Problem> {
    let document = Document::new(file, text);
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Err(document.whole(REJECTED, "the file is empty"));
    }
    serde_saphyr::from_str_with_options(text, options).map_err(|error| explain(&document, &error))
}

fn explain(document: &Document<'_>, error: &Error) -> Problem {
    let error = error.without_snippet();
    let location = Spot::from(error.location().unwrap_or(Location::UNKNOWN));
    let bad = |message: String| document.at(location, BAD_VALUE, message);
    match error {
        Error::AliasError { error, .. } => explain(document, error),
        Error::SerdeUnknownField { field, expected, .. } => {
            let message = format!("unknown key `{}`", short(field));
            document.at(location, UNKNOWN_KEY, message).suggesting(choice(field, expected))
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            bad(format!("unknown word `{}`", short(variant))).suggesting(choice(variant, expected))
        }
        Error::SerdeMissingField { field, .. } => bad(format!("the key `{field}` is missing")),
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            bad(format!("the key `{}` is written twice", short(key))).suggesting("remove one of them")
        }
        Error::SerdeInvalidType { unexpected, expected, .. }
        | Error::SerdeInvalidValue { unexpected, expected, .. } => {
            bad(format!("expected {}, found {}", expected, short(unexpected)))
        }
        Error::InvalidScalar { ty, .. } => bad(format!("this is not {}", plainly(ty))),
        Error::InvalidBooleanStrict { .. } => bad("this is neither true nor false".to_owned()),
        Error::NullIntoString { .. } => bad("a value is missing".to_owned()),
        Error::Unexpected { expected, .. } => bad(format!("expected {}", plainly(expected))),
        _ if document.indented_by_tab(location) => {
            document.at(location, REJECTED, "a tab can't indent").suggesting("use spaces")
        }
        other => document.at(location, REJECTED, UserMessageFormatter.format_message(other)),
    }
}

/// The parser's words for what it expected, without its jargon.
fn plainly(expected: &str) -> &str {
    match expected {
        "mapping start" => "a map, with a key on each line",
        "sequence start" => "a list, like `[a, b]`",
        "string scalar" => "a single value",
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" | "usize" => "a whole number",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only read")]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    struct Settings {
        ecs: Option<Ecs>,
        #[serde(default)]
        ports: Vec<u16>,
        mode: Option<Mode>,
        #[serde(default)]
        names: Entries<Written>,
        flag: Option<bool>,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only read")]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    struct Ecs {
        interval: Written,
        max_backoff: Option<Written>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase")]
    enum Mode {
        Remove,
        Draining,
    }

    fn check(text: &str, expected: Expect) {
        let problem = read_yaml::<Settings>(Path::new("a.yaml"), text).unwrap_err();
        expected.assert_eq(&problem.to_string());
    }

    #[test]
    fn an_unknown_key() {
        check(
            "ecs:\n  interval: 1s\n  intervall: 30s\n",
            expect![[r#"
            error[CFG001]: unknown key `intervall`
             --> a.yaml:3:3
              |
            3 |   intervall: 30s
              |   ^^^^^^^^^ did you mean `interval`? expected one of interval, maxBackoff"#]],
        );
        check(
            "database: x\n",
            expect![[r#"
            error[CFG001]: unknown key `database`
             --> a.yaml:1:1
              |
            1 | database: x
              | ^^^^^^^^ expected one of ecs, ports, mode, names, flag"#]],
        );
    }

    #[test]
    fn a_repeated_key() {
        check(
            "ecs:\n  interval: 1s\nports: [1]\necs:\n  interval: 2s\n",
            expect![[r#"
            error[CFG002]: the key `ecs` is written twice
             --> a.yaml:4:1
              |
            4 | ecs:
              | ^^^ remove one of them"#]],
        );
        check(
            "names: {a: 1, b: 2, a: 3}\n",
            expect![[r#"
            error[CFG002]: the key `a` is written twice
             --> a.yaml:1:21
              |
            1 | names: {a: 1, b: 2, a: 3}
              |                     ^ remove one of them"#]],
        );
    }

    #[test]
    fn wrong_types() {
        check(
            "ports: 7\n",
            expect![[r#"
            error[CFG002]: expected a list, like `[a, b]`
             --> a.yaml:1:8
              |
            1 | ports: 7
              |        ^"#]],
        );
        check(
            "ports: [1, x]\n",
            expect![[r#"
            error[CFG002]: this is not a whole number from 0 to 65535
             --> a.yaml:1:12
              |
            1 | ports: [1, x]
              |            ^"#]],
        );
        check(
            "ecs: 5\n",
            expect![[r#"
            error[CFG002]: expected a map, with a key on each line
             --> a.yaml:1:6
              |
            1 | ecs: 5
              |      ^"#]],
        );
        check(
            "ecs: {interval: [1]}\n",
            expect![[r#"
            error[CFG002]: expected a single value
             --> a.yaml:1:17
              |
            1 | ecs: {interval: [1]}
              |                 ^"#]],
        );
        check(
            "- ecs\n",
            expect![[r#"
            error[CFG002]: expected a map, with a key on each line
             --> a.yaml:1:1
              |
            1 | - ecs
              | ^"#]],
        );
    }

    #[test]
    fn missing_values_and_keys() {
        check(
            "ecs:\n  interval:\n",
            expect![[r#"
            error[CFG002]: a value is missing
             --> a.yaml:2:11
              |
            2 |   interval:
              |           ^"#]],
        );
        check(
            "ecs: {}\n",
            expect![[r#"
            error[CFG002]: the key `interval` is missing
             --> a.yaml:1:6
              |
            1 | ecs: {}
              |      ^"#]],
        );
    }

    #[test]
    fn unknown_words() {
        check(
            "mode: remov\n",
            expect![[r#"
            error[CFG002]: unknown word `remov`
             --> a.yaml:1:7
              |
            1 | mode: remov
              |       ^^^^^ did you mean `remove`? expected one of remove, draining"#]],
        );
        check(
            "flag: yes\n",
            expect![[r#"
            error[CFG002]: this is neither true nor false
             --> a.yaml:1:7
              |
            1 | flag: yes
              |       ^^^"#]],
        );
    }

    #[test]
    fn broken_yaml() {
        check(
            "ecs:\n\tinterval: 1s\n",
            expect![[r#"
            error[CFG003]: a tab can't indent
             --> a.yaml:2:2
              |
            2 |     interval: 1s
              |     ^ use spaces"#]],
        );
        check(
            "ecs: {interval: 1s\n",
            expect![[r#"
            error[CFG003]: unclosed bracket '{'
             --> a.yaml:1:6
              |
            1 | ecs: {interval: 1s
              |      ^"#]],
        );
        check(
            "ecs:\n  interval: 1s\n mode: remove\n",
            expect![[r#"
            error[CFG003]: while parsing a block mapping, did not find expected key
             --> a.yaml:3:2
              |
            3 |  mode: remove
              |  ^"#]],
        );
        check(
            "ecs: *x\n",
            expect![[r#"
            error[CFG003]: reference to unknown value
             --> a.yaml:1:6
              |
            1 | ecs: *x
              |      ^"#]],
        );
        check(
            "ports: []\n---\nports: []\n",
            expect![[r#"
            error[CFG003]: only single YAML document expected but multiple found
             --> a.yaml:3:1
              |
            3 | ports: []
              | ^^^^^"#]],
        );
    }

    #[test]
    fn an_empty_file() {
        check(
            "",
            expect![[r#"
            error[CFG003]: the file is empty
            --> a.yaml"#]],
        );
        check(
            "\n# nothing yet\n",
            expect![[r#"
            error[CFG003]: the file is empty
            --> a.yaml"#]],
        );
    }

    #[test]
    fn boolean_words_of_yaml_1_1_are_words() {
        let entries: Entries<Written> = read_yaml(Path::new("a.yaml"), "on: yes\noff: no\n").unwrap();
        let words: Vec<_> = entries.0.iter().map(|(key, value)| (&*key.text, &*value.text)).collect();
        assert_eq!(words, [("on", "yes"), ("off", "no")]);
    }

    #[test]
    fn a_byte_order_mark_does_not_move_the_caret() {
        check(
            "\u{feff}ecs: x\n",
            expect![[r#"
            error[CFG002]: expected a map, with a key on each line
             --> a.yaml:1:6
              |
            1 | ecs: x
              |      ^"#]],
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-z:{}\\[\\], \n\t\"'&*!|>é#-]{0,60}") {
            if let Err(problem) = read_yaml::<Settings>(Path::new("a.yaml"), &text) {
                prop_assert!(problem.to_string().contains("a.yaml"));
            }
        }
    }
}
