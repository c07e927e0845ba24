//! From the layers of one ECS service to what it offers: defaults, Service Connect, labels, tags of tasks, tags; the later
//! wins. Standalone tasks of a family are described as a service is.
//!
//! It is not about tasks: an offer exists whether or not anything runs.
//!
//! Invariant: pure, and every offer has a valid name in a namespace that is configured.

use std::sync::Arc;

use super::defaults::Names;
use super::facts::{Connect, ConnectService, NamedPort, Revision, ServiceFacts};
use super::standalone::{Said, name_of};
use super::tags::{self, Place, PortTags, Role, Tag, TagLayer, listed};
use super::task_tags::TaskTags;
use super::{Discover, NamespaceRule};
use crate::diagnostic::words::spell;
use crate::model::{
    self, Alias, Finding, Knobs, Namespace, Origin, Protocol, ServiceKey, ServiceName, ServiceSpec,
};
use crate::source::words::{self, Wrong};

/// One port of one ECS service under its name in the mesh.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Offer {
    pub spec: Arc<ServiceSpec>,
    /// The group whose tasks are its endpoints: an ECS service, or standalone tasks of a family.
    pub service: Arc<str>,
    /// Of standalone tasks only those that say this name.
    pub said: Option<Arc<Said>>,
    /// On which port of each.
    pub port: Arc<str>,
    /// That port's number in the service's task definition.
    pub number: u16,
    /// Whether the ECS service is `ACTIVE`.
    pub active: bool,
}

/// What the services of one cluster are read against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cluster<'a> {
    /// For people.
    pub name: &'a str,
    pub rules: &'a [NamespaceRule],
    /// The name of the cluster's default namespace, if it has one: the lowest layer.
    pub default: Option<&'a str>,
    /// Of namespaces that ECS writes as ARNs.
    pub names: &'a Names,
}

/// What `service` offers, with what is wrong about its description. `told` is what the tags of its tasks say.
pub(super) fn describe(
    cluster: Cluster<'_>,
    service: &ServiceFacts,
    told: &TaskTags,
    revision: &Revision,
) -> (Vec<Offer>, Vec<Finding>) {
    let object = format!("ecs {}/{}", cluster.name, service.name);
    let labels = tags::read_labels(&object, &revision.labels);
    let tags = tags::read(&object, &Place::TaskTag, &told.tags).over(labels);
    let tags = tags::read(&object, &Place::Tag, &service.tags).over(tags);
    if tags.role == Some(Role::None) {
        return (Vec::new(), Vec::new());
    }
    let mut findings = tags.findings.clone();
    findings.extend(told.conflicts(&object, &service.tags));
    let is_written = !service.tags.is_empty() || !told.tags.is_empty() || !revision.labels.is_empty();
    let mut reader = Reader { cluster, service, revision, object, tags, is_written, findings };
    let offers = reader.namespace().map(|namespace| reader.offers(&namespace)).unwrap_or_default();
    (offers, reader.findings)
}

struct Reader<'a> {
    cluster: Cluster<'a>,
    service: &'a ServiceFacts,
    revision: &'a Revision,
    /// For people: `ecs prod-a/payments`.
    object: String,
    tags: TagLayer,
    /// Whether there is any tag or label.
    is_written: bool,
    findings: Vec<Finding>,
}

