//! A model of Envoy's side of the stream, warming included, and random histories against it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// Envoy, as far as the protocol sees it: what it holds, and which clusters warm. A changed cluster warms
/// until a load assignment comes after it; meanwhile the ACK of its clusters is held back.
#[derive(Default)]
struct Envoy {
    held: BTreeMap<ResourceType, BTreeMap<String, Version>>,
    warming: BTreeSet<String>,
    withheld_acks: Vec<Response>,
}

impl Envoy {
    fn holds(&self, kind: ResourceType) -> BTreeSet<String> {
        self.held.get(&kind).map(|held| held.keys().cloned().collect()).unwrap_or_default()
    }

    /// The first requests of a stream. Cut off while warming, Envoy asks for endpoints before clusters.
    fn connect(&mut self, stream: &mut Stream) {
        let order = if self.warming.is_empty() {
            [Cluster, Endpoint, Listener, Route]
        } else {
            [Endpoint, Listener, Route, Cluster]
        };
        self.withheld_acks.clear();
        for kind in order {
            let held = self.held.entry(kind).or_default().clone();
            let names: BTreeSet<String> = match kind {
                Cluster | Listener => BTreeSet::new(),
                Endpoint => self.holds(Cluster),
                Route => self.holds(Listener),
            };
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            let held: Vec<_> = held.iter().map(|(name, version)| (name.as_str(), *version)).collect();
            stream.ask_holding(kind, &names, &[], &held);
        }
    }

    fn receive(&mut self, stream: &mut Stream, response: Response, refuse: bool) {
        if refuse {
            let heard = stream.answer(&response, Some("refused"));
            assert!(matches!(heard, Heard::Nack(..)));
            return;
        }
        let (kind, parent) = (response.kind, matches!(response.kind, Cluster | Listener));
        let child = if kind == Cluster { Endpoint } else { Route };
        let held = self.held.entry(kind).or_default();
        let (mut added, mut gone) = (Vec::new(), Vec::new());
        for resource in &response.resources {
            let name = resource.name.to_string();
            let before = held.insert(name.clone(), resource.version);
            if parent && before.is_none() {
                added.push(name.clone());
            }
            match kind {
                Cluster if before != Some(resource.version) => _ = self.warming.insert(name),
                Endpoint => _ = self.warming.remove(&name),
                _ => {}
            }
        }
        for name in response.removed.iter().map(ToString::to_string) {
            held.remove(&name);
            self.warming.remove(&name);
            if parent {
                gone.push(name);
            }
        }
        for name in gone {
            self.held.entry(child).or_default().remove(&name);
            stream.ask(child, &[], &[&name]);
        }
        if !added.is_empty() {
            let added: Vec<_> = added.iter().map(String::as_str).collect();
            stream.ask(child, &added, &[]);
        }
        if kind == Cluster {
            self.withheld_acks.push(response);
        } else {
            stream.answer(&response, None);
        }
        if self.warming.is_empty() {
            for response in std::mem::take(&mut self.withheld_acks) {
                stream.answer(&response, None);
            }
        }
    }
}

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    /// Service `0` gets contents `1..=4`, one for each type.
    Put(u8, [u8; 4]),
    /// Service `0` goes.
    Drop(u8),
    /// So many responses are read; the mask says which are refused.
    Read(u8, u8),
    /// The connection is cut and opened again, to a server that knows the newest snapshot.
    Cut,
    /// Time passes.
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let content = || 0..3_u8;
    let contents = [content(), content(), content(), content()];
    let step = prop_oneof![
        4 => (0..4_u8, contents).prop_map(|(service, contents)| Step::Put(service, contents)),
        2 => (0..4_u8).prop_map(Step::Drop),
        6 => (1..5_u8, 0..4_u8).prop_map(|(count, mask)| Step::Read(count, mask)),
        1 => Just(Step::Cut),
        1 => Just(Step::Wait),
    ];
    proptest::collection::vec(step, 1..60)
}

type Services = BTreeMap<u8, [u8; 4]>;

fn resources(services: &Services, salt: &str) -> Vec<Resource> {
    let each = services.iter().flat_map(|(service, contents)| {
        let name = format!("s{service}");
        let kinds = ResourceType::ALL.into_iter().zip(contents);
        kinds.map(move |(kind, content)| (kind, name.clone(), *content))
    });
    each.map(|(kind, name, content)| resource(kind, &name, &format!("{content}{salt}"))).collect()
}

