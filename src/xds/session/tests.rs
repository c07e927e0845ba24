//! Rule by rule (numbers are items of `xds.md`, section 3), then everything at random against a model of
//! Envoy.

use std::time::{Duration, SystemTime};

use super::*;
use crate::model::OccupiedPorts;
use crate::snapshot::{ProxyClass, Snapshot, Tables};

mod audit;
mod chaos;
mod envoy;
mod grpc;
mod history;
mod hold;
mod invariants;
mod mutants;
mod odd;
mod sotw;
mod waiting;
mod world;

use ResourceType::{Cluster, Endpoint, Listener, Route, Secret};

/// A resource with this content; the real messages don't matter to the session.
fn resource(kind: ResourceType, name: &str, content: &str) -> Resource {
    let resource = Resource::encode(kind, name.into(), &content.to_owned());
    match kind {
        Cluster => resource.depending_on([(Endpoint, name.into())]),
        Listener => resource.depending_on([(Route, name.into())]).binding(8080),
        Route => resource.depending_on([(Cluster, name.into())]),
        Endpoint | Secret => resource,
    }
}

const DELTA: Terms = Terms { protocol: Protocol::Delta, only: None, max_names: 10_000 };

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn tables(resources: impl IntoIterator<Item = Resource>) -> Tables {
    let mut tables = Tables::default();
    resources.into_iter().for_each(|resource| tables.insert(Arc::new(resource)));
    tables
}

/// A server with one stream, as a test drives it.
struct Stream {
    session: Session,
    snapshot: Arc<Snapshot>,
    now: Instant,
}

impl Stream {
    fn open(resources: impl IntoIterator<Item = Resource>) -> Self {
        let snapshot = Snapshot::first("prod".into(), tables(resources), Vec::new(), SystemTime::UNIX_EPOCH);
        Self::on(Arc::new(snapshot))
    }

    fn on(snapshot: Arc<Snapshot>) -> Self {
        Self::with(DELTA, ProxyClass::Sidecar, snapshot)
    }

    /// A stream to a server that is sure of what it knows.
    fn with(terms: Terms, class: ProxyClass, snapshot: Arc<Snapshot>) -> Self {
        let now = Instant::now();
        let mut session = Session::new(terms, Slice::new(Arc::clone(&snapshot), class, "node", &[]), now);
        session.on_confirmed(now + Duration::from_millis(1));
        Self { session, snapshot, now }
    }

    fn publish(&mut self, resources: impl IntoIterator<Item = Resource>) {
        let next = self.snapshot.next(tables(resources), Vec::new(), SystemTime::UNIX_EPOCH);
        if let Some(next) = next {
            self.snapshot = Arc::new(next);
            let class = self.session.slice().class();
            self.session.on_slice(Slice::new(Arc::clone(&self.snapshot), class, "node", &[]));
        }
    }

    fn ask(&mut self, kind: ResourceType, subscribe: &[&str], unsubscribe: &[&str]) {
        self.ask_holding(kind, subscribe, unsubscribe, &[]);
    }

    fn ask_holding(&mut self, kind: ResourceType, sub: &[&str], unsub: &[&str], held: &[(&str, Version)]) {
        let names = Names::Increment(owned(sub), owned(unsub));
        let presented = held.iter().map(|(name, version)| ((*name).to_owned(), version.to_string()));
        let type_url = kind.type_url().to_owned();
        let (presented, resumed) = (presented.collect(), !held.is_empty());
        let request = Request { type_url, names, presented, resumed, ..Request::default() };
        self.session.on_request(request).unwrap();
    }

    fn answer(&mut self, response: &Response, error: Option<&str>) -> Heard {
        let request = Request {
            type_url: response.kind.type_url().to_owned(),
            names: Names::Increment(Vec::new(), Vec::new()),
            nonce: response.nonce.to_string(),
            error: error.map(ToOwned::to_owned),
            ..Request::default()
        };
        self.session.on_request(request).unwrap()
    }

    fn next(&mut self) -> Option<Response> {
        self.session.next_response(self.now)
    }

    /// The next response as (type, names, removed), ACKed.
    fn next_acked(&mut self) -> Option<(ResourceType, Vec<String>, Vec<String>)> {
        let response = self.next()?;
        self.answer(&response, None);
        let names = response.resources.iter().map(|resource| resource.name.to_string()).collect();
        Some((response.kind, names, response.removed.iter().map(ToString::to_string).collect()))
    }

