//! One Cloud Map namespace as a source: members that ECS does not run, or runs elsewhere.
//!
//! It is not a judge: an instance that says a watched ECS cluster runs it is ECS's to judge, in the mesh.
//!
//! Invariant: a reading is taken in whole. An empty answer is believed only from a namespace that exists, and a service
//! that is not listed has gone only when discovery does not know it either.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::attributes::Attributes;
use self::calls::{Calls, is_gone};
use self::members::{Listed, Members};
use self::namespace::Found;
use super::aws::{self, Access};
use super::{CellWriter, Pace, Pacer, SourceError, Sweep};
use crate::model::{Finding, Namespace, View};

mod attributes;
mod calls;
mod describe;
mod members;
mod namespace;

/// Calls under way at once.
const AT_ONCE: usize = 6;

/// What to read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The Cloud Map namespace, by name, or by ARN where another account shares it.
    pub cloud_map_namespace: String,
    /// The namespace that its services join.
    pub namespace: Namespace,
}

/// How often to look between two readings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rhythm {
    /// For services whose instances are others.
    pub revisions: Duration,
    /// For the health of instances, which raises no revision.
    pub health: Duration,
}

/// The source: the calls, and what is known so far.
#[derive(Debug)]
pub struct CloudMapSource {
    calls: Calls,
    /// The account and Region.
    home: Arc<str>,
    settings: Settings,
    /// Kept from one reading to the next, because namespaces may be listed but once a second.
    found: Option<Found>,
    /// As they were drawn last.
    services: describe::Services,
    /// As they were read last, by name.
    known: BTreeMap<String, Known>,
    attributes: Attributes,
    troubles: Troubles,
    /// How many services were looked at for their health: the next look begins with the one after.
    examined: usize,
}

/// One service.
#[derive(Clone, Debug)]
struct Known {
    listed: Listed,
    members: Members,
}

/// What could not be read although the whole was, and why: it is as it was before.
type Troubles = BTreeMap<Part, SourceError>;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Part {
    Attributes,
    Health,
    Revisions,
}

impl CloudMapSource {
    /// A source that has read nothing yet.
    pub fn new(access: &Access, settings: Settings) -> Self {
        Self {
            calls: Calls::new(access),
            home: access.home(),
            settings,
            found: None,
            services: describe::Services::new(),
            known: BTreeMap::new(),
            attributes: Attributes::default(),
            troubles: Troubles::new(),
            examined: 0,
        }
    }

