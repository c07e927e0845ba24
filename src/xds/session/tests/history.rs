//! Random histories: publishes, cuts, lagging replicas, write capacity and time, between a server and a model
//! of a client, with every response judged and the end compared.
//!
//! It is not a transport: what is said is delivered in order, or lost with the stream.
//!
//! Invariant: virtual time only, and a history played twice is the same.

use std::collections::VecDeque;

use futures_util::FutureExt;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use super::audit::Audit;
use super::chaos::Chaos;
use super::envoy::Envoy;
use super::grpc::Grpc;
use super::invariants::{self, Broken, Verdict};
use super::world::{Edit, Replica, edit};
use super::*;
use crate::store::Follower;

/// The client's side of a history.
pub(super) trait Client {
    /// A new stream: what was on its way is lost, and the first requests go out.
    fn connect(&mut self);
    /// Requests that are not delivered yet.
    fn outbox(&mut self) -> &mut VecDeque<Request>;
    fn receive(&mut self, response: &Response);
    /// It changes its mind, where it has one.
    fn whim(&mut self, dice: u64);
    /// Its own timers run out. Returns whether any did.
    fn lose_patience(&mut self, session: &Session) -> Result<bool, Broken>;
    /// Judges what it holds once nothing more comes.
    fn at_rest(&self, session: &Session) -> Verdict;
}

/// The server's side of one stream. The honest one hands everything on to its session; mutants do not.
pub(super) trait Server {
    /// The session, which snapshots reach undisturbed.
    fn session(&mut self) -> &mut Session;
    fn request(&mut self, request: Request);
    /// What the stream follows from now on, or no longer.
    fn turned(&mut self) -> Vec<(ResourceType, Name, bool)> {
        self.session().turned()
    }
    fn next(&mut self, now: Instant) -> Option<Response>;
}

/// The server as it is.
pub(super) struct Honest(Session);

impl Server for Honest {
    fn session(&mut self) -> &mut Session {
        &mut self.0
    }

    fn request(&mut self, request: Request) {
        self.0.on_request(request).expect("no model breaks the protocol");
    }

    fn next(&mut self, now: Instant) -> Option<Response> {
        self.0.next_response(now)
    }
}

/// Who the client is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Who {
    Envoy(Protocol),
    Grpc,
    Chaos(Protocol),
}

impl Who {
    fn protocol(self) -> Protocol {
        match self {
            Self::Envoy(protocol) | Self::Chaos(protocol) => protocol,
            Self::Grpc => Protocol::StateOfTheWorld,
        }
    }

    fn class(self) -> ProxyClass {
        if self == Self::Grpc { ProxyClass::Grpc } else { ProxyClass::Sidecar }
    }

    fn client(self, dice: u64) -> Box<dyn Client> {
        match self {
            Self::Envoy(protocol) => Box::new(Envoy::new(protocol, dice.is_multiple_of(2))),
            Self::Grpc => Box::new(Grpc::default()),
            Self::Chaos(protocol) => Box::new(Chaos::new(protocol, dice)),
        }
    }
}

/// One step of a history.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// The mesh changes.
    Edit(Edit),
    /// A newer snapshot in which nothing is new.
    Republish,
    /// A source pass ends: so many truths later, and if that is the newest one, it is confirmed.
    Pass(usize),
    /// So many responses may be written.
    Write(u8),
    /// So many responses reach the client.
    Read(u8),
    /// So many requests arrive.
    Hear(u8),
    /// All of that, until nobody has anything to say.
    Calm,
    /// So many milliseconds pass.
    Wait(u64),
    /// The client changes its mind.
    Whim(u64),
    /// The stream is cut, and opened at a replica that is so far behind.
    Cut(usize),
}

/// A history.
#[derive(Clone, Debug)]
pub(super) struct History {
    dice: u64,
    steps: Vec<Step>,
}

pub(super) fn histories() -> impl Strategy<Value = History> {
    let step = prop_oneof![
        10 => edit().prop_map(Step::Edit),
        1 => Just(Step::Republish),
        2 => (1..4_usize).prop_map(Step::Pass),
        8 => (1..5_u8).prop_map(Step::Write),
        8 => (1..5_u8).prop_map(Step::Read),
        8 => (1..6_u8).prop_map(Step::Hear),
        2 => Just(Step::Calm),
        2 => (0..1_500_u64).prop_map(Step::Wait),
        1 => (0..20_000_u64).prop_map(Step::Wait),
        4 => any::<u64>().prop_map(Step::Whim),
        1 => (0..4_usize).prop_map(Step::Cut),
    ];
    let steps = proptest::collection::vec(step, 1..50);
    (any::<u64>(), steps).prop_map(|(dice, steps)| History { dice, steps })
}

/// After the last change, this many responses must be enough.
const ENOUGH: usize = 150;

/// A history while it is played.
struct Play<'a, S> {
    who: Who,
    serve: &'a dyn Fn(Session) -> S,
    server: S,
    client: Box<dyn Client>,
    /// Responses on their way.
    wire: VecDeque<Response>,
    audit: Audit,
    replica: Replica,
    /// How the stream learns that there is something new for it.
    follower: Follower,
    began: Instant,
    now: Instant,
    /// What was said, for those who look for a mistake.
    trace: Option<String>,
}

