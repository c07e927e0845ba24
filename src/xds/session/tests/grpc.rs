//! A model of a gRPC library: state of the world, each resource by its name, one type leading to the next.
//!
//! Names shrink to none and grow again with nonce and version unchanged (item 123). It applies the valid
//! resources of a response that it refuses and names the others (gRFC A46). A listener or cluster that is left
//! out is gone, and calls fail (item 121).
//!
//! Invariant: it knows only what was on the wire.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::history::Client;
use super::invariants::{Broken, Verdict, ensure, is_empty};
use super::world::{LISTENERS, Name, is_bad, name};
use super::*;

/// What it knows of a resource that it asked for; nothing while it waits.
enum Known {
    Here(Arc<Resource>),
    Missing,
    /// It refused the only one that it was sent: whoever waits for it is told so.
    Refused,
}

#[derive(Default)]
struct Watch {
    names: BTreeSet<Name>,
    known: BTreeMap<Name, Known>,
    /// Of the newest response.
    nonce: String,
}

const CHAIN: [ResourceType; 4] = [Listener, Route, Cluster, Endpoint];

/// A gRPC library with channels to some services.
#[derive(Default)]
pub(super) struct Grpc {
    channels: BTreeSet<Name>,
    watches: [Watch; ResourceType::ALL.len()],
    outbox: VecDeque<Request>,
}

impl Grpc {
    fn say(&mut self, kind: ResourceType, error: Option<String>) {
        let watch = &self.watches[kind as usize];
        let names = Names::All(watch.names.iter().map(ToString::to_string).collect());
        let (type_url, nonce) = (kind.type_url().to_owned(), watch.nonce.clone());
        self.outbox.push_back(Request { type_url, names, nonce, error, ..Request::default() });
    }

    /// Asks for what is referred to now, type by type.
    fn follow(&mut self) {
        let mut wanted = self.channels.clone();
        for kind in CHAIN {
            let watch = &mut self.watches[kind as usize];
            if watch.names != wanted {
                watch.known.retain(|name, _| wanted.contains(name));
                watch.names = std::mem::take(&mut wanted);
                self.say(kind, None);
            }
            let known = self.watches[kind as usize].known.values();
            let here = known.filter_map(|known| match known {
                Known::Here(resource) => Some(&resource.depends_on),
                Known::Missing | Known::Refused => None,
            });
            wanted = here.flatten().map(|(_, name)| Name::clone(name)).collect();
        }
    }
}

impl Client for Grpc {
    fn connect(&mut self) {
        self.outbox.clear();
        for kind in CHAIN {
            self.watches[kind as usize].nonce.clear();
            if !self.watches[kind as usize].names.is_empty() {
                self.say(kind, None);
            }
        }
        if self.channels.is_empty() {
            self.whim(1);
        }
    }

    fn outbox(&mut self) -> &mut VecDeque<Request> {
        &mut self.outbox
    }

    fn receive(&mut self, response: &Response) {
        let watch = &mut self.watches[response.kind as usize];
        watch.nonce = response.nonce.to_string();
        let mut bad = Vec::new();
        for resource in response.resources.iter().filter(|it| watch.names.contains(&it.name)) {
            if is_bad(resource) {
                bad.push(format!("resource {}: no", resource.name));
                watch.known.entry(resource.name.clone()).or_insert(Known::Refused);
            } else {
                watch.known.insert(resource.name.clone(), Known::Here(Arc::clone(resource)));
            }
        }
        if response.kind.has_wildcard() {
            let there: BTreeSet<_> = response.resources.iter().map(|it| &it.name).collect();
            let gone: Vec<_> = watch.known.keys().filter(|name| !there.contains(name)).cloned().collect();
            let missing = response.missing.iter().filter(|name| watch.names.contains(*name)).cloned();
            watch.known.extend(gone.into_iter().chain(missing).map(|name| (name, Known::Missing)));
        }
        let error =
            (!bad.is_empty()).then(|| format!("xDS response validation errors: [{}]", bad.join("; ")));
        self.say(response.kind, error);
        self.follow();
    }

    /// Channels come and go.
    fn whim(&mut self, dice: u64) {
        self.channels = (0..=LISTENERS).filter(|l| dice >> l & 1 == 1).map(|l| name(Listener, l)).collect();
        self.follow();
    }

    fn lose_patience(&mut self, _session: &Session) -> Result<bool, Broken> {
        Ok(false)
    }

    /// I1 and I4: it waits for nothing, and knows what is served, less what it refused.
    fn at_rest(&self, session: &Session) -> Verdict {
        for kind in CHAIN {
            let watch = &self.watches[kind as usize];
            for name in &watch.names {
                let served = session.slice().get(kind, name);
                let right = match (watch.known.get(name), served) {
                    (_, Some(served)) if is_bad(served) => true,
                    (Some(Known::Here(known)), Some(served)) => known.version == served.version,
                    (Some(Known::Missing | Known::Refused), None) => true,
                    // A refused listener left an older one in force, whose routes stay too.
                    (Some(Known::Here(known)), None) => kind == Route || is_empty(known),
                    (Some(Known::Missing | Known::Refused), Some(_)) => false,
                    (None, _) => return ensure("I4", false, || format!("it waits for {kind:?} {name}")),
                };
                ensure("I1", right, || format!("{kind:?} {name}: {served:?} is served"))?;
            }
        }
        Ok(())
    }
}
