//! The order in which an Envoy asks, put right: one with a local cluster asks for load assignments before it asks for
//! clusters, and when it reconnects that looks as if it had been cut off while a cluster warmed (`xds.md`, item 44).
//!
//! It is not about what is answered: the session sees the same requests, perhaps in another order.
//!
//! Invariant: nothing is held back but one request, and that only until the next one or for [`BEGINNING`]. Whoever was
//! cut off asks for something else next, and is believed to have been.

use std::time::Instant;

use super::session::{BEGINNING, Request};
use crate::snapshot::ResourceType;

/// What was asked for so far, as far as it matters.
#[derive(Debug, Default)]
pub(super) enum Early {
    /// Clusters have not been asked for.
    #[default]
    Waiting,
    /// A request for load assignments that came before them, and when.
    Held(Box<Request>, Instant),
    /// It is known who asks.
    Done,
}

impl Early {
    /// The requests to take in now, of those that came at `now` or before.
    pub(super) fn pass(&mut self, request: Request, now: Instant) -> Vec<Request> {
        let asks_for = |kind: ResourceType| request.type_url == kind.type_url();
        match std::mem::replace(self, Self::Done) {
            Self::Done => vec![request],
            Self::Waiting if asks_for(ResourceType::Endpoint) && !request.presented.is_empty() => {
                *self = Self::Held(Box::new(request), now);
                Vec::new()
            }
            // Asked at the very beginning, for the local cluster alone, it holds nothing yet.
            Self::Waiting => {
                if asks_for(ResourceType::Endpoint) {
                    *self = Self::Waiting;
                }
                vec![request]
            }
            Self::Held(held, _) if asks_for(ResourceType::Cluster) => vec![request, *held],
            Self::Held(held, _) => vec![*held, request],
        }
    }

    /// Until when something is held back.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Held(_, since) => Some(*since + BEGINNING),
            Self::Waiting | Self::Done => None,
        }
    }

    /// What was held back for long enough.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<Request> {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return None;
        }
        match std::mem::replace(self, Self::Done) {
            Self::Held(held, _) => Some(*held),
            Self::Waiting | Self::Done => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use ResourceType::{Cluster, Endpoint, Listener};

    fn request(kind: ResourceType, holds: bool) -> Request {
        let presented = holds.then(|| ("prod/payments".to_owned(), "1".to_owned())).into_iter().collect();
        Request { type_url: kind.type_url().to_owned(), presented, resumed: holds, ..Request::default() }
    }

    fn passed(asked: &[(ResourceType, bool)]) -> Vec<Vec<ResourceType>> {
        let (mut early, now) = (Early::default(), Instant::now());
        let kinds = |requests: Vec<Request>| -> Vec<ResourceType> {
            requests.iter().filter_map(|it| ResourceType::from_type_url(&it.type_url)).collect()
        };
        asked.iter().map(|(kind, holds)| kinds(early.pass(request(*kind, *holds), now))).collect()
    }

    #[test]
    fn clusters_come_first_where_they_are_asked_for_next() {
        let order = passed(&[(Endpoint, true), (Cluster, true), (Listener, true), (Endpoint, false)]);
        assert_eq!(order, [vec![], vec![Cluster, Endpoint], vec![Listener], vec![Endpoint]]);
    }

    #[test]
    fn whoever_was_cut_off_asks_for_something_else() {
        let order = passed(&[(Endpoint, true), (Listener, true), (Cluster, true)]);
        assert_eq!(order, [vec![], vec![Endpoint, Listener], vec![Cluster]]);
    }

    #[test]
    fn at_the_beginning_nobody_waits() {
        let order = passed(&[(Endpoint, false), (Cluster, false), (Endpoint, false)]);
        assert_eq!(order, [vec![Endpoint], vec![Cluster], vec![Endpoint]]);
        assert_eq!(passed(&[(Cluster, true), (Endpoint, true)]), [vec![Cluster], vec![Endpoint]]);
    }

    #[test]
    fn nothing_is_held_back_for_long() {
        let (mut early, now) = (Early::default(), Instant::now());
        assert!(early.pass(request(Endpoint, true), now).is_empty());
        assert_eq!(early.deadline(), Some(now + BEGINNING));
        assert_eq!(early.overdue(now + BEGINNING - Duration::from_millis(1)), None);
        assert_eq!(early.overdue(now + BEGINNING), Some(request(Endpoint, true)));
        assert_eq!((early.deadline(), early.overdue(now + BEGINNING)), (None, None));
    }
}
