//! A small namespace whose services file a test writes itself, with one sidecar.
//!
//! What is sold there is up to the test. Invariant: a reader of the file sees whole files only.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::cable::Cable;
use crate::control_plane::{ControlPlane, Setup, Sidecar, Sources};
use crate::envoy::{Ads, Envoy};
use crate::scene::Scene;

/// The namespace `shop`.
#[derive(Debug)]
pub struct Shop {
    /// Legation.
    pub server: ControlPlane,
    /// The sidecar.
    pub envoy: Envoy,
    file: ServicesFile,
}

/// A services file, in a folder of its own.
#[derive(Debug)]
pub struct ServicesFile {
    file: PathBuf,
    draft: PathBuf,
}

/// A sidecar of nobody that any source knows.
pub fn sidecar(namespace: &str) -> Sidecar {
    Sidecar {
        task: "till-1".to_owned(),
        namespace: namespace.to_owned(),
        service: "till".to_owned(),
        zone: "eu-west-1a".to_owned(),
        container_ports: Vec::new(),
    }
}

impl ServicesFile {
    /// Writes the first content.
    pub fn new(folder: &Path, services: &str) -> anyhow::Result<Self> {
        let room = folder.join("services");
        std::fs::create_dir_all(&room).with_context(|| format!("making {}", room.display()))?;
        // The draft lies elsewhere: the folder of the file is watched.
        let new = Self { file: room.join("services.yaml"), draft: folder.join("draft.yaml") };
        new.write(services)?;
        Ok(new)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// Writes other services, whole at once.
    pub fn write(&self, services: &str) -> anyhow::Result<()> {
        let written = std::fs::write(&self.draft, services);
        written.and_then(|()| std::fs::rename(&self.draft, &self.file)).context("writing services")
    }

    /// A server of one namespace that reads nothing else; it is ready.
    pub async fn serve(&self, folder: &Path, namespace: &str) -> anyhow::Result<ControlPlane> {
        let sources = Sources { files: vec![self.file.clone()], ..Sources::default() };
        ControlPlane::start(folder, &Setup::files().namespace(namespace, sources)).await
    }
}

impl Shop {
    /// Starts the server over `services` and a sidecar, which is LIVE.
    pub async fn open(scene: &Scene, services: &str) -> anyhow::Result<Self> {
        let file = ServicesFile::new(scene.folder(), services)?;
        let server = file.serve(scene.folder(), "shop").await?;
        let bootstrap = server.bootstrap(&sidecar("shop"))?;
        Self::furnish(scene, file, server, &bootstrap).await
    }

    /// As [`Shop::open`], with a cable between the sidecar and the server.
    pub async fn open_by_cable(scene: &Scene, services: &str, ads: Ads) -> anyhow::Result<(Self, Cable)> {
        let file = ServicesFile::new(scene.folder(), services)?;
        let server = file.serve(scene.folder(), "shop").await?;
        let cable = Cable::lay(server.xds()).await?;
        let bootstrap = ads.told(&server.bootstrap_via(&sidecar("shop"), cable.address())?)?;
        Ok((Self::furnish(scene, file, server, &bootstrap).await?, cable))
    }

    async fn furnish(
        scene: &Scene,
        file: ServicesFile,
        server: ControlPlane,
        bootstrap: &str,
    ) -> anyhow::Result<Self> {
        let mut envoy = Envoy::start(scene.folder(), "till", bootstrap).await?;
        envoy.live().await?;
        Ok(Self { server, envoy, file })
    }

    /// Writes other services, whole at once.
    pub fn write(&self, services: &str) -> anyhow::Result<()> {
        self.file.write(services)
    }

    /// Ends it, if nothing went wrong with what Envoy was sent.
    pub async fn close(mut self) -> anyhow::Result<()> {
        let oracle = self.envoy.oracle().await?;
        anyhow::ensure!(oracle.raised.is_empty(), "Envoy raised {:?}", oracle.raised);
        self.envoy.stop().await?;
        self.server.stop().await
    }
}

/// A server at 127.9.9.`last` that answers everything as `router` does.
pub async fn serve(last: u8, router: axum::Router) -> anyhow::Result<SocketAddr> {
    let address = SocketAddr::from((Ipv4Addr::new(127, 9, 9, last), 8080));
    let listener = tokio::net::TcpListener::bind(address).await.context("a server of the shop")?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}