    /// Reads everything at the pace, and between readings looks for what has changed, at a rhythm of its own.
    pub async fn run(mut self, cell: CellWriter, pace: Pace, rhythm: Rhythm, shutdown: CancellationToken) {
        let work = async {
            let mut pacer = Pacer::new(pace);
            loop {
                let started = Instant::now();
                let outcome = cell.letting_go(self.sweep()).await;
                let wake = pacer.next(&cell, started, outcome, true);
                self.watch(&cell, rhythm, wake).await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = work => {}
        }
    }

    /// Looks for others and for health until it is time to read everything again.
    async fn watch(&mut self, cell: &CellWriter, rhythm: Rhythm, wake: Instant) {
        let now = Instant::now();
        let (mut revisions, mut health) = (now + rhythm.revisions, now + rhythm.health);
        while revisions.min(health) < wake {
            cell.letting_go(tokio::time::sleep_until(revisions.min(health))).await;
            let is_news = if revisions <= health {
                let is_news = cell.letting_go(self.look()).await;
                revisions = Instant::now() + rhythm.revisions;
                is_news
            } else {
                let is_news = cell.letting_go(self.examine()).await;
                health = Instant::now() + rhythm.health;
                is_news
            };
            if is_news {
                cell.correct(self.draw());
            }
        }
        cell.letting_go(tokio::time::sleep_until(wake)).await;
    }

    /// Reads anew each service whose instances are others. Returns whether there is anything to tell.
    async fn look(&mut self) -> bool {
        let Some(found) = &self.found else { return false };
        let calls = &self.calls;
        let names: Vec<_> = self.known.keys().cloned().collect();
        let revisions = names.into_iter().map(|name| async move {
            let revision = calls.revision(found, &name).await?;
            Ok((name, revision))
        });
        let revisions: Result<Vec<_>, SourceError> =
            stream::iter(revisions).buffered(AT_ONCE).try_collect().await;
        let revisions = match revisions {
            Ok(revisions) => revisions,
            Err(error) => return note(&mut self.troubles, Part::Revisions, Some(error)),
        };
        let mut is_news = note(&mut self.troubles, Part::Revisions, None);
        for (name, revision) in revisions {
            let Some(known) = self.known.get_mut(&name).filter(|known| known.members.revision != revision)
            else {
                continue;
            };
            // What fails is found by the next reading.
            if let Ok(members) = calls.members(found, &known.listed).await {
                is_news |= renew(known, members);
            }
        }
        is_news
    }

    /// Reads anew the health of every instance that somebody judges. A failure ends the look, and the next begins where
    /// this one ended. Returns whether there is anything to tell.
    async fn examine(&mut self) -> bool {
        let Some(found) = &self.found else { return false };
        let is_due = |known: &&Known| known.listed.is_checked && !known.members.instances.is_empty();
        // Of those that one answer does not hold only the health is asked for: who they are is told by revisions.
        let cut = |known: &Known| known.members.is_cut.then(|| known.members.clone());
        let due = self.known.values().filter(is_due).map(|known| (known.listed.clone(), cut(known)));
        let mut due: Vec<_> = due.collect();
        let first = self.examined % due.len().max(1);
        due.rotate_left(first);
        let calls = &self.calls;
        let answers = due.into_iter().map(|(listed, cut)| async move {
            let members = match cut {
                Some(members) => calls.with_health(&listed, members).await,
                None => calls.members(found, &listed).await,
            };
            (listed.name, members)
        });
        let mut answers = pin!(stream::iter(answers).buffered(AT_ONCE));
        let (mut is_news, mut trouble) = (false, None);
        while let Some((name, members)) = answers.next().await {
            self.examined += 1;
            match members {
                Ok(members) => {
                    is_news |= self.known.get_mut(&name).is_some_and(|known| renew(known, members));
                }
                // It was deleted, which the next reading finds.
                Err(error) if is_gone(&error) => {}
                Err(error) => {
                    trouble = Some(error);
                    break;
                }
            }
        }
        note(&mut self.troubles, Part::Health, trouble) || is_news
    }

    /// The namespace and its services by name.
    async fn list(&mut self) -> Result<(Found, BTreeMap<String, Listed>), SourceError> {
        let mut services = BTreeMap::new();
        if let Some(found) = &self.found {
            services = self.calls.services(found).await?;
            if !services.is_empty() {
                return Ok((found.clone(), services));
            }
        }
        // A namespace that was made anew has another id, and the old one lists nothing.
        let found = namespace::find(&self.calls, &self.settings.cloud_map_namespace).await?;
        if self.found.as_ref() != Some(&found) {
            services = self.calls.services(&found).await?;
            self.found = Some(found.clone());
        }
        Ok((found, services))
    }

    /// Each service with its instances.
    async fn read(
        &self,
        found: &Found,
        services: &BTreeMap<String, Listed>,
    ) -> Result<BTreeMap<String, Known>, SourceError> {
        // Pages may lose what moved from one to another meanwhile.
        let unlisted = self.known.iter().filter(|(name, _)| !services.contains_key(*name));
        let unlisted = unlisted.map(|(_, known)| (known.listed.clone(), false));
        let all: Vec<_> = services.values().map(|listed| (listed.clone(), true)).chain(unlisted).collect();
        let calls = all.into_iter().map(|(listed, is_listed)| async move {
            match self.calls.members(found, &listed).await {
                Ok(members) => Ok(Some((listed.name.clone(), Known { listed, members }))),
                Err(error) if !is_listed && is_gone(&error) => Ok(None),
                Err(error) => Err(error),
            }
        });
        let known: Vec<_> = stream::iter(calls).buffered(AT_ONCE).try_collect().await?;
        Ok(known.into_iter().flatten().collect())
    }

    /// Reads anew the attributes of the services whose turn it is. What can't be read stays as it was; but before the first
    /// reading nothing is known, and only who may not read them does without.
    async fn read_attributes(&mut self, services: &BTreeMap<String, Listed>) -> Result<(), SourceError> {
        let is_first = self.known.is_empty();
        let calls = &self.calls;
        let answers = self.attributes.due(services).into_iter().map(|reference| async move {
            let answer = calls.attributes(&reference).await;
            (reference, answer)
        });
        let mut answers = pin!(stream::iter(answers).buffered(AT_ONCE));
        let mut trouble = None;
        while let Some((reference, answer)) = answers.next().await {
            match answer {
                Ok(attributes) => self.attributes.learn(reference, Some(attributes)),
                Err(error) if is_gone(&error) => {}
                Err(error) if is_first && !aws::is_denial(&error.code) => return Err(error),
                Err(error) => {
                    self.attributes.learn(reference, None);
                    trouble = Some(error);
                    break;
                }
            }
        }
        note(&mut self.troubles, Part::Attributes, trouble);
        Ok(())
    }

    /// The view of what is known.
    fn draw(&mut self) -> View {
        let Settings { cloud_map_namespace, namespace } = &self.settings;
        let label = self.found.as_ref().map_or(cloud_map_namespace, |found| &found.label);
        let services = self.known.values().map(|known| describe::Known {
            name: &known.listed.name,
            created_at: known.listed.created_at,
            labels: self.attributes.of(&known.listed),
            instances: &known.members.instances,
        });
        let (services, mut findings) = describe::view(namespace, label, services, &self.services);
        self.services = services.clone();
        let object = format!("cloudmap {label}");
        findings.extend(self.troubles.iter().map(|(part, error)| error.finding(&*object, part.stays())));
        findings.extend(self.found.as_ref().and_then(|found| unread(&object, found)));
        findings.sort();
        View { services, findings, home: Some(Arc::clone(&self.home)), ..View::default() }
    }
}

impl Part {
    fn stays(self) -> &'static str {
        match self {
            Self::Attributes => "the attributes of services stay as they were read last: ",
            Self::Health => "health is seen only when everything is read: ",
            Self::Revisions => "changes are seen only when everything is read: ",
        }
    }
}

