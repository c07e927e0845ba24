//! Who may open a stream now: limits that hold back a storm before it costs anything.
//!
//! It is not authentication, and it knows no protocol.
//!
//! Invariant: a client is refused before its first response, because any response resets its backoff
//! (`xds.md`, items 11 and 85); and every permit is given back.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use dashmap::DashMap;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tonic::Status;

use crate::model::Namespace;

/// How many streams there may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamLimits {
    /// In all.
    pub in_all: u32,
    /// In one namespace.
    pub in_namespace: u32,
    /// New ones in a second, after a first second's worth at once.
    pub new_per_second: NonZeroU32,
}

/// Why a stream was refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Refused {
    /// The server ends.
    Stopping,
    /// Some source has not spoken yet.
    NotSynced,
    /// Too many new streams at once.
    TooFast,
    /// As many streams as there may be.
    Full,
    /// As many streams as there may be in the namespace.
    NamespaceFull,
    /// The first request does not say who and for which namespace, or says it wrongly.
    Identity,
    /// No source knows the namespace.
    UnknownNamespace,
}

impl Refused {
    /// The word in metrics.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Stopping => "stopping",
            Self::NotSynced => "not-synced",
            Self::TooFast => "too-fast",
            Self::Full => "full",
            Self::NamespaceFull => "namespace-full",
            Self::Identity => "identity",
            Self::UnknownNamespace => "unknown-namespace",
        }
    }
}

/// What has been admitted.
#[derive(Debug)]
pub(super) struct Admission {
    limits: StreamLimits,
    rate: DefaultDirectRateLimiter,
    open: AtomicU32,
    by_namespace: DashMap<Namespace, u32>,
}

/// The right to one stream, for as long as it lives.
#[derive(Debug)]
pub(super) struct Permit {
    admission: Arc<Admission>,
    namespace: Option<Namespace>,
}

impl Admission {
    /// Nothing admitted yet.
    pub(super) fn new(limits: StreamLimits) -> Arc<Self> {
        let rate = RateLimiter::direct(Quota::per_second(limits.new_per_second));
        Arc::new(Self { limits, rate, open: AtomicU32::new(0), by_namespace: DashMap::new() })
    }

    /// Admits one more stream, whoever it is.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Permit, (Refused, Status)> {
        let limit = self.limits.in_all;
        let room = |open: u32| (open < limit).then_some(open + 1);
        if self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).is_err() {
            let message = format!("this server has its {limit} streams (xds.maxStreams); try another");
            return Err((Refused::Full, Status::resource_exhausted(message)));
        }
        let permit = Permit { admission: Arc::clone(self), namespace: None };
        if self.rate.check().is_err() {
            let rate = self.limits.new_per_second;
            let message =
                format!("more than {rate} new streams a second (xds.newStreamsPerSecond); try again");
            return Err((Refused::TooFast, Status::unavailable(message)));
        }
        Ok(permit)
    }
}

impl Permit {
    /// Admits the stream to its namespace.
    pub(super) fn enter_namespace(&mut self, namespace: &Namespace) -> Result<(), (Refused, Status)> {
        let limit = self.admission.limits.in_namespace;
        let mut open = self.admission.by_namespace.entry(namespace.clone()).or_default();
        if *open >= limit {
            let message =
                format!("namespace {namespace} has its {limit} streams here (xds.maxStreamsPerNamespace)");
            return Err((Refused::NamespaceFull, Status::resource_exhausted(message)));
        }
        *open += 1;
        self.namespace = Some(namespace.clone());
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.open.fetch_sub(1, Ordering::AcqRel);
        if let Some(namespace) = &self.namespace
            && let Some(mut open) = self.admission.by_namespace.get_mut(namespace)
        {
            *open -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(in_all: u32, in_namespace: u32, per_second: u32) -> Arc<Admission> {
        let new_per_second = NonZeroU32::new(per_second).unwrap();
        Admission::new(StreamLimits { in_all, in_namespace, new_per_second })
    }

    fn refused<T>(answer: Result<T, (Refused, Status)>) -> Refused {
        answer.err().expect("a refusal").0
    }

    #[test]
    fn there_is_room_for_so_many_and_again_when_one_goes() {
        let admission = admission(2, 1, 1_000);
        let mut first = admission.enter().unwrap();
        let mut second = admission.enter().unwrap();
        assert_eq!(refused(admission.enter()), Refused::Full);
        first.enter_namespace(&"prod".into()).unwrap();
        assert_eq!(refused(second.enter_namespace(&"prod".into())), Refused::NamespaceFull);
        second.enter_namespace(&"shared".into()).unwrap();
        drop(first);
        let mut third = admission.enter().unwrap();
        third.enter_namespace(&"prod".into()).unwrap();
    }

    #[test]
    fn a_storm_is_slowed_and_takes_no_room() {
        let admission = admission(100, 100, 5);
        let permits: Vec<_> = (0..50).map(|_| admission.enter()).collect();
        let admitted = permits.iter().filter(|it| it.is_ok()).count();
        assert!((5..10).contains(&admitted), "{admitted}");
        assert_eq!(admission.open.load(Ordering::Acquire) as usize, admitted);
    }
}
