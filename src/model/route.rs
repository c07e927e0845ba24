//! Where requests to a service go: rules in Gateway API's words.
//!
//! It knows neither files nor Envoy. Invariant: rules stand in the order in which they are tried.

use std::sync::Arc;

use super::{Knobs, Origin, ServiceName, Subset};

/// One rule of a service: what it is about, and what is done with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The route that it is part of.
    pub name: Arc<str>,
    /// What it is about.
    pub matches: Match,
    /// What is done with the request on its way.
    pub request_headers: HeaderChanges,
    /// What is done with the answer.
    pub response_headers: HeaderChanges,
    /// Where it goes.
    pub action: Action,
    /// Who gets a copy, whose answer nobody waits for.
    pub mirror: Option<Mirror>,
    /// What goes wrong on purpose.
    pub fault: Fault,
    /// Timeouts and retries that differ from the service's.
    pub knobs: Knobs,
    /// Where it is written, and where each value of it: `policy.yaml:12`.
    pub origin: Origin,
}

/// What a rule is about: all of these.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Match {
    /// The path.
    pub path: PathMatch,
    /// The method, if it matters.
    pub method: Option<Arc<str>>,
    /// Headers.
    pub headers: Vec<ValueMatch>,
    /// Parameters of the query.
    pub query: Vec<ValueMatch>,
}

/// A path, without its query.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PathMatch {
    /// This one.
    Exact(Arc<str>),
    /// This one and whatever is below it: `/v2` is not `/v20`.
    Prefix(Arc<str>),
    /// One that this expression describes as a whole.
    Regex(Arc<str>),
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix("/".into())
    }
}

/// A header or a parameter.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ValueMatch {
    /// Its name; of a header in lower case.
    pub name: Arc<str>,
    /// Its value, or an expression.
    pub value: Arc<str>,
    /// Whether the value is an expression.
    pub is_regex: bool,
}

/// What becomes of headers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HeaderChanges {
    /// In place of what was there.
    pub set: Vec<(Arc<str>, Arc<str>)>,
    /// Beside what is there.
    pub add: Vec<(Arc<str>, Arc<str>)>,
    /// Taken away.
    pub remove: Vec<Arc<str>>,
}

/// Where a request goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// To one of these, by their weights.
    Forward(Vec<Backend>),
    /// Back, with another address.
    Redirect(Redirect),
}

/// A service, or a part of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Backend {
    /// A service of the same namespace.
    pub service: ServiceName,
    /// Which part of it.
    pub subset: Subset,
    /// Its share, beside the others'.
    pub weight: u32,
}

/// Another address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Redirect {
    /// The whole path.
    pub path: Option<Arc<str>>,
    /// The host.
    pub host: Option<Arc<str>>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// Who gets a copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mirror {
    /// Whom.
    pub backend: Backend,
    /// Of which share of requests.
    pub percent: u32,
}

/// What goes wrong on purpose.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fault {
    /// A pause, for a share of requests.
    pub delay: Option<(std::time::Duration, u32)>,
    /// An answer, for a share of requests.
    pub abort: Option<(u16, u32)>,
}

impl Backend {
    /// The whole of a service.
    pub fn all_of(service: &ServiceName) -> Self {
        Self { service: service.clone(), subset: Subset::default(), weight: 1 }
    }
}

impl Rule {
    /// Whom it may send requests to, copies too.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        let forward: &[Backend] = match &self.action {
            Action::Forward(backends) => backends,
            Action::Redirect(_) => &[],
        };
        forward.iter().chain(self.mirror.iter().map(|mirror| &mirror.backend))
    }
}
