//! A small cluster in the JSON that ECS sends, told page by page and batch by batch.
//!
//! It is not ECS: it changes only when a test changes it.
//!
//! Invariant: limits are ECS's own (10 services, 100 tasks a call); what breaks them is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

use crate::source::aws::scripted::{Answer, Scripted};
use crate::source::ecs::{EcsSource, Inbox, NamespaceRule, Settings};

/// A namespace called `dev`.
pub(super) const DEV_NAMESPACE: &str = "arn:aws:servicediscovery:eu-west-1:1:namespace/ns-2";
pub(super) const ARN: &str = "arn:aws:ecs:eu-west-1:1:";

/// What the cluster holds, by name or id.
#[derive(Default)]
pub(super) struct World {
    pub services: BTreeMap<String, Value>,
    pub tasks: BTreeMap<String, Value>,
    pub definitions: BTreeMap<String, Value>,
    /// Deployments of services by the ends of their ARNs.
    pub deployments: BTreeMap<String, Value>,
    /// Task definitions of services' revisions, by the ends of their ARNs.
    pub revisions: BTreeMap<String, String>,
    /// Container instances by id.
    pub machines: BTreeMap<String, Value>,
    /// What EC2 knows: addresses by instance id.
    pub addresses: BTreeMap<String, String>,
    /// Ids and names that listings leave out.
    pub unlisted: BTreeSet<String>,
    /// Ids and names that listings invent.
    pub invented: BTreeSet<String>,
    /// Ids and names that descriptions call missing, although they are there.
    pub missing: BTreeSet<String>,
    /// Entries on a page.
    pub page: usize,
    /// The default namespace of the cluster.
    pub default: Option<&'static str>,
    /// Has each page of a listing cut from another order: entries come twice, and others not at all.
    pub moving: Option<fastrand::Rng>,
    /// Answers that replace the next one of an operation.
    pub faults: Vec<(&'static str, Answer)>,
}

/// The cluster with its server.
pub(super) struct Cluster {
    pub world: Arc<Mutex<World>>,
    pub script: Scripted,
}

pub(super) fn task_arn(id: &str) -> String {
    format!("{ARN}task/prod-a/{id}")
}

pub(super) fn service_arn(name: &str) -> String {
    format!("{ARN}service/prod-a/{name}")
}

pub(super) fn machine_arn(id: &str) -> String {
    format!("{ARN}container-instance/prod-a/{id}")
}

pub(super) fn definition_arn(name: &str) -> String {
    format!("{ARN}task-definition/{name}")
}

impl World {
    /// A service in the namespace prod whose definition is `<name>:1`, with one HTTP port.
    pub(super) fn service(&mut self, name: &str, created_at: u64) {
        let deployment = json!({"id": format!("ecs-svc/{name}"), "status": "PRIMARY", "taskDefinition": definition_arn(&format!("{name}:1"))});
        self.definition(&format!("{name}:1"), 8080);
        let tags = json!([{"key": "legation:namespace", "value": "prod"}]);
        let service = json!({
            "serviceArn": service_arn(name), "serviceName": name, "status": "ACTIVE", "createdAt": created_at,
            "deployments": [deployment], "tags": tags,
        });
        self.services.insert(name.into(), service);
    }

    pub(super) fn definition(&mut self, name: &str, port: u16) {
        let mapping = json!({"name": "http", "containerPort": port, "appProtocol": "http"});
        let app = json!({"name": "app", "portMappings": [mapping, {"containerPort": 15001}]});
        let arn = definition_arn(name);
        self.definitions.insert(
            arn.clone(),
            json!({"taskDefinitionArn": arn, "containerDefinitions": [app], "networkMode": "awsvpc"}),
        );
    }

    /// A running task of a service's first revision at 10.0.0.`host`.
    pub(super) fn task(&mut self, id: &str, service: &str, host: u32) {
        let address = format!("10.{}.{}.{}", host >> 16, (host >> 8) & 255, host & 255);
        let container = json!({"name": "app", "lastStatus": "RUNNING", "networkInterfaces": [{"privateIpv4Address": address}]});
        let task = json!({
            "taskArn": task_arn(id), "taskDefinitionArn": definition_arn(&format!("{service}:1")),
            "group": format!("service:{service}"), "startedBy": format!("ecs-svc/{service}"),
            "desiredStatus": "RUNNING", "lastStatus": "RUNNING", "version": 3, "createdAt": 990, "startedAt": 1000,
            "availabilityZone": "eu-west-1a", "containers": [container],
        });
        self.tasks.insert(id.into(), task);
    }

