//! `legation status`, `proxies`, `services`, `explain` and `release`.

use serde_json::Value;

use super::client::{get, post, segment};
use super::table::{age, clean, first_line, items, table, word};
use super::{Ask, Exit, Explain, Format, Outcome, SyncState, Terminal};

/// `legation status`.
pub(super) fn status(ask: &Ask, terminal: &mut Terminal<'_>) -> Outcome {
    let answer = get(&ask.server, "/api/v1/status")?;
    if ask.output == Format::Json {
        return json(&answer, terminal);
    }
    let namespaces = get(&ask.server, "/api/v1/namespaces")?;
    let findings = get(&ask.server, "/api/v1/findings")?;
    write!(terminal.out, "{}", describe_status(&answer["item"], items(&namespaces), items(&findings)))?;
    Ok(Exit::Done)
}

/// `legation release`.
pub(super) fn release(source: Option<&str>, ask: &Ask, terminal: &mut Terminal<'_>) -> Outcome {
    let answer = post(&ask.server, "/api/v1/release", &serde_json::json!({ "source": source }))?;
    if ask.output == Format::Json {
        return json(&answer, terminal);
    }
    let names = answer["item"]["sources"].as_array().map_or(&[][..], Vec::as_slice);
    for name in names {
        writeln!(terminal.out, "{}: what was held back is let go", clean(&word(name)))?;
    }
    if names.is_empty() {
        writeln!(terminal.out, "nothing is held back")?;
    }
    Ok(Exit::Done)
}

fn describe_status(status: &Value, namespaces: &[Value], findings: &[Value]) -> String {
    let state = match (status["stopping"].as_bool(), status["ready"].as_bool()) {
        (Some(true), _) => "stopping",
        (_, Some(true)) => "ready",
        _ => "not ready: waiting for the first complete reading of every source",
    };
    let sidecars = &status["proxies"];
    let (version, up) = (clean(&word(&status["version"])), age(&status["uptimeMs"]));
    let mut text = format!("legation {version}, up {up}, {state}\n\n");
    let sources = status["sources"].as_array().map_or(&[][..], Vec::as_slice).iter();
    text += &table(
        &["SOURCE", "READ", "READINGS", "ERRORS", "STATE"],
        sources.map(|source| {
            let [name, readings, errors] = ["name", "readings", "errors"].map(|key| word(&source[key]));
            vec![name, age(&source["ageMs"]), readings, errors, source_state(source)]
        }),
    );
    text += "\n";
    text += &table(
        &["NAMESPACE", "GENERATION", "SERVICES", "ENDPOINTS", "SIDECARS"],
        namespaces.iter().map(|namespace| {
            ["name", "generation", "services", "endpoints", "proxies"]
                .map(|key| word(&namespace[key]))
                .to_vec()
        }),
    );
    let [synced, stale, nacked] = ["synced", "stale", "nacked"].map(|key| clean(&word(&sidecars[key])));
    text += &format!("\nsidecars: {synced} synced, {stale} stale, {nacked} nacked\n");
    if findings.is_empty() {
        return text + "no findings\n";
    }
    text += "\n";
    let rows = findings
        .iter()
        .map(|it| ["code", "object", "message"].map(|key| first_line(&word(&it[key]))).to_vec());
    text + &table(&["FINDING", "OBJECT", "MESSAGE"], rows)
}

pub(super) fn source_state(source: &Value) -> String {
    let failing = &source["failing"];
    if failing.is_null() {
        return if source["synced"] == true { "ok" } else { "waiting" }.to_owned();
    }
    let [operation, code, message] = ["operation", "code", "message"].map(|key| word(&failing[key]));
    format!("failing for {}: {operation}: {code}: {}", age(&failing["ageMs"]), first_line(&message))
}

