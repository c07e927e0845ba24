//! Any order of publishes, requests, answers and waits on one session.
//!
//! It is not the property test of the session, which knows what clients believe: here only what was sent counts,
//! and the search is led by the code that it reaches.
//!
//! Invariant: at rest a client that asked for something was sent the newest version of it, unless it said that it
//! holds that version or refused it; and no more is said than there is to say.

#![no_main]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arbitrary::Arbitrary;
use legation::snapshot::{Name, ProxyClass, Resource, ResourceType, Slice, Snapshot, Tables, Version};
use legation::xds::session::{Names, Protocol, Request, Response, Session, Terms};
use libfuzzer_sys::fuzz_target;

/// How many services there may be, and names that nobody serves.
const SERVICES: u8 = 4;
const PHANTOMS: u8 = 2;
/// Once nothing changes any more, this many responses must be enough.
const ENOUGH: usize = 200;

/// A history of one stream.
#[derive(Arbitrary, Debug)]
struct Script {
    delta: bool,
    grpc: bool,
    steps: Vec<Step>,
}

/// What may happen.
#[derive(Arbitrary, Debug)]
enum Step {
    /// By service, the content of its resources; what has no remainder by 4 is not there.
    Publish([u8; SERVICES as usize]),
    Ask {
        kind: u8,
        add: Vec<u8>,
        drop: Vec<u8>,
        presented: Vec<(u8, u8)>,
    },
    /// Answers one of the responses so far, or something else.
    Answer {
        which: u8,
        refused: bool,
    },
    Confirm,
    Respond(u8),
    Wait(u16),
}

struct Play {
    session: Session,
    protocol: Protocol,
    class: ProxyClass,
    snapshot: Arc<Snapshot>,
    now: Instant,
    /// Each with its members.
    responses: Vec<(ResourceType, u64, Vec<Name>)>,
    answered: BTreeSet<u64>,
    /// What a client that believes what it is told holds.
    told: BTreeMap<(ResourceType, Name), Version>,
    /// What state of the world repeats with each answer.
    asked: BTreeMap<ResourceType, Vec<String>>,
    /// What the client said that it holds, true or not.
    presented: BTreeSet<(ResourceType, String)>,
    /// Who was in a refused response.
    refused: BTreeSet<(ResourceType, Name)>,
}

fuzz_target!(|script: Script| {
    let mut play = Play::new(&script);
    for step in &script.steps {
        play.now += Duration::from_millis(1);
        play.step(step);
    }
    play.settle();
    play.judge();
});

fn name(index: u8) -> String {
    match index % (SERVICES + PHANTOMS + 1) {
        0 => "*".to_owned(),
        index => format!("s{}", index - 1),
    }
}

fn kind(index: u8) -> ResourceType {
    ResourceType::ALL[usize::from(index) % ResourceType::ALL.len()]
}

fn tables(services: &[u8]) -> Tables {
    let mut tables = Tables::default();
    let there = |index: usize| !services[index].is_multiple_of(4);
    for index in (0..services.len()).filter(|index| there(*index)) {
        let (name, content) = (Name::from(format!("s{index}")), services[index]);
        // Each bit pair is the content of one type, so that types change alone and together.
        let text = |shift: u8| (content >> shift & 3).to_string();
        let encode = |kind, shift| Resource::encode(kind, Name::clone(&name), &text(shift));
        let on = |kind| [(kind, Name::clone(&name))];
        let cluster = encode(ResourceType::Cluster, 0).depending_on(on(ResourceType::Endpoint));
        let listener = encode(ResourceType::Listener, 4).depending_on(on(ResourceType::Route));
        let route = encode(ResourceType::Route, 6).depending_on(on(ResourceType::Cluster));
        for resource in [cluster, encode(ResourceType::Endpoint, 2), listener, route] {
            tables.insert(Arc::new(resource));
        }
    }
    tables
}

