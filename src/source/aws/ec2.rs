//! The one operation of EC2 that Legation calls: where instances are.
//!
//! It is not the SDK's client of EC2, of whose hundreds of operations one is needed: no crate of the SDK is heavier to
//! build. It is made of the same parts: credentials, signature, retries, timeouts and connections are the SDK's; only
//! the request (EC2's query protocol) and the reading of the answer (XML) are written here.
//!
//! Invariant: as for every other call: it ends in time, in an answer that is whole or in a [`SourceError`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use aws_config::{BehaviorVersion, SdkConfig};
use aws_runtime::auth::sigv4::{SCHEME_ID, SigV4AuthScheme};
use aws_runtime::auth::{SigV4OperationSigningConfig, SigningOptions};
use aws_runtime::retries::classifiers::AwsErrorCodeClassifier;
use aws_sdk_ecs::config::endpoint::{DefaultResolver, Params, ResolveEndpoint};
use aws_sdk_ecs::config::http::{HttpRequest, HttpResponse};
use aws_sdk_ecs::config::{Layer, RuntimeComponentsBuilder};
use aws_sdk_ecs::error::{BoxError, ErrorMetadata, ProvideErrorMetadata, SdkError};
use aws_smithy_async::time::TimeSource;
use aws_smithy_query::QueryWriter;
use aws_smithy_runtime::client::orchestrator::operation::Operation;
use aws_smithy_runtime::client::retries::classifiers::{HttpStatusCodeClassifier, TransientErrorClassifier};
use aws_smithy_runtime_api::client::auth::static_resolver::StaticAuthSchemeOptionResolver;
use aws_smithy_runtime_api::client::auth::{AuthSchemeOptionResolverParams, SharedAuthSchemeOptionResolver};
use aws_smithy_runtime_api::client::orchestrator::OrchestratorError;
use aws_smithy_runtime_api::client::runtime_plugin::StaticRuntimePlugin;
use aws_types::service_config::ServiceConfigKey;

use super::budget::Urgency;
use super::clock::Clock;
use super::meter::Meter;
use super::{Limits, Pages, failed};
use crate::model::Subnet;
use crate::source::SourceError;

mod xml;

/// The operation as IAM names it.
const DESCRIBE_INSTANCES: &str = "ec2:DescribeInstances";
const VERSION: &str = "2016-11-15";

/// Access to EC2.
#[derive(Clone, Debug)]
pub(in crate::source) struct Ec2 {
    sdk: Arc<SdkConfig>,
    meter: Meter,
}

/// A refusal by EC2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(ErrorMetadata);

impl ProvideErrorMetadata for Refusal {
    fn meta(&self) -> &ErrorMetadata {
        &self.0
    }
}

/// AWS's time, by which requests are signed.
#[derive(Debug)]
struct There(Arc<Clock>);

impl TimeSource for There {
    fn now(&self) -> SystemTime {
        self.0.now()
    }
}

type Call = Operation<String, xml::Page, Refusal>;

impl Ec2 {
    pub(super) fn new(sdk: &SdkConfig, meter: Meter) -> Self {
        Self { sdk: Arc::new(sdk.clone()), meter }
    }

    /// The private addresses of these instances, at most two hundred, with their subnets. Those that EC2 doesn't know, and those without an
    /// address, are left out: asked for by a filter they are merely not found, while a list of ids is refused for one.
    pub(in crate::source) async fn addresses(
        &self,
        ids: &[&str],
    ) -> Result<BTreeMap<String, (IpAddr, Option<Subnet>)>, SourceError> {
        let call = self.call().await.map_err(|error| unready(&error))?;
        let (mut found, mut token, mut pages) = (BTreeMap::new(), None, Pages::of(DESCRIBE_INSTANCES));
        loop {
            self.meter.budget.admit(DESCRIBE_INSTANCES, Urgency::CanWait).await;
            let answer = call.invoke(request(ids, token.as_deref())).await;
            let page =
                answer.map_err(|error: SdkError<_, HttpResponse>| failed(DESCRIBE_INSTANCES, error))?;
            let located = |it: xml::Instance| (it.id, (it.address, it.subnet));
            found.extend(page.instances.into_iter().map(located));
            token = pages.next(page.next_token.as_deref())?;
            if token.is_none() {
                return Ok(found);
            }
        }
    }

