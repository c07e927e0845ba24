//! One Cloud Map namespace as a source: members that ECS does not run, or runs elsewhere.
//!
//! It is not a judge: an instance that says a watched ECS cluster runs it is ECS's to judge, in the mesh.
//!
//! Invariant: a reading is taken in whole. An empty answer is believed only from a namespace that exists, and a service
//! that a listing lacks has gone only when discovery knows nothing of it either.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_servicediscovery::Client;
use aws_sdk_servicediscovery::types::{
    FilterCondition, HealthStatusFilter, NamespaceFilter, NamespaceFilterName, NamespaceSummary,
    ServiceFilter, ServiceFilterName, ServiceSummary,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use imbl::OrdMap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::members::ServiceFacts;
use super::aws::{Access, Budget, Pages, Urgency, bad_response, failed};
use super::words;
use super::{CellWriter, Pace, Pacer, SourceError, Sweep};
use crate::model::{Finding, Namespace, ServiceKey, ServiceView, View};

mod members;

/// Calls under way at once.
const AT_ONCE: usize = 6;
const LIST_PAGE: i32 = 100;
/// As many as a service can have: discovery has no pages, and its default is 100.
const ALL_INSTANCES: i32 = 1_000;

const LIST_NAMESPACES: &str = "servicediscovery:ListNamespaces";
const LIST_SERVICES: &str = "servicediscovery:ListServices";
const DISCOVER_INSTANCES: &str = "servicediscovery:DiscoverInstances";
const DISCOVER_REVISION: &str = "servicediscovery:DiscoverInstancesRevision";

/// What to read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The Cloud Map namespace, by name.
    pub cloud_map_namespace: String,
    /// The namespace that its services join.
    pub namespace: Namespace,
}

/// The source: the calls, and what is known so far.
#[derive(Debug)]
pub struct CloudMapSource {
    client: Client,
    budget: Arc<Budget>,
    settings: Settings,
    /// Kept from one reading to the next, because namespaces may be listed but once a second.
    found: Option<Found>,
    services: OrdMap<ServiceKey, Arc<ServiceView>>,
    /// The services as they were read last, by name.
    known: BTreeMap<String, Known>,
    /// Why revisions could not be read last.
    blind: Option<SourceError>,
}

/// One service, and the revision of its instances that was read.
#[derive(Clone, Debug)]
struct Known {
    facts: ServiceFacts,
    revision: Option<i64>,
}

/// The namespace as calls name it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Found {
    id: String,
    /// Discovery's name for it, which may differ from the one that people see.
    http_name: String,
}

impl CloudMapSource {
    /// A source that has read nothing yet.
    pub fn new(access: &Access, settings: Settings) -> Self {
        let (client, budget) = (access.cloudmap(), access.budget());
        Self {
            client,
            budget,
            settings,
            found: None,
            services: OrdMap::new(),
            known: BTreeMap::new(),
            blind: None,
        }
    }

