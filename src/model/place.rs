//! Which ECS task is where: at an address of its own, or on some ports of one that it shares.
//!
//! It is not about who is served. Invariant: a place belongs to one task at a time, the youngest that was seen there;
//! tasks on different ports of one address have nothing to do with each other, nor have tasks in different subnets.

use std::net::IpAddr;
use std::ops::RangeInclusive;
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
    /// Where AWS tells it. Within a VPC an address is in one subnet: in two subnets it is in two VPCs, and so two
    /// addresses.
    pub subnet: Option<Subnet>,
}

/// A subnet by its id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Subnet(u128);

impl Subnet {
    /// The subnet with an id such as `subnet-0a1b2c3d4e5f60718`.
    pub fn read(id: &str) -> Option<Self> {
        let digits = id.strip_prefix("subnet-")?;
        u128::from_str_radix(digits, 16).ok().map(Self)
    }
}

impl Place {
    /// An address that is a task's own.
    pub fn whole(address: IpAddr) -> Self {
        Self { address, port: None, subnet: None }
    }

    /// One port of an address that others have ports of too.
    pub fn shared(address: IpAddr, port: u16) -> Self {
        Self { address, port: Some(port), subnet: None }
    }

    /// The same in a subnet, if it is known.
    pub fn within(self, subnet: Option<Subnet>) -> Self {
        Self { subnet, ..self }
    }

    /// Whether this is known to be in another VPC, whatever the address.
    pub fn is_apart_from(&self, other: &Self) -> bool {
        self.subnet.zip(other.subnet).is_some_and(|(own, other)| own != other)
    }

    /// All that may be meant where the subnet is not known.
    fn anywhere(self) -> RangeInclusive<Self> {
        self.within(None)..=self.within(Some(Subnet(u128::MAX)))
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
    /// The tasks that may answer at an address and port, each with its place: one that has the whole address, and one
    /// that has this port of it. Both are there for a moment when the address went from a task to an instance, or back;
    /// and there may be as many as there are VPCs with the address.
    pub fn tasks_at(&self, address: IpAddr, port: Option<u16>) -> impl Iterator<Item = (&Place, &TaskState)> {
        let shared = port.map(|port| Place::shared(address, port));
        let places = [Some(Place::whole(address)), shared];
        places.into_iter().flatten().flat_map(|place| self.tasks.range(place.anywhere()))
    }

    /// The tasks that have a whole address.
    pub fn tasks_of(&self, address: IpAddr) -> impl Iterator<Item = (&Place, &TaskState)> {
        self.tasks.range(Place::whole(address).anywhere())
    }

    /// The tasks that share an address, whatever their ports.
    pub fn tasks_sharing(&self, address: IpAddr) -> impl Iterator<Item = (&Place, &TaskState)> {
        let (first, last) = (Place::shared(address, 0), Place::shared(address, u16::MAX));
        self.tasks.range(*first.anywhere().start()..=*last.anywhere().end())
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
            ("apart", Place::whole(theirs).within(Subnet::read("subnet-0a1b2c3d4e5f60718"))),
        ] {
            let phase = Phase::Running(Health::NoCheck);
            view.tasks
                .insert(place, TaskState { instance: id.into(), service: None, phase, started_at: None });
        }
        let at = |address, port| -> Vec<&str> {
            view.tasks_at(address, port).map(|(_, task)| task.instance.as_str()).collect()
        };
        assert_eq!(at(ours, Some(32_768)), ["first"]);
        assert_eq!(at(ours, Some(80)), Vec::<&str>::new());
        assert_eq!(at(ours, None), Vec::<&str>::new());
        assert_eq!(at(theirs, Some(8080)), ["whole", "apart"]);
        assert_eq!(at(theirs, Some(80)), ["whole", "apart", "both"]);
        let sharing: Vec<_> = view.tasks_sharing(ours).map(|(_, task)| task.instance.as_str()).collect();
        assert_eq!(sharing, ["first", "second"]);
    }

    #[test]
    fn subnets_are_told_apart_where_they_are_known() {
        let place = Place::whole([10, 0, 0, 1].into());
        let [first, second] =
            ["subnet-0a1b2c3d4e5f60718", "subnet-1a2b3c4d"].map(|id| place.within(Subnet::read(id)));
        assert!(first.is_apart_from(&second) && second.is_apart_from(&first));
        assert!(
            !first.is_apart_from(&first) && !first.is_apart_from(&place) && !place.is_apart_from(&second)
        );
        assert_eq!([Subnet::read("vpc-1a2b3c4d"), Subnet::read("subnet-")], [None, None]);
    }
}
