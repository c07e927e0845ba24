//! What a stream has said so far, kept apart from the session under test: who is subscribed to what, by the
//! tables of Envoy's `xds_protocol.rst`, what the client was told, and what it must still be told.
//!
//! It judges nothing: `invariants` does.
//!
//! Invariant: it is made from requests and responses alone, never from the session's own state.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::invariants::is_empty;
use super::world::Name;
use super::*;

/// Why a name must be sent even if the client holds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    /// It was asked for by name (item 18).
    Named,
    /// Everything was asked for again.
    Everything,
    /// It was dropped, and a wildcard still covers it (item 20).
    Dropped,
    /// Its cluster was sent (item 58).
    Owed,
}

/// What the client was told last about a name.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// What it holds; `None` if it was told that there is nothing.
    pub(super) version: Option<Version>,
    /// Whether it is sure to have applied that.
    pub(super) sure: bool,
    /// What it was sent, unless it only presented it.
    pub(super) resource: Option<Arc<Resource>>,
}

/// A response without an answer.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) nonce: u64,
    pub(super) at: Instant,
    pub(super) resources: Vec<Arc<Resource>>,
    /// Those that the client did not have.
    pub(super) fresh: BTreeSet<Name>,
    /// Those in short, and whether they were due.
    pub(super) members: Vec<(Name, Version, bool)>,
    pub(super) removed: Vec<Name>,
}

/// How often a version was refused in a search for the bad one.
#[derive(Debug)]
pub(super) struct Rounds {
    pub(super) count: usize,
    pub(super) members: usize,
    /// Responses up to this one were on their way when the last refusal came.
    pub(super) until: u64,
}

/// One type of one stream.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) requested: bool,
    pub(super) wildcard: bool,
    pub(super) ever_named: bool,
    pub(super) names: BTreeSet<Name>,
    pub(super) presented: BTreeSet<Name>,
    pub(super) told: BTreeMap<Name, Told>,
    pub(super) due: BTreeMap<Name, Cause>,
    /// An answer is due even if it is empty (item 50).
    pub(super) reply_due: bool,
    pub(super) flights: VecDeque<Flight>,
    /// Since when there may be something to say: the first word about it, or first other snapshot, since the last
    /// response.
    pub(super) perhaps_since: Option<Instant>,
    /// The same by name, of those that differ from what the client was told.
    pub(super) differs_since: BTreeMap<Name, Instant>,
    /// The content of the newest accepted response, where it is everything.
    pub(super) accepted: BTreeMap<Name, Version>,
    pub(super) ever_refused: bool,
    pub(super) rounds: BTreeMap<(Name, Version), Rounds>,
    /// Every version that was in an accepted response.
    pub(super) ever_accepted: BTreeSet<(Name, Version)>,
    /// Every version that was in a refused response.
    pub(super) refused: BTreeSet<(Name, Version)>,
    /// The error that says that a name is missing was sent.
    pub(super) said_missing: BTreeSet<Name>,
    /// May be sent again as it was: it was gone in between, or something else was in doubt.
    pub(super) may_repeat: BTreeSet<Name>,
}

impl Books {
    pub(super) fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    fn forget(&mut self, name: &Name) {
        self.told.remove(name);
        self.due.remove(name);
        self.said_missing.remove(name);
        self.accepted.remove(name);
    }

    fn retain_wanted(&mut self) {
        let (wildcard, names) = (self.wildcard, self.names.clone());
        let wanted = |name: &Name| wildcard || names.contains(name);
        self.told.retain(|name, _| wanted(name));
        self.due.retain(|name, _| wanted(name));
        self.accepted.retain(|name, _| wanted(name));
        self.said_missing.retain(wanted);
        self.presented.retain(wanted);
    }
}