impl Reader<'_> {
    fn find(&mut self, code: &'static str, place: &str, message: String) {
        self.findings.push(Finding { code, object: format!("{}{place}", self.object), message });
    }

    /// The namespace that the service joins, if it joins any.
    fn namespace(&mut self) -> Option<Namespace> {
        let labelled = self.is_written || self.service.connect.is_some();
        let rules = self.cluster.rules;
        let admits = |rule: &&NamespaceRule| labelled || rule.discover == Discover::All;
        let tagged = self.tags.namespace.clone();
        let connect = match self.service.connect.as_ref().and_then(|connect| connect.namespace.clone()) {
            Some(arn) if arn.starts_with("arn:") && tagged.is_none() => match self.cluster.names.get(&arn) {
                Some(name) => Some(name.clone()),
                None if rules.len() == 1 => None, // it is taken for the only one
                None => return None,              // it is told elsewhere why the name is not known
            },
            written => written,
        };
        let Some(name) = tagged.as_ref().map(|(_, name)| name.clone()).or(connect) else {
            return match rules {
                [only] => Some(only).filter(admits).map(|rule| rule.namespace.clone()),
                several => {
                    let default = self.cluster.default;
                    let rule = several.iter().find(|rule| Some(rule.namespace.as_str()) == default);
                    if rule.is_none() && several.iter().any(|rule| admits(&rule)) {
                        self.find_no_namespace();
                    }
                    rule.filter(admits).map(|rule| rule.namespace.clone())
                }
            };
        };
        if let Some(rule) = rules.iter().find(|rule| rule.namespace.as_str() == name) {
            return Some(rule.namespace.clone());
        }
        // Not the lower layer: it would put the service where nobody wants it.
        let names = || rules.iter().map(|rule| rule.namespace.as_str());
        let near = words::did_you_mean(&name, names());
        let which = listed(names());
        let why = format!(
            "namespace `{name}` is not fed by cluster {}, which feeds {which}{near}",
            self.cluster.name
        );
        if let Some((place, _)) = &tagged {
            let tag = Tag { object: &self.object, place, key: "namespace", value: &name };
            self.findings.push(tag.wrong_value(&Wrong::all(&name, why)));
        } else {
            self.find(
                "CFG002",
                ", Service Connect",
                format!("{why}; the tag legation:namespace overrides it"),
            );
        }
        None
    }

    /// Several namespaces, and nothing says which is meant.
    fn find_no_namespace(&mut self) {
        let Cluster { name, rules, default, .. } = self.cluster;
        let names = listed(rules.iter().map(|rule| rule.namespace.as_str()));
        let but = default.map(|default| format!(", and not its default namespace `{default}`"));
        let but = but.unwrap_or_default();
        let why = format!("cluster {name} feeds {names}{but}; say which with the tag legation:namespace");
        self.find("CFG002", "", why);
    }

    fn offers(&mut self, namespace: &Namespace) -> Vec<Offer> {
        self.judge_port_names();
        if self.tags.role == Some(Role::Client) {
            return Vec::new();
        }
        let revision = self.revision;
        let connect = self.service.connect.clone();
        let carried = revision.ports.iter().filter(|port| port.number.is_ok()).count();
        let mut offers = Vec::new();
        for port in &revision.ports {
            let block = connect.as_ref().and_then(|connect| connect.port(&port.name));
            let tags = self.tags.ports.get(&*port.name).cloned();
            // A Service Connect block lists what it offers; without one every named port is.
            if tags.is_none() && block.is_none() && connect.is_some() {
                continue;
            }
            match port.number {
                Ok(number) => {
                    let tags = tags.unwrap_or_default();
                    let layers = Layers { port, number, alone: carried == 1, block, tags: &tags };
                    offers.extend(self.offer(namespace, &layers));
                }
                Err(what) if tags.is_some() || block.is_some() => {
                    let why = format!("container port `{}` is {what}, which can't be offered", port.name);
                    self.find("CFG002", &format!(", port {}", port.name), why);
                }
                Err(_) => {}
            }
        }
        offers
    }

    /// `PORT001` for each port that someone names and the task definition does not.
    fn judge_port_names(&mut self) {
        let revision = self.revision;
        let why = |name: &str| {
            let has = match revision.ports.as_slice() {
                [] => "names no ports".to_owned(),
                ports => format!("has {}", listed(ports.iter().map(|port| &*port.name))),
            };
            let near = words::did_you_mean(name, revision.ports.iter().map(|port| &*port.name));
            let label = &revision.label;
            format!("no container port is named `{name}` in task definition {label}, which {has}{near}")
        };
        for (name, tags) in self.tags.ports.iter().filter(|(name, _)| revision.port(name).is_none()) {
            for (place, key, value) in &tags.keys {
                let tag = Tag { object: &self.object, place, key, value };
                let at = key.len() - name.len()..key.len();
                self.findings.push(tag.wrong_key("PORT001", at, &why(name)));
            }
        }
        let connect = self.service.connect.clone();
        for block in connect.iter().flat_map(|connect| &connect.services) {
            if revision.port(&block.port_name).is_none() {
                self.find("PORT001", ", Service Connect", why(&block.port_name));
            }
        }
    }

    fn offer(&mut self, namespace: &Namespace, layers: &Layers<'_>) -> Option<Offer> {
        let place = format!(", port {}", layers.port.name);
        let name = match layers.name(name_of(&self.service.name)) {
            Ok(name) => name,
            Err((name, wrong)) => {
                let port = &layers.port.name;
                let remedy = format!("give one with the tag legation:discovery-name/{port}");
                self.find(
                    "CFG002",
                    &place,
                    format!("`{name}` is no discovery name: {}; {remedy}", wrong.why),
                );
                return None;
            }
        };
        let protocol = layers.tags.protocol.or(layers.port.protocol);
        if protocol.is_none() {
            let port = &layers.port.name;
            let why = format!(
                "port `{port}` says no appProtocol, so it is TCP: no request retries, timeouts or routes; set \
                 appProtocol, or the tag legation:protocol/{port} to `http`, `http2`, `grpc`, or `tcp` if it is"
            );
            self.find("PROTO001", &place, why);
        }
        if layers.block.is_some_and(|block| block.tls) {
            let why = "its tasks speak Service Connect TLS, which other sidecars can't; it gets no traffic";
            self.find("TLS002", &place, why.to_owned());
        }
        let protocol = protocol.unwrap_or_default();
        if !protocol.is_http() && layers.tags.request_timeout.is_some() {
            let why = "a request timeout has no effect on TCP".to_owned();
            self.find("CFG002", &format!(", tag legation:timeout.request/{}", layers.port.name), why);
        }
        let (aliases, wrong) = layers.aliases(&name, namespace);
        if let Some(wrong) = wrong {
            self.find("CFG002", &format!("{place}, Service Connect"), wrong);
        }
        let spec = ServiceSpec {
            protocol,
            aliases,
            knobs: Knobs { zones: self.service.subnets, ..layers.knobs(protocol) },
            readiness: self.tags.readiness.as_ref().map(|(_, gate)| *gate).unwrap_or_default(),
            created_at: self.service.created_at,
            home: name_of(&self.service.name).into(),
            ..ServiceSpec::new(
                ServiceKey { namespace: namespace.clone(), name },
                Origin::new(self.object.as_str(), self.said(layers)),
            )
        };
        let service = Arc::clone(&self.service.name);
        let port = Arc::clone(&layers.port.name);
        let (spec, number) = (Arc::new(spec), layers.number);
        Some(Offer { spec, service, said: None, port, number, active: self.service.active })
    }
}

