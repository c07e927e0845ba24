//! The calls to ECS: listings by page, descriptions by batch.
//!
//! It is not a memory, and it judges nothing but whether an answer is whole.
//!
//! Invariant: an answer is returned only when everything that was asked for was answered.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_ecs::Client;
use aws_sdk_ecs::config::http::HttpResponse;
use aws_sdk_ecs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ecs::types::{
    ContainerInstance, DesiredStatus, Failure, ServiceDeployment, ServiceDeploymentStatus, ServiceField,
    TaskField,
};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::facts::{self, Lacks, Revision, ServiceFacts, TaskFacts};
use super::instances::{ATTRIBUTE, InstanceFacts};
use crate::model::InstanceId;
use crate::source::SourceError;
use crate::source::aws::{Budget, Ec2, Pages, Urgency, bad_response, failed, is_too_often};

/// Calls under way at once: quick, and far from using up the account's burst.
pub(super) const AT_ONCE: usize = 6;
/// How often a call is made that AWS finds too often; the SDK makes two attempts each time.
const TRIES: u32 = 3;
const LIST_PAGE: i32 = 100;
const TASK_BATCH: usize = 100;
const SERVICE_BATCH: usize = 10;

const LIST_SERVICES: &str = "ecs:ListServices";
const LIST_TASKS: &str = "ecs:ListTasks";
const DESCRIBE_SERVICES: &str = "ecs:DescribeServices";
const DESCRIBE_TASKS: &str = "ecs:DescribeTasks";
const DESCRIBE_CONTAINER_INSTANCES: &str = "ecs:DescribeContainerInstances";
const DESCRIBE_TASK_DEFINITION: &str = "ecs:DescribeTaskDefinition";
const LIST_SERVICE_DEPLOYMENTS: &str = "ecs:ListServiceDeployments";
const DESCRIBE_SERVICE_DEPLOYMENTS: &str = "ecs:DescribeServiceDeployments";
const DESCRIBE_SERVICE_REVISIONS: &str = "ecs:DescribeServiceRevisions";

/// Task definitions that could not be read, and why.
pub(super) type Unread = BTreeMap<Arc<str>, SourceError>;

/// What was described, and the ARNs of which ECS knows nothing.
pub(super) type Described<T> = (Vec<T>, Vec<String>);

/// One cluster, as calls see it.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    pub client: Client,
    pub ec2: Ec2,
    pub budget: Arc<Budget>,
    /// A name or an ARN.
    pub cluster: String,
}

impl Reader {
    /// Makes one call of a reading. Where AWS is asked too often it is made again, later and later: of the many calls of a
    /// large reading some always meet that, and none would ever come to its end.
    async fn asked<T, E, F>(
        &self,
        operation: &'static str,
        urgency: Urgency,
        call: impl Fn() -> F,
    ) -> Result<T, SourceError>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    {
        let mut tries = 1;
        loop {
            self.budget.admit(operation, urgency).await;
            match call().await.map_err(|error| failed(operation, error)) {
                Err(error) if is_too_often(&error.code) && tries < TRIES => tries += 1,
                outcome => return outcome,
            }
        }
    }

    /// The ARNs of every service.
    pub(super) async fn service_arns(&self) -> Result<Vec<String>, SourceError> {
        let (mut arns, mut token, mut pages) = (Vec::new(), None, Pages::of(LIST_SERVICES));
        loop {
            let call = self.client.list_services().cluster(&self.cluster).max_results(LIST_PAGE);
            let call = call.set_next_token(token);
            let page = self.asked(LIST_SERVICES, Urgency::CanWait, || call.clone().send()).await?;
            token = pages.next(page.next_token())?;
            arns.extend(page.service_arns.ok_or_else(|| lacks(LIST_SERVICES, Lacks("serviceArns")))?);
            if token.is_none() {
                return Ok(arns);
            }
        }
    }

    /// The ARNs of every task that is meant to run.
    pub(super) async fn task_arns(&self) -> Result<HashSet<InstanceId>, SourceError> {
        let (mut arns, mut token, mut pages) = (HashSet::new(), None, Pages::of(LIST_TASKS));
        loop {
            let call = self.client.list_tasks().cluster(&self.cluster).max_results(LIST_PAGE);
            let call = call.desired_status(DesiredStatus::Running).set_next_token(token);
            let page = self.asked(LIST_TASKS, Urgency::CanWait, || call.clone().send()).await?;
            token = pages.next(page.next_token())?;
            let listed = page.task_arns.ok_or_else(|| lacks(LIST_TASKS, Lacks("taskArns")))?;
            arns.extend(listed.into_iter().map(InstanceId::from));
            if token.is_none() {
                return Ok(arns);
            }
        }
    }

