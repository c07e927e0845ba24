//! What waits and what does not: removals for a confirmed slice and for the answers of those that referred to
//! them, chunks for nothing; and what a stream's terms and a client's class change.
//!
//! It is not about state-of-the-world as such.
//!
//! Invariant: each test is named after the item or section of `xds.md` that it would catch the breach of.

use super::super::waiting::WARMING;
use super::sotw::World;
use super::*;

/// A stream to a server that may lag behind what the client has seen.
fn unconfirmed(resources: impl IntoIterator<Item = Resource>) -> Stream {
    let snapshot = Snapshot::first("prod".into(), tables(resources), Vec::new(), SystemTime::UNIX_EPOCH);
    let (snapshot, now) = (Arc::new(snapshot), Instant::now());
    let slice = Slice::new(Arc::clone(&snapshot), ProxyClass::Sidecar, "node", &[]);
    Stream { session: Session::new(DELTA, slice, now), snapshot, now }
}

#[test]
fn section_2_8_what_the_client_presents_is_removed_once_the_slice_is_confirmed() {
    for kind in [Cluster, Listener] {
        let mut stream = unconfirmed([resource(kind, "a", "1")]);
        let opened = stream.now;
        let held = [("a", version(kind, "a", "1")), ("b", version(kind, "b", "1"))];
        stream.ask_holding(kind, &[], &[], &held);
        if kind == Listener {
            stream.expect_silence(); // it might have been cut off while a cluster warmed
            stream.now += WARMING;
        }
        stream.expect(kind, &[], &[]);
        stream.expect_silence();
        assert!(stream.session.awaits_confirmation() && !stream.session.is_settled());
        stream.session.on_confirmed(opened); // not after the stream was opened
        stream.expect_silence();
        stream.session.on_confirmed(opened + Duration::from_millis(1));
        stream.expect(kind, &[], &["b"]);
        assert!(stream.session.is_settled());
    }
}

#[test]
fn section_2_8_what_turns_up_before_that_is_kept() {
    let both = [resource(Cluster, "a", "1"), resource(Cluster, "b", "1")];
    let mut stream = unconfirmed([resource(Cluster, "a", "1")]);
    stream.ask_holding(Cluster, &[], &[], &[("b", version(Cluster, "b", "1"))]);
    stream.expect(Cluster, &["a"], &[]);
    stream.publish(both);
    stream.session.on_confirmed(stream.now + Duration::from_millis(1));
    stream.expect_silence();
    assert!(stream.session.is_settled());
}

#[test]
fn section_2_8_what_was_sent_on_this_stream_waits_for_no_confirmation() {
    let mut stream = unconfirmed([resource(Cluster, "a", "1")]);
    stream.ask_holding(Cluster, &[], &[], &[("gone", version(Cluster, "gone", "1"))]);
    stream.expect(Cluster, &["a"], &[]);
    stream.publish([]);
    stream.expect(Cluster, &[], &["a"]);
    stream.expect_silence();
}

#[test]
fn section_2_8_a_cluster_stays_while_a_listener_that_leads_to_it_may_be_served_by_other_replicas() {
    let mut stream = unconfirmed(service("a", "1"));
    stream.ask(Cluster, &[], &[]);
    stream.expect(Cluster, &["a"], &[]);
    stream.ask_holding(Listener, &[], &[], &[("a", version(Listener, "a", "old"))]);
    stream.expect(Listener, &["a"], &[]);
    stream.publish([]);
    stream.now += WARMING * 2;
    stream.expect_silence();
    assert_eq!(stream.session.next_deadline(), None);
    stream.session.on_confirmed(stream.now);
    stream.expect(Listener, &[], &["a"]);
    stream.expect(Cluster, &[], &["a"]);
}

/// A client that holds service `a` and is told that `b` takes its place; its listener is not answered yet.
fn replaced() -> (Stream, Response) {
    let mut stream = Stream::open(service("a", "1"));
    stream.ask(Cluster, &[], &[]);
    stream.ask(Endpoint, &["a", "b"], &[]);
    stream.ask(Listener, &[], &[]);
    stream.ask(Route, &["a", "b"], &[]);
    while stream.next_acked().is_some() {}
    stream.publish(service("b", "1"));
    stream.expect(Cluster, &["b"], &[]);
    stream.expect(Endpoint, &["b"], &[]);
    let listeners = stream.next().unwrap();
    assert_eq!((listeners.kind, listeners.removed.as_slice()), (Listener, &["a".into()][..]));
    stream.expect(Route, &["b"], &[]);
    assert!(stream.next().is_none());
    (stream, listeners)
}

