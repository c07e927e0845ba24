//! One server, three Envoys of different versions, the load that each carries, and the file that is edited.
//!
//! Each Envoy is a sidecar of a namespace of its own, so that its addresses, and with them failures, are its
//! own; all namespaces read the same file, so that each Envoy sees every edit. Invariant: an Envoy reaches the
//! server through its cable only.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use integration::backends::{self, Backends};
use integration::cable::Cable;
use integration::control_plane::{ControlPlane, Setup, Sidecar, Sources};
use integration::envoy::{self, Envoy};
use integration::load::{Load, Plan, Way};
use integration::process::free_ports;
use integration::scene::Scene;
use integration::shop::ServicesFile;
use integration::stage::PROXY;
use integration::wait;
use integration::world::AppProtocol;
use tokio::sync::RwLock;

use crate::mesh::{Mesh, Protocol};
use crate::script::Pool;

/// The last is the one that everything else is tested with.
pub(crate) const VERSIONS: [&str; 3] = ["1.36.2", "1.38.3", "1.40.0"];
/// How long the server may take to know what was written, and an Envoy to hold it.
const SETTLING: Duration = Duration::from_secs(30);
/// Real servers of each loaded service, and how many of them stay.
const SERVERS: u32 = 6;
const STAY: usize = 2;

/// One Envoy with its way to the server and its load.
pub(crate) struct Car {
    pub(crate) version: &'static str,
    pub(crate) namespace: String,
    pub(crate) envoy: Envoy,
    pub(crate) cable: Cable,
    pub(crate) load: Load,
}

pub(crate) struct Stage {
    pub(crate) server: RwLock<ControlPlane>,
    pub(crate) cars: Vec<Car>,
    /// Load through the port that all Envoys share.
    pub(crate) shared: Load,
    file: ServicesFile,
    _backends: Backends,
}

/// The servers behind the load, and ports for aliases that nobody else has.
pub(crate) async fn pools() -> anyhow::Result<(Backends, Vec<Pool>, Vec<u16>)> {
    let backends = Backends::new()?;
    let [web, feed, cache, ports @ ..] = free_ports::<7>()?;
    let mut pools = Vec::new();
    for (name, port, protocol, spoken) in [
        ("web", web, Protocol::Http, Some(AppProtocol::Http)),
        ("feed", feed, Protocol::Http2, Some(AppProtocol::Http2)),
        ("cache", cache, Protocol::Tcp, None),
    ] {
        let addresses = backends.start(name, spoken, SERVERS).await?;
        let servers = addresses.into_iter().map(|address| (address, backends::PORT)).collect();
        pools.push(Pool { name, port, protocol, servers, stay: STAY });
    }
    Ok((backends, pools, ports.to_vec()))
}

fn namespace(version: &str) -> String {
    format!("soak-{}", version.replace('.', "-"))
}

impl Stage {
    /// Starts everything over this first file; every Envoy is LIVE and carries its load.
    pub(crate) async fn open(
        scene: &Scene,
        backends: Backends,
        pools: &[Pool],
        first: &str,
    ) -> anyhow::Result<Self> {
        let file = ServicesFile::new(scene.folder(), first)?;
        let mut setup = Setup::files();
        for version in VERSIONS {
            let sources = Sources { files: vec![file.path().to_owned()], ..Sources::default() };
            setup = setup.namespace(&namespace(version), sources);
        }
        let server = ControlPlane::start(scene.folder(), &setup).await?;
        let mut cars = Vec::new();
        for version in VERSIONS {
            cars.push(car(scene, &server, pools, version).await?);
        }
        let web = pools.first().context("no pool")?;
        let way = Way::proxy("proxy", PROXY, &format!("{}:{}", web.name, web.port)).at_rate(20);
        let envoys = cars.iter().map(|car| car.envoy.admin()).collect();
        let shared = Load::start(Plan { ways: vec![way], envoys }).await?;
        Ok(Self { server: RwLock::new(server), cars, shared, file, _backends: backends })
    }

    /// Writes the file, whole at once.
    pub(crate) fn write(&self, text: &str) -> anyhow::Result<()> {
        self.file.write(text)
    }