    fn expect(&mut self, kind: ResourceType, names: &[&str], removed: &[&str]) {
        let (got, got_names, got_removed) = self.next_acked().expect("a response");
        assert_eq!((got, got_names, got_removed), (kind, owned(names), owned(removed)));
    }

    fn expect_silence(&mut self) {
        assert_eq!(self.next_acked(), None);
    }
}

fn version(kind: ResourceType, name: &str, content: &str) -> Version {
    resource(kind, name, content).version
}

#[test]
fn item_5_a_type_is_required_and_item_6_an_unknown_one_is_ignored() {
    let mut stream = Stream::open([]);
    assert_eq!(stream.session.on_request(Request::default()), Err(Violation::NoType));
    let unknown = Request { type_url: "foo.Bar".to_owned(), ..Default::default() };
    assert_eq!(stream.session.on_request(unknown), Ok(Heard::UnknownType));
    stream.ask(Cluster, &[], &[]);
    stream.expect(Cluster, &[], &[]);
}

#[test]
fn item_13_no_names_mean_everything_for_clusters_and_listeners_and_item_15_nothing_for_the_others() {
    for (kind, everything) in [(Cluster, true), (Listener, true), (Endpoint, false), (Route, false)] {
        let mut stream = Stream::open([resource(kind, "a", "1"), resource(kind, "b", "1")]);
        stream.ask(kind, &[], &[]);
        if everything {
            stream.expect(kind, &["a", "b"], &[]);
        }
        stream.publish([resource(kind, "a", "2"), resource(kind, "b", "1")]);
        if everything {
            stream.expect(kind, &["a"], &[]);
        }
        stream.expect_silence();
    }
}

#[test]
fn item_14_an_explicit_wildcard_mixes_with_names_and_item_21_leaves_them() {
    let mut stream = Stream::open([resource(Cluster, "a", "1"), resource(Cluster, "b", "1")]);
    stream.ask(Cluster, &["*", "a"], &[]);
    stream.expect(Cluster, &["a", "b"], &[]);
    stream.ask(Cluster, &[], &["*"]);
    stream.publish([resource(Cluster, "a", "1"), resource(Cluster, "b", "2")]);
    stream.expect_silence();
    stream.publish([resource(Cluster, "a", "2"), resource(Cluster, "b", "2")]);
    stream.expect(Cluster, &["a"], &[]);
}

#[test]
fn item_17_names_are_dropped_after_they_are_added() {
    let mut stream = Stream::open([resource(Cluster, "a", "1"), resource(Cluster, "b", "1")]);
    stream.ask(Cluster, &["*"], &["*"]);
    stream.ask(Cluster, &["a"], &[]);
    stream.expect(Cluster, &["a"], &[]);
    stream.expect_silence();
}

#[test]
fn item_18_asking_again_is_answered_though_nothing_changed() {
    let mut stream = Stream::open([resource(Endpoint, "a", "1")]);
    stream.ask(Endpoint, &["a"], &[]);
    stream.expect(Endpoint, &["a"], &[]);
    stream.ask(Endpoint, &["a"], &[]);
    stream.expect(Endpoint, &["a"], &[]);
    stream.ask(Endpoint, &[], &["a"]);
    stream.publish([resource(Endpoint, "a", "2")]);
    stream.expect_silence();
    stream.publish([resource(Endpoint, "a", "1")]);
    stream.ask(Endpoint, &["a"], &[]);
    stream.expect(Endpoint, &["a"], &[]);
}

#[test]
fn item_20_dropping_a_name_under_a_wildcard_is_answered() {
    let mut stream = Stream::open([resource(Cluster, "a", "1")]);
    stream.ask(Cluster, &["*", "a", "x"], &[]);
    stream.expect(Cluster, &["a"], &["x"]);
    stream.ask(Cluster, &[], &["a", "x"]);
    stream.expect(Cluster, &["a"], &["x"]);
    stream.expect_silence();
}

#[test]
fn item_22_dropping_what_was_never_asked_for_does_nothing() {
    let mut stream = Stream::open([resource(Endpoint, "a", "1")]);
    stream.ask(Endpoint, &["a"], &["never"]);
    stream.expect(Endpoint, &["a"], &[]);
    stream.ask(Endpoint, &[], &["never"]);
    stream.expect_silence();
}

