//! AWS clients as Legation uses them: bounded in time, and honest about what went wrong.
//!
//! It is not a source and knows no operation.
//!
//! Invariant: every call ends, at the latest after twenty seconds, in an answer or in a [`SourceError`].

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_ecs::config::http::HttpResponse;
use aws_sdk_ecs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_servicediscovery::config::endpoint::Params;
use aws_sdk_servicediscovery::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_servicediscovery::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_servicediscovery::error::BoxError;
use aws_sdk_sts::operation::assume_role::AssumeRoleError;
use aws_smithy_runtime_api::client::endpoint::EndpointResolverParams;

use self::accounts::{ASSUME_ROLE, Role};
use self::meter::Meter;
use super::SourceError;

pub use accounts::Accounts;
pub use budget::Budget;
pub(super) use budget::Urgency;
pub use clock::Clock;
pub(super) use ec2::Ec2;

mod accounts;
mod budget;
mod clock;
mod ec2;
mod meter;
pub mod probe;
#[cfg(test)]
pub(super) mod scripted;

/// Where AWS is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Aws {
    /// The Region; `None` asks the environment, the profile and the instance, as every AWS tool does.
    pub region: Option<String>,
    /// One URL for every service, for emulators; above those of the environment, which may be of single services.
    pub endpoint_url: Option<String>,
}

impl Aws {
    /// Loads the configuration that clients are made of, with the default chain of credentials.
    pub async fn load(&self) -> SdkConfig {
        let limits = Limits::default();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .timeout_config(limits.timeouts())
            .retry_config(limits.retries());
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(url) = &self.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        loader.load().await
    }
}

/// How long a call may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Until the connection stands.
    pub connect: Duration,
    /// One attempt, its whole answer included.
    pub attempt: Duration,
    /// All attempts.
    pub operation: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(3), attempt: seconds(10), operation: seconds(20) }
    }
}

impl Limits {
    pub(super) fn timeouts(self) -> TimeoutConfig {
        TimeoutConfig::builder()
            .connect_timeout(self.connect)
            .operation_attempt_timeout(self.attempt)
            .operation_timeout(self.operation)
            .build()
    }

    /// One retry: the reading as a whole is repeated with backoff, so more would multiply.
    pub(super) fn retries(self) -> RetryConfig {
        RetryConfig::standard().with_max_attempts(2)
    }
}

/// One account and Region: what clients are made of, and how often they may call together.
#[derive(Clone, Debug)]
pub struct Access {
    sdk: SdkConfig,
    budget: Arc<Budget>,
    clock: Arc<Clock>,
    home: Arc<str>,
    /// The role that calls, unless this process calls as itself.
    role: Option<Role>,
}

impl Access {
    /// Access with these settings, of which every client shares `budget`.
    pub fn new(sdk: SdkConfig, budget: Arc<Budget>) -> Self {
        let home = sdk.region().map_or("", AsRef::as_ref).into();
        Self { sdk, budget, clock: Arc::default(), home, role: None }
    }

    /// What tells this account and Region from others: `eu-west-1`, `123456789012/eu-west-1`.
    pub(super) fn home(&self) -> Arc<str> {
        Arc::clone(&self.home)
    }

    /// How often AWS may be asked.
    pub(super) fn budget(&self) -> Arc<Budget> {
        Arc::clone(&self.budget)
    }

    /// What time it is at AWS.
    pub(super) fn clock(&self) -> Arc<Clock> {
        Arc::clone(&self.clock)
    }

    fn meter(&self) -> Meter {
        Meter { budget: self.budget(), clock: Some(self.clock()) }
    }

    /// A client for ECS.
    pub(super) fn ecs(&self) -> aws_sdk_ecs::Client {
        let builder = aws_sdk_ecs::config::Builder::from(&self.sdk);
        aws_sdk_ecs::Client::from_conf(builder.interceptor(self.meter()).build())
    }

    /// A client for Cloud Map.
    pub(super) fn cloudmap(&self) -> aws_sdk_servicediscovery::Client {
        let builder = aws_sdk_servicediscovery::config::Builder::from(&self.sdk);
        let builder = builder.interceptor(NoDataPrefix).interceptor(self.meter());
        aws_sdk_servicediscovery::Client::from_conf(builder.build())
    }

    /// A client for the little that is asked of EC2.
    pub(super) fn ec2(&self) -> Ec2 {
        Ec2::new(&self.sdk, self.meter())
    }

    /// A client for SQS, which waits as long as SQS does when a queue is empty.
    pub(super) fn sqs(&self) -> aws_sdk_sqs::Client {
        let seconds = Duration::from_secs;
        let limits = Limits { attempt: seconds(30), operation: seconds(40), ..Limits::default() };
        let builder = aws_sdk_sqs::config::Builder::from(&self.sdk).timeout_config(limits.timeouts());
        // Nobody knows when an answer that waited for messages was dated.
        let meter = Meter { clock: None, ..self.meter() };
        aws_sdk_sqs::Client::from_conf(builder.interceptor(meter).build())
    }
}

