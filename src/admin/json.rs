//! Resources as canonical protobuf JSON, by the descriptors that are built in.

use std::sync::LazyLock;

use anyhow::{Context, anyhow};
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{Value, json};

use crate::snapshot::Resource;
use crate::xds::reflection::DESCRIPTORS;

static POOL: LazyLock<Result<DescriptorPool, String>> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).map_err(|error| error.to_string()));

/// The resource's message as canonical protobuf JSON, with every nested `Any` expanded.
pub fn resource_json(resource: &Resource) -> anyhow::Result<Value> {
    let json =
        serde_json::to_value(message(resource)?).with_context(|| format!("{} as JSON", resource.name))?;
    Ok(ordered(json))
}

/// The resource as it is shown in lists: with its name and version.
pub fn shown(resource: &Resource) -> anyhow::Result<Value> {
    let version = resource.version.to_string();
    Ok(json!({ "name": resource.name, "version": version, "resource": resource_json(resource)? }))
}

/// What protobuf keeps in no order: the fields of an access log, and what routes say to filters.
const UNORDERED: [&str; 2] = ["jsonFormat", "typedPerFilterConfig"];

/// The same, the fields of free structures and maps by name.
fn ordered(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(ordered).collect(),
        Value::Object(members) => {
            let ordered = members.into_iter().map(|(key, value)| {
                let mut value = ordered(value);
                if let Some(fields) = value.as_object_mut().filter(|_| UNORDERED.contains(&key.as_str())) {
                    fields.sort_keys();
                }
                (key, value)
            });
            Value::Object(ordered.collect())
        }
        other => other,
    }
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