    /// The operation, made anew for each use: it is called once for each instance that ever comes.
    async fn call(&self) -> Result<Call, BoxError> {
        let limits = Limits::default();
        let timeouts = self.sdk.timeout_config().cloned().unwrap_or_else(|| limits.timeouts());
        let retries = self.sdk.retry_config().cloned().unwrap_or_else(|| limits.retries());
        let mut builder = Operation::builder()
            .service_name("EC2")
            .operation_name("DescribeInstances")
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&self.endpoint().await?)
            .timeout_config(timeouts)
            .standard_retry(&retries)
            .retry_classifier(TransientErrorClassifier::<Refusal>::new())
            .retry_classifier(HttpStatusCodeClassifier::default())
            .retry_classifier(AwsErrorCodeClassifier::<Refusal>::new())
            .interceptor(self.meter.clone())
            .with_connection_poisoning()
            .runtime_plugin(self.signature());
        if let Some(clock) = &self.meter.clock {
            builder = builder.time_source(There(Arc::clone(clock)));
        }
        if let Some(client) = self.sdk.http_client() {
            builder = builder.http_client(client);
        }
        if let Some(sleep) = self.sdk.sleep_impl() {
            builder = builder.sleep_impl(sleep);
        }
        Ok(builder.serializer(sent).deserializer(received).build())
    }

    /// How requests are signed: as for any other service of AWS.
    fn signature(&self) -> StaticRuntimePlugin {
        let mut config = Layer::new("signature");
        config.store_put(AuthSchemeOptionResolverParams::new(()));
        config.store_put(SigV4OperationSigningConfig {
            region: self.sdk.region().cloned().map(Into::into),
            name: Some("ec2".into()),
            signing_options: SigningOptions::default(),
            ..SigV4OperationSigningConfig::default()
        });
        let mut parts = RuntimeComponentsBuilder::new("signature");
        let schemes = StaticAuthSchemeOptionResolver::new(vec![SCHEME_ID]);
        parts.set_auth_scheme_option_resolver(Some(SharedAuthSchemeOptionResolver::new(schemes)));
        parts.push_auth_scheme(SigV4AuthScheme::new());
        parts.set_identity_cache(self.sdk.identity_cache());
        if let Some(credentials) = self.sdk.credentials_provider() {
            parts.set_identity_resolver(SCHEME_ID, credentials);
        }
        StaticRuntimePlugin::new().with_config(config.freeze()).with_runtime_components(parts)
    }

    /// What the environment or the profile says of EC2 alone, unless the configuration says where everything is.
    fn endpoint_of_its_own(&self) -> Option<String> {
        let key =
            ServiceConfigKey::builder().service_id("EC2").env("AWS_ENDPOINT_URL").profile("endpoint_url");
        let service_config = self.sdk.service_config()?;
        let is_said = self.sdk.get_origin("endpoint_url").is_client_config();
        service_config.load_config(key.build().ok()?).filter(|_| !is_said)
    }

    /// Where EC2 is: where everything is, if that was said, else next to ECS, which the SDK finds in each partition.
    async fn endpoint(&self) -> Result<String, BoxError> {
        if let Some(url) = self.endpoint_of_its_own().or_else(|| self.sdk.endpoint_url().map(str::to_owned)) {
            return Ok(url);
        }
        let region = self.sdk.region().ok_or("no Region is configured")?;
        let params = Params::builder()
            .region(region.to_string())
            .use_fips(self.sdk.use_fips().unwrap_or_default())
            .use_dual_stack(self.sdk.use_dual_stack().unwrap_or_default())
            .build()?;
        let resolver = DefaultResolver::new();
        let endpoint = ResolveEndpoint::resolve_endpoint(&resolver, &params).await?;
        Ok(endpoint.url().replacen("://ecs", "://ec2", 1))
    }
}

fn unready(error: &BoxError) -> SourceError {
    let code = "request".to_owned();
    SourceError { operation: DESCRIBE_INSTANCES.into(), code, message: super::one_line(&error.to_string()) }
}

fn request(ids: &[&str], token: Option<&str>) -> String {
    let mut text = String::new();
    let mut writer = QueryWriter::new(&mut text, "DescribeInstances", VERSION);
    writer.prefix("Filter.1.Name").string("instance-id");
    let mut values = writer.prefix("Filter.1.Value").start_list(true, None);
    for id in ids {
        values.entry().string(id);
    }
    values.finish();
    if let Some(token) = token {
        writer.prefix("NextToken").string(token);
    }
    writer.finish();
    text
}

fn sent(body: String) -> Result<HttpRequest, BoxError> {
    let length = body.len().to_string();
    let mut request = HttpRequest::new(body.into());
    request.set_method("POST")?;
    let headers = request.headers_mut();
    headers.try_insert("content-type", "application/x-www-form-urlencoded")?;
    headers.try_insert("content-length", length)?;
    Ok(request)
}

fn received(response: &HttpResponse) -> Result<xml::Page, OrchestratorError<Refusal>> {
    let body = response.body().bytes().unwrap_or_default();
    if response.status().is_success() {
        return xml::page(body).map_err(|error| OrchestratorError::response(error.into()));
    }
    let mut refusal = ErrorMetadata::builder();
    if let Some((code, message)) = xml::refusal(body) {
        refusal = refusal.code(code).message(message);
    }
    Err(OrchestratorError::operation(Refusal(refusal.build())))
}

#[cfg(test)]
mod tests;