/// One stream.
#[derive(Debug)]
pub(super) struct Audit {
    pub(super) terms: Terms,
    pub(super) class: ProxyClass,
    pub(super) now: Instant,
    pub(super) confirmed: bool,
    pub(super) opened: Instant,
    /// Whether the client holds something from an earlier stream.
    pub(super) resumed: bool,
    /// Clusters and load assignments that went, also those that came back before they were removed, and since when.
    pub(super) absent: BTreeMap<(ResourceType, Name), Instant>,
    pub(super) books: [Books; ResourceType::ALL.len()],
    pub(super) nonces: BTreeSet<u64>,
    pub(super) generation: u64,
    /// Load assignments of clusters that were sent before any were asked for.
    owed: BTreeSet<Name>,
}

impl Audit {
    pub(super) fn new(terms: Terms, class: ProxyClass, now: Instant) -> Self {
        let (books, nonces, owed) = (Default::default(), BTreeSet::new(), BTreeSet::new());
        let (absent, opened, resumed) = (BTreeMap::new(), now, false);
        let (confirmed, generation) = (false, 0);
        Self { terms, class, now, confirmed, opened, resumed, absent, books, nonces, generation, owed }
    }

    pub(super) fn of(&self, kind: ResourceType) -> &Books {
        &self.books[kind as usize]
    }

    pub(super) fn is_full(&self, kind: ResourceType) -> bool {
        self.terms.protocol == Protocol::StateOfTheWorld && kind.has_wildcard()
    }

    /// Takes in what is served from now on.
    pub(super) fn slice(&mut self, slice: &Slice) {
        for kind in [Secret, Route] {
            let Books { told, may_repeat, .. } = &mut self.books[kind as usize];
            may_repeat.extend(told.keys().filter(|name| slice.get(kind, name).is_none()).cloned());
        }
        for kind in ResourceType::ALL {
            self.forget_others(kind, slice);
            self.forget_refusals(kind, slice);
            self.books[kind as usize].perhaps_since.get_or_insert(self.now);
            self.note_differences(kind, slice);
        }
        if self.resumed {
            self.look_for_orphans(slice);
        }
        self.note_absent(slice);
    }

    /// Takes note of what is not as the client was told.
    fn note_differences(&mut self, kind: ResourceType, slice: &Slice) {
        let books = &mut self.books[kind as usize];
        for name in slice.names(kind).chain(books.told.keys()) {
            let told = books.told.get(name).filter(|told| told.sure).and_then(|told| told.version);
            if told != slice.get(kind, name).map(|it| it.version) || books.due.contains_key(name) {
                books.differs_since.entry(Name::clone(name)).or_insert(self.now);
            }
        }
    }

    /// Takes note that what is not served is really gone.
    pub(super) fn confirm(&mut self) {
        self.confirmed = true;
        for books in &mut self.books {
            books.perhaps_since.get_or_insert(self.now);
        }
    }

    /// What is gone and comes back is as good as new.
    fn forget_refusals(&mut self, kind: ResourceType, slice: &Slice) {
        self.books[kind as usize].rounds.retain(|(name, _), _| slice.get(kind, name).is_some());
    }

    /// Takes note of what the client holds and is not served.
    pub(super) fn note_absent(&mut self, slice: &Slice) {
        for kind in [Cluster, Endpoint] {
            let held = self.of(kind).told.iter().filter(|(_, told)| told.version.is_some() || !told.sure);
            let gone = held.map(|(name, _)| name).filter(|name| slice.get(kind, name).is_none());
            let gone: Vec<_> = gone.map(|name| (kind, Name::clone(name))).collect();
            for key in gone {
                self.absent.entry(key).or_insert(self.now);
            }
        }
    }

    /// What the client presented and neither wants nor has to lose is nobody's business.
    fn forget_others(&mut self, kind: ResourceType, slice: &Slice) {
        let Books { told, wildcard, names, .. } = &mut self.books[kind as usize];
        told.retain(|name, _| *wildcard || names.contains(name) || slice.get(kind, name).is_none());
    }

