//! What leads to clusters and what waits for them: how long, for whom, and for whom not.
//!
//! It is not about what is removed, but for how long a removal waits.
//!
//! Invariant: each test is named after the item or section of `xds.md` that it would catch the breach of.

use super::super::waiting::{BEGINNING, WARMING};
use super::*;
use crate::xds::subscription::PATIENCE;

#[test]
fn item_59_a_route_waits_until_its_clusters_are_answered_for() {
    let mut stream = Stream::open(service("a", "1"));
    stream.ask(Cluster, &[], &[]);
    let unanswered = stream.next().unwrap();
    stream.ask(Route, &["a", "b"], &[]);
    stream.publish(service("a", "1").into_iter().chain(service("b", "1")));
    stream.expect_silence(); // `b` is not sent yet, and `a` may warm
    stream.answer(&unanswered, None);
    let unanswered = stream.next().unwrap();
    assert_eq!((unanswered.kind, &*unanswered.resources[0].name), (Cluster, "b"));
    stream.expect(Route, &["a"], &[]);
    stream.expect_silence();
    stream.answer(&unanswered, None);
    stream.expect(Route, &["b"], &[]);
}

#[test]
fn item_59_a_route_waits_for_its_own_clusters_and_for_no_others() {
    let a = |version| resource(Route, "a", version).depending_on([(Cluster, "a".into())]);
    let b = resource(Route, "b", "1").depending_on([(Cluster, "b".into())]);
    let listener = |name: &str| resource(Listener, name, "1").depending_on([(Route, name.into())]);
    let clusters = |names: &[&str]| names.iter().map(|name| resource(Cluster, name, "1")).collect::<Vec<_>>();
    let mut stream = Stream::open(clusters(&["a"]).into_iter().chain([a("1"), listener("a")]));
    stream.ask(Cluster, &[], &[]);
    stream.ask(Listener, &[], &[]);
    stream.ask(Route, &["a", "b"], &[]);
    while stream.next_acked().is_some() {}
    stream.publish(clusters(&["a", "b"]).into_iter().chain([a("2"), b, listener("a"), listener("b")]));
    let unanswered = stream.next().unwrap();
    assert_eq!((unanswered.kind, &*unanswered.resources[0].name), (Cluster, "b"));
    stream.expect(Route, &["a"], &[]);
    stream.expect_silence();
    stream.answer(&unanswered, None);
    stream.expect(Listener, &["b"], &[]);
    stream.expect(Route, &["b"], &[]);
}

#[test]
fn item_59_a_listener_does_not_make_room_for_one_that_waits() {
    let led = |name: &str, to: &str| resource(Listener, name, "1").depending_on([(Cluster, to.into())]);
    let mut stream = Stream::open([resource(Cluster, "a", "1"), led("old", "a")]);
    stream.ask(Cluster, &[], &[]);
    stream.ask(Listener, &[], &[]);
    while stream.next_acked().is_some() {}
    let clusters = ["a", "b"].map(|name| resource(Cluster, name, "1"));
    stream.publish(clusters.into_iter().chain([led("new", "b"), led("other", "a")]));
    let unanswered = stream.next().unwrap();
    stream.expect_silence();
    stream.answer(&unanswered, None);
    stream.expect(Listener, &["new", "other"], &["old"]);
}

#[test]
fn item_57_a_route_does_not_wait_for_ever_however_many_clusters_come() {
    let all = |count: usize| {
        let names = || (0..count).map(|number| Name::from(format!("c{number}")));
        let routes = resource(Route, "r", &count.to_string());
        let routes = routes.depending_on(names().map(|name| (Cluster, name)));
        names().map(|name| resource(Cluster, &name, "1")).chain([routes]).collect::<Vec<_>>()
    };
    let mut stream = Stream::open(all(1));
    stream.ask(Cluster, &[], &[]);
    stream.ask(Route, &["r"], &[]);
    let mut unanswered = stream.next().unwrap();
    for count in 2..14 {
        stream.now += WARMING / 10;
        stream.publish(all(count));
        stream.answer(&unanswered, None); // and another cluster is always on its way
        unanswered = stream.next().unwrap();
        assert_eq!(unanswered.kind, Cluster);
        if let Some(response) = stream.next() {
            assert_eq!((response.kind, count), (Route, 12), "it goes when the clusters had their time");
            return;
        }
    }
    panic!("the route never goes");
}

#[test]
fn item_44_routes_wait_for_an_envoy_that_was_cut_off_while_a_cluster_warmed() {
    for comes_back in [true, false] {
        let mut stream = Stream::open(service("a", "1"));
        stream.ask(Endpoint, &["a"], &[]);
        stream.ask(Route, &["a"], &[]);
        stream.expect(Endpoint, &["a"], &[]);
        stream.expect_silence(); // it may know no cluster that they lead to
        if comes_back {
            stream.ask(Cluster, &[], &[]);
            stream.expect(Cluster, &["a"], &[]);
            stream.expect(Endpoint, &["a"], &[]);
        } else {
            stream.now += BEGINNING;
        }
        stream.expect(Route, &["a"], &[]);
    }
}