fn check_frame(response: &Response, nonces: &mut BTreeSet<u64>) {
    assert!(nonces.insert(response.nonce), "a nonce is used once (item 40)");
    let names: BTreeSet<_> = response.resources.iter().map(|resource| &resource.name).collect();
    assert_eq!(names.len(), response.resources.len(), "a name is there once (item 47)");
    assert!(response.removed.iter().all(|name| !names.contains(name)), "added or removed, not both");
    assert!(response.resources.iter().all(|resource| resource.kind == response.kind));
    assert!(response.kind != Route || response.removed.is_empty(), "routes are never removed (item 63)");
}

/// Reads until nothing is left, letting time pass where the server waits.
fn drain(stream: &mut Stream, envoy: &mut Envoy, nonces: &mut BTreeSet<u64>) {
    for _ in 0..1000 {
        if let Some(response) = stream.next() {
            check_frame(&response, nonces);
            envoy.receive(stream, response, false);
        } else if let Some(deadline) = stream.session.next_deadline() {
            stream.now = deadline;
        } else {
            return;
        }
    }
    panic!("the session never comes to rest");
}

fn play(history: &[Step], refusals: bool) {
    let mut services = Services::new();
    let mut stream = Stream::open([]);
    let mut envoy = Envoy::default();
    let mut nonces = BTreeSet::new();
    envoy.connect(&mut stream);
    for step in history {
        match step {
            Step::Put(service, contents) => _ = services.insert(*service, *contents),
            Step::Drop(service) => _ = services.remove(service),
            Step::Read(count, mask) => {
                for turn in 0..*count {
                    if let Some(response) = stream.next() {
                        check_frame(&response, &mut nonces);
                        if !refusals {
                            check_prefix(&envoy, &response);
                        }
                        let refuse = refusals && mask >> turn & 1 == 1 && !response.resources.is_empty();
                        envoy.receive(&mut stream, response, refuse);
                    }
                }
            }
            Step::Cut => {
                let snapshot = Arc::clone(&stream.snapshot);
                stream = Stream::on(snapshot);
                nonces.clear();
                envoy.connect(&mut stream);
            }
            Step::Wait => stream.now += Duration::from_secs(2),
        }
        if matches!(step, Step::Put(..) | Step::Drop(_)) {
            stream.publish(resources(&services, ""));
        }
    }
    // Whatever was refused is mended, and from now on the client reads everything.
    let salt = if refusals { " mended" } else { "" };
    stream.publish(resources(&services, salt));
    drain(&mut stream, &mut envoy, &mut nonces);
    check_converged(&stream, &envoy);
}

/// At every prefix, what a listener or a route refers to is there already (I5).
fn check_prefix(envoy: &Envoy, response: &Response) {
    for resource in response.resources.iter().filter(|resource| resource.kind == Route) {
        for (kind, name) in &resource.depends_on {
            let there = envoy.held.get(kind).is_some_and(|held| held.contains_key(&**name));
            assert!(there, "{name} is routed to before its cluster is there");
        }
    }
}

/// At rest the client holds what is served, and nothing warms (I1, I4).
fn check_converged(stream: &Stream, envoy: &Envoy) {
    assert_eq!(envoy.warming, BTreeSet::new(), "a cluster waits for its endpoints");
    for kind in [Cluster, Endpoint, Listener, Route] {
        let served: BTreeMap<_, _> = stream
            .snapshot
            .table(kind)
            .iter()
            .map(|(name, resource)| (name.to_string(), resource.version))
            .collect();
        let mut held = envoy.held.get(&kind).cloned().unwrap_or_default();
        if matches!(kind, Endpoint | Route) {
            held.retain(|name, _| served.contains_key(name)); // orphans go with their parents
        }
        assert_eq!(held, served, "{kind:?}");
    }
    assert!(stream.session.is_settled());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_ends_with_the_client_holding_what_is_served(history in steps()) {
        play(&history, false);
    }

    #[test]
    fn any_history_with_refusals_ends_so_once_they_are_mended(history in steps()) {
        play(&history, true);
    }
}
