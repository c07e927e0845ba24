//! Who is let in: not before the first complete reading, and only into a namespace that is served.

use std::time::Duration;

use hyper::Method;
use integration::aws::{FakeAws, Fault};
use integration::control_plane::{ControlPlane, Setup, Sources};
use integration::envoy::Envoy;
use integration::estate;
use integration::http::{get, request, send};
use integration::scene::play;
use integration::shop::{Shop, sidecar};
use integration::stage::{PROXY, raise_estate};
use integration::wait;
use integration::world::World;
use tonic::Code;

use crate::ads::Ads;

/// Longer than the server waits for an answer that never comes, and tries again.
const HUNG: Duration = Duration::from_secs(60);

#[test]
fn an_unknown_namespace_is_refused_with_a_hint_and_an_empty_one_is_served() -> anyhow::Result<()> {
    play("namespaces", async |scene| {
        let Shop { server, envoy: home, .. } = &Shop::open(scene, "services: {}\n").await?;

        let Err(refused) = refusal(server, "shpo").await else { anyhow::bail!("shpo was let in") };
        assert_eq!(refused.code(), Code::Unavailable);
        let message = refused.message();
        assert!(message.contains("shpo") && message.contains("did you mean shop"), "{message}");
        let lost = Envoy::start(scene.folder(), "lost", &server.bootstrap(&sidecar("shpo"))?).await?;
        let told = async || Ok(words(&lost)?.contains("did you mean shop").then_some(()));
        wait::until(Duration::from_secs(10), "Envoy's log to hold the hint", told).await?;
        assert!(!lost.is_live().await?, "it is LIVE without any configuration");
        let proxies = server.items("proxies").await?;
        assert_eq!(proxies.len(), 1, "it counts as connected: {proxies:?}");

        // A namespace in which nothing is known is no reason to wait.
        assert_eq!(home.listeners().await?, ["shop/@http-proxy"]);
        let answer = send(PROXY, request(Method::GET, "cart", "http://cart/")?).await?;
        assert_eq!(answer.header("x-legation-reason"), Some("no-such-name"));
        assert!(home.oracle().await?.raised.is_empty());
        Ok(())
    })
}

/// Envoy's log with the words of the server, which gRPC sends with some characters escaped.
fn words(envoy: &Envoy) -> anyhow::Result<String> {
    Ok(envoy.log()?.replace("%20", " "))
}

/// What the server says to a client of a namespace, in the answer or on the stream.
async fn refusal(server: &ControlPlane, namespace: &str) -> Result<(), tonic::Status> {
    let mut ads = Ads::open(server.xds(), "till-1", namespace).await?;
    ads.next().await.map(drop)
}

#[test]
fn nobody_is_served_before_the_first_complete_reading() -> anyhow::Result<()> {
    play("unread", async |scene| {
        let prod = raise_estate(&World::new()).await?;
        let aws = FakeAws::start(prod.world.clone()).await?;
        aws.faults().set(Fault::Hang);
        let sources = Sources { clusters: vec![estate::CLUSTER.to_owned()], ..Sources::default() };
        let setup = Setup::aws(&aws.url()).namespace(estate::NAMESPACE, sources);
        let mut server = ControlPlane::prepare(scene.folder(), &setup)?;
        server.run().await?;

        let readiness = get(server.metrics(), "/readyz?verbose").await?;
        assert_eq!(readiness.status, 503);
        assert!(
            readiness.text().contains("ecs/prod-a"),
            "it does not say what is missing: {}",
            readiness.text()
        );
        let Err(refused) = refusal(&server, "prod").await else { anyhow::bail!("it was served") };
        assert_eq!(refused.code(), Code::Unavailable);
        assert!(refused.message().contains("first complete reading"), "{}", refused.message());
        let bootstrap = server.bootstrap(&sidecar("prod"))?;
        let mut early = Envoy::start(scene.folder(), "early", &bootstrap).await?;
        let told = async || Ok(words(&early)?.contains("first complete reading").then_some(()));
        wait::until(Duration::from_secs(10), "Envoy's log to hold the reason", told).await?;

        aws.faults().clear();
        server.ready_within(HUNG).await?;
        early.live().await?;
        let served = async || Ok((early.listeners().await?.len() == 4).then_some(()));
        wait::until(Duration::from_secs(20), "the early sidecar to have its listeners", served).await?;
        let answer = send(PROXY, request(Method::GET, "payments", "http://payments:8080/")?).await?;
        assert_eq!(answer.status, 200);
        early.stop().await
    })
}
