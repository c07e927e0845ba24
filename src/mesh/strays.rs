//! What a policy says of services that are not there, or that can't follow it.
//!
//! It changes nothing: whoever comes later is treated as the policy says. Invariant: follows from the policy and the
//! descriptions alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::diagnostic::words::did_you_mean;
use crate::model::{Finding, Namespace, Origin, Rule, ServiceName, ServiceSpec};
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
        for rule in &service.rules {
            let missing = rule.backends().filter(|backend| !described.contains_key(&backend.service));
            findings.extend(
                missing.map(|backend| finding(&rule.origin, of_route(rule, &unknown(&backend.service)))),
            );
        }
    }
    findings
}

fn of_route(rule: &Rule, why: &str) -> String {
    format!("route {}: {why}; its share goes to the others, and without any the answer is 503", rule.name)
}

fn finding(origin: &Origin, message: String) -> Finding {
    Finding { code: "CFG002", object: format!("policy {origin}"), message }
}