    /// A running standalone task of a family's first revision, with these tags.
    pub(super) fn standalone(&mut self, id: &str, family: &str, host: u32, tags: &[(&str, &str)]) {
        self.definition(&format!("{family}:1"), 8080);
        self.task(id, family, host);
        self.set(id, "group", json!(format!("family:{family}")));
        self.set(id, "startedBy", Value::Null);
        self.tag(id, tags);
    }

    /// Gives a task these tags.
    pub(super) fn tag(&mut self, id: &str, tags: &[(&str, &str)]) {
        let tag = |(key, value): &(&str, &str)| json!({"key": format!("legation:{key}"), "value": value});
        self.set(id, "tags", tags.iter().map(tag).collect());
    }

    pub(super) fn set(&mut self, id: &str, key: &str, value: Value) {
        self.tasks.get_mut(id).expect("the task")[key] = value;
    }

    pub(super) fn connect(&mut self, service: &str, block: Value) {
        self.services.get_mut(service).expect("the service")["deployments"][0]["serviceConnectConfiguration"] =
            block;
    }

    /// A container instance on an EC2 instance at `address`.
    pub(super) fn machine(&mut self, id: &str, address: &str) {
        let machine = json!({"containerInstanceArn": machine_arn(id), "ec2InstanceId": format!("i-{id}")});
        self.machines.insert(id.into(), machine);
        self.addresses.insert(format!("i-{id}"), address.into());
    }

    /// Has a task run on a container instance, with no address of its own and its first port at `host_port`.
    pub(super) fn place(&mut self, task: &str, machine: &str, host_port: u16) {
        let binding =
            json!({"bindIP": "0.0.0.0", "containerPort": 8080, "hostPort": host_port, "protocol": "tcp"});
        let container = json!({"name": "app", "lastStatus": "RUNNING", "networkBindings": [binding]});
        self.set(task, "containers", json!([container]));
        self.set(task, "containerInstanceArn", json!(machine_arn(machine)));
    }

    /// The network mode of a service's first revision.
    pub(super) fn network(&mut self, service: &str, mode: &str) {
        let arn = definition_arn(&format!("{service}:1"));
        self.definitions.get_mut(&arn).expect("the definition")["networkMode"] = json!(mode);
    }

    /// What EC2 says of the instances that a filter names.
    fn instances(&self, request: &Value) -> String {
        let wanted = (1..).map_while(|number| request[format!("Filter.1.Value.{number}")].as_str());
        let found = wanted.filter_map(|id| Some((id, self.addresses.get(id)?)));
        let items = found.map(|(id, address)| {
            let address = format!("<privateIpAddress>{address}</privateIpAddress>");
            format!("<item><instancesSet><item><instanceId>{id}</instanceId>{address}</item></instancesSet></item>")
        });
        let items = items.collect::<String>();
        format!(
            "<DescribeInstancesResponse><reservationSet>{items}</reservationSet></DescribeInstancesResponse>"
        )
    }

