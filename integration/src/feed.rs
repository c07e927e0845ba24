//! A services file that is written on every change of a world.
//!
//! It stands for anything that pushes: what it writes is the tasks that ECS wants, with their health.
//! Invariant: a reader sees whole files only.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::task::JoinHandle;

use crate::estate::{Member, Prod};
use crate::world::Health;

/// Follows a world. Dropping it ends that.
#[derive(Debug)]
pub struct Feed {
    file: PathBuf,
    writer: JoinHandle<()>,
}

impl Feed {
    /// Writes `<folder>/services/prod.yaml` now and on every change.
    pub fn start(prod: &Prod, folder: &Path) -> anyhow::Result<Self> {
        let services = folder.join("services");
        std::fs::create_dir_all(&services).context("making a folder for the services file")?;
        // Not in the same folder: that is watched.
        let (file, draft) = (services.join("prod.yaml"), folder.join("prod.yaml.draft"));
        let mut changes = prod.world.changes();
        let mut written = render(prod);
        replace(&file, &draft, &written)?;
        let (prod, target) = (prod.clone(), file.clone());
        let writer = tokio::spawn(async move {
            while changes.changed().await.is_ok() {
                let text = render(&prod);
                if text != written {
                    if let Err(error) = replace(&target, &draft, &text) {
                        tracing::error!(%error, "the services file stays as it was");
                    }
                    written = text;
                }
            }
        });
        Ok(Self { file, writer })
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

fn replace(file: &Path, draft: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(draft, text)
        .and_then(|()| std::fs::rename(draft, file))
        .context("writing the services file")
}

fn render(prod: &Prod) -> String {
    let mut text = "services:\n".to_owned();
    for (member, protocol) in [(&prod.payments, "http"), (&prod.ledger, "grpc"), (&prod.redis, "tcp")] {
        // Writing to a string does not fail.
        let _ = render_member(&mut text, member, protocol);
    }
    text
}

fn render_member(text: &mut String, member: &Member, protocol: &str) -> std::fmt::Result {
    let (name, port) = (&member.service, member.port.unwrap_or_default());
    writeln!(
        text,
        "  {name}:\n    aliases: [{{ name: {name}, port: {port} }}]\n    appProtocol: {protocol}"
    )?;
    let running = member.running();
    let running = running.iter().filter(|task| task.in_service());
    writeln!(text, "    endpoints:{}", if running.clone().next().is_none() { " []" } else { "" })?;
    for task in running {
        let health = if task.health == Health::Healthy { "healthy" } else { "starting" };
        let (address, zone, id) = (task.ip, &task.zone, &task.arn);
        writeln!(
            text,
            "      - {{ address: {address}, port: {port}, zone: {zone}, id: \"{id}\", health: {health} }}"
        )?;
    }
    Ok(())
}
