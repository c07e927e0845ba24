//! Deployments that shift traffic between revisions of a service: blue/green, linear and canary. What ECS says of those
//! under way, and how it is asked.
//!
//! It judges no task: that is `share`'s. Nor is a rolling deployment its business, which shifts nothing.
//!
//! Invariant: a question that fails changes nothing that is known, and a deployment that has ended is asked about no more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use aws_sdk_ecs::types::{
    Deployment, DeploymentRolloutState, DeploymentStrategy, Service, ServiceDeployment,
    ServiceDeploymentLifecycleStage, ServiceDeploymentStatus, ServiceRevisionSummary,
};

use super::facts::ServiceFacts;
use super::read::Reader;
use super::view::Services;
use crate::model::Finding;
use crate::source::SourceError;
use crate::source::aws::is_denial;

/// What a description of a service says of its deployments.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Rollout {
    /// Whether its deployments shift traffic.
    pub shifts: bool,
    /// The ARN of the last one, where ECS says it.
    pub current: Option<Arc<str>>,
    /// Whether one seems to be under way.
    pub is_moving: bool,
    /// The ids of those that have tasks, which these carry as `startedBy`.
    pub known: BTreeSet<Arc<str>>,
    /// Of these the newest.
    pub primary: Option<Arc<str>>,
    /// When that began: an older task is of none that is new.
    pub began_at: Option<SystemTime>,
}

impl Rollout {
    pub(super) fn of(service: &Service) -> Self {
        let strategy = service.deployment_configuration().and_then(|configuration| configuration.strategy());
        let deployments = service.deployments();
        let is_in_progress =
            |one: &Deployment| one.rollout_state() == Some(&DeploymentRolloutState::InProgress);
        let primary = deployments.iter().find(|one| one.status() == Some("PRIMARY"));
        Self {
            shifts: strategy.is_some_and(shifts),
            current: service.current_service_deployment().map(Into::into),
            is_moving: deployments.len() > 1
                || service.current_service_revisions().len() > 1
                || deployments.iter().any(is_in_progress),
            known: deployments.iter().filter_map(|one| one.id().map(Into::into)).collect(),
            primary: primary.and_then(|one| one.id()).map(Into::into),
            began_at: primary.and_then(|one| SystemTime::try_from(*one.created_at()?).ok()),
        }
    }
}

fn shifts(strategy: &DeploymentStrategy) -> bool {
    matches!(
        strategy,
        DeploymentStrategy::BlueGreen | DeploymentStrategy::Linear | DeploymentStrategy::Canary
    )
}

/// A revision of a service, and what it is to get.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Weighed {
    /// The end of its ARN.
    pub id: Arc<str>,
    /// Its task definition, once known.
    pub definition: Option<Arc<str>>,
    /// In thousandths.
    pub production: u32,
    /// In thousandths.
    pub test: u32,
}

/// What is known of all shifts of a cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Shifts {
    /// The revisions between which a service's traffic is shifted, by the service's ARN.
    followed: BTreeMap<Arc<str>, Arc<[Weighed]>>,
    /// The last deployment of services, by their ARNs, once it has ended.
    ended: BTreeMap<Arc<str>, Arc<str>>,
    /// Task definitions by the ARNs of revisions, which never change.
    definitions: BTreeMap<Arc<str>, Arc<str>>,
    /// Why nothing new is known of services.
    unread: BTreeMap<Arc<str>, SourceError>,
}

/// A deployment that is asked about, and its service.
struct Asked {
    service: Arc<str>,
    deployment: Arc<str>,
}

/// Whoever may not ask does without, and so does who asks where ECS has none of it.
fn is_final(error: &SourceError) -> bool {
    let refused = ["ClientException", "InvalidParameterException", "UnsupportedFeatureException"];
    is_denial(&error.code) || refused.contains(&&*error.code)
}

impl Shifts {
    /// The revisions between which a service's traffic is shifted.
    fn of(&self, service: &str) -> Arc<[Weighed]> {
        self.followed.get(service).cloned().unwrap_or_default()
    }

    /// Tells a service what its traffic is shifted between. `before` is what was known of its deployments.
    pub(super) fn tell(&self, arn: &str, service: &mut ServiceFacts, before: Option<&Rollout>) {
        service.shift = self.of(arn);
        let rollout = &mut service.rollout;
        match self.unread.get(arn) {
            // Whoever may not ask takes it for a rolling one.
            Some(error) if is_final(error) => rollout.shifts = false,
            // Of a deployment of which nothing could be read nobody knows yet what it is to get.
            Some(_) if rollout.is_moving => match before.filter(|before| before.shifts) {
                Some(before) => {
                    rollout.known.clone_from(&before.known);
                    rollout.began_at = before.began_at;
                }
                None => rollout.known.retain(|id| Some(id) != rollout.primary.as_ref()),
            },
            _ => {}
        }
    }

