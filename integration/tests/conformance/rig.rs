//! A server over a services file that the case writes, and clients that know what is in it.
//!
//! It makes no promises about what clients are sent. Invariant: a file is replaced whole, and a server that
//! panicked, or did not end when asked, fails its case.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use integration::control_plane::{ControlPlane, Setup, Sources};
use integration::http;
use integration::probe::{Client, Held, Kind, Probe, Protocol, Response};
use serde_json::Value;

use crate::case::Context;

/// The service whose routes tell that a publication has arrived; the last by name.
const SENTINEL: &str = "zz";
/// The first endpoint's address, and the port of every service and endpoint.
const PORT: u16 = 8080;

/// One service.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    /// `http`, `tcp` and so on.
    pub(crate) protocol: &'static str,
    /// Of connections, in seconds: part of the cluster and of the listener.
    pub(crate) idle: u32,
    /// Of requests, in seconds: part of the routes.
    pub(crate) request: u32,
    /// The last byte of each host's address, and what goes before it.
    pub(crate) hosts: Vec<Ipv4Addr>,
}

/// What a services file says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Services(pub(crate) BTreeMap<String, Service>);

/// The name of a service's cluster and load assignment.
pub(crate) fn full(service: &str) -> String {
    format!("prod/{service}")
}

/// The name of a service's listener.
pub(crate) fn listener(service: &str) -> String {
    format!("prod/{service}:{PORT}")
}

/// The name of the routes of a service's listener.
pub(crate) fn routes(service: &str) -> String {
    listener(service)
}

/// The name of the sentinel's routes: for gRPC they are the service's.
fn sentinel(probe: &Probe) -> String {
    if probe.is_grpc() { full(SENTINEL) } else { routes(SENTINEL) }
}

/// The name of a service's resource of that type; `*` is itself.
pub(crate) fn name(kind: Kind, service: &str) -> String {
    match (kind, service) {
        (_, "*") => "*".to_owned(),
        (Kind::Listener, service) => listener(service),
        (Kind::Route, service) => routes(service),
        (_, service) => full(service),
    }
}

impl Services {
    /// These HTTP services, of two hosts each.
    pub(crate) fn of(names: &[&str]) -> Self {
        let mut services = Self::default();
        names.iter().for_each(|name| services.add(name));
        services
    }

    /// So many, called `s0000` and on.
    pub(crate) fn many(count: usize) -> Self {
        let mut services = Self::default();
        (0..count).for_each(|number| services.add(&format!("s{number:04}")));
        services
    }

    /// Adds an HTTP service of two hosts.
    pub(crate) fn add(&mut self, name: &str) {
        self.get(name);
    }

    /// Removes a service.
    pub(crate) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// A service, which is an HTTP service of two hosts if it is new.
    pub(crate) fn get(&mut self, name: &str) -> &mut Service {
        let number = u8::try_from(self.0.len() % 250).unwrap_or_default();
        self.0.entry(name.to_owned()).or_insert_with(|| {
            let hosts = [1, 2].map(|last| Ipv4Addr::new(10, 7, number, last)).to_vec();
            Service { protocol: "http", idle: 60, request: 15, hosts }
        })
    }

    /// Changes the cluster, the listener and the routes of a service.
    pub(crate) fn touch(&mut self, name: &str) {
        let service = self.get(name);
        service.idle += 1;
        service.request += 1;
    }

    /// Changes the load assignment of a service, and nothing else.
    pub(crate) fn rehost(&mut self, name: &str) {
        for host in &mut self.get(name).hosts {
            let [a, b, c, d] = host.octets();
            *host = Ipv4Addr::new(a, b.wrapping_add(1), c, d);
        }
    }

    /// The names of the clusters, load assignments and routes.
    pub(crate) fn names(&self) -> Vec<String> {
        self.0.keys().map(|name| full(name)).collect()
    }

    /// The file.
    pub(crate) fn yaml(&self) -> String {
        let mut text = String::from("services:\n");
        if self.0.is_empty() {
            return String::from("services: {}\n");
        }
        for (name, service) in &self.0 {
            let Service { protocol, idle, request, hosts } = service;
            let _ = writeln!(text, "  {name}:\n    aliases: [{{ name: {name}, port: {PORT} }}]");
            let request = if *protocol == "tcp" { String::new() } else { format!("request: {request}s, ") };
            let _ = writeln!(text, "    appProtocol: {protocol}\n    timeouts: {{ {request}idle: {idle}s }}");
            let hosts: Vec<_> =
                hosts.iter().map(|host| format!("{{ address: {host}, port: {PORT}, zone: z }}")).collect();
            let _ = writeln!(text, "    endpoints: [{}]", hosts.join(", "));
        }
        text
    }
}

/// A running server and the file that it reads.
pub(crate) struct Rig {
    pub(crate) server: ControlPlane,
    pub(crate) services: Services,
    protocol: Protocol,
    file: PathBuf,
}

impl Rig {
    /// A server over these services and the sentinel, ready.
    pub(crate) async fn start(context: &Context, services: Services) -> anyhow::Result<Self> {
        Self::start_with(context, "server", services, |setup| setup).await
    }

    /// The same, in a folder of that name, with other settings.
    pub(crate) async fn start_with(
        context: &Context,
        room: &str,
        mut services: Services,
        settings: impl FnOnce(Setup) -> Setup,
    ) -> anyhow::Result<Self> {
        services.add(SENTINEL);
        let mut rig = Self::prepare(context, room, services, settings)?;
        rig.write()?;
        rig.server.run().await?;
        rig.server.ready().await?;
        Ok(rig)
    }

