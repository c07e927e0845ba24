//! Container instances: machines on which tasks run that have no address of their own.
//!
//! Where a task of network mode `bridge` or `host` is placed, and which ports of the machine it gets. What a task is
//! otherwise is in `task`. Invariant: no two tasks that run have one port of a machine.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::launch::Launch;
use super::model::{LastStatus, Stamp, words};
use super::state::State;
use super::task::Task;
use super::{World, WorldError, address};

words! {
    /// How a task is on the network.
    NetworkMode {
        /// It has an address of its own.
        Awsvpc = "awsvpc",
        /// Its ports are ports of a machine under other numbers.
        Bridge = "bridge",
        /// Its ports are those of a machine.
        Host = "host",
    }
}

/// The first port that Docker gives to a container.
const FIRST_DYNAMIC: u16 = 32_768;

/// A container instance.
#[derive(Debug, Clone)]
pub struct Machine {
    /// `arn:aws:ecs:R:A:container-instance/<cluster>/<id>`.
    pub arn: String,
    /// Cluster name.
    pub cluster: String,
    /// `i-…`, or `mi-…` outside EC2.
    pub instance_id: String,
    /// Its private address.
    pub ip: Ipv4Addr,
    /// Attributes that people wrote.
    pub attributes: BTreeMap<String, String>,
    /// When it was registered.
    pub registered: Stamp,
    /// The port that the next container gets.
    next_port: u16,
}

/// Where a task is placed.
pub(super) struct Seat {
    pub(super) ip: Ipv4Addr,
    pub(super) machine: Option<String>,
    /// The machine's port for each of the task's.
    pub(super) host_ports: BTreeMap<u16, u16>,
}

impl Seat {
    /// The port at its address for one of the task's.
    pub(super) fn port(&self, container_port: u16) -> u16 {
        self.host_ports.get(&container_port).copied().unwrap_or(container_port)
    }
}

impl World {
    /// Registers an EC2 instance in a cluster, at an address of its own; returns the ARN of the container instance.
    pub fn add_machine(&self, cluster: &str) -> Result<String, WorldError> {
        self.register_machine(cluster, "i")
    }

    /// Registers a machine outside EC2, of which AWS tells no address; returns the ARN of the container instance.
    pub fn add_external_machine(&self, cluster: &str) -> Result<String, WorldError> {
        self.register_machine(cluster, "mi")
    }

    fn register_machine(&self, cluster: &str, prefix: &str) -> Result<String, WorldError> {
        let ip = address::allocate().map_err(WorldError::Address)?;
        self.change(|state| {
            let cluster = state.cluster(cluster)?.name.clone();
            let id = state.ids.hex32();
            let arn = state.arn("ecs", &format!("container-instance/{cluster}/{id}"));
            let machine = Machine {
                arn: arn.clone(),
                cluster,
                instance_id: format!("{prefix}-0{}", id.get(..16).unwrap_or_default()),
                ip,
                attributes: BTreeMap::new(),
                registered: Stamp::now(),
                next_port: FIRST_DYNAMIC,
            };
            state.machines.insert(arn.clone(), machine);
            Ok(arn)
        })
    }

    /// Writes an attribute of a container instance, as PutAttributes does.
    pub fn put_attribute(&self, machine: &str, name: &str, value: &str) -> Result<(), WorldError> {
        self.change(|state| {
            let found = state.machines.get_mut(machine);
            let found = found.ok_or_else(|| WorldError::Missing(format!("container instance {machine}")))?;
            found.attributes.insert(name.to_owned(), value.to_owned());
            Ok(())
        })
    }

    /// A container instance by ARN.
    pub fn machine(&self, arn: &str) -> Option<Machine> {
        self.read(|state| state.machines.get(arn).cloned())
    }
}

impl State {
    /// Finds a place for a task: an address of its own, or of the machines of its cluster that have what it needs the one
    /// with the fewest tasks.
    pub(super) fn seat(&mut self, launch: &Launch) -> Result<Seat, WorldError> {
        let network = launch.definition.network;
        if network == NetworkMode::Awsvpc {
            let ip = launch.ip.map_or_else(|| self.address(), Ok).map_err(WorldError::Address)?;
            return Ok(Seat { ip, machine: None, host_ports: BTreeMap::new() });
        }
        let ports = launch.definition.containers.iter().flat_map(|container| &container.ports);
        let ports: Vec<u16> = ports.map(|port| port.container_port).collect();
        let on = |machine: &Machine| -> Vec<&Task> {
            let here = |task: &&Task| task.machine.as_ref() == Some(&machine.arn);
            let up = |task: &&Task| task.last_status != LastStatus::Stopped;
            self.tasks.values().map(AsRef::as_ref).filter(here).filter(up).collect()
        };
        let has_room = |machine: &&Machine| {
            let taken =
                |port: &u16| on(machine).iter().any(|task| task.host_ports.values().any(|it| it == port));
            machine.cluster == launch.cluster && (network == NetworkMode::Bridge || !ports.iter().any(taken))
        };
        let free = self.machines.values().filter(has_room).min_by_key(|machine| on(machine).len());
        let free = free.map(|machine| machine.arn.clone());
        let machine = free.and_then(|arn| self.machines.get_mut(&arn));
        let machine =
            machine.ok_or_else(|| WorldError::Invalid("no container instance has room".to_owned()))?;
        let host_ports = ports.into_iter().map(|port| match network {
            NetworkMode::Bridge => (port, machine.take_port()),
            _ => (port, port),
        });
        let host_ports = host_ports.collect();
        Ok(Seat { ip: machine.ip, machine: Some(machine.arn.clone()), host_ports })
    }
}

impl Machine {
    fn take_port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = port.checked_add(1).unwrap_or(FIRST_DYNAMIC);
        port
    }
}