#[test]
fn items_23_and_24_a_name_is_remembered_before_it_exists_and_after_it_is_removed() {
    let mut stream = Stream::open([]);
    stream.ask(Cluster, &["a"], &[]);
    stream.expect(Cluster, &[], &["a"]);
    stream.publish([resource(Cluster, "a", "1")]);
    stream.expect(Cluster, &["a"], &[]);
    stream.publish([]);
    stream.expect(Cluster, &[], &["a"]);
    stream.publish([resource(Cluster, "a", "1")]);
    stream.expect(Cluster, &["a"], &[]);
}

#[test]
fn item_43_on_reconnect_only_differences_travel() {
    let all = [resource(Cluster, "a", "1"), resource(Cluster, "b", "2"), resource(Cluster, "c", "1")];
    let mut stream = Stream::open(all);
    let held = [
        ("a", version(Cluster, "a", "1")),
        ("b", version(Cluster, "b", "1")),
        ("gone", version(Cluster, "gone", "1")),
    ];
    stream.ask_holding(Cluster, &[], &[], &held);
    stream.expect(Cluster, &["b", "c"], &[]);
    stream.expect(Cluster, &[], &["gone"]);
    stream.expect_silence();
}

#[test]
fn item_42_versions_count_only_in_the_first_request() {
    let mut stream = Stream::open([resource(Cluster, "a", "1")]);
    stream.ask(Cluster, &[], &[]);
    stream.expect(Cluster, &["a"], &[]);
    stream.ask_holding(Cluster, &[], &[], &[("gone", version(Cluster, "gone", "1"))]);
    stream.expect_silence();
}

#[test]
fn item_44_endpoints_asked_before_clusters_are_sent_though_the_versions_match() {
    let held = [("a", version(Endpoint, "a", "1"))];
    let mut stream = Stream::open([resource(Cluster, "a", "1"), resource(Endpoint, "a", "1")]);
    stream.ask_holding(Endpoint, &["a"], &[], &held);
    stream.expect(Endpoint, &["a"], &[]);

    let mut stream = Stream::open([resource(Cluster, "a", "1"), resource(Endpoint, "a", "1")]);
    stream.ask_holding(Cluster, &[], &[], &[("a", version(Cluster, "a", "1"))]);
    stream.expect(Cluster, &[], &[]); // the wildcard is answered, with nothing in it
    stream.ask_holding(Endpoint, &["a"], &[], &held);
    stream.expect_silence();

    let mut stream = Stream::open([resource(Cluster, "a", "2"), resource(Endpoint, "a", "1")]);
    stream.ask_holding(Cluster, &[], &[], &[("a", version(Cluster, "a", "1"))]);
    stream.expect(Cluster, &["a"], &[]);
    stream.ask_holding(Endpoint, &["a"], &[], &held);
    stream.expect(Endpoint, &["a"], &[]);
}

#[test]
fn item_46_a_missing_name_is_answered_as_its_type_wants() {
    for (kind, names, removed) in
        [(Endpoint, &[][..], &["x"][..]), (Cluster, &[], &["x"]), (Route, &["x"], &[])]
    {
        let mut stream = Stream::open([]);
        stream.ask(kind, &["x"], &[]);
        stream.expect(kind, names, removed);
        stream.expect_silence();
    }
    let mut stream = Stream::open([]);
    stream.ask(Listener, &["x"], &[]);
    stream.expect_silence();
}

#[test]
fn item_50_an_empty_wildcard_is_answered() {
    let mut stream = Stream::open([]);
    stream.ask(Listener, &[], &[]);
    stream.expect(Listener, &[], &[]);
    stream.expect_silence();
}

#[test]
fn item_53_what_was_refused_is_not_sent_again_until_it_changes() {
    let mut stream = Stream::open([resource(Cluster, "a", "bad")]);
    stream.ask(Cluster, &[], &[]);
    let response = stream.next().unwrap();
    let heard = stream.answer(&response, Some("no"));
    let guilty = vec![("a".into(), version(Cluster, "a", "bad"))];
    assert_eq!(heard, Heard::Nack(Cluster, 1, Refusal { reason: "no".into(), members: 1, guilty }));
    assert!(stream.session.asked(Cluster).unwrap().rejected.contains_key("a"));
    stream.expect_silence();
    stream.publish([resource(Cluster, "a", "bad"), resource(Cluster, "b", "1")]);
    stream.expect(Cluster, &["b"], &[]);
    stream.publish([resource(Cluster, "a", "good"), resource(Cluster, "b", "1")]);
    stream.expect(Cluster, &["a"], &[]);
    assert!(stream.session.asked(Cluster).unwrap().rejected.is_empty());
}

