//! The configuration from its written to its checked form.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::clusters::Clusters;
use super::written::{self, File};
use super::{Aws, Config, Discover, Guard, Listen, NamespaceConfig, Queue, Tls, Xds};
use crate::diagnostic::check::{Checker, NameRule};
use crate::diagnostic::{BAD_VALUE, Document, Entries, Problem, Written};
use crate::model::Namespace;

/// Two, so that one listens while the other has events taken in.
const RECEIVERS: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);
const NAMESPACE: NameRule = NameRule { what: "a namespace", longest: 127, dots: true };
const DISCOVER: [(&str, Discover); 2] = [("labelled", Discover::Labelled), ("all", Discover::All)];
const HOUR: Duration = Duration::from_secs(3600);

/// Checks everything before it answers.
pub(super) fn check(
    document: Document<'_>,
    file: File,
    strangers: Vec<Problem>,
) -> Result<Config, Vec<Problem>> {
    let mut checker = Checker::new(document);
    strangers.into_iter().for_each(|problem| checker.add(problem));
    let listen = listen(&mut checker, file.listen.unwrap_or_default());
    let aws = aws(&mut checker, file.aws.unwrap_or_default());
    let (least, usual) = (Duration::from_millis(100), Duration::from_secs(30));
    let mut pace = |written: Option<Written>, least, usual, most| match written {
        Some(written) => checker.duration(&written, least, most).unwrap_or(usual),
        None => usual,
    };
    let mut ecs = file.ecs.unwrap_or_default();
    let ecs_interval = pace(ecs.interval.take(), least, usual, HOUR);
    let cloud_map = file.cloud_map.unwrap_or_default();
    let cloud_map_interval = pace(cloud_map.interval, least, usual, HOUR);
    let two_seconds = Duration::from_secs(2);
    let cloud_map_revision_interval = pace(cloud_map.revision_interval, least, two_seconds, HOUR);
    let cloud_map_health_interval = pace(cloud_map.health_interval, least, Duration::from_secs(5), HOUR);
    let max_backoff = pace(file.max_backoff, least, usual, HOUR);
    let shutdown_grace =
        pace(file.shutdown_grace, Duration::ZERO, Duration::from_secs(10), Duration::from_secs(600));
    let guard = guard(&mut checker, file.guard.unwrap_or_default());
    let mut xds_section = file.xds.unwrap_or_default();
    let tls = xds_section.tls.take().map(|tls| self::tls(&mut checker, tls));
    let xds = xds(&mut checker, xds_section);
    let namespaces =
        namespaces(&mut checker, file.namespaces.unwrap_or_default(), Clusters::new(aws.region.clone()));
    let policies = file.policies.unwrap_or_default();
    let base = checker.document().folder();
    unique(&mut checker, "the policy", &policies, |file| plain(&base.join(file)).display().to_string());
    let policies = policies.into_iter().map(|file| base.join(file.text)).collect();
    let has_clusters = namespaces.values().any(|namespace| !namespace.clusters.is_empty());
    let ecs_queue = queue(&mut checker, ecs, has_clusters);
    checker.finish(Config {
        listen,
        aws,
        ecs_interval,
        ecs_queue,
        cloud_map_interval,
        cloud_map_revision_interval,
        cloud_map_health_interval,
        max_backoff,
        shutdown_grace,
        guard,
        xds,
        tls,
        namespaces,
        policies,
        policy_text: None,
    })
}

fn guard(checker: &mut Checker<'_>, written: written::Guard) -> Guard {
    let usual = Guard::default();
    let mut number = |written: Option<Written>, least, most| {
        written.and_then(|written| checker.number(&written, least, most))
    };
    Guard {
        max_withdrawal_percent: number(written.max_withdrawal_percent, 0, 100)
            .unwrap_or(usual.max_withdrawal_percent),
        max_namespace_withdrawal_percent: number(written.max_namespace_withdrawal_percent, 0, 100)
            .unwrap_or(usual.max_namespace_withdrawal_percent),
        min_endpoints: number(written.min_endpoints, 1, 1_000_000)
            .and_then(NonZeroU32::new)
            .unwrap_or(usual.min_endpoints),
        confirmations: number(written.confirmations, 2, 10).unwrap_or(usual.confirmations),
    }
}