    fn answer(&mut self, operation: &str, request: &Value) -> Answer {
        if let Some(fault) = self.faults.iter().position(|(of, _)| *of == operation) {
            return self.faults.remove(fault).1;
        }
        let dice = &mut self.moving;
        let mut listed = |entries: &BTreeMap<String, Value>, arn: fn(&str) -> String| {
            let real = entries.keys().filter(|key| !self.unlisted.contains(*key));
            let mut listed: Vec<_> = real.chain(&self.invented).map(|key| arn(key)).collect();
            if let Some(dice) = dice.as_mut() {
                dice.shuffle(&mut listed);
            }
            listed
        };
        let document = match operation {
            "ListServices" => page("serviceArns", listed(&self.services, service_arn), self.page, request),
            "ListTasks" => page("taskArns", listed(&self.tasks, task_arn), self.page, request),
            "DescribeServices" => described("services", &self.services, &self.missing, request),
            "DescribeTasks" => described("tasks", &self.tasks, &self.missing, request),
            "DescribeContainerInstances" => {
                described("containerInstances", &self.machines, &self.missing, request)
            }
            "DescribeServiceDeployments" => {
                let arns = request["serviceDeploymentArns"].as_array().filter(|arns| arns.len() <= 20);
                let end =
                    |arn: &Value| arn.as_str().and_then(|arn| arn.rsplit('/').next()).map(str::to_owned);
                arns.map(|arns| {
                    let found = arns.iter().filter_map(|arn| self.deployments.get(&end(arn)?));
                    json!({"serviceDeployments": found.collect::<Vec<_>>(), "failures": []})
                })
            }
            "ListServiceDeployments" => {
                let of_it = |one: &&Value| {
                    one["serviceArn"] == request["service"]
                        && request["status"].as_array().is_some_and(|all| all.contains(&one["status"]))
                };
                let found = self.deployments.values().filter(of_it);
                Some(json!({"serviceDeployments": found.collect::<Vec<_>>()}))
            }
            "DescribeServiceRevisions" => {
                let revision = |arn: &Value| {
                    let definition = self.revisions.get(arn.as_str()?.rsplit('/').next()?)?;
                    Some(json!({"serviceRevisionArn": arn, "taskDefinition": definition}))
                };
                let arns = request["serviceRevisionArns"].as_array();
                arns.map(
                    |arns| json!({"serviceRevisions": arns.iter().filter_map(revision).collect::<Vec<_>>()}),
                )
            }
            "DescribeInstances" => return Answer::Text(200, self.instances(request).leak()),
            "DescribeTaskDefinition" => {
                let arn = request["taskDefinition"].as_str().unwrap_or_default();
                self.definitions.get(arn).map(|definition| json!({"taskDefinition": definition}))
            }
            "DescribeClusters" => {
                let defaults = self.default.map(|namespace| json!({"namespace": namespace}));
                Some(json!({"clusters": [{"clusterName": "prod-a", "serviceConnectDefaults": defaults}]}))
            }
            "GetNamespace" => {
                let name = if request["Id"] == json!(DEV_NAMESPACE) { "dev" } else { "prod" };
                Some(json!({"Namespace": {"Name": name}}))
            }
            _ => None,
        };
        document.map_or_else(|| refusal("InvalidParameterException"), |document| Answer::Json(200, document))
    }
}

pub(super) fn refusal(code: &str) -> Answer {
    Answer::Json(400, json!({"__type": code, "message": "no"}))
}

fn page(key: &str, arns: Vec<String>, size: usize, request: &Value) -> Option<Value> {
    let from = request["nextToken"].as_str().unwrap_or("0").parse::<usize>().ok()?;
    let rest = arns.get(from..)?;
    let page: Vec<_> = rest.iter().take(size).collect();
    let token = (rest.len() > size).then(|| (from + size).to_string());
    Some(json!({key: page, "nextToken": token}))
}

fn described(
    key: &str,
    entries: &BTreeMap<String, Value>,
    missing: &BTreeSet<String>,
    request: &Value,
) -> Option<Value> {
    let most = if key == "services" { 10 } else { 100 };
    let asked = request[key].as_array()?;
    let is_whole = key == "containerInstances" || request["include"] == json!(["TAGS"]);
    if asked.is_empty() || asked.len() > most || !is_whole {
        return None;
    }
    let id = |arn: &Value| Some(arn.as_str()?.rsplit('/').next()?.to_owned());
    let of = |arn: &Value| entries.get(&id(arn).filter(|id| !missing.contains(id))?);
    let failures = asked.iter().filter(|arn| of(arn).is_none());
    let failures: Vec<_> = failures.map(|arn| json!({"arn": arn, "reason": "MISSING"})).collect();
    Some(json!({key: asked.iter().filter_map(of).collect::<Vec<_>>(), "failures": failures}))
}

impl Cluster {
    /// A cluster with a service payments of two tasks.
    pub(super) fn payments() -> Self {
        let mut world = World { page: 100, ..World::default() };
        world.service("payments", 100);
        world.task("a", "payments", 1);
        world.task("b", "payments", 2);
        let world = Arc::new(Mutex::new(world));
        let told = Arc::clone(&world);
        let script = Scripted::start(move |operation, request| {
            told.lock().expect("no panic").answer(operation, request)
        });
        Self { world, script }
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no panic")
    }

    pub(super) fn source(&self, namespaces: Vec<NamespaceRule>) -> EcsSource {
        self.source_hearing(namespaces, Inbox::default())
    }

    pub(super) fn source_hearing(&self, namespaces: Vec<NamespaceRule>, inbox: Inbox) -> EcsSource {
        let cluster = format!("{ARN}cluster/prod-a");
        EcsSource::new(
            &self.script.access(),
            Settings { cluster, label: "prod-a".to_owned(), namespaces },
            inbox,
        )
    }

    /// How often an operation was called.
    pub(super) fn count(&self, operation: &str) -> usize {
        self.script.calls().iter().filter(|call| *call == operation).count()
    }
}
