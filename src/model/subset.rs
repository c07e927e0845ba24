//! Parts of a service: what tells its endpoints apart, which of them somebody means, and how a deployment shifts traffic
//! from some of them to others.
//!
//! It knows neither ECS nor Envoy. Invariant: two subsets that mean different endpoints have different names.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::ServiceSpec;

/// Labels with their values; one key may have several values, of several containers.
pub type Labels = Arc<BTreeSet<(Arc<str>, Arc<str>)>>;

/// What tells an endpoint from others of its service.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Traits {
    /// Which version of its service it is, where somebody says so.
    pub version: Option<Arc<str>>,
    /// Which of its service's deployments started it, where there are any.
    pub deployment: Option<Which>,
    /// What its containers are labelled with, or its instance.
    pub labels: Labels,
    /// The revision of its service that it is, while traffic is shifted between revisions.
    pub revision: Option<Arc<str>>,
    /// Whether it takes part in what its service gets.
    pub share: Share,
}

/// A deployment of a service, seen from now.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Which {
    /// The newest one.
    Primary,
    /// One before it.
    Previous,
}

impl Which {
    /// Every word for one.
    pub const WORDS: [&'static str; 2] = ["primary", "previous"];

    /// The word for it in policies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Previous => "previous",
        }
    }

    /// The deployment with this word.
    pub fn read(word: &str) -> Option<Self> {
        [Self::Primary, Self::Previous].into_iter().find(|which| which.as_str() == word)
    }
}

/// Whether an endpoint takes part in what its service gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Share {
    /// It does.
    #[default]
    Full,
    /// Its revision is to get nothing yet, or nothing more.
    Awaits,
    /// That is not known yet.
    Unknown,
}

/// Which endpoints of a service are meant: those with all of this. Without anything, every one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Subset {
    /// Those of one version.
    pub version: Option<Arc<str>>,
    /// Those of one deployment.
    pub deployment: Option<Which>,
    /// Those with these labels, ordered by key.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    /// Those of one revision of the service, between which a deployment shifts traffic.
    pub revision: Option<Arc<str>>,
}

/// Subsets of a service, ordered.
pub type Subsets = Arc<[Subset]>;

impl Subset {
    /// The endpoints of one revision.
    pub fn revision(id: &Arc<str>) -> Self {
        Self { revision: Some(Arc::clone(id)), ..Self::default() }
    }

    /// Whether every endpoint is meant.
    pub fn is_whole(&self) -> bool {
        *self == Self::default()
    }

    /// Whether an endpoint with these traits is meant.
    pub fn includes(&self, traits: &Traits) -> bool {
        (self.version.is_none() || self.version == traits.version)
            && (self.deployment.is_none() || self.deployment == traits.deployment)
            && (self.revision.is_none() || self.revision == traits.revision)
            && self.labels.iter().all(|label| traits.labels.contains(label))
    }
}

/// What follows the `@` in the name of its cluster: `58`, `deployment=primary`, `label.tier=gold`.
impl fmt::Display for Subset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version.iter().map(|version| escaped(version));
        let deployment = self.deployment.iter().map(|which| format!("deployment={}", which.as_str()));
        let labels =
            self.labels.iter().map(|(key, value)| format!("label.{}={}", escaped(key), escaped(value)));
        let revision = self.revision.iter().map(|id| format!("revision={}", escaped(id)));
        let parts: Vec<_> = version.chain(deployment).chain(labels).chain(revision).collect();
        f.write_str(&parts.join(","))
    }
}

/// The same without what separates parts and keys.
fn escaped(text: &str) -> String {
    text.replace('%', "%25").replace(',', "%2C").replace('=', "%3D")
}

/// How a deployment shifts the traffic of a service from one revision to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shift {
    /// The revisions that take part, ordered by id.
    pub revisions: Vec<Revision>,
    /// Which requests are tests.
    pub header: TestHeader,
}

/// A revision of a service, and what it is to get.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Revision {
    /// The end of its ARN.
    pub id: Arc<str>,
    /// How much of what the service gets, in thousandths.
    pub production: u32,
    /// How much of the tests, in thousandths.
    pub test: u32,
    /// Whether some endpoint of it is in rotation.
    pub serves: bool,
}

/// The header that makes a request a test.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TestHeader {
    /// Its name, in lower case.
    pub name: Arc<str>,
    /// Its value; without one any will do.
    pub value: Option<Arc<str>>,
}

impl Shift {
    /// The revisions among which ordinary requests are split, with their weights; none if one gets them all. What a
    /// revision is to get that serves nobody goes to the others.
    pub fn split(&self) -> Vec<(&Revision, u32)> {
        let weighed: Vec<_> = self.revisions.iter().map(|it| (it, it.production)).collect();
        let serving: Vec<_> = weighed.into_iter().filter(|(it, weight)| *weight > 0 && it.serves).collect();
        if serving.len() > 1 { serving } else { Vec::new() }
    }