    /// Takes in a request, whatever its nonce says about the subscription: nothing (I13).
    pub(super) fn request(&mut self, kind: ResourceType, request: &Request, slice: &Slice) {
        let first = !self.of(kind).requested;
        let cut_off = kind == Endpoint && !self.of(Cluster).requested;
        let owed = if first && kind == Endpoint { std::mem::take(&mut self.owed) } else { BTreeSet::new() };
        self.resumed |= first && request.resumed;
        let books = &mut self.books[kind as usize];
        books.requested = true;
        books.perhaps_since.get_or_insert(self.now);
        if first && !cut_off {
            for (name, version) in &request.presented {
                let version = Some(version.parse().unwrap_or(Version::of(kind, b"not a version")));
                books.told.insert(name.as_str().into(), Told { version, sure: true, resource: None });
                books.presented.insert(name.as_str().into());
                // It may be gone for good and come back, as in [`Self::slice`].
                if matches!(kind, Secret | Route) && slice.get(kind, name).is_none() {
                    books.may_repeat.insert(name.as_str().into());
                }
            }
        }
        match &request.names {
            Names::Increment(add, drop) => self.increment(kind, add, drop, first, &owed, slice),
            Names::All(names) => self.replace(kind, names, slice),
        }
        if first {
            self.forget_others(kind, slice);
            self.look_for_orphans(slice);
        }
        if let Ok(nonce) = request.nonce.parse() {
            self.answer(kind, nonce, request.error.as_deref());
            self.forget_refusals(kind, slice);
        }
        self.note_absent(slice);
        self.note_differences(kind, slice);
    }

    /// Who asks for a load assignment or routes that nobody serves may have what they belong to (item 54).
    fn look_for_orphans(&mut self, slice: &Slice) {
        if self.terms.protocol != Protocol::Delta {
            return;
        }
        for (kind, follower) in [(Cluster, Endpoint), (Listener, Route)] {
            let asked = self.of(follower).names.clone();
            let served = |name: &Name| [kind, follower].iter().any(|kind| slice.get(*kind, name).is_some());
            let books = &mut self.books[kind as usize];
            books.perhaps_since.get_or_insert(self.now);
            for name in asked.iter().filter(|name| books.wildcard && !served(name)) {
                let unsure = Told { version: None, sure: false, resource: None };
                let told = books.told.entry(Name::clone(name));
                told.and_modify(|told| told.sure &= told.version.is_some()).or_insert(unsure);
            }
            // And others may be what went while it was away.
            let departed = slice.departed(kind, 0).filter(|_| self.resumed && books.wildcard);
            for name in departed {
                let unsure = Told { version: None, sure: false, resource: None };
                books.told.entry(Name::clone(name)).or_insert(unsure);
            }
        }
    }

    fn legacy(&self, kind: ResourceType) -> bool {
        kind.has_wildcard() && self.class != ProxyClass::Grpc
    }

    fn increment(
        &mut self,
        kind: ResourceType,
        add: &[String],
        drop: &[String],
        first: bool,
        owed: &BTreeSet<Name>,
        slice: &Slice,
    ) {
        let legacy = first && add.is_empty() && self.legacy(kind);
        let books = &mut self.books[kind as usize];
        let star = add.iter().any(|name| name == "*") && kind.has_wildcard();
        if legacy || star {
            (books.wildcard, books.reply_due) = (true, true);
        }
        if star && !first {
            let all = slice.names(kind).map(|name| (Name::clone(name), Cause::Everything));
            books.due.extend(all.collect::<Vec<_>>());
        }
        for name in add.iter().filter(|name| *name != "*") {
            let name: Name = name.as_str().into();
            books.names.insert(Name::clone(&name));
            books.said_missing.remove(&name);
            books.rounds.retain(|(refused, _), _| *refused != name);
            if !(first && books.presented.contains(&name)) || owed.contains(&name) {
                books.due.insert(name, Cause::Named);
            }
        }
        for name in drop {
            if name == "*" {
                (books.wildcard, books.reply_due) = (false, false);
                books.retain_wanted();
            } else if books.names.remove(name.as_str()) {
                let name: Name = name.as_str().into();
                books.forget(&name);
                books.presented.remove(&name);
                if books.wildcard {
                    books.due.insert(name, Cause::Dropped);
                }
            }
        }
    }

