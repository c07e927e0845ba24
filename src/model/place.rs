//! Which ECS task is where: at an address of its own, or on some ports of one that it shares.
//!
//! It is not about who is served. Invariant: a place belongs to one task at a time, the youngest that was seen there;
//! tasks on different ports of one address have nothing to do with each other.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use imbl::OrdMap;

use super::{InstanceId, Phase, View};

/// What one task has of the network at a time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    /// The address.
    pub address: IpAddr,
    /// Of a shared address the one port; `None` is the whole address, on whatever port.
    pub port: Option<u16>,
}

impl Place {
    /// An address that is a task's own.
    pub fn whole(address: IpAddr) -> Self {
        Self { address, port: None }
    }

    /// One port of an address that others have ports of too.
    pub fn shared(address: IpAddr, port: u16) -> Self {
        Self { address, port: Some(port) }
    }
}

/// A running or stopping ECS task, whether or not it is part of a service here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TaskState {
    /// The task ARN.
    pub instance: InstanceId,
    /// The ECS service that runs it; `None` for a standalone task.
    pub service: Option<Arc<str>>,
    /// Where it is in its life.
    pub phase: Phase,
    /// When it began to run.
    pub started_at: Option<SystemTime>,
}

/// Every ECS task of a cluster by place; the youngest where one was reused.
pub type TasksByPlace = OrdMap<Place, TaskState>;

impl View {
    /// The tasks that may answer at an address and port: one that has the whole address, and one that has this port of
    /// it. Both are there for a moment when the address went from a task to an instance, or back.
    pub fn tasks_at(&self, address: IpAddr, port: Option<u16>) -> impl Iterator<Item = &TaskState> {
        let shared = port.map(|port| Place::shared(address, port));
        let places = [Some(Place::whole(address)), shared];
        places.into_iter().flatten().filter_map(|place| self.tasks.get(&place))
    }

    /// The tasks that share an address, whatever their ports.
    pub fn tasks_sharing(&self, address: IpAddr) -> impl Iterator<Item = &TaskState> {
        let ports = Place::shared(address, 0)..=Place::shared(address, u16::MAX);
        self.tasks.range(ports).map(|(_, task)| task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Health;

    #[test]
    fn whoever_has_the_address_or_the_port_may_answer() {
        let (ours, theirs) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut view = View::default();
        for (id, place) in [
            ("first", Place::shared(ours, 32_768)),
            ("second", Place::shared(ours, 32_769)),
            ("whole", Place::whole(theirs)),
            ("both", Place::shared(theirs, 80)),
        ] {
            let phase = Phase::Running(Health::NoCheck);
            view.tasks
                .insert(place, TaskState { instance: id.into(), service: None, phase, started_at: None });
        }
        let at = |address, port| -> Vec<&str> {
            view.tasks_at(address, port).map(|task| task.instance.as_str()).collect()
        };
        assert_eq!(at(ours, Some(32_768)), ["first"]);
        assert_eq!(at(ours, Some(80)), Vec::<&str>::new());
        assert_eq!(at(ours, None), Vec::<&str>::new());
        assert_eq!(at(theirs, Some(8080)), ["whole"]);
        assert_eq!(at(theirs, Some(80)), ["whole", "both"]);
        let sharing: Vec<_> = view.tasks_sharing(ours).map(|task| task.instance.as_str()).collect();
        assert_eq!(sharing, ["first", "second"]);
    }
}
