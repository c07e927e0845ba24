//! The Cloud Map source against an emulator that others wrote: moto.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use hyper::Method;
use integration::control_plane::{ControlPlane, Setup, Sources};
use integration::envoy::Envoy;
use integration::http::{request, send};
use integration::scene::play;
use integration::stage::PROXY;
use integration::wait;
use legation::snapshot::ResourceType;
use serde_json::{Value, json};

use crate::ads::{Ads, Received};
use crate::moto::Moto;
use integration::shop::sidecar;

const LIMIT: Duration = Duration::from_secs(20);
/// More than one page of each.
const SERVICES: usize = 120;
const INSTANCES: usize = 150;

impl Moto {
    /// One Cloud Map operation.
    pub(crate) async fn call(&self, operation: &str, input: Value) -> anyhow::Result<Value> {
        self.ask("servicediscovery", &format!("Route53AutoNaming_v20170314.{operation}"), input).await
    }

    pub(crate) async fn namespace(&self, operation: &str, input: Value) -> anyhow::Result<String> {
        self.call(operation, input.clone()).await?;
        let listed = self.call("ListNamespaces", json!({})).await?;
        let all = listed["Namespaces"].as_array().cloned().unwrap_or_default();
        let found = all.iter().find(|namespace| namespace["Name"] == input["Name"]);
        let id = found.and_then(|namespace| namespace["Id"].as_str());
        id.map(str::to_owned).with_context(|| format!("{} was not created", input["Name"]))
    }

    pub(crate) async fn service(&self, namespace: &str, name: &str, dns: bool) -> anyhow::Result<String> {
        let mut input = json!({ "Name": name, "NamespaceId": namespace });
        if dns {
            input["DnsConfig"] = json!({ "DnsRecords": [{ "Type": "A", "TTL": 10 }] });
        }
        let created = self.call("CreateService", input).await?;
        created["Service"]["Id"].as_str().map(str::to_owned).context("a service without id")
    }

    pub(crate) async fn register(&self, service: &str, id: &str, address: SocketAddr) -> anyhow::Result<()> {
        let attributes = json!({
            "AWS_INSTANCE_IPV4": address.ip(),
            "AWS_INSTANCE_PORT": address.port().to_string(),
            "AVAILABILITY_ZONE": "eu-west-1a",
            "legation.protocol": "http",
        });
        let input = json!({ "ServiceId": service, "InstanceId": id, "CreatorRequestId": id, "Attributes": attributes });
        self.call("RegisterInstance", input).await.map(drop)
    }

    async fn deregister(&self, service: &str, id: &str) -> anyhow::Result<()> {
        let input = json!({ "ServiceId": service, "InstanceId": id });
        self.call("DeregisterInstance", input).await.map(drop)
    }
}

/// How many endpoints of each service are in rotation.
async fn rotation(server: &ControlPlane, namespace: &str) -> anyhow::Result<BTreeMap<String, u64>> {
    let services = server.items(&format!("namespaces/{namespace}/services")).await?;
    let counts = services.iter().filter_map(|service| {
        Some((service["name"].as_str()?.to_owned(), service["counts"]["healthy"].as_u64()?))
    });
    Ok(counts.collect())
}

fn address(number: usize) -> anyhow::Result<SocketAddr> {
    let [high, low] = u16::try_from(number)?.to_be_bytes();
    Ok((Ipv4Addr::new(10, 9, high, low), 8080).into())
}

fn reads(namespace: &str) -> Sources {
    Sources { cloud_map: vec![namespace.to_owned()], ..Sources::default() }
}

#[test]
fn members_of_an_http_namespace_are_served_and_withdrawn_one_by_one() -> anyhow::Result<()> {
    play("moto-http", async |scene| {
        let moto = Moto::start(scene.folder()).await?;
        let namespace = moto.namespace("CreateHttpNamespace", json!({ "Name": "legacy" })).await?;
        for number in 0..SERVICES {
            let service = moto.service(&namespace, &format!("old-{number:03}"), false).await?;
            moto.register(&service, "only", address(number)?).await?;
        }
        let big = moto.service(&namespace, "big", false).await?;
        for number in 0..INSTANCES {
            moto.register(&big, &format!("i-{number:03}"), address(1000 + number)?).await?;
        }

        let setup = Setup::aws(&format!("http://{}", moto.address)).namespace("legacy", reads("legacy"));
        let mut server = ControlPlane::start(scene.folder(), &setup).await?;
        let counts = rotation(&server, "legacy").await?;
        assert_eq!(counts.len(), SERVICES + 1);
        assert_eq!(counts["big"], INSTANCES as u64);
        assert!(counts.iter().all(|(name, count)| name == "big" || *count == 1), "{counts:?}");

        let mut ads = Ads::open(server.xds(), "wire-1", "legacy").await?;
        ads.hold_everything(SERVICES + 1, SERVICES + 2).await?;
        moto.deregister(&big, "i-042").await?;
        let assignment = |name: &str| Received {
            kind: ResourceType::Endpoint,
            names: vec![format!("legacy/{name}")],
            removed: Vec::new(),
        };
        assert_eq!(ads.next().await?, assignment("big"));
        let changes = server.items("changes").await?;
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert_eq!(changes[0]["instance"], "i-042");
        assert_eq!(rotation(&server, "legacy").await?["big"], INSTANCES as u64 - 1);
        moto.register(&big, "i-042", address(1042)?).await?;
        assert_eq!(ads.next().await?, assignment("big"));
        server.stop().await
    })
}

#[test]
fn members_of_a_private_dns_namespace_take_requests_until_they_leave() -> anyhow::Result<()> {
    play("moto-dns", async |scene| {
        let moto = Moto::start(scene.folder()).await?;
        let input = json!({ "Name": "private.local", "Vpc": "vpc-0123456789abcdef0" });
        let namespace = moto.namespace("CreatePrivateDnsNamespace", input).await?;
        let audit = moto.service(&namespace, "audit", true).await?;
        for (number, name) in [(1, "one"), (2, "two")] {
            let place = SocketAddr::from((Ipv4Addr::new(127, 9, 8, number), 8080));
            let listener = tokio::net::TcpListener::bind(place).await?;
            let answer = axum::Router::new().fallback(move || std::future::ready(name));
            tokio::spawn(async move { axum::serve(listener, answer).await });
            moto.register(&audit, name, place).await?;
        }

        let setup =
            Setup::aws(&format!("http://{}", moto.address)).namespace("private", reads("private.local"));
        let mut server = ControlPlane::start(scene.folder(), &setup).await?;
        let mut envoy = Envoy::start(scene.folder(), "till", &server.bootstrap(&sidecar("private"))?).await?;
        envoy.live().await?;
        let ask = async || {
            let answer = send(PROXY, request(Method::GET, "audit", "http://audit:8080/")?).await?;
            anyhow::ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
            Ok(answer.text())
        };
        for wanted in ["one", "two"] {
            let answers = async || Ok((ask().await? == wanted).then_some(()));
            wait::until(LIMIT, format!("an answer from {wanted}"), answers).await?;
        }
        moto.deregister(&audit, "one").await?;
        let left = async || Ok((envoy.endpoints("private/audit").await? == ["127.9.8.2:8080"]).then_some(()));
        wait::until(LIMIT, "the endpoint to leave Envoy", left).await?;
        for _ in 0..10 {
            assert_eq!(ask().await?, "two");
        }
        assert!(envoy.oracle().await?.raised.is_empty());
        envoy.stop().await?;
        server.stop().await
    })
}
