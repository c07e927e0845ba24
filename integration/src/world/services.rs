//! Services: how many tasks of which definition, and deployments.
//!
//! The scheduler of the world. How a single task comes up or goes is in `lifecycle`. Invariant: the
//! first deployment of a service is its PRIMARY; an ACTIVE one exists only while it has living tasks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::discovery::HealthCheck;
use super::launch::Launch;
use super::model::{
    Deployment, DeploymentStatus, DesiredStatus, LastStatus, RolloutState, Service, ServiceConnect,
    ServiceStatus, Stamp, Tags, TaskDefinition,
};
use super::shifts::Strategy;
use super::state::State;
use super::task::Task;
use super::{ServiceSpec, StopPlan, TaskSpec, World, WorldError};

/// How long a rolling deployment waits for one new task.
const ROLL_LIMIT: Duration = Duration::from_secs(60);

impl World {
    /// Creates a service and starts its tasks; returns their ARNs. If one cannot be started, nothing is
    /// created.
    pub fn create_service(&self, spec: ServiceSpec) -> Result<Vec<String>, WorldError> {
        let launched = self.change(|state| {
            let (cluster, name) = (spec.cluster.clone(), spec.name.clone());
            let (count, settled) = (spec.desired_count, spec.settled);
            state.insert_service(spec)?;
            let plan = state.plan_in_first_zone(&cluster, &name)?;
            let mut zones = state.service(&cluster, &name)?.zones.clone().into_iter().cycle();
            let mut launched = Vec::with_capacity(count as usize);
            for _ in 0..count {
                let zone = zones.next().unwrap_or_else(|| plan.zone.clone());
                match state.launch(Launch { zone, settled, ..plan.clone() }, self.runtime().ok()) {
                    Ok(task) => launched.push(task),
                    Err(error) => {
                        state.undo_service(&cluster, &name);
                        return Err(error);
                    }
                }
            }
            state.settle_service(&cluster, &name);
            Ok(launched)
        })?;
        let arns = launched.iter().map(|task| task.arn.clone()).collect();
        for task in launched {
            self.bring_up(task, self.0.pace)?;
        }
        Ok(arns)
    }

    /// Replaces the tags of a service: no deployment follows.
    pub fn set_service_tags(&self, cluster: &str, service: &str, tags: Tags) -> Result<(), WorldError> {
        self.change(|state| {
            state.service_mut(cluster, service)?.tags = tags;
            Ok(())
        })
    }

    /// Scales a service: starts what is missing, or stops the newest. Returns the ARNs concerned.
    pub fn set_desired_count(
        &self,
        cluster: &str,
        service: &str,
        count: u32,
        plan: StopPlan,
    ) -> Result<Vec<String>, WorldError> {
        self.change(|state| {
            state.service_mut(cluster, service)?.desired_count = count;
            Ok(())
        })?;
        let mut tasks = self.tasks_of(cluster, service);
        let mut concerned = Vec::new();
        for _ in tasks.len()..count as usize {
            concerned.push(self.start_task(TaskSpec::of_service(cluster, service))?);
        }
        tasks.sort_by_key(|task| task.created.at);
        for task in tasks.iter().skip(count as usize) {
            self.stop_task(&task.arn, plan.clone().by_scheduler())?;
            concerned.push(task.arn.clone());
        }
        Ok(concerned)
    }

    /// Begins a deployment: the new PRIMARY has no tasks yet, the old one becomes ACTIVE. Returns the id.
    pub fn begin_deployment(
        &self,
        cluster: &str,
        service: &str,
        definition: &str,
        service_connect: Option<ServiceConnect>,
    ) -> Result<String, WorldError> {
        self.change(|state| {
            let definition = state.definition(definition)?.clone();
            let service_arn = state.service(cluster, service)?.arn.clone();
            let deployment = state.deployment(&service_arn, definition, service_connect)?;
            let id = deployment.id.clone();
            let found = state.service_mut(cluster, service)?;
            for old in &mut found.deployments {
                old.status = DeploymentStatus::Active;
                old.updated = Stamp::now();
            }
            found.revisions.push(deployment.clone());
            found.deployments.insert(0, deployment);
            state.settle_service(cluster, service);
            Ok(id)
        })
    }

    /// Rolls a service to another definition: for each old task a new one in its zone is started, and
    /// once that is ready the old one is stopped. Returns the deployment id when the last stop is asked.
    pub async fn roll_service(
        &self,
        cluster: &str,
        service: &str,
        definition: &str,
        plan: StopPlan,
    ) -> Result<String, WorldError> {
        let found = self.service(cluster, service);
        let found = found.ok_or_else(|| WorldError::Missing(format!("service {service}")))?;
        let connect = found.deployments.first().and_then(|d| d.service_connect.clone());
        let old = self.tasks_of(cluster, service);
        let id = self.begin_deployment(cluster, service, definition, connect)?;
        for task in old {
            let spec = TaskSpec { zone: Some(task.zone.clone()), ..TaskSpec::of_service(cluster, service) };
            let new = self.start_task(spec)?;
            self.until(ROLL_LIMIT, |world| world.task(&new).is_some_and(|task| task.ready())).await?;
            self.stop_task(&task.arn, plan.clone().by_scheduler())?;
        }
        Ok(id)
    }

