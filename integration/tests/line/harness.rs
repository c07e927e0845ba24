//! The harness itself: a load that saw no failure, or an oracle that raised nothing, must be able to.

use std::net::SocketAddr;
use std::time::Duration;

use integration::envoy::Envoy;
use integration::load::{Load, Plan, Way};
use integration::scene::play;
use integration::wait;

const ALIAS: &str = "127.133.7.1:8080";

/// A sidecar without a control plane that answers by itself.
fn bootstrap(status: u16) -> String {
    format!(
        r#"
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.133.7.1, port_value: 8080 }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: alias
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [ {{ match: {{ prefix: "/" }}, direct_response: {{ status: {status} }} }} ]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
"#
    )
}

fn way() -> anyhow::Result<Way> {
    Ok(Way::direct("direct", ALIAS.parse::<SocketAddr>()?, "payments:8080"))
}

#[test]
fn load_spreads_over_both_envoys_and_again_when_one_returns() -> anyhow::Result<()> {
    play("spread", async |scene| {
        let mut one = Envoy::start(scene.folder(), "one", &bootstrap(200)).await?;
        let mut two = Envoy::start(scene.folder(), "two", &bootstrap(200)).await?;
        one.live().await?;
        two.live().await?;
        assert!(one.version().await?.starts_with("1."));
        let envoys = vec![one.admin(), two.admin()];
        let load = Load::start(Plan { ways: vec![way()?], envoys }).await?;
        load.more(50).await?;
        load.is_flawless()?;
        for envoy in [&one, &two] {
            let served = envoy.stat("http.alias.downstream_rq_2xx").await?;
            assert!(served > 0, "{} served nothing of {:?}", envoy.name(), load.totals());
        }

        let carried = |load: &Load| load.spread().get("direct").cloned().unwrap_or_default();
        assert!(carried(&load).iter().all(|count| *count >= 2), "{:?}", load.spread());
        one.stop().await?;
        let limit = Duration::from_secs(10);
        let gone = async || Ok((carried(&load).first() == Some(&0)).then_some(()));
        wait::until(limit, "the spread to show that one is gone", gone).await?;
        load.more(20).await?;
        load.stop().await
    })
}

#[test]
fn load_counts_what_fails_and_tells_it_in_full() -> anyhow::Result<()> {
    play("failures", async |scene| {
        let mut envoy = Envoy::start(scene.folder(), "refusing", &bootstrap(503)).await?;
        envoy.live().await?;
        let load = Load::start(Plan { ways: vec![way()?], envoys: vec![envoy.admin()] }).await?;
        let failing = async || Ok((load.counts().1 >= 10).then_some(()));
        wait::until(Duration::from_secs(10), "ten failures", failing).await?;
        let error = load.is_flawless().unwrap_err().to_string();
        assert!(error.contains("no exchange has succeeded"), "{error}");
        let first = load.failures().remove(0).to_string();
        assert!(first.contains("503") && first.contains("direct") && first.contains("envoy"), "{first}");

        drop(envoy);
        let refused = async || {
            let connecting = load.failures().iter().any(|failure| failure.what.contains("connecting"));
            let broken = load.failures().iter().any(|failure| failure.what.contains("broken"));
            Ok((connecting || broken || load.counts().1 >= 30).then_some(()))
        };
        wait::until(Duration::from_secs(10), "more failures", refused).await?;
        load.stop().await
    })
}

#[test]
fn the_oracle_raises_what_a_control_plane_that_says_nothing_causes() -> anyhow::Result<()> {
    play("oracle", async |scene| {
        let alone = Envoy::start(scene.folder(), "alone", &bootstrap(200)).await?;
        let error = alone.oracle().await.unwrap_err().to_string();
        assert!(error.contains("has no counter"), "without a control plane nothing can be said: {error}");

        let text = r#"
admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }
node: { id: mute, cluster: mute }
dynamic_resources:
  ads_config: { api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [ { envoy_grpc: { cluster_name: xds } } ] }
  cds_config: { resource_api_version: V3, ads: {}, initial_fetch_timeout: 0.2s }
  lds_config: { resource_api_version: V3, ads: {}, initial_fetch_timeout: 0.2s }
static_resources:
  clusters:
  - name: xds
    type: STATIC
    load_assignment: { cluster_name: xds, endpoints: [] }
"#;
        let mut unheard = Envoy::start(scene.folder(), "unheard", text).await?;
        unheard.live().await?;
        let oracle = unheard.oracle().await?;
        assert!(oracle.raised.keys().any(|name| name.ends_with("init_fetch_timeout")), "{oracle:?}");
        Ok(())
    })
}
