//! `legation hosts`.

use serde_json::Value;

use super::client::{USUAL, get, segment};
use super::table::{clean, items, word};
use super::{Exit, Hosts, Outcome, Stop, Terminal};
use crate::vip;

pub(super) fn run(hosts: &Hosts, terminal: &mut Terminal<'_>) -> Outcome {
    let lines = match &hosts.server {
        None if !hosts.names.is_empty() => computed(hosts)?,
        server => asked(server.as_deref().unwrap_or(USUAL), hosts)?,
    };
    for line in lines {
        writeln!(terminal.out, "{line}")?;
    }
    Ok(Exit::Done)
}

/// The addresses that the names have unless they collide.
fn computed(hosts: &Hosts) -> Result<Vec<String>, Stop> {
    let namespace = hosts.namespace.as_str();
    let names = hosts.names.iter().map(|name| vip::base_name(namespace, name));
    for name in names.clone().chain([namespace]) {
        let sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-' | '.');
        if !(1..=127).contains(&name.len()) || !name.chars().all(sound) {
            let message = format!("`{}` is not a name", clean(name));
            return Err(Stop::new(
                Exit::Usage,
                message,
                Some("names have 1 to 127 of a-z, 0-9, `_`, `-`, `.`"),
            ));
        }
    }
    Ok(names.map(|name| line(&vip::address(namespace, name, 0), name, namespace)).collect())
}

fn asked(server: &str, hosts: &Hosts) -> Result<Vec<String>, Stop> {
    let namespace = hosts.namespace.as_str();
    let answer = get(server, &format!("/api/v1/namespaces/{}/hosts", segment(namespace)))?;
    let all = items(&answer);
    let show = |host: &Value| line(&clean(&word(&host["address"])), &clean(&word(&host["name"])), namespace);
    if hosts.names.is_empty() {
        return Ok(all.iter().map(show).collect());
    }
    let named = hosts.names.iter().map(|name| {
        let base = vip::base_name(namespace, name);
        let host = all.iter().find(|host| host["name"] == base);
        host.map(show).ok_or_else(|| {
            let message = format!("no alias `{}` in namespace `{}`", clean(name), clean(namespace));
            Stop::new(Exit::Failed, message, None)
        })
    });
    named.collect()
}

fn line(address: &impl std::fmt::Display, name: &str, namespace: &str) -> String {
    format!("{address} {name} {name}.{namespace}")
}