/// `legation proxies`.
pub(super) fn proxies(ask: &Ask, states: &[SyncState], terminal: &mut Terminal<'_>) -> Outcome {
    let mut answer = get(&ask.server, "/api/v1/proxies")?;
    if let Some(items) = answer["items"].as_array_mut() {
        items.retain(|proxy| {
            states.is_empty() || states.iter().any(|state| word(&proxy["state"]) == state.word())
        });
    }
    if ask.output == Format::Json {
        return json(&answer, terminal);
    }
    write!(terminal.out, "{}", describe_proxies(items(&answer)))?;
    Ok(Exit::Done)
}

impl SyncState {
    fn word(self) -> &'static str {
        match self {
            Self::Synced => "SYNCED",
            Self::Stale => "STALE",
            Self::Nacked => "NACKED",
        }
    }
}

pub(super) fn describe_proxies(proxies: &[Value]) -> String {
    if proxies.is_empty() {
        return "no sidecars\n".to_owned();
    }
    let rows = proxies.iter().map(|proxy| {
        let mut row = vec![
            short(&word(&proxy["id"])),
            word(&proxy["namespace"]),
            word(&proxy["service"]),
            word(&proxy["zone"]),
            word(&proxy["state"]),
            age(&proxy["ageMs"]),
        ];
        row.extend(["CDS", "EDS", "LDS", "RDS"].map(|kind| type_state(of_type(proxy, kind))));
        row.push(word(&proxy["userAgent"]));
        row
    });
    let header =
        ["SIDECAR", "NAMESPACE", "SERVICE", "ZONE", "STATE", "AGE", "CDS", "EDS", "LDS", "RDS", "VERSION"];
    let mut text = table(&header, rows);
    for proxy in proxies {
        let name = clean(&short(&word(&proxy["id"])));
        for status in types(proxy).iter().filter(|status| !status["nacked"].is_null()) {
            let nack = &status["nacked"];
            let [kind, message] = [&status["short"], &nack["message"]].map(|it| clean(&word(it)));
            text += &format!("\n{name} refused {kind} {} ago: {message}\n", age(&nack["ageMs"]));
        }
        let withheld = proxy["withheldListeners"].as_array().map_or(&[][..], Vec::as_slice);
        if !withheld.is_empty() {
            let listeners = withheld.iter().map(|it| clean(&word(it))).collect::<Vec<_>>().join(", ");
            text += &format!(
                "\n{name} gets no listener for {listeners}: its own task listens on the port (LSN002)\n"
            );
        }
    }
    text
}

/// The end of a task ARN tells tasks apart; other ids are shown whole.
fn short(id: &str) -> String {
    match id.split_once(":task/") {
        Some((arn, task)) if arn.starts_with("arn:") => task.to_owned(),
        _ => id.to_owned(),
    }
}

fn types(proxy: &Value) -> &[Value] {
    proxy["types"].as_array().map_or(&[], Vec::as_slice)
}

fn of_type<'a>(proxy: &'a Value, short: &str) -> Option<&'a Value> {
    types(proxy).iter().find(|status| status["short"] == short)
}

fn type_state(status: Option<&Value>) -> String {
    let Some(status) = status else { return "IGNORED".to_owned() };
    let generation = |key: &str| status[key]["generation"].as_u64();
    if !status["nacked"].is_null() {
        return "NACKED".to_owned();
    }
    match (generation("sent"), generation("acked")) {
        (None, _) => "NOT_SENT".to_owned(),
        (Some(sent), Some(acked)) if acked >= sent => "SYNCED".to_owned(),
        _ => "STALE".to_owned(),
    }
}

