//! What random histories are about: a small mesh, its edits, and replicas that serve it sooner or later.
//!
//! It is not a client, and checks nothing.
//!
//! Invariant: every snapshot is closed, and equal worlds give equal resources (the very same `Arc`s).

use std::cell::RefCell;

use proptest::prelude::*;

use super::*;
use crate::store::{Follower, Store, Writer, store};

pub(super) use crate::snapshot::Name;

/// What a resource holds, as a client sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Content {
    /// Something that everyone accepts; three of the large ones don't fit into one response.
    Good(u8),
    Large,
    /// Refused, and nothing of its response is applied.
    Malformed,
    /// Refused, and the rest of its response is applied.
    Bad,
}

impl Content {
    fn text(self) -> String {
        match self {
            Self::Good(n) => format!("good{n}"),
            Self::Large => "x".repeat(RESPONSE_BYTES / 2 - 2_000) + "large",
            Self::Malformed => "malformed".to_owned(),
            Self::Bad => "bad".to_owned(),
        }
    }
}

/// Whether clients refuse it. The content stands at the end of the bytes.
pub(super) fn is_bad(resource: &Resource) -> bool {
    resource.any.ends_with(b"bad") || is_malformed(resource)
}

/// Whether clients refuse all that comes with it.
pub(super) fn is_malformed(resource: &Resource) -> bool {
    resource.any.ends_with(b"malformed")
}

pub(super) fn name(kind: ResourceType, index: u8) -> Name {
    let letter = match kind {
        Cluster | Endpoint => 'c', // a load assignment has its cluster's name
        Secret => 's',
        Listener => 'l',
        Route => 'r',
    };
    format!("{letter}{index}").into()
}

/// How many clusters there may be; a load assignment more, which several clusters may share.
pub(super) const CLUSTERS: u8 = 5;
/// How many listeners and how many route configurations there may be.
pub(super) const LISTENERS: u8 = 4;
const SHARED: u8 = CLUSTERS;

#[derive(Clone, Copy, Debug)]
struct ClusterState {
    content: Content,
    shared: bool,
}

#[derive(Clone, Copy, Debug)]
struct RouteState {
    content: Content,
    targets: u8,
}

#[derive(Clone, Copy, Debug)]
struct ListenerState {
    content: Content,
    route: u8,
}

/// The mesh.
#[derive(Clone, Debug)]
pub(super) struct Mesh {
    clusters: [Option<ClusterState>; CLUSTERS as usize],
    assignments: [Content; SHARED as usize + 1],
    listeners: [Option<ListenerState>; LISTENERS as usize],
    routes: [RouteState; LISTENERS as usize],
}

/// A change of the mesh.
#[derive(Clone, Debug)]
pub(super) enum Edit {
    Cluster(u8, Content, bool),
    Assignment(u8, Content),
    Listener(u8, Content, u8),
    Route(u8, Content, u8),
    RemoveCluster(u8),
    RemoveListener(u8),
    /// The service goes on under another name, and routes follow.
    Rename(u8, u8),
    /// A whole service at once, as a source finds it: cluster, listener and routes.
    Service(u8),
    /// A whole service goes at once.
    RemoveService(u8),
    /// Everything that clients refuse is mended.
    Mend,
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        12 => (0..3_u8).prop_map(Content::Good),
        1 => Just(Content::Large),
        1 => Just(Content::Malformed),
        2 => Just(Content::Bad),
    ]
}

