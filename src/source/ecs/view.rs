//! From what is known of a cluster to its [`View`].
//!
//! It is not a reading: it asks nobody.
//!
//! Invariant: pure; and what equals the view before is the view before, in memory too.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use imbl::OrdMap;

use super::defaults::Defaults;
use super::describe::{self, Cluster, Offer};
use super::facts::{Connect, NamedPort, Revision, ServiceFacts};
use super::instances::Instances;
use super::place::Location;
use super::read::Unread;
use super::standalone::{self, families, group_of};
use super::tags::{Tags, VERSION};
use super::task_tags::TaskTags;
use super::tasks::{Known, Tasks};
use crate::model::{
    Crew, Crews, Finding, InstanceId, Member, OccupiedPorts, Phase, Place, Registration, ServiceKey,
    ServiceName, ServiceView, TaskState, TasksByPlace, View,
};
use crate::source::{SourceError, words};

/// Revisions by task definition ARN.
pub(super) type Revisions = HashMap<Arc<str>, Arc<Revision>>;
/// Services by ARN.
pub(super) type Services = BTreeMap<Arc<str>, ServiceFacts>;

/// All that is known of a cluster at one time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Knowledge<'a> {
    pub cluster: Cluster<'a>,
    /// The cluster's name, which Cloud Map calls it by too.
    pub short: &'a Arc<str>,
    /// The account and Region.
    pub home: &'a Arc<str>,
    pub defaults: &'a Defaults,
    pub services: &'a Services,
    pub revisions: &'a Revisions,
    pub tasks: &'a Tasks,
    pub unread: &'a Unread,
    pub instances: &'a Instances,
    pub now: SystemTime,
}

/// A task with what it takes to judge it.
#[derive(Clone, Copy)]
pub(super) struct Judged<'a> {
    pub task: &'a Known,
    pub revision: Option<&'a Revision>,
    pub phase: Phase,
    location: Location<'a>,
}

impl Judged<'_> {
    /// Its service, if it runs and nobody knows where.
    fn unplaced(&self) -> Option<&Arc<str>> {
        let unplaced = matches!(self.phase, Phase::Running(_)) && self.location.is_unknown();
        self.task.facts.service.as_ref().filter(|_| unplaced)
    }
}

/// A view, and what it was drawn from that only a reading changes.
#[derive(Clone, Debug, Default)]
pub(super) struct Drawn {
    pub view: View,
    offers: BTreeMap<ServiceKey, Offer>,
    /// The names that an ECS service offers.
    offered_by: HashMap<Arc<str>, Vec<ServiceKey>>,
}

impl Drawn {
    /// Whether an ECS service offers anything here.
    pub(super) fn has_offers_of(&self, service: &str) -> bool {
        self.offered_by.contains_key(service)
    }
}

impl<'a> Knowledge<'a> {
    /// The view, sharing with `before` what has not changed.
    pub(super) fn draw(&self, before: &Drawn) -> Drawn {
        let judged: Vec<Judged<'_>> = self.tasks.iter().map(|task| self.judge(task)).collect();
        let by_name: HashMap<&str, &ServiceFacts> =
            self.services.values().map(|service| (&*service.name, service)).collect();
        let (offers, mut findings) = self.offers(&judged);
        let offers = one_owner(offers, &mut findings);
        let mut services = OrdMap::new();
        for (key, offer) in &offers {
            let facts = by_name.get(&*offer.service).copied();
            services.insert(key.clone(), self.service(before.view.services.get(key), offer, facts));
        }
        findings.extend(self.doubts());
        findings.extend(self.unread.iter().map(|(arn, error)| self.cannot_read(arn, error)));
        findings.extend(self.defaults.findings(self.cluster.name));
        findings.extend(self.instances.findings(self.cluster.name));
        findings.sort();
        findings.dedup();
        let view = View {
            services,
            clusters: [Arc::clone(self.short)].into(),
            namespaces: self.cluster.rules.iter().map(|rule| rule.namespace.clone()).collect(),
            home: Some(Arc::clone(self.home)),
            occupied: occupied(&judged),
            tasks: by_place(&judged),
            unplaced: judged.iter().filter_map(Judged::unplaced).cloned().collect(),
            crews: self.crews(&judged, &before.view.crews),
            findings,
        };
        let mut offered_by: HashMap<Arc<str>, Vec<ServiceKey>> = HashMap::new();
        for (key, offer) in &offers {
            offered_by.entry(Arc::clone(&offer.service)).or_default().push(key.clone());
        }
        Drawn { view, offers, offered_by }
    }