    /// Describes services, with their tags.
    pub(super) async fn services(&self, arns: &[String]) -> Result<Described<ServiceFacts>, SourceError> {
        let batches: Vec<_> = arns.chunks(SERVICE_BATCH).map(<[_]>::to_vec).collect();
        let calls = batches.into_iter().map(|batch| async move {
            let call = self.client.describe_services().cluster(&self.cluster).include(ServiceField::Tags);
            let call = call.set_services(Some(batch.clone()));
            let answer = self.asked(DESCRIBE_SERVICES, Urgency::CanWait, || call.clone().send());
            let answer = answer.await?;
            let missing = missing(DESCRIBE_SERVICES, answer.failures())?;
            let services: Result<Vec<_>, _> = answer.services().iter().map(facts::service).collect();
            let services = services.map_err(|what| lacks(DESCRIBE_SERVICES, what))?;
            whole(DESCRIBE_SERVICES, batch, services, missing, |service| &service.arn)
        });
        joined(calls).await
    }

    /// Describes tasks, with their tags.
    pub(super) async fn tasks(
        &self,
        arns: &[InstanceId],
        urgency: Urgency,
    ) -> Result<Described<TaskFacts>, SourceError> {
        let arns: Vec<_> = arns.iter().map(|arn| arn.as_str().to_owned()).collect();
        let batches: Vec<_> = arns.chunks(TASK_BATCH).map(<[_]>::to_vec).collect();
        let calls = batches.into_iter().map(|batch| async move {
            let call = self.client.describe_tasks().cluster(&self.cluster).include(TaskField::Tags);
            let call = call.set_tasks(Some(batch.clone()));
            let answer = self.asked(DESCRIBE_TASKS, urgency, || call.clone().send()).await?;
            let missing = missing(DESCRIBE_TASKS, answer.failures())?;
            let tasks: Result<Vec<_>, _> = answer.tasks().iter().map(facts::task).collect();
            let tasks = tasks.map_err(|what| lacks(DESCRIBE_TASKS, what))?;
            whole(DESCRIBE_TASKS, batch, tasks, missing, |task| task.arn.as_str())
        });
        joined(calls).await
    }

    /// Describes as many container instances as one call may ask about.
    pub(super) async fn container_instances(
        &self,
        arns: &[Arc<str>],
    ) -> Result<Described<InstanceFacts>, SourceError> {
        self.budget.admit(DESCRIBE_CONTAINER_INSTANCES, Urgency::CanWait).await;
        let arns: Vec<_> = arns.iter().map(|arn| arn.as_ref().to_owned()).collect();
        let call = self.client.describe_container_instances().cluster(&self.cluster);
        let answer = call.set_container_instances(Some(arns.clone())).send().await;
        let answer = answer.map_err(|e| failed(DESCRIBE_CONTAINER_INSTANCES, e))?;
        let missing = missing(DESCRIBE_CONTAINER_INSTANCES, answer.failures())?;
        let instances: Result<Vec<_>, _> = answer.container_instances().iter().map(instance).collect();
        let instances = instances.map_err(|what| lacks(DESCRIBE_CONTAINER_INSTANCES, what))?;
        whole(DESCRIBE_CONTAINER_INSTANCES, arns, instances, missing, |instance| &instance.arn)
    }

    /// Deployments, or revisions, that one call may ask about.
    pub(super) const DEPLOYMENT_BATCH: usize = 20;

    /// The ARN of a service's deployment under way, if there is one.
    pub(super) async fn deployment_under_way(&self, service: &str) -> Result<Option<Arc<str>>, SourceError> {
        use ServiceDeploymentStatus as Status;
        let call = self.client.list_service_deployments().cluster(&self.cluster).service(service);
        let under_way = [
            Status::Pending,
            Status::InProgress,
            Status::StopRequested,
            Status::RollbackRequested,
            Status::RollbackInProgress,
        ];
        let call = call.set_status(Some(under_way.to_vec()));
        let listed = self.asked(LIST_SERVICE_DEPLOYMENTS, Urgency::CanWait, || call.clone().send()).await?;
        let newest = listed.service_deployments().iter().max_by_key(|one| one.created_at().copied());
        Ok(newest.and_then(|one| one.service_deployment_arn()).map(Into::into))
    }

    /// Describes as many deployments as one call may ask about; those that ECS doesn't know are left out.
    pub(super) async fn deployments(&self, arns: Vec<String>) -> Result<Vec<ServiceDeployment>, SourceError> {
        let call = self.client.describe_service_deployments().set_service_deployment_arns(Some(arns));
        let answer = self.asked(DESCRIBE_SERVICE_DEPLOYMENTS, Urgency::CanWait, || call.clone().send());
        let answer = answer.await?;
        missing(DESCRIBE_SERVICE_DEPLOYMENTS, answer.failures())?;
        Ok(answer.service_deployments.unwrap_or_default())
    }

    /// Why a deployment that was asked about is not known.
    pub(super) fn no_deployment(arn: &str) -> SourceError {
        let why = format!("the answer lacks the deployment {arn}");
        bad_response(DESCRIBE_SERVICE_DEPLOYMENTS, why)
    }