pub(super) fn edit() -> impl Strategy<Value = Edit> {
    let cluster = || 0..CLUSTERS;
    let listener = || 0..LISTENERS;
    prop_oneof![
        6 => (cluster(), content(), any::<bool>()).prop_map(|(c, content, s)| Edit::Cluster(c, content, s)),
        6 => (0..=SHARED, content()).prop_map(|(e, content)| Edit::Assignment(e, content)),
        4 => (listener(), content(), listener()).prop_map(|(l, content, r)| Edit::Listener(l, content, r)),
        4 => (listener(), content(), 0..32_u8).prop_map(|(r, content, t)| Edit::Route(r, content, t)),
        2 => cluster().prop_map(Edit::RemoveCluster),
        1 => listener().prop_map(Edit::RemoveListener),
        2 => (cluster(), cluster()).prop_map(|(from, to)| Edit::Rename(from, to)),
        3 => listener().prop_map(Edit::Service),
        2 => listener().prop_map(Edit::RemoveService),
        1 => Just(Edit::Mend),
    ]
}

impl Mesh {
    /// Two services.
    pub(super) fn new() -> Self {
        let route = RouteState { content: Content::Good(0), targets: 0 };
        let mut mesh = Self {
            clusters: Default::default(),
            assignments: [Content::Good(0); SHARED as usize + 1],
            listeners: Default::default(),
            routes: [route; LISTENERS as usize],
        };
        mesh.edit(&Edit::Service(0));
        mesh.edit(&Edit::Service(1));
        mesh
    }

    pub(super) fn edit(&mut self, edit: &Edit) {
        let good = Content::Good(0);
        match *edit {
            Edit::Cluster(c, content, shared) => {
                self.clusters[c as usize] = Some(ClusterState { content, shared });
            }
            Edit::Assignment(e, content) => self.assignments[e as usize] = content,
            Edit::Listener(l, content, route) => {
                self.listeners[l as usize] = Some(ListenerState { content, route });
            }
            Edit::Route(r, content, targets) => self.routes[r as usize] = RouteState { content, targets },
            Edit::RemoveCluster(c) => self.clusters[c as usize] = None,
            Edit::RemoveListener(l) => self.listeners[l as usize] = None,
            Edit::Rename(from, to) => {
                let service = self.clusters[from as usize].take();
                self.clusters[to as usize] = service.or(self.clusters[to as usize]);
                for route in self.routes.iter_mut().filter(|route| route.targets >> from & 1 == 1) {
                    route.targets = (route.targets & !(1 << from)) | 1 << to;
                }
            }
            Edit::Service(n) => {
                self.clusters[n as usize] = Some(ClusterState { content: good, shared: false });
                self.routes[n as usize] = RouteState { content: good, targets: 1 << n };
                self.listeners[n as usize] = Some(ListenerState { content: good, route: n });
            }
            Edit::RemoveService(n) => {
                self.clusters[n as usize] = None;
                self.listeners[n as usize] = None;
            }
            Edit::Mend => self.mend(),
        }
    }

    fn mend(&mut self) {
        let clusters = self.clusters.iter_mut().flatten().map(|it| &mut it.content);
        let listeners = self.listeners.iter_mut().flatten().map(|it| &mut it.content);
        let routes = self.routes.iter_mut().map(|it| &mut it.content);
        for content in clusters.chain(listeners).chain(routes).chain(&mut self.assignments) {
            if matches!(content, Content::Malformed | Content::Bad) {
                *content = Content::Good(9);
            }
        }
    }

    /// What is served; routes to clusters that are not there are left out.
    pub(super) fn tables(&self) -> Tables {
        let mut tables = Tables::default();
        let mut there = 0;
        for (c, cluster) in (0..).zip(&self.clusters) {
            if let Some(ClusterState { content, shared }) = *cluster {
                let e = if shared { SHARED } else { c };
                tables.insert(pooled((Cluster, c, content, e)));
                tables.insert(pooled((Endpoint, e, self.assignments[e as usize], 0)));
                there |= 1 << c;
            }
        }
        for (l, listener) in (0..).zip(&self.listeners) {
            if let Some(ListenerState { content, route }) = *listener {
                let RouteState { content: routes, targets } = self.routes[route as usize];
                tables.insert(pooled((Listener, l, content, route)));
                tables.insert(pooled((Route, route, routes, targets & there)));
            }
        }
        tables
    }
}