/// `legation explain`.
pub(super) fn explain(explain: &Explain, terminal: &mut Terminal<'_>) -> Outcome {
    let mut path = "/api/v1/explain?".to_owned();
    let mut say = |key: &str, value: &str| path.push_str(&format!("{key}={}&", segment(value)));
    say("client", &explain.client);
    say("service", &explain.service);
    explain.namespace.iter().for_each(|namespace| say("namespace", namespace));
    say("path", &explain.path);
    say("method", &explain.method);
    explain.headers.iter().for_each(|header| say("header", header));
    let answer = get(&explain.ask.server, path.trim_end_matches('&'))?;
    let item = &answer["item"];
    let exit = if item["ok"] == true { Exit::Done } else { Exit::Findings };
    if explain.ask.output == Format::Json {
        return json(&answer, terminal).map(|_| exit);
    }
    let steps = item["steps"].as_array().map_or(&[][..], Vec::as_slice).iter();
    let row = |step: &Value| {
        let state = if step["ok"] == true { "ok" } else { "no" };
        vec![word(&step["step"]), state.to_owned(), word(&step["says"])]
    };
    write!(terminal.out, "{}", table(&["STEP", "STATE", "SAYS"], steps.map(row)))?;
    if !item["treatment"].is_null() {
        write!(terminal.out, "\n{}", describe_treatment(&item["treatment"]))?;
    }
    writeln!(terminal.out, "\n{}", clean(&word(&item["verdict"])))?;
    Ok(exit)
}

/// Each value in force, and where it was said.
fn describe_treatment(treatment: &Value) -> String {
    let values = treatment.as_array().map_or(&[][..], Vec::as_slice).iter();
    let row = |value: &Value| ["key", "value", "origin"].map(|column| word(&value[column])).to_vec();
    table(&["KEY", "VALUE", "ORIGIN"], values.map(row))
}

/// `legation services` of one service.
pub(super) fn service(namespace: &str, service: &str, ask: &Ask, terminal: &mut Terminal<'_>) -> Outcome {
    let path = format!("/api/v1/namespaces/{}/services/{}", segment(namespace), segment(service));
    let answer = get(&ask.server, &path)?;
    if ask.output == Format::Json {
        return json(&answer, terminal);
    }
    let item = &answer["item"];
    let (services, treatment) = (describe_services(std::slice::from_ref(item)), &item["treatment"]);
    write!(terminal.out, "{services}\n{}", describe_treatment(treatment))?;
    Ok(Exit::Done)
}

/// `legation services`.
pub(super) fn services(namespace: &str, ask: &Ask, terminal: &mut Terminal<'_>) -> Outcome {
    let answer = get(&ask.server, &format!("/api/v1/namespaces/{}/services", segment(namespace)))?;
    if ask.output == Format::Json {
        return json(&answer, terminal);
    }
    write!(terminal.out, "{}", describe_services(items(&answer)))?;
    Ok(Exit::Done)
}

fn describe_services(services: &[Value]) -> String {
    if services.is_empty() {
        return "no services\n".to_owned();
    }
    let rows = services.iter().map(|service| {
        let aliases = service["aliases"].as_array().map_or(&[][..], Vec::as_slice).iter();
        let aliases = aliases.map(|alias| format!("{}:{}", word(&alias["name"]), word(&alias["port"])));
        let mut row =
            vec![word(&service["name"]), word(&service["protocol"]), aliases.collect::<Vec<_>>().join(" ")];
        row.extend(
            ["healthy", "draining", "unhealthy", "absent"].map(|state| word(&service["counts"][state])),
        );
        row.push(reasons(service));
        row.push(word(&service["origin"]));
        row
    });
    let header =
        ["SERVICE", "PROTOCOL", "ALIASES", "HEALTHY", "DRAINING", "UNHEALTHY", "ABSENT", "BECAUSE", "ORIGIN"];
    table(&header, rows)
}

/// Why endpoints are not in rotation, each reason once.
fn reasons(service: &Value) -> String {
    let endpoints = service["endpoints"].as_array().map_or(&[][..], Vec::as_slice).iter();
    let out = endpoints.filter(|endpoint| endpoint["state"] != "healthy");
    let reasons: std::collections::BTreeSet<_> = out.map(|endpoint| word(&endpoint["reason"])).collect();
    reasons.into_iter().collect::<Vec<_>>().join(" ")
}

fn json(answer: &Value, terminal: &mut Terminal<'_>) -> Outcome {
    writeln!(terminal.out, "{answer:#}")?;
    Ok(Exit::Done)
}
