//! A client that refuses at random, on either method of ADS, and what it may expect all the same.
//!
//! It holds what it accepted, subscribes to what that refers to, and comes back when its stream ends.
//! Invariant: at rest it holds the newest of everything, but for what it refused when that came alone: a
//! server need not send that again before it changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tonic::Status;

use crate::wire::{Kind, Method, Received, Response, Wire};

/// Of all responses, in hundredths.
const REFUSED: u8 = 15;
/// Before a closed stream is opened again.
const PAUSE: Duration = Duration::from_millis(300);

/// What is held and what was refused, of one type.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shelf {
    pub(crate) held: BTreeMap<String, Received>,
    /// Refused on this stream when it came alone.
    alone: BTreeSet<(String, u64)>,
    /// Refused on this stream in company.
    together: BTreeSet<(String, u64)>,
    /// How often the same was sent on this stream.
    sent: BTreeMap<(String, u64), u32>,
}

/// What a client has seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notes {
    pub(crate) streams: u64,
    pub(crate) responses: u64,
    pub(crate) refused: u64,
    /// The most that one resource was sent on one stream, the same each time.
    pub(crate) repeats: u32,
    pub(crate) shelves: BTreeMap<Kind, Shelf>,
    nonces: BTreeSet<String>,
    /// What broke the protocol.
    pub(crate) broken: Option<String>,
    /// How the last stream ended.
    pub(crate) ended: String,
}

impl Notes {
    /// The names of this type that what is held refers to.
    pub(crate) fn referred(&self, kind: Kind) -> BTreeSet<String> {
        let from = match kind {
            Kind::Endpoint => Kind::Cluster,
            Kind::Route => Kind::Listener,
            Kind::Cluster | Kind::Listener => return BTreeSet::new(),
        };
        let held = self.shelves.get(&from).into_iter().flat_map(|shelf| shelf.held.values());
        held.flat_map(|it| it.refers.iter().cloned()).collect()
    }

    /// What is held of a type, as a delta client says on a new stream.
    fn versions(&self, kind: Kind) -> HashMap<String, String> {
        let held = self.shelves.get(&kind).into_iter().flat_map(|shelf| shelf.held.values());
        held.map(|it| (it.name.clone(), it.version.clone())).collect()
    }

    /// The version of everything that is held.
    pub(crate) fn all_versions(&self) -> BTreeMap<(Kind, String), String> {
        let shelves = self.shelves.iter();
        let all = shelves.flat_map(|(kind, shelf)| shelf.held.values().map(move |it| (*kind, it)));
        all.map(|(kind, it)| ((kind, it.name.clone()), it.version.clone())).collect()
    }
}

/// A client that runs until it is dropped.
pub(crate) struct Contrary {
    pub(crate) method: Method,
    notes: Arc<Mutex<Notes>>,
    calm: watch::Sender<bool>,
    _stop: DropGuard,
}

impl Contrary {
    /// Begins; a calm one refuses nothing.
    pub(crate) fn start(
        tracker: &TaskTracker,
        server: SocketAddr,
        method: Method,
        namespace: &str,
        rng: Option<Rng>,
    ) -> Self {
        let (stop, notes) = (CancellationToken::new(), Arc::new(Mutex::new(Notes::default())));
        let (calm, mood) = watch::channel(rng.is_none());
        let (token, shared) = (stop.clone(), notes.clone());
        let id = format!("{}-{method:?}", if rng.is_some() { "contrary" } else { "calm" }).to_lowercase();
        let namespace = namespace.to_owned();
        tracker.spawn(async move {
            let mut client = Client { notes: shared, calm: mood, rng: rng.unwrap_or_default(), method };
            let live = async {
                loop {
                    let Err(ended) = client.stream(server, &id, &namespace).await;
                    client.note().ended = ended.to_string();
                    tokio::time::sleep(PAUSE).await;
                }
            };
            token.run_until_cancelled(live).await;
        });
        Self { method, notes, calm, _stop: stop.drop_guard() }
    }

    /// Whether to refuse nothing from now on.
    pub(crate) fn set_calm(&self, calm: bool) {
        self.calm.send_replace(calm);
    }

