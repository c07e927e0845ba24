//! One stream, driven by a script: every request and every answer is the script's.
//!
//! What it keeps is what a client must: names, nonces, and what it accepted. Invariant: nothing is answered
//! unless the script says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tonic::Status;

use super::rules::Rules;
use super::wire::{Came, Wire};
use super::{Ask, Client, Held, Kind, Protocol, Response};

/// How long anything that must come may take.
const LIMIT: Duration = Duration::from_secs(20);

/// An open stream.
pub struct Probe {
    client: Client,
    wire: Wire,
    rules: Rules,
    /// What is asked for, by type.
    names: BTreeMap<Kind, BTreeSet<String>>,
    /// The nonce of the newest response of each type.
    nonces: BTreeMap<Kind, String>,
    /// The version accepted last of each type.
    versions: BTreeMap<Kind, String>,
    /// What was accepted.
    pub held: Held,
    begun: bool,
    barriers: usize,
}

/// How a stream ended.
#[derive(Debug)]
pub struct End {
    /// With which status.
    pub status: Status,
    /// What came before, unanswered.
    pub responses: Vec<Response>,
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").field("client", &self.client).finish_non_exhaustive()
    }
}

impl Probe {
    pub(super) fn new(client: Client, wire: Wire) -> Self {
        Self {
            client,
            wire,
            rules: Rules::default(),
            names: BTreeMap::new(),
            nonces: BTreeMap::new(),
            versions: BTreeMap::new(),
            held: Held::default(),
            begun: false,
            barriers: 0,
        }
    }

    /// Its protocol.
    pub fn protocol(&self) -> Protocol {
        self.client.protocol
    }

    /// Whether it says that it is a gRPC library.
    pub fn is_grpc(&self) -> bool {
        self.client.node.as_ref().is_some_and(|node| node.user_agent_name.starts_with("gRPC"))
    }

    /// The names that it asks for.
    pub fn names(&self, kind: Kind) -> Vec<String> {
        self.names.get(&kind).into_iter().flatten().cloned().collect()
    }

    /// The version that it accepted last: of the type (state of the world) or of the server's state (delta).
    pub fn version(&self, kind: Kind) -> &str {
        self.versions.get(&kind).map(String::as_str).unwrap_or_default()
    }

    /// Takes over what another stream of this client accepted, as after a reconnect.
    pub fn adopt(&mut self, held: Held) {
        self.held = held;
    }

    /// Sends exactly this; the first request carries the node besides.
    pub fn send(&mut self, mut ask: Ask) {
        let kind = Kind::of(&ask.type_url).or(self.client.only.filter(|_| ask.type_url.is_empty()));
        self.rules.asked.extend(kind);
        if ask.node.is_none() && (!self.begun || self.client.repeats_node) {
            ask.node.clone_from(&self.client.node);
        }
        self.begun = true;
        self.wire.send(ask);
    }

    /// A request of that type that names what is asked for now and answers nothing.
    fn current(&self, kind: Kind) -> Ask {
        let version = self.versions.get(&kind).cloned().unwrap_or_default();
        Ask { names: self.names(kind), version, ..Ask::of(kind) }
    }

    /// In state of the world every request carries the newest nonce.
    fn renewed(&self, kind: Kind) -> Ask {
        let nonce = self.nonces.get(&kind).filter(|_| self.client.protocol == Protocol::Sotw);
        Ask { nonce: nonce.cloned().unwrap_or_default(), ..self.current(kind) }
    }

    /// Asks for these names too; a first request of none is for everything, where there is a wildcard.
    pub fn subscribe<S: AsRef<str>>(&mut self, kind: Kind, names: &[S]) {
        let names: Vec<_> = names.iter().map(|name| name.as_ref().to_owned()).collect();
        self.names.entry(kind).or_default().extend(names.iter().cloned());
        let ask = Ask { subscribe: names, ..self.renewed(kind) };
        self.send(ask);
    }

