//! The `legation:*` tags of one service and of its tasks, and the `legation.*` labels of its containers: layers 3 and 2 of
//! its description, checked key by key. The attributes of Cloud Map say the same in the words of labels.
//!
//! It is not the description: it knows no lower layer and no port but by name.
//!
//! Invariant: what can't be taken becomes a finding and leaves the lower layer in force.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::words::{self, Wrong};
use crate::diagnostic::words::nearest;
use crate::model::{Alias, Finding, Protocol, Readiness};

/// Tags that begin with `legation:`, by the rest of their key.
pub(super) type Tags = BTreeMap<String, String>;

/// The prefix of the tags that are Legation's.
pub(super) const TAG_PREFIX: &str = "legation:";
/// The same for docker labels and for attributes of Cloud Map.
pub(super) const LABEL_PREFIX: &str = "legation.";

/// Where something is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Tag,
    /// A tag of a task.
    TaskTag,
    /// A docker label of this container.
    Label(Arc<str>),
    /// An attribute of a service of Cloud Map.
    Attribute,
    /// An attribute of this instance of one.
    OfInstance(Arc<str>),
}

impl Place {
    /// The key as it is written there; both prefixes are equally long.
    fn key(&self, key: &str) -> String {
        match self {
            Self::Tag | Self::TaskTag => format!("{TAG_PREFIX}{key}"),
            Self::Label(_) | Self::Attribute | Self::OfInstance(_) => {
                format!("{LABEL_PREFIX}{}", key.replace('/', "."))
            }
        }
    }

    fn is(&self) -> &'static str {
        match self {
            Self::Tag => "tag",
            Self::TaskTag => "task tag",
            Self::Label(_) => "label",
            Self::Attribute | Self::OfInstance(_) => "attribute",
        }
    }

    /// Whether the service has one port, which needs no name and has none of its own.
    fn is_of_one_port(&self) -> bool {
        matches!(self, Self::Attribute | Self::OfInstance(_))
    }
}

/// What the tags of one service say, or those of its tasks, the labels of its containers, or attributes of Cloud Map.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct TagLayer {
    /// The namespace, unchecked: only the cluster knows which there are.
    pub namespace: Option<(Place, String)>,
    pub role: Option<Role>,
    /// With the place that says so.
    pub readiness: Option<(Place, Readiness)>,
    /// By port name, which no one has checked yet; no name where there is but one port.
    pub ports: BTreeMap<String, PortTags>,
    pub findings: Vec<Finding>,
}

/// What the tags say about one port.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct PortTags {
    /// Every key that named this port, for findings: where it is, the key and its value.
    pub keys: Vec<(Place, String, String)>,
    pub discovery_name: Option<String>,
    pub aliases: Option<Vec<Alias>>,
    pub protocol: Option<Protocol>,
    pub request_timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    pub retry_attempts: Option<u32>,
    pub inbound_port: Option<u16>,
}

/// What a service is in the mesh.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Role {
    /// Whatever its ports make it.
    #[default]
    Auto,
    /// Never an endpoint.
    Client,
    /// Ignored.
    None,
}

const OF_SERVICE: [&str; 4] = ["namespace", "role", "readiness", VERSION];
/// The key of the version of a service that a task is.
pub(super) const VERSION: &str = "version";
const OF_PORT: [&str; 7] =
    ["discovery-name", "alias", "protocol", "timeout.request", "timeout.idle", "retry.attempts", "inbound"];
/// Keys that are promised for later.
const NOT_YET: [&str; 2] = ["imports", "drain.window"];

/// Reads the tags of the service called `object`, or of its tasks, as `place` says; their keys have lost their prefix.
pub(super) fn read(object: &str, place: &Place, tags: &Tags) -> TagLayer {
    let mut layer = TagLayer::default();
    for (key, value) in tags {
        layer.take(&Tag { object, place, key, value });
    }
    layer
}

