//! A model of Envoy: delta or state of the world, with everything it does that has stalled other servers.
//!
//! A changed cluster warms until a load assignment comes after it, and meanwhile requests and answers for
//! clusters wait. Names of load assignments are asked for once, however many clusters share them. What absence
//! means is section 2.5 of `xds.md`, what a NACK leaves in force is item 54.
//!
//! Invariant: it knows only what was on the wire; the server's answers are judged by what they do to it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::history::Client;
use super::invariants::{Verdict, ensure, is_empty};
use super::world::{Name, is_bad, is_malformed};
use super::*;

/// One type of subscriptions.
#[derive(Default)]
struct Watch {
    /// Whether it was ever asked for, and whether on this stream.
    wanted: bool,
    requested: bool,
    names: BTreeSet<Name>,
    /// What Envoy would present: it leaves out what it applied from a response that it refused.
    known: BTreeMap<Name, Version>,
    /// What is in force.
    active: BTreeMap<Name, Arc<Resource>>,
    /// Of the newest response of this stream that was accepted.
    nonce: String,
}

/// Envoy.
pub(super) struct Envoy {
    protocol: Protocol,
    watches: [Watch; ResourceType::ALL.len()],
    /// The types in the order in which they were first asked for, which is that of every stream.
    order: Vec<ResourceType>,
    warming: BTreeSet<Name>,
    /// Requests for clusters, until nothing warms.
    paused: Vec<Request>,
    /// Whether clusters were ever answered: listeners come after that.
    started: bool,
    outbox: VecDeque<Request>,
    /// Whether every response so far could be taken.
    alive: Verdict,
}

impl Envoy {
    /// `eager` says whether it asks for load assignments before it knows any cluster, as some versions do.
    pub(super) fn new(protocol: Protocol, eager: bool) -> Self {
        let (watches, warming, started) = (Default::default(), BTreeSet::new(), false);
        let (paused, outbox) = (Vec::new(), VecDeque::new());
        let order = if eager { vec![Cluster, Endpoint] } else { vec![Cluster] };
        Self { protocol, watches, order, warming, paused, started, outbox, alive: Ok(()) }
    }

    fn of(&mut self, kind: ResourceType) -> &mut Watch {
        &mut self.watches[kind as usize]
    }

    fn active(&self, kind: ResourceType) -> &BTreeMap<Name, Arc<Resource>> {
        &self.watches[kind as usize].active
    }

    fn send(&mut self, request: Request) {
        let waits = !self.warming.is_empty() || !self.paused.is_empty();
        if request.type_url == Cluster.type_url() && waits {
            self.paused.push(request);
        } else {
            self.outbox.push_back(request);
        }
    }

    /// A request for this type, with these changes to its names.
    fn request(&mut self, kind: ResourceType, add: &BTreeSet<Name>, drop: &BTreeSet<Name>) -> Request {
        let delta = self.protocol == Protocol::Delta;
        if !self.order.contains(&kind) {
            self.order.push(kind);
        }
        let watch = self.of(kind);
        let first = !watch.requested;
        (watch.wanted, watch.requested) = (true, true);
        let list = |names: &BTreeSet<Name>| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let names = match delta {
            true if first => Names::Increment(list(&watch.names), Vec::new()),
            true => Names::Increment(list(add), list(drop)),
            false => Names::All(list(&watch.names)),
        };
        let known = watch.known.iter().filter(|_| first && delta);
        let presented = known.map(|(name, version)| (name.to_string(), version.to_string())).collect();
        let nonce = if delta { String::new() } else { watch.nonce.clone() };
        let resumed = first && !watch.known.is_empty();
        Request { type_url: kind.type_url().to_owned(), names, presented, resumed, nonce, error: None }
    }

    fn ask_first(&mut self, kind: ResourceType) {
        let request = self.request(kind, &BTreeSet::new(), &BTreeSet::new());
        self.send(request);
    }

