//! Several accounts and Regions: how each is reached, as this process itself or with a role.
//!
//! It calls nobody: a role is taken on when the first call is signed, and again before its credentials expire.
//!
//! Invariant: roles of one account and Region share their budget. This process's own account is not known by its number, so
//! a role in it has a budget apart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_config::sts::AssumeRoleProvider;
use aws_config::{Region, SdkConfig};
use aws_sdk_ecs::config::SharedCredentialsProvider;
use aws_sdk_sts::Client;

use super::{Access, Budget, Clock, Limits, failed};
use crate::model::account_of_role;
use crate::source::SourceError;
use crate::telemetry::Metrics;

pub(super) const ASSUME_ROLE: &str = "sts:AssumeRole";
/// What AWS's trails show of who took a role on.
const SESSION: &str = "legation";
/// Taking on a role is part of the call that needs it, and ends before that call or the SDK gives up on credentials, after
/// five seconds: else nobody were told what takes so long.
const LIMITS: Limits = Limits {
    connect: Duration::from_secs(2),
    attempt: Duration::from_secs(2),
    operation: Duration::from_millis(4_500),
};

/// A role, and how it is taken on.
#[derive(Clone, Debug)]
pub(super) struct Role {
    pub(super) arn: String,
    sts: Client,
}

impl Role {
    /// Tries to take it on; what comes of it is dropped.
    pub(super) async fn assume(&self) -> Result<(), SourceError> {
        let call = self.sts.assume_role().role_arn(&self.arn).role_session_name(SESSION);
        call.send().await.map(drop).map_err(|error| failed(ASSUME_ROLE, error))
    }
}

/// Every account and Region that is called.
#[derive(Debug)]
pub struct Accounts {
    sdk: SdkConfig,
    /// How much of what AWS allows is used, in percent.
    call_budget: u32,
    metrics: Metrics,
    /// By role and Region.
    known: BTreeMap<(Option<String>, String), Access>,
    /// By account and Region.
    budgets: BTreeMap<Arc<str>, Arc<Budget>>,
    /// All of AWS has one time.
    clock: Arc<Clock>,
}

impl Accounts {
    /// With these settings, in which there is a Region.
    pub fn new(sdk: SdkConfig, call_budget: u32, metrics: Metrics) -> Self {
        Self {
            sdk,
            call_budget,
            metrics,
            known: BTreeMap::new(),
            budgets: BTreeMap::new(),
            clock: Arc::default(),
        }
    }

    /// AWS's clock.
    pub fn clock(&self) -> Arc<Clock> {
        Arc::clone(&self.clock)
    }

    /// The Region that is meant where none is said.
    pub fn region(&self) -> &str {
        self.sdk.region().map_or("", AsRef::as_ref)
    }

    /// Access with a role, or as oneself, to a Region, or the usual one.
    pub async fn access(&mut self, role: Option<&str>, region: Option<&str>) -> Access {
        let region = region.unwrap_or(self.region()).to_owned();
        let key = (role.map(str::to_owned), region.clone());
        if let Some(access) = self.known.get(&key) {
            return access.clone();
        }
        let own = self.sdk.clone().into_builder().region(Region::new(region.clone())).build();
        let account = role.and_then(account_of_role).unwrap_or_default();
        let home: Arc<str> = if account.is_empty() { region } else { format!("{account}/{region}") }.into();
        let (percent, metrics) = (self.call_budget, self.metrics.clone());
        let budget = self.budgets.entry(Arc::clone(&home));
        let budget = Arc::clone(budget.or_insert_with(|| Arc::new(Budget::new(percent, metrics).of(&home))));
        let clock = Arc::clone(&self.clock);
        let access = match role {
            None => Access { sdk: own, budget, clock, home, role: None },
            Some(arn) => {
                // Its endpoint is the Region's own, as for every other service.
                let own_sts = own.to_builder().timeout_config(LIMITS.timeouts()).build();
                let provider = AssumeRoleProvider::builder(arn).configure(&own_sts).session_name(SESSION);
                let provider = SharedCredentialsProvider::new(provider.build().await);
                let role = Role { arn: arn.to_owned(), sts: Client::new(&own_sts) };
                let sdk = own.into_builder().credentials_provider(provider).build();
                Access { sdk, budget, clock, home, role: Some(role) }
            }
        };
        self.known.insert(key, access.clone());
        access
    }
}

#[cfg(test)]
mod tests;