/// Reads the labels of the containers of the service called `object`, whose keys have lost their prefix. One that two
/// containers give different values says nothing.
pub(super) fn read_labels(object: &str, labels: &BTreeMap<String, Vec<(Arc<str>, String)>>) -> TagLayer {
    let mut layer = TagLayer::default();
    for (label, values) in labels {
        let Some(((container, value), others)) = values.split_first() else { continue };
        let (place, key) = (Place::Label(Arc::clone(container)), key_of_label(label));
        let tag = Tag { object, place: &place, key: &key, value };
        match others.iter().find(|(_, other)| other != value) {
            Some((other, different)) => {
                let why = format!("container `{other}` says `{different}`: none of both is taken");
                layer.findings.push(tag.wrong_value(&Wrong::all(value, why)));
            }
            None => layer.take(&tag),
        }
    }
    layer
}

/// The key of the tag that a label stands for: `alias/http` for `alias.http`.
pub(super) fn key_of_label(label: &str) -> String {
    let of_port = |word: &&&str| label.strip_prefix(**word).is_some_and(|rest| rest.starts_with('.'));
    match OF_PORT.iter().chain(&NOT_YET).find(of_port) {
        Some(word) => format!("{word}/{}", &label[word.len() + 1..]),
        None if NOT_YET.contains(&label) || OF_PORT.contains(&label) => label.to_owned(),
        // Unknown, but what it was meant to be about may be known.
        None => {
            label.rsplit_once('.').map_or_else(|| label.to_owned(), |(word, port)| format!("{word}/{port}"))
        }
    }
}

impl TagLayer {
    /// Takes in one tag, or a finding about it.
    pub(super) fn take(&mut self, tag: &Tag<'_>) {
        let outcome = match tag.key.split_once('/') {
            None if tag.place.is_of_one_port() && OF_PORT.contains(&tag.key) => {
                of_port(self, tag, tag.key, "")
            }
            None => of_service(self, tag),
            Some((word, port)) => of_port(self, tag, word, port),
        };
        self.findings.extend(outcome.err());
    }

    /// This layer on top of `lower`, value by value.
    pub(super) fn over(mut self, lower: Self) -> Self {
        for (port, below) in lower.ports {
            let above = self.ports.remove(&port).unwrap_or_default();
            self.ports.insert(port, above.over(below));
        }
        self.findings.extend(lower.findings);
        Self {
            namespace: self.namespace.or(lower.namespace),
            role: self.role.or(lower.role),
            readiness: self.readiness.or(lower.readiness),
            ..self
        }
    }
}

impl PortTags {
    /// The same for one port.
    pub(super) fn over(mut self, below: Self) -> Self {
        self.keys.extend(below.keys);
        Self {
            keys: self.keys,
            discovery_name: self.discovery_name.or(below.discovery_name),
            aliases: self.aliases.or(below.aliases),
            protocol: self.protocol.or(below.protocol),
            request_timeout: self.request_timeout.or(below.request_timeout),
            idle_timeout: self.idle_timeout.or(below.idle_timeout),
            retry_attempts: self.retry_attempts.or(below.retry_attempts),
            inbound_port: self.inbound_port.or(below.inbound_port),
        }
    }
}

/// One tag or label, and how to complain about it.
pub(super) struct Tag<'a> {
    /// The service: `ecs prod-a/payments`.
    pub object: &'a str,
    pub place: &'a Place,
    /// The key without the prefix.
    pub key: &'a str,
    pub value: &'a str,
}

impl Tag<'_> {
    /// A finding that points at bytes of the key, prefix not counted.
    pub(super) fn wrong_key(&self, code: &'static str, at: Range<usize>, why: &str) -> Finding {
        self.finding(code, TAG_PREFIX.len() + at.start..TAG_PREFIX.len() + at.end, why)
    }

    /// A finding that points at a part of the value.
    pub(super) fn wrong_value(&self, wrong: &Wrong) -> Finding {
        let begin = TAG_PREFIX.len() + self.key.len() + " = ".len();
        self.finding("CFG002", begin + wrong.at.start..begin + wrong.at.end, &wrong.why)
    }

    fn finding(&self, code: &'static str, at: Range<usize>, why: &str) -> Finding {
        let (key, is) = (self.place.key(self.key), self.place.is());
        let shown = words::caret(&format!("{key} = {}", self.value), &at);
        let of = match self.place {
            Place::Tag | Place::TaskTag | Place::Attribute => String::new(),
            Place::Label(container) => format!(" of container {container}"),
            Place::OfInstance(instance) => format!(" of instance {instance}"),
        };
        Finding {
            code,
            object: format!("{}, {is} {key}{of}", self.object),
            message: format!("{why}\n{shown}"),
        }
    }

    fn value<T>(&self, read: impl FnOnce(&str) -> Result<T, Wrong>) -> Result<T, Finding> {
        read(self.value).map_err(|wrong| self.wrong_value(&wrong))
    }
}

