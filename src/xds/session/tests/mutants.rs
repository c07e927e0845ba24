//! Servers that are broken in the ways of `xds.md`, section 4: each must be caught by the histories, and by an
//! invariant that is about it.
//!
//! They are the honest session with its traffic disturbed: nothing in the product is there for them.
//!
//! Invariant: a mutant that no history catches fails the test.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use proptest::strategy::{Strategy, ValueTree};

use super::history::{Server, Who, histories, play, runner};
use super::*;

/// How a server is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// What was sent once is not sent again to who dropped it and asks again (B3).
    NoResendOnResubscribe,
    /// Clusters are held back until load assignments went out (B8).
    EndpointsFirst,
    /// Load assignments that did not change do not follow their cluster (B7).
    NoEndpointsAfterCluster,
    /// A refused response is sent again (B1).
    ResendAfterNack,
    /// Only what this stream sent is ever removed (B12).
    ForgetRemovalsOnReconnect,
    /// Only what changed is in a response that must be full (B13).
    PartialFull,
    /// After a NACK new names of that type are not heard until something is accepted (B15).
    DeafAfterNack,
    /// Names that come with a stale nonce are not heard (B15).
    DeafToStaleNonces,
    /// No names mean everything, for every type (B16).
    WildcardForAll,
    /// Removals overtake what is said about listeners and routes (B27).
    RemovalsFirst,
    /// Routes don't wait for the clusters that they lead to (item 59).
    RoutesOvertakeClusters,
    /// A load assignment is removed where it should be sent empty, and routes too (B14).
    RemovesRoutes,
    /// Nothing goes out until the last response is answered (item 57).
    WaitsForAcks,
    /// A nonce is made from a version (B32).
    NonceFromVersion,
    /// Every publish sends everything again (B24).
    SendsEverything,
    /// What was built is queued, and sent although something newer is there (B19).
    Queues,
    /// Who asks for what is not there is not told (B5).
    ForgetsWhatIsMissing,
    /// What is asked for is not followed, so that its changes wake nobody.
    SleepsOn,
}

const DELTA_ENVOY: Who = Who::Envoy(Protocol::Delta);
const SOTW_ENVOY: Who = Who::Envoy(Protocol::StateOfTheWorld);
const SOTW_CHAOS: Who = Who::Chaos(Protocol::StateOfTheWorld);
const DELTA_CHAOS: Who = Who::Chaos(Protocol::Delta);

/// Each fault with who must notice it, and an invariant that must catch it.
const MUTANTS: [(Fault, Who, &str); 36] = [
    (Fault::NoResendOnResubscribe, Who::Grpc, "I4"),
    (Fault::NoResendOnResubscribe, DELTA_CHAOS, "I3"),
    (Fault::NoResendOnResubscribe, SOTW_ENVOY, "I4"),
    (Fault::EndpointsFirst, DELTA_ENVOY, "I4"),
    (Fault::EndpointsFirst, SOTW_ENVOY, "I4"),
    (Fault::EndpointsFirst, DELTA_ENVOY, "I2"),
    (Fault::NoEndpointsAfterCluster, DELTA_ENVOY, "I4"),
    (Fault::NoEndpointsAfterCluster, SOTW_ENVOY, "I4"),
    (Fault::NoEndpointsAfterCluster, DELTA_CHAOS, "I6"),
    (Fault::ResendAfterNack, DELTA_ENVOY, "I7"),
    (Fault::ResendAfterNack, SOTW_ENVOY, "I7"),
    (Fault::ResendAfterNack, Who::Grpc, "I7"),
    (Fault::ForgetRemovalsOnReconnect, DELTA_ENVOY, "I1"),
    (Fault::PartialFull, SOTW_ENVOY, "I10"),
    (Fault::PartialFull, Who::Grpc, "I10"),
    (Fault::DeafAfterNack, Who::Grpc, "I13"),
    (Fault::DeafAfterNack, DELTA_ENVOY, "I13"),
    (Fault::DeafToStaleNonces, SOTW_ENVOY, "I13"),
    (Fault::DeafToStaleNonces, DELTA_CHAOS, "I13"),
    (Fault::WildcardForAll, SOTW_ENVOY, "I13"),
    (Fault::RemovalsFirst, DELTA_ENVOY, "I5"),
    (Fault::RemovalsFirst, SOTW_ENVOY, "I5"),
    (Fault::RoutesOvertakeClusters, DELTA_ENVOY, "I5"),
    (Fault::RoutesOvertakeClusters, SOTW_ENVOY, "I5"),
    (Fault::RemovesRoutes, DELTA_CHAOS, "I3"),
    (Fault::WaitsForAcks, DELTA_ENVOY, "I4"),
    (Fault::WaitsForAcks, SOTW_ENVOY, "I4"),
    (Fault::NonceFromVersion, DELTA_ENVOY, "I11"),
    (Fault::SendsEverything, DELTA_CHAOS, "I2"),
    (Fault::SendsEverything, SOTW_CHAOS, "I2"),
    (Fault::Queues, DELTA_ENVOY, "I9"),
    (Fault::Queues, Who::Grpc, "I9"),
    (Fault::ForgetsWhatIsMissing, Who::Grpc, "I4"),
    (Fault::ForgetsWhatIsMissing, DELTA_CHAOS, "I3"),
    (Fault::SleepsOn, DELTA_ENVOY, "I1"),
    (Fault::SleepsOn, SOTW_CHAOS, "I1"),
];

