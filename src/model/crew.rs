//! Where the tasks of a service run, served or not, and whether or not anybody calls it.
//!
//! It is not about endpoints. Invariant: ordered, and each place once.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;

use super::{Phase, ServiceKey, ServiceView};

/// Where the tasks of one ECS service run, served or not: zone and address, ordered. Their sidecars send as much to other
/// zones as their own has too many of them.
pub type Crew = Arc<[(Arc<str>, IpAddr)]>;

/// Crews by namespace and ECS service, or family of standalone tasks.
pub type Crews = OrdMap<ServiceKey, Crew>;

impl ServiceView {
    /// Where its instances run, for whoever knows of no others that belong to it.
    pub fn crew(&self) -> Crew {
        let running = self.registrations.iter().filter(|it| matches!(it.phase, Phase::Running(_)));
        let places: BTreeSet<_> = running.filter_map(|it| Some((it.zone.clone()?, it.address?))).collect();
        places.into_iter().collect()
    }
}
