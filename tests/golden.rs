//! One folder for each resource type: `*.in.yaml` is a file source, `*.out.json` what Envoy is sent for it, in
//! canonical protobuf JSON. `UPDATE_EXPECT=1 cargo test --test golden` writes what is new.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use expect_test::expect_file;
use legation::admin::json;
use legation::mesh::Joiner;
use legation::model::Namespace;
use legation::snapshot::{ResourceType, Tables};
use legation::source::file;
use legation::translate::Translator;

/// The types of which something is served.
const GOLDEN: [ResourceType; 4] =
    [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Listener, ResourceType::Route];

fn translated(input: &Path) -> Tables {
    let namespace = Namespace::from("prod");
    let view = file::load(input, &namespace).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let mesh = Joiner::new(&BTreeSet::from([namespace])).join(&[Arc::new(view)]);
    assert_eq!(mesh.findings, []);
    Translator::default().translate(&mesh.namespaces["prod"])
}

fn inputs(kind: ResourceType) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(kind.word());
    let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let inputs: Vec<_> = entries.filter(|path| path.to_string_lossy().ends_with(".in.yaml")).collect();
    assert!(!inputs.is_empty(), "no golden input in {}", folder.display());
    inputs
}

fn check(kind: ResourceType) {
    for input in inputs(kind) {
        let resources: Vec<_> = translated(&input)[kind]
            .values()
            .map(|resource| json::resource_json(resource).unwrap())
            .collect();
        let output = input.to_string_lossy().replace(".in.yaml", ".out.json");
        let text = serde_json::to_string_pretty(&resources).unwrap() + "\n";
        expect_file![output].assert_eq(&text);
    }
}

#[test]
fn clusters() {
    check(ResourceType::Cluster);
}

#[test]
fn endpoints() {
    check(ResourceType::Endpoint);
}

#[test]
fn listeners() {
    check(ResourceType::Listener);
}

#[test]
fn routes() {
    check(ResourceType::Route);
}

/// Protobuf maps are encoded in random order, so that a second entry would make versions flap.
#[test]
fn no_protobuf_map_holds_more_than_one_entry() {
    for resource in GOLDEN.into_iter().flat_map(inputs).flat_map(|input| {
        let tables = translated(&input);
        ResourceType::ALL.into_iter().flat_map(move |kind| tables[kind].values().cloned().collect::<Vec<_>>())
    }) {
        assert!(json::longest_map(&resource).unwrap() <= 1, "{}", resource.name);
    }
}
