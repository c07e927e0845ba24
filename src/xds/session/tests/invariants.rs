//! The invariants of `xds.md`, section 5, each a function with its number. Those of one response judge it
//! against what was said before it; those at rest judge what is left when the server has nothing more to say.
//!
//! Not judged here: I14 (canonical bytes) by the tests of `translate`, I16 (a stalled stream) by the
//! integration tests, I17 (closed slices) by `store`; of I10 the part "never empty before sync" by `server`.
//! I1, I4 and I18 also have a half in each model, which knows what its client made of the responses.
//!
//! Invariant: nothing here can fail because of what a client did, only because of what the session sent.

use std::collections::{BTreeMap, BTreeSet};

use super::audit::{Audit, Cause, Told};
use super::world::is_bad;
use super::*;

/// How long what must not come first waits, and how long where there is a doubt.
const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_secs(1);
/// How long it waits for who may have been cut off.
const BEGINNING: Duration = Duration::from_millis(250);

/// Which invariant does not hold, and how.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) rule: &'static str,
    pub(super) what: String,
}

pub(super) type Verdict = Result<(), Broken>;

/// Fails with the number of the invariant unless the condition holds.
pub(super) fn ensure(rule: &'static str, holds: bool, what: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(Broken { rule, what: what() }) }
}

/// Whether it is what stands for a resource that is not there: its name and nothing else.
pub(super) fn is_empty(resource: &Resource) -> bool {
    resource.any.ends_with(resource.name.as_bytes())
}

/// All that one response can be judged by, before it is noted.
pub(super) fn each_response(audit: &Audit, response: &Response, slice: &Slice) -> Verdict {
    i11_well_formed(audit, response)?;
    i10_full_where_it_must_be(audit, response, slice)?;
    i9_current_and_in_order(audit, response, slice)?;
    i5_prefix_safety(audit, response, slice)?;
    i3_absence_is_told_as_its_type_wants(audit, response, slice)?;
    i2_minimality(audit, response)
}

/// All that must hold when the server has nothing more to say.
pub(super) fn at_rest(audit: &Audit, session: &Session) -> Verdict {
    for kind in ResourceType::ALL {
        i1_told_is_served(audit, session, kind)?;
        i3_and_i6_nothing_is_due(audit, session, kind)?;
        i12_and_i13_subscription(audit, session, kind)?;
        i15_nothing_is_left_behind(audit, session, kind)?;
    }
    Ok(())
}

/// Whether the session holds this version back because it was refused.
fn is_quarantined(session: &Session, kind: ResourceType, name: &str, version: Version) -> bool {
    let asked = session.asked(kind);
    asked.is_some_and(|asked| asked.rejected.get(name).is_some_and(|it| it.version == version))
}

/// I1, the server's half: the client was told all of the slice that it subscribed to, less what it refused,
/// and nothing else.
fn i1_told_is_served(audit: &Audit, session: &Session, kind: ResourceType) -> Verdict {
    let (books, slice) = (audit.of(kind), session.slice());
    for name in slice.names(kind).filter(|name| books.wants(name)) {
        let version = slice.get(kind, name).map(|it| it.version);
        let told = books.told.get(name);
        let right = told.is_some_and(|told| told.sure && told.version == version);
        let quarantined = version.is_some_and(|version| is_quarantined(session, kind, name, version));
        // Who accepted it and refuses it together with others is believed the first time.
        let accepted = version.map(|version| (Name::clone(name), version));
        let accepted = audit.is_full(kind) && accepted.is_some_and(|it| books.ever_accepted.contains(&it));
        let right = right || quarantined || accepted;
        ensure("I1", right, || format!("{kind:?} {name} is served, but {told:?}"))?;
    }
    let keeps = matches!(kind, Route | Secret); // told with their parents
    for (name, told) in books.told.iter().filter(|(name, _)| !keeps && slice.get(kind, name).is_none()) {
        let empty = told.resource.as_ref().is_some_and(|resource| is_empty(resource));
        let gone = told.version.is_none() || empty || !books.wants(name);
        ensure("I1", gone, || format!("{kind:?} {name} is gone, but {told:?}"))?;
    }
    Ok(())
}