/// Plays a history to its end, or until an invariant does not hold.
pub(super) fn play<S: Server>(who: Who, history: &History, serve: &dyn Fn(Session) -> S) -> Verdict {
    Play::new(who, history, serve).run(history)
}

fn open<S>(who: Who, replica: &Replica, now: Instant, serve: &dyn Fn(Session) -> S) -> (S, Audit) {
    let terms = Terms { protocol: who.protocol(), only: None, max_names: 1_000 };
    let session = Session::new(terms, replica.slice(who.class()), now);
    (serve(session), Audit::new(terms, who.class(), now))
}

impl<'a, S: Server> Play<'a, S> {
    fn new(who: Who, history: &History, serve: &'a dyn Fn(Session) -> S) -> Self {
        let (now, replica, wire) = (Instant::now(), Replica::new(), VecDeque::new());
        let (server, audit) = open(who, &replica, now, serve);
        let (client, follower) = (who.client(history.dice), replica.follower());
        Self { who, serve, server, client, wire, audit, replica, follower, began: now, now, trace: None }
    }

    /// All its steps, then to rest, then twice cut and to rest again.
    fn run(&mut self, history: &History) -> Verdict {
        self.client.connect();
        for step in &history.steps {
            self.note(|| format!("{step:?}"));
            self.step(step)?;
        }
        self.settle()?;
        // Cut while at rest, and in the middle of whatever follows.
        self.cut((history.dice >> 8) as usize % 4);
        for _ in 0..(history.dice >> 16) % 6 {
            self.hear()?;
            self.write()?;
            self.read();
        }
        self.cut(0);
        self.settle()
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let millis = self.now.duration_since(self.began).as_millis();
            *trace += &format!("{millis:>6} {}\n", line());
        }
    }

    fn step(&mut self, step: &Step) -> Verdict {
        self.now += Duration::from_millis(1);
        match step {
            Step::Edit(edit) => {
                self.replica.edit(edit);
                self.listen();
            }
            Step::Republish => {
                self.replica.republish();
                self.listen();
            }
            Step::Pass(count) => self.pass(*count),
            Step::Write(count) => {
                for _ in 0..*count {
                    self.write()?;
                }
            }
            Step::Read(count) => {
                for _ in 0..*count {
                    self.read();
                }
            }
            Step::Hear(count) => {
                for _ in 0..*count {
                    self.hear()?;
                }
            }
            Step::Calm => _ = self.calm(ENOUGH)?,
            Step::Wait(millis) => self.now += Duration::from_millis(*millis),
            Step::Whim(dice) => self.client.whim(*dice),
            Step::Cut(lag) => self.cut(*lag),
        }
        Ok(())
    }

    /// What is new is taken in if the stream is told of it.
    fn listen(&mut self) {
        if self.follower.concerned().now_or_never().is_some() {
            self.look();
        }
    }

    fn look(&mut self) {
        self.follower.take();
        let slice = self.replica.slice(self.who.class());
        if slice.snapshot().generation != self.server.session().slice().snapshot().generation {
            self.audit.now = self.now;
            self.audit.slice(&slice);
            self.server.session().on_slice(slice);
        }
    }

    fn pass(&mut self, count: usize) {
        if self.replica.lags() {
            self.replica.catch_up(count);
            self.listen();
        }
        if !self.replica.lags() {
            if self.server.session().awaits_confirmation() {
                self.look();
            }
            self.server.session().on_confirmed(self.now);
            self.audit.now = self.now;
            self.audit.confirm();
        }
    }

    fn cut(&mut self, lag: usize) {
        self.note(|| format!("cut, then {lag} behind"));
        self.now += Duration::from_millis(500);
        self.replica.replace(lag);
        self.wire.clear();
        (self.server, self.audit) = open(self.who, &self.replica, self.now, self.serve);
        self.follower = self.replica.follower();
        self.client.connect();
    }

    /// One request arrives, if there is one.
    fn hear(&mut self) -> Result<bool, Broken> {
        let Some(request) = self.client.outbox().pop_front() else { return Ok(false) };
        let kind = ResourceType::from_type_url(&request.type_url).expect("models know the types");
        self.look();
        self.audit.now = self.now;
        self.note(|| format!("> {}", heard(kind, &request)));
        self.audit.request(kind, &request, self.server.session().slice());
        self.server.request(request);
        let turned = self.server.turned();
        if !turned.is_empty() {
            self.follower.follow(&turned);
            self.look();
        }
        invariants::i12_and_i13_subscription(&self.audit, self.server.session(), kind)?;
        invariants::i7_refusals_are_bounded(&self.audit, kind)?;
        Ok(true)
    }

    /// One response is written, if there is one.
    fn write(&mut self) -> Result<bool, Broken> {
        let Some(response) = self.server.next(self.now) else {
            invariants::i9_waits_for_the_future(self.server.session(), self.now)?;
            return Ok(false);
        };
        self.audit.now = self.now;
        self.note(|| format!("< {}", written(&response)));
        invariants::each_response(&self.audit, &response, self.server.session().slice())?;
        self.audit.response(&response);
        self.audit.note_absent(self.server.session().slice());
        self.wire.push_back(response);
        Ok(true)
    }

    /// One response reaches the client, if there is one.
    fn read(&mut self) -> bool {
        let response = self.wire.pop_front();
        response.is_some_and(|response| {
            self.client.receive(&response);
            true
        })
    }

    /// Until nobody has anything to say, with no time passing. Returns the number of responses.
    fn calm(&mut self, limit: usize) -> Result<usize, Broken> {
        let mut rounds = 0;
        loop {
            while self.read() {}
            while self.hear()? {}
            if !self.write()? {
                return Ok(rounds);
            }
            rounds += 1;
            invariants::i8_comes_to_rest(rounds, limit)?;
        }
    }

    /// Nothing changes any more; every deadline passes; all that must then hold is judged.
    fn settle(&mut self) -> Verdict {
        self.note(|| "settle".to_owned());
        self.now += Duration::from_millis(1);
        self.pass(usize::MAX / 2);
        let mut rounds = 0;
        loop {
            rounds += self.calm(ENOUGH)?;
            invariants::i8_comes_to_rest(rounds, ENOUGH)?;
            if let Some(deadline) = self.server.session().next_deadline() {
                self.now = deadline;
            } else if !self.client.lose_patience(self.server.session())? {
                break;
            }
        }
        let honest = !matches!(self.who, Who::Chaos(_));
        let session = self.server.session();
        invariants::i8_the_innocent_are_served(&self.audit, session, honest)?;
        self.client.at_rest(session)?;
        invariants::at_rest(&self.audit, session)?;
        invariants::i1_is_told_of_what_it_wants(session, &self.replica.slice(self.who.class()))?;
        self.replica.republish();
        self.look();
        let silent = self.server.next(self.now + Duration::from_secs(60)).is_none();
        invariants::ensure("I2", silent, || "nothing is new, and something is sent".to_owned())
    }
}

