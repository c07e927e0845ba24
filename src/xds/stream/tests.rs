//! Who may open a stream, and what is said to those who may not.

use std::collections::HashMap;

use tonic::Code;

use super::super::proto::{Struct, Value};
use super::*;
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
    for (node, message) in rows {
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

#[tokio::test]
async fn every_connection_sends_at_once() {
    use futures_util::StreamExt;
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let connecting = tokio::spawn(TcpStream::connect(address));
    let accepted = std::pin::pin!(accept(listener)).next().await.unwrap().unwrap();
    assert!(accepted.nodelay().unwrap());
    connecting.await.unwrap().unwrap();
}

#[test]
fn a_count_is_there_before_anything_is_counted() {
    let mut registry = prometheus_client::registry::Registry::default();
    let metrics = Metrics::register(&mut registry);
    begin_series(&metrics, &"prod".into());
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for name in ["responses", "acks", "nacks"] {
        for kind in ["CDS", "EDS", "LDS", "RDS"] {
            let line = format!("legation_xds_{name}_total{{namespace=\"prod\",type=\"{kind}\"}} 0\n");
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }
}