    /// The task definitions of as many revisions of services as one call may ask about, by ARN.
    pub(super) async fn service_revisions(
        &self,
        arns: Vec<String>,
    ) -> Result<Vec<(Arc<str>, Arc<str>)>, SourceError> {
        let call = self.client.describe_service_revisions().set_service_revision_arns(Some(arns));
        let answer = self.asked(DESCRIBE_SERVICE_REVISIONS, Urgency::CanWait, || call.clone().send());
        let answer = answer.await?;
        missing(DESCRIBE_SERVICE_REVISIONS, answer.failures())?;
        let revisions = answer.service_revisions().iter();
        let pairs = revisions
            .filter_map(|one| Some((one.service_revision_arn()?.into(), one.task_definition()?.into())));
        Ok(pairs.collect())
    }

    /// Describes task definitions one by one, and hands each to `keep` at once: a revision never changes, so
    /// what arrived before a failure need not be asked again. Returns those that could not be read. Throttling
    /// is waited out for as long as `patience`.
    pub(super) async fn revisions(
        &self,
        arns: Vec<Arc<str>>,
        patience: Duration,
        mut keep: impl FnMut(Arc<str>, Revision),
    ) -> Unread {
        let calls = arns.into_iter().map(|arn| async move {
            let answer = self.revision(&arn, patience).await;
            (arn, answer)
        });
        let mut answers = std::pin::pin!(stream::iter(calls).buffer_unordered(AT_ONCE));
        let mut unread = Unread::new();
        while let Some((arn, answer)) = answers.next().await {
            match answer {
                Ok(revision) => keep(arn, revision),
                Err(error) => drop(unread.insert(arn, error)),
            }
        }
        unread
    }

    async fn revision(&self, arn: &str, patience: Duration) -> Result<Revision, SourceError> {
        let started = Instant::now();
        loop {
            self.budget.admit(DESCRIBE_TASK_DEFINITION, Urgency::CanWait).await;
            let call = self.client.describe_task_definition().task_definition(arn);
            match call.send().await.map_err(|e| failed(DESCRIBE_TASK_DEFINITION, e)) {
                Ok(answer) => {
                    let definition = answer.task_definition();
                    let definition =
                        definition.ok_or_else(|| lacks(DESCRIBE_TASK_DEFINITION, Lacks("taskDefinition")))?;
                    return facts::revision(definition).map_err(|what| lacks(DESCRIBE_TASK_DEFINITION, what));
                }
                Err(error) if is_too_often(&error.code) && started.elapsed() < patience => {
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(250..750))).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn instance(instance: &ContainerInstance) -> Result<InstanceFacts, Lacks> {
    let written = instance.attributes().iter().find(|attribute| attribute.name() == ATTRIBUTE);
    Ok(InstanceFacts {
        arn: instance.container_instance_arn().ok_or(Lacks("containerInstanceArn"))?.into(),
        machine: instance.ec2_instance_id().map(str::to_owned),
        written: written.and_then(|attribute| attribute.value()).map(str::to_owned),
    })
}

fn lacks(operation: &str, Lacks(what): Lacks) -> SourceError {
    bad_response(operation, format!("the answer lacks `{what}`"))
}

/// The ARNs that don't exist; any other failure means that the answer is partial.
fn missing(operation: &str, failures: &[Failure]) -> Result<Vec<String>, SourceError> {
    let one = |failure: &Failure| {
        let arn = failure.arn().unwrap_or_default();
        match failure.reason() {
            Some("MISSING") => Ok(arn.to_owned()),
            reason => {
                let code = reason.unwrap_or("bad-response").to_owned();
                let detail = failure.detail().unwrap_or("no detail");
                Err(SourceError { operation: operation.into(), code, message: format!("{arn}: {detail}") })
            }
        }
    };
    failures.iter().map(one).collect()
}

/// Of an answer, what was asked for, if that is all of it.
fn whole<T>(
    operation: &str,
    asked: Vec<String>,
    mut found: Vec<T>,
    missing: Vec<String>,
    arn: impl Fn(&T) -> &str,
) -> Result<Described<T>, SourceError> {
    let count = asked.len();
    let asked: HashSet<String> = asked.into_iter().collect();
    found.retain(|one| asked.contains(arn(one)));
    let mut open: HashSet<&str> = asked.iter().map(String::as_str).collect();
    for answered in found.iter().map(&arn).chain(missing.iter().map(String::as_str)) {
        open.remove(answered);
    }
    if let Some(first) = open.iter().min() {
        let why = format!("{} of {count} were not answered for, such as {first}", open.len());
        return Err(bad_response(operation, why));
    }
    Ok((found, missing))
}

async fn joined<T>(
    calls: impl Iterator<Item = impl Future<Output = Result<Described<T>, SourceError>>>,
) -> Result<Described<T>, SourceError> {
    let answers: Vec<Described<T>> = stream::iter(calls).buffered(AT_ONCE).try_collect().await?;
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for (some, gone) in answers {
        found.extend(some);
        missing.extend(gone);
    }
    Ok((found, missing))
}