/// A broken server. What it swallows it answers itself, so that the session believes it was sent.
struct Mutant {
    fault: Fault,
    session: Session,
    /// Numbers of its own, and what they stand for in the session.
    nonce: u64,
    nonces: BTreeMap<String, (ResourceType, String)>,
    /// Each resource that went out on this stream.
    sent: BTreeMap<(ResourceType, Name), Arc<Resource>>,
    /// Names of each type, and those of them that were just asked for.
    names: BTreeMap<ResourceType, BTreeSet<String>>,
    asked: BTreeSet<(ResourceType, Name)>,
    refused: BTreeSet<ResourceType>,
    unanswered: BTreeSet<ResourceType>,
    held_back: VecDeque<Response>,
    again: VecDeque<Response>,
    last: BTreeMap<ResourceType, Response>,
}

impl Mutant {
    fn new(fault: Fault, session: Session) -> Self {
        Self {
            fault,
            session,
            nonce: 0,
            nonces: BTreeMap::new(),
            sent: BTreeMap::new(),
            names: BTreeMap::new(),
            asked: BTreeSet::new(),
            refused: BTreeSet::new(),
            unanswered: BTreeSet::new(),
            held_back: VecDeque::new(),
            again: VecDeque::new(),
            last: BTreeMap::new(),
        }
    }

    fn is_full(&self, kind: ResourceType) -> bool {
        self.session.terms().protocol == Protocol::StateOfTheWorld && kind.has_wildcard()
    }

    /// Notes the names of a request, and which of them are new.
    fn note_names(&mut self, kind: ResourceType, request: &Request) {
        let names = self.names.entry(kind).or_default();
        let before = names.clone();
        match &request.names {
            Names::Increment(add, drop) => {
                names.extend(add.iter().cloned());
                drop.iter().for_each(|name| _ = names.remove(name));
            }
            Names::All(all) => *names = all.iter().cloned().collect(),
        }
        let new = names.difference(&before).map(|name| (kind, name.as_str().into()));
        self.asked.extend(new.collect::<Vec<_>>());
    }

    /// Takes the names out of a request, and leaves the answer.
    fn deafen(&self, kind: ResourceType, request: &mut Request) {
        request.names = match &request.names {
            Names::Increment(..) => Names::Increment(Vec::new(), Vec::new()),
            Names::All(_) => Names::All(self.names.get(&kind).into_iter().flatten().cloned().collect()),
        };
    }

    fn is_silent_about(&self, resource: &Arc<Resource>) -> bool {
        let key = (resource.kind, resource.name.clone());
        let before = self.sent.get(&key).is_some_and(|before| before.version == resource.version);
        match self.fault {
            Fault::NoResendOnResubscribe => before && self.asked.contains(&key),
            Fault::NoEndpointsAfterCluster => {
                before && resource.kind == Endpoint && !self.asked.contains(&key)
            }
            Fault::PartialFull => before && self.is_full(resource.kind),
            _ => false,
        }
    }