impl Reader<'_> {
    /// Where each value of one port was said, the upper layers first.
    fn said(&self, layers: &Layers<'_>) -> Vec<model::Said> {
        const BLOCK: &str = "serviceConnectConfiguration";
        let service = &self.service.name;
        let mut said = layers.tags.said(service);
        said.extend(self.tags.said_of_readiness(service));
        if let Some(block) = layers.block {
            let times = [("timeouts.request", block.request_timeout), ("timeouts.idle", block.idle_timeout)];
            let times = times.into_iter().filter_map(|(key, time)| Some((key, spell(time?))));
            let named = (!block.aliases.is_empty()).then(|| ("aliases", String::new()));
            said.extend(times.chain(named).map(|(key, value)| model::Said::new(key, value, BLOCK)));
        }
        let protocol = layers.port.protocol.map(Protocol::as_str);
        let definition = || format!("task definition {}", self.revision.label);
        said.extend(protocol.map(|protocol| model::Said::new("appProtocol", protocol, definition())));
        said
    }
}

/// The layers of one port.
struct Layers<'a> {
    port: &'a NamedPort,
    number: u16,
    /// Whether it is the only port that could be offered.
    alone: bool,
    block: Option<&'a ConnectService>,
    tags: &'a PortTags,
}

impl Layers<'_> {
    fn name(&self, service: &str) -> Result<ServiceName, (String, Wrong)> {
        let port = &*self.port.name;
        let default =
            || if self.alone { service.to_lowercase() } else { format!("{service}-{port}").to_lowercase() };
        let block = self.block.map(|block| block.discovery_name.clone());
        let name = self.tags.discovery_name.clone().or(block).unwrap_or_else(default);
        match words::discovery_name(&name) {
            Ok(()) => Ok(name.into()),
            Err(wrong) => Err((name, wrong)),
        }
    }

    /// What clients dial, and what of Service Connect's word can't be.
    fn aliases(&self, name: &ServiceName, namespace: &Namespace) -> (Vec<Alias>, Option<String>) {
        let default = || vec![Alias { name: name.shared(), port: self.number }];
        if let Some(aliases) = &self.tags.aliases {
            return (aliases.clone(), None);
        }
        let Some(block) = self.block.filter(|block| !block.aliases.is_empty()) else {
            return (default(), None);
        };
        let mut aliases = Vec::new();
        for (host, port) in &block.aliases {
            let host = host.clone().unwrap_or_else(|| format!("{}.{namespace}", block.discovery_name));
            match words::alias(&format!("{host}:{port}")) {
                Ok(alias) => aliases.push(alias),
                Err(wrong) => return (default(), Some(format!("alias `{host}:{port}`: {}", wrong.why))),
            }
        }
        (aliases, None)
    }

    fn knobs(&self, protocol: Protocol) -> Knobs {
        let request = self.tags.request_timeout.or_else(|| self.block?.request_timeout);
        Knobs {
            request_timeout: request.filter(|_| protocol.is_http()),
            idle_timeout: self.tags.idle_timeout.or_else(|| self.block?.idle_timeout),
            retry_attempts: self.tags.retry_attempts,
            inbound_port: self.tags.inbound_port,
            ..Knobs::default()
        }
    }
}

impl Connect {
    /// The block about the port called `name`.
    pub(super) fn port(&self, name: &str) -> Option<&ConnectService> {
        self.services.iter().find(|service| service.port_name == name)
    }
}