#[test]
fn item_44_and_longer_while_what_it_waits_for_is_on_its_way() {
    let mut stream = Stream::open(service("a", "1"));
    stream.ask(Endpoint, &["a"], &[]);
    stream.ask(Route, &["a"], &[]);
    let unanswered = stream.next().unwrap();
    stream.now += WARMING - Duration::from_millis(1);
    stream.expect_silence(); // the network is held up, and would deliver both at once
    stream.answer(&unanswered, None);
    stream.expect(Route, &["a"], &[]);
}

#[test]
fn item_44_one_that_began_without_clusters_asks_for_listeners_first() {
    for resumed in [true, false] {
        let mut stream = Stream::open(service("a", "1"));
        let old = ("a", version(Listener, "a", "old"));
        let held = if resumed { &[old][..] } else { &[] };
        stream.ask_holding(Listener, &[], &[], held);
        if resumed {
            stream.expect_silence();
            stream.now += BEGINNING;
        }
        stream.expect(Listener, &["a"], &[]);
    }
}

#[test]
fn item_44_who_never_asks_for_clusters_has_none_of_ours() {
    let mut stream = Stream::open(service("a", "1"));
    stream.ask(Endpoint, &["a"], &[]);
    stream.expect(Endpoint, &["a"], &[]);
    stream.now += WARMING;
    stream.ask(Route, &["a"], &[]);
    stream.expect(Route, &["a"], &[]);
}

/// A stream whose clusters are accepted, and whose load assignments are on their way.
fn with_load_assignments_on_their_way() -> (Stream, Response) {
    let both = || service("a", "1").into_iter().chain(service("b", "1"));
    let mut stream = Stream::open(both());
    stream.ask(Cluster, &[], &[]);
    stream.expect(Cluster, &["a", "b"], &[]);
    stream.ask(Endpoint, &["a", "b"], &[]);
    stream.ask(Route, &["a", "b"], &[]);
    let on_its_way = stream.next().unwrap();
    assert_eq!(on_its_way.kind, Endpoint);
    (stream, on_its_way)
}

#[test]
fn item_55_a_route_waits_until_refused_load_assignments_are_sent_again() {
    let (mut stream, refused) = with_load_assignments_on_their_way();
    // Envoy has accepted the clusters, since with this refusal it stops waiting for what they lack.
    stream.expect_silence();
    stream.answer(&refused, Some("no"));
    let one = stream.next().unwrap();
    assert_eq!((one.kind, &*one.resources[0].name), (Endpoint, "a"));
    stream.expect_silence();
    stream.answer(&one, None);
    let other = stream.next().unwrap();
    assert_eq!((other.kind, &*other.resources[0].name), (Endpoint, "b"));
    stream.expect_silence();
    stream.answer(&other, Some("no"));
    stream.expect(Route, &["a", "b"], &[]);
}

#[test]
fn item_57_a_route_waits_for_load_assignments_no_longer_than_a_second() {
    let (mut stream, _unanswered) = with_load_assignments_on_their_way();
    stream.now += PATIENCE;
    stream.expect(Route, &["a", "b"], &[]);
}

#[test]
fn item_57_a_cluster_that_warms_in_vain_holds_nothing_up_for_long() {
    let (mut stream, refused) = with_load_assignments_on_their_way();
    stream.answer(&refused, Some("no"));
    stream.expect(Endpoint, &["a"], &[]);
    let bad = stream.next().unwrap();
    stream.answer(&bad, Some("no"));
    stream.expect(Route, &["a", "b"], &[]);
    let changed = resource(Route, "b", "2").depending_on([(Cluster, "c".into())]);
    let [cluster, assignment, listener, _] = service("b", "1");
    let new = resource(Cluster, "c", "1");
    stream.publish(service("a", "1").into_iter().chain([cluster, assignment, listener, changed, new]));
    assert_eq!(stream.next().unwrap().kind, Cluster); // and is not answered: its load assignment is refused
    stream.expect_silence();
    stream.now += PATIENCE;
    stream.expect(Route, &["b"], &[]);
}

#[test]
fn item_125_grpc_asks_for_clusters_after_what_leads_to_them() {
    let resources = || service("a", "1").into_iter().chain(service("b", "1"));
    let snapshot = Snapshot::first("prod".into(), tables(resources()), Vec::new(), SystemTime::UNIX_EPOCH);
    let mut stream = Stream::with(DELTA, ProxyClass::Grpc, Arc::new(snapshot));
    stream.ask(Route, &["a"], &[]);
    stream.expect(Route, &["a"], &[]);
    stream.ask(Cluster, &["a"], &[]);
    assert_eq!(stream.next().unwrap().kind, Cluster); // not answered yet
    stream.ask(Route, &["b"], &[]);
    stream.expect(Route, &["b"], &[]);
}

