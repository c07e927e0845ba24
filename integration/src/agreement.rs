//! Whether an Envoy runs with what is served: names, versions and contents, from both admin ports.
//!
//! It changes nothing and waits for nothing. Versions are compared where Envoy tells them: not in the state of
//! the world, where it knows only that of the whole type, and not of listeners, since one whose filters change
//! in place goes on to show the version that it began with. Invariant: no difference means that both were
//! asked, that the server served something, and that Envoy warms nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use anyhow::Context;
use serde_json::Value;

use crate::control_plane::ControlPlane;
use crate::envoy::{Ads, Envoy};

/// In the names of load assignments that stand for a sidecar's own service.
const LOCAL: &str = "/@local/";

/// How much of a resource is shown where it differs, and how much of that before the difference.
const LONGEST: usize = 300;
const BEFORE: usize = 60;

/// Name to version.
pub type Versions = BTreeMap<String, String>;
/// Name to the resource itself.
pub type Contents = BTreeMap<String, Value>;
/// Name to endpoints, each as `zone address:port health`.
pub type Endpoints = BTreeMap<String, BTreeSet<String>>;

/// Resources, from one side or the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holding {
    /// Clusters.
    pub clusters: Contents,
    /// Listeners.
    pub listeners: Contents,
    /// Route configurations. An Envoy keeps those of listeners that drain, for ten minutes.
    pub routes: Contents,
    /// Load assignments.
    pub endpoints: Endpoints,
    /// The versions of clusters and routes.
    pub versions: Versions,
    /// What warms, is refused or drains without a successor.
    pub unfinished: BTreeSet<String>,
}

/// What a sidecar of a namespace is to hold, but for the listeners that it is known to refuse.
pub async fn served(
    server: &ControlPlane,
    namespace: &str,
    refused: &BTreeSet<String>,
) -> anyhow::Result<Holding> {
    let table = async |kind: &str| server.items(&format!("namespaces/{namespace}/resources/{kind}")).await;
    let mut listeners = table("listeners").await?;
    listeners.retain(|item| item["resource"].get("apiListener").is_none());
    listeners.retain(|item| item["name"].as_str().is_none_or(|name| !refused.contains(name)));
    let mut named = BTreeSet::new();
    for listener in &listeners {
        route_names(&listener["resource"], &mut named);
    }
    let mut routes = table("routes").await?;
    routes.retain(|item| item["name"].as_str().is_some_and(|name| named.contains(name)));
    let mut endpoints = Endpoints::new();
    for item in table("endpoints").await? {
        let name = item["name"].as_str().context("an assignment without a name")?.to_owned();
        // Each sidecar asks for that of its own service alone.
        if !name.contains(LOCAL) {
            endpoints.insert(name, places(&item["resource"], "lbEndpoints", "socketAddress", "portValue"));
        }
    }
    let clusters = table("clusters").await?;
    let versions = clusters.iter().map(|item| version("cluster", item));
    let versions = versions.chain(routes.iter().map(|item| version("routes", item)));
    let contents = |items: &[Value]| -> Contents {
        let content = |item: &Value| Some((item["name"].as_str()?.to_owned(), plain(&item["resource"])));
        items.iter().filter_map(content).collect()
    };
    Ok(Holding {
        clusters: contents(&clusters),
        listeners: contents(&listeners),
        routes: contents(&routes),
        endpoints,
        versions: versions.collect::<anyhow::Result<_>>()?,
        unfinished: BTreeSet::new(),
    })
}

fn version(what: &str, item: &Value) -> anyhow::Result<(String, String)> {
    let pair = item["name"].as_str().zip(item["version"].as_str());
    let (name, version) = pair.with_context(|| format!("no name or version: {item}"))?;
    Ok((format!("{what} {name}"), version.to_owned()))
}

/// The names of route configurations that are asked for anywhere inside.
fn route_names(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            let name = fields.get("routeConfigName").and_then(Value::as_str);
            found.extend(name.map(str::to_owned));
            fields.values().for_each(|field| route_names(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| route_names(item, found)),
        _ => {}
    }
}