    /// The places that these tasks have, as far as they are known.
    pub(super) fn places(&self, tasks: &[InstanceId]) -> Vec<Place> {
        let known = tasks.iter().filter_map(|arn| self.tasks.get(arn));
        known.flat_map(|task| self.judge(task).location.places()).collect()
    }

    /// Draws anew what follows from these tasks, which may have gone. `before` are the places that they had.
    pub(super) fn redraw(&self, drawn: &mut Drawn, tasks: &[InstanceId], before: &[Place]) {
        let touched = || tasks.iter().filter_map(|arn| self.tasks.get(arn));
        let groups: BTreeSet<Arc<str>> = touched().map(|task| group_of(&task.facts)).collect();
        let view = &mut drawn.view;
        for name in groups.iter().map(|group| standalone::name_of(group)) {
            let same_name = [name.to_owned(), standalone::family_group(name)];
            let tasks = same_name.iter().flat_map(|group| self.tasks.of_group(group));
            let crew = crew(tasks.map(|task| self.judge(task)).collect::<Vec<_>>().iter());
            self.crew_keys(name).for_each(|key| enter(&mut view.crews, key, &crew));
        }
        for service in &groups {
            let facts = self.services.values().rfind(|facts| facts.name == *service);
            for key in drawn.offered_by.get(service).into_iter().flatten() {
                if let Some(offer) = drawn.offers.get(key) {
                    let renewed = self.service(view.services.get(key), offer, facts);
                    view.services.insert(key.clone(), renewed);
                }
            }
            if self.tasks.of_group(service).any(|task| self.judge(task).unplaced().is_some()) {
                view.unplaced.insert(Arc::clone(service));
            } else {
                view.unplaced.remove(service);
            }
        }
        for arn in tasks {
            match self.tasks.get(arn).and_then(|task| occupies(&self.judge(task))) {
                Some((arn, ports)) => drop(view.occupied.insert(arn, ports)),
                None => drop(view.occupied.remove(arn)),
            }
        }
        let places: BTreeSet<Place> = before.iter().copied().chain(self.places(tasks)).collect();
        for place in places {
            match by_place(&self.candidates(place)).remove(&place) {
                Some(state) => drop(view.tasks.insert(place, state)),
                None => drop(view.tasks.remove(&place)),
            }
        }
    }

    /// The crew of each service, sharing with `before` what has not changed.
    fn crews(&self, judged: &[Judged<'a>], before: &Crews) -> Crews {
        let mut by_name: BTreeMap<Arc<str>, Vec<&Judged<'a>>> = BTreeMap::new();
        for task in judged {
            let group = group_of(&task.task.facts);
            by_name.entry(standalone::name_of(&group).into()).or_default().push(task);
        }
        let each = by_name.into_iter().map(|(name, tasks)| (name, crew(tasks.into_iter())));
        let keyed = each.flat_map(|(name, crew)| self.crew_keys(&name).map(move |key| (key, crew.clone())));
        let mut crews = before.clone();
        let now: BTreeMap<ServiceKey, Crew> = keyed.filter(|(_, crew)| !crew.is_empty()).collect();
        let gone: Vec<_> = crews.keys().filter(|key| !now.contains_key(*key)).cloned().collect();
        gone.iter().for_each(|key| drop(crews.remove(key)));
        now.into_iter().for_each(|(key, crew)| enter(&mut crews, key, &crew));
        crews
    }

    /// A crew may be in any namespace that the cluster feeds: its sidecars say in which.
    fn crew_keys(&self, name: &str) -> impl Iterator<Item = ServiceKey> + use<'a> {
        let name = ServiceName::from(name);
        let rules = self.cluster.rules.iter();
        rules.map(move |rule| ServiceKey { namespace: rule.namespace.clone(), name: name.clone() })
    }