    /// What could not be asked for.
    pub(super) fn findings(&self, cluster: &str) -> impl Iterator<Item = Finding> {
        self.unread.iter().map(move |(arn, error)| {
            let name = arn.rsplit('/').next().unwrap_or(arn);
            let object = format!("ecs {cluster}/{name}, deployment");
            error.finding(object, "can't be followed, so its weights are what they were: ")
        })
    }

    /// What is known after questions about those services that shift traffic and may be about to.
    pub(super) async fn renewed(mut self, reader: &Reader, services: &Services) -> Self {
        let shifting = || services.iter().filter(|(_, service)| service.rollout.shifts && service.active);
        let arns: BTreeSet<&Arc<str>> = shifting().map(|(arn, _)| arn).collect();
        self.followed.retain(|arn, _| arns.contains(arn));
        self.ended.retain(|arn, _| arns.contains(arn));
        self.unread.clear();
        let mut asked = Vec::new();
        for (arn, service) in shifting() {
            let Rollout { current, is_moving, .. } = &service.rollout;
            if !is_moving && (current.is_none() || self.ended.get(arn) == current.as_ref()) {
                self.followed.remove(arn);
                continue;
            }
            match current {
                Some(current) if self.ended.get(arn) == Some(current) => {}
                Some(current) => asked.push((Arc::clone(arn), Arc::clone(current))),
                None => match reader.deployment_under_way(arn).await {
                    Ok(Some(deployment)) => asked.push((Arc::clone(arn), deployment)),
                    Ok(None) => drop(self.followed.remove(arn)),
                    Err(error) => drop(self.unread.insert(Arc::clone(arn), error)),
                },
            }
        }
        let asked: Vec<_> =
            asked.into_iter().map(|(service, deployment)| Asked { service, deployment }).collect();
        let described = self.describe(reader, &asked).await;
        self.read_definitions(reader, &described).await;
        for (service, deployment) in &described {
            let is_moving = services.get(service).is_some_and(|service| service.rollout.is_moving);
            self.take_in(service, deployment, is_moving);
        }
        self
    }

    /// Has deployments described; of those that can't be it is noted why.
    async fn describe(&mut self, reader: &Reader, asked: &[Asked]) -> Vec<(Arc<str>, ServiceDeployment)> {
        let mut described = Vec::new();
        for batch in asked.chunks(Reader::DEPLOYMENT_BATCH) {
            let arns = batch.iter().map(|one| one.deployment.as_ref().to_owned()).collect();
            match reader.deployments(arns).await {
                Ok(found) => {
                    for Asked { service, deployment } in batch {
                        let is_it = |it: &&ServiceDeployment| it.service_deployment_arn() == Some(deployment);
                        match found.iter().find(is_it) {
                            Some(found) => described.push((Arc::clone(service), found.clone())),
                            None => drop(
                                self.unread.insert(Arc::clone(service), Reader::no_deployment(deployment)),
                            ),
                        }
                    }
                }
                Err(error) => {
                    self.unread.extend(batch.iter().map(|one| (Arc::clone(&one.service), error.clone())));
                }
            }
        }
        described
    }

    /// Reads the task definitions of revisions that are not known: by them tasks are told apart whose deployments don't
    /// say their revision.
    async fn read_definitions(&mut self, reader: &Reader, described: &[(Arc<str>, ServiceDeployment)]) {
        let revisions = |one: &ServiceDeployment| -> Vec<Arc<str>> {
            let all = one.source_service_revisions().iter().chain(one.target_service_revision());
            all.filter_map(|revision| revision.arn().map(Into::into)).collect()
        };
        let used: BTreeSet<Arc<str>> = described.iter().flat_map(|(_, one)| revisions(one)).collect();
        let wanted: Vec<_> =
            used.iter().filter(|arn| !self.definitions.contains_key(*arn)).map(ToString::to_string).collect();
        for batch in wanted.chunks(Reader::DEPLOYMENT_BATCH) {
            match reader.service_revisions(batch.to_vec()).await {
                Ok(read) => self.definitions.extend(read),
                Err(error) => {
                    let of_batch = |one: &ServiceDeployment| {
                        revisions(one).iter().any(|arn| batch.iter().any(|it| **it == **arn))
                    };
                    let lacking = described.iter().filter(|(_, one)| of_batch(one));
                    self.unread.extend(lacking.map(|(service, _)| (Arc::clone(service), error.clone())));
                }
            }
        }
        if self.unread.is_empty() {
            self.definitions.retain(|arn, _| used.contains(arn));
        }
    }

