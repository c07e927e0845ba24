//! What a policy file may say: its table of keys, in Gateway API's words where it has some.
//!
//! It checks nothing by itself and knows no default but for people: numbers that hold are `translate`'s.
//!
//! Invariant: each key has an effect, which a test with real traffic shows.

use std::time::Duration;

use super::scopes::{is_pattern, is_service};
use crate::diagnostic::check::NameRule;
use crate::diagnostic::shape::{Key, Shape};
use crate::model::Which;

mod transport;
use super::reach::read_place;
use transport::{BUDGET, HEALTH_CHECK, POOL, PROTOCOL_OPTIONS, ZONE_AWARE};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const MOST: u32 = 2_147_483_647;

pub(super) const SERVICE: NameRule = NameRule { what: "a service", longest: 64, dots: false };
pub(super) const NAMESPACE: NameRule = NameRule { what: "a namespace", longest: 64, dots: true };
const ALIAS: NameRule = NameRule { what: "an alias", longest: 127, dots: true };
const ROUTE: NameRule = NameRule { what: "a route", longest: 64, dots: false };

pub(super) const API_VERSION: &str = "legation/v1alpha1";
/// Envoy's words for what is retried, and App Mesh's.
pub(super) const TRIGGERS: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "refused-stream",
    "retriable-4xx",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
    "server-error",
    "client-error",
    "stream-error",
    "connection-error",
];

static SWITCH: Shape = Shape::Switch;
static PERCENT: Shape = Shape::Number(0, 100);
static PORT: Shape = Shape::Number(1, 65535);
static LIMIT: Shape = Shape::Number(1, MOST);
static UP_TO_DAY: Shape = Shape::Duration(Duration::ZERO, DAY);
static UP_TO_HOUR: Shape = Shape::Duration(SECOND, HOUR);
static TEXT: Shape = Shape::Text(1024);
static SERVICE_NAME: Shape = Shape::Name(SERVICE);
static NAMESPACE_NAME: Shape = Shape::Name(NAMESPACE);
static VERSION: Shape = Shape::Text(64);
static DEPLOYMENT: Shape = Shape::Word(&Which::WORDS);
static LABEL: Shape = Shape::Text(1024);
static LABELS: Shape = Shape::Pairs(255, &LABEL);

static CONNECT: Shape = Shape::Duration(Duration::from_millis(10), MINUTE);
static TIMEOUTS: Shape = Shape::Map(&[
    Key::new("request", &UP_TO_DAY, "The whole request, retries included; 0s is none. Not for TCP.")
        .or("15s"),
    Key::new("backendRequest", &UP_TO_DAY, "One attempt; 0s is none. Not for TCP.").or("0s"),
    Key::new("idle", &UP_TO_DAY, "A silent connection; 0s is none. For TCP 3600s.").or("300s"),
    Key::new("streamIdle", &UP_TO_DAY, "A silent stream; 0s is none. Not for TCP.").or("300s"),
    Key::new("connect", &CONNECT, "Opening a connection.").or("1s"),
]);

