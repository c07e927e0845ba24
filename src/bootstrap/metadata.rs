//! What a task on ECS knows of itself: the task metadata endpoint, version 4.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::time::{Duration, Instant};

use serde::Deserialize;

/// The variable in which ECS says where the endpoint is.
pub const VARIABLE: &str = "ECS_CONTAINER_METADATA_URI_V4";
/// The label that names the mesh namespace.
const NAMESPACE_LABEL: &str = "legation.namespace";
/// Between two questions that the endpoint does not answer.
const PAUSE: Duration = Duration::from_millis(200);
/// More than any task needs.
const LONGEST_ANSWER: u64 = 4 << 20;

/// The part of a task's description that a bootstrap needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Task {
    /// The task ARN.
    pub arn: Option<String>,
    /// The ECS service, or the task's group or family where no service started it.
    pub service: Option<String>,
    /// The availability zone by name.
    pub zone: Option<String>,
    /// The `legation.namespace` label of its containers.
    pub namespace: Option<String>,
    /// Every port that a container declares and a sidecar could collide with, ordered.
    pub container_ports: Vec<u16>,
}

/// Why a task's description is of no use.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// It was not answered.
    #[error("can't ask {0} about this task: {1}")]
    Unreachable(String, String),
    /// It is not what ECS documents.
    #[error("the task metadata can't be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// Containers contradict each other.
    #[error("containers of this task name several namespaces in their label `legation.namespace`: {0}")]
    SeveralNamespaces(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default, rename = "TaskARN")]
    task_arn: Option<String>,
    #[serde(default)]
    family: Option<String>,
    #[serde(default)]
    service_name: Option<String>,
    #[serde(default)]
    group: Option<String>,
    #[serde(default)]
    availability_zone: Option<String>,
    #[serde(default)]
    containers: Option<Vec<Container>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    ports: Option<Vec<Port>>,
    #[serde(default)]
    networks: Option<Vec<Network>>,
}

impl Container {
    /// In network mode `bridge` each container has ports of its own, on which a sidecar collides with nobody.
    fn is_apart(&self) -> bool {
        self.networks.iter().flatten().any(|network| network.network_mode.as_deref() == Some("bridge"))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Network {
    #[serde(default)]
    network_mode: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Port {
    #[serde(default)]
    container_port: Option<u16>,
}

/// Reads the answer to `/task`.
pub fn parse(text: &str) -> Result<Task, MetadataError> {
    let answer: Answer = serde_json::from_str(text)?;
    let named = |text: Option<String>| text.filter(|text| !text.is_empty());
    // A group is `service:checkout` or `family:batch`.
    let group =
        named(answer.group).map(|group| group.split_once(':').map_or(group.clone(), |it| it.1.to_owned()));
    let containers = answer.containers.unwrap_or_default();
    let labels = containers.iter().filter_map(|container| container.labels.as_ref());
    let namespaces: BTreeSet<&str> =
        labels.filter_map(|labels| labels.get(NAMESPACE_LABEL)).map(String::as_str).collect();
    if namespaces.len() > 1 {
        let names: Vec<_> = namespaces.into_iter().collect();
        return Err(MetadataError::SeveralNamespaces(names.join(", ")));
    }
    let namespace = namespaces.first().map(|name| (*name).to_owned());
    let together = containers.iter().filter(|container| !container.is_apart());
    let ports = together.flat_map(|container| container.ports.iter().flatten());
    let ports: BTreeSet<u16> = ports.filter_map(|port| port.container_port).collect();
    Ok(Task {
        arn: named(answer.task_arn),
        service: named(answer.service_name).or_else(|| named(group)).or_else(|| named(answer.family)),
        zone: named(answer.availability_zone),
        namespace,
        container_ports: ports.into_iter().collect(),
    })
}

/// Asks the endpoint at `base`, which is what [`VARIABLE`] holds, again and again for as long as `patience`: it may come up
/// later than the first container.
pub fn fetch(base: &str, patience: Duration) -> Result<Task, MetadataError> {
    let deadline = Instant::now() + patience;
    loop {
        match ask(base) {
            Err(MetadataError::Unreachable(..)) if Instant::now() + PAUSE < deadline => {
                std::thread::sleep(PAUSE)
            }
            answer => return answer,
        }
    }
}

fn ask(base: &str) -> Result<Task, MetadataError> {
    let url = format!("{}/task", base.trim_end_matches('/'));
    let unreachable =
        |error: &dyn std::fmt::Display| MetadataError::Unreachable(url.clone(), error.to_string());
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(2)))
        .proxy(None) // the endpoint is link-local
        .build()
        .into();
    let mut answer = agent.get(&url).call().map_err(|error| unreachable(&error))?;
    let mut text = String::new();
    let mut body = answer.body_mut().as_reader().take(LONGEST_ANSWER);
    body.read_to_string(&mut text).map_err(|error| unreachable(&error))?;
    parse(&text)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, Write as _};

    use super::*;