    /// What the parents refer to is asked for, and what they don't any more is dropped.
    fn follow(&mut self, parent: ResourceType, child: ResourceType) {
        let parents = self.active(parent).values();
        let wanted: BTreeSet<_> =
            parents.flat_map(|it| &it.depends_on).map(|(_, name)| Name::clone(name)).collect();
        let watch = self.of(child);
        let add = wanted.difference(&watch.names).cloned().collect::<BTreeSet<_>>();
        let drop = watch.names.difference(&wanted).cloned().collect::<BTreeSet<_>>();
        if add.is_empty() && drop.is_empty() {
            return;
        }
        for name in &drop {
            watch.known.remove(name);
            watch.active.remove(name);
        }
        watch.names = wanted;
        let request = self.request(child, &add, &drop);
        self.send(request);
    }

    /// Puts these in force; `record` says whether it presents them when it reconnects.
    fn apply(&mut self, response: &Response, record: bool) {
        let kind = response.kind;
        let removed = self.removed(response);
        for resource in response.resources.iter().filter(|resource| !is_bad(resource)) {
            let name = resource.name.clone();
            if record {
                self.of(kind).known.insert(Name::clone(&name), resource.version);
            }
            let before = self.of(kind).active.insert(Name::clone(&name), Arc::clone(resource));
            let changed = before.is_none_or(|before| before.version != resource.version);
            match kind {
                Cluster if changed => _ = self.warming.insert(name),
                Endpoint => self.warmed(&name),
                _ => {}
            }
        }
        for name in removed {
            if record {
                self.of(kind).known.remove(&name);
            }
            match kind {
                Endpoint => self.warmed(&name), // its hosts are kept
                Route if self.alive.is_ok() => {
                    self.alive =
                        ensure("I3", false, || format!("routes {name} are removed: no listener lives"));
                }
                _ => {
                    self.of(kind).active.remove(&name);
                    if kind == Cluster {
                        self.warming.remove(&name);
                    }
                }
            }
        }
    }

    fn removed(&self, response: &Response) -> Vec<Name> {
        let there = |name: &&Name| response.resources.iter().any(|resource| resource.name == **name);
        match self.protocol {
            Protocol::Delta => response.removed.clone(),
            Protocol::StateOfTheWorld if response.kind.has_wildcard() => {
                self.active(response.kind).keys().filter(|name| !there(name)).cloned().collect()
            }
            Protocol::StateOfTheWorld => Vec::new(),
        }
    }

    fn warmed(&mut self, assignment: &Name) {
        let clusters = &self.watches[Cluster as usize].active;
        let waits = |cluster: &Name| {
            clusters.get(cluster).is_some_and(|it| it.depends_on.iter().any(|(_, name)| name == assignment))
        };
        self.warming.retain(|cluster| !waits(cluster));
    }

    /// What follows once nothing warms: clusters are spoken of again, and listeners asked for at last.
    fn unpause(&mut self) {
        if self.warming.is_empty() {
            self.outbox.extend(std::mem::take(&mut self.paused));
            if !self.of(Listener).wanted && self.started {
                self.ask_first(Listener);
            }
        }
    }

    fn answer(&mut self, response: &Response, error: Option<String>) {
        let (delta, nonce) = (self.protocol == Protocol::Delta, response.nonce.to_string());
        let watch = self.of(response.kind);
        if error.is_none() {
            watch.nonce.clone_from(&nonce); // after a NACK it goes on with the one before (item 33)
        }
        let names = watch.names.iter().map(ToString::to_string).collect();
        let names = if delta { Names::Increment(Vec::new(), Vec::new()) } else { Names::All(names) };
        let type_url = response.kind.type_url().to_owned();
        self.send(Request { type_url, names, nonce, error, ..Request::default() });
    }
}

impl Client for Envoy {
    fn connect(&mut self) {
        self.outbox.clear();
        self.paused.clear();
        let mut order = self.order.clone();
        if !self.warming.is_empty() {
            order.sort_by_key(|kind| *kind == Cluster); // clusters wait until nothing warms
        }
        for kind in order {
            self.of(kind).requested = false;
            self.of(kind).nonce.clear();
            self.ask_first(kind);
        }
    }

    fn outbox(&mut self) -> &mut VecDeque<Request> {
        &mut self.outbox
    }

