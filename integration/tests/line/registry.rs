//! Members that ECS does not run: their health between readings, what services say of themselves, a service that one
//! answer does not hold, and a namespace that another account shares.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use hyper::Method;
use integration::aws::{FakeAws, Operation};
use integration::control_plane::{ControlPlane, Setup, Sources};
use integration::envoy::Envoy;
use integration::http::{request, send};
use integration::scene::play;
use integration::shop::sidecar;
use integration::stage::PROXY;
use integration::wait;
use integration::world::{Health, HealthCheck, NamespaceKind, World};

const LIMIT: Duration = Duration::from_secs(20);
/// How soon an ill instance must be out: two looks at its health, and a little.
const SOON: Duration = Duration::from_secs(6);
/// Requests in a row that tell that somebody gets none.
const ENOUGH: usize = 40;
const OTHER: &str = "222222222222";

/// A member that names itself and counts its requests.
struct Member {
    place: SocketAddr,
    served: Arc<AtomicU64>,
}

impl Member {
    async fn start(name: &'static str, host: u8) -> anyhow::Result<Self> {
        let place = SocketAddr::from((Ipv4Addr::new(127, 9, 7, host), 8080));
        let listener = tokio::net::TcpListener::bind(place).await?;
        let served = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&served);
        let answer = axum::Router::new().fallback(move || {
            counter.fetch_add(1, Ordering::Relaxed);
            std::future::ready(name)
        });
        tokio::spawn(async move { axum::serve(listener, answer).await });
        Ok(Self { place, served })
    }

    fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    fn attributes(&self, more: &[(&str, &str)]) -> BTreeMap<String, String> {
        let (ip, port) = (self.place.ip().to_string(), self.place.port().to_string());
        let place = [("AWS_INSTANCE_IPV4", ip.as_str()), ("AWS_INSTANCE_PORT", port.as_str())];
        let all = place.iter().chain(more);
        all.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }
}

/// A server that reads these so seldom that readings explain nothing.
async fn open(folder: &Path, aws: &FakeAws, cloud_map: &[&str]) -> anyhow::Result<ControlPlane> {
    let cloud_map = cloud_map.iter().map(|name| (*name).to_owned()).collect();
    let setup = Setup::aws(&aws.url()).namespace("prod", Sources { cloud_map, ..Sources::default() });
    ControlPlane::start(folder, &Setup { interval: Duration::from_secs(90), ..setup }).await
}

async fn ask(alias: &str) -> anyhow::Result<String> {
    let answer = send(PROXY, request(Method::GET, alias, &format!("http://{alias}/"))?).await?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    Ok(answer.text())
}

async fn answers_of(alias: &str, wanted: &[&str]) -> anyhow::Result<()> {
    let mut heard = BTreeSet::new();
    wait::until(LIMIT, format!("answers of {wanted:?}"), async || {
        heard.insert(ask(alias).await?);
        Ok(wanted.iter().all(|name| heard.contains(*name)).then_some(()))
    })
    .await
}

#[test]
fn an_instance_that_falls_ill_gets_no_requests_although_nothing_is_read_whole() -> anyhow::Result<()> {
    play("ill", async |scene| {
        let world = World::new();
        let namespace = world.create_namespace("legacy", NamespaceKind::Http)?;
        let audit = world.create_map_service(&namespace, "audit", HealthCheck::Custom)?;
        // Without the one the proxy could not route it, without the other nobody would know it by this name.
        world.set_service_attributes(
            &audit,
            &[("legation.protocol", "http"), ("legation.alias", "books:8085"), ("team", "billing")],
        )?;
        let names = ["one", "two", "three"];
        let mut members = Vec::new();
        for (host, name) in (1..).zip(names) {
            let member = Member::start(name, host).await?;
            world.register_instance(&audit, name, member.attributes(&[]))?;
            members.push(member);
        }
        let aws = FakeAws::start(world.clone()).await?;
        let mut server = open(scene.folder(), &aws, &["legacy"]).await?;
        let mut envoy = Envoy::start(scene.folder(), "till", &server.bootstrap(&sidecar("prod"))?).await?;
        envoy.live().await?;
        answers_of("books:8085", &names).await?;

        let readings = aws.calls(Operation::ListMapServices);
        world.set_instance_health(&audit, "one", Health::Unhealthy)?;
        let told = Instant::now();
        let (mut last, mut without) = (told, 0);
        wait::until(LIMIT, format!("{ENOUGH} answers in a row of others"), async || {
            match ask("books:8085").await?.as_str() {
                "one" => (last, without) = (Instant::now(), 0),
                _ => without += 1,
            }
            Ok((without >= ENOUGH).then_some(()))
        })
        .await?;
        let took = last.duration_since(told);
        ensure!(took < SOON, "requests came for {took:?}");
        let served = members[0].served();
        for _ in 0..ENOUGH {
            ask("books:8085").await?;
        }
        assert_eq!(members[0].served(), served);
        let service = server.api("namespaces/prod/services/audit").await?;
        let endpoints = service["item"]["endpoints"].as_array().cloned().unwrap_or_default();
        let ill: Vec<_> = endpoints.iter().filter(|one| one["reason"] == "cloudmap-unhealthy").collect();
        ensure!(ill.len() == 1 && ill[0]["instance"] == "one", "{endpoints:?}");

        world.set_instance_health(&audit, "one", Health::Healthy)?;
        answers_of("books:8085", &["one"]).await?;
        assert_eq!(aws.calls(Operation::ListMapServices), readings, "nothing was read whole meanwhile");
        assert!(envoy.oracle().await?.raised.is_empty());
        envoy.stop().await?;
        server.stop().await
    })
}