impl Play {
    fn new(script: &Script) -> Self {
        let protocol = if script.delta { Protocol::Delta } else { Protocol::StateOfTheWorld };
        let class = if script.grpc { ProxyClass::Grpc } else { ProxyClass::Sidecar };
        let first = tables(&[1, 1, 0, 0]);
        let snapshot = Arc::new(Snapshot::first("prod".into(), first, Vec::new(), SystemTime::UNIX_EPOCH));
        let now = Instant::now();
        let terms = Terms { protocol, only: None, max_names: 1_000 };
        let session = Session::new(terms, Slice::new(Arc::clone(&snapshot), class, "node", &[]), now);
        Self {
            session,
            protocol,
            class,
            snapshot,
            now,
            responses: Vec::new(),
            answered: BTreeSet::new(),
            told: BTreeMap::new(),
            asked: BTreeMap::new(),
            presented: BTreeSet::new(),
            refused: BTreeSet::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Publish(services) => self.publish(services),
            Step::Ask { kind: index, add, drop, presented } => {
                let kind = kind(*index);
                let presented = presented.iter().map(|(index, content)| {
                    let body = (content & 3).to_string();
                    let body = Resource::encode(kind, "".into(), &body);
                    (name(*index), body.version.to_string())
                });
                self.ask(kind, add, drop, presented.collect());
            }
            Step::Answer { which, refused } => self.answer(*which, *refused),
            Step::Confirm => self.session.on_confirmed(self.now),
            Step::Respond(count) => (0..count % 8).for_each(|_| _ = self.respond()),
            Step::Wait(millis) => self.now += Duration::from_millis(u64::from(*millis)),
        }
    }

    fn publish(&mut self, services: &[u8]) {
        let next = self.snapshot.next(tables(services), Vec::new(), SystemTime::UNIX_EPOCH);
        if let Some(next) = next {
            self.snapshot = Arc::new(next);
            self.session.on_slice(Slice::new(Arc::clone(&self.snapshot), self.class, "node", &[]));
        }
    }

    fn ask(&mut self, kind: ResourceType, add: &[u8], drop: &[u8], presented: HashMap<String, String>) {
        let names = |list: &[u8]| list.iter().take(6).copied().map(name).collect::<Vec<_>>();
        let presented = if self.protocol == Protocol::Delta { presented } else { HashMap::new() };
        self.presented.extend(presented.keys().map(|name| (kind, name.clone())));
        let names = match self.protocol {
            Protocol::Delta => Names::Increment(names(add), names(drop)),
            Protocol::StateOfTheWorld => {
                self.asked.insert(kind, names(add));
                Names::All(names(add))
            }
        };
        self.request(Request {
            type_url: kind.type_url().to_owned(),
            names,
            resumed: !presented.is_empty(),
            presented,
            ..Request::default()
        });
    }

    fn request(&mut self, request: Request) {
        assert!(self.session.on_request(request).is_ok(), "all of it keeps to the protocol");
    }

    /// The names that stand with an answer: state of the world repeats what it asks for.
    fn standing(&self, kind: ResourceType) -> Names {
        match self.protocol {
            Protocol::Delta => Names::Increment(Vec::new(), Vec::new()),
            Protocol::StateOfTheWorld => Names::All(self.asked.get(&kind).cloned().unwrap_or_default()),
        }
    }

    fn answer(&mut self, which: u8, refused: bool) {
        let place = self.responses.len().checked_sub(1 + usize::from(which));
        let Some((kind, nonce, members)) = place.and_then(|place| self.responses.get(place)) else { return };
        let (kind, nonce) = (*kind, *nonce);
        let members = members.iter().filter(|_| refused).map(|name| (kind, Name::clone(name)));
        self.refused.extend(members);
        self.answered.insert(nonce);
        let (type_url, nonce) = (kind.type_url().to_owned(), nonce.to_string());
        let error = refused.then(|| "resource s0: no".to_owned());
        let names = self.standing(kind);
        self.request(Request { type_url, names, nonce, error, ..Request::default() });
    }

