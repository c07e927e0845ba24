//! Cloud Map: namespaces, services, instances.
//!
//! The registry as such, for members that ECS registers and for members from outside. Who may be served
//! is not decided here. Invariant: a service's revision rises when instances come or go or change their
//! attributes, and never with their health.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::model::{Deployment, Health, Service, Stamp, words};
use super::state::State;
use super::task::Task;
use super::{World, WorldError};

words! {
    /// The kind of a namespace.
    NamespaceKind {
        /// Only API calls.
        Http = "HTTP",
        /// Also a private hosted zone.
        DnsPrivate = "DNS_PRIVATE",
        /// Also a public hosted zone.
        DnsPublic = "DNS_PUBLIC",
    }
}

words! {
    /// How a Cloud Map service knows the health of its instances.
    HealthCheck {
        /// It does not: health is UNKNOWN and filters are ignored.
        None = "NONE",
        /// Somebody reports it (ECS does).
        Custom = "CUSTOM",
        /// Route 53 asks each of them.
        Route53 = "ROUTE53",
    }
}

/// A namespace.
#[derive(Debug, Clone)]
pub struct Namespace {
    /// `ns-…`.
    pub id: String,
    /// ARN.
    pub arn: String,
    /// Name.
    pub name: String,
    /// The name that DiscoverInstances wants.
    pub http_name: String,
    /// Kind.
    pub kind: NamespaceKind,
    /// The account that it belongs to; another one than the world's shares it.
    pub owner: String,
    /// When it was created.
    pub created: Stamp,
}

/// A Cloud Map service.
#[derive(Debug, Clone)]
pub struct MapService {
    /// `srv-…`.
    pub id: String,
    /// ARN.
    pub arn: String,
    /// Name.
    pub name: String,
    /// Its namespace.
    pub namespace_id: String,
    /// Where health comes from.
    pub health_check: HealthCheck,
    /// What it says of itself.
    pub attributes: BTreeMap<String, String>,
    /// Rises with registrations.
    pub revision: u64,
    /// Instances by id.
    pub instances: BTreeMap<String, Instance>,
    /// When it was created.
    pub created: Stamp,
}

/// An instance.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
    /// Its health; UNKNOWN when the service has no check.
    pub health: Health,
}

impl World {
    /// Creates a namespace whose HTTP name is its name; returns its id.
    pub fn create_namespace(&self, name: &str, kind: NamespaceKind) -> Result<String, WorldError> {
        self.create_namespace_as(name, name, kind)
    }

    /// Creates a namespace whose HTTP name differs from its name; returns its id.
    pub fn create_namespace_as(
        &self,
        name: &str,
        http_name: &str,
        kind: NamespaceKind,
    ) -> Result<String, WorldError> {
        self.change(|state| {
            let owner = state.account.clone();
            state.namespace(owner, name, http_name, kind)
        })
    }

    /// Has another account share an HTTP namespace with this one; returns its id.
    pub fn share_namespace(&self, owner: &str, name: &str) -> Result<String, WorldError> {
        self.change(|state| state.namespace(owner.to_owned(), name, name, NamespaceKind::Http))
    }

    /// Creates a Cloud Map service; returns its id.
    pub fn create_map_service(
        &self,
        namespace_id: &str,
        name: &str,
        health_check: HealthCheck,
    ) -> Result<String, WorldError> {
        self.change(|state| state.map_service(namespace_id, name, health_check))
    }

    /// Replaces what a Cloud Map service says of itself, as UpdateServiceAttributes does.
    pub fn set_service_attributes(
        &self,
        service_id: &str,
        attributes: &[(&str, &str)],
    ) -> Result<(), WorldError> {
        self.change(|state| {
            let service = state.map_services.get_mut(service_id);
            let service =
                service.ok_or_else(|| WorldError::Missing(format!("Cloud Map service {service_id}")))?;
            let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            service.attributes = attributes.iter().map(pair).collect();
            Ok(())
        })
    }

    /// Registers an instance, or replaces its attributes. `AWS_INIT_HEALTH_STATUS` sets the first status
    /// of a custom check.
    pub fn register_instance(
        &self,
        service_id: &str,
        instance_id: &str,
        attributes: BTreeMap<String, String>,
    ) -> Result<(), WorldError> {
        self.change(|state| {
            let initial = attributes.get("AWS_INIT_HEALTH_STATUS").and_then(|word| Health::parse(word));
            state.register(service_id, instance_id, attributes, initial.unwrap_or(Health::Healthy))
        })
    }

