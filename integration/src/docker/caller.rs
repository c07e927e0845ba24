//! The applications that call: they are told to begin, and asked what became of their requests.
//!
//! Invariant: a sum is of all of them, or an error.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use hyper::Method;

use super::tally::Tally;
use crate::{http, wait};

/// Where callers tell.
pub const PORT: u16 = 9000;
const SOON: Duration = Duration::from_secs(60);

/// Callers by their addresses.
#[derive(Debug, Clone, Default)]
pub struct Callers {
    addresses: Vec<SocketAddr>,
}

impl Callers {
    /// Those at these addresses, once they answer.
    pub async fn at(addresses: impl IntoIterator<Item = Ipv4Addr>) -> anyhow::Result<Self> {
        let addresses: Vec<_> = addresses.into_iter().map(|ip| SocketAddr::from((ip, PORT))).collect();
        let own = Self { addresses };
        wait::until(SOON, "callers that answer", async || own.tally().await.map(Some)).await?;
        Ok(own)
    }

    /// Has them begin, and waits until each has had `first` good answers.
    pub async fn begin(&self, first: u64) -> anyhow::Result<()> {
        self.tell_to_begin().await?;
        self.more(first).await
    }

    /// Has them begin, whatever comes of it.
    pub async fn tell_to_begin(&self) -> anyhow::Result<()> {
        self.tell("/begin").await
    }

    /// Has them end.
    pub async fn end(&self) -> anyhow::Result<()> {
        self.tell("/end").await
    }

    async fn tell(&self, path: &str) -> anyhow::Result<()> {
        for address in &self.addresses {
            let request = http::request(Method::POST, &address.to_string(), path)?;
            let answer = http::send(*address, request).await?;
            anyhow::ensure!(answer.status.is_success(), "{path} at {address}: {}", answer.status);
        }
        Ok(())
    }

    /// What became of all their requests so far.
    pub async fn tally(&self) -> anyhow::Result<Tally> {
        let mut sum = Tally::default();
        for one in self.each().await?.values() {
            sum.add(one);
        }
        Ok(sum)
    }

    /// The same once the outcome of every request is known that has been sent so far.
    pub async fn settled(&self) -> anyhow::Result<Tally> {
        let sent = self.each().await?;
        wait::until(SOON, "the outcome of every request so far", async || {
            let (now, mut sum) = (self.each().await?, Tally::default());
            now.values().for_each(|one| sum.add(one));
            let is_settled = |(address, tally): (&SocketAddr, &Tally)| {
                sent.get(address).is_none_or(|before| tally.settled >= before.sent)
            };
            Ok(now.iter().all(is_settled).then_some(sum))
        })
        .await
    }

    async fn each(&self) -> anyhow::Result<BTreeMap<SocketAddr, Tally>> {
        let mut all = BTreeMap::new();
        for address in &self.addresses {
            let told = http::get_json(*address, "/tally").await?;
            all.insert(
                *address,
                serde_json::from_value(told).with_context(|| format!("what {address} tells"))?,
            );
        }
        Ok(all)
    }

    /// Waits until each of them has had so many more good answers.
    pub async fn more(&self, count: u64) -> anyhow::Result<()> {
        let before = self.each().await?;
        wait::until(SOON, format!("{count} good answers for each caller"), async || {
            let now = self.each().await?;
            let enough = |(address, tally): (&SocketAddr, &Tally)| {
                tally.ok >= before.get(address).map_or(0, |before| before.ok) + count
            };
            if now.iter().all(enough) {
                return Ok(Some(()));
            }
            let failures: Vec<_> =
                now.values().flat_map(|tally| tally.failures.iter().rev().take(2)).collect();
            anyhow::bail!("the latest failures: {failures:?}")
        })
        .await
    }
}
