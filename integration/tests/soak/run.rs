//! The course of a soak: churn, lull, churn with a refusal and a kill, lull, churn with a restart, lull.
//!
//! Invariant: every lull ends with all Envoys running with exactly what is served, and nothing moving.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Context;
use fastrand::Rng;
use integration::agreement;
use integration::envoy::Ads;
use integration::scene::Scene;
use integration::wait;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::crowd::Crowd;
use crate::editor::Editor;
use crate::oracle::{Figures, Raised, Watch};
use crate::refusal::Refusal;
use crate::script::Script;
use crate::settings::Settings;
use crate::stage::{Stage, VERSIONS, pools};
use crate::trouble::{self, Suffered};

/// How long an Envoy may take to hold what is served, once nothing moves: removed clusters stay for a while.
const SETTLING: Duration = Duration::from_secs(30);
/// How long nothing moves is looked at.
const STILL: Duration = Duration::from_secs(1);
const PHASES: u32 = 3;
/// Edits that are made while the server is away.
const AWAY: u64 = 10;
/// How often one stream may refuse the same listener: alone, and in company that is told from it by halves.
const REFUSALS: u64 = 8;

/// How the server goes.
#[derive(Debug, Clone, Copy)]
enum End {
    Killed,
    Asked,
}

pub(crate) struct Run {
    pub(crate) settings: Settings,
    pub(crate) stage: Stage,
    pub(crate) editor: Editor,
    pub(crate) suffered: Vec<Suffered>,
    pub(crate) watches: Vec<Watch>,
    pub(crate) refusal: Option<Refusal>,
    pub(crate) crowd: Crowd,
    pub(crate) restarts: u32,
    rng: Rng,
    /// For the refused alias.
    port: u16,
    looking: TaskTracker,
}

impl Run {
    /// Starts everything.
    pub(crate) async fn open(scene: &Scene, settings: Settings) -> anyhow::Result<Self> {
        let (backends, pools, mut ports) = pools().await?;
        let port = ports.pop().context("no port is left")?;
        let script = Script::new(settings.seed, pools.clone(), ports);
        let stage = Stage::open(scene, backends, &pools, &script.text()).await?;
        let looking = TaskTracker::new();
        let watches = stage.cars.iter().map(|car| Watch::start(&looking, car.envoy.admin())).collect();
        let newest = &stage.cars.last().context("no Envoy")?.namespace;
        let crowd = Crowd::gather(&*stage.server.read().await, newest, settings.seed);
        Ok(Self {
            settings,
            crowd,
            stage,
            editor: Editor::new(script),
            suffered: vec![Suffered::default(); VERSIONS.len()],
            watches,
            refusal: None,
            restarts: 0,
            rng: Rng::with_seed(settings.seed ^ 0x5eed),
            port,
            looking,
        })
    }

    /// The whole course; ends with the first thing that is wrong.
    pub(crate) async fn phases(&mut self) -> anyhow::Result<()> {
        self.churn(None).await.context("in the first churn")?;
        self.lull().await.context("in the lull after the first churn")?;

        let victim = self.rng.usize(..self.stage.cars.len());
        let refusal = Refusal::provoke(&self.stage.cars[victim], &mut self.editor.script, self.port)?;
        self.stage.write(&self.editor.script.text())?;
        refusal.told(&self.stage).await?;
        self.refusal = Some(refusal);
        self.churn(Some(End::Killed)).await.context("in the churn with a refusal and a kill")?;
        self.lull().await.context("in the lull with a refusal")?;

        if let Some(refusal) = &mut self.refusal {
            refusal.cure(&mut self.editor.script);
        }
        self.stage.write(&self.editor.script.text())?;
        self.churn(Some(End::Asked)).await.context("in the churn with a restart")?;
        self.lull().await.context("in the last lull")?;
        let address = self.refusal.as_ref().context("nothing was refused")?.address();
        tokio::net::TcpStream::connect(address).await.context("the refused listener after its cure")?;
        self.verdict().await
    }

    /// Edits and trouble for a third of the time, and perhaps a restart in the middle.
    async fn churn(&mut self, end: Option<End>) -> anyhow::Result<()> {
        let period = self.settings.phase(PHASES);
        let (middle, until) = (Instant::now() + period / 2, Instant::now() + period);
        let edits = self.editor.progress.subscribe();
        let restarting = restart(&self.stage, end, middle..until, edits.clone());
        let troubling = trouble::work(&self.stage, &mut self.rng, edits, &mut self.suffered, until);
        let editing = self.editor.work(&self.stage, until);
        tokio::try_join!(restarting, troubling, editing)?;
        self.restarts += u32::from(end.is_some());
        Ok(())
    }

    /// Nothing is edited or cut: everything settles, and then nothing moves, also if the file is written
    /// again with the same content.
    async fn lull(&mut self) -> anyhow::Result<()> {
        let server = self.stage.server.read().await;
        self.stage.known(&server, &self.editor.script.mesh).await?;
        self.stage.settled(&server, &self.editor.script.mesh).await?;
        for car in &self.stage.cars {
            let refused = self.refusal.as_ref().map(|it| it.refused(car)).unwrap_or_default();
            wait::until(SETTLING, format!("Envoy {} to hold what is served", car.version), async || {
                let (name, ads) = (&car.namespace, Ads::Delta);
                let found = agreement::disagreements(&server, name, &car.envoy, ads, &refused).await?;
                anyhow::ensure!(found.is_empty(), "{found:#?}");
                Ok(Some(()))
            })
            .await?;
        }
        self.crowd.settle(&server).await?;
        let before = told(&server).await?;
        anyhow::ensure!(before.len() >= VERSIONS.len(), "not every Envoy is connected: {before:?}");
        self.stage.write(&self.editor.script.again())?;
        self.stage.sources(&server, false).await?;
        wait::throughout(STILL, "nothing is sent", async |_| {
            let now = told(&server).await?;
            anyhow::ensure!(now == before, "sent although nothing changed: {before:?}, then {now:?}");
            Ok(())
        })
        .await?;
        drop(server);
        self.stage.flawless()?;
        self.figures().map(drop)
    }

