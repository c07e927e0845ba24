//! Clients that answer late, never, or with a refusal of several resources at once.

use std::collections::VecDeque;

use super::super::waiting::BEGINNING;
use super::sotw::World;
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
fn a_name_turns_when_it_is_asked_for_or_given_up_and_not_when_it_is_repeated() {
    let mut stream = Stream::open(service("a", "1"));
    stream.ask(Endpoint, &["a", "a", "b"], &[]);
    stream.ask(Endpoint, &["a", "a"], &["c", "b"]);
    let turned = stream.session.turned();
    let turned: Vec<_> = turned.iter().map(|(kind, name, asked)| (*kind, &**name, *asked)).collect();
    assert_eq!(turned, [(Endpoint, "a", true), (Endpoint, "b", false), (Endpoint, "b", false)]);
    stream.ask(Endpoint, &["a"], &["b"]);
    stream.ask(Listener, &[], &[]);
    assert_eq!(stream.session.turned(), [(Listener, "*".into(), true)]);
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
    assert_eq!(rejected, ["a17"]);
}

#[test]
fn item_53_a_removal_that_is_always_refused_is_sent_twice_and_no_more() {
    let mut world = World::open(ProxyClass::Sidecar, ["a", "b"].map(|name| resource(Listener, name, "1")));
    world.ask(Listener, &[]);
    world.expect(Listener, &["a=1", "b=1"]);
    world.publish([resource(Listener, "b", "2")]);
    for content in ["2", "1"] {
        let response = world.next();
        assert_eq!(response.resources[0].version, version(Listener, "b", content));
        assert_eq!(response.resources.len(), 1);
        world.answer(&response, Some("no"));
    }
    world.expect_silence();
}

#[test]
fn item_55_two_refusals_on_their_way_at_once_condemn_only_the_bad_one() {
    let mut world =
        World::open(ProxyClass::Grpc, [resource(Listener, "a", "bad"), resource(Listener, "b", "1")]);
    world.ask(Listener, &["a"]);
    let first = world.next();
    world.ask(Listener, &["a", "b"]);
    let second = world.next();
    assert_eq!(second.resources.len(), 2);
    world.answer(&first, Some("resource a: no"));
    world.answer(&second, Some("resource a: no"));
    let rejected: Vec<_> = world.stream.session.asked(Listener).unwrap().rejected.keys().cloned().collect();
    assert_eq!(rejected, ["a"]);
}

#[test]
fn item_55_a_response_that_was_passed_over_condemns_nobody() {
    let mut world = World::open(ProxyClass::Sidecar, [resource(Cluster, "a", "1")]);
    world.ask(Cluster, &[]);
    world.next(); // never answered, though it was good
    world.publish([resource(Cluster, "a", "1"), resource(Cluster, "b", "bad")]);
    world.stream.now += Duration::from_secs(1);
    let second = world.next();
    world.answer(&second, Some("b: no"));
    assert!(world.stream.session.asked(Cluster).unwrap().rejected.is_empty());
    world.expect(Cluster, &["a=1"]);
    let alone = world.next();
    world.answer(&alone, Some("b: no"));
    world.expect_silence();
}

#[test]
fn item_99_what_was_dropped_and_asked_for_again_is_not_both_there_and_missing() {
    let mut world = World::open(ProxyClass::Grpc, [resource(Listener, "a", "1")]);
    world.ask(Listener, &["a"]);
    let late = world.next();
    world.ask(Listener, &[]);
    world.publish([]);
    world.ask(Listener, &["a"]);
    world.answer(&late, None);
    assert_eq!(world.expect(Listener, &[]).missing, ["a"]);
    world.publish([resource(Listener, "a", "2")]);
    world.expect(Listener, &["a=2"]);
}

#[test]
fn item_60_a_removal_waits_for_the_newest_answer_though_an_older_one_never_came() {
    let mut stream = Stream::open(service("a", "1"));
    stream.ask(Cluster, &[], &[]);
    stream.ask(Listener, &[], &[]);
    stream.expect(Cluster, &["a"], &[]);
    assert_eq!(stream.next().unwrap().kind, Listener); // never answered
    stream.now += Duration::from_secs(2);
    stream.publish([]);
    assert_eq!(stream.next().unwrap().removed.len(), 1);
    stream.expect_silence();
    stream.now = stream.session.next_deadline().unwrap();
    stream.expect(Cluster, &[], &["a"]);
}

#[test]
fn item_54_a_cluster_that_gives_itself_away_by_its_load_assignment_is_removed_when_that_is_sure() {
    for clusters_first in [true, false] {
        let mut stream = Stream::open(service("a", "1"));
        let slice = stream.session.slice().clone();
        stream.session = Session::new(DELTA, slice, stream.now);
        if clusters_first {
            stream.ask(Cluster, &[], &[]);
        }
        stream.ask(Endpoint, &["a", "orphan"], &[]);
        stream.ask(Cluster, &[], &[]);
        while stream.next_acked().is_some_and(|(_, _, removed)| removed.is_empty() || removed == ["orphan"]) {
        }
        assert!(stream.session.awaits_confirmation());
        stream.session.on_confirmed(stream.now + Duration::from_millis(1));
        stream.expect(Cluster, &[], &["orphan"]);
        stream.expect_silence();
    }
}