    /// As [`Probe::subscribe`], as the first request of a type after a reconnect: it tells what is held.
    pub fn resume<S: AsRef<str>>(&mut self, kind: Kind, names: &[S]) {
        let names: Vec<_> = names.iter().map(|name| name.as_ref().to_owned()).collect();
        self.names.entry(kind).or_default().extend(names.iter().cloned());
        let presented = self.held.versions(kind).into_iter().collect();
        let ask = Ask { subscribe: names, presented, ..self.renewed(kind) };
        self.send(ask);
    }

    /// Asks for these names no more, and lets go of them.
    pub fn unsubscribe<S: AsRef<str>>(&mut self, kind: Kind, names: &[S]) {
        let names: Vec<_> = names.iter().map(|name| name.as_ref().to_owned()).collect();
        let asked = self.names.entry(kind).or_default();
        asked.retain(|name| !names.contains(name));
        if !kind.has_wildcard() {
            names.iter().for_each(|name| self.held.forget(kind, name));
        }
        let ask = Ask { unsubscribe: names, ..self.renewed(kind) };
        self.send(ask);
    }

    /// Asks for what its clusters and listeners refer to, and no longer for what they don't, as Envoy does.
    pub fn follow(&mut self) -> anyhow::Result<()> {
        for (from, to) in [(Kind::Cluster, Kind::Endpoint), (Kind::Listener, Kind::Route)] {
            let mut wanted = BTreeSet::new();
            for (_, item) in self.held.all(from) {
                wanted.extend(item.wants()?.into_iter().map(|(_, name)| name));
            }
            let asked: BTreeSet<_> = self.names(to).into_iter().collect();
            let (more, less): (Vec<_>, Vec<_>) =
                (wanted.difference(&asked).cloned().collect(), asked.difference(&wanted).cloned().collect());
            if !less.is_empty() {
                self.unsubscribe(to, &less);
            }
            if !more.is_empty() {
                self.subscribe(to, &more);
            }
        }
        Ok(())
    }

    async fn came(&mut self, limit: Duration) -> anyhow::Result<Option<Came>> {
        match tokio::time::timeout(limit, self.wire.next(&mut self.rules)).await {
            Ok(Came::Response(response)) => {
                let response = response.context("a response that breaks the rules")?;
                self.nonces.insert(response.kind, response.nonce.clone());
                Ok(Some(Came::Response(Ok(response))))
            }
            Ok(end) => Ok(Some(end)),
            Err(_) => Ok(None),
        }
    }

    /// The next response, which is not answered.
    pub async fn next(&mut self) -> anyhow::Result<Response> {
        self.next_within(LIMIT).await
    }

    /// As [`Probe::next`], within a time.
    pub async fn next_within(&mut self, limit: Duration) -> anyhow::Result<Response> {
        match self.came(limit).await? {
            Some(Came::Response(response)) => response,
            Some(Came::End(status)) => Err(anyhow::Error::new(status).context("the stream ended")),
            None => bail!("no response within {limit:?}"),
        }
    }

    /// Accepts a response.
    pub fn ack(&mut self, response: &Response) {
        self.held.apply(response);
        self.versions.insert(response.kind, response.version.clone());
        let ask = self.current(response.kind).nonce(&response.nonce);
        self.send(ask);
    }

    /// Refuses a response.
    pub fn nack(&mut self, response: &Response, why: &str) {
        let ask = self.current(response.kind).nonce(&response.nonce);
        self.send(Ask { error: Some(why.to_owned()), ..ask });
    }

    /// The next response, which it accepts.
    pub async fn take(&mut self) -> anyhow::Result<Response> {
        let response = self.next().await?;
        self.ack(&response);
        Ok(response)
    }

    /// The next response, which must be of that type, and which it accepts.
    pub async fn answer(&mut self, kind: Kind) -> anyhow::Result<Response> {
        let response = self.take().await.with_context(|| format!("waiting for {kind}"))?;
        ensure!(response.kind == kind, "waited for {kind} and got {}", response.told());
        Ok(response)
    }

