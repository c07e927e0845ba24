//! Where tags, labels and attributes say what is in force of one service, in the words of a policy.
//!
//! It decides nothing: which word counts is `tags`'s. Invariant: whatever is told here is in force.

use super::tags::{Place, PortTags, TagLayer};
use super::words;
use crate::diagnostic::words::spell;
use crate::model::{Protocol, Said};

/// The place of what is said of the service called `of`.
fn shown(place: &Place, of: &str) -> String {
    let is_family = of.starts_with("family:");
    match place {
        Place::Tag if is_family => format!("tag {of}"),
        Place::Tag => format!("tag service/{of}"),
        Place::TaskTag => format!("tag of a task of {of}"),
        Place::Label(container) => format!("label {container}"),
        Place::Attribute => format!("attribute {of}"),
        Place::OfInstance(instance) => format!("attribute of instance {instance}"),
    }
}

impl PortTags {
    /// What is said of the port of the service called `of`.
    pub(super) fn said(&self, of: &str) -> Vec<Said> {
        // A word that could not be taken left the one below in force.
        let said = |word: &str, key: &str, value: String, is_it: &dyn Fn(&str) -> bool| {
            let mut about = self.keys.iter().filter(|(_, key, _)| key.split('/').next() == Some(word));
            let (place, ..) = about.find(|(_, _, value)| is_it(value))?;
            Some(Said::new(key, value, shown(place, of)))
        };
        let aliases = self.aliases.as_ref().and_then(|aliases| {
            said("alias", "aliases", String::new(), &|value| words::aliases(value).as_ref() == Ok(aliases))
        });
        let protocol = self.protocol.map(Protocol::as_str).and_then(|protocol| {
            said("protocol", "appProtocol", protocol.to_owned(), &|value| value == protocol)
        });
        let time = |word, key, time: Option<std::time::Duration>| {
            let time = time?;
            said(word, key, spell(time), &|value| words::timeout(value) == Ok(time))
        };
        let retries = self.retry_attempts.and_then(|retries| {
            let is_it = |value: &str| words::retries(value) == Ok(retries);
            said("retry.attempts", "retry.attempts", retries.to_string(), &is_it)
        });
        let times = [
            time("timeout.request", "timeouts.request", self.request_timeout),
            time("timeout.idle", "timeouts.idle", self.idle_timeout),
        ];
        let is_port = |value: &str| words::inbound_port(value).ok() == self.inbound_port;
        let inbound = |key: &str, value: String| said("inbound", key, value, &is_port);
        let inbound = self.inbound_port.into_iter().flat_map(|port| {
            [inbound("inbound.mode", "sidecar".to_owned()), inbound("inbound.port", port.to_string())]
        });
        [aliases, protocol, retries].into_iter().chain(times).chain(inbound).flatten().collect()
    }
}

impl TagLayer {
    /// What is said of when the tasks of the service called `of` are ready.
    pub(super) fn said_of_readiness(&self, of: &str) -> Option<Said> {
        let (place, gate) = self.readiness.as_ref()?;
        Some(Said::new("readiness.gate", gate.as_str(), shown(place, of)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tags::{Tags, read};
    use super::*;

    fn layer(place: &Place, tags: &[(&str, &str)]) -> TagLayer {
        let tags: Tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        read("ecs prod-a/payments", place, &tags)
    }

    #[test]
    fn each_value_is_told_with_the_place_that_counts() {
        let label = Place::Label("app".into());
        let below = layer(
            &label,
            &[
                ("timeout.request/http", "7s"),
                ("timeout.idle/http", "8s"),
                ("protocol/http", "http2"),
                ("readiness", "running"),
            ],
        );
        let above = layer(
            &Place::Tag,
            &[
                ("timeout.request/http", "9000ms"),
                ("timeout.idle/http", "never"),
                ("retry.attempts/http", "3"),
                ("inbound/http", "15007"),
            ],
        );
        let layer = above.over(below);
        let mut said = layer.ports["http"].said("payments");
        said.extend(layer.said_of_readiness("payments"));
        let told: Vec<_> = said.iter().map(|it| format!("{}: {}  {}", it.key, it.value, it.place)).collect();
        assert_eq!(
            told,
            [
                "appProtocol: http2  label app",
                "retry.attempts: 3  tag service/payments",
                "timeouts.request: 9s  tag service/payments",
                "timeouts.idle: 8s  label app",
                "inbound.mode: sidecar  tag service/payments",
                "inbound.port: 15007  tag service/payments",
                "readiness.gate: running  label app",
            ]
        );
    }
}