/// The endpoints of an assignment, in the words of either side.
fn places(assignment: &Value, list: &str, socket: &str, port: &str) -> BTreeSet<String> {
    let health_key = if list == "lbEndpoints" { "healthStatus" } else { "health_status" };
    let mut found = BTreeSet::new();
    for locality in assignment["endpoints"].as_array().into_iter().flatten() {
        let zone = locality["locality"]["zone"].as_str().unwrap_or("-");
        for endpoint in locality[list].as_array().into_iter().flatten() {
            let place = &endpoint["endpoint"]["address"][socket];
            // These two are one to Envoy, and it shows them so.
            let health = match endpoint[health_key].as_str() {
                Some("DRAINING") => "UNHEALTHY",
                health => health.unwrap_or("HEALTHY"),
            };
            let address = place["address"].as_str().unwrap_or("?");
            found.insert(format!("{zone} {address}:{} {health}", place[port]));
        }
    }
    found
}

/// What an Envoy runs with that came by xDS.
pub async fn held(envoy: &Envoy) -> anyhow::Result<Holding> {
    let dump = envoy.config_dump().await?;
    let configs = dump["configs"].as_array().context("a config dump without configs")?;
    let all = |key: &str| -> Vec<&Value> {
        configs.iter().filter_map(|config| config[key].as_array()).flatten().collect()
    };
    let mut holding = Holding::default();
    for (list, key, what) in [
        ("dynamic_active_clusters", "cluster", "cluster"),
        ("dynamic_route_configs", "route_config", "routes"),
    ] {
        let contents = if what == "cluster" { &mut holding.clusters } else { &mut holding.routes };
        for entry in all(list) {
            let name = entry[key]["name"].as_str().unwrap_or_default().to_owned();
            let version = entry["version_info"].as_str().unwrap_or_default().to_owned();
            holding.versions.insert(format!("{what} {name}"), version);
            contents.insert(name, without_type(&entry[key]));
        }
    }
    for entry in all("dynamic_warming_clusters") {
        holding.unfinished.insert(format!("warming cluster {}", entry["cluster"]["name"]));
    }
    for entry in all("dynamic_listeners") {
        let name = entry["name"].as_str().unwrap_or_default().to_owned();
        if entry.get("warming_state").is_some() {
            holding.unfinished.insert(format!("warming listener {name}"));
        }
        if let Some(active) = entry.get("active_state") {
            holding.listeners.insert(name, without_type(&active["listener"]));
        }
    }
    for entry in all("dynamic_endpoint_configs") {
        let assignment = &entry["endpoint_config"];
        let name = assignment["cluster_name"].as_str().unwrap_or_default().to_owned();
        if !name.contains(LOCAL) {
            holding
                .endpoints
                .insert(name, places(assignment, "lb_endpoints", "socket_address", "port_value"));
        }
    }
    Ok(holding)
}

/// What differs, in words; nothing if `held` is what `served` says.
pub fn differences(served: &Holding, held: &Holding, ads: Ads) -> Vec<String> {
    let mut found: Vec<_> = held.unfinished.iter().cloned().collect();
    if served.clusters.is_empty() && served.listeners.is_empty() {
        found.push("nothing is served".to_owned());
    }
    compare("cluster", &served.clusters, &held.clusters, &mut found);
    compare("listener", &served.listeners, &held.listeners, &mut found);
    compare("routes", &served.routes, &only(&held.routes, &served.routes), &mut found);
    compare("endpoints", &served.endpoints, &held.endpoints, &mut found);
    if ads == Ads::Delta {
        compare("version of", &served.versions, &only(&held.versions, &served.versions), &mut found);
    }
    found
}

/// What is named in `wanted` too.
fn only<T: Clone>(all: &BTreeMap<String, T>, wanted: &BTreeMap<String, T>) -> BTreeMap<String, T> {
    let fits = all.iter().filter(|(name, _)| wanted.contains_key(*name));
    fits.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn compare<T: PartialEq + Debug>(
    what: &str,
    served: &BTreeMap<String, T>,
    held: &BTreeMap<String, T>,
    found: &mut Vec<String>,
) {
    let names: BTreeSet<_> = served.keys().chain(held.keys()).collect();
    for name in names {
        let (served, held) = (served.get(name), held.get(name));
        if served != held {
            let (served, held) = (format!("{served:?}"), format!("{held:?}"));
            // Both begin alike for long if these are whole resources.
            let alike = served.bytes().zip(held.bytes()).take_while(|(one, other)| one == other).count();
            let short = |side: &str| -> String {
                let skipped = side.chars().skip(alike.saturating_sub(BEFORE));
                if side.len() > LONGEST { skipped.take(LONGEST).collect() } else { side.to_owned() }
            };
            found.push(format!("{what} {name}: served {}, held {}", short(&served), short(&held)));
        }
    }
}

/// The same with all keys as canonical JSON has them: Envoy writes them as protobuf does.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(key, value)| (camel(key), plain(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(plain).collect()),
        // 50 and 50.0 are one.
        Value::Number(number) => number.as_f64().map_or(Value::Null, Value::from),
        other => other.clone(),
    }
}

