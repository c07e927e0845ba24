//! The JSON Schema of a file, from its table of keys.
//!
//! It is for editors and for whoever writes files by program; the check itself is `shape`'s, which says more. Invariant:
//! what the schema refuses is refused by the check too.

use serde_json::{Map, Value, json};

use super::check::NameRule;
use super::shape::{Key, Shape};
use super::words::spell;

/// What GEP-2257 allows.
const DURATION: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// The schema of a file with this table.
pub fn schema(title: &str, shape: &Shape) -> Value {
    let mut schema = of(shape);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!(title);
    schema
}

fn of(shape: &Shape) -> Value {
    match shape {
        Shape::File(keys) => {
            let mut schema = map(keys);
            schema["patternProperties"] = json!({ "^x-": true });
            schema
        }
        Shape::Map(keys) => map(keys),
        Shape::Names(rule, shape) => json!({
            "type": "object",
            "propertyNames": { "pattern": pattern(*rule) },
            "additionalProperties": or_nothing(of(shape)),
        }),
        Shape::Pairs(longest, shape) => json!({
            "type": "object",
            "minProperties": 1,
            "propertyNames": { "minLength": 1, "maxLength": longest },
            "additionalProperties": of(shape),
        }),
        Shape::List(shape) => json!({ "type": "array", "items": of(shape) }),
        Shape::Duration(least, most) => {
            let range = format!("{} to {}", spell(*least), spell(*most));
            json!({ "type": "string", "pattern": DURATION, "description": range })
        }
        Shape::Number(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Shape::Switch => json!({ "type": "boolean" }),
        Shape::Word(words) => {
            match words.iter().map(|word| word.parse::<u32>()).collect::<Result<Vec<_>, _>>() {
                Ok(numbers) => json!({ "type": "integer", "enum": numbers }),
                Err(_) => json!({ "type": "string", "enum": words }),
            }
        }
        Shape::Name(rule) => json!({ "type": "string", "pattern": pattern(*rule) }),
        Shape::Text(longest) => json!({ "type": "string", "minLength": 1, "maxLength": longest }),
        Shape::Kind(what, example, _) => {
            json!({ "type": "string", "description": what, "examples": [example] })
        }
    }
}

fn map(keys: &[Key]) -> Value {
    let mut properties = Map::new();
    for key in keys {
        let mut schema = of(key.shape);
        let detail = schema["description"].as_str().map(|detail| format!(" ({detail})"));
        schema["description"] = json!(format!("{}{}", key.about, detail.unwrap_or_default()));
        if let Some(default) = key.default {
            schema["default"] = value(key.shape, default);
        }
        properties.insert(key.name.to_owned(), if key.required { schema } else { or_nothing(schema) });
    }
    let required: Vec<_> = keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// A default as it is meant: numbers as numbers.
fn value(shape: &Shape, text: &str) -> Value {
    match shape {
        Shape::Number(..) | Shape::Switch | Shape::List(_) | Shape::Word(_) => {
            serde_json::from_str(text).unwrap_or(json!(text))
        }
        _ => json!(text),
    }
}

/// The same, or `null`, which says nothing.
fn or_nothing(mut schema: Value) -> Value {
    schema["type"] = json!([schema["type"], "null"]);
    if let Some(words) = schema.get_mut("enum").and_then(Value::as_array_mut) {
        words.push(Value::Null);
    }
    schema
}

fn pattern(NameRule { longest, dots, .. }: NameRule) -> String {
    let dots = if dots { "." } else { "" };
    format!("^[a-z0-9][a-z0-9_{dots}-]{{0,{}}}$", longest.saturating_sub(1))
}
