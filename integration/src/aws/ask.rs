//! One call to whatever answers like AWS, as JSON.
//!
//! It is for emulators that have to be told what to do; Legation's own calls go through the SDK. Invariant: an answer that is no
//! success is an error that shows it.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use axum::body::Body;
use hyper::{Method, Request};
use serde_json::Value;

use crate::http::send;

/// Asks `service` for an operation, such as `AmazonSQS.CreateQueue`; null where the answer is empty.
pub async fn ask(to: SocketAddr, service: &str, target: &str, input: Value) -> anyhow::Result<Value> {
    let credential = format!("Credential=AKIDEXAMPLE/20260101/eu-west-1/{service}/aws4_request");
    let version = if service == "sqs" { "1.0" } else { "1.1" };
    let request = Request::builder()
        .method(Method::POST)
        .uri("/")
        .header("host", to.to_string())
        .header("content-type", format!("application/x-amz-json-{version}"))
        .header("x-amz-target", target)
        .header("authorization", format!("AWS4-HMAC-SHA256 {credential}, SignedHeaders=host, Signature=0"))
        .body(Body::from(input.to_string()))?;
    let answer = send(to, request).await?;
    ensure!(answer.status.is_success(), "{target}: {}: {}", answer.status, answer.text());
    if answer.body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&answer.body).with_context(|| format!("the answer to {target}"))
}
