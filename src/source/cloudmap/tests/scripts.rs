//! Cloud Map as these tests script it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

use crate::source::aws::scripted::{Answer, Scripted};
use crate::source::aws::{Access, Budget};
use crate::source::cloudmap::{CloudMapSource, Settings};
use crate::telemetry::Metrics;

/// The owner of what is shared.
pub(super) const OTHER: &str = "222222222222";

/// One namespace, `prod.local`, and those that are shared.
#[derive(Default)]
pub(super) struct World {
    pub id: &'static str,
    /// The instances of each service.
    pub services: BTreeMap<String, Value>,
    /// Services that no page lists.
    pub unlisted: BTreeSet<&'static str>,
    /// Services of which discovery answers nothing that could be read.
    pub mute: BTreeSet<&'static str>,
    /// Services with a custom check.
    pub checked: BTreeSet<&'static str>,
    pub attributes: BTreeMap<&'static str, Value>,
    pub revision: i64,
    /// The next answer of an operation.
    pub fault: Option<(&'static str, Answer)>,
    /// Every answer of an operation.
    pub broken: BTreeMap<&'static str, Answer>,
    pub shared: Vec<Value>,
}

/// What a test holds: the world, who answers for it, and the source that reads it.
pub(super) struct Stage {
    world: Arc<Mutex<World>>,
    script: Scripted,
    pub source: CloudMapSource,
}

impl Stage {
    /// Two services with an instance each, of which the ledger's is checked, and a source that reads this namespace.
    pub(super) fn new(namespace: &str) -> Self {
        let services = [("books", many(1, 81)), ("ledger", many(1, 80))];
        let services = services.map(|(name, instances)| (name.to_owned(), instances)).into();
        let world =
            World { id: "ns-1", services, revision: 1, checked: ["ledger"].into(), ..World::default() };
        let world = Arc::new(Mutex::new(world));
        let told = Arc::clone(&world);
        let script = Scripted::start(move |operation, request| {
            answer(&mut told.lock().expect("no panic"), operation, request)
        });
        let settings = Settings { cloud_map_namespace: namespace.into(), namespace: "prod".into() };
        // Namespaces are listed so seldom that tests would wait for it.
        let access = Access::new(script.config(), Budget::new(10_000, Metrics::unread()).into());
        let source = CloudMapSource::new(&access, settings);
        Self { world, script, source }
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no panic")
    }

    /// How often an operation was called.
    pub(super) fn count(&self, operation: &str) -> usize {
        self.script.calls().iter().filter(|call| *call == operation).count()
    }
}

/// So many healthy instances, at a port.
pub(super) fn many(count: usize, port: u16) -> Value {
    let one = |number: usize| {
        let address = format!("10.9.{}.{}", number / 250, number % 250 + 1);
        let attributes = json!({"AWS_INSTANCE_IPV4": address, "AWS_INSTANCE_PORT": port.to_string()});
        json!({"InstanceId": format!("i-{number:04}"), "HealthStatus": "HEALTHY", "Attributes": attributes})
    };
    (0..count).map(one).collect()
}

pub(super) fn refusal(code: &str) -> Answer {
    Answer::Json(400, json!({"__type": code, "Message": "no"}))
}

fn answer(world: &mut World, operation: &str, request: &Value) -> Answer {
    if let Some((_, fault)) = world.fault.take_if(|(of, _)| *of == operation) {
        return fault;
    }
    if let Some(broken) = world.broken.get(operation) {
        return broken.clone();
    }
    match operation {
        "ListNamespaces" => Answer::Json(200, namespaces(world, request)),
        "ListServices" => Answer::Json(200, services(world, request)),
        "DiscoverInstances" | "DiscoverInstancesRevision" => discovery(world, operation, request),
        "ListInstances" | "GetInstancesHealthStatus" => listing(world, operation, request),
        "GetServiceAttributes" => {
            let none = json!({});
            let id = request["ServiceId"].as_str().expect("an id");
            let attributes = world.attributes.get(name_of(id)).unwrap_or(&none);
            Answer::Json(200, json!({"ServiceAttributes": {"ServiceArn": id, "Attributes": attributes}}))
        }
        _ => Answer::Text(404, "no"),
    }
}

/// The name of a service by its id or ARN.
fn name_of(reference: &str) -> &str {
    reference.rsplit('/').next().unwrap_or(reference).trim_start_matches("srv-")
}

fn filter<'a>(request: &'a Value, name: &str) -> Option<&'a str> {
    let filters = request["Filters"].as_array()?;
    filters.iter().find(|filter| filter["Name"] == name)?["Values"][0].as_str()
}

