//! The clusters of every namespace, and the roles that they are read with.
//!
//! It knows no default but the Region. Invariant: no cluster is there twice in a namespace, or under two roles.

use crate::diagnostic::check::Checker;
use crate::diagnostic::{BAD_VALUE, Written};
use crate::model::{ClusterId, account_of_role};

/// Those that were checked.
pub(super) struct Clusters {
    /// The Region that is meant where none is said, as far as the configuration tells.
    region: Option<String>,
    seen: Vec<Seen>,
}

struct Seen {
    id: ClusterId,
    written: Written,
    /// The role of its namespace.
    role: Option<Written>,
}

impl Seen {
    fn role(&self) -> Option<&str> {
        self.role.as_ref().map(|role| role.text.as_str())
    }
}

impl Clusters {
    pub(super) fn new(region: Option<String>) -> Self {
        Self { region, seen: Vec::new() }
    }

    /// Checks the clusters and the role of one namespace.
    pub(super) fn check(&mut self, checker: &mut Checker<'_>, clusters: &[Written], role: Option<&Written>) {
        let account = role.and_then(|role| account_of_role(&role.text));
        if let Some(role) = role.filter(|_| account.is_none()) {
            let message = format!("`{}` is not the ARN of a role", role.text);
            checker.bad(role, message, "write it like `arn:aws:iam::123456789012:role/legation`");
        }
        let first_of_namespace = self.seen.len();
        for cluster in clusters {
            let Some(mut id) = ClusterId::read(&cluster.text) else {
                let message = format!("`{}` is neither the name nor the ARN of an ECS cluster", cluster.text);
                let example = "`prod-a` or `arn:aws:ecs:eu-west-1:123456789012:cluster/prod-a`";
                checker.bad(cluster, message, format!("write it like {example}"));
                continue;
            };
            id.region = id.region.or_else(|| self.region.clone());
            if let Some((own, of_role)) = id.account.as_deref().zip(account).filter(|(own, of)| own != of) {
                let message = format!("the cluster is of the account {own}, and the role of {of_role}");
                checker.bad(cluster, message, "give its namespace a role of the same account");
                continue;
            }
            id.account = id.account.or(account.map(str::to_owned));
            let seen = Seen { id, written: cluster.clone(), role: role.cloned() };
            if self.is_new(checker, &seen, first_of_namespace) {
                self.seen.push(seen);
            }
        }
    }

    fn is_new(&self, checker: &mut Checker<'_>, seen: &Seen, first_of_namespace: usize) -> bool {
        let (others, own) = self.seen.split_at(first_of_namespace);
        let name = &seen.id.name;
        let place = |checker: &Checker<'_>, at: &Written| checker.document().with(at, BAD_VALUE, "").place();
        if let Some(twin) = own.iter().find(|other| other.id.may_be(&seen.id)) {
            let first = format!("first at {}", place(checker, &twin.written));
            checker.bad(&seen.written, format!("the cluster `{name}` is there twice"), first);
            return false;
        }
        // Of an account that nobody told it is not known whether it is the same.
        let is_same = |other: &&Seen| {
            other.id.account.is_some() && other.id.account == seen.id.account && other.id.may_be(&seen.id)
        };
        let otherwise = others.iter().filter(is_same).find(|other| other.role() != seen.role());
        if let Some(other) = otherwise {
            let of =
                |role: Option<&str>| role.map_or("no role".to_owned(), |role| format!("the role `{role}`"));
            let message = format!("the cluster `{name}` is read with {}", of(seen.role()));
            let at = place(checker, &other.written);
            checker.bad(&seen.written, message, format!("and with {} at {at}; take one", of(other.role())));
        }
        otherwise.is_none()
    }
}