    /// What each Envoy complains of. An error if that is anything but the refusal that was provoked.
    pub(crate) fn figures(&self) -> anyhow::Result<Vec<Figures>> {
        let mut all = Vec::new();
        for ((car, watch), suffered) in self.stage.cars.iter().zip(&self.watches).zip(&self.suffered) {
            let figures = watch.figures(&car.envoy)?;
            let version = car.version;
            let explained = |line: &&String| self.refusal.as_ref().is_some_and(|it| it.explains(car, line));
            let strange: Vec<_> = figures.refusals.iter().filter(|line| !explained(line)).collect();
            anyhow::ensure!(strange.is_empty(), "Envoy {version} refused {strange:#?}");
            anyhow::ensure!(figures.timeouts.is_empty(), "Envoy {version}: {:#?}", figures.timeouts);
            let intended = figures.refusals.len() as u64;
            let others = |(name, raised): &(&String, &Raised)| {
                let refusals =
                    name.as_str() == "listener_manager.lds.update_rejected" && raised.most <= intended;
                !(refusals || self.is_of_the_gone(&car.namespace, name, raised.first))
            };
            let raised: BTreeMap<_, _> = figures.raised.iter().filter(others).collect();
            anyhow::ensure!(raised.is_empty(), "Envoy {version} raised {raised:?}");
            let most = REFUSALS * (suffered.cuts + u64::from(self.restarts) + 1);
            anyhow::ensure!(intended <= most, "Envoy {version} was sent what it refuses {intended} times");
            all.push(figures);
        }
        Ok(all)
    }

    /// Whether a counter tells that an assignment was taken away of a service that was gone by then. So it has
    /// to be for an Envoy that was cut while a cluster warmed: it asks for endpoints before it asks for
    /// clusters, and is told of each at once, since it may be the one that warms.
    fn is_of_the_gone(&self, namespace: &str, counter: &str, raised: Instant) -> bool {
        let cluster = counter.strip_prefix("cluster.").and_then(|rest| rest.strip_suffix(".update_empty"));
        let service = cluster.and_then(|cluster| cluster.strip_prefix(namespace)?.strip_prefix('/'));
        service.and_then(|service| self.editor.gone.get(service)).is_some_and(|gone| *gone < raised)
    }

    /// Whether there was as much of everything as there should be, and nothing that there should not be.
    async fn verdict(&self) -> anyhow::Result<()> {
        let (edits, cuts) = (self.editor.count(), self.suffered.iter().map(|it| it.cuts).sum::<u64>());
        let settings = self.settings;
        anyhow::ensure!(edits >= settings.least_edits(), "only {edits} edits");
        anyhow::ensure!(cuts >= settings.least_cuts(), "only {cuts} cuts");
        anyhow::ensure!(self.restarts == 2, "{} restarts", self.restarts);
        let refused: usize = self.figures()?.iter().map(|figures| figures.refusals.len()).sum();
        anyhow::ensure!(refused > 0, "no Envoy refused what it could not bind");
        self.crowd.refused()?;
        let log = self.stage.server.read().await.log()?;
        let wrong = |line: &&str| line.contains("panicked") || line.contains("snapshot refused");
        let wrong: Vec<_> = log.lines().filter(wrong).collect();
        anyhow::ensure!(wrong.is_empty(), "the server says {wrong:#?}");
        Ok(())
    }

    /// Ends everything in order.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        drop(self.watches);
        self.crowd.leave().await;
        self.looking.close();
        self.looking.wait().await;
        self.stage.shared.stop().await?;
        for car in self.stage.cars {
            car.load.stop().await?;
            car.envoy.stop().await?;
        }
        self.stage.server.into_inner().stop().await
    }
}

/// Restarts the server when the time has come; edits go on while it is away, until there are no more.
async fn restart(
    stage: &Stage,
    end: Option<End>,
    time: Range<Instant>,
    mut edits: watch::Receiver<u64>,
) -> anyhow::Result<()> {
    let Some(end) = end else { return Ok(()) };
    tokio::time::sleep_until(time.start.into()).await;
    let mut server = stage.server.write().await;
    match end {
        End::Killed => server.kill()?,
        End::Asked => server.stop().await?,
    }
    let goal = *edits.borrow() + AWAY;
    let away = edits.wait_for(|count| *count >= goal);
    // Too late is soon enough: then it was away for as long as that.
    let _ = tokio::time::timeout_at(time.end.into(), away).await;
    server.run().await?;
    server.ready().await
}

/// How much each Envoy has been told on its present stream, by type.
async fn told(server: &integration::control_plane::ControlPlane) -> anyhow::Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for proxy in server.items("proxies").await? {
        let id = proxy["id"].as_str().unwrap_or_default();
        if id.starts_with("soak-") {
            let types = proxy["types"].as_array().into_iter().flatten();
            let types: Vec<_> = types.map(|it| format!("{}={}", it["type"], it["responses"])).collect();
            all.insert(format!("{id} stream {}: {}", proxy["stream"], types.join(" ")));
        }
    }
    Ok(all)
}