/// I2: nothing is sent that the client has and that is not due.
fn i2_minimality(audit: &Audit, response: &Response) -> Verdict {
    let (kind, books) = (response.kind, audit.of(response.kind));
    let has = |name: &Name, version: Option<Version>| {
        !books.due.contains_key(name)
            && !books.may_repeat.contains(name)
            && books.told.get(name).is_some_and(|told| told.sure && told.version == version)
    };
    if audit.is_full(kind) {
        let there: BTreeSet<_> = response.resources.iter().map(|it| &it.name).collect();
        let news = response.resources.iter().any(|it| !has(&it.name, Some(it.version)));
        let left_out = books
            .told
            .iter()
            .any(|(name, told)| !(there.contains(name) || told.version.is_none() && told.sure));
        let missing = response.missing.iter().any(|name| !books.said_missing.contains(name));
        // What was refused is taken back all the same: it may have been applied (item 54).
        let refused = |name| books.refused.iter().any(|(refused, _)| refused == name);
        let back = response.removed.iter().any(refused);
        // A suspect that changed back to what stands in for it is looked at all the same.
        let search = books.ever_refused;
        let reason = news || left_out || missing || back || search || books.reply_due;
        return ensure("I2", reason, || format!("{kind:?} is sent again: {response:?}"));
    }
    for resource in &response.resources {
        let again = has(&resource.name, Some(resource.version));
        ensure("I2", !again, || format!("{kind:?} {} is sent again", resource.name))?;
    }
    // Whoever was away may hold what it does not present.
    let perhaps = audit.resumed && matches!(kind, Cluster | Listener);
    for name in response.removed.iter().filter(|_| !perhaps) {
        let told = books.told.contains_key(name) || books.presented.contains(name);
        let known = told || books.due.contains_key(name);
        let again = !known || has(name, None);
        ensure("I2", !again, || format!("{kind:?} {name} is removed for no reason"))?;
    }
    let empty = response.resources.is_empty() && response.removed.is_empty();
    ensure("I2", !empty || books.reply_due, || format!("{kind:?}: an empty response"))
}

/// I3, of names that are not there: each is told as its type wants (`xds.md`, section 2.5).
fn i3_absence_is_told_as_its_type_wants(audit: &Audit, response: &Response, slice: &Slice) -> Verdict {
    let (kind, delta) = (response.kind, audit.terms.protocol == Protocol::Delta);
    let books = audit.of(kind);
    let empties = response.resources.iter().filter(|resource| is_empty(resource));
    for resource in empties {
        let right = kind == Route || (kind == Endpoint && !delta);
        ensure("I3", right, || format!("an empty {kind:?} {}", resource.name))?;
        let absent = slice.get(kind, &resource.name).is_none();
        ensure("I3", absent, || format!("{kind:?} {} is served, and sent empty", resource.name))?;
    }
    for name in &response.removed {
        let right = if delta { kind != Route } else { kind.has_wildcard() };
        ensure("I3", right, || format!("{kind:?} {name} is removed"))?;
        ensure("I3", slice.get(kind, name).is_none(), || format!("{kind:?} {name} is served, and removed"))?;
    }
    for name in &response.missing {
        let right = !delta && kind.has_wildcard() && books.names.contains(name);
        ensure("I3", right && !books.said_missing.contains(name), || format!("{kind:?} {name} is missing"))?;
        ensure("I3", slice.get(kind, name).is_none(), || format!("{kind:?} {name} is served, and missing"))?;
    }
    Ok(())
}

