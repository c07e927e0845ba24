//! A listener that one Envoy refuses with good reason: somebody else has its address.
//!
//! It is the only refusal that a soak forgives, and only at this Envoy, of this listener. Invariant: from the
//! first to the last file that has the alias, the address is taken or Envoy listens there.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::Context;
use integration::wait;

use crate::mesh::{Protocol, Service};
use crate::script::Script;
use crate::stage::{Car, Stage};

const NAME: &str = "poison";
/// As long as everything else may take to settle.
const SOON: Duration = Duration::from_secs(30);

/// The address, held by us.
pub(crate) struct Refusal {
    port: u16,
    address: SocketAddr,
    namespace: String,
    held: Option<TcpListener>,
}

impl Refusal {
    /// Takes the address that the alias will have in the namespace of this Envoy, and writes the alias.
    pub(crate) fn provoke(car: &Car, script: &mut Script, port: u16) -> anyhow::Result<Self> {
        let address = legation::vip::address(&car.namespace, NAME, 0);
        let address = SocketAddr::from((address, port));
        let held = TcpListener::bind(address).with_context(|| format!("taking {address}"))?;
        let service = Service {
            aliases: vec![(NAME.to_owned(), port)],
            protocol: Protocol::Http,
            request: None,
            idle: None,
            attempts: None,
            endpoints: Vec::new(),
            loaded: false,
        };
        script.pin(NAME, service);
        Ok(Self { port, address, namespace: car.namespace.clone(), held: Some(held) })
    }

    /// The listeners that this Envoy is known to refuse now.
    pub(crate) fn refused(&self, car: &Car) -> BTreeSet<String> {
        let refuses = self.held.is_some() && car.namespace == self.namespace;
        refuses.then(|| self.listener()).into_iter().collect()
    }

    /// Whether a line of this Envoy's log tells of this refusal.
    pub(crate) fn explains(&self, car: &Car, line: &str) -> bool {
        car.namespace == self.namespace && line.contains(&self.listener()) && line.contains("cannot bind")
    }

    fn listener(&self) -> String {
        format!("{}/{NAME}:{}", self.namespace, self.port)
    }

    /// Waits until the server says who refuses what, and why; the other Envoys have taken it.
    pub(crate) async fn told(&self, stage: &Stage) -> anyhow::Result<()> {
        let server = stage.server.read().await;
        wait::until(SOON, "the server to tell of the refusal", async || {
            let findings = server.items("findings").await?;
            let of_listener = |finding: &&serde_json::Value| {
                let text = finding["message"].as_str().unwrap_or_default();
                text.contains(&self.listener()) && text.contains("cannot bind")
            };
            anyhow::ensure!(findings.iter().any(|finding| of_listener(&finding)), "{findings:?}");
            Ok(Some(()))
        })
        .await?;
        for car in stage.cars.iter().filter(|car| car.namespace != self.namespace) {
            let listener = format!("{}/{NAME}:{}", car.namespace, self.port);
            wait::until(SOON, format!("{listener} in Envoy {}", car.version), async || {
                Ok(car.envoy.listeners().await?.contains(&listener).then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// Gives the address back, and writes the alias anew: the same listener would not be sent again.
    pub(crate) fn cure(&mut self, script: &mut Script) {
        self.held = None;
        script.touch(NAME);
    }

    /// Where Envoy listens after the cure.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}