/// Tells of namespaces with the same name that others share.
fn unread(object: &str, found: &Found) -> Option<Finding> {
    let message = format!(
        "this account's own namespace is read, and none that other accounts share under its name; write the ARN to read \
         one of them: {}",
        found.namesakes.join(", ")
    );
    let finding = Finding { code: "NS002", object: object.to_owned(), message };
    Some(finding).filter(|_| !found.namesakes.is_empty())
}

/// Notes what came of reading a part; whether that is news.
fn note(troubles: &mut Troubles, part: Part, trouble: Option<SourceError>) -> bool {
    match trouble {
        Some(error) => {
            let before = troubles.insert(part, error.clone());
            before.is_none_or(|before| before.code != error.code)
        }
        None => troubles.remove(&part).is_some(),
    }
}

/// Takes in the instances of a service; whether they are others, or otherwise.
fn renew(known: &mut Known, members: Members) -> bool {
    let is_news = known.members.instances != members.instances;
    known.members = members;
    is_news
}

impl Sweep for CloudMapSource {
    async fn sweep(&mut self) -> Result<View, SourceError> {
        let read = async {
            let (found, services) = self.list().await?;
            let known = self.read(&found, &services).await?;
            let services: BTreeMap<_, _> =
                known.iter().map(|(name, known)| (name.clone(), known.listed.clone())).collect();
            self.read_attributes(&services).await?;
            self.attributes.retain(&services);
            Ok(known)
        };
        let known: Result<_, SourceError> = read.await;
        // Listing namespaces is the scarcest call: it is not repeated for any other failure.
        if known.as_ref().is_err_and(|error| error.code == "NamespaceNotFound") {
            self.found = None;
        }
        self.known = known?;
        Ok(self.draw())
    }
}

#[cfg(test)]
mod tests;
