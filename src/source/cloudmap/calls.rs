//! The calls to Cloud Map: listings by page, instances by service.
//!
//! It is not a memory, and it judges nothing but whether an answer is whole.
//!
//! Invariant: an answer is returned only when everything that was asked for was answered. One that may have been cut is
//! completed by listings.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use aws_sdk_servicediscovery::Client;
use aws_sdk_servicediscovery::types::{
    FilterCondition, HealthStatus, HealthStatusFilter, NamespaceFilter, NamespaceFilterName,
    NamespaceSummary, ServiceFilter, ServiceFilterName,
};

use super::members::{self, InstanceFacts, Listed, Members};
use super::namespace::Found;
use crate::source::SourceError;
use crate::source::aws::{Access, Budget, Pages, Urgency, bad_response, failed};

const PAGE: i32 = 100;
/// Discovery has no pages: it answers with no more than these, which a service is meant not to exceed.
const MOST: u16 = 1_000;

pub(super) const LIST_NAMESPACES: &str = "servicediscovery:ListNamespaces";
const LIST_SERVICES: &str = "servicediscovery:ListServices";
const LIST_INSTANCES: &str = "servicediscovery:ListInstances";
const INSTANCES_HEALTH: &str = "servicediscovery:GetInstancesHealthStatus";
const SERVICE_ATTRIBUTES: &str = "servicediscovery:GetServiceAttributes";
const DISCOVER_INSTANCES: &str = "servicediscovery:DiscoverInstances";
const DISCOVER_REVISION: &str = "servicediscovery:DiscoverInstancesRevision";

/// Cloud Map, as often as the budget allows.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    client: Client,
    budget: Arc<Budget>,
}

fn lacks(operation: &str, what: &str) -> SourceError {
    bad_response(operation, format!("the answer lacks `{what}`"))
}

impl Calls {
    pub(super) fn new(access: &Access) -> Self {
        Self { client: access.cloudmap(), budget: access.budget() }
    }

    async fn admit(&self, operation: &str) {
        self.budget.admit(operation, Urgency::CanWait).await;
    }

    /// The namespaces that all of these admit.
    pub(super) async fn namespaces(
        &self,
        wanted: &[(NamespaceFilterName, &str)],
    ) -> Result<Vec<NamespaceSummary>, SourceError> {
        let filter = |(name, value): &(NamespaceFilterName, &str)| {
            let filter = NamespaceFilter::builder().name(name.clone()).values(*value);
            filter.condition(FilterCondition::Eq).build()
        };
        let filters: Result<Vec<_>, _> = wanted.iter().map(filter).collect();
        let filters = filters.map_err(|error| bad_response(LIST_NAMESPACES, error))?;
        let filters = Some(filters).filter(|filters| !filters.is_empty());
        let (mut found, mut token, mut pages) = (Vec::new(), None, Pages::of(LIST_NAMESPACES));
        loop {
            self.admit(LIST_NAMESPACES).await;
            let call = self.client.list_namespaces().max_results(PAGE).set_next_token(token);
            let page = call.set_filters(filters.clone()).send().await;
            let page = page.map_err(|error| failed(LIST_NAMESPACES, error))?;
            token = pages.next(page.next_token())?;
            found.extend(page.namespaces.ok_or_else(|| lacks(LIST_NAMESPACES, "Namespaces"))?);
            if token.is_none() {
                return Ok(found);
            }
        }
    }

    /// The services of a namespace by name, whatever their order and however often pages name them.
    pub(super) async fn services(&self, namespace: &Found) -> Result<BTreeMap<String, Listed>, SourceError> {
        let filter =
            ServiceFilter::builder().name(ServiceFilterName::NamespaceId).values(&namespace.reference);
        let filter = filter.condition(FilterCondition::Eq).build();
        let filter = filter.map_err(|error| bad_response(LIST_SERVICES, error))?;
        let (mut services, mut token, mut pages) = (BTreeMap::new(), None, Pages::of(LIST_SERVICES));
        loop {
            self.admit(LIST_SERVICES).await;
            let call = self.client.list_services().max_results(PAGE).set_next_token(token);
            let page = call.filters(filter.clone()).send().await;
            let page = page.map_err(|error| failed(LIST_SERVICES, error))?;
            token = pages.next(page.next_token())?;
            for summary in page.services.ok_or_else(|| lacks(LIST_SERVICES, "Services"))? {
                let listed = members::listed(&summary, namespace.owner.is_some());
                let listed = listed.map_err(|what| lacks(LIST_SERVICES, what))?;
                // One that was made anew while pages were turned is there twice.
                match services.get(&listed.name) {
                    Some(known) if Listed::age(known) >= Listed::age(&listed) => {}
                    _ => drop(services.insert(listed.name.clone(), listed)),
                }
            }
            if token.is_none() {
                return Ok(services);
            }
        }
    }