#[test]
fn item_60_a_removal_waits_for_the_answers_of_those_that_referred_to_it() {
    let (mut stream, listeners) = replaced();
    stream.answer(&listeners, None);
    stream.expect(Cluster, &[], &["a"]);
    stream.expect(Endpoint, &[], &["a"]);
    stream.expect_silence();
}

#[test]
fn item_60_and_no_longer_than_envoy_waits_itself() {
    let (mut stream, _) = replaced();
    let deadline = stream.session.next_deadline().unwrap();
    assert_eq!(deadline, stream.now + Duration::from_secs(10));
    stream.now = deadline - Duration::from_millis(1);
    stream.expect_silence();
    stream.now = deadline;
    stream.expect(Cluster, &[], &["a"]);
    stream.expect(Endpoint, &[], &["a"]);
    assert_eq!(stream.session.next_deadline(), None);
}

#[test]
fn item_52_chunks_wait_for_no_answer() {
    let content = "x".repeat(20_000);
    let mut stream = Stream::open((0..10).map(|n| resource(Cluster, &format!("c{n}"), &content)));
    stream.ask(Cluster, &[], &[]);
    let sent: Vec<_> = std::iter::from_fn(|| stream.next()).collect();
    assert_eq!(sent.iter().map(|it| it.resources.len()).collect::<Vec<_>>(), [2; 5]);
    sent.iter().for_each(|response| drop(stream.answer(response, None)));
    assert!(stream.session.is_settled());
}

#[test]
fn item_55_who_is_named_in_the_error_is_tried_alone() {
    let names = ["a", "b", "c", "d"];
    let content = |name: &str| if name == "c" { "bad" } else { "1" };
    let mut stream = Stream::open(names.map(|name| resource(Endpoint, name, content(name))));
    stream.ask(Endpoint, &names, &[]);
    let refused = stream.next().unwrap();
    stream.answer(&refused, Some("Proto constraint validation failed (c: bad)"));
    stream.expect(Endpoint, &["a"], &[]);
    stream.expect(Endpoint, &["b", "d"], &[]);
    let alone = stream.next().unwrap();
    assert_eq!(alone.resources.len(), 1);
    let heard = stream.answer(&alone, Some("again"));
    let guilty = vec![("c".into(), version(Endpoint, "c", "bad"))];
    assert_eq!(heard, Heard::Nack(Endpoint, 1, Refusal { reason: "again".into(), members: 1, guilty }));
    stream.expect_silence();
}

#[test]
fn item_55_a_wrong_hint_condemns_nobody() {
    let mut stream = Stream::open([resource(Endpoint, "a", "1"), resource(Endpoint, "b", "bad")]);
    stream.ask(Endpoint, &["a", "b"], &[]);
    let refused = stream.next().unwrap();
    stream.answer(&refused, Some("a is bad"));
    let alone = stream.next().unwrap();
    assert_eq!(&*alone.resources[0].name, "b");
    stream.answer(&alone, Some("a is bad"));
    stream.expect(Endpoint, &["a"], &[]);
    stream.expect_silence();
}

#[test]
fn section_2_6_grpc_applies_all_but_those_it_names() {
    let contents = |a, b| [resource(Cluster, "a", a), resource(Cluster, "b", b)];
    let mut world = World::open(ProxyClass::Grpc, contents("1", "bad"));
    world.ask(Cluster, &["a", "b"]);
    let refused = world.next();
    let heard = world.answer(&refused, Some("xDS response validation errors: [resource b: bad]"));
    let Heard::Nack(Cluster, 1, Refusal { members: 2, guilty, .. }) = heard else { panic!("{heard:?}") };
    assert_eq!(guilty, [("b".into(), version(Cluster, "b", "bad"))]);
    world.expect_silence();
    world.publish(contents("2", "bad"));
    world.expect(Cluster, &["a=2"]);
    world.publish(contents("2", "2"));
    world.expect(Cluster, &["a=2", "b=2"]);
}