#[test]
fn item_53_a_dependent_that_was_refused_is_not_sent_behind_its_cluster_either() {
    let mut stream = Stream::open([resource(Cluster, "a", "1"), resource(Endpoint, "a", "bad")]);
    stream.ask(Cluster, &[], &[]);
    stream.expect(Cluster, &["a"], &[]);
    stream.ask(Endpoint, &["a"], &[]);
    let response = stream.next().unwrap();
    stream.answer(&response, Some("no"));
    stream.publish([resource(Cluster, "a", "2"), resource(Endpoint, "a", "bad")]);
    stream.expect(Cluster, &["a"], &[]);
    stream.expect_silence();
    stream.ask(Endpoint, &["a"], &[]);
    stream.expect(Endpoint, &["a"], &[]);
}

#[test]
fn items_33_and_41_names_count_whatever_the_nonce() {
    let mut stream = Stream::open([resource(Endpoint, "a", "1"), resource(Endpoint, "b", "1")]);
    stream.ask(Endpoint, &["a"], &[]);
    let response = stream.next().unwrap();
    for (nonce, name) in [("from long ago".to_owned(), "b"), (response.nonce.to_string(), "a")] {
        let type_url = Endpoint.type_url().to_owned();
        let names = Names::Increment(owned(&[name]), Vec::new());
        stream.session.on_request(Request { type_url, names, nonce, ..Request::default() }).unwrap();
        stream.expect(Endpoint, &[name], &[]);
    }
}

#[test]
fn item_57_nothing_waits_for_an_ack_for_ever() {
    let mut stream = Stream::open([resource(Cluster, "a", "1"), resource(Endpoint, "a", "1")]);
    stream.ask(Cluster, &[], &[]);
    let unanswered = stream.next().unwrap();
    assert_eq!(unanswered.kind, Cluster);
    stream.ask(Endpoint, &["a"], &[]);
    stream.expect(Endpoint, &["a"], &[]);
    stream.publish([resource(Cluster, "a", "2"), resource(Endpoint, "a", "2")]);
    stream.expect(Endpoint, &["a"], &[]);
    assert!(stream.next().is_none(), "one unanswered response of a type at a time");
    let deadline = stream.session.next_deadline().unwrap();
    assert!(deadline <= stream.now + Duration::from_secs(1));
    stream.now = deadline;
    stream.expect(Cluster, &["a"], &[]);
    stream.expect(Endpoint, &["a"], &[]);
}

#[test]
fn item_58_a_load_assignment_follows_its_cluster_though_it_did_not_change() {
    let mut stream = Stream::open([resource(Cluster, "a", "1"), resource(Endpoint, "a", "1")]);
    stream.ask(Cluster, &[], &[]);
    stream.expect(Cluster, &["a"], &[]);
    stream.ask(Endpoint, &["a"], &[]);
    stream.expect(Endpoint, &["a"], &[]);
    stream.publish([resource(Cluster, "a", "2"), resource(Endpoint, "a", "1")]);
    stream.expect(Cluster, &["a"], &[]);
    stream.expect(Endpoint, &["a"], &[]);
    stream.expect_silence();
}

#[test]
fn item_58_also_when_the_service_went_and_came_back_in_between() {
    let mut stream = Stream::open([resource(Cluster, "a", "1"), resource(Endpoint, "a", "1")]);
    stream.ask(Cluster, &[], &[]);
    stream.expect(Cluster, &["a"], &[]);
    stream.ask(Endpoint, &["a"], &[]);
    stream.expect(Endpoint, &["a"], &[]);
    stream.publish([resource(Cluster, "a", "2"), resource(Endpoint, "a", "1")]);
    let unanswered = stream.next().unwrap();
    assert_eq!(unanswered.kind, Cluster);
    stream.publish([]);
    stream.expect_silence(); // the load assignment is put off, then the service is back
    stream.publish([resource(Cluster, "a", "2"), resource(Endpoint, "a", "1")]);
    stream.expect(Endpoint, &["a"], &[]);
    stream.answer(&unanswered, None);
    stream.expect_silence();
}

fn service(name: &str, content: &str) -> [Resource; 4] {
    [Cluster, Endpoint, Listener, Route].map(|kind| resource(kind, name, content))
}