    /// What rises when instances of a service come or go; `None` if the service is not there.
    pub(super) async fn revision(&self, namespace: &Found, name: &str) -> Result<Option<i64>, SourceError> {
        self.admit(DISCOVER_REVISION).await;
        let call = self.client.discover_instances_revision().namespace_name(&namespace.http_name);
        let call = call.service_name(name).set_owner_account(namespace.owner.clone());
        match call.send().await.map_err(|error| failed(DISCOVER_REVISION, error)) {
            Ok(answer) => Ok(answer.instances_revision()),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every instance of a service, with its health.
    pub(super) async fn members(&self, namespace: &Found, service: &Listed) -> Result<Members, SourceError> {
        self.admit(DISCOVER_INSTANCES).await;
        let call = self.client.discover_instances().namespace_name(&namespace.http_name);
        let call = call.service_name(&service.name).set_owner_account(namespace.owner.clone());
        let call = call.max_results(MOST.into()).health_status(HealthStatusFilter::All);
        let answer = call.send().await.map_err(|error| failed(DISCOVER_INSTANCES, error))?;
        let summaries = answer.instances.ok_or_else(|| lacks(DISCOVER_INSTANCES, "Instances"))?;
        let is_shared = namespace.owner.is_some();
        let discovered: Result<Vec<_>, _> =
            summaries.iter().map(|summary| members::discovered(summary, is_shared)).collect();
        let mut instances = discovered.map_err(|what| lacks(DISCOVER_INSTANCES, what))?;
        let is_cut = summaries.len() >= usize::from(MOST);
        if is_cut {
            instances.extend(self.listed_instances(service, is_shared).await?);
        }
        Ok(Members::new(instances, answer.instances_revision, is_cut))
    }

    /// The instances as listings know them, with their health.
    async fn listed_instances(
        &self,
        service: &Listed,
        is_shared: bool,
    ) -> Result<Vec<InstanceFacts>, SourceError> {
        let (mut listed, mut token, mut pages) = (Vec::new(), None, Pages::of(LIST_INSTANCES));
        loop {
            self.admit(LIST_INSTANCES).await;
            let call = self.client.list_instances().service_id(&service.reference).max_results(PAGE);
            let page = call.set_next_token(token).send().await;
            let page = page.map_err(|error| failed(LIST_INSTANCES, error))?;
            token = pages.next(page.next_token())?;
            listed.extend(page.instances.ok_or_else(|| lacks(LIST_INSTANCES, "Instances"))?);
            if token.is_none() {
                break;
            }
        }
        let health = if service.is_checked { self.health(service).await? } else { HashMap::new() };
        let facts = listed.iter().map(|summary| {
            let id = summary.id().ok_or_else(|| lacks(LIST_INSTANCES, "Id"))?;
            let none = HashMap::new();
            let attributes = summary.attributes().unwrap_or(&none);
            Ok(members::instance(id, attributes, health.get(id), is_shared))
        });
        facts.collect()
    }

    /// The same instances as they are now, where one answer does not hold them all.
    pub(super) async fn with_health(&self, service: &Listed, known: Members) -> Result<Members, SourceError> {
        let health = self.health(service).await?;
        Ok(known.with_health(&health))
    }

    /// The health of each instance of a service by its id.
    async fn health(&self, service: &Listed) -> Result<HashMap<String, HealthStatus>, SourceError> {
        let (mut health, mut token, mut pages) = (HashMap::new(), None, Pages::of(INSTANCES_HEALTH));
        loop {
            self.admit(INSTANCES_HEALTH).await;
            let call = self.client.get_instances_health_status().service_id(&service.reference);
            let page = call.max_results(PAGE).set_next_token(token).send().await;
            let page = page.map_err(|error| failed(INSTANCES_HEALTH, error))?;
            token = pages.next(page.next_token())?;
            health.extend(page.status.ok_or_else(|| lacks(INSTANCES_HEALTH, "Status"))?);
            if token.is_none() {
                return Ok(health);
            }
        }
    }

    /// The attributes of a service, as calls name it.
    pub(super) async fn attributes(&self, service: &str) -> Result<BTreeMap<String, String>, SourceError> {
        self.admit(SERVICE_ATTRIBUTES).await;
        let answer = self.client.get_service_attributes().service_id(service).send().await;
        let answer = answer.map_err(|error| failed(SERVICE_ATTRIBUTES, error))?;
        let attributes =
            answer.service_attributes.ok_or_else(|| lacks(SERVICE_ATTRIBUTES, "ServiceAttributes"))?;
        Ok(attributes.attributes.unwrap_or_default().into_iter().collect())
    }
}

/// Whether an answer says that the service, or the namespace that it was in, is not there.
pub(super) fn is_gone(error: &SourceError) -> bool {
    matches!(error.code.as_str(), "ServiceNotFound" | "NamespaceNotFound")
}