/// I3, of names that are there, and I6: whatever had to be sent was sent, though nothing changed.
fn i3_and_i6_nothing_is_due(audit: &Audit, session: &Session, kind: ResourceType) -> Verdict {
    let (books, delta) = (audit.of(kind), audit.terms.protocol == Protocol::Delta);
    ensure("I3", !books.reply_due, || format!("{kind:?}: the wildcard was never answered"))?;
    for (name, cause) in books.due.iter().filter(|(name, _)| books.wants(name)) {
        let rule = if *cause == Cause::Owed { "I6" } else { "I3" };
        let pardoned = match session.slice().get(kind, name) {
            Some(resource) => is_quarantined(session, kind, name, resource.version),
            // Left in silence (section 2.5), or no longer of interest.
            None => *cause != Cause::Named || (kind == Listener && delta) || (kind == Secret && !delta),
        };
        ensure(rule, pardoned, || format!("{kind:?} {name} is due ({cause:?})"))?;
    }
    Ok(())
}

/// I5: what is referred to was delivered and is not taken away while anything that the client was told refers to
/// it; and nothing that it presented goes before it is sure to be gone.
fn i5_prefix_safety(audit: &Audit, response: &Response, slice: &Slice) -> Verdict {
    let clusters = audit.of(Cluster);
    if response.kind >= Listener && audit.class == ProxyClass::Sidecar {
        i5_nothing_leads_to_what_warms(audit, response, slice)?;
    }
    for resource in response.resources.iter().filter(|it| it.kind == Route && clusters.requested) {
        for (_, name) in resource.depends_on.iter().filter(|(_, name)| clusters.wants(name)) {
            let told = clusters.told.get(name);
            let there = told.is_some_and(|told| told.version.is_some() || !told.sure);
            let refused = clusters.refused.iter().any(|(refused, _)| refused == name);
            ensure("I5", there || refused, || format!("{name} is routed to and was never sent: {told:?}"))?;
        }
    }
    if response.kind != Cluster {
        return Ok(());
    }
    let gone: Vec<_> = match audit.is_full(Cluster) {
        true => {
            let there: BTreeSet<_> = response.resources.iter().map(|it| &it.name).collect();
            let told = clusters.told.iter().filter(|(_, told)| told.version.is_some());
            told.map(|(name, _)| name).filter(|name| !there.contains(name)).collect()
        }
        false => response.removed.iter().collect(),
    };
    let held = |name: &Name| clusters.told.get(name).is_some_and(|it| it.version.is_some() && it.sure);
    for name in gone.iter().filter(|name| held(name)) {
        i5_nothing_refers_to(audit, slice, name)?;
    }
    let delta = audit.terms.protocol == Protocol::Delta;
    let early = gone.iter().find(|name| delta && !audit.confirmed && clusters.presented.contains(**name));
    let early = early.filter(|name| {
        clusters.told.get(**name).is_some_and(|it| it.resource.is_none() && it.version.is_some())
    });
    ensure("I5", early.is_none(), || format!("{early:?} may be served by other replicas"))
}

