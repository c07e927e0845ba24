//! Rules as Envoy's routes: what each is about, and what is done with it.
//!
//! It orders nothing and knows no names of configurations: those are `route`'s.
//!
//! Invariant: follows from the service's description and from which backends there are.

use envoy_types::pb::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, RuntimeFractionalPercent, header_value_option::HeaderAppendAction,
};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, QueryParameterMatcher, RedirectAction, RetryPolicy, Route,
    RouteAction, RouteMatch, WeightedCluster,
    header_matcher::HeaderMatchSpecifier,
    query_parameter_matcher::QueryParameterMatchSpecifier,
    redirect_action,
    retry_policy::{RetryBackOff, RetryHostPredicate, retry_host_predicate},
    route, route_action, route_match,
    weighted_cluster::ClusterWeight,
};
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    RegexMatcher, StringMatcher, string_matcher::MatchPattern,
};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use super::{cluster, limit, number, profile, proto};
use crate::model::{
    Action, Backend, Balancing, Fault, HeaderChanges, Knobs, Match, PathMatch, Redirect, Rule, ServiceKey,
    ServiceName, ServiceSpec, ValueMatch,
};

/// The filter that makes faults, by its name.
pub(super) const FAULT_FILTER: &str = "envoy.filters.http.fault";
/// The filter that makes faults, by its type.
pub(super) const FAULT_TYPE: &str = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";

/// Whether a service of the namespace is there.
pub(super) type IsThere<'a> = &'a dyn Fn(&ServiceName) -> bool;

/// The routes of a service, at last one for everything that no rule is about. `with_filters` where the client has
/// Envoy's filters.
pub(super) fn routes(spec: &ServiceSpec, is_there: IsThere<'_>, with_filters: bool) -> Vec<Route> {
    let of_rules = spec.rules.iter().flat_map(|rule| {
        let knobs = rule.knobs.clone().over(&spec.knobs);
        let route = of_rule(spec, rule, &knobs, is_there, with_filters);
        with_careful(route, rule.matches.method.as_deref(), &knobs)
    });
    let everything = Route {
        r#match: Some(everything()),
        action: Some(route::Action::Route(RouteAction {
            cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(spec.key.to_string())),
            ..common(&spec.knobs)
        })),
        ..Default::default()
    };
    of_rules.chain(with_careful(everything, None, &spec.knobs)).collect()
}

/// The route and, where POST and PATCH are retried only when nothing was sent, one for these before it.
fn with_careful(route: Route, method: Option<&str>, knobs: &Knobs) -> Vec<Route> {
    let retries =
        matches!(&route.action, Some(route::Action::Route(action)) if action.retry_policy.is_some());
    if knobs.retry_idempotent_only != Some(true) || !retries {
        return vec![route];
    }
    match method {
        Some("POST" | "PATCH") => vec![careful(route)],
        Some(_) => vec![route],
        None => {
            let mut before = careful(route.clone());
            if let Some(matches) = &mut before.r#match {
                matches.headers.push(header(METHOD, "POST|PATCH", true));
            }
            vec![before, route]
        }
    }
}

/// The same, retried only when nothing was sent.
fn careful(mut route: Route) -> Route {
    const UNSENT: [&str; 2] = ["connect-failure", "refused-stream"];
    if let Some(route::Action::Route(RouteAction { retry_policy: Some(policy), .. })) = &mut route.action {
        let kept: Vec<_> = policy.retry_on.split(',').filter(|word| UNSENT.contains(word)).collect();
        policy.retry_on = kept.join(",");
        policy.retriable_status_codes.clear();
    }
    route
}

const METHOD: &str = ":method";

fn of_rule(
    spec: &ServiceSpec,
    rule: &Rule,
    knobs: &Knobs,
    is_there: IsThere<'_>,
    with_filters: bool,
) -> Route {
    let mut route = Route {
        name: rule.name.to_string(),
        r#match: Some(route_match(&rule.matches)),
        action: Some(match &rule.action {
            Action::Redirect(to) => route::Action::Redirect(redirect(to)),
            Action::Forward(backends) => forward(spec, rule, backends, knobs, is_there),
        }),
        ..Default::default()
    };
    change_headers(&mut route, &rule.request_headers, &rule.response_headers);
    if with_filters && rule.fault != Fault::default() {
        let fault = Any { type_url: FAULT_TYPE.to_owned(), value: fault(&rule.fault).encode_to_vec() };
        route.typed_per_filter_config.insert(FAULT_FILTER.to_owned(), fault);
    }
    // The service's own limit is its virtual host's.
    if let Some(limit) = rule.knobs.outbound_limit.as_ref().filter(|_| with_filters) {
        route.typed_per_filter_config.insert(limit::FILTER.to_owned(), limit::of_requests(limit));
    }
    route
}