    pub(crate) fn notes(&self) -> Notes {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How what this one holds differs from what a calm one does.
    pub(crate) fn differences(&self, calm: &Notes) -> Vec<String> {
        let notes = self.notes();
        let mut found: Vec<_> = notes.broken.iter().cloned().collect();
        for (kind, wanted) in &calm.shelves {
            let Some(shelf) = notes.shelves.get(kind) else {
                found.push(format!("no {kind:?} at all; the last stream ended with {}", notes.ended));
                continue;
            };
            let whole = matches!(kind, Kind::Cluster | Kind::Listener);
            let asked = notes.referred(*kind);
            let names: BTreeSet<_> = wanted.held.keys().chain(shelf.held.keys()).collect();
            for name in names {
                let (wanted, held) = (wanted.held.get(name), shelf.held.get(name));
                let same = wanted.map(|it| it.content) == held.map(|it| it.content);
                let forgiven = match wanted {
                    Some(wanted) => self.forgives(shelf, whole, wanted) || (!whole && !asked.contains(name)),
                    // Nothing tells of the end of an assignment or of routes.
                    None => !whole,
                };
                if !same && !forgiven {
                    let versions = (wanted.map(|it| &it.version), held.map(|it| &it.version));
                    found.push(format!("{:?} {kind:?} {name}: wanted and held {versions:?}", self.method));
                }
            }
        }
        found
    }

    /// Whether it refused this itself, so that it need not be sent again. In the state of the world a whole
    /// response is refused, and nobody can tell which of its members is bad.
    fn forgives(&self, shelf: &Shelf, whole: bool, wanted: &Received) -> bool {
        let key = (wanted.name.clone(), wanted.content);
        shelf.alone.contains(&key) || (self.method == Method::Sotw && whole && shelf.together.contains(&key))
    }
}

struct Client {
    notes: Arc<Mutex<Notes>>,
    calm: watch::Receiver<bool>,
    rng: Rng,
    method: Method,
}

impl Client {
    fn note(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One stream, until it ends.
    async fn stream(
        &mut self,
        server: SocketAddr,
        id: &str,
        namespace: &str,
    ) -> Result<std::convert::Infallible, Status> {
        let mut wire = Wire::open(server, self.method, id, namespace).await?;
        let held = {
            let mut notes = self.note();
            notes.streams += 1;
            notes.nonces.clear();
            for shelf in notes.shelves.values_mut() {
                shelf.alone.clear();
                shelf.together.clear();
                shelf.sent.clear();
            }
            notes.versions(Kind::Cluster)
        };
        wire.begin(Kind::Cluster, &BTreeSet::new(), held).await?;
        loop {
            let response = wire.next().await?;
            let refuse = !*self.calm.borrow() && self.is_news(&response) && self.rng.u8(..100) < REFUSED;
            let outcome = self.take(&response, refuse);
            if let Err(broken) = outcome {
                self.note().broken.get_or_insert(broken);
            }
            wire.answer(&response, refuse).await?;
            if !refuse {
                self.follow(&mut wire, response.kind).await?;
            }
        }
    }

    /// Whether there is anything in it that is not held: nobody has grounds to refuse a mere removal.
    fn is_news(&self, response: &Response) -> bool {
        let notes = self.note();
        let shelf = notes.shelves.get(&response.kind);
        let held = |it: &Received| shelf.and_then(|shelf| shelf.held.get(&it.name)).map(|held| held.content);
        response.resources.iter().any(|resource| held(resource) != Some(resource.content))
    }

    /// Notes a response, and takes it unless it is refused.
    fn take(&self, response: &Response, refuse: bool) -> Result<(), String> {
        let mut notes = self.note();
        notes.responses += 1;
        notes.refused += u64::from(refuse);
        let repeated = !notes.nonces.insert(response.nonce.clone()) || response.nonce.is_empty();
        let names: BTreeSet<_> =
            response.resources.iter().map(|it| &it.name).chain(&response.removed).collect();
        let doubled = names.len() != response.resources.len() + response.removed.len();
        let mut repeats = 0;
        let shelf = notes.shelves.entry(response.kind).or_default();
        for resource in &response.resources {
            let key = (resource.name.clone(), resource.content);
            let count = shelf.sent.entry(key.clone()).or_default();
            *count += 1;
            repeats = repeats.max(*count);
            if refuse {
                let alone = response.resources.len() == 1;
                let list = if alone { &mut shelf.alone } else { &mut shelf.together };
                list.insert(key);
            }
        }
        let whole = matches!(response.kind, Kind::Cluster | Kind::Listener);
        if !refuse {
            if self.method == Method::Sotw && whole {
                shelf.held.clear();
            }
            for resource in &response.resources {
                shelf.held.insert(resource.name.clone(), resource.clone());
            }
            for name in &response.removed {
                shelf.held.remove(name);
            }
        }
        if whole && self.method == Method::Delta {
            notes.repeats = notes.repeats.max(repeats);
        }
        match (repeated, doubled) {
            (true, _) => Err(format!("the nonce {:?} came again", response.nonce)),
            (_, true) => Err(format!("a name came twice in {response:?}")),
            _ => Ok(()),
        }
    }

    /// Subscribes to what is referred to, and to listeners once there are clusters.
    async fn follow(&self, wire: &mut Wire, kind: Kind) -> Result<(), Status> {
        let next = match kind {
            Kind::Cluster => Kind::Endpoint,
            Kind::Listener => Kind::Route,
            Kind::Endpoint | Kind::Route => return Ok(()),
        };
        let (names, held, listeners) = {
            let mut notes = self.note();
            let names = notes.referred(next);
            // What is not asked for any more is not told of any more.
            notes.shelves.entry(next).or_default().held.retain(|name, _| names.contains(name));
            (names, notes.versions(next), notes.versions(Kind::Listener))
        };
        if wire.has_begun(next) {
            wire.subscribe(next, &names).await?;
        } else if !names.is_empty() {
            wire.begin(next, &names, held).await?;
        }
        if !wire.has_begun(Kind::Listener) {
            wire.begin(Kind::Listener, &BTreeSet::new(), listeners).await?;
        }
        Ok(())
    }
}
