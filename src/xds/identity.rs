//! Who is at the other end: the first request's `node`, checked.
//!
//! It is not authentication: nothing here is proven.
//!
//! Invariant: nothing of a node is used before its length is known to be sane.

use tonic::Status;

use super::clients::Node;
use super::proto::{Node as ProtoNode, value};
use crate::snapshot::ProxyClass;
use crate::store::Store;

/// No namespace has a longer name.
const LONGEST_NAMESPACE: usize = 255;
/// No task ARN is longer.
const LONGEST_NODE_ID: usize = 2048;
/// No task has more container ports.
const MOST_PORTS: usize = 1_000;
/// Whatever else a client says of itself is cut here.
const LONGEST_WORD: usize = 256;

/// Who is there, and the namespace that it asks for.
pub fn identify(node: Option<&ProtoNode>) -> Result<(Node, String), Status> {
    let node = node.filter(|node| !node.id.is_empty());
    let node = node.ok_or_else(|| Status::invalid_argument("the first request must carry node.id"))?;
    if node.id.len() > LONGEST_NODE_ID {
        return Err(Status::invalid_argument(format!("node.id is longer than {LONGEST_NODE_ID} bytes")));
    }
    let field = |key: &str| node.metadata.as_ref()?.fields.get(key)?.kind.as_ref();
    let text = |key: &str| match field(key) {
        Some(value::Kind::StringValue(text)) => Some(text.clone()),
        _ => None,
    };
    let namespace = text("namespace").filter(|namespace| !namespace.is_empty()).ok_or_else(|| {
        let message = format!("node {} must name its mesh namespace in node.metadata.namespace", node.id);
        Status::invalid_argument(message)
    })?;
    if namespace.len() > LONGEST_NAMESPACE {
        let message = format!("node.metadata.namespace is longer than {LONGEST_NAMESPACE} bytes");
        return Err(Status::invalid_argument(message));
    }
    let occupied_ports = match field("container_ports") {
        Some(value::Kind::ListValue(list)) if list.values.len() > MOST_PORTS => {
            let message = format!("node.metadata.container_ports lists more than {MOST_PORTS} ports");
            return Err(Status::invalid_argument(message));
        }
        Some(value::Kind::ListValue(list)) => list.values.iter().filter_map(port).collect(),
        _ => Vec::new(),
    };
    let version = node.user_agent_build_version.as_ref().and_then(|build| build.version.as_ref());
    let version = version.map(|v| format!(" {}.{}.{}", v.major_number, v.minor_number, v.patch));
    let grpc = node.user_agent_name.starts_with("gRPC");
    let node = Node {
        id: node.id.as_str().into(),
        cluster: cut(&node.cluster),
        zone: node.locality.as_ref().map(|locality| cut(&locality.zone)).unwrap_or_default(),
        service: text("service").map(|service| cut(&service)).unwrap_or_default().into(),
        user_agent: format!("{}{}", cut(&node.user_agent_name), version.unwrap_or_default()),
        class: if grpc { ProxyClass::Grpc } else { ProxyClass::Sidecar },
        occupied_ports,
    };
    Ok((node, namespace))
}

fn cut(word: &str) -> String {
    word[..word.floor_char_boundary(LONGEST_WORD)].to_owned()
}

fn port(value: &super::proto::Value) -> Option<u16> {
    match value.kind {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked by the range")]
        Some(value::Kind::NumberValue(port)) if (1.0..=65535.0).contains(&port) => Some(port as u16),
        _ => None,
    }
}

pub(super) fn unknown_namespace(asked: &str, store: &Store) -> Status {
    let known: Vec<_> = store.namespaces().iter().map(ToString::to_string).collect();
    let near = known.iter().min_by_key(|name| strsim::damerau_levenshtein(name, asked));
    let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    Status::unavailable(format!("no namespace {asked} here{hint} (there are: {})", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::SystemTime;

    use tonic::Code;

    use super::super::proto::{Struct, Value};
    use super::*;
    use crate::snapshot::Snapshot;
    use crate::store::store;

    fn node(id: &str, namespace: &str) -> ProtoNode {
        let value = Value { kind: Some(value::Kind::StringValue(namespace.to_owned())) };
        let fields = HashMap::from([("namespace".to_owned(), value)]);
        ProtoNode { id: id.to_owned(), metadata: Some(Struct { fields }), ..Default::default() }
    }

    #[test]
    fn a_node_without_id_or_namespace_or_with_absurd_ones_is_refused() {
        let long = "x".repeat(4096);
        let rows = [
            (None, "the first request must carry node.id"),
            (Some(node("", "prod")), "the first request must carry node.id"),
            (Some(node("task/1", "")), "node task/1 must name its mesh namespace in node.metadata.namespace"),
            (Some(node("task/1", &long)), "node.metadata.namespace is longer than 255 bytes"),
            (Some(node(&long, "prod")), "node.id is longer than 2048 bytes"),
        ];
        let port = || Value { kind: Some(value::Kind::NumberValue(8080.0)) };
        let ports = super::super::proto::ListValue { values: (0..1_001).map(|_| port()).collect() };
        let mut many = node("task/1", "prod");
        let fields = many.metadata.iter_mut().map(|metadata| &mut metadata.fields);
        let ports = Value { kind: Some(value::Kind::ListValue(ports)) };
        fields.for_each(|fields| drop(fields.insert("container_ports".to_owned(), ports.clone())));
        let message = "node.metadata.container_ports lists more than 1000 ports";
        for (node, message) in rows.into_iter().chain([(Some(many), message)]) {
            let status = identify(node.as_ref()).unwrap_err();
            assert_eq!((status.code(), status.message()), (Code::InvalidArgument, message));
        }
    }

    #[test]
    fn an_unknown_namespace_is_answered_with_the_nearest() {
        let (writer, store) = store();
        let now = SystemTime::UNIX_EPOCH;
        for namespace in ["prod", "shared"] {
            writer.publish(Snapshot::first(namespace.into(), Default::default(), Vec::new(), now));
        }
        let status = unknown_namespace("prdo", &store);
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(status.message(), "no namespace prdo here; did you mean prod? (there are: prod, shared)");
    }

    #[test]
    fn a_client_is_grpc_by_its_user_agent() {
        for (agent, class) in [
            ("envoy", ProxyClass::Sidecar),
            ("gRPC C-core linux Python", ProxyClass::Grpc),
            ("gRPC Go", ProxyClass::Grpc),
            ("", ProxyClass::Sidecar),
        ] {
            let node = ProtoNode { user_agent_name: agent.to_owned(), ..node("task/1", "prod") };
            assert_eq!(identify(Some(&node)).unwrap().0.class, class, "{agent}");
        }
    }
}
