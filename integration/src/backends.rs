//! Real servers behind names that a test writes into a services file itself.
//!
//! They are tasks of a [`World`] of their own, so that each notes what it is asked; which of them are in
//! rotation is the file's business. Invariant: each listens before it is named.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::world::{
    AppProtocol, ContainerDefinition, DefinitionSpec, PortMapping, RequestLog, ServiceSpec, StopPlan, Task,
    World,
};

const CLUSTER: &str = "backends";
const LIMIT: Duration = Duration::from_secs(30);
/// Where all of them listen.
pub const PORT: u16 = 8080;

/// Groups of servers. Dropping it ends them.
#[derive(Debug)]
pub struct Backends {
    world: World,
}

impl Backends {
    /// None yet.
    pub fn new() -> anyhow::Result<Self> {
        let world = World::new();
        world.create_cluster(CLUSTER)?;
        Ok(Self { world })
    }

    /// Starts `count` servers that speak this, or lines over TCP; their addresses.
    pub async fn start(
        &self,
        name: &str,
        spoken: Option<AppProtocol>,
        count: u32,
    ) -> anyhow::Result<Vec<Ipv4Addr>> {
        let container = ContainerDefinition::new("app").port(PortMapping::named("main", PORT, spoken));
        self.world.register_definition(DefinitionSpec::new(name, container))?;
        self.world.create_service(ServiceSpec::new(CLUSTER, name, name, count).served().settled())?;
        let ready = |world: &World| world.tasks_of(CLUSTER, name).iter().all(|task| task.ready());
        self.world.until(LIMIT, ready).await.with_context(|| format!("the servers of {name}"))?;
        Ok(self.world.tasks_of(CLUSTER, name).iter().map(|task| task.ip).collect())
    }

    fn task(&self, name: &str, address: Ipv4Addr) -> anyhow::Result<Arc<Task>> {
        let tasks = self.world.tasks_of(CLUSTER, name);
        tasks.into_iter().find(|task| task.ip == address).with_context(|| format!("no {name} at {address}"))
    }

    /// What a server was asked.
    pub fn log(&self, name: &str, address: Ipv4Addr) -> anyhow::Result<Arc<RequestLog>> {
        Ok(self.task(name, address)?.log.clone())
    }

    /// Stops a server at once; nobody listens there from then on.
    pub async fn stop(&self, name: &str, address: Ipv4Addr) -> anyhow::Result<()> {
        let arn = self.task(name, address)?.arn.clone();
        self.world.stop_task(&arn, StopPlan::default())?;
        let closed = |world: &World| world.task(&arn).is_none_or(|task| task.closed.is_some());
        self.world.until(LIMIT, closed).await.with_context(|| format!("the end of {name} at {address}"))
    }
}
