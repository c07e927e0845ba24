//! The images of the estate, built from what is on this machine: nothing is pulled.
//!
//! The server's is what its users build with `deploy/image/Dockerfile`: its last stage is taken from there, with the static
//! binary that `make image` built in place of the first stage. Envoy is the stock binary with the libraries that it names.
//! Invariant: an image holds what its program needs and nothing else; there is no shell in any of them.

use std::path::{Path, PathBuf};

use anyhow::Context;
use bollard::query_parameters::BuildImageOptions;
use bytes::Bytes;
use futures_util::TryStreamExt;
use tar::{Builder, Header};
use tokio::process::Command;

use super::engine::Engine;
use crate::process::target_dir;

/// Legation itself, as users run it.
pub const LEGATION: &str = "legation:estate";
/// The same program under another name, in place of the next release.
pub const NEXT: &str = "legation:estate-next";
/// Stock Envoy.
pub const ENVOY: &str = "legation-envoy:estate";
/// The application.
pub const APP: &str = "legation-app:estate";

/// What the server's image may weigh.
pub const LARGEST: u64 = 40_000_000;

/// What is built into an image.
#[derive(Debug, Default)]
struct Content {
    files: Vec<(String, PathBuf, u32)>,
    texts: Vec<(String, String)>,
}

/// Builds all of them. The engine keeps what has not changed.
pub async fn build(engine: &Engine) -> anyhow::Result<()> {
    let target = target_dir()?;
    let context = Content {
        files: vec![
            ("legation".to_owned(), legation(&target)?, 0o755),
            ("ca-certificates.crt".to_owned(), certificates(&target).await?, 0o644),
        ],
        texts: vec![("Dockerfile".to_owned(), last_stage()?)],
    };
    build_one(engine, LEGATION, &context).await?;
    let next = Content {
        texts: vec![(
            "Dockerfile".to_owned(),
            format!("FROM {LEGATION}\nLABEL org.opencontainers.image.version=next\n"),
        )],
        ..Content::default()
    };
    build_one(engine, NEXT, &next).await?;
    let envoy = with_libraries(&target.join("envoy/envoy"), "/usr/local/bin/envoy").await?;
    build_one(engine, ENVOY, &envoy).await?;
    let own = std::env::current_exe().context("asking where this program is")?;
    let beside = own.ancestors().map(|folder| folder.join("app")).find(|candidate| candidate.is_file());
    let app = beside.context("no program `app` beside this one: run `cargo build -p integration --bins`")?;
    build_one(engine, APP, &with_libraries(&app, "/app").await?).await
}

/// How much an image weighs, in bytes.
pub async fn size(engine: &Engine, image: &str) -> anyhow::Result<u64> {
    let found = engine.docker().inspect_image(image).await.with_context(|| format!("looking at {image}"))?;
    u64::try_from(found.size.unwrap_or_default()).context("a negative size")
}

/// The static binary: `LEGATION_STATIC`, or where `make image` puts it.
fn legation(target: &Path) -> anyhow::Result<PathBuf> {
    let named = std::env::var_os("LEGATION_STATIC").map(PathBuf::from);
    let usual = || target.join(format!("{}-unknown-linux-gnu/release/legation", std::env::consts::ARCH));
    let found = named.unwrap_or_else(usual);
    anyhow::ensure!(found.is_file(), "{} is missing: run `make image`", found.display());
    Ok(found)
}

/// The certificates that Mozilla trusts, as the pinned Python package has them.
async fn certificates(target: &Path) -> anyhow::Result<PathBuf> {
    let python = target.join("python/bin/python");
    let asked = Command::new(python).args(["-c", "import certifi; print(certifi.where())"]).output().await;
    let said = asked.context("asking for certificates: run integration/setup.sh")?;
    anyhow::ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    Ok(PathBuf::from(String::from_utf8(said.stdout).context("a path")?.trim()))
}

/// What follows the first stage of the users' Dockerfile, which copies from a folder instead.
fn last_stage() -> anyhow::Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/image/Dockerfile");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let (_, last) = text.split_once("FROM scratch").context("the Dockerfile has no stage from scratch")?;
    Ok(format!("FROM scratch{}", last.replace("--from=build /out/", "")))
}

/// A program with the libraries that its loader names.
async fn with_libraries(program: &Path, at: &str) -> anyhow::Result<Content> {
    let program = program.canonicalize().with_context(|| format!("finding {}", program.display()))?;
    let output = Command::new("ldd").arg(&program).output().await.context("running ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut content = Content::default();
    content.files.push((format!("root{at}"), program, 0o755));
    // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, and the loader without an arrow.
    for path in text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/'))) {
        let file = Path::new(path).canonicalize().with_context(|| format!("finding {path}"))?;
        content.files.push((format!("root{path}"), file, 0o755));
    }
    let dockerfile = format!("FROM scratch\nCOPY root/ /\nENTRYPOINT [\"{at}\"]\n");
    content.texts.push(("Dockerfile".to_owned(), dockerfile));
    Ok(content)
}

async fn build_one(engine: &Engine, name: &str, content: &Content) -> anyhow::Result<()> {
    let archive = content.archive().with_context(|| format!("packing {name}"))?;
    let options = BuildImageOptions {
        dockerfile: "Dockerfile".to_owned(),
        t: Some(name.to_owned()),
        rm: true,
        ..Default::default()
    };
    let body = bollard::body_full(archive);
    let said: Vec<_> = engine
        .docker()
        .build_image(options, None, Some(body))
        .try_collect()
        .await
        .with_context(|| format!("building {name}"))?;
    let wrong = said.into_iter().find_map(|line| line.error_detail);
    anyhow::ensure!(wrong.is_none(), "building {name}: {wrong:?}");
    Ok(())
}

impl Content {
    /// As a tar file, the same for the same content, so that the engine's cache knows it.
    fn archive(&self) -> anyhow::Result<Bytes> {
        let mut archive = Builder::new(Vec::new());
        for (name, path, mode) in &self.files {
            let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            append(&mut archive, name, &bytes, *mode)?;
        }
        for (name, text) in &self.texts {
            append(&mut archive, name, text.as_bytes(), 0o644)?;
        }
        Ok(archive.into_inner()?.into())
    }
}

fn append(archive: &mut Builder<Vec<u8>>, name: &str, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let mut header = Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    header.set_cksum();
    archive.append_data(&mut header, name, bytes).with_context(|| format!("packing {name}"))
}