    /// Accepts responses up to the one that is `wanted`, and returns them all.
    pub async fn collect(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&Response) -> bool,
    ) -> anyhow::Result<Vec<Response>> {
        let mut collected: Vec<Response> = Vec::new();
        while !collected.last().is_some_and(&mut wanted) {
            let next = self.take().await;
            let next = next.with_context(|| format!("waiting for {what} after {}", told(&collected)))?;
            collected.push(next);
        }
        Ok(collected)
    }

    /// Accepts responses until what is held is as wanted, and returns them.
    pub async fn until(
        &mut self,
        what: &str,
        wanted: impl Fn(&Held) -> bool,
    ) -> anyhow::Result<Vec<Response>> {
        let mut collected = Vec::new();
        while !wanted(&self.held) {
            let next = self.take().await;
            let next = next.with_context(|| format!("waiting for {what} after {}", told(&collected)))?;
            collected.push(next);
        }
        Ok(collected)
    }

    /// Starts up as Envoy does: clusters, their endpoints, listeners, their routes; so many clusters and
    /// listeners.
    pub async fn start_up(&mut self, clusters: usize, listeners: usize) -> anyhow::Result<()> {
        for (kind, dependent, count) in
            [(Kind::Cluster, Kind::Endpoint, clusters), (Kind::Listener, Kind::Route, listeners)]
        {
            self.subscribe::<&str>(kind, &[]);
            self.answer(kind).await?;
            self.until(&format!("{count} of {kind}"), |held| held.count(kind) >= count).await?;
            self.follow()?;
            let names = self.names(dependent);
            let all = |held: &Held| names.iter().all(|name| held.get(dependent, name).is_some());
            self.until(&format!("{dependent} of every {kind}"), all).await?;
        }
        Ok(())
    }

    /// What came before the answer to a request of another kind: whatever earlier requests cause is among it.
    /// Everything is accepted.
    pub async fn barrier(&mut self) -> anyhow::Result<Vec<Response>> {
        ensure!(self.client.only.is_none(), "there is no barrier on a stream of one type");
        self.barriers += 1;
        let name = format!("barrier-{}", self.barriers);
        // Routes come last, and a missing one is answered in both protocols: empty.
        self.subscribe(Kind::Route, &[&name]);
        let reached = |response: &Response| response.kind == Kind::Route && response.mentions(&name);
        let mut collected = self.collect("the barrier", reached).await?;
        // Other routes may come with it.
        let mut last = collected.pop().context("no barrier")?;
        last.resources.remove(&name);
        collected.extend(Some(last).filter(|rest| !rest.resources.is_empty()));
        self.unsubscribe(Kind::Route, &[&name]);
        Ok(collected)
    }

    /// Nothing more comes before the answer to a request of another kind.
    pub async fn silence(&mut self, why: &str) -> anyhow::Result<()> {
        let before = self.barrier().await?;
        ensure!(before.is_empty(), "{why}: {}", told(&before));
        Ok(())
    }

    /// Nothing comes for so long: for where nothing else could be waited for.
    pub async fn quiet(&mut self, period: Duration, why: &str) -> anyhow::Result<()> {
        match self.came(period).await? {
            None => Ok(()),
            Some(Came::Response(response)) => bail!("{why}: {}", response?.told()),
            Some(Came::End(status)) => Err(anyhow::Error::new(status).context("the stream ended")),
        }
    }

    /// Says that no more requests follow.
    pub fn half_close(&mut self) {
        self.wire.half_close();
    }

    /// Waits for the end of the stream, answering nothing.
    pub async fn end(&mut self) -> anyhow::Result<End> {
        self.end_within(LIMIT).await
    }

    /// As [`Probe::end`], within a time.
    pub async fn end_within(&mut self, limit: Duration) -> anyhow::Result<End> {
        let deadline = tokio::time::Instant::now() + limit;
        let mut responses = Vec::new();
        loop {
            match self.came(deadline - tokio::time::Instant::now()).await? {
                Some(Came::Response(response)) => responses.push(response?),
                Some(Came::End(status)) => return Ok(End { status, responses }),
                None => bail!("the stream did not end within {limit:?}; it brought {}", told(&responses)),
            }
        }
    }
}

/// For people.
fn told(responses: &[Response]) -> String {
    match responses {
        [] => "nothing".to_owned(),
        responses => responses.iter().map(|it| format!("\n  {}", it.told())).collect(),
    }
}
