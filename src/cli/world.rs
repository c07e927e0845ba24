//! `legation world`, `render` and `diff`: what is served now and what would be, offline but for the server that is asked.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::client::get;
use super::table::{clean, first_line, table, word};
use super::validate::read;
use super::{Diff, Exit, Outcome, Render, Shown, Stop, Terminal, Whom};
use crate::diagnostic::words::did_you_mean;
use crate::diagnostic::{Problem, render_all, to_yaml};
use crate::model::Namespace;
use crate::offline::{Served, diff as differences};
use crate::policy::watch::{self, Loaded};
use crate::source::file::world::{self, World};

/// `legation world`.
pub(super) fn run(whom: &Whom, terminal: &mut Terminal<'_>) -> Outcome {
    writeln!(terminal.out, "{:#}", get(&whom.server, "/api/v1/world")?)?;
    Ok(Exit::Done)
}

/// `legation render`.
pub(super) fn render(asked: &Render, terminal: &mut Terminal<'_>) -> Outcome {
    let world = from_file(&asked.world, terminal)?;
    let served = Served::new(&world, &from_files(&asked.files, &world, terminal)?);
    if let Some(wanted) =
        asked.namespace.as_deref().filter(|wanted| !served.namespaces().any(|it| it == *wanted))
    {
        let near = did_you_mean(wanted, served.namespaces().collect::<Vec<_>>());
        let message = format!("the recorded world has no namespace `{wanted}`");
        return Err(Stop::new(Exit::Failed, message, near.as_deref()));
    }
    let resources = served.resources(asked.namespace.as_deref(), asked.kind.as_deref());
    let resources = resources.map_err(|error| Stop::new(Exit::Failed, format!("{error:#}"), None))?;
    match asked.output {
        Shown::Table => write!(terminal.out, "{}", describe_resources(&resources))?,
        other => print(&resources, other, terminal)?,
    }
    Ok(Exit::Done)
}

/// `legation diff`.
pub(super) fn diff(asked: &Diff, terminal: &mut Terminal<'_>) -> Outcome {
    let server = &asked.whom.server;
    let world = match &asked.world {
        Some(path) => from_file(path, terminal)?,
        None => {
            let text = get(server, "/api/v1/world")?.to_string();
            read_world(Path::new("the world of the server"), &text, terminal)?
        }
    };
    let old = match &asked.world {
        _ if !asked.against.is_empty() => from_files(&asked.against, &world, terminal)?,
        Some(_) => Loaded::none(),
        None => in_force(server, &world, terminal)?,
    };
    let new = from_files(&asked.files, &world, terminal)?;
    let (answer, differs) = differences(&Served::new(&world, &old), &Served::new(&world, &new));
    match asked.output {
        Shown::Table => write!(terminal.out, "{}", describe_differences(&answer["item"]))?,
        other => print(&answer, other, terminal)?,
    }
    Ok(if differs && asked.exit_code { Exit::Findings } else { Exit::Done })
}

fn print(value: &Value, shown: Shown, terminal: &mut Terminal<'_>) -> Result<(), Stop> {
    if shown == Shown::Yaml {
        let text = to_yaml(value).map_err(|error| Stop::new(Exit::Failed, error, None))?;
        write!(terminal.out, "{text}")?;
    } else {
        writeln!(terminal.out, "{value:#}")?;
    }
    Ok(())
}

fn from_file(path: &Path, terminal: &mut Terminal<'_>) -> Result<World, Stop> {
    read_world(path, &read(path)?, terminal)
}

fn read_world(path: &Path, text: &str, terminal: &Terminal<'_>) -> Result<World, Stop> {
    if !world::is_world(text) {
        let message = format!("{} is no recorded world", path.display());
        return Err(Stop::new(Exit::Usage, message, Some("`legation world` prints one")));
    }
    world::read(path, text).map_err(|problems| wrong(&problems, terminal))
}

/// The policy that these files and folders say about the namespaces of a world.
fn from_files(files: &[PathBuf], world: &World, terminal: &Terminal<'_>) -> Result<Loaded, Stop> {
    for file in files.iter().filter(|file| !file.is_dir()) {
        read(file)?;
    }
    watch::load(&watch::Places::new(files, None), &namespaces(world))
        .map_err(|problems| wrong(&problems, terminal))
}

/// The policy that a server has in force.
fn in_force(server: &str, world: &World, terminal: &Terminal<'_>) -> Result<Loaded, Stop> {
    let answer = get(server, "/api/v1/policy")?;
    let texts = answer["item"]["texts"].as_array().map_or(&[][..], Vec::as_slice).iter();
    let texts = texts.map(|it| (PathBuf::from(word(&it["file"])), word(&it["text"]))).collect();
    Loaded::read(texts, &namespaces(world)).map_err(|problems| wrong(&problems, terminal))
}

