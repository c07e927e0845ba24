//! State of the world, rule by rule: all the names in each request, all of a type or of a resource in each
//! response.
//!
//! It is not about what is the same for both protocols, as pacing and order.
//!
//! Invariant: each test is named after the item of `xds.md`, section 3, that it would catch the breach of.

use super::*;
use crate::xds::proto::DiscoveryRequest;

const SOTW: Terms = Terms { protocol: Protocol::StateOfTheWorld, only: None, max_names: 1_000 };

/// A stream whose client says all its names each time.
pub(super) struct World {
    pub(super) stream: Stream,
    names: HashMap<ResourceType, Vec<String>>,
}

impl World {
    pub(super) fn open(class: ProxyClass, resources: impl IntoIterator<Item = Resource>) -> Self {
        let snapshot = Snapshot::first("prod".into(), tables(resources), Vec::new(), SystemTime::UNIX_EPOCH);
        Self { stream: Stream::with(SOTW, class, Arc::new(snapshot)), names: HashMap::new() }
    }

    fn say(&mut self, kind: ResourceType, nonce: &str, error: Option<&str>) -> Heard {
        let request = Request {
            type_url: kind.type_url().to_owned(),
            names: Names::All(self.names.get(&kind).cloned().unwrap_or_default()),
            nonce: nonce.to_owned(),
            error: error.map(ToOwned::to_owned),
            ..Request::default()
        };
        self.stream.session.on_request(request).unwrap()
    }

    /// From now on these names and no others, with some nonce.
    pub(super) fn ask_with(&mut self, kind: ResourceType, names: &[&str], nonce: &str) -> Heard {
        self.names.insert(kind, owned(names));
        self.say(kind, nonce, None)
    }

    pub(super) fn ask(&mut self, kind: ResourceType, names: &[&str]) {
        self.ask_with(kind, names, "");
    }

    pub(super) fn next(&mut self) -> Response {
        self.stream.next().expect("a response")
    }

    pub(super) fn answer(&mut self, response: &Response, error: Option<&str>) -> Heard {
        self.say(response.kind, &response.nonce.to_string(), error)
    }

