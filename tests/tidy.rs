//! Keeps `src/ARCHITECTURE.md` true: who may import whom, which crate lives where, and how long a file gets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Crates with one home: (crate, the modules that may name it).
const HOMES: &[(&str, &[&str])] = &[
    ("annotate_snippets", &["diagnostic"]),
    ("aws_", &["source"]),
    ("axum", &["admin"]),
    ("clap", &["cli"]),
    ("dashmap", &["changes", "store", "xds"]),
    ("envoy_types", &["admin", "snapshot", "translate", "xds"]),
    ("governor", &["xds"]),
    ("hyper", &["xds"]),
    ("notify::", &["policy", "source"]),
    ("prometheus_client", &["admin", "app", "telemetry"]),
    ("prost_reflect", &["admin"]),
    ("rustix", &["sidecar"]),
    ("serde_saphyr", &["config", "diagnostic", "source"]),
    ("sha2", &["vip"]),
    ("tonic", &["admin", "xds"]),
    ("ureq", &["bootstrap", "cli", "sidecar"]),
];
const LONGEST_FILE: usize = 500;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn files_below(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if root().join(folder).is_dir() {
        rust_files(&root().join(folder), &mut found);
    }
    found.sort();
    found
}

/// The module that a file under `src/` belongs to, and whether it holds tests only.
fn module_of(path: &Path) -> (String, bool) {
    let relative = path.strip_prefix(root().join("src")).unwrap().with_extension("");
    let parts: Vec<_> = relative.iter().map(|part| part.to_str().unwrap()).collect();
    (
        parts[0].to_owned(),
        parts.contains(&"tests") || parts.last().is_some_and(|last| last.ends_with("_test")),
    )
}

/// The code of a file without its comments, its strings left alone, and without its test module.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The import table of `src/ARCHITECTURE.md`: module to the modules that it may import.
fn import_table() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("src/ARCHITECTURE.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let table: BTreeMap<_, _> = rows
        .map(|row| {
            let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
            let module = cells[0].trim_matches('`').to_owned();
            let imports = cells[2].split(',').map(|word| word.trim().trim_matches('`').to_owned());
            (module, imports.filter(|word| word != "–").collect())
        })
        .collect();
    assert!(table.len() > 10, "the table of src/ARCHITECTURE.md was not found");
    table
}

#[test]
fn modules_import_only_what_the_table_allows() {
    let table = import_table();
    let mut wrong = Vec::new();
    for path in files_below("src") {
        let (module, tests) = module_of(&path);
        if tests || module == "lib" || module == "main" {
            continue;
        }
        let Some(allowed) = table.get(&module) else {
            wrong.push(format!("{module} is not in the table of src/ARCHITECTURE.md"));
            continue;
        };
        for import in code(&path).split("crate::").skip(1) {
            let word: String = import.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let known = table.contains_key(&word) && word != module;
            if known && !allowed.contains(&word) && !allowed.contains("all") {
                wrong.push(format!("{} imports {word}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn crates_stay_in_their_homes() {
    let mut wrong = Vec::new();
    for path in files_below("src") {
        let (module, tests) = module_of(&path);
        let code = code(&path);
        for (name, homes) in HOMES {
            let used = code.contains(&format!("use {name}")) || code.contains(&format!(" {name}::"));
            if used && !tests && !homes.contains(&module.as_str()) {
                wrong.push(format!("{} uses {name}, which lives in {homes:?}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_file_is_too_long_and_each_says_what_it_is() {
    let mut wrong = Vec::new();
    for folder in ["src", "integration", "bench", "tests"] {
        for path in files_below(folder) {
            let text = fs::read_to_string(&path).unwrap();
            if text.lines().count() > LONGEST_FILE {
                wrong.push(format!("{} has {} lines", path.display(), text.lines().count()));
            }
            if !text.starts_with("//!") && !text.starts_with("#![doc = ") {
                wrong.push(format!("{} does not say what it is", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_module_opens_with_its_invariant() {
    let table = import_table();
    for module in table.keys() {
        let text = fs::read_to_string(root().join(format!("src/{module}.rs"))).unwrap();
        assert!(text.contains("//! Invariant: "), "src/{module}.rs states no invariant");
    }
}

#[test]
fn every_file_that_the_architecture_names_exists() {
    let text = fs::read_to_string(root().join("src/ARCHITECTURE.md")).unwrap();
    let words = text.split(|c: char| c.is_whitespace() || "`()[],;".contains(c));
    let named: BTreeSet<_> = words.filter(|word| word.ends_with(".rs")).collect();
    assert!(named.len() > 5, "the architecture names no files");
    for name in named {
        let found = ["", "src/"].iter().any(|folder| root().join(folder).join(name).is_file());
        assert!(found, "src/ARCHITECTURE.md names {name}, which does not exist");
    }
}