/// What is about every request.
pub(super) fn everything() -> RouteMatch {
    route_match(&Match::default())
}

/// The cluster of a backend.
pub(super) fn cluster_of(spec: &ServiceSpec, backend: &Backend) -> String {
    let key = ServiceKey { namespace: spec.key.namespace.clone(), name: backend.service.clone() };
    cluster::version_name(&key, backend.version.as_deref()).to_string()
}

/// Those that are there get the requests of the others too; where none is, nobody does.
fn forward(
    spec: &ServiceSpec,
    rule: &Rule,
    backends: &[Backend],
    knobs: &Knobs,
    is_there: IsThere<'_>,
) -> route::Action {
    let there: Vec<_> =
        backends.iter().filter(|backend| backend.weight > 0 && is_there(&backend.service)).collect();
    let specifier = match there.as_slice() {
        [] => {
            return route::Action::DirectResponse(DirectResponseAction { status: 503, ..Default::default() });
        }
        [only] => route_action::ClusterSpecifier::Cluster(cluster_of(spec, only)),
        several => {
            let weight = |backend: &&Backend| ClusterWeight {
                name: cluster_of(spec, backend),
                weight: Some(number(backend.weight)),
                ..Default::default()
            };
            let clusters = several.iter().map(weight).collect();
            route_action::ClusterSpecifier::WeightedClusters(WeightedCluster {
                clusters,
                ..Default::default()
            })
        }
    };
    let mirror = rule.mirror.iter().filter(|mirror| is_there(&mirror.backend.service));
    let mirror = mirror.map(|mirror| route_action::RequestMirrorPolicy {
        cluster: cluster_of(spec, &mirror.backend),
        runtime_fraction: Some(fraction(mirror.percent)),
        ..Default::default()
    });
    route::Action::Route(RouteAction {
        cluster_specifier: Some(specifier),
        request_mirror_policies: mirror.collect(),
        ..common(knobs)
    })
}

/// Timeouts, retries and what is hashed.
fn common(knobs: &Knobs) -> RouteAction {
    let hash = match &knobs.balancing {
        Some(Balancing::RingHash(header) | Balancing::Maglev(header)) => Some(header),
        _ => None,
    };
    let policy = |name: &std::sync::Arc<str>| route_action::HashPolicy {
        policy_specifier: Some(route_action::hash_policy::PolicySpecifier::Header(
            route_action::hash_policy::Header { header_name: name.to_string(), ..Default::default() },
        )),
        ..Default::default()
    };
    RouteAction {
        // Zero must be said: Envoy takes silence for 15 s.
        timeout: Some(proto(knobs.request_timeout.unwrap_or(profile::REQUEST_TIMEOUT))),
        retry_policy: retry_policy(knobs),
        hash_policy: hash.map(policy).into_iter().collect(),
        ..Default::default()
    }
}

fn retry_policy(knobs: &Knobs) -> Option<RetryPolicy> {
    let attempts = knobs.retry_attempts.unwrap_or(profile::RETRY_ATTEMPTS);
    let per_try = knobs.backend_request_timeout.filter(|timeout| !timeout.is_zero());
    if attempts == 0 && per_try.is_none() {
        return None;
    }
    let previous_hosts = Any {
        type_url: "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
            .to_owned(),
        value: PreviousHostsPredicate {}.encode_to_vec(),
    };
    let other_host = knobs.retry_other_host.unwrap_or(true).then(|| RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(previous_hosts)),
    });
    let codes = knobs.retry_codes.as_deref().unwrap_or(&profile::RETRY_CODES);
    let mut triggers: Vec<&str> = match &knobs.retry_triggers {
        Some(triggers) => triggers.iter().map(AsRef::as_ref).collect(),
        None => profile::RETRY_TRIGGERS.to_vec(),
    };
    triggers.extend((!codes.is_empty()).then_some("retriable-status-codes"));
    let backoff = knobs.retry_backoff.unwrap_or(profile::RETRY_BACKOFF);
    Some(RetryPolicy {
        retry_on: triggers.join(","),
        num_retries: Some(number(attempts)),
        per_try_timeout: per_try.map(proto),
        retriable_status_codes: codes.to_vec(),
        host_selection_retry_max_attempts: other_host.iter().map(|_| profile::RETRY_HOST_ATTEMPTS).sum(),
        retry_host_predicate: other_host.into_iter().collect(),
        retry_back_off: Some(RetryBackOff {
            base_interval: Some(proto(backoff)),
            max_interval: Some(proto(backoff.saturating_mul(profile::RETRY_BACKOFF_GROWTH))),
        }),
        ..Default::default()
    })
}