    fn replace(&mut self, kind: ResourceType, names: &[String], slice: &Slice) {
        let legacy = self.legacy(kind);
        let books = &mut self.books[kind as usize];
        books.ever_named |= !names.is_empty();
        let star = kind.has_wildcard() && names.iter().any(|name| name == "*");
        let star = star || (legacy && !books.ever_named);
        let all: BTreeSet<Name> =
            names.iter().filter(|name| *name != "*").map(|name| name.as_str().into()).collect();
        let added: Vec<_> = all.difference(&books.names).cloned().collect();
        for name in books.names.difference(&all) {
            if books.due.remove(name).is_some() {
                books.may_repeat.insert(Name::clone(name)); // if a wildcard still covers it
            }
        }
        let began = star && !books.wildcard;
        if books.wildcard && !star {
            books.wildcard = false;
            books.retain_wanted(); // what is named only now is asked for anew
        }
        books.reply_due &= star;
        (books.wildcard, books.names) = (star, all);
        books.retain_wanted();
        if began {
            books.reply_due = true;
            let all = slice.names(kind).map(|name| (Name::clone(name), Cause::Everything));
            books.due.extend(all.collect::<Vec<_>>());
        }
        for name in added {
            books.rounds.retain(|(refused, _), _| *refused != name);
            books.said_missing.remove(&name);
            books.due.insert(name, Cause::Named);
        }
    }

    /// An answer to the response with that nonce and to all before it.
    fn answer(&mut self, kind: ResourceType, nonce: u64, error: Option<&str>) {
        let refused = error.is_some();
        // gRPC names all that it refused and applies the rest (gRFC A46).
        let names_all = self.class == ProxyClass::Grpc;
        let named = |name: &Name| error.is_some_and(|error| error.contains(&format!("resource {name}:")));
        let applied = |name: &Name| names_all && !named(name);
        let (full, last) = (self.is_full(kind), self.nonces.last().copied().unwrap_or_default());
        let books = &mut self.books[kind as usize];
        let Some(place) = books.flights.iter().position(|flight| flight.nonce == nonce) else { return };
        let flights: Vec<_> = books.flights.drain(..=place).collect();
        let (newest, earlier) = flights.split_last().unwrap();
        // A client that passes over a response and refuses one that carries all of it has refused both.
        for flight in
            earlier.iter().filter(|_| refused && full).chain([newest].into_iter().filter(|_| refused))
        {
            books.refuse(flight, last, full && !earlier.is_empty(), &applied);
        }
        if refused {
            books.ever_refused = true;
            return;
        }
        for resource in &newest.resources {
            books.ever_accepted.insert((resource.name.clone(), resource.version));
            let told = books.told.get_mut(&resource.name);
            if let Some(told) = told.filter(|told| told.version == Some(resource.version)) {
                told.sure = true;
            }
        }
        if full {
            let all = newest.resources.iter().map(|it| (it.name.clone(), it.version));
            books.accepted = all.filter(|(name, _)| books.told.contains_key(name)).collect();
        }
    }

