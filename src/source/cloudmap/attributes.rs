//! What is known of the attributes of services. Nobody tells of their changes, and each service takes a call of its own.
//!
//! It asks nobody; it says who is to be asked.
//!
//! Invariant: each reading has a bounded number asked anew, those longest ago first, so that everyone's turn comes,
//! whatever fails. What was known before a failure stays.

use std::collections::{BTreeMap, BTreeSet};

use super::members::Listed;
use crate::source::tags::LABEL_PREFIX;

/// So many services are asked about with each reading, or a tenth of them where that is more.
const EACH_TIME: usize = 20;

/// The attributes of the services of one namespace, by the name that calls give each.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    known: BTreeMap<String, Remembered>,
    /// Rises with each answer.
    turn: u64,
    none: BTreeMap<String, String>,
}

/// What one service last said.
#[derive(Debug, Default)]
struct Remembered {
    /// Those that begin with `legation.`, by the rest of their key.
    labels: BTreeMap<String, String>,
    turn: u64,
    /// Whether the newest question was answered.
    is_answered: bool,
}

impl Attributes {
    /// What a service says of itself.
    pub(super) fn of(&self, service: &Listed) -> &BTreeMap<String, String> {
        self.known.get(&service.reference).map_or(&self.none, |known| &known.labels)
    }

    /// Whom to ask in this reading: whoever has not answered, and of the others some; those longest ago first.
    pub(super) fn due(&self, services: &BTreeMap<String, Listed>) -> Vec<String> {
        let known = |reference: &str| self.known.get(reference);
        let mut due: Vec<&str> = services.values().map(|service| service.reference.as_str()).collect();
        due.sort_by_key(|reference| (known(reference).map(|known| known.turn), *reference));
        let (most, mut again) = ((services.len() / 10).max(EACH_TIME), 0);
        let is_due = |reference: &&str| {
            let is_answered = known(reference).is_some_and(|known| known.is_answered);
            again += usize::from(is_answered);
            !is_answered || again <= most
        };
        due.into_iter().filter(is_due).map(str::to_owned).collect()
    }

    /// Takes in what a service answered; `None` if it did not.
    pub(super) fn learn(&mut self, reference: String, attributes: Option<BTreeMap<String, String>>) {
        self.turn += 1;
        let known = self.known.entry(reference).or_default();
        known.turn = self.turn;
        known.is_answered = attributes.is_some();
        if let Some(attributes) = attributes {
            let label =
                |(key, value): (String, String)| Some((key.strip_prefix(LABEL_PREFIX)?.to_owned(), value));
            known.labels = attributes.into_iter().filter_map(label).collect();
        }
    }

    /// Forgets every service but these.
    pub(super) fn retain(&mut self, services: &BTreeMap<String, Listed>) {
        let there: BTreeSet<&str> = services.values().map(|service| service.reference.as_str()).collect();
        self.known.retain(|reference, _| there.contains(reference.as_str()));
    }
}