    /// Waits until the server knows exactly these services in every namespace.
    pub(crate) async fn known(&self, server: &ControlPlane, mesh: &Mesh) -> anyhow::Result<()> {
        for car in &self.cars {
            let path = format!("namespaces/{}/services", car.namespace);
            wait::until(SETTLING, format!("{} to be what was written", car.namespace), async || {
                let differences = mesh.differences(&server.items(&path).await?);
                anyhow::ensure!(differences.is_empty(), "{differences:#?}");
                Ok(Some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until exactly these services have clusters: one that was removed keeps its cluster for a while.
    pub(crate) async fn settled(&self, server: &ControlPlane, mesh: &Mesh) -> anyhow::Result<()> {
        for car in &self.cars {
            let path = format!("namespaces/{}/resources/clusters", car.namespace);
            let wanted: BTreeSet<_> =
                mesh.services.keys().map(|name| format!("{}/{name}", car.namespace)).collect();
            wait::until(SETTLING, format!("{} to have no other clusters", car.namespace), async || {
                let items = server.items(&path).await?;
                let served: BTreeSet<_> =
                    items.iter().filter_map(|item| item["name"].as_str().map(str::to_owned)).collect();
                anyhow::ensure!(wanted == served, "{:?}", wanted.symmetric_difference(&served));
                Ok(Some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until every namespace's source fails to read the file, or has read what was written last.
    pub(crate) async fn sources(&self, server: &ControlPlane, failing: bool) -> anyhow::Result<()> {
        let what = if failing { "every source to refuse the file" } else { "every source to read the file" };
        let written = jiff::Timestamp::now();
        wait::until(SETTLING, what, async || {
            let status = server.api("status").await?;
            let sources = status["item"]["sources"].as_array().context("no sources")?;
            anyhow::ensure!(sources.len() == self.cars.len(), "{} sources", sources.len());
            for source in sources {
                let as_of: Option<jiff::Timestamp> =
                    source["asOf"].as_str().and_then(|text| text.parse().ok());
                let read = source["failing"].is_null() && as_of.is_some_and(|as_of| as_of > written);
                anyhow::ensure!(if failing { source["failing"].is_object() } else { read }, "{source}");
            }
            Ok(Some(()))
        })
        .await
    }

    /// An error if a request has failed.
    pub(crate) fn flawless(&self) -> anyhow::Result<()> {
        let loads = self.cars.iter().map(|car| (car.version, &car.load));
        let mut failed = Vec::new();
        for (through, load) in loads.chain([("any, by the proxy port", &self.shared)]) {
            if let Err(error) = load.is_flawless() {
                failed.push(format!("through Envoy {through}: {error:#}"));
            }
        }
        anyhow::ensure!(failed.is_empty(), "{}", failed.join("\n"));
        Ok(())
    }
}

/// An Envoy of a namespace of its own, LIVE and under load.
async fn car(
    scene: &Scene,
    server: &ControlPlane,
    pools: &[Pool],
    version: &'static str,
) -> anyhow::Result<Car> {
    let namespace = namespace(version);
    let cable = Cable::lay(server.xds()).await?;
    let sidecar = Sidecar {
        task: format!("soak-{version}"),
        namespace: namespace.clone(),
        service: "client".to_owned(),
        zone: "eu-west-1a".to_owned(),
        container_ports: Vec::new(),
    };
    let bootstrap = server.bootstrap_via(&sidecar, cable.address())?;
    let newest = VERSIONS.last() == Some(&version);
    let binary = if newest { envoy::binary()? } else { envoy::binary_of(version)? };
    let name = format!("envoy-{version}");
    let mut envoy = Envoy::start_binary(&binary, scene.folder(), &name, &bootstrap).await?;
    envoy.live().await?;
    let runs = envoy.version().await?;
    anyhow::ensure!(runs == version, "{} is Envoy {runs}", binary.display());
    let hosts = server.items(&format!("namespaces/{namespace}/hosts")).await?;
    let mut ways = Vec::new();
    for pool in pools {
        let host = hosts.iter().find(|host| host["name"] == pool.name);
        let address = host.and_then(|host| host["address"].as_str()).context("no address")?;
        let address = SocketAddr::from((address.parse::<Ipv4Addr>()?, pool.port));
        let host = format!("{}:{}", pool.name, pool.port);
        ways.push(match pool.protocol {
            Protocol::Http => Way::direct(pool.name, address, &host).at_rate(30),
            Protocol::Http2 | Protocol::Grpc => Way::http2(pool.name, address, &host).at_rate(15),
            Protocol::Tcp => Way::lines(pool.name, address).at_rate(15),
        });
    }
    let load = Load::start(Plan { ways, envoys: vec![envoy.admin()] }).await?;
    Ok(Car { version, namespace, envoy, cable, load })
}