fn xds(checker: &mut Checker<'_>, written: written::Xds) -> Xds {
    let usual = Xds::default();
    let mut number = |written: Option<Written>, usual: NonZeroU32| {
        let number = written.and_then(|written| checker.number(&written, 1, 1_000_000));
        number.and_then(NonZeroU32::new).unwrap_or(usual)
    };
    let max_streams = number(written.max_streams, usual.max_streams);
    let max_streams_per_namespace =
        number(written.max_streams_per_namespace, usual.max_streams_per_namespace);
    let new_streams_per_second = number(written.new_streams_per_second, usual.new_streams_per_second);
    let max_names = number(written.max_names, usual.max_names);
    let mut time = |written: Option<Written>, least, usual| {
        written.and_then(|written| checker.duration(&written, least, 24 * HOUR)).unwrap_or(usual)
    };
    let (second, soon) = (Duration::from_secs(1), Duration::from_millis(100));
    Xds {
        max_stream_age: time(written.max_stream_age, second, usual.max_stream_age),
        max_streams,
        max_streams_per_namespace,
        new_streams_per_second,
        max_names,
        cluster_grace: time(written.cluster_grace, Duration::ZERO, usual.cluster_grace),
        keepalive_interval: time(written.keepalive_interval, soon, usual.keepalive_interval),
        keepalive_timeout: time(written.keepalive_timeout, soon, usual.keepalive_timeout),
        write_timeout: time(written.write_timeout, soon, usual.write_timeout),
    }
}

fn tls(checker: &mut Checker<'_>, written: written::Tls) -> Tls {
    let base = checker.document().folder();
    let mut file = |written: Written| {
        if written.text.trim().is_empty() {
            checker.bad(&written, "the file has no name", "write where it is, like `tls.crt`");
        }
        base.join(written.text)
    };
    Tls { certificate_file: file(written.certificate_file), private_key_file: file(written.private_key_file) }
}

fn listen(checker: &mut Checker<'_>, written: written::Listen) -> Listen {
    let usual = Listen::default();
    let mut address = |written: &Option<Written>, usual: SocketAddr| {
        let Some(written) = written else { return usual };
        checker.parsed(written, "an address with a port", &usual.to_string()).unwrap_or(usual)
    };
    let listen = Listen {
        xds: address(&written.xds, usual.xds),
        metrics: address(&written.metrics, usual.metrics),
        admin: address(&written.admin, usual.admin),
    };
    if let Some(admin) = written.admin.as_ref().filter(|_| !listen.admin.ip().is_loopback()) {
        let message = format!("admin must listen on loopback, not on {}", listen.admin.ip());
        let way_out = format!("write `127.0.0.1:{}`: admin has no authentication yet", listen.admin.port());
        checker.bad(admin, message, way_out);
    }
    let taken = [
        ("xds", listen.xds, &written.xds),
        ("metrics", listen.metrics, &written.metrics),
        ("admin", listen.admin, &written.admin),
    ];
    for (index, (name, one, at)) in taken.iter().enumerate() {
        for (other_name, other, other_at) in &taken[..index] {
            if !collide(*one, *other) {
                continue;
            }
            let message = format!("{name} and {other_name} can't share {one}");
            match at.as_ref().or(other_at.as_ref()) {
                Some(at) => checker.bad(at, message, "give each its own port"),
                None => checker.add(checker.document().whole(BAD_VALUE, message)),
            }
        }
    }
    listen
}

/// Whether the second of two could not be bound.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let same_host = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && same_host
}

fn aws(checker: &mut Checker<'_>, written: written::Aws) -> Aws {
    if let Some(region) = &written.region {
        let sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if region.text.is_empty() || !region.text.chars().all(sound) {
            checker.bad(region, format!("`{}` is not a Region", region.text), "write it like `eu-west-1`");
        }
    }
    if let Some(url) = written.endpoint_url.as_ref().filter(|url| after_scheme(&url.text).is_none()) {
        let message = format!("`{}` is not the URL of an endpoint", url.text);
        checker.bad(url, message, "write it like `http://127.0.0.1:4566`");
    }
    let call_budget = written.call_budget_percent.and_then(|written| checker.number(&written, 1, 100_000));
    Aws {
        region: written.region.map(|region| region.text),
        endpoint_url: written.endpoint_url.map(|url| url.text),
        call_budget: call_budget.unwrap_or(Aws::default().call_budget),
    }
}

/// What follows the scheme of a URL, if it is one: at least a host.
fn after_scheme(url: &str) -> Option<&str> {
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let sound = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '<' | '>' | '\\');
    (!host.is_empty() && !host.starts_with(['/', ':', '?', '#']) && host.chars().all(sound)).then_some(host)
}