#[test]
fn what_another_account_shares_is_served_by_name_and_by_arn() -> anyhow::Result<()> {
    play("shared", async |scene| {
        let world = World::new();
        let mut cloud_map = Vec::new();
        for (host, (space, name)) in (21..).zip([("common", "ledger"), ("vault", "stock")]) {
            let namespace = world.share_namespace(OTHER, space)?;
            let service = world.create_map_service(&namespace, name, HealthCheck::Route53)?;
            let member = Member::start(name, host).await?;
            world.register_instance(&service, "only", member.attributes(&[("legation.protocol", "http")]))?;
            cloud_map.push(format!("arn:aws:servicediscovery:eu-west-1:{OTHER}:namespace/{namespace}"));
        }
        // This account has a namespace of the same name as one of the two, and reads the other by its name.
        world.create_namespace("common", NamespaceKind::Http)?;
        let aws = FakeAws::start(world.clone()).await?;
        let mut server = open(scene.folder(), &aws, &["common", cloud_map[0].as_str(), "vault"]).await?;
        let mut envoy = Envoy::start(scene.folder(), "till", &server.bootstrap(&sidecar("prod"))?).await?;
        envoy.live().await?;
        for name in ["ledger", "stock"] {
            answers_of(&format!("{name}:8080"), &[name]).await?;
        }
        let findings = server.items("findings").await?;
        let told: Vec<_> = findings.iter().filter(|finding| finding["code"] == "NS002").collect();
        ensure!(told.len() == 1 && told[0]["object"] == "cloudmap common", "{findings:?}");
        envoy.stop().await?;
        server.stop().await
    })
}

#[test]
fn a_service_of_more_instances_than_one_answer_holds_is_served_whole() -> anyhow::Result<()> {
    play("crowded", async |scene| {
        let world = World::new();
        let namespace = world.create_namespace("legacy", NamespaceKind::Http)?;
        let crowd = world.create_map_service(&namespace, "crowd", HealthCheck::Custom)?;
        let all = 1_200_u16;
        for number in 0..all {
            let [high, low] = number.to_be_bytes();
            world.register_address(&crowd, &format!("i-{number:04}"), [10, 8, high, low].into(), 8080)?;
        }
        let aws = FakeAws::start(world.clone()).await?;
        let mut server = open(scene.folder(), &aws, &["legacy"]).await?;
        let settles = async |healthy: u16, total: u16| {
            wait::until(LIMIT, format!("{healthy} of {total} in rotation"), async || {
                let service = server.api("namespaces/prod/services/crowd").await?;
                let endpoints = service["item"]["endpoints"].as_array().cloned().unwrap_or_default();
                let served = endpoints.iter().filter(|one| one["state"] == "healthy").count();
                let seen = (served, endpoints.len());
                ensure!(seen == (healthy.into(), total.into()), "{seen:?}");
                Ok(Some(()))
            })
            .await
        };
        settles(all, all).await?;
        world.set_instance_health(&crowd, "i-0007", Health::Unhealthy)?;
        settles(all - 1, all).await?;
        world.deregister_instance(&crowd, "i-1100")?;
        settles(all - 2, all - 1).await?;
        server.stop().await
    })
}