    /// Registers an instance by address and port.
    pub fn register_address(
        &self,
        service_id: &str,
        instance_id: &str,
        ip: Ipv4Addr,
        port: u16,
    ) -> Result<(), WorldError> {
        let attributes = [("AWS_INSTANCE_IPV4", ip.to_string()), ("AWS_INSTANCE_PORT", port.to_string())];
        let attributes = attributes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        self.register_instance(service_id, instance_id, attributes)
    }

    /// Removes an instance.
    pub fn deregister_instance(&self, service_id: &str, instance_id: &str) -> Result<(), WorldError> {
        self.change(|state| state.deregister(service_id, instance_id))
    }

    /// Reports an instance's health, as UpdateInstanceCustomHealthStatus does.
    pub fn set_instance_health(
        &self,
        service_id: &str,
        instance_id: &str,
        health: Health,
    ) -> Result<(), WorldError> {
        self.change(|state| state.set_instance_health(service_id, instance_id, health))
    }

    /// A Cloud Map service by id.
    pub fn map_service(&self, id: &str) -> Option<MapService> {
        self.read(|state| state.map_services.get(id).cloned())
    }
}

impl State {
    /// Creates a namespace of an account, or says that the name is taken there.
    fn namespace(
        &mut self,
        owner: String,
        name: &str,
        http_name: &str,
        kind: NamespaceKind,
    ) -> Result<String, WorldError> {
        if self.namespaces.values().any(|ns| ns.owner == owner && ns.http_name == http_name) {
            return Err(WorldError::Exists(format!("namespace {http_name}")));
        }
        let id = format!("ns-{}", self.ids.letters(16));
        let arn = format!("arn:aws:servicediscovery:{}:{owner}:namespace/{id}", self.region);
        let (name, http_name) = (name.to_owned(), http_name.to_owned());
        let namespace =
            Namespace { id: id.clone(), arn, name, http_name, kind, owner, created: Stamp::now() };
        self.namespaces.insert(id.clone(), namespace);
        Ok(id)
    }

    /// Creates a Cloud Map service, or says that the name is taken.
    pub(super) fn map_service(
        &mut self,
        namespace_id: &str,
        name: &str,
        health_check: HealthCheck,
    ) -> Result<String, WorldError> {
        let namespace = self.namespaces.get(namespace_id);
        let namespace = namespace.ok_or_else(|| WorldError::Missing(format!("namespace {namespace_id}")))?;
        let owner = namespace.owner.clone();
        if self.map_services.values().any(|s| s.namespace_id == namespace_id && s.name == name) {
            return Err(WorldError::Exists(format!("Cloud Map service {name}")));
        }
        let id = format!("srv-{}", self.ids.letters(16));
        let arn = format!("arn:aws:servicediscovery:{}:{owner}:service/{id}", self.region);
        let service = MapService {
            id: id.clone(),
            arn,
            name: name.to_owned(),
            namespace_id: namespace_id.to_owned(),
            health_check,
            attributes: BTreeMap::new(),
            revision: 1,
            instances: BTreeMap::new(),
            created: Stamp::now(),
        };
        self.map_services.insert(id.clone(), service);
        Ok(id)
    }

    fn register(
        &mut self,
        service_id: &str,
        instance_id: &str,
        attributes: BTreeMap<String, String>,
        initial: Health,
    ) -> Result<(), WorldError> {
        let service = self.map_services.get_mut(service_id);
        let service =
            service.ok_or_else(|| WorldError::Missing(format!("Cloud Map service {service_id}")))?;
        let health = if service.health_check == HealthCheck::None { Health::Unknown } else { initial };
        service.instances.insert(instance_id.to_owned(), Instance { attributes, health });
        service.revision += 1;
        Ok(())
    }

    fn deregister(&mut self, service_id: &str, instance_id: &str) -> Result<(), WorldError> {
        let service = self.map_services.get_mut(service_id);
        let service =
            service.ok_or_else(|| WorldError::Missing(format!("Cloud Map service {service_id}")))?;
        if service.instances.remove(instance_id).is_none() {
            return Err(WorldError::Missing(format!("instance {instance_id}")));
        }
        service.revision += 1;
        Ok(())
    }