    /// Takes in a response that has been judged.
    pub(super) fn response(&mut self, response: &Response) {
        let full = self.is_full(response.kind);
        let (kind, at) = (response.kind, self.now);
        self.nonces.insert(response.nonce);
        self.generation = response.generation;
        let mut clusters = Vec::new();
        let books = &mut self.books[kind as usize];
        // In a search there may be more suspects.
        books.perhaps_since = books.ever_refused.then_some(at);
        books.reply_due = false;
        let (mut members, mut fresh) = (Vec::new(), BTreeSet::new());
        for resource in &response.resources {
            let due = books.due.remove(&resource.name).is_some();
            let new =
                Told { version: Some(resource.version), sure: true, resource: Some(Arc::clone(resource)) };
            let old = books.told.insert(resource.name.clone(), new);
            // What it presented, or accepted before, it goes on serving meanwhile.
            let has = books.presented.contains(&resource.name) || books.accepted.contains_key(&resource.name);
            if !has && old.as_ref().is_none_or(|old| !old.sure || old.version.is_none()) {
                fresh.insert(resource.name.clone());
            }
            let same = old.is_some_and(|old| old.sure && old.version == Some(resource.version));
            let accepted = books.accepted.get(&resource.name) == Some(&resource.version);
            members.push((resource.name.clone(), resource.version, due));
            books.said_missing.remove(&resource.name);
            books.differs_since.remove(&resource.name);
            books.may_repeat.remove(&resource.name);
            // Another version clears the mark of a refused one.
            books.rounds.retain(|(name, version), _| *name != resource.name || *version == resource.version);
            // In a search what is accepted already may stand beside a suspect.
            let (news, search) = (due || !same, full && books.ever_refused);
            if kind == Cluster && (news || search || (full && !accepted)) {
                clusters.push((Arc::clone(resource), (due && !full) || (news && !accepted)));
            }
        }
        let left_out: Vec<_> = match full {
            true => {
                let there: BTreeSet<_> = response.resources.iter().map(|it| &it.name).collect();
                books.told.keys().filter(|name| !there.contains(*name)).cloned().collect()
            }
            false => response.removed.clone(),
        };
        for name in &left_out {
            books.rounds.retain(|(refused, _), _| refused != name);
            books.told.insert(Name::clone(name), Told { version: None, sure: true, resource: None });
        }
        for name in response.removed.iter().chain(&response.missing) {
            books.due.remove(name);
        }
        books.said_missing.extend(response.missing.iter().cloned());
        let (nonce, resources) = (response.nonce, response.resources.clone());
        if books.flights.len() == 64 {
            books.flights.pop_front(); // as many as a session remembers
        }
        let empties = response.resources.iter().filter(|it| is_empty(it)).map(|it| &it.name);
        for name in response.removed.iter().chain(empties) {
            self.absent.remove(&(kind, Name::clone(name)));
        }
        books.flights.push_back(Flight { nonce, at, resources, fresh, members, removed: left_out });
        self.owe(&clusters);
    }

    /// The load assignments of these clusters, and whether they must be sent or just may.
    fn owe(&mut self, clusters: &[(Arc<Resource>, bool)]) {
        let endpoints = &mut self.books[Endpoint as usize];
        for (cluster, must) in clusters {
            for (_, name) in &cluster.depends_on {
                if !endpoints.requested {
                    self.owed.insert(Name::clone(name));
                } else if endpoints.wants(name) && *must {
                    endpoints.due.entry(Name::clone(name)).or_insert(Cause::Owed);
                } else {
                    endpoints.may_repeat.insert(Name::clone(name));
                }
            }
        }
    }
}

impl Books {
    fn refuse(&mut self, flight: &Flight, last: u64, anew: bool, applied: &dyn Fn(&Name) -> bool) {
        // A response that carries everything carries also what was accepted before.
        let accepted = &self.accepted;
        let unproven = |name: &Name, version| !applied(name) && accepted.get(name) != Some(version);
        let members: Vec<_> = flight.members.iter().filter(|(name, it, _)| unproven(name, it)).collect();
        for (name, version, due) in &members {
            self.refused.insert((Name::clone(name), *version));
            let current = self.told.get_mut(name).filter(|told| told.version == Some(*version));
            let Some(told) = current else { continue }; // replaced or gone meanwhile: it means nothing
            told.sure = false;
            let new = Rounds { count: 1, members: members.len(), until: last };
            let rounds = self.rounds.entry((Name::clone(name), *version));
            rounds
                .and_modify(|rounds| {
                    if *due || anew {
                        // One search may be about both responses.
                        (rounds.count, rounds.members) = (1, rounds.members.max(members.len()));
                    } else if flight.nonce > rounds.until {
                        rounds.count += 1;
                    }
                    rounds.until = last;
                })
                .or_insert(new);
        }
        // Taken back again, alone, unless it is of no interest any more.
        let unsure = Told { version: None, sure: false, resource: None };
        for name in flight.removed.iter().filter(|name| self.wildcard || self.names.contains(*name)) {
            let told = self.told.entry(Name::clone(name)).or_insert_with(|| unsure.clone());
            told.sure &= told.version.is_some();
        }
    }
}