    /// What the fault leaves of a response; `None` if nothing.
    fn disturb(&mut self, mut response: Response) -> Option<Response> {
        let said = !response.resources.is_empty() || !response.removed.is_empty();
        let (kept, dropped): (Vec<_>, Vec<_>) =
            response.resources.into_iter().partition(|resource| !self.is_silent_about(resource));
        response.resources = kept;
        for resource in response.resources.iter().chain(&dropped) {
            self.asked.remove(&(resource.kind, resource.name.clone()));
        }
        if self.fault == Fault::ForgetsWhatIsMissing {
            response.missing.clear();
            let (sent, kind) = (&self.sent, response.kind);
            response.removed.retain(|name| sent.contains_key(&(kind, Name::clone(name))));
        }
        let empties = response.kind == Route && self.fault == Fault::RemovesRoutes;
        if empties {
            let slice = self.session.slice();
            let there = |it: &Arc<Resource>| slice.get(Route, &it.name).is_some();
            let (kept, gone): (Vec<_>, Vec<_>) = response.resources.into_iter().partition(there);
            response.resources = kept;
            response.removed.extend(gone.iter().map(|resource| resource.name.clone()));
        }
        if self.fault == Fault::ForgetRemovalsOnReconnect {
            let (sent, kind) = (&self.sent, response.kind);
            response.removed.retain(|name| sent.contains_key(&(kind, Name::clone(name))));
        }
        let says = !response.resources.is_empty() || !response.removed.is_empty();
        let swallowed = said && !says && !self.is_full(response.kind) && response.missing.is_empty();
        if swallowed {
            self.accept(response.kind, response.nonce);
            return None;
        }
        for resource in &response.resources {
            self.sent.insert((resource.kind, resource.name.clone()), Arc::clone(resource));
        }
        Some(response)
    }

    /// Answers what the client never saw.
    fn accept(&mut self, kind: ResourceType, nonce: u64) {
        let names = match self.session.terms().protocol {
            Protocol::Delta => Names::Increment(Vec::new(), Vec::new()),
            Protocol::StateOfTheWorld => {
                Names::All(self.names.get(&kind).into_iter().flatten().cloned().collect())
            }
        };
        let (type_url, nonce) = (kind.type_url().to_owned(), nonce.to_string());
        self.session.on_request(Request { type_url, names, nonce, ..Request::default() }).unwrap();
    }

    fn honest(&mut self, now: Instant) -> Option<Response> {
        loop {
            let response = self.session.next_response(now)?;
            if let Some(response) = self.disturb(response) {
                return Some(response);
            }
        }
    }

    /// The next response in the order of the fault.
    fn reordered(&mut self, now: Instant) -> Option<Response> {
        if let Some(again) = self.again.pop_front() {
            return Some(again);
        }
        match self.fault {
            Fault::EndpointsFirst => {
                if self.held_back.is_empty() {
                    let response = self.honest(now)?;
                    if response.kind != Cluster || response.resources.is_empty() {
                        return Some(response);
                    }
                    self.held_back.push_back(response);
                }
                let overtaking = self.session.next_response(now).filter(|response| response.kind == Endpoint);
                match overtaking {
                    Some(overtaking) => self.disturb(overtaking),
                    None => self.held_back.pop_front(),
                }
            }
            Fault::RemovalsFirst => {
                for later in [0, 16, 32].map(|later| now + Duration::from_secs(later)) {
                    while let Some(response) = self.session.next_response(later) {
                        self.held_back.push_back(response);
                    }
                }
                let removal =
                    self.held_back.iter().position(|it| it.kind == Cluster && !it.removed.is_empty());
                self.held_back.remove(removal.unwrap_or(0))
            }
            Fault::Queues => {
                while let Some(response) = self.session.next_response(now) {
                    self.held_back.push_back(response);
                }
                self.held_back.pop_front()
            }
            Fault::RoutesOvertakeClusters => {
                self.honest(now).or_else(|| self.honest(now + Duration::from_secs(16)))
            }
            Fault::SendsEverything => self.honest(now).or_else(|| self.everything()),
            _ => self.honest(now),
        }
    }

    fn is_current(&self, response: &Response) -> bool {
        let (slice, kind) = (self.session.slice(), response.kind);
        let current = |it: &Arc<Resource>| slice.get(kind, &it.name).is_some_and(|is| Arc::ptr_eq(is, it));
        !response.resources.is_empty() && response.resources.iter().all(current)
    }

    /// Once for each generation, the last response of a type again.
    fn everything(&mut self) -> Option<Response> {
        let generation = self.session.slice().snapshot().generation;
        let stale = |it: &&Response| it.generation < generation && self.is_current(it);
        let kind = self.last.values().find(stale)?.kind;
        let response = self.last.get_mut(&kind)?;
        response.generation = generation;
        Some(copy(response))
    }
}

