//! How clients treat services, as people write it: policy files, checked, merged, and laid over what sources describe.
//!
//! It is not about who serves, and knows neither Envoy nor its defaults. What holds where nobody says anything is
//! `translate`'s.
//!
//! Invariant: a [`Policy`] has no mistake that can be seen in its files alone; whoever has one can lay it over any mesh.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::diagnostic::Problem;
use crate::diagnostic::schema::schema;
use crate::model::{
    Alias, Balancing, Exports, Import, Knobs, Namespace, Origin, Protocol, Reach, Readiness, Registration,
    Rule, Said, ServiceName, ServiceSpec, ServiceView, Subset, Subsets, Uses, View,
};

mod reach;
mod read;
mod routes;
mod said;
mod scopes;
mod table;
#[cfg(test)]
mod tests;
mod transport;
pub mod watch;

pub use said::Effective;

/// A file with its text.
pub type Text = (PathBuf, String);

/// Everything that policy files say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Policy {
    namespaces: BTreeMap<Namespace, NamespacePolicy>,
}

/// What they say of one namespace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NamespacePolicy {
    /// For every service, below whatever is said of it.
    pub defaults: Treatment,
    /// For single services.
    pub services: BTreeMap<ServiceName, ServicePolicy>,
    /// Services that no other source knows.
    pub externals: BTreeMap<ServiceName, External>,
    /// Loopback addresses that names are to have.
    pub pins: BTreeMap<Arc<str>, Ipv4Addr>,
    /// What rate limits say of services, until they are laid over what else is said.
    limits: BTreeMap<ServiceName, (Knobs, Vec<Said>)>,
    /// Where the defaults are written, with what the profile says below them.
    pub origin: Origin,
    /// What clients see of other namespaces.
    pub imports: Vec<Import>,
    /// What others may import; everything where it is not said.
    pub exports: Option<Exports>,
}

/// How clients treat a service, and when it is ready.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Treatment {
    /// How clients treat it.
    pub knobs: Knobs,
    /// When its tasks are ready.
    pub readiness: Option<Readiness>,
}

/// What they say of one service.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServicePolicy {
    /// What clients dial.
    pub aliases: Option<Vec<Alias>>,
    /// On which ports of 127.0.0.1 they find some of that too.
    pub local_ports: Vec<(Alias, u16)>,
    /// What it speaks.
    pub protocol: Option<Protocol>,
    /// How clients treat it.
    pub treatment: Treatment,
    /// Where its requests go, in the order in which rules are tried.
    pub rules: Vec<Rule>,
    /// The parts of it that some rule names.
    pub subsets: BTreeSet<Subset>,
    /// All that it calls itself, if it says so.
    pub uses: Option<Uses>,
    /// Where most of it is written, and where each value: `policy.yaml:12`.
    pub origin: Option<Origin>,
}

/// A service that no other source knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct External {
    /// Its description.
    pub spec: Arc<ServiceSpec>,
    /// Where it is.
    pub registrations: Vec<Registration>,
}

impl Policy {
    /// What `files` say together about these namespaces; without any, about those that they name. The error is every
    /// problem in every file.
    pub fn parse(files: &[Text], namespaces: &BTreeSet<Namespace>) -> Result<Self, Vec<Problem>> {
        read::read(files, namespaces)
    }

    /// The JSON Schema of a file.
    pub fn schema() -> serde_json::Value {
        schema("Legation policy", &table::POLICY)
    }

    /// The services that it describes itself, as a source sees its own.
    pub fn view(&self) -> View {
        let externals = self.namespaces.values().flat_map(|namespace| namespace.externals.values());
        let view = |external: &External| {
            let External { spec, registrations } = external.clone();
            (spec.key.clone(), Arc::new(ServiceView { spec, active: true, registrations }))
        };
        View { services: externals.map(view).collect(), ..View::default() }
    }

    /// What is said of a namespace.
    pub fn of(&self, namespace: &Namespace) -> Option<&NamespacePolicy> {
        self.namespaces.get(namespace)
    }

    /// The description with what is said of its service laid over it.
    pub fn over(&self, spec: &Arc<ServiceSpec>) -> Arc<ServiceSpec> {
        let Some(policy) = self.of(&spec.key.namespace) else { return Arc::clone(spec) };
        let none = ServicePolicy::default();
        let service = policy.services.get(&spec.key.name).unwrap_or(&none);
        let knobs = service.treatment.knobs.clone().over(&spec.knobs.clone().over(&policy.defaults.knobs));
        // Nobody runs a sidecar of ours beside it.
        let inbound_port =
            if policy.externals.contains_key(&spec.key.name) { None } else { knobs.inbound_port };
        let knobs = Knobs { inbound_port, ..knobs };
        let over = ServiceSpec {
            aliases: service.aliases.clone().unwrap_or_else(|| spec.aliases.clone()),
            protocol: service.protocol.unwrap_or(spec.protocol),
            knobs,
            readiness: service.treatment.readiness.or(policy.defaults.readiness).unwrap_or(spec.readiness),
            rules: service.rules.iter().cloned().collect(),
            subsets: service.subsets.iter().cloned().collect::<Subsets>(),
            reach: Reach { local_ports: service.local_ports.clone(), ..spec.reach.clone() },
            ..(**spec).clone()
        };
        if over == **spec { Arc::clone(spec) } else { Arc::new(over) }
    }
}

/// Envoy's own numbers, for those who want none of Service Connect's.
fn envoy() -> Knobs {
    const HOUR: Duration = Duration::from_secs(3600);
    const LIMIT: Option<u32> = Some(1024);
    Knobs {
        request_timeout: Some(Duration::from_secs(15)),
        idle_timeout: Some(HOUR),
        stream_idle_timeout: Some(Duration::from_secs(300)),
        connect_timeout: Some(Duration::from_secs(5)),
        retry_attempts: Some(0),
        consecutive_5xx: Some(0),
        balancing: Some(Balancing::RoundRobin),
        max_connections: LIMIT,
        max_pending_requests: LIMIT,
        max_requests: LIMIT,
        max_retries: Some(3),
        access_log: Some(false),
        ..Knobs::default()
    }
}