/// [`plain`], without the type that Envoy adds to every resource.
fn without_type(value: &Value) -> Value {
    let mut plain = plain(value);
    if let Value::Object(fields) = &mut plain {
        fields.remove("@type");
    }
    plain
}

fn camel(key: &str) -> String {
    let mut words = key.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut joined, word| {
        let mut letters = word.chars();
        joined.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        joined.push_str(letters.as_str());
        joined
    })
}

/// Asks both sides and compares.
pub async fn disagreements(
    server: &ControlPlane,
    namespace: &str,
    envoy: &Envoy,
    ads: Ads,
    refused: &BTreeSet<String>,
) -> anyhow::Result<Vec<String>> {
    let served = served(server, namespace, refused).await?;
    Ok(differences(&served, &held(envoy).await?, ads))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_difference_is_told() {
        let clusters = [("a", 1), ("b", 2)].map(|(name, size)| (name.to_owned(), plain(&json!(size))));
        let versions = [("cluster b".to_owned(), "v2".to_owned())].into_iter().collect();
        let served = Holding { clusters: clusters.into_iter().collect(), versions, ..Holding::default() };
        assert_eq!(differences(&served, &served, Ads::Delta), [""; 0]);
        let mut held = served.clone();
        held.clusters.insert("b".to_owned(), plain(&json!(1)));
        held.clusters.remove("a");
        held.listeners.insert("c".to_owned(), plain(&json!({ "a_long_key": "3" })));
        held.routes.insert("of a listener that drains".to_owned(), Value::Null);
        held.unfinished.insert("warming cluster a".to_owned());
        let mut expected = vec![
            "warming cluster a",
            "cluster a: served Some(Number(1.0)), held None",
            "cluster b: served Some(Number(2.0)), held Some(Number(1.0))",
            "listener c: served None, held Some(Object {\"aLongKey\": String(\"3\")})",
        ];
        assert_eq!(differences(&served, &held, Ads::Delta), expected);
        held.versions.insert("cluster b".to_owned(), "v1".to_owned());
        assert_eq!(differences(&served, &held, Ads::Sotw), expected);
        expected.push("version of cluster b: served Some(\"v2\"), held Some(\"v1\")");
        assert_eq!(differences(&served, &held, Ads::Delta), expected);
        assert_eq!(differences(&Holding::default(), &held, Ads::Sotw)[1], "nothing is served");
    }

    #[test]
    fn endpoints_are_the_same_in_both_spellings() {
        let ours = json!({ "endpoints": [{ "locality": { "zone": "a" }, "lbEndpoints": [
            { "endpoint": { "address": { "socketAddress": { "address": "127.0.0.1", "portValue": 80 } } } },
            { "endpoint": { "address": { "socketAddress": { "address": "127.0.0.2", "portValue": 80 } } },
              "healthStatus": "DRAINING" },
        ] }] });
        let envoys = json!({ "endpoints": [{ "locality": { "zone": "a" }, "lb_endpoints": [
            { "endpoint": { "address": { "socket_address": { "address": "127.0.0.2", "port_value": 80 } } },
              "health_status": "UNHEALTHY" },
            { "endpoint": { "address": { "socket_address": { "address": "127.0.0.1", "port_value": 80 } } },
              "health_status": "HEALTHY" },
        ] }] });
        let ours = places(&ours, "lbEndpoints", "socketAddress", "portValue");
        assert_eq!(ours.iter().collect::<Vec<_>>(), ["a 127.0.0.1:80 HEALTHY", "a 127.0.0.2:80 UNHEALTHY"]);
        assert_eq!(ours, places(&envoys, "lb_endpoints", "socket_address", "port_value"));
    }
}
