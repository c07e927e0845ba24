//! A control plane in a container, from the image that users run.
//!
//! It is reached as its users reach it: sidecars by its address or name on the network, monitors at its health port, people inside
//! its network. Invariant: a server that is started again has the address, the name and the configuration that it had.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use super::engine::{Engine, Order, Place};
use super::image;
use super::network::Inside;
use crate::{http, wait};

/// How long a server may take to be ready.
const START: Duration = Duration::from_secs(60);
/// How long its graceful end may take.
const END: Duration = Duration::from_secs(30);
/// The name that sidecars know all servers by.
pub const NAME: &str = "legation.internal";
/// Where sidecars connect.
pub const XDS: u16 = 18000;
const METRICS: u16 = 9090;
const ADMIN: u16 = 19000;

/// A server that runs, or that ran and is to run again.
#[derive(Debug)]
pub struct Server {
    engine: Engine,
    name: String,
    network: String,
    ip: Ipv4Addr,
    folder: PathBuf,
    /// What the network's DNS knows it by, beside its own name.
    names: Vec<String>,
    running: Option<(String, Inside)>,
}

impl Server {
    /// Writes its configuration into `folder`; nothing runs yet.
    pub fn prepare(
        engine: &Engine,
        network: &str,
        name: &str,
        ip: Ipv4Addr,
        folder: &Path,
        config: &str,
    ) -> anyhow::Result<Self> {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        // The server runs as nobody in particular.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&folder, open).context("opening the folder")?;
        let (engine, network, name) = (engine.clone(), network.to_owned(), name.to_owned());
        let own = Self { engine, name, network, ip, folder, names: Vec::new(), running: None };
        own.configure(config)?;
        Ok(own)
    }

    /// Lets the network's DNS know it by this name.
    pub fn known_as(mut self, name: &str) -> Self {
        self.names.push(name.to_owned());
        self
    }

    /// Gives it another configuration, for its next start.
    pub fn configure(&self, config: &str) -> anyhow::Result<()> {
        std::fs::write(self.folder.join("legation.yaml"), config).context("writing the configuration")
    }

    /// Starts it from an image.
    pub async fn run(&mut self, image: &str) -> anyhow::Result<()> {
        anyhow::ensure!(self.running.is_none(), "{} runs already", self.name);
        let credentials = ["AWS_ACCESS_KEY_ID=AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY=example", "NO_COLOR=1"];
        let order = Order {
            name: self.name.clone(),
            image: image.to_owned(),
            command: ["serve", "--config", "/etc/legation/legation.yaml"].map(str::to_owned).into(),
            environment: credentials.map(str::to_owned).into(),
            binds: vec![format!("{}:/etc/legation:ro", self.folder.display())],
            read_only: true,
            place: Place::At { network: self.network.clone(), ip: self.ip, names: self.names.clone() },
            ..Order::default()
        };
        let id = self.engine.run(order).await?;
        let inside = self.engine.inside(&id).await;
        self.running = Some((id, inside.unwrap_or(Inside::of(0))));
        Ok(())
    }

    /// Starts it from the image of this version, and waits until it is ready.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.run(image::LEGATION).await?;
        self.ready().await
    }

    /// Waits until it answers at all.
    pub async fn answers(&self) -> anyhow::Result<()> {
        let address = SocketAddr::from((self.ip, METRICS));
        wait::until(START, format!("{} to answer", self.name), async || {
            http::get_ok(address, "/livez").await.map(|_| Some(()))
        })
        .await
    }

    /// Waits until it is ready: every source has spoken.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let outcome = wait::until(START, format!("{} to be ready", self.name), async || {
            let answer = http::get(SocketAddr::from((self.ip, METRICS)), "/readyz?verbose").await?;
            anyhow::ensure!(answer.status.is_success(), "{}", answer.text());
            Ok(Some(()))
        });
        match outcome.await {
            Ok(()) => Ok(()),
            Err(error) => Err(error.context(self.said().await)),
        }
    }

    /// Kills it (SIGKILL).
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        let (id, _) = self.running.take().with_context(|| format!("{} does not run", self.name))?;
        self.engine.signal(&id, "SIGKILL").await?;
        self.engine.remove(&id).await
    }

    /// Asks it to end (SIGTERM), waits, and fails if it ends badly.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let (id, _) = self.running.take().with_context(|| format!("{} does not run", self.name))?;
        self.engine.signal(&id, "SIGTERM").await?;
        let ended = self.engine.ended_within(&id, END).await?;
        let said = self.engine.said(&id, 20).await?;
        self.engine.remove(&id).await?;
        anyhow::ensure!(ended == Some(0), "{} ended with {ended:?}:\n{said}", self.name);
        Ok(())
    }

    /// Its address.
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// Inside its network and its files.
    pub fn inside(&self) -> anyhow::Result<Inside> {
        let running = self.running.as_ref().with_context(|| format!("{} does not run", self.name))?;
        Ok(running.1)
    }

    /// Whether it runs.
    pub fn runs(&self) -> bool {
        self.running.is_some()
    }

    /// JSON below `/api/v1/`.
    pub async fn api(&self, path: &str) -> anyhow::Result<Value> {
        self.inside()?.json(ADMIN, &format!("/api/v1/{path}")).await
    }

    /// The `items` of a list below `/api/v1/`.
    pub async fn items(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        match self.api(path).await?.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => Ok(items),
            _ => anyhow::bail!("/api/v1/{path} has no items"),
        }
    }

    /// Its last words.
    pub async fn said(&self) -> String {
        match &self.running {
            Some((id, _)) => self.engine.said(id, 30).await.unwrap_or_default(),
            None => String::new(),
        }
    }
}