#[test]
fn item_18_asking_again_is_answered_also_when_the_slice_must_be_confirmed_first() {
    let mut stream = Stream::open([]);
    let slice = stream.session.slice().clone();
    stream.session = Session::new(DELTA, slice, stream.now);
    stream.ask_holding(Route, &["a"], &[], &[("a", version(Route, "a", "1"))]);
    stream.ask(Route, &["a"], &[]);
    stream.expect_silence();
    stream.session.on_confirmed(stream.now + Duration::from_millis(1));
    stream.expect_silence(); // it might have been cut off while a cluster warmed
    stream.now += BEGINNING;
    stream.expect(Route, &["a"], &[]);
}

#[test]
fn item_53_a_refused_member_of_two_responses_on_their_way_is_known_by_the_one_in_which_it_was_alone() {
    let mut stream = Stream::open(["a", "b"].map(|name| resource(Endpoint, name, "bad")));
    stream.ask(Endpoint, &["a", "b"], &[]);
    let both = stream.next().unwrap();
    stream.ask(Endpoint, &["a"], &[]);
    let alone = stream.next().unwrap();
    stream.answer(&both, Some("no"));
    stream.answer(&alone, Some("no"));
    assert!(stream.session.asked(Endpoint).unwrap().rejected.contains_key("a"));
    let other = stream.next().unwrap();
    assert_eq!(&*other.resources[0].name, "b");
    stream.answer(&other, Some("no"));
    stream.expect_silence();
}

#[test]
fn item_81_what_is_gone_goes_in_moderate_responses_too() {
    for kind in [Cluster, Listener] {
        let names: Vec<_> = (0..10_000).map(|n| format!("gone-and-forgotten-{n:05}")).collect();
        let held: Vec<_> = names.iter().map(|name| (name.as_str(), version(kind, name, "1"))).collect();
        let mut stream = Stream::open([]);
        stream.ask_holding(kind, &[], &[], &held);
        let mut gone = Vec::new();
        if kind == Listener {
            stream.expect_silence(); // it might have been cut off while a cluster warmed
            stream.now += BEGINNING;
        }
        while let Some((_, _, removed)) = stream.next_acked() {
            assert!(removed.iter().map(String::len).sum::<usize>() < RESPONSE_BYTES + 100);
            gone.extend(removed);
        }
        gone.sort();
        assert_eq!(gone, names, "{kind:?}");
    }
}

#[test]
fn item_53_the_refusal_of_the_first_of_many_chunks_is_heard() {
    let large = "x".repeat(RESPONSE_BYTES);
    let names: Vec<_> = (0..200).map(|n| format!("c{n:03}")).collect();
    let mut stream = Stream::open(names.iter().map(|name| resource(Cluster, name, &large)));
    stream.ask(Cluster, &[], &[]);
    let mut unanswered: VecDeque<_> = std::iter::from_fn(|| stream.next()).collect();
    assert_eq!(unanswered.len(), 64, "no more than can be remembered");
    let mut rest = 0;
    while let Some(response) = unanswered.pop_front() {
        let bad = &*response.resources[0].name == "c000";
        stream.answer(&response, bad.then_some("no"));
        let more = std::iter::from_fn(|| stream.next()).collect::<Vec<_>>();
        rest += more.len();
        unanswered.extend(more);
    }
    assert_eq!(rest, 136, "each once");
    assert_eq!(stream.session.asked(Cluster).unwrap().rejected.keys().collect::<Vec<_>>(), ["c000"]);
}

