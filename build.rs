//! Compiles `proto/` without `protoc`, and finds the descriptors that `envoy-types` ships, so that admin and
//! golden files can show what is served as canonical protobuf JSON.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let discovery = protox::compile(["xds/discovery.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".").build_server(false).compile_fds(discovery)?;

    // A plain build has not fetched every development dependency: then cargo must be let online.
    let metadata = metadata(&["--offline"]).or_else(|_| metadata(&[]))?;
    let envoy_types = metadata.packages.iter().find(|package| package.name.as_str() == "envoy-types");
    let manifest = &envoy_types.ok_or("envoy-types is not among the dependencies")?.manifest_path;
    let types = manifest.parent().ok_or("envoy-types has no folder")?.join("src/generated/types.bin");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::copy(&types, out.join("envoy-types.bin")).map_err(|error| format!("{types}: {error}"))?;
    Ok(())
}

fn metadata(more: &[&str]) -> cargo_metadata::Result<cargo_metadata::Metadata> {
    let target = env::var("TARGET").unwrap_or_default();
    let always = ["--locked", "--filter-platform", &target];
    let options = always.iter().chain(more);
    cargo_metadata::MetadataCommand::new()
        .manifest_path("Cargo.toml")
        .other_options(options.map(|option| (*option).to_owned()).collect::<Vec<_>>())
        .exec()
}