    /// Deletes a service: DRAINING while its tasks stop, then INACTIVE.
    pub fn delete_service(&self, cluster: &str, service: &str, plan: StopPlan) -> Result<(), WorldError> {
        self.change(|state| {
            let found = state.service_mut(cluster, service)?;
            found.status = ServiceStatus::Draining;
            found.desired_count = 0;
            state.settle_service(cluster, service);
            Ok(())
        })?;
        for task in self.tasks_of(cluster, service) {
            self.stop_task(&task.arn, plan.clone().by_scheduler())?;
        }
        Ok(())
    }
}

impl State {
    fn insert_service(&mut self, spec: ServiceSpec) -> Result<(), WorldError> {
        let definition = self.definition(&spec.definition)?.clone();
        let cluster = self.cluster(&spec.cluster)?;
        if cluster.services.get(&spec.name).is_some_and(|s| s.status != ServiceStatus::Inactive) {
            return Err(WorldError::Exists(format!("service {}", spec.name)));
        }
        let arn = self.arn("ecs", &format!("service/{}/{}", spec.cluster, spec.name));
        let deployment = self.deployment(&arn, definition, spec.service_connect)?;
        let service = Service {
            name: spec.name.clone(),
            arn,
            status: ServiceStatus::Active,
            desired_count: spec.desired_count,
            tags: spec.tags,
            zones: spec.zones,
            revisions: vec![deployment.clone()],
            deployments: vec![deployment],
            strategy: Strategy::Rolling,
            shift: None,
            registries: spec.registries,
            auto_replace: spec.auto_replace,
            serve: spec.serve,
            tasks: BTreeSet::new(),
            created: Stamp::now(),
        };
        self.cluster_mut(&spec.cluster)?.services.insert(spec.name, service);
        Ok(())
    }

    fn undo_service(&mut self, cluster: &str, name: &str) {
        let tasks: Vec<Arc<Task>> = match self.service(cluster, name) {
            Ok(service) => self.tasks_of(service).cloned().collect(),
            Err(_) => return,
        };
        for task in tasks {
            self.remove_task(&task);
        }
        if let Ok(cluster) = self.cluster_mut(cluster) {
            cluster.services.remove(name);
        }
    }

    /// A new deployment, with the Cloud Map services that Service Connect makes for it.
    fn deployment(
        &mut self,
        service_arn: &str,
        definition: Arc<TaskDefinition>,
        service_connect: Option<ServiceConnect>,
    ) -> Result<Deployment, WorldError> {
        let resources = match &service_connect {
            Some(connect) if connect.enabled => self.service_connect_resources(connect)?,
            _ => Vec::new(),
        };
        let digits = self.ids.digits();
        let revision = service_arn.replacen(":service/", ":service-revision/", 1);
        Ok(Deployment {
            id: format!("ecs-svc/{digits}"),
            revision_arn: format!("{revision}/{digits}"),
            status: DeploymentStatus::Primary,
            rollout: RolloutState::InProgress,
            definition,
            service_connect,
            service_connect_resources: resources,
            created: Stamp::now(),
            updated: Stamp::now(),
        })
    }

    fn service_connect_resources(
        &mut self,
        connect: &ServiceConnect,
    ) -> Result<Vec<(String, String)>, WorldError> {
        let wanted = connect.namespace.as_deref().unwrap_or_default();
        let found = self.namespaces.values().find(|ns| ns.name == wanted || ns.arn == wanted);
        let namespace = found.map(|ns| ns.id.clone());
        let namespace = namespace.ok_or_else(|| WorldError::Missing(format!("namespace {wanted}")))?;
        let mut resources = Vec::new();
        for offer in &connect.services {
            let name = offer.discovery_name.as_ref().unwrap_or(&offer.port_name);
            let existing =
                self.map_services.values().find(|s| s.namespace_id == namespace && s.name == *name);
            let id = match existing.map(|service| service.id.clone()) {
                Some(id) => id,
                None => self.map_service(&namespace, name, HealthCheck::None)?,
            };
            resources.push((name.clone(), self.arn("servicediscovery", &format!("service/{id}"))));
        }
        Ok(resources)
    }

    /// Lets deployments end and a deleted service become INACTIVE once their tasks are gone.
    pub(super) fn settle_service(&mut self, cluster: &str, name: &str) {
        let Ok(service) = self.service(cluster, name) else { return };
        let mut living: BTreeSet<&str> = BTreeSet::new();
        for task in self.tasks_of(service).filter(|task| task.last_status != LastStatus::Stopped) {
            living.extend(task.started_by.as_deref());
        }
        let primary = service.deployments.first();
        let fresh = primary.map(|d| self.counts(service, Some(&d.id)).ready).unwrap_or_default();
        let others = |task: &&Arc<Task>| {
            task.desired_status == DesiredStatus::Running
                && task.started_by.as_ref() != primary.map(|d| &d.id)
        };
        let steady = fresh >= service.desired_count && self.tasks_of(service).filter(others).count() == 0;
        let inactive = service.status == ServiceStatus::Draining && living.is_empty();
        let ended: BTreeSet<String> = service
            .deployments
            .iter()
            .filter(|d| d.status == DeploymentStatus::Active && !living.contains(d.id.as_str()))
            .map(|d| d.id.clone())
            .collect();
        let Ok(service) = self.service_mut(cluster, name) else { return };
        service.deployments.retain(|d| !ended.contains(&d.id));
        if let Some(primary) = service.deployments.first_mut()
            && steady
            && primary.rollout == RolloutState::InProgress
        {
            primary.rollout = RolloutState::Completed;
            primary.updated = Stamp::now();
        }
        if inactive {
            service.status = ServiceStatus::Inactive;
        }
    }
}