/// Takes away the `data-` that the SDK puts before the host of discovery calls, where the host was overridden, be it in
/// the configuration or in the environment: no such name exists there.
#[derive(Debug)]
struct NoDataPrefix;

impl Intercept for NoDataPrefix {
    fn name(&self) -> &'static str {
        "NoDataPrefix"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let params = config.load::<EndpointResolverParams>().and_then(|params| params.get::<Params>());
        let is_overridden = params.is_some_and(|params| params.endpoint().is_some());
        let uri = context.request().uri().to_string();
        if let Some((scheme, rest)) = uri.split_once("://data-").filter(|_| is_overridden) {
            context.request_mut().set_uri(format!("{scheme}://{rest}"))?;
        }
        Ok(())
    }
}

/// What went wrong in `operation`, in words that can be counted and read.
pub(super) fn failed<E>(operation: &str, error: SdkError<E, HttpResponse>) -> SourceError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    match chain(&error).find_map(<dyn Error>::downcast_ref) {
        Some(refusal) => named::<AssumeRoleError>(ASSUME_ROLE, refusal), // so the call itself never went out
        None => named(operation, &error),
    }
}

fn named<E>(operation: &str, error: &SdkError<E, HttpResponse>) -> SourceError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let cause = innermost(error);
    let (code, message) = match error {
        SdkError::ServiceError(refusal) => {
            let status = refusal.raw().status().as_u16();
            let code = refusal.err().code().map_or_else(|| format!("http-{status}"), str::to_owned);
            let message = refusal.err().message().map_or_else(|| format!("HTTP {status}"), str::to_owned);
            return SourceError { operation: operation.into(), code, message: one_line(&message) };
        }
        SdkError::TimeoutError(_) => ("timeout", cause),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => ("timeout", cause),
        SdkError::DispatchFailure(failure) if failure.is_io() => ("connect", cause),
        SdkError::DispatchFailure(_) if chain(error).any(|e| e.to_string().contains("credential")) => {
            ("credentials", cause)
        }
        SdkError::ResponseError(answer) if answer.raw().status().is_success() => ("bad-response", cause),
        SdkError::ResponseError(answer) => {
            let code = format!("http-{}", answer.raw().status().as_u16());
            return SourceError { operation: operation.into(), code, message: one_line(&cause) };
        }
        _ => ("request", cause),
    };
    SourceError { operation: operation.into(), code: code.into(), message: one_line(&message) }
}

/// The ends of the codes by which AWS says that someone may not.
const DENIED: [&str; 5] =
    ["AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "NotAuthorized"];

/// Whether a code says that someone may not.
pub(super) fn is_denial(code: &str) -> bool {
    DENIED.iter().any(|end| code.ends_with(end))
}

/// Whether a code says that AWS is asked too often.
pub(super) fn is_too_often(code: &str) -> bool {
    ["http-429", "Throttling"].contains(&code) || meter::TOO_OFTEN.contains(&code)
}

/// An answer that arrived and can't be true.
pub(super) fn bad_response(operation: &str, message: impl fmt::Display) -> SourceError {
    let code = "bad-response".to_owned();
    SourceError { operation: operation.into(), code, message: one_line(&message.to_string()) }
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    chain(error).last().map(ToString::to_string).unwrap_or_default()
}

/// Messages go into logs and tables, and some answers are whole web pages.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 500;
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_control()).collect();
    let mut line = words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(LONGEST) {
        line.truncate(end);
        line.push('…');
    }
    line
}

/// The pages of one listing, of which none may come twice: a loop of tokens would never end.
#[derive(Debug)]
pub(super) struct Pages {
    operation: &'static str,
    seen: std::collections::HashSet<String>,
}

impl Pages {
    /// More pages than any account has: 100 entries each.
    const MOST: usize = 2_000;

    pub(super) fn of(operation: &'static str) -> Self {
        Self { operation, seen: std::collections::HashSet::new() }
    }