#[test]
fn items_31_and_46_empty_resources_fill_a_response_too() {
    let names: Vec<_> = (0..10_000).map(|n| format!("never-there-{n:05}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut stream = Stream::open([]);
    stream.ask(Route, &names, &[]);
    let mut told = 0;
    while let Some(response) = stream.next() {
        let bytes: usize = response.resources.iter().map(|empty| empty.bytes.len()).sum();
        assert!(bytes < RESPONSE_BYTES + 1_000, "{bytes}");
        told += response.resources.len();
        stream.answer(&response, None);
    }
    assert_eq!(told, names.len());
}

#[test]
fn a_reason_is_kept_as_far_as_it_is_worth() {
    let error_detail = Some(crate::xds::proto::Status { code: 3, message: "é".repeat(1 << 20) });
    let request = crate::xds::proto::DiscoveryRequest { error_detail, ..Default::default() };
    assert_eq!(Request::from(request).error.map(|reason| reason.len()), Some(request::REASON_BYTES));
}

#[test]
fn item_58_what_is_due_and_refused_is_sent_when_it_was_accepted_after_all() {
    let mut stream = Stream::open([resource(Cluster, "a", "1"), resource(Endpoint, "a", "1")]);
    stream.ask(Cluster, &[], &[]);
    stream.expect(Cluster, &["a"], &[]);
    stream.ask(Endpoint, &["a"], &[]);
    let refused = stream.next().unwrap();
    stream.ask(Endpoint, &["a"], &[]);
    let accepted = stream.next().unwrap();
    stream.answer(&refused, Some("no"));
    stream.publish([resource(Cluster, "a", "2"), resource(Endpoint, "a", "1")]);
    stream.expect(Cluster, &["a"], &[]); // which warms
    stream.expect_silence();
    stream.answer(&accepted, None);
    stream.expect(Endpoint, &["a"], &[]);
}

#[test]
fn item_23_what_is_due_and_refused_is_told_to_be_gone() {
    let mut stream = Stream::open([resource(Route, "a", "1")]);
    stream.ask(Route, &["a"], &[]);
    let refused = stream.next().unwrap();
    stream.ask(Route, &["a"], &[]);
    stream.answer(&refused, Some("no"));
    stream.expect_silence();
    stream.publish([]);
    stream.expect(Route, &["a"], &[]);
}

#[test]
fn item_54_a_cluster_gives_itself_away_also_if_it_goes_before_anything_is_said() {
    let mut stream = Stream::open(service("a", "1").into_iter().chain(service("b", "1")));
    stream.ask_holding(Cluster, &[], &[], &[("a", version(Cluster, "a", "1"))]);
    stream.ask(Endpoint, &["a", "b"], &[]);
    stream.publish(service("a", "1"));
    stream.expect(Cluster, &[], &[]);
    stream.expect(Endpoint, &["a"], &["b"]);
    stream.expect(Cluster, &[], &["b"]);
}

#[test]
fn item_54_a_listener_gives_itself_away_by_its_routes() {
    let mut stream = Stream::open(service("a", "1"));
    stream.ask(Cluster, &[], &[]);
    stream.expect(Cluster, &["a"], &[]);
    stream.ask_holding(Listener, &[], &[], &[("a", version(Listener, "a", "1"))]);
    stream.ask(Route, &["a", "orphan"], &[]);
    stream.expect(Listener, &[], &["orphan"]);
    stream.expect(Route, &["a", "orphan"], &[]);
}

#[test]
fn item_54_what_went_while_the_client_was_away_is_removed_though_it_does_not_present_it() {
    let others = resource(Listener, "xds:///a", "1").only_for(ProxyClass::Grpc);
    let held = [resource(Listener, "tcp", "1"), others];
    let mut stream = Stream::open(service("a", "1").into_iter().chain(held));
    stream.publish(service("a", "1")); // in force since a response that was refused, and gone before the search was over
    let mut stream = Stream::on(stream.snapshot);
    stream.ask(Cluster, &[], &[]);
    stream.expect(Cluster, &["a"], &[]);
    stream.ask_holding(Listener, &[], &[], &[("a", version(Listener, "a", "1"))]);
    stream.expect(Listener, &[], &["tcp"]);
    stream.publish(service("a", "1").into_iter().chain([resource(Listener, "also", "1")]));
    stream.publish(service("a", "1")); // before it was said to be there
    stream.expect(Listener, &[], &["also"]);
}

#[test]
fn item_54_what_this_stream_was_sent_goes_at_once_though_much_else_changed() {
    let many = |content: &str| -> Vec<Resource> {
        (0..20).map(|number| resource(Cluster, &format!("other{number}"), content)).collect()
    };
    let all = service("a", "1").into_iter().chain([resource(Listener, "l", "1"), resource(Route, "l", "1")]);
    let mut stream = Stream::open(all.chain(many("1")));
    // Nobody is sure yet what is there.
    let slice = stream.session.slice().clone();
    stream.session = Session::new(DELTA, slice, stream.now);
    stream.ask_holding(Cluster, &["a"], &[], &[("a", version(Cluster, "a", "1"))]);
    stream.ask(Listener, &[], &[]);
    stream.ask(Route, &["l"], &[]);
    while stream.next_acked().is_some() {}
    stream.publish(service("a", "1").into_iter().chain(many("2")));
    let (kind, names, removed) = stream.next_acked().expect("the listener to go");
    assert_eq!((kind, names, removed), (Listener, owned(&[]), owned(&["l"])));
}

#[test]
fn a_name_that_came_back_is_not_removed_after_everything_was_given_up() {
    let mut stream = Stream::open(service("a", "1").into_iter().chain(service("b", "1")));
    stream.ask(Cluster, &[], &[]);
    stream.expect(Cluster, &["a", "b"], &[]);
    stream.ask(Listener, &[], &[]);
    let unanswered = stream.next().expect("listeners"); // removals wait for its answer
    stream.publish(service("a", "1"));
    while stream.next().is_some() {}
    stream.publish(service("a", "1").into_iter().chain(service("b", "1")));
    while stream.next().is_some() {}
    stream.ask(Cluster, &["a"], &["*"]);
    while stream.next_acked().is_some() {}
    stream.publish(service("a", "1"));
    stream.answer(&unanswered, None);
    while let Some((kind, _, removed)) = stream.next_acked() {
        assert!(kind != Cluster || removed.is_empty(), "{removed:?} were given up");
    }
}