    /// A server that does not run yet, over a file that is not there yet, without a sentinel.
    pub(crate) fn prepare(
        context: &Context,
        room: &str,
        services: Services,
        settings: impl FnOnce(Setup) -> Setup,
    ) -> anyhow::Result<Self> {
        let folder = context.room(room)?;
        let file = context.room(&format!("{room}-files"))?.join("services.yaml");
        let sources = Sources { files: vec![file.clone()], ..Sources::default() };
        let setup = settings(Setup::files().namespace("prod", sources));
        let server = ControlPlane::prepare(&folder, &setup)?;
        Ok(Self { server, services, protocol: context.protocol, file })
    }

    /// Puts text into the place of the services file, whole at once.
    pub(crate) fn write_text(&self, text: &str) -> anyhow::Result<()> {
        let draft = self.file.with_extension("draft");
        let written = std::fs::write(&draft, text).and_then(|()| std::fs::rename(draft, &self.file));
        written.with_context(|| format!("writing {}", self.file.display()))
    }

    /// Writes the services as they are now.
    pub(crate) fn write(&self) -> anyhow::Result<()> {
        self.write_text(&self.services.yaml())
    }

    /// Changes the services and writes them.
    pub(crate) fn publish(&mut self, edit: impl FnOnce(&mut Services)) -> anyhow::Result<()> {
        edit(&mut self.services);
        self.write()
    }

    /// Changes the services and returns everything that a client was sent because of that, ending with the
    /// sentinel's routes, which come last. The client must watch.
    pub(crate) async fn publish_to(
        &mut self,
        probe: &mut Probe,
        edit: impl FnOnce(&mut Services),
    ) -> anyhow::Result<Vec<Response>> {
        self.publish(|services| {
            edit(services);
            services.get(SENTINEL).request += 1;
        })?;
        let name = sentinel(probe);
        probe.collect("the sentinel", |it| it.kind == Kind::Route && it.resources.contains_key(&name)).await
    }

    /// Makes a client watch the sentinel.
    pub(crate) async fn watch(&self, probe: &mut Probe) -> anyhow::Result<()> {
        probe.subscribe(Kind::Route, &[sentinel(probe)]);
        let answer = probe.answer(Kind::Route).await?;
        ensure!(answer.names() == [sentinel(probe)], "the sentinel and more: {}", answer.told());
        Ok(())
    }

    /// A client of the case's protocol.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.server.xds(), self.protocol)
    }

    /// A stream of it.
    pub(crate) async fn open(&self) -> anyhow::Result<Probe> {
        self.client().open().await
    }

    /// A stream that has started up as Envoy does and holds everything.
    pub(crate) async fn open_started(&self) -> anyhow::Result<Probe> {
        let mut probe = self.open().await?;
        self.start_up(&mut probe).await?;
        Ok(probe)
    }

    /// Starts a stream up as Envoy does, until it holds everything.
    pub(crate) async fn start_up(&self, probe: &mut Probe) -> anyhow::Result<()> {
        let count = self.services.0.len();
        probe.start_up(count, count + 1).await?;
        self.is_all(&probe.held)
    }

    /// Whether a client holds exactly what there is.
    pub(crate) fn is_all(&self, held: &Held) -> anyhow::Result<()> {
        let names = self.services.names();
        ensure!(held.names(Kind::Cluster) == names, "clusters {:?}", held.names(Kind::Cluster));
        ensure!(held.names(Kind::Endpoint) == names, "assignments {:?}", held.names(Kind::Endpoint));
        let mut listeners: Vec<_> = self.services.0.keys().map(|name| listener(name)).collect();
        listeners.push("prod/@http-proxy".to_owned());
        listeners.sort();
        ensure!(held.names(Kind::Listener) == listeners, "listeners {:?}", held.names(Kind::Listener));
        let http = self.services.0.iter().filter(|(_, service)| service.protocol != "tcp");
        let mut routes: Vec<_> = http.map(|(name, _)| routes(name)).collect();
        routes.push("prod/@http-proxy".to_owned());
        routes.sort();
        ensure!(held.names(Kind::Route) == routes, "routes {:?}", held.names(Kind::Route));
        Ok(())
    }

    /// How often the source whose name ends so has been read completely.
    pub(crate) async fn readings(&self, source: &str) -> anyhow::Result<u64> {
        let status = self.server.api("status").await?;
        let sources = status["item"]["sources"].as_array().context("no sources")?;
        let named = |it: &&Value| it["name"].as_str().is_some_and(|name| name.ends_with(source));
        let found = sources.iter().find(named).with_context(|| format!("no source {source} in {status}"))?;
        found["readings"].as_u64().context("no count of readings")
    }

    /// The sum of a metric over its labels.
    pub(crate) async fn metric(&self, metric: &str) -> anyhow::Result<u64> {
        let text = http::get_ok(self.server.metrics(), "/metrics").await?.text();
        let samples = text.lines().filter_map(|line| line.strip_prefix(metric));
        let own = samples.filter(|rest| rest.starts_with(['{', ' ']));
        let values = own.filter_map(|rest| rest.rsplit(' ').next()?.parse::<u64>().ok());
        Ok(values.sum())
    }

    /// Ends the server, if nothing went wrong inside.
    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        self.server.stop().await?;
        let log = self.server.log()?;
        let panic = log.lines().find(|line| line.contains("panicked"));
        ensure!(panic.is_none(), "the server panicked: {panic:?}");
        Ok(())
    }
}

/// The names that responses of one type carry, each response apart.
pub(crate) fn sent(responses: &[Response], kind: Kind) -> Vec<Vec<&str>> {
    responses.iter().filter(|it| it.kind == kind).map(Response::names).collect()
}