    /// Every task that may have a place.
    fn candidates(&self, place: Place) -> Vec<Judged<'a>> {
        let judge = |task| self.judge(task);
        match place.port {
            None => self.tasks.at_address(place.address).map(judge).collect(),
            Some(_) => {
                let machines = self.instances.at(place.address);
                machines.flat_map(|machine| self.tasks.on_machine(machine)).map(judge).collect()
            }
        }
    }

    fn judge(&self, task: &'a Known) -> Judged<'a> {
        let revision = self.revisions.get(&task.facts.definition).map(AsRef::as_ref);
        let location = Location::of(&task.facts, revision, self.instances);
        Judged { task, revision, phase: task.phase(revision, self.now), location }
    }

    fn service(
        &self,
        before: Option<&Arc<ServiceView>>,
        offer: &Offer,
        facts: Option<&ServiceFacts>,
    ) -> Arc<ServiceView> {
        let tasks = self.tasks.of_group(&offer.service).map(|task| self.judge(task));
        let tasks = tasks.filter(|task| self.serves(task, offer));
        let registrations = tasks.map(|task| register(&task, offer, facts)).collect();
        shared(before, offer, registrations)
    }

    /// Of tasks that ECS lists no more and knows nothing of, after one reading.
    fn doubts(&self) -> Option<Finding> {
        let count = self.tasks.iter().filter(|task| task.is_doubtful()).count();
        let message = format!(
            "ECS knows nothing of {count} of its tasks and did not say that they stopped; they stay until the next \
             reading lacks them too"
        );
        let object = format!("ecs {}", self.cluster.name);
        (count > 0).then_some(Finding { code: "SRC003", object, message })
    }

    fn cannot_read(&self, definition: &str, error: &SourceError) -> Finding {
        let label = definition.rsplit('/').next().unwrap_or(definition);
        let object = format!("ecs {}, task definition {label}", self.cluster.name);
        error.finding(object, "can't be read, so its new tasks get no traffic: ")
    }

    /// Whether a task of the offer's group is meant: of standalone ones only those that say so themselves.
    fn serves(&self, task: &Judged<'_>, offer: &Offer) -> bool {
        offer.said.as_ref().is_none_or(|said| {
            self.is_member(task) && standalone::said(&task.task.facts, self.cluster) == **said
        })
    }

    fn is_member(&self, task: &Judged<'_>) -> bool {
        let (facts, rules) = (&task.task.facts, self.cluster.rules);
        task.revision.is_some_and(|revision| standalone::is_member(facts, revision, rules))
    }

    /// Whether one of these is a standalone task that serves and has no service yet.
    pub(super) fn lacks_service(&self, drawn: &Drawn, tasks: &[InstanceId]) -> bool {
        let tasks = tasks.iter().filter_map(|arn| self.tasks.get(arn)).map(|task| self.judge(task));
        let mut members = tasks.filter(|task| self.is_member(task));
        members.any(|task| {
            let keys = drawn.offered_by.get(&group_of(&task.task.facts)).into_iter().flatten();
            !keys.filter_map(|key| drawn.offers.get(key)).any(|offer| self.serves(&task, offer))
        })
    }

    fn offers(&self, judged: &[Judged<'a>]) -> (Vec<Offer>, Vec<Finding>) {
        let (mut offers, mut findings) = (Vec::new(), Vec::new());
        let mut tagged: HashMap<&str, Vec<Judged<'a>>> = HashMap::new();
        let has_tags =
            |task: &&Judged<'a>| task.task.facts.tags.as_ref().is_some_and(|tags| !tags.is_empty());
        for task in judged.iter().filter(has_tags) {
            if let Some(service) = &task.task.facts.service {
                tagged.entry(service).or_default().push(*task);
            }
        }
        for service in self.services.values() {
            let definition = service.definition.as_ref();
            let Some(revision) = definition.and_then(|definition| self.revisions.get(definition)) else {
                continue; // nothing was ever deployed
            };
            let told = tagged.get(&*service.name).map(|tasks| TaskTags::of_service(service, tasks));
            let told = told.unwrap_or_default();
            let (offered, found) = describe::describe(self.cluster, service, &told, revision);
            offers.extend(offered);
            if service.active {
                findings.extend(found);
            }
        }
        for family in families(judged, self.cluster) {
            let (offered, found) =
                describe::describe(self.cluster, &family.facts, &family.told, family.revision);
            let said = |offer| Offer { said: Some(Arc::clone(&family.said)), ..offer };
            offers.extend(offered.into_iter().map(said));
            if family.facts.active {
                findings.extend(found);
            }
        }
        (offers, findings)
    }
}

/// Of several offers under one name the oldest keeps it; one that still stands before one that drains, and an ECS service
/// before standalone tasks.
fn one_owner(mut offers: Vec<Offer>, findings: &mut Vec<Finding>) -> BTreeMap<ServiceKey, Offer> {
    let age = |offer: &Offer| (!offer.active, offer.spec.created_at.is_none(), offer.spec.created_at);
    offers.sort_by(|a, b| (age(a), &a.service, &a.port).cmp(&(age(b), &b.service, &b.port)));
    let mut owners: BTreeMap<ServiceKey, Offer> = BTreeMap::new();
    for offer in offers {
        let Some(owner) = owners.get(&offer.spec.key) else {
            owners.insert(offer.spec.key.clone(), offer);
            continue;
        };
        if offer.active {
            let Offer { spec, port, .. } = &offer;
            let why = if spec.created_at.is_none() { "comes before standalone tasks" } else { "is older" };
            findings.push(Finding {
                code: "NAME002",
                object: format!("{}, port {port}", spec.origin),
                message: format!(
                    "the name {} belongs to {}, port {}, which {why}; \
                     give this one another with the tag legation:discovery-name/{port}",
                    spec.key, owner.spec.origin, owner.port
                ),
            });
        }
    }
    owners
}

/// The block in force for a task: its own deployment's; the primary's where ECS does not say which.
fn connect_of<'a>(task: &Known, service: Option<&'a ServiceFacts>) -> Option<&'a Arc<Connect>> {
    let service = service?;
    let own = task.facts.started_by.as_ref().and_then(|id| service.deployments.get(id));
    own.map_or(service.connect.as_ref(), Option::as_ref)
}

