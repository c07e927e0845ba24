//! Both routers over a hand-made state.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::http::{Request, Response, StatusCode, header};
use serde_json::Value;
use tower::ServiceExt as _;

use super::*;
use crate::changes::Withdrawal;
use crate::mesh::Joiner;
use crate::model::{Finding, Namespace, Reason, ServiceKey};
use crate::policy::watch::Loaded;
use crate::snapshot::{ProxyClass, ResourceType, Slice, Snapshot, Tables, Version};
use crate::source::{CellWriter, SourceError, cell, file};
use crate::store::{Follower, Writer, store};
use crate::telemetry::{Metrics, TypeLabels};
use crate::translate::Translator;
use crate::xds::clients::{Connected, Nack, Node, Progress, Registered, Watched};
use crate::xds::session::{self, Names, Protocol, Session, Terms};

mod csds;
pub(crate) mod explain;
mod figures;
mod health;
mod inspection;
mod refusals;
mod sidecars;

const SERVICES: &str = "\
services:
  payments:
    appProtocol: http
    timeouts: { request: 15s }
    endpoints:
      - { address: 10.0.0.1, port: 8080, zone: eu-west-1a, id: payments-1 }
      - { address: 10.0.0.2, port: 8080, zone: eu-west-1b, id: payments-2, health: draining }
      - { address: 10.0.0.3, port: 8080, zone: eu-west-1b, id: payments-3, health: starting }
  ledger:
    aliases: [{ name: ledger, port: 6379 }]
";

/// A world with two sources, of which one has spoken.
pub(crate) struct World {
    pub(crate) state: AdminState,
    writer: Writer,
    mesh: watch::Sender<Arc<Mesh>>,
    ecs: CellWriter,
    cloud_map: CellWriter,
    metrics: Metrics,
    sidecars: Vec<Registered>,
}

fn at(milliseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_600_000 + milliseconds)
}

pub(crate) fn world() -> World {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let (writer, store) = store();
    let (mesh, meshes) = watch::channel(Arc::new(Mesh::default()));
    let (ecs, ecs_cell) = cell("ecs/prod-a");
    let (cloud_map, cloud_map_cell) = cell("cloudmap/prod/map");
    let state = AdminState {
        mesh: meshes,
        policy: watch::channel(Loaded::none()).1,
        store,
        clients: Clients::default(),
        ledger: Ledger::default(),
        cells: vec![ecs_cell, cloud_map_cell],
        queue: None,
        registry: Arc::new(registry),
        stopping: CancellationToken::new(),
        started_at: at(0),
    };
    World { state, writer, mesh, ecs, cloud_map, metrics, sidecars: Vec::new() }
}

fn throttled() -> SourceError {
    let (operation, code) = ("servicediscovery:ListServices".to_owned(), "ThrottlingException".to_owned());
    SourceError { operation, code, message: "Rate\nexceeded".to_owned() }
}

impl World {
    /// Publishes the services of the namespace `prod`.
    pub(crate) fn publish(&self) {
        let namespace = Namespace::from("prod");
        let view = file::parse(Path::new("services.yaml"), SERVICES, &namespace).unwrap();
        self.ecs.publish(view.clone(), Instant::now());
        self.cloud_map.publish(crate::model::View::default(), Instant::now());
        let mut mesh =
            Joiner::new(&BTreeSet::from([namespace.clone()])).join(&[Arc::new(view)], &Arc::default());
        let message = "no port is named `htp`".to_owned();
        mesh.findings.push(Finding { code: "PORT001", object: "service/payments".to_owned(), message });
        let tables = Translator::default().translate(&mesh.namespaces["prod"]);
        self.mesh.send_replace(Arc::new(mesh));
        self.writer.publish(Snapshot::first(namespace, tables, Vec::new(), at(0)));
        self.writer.confirm(Instant::now());
    }

    /// Publishes what follows from the mesh as it is now.
    pub(crate) fn republish(&self) {
        let mesh = Arc::clone(&self.mesh.borrow());
        let tables = Translator::default().translate(&mesh.namespaces["prod"]);
        self.writer.publish(Snapshot::first("prod".into(), tables, Vec::new(), at(0)));
    }

    /// Connects a sidecar that holds `generation`.
    pub(crate) fn connect(&mut self, id: &str, generation: u64, progress: Progress) {
        let session = self.session();
        self.connect_session(id, generation, progress, session);
    }

    /// A session that asked for the endpoints of `prod/payments`.
    pub(crate) fn session(&self) -> Session {
        let empty = || Arc::new(Snapshot::first("prod".into(), Tables::default(), Vec::new(), at(0)));
        let snapshot = self.state.store.latest("prod").unwrap_or_else(empty);
        let slice = Slice::new(snapshot, ProxyClass::Sidecar, "task", &[]);
        let terms = Terms { protocol: Protocol::Delta, only: None, max_names: 100 };
        let mut session = Session::new(terms, slice, Instant::now());
        let names = Names::Increment(vec!["prod/payments".to_owned()], Vec::new());
        let type_url = ResourceType::Endpoint.type_url().to_owned();
        session.on_request(session::Request { type_url, names, ..Default::default() }).unwrap();
        session
    }

    /// Connects a sidecar with a session of its own.
    pub(crate) fn connect_session(
        &mut self,
        id: &str,
        generation: u64,
        progress: Progress,
        session: Session,
    ) {
        let zone = "eu-west-1a".to_owned();
        let connected = Connected {
            stream: self.state.ledger.new_stream(),
            node: Node { id: id.into(), service: "checkout".into(), zone, ..Node::default() },
            namespace: "prod".into(),
            peer: "10.0.9.9:40000".to_owned(),
            connected_at: at(100),
        };
        let follower = Follower::alone(Arc::clone(session.slice().snapshot()));
        let mut watched = Watched::new(session, Arc::new(follower));
        watched.synced = generation;
        watched.types[ResourceType::Endpoint as usize] = progress;
        self.sidecars.push(self.state.clients.register(connected, watched));
    }

    fn withdraw(&self) {
        self.state.ledger.open(Withdrawal {
            service: ServiceKey::new("prod", "payments"),
            instance: "payments-9".into(),
            address: Some([10, 0, 0, 9].into()),
            port: Some(8080),
            reason: Reason::Stopping,
            assignment: "prod/payments".into(),
            generation: 1,
            seen_at: at(1_000),
            published_at: at(1_001),
        });
    }

    pub(crate) async fn admin(&self, path: &str) -> (StatusCode, Value) {
        let request = Request::get(path).header(header::HOST, "localhost:19000").body(Body::empty()).unwrap();
        let (status, text) = text(admin_router(self.state.clone()).oneshot(request).await.unwrap()).await;
        (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}")))
    }

    async fn metrics(&self, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        text(metrics_router(self.state.clone()).oneshot(request).await.unwrap()).await
    }
}

async fn text(response: Response<Body>) -> (StatusCode, String) {
    let status = response.status();
    let bytes = to_bytes(response.into_body(), 1 << 24).await.unwrap();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}
