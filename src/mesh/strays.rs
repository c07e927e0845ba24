//! What a policy says of services that are not there, or that can't follow it.
//!
//! It changes nothing: whoever comes later is treated as the policy says. Invariant: follows from the policy and the
//! descriptions alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::diagnostic::words::did_you_mean;
use crate::model::{Finding, Namespace, Origin, Probe, Protocol, Rule, ServiceName, ServiceSpec};
use crate::policy::{NamespacePolicy, ServicePolicy};

/// The findings about a namespace.
pub(super) fn strays(
    namespace: &Namespace,
    policy: &NamespacePolicy,
    described: &BTreeMap<ServiceName, Arc<ServiceSpec>>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let unknown = |name: &ServiceName| {
        let near = did_you_mean(name.as_str(), described.keys().map(ServiceName::as_str));
        let near = near.map(|near| format!("; {near}")).unwrap_or_default();
        format!("no service of {namespace} is called `{name}`{near}")
    };
    for (name, service) in &policy.services {
        let only_calls = ServicePolicy {
            uses: service.uses.clone(),
            origin: service.origin.clone(),
            ..Default::default()
        };
        let Some(spec) = described.get(name) else {
            // Who only calls needs no name that others call.
            if *service == only_calls && service.uses.is_some() {
                continue;
            }
            let origins = service.origin.iter().chain(service.rules.first().map(|rule| &rule.origin));
            findings.extend(origins.map(|origin| finding(origin, unknown(name))));
            continue;
        };
        if !spec.protocol.is_http() {
            let first = service.rules.first();
            let message =
                || format!("{namespace}/{name} speaks {}, so no route has an effect", spec.protocol.as_str());
            findings.extend(first.map(|rule| finding(&rule.origin, message())));
        }
        findings.extend(service.origin.iter().flat_map(|origin| vain(spec).map(|why| finding(origin, why))));
        for rule in &service.rules {
            let missing = rule.backends().filter(|backend| !described.contains_key(&backend.service));
            findings.extend(
                missing.map(|backend| finding(&rule.origin, of_route(rule, &unknown(&backend.service)))),
            );
        }
    }
    findings
}

/// What is said of a service and can have no effect on it.
fn vain(spec: &ServiceSpec) -> impl Iterator<Item = String> {
    let (key, knobs) = (&spec.key, &spec.knobs);
    let asks_grpc = knobs.health_check.as_ref().is_some_and(|it| matches!(it.probe, Some(Probe::Grpc(_))));
    let speaks_http2 = matches!(spec.protocol, Protocol::Http2 | Protocol::Grpc);
    let limits = knobs.inbound_limit.is_some() && knobs.inbound_port.is_none_or(|port| port == 0);
    let spoken = spec.protocol.as_str();
    let each = [
        (asks_grpc && !speaks_http2).then(|| {
            format!("{key} speaks {spoken}, so its health is not asked by gRPC but as `healthCheck` does without a type")
        }),
        limits.then(|| format!("no sidecar takes requests for {key} in, so its inbound rate limit has no effect; add `inbound`")),
        (!spec.reach.hosts.is_empty() && !spec.subsets.is_empty())
            .then(|| format!("{key} is known by DNS names, which have no parts: each part of it is all of it")),
    ];
    each.into_iter().flatten()
}

fn of_route(rule: &Rule, why: &str) -> String {
    format!("route {}: {why}; its share goes to the others, and without any the answer is 503", rule.name)
}

fn finding(origin: &Origin, message: String) -> Finding {
    Finding { code: "CFG002", object: format!("policy {origin}"), message }
}
