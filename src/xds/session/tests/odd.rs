//! Clients that answer late, never, or with a refusal of several resources at once.

use super::*;

#[test]
fn item_57_a_deadline_is_never_in_the_past() {
    let mut stream = Stream::open(service("a", "1"));
    stream.ask(Cluster, &[], &[]);
    stream.ask(Listener, &[], &[]);
    stream.expect(Cluster, &["a"], &[]);
    assert_eq!(stream.next().unwrap().kind, Listener); // and its ACK stays out
    stream.now += Duration::from_secs(2);
    let [_, assignment, listener, route] = service("a", "1");
    stream.publish([resource(Cluster, "a", "2"), assignment, listener, route]);
    assert_eq!(stream.next().unwrap().kind, Cluster); // its ACK too
    let [_, assignment, _, route] = service("a", "1");
    stream.publish([resource(Cluster, "a", "3"), assignment, resource(Listener, "a", "2"), route]);
    stream.expect_silence();
    assert!(stream.session.next_deadline().unwrap() > stream.now);
}

#[test]
fn a_client_that_never_answers_costs_no_more_and_more() {
    let mut stream = Stream::open([]);
    stream.ask(Endpoint, &["a"], &[]);
    let mut sent = 0;
    for content in 0..1000 {
        stream.publish([resource(Endpoint, "a", &content.to_string())]);
        stream.now += Duration::from_secs(2);
        sent += usize::from(stream.next().is_some());
    }
    assert_eq!(sent, 1000);
    assert!(format!("{:?}", stream.session).matches("nonce: ").count() < 100);
}

#[test]
fn item_53_a_late_nack_of_something_replaced_or_gone_means_nothing() {
    let mut stream = Stream::open([resource(Cluster, "a", "1"), resource(Cluster, "b", "1")]);
    stream.ask(Cluster, &[], &[]);
    let late = stream.next().unwrap();
    stream.publish([resource(Cluster, "b", "2")]);
    stream.now += Duration::from_secs(2);
    let newer = stream.next().unwrap();
    assert_eq!(newer.resources.len(), 1);
    stream.now += Duration::from_secs(2);
    assert_eq!(stream.next().unwrap().removed.len(), 1);
    stream.answer(&late, Some("no"));
    assert!(stream.session.asked(Cluster).unwrap().rejected.is_empty());
}

#[test]
fn item_61_listeners_go_before_others_take_their_address() {
    let content = "x".repeat(1000);
    let listeners = |prefix: &str| {
        let names = (0..600).map(|n| format!("{prefix}{n:03}")).collect::<Vec<_>>();
        let pairs =
            names.iter().flat_map(|name| [resource(Listener, name, &content), resource(Route, name, "")]);
        pairs.collect::<Vec<_>>()
    };
    let mut stream = Stream::open(listeners("z"));
    stream.ask(Listener, &[], &[]);
    while stream.next_acked().is_some() {}
    stream.publish(listeners("a"));
    assert_eq!(stream.next().unwrap().removed.len(), 600);
}

#[test]
fn item_15_a_star_means_nothing_where_there_is_no_wildcard_and_item_18_it_is_answered_where_there_is() {
    let mut stream = Stream::open([resource(Endpoint, "a", "1")]);
    stream.ask(Endpoint, &["*"], &[]);
    stream.expect_silence();
    let mut stream = Stream::open([resource(Cluster, "a", "1")]);
    stream.ask(Cluster, &["*"], &[]);
    stream.expect(Cluster, &["a"], &[]);
    stream.ask(Cluster, &["*"], &[]);
    stream.expect(Cluster, &["a"], &[]);
}

#[test]
fn item_55_of_several_refused_resources_only_the_bad_one_is_kept_back() {
    let names: Vec<_> = (0..50).map(|n| format!("a{n:02}")).collect();
    let content = |name: &str| if name == "a17" { "bad" } else { "good" };
    let mut stream = Stream::open(names.iter().map(|name| resource(Endpoint, name, content(name))));
    let asked: Vec<_> = names.iter().map(String::as_str).collect();
    stream.ask(Endpoint, &asked, &[]);
    let (mut applied, mut refusals) = (std::collections::BTreeSet::new(), 0);
    while let Some(response) = stream.next() {
        let bad = response.resources.iter().any(|resource| &*resource.name == "a17");
        stream.answer(&response, bad.then_some("a17 is bad"));
        if bad {
            refusals += 1;
        } else {
            applied.extend(response.resources.iter().map(|resource| resource.name.to_string()));
        }
    }
    assert_eq!(applied.len(), 49, "every innocent is in force");
    assert!(refusals <= 7, "{refusals} refusals: more than 1 + log2(50)");
    let rejected: Vec<_> = stream.session.asked(Endpoint).unwrap().rejected.keys().cloned().collect();
    assert_eq!(rejected, ["a17".into()]);
}