/// Envoy answers for clusters when they have warmed, which takes no longer than [`LONG`]; of one that changes it keeps
/// the old one meanwhile.
fn i5_nothing_leads_to_what_warms(audit: &Audit, response: &Response, slice: &Slice) -> Verdict {
    let (clusters, endpoints) = (audit.of(Cluster), audit.of(Endpoint));
    let perhaps_since = audit.of(response.kind).perhaps_since;
    let within = |since: Instant, time: Duration| audit.now < since + time;
    // Who refused load assignments may warm in vain.
    let time = if endpoints.ever_refused { SHORT } else { LONG };
    let cold = |name: &Name| {
        let mut flights = clusters.flights.iter().filter(|flight| within(flight.at, time));
        flights.any(|flight| flight.fresh.contains(name))
    };
    let books = audit.of(response.kind);
    let first = books.differs_since.values().min().filter(|_| response.kind == Listener);
    let since = |resource: &Resource| first.or(books.differs_since.get(&resource.name));
    let may_wait = |resource: &Resource| since(resource).is_none_or(|since| within(*since, time));
    for resource in response.resources.iter().filter(|resource| may_wait(resource)) {
        let known = books.told.get(&resource.name);
        let again = known.is_some_and(|told| told.version == Some(resource.version)); // where all is sent
        let again = again || books.refused.contains(&(resource.name.clone(), resource.version));
        let early = led_to(slice, resource).into_iter().find(|name| !again && cold(name));
        ensure("I5", early.is_none(), || format!("{} leads to {early:?}, which may warm", resource.name))?;
    }
    // Cut off while they warmed, it asks for them as soon as they have (item 44).
    let cut_off = (endpoints.requested || audit.resumed) && !clusters.requested;
    let cut_off = cut_off && within(audit.opened, LONG);
    let time = if endpoints.flights.is_empty() { BEGINNING } else { LONG };
    let early = cut_off && perhaps_since.is_some_and(|since| within(since, time));
    ensure("I5", !early, || format!("{:?} goes before clusters are asked for", response.kind))
}

/// The clusters that a resource leads to, perhaps by way of others.
fn led_to(slice: &Slice, resource: &Resource) -> BTreeSet<Name> {
    let each = resource.depends_on.iter().flat_map(|(kind, name)| match kind {
        Cluster => BTreeSet::from([Name::clone(name)]),
        _ => slice.get(*kind, name).map(|next| led_to(slice, next)).unwrap_or_default(),
    });
    each.collect()
}

fn i5_nothing_refers_to(audit: &Audit, slice: &Slice, name: &Name) -> Verdict {
    let (listeners, routes) = (audit.of(Listener), audit.of(Route));
    // A listener that stands in for a refused one refers to what may be gone.
    let current = |name: &Name, told: &Told| {
        slice.get(Listener, name).is_none_or(|it| Some(it.version) == told.version)
    };
    let live = listeners.told.iter().filter(|(name, told)| current(name, told));
    let live = live.filter_map(|(_, told)| told.resource.as_ref());
    let live: BTreeSet<_> = live.flat_map(|it| &it.depends_on).map(|(_, route)| route).collect();
    for (route, told) in routes.told.iter().filter(|(route, told)| told.sure && live.contains(*route)) {
        let refers = told.resource.as_ref().is_some_and(|it| it.depends_on.iter().any(|(_, it)| it == name));
        // A newer one was refused: the client keeps what it has.
        let stuck =
            slice.get(Route, route).is_some_and(|it| it.version != told.version.unwrap_or(it.version));
        ensure("I5", !refers || (stuck && routes.ever_refused), || {
            format!("{name} is removed, and {route} refers to it")
        })?;
    }
    let waits = audit.absent.values().min().is_none_or(|since| audit.now < *since + LONG);
    for books in [listeners, routes] {
        let early = books.flights.back().filter(|flight| waits && audit.now < flight.at + LONG);
        let early = early.map(|flight| flight.nonce);
        ensure("I5", early.is_none(), || format!("{name} is removed before {early:?} is answered"))?;
    }
    Ok(())
}

/// I7: a search for the bad one among n ends after 1 + ⌈log₂ n⌉ refusals of it, and a refused version that
/// was alone is not sent again. Judged when a refusal was noted.
pub(super) fn i7_refusals_are_bounded(audit: &Audit, kind: ResourceType) -> Verdict {
    for ((name, version), rounds) in &audit.of(kind).rounds {
        let bound = 1 + rounds.members.next_power_of_two().ilog2() as usize;
        // Where a hint is believed a wrong one costs one more.
        let bound = bound.max(if rounds.members > 1 { 2 } else { 1 }) + usize::from(audit.is_full(kind));
        ensure("I7", rounds.count <= bound, || {
            format!("{kind:?} {name} {version} was refused {} times, of {}", rounds.count, rounds.members)
        })?;
    }
    Ok(())
}

