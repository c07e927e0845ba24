//! One message of the queue: an event of ECS, as EventBridge or SNS wraps it or bare.
//!
//! It judges nothing: which events matter is decided elsewhere. Invariant: whatever the body is, the outcome is an event
//! or words that say what is wrong with it.

use std::time::SystemTime;

use serde_json::Value;

use crate::source::ecs::TaskEvent;

const TASK: &str = "ECS Task State Change";
/// Other events that may change what a reading tells. Those of container instances come with every placement, and change
/// nothing that is read.
const OTHERS: [&str; 2] = ["ECS Deployment State Change", "ECS Service Action"];

/// What a message tells.
#[derive(Debug)]
pub(super) enum Told {
    /// How a task is.
    Task {
        /// What it says of it.
        event: Box<TaskEvent>,
        /// When it was sent.
        at: Option<SystemTime>,
    },
    /// That something else happened.
    Other {
        /// In which cluster, if a reading of it may tell more.
        cluster: Option<String>,
        /// When it was sent.
        at: Option<SystemTime>,
    },
}

impl Told {
    /// The ARN of the cluster that it is about.
    pub(super) fn cluster(&self) -> Option<&str> {
        match self {
            Self::Task { event, .. } => Some(&event.cluster_arn),
            Self::Other { cluster, .. } => cluster.as_deref(),
        }
    }

    /// When it was sent.
    pub(super) fn at(&self) -> Option<SystemTime> {
        match self {
            Self::Task { at, .. } | Self::Other { at, .. } => *at,
        }
    }
}

/// Reads a message; an error says what is wrong with it.
pub(super) fn read(body: &str) -> Result<Told, String> {
    let message: Value = serde_json::from_str(body).map_err(|error| format!("not JSON: {error}"))?;
    match message.get("Message").and_then(Value::as_str) {
        Some(inner) if message.get("TopicArn").is_some() => {
            let inner = serde_json::from_str(inner).map_err(|error| format!("SNS wraps no JSON: {error}"))?;
            event(inner)
        }
        _ => event(message),
    }
}

fn event(message: Value) -> Result<Told, String> {
    let at =
        message.get("time").and_then(Value::as_str).and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let at = at.map(SystemTime::from);
    match message.get("detail-type").and_then(Value::as_str) {
        Some(TASK) => task(message.get("detail").cloned().unwrap_or_default(), at),
        Some(kind) if message.get("source").and_then(Value::as_str) == Some("aws.ecs") => {
            let cluster = if OTHERS.contains(&kind) { cluster(&message) } else { None };
            Ok(Told::Other { cluster, at })
        }
        Some(kind) => Err(format!("an event of the type {kind:?}, which is not ECS's")),
        None if message.get("taskArn").is_some() => task(message, at),
        None => Err("neither an event of ECS nor wrapped by SNS".to_owned()),
    }
}

fn task(detail: Value, at: Option<SystemTime>) -> Result<Told, String> {
    let event: TaskEvent =
        serde_json::from_value(detail).map_err(|error| format!("not the state of a task: {error}"))?;
    match event.lacks() {
        Some(what) => Err(format!("the state of a task without `{what}`")),
        None => Ok(Told::Task { event: Box::new(event), at }),
    }
}

/// The cluster of another event: named, or in the ARN of the service that it is about.
fn cluster(message: &Value) -> Option<String> {
    let named = message.get("detail").and_then(|detail| detail.get("clusterArn")).and_then(Value::as_str);
    if let Some(named) = named {
        return Some(named.to_owned());
    }
    let service = message.get("resources")?.get(0)?.as_str()?;
    let (account, rest) = service.split_once(":service/")?;
    let (cluster, _) = rest.split_once('/')?; // ARNs of the old form don't name it
    Some(format!("{account}:cluster/{cluster}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const CLUSTER: &str = "arn:aws:ecs:eu-west-1:1:cluster/prod-a";

    fn detail() -> Value {
        json!({"taskArn": "arn:aws:ecs:eu-west-1:1:task/prod-a/t", "taskDefinitionArn": "d:1", "clusterArn": CLUSTER, "lastStatus": "RUNNING",
            "desiredStatus": "STOPPED", "version": 4})
    }

    fn envelope(kind: &str, detail: Value, resources: Value) -> Value {
        json!({"version": "0", "id": "1", "detail-type": kind, "source": "aws.ecs", "account": "1",
            "time": "2026-11-28T09:00:00Z", "region": "eu-west-1", "resources": resources, "detail": detail})
    }

    fn wrapped(message: &Value) -> Value {
        json!({"Type": "Notification", "MessageId": "1", "TopicArn": "arn:aws:sns:eu-west-1:1:ecs",
            "Message": message.to_string(), "Timestamp": "2026-11-28T09:00:00Z"})
    }

    #[test]
    fn a_task_is_told_bare_in_an_envelope_and_by_sns() {
        let enveloped = envelope(TASK, detail(), json!(["t"]));
        for message in [detail(), enveloped.clone(), wrapped(&enveloped), wrapped(&detail())] {
            let told = read(&message.to_string()).expect("an event");
            assert!(matches!(told, Told::Task { .. }), "{told:?}");
            assert_eq!(told.cluster(), Some(CLUSTER));
        }
        assert!(read(&enveloped.to_string()).expect("an event").at().is_some());
    }

    #[test]
    fn other_events_tell_their_cluster_if_they_can() {
        let service = json!(["arn:aws:ecs:eu-west-1:1:service/prod-a/payments"]);
        for (kind, detail, resources, expected) in [
            ("ECS Service Action", json!({"clusterArn": CLUSTER}), json!([]), Some(CLUSTER)),
            ("ECS Container Instance State Change", json!({"clusterArn": CLUSTER}), json!([]), None),
            ("ECS Deployment State Change", json!({"deploymentId": "ecs-svc/1"}), service, Some(CLUSTER)),
            ("ECS Service Action", json!({}), json!(["arn:aws:ecs:eu-west-1:1:service/payments"]), None),
            ("ECS Something New", json!(null), json!([]), None),
        ] {
            let told = read(&envelope(kind, detail, resources).to_string()).expect("an event");
            assert!(matches!(told, Told::Other { .. }), "{told:?}");
            assert_eq!(told.cluster(), expected, "{kind}");
        }
    }

    #[test]
    fn what_is_no_event_is_told_why() {
        let mut lacking = detail();
        lacking.as_object_mut().expect("an object").remove("version");
        for (body, words) in [
            ("soon".to_owned(), "not JSON"),
            ("[1]".to_owned(), "neither an event of ECS"),
            (json!({"detail-type": "Object Created", "source": "aws.s3"}).to_string(), "not ECS's"),
            (envelope(TASK, json!({"version": "four"}), json!([])).to_string(), "not the state of a task"),
            (lacking.to_string(), "without `version`"),
            (envelope(TASK, json!(null), json!([])).to_string(), "not the state of a task"),
            (json!({"TopicArn": "a", "Message": "hello"}).to_string(), "SNS wraps no JSON"),
        ] {
            let why = read(&body).expect_err("no event");
            assert!(why.contains(words), "{why}");
        }
    }
}