    /// The token to go on with, `None` at the end.
    pub(super) fn next(&mut self, token: Option<&str>) -> Result<Option<String>, SourceError> {
        let Some(token) = token.filter(|token| !token.is_empty()) else {
            return Ok(None);
        };
        if self.seen.len() >= Self::MOST {
            return Err(bad_response(self.operation, format!("more than {} pages", Self::MOST)));
        }
        if !self.seen.insert(token.to_owned()) {
            return Err(bad_response(self.operation, "the same nextToken came twice"));
        }
        Ok(Some(token.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_ecs::config::SharedCredentialsProvider;
    use aws_sdk_servicediscovery::types::HealthStatusFilter;
    use serde_json::json;

    use super::scripted::{Answer, Scripted, access, config};
    use super::*;

    async fn list_tasks(script: &Scripted) -> SourceError {
        let outcome = access(script.config()).ecs().list_tasks().cluster("prod-a").send().await;
        failed("ecs:ListTasks", outcome.expect_err("a refusal"))
    }

    #[tokio::test]
    async fn refusals_keep_their_code_and_message() {
        let script = Scripted::start(|_, _| {
            let kind = "com.amazonaws.ecs#AccessDeniedException";
            Answer::Json(400, json!({"__type": kind, "message": "User: x is not\nauthorized"}))
        });
        let error = list_tasks(&script).await;
        let shown = "ecs:ListTasks: AccessDeniedException: User: x is not authorized";
        assert_eq!(error.to_string(), shown);
    }

    #[tokio::test]
    async fn throttling_is_tried_twice_and_named() {
        let script = Scripted::start(|_, _| {
            Answer::Json(400, json!({"__type": "ThrottlingException", "message": "Rate exceeded"}))
        });
        assert_eq!(list_tasks(&script).await.code, "ThrottlingException");
        assert_eq!(script.calls().len(), 2);
    }

    #[tokio::test]
    async fn stalled_answers_end_as_timeouts() {
        for stall in [Answer::Silence, Answer::HalfBody] {
            let script = Scripted::start(move |_, _| stall.clone());
            let error = list_tasks(&script).await;
            assert_eq!(error.code, "timeout", "{error}");
        }
    }

    #[tokio::test]
    async fn answers_that_are_no_answers_are_bad_responses() {
        for (status, text) in [(200, "<html>login\nhere</html>"), (200, "{\"taskArns\": [\"a\"")] {
            let script = Scripted::start(move |_, _| Answer::Text(status, text));
            let error = list_tasks(&script).await;
            assert_eq!(error.code, "bad-response", "{error}");
            assert!(!error.message.contains('\n') && !error.message.is_empty());
        }
        let script = Scripted::start(|_, _| Answer::Text(503, "upstream is down"));
        assert_eq!(list_tasks(&script).await.code, "http-503");
    }

    #[tokio::test]
    async fn nobody_listening_is_a_connect_failure() {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", free.local_addr().expect("its address"));
        drop(free);
        let outcome = access(config(&url)).ecs().list_tasks().send().await;
        let error = failed("ecs:ListTasks", outcome.expect_err("nobody is there"));
        assert_eq!(error.code, "connect");
        assert!(error.message.contains("refused"), "{error}");
    }

    #[tokio::test]
    async fn missing_credentials_are_named() {
        let script = Scripted::start(|_, _| Answer::Json(200, json!({"taskArns": []})));
        let nobody = aws_config::profile::ProfileFileCredentialsProvider::builder().profile_name("nobody");
        let provider = SharedCredentialsProvider::new(nobody.build());
        let config = script.config().into_builder().credentials_provider(provider).build();
        let outcome = access(config).ecs().list_tasks().send().await;
        let error = failed("ecs:ListTasks", outcome.expect_err("no credentials"));
        assert_eq!(error.code, "credentials", "{error}");
        assert_eq!(script.calls(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn discovery_reaches_an_overridden_host() {
        let script = Scripted::start(|_, _| Answer::Json(200, json!({"Instances": []})));
        let client = access(script.config()).cloudmap();
        let call = client.discover_instances().namespace_name("prod").service_name("ledger");
        let answer = call.health_status(HealthStatusFilter::All).send().await.expect("an answer");
        assert!(answer.instances().is_empty());
        assert_eq!(script.calls(), ["DiscoverInstances"]);
    }

    #[test]
    fn pages_end_and_never_repeat() {
        let mut pages = Pages::of("ecs:ListTasks");
        assert_eq!(pages.next(Some("a")), Ok(Some("a".into())));
        assert_eq!(pages.next(Some("b")), Ok(Some("b".into())));
        assert_eq!(pages.next(Some("a")).expect_err("a loop").code, "bad-response");
        assert_eq!(pages.next(Some("")), Ok(None));
        assert_eq!(pages.next(None), Ok(None));
        let mut endless = Pages::of("ecs:ListTasks");
        let end = (0..10_000).find(|page| endless.next(Some(&page.to_string())).is_err());
        assert_eq!(end, Some(Pages::MOST));
    }

    #[test]
    fn messages_are_one_bounded_line() {
        assert_eq!(one_line(" a\n\tb\u{0}c  "), "a b c");
        assert_eq!(one_line(&"ä".repeat(600)).chars().count(), 501);
    }
}
