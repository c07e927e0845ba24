//! Tags and labels, key by key.

use super::*;

const PAYMENTS: &str = "ecs prod-a/payments";

fn read_all(tags: &[(&str, &str)]) -> TagLayer {
    read(PAYMENTS, &Place::Tag, &tags.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect())
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
        ("imports", "shared tools"),
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
    assert_eq!((layer.role, layer.readiness), (Some(Role::Client), Some((Place::Tag, Readiness::Running))));
    assert_eq!(layer.imports, Some((Place::Tag, vec!["shared".to_owned(), "tools".to_owned()])));
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
        ("imports", "a b c d e f g h i", "expected 1 to 8 namespaces"),
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
