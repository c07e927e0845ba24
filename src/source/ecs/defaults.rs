//! Which namespaces ECS means: the default one of a cluster, where services belong that say none themselves, and those
//! that Service Connect writes as ARNs, which don't tell their names.
//!
//! The default is asked for only where a cluster feeds several namespaces, and no more than once a minute; the name of an ARN
//! once.
//!
//! Invariant: a question that fails changes nothing that is known, and holds no reading up for long.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
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

/// The names of namespaces by their ARNs.
pub(super) type Names = BTreeMap<String, String>;

/// What is known of them.
#[derive(Clone, Debug)]
pub(super) struct Defaults {
    asker: Asker,
    /// Whether the default namespace makes a difference: the cluster feeds several.
    matters: bool,
    /// The default namespace as it was told last.
    told: Option<String>,
    /// The same as of the last whole reading.
    name: Option<String>,
    names: Names,
    /// Why the default namespace is not known better.
    failing: Option<SourceError>,
    /// The ARNs that services have and whose names could not be read last.
    unread: BTreeMap<String, Unnamed>,
    asked: Option<Instant>,
}

/// Why a name could not be read.
#[derive(Clone, Debug)]
struct Unnamed {
    error: SourceError,
    asked: Instant,
}

#[derive(Clone, Debug)]
struct Asker {
    ecs: aws_sdk_ecs::Client,
    cloud_map: aws_sdk_servicediscovery::Client,
    budget: Arc<Budget>,
    cluster: String,
}

/// Whoever may not ask does without, and so does who asks for a namespace that was deleted.
fn is_final(error: &SourceError) -> bool {
    is_denial(&error.code) || error.code == "NamespaceNotFound"
}

impl Defaults {
    /// Nothing is known yet. `matters` where the cluster feeds several namespaces.
    pub(super) fn new(access: &Access, cluster: &str, matters: bool) -> Self {
        let asker = Asker {
            ecs: access.ecs(),
            cloud_map: access.cloudmap(),
            budget: access.budget(),
            cluster: cluster.to_owned(),
        };
        Self {
            asker,
            matters,
            told: None,
            name: None,
            names: Names::new(),
            failing: None,
            unread: BTreeMap::new(),
            asked: None,
        }
    }

    /// The name of the default namespace as of the last whole reading.
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The name of the default namespace as it was told last, which a reading under way is about to take in.
    pub(super) fn told(&self) -> Option<&str> {
        self.told.as_deref()
    }

    /// Whether the name of a namespace could not be read.
    pub(super) fn is_unread(&self, arn: &str) -> bool {
        self.unread.contains_key(arn)
    }

    /// The names of namespaces that ECS writes as ARNs.
    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    /// Takes in what was told, with all else that a reading brought.
    pub(super) fn take_in(&mut self) {
        self.name.clone_from(&self.told);
    }

    /// Why nothing is known of one that matters, unless it never will be.
    pub(super) fn unknown(&self) -> Option<&SourceError> {
        let failing = self.failing.iter().filter(|_| self.told.is_none());
        failing.chain(self.unread.values().map(|it| &it.error)).find(|error| !is_final(error))
    }

    /// What could not be asked for.
    pub(super) fn findings(&self, cluster: &str) -> impl Iterator<Item = Finding> {
        let default = self.failing.iter().map(move |error| {
            let object = format!("ecs {cluster}, default namespace");
            error.finding(object, "can't be read, so it is taken for what it was: ")
        });
        let what = if self.matters {
            "can't be read, so services that Service Connect puts there stay where they were, and new ones are left out; the \
             tag legation:namespace says where they belong: "
        } else {
            "can't be read, so services that Service Connect puts there are taken for those of the only namespace that the \
             cluster feeds: "
        };
        let named = self.unread.iter().map(move |(arn, Unnamed { error, .. })| {
            error.finding(format!("ecs {cluster}, namespace {arn}"), what)
        });
        default.chain(named)
    }

    /// What is known after another question about the default namespace, if it is time for one.
    pub(super) async fn renewed(mut self) -> Self {
        let is_known = self.failing.is_none() && self.asked.is_some_and(|at| at.elapsed() < PAUSE);
        if !self.matters || is_known {
            return self;
        }
        self.asked = Some(Instant::now());
        match self.asker.ask(&mut self.names).await {
            Ok(told) => (self.told, self.failing) = (told, None),
            Err(error) => self.failing = Some(error),
        }
        self
    }

    /// What is known after a question about each of these ARNs whose name is not known. What AWS refuses for good is asked
    /// no more than once a minute.
    pub(super) async fn named(mut self, arns: BTreeSet<String>) -> Self {
        let before = std::mem::take(&mut self.unread);
        let (mut due, now) = (Vec::new(), Instant::now());
        for arn in arns.into_iter().filter(|arn| !self.names.contains_key(arn)) {
            match before.get(&arn) {
                Some(known) if is_final(&known.error) && now - known.asked < PAUSE => {
                    self.unread.insert(arn, known.clone());
                }
                _ => due.push(arn),
            }
        }
        let answers = join_all(due.iter().map(|arn| self.asker.name_of(arn))).await;
        for (arn, answer) in due.into_iter().zip(answers) {
            match answer {
                Ok(name) => drop(self.names.insert(arn, name)),
                Err(error) => drop(self.unread.insert(arn, Unnamed { error, asked: now })),
            }
        }
        self
    }
}

impl Asker {
    /// The name of the default namespace, if the cluster has one.
    async fn ask(&self, names: &mut Names) -> Result<Option<String>, SourceError> {
        self.admit(DESCRIBE_CLUSTERS).await?;
        let call = self.ecs.describe_clusters().clusters(&self.cluster);
        let answer = in_time(DESCRIBE_CLUSTERS, call.send()).await?;
        let answer = answer.map_err(|error| failed(DESCRIBE_CLUSTERS, error))?;
        let [cluster] = answer.clusters() else {
            return Err(bad_response(DESCRIBE_CLUSTERS, "the answer lacks the cluster"));
        };
        let defaults = cluster.service_connect_defaults();
        let Some(written) = defaults.and_then(|defaults| defaults.namespace()) else { return Ok(None) };
        if !written.starts_with("arn:") {
            return Ok(Some(written.to_owned()));
        }
        if !names.contains_key(written) {
            names.insert(written.to_owned(), self.name_of(written).await?);
        }
        Ok(names.get(written).cloned())
    }

    /// Waits until a call may go out, but no longer than for its answer.
    async fn admit(&self, operation: &'static str) -> Result<(), SourceError> {
        let admitted = self.budget.admit(operation, Urgency::CanWait);
        tokio::time::timeout(PATIENCE, admitted).await.map_err(|_| {
            let message = format!("AWS was asked so often that no call went out within {PATIENCE:?}");
            SourceError { operation: operation.into(), code: "Throttling".to_owned(), message }
        })
    }

    async fn name_of(&self, arn: &str) -> Result<String, SourceError> {
        self.admit(GET_NAMESPACE).await?;
        let answer = in_time(GET_NAMESPACE, self.cloud_map.get_namespace().id(arn).send()).await?;
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
