//! The rules that hold for every response, whoever asked for what.
//!
//! They are about one stream's frames, not about what should be in them. Invariant: a response that breaks one
//! never becomes a [`Response`].

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Instant;

use anyhow::{Context, ensure};
use envoy_types::pb::envoy::config::core::v3::ControlPlane;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, DiscoveryResponse, Resource, ResourceError,
};
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use super::{Item, Kind, Protocol, Response};

/// The longest delta response of more than one resource (item 81).
const LONGEST: usize = 2 << 20;

/// What one stream has shown so far.
#[derive(Debug, Default)]
pub(super) struct Rules {
    nonces: HashSet<String>,
    /// Types that were asked for: others are dropped by Envoy without an answer.
    pub(super) asked: BTreeSet<Kind>,
}

impl Rules {
    pub(super) fn delta(&mut self, message: DeltaDiscoveryResponse) -> anyhow::Result<Response> {
        let told = format!("{} response {:?}", message.type_url, message.nonce);
        self.check_delta(message).context(told)
    }

    pub(super) fn sotw(&mut self, message: DiscoveryResponse) -> anyhow::Result<Response> {
        let told = format!("{} response {:?}", message.type_url, message.nonce);
        self.check_sotw(message).context(told)
    }

    fn check_delta(&mut self, message: DeltaDiscoveryResponse) -> anyhow::Result<Response> {
        let bytes = message.encoded_len();
        let kind = self.head(&message.type_url, &message.nonce, message.control_plane.as_ref())?;
        ensure!(!message.system_version_info.is_empty(), "no system_version_info (item 76)");
        ensure!(message.removed_resource_names.is_empty(), "removed_resource_names is TP2's (item 101)");
        let members = message.resources.len() + message.removed_resources.len();
        ensure!(bytes <= LONGEST || members == 1, "{bytes} bytes in {members} resources (item 81)");
        let mut resources = BTreeMap::new();
        for resource in message.resources {
            let name = resource.name.clone();
            let item = check_resource(resource, kind).with_context(|| format!("resource {name:?}"))?;
            ensure!(resources.insert(name.clone(), item).is_none(), "{name} twice (item 47)");
        }
        let removed: BTreeSet<_> = message.removed_resources.iter().cloned().collect();
        ensure!(removed.len() == message.removed_resources.len(), "removed twice (item 47)");
        let both = removed.iter().find(|name| resources.contains_key(*name));
        ensure!(both.is_none(), "added and removed: {both:?} (item 47)");
        ensure!(kind != Kind::Route || removed.is_empty(), "routes removed: {removed:?} (item 63)");
        let errors = errors(message.resource_errors, &resources)?;
        let (nonce, version) = (message.nonce, message.system_version_info);
        let (protocol, at) = (Protocol::Delta, Instant::now());
        Ok(Response { protocol, kind, nonce, version, resources, removed, errors, bytes, at })
    }

    fn check_sotw(&mut self, message: DiscoveryResponse) -> anyhow::Result<Response> {
        let bytes = message.encoded_len();
        let kind = self.head(&message.type_url, &message.nonce, message.control_plane.as_ref())?;
        ensure!(!message.version_info.is_empty(), "no version_info (item 34)");
        let mut resources = BTreeMap::new();
        for any in message.resources {
            let item = check_any(any, kind, String::new())?;
            let name = item.inner_name()?;
            ensure!(resources.insert(name.clone(), item).is_none(), "{name} twice (item 47)");
        }
        let errors = errors(message.resource_errors, &resources)?;
        let (nonce, version, removed) = (message.nonce, message.version_info, BTreeSet::new());
        let (protocol, at) = (Protocol::Sotw, Instant::now());
        Ok(Response { protocol, kind, nonce, version, resources, removed, errors, bytes, at })
    }

    fn head(&mut self, type_url: &str, nonce: &str, from: Option<&ControlPlane>) -> anyhow::Result<Kind> {
        let kind = Kind::of(type_url).context("a strange type")?;
        ensure!(self.asked.contains(&kind), "a type that nobody asked for (section 8)");
        ensure!(!nonce.is_empty(), "no nonce (item 40)");
        ensure!(self.nonces.insert(nonce.to_owned()), "the nonce again (item 40)");
        let identifier = from.map(|from| from.identifier.as_str()).unwrap_or_default();
        ensure!(!identifier.is_empty(), "no control_plane.identifier (item 89)");
        Ok(kind)
    }
}

fn check_resource(resource: Resource, kind: Kind) -> anyhow::Result<Item> {
    ensure!(!resource.version.is_empty(), "no version (item 49)");
    ensure!(resource.resource_name.is_none(), "resource_name is set (item 48)");
    ensure!(resource.aliases.is_empty(), "aliases are VHDS's: {:?} (item 26)", resource.aliases);
    ensure!(resource.ttl.is_none(), "a ttl (item 97)");
    ensure!(resource.cache_control.is_none() && resource.metadata.is_none(), "unknown extras");
    let item = check_any(resource.resource.context("no body (item 97)")?, kind, resource.version)?;
    let inner = item.inner_name()?;
    ensure!(inner == resource.name, "the name inside is {inner:?} (item 48)");
    Ok(item)
}

/// The content itself: not wrapped, as it would be for a TTL, and of the response's type.
fn check_any(any: Any, kind: Kind, version: String) -> anyhow::Result<Item> {
    ensure!(any.type_url == kind.type_url(), "a {} inside (item 38)", any.type_url);
    Ok(Item { version, any })
}

fn errors(
    errors: Vec<ResourceError>,
    resources: &BTreeMap<String, Item>,
) -> anyhow::Result<BTreeMap<String, i32>> {
    let mut checked = BTreeMap::new();
    for error in errors {
        let name = error.resource_name.context("an error about nothing (item 99)")?.name;
        let status = error.error_detail.context("an error without a status (item 99)")?;
        ensure!(!status.message.is_empty(), "an error about {name} without words (item 99)");
        ensure!(!resources.contains_key(&name), "{name} and an error about it (item 99)");
        ensure!(name != "*", "an error about a wildcard (item 99)");
        ensure!(checked.insert(name.clone(), status.code).is_none(), "{name} has two errors (item 99)");
    }
    Ok(checked)
}
