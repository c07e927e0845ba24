//! What tools find: client status on the admin side and only there, health and reflection beside discovery.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient;
use envoy_types::pb::envoy::service::status::v3::{ClientStatusRequest, ConfigStatus};
use integration::scene::play;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use integration::shop::Shop;
use integration::wait;

const SERVICES: &str = "\
services:
  payments:
    appProtocol: http
    aliases: [{ name: payments, port: 8099 }]
    endpoints: [{ address: 127.9.9.1, port: 8080 }]
";
const ADS: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
const CSDS: &str = "envoy.service.status.v3.ClientStatusDiscoveryService";

async fn channel(address: SocketAddr) -> anyhow::Result<Channel> {
    let endpoint = Channel::from_shared(format!("http://{address}"))?;
    endpoint.connect().await.context("connecting as a tool")
}

/// The services that reflection names.
async fn services(address: SocketAddr) -> anyhow::Result<Vec<String>> {
    let request = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { message_request: Some(request), ..Default::default() };
    let requests = futures_util::stream::iter([request]);
    let mut client = ServerReflectionClient::new(channel(address).await?);
    let answer = client.server_reflection_info(requests).await?.into_inner().message().await?;
    match answer.and_then(|answer| answer.message_response) {
        Some(MessageResponse::ListServicesResponse(list)) => {
            Ok(list.service.into_iter().map(|service| service.name).collect())
        }
        other => anyhow::bail!("no list of services: {other:?}"),
    }
}

#[test]
fn client_status_is_told_on_the_admin_side_and_health_and_reflection_beside_discovery() -> anyhow::Result<()>
{
    play("tools", async |scene| {
        let shop = Shop::open(scene, SERVICES).await?;
        let status = ClientStatusDiscoveryServiceClient::new(channel(shop.server.admin()).await?);
        // The last of its ACKs may be on their way.
        let settled = async || {
            let answer =
                status.clone().fetch_client_status(ClientStatusRequest::default()).await?.into_inner();
            let [sidecar] = answer.config.as_slice() else { anyhow::bail!("not one sidecar: {answer:?}") };
            let sent = sidecar.generic_xds_configs.iter().filter(|config| config.xds_config.is_some());
            ensure!(sent.clone().all(|config| config.config_status() == ConfigStatus::Synced), "{answer:?}");
            Ok((sent.count() == 6).then(|| sidecar.clone()))
        };
        let what = "cluster, assignment, two listeners and two routes to be in sync";
        let sidecar = wait::until(Duration::from_secs(10), what, settled).await?;
        ensure!(sidecar.node.as_ref().is_some_and(|node| node.id == "till-1"), "{:?}", sidecar.node);
        // Of the sidecar's own service nobody knows anything, so its local cluster has nobody in it.
        let (local, configs): (Vec<_>, Vec<_>) =
            sidecar.generic_xds_configs.iter().partition(|config| config.name == "shop/@local/till");
        ensure!(local.iter().all(|config| config.xds_config.is_none()) && local.len() == 1, "{local:?}");
        ensure!(configs.len() == 6, "{configs:?}");

        let mut elsewhere = ClientStatusDiscoveryServiceClient::new(channel(shop.server.xds()).await?);
        let refused = elsewhere.fetch_client_status(ClientStatusRequest::default()).await;
        ensure!(refused.is_err_and(|status| status.code() == Code::Unimplemented), "on the xDS port");

        let mut health = HealthClient::new(channel(shop.server.xds()).await?);
        for service in ["", ADS] {
            let request = HealthCheckRequest { service: service.to_owned() };
            let answer = health.check(request).await?.into_inner();
            ensure!(answer.status() == ServingStatus::Serving, "{service} is {answer:?}");
        }
        let beside = services(shop.server.xds()).await?;
        ensure!(beside.iter().any(|name| name == ADS), "{beside:?}");
        ensure!(beside.iter().all(|name| name != CSDS), "{beside:?}");
        let admin = services(shop.server.admin()).await?;
        ensure!(admin.iter().any(|name| name == CSDS), "{admin:?}");
        shop.close().await
    })
}
