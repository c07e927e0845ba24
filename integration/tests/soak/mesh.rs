//! What there is, as a person would write it into a services file, and whether the server knows it so.
//!
//! Plain data: who changes it is the script's business. Invariant: every state of it is a file that the server
//! takes, in whatever order its parts are written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::Ipv4Addr;

use serde_json::Value;

/// The services, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Mesh {
    pub(crate) services: BTreeMap<String, Service>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) aliases: Vec<(String, u16)>,
    pub(crate) protocol: Protocol,
    /// Seconds.
    pub(crate) request: Option<u32>,
    /// Seconds.
    pub(crate) idle: Option<u32>,
    pub(crate) attempts: Option<u32>,
    pub(crate) endpoints: Vec<Endpoint>,
    /// Whether load goes to it: its first alias, its protocol and some of its endpoints stay.
    pub(crate) loaded: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: Ipv4Addr,
    pub(crate) port: u16,
    pub(crate) zone: &'static str,
    pub(crate) health: &'static str,
    pub(crate) stays: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Http,
    Http2,
    Grpc,
}

impl Protocol {
    pub(crate) const ALL: [Self; 4] = [Self::Tcp, Self::Http, Self::Http2, Self::Grpc];

    fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
        }
    }
}

impl Mesh {
    /// The file. `backwards` says the same in another order, with a remark.
    pub(crate) fn render(&self, backwards: bool) -> String {
        let mut text = String::from(if backwards { "# the same again\nservices:" } else { "services:" });
        if self.services.is_empty() {
            text.push_str(" {}");
        }
        text.push('\n');
        let mut services: Vec<_> = self.services.iter().collect();
        if backwards {
            services.reverse();
        }
        for (name, service) in services {
            // Writing to a string does not fail.
            let _ = service.render(name, backwards, &mut text);
        }
        text
    }

    /// How what `/api/v1/namespaces/…/services` answers differs from this; nothing if it does not.
    pub(crate) fn differences(&self, items: &[Value]) -> Vec<String> {
        let known = items.iter().filter_map(|item| Some((item["name"].as_str()?, describe(item))));
        let known: BTreeMap<_, _> = known.collect();
        let names: BTreeSet<_> =
            known.keys().copied().chain(self.services.keys().map(String::as_str)).collect();
        let told = names.into_iter().filter_map(|name| {
            let (wanted, known) = (self.services.get(name).map(Service::describe), known.get(name));
            (wanted.as_ref() != known).then(|| format!("{name}: written {wanted:?}, known {known:?}"))
        });
        told.collect()
    }
}

impl Service {
    fn render(&self, name: &str, backwards: bool, text: &mut String) -> std::fmt::Result {
        let aliases = self.aliases.iter().map(|(name, port)| format!("{{ name: {name}, port: {port} }}"));
        writeln!(text, "  {name}:")?;
        writeln!(text, "    aliases: [{}]", aliases.collect::<Vec<_>>().join(", "))?;
        writeln!(text, "    appProtocol: {}", self.protocol.word())?;
        let pair = |key: &str, seconds: Option<u32>| seconds.map(|seconds| format!("{key}: {seconds}s"));
        let request = self.request.filter(|_| self.protocol != Protocol::Tcp);
        let timeouts: Vec<_> = pair("request", request).into_iter().chain(pair("idle", self.idle)).collect();
        if !timeouts.is_empty() {
            writeln!(text, "    timeouts: {{ {} }}", timeouts.join(", "))?;
        }
        if let Some(attempts) = self.attempts {
            writeln!(text, "    retry: {{ attempts: {attempts} }}")?;
        }
        let mut endpoints: Vec<_> = self.endpoints.iter().collect();
        if backwards {
            endpoints.reverse();
        }
        writeln!(text, "    endpoints:{}", if endpoints.is_empty() { " []" } else { "" })?;
        for Endpoint { address, port, zone, health, .. } in endpoints {
            let place = format!("address: {address}, port: {port}, zone: {zone}, health: {health}");
            writeln!(text, "      - {{ {place} }}")?;
        }
        Ok(())
    }

    /// What is compared, in the words of [`describe`].
    fn describe(&self) -> String {
        let aliases = self.aliases.iter().map(|(name, port)| format!("{name}:{port}")).collect();
        let places = self.endpoints.iter().map(|endpoint| format!("{}:{}", endpoint.address, endpoint.port));
        let millis = |seconds: Option<u32>| seconds.map(|seconds| f64::from(seconds) * 1000.0);
        let request = self.request.filter(|_| self.protocol != Protocol::Tcp);
        let knobs = (millis(request), millis(self.idle), self.attempts.map(u64::from));
        words(self.protocol.word(), aliases, places.collect(), knobs)
    }
}

type Knobs = (Option<f64>, Option<f64>, Option<u64>);

fn describe(item: &Value) -> String {
    let list = |key: &str, name: &str| {
        let entries = item[key].as_array().into_iter().flatten();
        entries.map(|it| format!("{}:{}", it[name].as_str().unwrap_or("?"), it["port"])).collect()
    };
    let knobs =
        (item["requestTimeoutMs"].as_f64(), item["idleTimeoutMs"].as_f64(), item["retryAttempts"].as_u64());
    let protocol = item["protocol"].as_str().unwrap_or("?");
    words(protocol, list("aliases", "name"), list("endpoints", "address"), knobs)
}

fn words(protocol: &str, aliases: BTreeSet<String>, places: BTreeSet<String>, knobs: Knobs) -> String {
    format!("{protocol} {aliases:?} {places:?} {knobs:?}")
}