    fn respond(&mut self) -> bool {
        let Some(response) = self.session.next_response(self.now) else {
            let deadline = self.session.next_deadline();
            assert!(deadline.is_none_or(|deadline| deadline > self.now), "a deadline that was not kept");
            return false;
        };
        self.take_in(&response);
        true
    }

    fn take_in(&mut self, response: &Response) {
        let kind = response.kind;
        assert!(self.responses.last().is_none_or(|(_, last, _)| *last < response.nonce), "a nonce again");
        let members = response.resources.iter().map(|it| &it.name).chain(&response.removed).cloned();
        self.responses.push((kind, response.nonce, members.collect()));
        let names: BTreeSet<_> = response.resources.iter().map(|resource| &resource.name).collect();
        assert_eq!(names.len(), response.resources.len(), "a resource twice");
        assert!(response.removed.iter().all(|name| !names.contains(name)), "sent and removed");
        if self.protocol == Protocol::StateOfTheWorld && kind.has_wildcard() {
            self.told.retain(|(other, _), _| *other != kind);
        }
        for name in &response.removed {
            self.told.remove(&(kind, Name::clone(name)));
        }
        for resource in &response.resources {
            self.told.insert((kind, resource.name.clone()), resource.version);
        }
    }

    /// Nothing changes any more, everything is accepted, and every deadline passes.
    fn settle(&mut self) {
        self.now += Duration::from_millis(1);
        self.session.on_confirmed(self.now);
        for round in 0.. {
            assert!(round < ENOUGH, "it does not come to rest");
            let fresh = |(_, nonce): &(ResourceType, u64)| !self.answered.contains(nonce);
            let unanswered: Vec<_> =
                self.responses.iter().map(|(kind, nonce, _)| (*kind, *nonce)).filter(fresh).collect();
            for (kind, nonce) in unanswered {
                self.answered.insert(nonce);
                let names = self.standing(kind);
                let (type_url, nonce) = (kind.type_url().to_owned(), nonce.to_string());
                self.request(Request { type_url, names, nonce, ..Request::default() });
            }
            if !self.respond() {
                match self.session.next_deadline() {
                    Some(deadline) => self.now = deadline,
                    None => return,
                }
            }
        }
    }

    /// What was sent last is what is served, of all that the client asked for or was ever sent.
    fn judge(&self) {
        assert!(self.session.is_settled(), "something is left to say");
        for kind in ResourceType::ALL {
            let told = self.told.keys().filter(|(of, _)| *of == kind).map(|(_, name)| Name::clone(name));
            let asked = self.session.resources(kind).into_iter().map(|holding| holding.name);
            told.chain(asked).collect::<BTreeSet<_>>().iter().for_each(|name| self.judge_one(kind, name));
        }
    }

    fn judge_one(&self, kind: ResourceType, name: &Name) {
        let Some(asked) = self.session.asked(kind) else { return };
        let key = (kind, Name::clone(name));
        let named = self.session.resources(kind).iter().any(|holding| holding.name == *name);
        let (told, claimed) =
            (self.told.get(&key).copied(), self.presented.contains(&(kind, name.to_string())));
        let served = self.session.slice().get(kind, name).map(|served| served.version);
        let full = self.protocol == Protocol::StateOfTheWorld && kind.has_wildcard();
        // Who was refused stands as refused, or was sent again and accepted, or an older one stands in for it.
        let doubtful =
            claimed || (self.refused.contains(&key) && (full || asked.rejected.contains_key(name)));
        match served {
            _ if doubtful => {}
            Some(served) if asked.wildcard || named => {
                assert_eq!(told, Some(served), "{kind:?} {name} is not what is served");
            }
            // What goes is taken back, where the protocol knows how.
            None if told.is_some() && (asked.wildcard || named) => {
                let removes = self.protocol == Protocol::Delta && kind != ResourceType::Route;
                assert!(!removes && !full, "{kind:?} {name} is gone, and was not taken back");
            }
            _ => {}
        }
    }
}
