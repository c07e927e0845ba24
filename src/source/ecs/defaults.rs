//! The default namespace of a cluster, which Service Connect knows it by: where services belong that say none themselves.
//!
//! It is asked for only where a cluster feeds several namespaces, and no more than once a minute.
//!
//! Invariant: a question that fails changes nothing that is known, and holds no reading up for long.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::Finding;
use crate::source::SourceError;
use crate::source::aws::{Access, Budget, Urgency, bad_response, failed, is_denial};

const DESCRIBE_CLUSTERS: &str = "ecs:DescribeClusters";
const GET_NAMESPACE: &str = "servicediscovery:GetNamespace";
/// Between two questions.
const PAUSE: Duration = Duration::from_secs(60);
/// How long a reading waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is known of it.
#[derive(Clone, Debug)]
pub(super) struct Defaults {
    /// Whom to ask, if it matters.
    asker: Option<Asker>,
    known: Option<Known>,
    /// Why it is not known better.
    failing: Option<SourceError>,
    asked: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Asker {
    ecs: aws_sdk_ecs::Client,
    cloud_map: aws_sdk_servicediscovery::Client,
    budget: Arc<Budget>,
    cluster: String,
}

/// A namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Known {
    /// As ECS says it: a name, or an ARN that does not tell the name.
    written: String,
    name: String,
}

impl Defaults {
    /// Nothing is known yet. `matters` where the cluster feeds several namespaces.
    pub(super) fn new(access: &Access, cluster: &str, matters: bool) -> Self {
        let asker = || Asker {
            ecs: access.ecs(),
            cloud_map: access.cloudmap(),
            budget: access.budget(),
            cluster: cluster.to_owned(),
        };
        Self { asker: matters.then(asker), known: None, failing: None, asked: None }
    }

    /// The name of the namespace.
    pub(super) fn name(&self) -> Option<&str> {
        self.known.as_ref().map(|known| known.name.as_str())
    }

    /// Why nothing is known of it. Who may not ask does without, and so does a cluster whose namespace was deleted.
    pub(super) fn unknown(&self) -> Option<&SourceError> {
        let is_final = |error: &SourceError| is_denial(&error.code) || error.code == "NamespaceNotFound";
        self.failing.as_ref().filter(|error| self.known.is_none() && !is_final(error))
    }

    /// That it could not be asked for.
    pub(super) fn finding(&self, cluster: &str) -> Option<Finding> {
        let error = self.failing.as_ref()?;
        let object = format!("ecs {cluster}, default namespace");
        Some(error.finding(object, "can't be read, so it is taken for what it was: "))
    }

    /// What is known after another question, if it is time for one.
    pub(super) async fn renewed(mut self) -> Self {
        let Some(asker) = self.asker.clone() else { return self };
        if self.failing.is_none() && self.asked.is_some_and(|at| at.elapsed() < PAUSE) {
            return self;
        }
        self.asked = Some(Instant::now());
        match asker.ask(self.known.as_ref()).await {
            Ok(known) => (self.known, self.failing) = (known, None),
            Err(error) => self.failing = Some(error),
        }
        self
    }
}

impl Asker {
    async fn ask(&self, known: Option<&Known>) -> Result<Option<Known>, SourceError> {
        self.budget.admit(DESCRIBE_CLUSTERS, Urgency::CanWait).await;
        let call = self.ecs.describe_clusters().clusters(&self.cluster);
        let answer = in_time(DESCRIBE_CLUSTERS, call.send()).await?;
        let answer = answer.map_err(|error| failed(DESCRIBE_CLUSTERS, error))?;
        let [cluster] = answer.clusters() else {
            return Err(bad_response(DESCRIBE_CLUSTERS, "the answer lacks the cluster"));
        };
        let defaults = cluster.service_connect_defaults();
        let Some(written) = defaults.and_then(|defaults| defaults.namespace()) else { return Ok(None) };
        match known {
            Some(known) if known.written == written => Ok(Some(known.clone())),
            _ => Ok(Some(Known { written: written.to_owned(), name: self.name_of(written).await? })),
        }
    }

    /// The name of a namespace that may be an ARN.
    async fn name_of(&self, written: &str) -> Result<String, SourceError> {
        if !written.starts_with("arn:") {
            return Ok(written.to_owned());
        }
        self.budget.admit(GET_NAMESPACE, Urgency::CanWait).await;
        let answer = in_time(GET_NAMESPACE, self.cloud_map.get_namespace().id(written).send()).await?;
        let answer = answer.map_err(|error| failed(GET_NAMESPACE, error))?;
        let name = answer.namespace().and_then(|namespace| namespace.name());
        name.map(str::to_owned).ok_or_else(|| bad_response(GET_NAMESPACE, "the answer lacks `Name`"))
    }
}

/// What a call answers, unless it takes too long.
async fn in_time<T>(operation: &str, answer: impl Future<Output = T>) -> Result<T, SourceError> {
    tokio::time::timeout(PATIENCE, answer).await.map_err(|_| {
        let message = format!("no answer within {PATIENCE:?}");
        SourceError { operation: operation.into(), code: "timeout".into(), message }
    })
}
