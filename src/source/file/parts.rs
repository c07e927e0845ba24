//! What tells endpoints of a service apart, and how a deployment shifts traffic between them, in a recorded world.
//!
//! People write none of it. Invariant: what is written and read again is the same.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::model::{Revision, Share, Shift, TestHeader, Traits, Which};

const SHARES: [(&str, Share); 3] =
    [("full", Share::Full), ("awaits", Share::Awaits), ("unknown", Share::Unknown)];

/// What tells an endpoint from others.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(super) struct WrittenTraits {
    deployment: Option<String>,
    labels: Vec<(String, String)>,
    revision: Option<String>,
    share: Option<String>,
}

/// How traffic is shifted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct WrittenShift {
    revisions: Vec<WrittenRevision>,
    header: String,
    header_value: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenRevision {
    id: String,
    production: u32,
    test: u32,
    serves: bool,
}

impl WrittenTraits {
    pub(super) fn read(&self, version: Option<Arc<str>>) -> Traits {
        let label = |(key, value): &(String, String)| (key.as_str().into(), value.as_str().into());
        let share = SHARES.iter().find(|(word, _)| self.share.as_deref() == Some(word));
        Traits {
            version,
            deployment: self.deployment.as_deref().and_then(Which::read),
            labels: Arc::new(self.labels.iter().map(label).collect()),
            revision: self.revision.as_deref().map(Into::into),
            // What a damaged world says is not believed.
            share: share
                .map_or_else(|| self.share.as_ref().map_or(Share::Full, |_| Share::Unknown), |(_, it)| *it),
        }
    }
}

impl WrittenShift {
    pub(super) fn read(&self) -> Shift {
        let revision = |it: &WrittenRevision| Revision {
            id: it.id.as_str().into(),
            production: it.production.min(1_000),
            test: it.test.min(1_000),
            serves: it.serves,
        };
        let value = self.header_value.as_deref().map(Into::into);
        let header = TestHeader { name: self.header.as_str().into(), value };
        Shift { revisions: self.revisions.iter().map(revision).collect(), header }
    }
}

/// All but the version; nothing if there is nothing to say.
pub(super) fn traits(traits: &Traits) -> Option<Value> {
    let mut written = Map::new();
    let mut say = |key: &str, value: Value| _ = written.insert(key.to_owned(), value);
    traits.deployment.iter().for_each(|which| say("deployment", which.as_str().into()));
    if !traits.labels.is_empty() {
        say("labels", json!(traits.labels.iter().collect::<Vec<_>>()));
    }
    traits.revision.iter().for_each(|id| say("revision", (**id).into()));
    let share = SHARES.iter().find(|(_, share)| *share == traits.share && *share != Share::Full);
    share.iter().for_each(|(word, _)| say("share", (*word).into()));
    (!written.is_empty()).then(|| written.into())
}

pub(super) fn shift(shift: &Shift) -> Value {
    let revision = |it: &Revision| json!({ "id": it.id, "production": it.production, "test": it.test, "serves": it.serves });
    let revisions: Vec<_> = shift.revisions.iter().map(revision).collect();
    json!({ "revisions": revisions, "header": shift.header.name, "headerValue": shift.header.value })
}
