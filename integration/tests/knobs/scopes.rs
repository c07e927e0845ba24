//! What one sidecar sees of two namespaces, while the policy changes and it goes on.
//!
//! Services of the same namespace are treated elsewhere. Invariant: Envoy is never started anew, and what it goes on
//! seeing is never sent to it again.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use axum::body::Body;
use hyper::{Method, Request};
use integration::control_plane::{ControlPlane, Setup, Sources};
use integration::envoy::Envoy;
use integration::http::{Answer, send};
use integration::scene::play;
use integration::shop::{ServicesFile, serve, sidecar};
use integration::stage::PROXY;
use integration::wait;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(20);

/// Two namespaces and the sidecar of `till`, which is in the first.
struct Town {
    control: ControlPlane,
    envoy: Envoy,
    shop: ServicesFile,
    shared: ServicesFile,
    policy: PathBuf,
    places: Vec<SocketAddr>,
}

/// A services file: each service with its alias's port and its endpoints.
fn services(of: &[(&str, u16, &[SocketAddr])]) -> String {
    let mut text = "services:\n".to_owned();
    for (name, port, places) in of {
        text += &format!(
            "  {name}:\n    aliases: [{{ name: {name}, port: {port} }}]\n    appProtocol: http\n    endpoints:\n"
        );
        for place in *places {
            text += &format!("      - {{ address: {}, port: {} }}\n", place.ip(), place.port());
        }
    }
    text
}

impl Town {
    async fn open(folder: &Path) -> anyhow::Result<Self> {
        let mut places = Vec::new();
        for last in 120..124_u8 {
            let answer = move || async move { last.to_string() };
            places.push(serve(last, axum::Router::new().fallback(answer)).await?);
        }
        let room = |name: &str| {
            let room = folder.join(name);
            std::fs::create_dir_all(&room).map(|()| room).context("a folder")
        };
        let shop = ServicesFile::new(&room("shop")?, &Self::shop(&places[..2], &places[2..]))?;
        let shared = ServicesFile::new(&room("shared")?, &Self::shared(&places[..2], &places[2..]))?;
        let policies = room("policies")?;
        let of = |file: &ServicesFile| Sources { files: vec![file.path().to_owned()], ..Sources::default() };
        let setup = Setup { policies: vec![policies.clone()], ..Setup::files() };
        let setup = setup.namespace("shop", of(&shop)).namespace("shared", of(&shared));
        let control = ControlPlane::start(folder, &setup).await?;
        let mut envoy = Envoy::start(folder, "till", &control.bootstrap(&sidecar("shop"))?).await?;
        envoy.live().await?;
        Ok(Self { control, envoy, shop, shared, policy: policies.join("policy.yaml"), places })
    }

    fn shop(pay: &[SocketAddr], other: &[SocketAddr]) -> String {
        services(&[("pay", 8090, pay), ("other", 8091, other)])
    }

    fn shared(audit: &[SocketAddr], mail: &[SocketAddr]) -> String {
        services(&[("audit", 8093, audit), ("mail", 8094, mail)])
    }

    /// A policy in place of the one before, if there was any.
    fn apply(&self, policy: &str) -> anyhow::Result<()> {
        let text = format!("apiVersion: legation/v1alpha1\nkind: Policy\n{policy}");
        let draft = self.policy.with_file_name(".draft");
        std::fs::write(&draft, text).context("writing a policy")?;
        std::fs::rename(&draft, &self.policy).context("naming a policy")
    }

    async fn ask_at(&self, to: SocketAddr, host: &str) -> anyhow::Result<Answer> {
        let request = Request::builder().method(Method::GET).uri(format!("http://{host}/"));
        send(to, request.header("host", host).body(Body::empty())?).await
    }

    /// Whether a name leads anywhere, or is answered as one that nobody has.
    async fn reaches(&self, host: &str) -> anyhow::Result<bool> {
        let answer = self.ask_at(PROXY, host).await?;
        if answer.status == 404 {
            ensure!(answer.header("x-legation-reason") == Some("no-such-name"), "{host}");
            return Ok(false);
        }
        ensure!(answer.status == 200, "{host} is answered {}", answer.status);
        Ok(true)
    }

