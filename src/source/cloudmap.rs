//! One Cloud Map namespace as a source: members that ECS does not run, or runs elsewhere.
//!
//! It is not a judge: an instance that says a watched ECS cluster runs it is ECS's to judge, in the mesh.
//!
//! Invariant: a reading is taken in whole. An empty answer is believed only from a namespace that exists, and a service
//! that is not listed has gone only when discovery does not know it either.

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
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
use super::{CellWriter, Pace, Pacer, SourceError};
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

/// A namespace and its services by name.
type Listing = (Found, BTreeMap<String, Listed>);

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

/// When looks are due.
#[derive(Clone, Copy, Debug)]
struct Looks {
    rhythm: Rhythm,
    revisions: Instant,
    health: Instant,
}

impl Looks {
    fn new(rhythm: Rhythm) -> Self {
        let now = Instant::now();
        Self { rhythm, revisions: now + rhythm.revisions, health: now + rhythm.health }
    }

    fn due(&self) -> Instant {
        self.revisions.min(self.health)
    }

    fn is_for_revisions(&self) -> bool {
        self.revisions <= self.health
    }

    /// One was taken just now.
    fn note(&mut self, is_for_revisions: bool) {
        let now = Instant::now();
        if is_for_revisions {
            self.revisions = now + self.rhythm.revisions;
        } else {
            self.health = now + self.rhythm.health;
        }
    }
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
            let (mut pacer, mut looks) = (Pacer::new(pace), Looks::new(rhythm));
            loop {
                let started = Instant::now();
                // Listing is the scarcest of calls and may wait long for its turn: looks go on meanwhile.
                let listing = self.listing();
                let listed = self.watch(&cell, &mut looks, listing).await;
                let outcome = cell.letting_go(self.take_in(listed)).await;
                let wake = pacer.next(&cell, started, outcome, true);
                self.watch(&cell, &mut looks, tokio::time::sleep_until(wake)).await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = work => {}
        }
    }

    /// Looks for others and for health until something else is done, and returns that. A look that has begun is brought to its
    /// end, and one that is due comes first: readings may take longer than they are apart.
    async fn watch<T>(&mut self, cell: &CellWriter, looks: &mut Looks, until: impl Future<Output = T>) -> T {
        let mut until = pin!(until);
        loop {
            let due = looks.due();
            if due > Instant::now() {
                tokio::select! {
                    done = &mut until => return done,
                    () = tokio::time::sleep_until(due) => {}
                    () = cell.released() => continue,
                }
            }
            let is_for_revisions = looks.is_for_revisions();
            let look = async { if is_for_revisions { self.look().await } else { self.examine().await } };
            let (is_news, done) = both(cell.letting_go(look), until.as_mut()).await;
            looks.note(is_for_revisions);
            if is_news {
                cell.correct(self.draw());
            }
            if let Some(done) = done {
                return done;
            }
        }
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

    /// The namespace and its services by name, as they will be listed.
    fn listing(&self) -> impl Future<Output = Result<Listing, SourceError>> + use<> {
        let (calls, known) = (self.calls.clone(), self.found.clone());
        let wanted = self.settings.cloud_map_namespace.clone();
        async move {
            if let Some(known) = &known {
                let services = calls.services(known).await?;
                if !services.is_empty() {
                    return Ok((known.clone(), services));
                }
            }
            // A namespace that was made anew has another id, and the old one lists nothing.
            let found = namespace::find(&calls, &wanted).await?;
            let is_same = known.as_ref() == Some(&found);
            let services = if is_same { BTreeMap::new() } else { calls.services(&found).await? };
            Ok((found, services))
        }
    }

    /// Takes in a reading that has got so far.
    async fn take_in(&mut self, listed: Result<Listing, SourceError>) -> Result<View, SourceError> {
        let read = async {
            let (found, services) = listed?;
            self.found = Some(found.clone());
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

/// What one comes to, and what another has come to meanwhile.
async fn both<A, B>(
    one: impl Future<Output = A>,
    mut other: Pin<&mut impl Future<Output = B>>,
) -> (A, Option<B>) {
    let (mut one, mut done) = (pin!(one), None);
    loop {
        tokio::select! {
            one = &mut one => return (one, done),
            other = other.as_mut(), if done.is_none() => done = Some(other),
        }
    }
}

#[cfg(test)]
mod tests;