/// I8: only what is bad is held back. How long that may take is bounded by [`i8_comes_to_rest`].
pub(super) fn i8_the_innocent_are_served(audit: &Audit, session: &Session, honest: bool) -> Verdict {
    for kind in ResourceType::ALL {
        for (name, rejection) in session.asked(kind).iter().flat_map(|asked| asked.rejected) {
            let refused = audit.of(kind).refused.contains(&(Name::clone(name), rejection.version));
            ensure("I8", refused, || format!("{kind:?} {name} is held back and was never refused"))?;
            let served = session.slice().get(kind, name).filter(|it| it.version == rejection.version);
            let bad = !honest || served.is_none_or(|resource| is_bad(resource));
            ensure("I8", bad, || format!("{kind:?} {name} is held back and not bad"))?;
        }
    }
    Ok(())
}

/// I8, the bound: after the last change, this many responses bring everyone up to date.
pub(super) fn i8_comes_to_rest(rounds: usize, limit: usize) -> Verdict {
    ensure("I8", rounds < limit, || format!("no rest after {rounds} responses"))
}

/// I9: each resource is the newest when the response is built, and never older than one before.
fn i9_current_and_in_order(audit: &Audit, response: &Response, slice: &Slice) -> Verdict {
    let (kind, books) = (response.kind, audit.of(response.kind));
    let known = response.generation == slice.snapshot().generation && response.generation >= audit.generation;
    ensure("I9", known, || format!("generation {} is not the newest", response.generation))?;
    for resource in &response.resources {
        let current = slice.get(kind, &resource.name).is_some_and(|it| it.version == resource.version);
        let stands_in = audit.is_full(kind) && books.told.contains_key(&resource.name);
        ensure("I9", current || stands_in || is_empty(resource), || {
            format!("{kind:?} {} is old", resource.name)
        })?;
    }
    Ok(())
}

/// I9, of time: where there is nothing to say, there is also no deadline that has passed.
pub(super) fn i9_waits_for_the_future(session: &Session, now: Instant) -> Verdict {
    let late = session.next_deadline().filter(|deadline| *deadline <= now);
    ensure("I9", late.is_none(), || "a deadline in the past, and nothing to say".to_owned())
}

/// I10: where absence means deletion everything is there; nowhere else does a response delete by absence.
fn i10_full_where_it_must_be(audit: &Audit, response: &Response, slice: &Slice) -> Verdict {
    let (kind, books) = (response.kind, audit.of(response.kind));
    if !audit.is_full(kind) {
        let silent = audit.terms.protocol == Protocol::Delta || response.removed.is_empty();
        return ensure("I10", silent, || format!("{kind:?}: {:?} can't be deleted", response.removed));
    }
    let there: BTreeSet<_> = response.resources.iter().map(|it| &it.name).collect();
    for name in slice.names(kind).filter(|name| books.wants(name) && !there.contains(name)) {
        // What was refused is left out until it is found innocent, unless an older one was accepted.
        // Nor is anything taken from who dropped it and asks for it again.
        let anew = !books.accepted.contains_key(name) || books.due.contains_key(name);
        let pardoned = books.ever_refused && anew;
        ensure("I10", pardoned, || format!("{kind:?} {name} is served and left out"))?;
    }
    let foreign = there.iter().find(|name| !books.wants(name));
    ensure("I10", foreign.is_none(), || format!("{kind:?} {foreign:?} was not asked for"))
}