    async fn clusters(&self) -> anyhow::Result<Vec<String>> {
        let dump = self.envoy.config_dump().await?;
        let configs = dump["configs"].as_array().cloned().unwrap_or_default();
        let clusters =
            configs.iter().filter_map(|config| config["dynamic_active_clusters"].as_array()).flatten();
        let mut names: Vec<_> =
            clusters.filter_map(|it| it["cluster"]["name"].as_str()).map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// Waits until Envoy has these clusters, and `pay` all the time.
    async fn has(&self, wanted: &[&str]) -> anyhow::Result<()> {
        let (mut last, mut lost) = (Vec::new(), 0);
        let has = wait::until(LIMIT, format!("the clusters {wanted:?}"), async || {
            lost += u32::from(!self.reaches("pay:8090").await.unwrap_or(false));
            last = self.clusters().await?;
            Ok((last == wanted).then_some(()))
        });
        has.await.with_context(|| format!("the last were {last:?}"))?;
        ensure!(lost == 0, "pay was lost on the way to {wanted:?}, {lost} times");
        Ok(())
    }

    /// Waits until Envoy has these endpoints of a service, and everyone agreed to what left.
    async fn has_withdrawn(
        &self,
        service: &str,
        left: SocketAddr,
        rest: &[SocketAddr],
    ) -> anyhow::Result<()> {
        let rest: Vec<_> = rest.iter().map(ToString::to_string).collect();
        wait::until(LIMIT, format!("the end of {left} in {service}"), async || {
            Ok((self.envoy.endpoints(service).await? == rest).then_some(()))
        })
        .await?;
        wait::until(LIMIT, format!("one withdrawal of {left}, known to the sidecar"), async || {
            let changes = self.control.items("changes").await?;
            let address = left.ip().to_string();
            let is_it = |change: &&Value| change["address"] == *address && change["assignment"] == *service;
            let found: Vec<_> = changes.iter().filter(is_it).collect();
            ensure!(found.len() <= 1, "{found:?}");
            let Some(change) = found.first() else { return Ok(None) };
            let counts = (change["sent"].as_u64(), change["acked"].as_u64(), change["waiting"].as_u64());
            Ok((counts == (Some(1), Some(1), Some(0))).then_some(()))
        })
        .await
    }

    /// What the sidecar was sent in all, and the scope that it is in.
    async fn proxy(&self) -> anyhow::Result<(u64, Value)> {
        let proxies = self.control.items("proxies").await?;
        let [proxy] = proxies.as_slice() else { anyhow::bail!("{proxies:?}") };
        let types = proxy["types"].as_array().context("no types")?;
        Ok((types.iter().filter_map(|it| it["resources"].as_u64()).sum(), proxy["scope"].clone()))
    }

    async fn address_of(&self, namespace: &str, name: &str, port: u16) -> anyhow::Result<SocketAddr> {
        let hosts = self.control.items(&format!("namespaces/{namespace}/hosts")).await?;
        let host = hosts.iter().find(|host| host["name"] == name).context("no such host")?;
        let address: Ipv4Addr = host["address"].as_str().context("no address")?.parse()?;
        Ok((address, port).into())
    }
}

#[test]
fn a_client_sees_what_it_imports_and_only_what_it_uses() -> anyhow::Result<()> {
    play("scopes", async |scene| {
        let mut town = Town::open(scene.folder()).await?;
        let places = town.places.clone();
        town.has(&["shop/other", "shop/pay"]).await?;
        for name in ["audit:8093", "audit", "audit.shared:8093"] {
            ensure!(!town.reaches(name).await?, "{name} without an import");
        }
        // An import reaches a running Envoy.
        town.apply("imports: [{ client: \"ti*\", namespace: shop, from: [shared] }]\n")?;
        town.has(&["shared/audit", "shared/mail", "shop/other", "shop/pay"]).await?;
        for name in ["audit:8093", "audit", "audit.shared:8093", "audit.shared", "mail.shared"] {
            ensure!(town.reaches(name).await?, "{name} with the import");
        }
        let alias = town.address_of("shared", "audit", 8093).await?;
        ensure!(town.ask_at(alias, "audit").await?.status == 200, "its own loopback address");
        println!("an import: short and long names, and {alias}");

        // One stopped task of an imported service is one withdrawal, of which its importer counts.
        town.shared.write(&Town::shared(&places[1..2], &places[2..]))?;
        town.has_withdrawn("shared/audit", places[0], &places[1..2]).await?;

        // Who says what it uses has nothing else, and is told in time of that.
        town.apply("services: { till: { namespace: shop, uses: [pay] } }\n")?;
        town.has(&["shop/pay"]).await?;
        ensure!(!town.reaches("audit").await? && !town.reaches("other").await?);
        town.shop.write(&Town::shop(&places[..1], &places[2..]))?;
        town.has_withdrawn("shop/pay", places[1], &places[..1]).await?;

        // What happens elsewhere is not sent.
        let (sent, scope) = town.proxy().await?;
        ensure!(scope == serde_json::json!({ "uses": ["pay", "till"], "imports": {} }), "{scope}");
        town.shop.write(&Town::shop(&places[..1], &places[3..]))?;
        town.shared.write(&Town::shared(&places[..1], &places[3..]))?;
        wait::until(LIMIT, "the withdrawals elsewhere", async || {
            let changes = town.control.items("changes").await?;
            let elsewhere = |change: &&Value| {
                ["shop/other", "shared/mail", "shared/audit"].iter().any(|it| change["assignment"] == **it)
            };
            Ok((changes.iter().filter(elsewhere).count() >= 4).then_some(()))
        })
        .await?;
        ensure!(town.proxy().await?.0 == sent, "it was sent something");

        town.apply("services: { till: { namespace: shop, uses: [pay, shared/audit] } }\n")?;
        town.has(&["shared/audit", "shop/pay"]).await?;
        ensure!(town.reaches("audit").await? && !town.reaches("mail").await?);
        // What is not exported is nobody's.
        town.apply("imports: [{ client: till, namespace: shop, from: [shared] }]\nnamespaces: { shared: { exports: [\"ma*\"] } }\n")?;
        town.has(&["shared/mail", "shop/other", "shop/pay"]).await?;
        ensure!(!town.reaches("audit.shared").await? && town.reaches("mail").await?);

        let changed = town.envoy.stat("cluster_manager.cluster_modified").await?;
        ensure!(changed == 0, "{changed} clusters were changed in place");
        let oracle = town.envoy.oracle().await?;
        ensure!(oracle.raised.is_empty(), "Envoy raised {:?}", oracle.raised);
        town.envoy.stop().await?;
        town.control.stop().await
    })
}
