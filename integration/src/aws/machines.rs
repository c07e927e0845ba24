//! What is told of machines: DescribeContainerInstances by ECS, DescribeInstances by EC2.
//!
//! EC2 speaks a protocol of its own: a form in, XML out. Both are turned from and into the JSON that everything else
//! here is made of. Invariant: as in `ecs`, an answer is made from one state of the world.

use std::fmt::Write;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::accounts::Scope;
use super::render;
use super::wire::{ApiError, Input, Operation};
use super::{Api, Endpoint, LONGEST, Lost, Outcome};
use crate::world::{LastStatus, Machine, NetworkMode, State, Task};

/// Whether a request is one of EC2's.
pub(super) fn speaks_ec2(request: &Request<Incoming>) -> bool {
    let form = HeaderValue::from_static("application/x-www-form-urlencoded");
    // Other clients add a character set.
    let says =
        request.headers().get(CONTENT_TYPE).is_some_and(|it| it.as_bytes().starts_with(form.as_bytes()));
    says && !request.headers().contains_key("x-amz-target")
}

impl Endpoint {
    /// Answers a request of EC2's protocol.
    pub(super) async fn answer_ec2(
        self: Arc<Self>,
        request: Request<Incoming>,
        scope: Option<Scope>,
    ) -> Result<Response<Body>, Lost> {
        let checked = self.check(&request);
        let body = to_bytes(Body::new(request.into_body()), LONGEST).await;
        let form = body.ok().and_then(|body| Some(form(std::str::from_utf8(&body).ok()?)));
        let outcome = match form {
            _ if checked.is_err() => {
                Err(ApiError::new("AuthFailure", "AWS was not able to validate the credentials"))
            }
            Some(form) if form["Action"] == Operation::DescribeInstances.name() => {
                self.perform(Operation::DescribeInstances, scope.as_ref(), form.to_string().as_bytes())
                    .await?
            }
            _ => Err(ApiError::new("InvalidAction", "The action is not valid for this web service.")),
        };
        let (status, body) = match outcome {
            Ok(Outcome::Json(answer)) => (200, Outcome::Xml(xml("DescribeInstancesResponse", &answer))),
            Ok(other) => (200, other),
            Err(error) => {
                let told = json!({ "Errors": { "Error": { "Code": error.kind, "Message": error.message } } });
                (error.status, Outcome::Xml(xml("Response", &told)))
            }
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Ok(self.response(status, Api::Ec2, body))
    }
}

/// A form as a structure of strings.
pub(super) fn form(text: &str) -> Value {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    Value::Object(pairs.map(|(key, value)| (key.to_owned(), Value::String(decoded(value)))).collect())
}

fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().replace('+', " ").into_bytes();
    for part in parts {
        let code = part.get(..2).and_then(|code| u8::from_str_radix(code, 16).ok());
        bytes.extend(code);
        bytes.extend(part.get(2..).unwrap_or_default().replace('+', " ").into_bytes());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A structure as EC2 writes it: the members of a list are items.
fn xml(name: &str, value: &Value) -> String {
    let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
    element(&mut text, name, value);
    text
}

fn element(text: &mut String, name: &str, value: &Value) {
    // Writing to a string does not fail.
    let _ = write!(text, "<{name}>");
    match value {
        Value::Object(members) => members.iter().for_each(|(name, member)| element(text, name, member)),
        Value::Array(items) => items.iter().for_each(|item| element(text, "item", item)),
        Value::String(said) => {
            text.push_str(&said.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"));
        }
        other => {
            let _ = write!(text, "{other}");
        }
    }
    let _ = write!(text, "</{name}>");
}

/// EC2's answer, of the instances that a filter names: without one it is all of them.
pub(super) fn describe_instances(state: &State, input: Input<'_>) -> Result<Value, ApiError> {
    let filter = input.string("Filter.1.Name")?;
    if filter.is_some_and(|name| name != "instance-id") {
        return Err(ApiError::new("InvalidParameterValue", "The filter is not known here"));
    }
    let mut wanted = Vec::new();
    while let Some(id) = input.string(&format!("Filter.1.Value.{}", wanted.len() + 1))? {
        wanted.push(id);
    }
    let in_ec2 = state.machines.values().filter(|machine| machine.instance_id.starts_with("i-"));
    let found = in_ec2.filter(|machine| filter.is_none() || wanted.contains(&machine.instance_id.as_str()));
    let reservations = found.map(|machine| {
        let instance = json!({
            "instanceId": machine.instance_id,
            "instanceState": { "code": 16, "name": "running" },
            "privateIpAddress": machine.ip.to_string(),
        });
        let id = machine.instance_id.replacen("i-", "r-", 1);
        json!({ "reservationId": id, "ownerId": state.account, "groupSet": [], "instancesSet": [instance] })
    });
    Ok(json!({ "reservationSet": reservations.collect::<Vec<_>>() }))
}

/// One container instance as ECS tells of it.
pub(super) fn container_instance(state: &State, machine: &Machine) -> Value {
    let tasks = || state.tasks.values().filter(|task| task.machine.as_ref() == Some(&machine.arn));
    let running = tasks().filter(|task| task.last_status == LastStatus::Running).count();
    let pending = tasks().filter(|task| task.last_status < LastStatus::Running).count();
    let written = machine.attributes.iter().map(|(name, value)| json!({ "name": name, "value": value }));
    let mut attributes = vec![json!({ "name": "ecs.os-type", "value": "linux" })];
    attributes.extend(written);
    json!({
        "containerInstanceArn": machine.arn,
        "ec2InstanceId": machine.instance_id,
        "version": 1,
        "versionInfo": { "agentVersion": "1.99.0", "dockerVersion": "DockerVersion: 25.0.8" },
        "remainingResources": [],
        "registeredResources": [],
        "status": "ACTIVE",
        "agentConnected": true,
        "runningTasksCount": running,
        "pendingTasksCount": pending,
        "attributes": attributes,
        "registeredAt": render::time(&machine.registered),
        "attachments": [],
        "tags": [],
    })
}

/// What a task shows of the machine that it runs on: it has no network interface, and of `bridge` ports of the machine.
pub(super) fn show_on_machine(task: &Task, members: &mut Map<String, Value>) {
    let Some(machine) = &task.machine else { return };
    members.insert("containerInstanceArn".to_owned(), json!(machine));
    members.insert("launchType".to_owned(), json!("EC2"));
    members.insert("attachments".to_owned(), json!([]));
    for key in ["platformVersion", "platformFamily", "ephemeralStorage"] {
        members.remove(key);
    }
    let containers = members.get_mut("containers").and_then(Value::as_array_mut).into_iter().flatten();
    for (shown, own) in containers.zip(&task.definition.containers) {
        let bound = task.started.is_some() && task.definition.network == NetworkMode::Bridge;
        let ports = own.ports.iter().filter(|_| bound);
        let bindings = ports.map(|port| {
            let host = task.host_port(port.container_port);
            json!({ "bindIP": "0.0.0.0", "containerPort": port.container_port, "hostPort": host, "protocol": "tcp" })
        });
        shown["networkBindings"] = bindings.collect();
        shown["networkInterfaces"] = json!([]);
    }
}