    /// Reads everything at the pace, and between readings looks every `look` for services whose instances are others:
    /// these are read anew at once. Health raises no revision; it comes with the readings.
    pub async fn run(mut self, cell: CellWriter, pace: Pace, look: Duration, shutdown: CancellationToken) {
        let work = async {
            let mut pacer = Pacer::new(pace);
            loop {
                let started = Instant::now();
                let outcome = cell.letting_go(self.sweep()).await;
                let wake = pacer.next(&cell, started, outcome, true);
                while Instant::now() + look < wake {
                    cell.letting_go(tokio::time::sleep(look)).await;
                    if cell.letting_go(self.look()).await {
                        cell.correct(self.draw());
                    }
                }
                cell.letting_go(tokio::time::sleep_until(wake)).await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = work => {}
        }
    }

    /// Reads anew each service whose instances are others. Returns whether there is anything to tell.
    async fn look(&mut self) -> bool {
        let Some(found) = self.found.clone() else { return false };
        let names: Vec<_> = self.known.keys().cloned().collect();
        let source = &*self;
        let revisions = names.into_iter().map(|name| source.revision(&found, name));
        let revisions: Result<Vec<_>, _> = stream::iter(revisions).buffered(AT_ONCE).try_collect().await;
        let revisions = match revisions {
            Ok(revisions) => revisions,
            Err(error) => {
                let is_news = self.blind.as_ref().is_none_or(|known| known.code != error.code);
                self.blind = Some(error);
                return is_news;
            }
        };
        let mut is_news = self.blind.take().is_some();
        let others = |(name, revision): &(String, Option<i64>)| {
            self.known.get(name).is_some_and(|known| known.revision != *revision)
        };
        let others: Vec<_> = revisions.into_iter().filter(others).collect();
        for (name, _) in others {
            // What fails is found by the next reading.
            if let Ok(known) = self.instances(&found, &name).await {
                self.known.insert(name, known);
                is_news = true;
            }
        }
        is_news
    }

    async fn revision(&self, found: &Found, name: String) -> Result<(String, Option<i64>), SourceError> {
        self.budget.admit(DISCOVER_REVISION, Urgency::CanWait).await;
        let call = self.client.discover_instances_revision().namespace_name(&found.http_name);
        match call.service_name(&name).send().await.map_err(|error| failed(DISCOVER_REVISION, error)) {
            Ok(answer) => Ok((name, answer.instances_revision())),
            // Perhaps it was deleted, which the next reading finds; the others are looked at all the same.
            Err(error) if error.code == "ServiceNotFound" => Ok((name, None)),
            Err(error) => Err(error),
        }
    }

    async fn find(&self) -> Result<Found, SourceError> {
        let wanted = self.settings.cloud_map_namespace.as_str();
        let filter = NamespaceFilter::builder()
            .name(NamespaceFilterName::Name)
            .values(wanted)
            .condition(FilterCondition::Eq)
            .build()
            .map_err(|error| bad_response(LIST_NAMESPACES, error))?;
        let mut namespaces = self.namespaces(Some(filter)).await?;
        // Two private DNS namespaces may share a name: every replica takes the same one.
        namespaces.sort_by(|a, b| a.id().cmp(&b.id()));
        if let Some(namespace) = namespaces.iter().find(|namespace| namespace.name() == Some(wanted)) {
            let properties = namespace.properties().and_then(|properties| properties.http_properties());
            let http_name = properties.and_then(|http| http.http_name()).unwrap_or(wanted);
            let id = namespace.id().ok_or_else(|| bad_response(LIST_NAMESPACES, "a namespace lacks `Id`"))?;
            return Ok(Found { id: id.to_owned(), http_name: http_name.to_owned() });
        }
        let all = self.namespaces(None).await?;
        let mut names: Vec<_> = all.iter().filter_map(NamespaceSummary::name).collect();
        names.sort_unstable();
        let near = words::did_you_mean(wanted, names.iter().copied());
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        Err(SourceError {
            operation: LIST_NAMESPACES.into(),
            code: "NamespaceNotFound".into(),
            message: format!("no Cloud Map namespace is called `{wanted}`; there are: {names}{near}"),
        })
    }

    async fn namespaces(
        &self,
        filter: Option<NamespaceFilter>,
    ) -> Result<Vec<NamespaceSummary>, SourceError> {
        let (mut found, mut token, mut pages) = (Vec::new(), None, Pages::of(LIST_NAMESPACES));
        loop {
            self.budget.admit(LIST_NAMESPACES, Urgency::CanWait).await;
            let call = self.client.list_namespaces().max_results(LIST_PAGE).set_next_token(token);
            let call = call.set_filters(filter.clone().map(|filter| vec![filter]));
            let page = call.send().await.map_err(|e| failed(LIST_NAMESPACES, e))?;
            token = pages.next(page.next_token())?;
            let lacks = || bad_response(LIST_NAMESPACES, "the answer lacks `Namespaces`");
            found.extend(page.namespaces.ok_or_else(lacks)?);
            if token.is_none() {
                return Ok(found);
            }
        }
    }

    async fn services(&self, found: &Found) -> Result<Vec<ServiceSummary>, SourceError> {
        let filter = ServiceFilter::builder()
            .name(ServiceFilterName::NamespaceId)
            .values(&found.id)
            .condition(FilterCondition::Eq)
            .build()
            .map_err(|error| bad_response(LIST_SERVICES, error))?;
        let (mut services, mut token, mut pages) = (Vec::new(), None, Pages::of(LIST_SERVICES));
        loop {
            self.budget.admit(LIST_SERVICES, Urgency::CanWait).await;
            let call = self.client.list_services().max_results(LIST_PAGE).set_next_token(token);
            let page = call.filters(filter.clone()).send().await.map_err(|e| failed(LIST_SERVICES, e))?;
            token = pages.next(page.next_token())?;
            let lacks = || bad_response(LIST_SERVICES, "the answer lacks `Services`");
            services.extend(page.services.ok_or_else(lacks)?);
            if token.is_none() {
                return Ok(services);
            }
        }
    }

    async fn instances(&self, found: &Found, name: &str) -> Result<Known, SourceError> {
        let lacks = |what: &str| bad_response(DISCOVER_INSTANCES, format!("the answer lacks `{what}`"));
        self.budget.admit(DISCOVER_INSTANCES, Urgency::CanWait).await;
        let call = self.client.discover_instances().namespace_name(&found.http_name).service_name(name);
        let call = call.max_results(ALL_INSTANCES).health_status(HealthStatusFilter::All);
        let answer = call.send().await.map_err(|e| failed(DISCOVER_INSTANCES, e))?;
        let instances = answer.instances.ok_or_else(|| lacks("Instances"))?;
        let facts = members::service(name, &instances).map_err(lacks)?;
        Ok(Known { facts, revision: answer.instances_revision })
    }

    /// The names of every service that is listed.
    async fn listed(&self, found: &Found) -> Result<BTreeSet<String>, SourceError> {
        let lacks = || bad_response(LIST_SERVICES, "a service lacks `Name`");
        let services = self.services(found).await?.into_iter();
        services.map(|service| service.name.ok_or_else(lacks)).collect()
    }

    /// The services that are listed, and those known that a listing lost: entries move while its pages are read.
    async fn read(&self, found: &Found, listed: BTreeSet<String>) -> Result<Vec<Known>, SourceError> {
        let unlisted: Vec<_> = self.known.keys().filter(|name| !listed.contains(*name)).cloned().collect();
        let names =
            listed.into_iter().map(|name| (name, true)).chain(unlisted.into_iter().map(|name| (name, false)));
        let calls = names.map(|(name, is_listed)| async move {
            match self.instances(found, &name).await {
                Err(error) if !is_listed && error.code == "ServiceNotFound" => Ok(None),
                answer => answer.map(Some),
            }
        });
        let read: Vec<_> = stream::iter(calls).buffered(AT_ONCE).try_collect().await?;
        Ok(read.into_iter().flatten().collect())
    }

    async fn read_all(&mut self) -> Result<Vec<Known>, SourceError> {
        let mut found = match self.found.clone() {
            Some(found) => found,
            None => self.find().await?,
        };
        let mut listed = self.listed(&found).await?;
        if listed.is_empty() && self.found.is_some() {
            // A namespace that was made anew has another id, and the old one lists nothing.
            let now = self.find().await?;
            if now != found {
                listed = self.listed(&now).await?;
            }
            found = now;
        }
        let services = self.read(&found, listed).await?;
        self.found = Some(found);
        Ok(services)
    }
}

impl CloudMapSource {
    /// The view of what is known.
    fn draw(&mut self) -> View {
        let Settings { cloud_map_namespace, namespace } = &self.settings;
        let facts = self.known.values().map(|known| known.facts.clone()).collect();
        let (services, mut findings) = members::view(namespace, cloud_map_namespace, facts, &self.services);
        self.services = services.clone();
        findings.extend(self.blind.as_ref().map(|error| Finding {
            code: "SRC001",
            object: format!("cloudmap {cloud_map_namespace}"),
            message: format!("changes are seen only when everything is read: {error}"),
        }));
        findings.sort();
        View { services, findings, ..View::default() }
    }
}

impl Sweep for CloudMapSource {
    async fn sweep(&mut self) -> Result<View, SourceError> {
        let services = match self.read_all().await {
            Ok(services) => services,
            Err(error) => {
                // Listing namespaces is the scarcest call: it is not repeated for any other failure.
                if error.code == "NamespaceNotFound" {
                    self.found = None;
                }
                return Err(error);
            }
        };
        self.known = services.into_iter().map(|known| (known.facts.name.clone(), known)).collect();
        Ok(self.draw())
    }
}

#[cfg(test)]
mod tests;