#[test]
fn items_59_and_60_additions_go_in_push_order_and_removals_last() {
    let mut stream = Stream::open(service("a", "1"));
    stream.ask(Listener, &[], &[]);
    stream.ask(Route, &["a", "b"], &[]);
    stream.ask(Endpoint, &["a", "b"], &[]);
    stream.ask(Cluster, &[], &[]);
    for kind in [Cluster, Endpoint, Listener, Route] {
        assert_eq!(stream.next_acked().unwrap().0, kind);
    }
    stream.publish(service("b", "1"));
    stream.expect(Cluster, &["b"], &[]);
    stream.expect(Endpoint, &["b"], &[]);
    stream.expect(Listener, &["b"], &["a"]);
    stream.expect(Route, &["b"], &[]);
    stream.expect(Cluster, &[], &["a"]);
    stream.expect(Endpoint, &[], &["a"]);
    stream.expect_silence();
}

#[test]
fn item_54_a_removal_in_a_refused_response_is_sent_again_alone() {
    let mut stream = Stream::open([resource(Listener, "a", "1")]);
    stream.ask(Listener, &[], &[]);
    stream.expect(Listener, &["a"], &[]);
    stream.publish([resource(Listener, "b", "bad")]);
    let response = stream.next().unwrap();
    stream.answer(&response, Some("no"));
    let again = stream.next().unwrap();
    assert_eq!((again.resources.len(), again.removed.as_slice()), (0, &["a".into()][..]));
    stream.answer(&again, Some("no"));
    stream.expect_silence();
}

#[test]
fn item_63_a_route_configuration_is_never_removed() {
    let mut stream = Stream::open([resource(Route, "a", "1")]);
    stream.ask(Route, &["a"], &[]);
    stream.expect(Route, &["a"], &[]);
    stream.publish([]);
    stream.expect_silence();
    stream.publish([resource(Route, "a", "1")]);
    stream.expect(Route, &["a"], &[]);
}

#[test]
fn item_66_nothing_changed_nothing_sent() {
    let mut stream = Stream::open(service("a", "1"));
    stream.ask(Cluster, &[], &[]);
    stream.expect(Cluster, &["a"], &[]);
    let generation = stream.snapshot.generation;
    stream.publish(service("a", "1"));
    assert_eq!(stream.snapshot.generation, generation);
    stream.expect_silence();
    assert!(stream.session.is_settled());
}

#[test]
fn item_78_a_slow_client_gets_the_newest_once() {
    let mut stream = Stream::open([resource(Endpoint, "a", "0")]);
    stream.ask(Endpoint, &["a"], &[]);
    stream.expect(Endpoint, &["a"], &[]);
    for content in 1..200 {
        stream.publish([resource(Endpoint, "a", &content.to_string())]);
    }
    let response = stream.next().unwrap();
    assert_eq!(response.resources[0].version, version(Endpoint, "a", "199"));
    stream.answer(&response, None);
    stream.expect_silence();
}

#[test]
fn item_81_a_large_state_goes_out_in_moderate_responses() {
    let content = "x".repeat(40_000);
    let names: Vec<_> = (0..40).map(|n| format!("c{n:02}")).collect();
    let mut stream = Stream::open(names.iter().map(|name| resource(Cluster, name, &content)));
    stream.ask(Cluster, &[], &[]);
    let mut got = Vec::new();
    while let Some((_, names, _)) = stream.next_acked() {
        assert!(names.len() * 40_000 <= RESPONSE_BYTES + 50_000);
        got.extend(names);
    }
    assert_eq!(got, names);
}

#[test]
fn a_listener_on_a_port_that_the_task_occupies_is_withheld_and_taken_back_when_that_is_learnt_late() {
    let mut stream = Stream::open(service("a", "1"));
    stream.ask(Listener, &[], &[]);
    stream.expect(Listener, &["a"], &[]);
    let occupied = OccupiedPorts::unit("node".into(), Arc::from([8080]));
    let next = stream.snapshot.next(tables(service("a", "1")), vec![occupied], SystemTime::UNIX_EPOCH);
    let slice = Slice::new(Arc::new(next.unwrap()), ProxyClass::Sidecar, "node", &[]);
    assert_eq!(slice.withheld().count(), 1);
    stream.session.on_slice(slice);
    stream.expect(Listener, &[], &["a"]);
    stream.expect_silence();
}