#[test]
fn item_16_grpc_that_names_nothing_gets_nothing_by_delta_either() {
    for kind in [Cluster, Listener] {
        let snapshot = Snapshot::first(
            "prod".into(),
            tables([resource(kind, "a", "1")]),
            Vec::new(),
            SystemTime::UNIX_EPOCH,
        );
        let mut stream = Stream::with(DELTA, ProxyClass::Grpc, Arc::new(snapshot));
        stream.ask(kind, &[], &[]);
        stream.expect_silence();
        assert!(!stream.session.asked(kind).unwrap().wildcard);
        stream.ask(kind, &["a"], &[]);
        stream.expect(kind, &["a"], &[]);
    }
}

#[test]
fn item_5_a_stream_for_one_type_implies_it_and_takes_no_other() {
    let snapshot =
        Snapshot::first("prod".into(), tables(service("a", "1")), Vec::new(), SystemTime::UNIX_EPOCH);
    let terms = Terms { only: Some(Cluster), ..DELTA };
    let mut stream = Stream::with(terms, ProxyClass::Sidecar, Arc::new(snapshot));
    let names = || Names::Increment(Vec::new(), Vec::new());
    let other = Request { type_url: Endpoint.type_url().to_owned(), names: names(), ..Request::default() };
    assert!(matches!(stream.session.on_request(other), Err(Violation::OtherType { .. })));
    stream.session.on_request(Request { names: names(), ..Request::default() }).unwrap();
    stream.expect(Cluster, &["a"], &[]);
    stream.expect_silence();
}

#[test]
fn item_44_a_stream_for_endpoints_alone_believes_the_versions_it_is_told() {
    let snapshot =
        Snapshot::first("prod".into(), tables(service("a", "1")), Vec::new(), SystemTime::UNIX_EPOCH);
    let terms = Terms { only: Some(Endpoint), ..DELTA };
    let mut stream = Stream::with(terms, ProxyClass::Sidecar, Arc::new(snapshot));
    stream.ask_holding(Endpoint, &["a"], &[], &[("a", version(Endpoint, "a", "1"))]);
    stream.expect_silence();
}

#[test]
fn section_2_7_more_names_than_allowed_end_the_stream() {
    let snapshot = Snapshot::first("prod".into(), tables([]), Vec::new(), SystemTime::UNIX_EPOCH);
    let snapshot = Arc::new(snapshot);
    let type_url = || Endpoint.type_url().to_owned();
    let limit = |names: Names| Request { type_url: type_url(), names, ..Request::default() };
    let terms = Terms { max_names: 2, ..DELTA };
    let mut delta = Stream::with(terms, ProxyClass::Sidecar, Arc::clone(&snapshot)).session;
    let mut add = |names: &[&str]| delta.on_request(limit(Names::Increment(owned(names), Vec::new())));
    let too_many = Err(Violation::TooManyNames { kind: "EDS", limit: 2 });
    assert_eq!(add(&["a", "b"]), Ok(Heard::Names(Endpoint)));
    assert_eq!(add(&[]), Ok(Heard::Names(Endpoint)), "an ACK adds none");
    assert_eq!(add(&["c"]), too_many);

    let terms = Terms { protocol: Protocol::StateOfTheWorld, ..terms };
    let mut sotw = Stream::with(terms, ProxyClass::Sidecar, snapshot).session;
    let mut set = |names: &[&str]| sotw.on_request(limit(Names::All(owned(names))));
    assert_eq!(set(&["a", "b"]), Ok(Heard::Names(Endpoint)));
    assert_eq!(set(&["c", "d"]), Ok(Heard::Names(Endpoint)), "others in their place");
    assert_eq!(set(&["a", "b", "c"]), too_many);
}

#[test]
fn item_46_a_secret_is_answered_as_removed_instead_of_being_waited_for() {
    let mut stream = Stream::open([]);
    stream.ask(Secret, &["tls"], &[]);
    stream.expect(Secret, &[], &["tls"]);
    stream.publish(service("a", "1"));
    stream.expect_silence();
    stream.ask(Secret, &["tls"], &[]);
    stream.expect(Secret, &[], &["tls"]);
}