fn queue(checker: &mut Checker<'_>, written: written::Ecs, has_clusters: bool) -> Option<Queue> {
    let receivers = written.receivers.and_then(|written| checker.number(&written, 1, 64));
    let receivers = receivers.and_then(NonZeroU32::new).unwrap_or(RECEIVERS);
    let url = written.queue_url?;
    let name = after_scheme(&url.text).and_then(|rest| rest.rsplit_once('/')).map(|(_, name)| name);
    if name.is_none_or(str::is_empty) {
        let message = format!("`{}` is not the URL of a queue", url.text);
        checker.bad(
            &url,
            message,
            "write it like `https://sqs.eu-west-1.amazonaws.com/123456789012/legation`",
        );
    }
    if !has_clusters {
        let message = "a queue of events, and no cluster that they could be about";
        checker.bad(&url, message, "give a namespace `clusters`, or take `queueUrl` away");
    }
    Some(Queue { url: url.text, receivers })
}

fn namespaces(
    checker: &mut Checker<'_>,
    written: Entries<Option<written::Namespace>>,
    mut clusters: Clusters,
) -> BTreeMap<Namespace, NamespaceConfig> {
    if written.0.is_empty() {
        let problem = checker.document().whole(BAD_VALUE, "there is no namespace");
        checker.add(problem.suggesting("name one under `namespaces`, with its `clusters` or `files`"));
    }
    let entries = written.0.into_iter().map(|(name, namespace)| {
        checker.name(&name, NAMESPACE);
        let config = self::namespace(checker, &name, namespace.unwrap_or_default(), &mut clusters);
        (Namespace::from(name.text), config)
    });
    entries.collect()
}

fn namespace(
    checker: &mut Checker<'_>,
    name: &Written,
    written: written::Namespace,
    known: &mut Clusters,
) -> NamespaceConfig {
    let clusters = written.clusters.unwrap_or_default();
    let cloud_map = written.cloud_map.unwrap_or_default();
    let files = written.files.unwrap_or_default();
    if clusters.is_empty() && cloud_map.is_empty() && files.is_empty() {
        let message = format!("the namespace `{}` has no source", name.text);
        checker.bad(name, message, "give it `clusters`, `cloudMap` or `files`");
    }
    known.check(checker, &clusters, written.assume_role.as_ref());
    if let Some(role) = written.assume_role.as_ref().filter(|_| clusters.is_empty() && cloud_map.is_empty()) {
        let message = "a role, and nothing of AWS that it could read";
        checker.bad(role, message, "give the namespace `clusters` or `cloudMap`, or take `assumeRole` away");
    }
    for one in cloud_map.iter().filter(|one| one.text.starts_with("arn:") && !is_namespace_arn(&one.text)) {
        let message = format!("`{}` is neither the name nor the ARN of a Cloud Map namespace", one.text);
        let way_out = "write it like `prod.local` or `arn:aws:servicediscovery:eu-west-1:123456789012:namespace/ns-0123456789abcdef`";
        checker.bad(one, message, way_out);
    }
    let base = checker.document().folder();
    unique(checker, "the Cloud Map namespace", &cloud_map, str::to_owned);
    unique(checker, "the file", &files, |file| plain(&base.join(file)).display().to_string());
    let discover = written.discover.and_then(|word| checker.word(&word, &DISCOVER)).unwrap_or_default();
    NamespaceConfig {
        clusters: clusters.into_iter().map(|cluster| cluster.text).collect(),
        cloud_map: cloud_map.into_iter().map(|namespace| namespace.text).collect(),
        files: files.into_iter().map(|file| base.join(file.text)).collect(),
        discover,
        assume_role: written.assume_role.map(|role| role.text),
    }
}

/// Whether an ARN can be that of a Cloud Map namespace.
fn is_namespace_arn(arn: &str) -> bool {
    let parts: Vec<_> = arn.split(':').collect();
    let [_, _, "servicediscovery", region, account, resource] = parts.as_slice() else { return false };
    let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    !region.is_empty() && is_account && resource.strip_prefix("namespace/").is_some_and(|id| !id.is_empty())
}

/// Tells items without a name, and those that are the same by `key`.
fn unique(checker: &mut Checker<'_>, what: &str, list: &[Written], key: impl Fn(&str) -> String) {
    let mut seen = BTreeMap::new();
    for item in list {
        if item.text.trim().is_empty() {
            checker.bad(item, format!("{what} has no name"), "remove it");
        }
        checker.unique(&mut seen, key(&item.text), item, (BAD_VALUE, what));
    }
}

/// The path without `.`; a `..` stays, since it may follow a link.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}
