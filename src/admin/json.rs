//! Resources as canonical protobuf JSON, by the descriptors that are built in.

use std::sync::LazyLock;

use anyhow::{Context, anyhow};
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage, Value as Field};
use serde_json::Value;

use crate::snapshot::Resource;

static POOL: LazyLock<Result<DescriptorPool, String>> = LazyLock::new(|| {
    DescriptorPool::decode(include_bytes!(concat!(env!("OUT_DIR"), "/envoy-types.bin")).as_slice())
        .map_err(|error| error.to_string())
});

/// The resource's message as canonical protobuf JSON, with every nested `Any` expanded.
pub fn resource_json(resource: &Resource) -> anyhow::Result<Value> {
    serde_json::to_value(message(resource)?).with_context(|| format!("{} as JSON", resource.name))
}

/// How many entries the longest protobuf map in the resource has. With two or more, the bytes would depend on
/// chance, and so would the version.
pub fn longest_map(resource: &Resource) -> anyhow::Result<usize> {
    longest_in(&message(resource)?)
}

fn message(resource: &Resource) -> anyhow::Result<DynamicMessage> {
    let any = resource.any().with_context(|| format!("{} can't be decoded", resource.name))?;
    decode(&any.type_url, &any.value)
}

fn decode(type_url: &str, bytes: &[u8]) -> anyhow::Result<DynamicMessage> {
    let pool = POOL.as_ref().map_err(|error| anyhow!("the built-in descriptors are broken: {error}"))?;
    let name = type_url.rsplit('/').next().unwrap_or_default();
    let descriptor = pool.get_message_by_name(name).with_context(|| format!("no descriptor of `{name}`"))?;
    DynamicMessage::decode(descriptor, bytes).with_context(|| format!("not a `{name}`"))
}

fn longest_in(message: &DynamicMessage) -> anyhow::Result<usize> {
    if message.descriptor().full_name() == "google.protobuf.Any" {
        let text = |name| message.get_field_by_name(name).and_then(|it| it.as_str().map(str::to_owned));
        let bytes = message.get_field_by_name("value").and_then(|it| it.as_bytes().cloned());
        return longest_in(&decode(&text("type_url").unwrap_or_default(), &bytes.unwrap_or_default())?);
    }
    message.fields().try_fold(0, |longest, (_, field)| Ok(longest.max(longest_of(field)?)))
}

fn longest_of(field: &Field) -> anyhow::Result<usize> {
    match field {
        Field::Message(message) => longest_in(message),
        Field::List(items) => items.iter().try_fold(0, |longest, it| Ok(longest.max(longest_of(it)?))),
        Field::Map(entries) => {
            entries.values().try_fold(entries.len(), |longest, it| Ok(longest.max(longest_of(it)?)))
        }
        _ => Ok(0),
    }
}
