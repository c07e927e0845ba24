//! The Service Connect block of a deployment, reduced.
//!
//! It is what AWS's own proxies do, not what ours do: an offer takes from it what nobody says otherwise.
//!
//! Invariant: a block that is not enabled is none.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_ecs::types::{Deployment, ServiceConnectClientAlias, ServiceConnectService};

use super::port;
use crate::model::TestHeader;

/// A Service Connect block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::source::ecs) struct Connect {
    /// A name or an ARN.
    pub namespace: Option<String>,
    /// None of them: a client only.
    pub services: Vec<ConnectService>,
}

/// One port that Service Connect offers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::source::ecs) struct ConnectService {
    pub port_name: String,
    pub discovery_name: String,
    /// Name and port; no name where it would end in a namespace that is only known by its ARN.
    pub aliases: Vec<(Option<String>, i32)>,
    pub ingress_port: Option<u16>,
    pub request_timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    pub tls: bool,
    /// What makes a request a test, where a deployment takes them.
    pub test_header: Option<TestHeader>,
}

impl Connect {
    /// The block about the port called `name`.
    pub(in crate::source::ecs) fn port(&self, name: &str) -> Option<&ConnectService> {
        self.services.iter().find(|service| service.port_name == name)
    }
}

pub(in crate::source::ecs) fn connect(deployment: &Deployment) -> Option<Arc<Connect>> {
    let block = deployment.service_connect_configuration()?;
    let name = block.namespace().filter(|name| !name.starts_with("arn:"));
    let services = block.services().iter().map(|one| connect_service(one, name)).collect();
    let namespace = block.namespace().map(str::to_owned);
    block.enabled().then(|| Arc::new(Connect { namespace, services }))
}

fn connect_service(service: &ServiceConnectService, namespace: Option<&str>) -> ConnectService {
    let seconds = |seconds: Option<i32>| {
        Some(Duration::from_secs(u64::try_from(seconds?).ok()?)) // a negative number is no timeout of ours
    };
    let timeout = service.timeout();
    let discovery_name = service.discovery_name().unwrap_or(service.port_name());
    let default = || Some(format!("{discovery_name}.{}", namespace?));
    let aliases = service.client_aliases().iter();
    let aliases = aliases.map(|alias| (alias.dns_name().map(str::to_owned).or_else(default), alias.port()));
    ConnectService {
        port_name: service.port_name().to_owned(),
        discovery_name: discovery_name.to_owned(),
        aliases: aliases.collect(),
        ingress_port: service.ingress_port_override().and_then(port),
        request_timeout: seconds(timeout.and_then(|timeout| timeout.per_request_timeout_seconds())),
        idle_timeout: seconds(timeout.and_then(|timeout| timeout.idle_timeout_seconds())),
        tls: service.tls().is_some(),
        test_header: service.client_aliases().iter().find_map(test_header),
    }
}

fn test_header(alias: &ServiceConnectClientAlias) -> Option<TestHeader> {
    let header = alias.test_traffic_rules()?.header()?;
    let value = header.value().map(|value| value.exact().into());
    Some(TestHeader { name: header.name().to_ascii_lowercase().into(), value })
}