fn of_service(layer: &mut TagLayer, tag: &Tag<'_>) -> Result<(), Finding> {
    match tag.key {
        "namespace" if tag.place.is_of_one_port() => {
            let why =
                "the configuration says which namespace the services of Cloud Map join; this has no effect";
            return Err(tag.wrong_key("CFG001", 0..tag.key.len(), why));
        }
        "namespace" => layer.namespace = Some((tag.place.clone(), tag.value.to_owned())),
        "role" => {
            let roles = [("auto", Role::Auto), ("client", Role::Client), ("none", Role::None)];
            layer.role = Some(tag.value(|value| one_of(value, &roles))?);
        }
        "readiness" => {
            let gates = [("healthy", Readiness::Healthy), ("running", Readiness::Running)];
            layer.readiness = Some((tag.place.clone(), tag.value(|value| one_of(value, &gates))?));
        }
        VERSION => drop(tag.value(words::version)?), // it is about each task, and read there
        word if OF_PORT.contains(&word) => {
            let whole = tag.place.key(&format!("{word}/<portName>"));
            let why = format!("the key ends in the name of a port: `{whole}`");
            return Err(tag.wrong_key("CFG001", 0..word.len(), &why));
        }
        word => return Err(unknown(tag, word)),
    }
    Ok(())
}

fn of_port(layer: &mut TagLayer, tag: &Tag<'_>, word: &str, port: &str) -> Result<(), Finding> {
    if OF_SERVICE.contains(&word) {
        let why = format!("`{}` is about the whole service and names no port", tag.place.key(word));
        return Err(tag.wrong_key("CFG001", word.len()..tag.key.len(), &why));
    }
    if !OF_PORT.contains(&word) {
        return Err(unknown(tag, word));
    }
    let tags = layer.ports.entry(port.to_owned()).or_default();
    tags.keys.push((tag.place.clone(), tag.key.to_owned(), tag.value.to_owned()));
    match word {
        "discovery-name" => {
            tag.value(words::discovery_name)?;
            tags.discovery_name = Some(tag.value.to_owned());
        }
        "alias" => tags.aliases = Some(tag.value(words::aliases)?),
        "protocol" => {
            let protocols = [Protocol::Tcp, Protocol::Http, Protocol::Http2, Protocol::Grpc];
            let protocols = protocols.map(|protocol| (protocol.as_str(), protocol));
            tags.protocol = Some(tag.value(|value| one_of(value, &protocols))?);
        }
        "timeout.request" => tags.request_timeout = Some(tag.value(words::timeout)?),
        "timeout.idle" => tags.idle_timeout = Some(tag.value(words::timeout)?),
        "inbound" => tags.inbound_port = Some(tag.value(words::inbound_port)?),
        _ => tags.retry_attempts = Some(tag.value(words::retries)?),
    }
    Ok(())
}

fn unknown(tag: &Tag<'_>, word: &str) -> Finding {
    if NOT_YET.contains(&word) {
        let (key, is) = (tag.place.key(word), tag.place.is());
        let why = format!("this release does not support `{key}`; the {is} has no effect");
        return tag.wrong_key("CFG001", 0..word.len(), &why);
    }
    let known = || OF_SERVICE.into_iter().chain(OF_PORT);
    let near = nearest(word, known()).map_or_else(
        || format!("; this release knows {}", listed(known())),
        |near| {
            let has_port = OF_PORT.contains(&near) && !tag.place.is_of_one_port();
            let of_port = if has_port { "/<portName>" } else { "" };
            format!("; did you mean `{}`?", tag.place.key(&format!("{near}{of_port}")))
        },
    );
    tag.wrong_key("CFG001", 0..word.len(), &format!("unknown key `{}`{near}", tag.place.key(word)))
}

