//! Deployments that shift traffic: blue/green, linear and canary, stage by stage as a test plays them.
//!
//! The scheduler starts and stops no task by itself here: a test does, as with every deployment. Invariant: of a service
//! at most one shift is under way, and its weights add up to a hundred.

use super::model::{RolloutState, Stamp, words};
use super::{World, WorldError};

words! {
    /// How a service is deployed.
    Strategy {
        /// Task by task.
        Rolling = "ROLLING",
        /// Everything at once, after a trial.
        BlueGreen = "BLUE_GREEN",
        /// In equal steps.
        Linear = "LINEAR",
        /// A little, and then the rest.
        Canary = "CANARY",
    }
}

words! {
    /// Where a shift is.
    Stage {
        /// The new tasks start.
        ScaleUp = "SCALE_UP",
        /// The new tasks run.
        PostScaleUp = "POST_SCALE_UP",
        /// Tests go to the new revision.
        PostTestTrafficShift = "POST_TEST_TRAFFIC_SHIFT",
        /// Production goes over.
        ProductionTrafficShift = "PRODUCTION_TRAFFIC_SHIFT",
        /// Production has gone over, and may come back.
        BakeTime = "BAKE_TIME",
        /// The old tasks stop.
        CleanUp = "CLEAN_UP",
    }
}

words! {
    /// How a shift stands.
    ShiftStatus {
        /// Under way.
        InProgress = "IN_PROGRESS",
        /// Over: the new revision has everything.
        Successful = "SUCCESSFUL",
        /// Over: the old revision has everything again.
        RollbackSuccessful = "ROLLBACK_SUCCESSFUL",
        /// Stopped where it was.
        Stopped = "STOPPED",
    }
}

/// A deployment that shifts traffic.
#[derive(Debug, Clone)]
pub struct TrafficShift {
    /// ARN of the service deployment.
    pub arn: String,
    /// Ids of the deployments from which traffic goes.
    pub sources: Vec<String>,
    /// Id of the deployment to which it goes.
    pub target: String,
    /// How it stands.
    pub status: ShiftStatus,
    /// Where it is.
    pub stage: Stage,
    /// What the target is to get of production, in percent.
    pub production: f64,
    /// What it is to get of tests, in percent.
    pub test: f64,
    /// When it was created.
    pub created: Stamp,
    /// When it last changed.
    pub updated: Stamp,
}

impl World {
    /// Says how a service is deployed from now on.
    pub fn set_strategy(&self, cluster: &str, service: &str, strategy: Strategy) -> Result<(), WorldError> {
        self.change(|state| {
            state.service_mut(cluster, service)?.strategy = strategy;
            Ok(())
        })
    }

    /// Begins a deployment that shifts traffic: the new PRIMARY has no tasks and no weight yet. Returns its id.
    pub fn begin_shift(&self, cluster: &str, service: &str, definition: &str) -> Result<String, WorldError> {
        let found = self.service(cluster, service);
        let found = found.ok_or_else(|| WorldError::Missing(format!("service {service}")))?;
        if found.strategy == Strategy::Rolling {
            return Err(WorldError::Invalid(format!("service {service} rolls")));
        }
        let connect = found.deployments.first().and_then(|deployment| deployment.service_connect.clone());
        let sources = found.deployments.iter().map(|deployment| deployment.id.clone()).collect();
        let target = self.begin_deployment(cluster, service, definition, connect)?;
        self.change(|state| {
            let digits = state.ids.digits();
            let found = state.service_mut(cluster, service)?;
            let arn = found.arn.replacen(":service/", ":service-deployment/", 1);
            found.shift = Some(TrafficShift {
                arn: format!("{arn}/{digits}"),
                sources,
                target: target.clone(),
                status: ShiftStatus::InProgress,
                stage: Stage::ScaleUp,
                production: 0.0,
                test: 0.0,
                created: Stamp::now(),
                updated: Stamp::now(),
            });
            Ok(target)
        })
    }

    /// Takes a shift to another stage and to other weights of its target.
    pub fn shift(
        &self,
        cluster: &str,
        service: &str,
        stage: Stage,
        (production, test): (f64, f64),
    ) -> Result<(), WorldError> {
        self.change(|state| {
            let found = state.service_mut(cluster, service)?;
            let shift = found.shift.as_mut().filter(|shift| shift.status == ShiftStatus::InProgress);
            let shift = shift.ok_or_else(|| WorldError::Missing(format!("a shift of {service}")))?;
            (shift.stage, shift.production, shift.test) = (stage, production, test);
            shift.updated = Stamp::now();
            Ok(())
        })
    }

    /// Ends a shift.
    pub fn end_shift(&self, cluster: &str, service: &str, status: ShiftStatus) -> Result<(), WorldError> {
        self.change(|state| {
            let found = state.service_mut(cluster, service)?;
            let shift = found.shift.as_mut();
            let shift = shift.ok_or_else(|| WorldError::Missing(format!("a shift of {service}")))?;
            (shift.status, shift.updated) = (status, Stamp::now());
            for deployment in &mut found.deployments {
                deployment.rollout = RolloutState::Completed;
            }
            Ok(())
        })
    }
}