fn copy(response: &Response) -> Response {
    let Response { kind, nonce, generation, version, resources, removed, missing } = response;
    let (resources, removed, missing) = (resources.clone(), removed.clone(), missing.clone());
    Response {
        kind: *kind,
        nonce: *nonce,
        generation: *generation,
        version: *version,
        resources,
        removed,
        missing,
    }
}

impl Server for Mutant {
    fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    fn turned(&mut self) -> Vec<(ResourceType, Name, bool)> {
        let mut turned = self.session.turned();
        turned.retain(|_| self.fault != Fault::SleepsOn);
        turned
    }

    fn request(&mut self, mut request: Request) {
        let kind = ResourceType::from_type_url(&request.type_url).unwrap();
        let meant = self.nonces.get(&request.nonce).filter(|(meant, _)| *meant == kind);
        let stale = !request.nonce.is_empty()
            && self
                .last
                .get(&kind)
                .is_none_or(|last| meant.is_none_or(|(_, nonce)| *nonce != last.nonce.to_string()));
        if let Some((_, nonce)) = meant {
            request.nonce.clone_from(nonce);
            self.unanswered.remove(&kind);
        }
        match &request.error {
            Some(_) => {
                self.refused.insert(kind);
                let refused = self.last.get(&kind).filter(|last| request.nonce == last.nonce.to_string());
                let refused = refused.filter(|_| self.fault == Fault::ResendAfterNack);
                self.again.extend(refused.filter(|last| self.is_current(last)).map(copy));
            }
            None if !request.nonce.is_empty() && !stale => _ = self.refused.remove(&kind),
            None => {}
        }
        let deaf = match self.fault {
            Fault::DeafAfterNack => self.refused.contains(&kind) && request.error.is_none(),
            Fault::DeafToStaleNonces => stale,
            _ => false,
        };
        if deaf && self.names.contains_key(&kind) {
            self.deafen(kind, &mut request);
        }
        self.note_names(kind, &request);
        let nothing = matches!(&request.names, Names::All(names) if names.is_empty());
        if self.fault == Fault::WildcardForAll && nothing && !kind.has_wildcard() {
            let all = self.session.slice().names(kind).map(ToString::to_string).collect();
            request.names = Names::All(all);
        }
        self.session.on_request(request).unwrap();
    }

    fn next(&mut self, now: Instant) -> Option<Response> {
        if self.fault == Fault::WaitsForAcks && !self.unanswered.is_empty() {
            return None;
        }
        let mut response = self.reordered(now)?;
        response.generation = self.session.slice().snapshot().generation;
        let meant = response.nonce;
        self.nonce = match self.fault {
            Fault::NonceFromVersion => response.version.to_string().bytes().map(u64::from).sum(),
            _ => self.nonce + 1,
        };
        self.last.insert(response.kind, copy(&response));
        self.unanswered.insert(response.kind);
        self.nonces.insert(self.nonce.to_string(), (response.kind, meant.to_string()));
        response.nonce = self.nonce;
        Some(response)
    }
}

/// The first of so many histories in which the fault breaks that invariant, and how; without one, any.
fn caught(fault: Fault, who: Who, rule: Option<&str>, cases: u32) -> Option<(u32, String)> {
    let mut runner = runner(cases, true);
    (1..=cases).find_map(|case| {
        let history = histories().new_tree(&mut runner).unwrap().current();
        let verdict = play(who, &history, &|session| Mutant::new(fault, session));
        let broken = verdict.err().filter(|broken| rule.is_none_or(|rule| rule == broken.rule));
        broken.map(|broken| (case, broken.what))
    })
}

#[test]
fn every_broken_server_is_caught_by_the_invariant_that_it_breaks() {
    let mut missed = Vec::new();
    for (fault, who, rule) in MUTANTS {
        match caught(fault, who, Some(rule), 1_000) {
            Some((case, what)) => println!("{fault:?}: case {case} of {who:?}: {rule}, {what}"),
            None => missed.push(format!("{fault:?} breaks {rule}, and no case of {who:?} notices")),
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn a_server_that_is_disturbed_but_not_broken_is_not_caught() {
    // It numbers and copies all the same, and this fault shows only where responses must be full.
    for who in [DELTA_ENVOY, DELTA_CHAOS] {
        assert_eq!(caught(Fault::PartialFull, who, None, 200), None);
    }
}