static ATTEMPTS: Shape = Shape::Number(0, 10);
static TRIGGER: Shape = Shape::Word(&TRIGGERS);
static TRIGGER_LIST: Shape = Shape::List(&TRIGGER);
static CODE: Shape = Shape::Number(400, 599);
static CODES: Shape = Shape::List(&CODE);
static BACKOFF: Shape = Shape::Duration(MILLISECOND, MINUTE);
static RETRY: Shape = Shape::Map(&RETRY_KEYS);
const RETRY_KEYS: [Key; 6] = [
    Key::new("attempts", &ATTEMPTS, "Retries after the first try; 0 is none. For TCP, connects.").or("2"),
    Key::new("triggers", &TRIGGER_LIST, "What is retried, in Envoy's words or App Mesh's.")
        .or(r#"["connect-failure", "refused-stream", "unavailable"]"#),
    Key::new("codes", &CODES, "Answers that are retried.").or("[503]"),
    Key::new("backoff", &BACKOFF, "The first pause between tries; it grows to ten times this.").or("25ms"),
    Key::new("otherHost", &SWITCH, "Whether a retry goes to another endpoint where there is one.").or("true"),
    Key::new("idempotentOnly", &SWITCH, "Whether POST and PATCH are retried only when nothing was sent.")
        .or("false"),
];
static SERVICE_RETRY: Shape = Shape::Map(&with_budget());
const fn with_budget() -> [Key; 7] {
    let [attempts, triggers, codes, backoff, host, idempotent] = RETRY_KEYS;
    let budget = Key::new(
        "budget",
        &BUDGET,
        "How many retries of one sidecar may be under way, in place of the breaker's number.",
    );
    [attempts, triggers, codes, backoff, host, idempotent, budget]
}

static ERRORS: Shape = Shape::Number(0, 1000);
static OUTLIERS: Shape = Shape::Map(&[
    Key::new("consecutive5xx", &ERRORS, "Errors in a row that eject an endpoint; 0 is never.").or("5"),
    Key::new("interval", &UP_TO_HOUR, "How often ejections are looked at.").or("30s"),
    Key::new("baseEjectionTime", &UP_TO_HOUR, "The first ejection; it grows with each one.").or("30s"),
    Key::new("maxEjectionTime", &UP_TO_HOUR, "The longest ejection.").or("300s"),
    Key::new("maxEjectionPercent", &PERCENT, "The share of a service that may be ejected at once.").or("50"),
]);

static BALANCER: Shape = Shape::Word(&["RoundRobin", "LeastRequest", "Random", "ConsistentHash"]);
static HASH_TABLE: Shape = Shape::Word(&["RingHash", "Maglev"]);
static CONSISTENT_HASH: Shape = Shape::Map(&[
    Key::new("header", &HEADER_NAME, "Requests with the same value of this header go to the same endpoint.")
        .required(),
    Key::new("algorithm", &HASH_TABLE, "How an endpoint follows from the value.").or("RingHash"),
]);
static SLOW_START: Shape = Shape::Duration(Duration::ZERO, Duration::from_secs(900));
static LOAD_BALANCING: Shape = Shape::Map(&[
    Key::new("type", &BALANCER, "Which endpoint is next.").or("RoundRobin"),
    Key::new("consistentHash", &CONSISTENT_HASH, "For the type ConsistentHash."),
    Key::new("slowStart", &SLOW_START, "How long a new endpoint gets less; 0s is not at all.").or("0s"),
    Key::new(
        "panicThresholdPercent",
        &PERCENT,
        "Below this share of healthy endpoints all are used; 0 is never.",
    )
    .or("50"),
    Key::new("zoneAware", &ZONE_AWARE, "Whether endpoints of the caller's own zone come first."),
]);
static BREAKER: Shape = Shape::Map(&[
    Key::new("maxConnections", &LIMIT, "Connections of one sidecar.").or("2147483647"),
    Key::new("maxPendingRequests", &LIMIT, "Requests of one sidecar that wait for a connection.")
        .or("2147483647"),
    Key::new("maxParallelRequests", &LIMIT, "Requests of one sidecar under way.").or("2147483647"),
    Key::new("maxParallelRetries", &LIMIT, "Retries of one sidecar under way.").or("2147483647"),
]);

static ACCESS_LOG: Shape = Shape::Map(&[
    Key::new("enabled", &SWITCH, "Whether each request is logged to the sidecar's standard output, as JSON.")
        .or("true"),
    Key::new("includeQueryParameters", &SWITCH, "Whether the log has the query of a path.").or("false"),
    Key::new("samplePercent", &PERCENT, "Which share of requests is logged.").or("100"),
]);

static GATE: Shape = Shape::Word(&["healthy", "running"]);
static EXPIRY: Shape = Shape::Word(&["serve", "hold"]);
static LONGEST_WAIT: Shape = Shape::Duration(Duration::ZERO, Duration::from_secs(480));
static READINESS: Shape = Shape::Map(&[
    Key::new("gate", &GATE, "Whether a task is ready once its health check passes, or as soon as it runs.")
        .or("healthy"),
    Key::new("maxWait", &LONGEST_WAIT, "How long its check is waited for at most, from its start.")
        .or("480s"),
    Key::new(
        "onExpiry",
        &EXPIRY,
        "Whether one whose check has said nothing by then is served, or held back.",
    )
    .or("serve"),
]);

static DRAIN_STYLE: Shape = Shape::Word(&["remove", "draining"]);
static DRAIN: Shape = Shape::Map(&[Key::new(
    "style",
    &DRAIN_STYLE,
    "remove: one that is told to stop is gone for clients at once; draining: it stays known until it has stopped, for \
     who is bound to it, and gets no new requests.",
)
.or("remove")]);

static PROTOCOL: Shape = Shape::Word(&["tcp", "http", "http2", "grpc"]);
static ALIAS_NAME: Shape = Shape::Name(ALIAS);
static ONE_ALIAS: Shape = Shape::Map(&[
    Key::new("name", &ALIAS_NAME, "What clients dial.").required(),
    Key::new("port", &PORT, "On which port.").required(),
    Key::new("localhostPort", &PORT, "On this port of 127.0.0.1 too, in every client."),
    Key::new(
        "address",
        &LOOPBACK,
        "At which loopback address, in place of the one that follows from the name.",
    ),
]);
static LOOPBACK: Shape = Shape::Kind("a loopback address that is free", "127.200.0.1", is_free_loopback);
static ALIASES: Shape = Shape::List(&ONE_ALIAS);

const TREATMENT: [Key; 11] = [
    Key::new("timeouts", &TIMEOUTS, "How long clients wait."),
    Key::new("retry", &SERVICE_RETRY, "What clients try again."),
    Key::new("outlierDetection", &OUTLIERS, "When clients leave an endpoint out."),
    Key::new(
        "healthCheck",
        &HEALTH_CHECK,
        "What clients' sidecars ask endpoints by themselves; without, nothing.",
    ),
    Key::new("loadBalancing", &LOAD_BALANCING, "Which endpoint is next."),
    Key::new("circuitBreaker", &BREAKER, "How much clients ask for at a time."),
    Key::new("connectionPool", &POOL, "How long connections to endpoints last."),
    Key::new("protocolOptions", &PROTOCOL_OPTIONS, "What is particular in the protocol."),
    Key::new("readiness", &READINESS, "When a task counts as ready."),
    Key::new("drain", &DRAIN, "What becomes of a task that is told to stop."),
    Key::new("accessLog", &ACCESS_LOG, "What clients' sidecars log."),
];

static INBOUND_MODE: Shape = Shape::Word(&["direct", "sidecar"]);
static INBOUND_PORT: Shape = Shape::Number(1024, 65535);
static INBOUND: Shape = Shape::Map(&[
    Key::new("mode", &INBOUND_MODE, "sidecar: its own sidecars take its requests in.").or("direct"),
    Key::new("port", &INBOUND_PORT, "On which port they do; of a task with several services, one for each.")
        .or("15006"),
]);

static USED: Shape = Shape::Kind("a service, alone or behind its namespace", "shared/audit", is_service);
static USES: Shape = Shape::List(&USED);
static PATTERN: Shape = Shape::Kind("a name, in which `*` stands for any text", "batch-*", is_pattern);
static EXPORTS: Shape = Shape::List(&PATTERN);
static IMPORTED: Shape = Shape::List(&NAMESPACE_NAME);
static IMPORT: Shape = Shape::Map(&[
    Key::new("client", &PATTERN, "Which clients, by the name of their service; `*` is everybody.").required(),
    Key::new("namespace", &NAMESPACE_NAME, "Their namespace, where there are several."),
    Key::new("from", &IMPORTED, "The namespaces that they see beside their own.").required(),
]);
static IMPORTS: Shape = Shape::List(&IMPORT);

const fn service_keys() -> [Key; 16] {
    let [timeouts, retry, outliers, check, balancing, breaker, pool, options, readiness, drain, log] =
        TREATMENT;
    [
        Key::new("namespace", &NAMESPACE_NAME, "Its namespace, where there are several."),
        Key::new("aliases", &ALIASES, "What clients dial."),
        Key::new("appProtocol", &PROTOCOL, "What is spoken on its port.").or("tcp"),
        Key::new("inbound", &INBOUND, "Who takes its requests in."),
        timeouts,
        retry,
        outliers,
        check,
        balancing,
        breaker,
        pool,
        options,
        readiness,
        drain,
        log,
        Key::new("uses", &USES, "All that it calls itself; without it, the whole namespace and all imports."),
    ]
}
pub(super) static SERVICE_KEYS: [Key; 16] = service_keys();
static SERVICE_SHAPE: Shape = Shape::Map(&SERVICE_KEYS);
static SERVICES: Shape = Shape::Names(SERVICE, &SERVICE_SHAPE);

pub(super) static DEFAULT_KEYS: [Key; 11] = TREATMENT;
static DEFAULTS: Shape = Shape::Map(&DEFAULT_KEYS);
static PROFILE: Shape = Shape::Word(&["service-connect", "envoy"]);
static NAMESPACE_SHAPE: Shape = Shape::Map(&[
    Key::new("profile", &PROFILE, "Whose numbers hold where nobody says any.").or("service-connect"),
    Key::new("defaults", &DEFAULTS, "How clients treat every service of the namespace."),
    Key::new("exports", &EXPORTS, "Which services others may import; without it, every one."),
]);
static NAMESPACES: Shape = Shape::Names(NAMESPACE, &NAMESPACE_SHAPE);

static PATH_TYPE: Shape = Shape::Word(&["Exact", "PathPrefix", "RegularExpression"]);
static PATH_MATCH: Shape = Shape::Map(&[
    Key::new("type", &PATH_TYPE, "How the value is meant.").or("PathPrefix"),
    Key::new("value", &TEXT, "The path.").required(),
]);
static VALUE_TYPE: Shape = Shape::Word(&["Exact", "RegularExpression"]);
static HEADER_NAME: Shape = Shape::Kind("the name of a header", "x-canary", is_token);
static HEADER_MATCH: Shape = Shape::Map(&[
    Key::new("type", &VALUE_TYPE, "How the value is meant.").or("Exact"),
    Key::new("name", &HEADER_NAME, "The header.").required(),
    Key::new("value", &TEXT, "Its value.").required(),
]);
static QUERY_MATCH: Shape = Shape::Map(&[
    Key::new("type", &VALUE_TYPE, "How the value is meant.").or("Exact"),
    Key::new("name", &TEXT, "The parameter.").required(),
    Key::new("value", &TEXT, "Its value.").required(),
]);
static HEADER_MATCHES: Shape = Shape::List(&HEADER_MATCH);
static QUERY_MATCHES: Shape = Shape::List(&QUERY_MATCH);
static METHOD: Shape =
    Shape::Word(&["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"]);
static MATCH: Shape = Shape::Map(&[
    Key::new("path", &PATH_MATCH, "The path."),
    Key::new("method", &METHOD, "The method."),
    Key::new("headers", &HEADER_MATCHES, "Headers, all of them."),
    Key::new("queryParams", &QUERY_MATCHES, "Parameters of the query, all of them."),
]);
static MATCHES: Shape = Shape::List(&MATCH);

static HEADER_VALUE: Shape = Shape::Map(&[
    Key::new("name", &HEADER_NAME, "The header.").required(),
    Key::new("value", &TEXT, "Its value.").required(),
]);
static HEADER_VALUES: Shape = Shape::List(&HEADER_VALUE);
static HEADER_NAMES: Shape = Shape::List(&HEADER_NAME);
static MODIFIER: Shape = Shape::Map(&[
    Key::new("set", &HEADER_VALUES, "In place of what is there."),
    Key::new("add", &HEADER_VALUES, "Beside what is there."),
    Key::new("remove", &HEADER_NAMES, "Taken away."),
]);
static WEIGHT: Shape = Shape::Number(0, 1_000_000);
static BACKEND: Shape = Shape::Map(&[
    Key::new("service", &SERVICE_NAME, "A service of the same namespace.").required(),
    Key::new(
        "version",
        &VERSION,
        "One version of it: the tag legation:version, or the revision of its task definition.",
    ),
    Key::new("deployment", &DEPLOYMENT, "Its tasks of the newest ECS deployment, or of those before it."),
    Key::new("labels", &LABELS, "Its tasks with these docker labels, its instances with these attributes."),
    Key::new("weight", &WEIGHT, "Its share, beside the others'.").or("1"),
]);
static BACKENDS: Shape = Shape::List(&BACKEND);
static MIRROR: Shape = Shape::Map(&[
    Key::new("backendRef", &BACKEND, "Who gets a copy.").required(),
    Key::new("percent", &PERCENT, "Of which share of requests.").or("100"),
]);
static STATUS: Shape = Shape::Word(&["301", "302", "303", "307", "308"]);
static REPLACEMENT: Shape = Shape::Word(&["ReplaceFullPath"]);
static REDIRECT_PATH: Shape = Shape::Map(&[
    Key::new("type", &REPLACEMENT, "What of the path is replaced.").or("ReplaceFullPath"),
    Key::new("replaceFullPath", &TEXT, "The new path.").required(),
]);
static HOST_NAME: Shape = Shape::Name(ALIAS);
static REDIRECT: Shape = Shape::Map(&[
    Key::new("path", &REDIRECT_PATH, "The new path."),
    Key::new("hostname", &HOST_NAME, "The new host."),
    Key::new("statusCode", &STATUS, "The status.").or("302"),
]);
static PAUSE: Shape = Shape::Duration(MILLISECOND, HOUR);
static DELAY: Shape = Shape::Map(&[
    Key::new("fixed", &PAUSE, "How long.").required(),
    Key::new("percent", &PERCENT, "For which share of requests.").or("100"),
]);
static ABORT_STATUS: Shape = Shape::Number(200, 599);
static ABORT: Shape = Shape::Map(&[
    Key::new("status", &ABORT_STATUS, "The answer's status.").required(),
    Key::new("percent", &PERCENT, "For which share of requests.").or("100"),
]);
static FAULT: Shape = Shape::Map(&[
    Key::new("delay", &DELAY, "A pause before the request goes on."),
    Key::new("abort", &ABORT, "An answer in place of the service's."),
]);
pub(super) const FILTERS: [&str; 6] = [
    "RequestHeaderModifier",
    "ResponseHeaderModifier",
    "RequestMirror",
    "RequestRedirect",
    "Fault",
    "RateLimit",
];
static PER: Shape = Shape::Duration(Duration::from_millis(50), DAY);
static LIMIT_RATE: Shape = Shape::Map(&[
    Key::new("requests", &LIMIT, "So many requests; the others are answered with 429.").required(),
    Key::new("per", &PER, "In this time.").or("1s"),
    Key::new("burst", &LIMIT, "So many at once at most. By default as many as `requests`."),
]);
static SIDE: Shape = Shape::Word(&["outbound", "inbound"]);
static RATE_LIMIT: Shape = Shape::Map(&[
    Key::new("service", &SERVICE_NAME, "Whose requests.").required(),
    Key::new("namespace", &NAMESPACE_NAME, "Its namespace, where there are several."),
    Key::new(
        "at",
        &SIDE,
        "outbound: what each client's sidecar sends; inbound: what its own sidecars let in.",
    )
    .or("outbound"),
    Key::new("requests", &LIMIT, "So many requests; of TCP, connections.").required(),
    Key::new("per", &PER, "In this time.").or("1s"),
    Key::new("burst", &LIMIT, "So many at once at most. By default as many as `requests`."),
]);
static RATE_LIMITS: Shape = Shape::List(&RATE_LIMIT);
static FILTER_TYPE: Shape = Shape::Word(&FILTERS);
static FILTER: Shape = Shape::Map(&[
    Key::new("type", &FILTER_TYPE, "What is done.").required(),
    Key::new("requestHeaderModifier", &MODIFIER, "For RequestHeaderModifier."),
    Key::new("responseHeaderModifier", &MODIFIER, "For ResponseHeaderModifier."),
    Key::new("requestMirror", &MIRROR, "For RequestMirror."),
    Key::new("requestRedirect", &REDIRECT, "For RequestRedirect."),
    Key::new("fault", &FAULT, "For Fault."),
    Key::new("rateLimit", &LIMIT_RATE, "For RateLimit."),
]);
static FILTER_LIST: Shape = Shape::List(&FILTER);
static ROUTE_TIMEOUTS: Shape = Shape::Map(&[
    Key::new("request", &UP_TO_DAY, "The whole request, retries included; 0s is none."),
    Key::new("backendRequest", &UP_TO_DAY, "One attempt; 0s is none."),
]);
static RULE: Shape = Shape::Map(&[
    Key::new("matches", &MATCHES, "What it is about: any of these; without any, everything."),
    Key::new("filters", &FILTER_LIST, "What is done on the way."),
    Key::new("backendRefs", &BACKENDS, "Where it goes; without any, to the service itself."),
    Key::new("timeouts", &ROUTE_TIMEOUTS, "In place of the service's."),
    Key::new("retry", &RETRY, "In place of the service's."),
]);
static RULES: Shape = Shape::List(&RULE);
static PARENTS: Shape = Shape::List(&SERVICE_NAME);
static ROUTE_NAME: Shape = Shape::Name(ROUTE);
static ROUTE_SHAPE: Shape = Shape::Map(&[
    Key::new("name", &ROUTE_NAME, "Its name.").required(),
    Key::new("namespace", &NAMESPACE_NAME, "Its namespace, where there are several."),
    Key::new("parentRefs", &PARENTS, "The services whose requests it is about.").required(),
    Key::new("rules", &RULES, "What is done with which requests.").required(),
]);
static ROUTES: Shape = Shape::List(&ROUTE_SHAPE);

static PLACE: Shape = Shape::Kind("an address or a name, with a port", "10.9.0.4:9443", is_place);
static PLACES: Shape = Shape::List(&PLACE);
static EXTERNAL: Shape = Shape::Map(&[
    Key::new("name", &SERVICE_NAME, "Its name.").required(),
    Key::new("namespace", &NAMESPACE_NAME, "Its namespace, where there are several."),
    Key::new("port", &PORT, "On which port clients dial its name.").required(),
    Key::new("appProtocol", &PROTOCOL, "What is spoken there.").or("tcp"),
    Key::new("endpoints", &PLACES, "Where it is.").required(),
    Key::new("zone", &TEXT, "The availability zone that it is nearest to."),
]);
static EXTERNALS: Shape = Shape::List(&EXTERNAL);

static VERSION_WORD: Shape = Shape::Word(&[API_VERSION]);
static KIND: Shape = Shape::Word(&["Policy"]);
/// The whole file.
pub(super) static POLICY: Shape = Shape::File(&[
    Key::new("apiVersion", &VERSION_WORD, "Which release of the format this is.").required(),
    Key::new("kind", &KIND, "What the file is.").required(),
    Key::new("namespaces", &NAMESPACES, "What holds for whole namespaces."),
    Key::new("services", &SERVICES, "How clients treat single services, by discovery name."),
    Key::new("routes", &ROUTES, "Where requests go."),
    Key::new("rateLimits", &RATE_LIMITS, "How much each sidecar sends or lets in."),
    Key::new("externals", &EXTERNALS, "Services that are neither in ECS nor in Cloud Map."),
    Key::new("imports", &IMPORTS, "What clients see of other namespaces."),
]);

/// Whether this can be the name of a header: a token of HTTP (RFC 9110, section 5.6.2).
fn is_token(text: &str) -> bool {
    let is_mark = |c: char| "!#$%&'*+-.^_`|~".contains(c);
    !text.is_empty() && text.len() <= 256 && text.chars().all(|c| c.is_ascii_alphanumeric() || is_mark(c))
}

fn is_place(text: &str) -> bool {
    read_place(text).is_some()
}

/// Neither where everybody listens nor where Service Connect does.
fn is_free_loopback(text: &str) -> bool {
    let octets = text.parse::<std::net::Ipv4Addr>().map(|address| address.octets());
    octets.is_ok_and(|octets| octets[0] == 127 && octets[1] != 255 && octets[..3] != [127, 0, 0])
}
