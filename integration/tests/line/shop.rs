//! A small namespace whose services file a test writes itself, with one sidecar.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context;
use integration::control_plane::{ControlPlane, Setup, Sidecar, Sources};
use integration::envoy::Envoy;
use integration::scene::Scene;

/// The namespace `shop`.
pub(crate) struct Shop {
    pub(crate) server: ControlPlane,
    pub(crate) envoy: Envoy,
    file: PathBuf,
    draft: PathBuf,
}

/// A sidecar of nobody that any source knows.
pub(crate) fn sidecar(namespace: &str) -> Sidecar {
    Sidecar {
        task: "till-1".to_owned(),
        namespace: namespace.to_owned(),
        service: "till".to_owned(),
        zone: "eu-west-1a".to_owned(),
        container_ports: Vec::new(),
    }
}

impl Shop {
    /// Starts the server over `services` and a sidecar, which is LIVE.
    pub(crate) async fn open(scene: &Scene, services: &str) -> anyhow::Result<Self> {
        let (file, draft) = (scene.room("services")?.join("shop.yaml"), scene.folder().join("draft.yaml"));
        write(&file, &draft, services)?;
        let sources = Sources { files: vec![file.clone()], ..Sources::default() };
        let server = ControlPlane::start(scene.folder(), &Setup::files().namespace("shop", sources)).await?;
        let bootstrap = server.bootstrap(&sidecar("shop"))?;
        let mut envoy = Envoy::start(scene.folder(), "till", &bootstrap).await?;
        envoy.live().await?;
        Ok(Self { server, envoy, file, draft })
    }

    /// Writes other services, whole at once.
    pub(crate) fn write(&self, services: &str) -> anyhow::Result<()> {
        write(&self.file, &self.draft, services)
    }

    /// Ends it, if nothing went wrong with what Envoy was sent.
    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        let oracle = self.envoy.oracle().await?;
        anyhow::ensure!(oracle.raised.is_empty(), "Envoy raised {:?}", oracle.raised);
        self.envoy.stop().await?;
        self.server.stop().await
    }
}

fn write(file: &Path, draft: &Path, services: &str) -> anyhow::Result<()> {
    std::fs::write(draft, services).and_then(|()| std::fs::rename(draft, file)).context("writing services")
}

/// A server at 127.9.9.`last` that answers everything as `router` does.
pub(crate) async fn serve(last: u8, router: axum::Router) -> anyhow::Result<SocketAddr> {
    let address = SocketAddr::from((Ipv4Addr::new(127, 9, 9, last), 8080));
    let listener = tokio::net::TcpListener::bind(address).await.context("a server of the shop")?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}
