//! One folder for each resource type: `*.in.yaml` is a file source, `*.policy.yaml` beside it a policy, and `*.out.json`
//! what Envoy is sent for both, in canonical protobuf JSON. `UPDATE_EXPECT=1 cargo test --test golden` writes what is new.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use expect_test::expect_file;
use legation::admin::json;
use legation::mesh::Joiner;
use legation::model::Namespace;
use legation::policy::watch;
use legation::snapshot::{ResourceType, Tables};
use legation::source::file;
use legation::translate::Translator;

/// The types of which something is served.
const GOLDEN: [ResourceType; 4] =
    [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Listener, ResourceType::Route];

fn translated(input: &Path) -> Tables {
    let namespace = Namespace::from("prod");
    let view = file::load(input, &namespace).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let namespaces = BTreeSet::from([namespace]);
    let beside = PathBuf::from(input.to_string_lossy().replace(".in.yaml", ".policy.yaml"));
    let policies: Vec<_> = [beside].into_iter().filter(|path| path.exists()).collect();
    let loaded = watch::load(&watch::Places::new(&policies, None), &namespaces)
        .unwrap_or_else(|problems| panic!("{problems:#?}"));
    let mesh = Joiner::new(&namespaces).join(&[Arc::new(view), loaded.externals], &loaded.policy);
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

/// Protobuf maps are encoded in random order, so that one with a second entry would make versions flap.
#[test]
fn the_same_words_are_the_same_bytes() {
    for input in GOLDEN.into_iter().flat_map(inputs) {
        let first = translated(&input);
        for _ in 0..8 {
            let again = translated(&input);
            for kind in ResourceType::ALL {
                let bytes = |tables: &Tables| -> Vec<_> {
                    tables[kind].values().map(|resource| resource.any.clone()).collect()
                };
                assert!(bytes(&first) == bytes(&again), "{kind:?} of {}", input.display());
            }
        }
    }
}