/// Plays so many histories, always the same ones, or `PROPTEST_CASES` others; fails with the shortest that breaks
/// an invariant.
fn always(who: Who, cases: u32) {
    let more = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    let mut runner = runner(more.unwrap_or(cases), more.is_none());
    let result = runner.run(&histories(), |history| {
        let verdict = play(who, &history, &Honest);
        verdict.map_err(|broken| TestCaseError::fail(format!("{}: {}", broken.rule, broken.what)))
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, history)) => {
            let mut again = Play::new(who, &history, &Honest);
            again.trace = Some(String::new());
            let _ = again.run(&history);
            panic!("{who:?}: {reason}\n{history:#?}\n{}", again.trace.unwrap_or_default());
        }
        Err(TestError::Abort(reason)) => panic!("{who:?}: {reason}"),
    }
}

/// A source of random histories, or of the same in each run.
pub(super) fn runner(cases: u32, same: bool) -> TestRunner {
    // The default one takes most of the time of a debug build.
    let rng_algorithm = RngAlgorithm::XorShift;
    let config =
        ProptestConfig { cases, failure_persistence: None, rng_algorithm, ..ProptestConfig::default() };
    if same {
        TestRunner::new_with_rng(config, TestRng::deterministic_rng(rng_algorithm))
    } else {
        TestRunner::new(config)
    }
}

/// A request in one line.
fn heard(kind: ResourceType, request: &Request) -> String {
    let Request { names, presented, nonce, error, .. } = request;
    format!("{kind:?} {names:?} presented {:?} nonce {nonce:?} {error:?}", presented.keys())
}

/// A response in one line.
fn written(response: &Response) -> String {
    let Response { kind, nonce, resources, removed, missing, .. } = response;
    let ends = resources.iter().map(|it| {
        let any = String::from_utf8_lossy(&it.any);
        let end = any.chars().rev().take_while(|c| !c.is_control()).collect::<Vec<_>>();
        format!("{}={}", it.name, end.into_iter().rev().take(20).collect::<String>())
    });
    format!("{kind:?} {nonce} {:?} removed {removed:?} missing {missing:?}", ends.collect::<Vec<_>>())
}

#[test]
fn whatever_happens_envoy_by_delta_holds_what_is_served() {
    always(Who::Envoy(Protocol::Delta), 2_500);
}

#[test]
fn whatever_happens_envoy_by_state_of_the_world_holds_what_is_served() {
    always(Who::Envoy(Protocol::StateOfTheWorld), 2_500);
}

#[test]
fn whatever_happens_grpc_holds_what_is_served() {
    always(Who::Grpc, 2_500);
}

#[test]
fn whatever_a_client_does_by_delta_every_response_is_right() {
    always(Who::Chaos(Protocol::Delta), 1_500);
}

#[test]
fn whatever_a_client_does_by_state_of_the_world_every_response_is_right() {
    always(Who::Chaos(Protocol::StateOfTheWorld), 1_500);
}