    /// The revisions that get tests, with their weights.
    pub fn tested(&self) -> Vec<(&Revision, u32)> {
        self.revisions.iter().map(|it| (it, it.test)).filter(|(_, weight)| *weight > 0).collect()
    }

    /// The same with the word on each revision whether it serves.
    #[must_use]
    pub fn judged(&self, serves: impl Fn(&str) -> bool) -> Self {
        let judge = |it: &Revision| Revision { serves: serves(&it.id), ..it.clone() };
        Self { revisions: self.revisions.iter().map(judge).collect(), header: self.header.clone() }
    }
}

impl ServiceSpec {
    /// The parts of it that have clusters of their own: the whole, what rules name, and the revisions that a shift tells
    /// apart.
    pub fn parts(&self) -> BTreeSet<Subset> {
        let shift = self.shift.iter();
        let revisions = shift.flat_map(|shift| shift.split().into_iter().chain(shift.tested()));
        let revisions = revisions.map(|(revision, _)| Subset::revision(&revision.id));
        let named = self.subsets.iter().cloned();
        std::iter::once(Subset::default()).chain(named).chain(revisions).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Vec<(Arc<str>, Arc<str>)> {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    fn version(version: &str) -> Subset {
        Subset { version: Some(version.into()), ..Subset::default() }
    }

    #[test]
    fn each_subset_has_a_name_of_its_own() {
        let primary = Subset { deployment: Some(Which::Primary), ..Subset::default() };
        let gold = Subset { labels: labels(&[("tier", "gold")]), ..Subset::default() };
        let both = Subset { version: Some("58".into()), deployment: Some(Which::Previous), ..gold.clone() };
        let odd = [
            version("deployment=primary"),
            version("label.tier=gold"),
            version("58,deployment=previous"),
            Subset { labels: labels(&[("tier", "gold,label.a=b")]), ..Subset::default() },
            Subset { labels: labels(&[("a", "b"), ("tier", "gold")]), ..Subset::default() },
            Subset { labels: labels(&[("a=b", "c")]), ..Subset::default() },
            Subset { labels: labels(&[("a", "b=c")]), ..Subset::default() },
            version("%2C"),
            version(","),
        ];
        assert_eq!(version("2026-11-20.3").to_string(), "2026-11-20.3");
        assert_eq!(primary.to_string(), "deployment=primary");
        assert_eq!(gold.to_string(), "label.tier=gold");
        assert_eq!(both.to_string(), "58,deployment=previous,label.tier=gold");
        assert_eq!(Subset::revision(&"7".into()).to_string(), "revision=7");
        let all = [primary, gold, both].into_iter().chain(odd);
        let names: Vec<_> = all.map(|subset| subset.to_string()).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
    }

    #[test]
    fn a_subset_means_those_with_all_of_it() {
        let traits = Traits {
            version: Some("58".into()),
            deployment: Some(Which::Primary),
            labels: Arc::new(
                labels(&[("tier", "gold"), ("tier", "silver"), ("team", "pay")]).into_iter().collect(),
            ),
            ..Traits::default()
        };
        let of = |version: Option<&str>, deployment, pairs| Subset {
            version: version.map(Into::into),
            deployment,
            labels: labels(pairs),
            revision: None,
        };
        assert!(Subset::default().includes(&traits) && Subset::default().includes(&Traits::default()));
        assert!(of(Some("58"), Some(Which::Primary), &[("team", "pay"), ("tier", "gold")]).includes(&traits));
        assert!(of(None, None, &[("tier", "silver")]).includes(&traits), "of any container");
        assert!(!of(Some("57"), None, &[]).includes(&traits));
        assert!(!of(None, Some(Which::Previous), &[]).includes(&traits));
        assert!(!of(Some("58"), None, &[("tier", "bronze")]).includes(&traits));
        assert!(!of(None, Some(Which::Previous), &[]).includes(&Traits::default()), "of no deployment");
    }

    #[test]
    fn the_share_of_a_revision_that_serves_nobody_goes_to_the_others() {
        let revision =
            |id: &str, production, test| Revision { id: id.into(), production, test, serves: true };
        let header = TestHeader { name: "x-test".into(), value: None };
        let shift = Shift { revisions: vec![revision("1", 900, 0), revision("2", 100, 1000)], header };
        let ids = |of: Vec<(&Revision, u32)>| {
            of.iter().map(|(it, weight)| (it.id.to_string(), *weight)).collect::<Vec<_>>()
        };
        assert_eq!(ids(shift.split()), [("1".to_owned(), 900), ("2".to_owned(), 100)]);
        assert_eq!(ids(shift.tested()), [("2".to_owned(), 1000)]);
        let judged = shift.judged(|id| id == "1");
        assert_eq!(ids(judged.split()), [], "one gets them all");
        assert_eq!(ids(judged.tested()), [("2".to_owned(), 1000)], "a test is told the truth");
    }
}