/// A resource in short: type, index, content, and what it refers to (an index, for routes a set).
type Key = (ResourceType, u8, Content, u8);

/// Each resource is encoded once in each thread.
fn pooled(key: Key) -> Arc<Resource> {
    thread_local! {
        static POOL: RefCell<HashMap<Key, Arc<Resource>>> = RefCell::default();
    }
    POOL.with_borrow_mut(|pool| Arc::clone(pool.entry(key).or_insert_with(|| Arc::new(encoded(key)))))
}

fn encoded((kind, index, content, to): Key) -> Resource {
    // What it refers to is part of the content.
    let text = format!("{to} {}", content.text());
    let resource = Resource::encode(kind, name(kind, index), &text);
    match kind {
        Cluster => resource.depending_on([(Endpoint, name(Endpoint, to))]),
        Listener => resource.depending_on([(Route, name(Route, to))]),
        Route => {
            let targets = (0..CLUSTERS).filter(|c| to >> c & 1 == 1);
            resource.depending_on(targets.map(|c| (Cluster, name(Cluster, c))))
        }
        Endpoint | Secret => resource,
    }
}

/// The mesh through time, and the replica that the client is connected to.
pub(super) struct Replica {
    /// Every state that was true, the newest last.
    truths: Vec<Mesh>,
    /// Which of them this replica serves.
    at: usize,
    served: (Writer, Store),
    /// Whether the tasks of some other service look different: nothing that anybody is served.
    other: bool,
}

impl Replica {
    pub(super) fn new() -> Self {
        let truths = vec![Mesh::new()];
        let served = Self::first(&truths[0]);
        Self { truths, at: 0, served, other: false }
    }

    fn first(mesh: &Mesh) -> (Writer, Store) {
        let tables = mesh.tables();
        assert_eq!(tables.dangling(), None, "a model of a closed mesh");
        let served = store();
        served.0.publish(Snapshot::first("prod".into(), tables, Vec::new(), SystemTime::UNIX_EPOCH));
        served
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.served.1.latest("prod").expect("it was published")
    }

    pub(super) fn slice(&self, class: ProxyClass) -> Slice {
        Slice::new(self.snapshot(), class, "node", &[])
    }

    /// For a new stream.
    pub(super) fn follower(&self) -> Follower {
        self.served.1.follower("prod", &"node".into()).expect("it was published")
    }

    /// The mesh changes; a replica that lags does not see it yet.
    pub(super) fn edit(&mut self, edit: &Edit) {
        let mut mesh = self.truths.last().unwrap().clone();
        mesh.edit(edit);
        let lags = self.lags();
        self.truths.push(mesh);
        if !lags {
            self.catch_up(1);
        }
    }

    pub(super) fn lags(&self) -> bool {
        self.at + 1 < self.truths.len()
    }

    /// So many more truths are read, of which only the last is seen.
    pub(super) fn catch_up(&mut self, count: usize) {
        self.at = (self.at + count).min(self.truths.len() - 1);
        self.publish();
    }

    fn publish(&mut self) {
        let occupied = self.other.then(|| OccupiedPorts::unit("other".into(), Arc::from([1])));
        let occupied = occupied.into_iter().collect();
        let next = self.snapshot().next(self.truths[self.at].tables(), occupied, SystemTime::UNIX_EPOCH);
        next.into_iter().for_each(|next| self.served.0.publish(next));
    }

    /// A newer snapshot in which nothing is new.
    pub(super) fn republish(&mut self) {
        let before = self.snapshot().generation;
        self.other = !self.other;
        self.publish();
        assert_ne!(self.snapshot().generation, before, "another generation");
    }

    /// Another replica takes over, so far behind; with no lag it may be the same one.
    pub(super) fn replace(&mut self, lag: usize) {
        if lag > 0 || self.lags() {
            self.at = (self.truths.len() - 1).saturating_sub(lag);
            self.other = false;
            self.served = Self::first(&self.truths[self.at]);
        }
    }
}
