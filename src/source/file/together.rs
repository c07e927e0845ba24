//! Several files of one namespace under examination, each and together.
//!
//! It is not for a running server, which joins what it has and reports the rest as findings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::{checked, load, read, unreadable};
use crate::diagnostic::{Document, Problem, TWO_SERVICES};
use crate::model::{Alias, Namespace, ServiceKey};

/// What is wrong with each of the files at `paths`.
pub fn examine(paths: &[PathBuf], namespace: &Namespace) -> Vec<Problem> {
    paths.iter().filter_map(|path| load(path, namespace).err()).flatten().collect()
}

/// What is wrong with each of the files at `paths`, and which aliases two services of different files claim.
pub fn examine_together(paths: &[PathBuf], namespace: &Namespace) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut known: BTreeSet<ServiceKey> = BTreeSet::new();
    let mut first: BTreeMap<Alias, String> = BTreeMap::new();
    for path in paths {
        let read = read::text(path).map_err(|error| vec![unreadable(path, &error)]);
        let found = read.and_then(|text| Ok((checked(path, &text, namespace)?, text)));
        let ((view, claims), text) = match found {
            Ok(found) => found,
            Err(found) => {
                problems.extend(found);
                continue;
            }
        };
        let document = Document::new(path, &text);
        let before = problems.len();
        // A service that an earlier file describes only gets members here: its aliases don't count.
        for (key, service) in view.services {
            if known.contains(&key) {
                continue;
            }
            for (alias, written) in service.spec.aliases.iter().filter_map(|it| claims.get_key_value(it)) {
                if let Some(first) = first.get(alias) {
                    let message = format!("the alias `{alias}` is there twice");
                    let problem = document.with(written, TWO_SERVICES, message);
                    problems.push(problem.suggesting(format!("first at {first}")));
                } else {
                    first.insert(alias.clone(), document.origin(written));
                }
            }
            if !service.spec.aliases.is_empty() {
                known.insert(key);
            }
        }
        problems[before..].sort_by_key(|problem| (problem.line, problem.column));
    }
    problems
}
