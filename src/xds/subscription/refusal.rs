//! What follows from a NACK: which resource is to blame, and what of the rest is sent again.
//!
//! It is not about showing the NACK to people.
//!
//! Invariant: a refused version is never sent again unless the client asks for it anew, and one bad resource
//! of n travels in at most 1 + ⌈log₂ n⌉ responses (`xds.md`, I7).

use std::sync::Arc;

use super::{Batch, Held, Name, Sent, Sight, Subscription};
use crate::snapshot::{ProxyClass, Resource, Version};
use crate::xds::session::{REASON_BYTES, Rejection};

/// What is made of a refused response.
#[derive(Debug, Default)]
struct Verdict {
    /// Known to be refused.
    guilty: Vec<Arc<Resource>>,
    /// Known to be accepted all the same.
    innocent: Vec<Arc<Resource>>,
    /// To be sent again, each group in a response of its own.
    groups: Vec<Vec<(Name, Version)>>,
}

impl Subscription {
    /// After a NACK nothing is known of its resources (`xds.md`, section 2.6). One that was alone is not sent
    /// again until it changes; of several, the bad one is searched for. What was to be removed along with them
    /// is removed again, alone.
    pub(in crate::xds) fn refuse(&mut self, sight: Sight<'_>, sent: &Sent, reason: &Arc<str>) {
        // A response that carries everything carries also what was accepted before.
        let new = |it: &&Arc<Resource>| self.good.get(&it.name).is_none_or(|good| good.version != it.version);
        let members: Vec<_> = sent.resources.iter().filter(new).cloned().collect();
        // Unless something newer has been sent since, or it has gone. One that is searched already is found if it
        // was refused alone.
        let (alone, only_removed) = (members.len() == 1, members.is_empty());
        let held = |it: &Resource| match self.held(sight, &it.name) {
            Held::Nothing => false,
            Held::Unknown => alone,
            Held::Version(version) => version == it.version,
        };
        let (class, full) = (sight.slice.class(), sight.is_full());
        let Verdict { guilty, innocent, groups } = judge(&members, held, reason, class, full);
        let suspects: Vec<_> = members.into_iter().filter(|it| held(it)).collect();
        for resource in &suspects {
            self.unlike.insert(resource.name.clone(), Held::Unknown);
        }
        for resource in guilty {
            let rejection = Rejection { version: resource.version, reason: Arc::clone(reason) };
            self.rare_mut().rejected.insert(resource.name.clone(), rejection);
        }
        for resource in innocent {
            self.hold(sight, &resource.name, Held::Version(resource.version));
            if full {
                self.good.insert(resource.name.clone(), resource);
            }
        }
        if !groups.is_empty() {
            self.rare_mut().suspects.extend(groups);
        }
        for name in sent.removed.iter().filter(|_| !only_removed) {
            if self.wants(name) {
                if self.held(sight, name) == Held::Nothing {
                    self.unlike.insert(Name::clone(name), Held::Unknown);
                }
                self.changed.insert(Name::clone(name));
            }
        }
    }

    /// The next group of suspects.
    pub(super) fn next_suspects(&mut self, sight: Sight<'_>) -> Batch {
        let mut batch = Batch::default();
        while let Some(group) = self.rare.as_mut().and_then(|rare| rare.suspects.pop_front()) {
            for (name, _) in group.iter().filter(|(name, _)| self.unlike.get(name) == Some(&Held::Unknown)) {
                if let Some(resource) = sight.get(name)
                    && self.wants(name)
                    && !self.refuses(resource)
                {
                    batch.push(resource, true);
                }
            }
            if !batch.is_empty() {
                break;
            }
        }
        for resource in &batch.resources {
            self.unlike.remove(&resource.name);
            self.must_send.remove(&resource.name);
            self.changed.remove(&resource.name);
            self.let_go(&resource.name);
        }
        batch
    }

    /// Whether the client has refused this very version.
    pub(super) fn refuses(&self, resource: &Resource) -> bool {
        self.rejected().get(&resource.name).is_some_and(|rejection| rejection.version == resource.version)
    }
}