/// I11: nonces and names are unique, types match, and no response is larger than need be.
fn i11_well_formed(audit: &Audit, response: &Response) -> Verdict {
    let (kind, books) = (response.kind, audit.of(response.kind));
    ensure("I11", audit.nonces.last().is_none_or(|last| *last < response.nonce), || {
        "a nonce again".to_owned()
    })?;
    ensure("I11", books.requested, || format!("{kind:?} was never asked for"))?;
    let names: BTreeSet<_> = response.resources.iter().map(|it| &it.name).collect();
    ensure("I11", names.len() == response.resources.len(), || "a name twice".to_owned())?;
    let removed: BTreeSet<_> = response.removed.iter().collect();
    let disjoint = removed.len() == response.removed.len() && names.is_disjoint(&removed);
    ensure("I11", disjoint, || "added or removed, not both".to_owned())?;
    ensure("I11", response.resources.iter().all(|it| it.kind == kind), || "types match".to_owned())?;
    let foreign = response.resources.iter().find(|it| !books.wants(&it.name));
    ensure("I11", foreign.is_none(), || format!("{kind:?} {foreign:?} was not asked for (item 25)"))?;
    let sizes: Vec<_> = response.resources.iter().map(|it| it.bytes.len()).collect();
    let all_but_last: usize = sizes.iter().rev().skip(1).sum();
    ensure("I11", audit.is_full(kind) || all_but_last < RESPONSE_BYTES, || format!("{kind:?}: {sizes:?}"))
}

/// I12 and I13: the subscription is what the protocol's tables make of the requests, whatever their nonces.
pub(super) fn i12_and_i13_subscription(audit: &Audit, session: &Session, kind: ResourceType) -> Verdict {
    let (books, asked) = (audit.of(kind), session.of(kind));
    let same = books.requested == asked.requested && books.wildcard == asked.wildcard;
    ensure("I12", same, || format!("{kind:?} wildcard: {}, not {}", asked.wildcard, books.wildcard))?;
    ensure("I12", !asked.wildcard || kind.has_wildcard(), || format!("{kind:?} knows no wildcard"))?;
    let names: BTreeSet<_> = asked.names.iter().cloned().collect();
    ensure("I13", names == books.names, || format!("{kind:?} names: {names:?}, not {:?}", books.names))
}

/// I1, of the stream: what it was told of is all that differs for it from what is served now.
pub(super) fn i1_is_told_of_what_it_wants(session: &Session, latest: &Slice) -> Verdict {
    for kind in ResourceType::ALL {
        let version = |slice: &Slice, name: &str| slice.get(kind, name).map(|it| it.version);
        let mut names = session.slice().names(kind).chain(latest.names(kind));
        let old = names.find(|name| {
            session.of(kind).wants(name) && version(session.slice(), name) != version(latest, name)
        });
        ensure("I1", old.is_none(), || format!("{kind:?} {old:?} is another, and the stream sleeps"))?;
    }
    Ok(())
}

/// I15: nothing is kept about names that are neither asked for nor served.
pub(super) fn i15_nothing_is_left_behind(audit: &Audit, session: &Session, kind: ResourceType) -> Verdict {
    let subscription = session.of(kind);
    let stray = subscription.listed().find(|name| !audit.of(kind).wants(name));
    ensure("I15", stray.is_none(), || format!("{kind:?} {stray:?} is held and not asked for"))?;
    let gone = subscription.listed();
    let gone = gone.filter(|name| session.slice().get(kind, name).is_none()).collect::<Vec<_>>();
    ensure("I15", gone.is_empty(), || format!("{kind:?} {gone:?} are held and gone"))?;
    let sight = session.sight(kind);
    let other = subscription.concerned(sight).find(|name| {
        let told = audit.of(kind).told.get(*name).filter(|told| told.sure);
        let held = subscription.held(sight, name).version();
        told.is_some_and(|told| held.is_some() && told.version != held)
    });
    ensure("I15", other.is_none(), || format!("{kind:?} {other:?} is not held as it was told"))?;
    let refused: BTreeMap<_, _> = subscription.rejected().iter().collect();
    let stray = refused.keys().find(|name| !audit.of(kind).wants(name));
    ensure("I15", stray.is_none(), || format!("{kind:?} {stray:?} is held back and not asked for"))
}