    fn set_instance_health(
        &mut self,
        service_id: &str,
        instance_id: &str,
        health: Health,
    ) -> Result<(), WorldError> {
        let service = self.map_services.get_mut(service_id);
        let service =
            service.ok_or_else(|| WorldError::Missing(format!("Cloud Map service {service_id}")))?;
        if service.health_check == HealthCheck::None {
            return Err(WorldError::Invalid(format!("Cloud Map service {service_id} has no check")));
        }
        let instance = service.instances.get_mut(instance_id);
        instance.ok_or_else(|| WorldError::Missing(format!("instance {instance_id}")))?.health = health;
        Ok(())
    }

    /// Brings the registrations of a task in line with its state, as ECS does for `serviceRegistries`
    /// and Service Connect: registered while it is in service, removed the moment a stop is recorded.
    pub(super) fn sync_registrations(&mut self, task: &mut Task) {
        if !task.in_service() {
            for service_id in std::mem::take(&mut task.registered_in) {
                // Somebody may have removed the instance by hand: then nothing is left to do.
                let _ = self.deregister(&service_id, &task.id);
            }
            return;
        }
        if !task.registered_in.is_empty() {
            for service_id in &task.registered_in {
                if let Some(health) = task.checked_health() {
                    // Without a custom check there is nothing to report to.
                    let _ = self.set_instance_health(service_id, &task.id, health);
                }
            }
            return;
        }
        let health = task.checked_health().unwrap_or(Health::Healthy);
        for (service_id, attributes) in self.registrations(task) {
            if self.register(&service_id, &task.id, attributes, health).is_ok() {
                task.registered_in.push(service_id);
            }
        }
    }

    /// The Cloud Map services a task belongs in, with its attributes in each.
    fn registrations(&self, task: &Task) -> Vec<(String, BTreeMap<String, String>)> {
        let service = task.service.as_ref().and_then(|name| self.service(&task.cluster, name).ok());
        let Some(service) = service else { return Vec::new() };
        let mut found = Vec::new();
        for registry in &service.registries {
            let Some(target) = self.map_service_by_arn(&registry.registry_arn) else { continue };
            let port =
                registry.container_port.or_else(|| task.definition.first_port().map(|p| p.container_port));
            found.push((target.id.clone(), self.ecs_attributes(task, &service.name, port)));
        }
        found.extend(self.service_connect_registrations(task, service));
        found
    }

    fn map_service_by_arn(&self, arn: &str) -> Option<&MapService> {
        self.map_services.get(arn.rsplit('/').next()?).filter(|service| service.arn == arn)
    }

    fn ecs_attributes(&self, task: &Task, service: &str, port: Option<u16>) -> BTreeMap<String, String> {
        let mut attributes = BTreeMap::from([
            ("AWS_INSTANCE_IPV4".to_owned(), task.ip.to_string()),
            ("AVAILABILITY_ZONE".to_owned(), task.zone.clone()),
            ("REGION".to_owned(), self.region.clone()),
            ("ECS_SERVICE_NAME".to_owned(), service.to_owned()),
            ("ECS_CLUSTER_NAME".to_owned(), task.cluster.clone()),
            ("ECS_TASK_DEFINITION_FAMILY".to_owned(), task.definition.family.clone()),
        ]);
        if let Some(port) = port.map(|port| task.host_port(port)) {
            attributes.insert("AWS_INSTANCE_PORT".to_owned(), port.to_string());
        }
        attributes
    }

    /// Service Connect registers address and port; what else it writes is not documented.
    fn service_connect_registrations(
        &self,
        task: &Task,
        service: &Service,
    ) -> Vec<(String, BTreeMap<String, String>)> {
        let own = |d: &&Deployment| Some(&d.id) == task.started_by.as_ref();
        let Some(deployment) = service.deployments.iter().find(own) else { return Vec::new() };
        let Some(connect) = deployment.service_connect.as_ref().filter(|c| c.enabled) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for (offer, (_, arn)) in connect.services.iter().zip(&deployment.service_connect_resources) {
            let Some(target) = self.map_service_by_arn(arn) else { continue };
            let ports = task.definition.containers.iter().flat_map(|c| &c.ports);
            let mapped = ports.filter(|p| p.name.as_deref() == Some(&offer.port_name));
            let declared = mapped.map(|p| p.container_port).next();
            let declared = declared.map(|port| task.host_port(port));
            let Some(port) = offer.ingress_port_override.or(declared) else { continue };
            let attributes = BTreeMap::from([
                ("AWS_INSTANCE_IPV4".to_owned(), task.ip.to_string()),
                ("AWS_INSTANCE_PORT".to_owned(), port.to_string()),
            ]);
            found.push((target.id.clone(), attributes));
        }
        found
    }
}
