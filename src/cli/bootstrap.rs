//! `legation bootstrap`.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use super::{Bootstrap, Exit, Outcome, Stop, Terminal};
use crate::bootstrap::{Inputs, metadata, render};

pub(super) fn run(asked: &Bootstrap, terminal: &mut Terminal<'_>) -> Outcome {
    let base = std::env::var(metadata::VARIABLE).ok().filter(|base| !base.is_empty());
    let text = text(asked, base.as_deref())?;
    match &asked.out {
        None => terminal.out.write_all(text.as_bytes())?,
        Some(path) => write(path, &text).map_err(|error| {
            Stop::new(Exit::Failed, format!("can't write {}: {error}", path.display()), None)
        })?,
    }
    Ok(Exit::Done)
}

/// The bootstrap from flags and, without `--node-id`, from the metadata endpoint at `base`.
pub(super) fn text(asked: &Bootstrap, base: Option<&str>) -> Result<String, Stop> {
    let task = match (&asked.node_id, base) {
        (Some(_), _) => None,
        (None, Some(base)) => Some(metadata::fetch(base).map_err(|error| {
            Stop::new(Exit::Failed, error, Some("give --node-id, --namespace and --service to do without it"))
        })?),
        (None, None) => {
            let message = format!("no --node-id, and this is no ECS task: {} is not set", metadata::VARIABLE);
            return Err(Stop::new(Exit::Usage, message, Some("give --node-id, --namespace and --service")));
        }
    };
    let needed = |flag: &Option<String>, known: Option<&String>, missing: &str, help: &str| {
        flag.as_ref().or(known).cloned().ok_or_else(|| Stop::new(Exit::Usage, missing, Some(help)))
    };
    let task = task.as_ref();
    let namespace = needed(
        &asked.namespace,
        task.and_then(|task| task.namespace.as_ref()),
        "the mesh namespace is not known",
        "give --namespace, or label a container of the task with `legation.namespace`",
    )?;
    let service = needed(
        &asked.service,
        task.map(|task| &task.service),
        "the service is not known",
        "give --service, or leave --node-id out so that the task says it",
    )?;
    let node_id =
        needed(&asked.node_id, task.map(|task| &task.arn), "the node id is not known", "give --node-id")?;
    let mut container_ports = asked.container_ports.clone();
    container_ports.extend(task.iter().flat_map(|task| task.container_ports.iter().copied()));
    let inputs = Inputs {
        node_id,
        cluster: asked.cluster.clone().unwrap_or_else(|| service.clone()),
        namespace,
        service,
        zone: asked.zone.clone().or_else(|| task.and_then(|task| task.zone.clone())),
        server: asked.server.clone(),
        ca_file: asked.ca_file.clone(),
        admin_port: asked.admin_port,
        container_ports,
    };
    render(&inputs).map_err(|error| Stop::new(Exit::Usage, error, None))
}

/// In one step, so that an Envoy that starts meanwhile reads all or nothing.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let mut draft = OsString::from(path);
    draft.push(".tmp");
    fs::write(&draft, text)?;
    fs::rename(&draft, path)
}