    /// The next response holds these resources, as `name=content`, and is ACKed.
    pub(super) fn expect(&mut self, kind: ResourceType, resources: &[&str]) -> Response {
        let response = self.next();
        let got = response.resources.iter().map(|it| (it.name.to_string(), it.version));
        let wanted = resources.iter().map(|it| {
            let (name, content) = it.split_once('=').unwrap();
            (name.to_owned(), version(kind, name, content))
        });
        assert_eq!(response.kind, kind);
        assert_eq!(got.collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
        self.answer(&response, None);
        response
    }

    /// The next response holds this one resource without content.
    fn expect_empty(&mut self, kind: ResourceType, name: &str) {
        let response = self.next();
        let [resource] = &response.resources[..] else { panic!("{response:?}") };
        assert_eq!((response.kind, &*resource.name), (kind, name));
        let body = resource.any().unwrap().value;
        assert_eq!(body.len(), 2 + name.len(), "only its name");
        self.answer(&response, None);
    }

    pub(super) fn expect_silence(&mut self) {
        assert!(self.stream.next().is_none());
    }

    pub(super) fn publish(&mut self, resources: impl IntoIterator<Item = Resource>) {
        self.stream.publish(resources);
    }
}

fn envoy(resources: impl IntoIterator<Item = Resource>) -> World {
    World::open(ProxyClass::Sidecar, resources)
}

fn two(kind: ResourceType, contents: [&str; 2]) -> [Resource; 2] {
    [resource(kind, "a", contents[0]), resource(kind, "b", contents[1])]
}

#[test]
fn items_13_15_and_16_no_names_mean_everything_to_envoy_for_clusters_and_listeners() {
    for class in [ProxyClass::Sidecar, ProxyClass::Grpc] {
        for kind in [Cluster, Endpoint, Secret, Listener, Route] {
            let mut world = World::open(class, two(kind, ["1", "1"]));
            world.ask(kind, &[]);
            let everything = kind.has_wildcard() && class == ProxyClass::Sidecar;
            if everything {
                world.expect(kind, &["a=1", "b=1"]);
            }
            world.publish(two(kind, ["2", "1"]));
            if everything {
                world.expect(kind, &["a=2", "b=1"]);
            }
            world.expect_silence();
        }
    }
}

#[test]
fn item_14_once_anything_was_named_no_names_mean_nothing() {
    let mut world = envoy(two(Cluster, ["1", "1"]));
    world.ask(Cluster, &[]);
    world.expect(Cluster, &["a=1", "b=1"]);
    world.ask(Cluster, &["*", "a"]);
    world.expect(Cluster, &["a=1", "b=1"]);
    world.ask(Cluster, &["a"]);
    world.publish(two(Cluster, ["1", "2"]));
    world.expect_silence();
    world.publish(two(Cluster, ["2", "2"]));
    world.expect(Cluster, &["a=2"]);
    world.ask(Cluster, &[]);
    world.publish(two(Cluster, ["3", "3"]));
    world.expect_silence();
    world.ask(Cluster, &["*"]);
    world.expect(Cluster, &["a=3", "b=3"]);
}

#[test]
fn item_17_the_names_of_a_request_are_all_there_are() {
    let mut world = envoy(two(Endpoint, ["1", "1"]));
    world.ask(Endpoint, &["a"]);
    world.expect(Endpoint, &["a=1"]);
    world.ask(Endpoint, &["b"]);
    world.expect(Endpoint, &["b=1"]);
    world.publish(two(Endpoint, ["2", "1"]));
    world.expect_silence();
}

#[test]
fn items_18_19_and_123_names_that_go_and_come_back_are_answered_at_the_same_version() {
    for kind in [Cluster, Endpoint, Listener, Route] {
        let mut world = World::open(ProxyClass::Grpc, [resource(kind, "a", "1")]);
        world.ask(kind, &["a"]);
        let nonce = world.expect(kind, &["a=1"]).nonce.to_string();
        world.ask_with(kind, &[], &nonce);
        world.expect_silence();
        world.ask_with(kind, &["a"], &nonce);
        world.expect(kind, &["a=1"]);
        world.expect_silence();
    }
}

#[test]
fn items_23_and_24_a_name_is_remembered_before_it_exists_and_after_it_is_removed() {
    let mut world = World::open(ProxyClass::Grpc, []);
    world.ask(Cluster, &["a"]);
    assert_eq!(world.expect(Cluster, &[]).missing, ["a"]);
    world.ask(Endpoint, &["a"]);
    world.expect_empty(Endpoint, "a");
    for _ in 0..2 {
        world.publish([resource(Cluster, "a", "1"), resource(Endpoint, "a", "1")]);
        world.expect(Cluster, &["a=1"]);
        world.expect(Endpoint, &["a=1"]);
        world.publish([]);
        world.expect(Cluster, &[]);
        world.expect_empty(Endpoint, "a");
        world.expect_silence();
    }
}

#[test]
fn item_27_clusters_and_listeners_come_all_together() {
    for kind in [Cluster, Listener] {
        let all = |content: &str| {
            let rest = (1..100).map(|n| resource(kind, &format!("r{n:02}"), "1"));
            [resource(kind, "a", content)].into_iter().chain(rest).collect::<Vec<_>>()
        };
        let mut world = envoy(all("1"));
        world.ask(kind, &[]);
        let first = world.next();
        world.answer(&first, None);
        assert_eq!(first.resources.len(), 100);
        world.publish(all("2"));
        let second = world.next();
        assert_eq!(second.resources.len(), 100);
        assert_eq!(second.resources[0].version, version(kind, "a", "2"));
    }
}

#[test]
fn items_27_and_81_what_can_not_be_split_is_not() {
    let content = "x".repeat(20_000);
    let mut world = envoy((0..40).map(|n| resource(Cluster, &format!("c{n:02}"), &content)));
    world.ask(Cluster, &[]);
    assert_eq!(world.next().resources.len(), 40);
    let assignments: Vec<_> = (0..40).map(|n| format!("e{n:02}")).collect();
    let mut world = envoy(assignments.iter().map(|name| resource(Endpoint, name, &content)));
    world.ask(Endpoint, &assignments.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(world.next().resources.len(), 2);
}

#[test]
fn item_28_of_other_types_only_what_changed() {
    for kind in [Endpoint, Route] {
        let mut world = envoy(two(kind, ["1", "1"]));
        world.ask(kind, &["a", "b"]);
        world.expect(kind, &["a=1", "b=1"]);
        world.publish(two(kind, ["2", "1"]));
        world.expect(kind, &["a=2"]);
        world.expect_silence();
    }
}

#[test]
fn item_29_what_can_not_be_left_out_is_sent_empty_or_goes_with_its_parent() {
    let mut world = envoy(service("a", "1"));
    world.ask(Cluster, &[]);
    world.expect(Cluster, &["a=1"]);
    world.ask(Endpoint, &["a"]);
    world.expect(Endpoint, &["a=1"]);
    world.ask(Listener, &[]);
    world.expect(Listener, &["a=1"]);
    world.ask(Route, &["a", "missing"]);
    let routes = world.next();
    assert_eq!(routes.resources.len(), 2, "the missing one is empty");
    world.answer(&routes, None);
    world.publish([]);
    world.expect(Listener, &[]); // the routes go with it
    world.expect(Cluster, &[]);
    world.expect_empty(Endpoint, "a");
    world.expect_silence();
}

#[test]
fn item_30_added_names_are_answered_though_nothing_changed() {
    let mut world = envoy(two(Endpoint, ["1", "1"]));
    world.ask(Endpoint, &["a"]);
    let nonce = world.expect(Endpoint, &["a=1"]).nonce.to_string();
    world.ask_with(Endpoint, &["a", "b"], &nonce);
    world.expect(Endpoint, &["b=1"]);
}

#[test]
fn item_31_an_ack_is_answered_with_silence() {
    let mut world = envoy(two(Cluster, ["1", "1"]));
    world.ask(Cluster, &[]);
    let nonce = world.expect(Cluster, &["a=1", "b=1"]).nonce.to_string();
    world.expect_silence();
    assert_eq!(world.ask_with(Cluster, &[], &nonce), Heard::Names(Cluster));
    world.expect_silence();
    assert!(world.stream.session.is_settled());
}

#[test]
fn items_32_and_35_the_version_of_a_request_means_nothing() {
    let mut world = envoy([resource(Endpoint, "a", "1")]);
    let current = world.stream.session.slice().version(Endpoint).to_string();
    let request = |nonce: &str| DiscoveryRequest {
        version_info: current.clone(),
        resource_names: owned(&["a"]),
        type_url: Endpoint.type_url().to_owned(),
        response_nonce: nonce.to_owned(),
        ..DiscoveryRequest::default()
    };
    world.stream.session.on_request(request("from another stream").into()).unwrap();
    let response = world.next();
    assert_eq!(response.resources.len(), 1, "a first request is answered, whatever it claims");
    let mut old = request(&response.nonce.to_string());
    old.version_info = String::new();
    let heard = world.stream.session.on_request(old.into()).unwrap();
    assert_eq!(heard, Heard::Ack(Endpoint, 1, vec!["a".into()]));
    world.expect_silence();
}

#[test]
fn item_33_names_count_and_answers_do_not_where_the_nonce_is_stale() {
    let mut world = envoy([resource(Endpoint, "a", "1"), resource(Endpoint, "c", "1")]);
    world.ask(Endpoint, &["a"]);
    let stale = world.expect(Endpoint, &["a=1"]).nonce.to_string();
    world.publish([resource(Endpoint, "a", "bad"), resource(Endpoint, "c", "1")]);
    let refused = world.next();
    world.answer(&refused, Some("no"));
    assert_eq!(world.ask_with(Endpoint, &["a", "c"], &stale), Heard::Names(Endpoint));
    world.expect(Endpoint, &["c=1"]);
    world.expect_silence();
}

#[test]
fn item_34_a_version_is_a_function_of_the_content() {
    let seen = |contents| {
        let mut world = envoy(two(Cluster, contents));
        world.ask(Cluster, &[]);
        world.next().version
    };
    assert_eq!(seen(["1", "1"]), seen(["1", "1"]));
    assert_ne!(seen(["1", "1"]), seen(["1", "2"]));
    assert_ne!(seen(["1", "2"]), seen(["2", "1"]));
    assert!(!seen(["1", "1"]).to_string().is_empty());
}

#[test]
fn items_37_and_50_everything_is_answered_even_where_there_is_nothing() {
    for kind in [Cluster, Listener] {
        let mut world = envoy([]);
        world.ask(kind, &[]);
        assert!(world.expect(kind, &[]).missing.is_empty());
        world.expect_silence();
        world.publish([resource(kind, "a", "1")]);
        world.expect(kind, &["a=1"]);
        world.publish([]);
        world.expect(kind, &[]);
        world.expect_silence();
    }
}

#[test]
fn items_39_and_99_a_missing_name_is_said_once_by_an_error() {
    for kind in [Cluster, Listener] {
        let mut world = World::open(ProxyClass::Grpc, [resource(kind, "a", "1")]);
        world.ask(kind, &["a", "x"]);
        assert_eq!(world.expect(kind, &["a=1"]).missing, ["x"]);
        world.publish([resource(kind, "a", "2")]);
        assert!(world.expect(kind, &["a=2"]).missing.is_empty());
        world.ask(kind, &["a"]);
        world.ask(kind, &["a", "x"]);
        assert_eq!(world.expect(kind, &["a=2"]).missing, ["x"], "asked anew");
        world.publish([resource(kind, "a", "2"), resource(kind, "x", "1")]);
        assert!(world.expect(kind, &["a=2", "x=1"]).missing.is_empty());
        world.expect_silence();
    }
}

#[test]
fn item_99_what_goes_under_a_wildcard_is_left_out_without_an_error() {
    let mut world = envoy([resource(Listener, "a", "1")]);
    world.ask(Listener, &["*"]);
    world.expect(Listener, &["a=1"]);
    world.publish([]);
    assert!(world.expect(Listener, &[]).missing.is_empty());
}

#[test]
fn item_53_what_was_refused_is_replaced_by_what_was_accepted_last() {
    let mut world = envoy(two(Cluster, ["1", "1"]));
    world.ask(Cluster, &[]);
    world.expect(Cluster, &["a=1", "b=1"]);
    world.publish(two(Cluster, ["bad", "1"]));
    let refused = world.next();
    world.answer(&refused, Some("no"));
    world.expect_silence();
    world.publish(two(Cluster, ["bad", "2"]));
    world.expect(Cluster, &["a=1", "b=2"]);
    world.publish(two(Cluster, ["3", "2"]));
    world.expect(Cluster, &["a=3", "b=2"]);
    world.expect_silence();
}

#[test]
fn item_53_what_was_never_accepted_is_left_out() {
    let mut world = envoy(two(Listener, ["bad", "1"]));
    world.ask(Listener, &[]);
    let refused = world.next();
    world.answer(&refused, Some("no"));
    let alone = world.next();
    let [suspect] = &alone.resources[..] else { panic!("{alone:?}") };
    assert_eq!(&*suspect.name, "a");
    world.answer(&alone, Some("no"));
    world.expect(Listener, &["b=1"]);
    world.expect_silence();
}

#[test]
fn item_55_of_several_refused_resources_only_the_bad_one_is_kept_back() {
    let resources = |content: &str, changed: &str| {
        let content = |n| if n == 17 { content } else { changed };
        (0..50).map(|n| resource(Cluster, &format!("c{n:02}"), content(n))).collect::<Vec<_>>()
    };
    let mut world = envoy(resources("good", "1"));
    world.ask(Cluster, &[]);
    let first = world.next();
    world.answer(&first, None);
    world.publish(resources("bad", "2"));
    let (mut refusals, mut applied) = (0, Vec::new());
    while let Some(response) = world.stream.next() {
        assert_eq!(response.resources.len(), 50, "each response carries everything");
        let bad = response.resources[17].version == version(Cluster, "c17", "bad");
        world.answer(&response, bad.then_some("no"));
        if bad {
            refusals += 1;
        } else {
            applied = response.resources;
        }
    }
    assert!(refusals <= 7, "{refusals} refusals: more than 1 + log2(50)");
    let expected = |n| if n == 17 { "good" } else { "2" };
    for (n, resource) in applied.iter().enumerate() {
        assert_eq!(resource.version, version(Cluster, &resource.name, expected(n)), "{}", resource.name);
    }
}

#[test]
fn item_58_a_load_assignment_follows_its_cluster_though_it_did_not_change() {
    let all = |content: &str| {
        let unchanged = [resource(Cluster, "b", "1"), resource(Endpoint, "b", "1")];
        [resource(Cluster, "a", content), resource(Endpoint, "a", "1")].into_iter().chain(unchanged)
    };
    let mut world = envoy(all("1"));
    world.ask(Cluster, &[]);
    world.expect(Cluster, &["a=1", "b=1"]);
    world.ask(Endpoint, &["a", "b"]);
    world.expect(Endpoint, &["a=1", "b=1"]);
    world.publish(all("2"));
    world.expect(Cluster, &["a=2", "b=1"]);
    world.expect(Endpoint, &["a=1"]);
    world.expect_silence();
}

#[test]
fn item_58_a_load_assignment_follows_a_cluster_that_may_come_into_force_only_now() {
    let of = |name: &str| [resource(Cluster, name, "1"), resource(Endpoint, name, "1")];
    let mut world = envoy(of("a"));
    world.ask(Cluster, &[]);
    assert_eq!(world.next().resources.len(), 1); // not answered yet: it may be refused
    world.ask(Endpoint, &["a"]);
    world.expect(Endpoint, &["a=1"]);
    world.stream.now += Duration::from_secs(1);
    world.publish(of("a").into_iter().chain(of("b")));
    assert_eq!(world.next().resources.len(), 2);
    world.expect(Endpoint, &["a=1"]);
}

#[test]
fn item_53_what_was_passed_over_proves_nothing() {
    let of = |names: &[&str]| names.iter().map(|name| resource(Cluster, name, "1")).collect::<Vec<_>>();
    let mut world = envoy(of(&["a", "b"]));
    world.ask(Cluster, &[]);
    let first = world.next();
    world.stream.now += Duration::from_secs(1);
    world.publish(of(&["a", "b", "c"]));
    let passed_over = world.next();
    assert_eq!(passed_over.resources.len(), 3);
    world.answer(&first, Some("a: no"));
    world.stream.now += Duration::from_secs(1);
    world.expect(Cluster, &["b=1", "c=1"]);
    let alone = world.next();
    assert_eq!(alone.resources.len(), 3);
    world.answer(&alone, Some("a: no"));
    assert!(world.stream.session.asked(Cluster).unwrap().rejected.contains_key("a"));
    world.expect_silence();
}
