//! Where a backend's requests go while a deployment shifts the traffic of its service: to the clusters of its revisions, by
//! their weights; and which requests are tests.
//!
//! Only routes change with a shift, and load assignments: no listener does, so no connection ends because of one.
//!
//! Invariant: follows from descriptions alone; weights keep to what Envoy adds up, and none becomes nothing.

use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, WeightedCluster, header_matcher::HeaderMatchSpecifier, route_action::ClusterSpecifier,
    weighted_cluster::ClusterWeight,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};

use super::rule::Find;
use super::{cluster, number};
use crate::model::{Action, Backend, Revision, Rule, ServiceKey, ServiceSpec, Subset, TestHeader};

/// Clusters with their weights beside each other.
pub(super) type Weighted = Vec<(String, u32)>;

/// The cluster of a backend.
pub(super) fn cluster_of(spec: &ServiceSpec, backend: &Backend) -> String {
    let key = ServiceKey { namespace: spec.key.namespace.clone(), name: backend.service.clone() };
    cluster::part_name(&key, &backend.subset).to_string()
}

/// The clusters among which a backend's requests are split: its own, or those of the revisions of its service.
pub(super) fn clusters_of(spec: &ServiceSpec, backend: &Backend, find: Find<'_>) -> Weighted {
    let whole = find(&backend.service).filter(|_| backend.subset.is_whole());
    let split = whole.and_then(|found| Some((found, found.shift.as_ref()?.split())));
    match split.filter(|(_, split)| !split.is_empty()) {
        Some((found, split)) => of_revisions(&found.key, split),
        None => vec![(cluster_of(spec, backend), 1)],
    }
}

/// The clusters that tests of a service go to, if any are.
pub(super) fn tested(spec: &ServiceSpec) -> Weighted {
    let tested = spec.shift.as_ref().map(|shift| shift.tested()).unwrap_or_default();
    of_revisions(&spec.key, tested)
}

fn of_revisions(key: &ServiceKey, revisions: Vec<(&Revision, u32)>) -> Weighted {
    let name = |it: &Revision| cluster::part_name(key, &Subset::revision(&it.id)).to_string();
    revisions.into_iter().map(|(it, weight)| (name(it), weight)).collect()
}

/// Whether a backend is the whole service whose rules these are.
pub(super) fn is_itself(spec: &ServiceSpec, backend: &Backend) -> bool {
    backend.service == spec.key.name && backend.subset.is_whole()
}

/// Which requests are tests, if some of those that a rule is about go elsewhere then.
pub(super) fn tests_of<'a>(spec: &'a ServiceSpec, rule: &Rule) -> Option<&'a TestHeader> {
    let Action::Forward(backends) = &rule.action else { return None };
    backends.iter().any(|backend| is_itself(spec, backend)).then(|| tests(spec))?
}

/// Which requests of a service are tests, if any are.
pub(super) fn tests(spec: &ServiceSpec) -> Option<&TestHeader> {
    spec.shift.as_ref().filter(|shift| !shift.tested().is_empty()).map(|shift| &shift.header)
}

/// What a request has that is a test.
pub(super) fn matcher(header: &TestHeader) -> HeaderMatcher {
    let specifier = match &header.value {
        Some(value) => HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(value.to_string())),
            ..Default::default()
        }),
        None => HeaderMatchSpecifier::PresentMatch(true),
    };
    HeaderMatcher {
        name: header.name.to_string(),
        header_match_specifier: Some(specifier),
        ..Default::default()
    }
}

/// One cluster, or several by weight; each backend with its own, which share what it gets. Nothing without any.
pub(super) fn specifier(backends: &[(u32, Weighted)]) -> Option<ClusterSpecifier> {
    if let [(_, only)] = backends
        && let [(name, _)] = only.as_slice()
    {
        return Some(ClusterSpecifier::Cluster(name.clone()));
    }
    let is_split = backends.iter().any(|(_, clusters)| clusters.len() > 1);
    let scale = if is_split { 1_000 } else { 1 };
    let mut weights: Vec<(&String, u64)> = Vec::new();
    for (weight, clusters) in backends {
        let all: u64 = clusters.iter().map(|(_, share)| u64::from(*share)).sum();
        let of = |share: u32| u64::from(*weight) * scale * u64::from(share) / all.max(1);
        weights.extend(clusters.iter().map(|(name, share)| (name, of(*share))));
    }
    let sum: u64 = weights.iter().map(|(_, weight)| weight).sum();
    let fold = sum / u64::from(u32::MAX) + 1;
    let weight = |(name, weight): (&String, u64)| ClusterWeight {
        name: name.clone(),
        weight: Some(number(u32::try_from(weight / fold).unwrap_or(u32::MAX).max(1))),
        ..Default::default()
    };
    let clusters: Vec<_> = weights.into_iter().map(weight).collect();
    let clusters = WeightedCluster { clusters, ..Default::default() };
    (sum > 0).then_some(ClusterSpecifier::WeightedClusters(clusters))
}