fn namespaces(world: &World, request: &Value) -> Value {
    if filter(request, "RESOURCE_OWNER") == Some("OTHER_ACCOUNTS") {
        let wanted = filter(request, "NAME");
        let admitted = world.shared.iter().filter(|one| wanted.is_none_or(|name| one["Name"] == name));
        return json!({"Namespaces": admitted.collect::<Vec<_>>()});
    }
    if request["NextToken"].is_null() {
        return json!({"Namespaces": [{"Id": "ns-0", "Name": "prod"}], "NextToken": "2"});
    }
    let properties = json!({"HttpProperties": {"HttpName": "prod-http"}});
    json!({"Namespaces": [{"Id": world.id, "Name": "prod.local", "Properties": properties}]})
}

/// Pages of one service, each of which repeats the one before.
fn services(world: &World, request: &Value) -> Value {
    let wanted = filter(request, "NAMESPACE_ID");
    let is_there = |one: &Value| one["Arn"].as_str() == wanted;
    let right = wanted == Some(world.id) || world.shared.iter().any(is_there);
    let names: Vec<_> =
        world.services.keys().filter(|name| !world.unlisted.contains(name.as_str())).collect();
    let names: Vec<_> = names.into_iter().filter(|_| right).collect();
    let at: usize = request["NextToken"].as_str().map_or(0, |token| token.parse().expect("a token"));
    let page = names.iter().take(at + 1).skip(at.saturating_sub(1)).map(|name| {
        let arn = format!("arn:aws:servicediscovery:eu-west-1:{OTHER}:service/srv-{name}");
        let mut summary = json!({"Id": format!("srv-{name}"), "Arn": arn, "Name": name});
        if world.checked.contains(name.as_str()) {
            summary["HealthCheckCustomConfig"] = json!({"FailureThreshold": 1});
        }
        summary
    });
    let next = (at + 1 < names.len()).then(|| (at + 1).to_string());
    json!({"Services": page.collect::<Vec<_>>(), "NextToken": next})
}

fn discovery(world: &World, operation: &str, request: &Value) -> Answer {
    let name = request["ServiceName"].as_str().expect("a name");
    let Some(instances) = world.services.get(name).and_then(Value::as_array) else {
        return refusal("ServiceNotFound");
    };
    let is_shared = request["OwnerAccount"] == OTHER && !world.shared.is_empty();
    assert!(is_shared || request["NamespaceName"] == "prod-http" && request["OwnerAccount"].is_null());
    // Only the ledger's ever changes.
    let revision = if name == "ledger" { world.revision } else { 7 };
    if operation == "DiscoverInstancesRevision" {
        return Answer::Json(200, json!({"InstancesRevision": revision}));
    }
    if world.mute.contains(name) {
        return Answer::Json(200, json!({}));
    }
    assert_eq!((&request["MaxResults"], &request["HealthStatus"]), (&json!(1_000), &json!("ALL")));
    let some: Vec<_> = instances.iter().rev().take(1_000).collect();
    Answer::Json(200, json!({"Instances": some, "InstancesRevision": revision}))
}

/// Pages of a hundred, each of which begins with the end of the one before.
fn listing(world: &World, operation: &str, request: &Value) -> Answer {
    let instances = &world.services[name_of(request["ServiceId"].as_str().expect("an id"))];
    let instances = instances.as_array().expect("instances");
    let at: usize = request["NextToken"].as_str().map_or(0, |token| token.parse().expect("a token"));
    let page = instances.iter().take(at + 100).skip(at.saturating_sub(1));
    let next = (at + 100 < instances.len()).then(|| (at + 100).to_string());
    if operation == "ListInstances" {
        let one = |it: &Value| json!({"Id": it["InstanceId"], "Attributes": it["Attributes"]});
        return Answer::Json(200, json!({"Instances": page.map(one).collect::<Vec<_>>(), "NextToken": next}));
    }
    let one =
        |it: &Value| (it["InstanceId"].as_str().unwrap_or_default().to_owned(), it["HealthStatus"].clone());
    Answer::Json(200, json!({"Status": page.map(one).collect::<serde_json::Map<_, _>>(), "NextToken": next}))
}