fn one_of<T: Copy>(value: &str, words: &[(&str, T)]) -> Result<T, Wrong> {
    if let Some((_, found)) = words.iter().find(|(word, _)| *word == value) {
        return Ok(*found);
    }
    let names = || words.iter().map(|(word, _)| *word);
    let near = words::did_you_mean(value, names());
    Err(Wrong::all(value, format!("expected one of {}{near}", listed(names()))))
}

/// Words for people: `a`, `b`.
pub(super) fn listed<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYMENTS: &str = "ecs prod-a/payments";

    fn read_all(tags: &[(&str, &str)]) -> TagLayer {
        read(
            PAYMENTS,
            &Place::Tag,
            &tags.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        )
    }

    /// The one finding about one tag.
    fn complaint(key: &str, value: &str) -> Finding {
        let layer = read_all(&[(key, value)]);
        assert_eq!(layer.findings.len(), 1, "{key} = {value}: {:?}", layer.findings);
        let finding = layer.findings.into_iter().next().expect("just counted");
        assert_eq!(finding.object, format!("{PAYMENTS}, tag legation:{key}"));
        finding
    }

    #[test]
    fn every_row_of_the_table_is_read() {
        let layer = read_all(&[
            ("namespace", "prod"),
            ("role", "client"),
            ("readiness", "running"),
            ("discovery-name/http", "pay"),
            ("alias/http", "payments:8080 pay:80"),
            ("protocol/http", "http2"),
            ("timeout.request/http", "0s"),
            ("timeout.idle/admin", "1h30m"),
            ("retry.attempts/http", "0"),
            ("inbound/http", "15006"),
        ]);
        assert_eq!(layer.findings, []);
        assert_eq!(layer.namespace, Some((Place::Tag, "prod".to_owned())));
        assert_eq!(
            (layer.role, layer.readiness),
            (Some(Role::Client), Some((Place::Tag, Readiness::Running)))
        );
        let alias = |name: &str, port| Alias { name: name.into(), port };
        let http = PortTags {
            inbound_port: Some(15006),
            keys: layer.ports["http"].keys.clone(),
            discovery_name: Some("pay".into()),
            aliases: Some(vec![alias("payments", 8080), alias("pay", 80)]),
            protocol: Some(Protocol::Http2),
            request_timeout: Some(Duration::ZERO),
            idle_timeout: None,
            retry_attempts: Some(0),
        };
        assert_eq!(layer.ports["http"], http);
        assert_eq!(http.keys.len(), 6);
        assert_eq!(layer.ports["admin"].idle_timeout, Some(Duration::from_secs(5_400)));
    }

    #[test]
    fn unknown_keys_name_the_nearest() {
        for (key, near) in [
            ("aliass/http", "did you mean `legation:alias/<portName>`?"),
            ("retry.attempt/http", "did you mean `legation:retry.attempts/<portName>`?"),
            ("timeout.reqest/http", "did you mean `legation:timeout.request/<portName>`?"),
            ("rediness", "did you mean `legation:readiness`?"),
            ("Namespace", "did you mean `legation:namespace`?"),
            ("xyz", "this release knows `namespace`, `role`, `readiness`, `version`, "),
            ("", "this release knows `namespace`"),
            ("alias", "the key ends in the name of a port: `legation:alias/<portName>`"),
            ("role/http", "`legation:role` is about the whole service"),
            ("imports", "this release does not support"),
            ("drain.window", "this release does not support"),
        ] {
            let finding = complaint(key, "x");
            assert_eq!(finding.code, "CFG001", "{key}");
            assert!(finding.message.contains(near), "{key}: {}", finding.message);
        }
    }

    #[test]
    fn bad_values_say_what_is_right_and_change_nothing() {
        for (key, value, right) in [
            ("role", "server", "expected one of `auto`, `client`, `none`"),
            ("readiness", "healty", "did you mean `healthy`?"),
            ("discovery-name/http", "Pay", "in lower case"),
            ("alias/http", "payments", "expected `name:port`"),
            ("protocol/http", "grcp", "did you mean `grpc`?"),
            ("protocol/http", "HTTP", "did you mean `http`?"),
            ("timeout.request/http", "15", "expected a duration such as `500ms`"),
            ("timeout.request/http", "25h", "expected at most `24h`"),
            ("timeout.idle/http", "1 h", "expected a duration"),
            ("retry.attempts/http", "11", "expected a number from 0 to 10"),
            ("inbound/http", "80", "expected a port from 1024 to 65535"),
        ] {
            let finding = complaint(key, value);
            assert_eq!(finding.code, "CFG002", "{key} = {value}");
            assert!(finding.message.contains(right), "{key} = {value}: {}", finding.message);
            let mut layer = read_all(&[(key, value)]);
            layer.findings.clear();
            layer.ports.values_mut().for_each(|port| port.keys.clear());
            layer.ports.retain(|_, port| *port != PortTags::default());
            assert_eq!(layer, TagLayer::default(), "{key} = {value}");
        }
    }

    fn labels(written: &[(&str, &str, &str)]) -> TagLayer {
        let mut labels: BTreeMap<String, Vec<(Arc<str>, String)>> = BTreeMap::new();
        for (container, key, value) in written {
            labels.entry((*key).to_owned()).or_default().push(((*container).into(), (*value).to_owned()));
        }
        read_labels(PAYMENTS, &labels)
    }

    #[test]
    fn labels_say_the_same_and_tags_outrank_them() {
        let lower = labels(&[
            ("app", "namespace", "prod"),
            ("envoy", "namespace", "prod"),
            ("app", "alias.http", "pay:80"),
            ("app", "timeout.request.http", "3s"),
            ("app", "role", "client"),
        ]);
        assert_eq!(lower.findings, []);
        assert_eq!(lower.role, Some(Role::Client));
        let upper = read_all(&[("timeout.request/http", "5s"), ("role", "auto")]);
        let both = upper.over(lower);
        assert_eq!(both.namespace, Some((Place::Label("app".into()), "prod".to_owned())));
        assert_eq!(both.role, Some(Role::Auto));
        let http = &both.ports["http"];
        assert_eq!(http.request_timeout, Some(Duration::from_secs(5)));
        assert_eq!(http.aliases.as_ref().map(Vec::len), Some(1));
        assert_eq!(http.keys.len(), 3);
    }

    #[test]
    fn what_is_wrong_with_a_label_is_told_in_its_own_words() {
        let layer = labels(&[
            ("app", "aliass.http", "pay:80"),
            ("app", "protocol.http", "http"),
            ("envoy", "protocol.http", "tcp"),
        ]);
        assert_eq!(layer.ports.get("http").and_then(|port| port.protocol), None);
        let told: Vec<_> =
            layer.findings.iter().map(|it| format!("{} {}\n{}", it.code, it.object, it.message)).collect();
        expect_test::expect![[r#"
            CFG001 ecs prod-a/payments, label legation.aliass.http of container app
            unknown key `legation.aliass`; did you mean `legation.alias.<portName>`?
              legation.aliass.http = pay:80
                       ^^^^^^
            CFG002 ecs prod-a/payments, label legation.protocol.http of container app
            container `envoy` says `tcp`: none of both is taken
              legation.protocol.http = http
                                       ^^^^"#]]
        .assert_eq(&told.join("\n"));
    }

    #[test]
    fn the_caret_stands_under_the_wrong_word() {
        expect_test::expect![[r"
            expected a port from 1 to 65535
              legation:alias/http = payments:8080 pay:0
                                                      ^"]]
        .assert_eq(&complaint("alias/http", "payments:8080 pay:0").message);
        expect_test::expect![[r"
            unknown key `legation:aliass`; did you mean `legation:alias/<portName>`?
              legation:aliass/http = payments:8080
                       ^^^^^^"]]
        .assert_eq(&complaint("aliass/http", "payments:8080").message);
    }
}
