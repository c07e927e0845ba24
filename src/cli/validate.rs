//! `legation validate`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde_json::json;

use super::{Exit, Format, Outcome, Stop, Terminal};
use crate::config::Config;
use crate::diagnostic::{Entries, Problem, read_yaml, words::nearest};
use crate::model::Namespace;
use crate::policy::{self, Policy};
use crate::source::file;

pub(super) fn run(files: &[PathBuf], format: Format, terminal: &mut Terminal<'_>) -> Outcome {
    let (mut problems, mut unreadable) = (Vec::<Problem>::new(), Vec::new());
    for path in files {
        let found = match text_of(path) {
            Ok(text) => validate(path, &text),
            Err(message) => {
                unreadable.push(format!("error: {message}"));
                continue;
            }
        };
        for problem in found {
            // A file source may be named here and in a configuration.
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
    }
    if unreadable.is_empty() {
        return report(&problems, format, terminal);
    }
    // What the others say is told all the same, but never that nothing is wrong.
    if !problems.is_empty() {
        report(&problems, format, terminal)?;
    }
    Err(Stop::Told(Exit::Usage, unreadable.join("\n")))
}

/// The text of a file that the caller named.
pub(super) fn read(path: &Path) -> Result<String, Stop> {
    text_of(path).map_err(|message| Stop::new(Exit::Usage, message, None))
}

fn text_of(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("can't read {}: {error}", path.display()))
}

/// Prints what is wrong, or that nothing is.
pub(super) fn report(problems: &[Problem], format: Format, terminal: &mut Terminal<'_>) -> Outcome {
    match format {
        Format::Json => writeln!(terminal.out, "{:#}", as_json(problems))?,
        Format::Table if problems.is_empty() => writeln!(terminal.out, "no problems found")?,
        Format::Table => {
            for problem in problems {
                writeln!(terminal.out, "{}\n", problem.render(terminal.colour))?;
            }
            terminal.out.flush()?;
            let plural = if problems.len() == 1 { "" } else { "s" };
            writeln!(terminal.err, "{} problem{plural} found", problems.len())?;
        }
    }
    Ok(if problems.is_empty() { Exit::Done } else { Exit::Findings })
}

fn as_json(problems: &[Problem]) -> serde_json::Value {
    let items = problems.iter().map(|problem| {
        json!({
            "code": problem.code,
            "message": problem.message,
            "suggestion": problem.suggestion,
            "file": &*problem.file,
            "line": problem.line,
            "column": problem.column,
            "length": problem.length,
        })
    });
    json!({
        "apiVersion": "legation/v1",
        "kind": "ProblemList",
        "items": items.collect::<Vec<_>>(),
    })
}

fn validate(path: &Path, text: &str) -> Vec<Problem> {
    let keys: Entries<IgnoredAny> = match read_yaml(path, text) {
        Ok(keys) => keys,
        Err(problem) => return vec![problem],
    };
    if file::world::is_world(text) {
        return file::world::read(path, text).err().unwrap_or_default();
    }
    if keys.0.iter().any(|(key, _)| key.text == "kind" || key.text == "apiVersion") {
        let text = (path.to_owned(), text.to_owned());
        return Policy::parse(&[text], &BTreeSet::new()).err().unwrap_or_default();
    }
    if is_file_source(&keys) {
        return file::parse(path, text, &Namespace::from("default")).err().unwrap_or_default();
    }
    match Config::parse(path, text, []) {
        Ok(config) => examine(&config, file::examine_together),
        Err(problems) => problems,
    }
}

/// A file source has `services`; everything else is taken for a configuration, unless it is nearly one.
fn is_file_source(keys: &Entries<IgnoredAny>) -> bool {
    let has = |wanted: &str| keys.0.iter().any(|(key, _)| key.text == wanted);
    let nearly = || keys.0.iter().any(|(key, _)| nearest(&key.text, ["services"]).is_some());
    has("services") || (!has("namespaces") && nearly())
}

/// What is wrong with the file sources and the policies that a configuration names, as `look` sees the sources of a
/// namespace.
pub(super) fn examine(config: &Config, look: fn(&[PathBuf], &Namespace) -> Vec<Problem>) -> Vec<Problem> {
    let sources = config.namespaces.iter().flat_map(|(namespace, settings)| look(&settings.files, namespace));
    let namespaces: BTreeSet<_> = config.namespaces.keys().cloned().collect();
    let places = policy::watch::Places::new(&config.policies, config.policy_text.as_deref());
    let policies = policy::watch::load(&places, &namespaces).err().unwrap_or_default();
    sources.chain(policies).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_in_the_environment_are_checked_as_files_are() {
        let text = "namespaces:\n  prod:\n    clusters: [prod-a]\n";
        let policy =
            "apiVersion: legation/v1alpha1\nkind: Policy\nservices: { payments: { namespace: prd } }\n";
        let environment = [("LEGATION_POLICY".to_owned(), policy.to_owned())];
        let config = Config::parse(Path::new("LEGATION_CONFIG"), text, environment).unwrap();
        let problems = examine(&config, file::examine);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!((&*problems[0].file, problems[0].line), ("LEGATION_POLICY", 3));
        let wrong = text.replace("clusters", "clustres");
        let problems = Config::parse(Path::new("LEGATION_CONFIG"), &wrong, []).unwrap_err();
        assert_eq!((&*problems[0].file, problems[0].line), ("LEGATION_CONFIG", 3));
    }
}
