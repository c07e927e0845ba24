//! What passes between a client of the SDK and AWS, attempt by attempt, for the budget and for those who count.
//!
//! It changes nothing of what passes.
//!
//! Invariant: each attempt is counted once, whatever came of it.

use std::sync::Arc;

use aws_sdk_ecs::config::http::HttpResponse;
use aws_sdk_ecs::config::interceptors::{
    BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef,
};
use aws_sdk_ecs::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_ecs::error::BoxError;
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_runtime_api::client::retries::RequestAttempts;

use super::budget::{Budget, Outcome};
use super::clock::Clock;

/// The words of AWS for "too often".
pub(super) const TOO_OFTEN: [&str; 5] = [
    "ThrottlingException",
    "RequestLimitExceeded",
    "TooManyRequestsException",
    "RequestThrottled",
    "Rate exceeded",
];

/// Tells the budget of each attempt, and the clock when its answer was dated.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    pub(super) budget: Arc<Budget>,
    pub(super) clock: Option<Arc<Clock>>,
}

impl Intercept for Meter {
    fn name(&self) -> &'static str {
        "Meter"
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let is_repeated = config.load::<RequestAttempts>().is_some_and(|attempts| attempts.attempts() > 1);
        if let Some(operation) = operation(config).filter(|_| is_repeated) {
            self.budget.note_repeated(&operation);
        }
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().and_then(|response| response.headers().get("date"));
        if let Some((clock, date)) = self.clock.as_ref().zip(date) {
            clock.learn(date);
        }
        if let Some(operation) = operation(config) {
            self.budget.note_ended(&operation, context.response().map_or(Outcome::Failed, outcome));
        }
        Ok(())
    }
}

/// The operation as IAM names it: `ecs:ListTasks`.
fn operation(config: &ConfigBag) -> Option<String> {
    let operation = config.load::<Metadata>()?;
    Some(format!("{}:{}", operation.service().to_lowercase(), operation.name()))
}

fn outcome(response: &HttpResponse) -> Outcome {
    if response.status().is_success() {
        return Outcome::Answered;
    }
    let body = String::from_utf8_lossy(response.body().bytes().unwrap_or_default());
    let too_often = response.status().as_u16() == 429 || TOO_OFTEN.iter().any(|word| body.contains(word));
    if too_often { Outcome::Throttled } else { Outcome::Failed }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;
    use serde_json::json;

    use crate::source::aws::scripted::{Answer, Scripted};
    use crate::source::aws::{Access, Budget};
    use crate::telemetry::Metrics;

    #[tokio::test]
    async fn each_attempt_is_counted_and_throttling_slows() {
        let script = Scripted::start(|operation, _| match operation {
            "ListTasks" => {
                Answer::Json(400, json!({"__type": "ThrottlingException", "message": "Rate exceeded"}))
            }
            "ListServices" => Answer::Text(503, "upstream is down"),
            "ListNamespaces" => Answer::Json(400, json!({"__type": "RequestLimitExceeded"})),
            _ => Answer::Json(200, json!({"taskDefinition": {}})),
        });
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let access = Access::new(script.config(), Arc::new(Budget::new(50, metrics)));
        let _ = access.ecs().list_tasks().send().await;
        let _ = access.ecs().list_services().send().await;
        let _ = access.ecs().describe_task_definition().task_definition("a").send().await;
        let _ = access.cloudmap().list_namespaces().send().await;
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let lines = |of: &str| -> Vec<String> {
            let mut lines: Vec<_> =
                text.lines().filter(|line| line.starts_with(of)).map(str::to_owned).collect();
            lines.sort_unstable();
            lines
        };
        assert_eq!(
            lines("legation_aws_calls_total"),
            [
                r#"legation_aws_calls_total{operation="ecs:DescribeTaskDefinition",outcome="answered"} 1"#,
                r#"legation_aws_calls_total{operation="ecs:ListServices",outcome="failed"} 2"#,
                r#"legation_aws_calls_total{operation="ecs:ListTasks",outcome="throttled"} 2"#,
                r#"legation_aws_calls_total{operation="servicediscovery:ListNamespaces",outcome="throttled"} 2"#,
            ]
        );
        let rates = lines("legation_aws_call_rate");
        let rates: Vec<f64> =
            rates.iter().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert!((5.0..6.0).contains(&rates[0]), "half as many as before: {rates:?}");
        assert_eq!(rates[1..3], [10.0, 10.0], "only what was too often");
    }
}