fn namespaces(world: &World) -> BTreeSet<Namespace> {
    world.namespaces.keys().cloned().collect()
}

/// What is wrong is told, and nothing is compared.
fn wrong(problems: &[Problem], terminal: &Terminal<'_>) -> Stop {
    Stop::Told(Exit::Failed, render_all(problems, terminal.colour))
}

fn describe_resources(rendering: &Value) -> String {
    let namespaces = rendering["namespaces"].as_object().into_iter().flatten();
    let rows = namespaces.flat_map(|(namespace, types)| {
        types.as_object().into_iter().flatten().flat_map(move |(kind, resources)| {
            let resources = resources.as_array().map_or(&[][..], Vec::as_slice).iter();
            resources
                .map(move |it| vec![namespace.clone(), kind.clone(), word(&it["name"]), word(&it["version"])])
        })
    });
    table(&["NAMESPACE", "TYPE", "NAME", "VERSION"], rows)
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn describe_differences(item: &Value) -> String {
    if item["differs"] == false {
        return "no differences\n".to_owned();
    }
    let mut rows = Vec::new();
    for service in list(item, "services") {
        rows.extend(rows_of_service(service));
    }
    for (key, what, of) in [("names", "alias", "alias"), ("addresses", "address of", "name")] {
        rows.extend(list(item, key).iter().map(|it| {
            let what = format!("{what} {}", word(&it[of]));
            vec![word(&it["namespace"]), what, word(&it["before"]), word(&it["after"])]
        }));
    }
    let mut text =
        if rows.is_empty() { String::new() } else { table(&["SERVICE", "WHAT", "BEFORE", "AFTER"], rows) };
    for (key, sign) in [("new", '+'), ("gone", '-')] {
        for it in list(&item["findings"], key) {
            let [code, object, message] =
                ["code", "object", "message"].map(|key| clean(&first_line(&word(&it[key]))));
            text += &format!("\n{sign} {code} {object}: {message}");
        }
        if !list(&item["findings"], key).is_empty() {
            text += "\n";
        }
    }
    text + "\n" + &summary(item)
}

fn rows_of_service(service: &Value) -> Vec<Vec<String>> {
    let name = format!("{}/{}", word(&service["namespace"]), word(&service["name"]));
    let mut rows = Vec::new();
    let mut row =
        |what: String, before: String, after: String| rows.push(vec![name.clone(), what, before, after]);
    match service["change"].as_str() {
        Some("added") => row("service".to_owned(), String::new(), "added".to_owned()),
        Some("removed") => row("service".to_owned(), String::new(), "removed".to_owned()),
        _ => {}
    }
    let said = |it: &Value| match it["value"].as_str() {
        Some(value) => format!("{value} ({})", word(&it["origin"])),
        None => String::new(),
    };
    for value in list(service, "values") {
        row(word(&value["key"]), said(&value["before"]), said(&value["after"]));
    }
    for route in list(service, "routes") {
        let (what, change) = (format!("route {}", word(&route["name"])), word(&route["change"]));
        let after = format!("{change} {}", word(&route["after"])).trim_end().to_owned();
        row(what, word(&route["before"]), after);
    }
    let [before, after] = ["before", "after"].map(|key| word(&service["endpoints"][key]));
    if before != after {
        row("endpoints in rotation".to_owned(), before, after);
    }
    if service["resources"] == 0 {
        row("resources".to_owned(), String::new(), "the same: nobody would notice".to_owned());
    }
    rows
}

/// How many resources of which type, and of how many services.
fn summary(item: &Value) -> String {
    let types = item["resources"].as_object().into_iter().flatten();
    let types = types.map(|(kind, counts)| {
        let counts =
            ["added", "removed", "changed"].map(|key| (key, counts[key].as_u64().unwrap_or_default()));
        let counts = counts.into_iter().filter(|(_, count)| *count > 0);
        let counts: Vec<_> = counts.map(|(key, count)| format!("{count} {key}")).collect();
        format!("{kind}: {}", counts.join(", "))
    });
    let types: Vec<_> = types.collect();
    let services = list(item, "services");
    let noticed = services.iter().filter(|service| service["resources"] != 0).count();
    let plural = if noticed == 1 { "" } else { "s" };
    let types = if types.is_empty() { "nothing is sent".to_owned() } else { types.join("; ") };
    format!("{noticed} service{plural} would change; {types}\n")
}