/// Which version of its service a task is: what a tag of its own says, one of the service, a label, or else the revision of
/// its task definition.
fn version_of(task: &Judged<'_>, service: Option<&ServiceFacts>) -> Option<Arc<str>> {
    let said = |tags: Option<&Tags>| tags?.get(VERSION).filter(|version| version_is_sound(version)).cloned();
    let revision = task.revision?;
    let label =
        || Some(revision.labels.get(VERSION)?.first()?.1.clone()).filter(|version| version_is_sound(version));
    let tagged = said(task.task.facts.tags.as_deref()).or_else(|| said(service.map(|service| &service.tags)));
    let number = || Some(revision.label.rsplit_once(':')?.1.to_owned());
    tagged.or_else(label).or_else(number).map(Into::into)
}

fn version_is_sound(version: &str) -> bool {
    words::version(version).is_ok()
}

fn register(task: &Judged<'_>, offer: &Offer, service: Option<&ServiceFacts>) -> Registration {
    let facts = &task.task.facts;
    let block = connect_of(task.task, service).and_then(|connect| connect.port(&offer.port));
    let port = task.revision.and_then(|revision| port_of(revision, offer));
    // In every network mode the port at the task's address, on which Service Connect's own proxy listens.
    let ingress = block.and_then(|block| block.ingress_port);
    let own = || port.and_then(|port| task.location.port(&port.container, port.number.ok()?));
    Registration {
        instance: facts.arn.clone(),
        address: task.location.address,
        port: ingress.or_else(own),
        zone: facts.zone.clone(),
        version: version_of(task, service),
        phase: port.map_or(task.phase, |port| task.task.phase_of_port(task.phase, &port.container)),
        started_at: task.task.began_at(),
        member: Member::Ecs,
        foreign_tls: block.is_some_and(|block| block.tls),
        held: task.task.is_doubtful(),
    }
}