/// Who of a response's `members` is to blame, if it is still `held`; `full` where each response carries everything.
/// What the client says is only a hint to Envoy's own NACKs, but gRPC names each resource that it refused and
/// applies the others (gRFC A46), unless its words were cut.
fn judge(
    members: &[Arc<Resource>],
    held: impl Fn(&Resource) -> bool,
    reason: &str,
    class: ProxyClass,
    full: bool,
) -> Verdict {
    let mut verdict = Verdict::default();
    let suspects = || members.iter().filter(|it| held(it)).cloned();
    if members.len() == 1 {
        verdict.guilty.extend(suspects());
        return verdict;
    }
    let named = |resource: &Arc<Resource>| mentions(reason, &resource.name);
    if class == ProxyClass::Grpc && reason.len() + 4 < REASON_BYTES && members.iter().any(named) {
        let (guilty, innocent) = suspects().partition(named);
        return Verdict { guilty, innocent, ..verdict };
    }
    let (named, rest): (Vec<_>, Vec<_>) = suspects().partition(named);
    let group = |of: &[Arc<Resource>]| of.iter().map(|it| (it.name.clone(), it.version)).collect();
    let (searched, alone) = if rest.is_empty() { (named, Vec::new()) } else { (rest, named) };
    // Where absence means deletion a hint is believed: half of the others would go for a moment.
    let believed = full && !alone.is_empty();
    let (one, other) = searched.split_at(if believed { 0 } else { searched.len() / 2 });
    verdict.groups.extend([one, other].into_iter().filter(|half| !half.is_empty()).map(group));
    verdict.groups.extend(alone.chunks(1).map(group));
    verdict
}

/// Whether `text` names the resource, and not only one whose name begins or ends with it.
fn mentions(text: &str, name: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '/' | '@');
    text.match_indices(name).any(|(start, _)| {
        let before = text[..start].chars().next_back();
        let mut after = text[start + name.len()..].chars();
        let ends = match after.next() {
            // A port or another label of the name goes on; the end of a clause does not.
            Some(':' | '.') => !after.next().is_some_and(|c| c.is_alphanumeric()),
            next => !next.is_some_and(part),
        };
        ends && !before.is_some_and(|c| part(c) || matches!(c, '.' | ':'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::ResourceType;

    #[test]
    fn a_name_is_found_only_where_it_stands_alone() {
        for (text, found) in [
            ("Error adding/updating cluster(s) prod/pay: no such filter", true),
            ("'prod/pay'", true),
            ("prod/pay", true),
            ("refused prod/pay.", true),
            ("prod/pay, prod/payments", true),
            ("prod/payments: bad", false),
            ("listener prod/pay:8080: bad", false),
            ("prod/pay.eu: bad", false),
            ("x-prod/pay: bad", false),
            ("nothing of it", false),
        ] {
            assert_eq!(mentions(text, "prod/pay"), found, "{text}");
        }
    }

    #[test]
    fn who_is_to_blame() {
        let resources: Vec<_> = ["a", "b", "c", "d"]
            .map(|name| Arc::new(Resource::encode(ResourceType::Cluster, name.into(), &String::new())))
            .into();
        let names = |list: &[Arc<Resource>]| list.iter().map(|it| it.name.to_string()).collect::<String>();
        let rows = [
            ("a", "a", "no", ProxyClass::Sidecar, false, ("a", "", vec![])),
            ("ab", "a", "no", ProxyClass::Sidecar, false, ("", "", vec!["a"])),
            ("abcd", "abcd", "no", ProxyClass::Sidecar, false, ("", "", vec!["ab", "cd"])),
            ("abcd", "abcd", "c: bad", ProxyClass::Sidecar, false, ("", "", vec!["a", "bd", "c"])),
            ("abcd", "abcd", "c: bad", ProxyClass::Grpc, false, ("c", "abd", vec![])),
            ("abcd", "ab", "c: bad", ProxyClass::Grpc, false, ("", "ab", vec![])),
            ("abcd", "abcd", "no", ProxyClass::Grpc, false, ("", "", vec!["ab", "cd"])),
            ("abcd", "abcd", "c: bad", ProxyClass::Sidecar, true, ("", "", vec!["abd", "c"])),
            ("abcd", "abcd", "no", ProxyClass::Sidecar, true, ("", "", vec!["ab", "cd"])),
            ("ab", "ab", "a and b", ProxyClass::Sidecar, true, ("", "", vec!["a", "b"])),
            ("ab", "ab", "a and b", ProxyClass::Sidecar, false, ("", "", vec!["a", "b"])),
            ("a", "", "no", ProxyClass::Sidecar, false, ("", "", vec![])),
        ];
        for (members, held, reason, class, full, expected) in rows {
            let of = |it: &&Arc<Resource>| members.contains(&*it.name);
            let members: Vec<_> = resources.iter().filter(of).cloned().collect();
            let verdict = judge(&members, |it| held.contains(&*it.name), reason, class, full);
            let group = |group: &Vec<(Name, _)>| group.iter().map(|(name, _)| &**name).collect::<String>();
            let groups: Vec<_> = verdict.groups.iter().map(group).collect();
            let groups: Vec<_> = groups.iter().map(String::as_str).collect();
            let got = (names(&verdict.guilty), names(&verdict.innocent), groups);
            assert_eq!((got.0.as_str(), got.1.as_str(), got.2), expected, "{reason}");
        }
    }
}
