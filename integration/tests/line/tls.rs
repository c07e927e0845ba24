//! A certificate on the xDS port: who trusts it is served, and nobody else.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use integration::control_plane::{ControlPlane, Setup, Sidecar, Sources};
use integration::envoy::Envoy;
use integration::scene::play;
use integration::wait;

const SERVICES: &str = "services:
  payments:
    aliases: [{ name: payments, port: 8080 }]
    appProtocol: http
    endpoints: [{ address: 10.0.0.1, port: 8080 }]
";
const PATIENCE: Duration = Duration::from_secs(30);

/// A new certificate for 127.0.0.1, signed by nobody else, and its key.
fn certificate(folder: &Path, name: &str) -> anyhow::Result<[PathBuf; 2]> {
    let pair = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let files = [folder.join(format!("{name}.crt")), folder.join(format!("{name}.key"))];
    std::fs::write(&files[1], pair.signing_key.serialize_pem())?;
    std::fs::write(&files[0], pair.cert.pem())?;
    Ok(files)
}

fn sidecar(task: &str) -> Sidecar {
    let [task, namespace, service, zone] = [task, "prod", "checkout", "eu-west-1a"].map(str::to_owned);
    Sidecar { task, namespace, service, zone, container_ports: Vec::new() }
}

async fn start(server: &ControlPlane, folder: &Path, task: &str, ca: &Path) -> anyhow::Result<Envoy> {
    let ca = ca.to_str().context("a strange path")?;
    let bootstrap = server.bootstrap_with(&sidecar(task), server.xds(), &["--ca-file", ca])?;
    Envoy::start(folder, task, &bootstrap).await
}

#[test]
fn a_sidecar_checks_the_certificate_of_the_server() -> anyhow::Result<()> {
    play("tls", async |scene| {
        let folder = scene.folder();
        let services = folder.join("services.yaml");
        std::fs::write(&services, SERVICES)?;
        let [trusted, key] = certificate(folder, "tls")?;
        let [other, _] = certificate(folder, "other")?;
        let tls = format!("{{ certificateFile: {}, privateKeyFile: {} }}", trusted.display(), key.display());
        let sources = Sources { files: vec![services], ..Sources::default() };
        let setup = Setup::files().namespace("prod", sources).xds("tls", tls);
        let server = ControlPlane::start(folder, &setup).await?;

        let mut envoy = start(&server, folder, "trusting", &trusted).await?;
        envoy.live().await?;
        assert!(envoy.listeners().await?.contains(&"prod/payments:8080".to_owned()));

        let stranger = start(&server, folder, "doubting", &other).await?;
        let refused = "cluster.legation.ssl.fail_verify_error";
        wait::until(PATIENCE, "the stranger to look at the certificate", async || {
            Ok((stranger.stat(refused).await? > 0).then_some(()))
        })
        .await?;
        let proxies = server.items("proxies").await?;
        assert_eq!(proxies.len(), 1, "{proxies:?}");
        assert_eq!(proxies[0]["id"], "trusting");
        Ok(())
    })
}
