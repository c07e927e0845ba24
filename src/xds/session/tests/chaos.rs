//! A client that keeps to the letter of the protocol and to nothing else.
//!
//! It asks for anything in any order, drops what it never asked for, presents versions that it does not hold,
//! answers late, never, with stale nonces, or with refusals of anything that name anyone.
//!
//! Invariant: what it does follows from the dice alone, so that a history can be played again.

use std::collections::VecDeque;

use super::history::Client;
use super::invariants::{Broken, Verdict};
use super::world::{CLUSTERS, LISTENERS, name};
use super::*;

/// How it answers, as a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Temper {
    Never,
    Refuses,
    Fickle,
}

/// The client.
pub(super) struct Chaos {
    protocol: Protocol,
    temper: Temper,
    dice: u64,
    unanswered: Vec<(ResourceType, String, Vec<Name>)>,
    /// The names of each type, for state of the world.
    names: HashMap<ResourceType, Vec<String>>,
    outbox: VecDeque<Request>,
}

impl Chaos {
    pub(super) fn new(protocol: Protocol, dice: u64) -> Self {
        let temper = [Temper::Never, Temper::Refuses, Temper::Fickle, Temper::Fickle][(dice % 4) as usize];
        let (unanswered, names, outbox) = (Vec::new(), HashMap::new(), VecDeque::new());
        Self { protocol, temper, dice, unanswered, names, outbox }
    }

    /// A number below `limit`.
    fn roll(&mut self, limit: u64) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % limit
    }

    fn kind(&mut self) -> ResourceType {
        ResourceType::ALL[self.roll(5) as usize]
    }

    fn some_names(&mut self, kind: ResourceType, at_most: u64) -> Vec<String> {
        let count = self.roll(at_most + 1);
        let limit = if matches!(kind, Listener | Route) { LISTENERS } else { CLUSTERS };
        let mut names = Vec::new();
        for _ in 0..count {
            names.push(match self.roll(8) {
                0 => "*".to_owned(),
                1 => "phantom".to_owned(),
                _ => name(kind, self.roll(u64::from(limit) + 1) as u8).to_string(),
            });
        }
        names
    }

    fn ask(&mut self) {
        let kind = self.kind();
        let (add, drop) = (self.some_names(kind, 3), self.some_names(kind, 2));
        let mut presented = HashMap::new();
        let lies = if self.protocol == Protocol::Delta { self.some_names(kind, 2) } else { Vec::new() };
        for name in lies {
            let version = self.roll(3).to_string();
            presented.insert(name, version.repeat(16));
        }
        let names = match self.protocol {
            Protocol::Delta => Names::Increment(add, drop),
            Protocol::StateOfTheWorld => Names::All(add),
        };
        if let Names::All(names) = &names {
            self.names.insert(kind, names.clone());
        }
        let nonce = self.roll(12);
        let nonce = if nonce < 6 { String::new() } else { nonce.to_string() };
        self.outbox.push_back(Request {
            type_url: kind.type_url().to_owned(),
            names,
            resumed: !presented.is_empty(),
            presented,
            nonce,
            error: None,
        });
    }

    fn answer(&mut self, refuse: bool) {
        if self.unanswered.is_empty() {
            return;
        }
        let which = match self.roll(2) {
            0 => 0,
            _ => self.roll(self.unanswered.len() as u64) as usize,
        };
        let (kind, nonce, members) = self.unanswered.remove(which);
        let culprit = members.first().map_or("nobody", |name| name);
        let text = if self.roll(2) == 0 { format!("{culprit}: no") } else { "no".to_owned() };
        let names = match self.protocol {
            Protocol::Delta => Names::Increment(Vec::new(), Vec::new()),
            Protocol::StateOfTheWorld => Names::All(self.names.get(&kind).cloned().unwrap_or_default()),
        };
        let (type_url, error) = (kind.type_url().to_owned(), refuse.then_some(text));
        self.outbox.push_back(Request { type_url, names, nonce, error, ..Request::default() });
    }
}

impl Client for Chaos {
    fn connect(&mut self) {
        self.outbox.clear();
        self.unanswered.clear();
        self.names.clear();
    }

    fn outbox(&mut self) -> &mut VecDeque<Request> {
        &mut self.outbox
    }

    fn receive(&mut self, response: &Response) {
        let members = response.resources.iter().map(|resource| resource.name.clone()).collect();
        self.unanswered.push((response.kind, response.nonce.to_string(), members));
        match (self.temper, self.roll(4)) {
            (Temper::Never, _) | (Temper::Fickle, 0) => {}
            (Temper::Refuses, _) | (Temper::Fickle, 1) => self.answer(true),
            (Temper::Fickle, _) => self.answer(false),
        }
    }

    fn whim(&mut self, dice: u64) {
        self.dice ^= dice;
        for _ in 0..=self.roll(3) {
            self.ask();
        }
        if self.temper == Temper::Fickle {
            let refuse = self.roll(3) == 0;
            self.answer(refuse);
        }
    }

    fn lose_patience(&mut self, _session: &Session) -> Result<bool, Broken> {
        Ok(false)
    }

    fn at_rest(&self, _session: &Session) -> Verdict {
        Ok(())
    }
}