fn route_match(matches: &Match) -> RouteMatch {
    use route_match::PathSpecifier;
    let path = match &matches.path {
        PathMatch::Exact(path) => PathSpecifier::Path(path.to_string()),
        PathMatch::Regex(regex) => PathSpecifier::SafeRegex(expression(regex)),
        PathMatch::Prefix(prefix) => match prefix.trim_end_matches('/') {
            "" => PathSpecifier::Prefix("/".to_owned()),
            prefix => PathSpecifier::PathSeparatedPrefix(prefix.to_owned()),
        },
    };
    let method = matches.method.iter().map(|method| header(METHOD, method, false));
    let headers = matches.headers.iter().map(|it| header(&it.name, &it.value, it.is_regex));
    let parameter = |it: &ValueMatch| QueryParameterMatcher {
        name: it.name.to_string(),
        query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(text(
            &it.value,
            it.is_regex,
        ))),
    };
    RouteMatch {
        path_specifier: Some(path),
        headers: method.chain(headers).collect(),
        query_parameters: matches.query.iter().map(parameter).collect(),
        ..Default::default()
    }
}

fn header(name: &str, value: &str, is_regex: bool) -> HeaderMatcher {
    let specifier = HeaderMatchSpecifier::StringMatch(text(value, is_regex));
    HeaderMatcher { name: name.to_owned(), header_match_specifier: Some(specifier), ..Default::default() }
}

fn text(value: &str, is_regex: bool) -> StringMatcher {
    let pattern = if is_regex {
        MatchPattern::SafeRegex(expression(value))
    } else {
        MatchPattern::Exact(value.to_owned())
    };
    StringMatcher { match_pattern: Some(pattern), ..Default::default() }
}

fn expression(regex: &str) -> RegexMatcher {
    RegexMatcher { regex: regex.to_owned(), ..Default::default() }
}

fn redirect(to: &Redirect) -> RedirectAction {
    use redirect_action::RedirectResponseCode as Code;
    let code = match to.status {
        301 => Code::MovedPermanently,
        303 => Code::SeeOther,
        307 => Code::TemporaryRedirect,
        308 => Code::PermanentRedirect,
        _ => Code::Found,
    };
    let path = to.path.as_deref().map(ToOwned::to_owned);
    RedirectAction {
        host_redirect: to.host.as_deref().unwrap_or_default().to_owned(),
        response_code: code.into(),
        path_rewrite_specifier: path.map(redirect_action::PathRewriteSpecifier::PathRedirect),
        ..Default::default()
    }
}

fn change_headers(route: &mut Route, request: &HeaderChanges, response: &HeaderChanges) {
    let removed = |changes: &HeaderChanges| changes.remove.iter().map(ToString::to_string).collect();
    route.request_headers_to_add = added(request);
    route.request_headers_to_remove = removed(request);
    route.response_headers_to_add = added(response);
    route.response_headers_to_remove = removed(response);
}

fn added(changes: &HeaderChanges) -> Vec<HeaderValueOption> {
    let option = |(name, value): &(std::sync::Arc<str>, std::sync::Arc<str>), action: HeaderAppendAction| {
        let header = HeaderValue { key: name.to_string(), value: literal(value), ..Default::default() };
        HeaderValueOption { header: Some(header), append_action: action.into(), ..Default::default() }
    };
    let set = changes.set.iter().map(|pair| option(pair, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = changes.add.iter().map(|pair| option(pair, HeaderAppendAction::AppendIfExistsOrAdd));
    set.chain(add).collect()
}

/// Text in which Envoy finds nothing to replace.
fn literal(text: &str) -> String {
    text.replace('%', "%%")
}

fn fault(fault: &Fault) -> HttpFault {
    let delay = fault.delay.map(|(pause, share)| FaultDelay {
        percentage: Some(percent(share)),
        fault_delay_secifier: Some(fault_delay::FaultDelaySecifier::FixedDelay(proto(pause))),
    });
    let abort = fault.abort.map(|(status, share)| FaultAbort {
        percentage: Some(percent(share)),
        error_type: Some(fault_abort::ErrorType::HttpStatus(status.into())),
        ..Default::default()
    });
    HttpFault { delay, abort, ..Default::default() }
}

fn percent(percent: u32) -> FractionalPercent {
    FractionalPercent { numerator: percent, denominator: DenominatorType::Hundred.into() }
}

fn fraction(share: u32) -> RuntimeFractionalPercent {
    RuntimeFractionalPercent { default_value: Some(percent(share)), runtime_key: String::new() }
}