    fn take_in(&mut self, service: &Arc<str>, deployment: &ServiceDeployment, is_moving: bool) {
        use ServiceDeploymentStatus as Status;
        let status = deployment.status();
        let is_through = matches!(status, Some(Status::Successful | Status::RollbackSuccessful));
        // What stopped half-way stays as it stands, until the next deployment.
        let is_stuck = matches!(status, Some(Status::Stopped | Status::RollbackFailed));
        if let Some(arn) = deployment.service_deployment_arn().filter(|_| is_through || is_stuck) {
            self.ended.insert(Arc::clone(service), arn.into());
        }
        let weighed = self.weighed(deployment).filter(|_| !is_through && (is_moving || !is_stuck));
        match weighed {
            Some(weighed) if self.followed.get(service).is_some_and(|known| **known == *weighed) => {}
            Some(weighed) => drop(self.followed.insert(Arc::clone(service), weighed.into())),
            None => drop(self.followed.remove(service)),
        }
    }

    /// What each revision is to get; `None` where there is but one.
    fn weighed(&self, deployment: &ServiceDeployment) -> Option<Vec<Weighed>> {
        let target = deployment.target_service_revision()?;
        let sources = deployment.source_service_revisions();
        let of_stage = by_stage(deployment);
        let all = || sources.iter().chain([target]);
        let production = all().filter_map(|it| it.requested_production_traffic_weight());
        let production_is_said = production.sum::<f64>() > 0.0;
        let test_is_said = production_is_said && all().any(|it| it.requested_test_traffic_weight().is_some());
        let rest = |target: u32| {
            u32::try_from(sources.len()).ok().and_then(|many| (1_000 - target).checked_div(many)).unwrap_or(0)
        };
        let one = |revision: &ServiceRevisionSummary, is_target: bool| {
            let arn = revision.arn()?;
            let (production, test) = of_stage;
            let usual = if is_target { production } else { rest(production) };
            let usual_test = if is_target { test } else { 0 };
            let told =
                |is_said: bool, weight: Option<f64>, usual| if is_said { thousandths(weight) } else { usual };
            Some(Weighed {
                id: arn.rsplit('/').next().unwrap_or(arn).into(),
                definition: self.definitions.get(arn).cloned(),
                production: told(production_is_said, revision.requested_production_traffic_weight(), usual),
                test: told(test_is_said, revision.requested_test_traffic_weight(), usual_test),
            })
        };
        let target_is_source = sources.iter().any(|source| source.arn() == target.arn());
        let sources =
            sources.iter().filter(|source| source.arn() != target.arn()).filter_map(|it| one(it, false));
        let mut all: Vec<_> = sources.chain(one(target, true)).collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        (all.len() > 1 && !target_is_source).then_some(all)
    }
}

/// What the new revision is to get of production and of tests by the stage alone, in thousandths: ECS may say no weights
/// where it shifts nobody's traffic itself.
fn by_stage(deployment: &ServiceDeployment) -> (u32, u32) {
    use ServiceDeploymentLifecycleStage as Stage;
    let rolls_back = matches!(
        deployment.status(),
        Some(ServiceDeploymentStatus::RollbackInProgress | ServiceDeploymentStatus::RollbackRequested)
    );
    let strategy = deployment.deployment_configuration().and_then(|it| it.strategy());
    match deployment.lifecycle_stage().filter(|_| !rolls_back) {
        Some(Stage::TestTrafficShift | Stage::PostTestTrafficShift) => (0, 1_000),
        Some(Stage::ProductionTrafficShift) if strategy == Some(&DeploymentStrategy::BlueGreen) => {
            (1_000, 1_000)
        }
        Some(Stage::ProductionTrafficShift) => (0, 1_000),
        Some(Stage::PostProductionTrafficShift | Stage::BakeTime | Stage::CleanUp) => (1_000, 1_000),
        _ => (0, 0),
    }
}

/// A share of a hundred; a word that makes no sense is none.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
fn thousandths(percent: Option<f64>) -> u32 {
    (percent.unwrap_or(0.0).clamp(0.0, 100.0) * 10.0).round() as u32
}