    fn receive(&mut self, response: &Response) {
        let bad = response.resources.iter().find(|resource| is_bad(resource));
        let malformed = response.resources.iter().any(|resource| is_malformed(resource));
        if !malformed {
            self.apply(response, bad.is_none());
        } else if response.kind == Endpoint {
            // Every cluster goes on without, and is answered for before this is refused.
            self.warming.clear();
            self.unpause();
        }
        match response.kind {
            Cluster => {
                self.started = true;
                self.follow(Cluster, Endpoint);
            }
            Listener => self.follow(Listener, Route),
            _ => {}
        }
        let text = |bad: &Arc<Resource>| match malformed {
            true => "Proto constraint validation failed".to_owned(),
            false => format!("Error adding/updating cluster(s) {}: no", bad.name),
        };
        self.answer(response, bad.map(text));
        self.unpause();
    }

    fn whim(&mut self, _dice: u64) {}

    /// Fifteen seconds pass: what still warms goes on without, which only what was refused may make it do.
    fn lose_patience(&mut self, session: &Session) -> Result<bool, super::invariants::Broken> {
        for cluster in &self.warming {
            let assignments = self.active(Cluster)[cluster].depends_on.iter();
            let served = assignments.filter_map(|(_, name)| session.slice().get(Endpoint, name));
            let excused = served.clone().count() == 0 || served.clone().any(|it| is_bad(it));
            ensure("I4", excused, || format!("{cluster} warms for ever"))?;
        }
        let waited = !self.warming.is_empty();
        self.warming.clear();
        self.unpause();
        Ok(waited)
    }

    fn at_rest(&self, session: &Session) -> Verdict {
        if let Err(broken) = &self.alive {
            return ensure(broken.rule, false, || broken.what.clone());
        }
        for kind in [Cluster, Endpoint, Listener, Route] {
            self.i1_convergence(session, kind)?;
        }
        self.i4_no_warming(session)
    }
}

impl Envoy {
    /// I1, the client's half, and I18 after a cut: what is in force is what is served, less what was refused.
    fn i1_convergence(&self, session: &Session, kind: ResourceType) -> Verdict {
        let (watch, slice) = (&self.watches[kind as usize], session.slice());
        let wanted = |name: &&Name| kind.has_wildcard() || watch.names.contains(*name);
        for name in slice.names(kind).filter(wanted) {
            let served = slice.get(kind, name).expect("named");
            let active = watch.active.get(name);
            let equal = active.is_some_and(|active| active.version == served.version);
            // It applied another one from a response that it refused, and presents the older one.
            let unknowable = watch.known.get(name) == Some(&served.version);
            ensure("I1", equal || is_bad(served) || unknowable, || {
                format!("{kind:?} {name} is served, but {active:?} is in force")
            })?;
        }
        // It was applied from a refused response, and then removed while the client was away: only its own load
        // assignment can give it away.
        // And who refused everything since it connected was told nothing (state of the world).
        let told = self.protocol == Protocol::Delta || !watch.nonce.is_empty();
        let own = |name: &Name| kind == Cluster && watch.active[name].depends_on[0].1 == *name;
        let unknowable = |name: &Name| !watch.known.contains_key(name) && !own(name);
        let gone = |name: &&Name| slice.get(kind, name).is_none() && !unknowable(name);
        let stale = watch.active.keys().filter(|_| kind.has_wildcard() && told).find(gone);
        ensure("I1", stale.is_none(), || format!("{kind:?} {stale:?} is gone, but in force"))
    }

    /// I4: no cluster warms, and no listener waits for its routes.
    fn i4_no_warming(&self, session: &Session) -> Verdict {
        ensure("I4", self.warming.is_empty(), || format!("{:?} warm", self.warming))?;
        for listener in self.active(Listener).values() {
            let (_, route) = &listener.depends_on[0];
            let routes = self.active(Route).get(route);
            let served = session.slice().get(Route, route);
            // An older listener is in force, whose routes are gone; or they were refused.
            let excused = served.is_none_or(|served| is_bad(served));
            let right = routes.is_some_and(|routes| served.is_none() || !is_empty(routes));
            ensure("I4", right || excused, || format!("{} waits for its routes", listener.name))?;
        }
        Ok(())
    }
}