#[test]
fn item_59_what_brings_no_cluster_holds_nothing_up() {
    let mut stream = Stream::open([]);
    stream.ask(Cluster, &[], &[]);
    let empty = stream.next().unwrap();
    assert!(empty.resources.is_empty());
    stream.ask(Listener, &[], &[]);
    assert_eq!(stream.next().unwrap().kind, Listener);
}

#[test]
fn item_60_a_removal_does_not_wait_for_ever_however_often_routes_change() {
    let mut stream = Stream::open(service("a", "1"));
    stream.ask(Cluster, &[], &[]);
    stream.ask(Endpoint, &["a"], &[]);
    stream.ask(Listener, &[], &[]);
    while stream.next_acked().is_some() {}
    stream.ask(Route, &["other"], &[]);
    for version in 0..20 {
        stream.publish([resource(Route, "other", &version.to_string())]);
        stream.now += WARMING / 5;
        while let Some(response) = stream.next() {
            match response.kind {
                Cluster => {
                    assert!((4..7).contains(&version), "it goes at {version}");
                    return;
                }
                Route => {} // never answered
                _ => drop(stream.answer(&response, None)),
            }
        }
    }
    panic!("the cluster never goes");
}

#[test]
fn item_60_a_removal_waits_for_the_answer_of_what_waited_itself() {
    let led = |to: &str| resource(Route, "r", to).depending_on([(Cluster, to.into())]);
    let of = |name: &str| [resource(Cluster, name, "1"), resource(Endpoint, name, "1"), led(name)];
    let mut stream = Stream::open(of("x"));
    stream.ask(Cluster, &[], &[]);
    stream.ask(Route, &["r"], &[]);
    while stream.next_acked().is_some() {}
    stream.publish(of("y"));
    assert_eq!(stream.next().unwrap().kind, Cluster); // not answered
    stream.expect_silence();
    stream.now += WARMING;
    let route = stream.next().unwrap();
    assert_eq!(route.kind, Route);
    stream.expect_silence();
    stream.answer(&route, None);
    stream.expect(Cluster, &[], &["x"]);
}

#[test]
fn item_57_what_has_waited_goes_though_it_does_not_fit_into_one_response() {
    let names: Vec<_> = (0..8).map(|number| format!("s{number}")).collect();
    let each = |name: &String| {
        let cluster = resource(Cluster, name, "1");
        let route = Resource::encode(Route, name.as_str().into(), &"x".repeat(20_000));
        [cluster, route.depending_on([(Cluster, name.as_str().into())])]
    };
    let mut stream = Stream::open(names.iter().flat_map(each));
    stream.ask(Cluster, &[], &[]);
    assert_eq!(stream.next().unwrap().kind, Cluster); // not answered
    stream.ask(Route, &names.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    stream.expect_silence();
    stream.now += WARMING;
    let mut sent = 0;
    while let Some(response) = stream.next() {
        sent += response.resources.len();
    }
    assert_eq!(sent, names.len());
}

#[test]
fn item_59_a_listener_waits_for_its_own_time_and_what_is_held_waits_for_nobody() {
    let led = |name: &str| resource(Listener, name, "1").depending_on([(Cluster, name.into())]);
    let of = |names: &[&str]| {
        let each = names.iter().flat_map(|name| [resource(Cluster, name, "1"), led(name)]);
        each.collect::<Vec<_>>()
    };
    let hidden = || resource(Listener, "xds:///b", "1").only_for(ProxyClass::Grpc);
    let mut stream = Stream::open(of(&["a"]));
    stream.ask(Cluster, &[], &[]);
    stream.ask(Listener, &[], &[]);
    while stream.next_acked().is_some() {}
    stream.publish(of(&["a", "b"]).into_iter().chain([hidden()]));
    assert_eq!(stream.next().unwrap().kind, Cluster); // not answered
    stream.expect_silence();
    stream.now += WARMING / 2;
    let changed = resource(Listener, "a", "2").depending_on([(Cluster, "a".into())]);
    let now = of(&["b", "c"]).into_iter().chain([resource(Cluster, "a", "1"), changed, hidden()]);
    stream.publish(now);
    assert_eq!(stream.next().unwrap().kind, Cluster); // nor this one
    stream.expect(Listener, &["a"], &[]); // no listener goes that it could take the place of
    stream.now += WARMING / 2;
    stream.expect(Listener, &["b"], &[]);
    stream.expect_silence();
    stream.now += WARMING / 2;
    stream.expect(Listener, &["c"], &[]);
}