    const FARGATE: &str = r#"{
      "Cluster": "arn:aws:ecs:eu-west-1:123456789012:cluster/prod-a",
      "TaskARN": "arn:aws:ecs:eu-west-1:123456789012:task/prod-a/0123456789abcdef0123456789abcdef",
      "Family": "checkout", "Revision": "57", "DesiredStatus": "RUNNING", "KnownStatus": "RUNNING",
      "Limits": { "CPU": 0.5, "Memory": 1024 },
      "PullStartedAt": "2026-03-02T10:15:21.000000000Z", "PullStoppedAt": "2026-03-02T10:15:25.000000000Z",
      "AvailabilityZone": "eu-west-1b", "LaunchType": "FARGATE", "ServiceName": "checkout-svc", "VPCID": "vpc-0abc",
      "Containers": [
        { "DockerId": "0123456789abcdef-1", "Name": "legation-init", "DockerName": "legation-init",
          "Image": "example.com/legation:1", "ImageID": "sha256:00", "Type": "NORMAL", "KnownStatus": "STOPPED",
          "Labels": { "com.amazonaws.ecs.cluster": "prod-a", "com.amazonaws.ecs.container-name": "legation-init" },
          "Networks": [{ "NetworkMode": "awsvpc", "IPv4Addresses": ["10.0.1.7"], "PrivateDNSName": "ip-10-0-1-7" }],
          "Snapshotter": "overlayfs" },
        { "DockerId": "0123456789abcdef-2", "Name": "app", "Image": "example.com/checkout:9", "Type": "NORMAL",
          "Labels": { "legation.namespace": "prod", "legation.alias.http": "checkout:80" },
          "Ports": [{ "ContainerPort": 8080, "Protocol": "tcp" }, { "ContainerPort": 8443, "Protocol": "tcp" }],
          "Health": { "status": "HEALTHY", "statusSince": "2026-03-02T10:16:00Z" } },
        { "DockerId": "0123456789abcdef-3", "Name": "metrics", "Ports": [{ "ContainerPort": 8080, "HostPort": 32768 }],
          "Labels": null } ],
      "EphemeralStorageMetrics": { "Utilized": 261, "Reserved": 20496 } }"#;

    #[test]
    fn a_fargate_task() {
        let task = parse(FARGATE).unwrap();
        assert_eq!(
            task,
            Task {
                arn: Some(
                    "arn:aws:ecs:eu-west-1:123456789012:task/prod-a/0123456789abcdef0123456789abcdef"
                        .to_owned()
                ),
                service: Some("checkout-svc".to_owned()),
                zone: Some("eu-west-1b".to_owned()),
                namespace: Some("prod".to_owned()),
                container_ports: vec![8080, 8443],
            }
        );
    }

    #[test]
    fn in_a_bridge_no_port_is_taken() {
        let bridged = FARGATE
            .replace(r#""Name": "app","#, r#""Name": "app", "Networks": [{ "NetworkMode": "bridge" }],"#);
        assert_eq!(parse(&bridged).unwrap().container_ports, [8080], "the other container does not say");
    }

    #[test]
    fn a_task_without_a_service() {
        let batch =
            r#"{ "TaskARN": "arn:task", "Family": "batch", "Group": "family:nightly", "ServiceName": "" }"#;
        let task = parse(batch).unwrap();
        assert_eq!((task.service.as_deref(), task.zone, task.namespace), (Some("nightly"), None, None));
        let bare = parse(r#"{ "TaskARN": "arn:task", "Family": "batch", "Containers": null }"#).unwrap();
        assert_eq!(bare.service.as_deref(), Some("batch"));
    }

    #[test]
    fn answers_that_are_of_no_use() {
        assert!(matches!(parse("not found"), Err(MetadataError::Unreadable(_))));
        let two = FARGATE.replace(r#""Labels": null"#, r#""Labels": { "legation.namespace": "shared" }"#);
        let error = parse(&two).unwrap_err().to_string();
        assert!(error.ends_with(": prod, shared"), "{error}");
    }

    #[test]
    fn an_endpoint_that_is_not_there() {
        let started = Instant::now();
        let error = fetch("http://127.0.0.1:1/v4/id", PAUSE * 3).unwrap_err().to_string();
        assert!(error.starts_with("can't ask http://127.0.0.1:1/v4/id/task about this task: "), "{error}");
        assert!(started.elapsed() >= PAUSE, "it was asked once");
    }

    #[test]
    fn an_endpoint_that_is_late() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}/v4/id", listener.local_addr().unwrap());
        let answering = std::thread::spawn(move || {
            for answer in [
                "503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
                "200 OK\r\nContent-Length: 2\r\n\r\n{}",
            ] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut lines = std::io::BufReader::new(stream.try_clone().unwrap()).lines();
                while !lines.next().unwrap().unwrap().is_empty() {}
                stream
                    .write_all(
                        format!("HTTP/1.1 {answer}")
                            .replacen("\r\n", "\r\nConnection: close\r\n", 1)
                            .as_bytes(),
                    )
                    .unwrap();
            }
        });
        let task = fetch(&base, Duration::from_secs(20)).unwrap();
        answering.join().unwrap();
        assert_eq!((task.arn, task.service), (None, None), "it says nothing, but it is there");
    }
}