/// The offered port in a task's own revision: by its name, and where a deployment renames it, by its number or
/// because it is the only one. The old tasks serve until the new ones do.
fn port_of<'a>(revision: &'a Revision, offer: &Offer) -> Option<&'a NamedPort> {
    let carried = || revision.ports.iter().filter(|port| port.number.is_ok());
    let by_number = || carried().find(|port| port.number == Ok(offer.number));
    let only = || carried().next().filter(|_| carried().count() == 1);
    revision.port(&offer.port).or_else(by_number).or_else(only)
}

fn shared(
    before: Option<&Arc<ServiceView>>,
    offer: &Offer,
    registrations: Vec<Registration>,
) -> Arc<ServiceView> {
    let (spec, active) = (Arc::clone(&offer.spec), offer.active);
    let Some(before) = before else {
        return Arc::new(ServiceView { spec, active, registrations });
    };
    let spec = if before.spec == spec { Arc::clone(&before.spec) } else { spec };
    let same = before.active == active && before.registrations == registrations;
    if Arc::ptr_eq(&spec, &before.spec) && same {
        return Arc::clone(before);
    }
    Arc::new(ServiceView { spec, active, registrations })
}

/// Where these tasks run, as far as it is known.
fn crew<'a>(tasks: impl Iterator<Item = &'a Judged<'a>>) -> Crew {
    let running = tasks.filter(|task| matches!(task.phase, Phase::Running(_)));
    let place = |task: &Judged<'_>| Some((task.task.facts.zone.clone()?, task.location.address?));
    let places: BTreeSet<_> = running.filter_map(place).collect();
    places.into_iter().collect()
}

fn enter(crews: &mut Crews, key: ServiceKey, crew: &Crew) {
    if crew.is_empty() {
        crews.remove(&key);
    } else if crews.get(&key) != Some(crew) {
        crews.insert(key, Arc::clone(crew));
    }
}

/// Until its containers are gone a task's ports stay its own: a stopping sidecar must not fail either.
fn occupies(task: &Judged<'_>) -> Option<(InstanceId, Arc<[u16]>)> {
    let ports = Arc::clone(&task.revision?.occupied);
    (task.phase != Phase::Stopped).then(|| (task.task.facts.arn.clone(), ports))
}

fn occupied(tasks: &[Judged<'_>]) -> OccupiedPorts {
    tasks.iter().filter_map(occupies).collect()
}

fn by_place(tasks: &[Judged<'_>]) -> TasksByPlace {
    let mut by_place = TasksByPlace::new();
    for one in tasks.iter().filter(|task| task.phase != Phase::Stopped) {
        let (instance, phase) = (one.task.facts.arn.clone(), one.phase);
        let service = one.task.facts.service.clone();
        let state = TaskState { instance, service, phase, started_at: one.task.began_at() };
        for place in one.location.places() {
            let youngest = by_place.entry(place).or_insert_with(|| state.clone());
            if (state.started_at, &state.instance) > (youngest.started_at, &youngest.instance) {
                *youngest = state.clone();
            }
        }
    }
    by_place
}
