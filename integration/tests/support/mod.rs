//! Small clients for the servers of a world.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use integration::world::{
    AppProtocol, ContainerDefinition, DefinitionSpec, PortMapping, ServiceSpec, Task, World,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Long enough for any step on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A world with cluster `c` and the families `web` (HTTP, checked) and `plain` (HTTP, unchecked).
pub(crate) fn world() -> World {
    let world = World::new();
    world.create_cluster("c").expect("a new cluster");
    let app =
        || ContainerDefinition::new("app").port(PortMapping::named("http", 8080, Some(AppProtocol::Http)));
    world.register_definition(DefinitionSpec::new("web", app().checked())).expect("a definition");
    world.register_definition(DefinitionSpec::new("plain", app())).expect("a definition");
    world
}

/// A service of served tasks which are all ready.
pub(crate) async fn served(world: &World, name: &str, family: &str, count: u32) -> Vec<Arc<Task>> {
    let spec = ServiceSpec::new("c", name, family, count).served();
    let arns = world.create_service(spec).expect("a service");
    ready(world, &arns).await;
    arns.iter().map(|arn| world.task(arn).expect("a task")).collect()
}

/// Waits until tasks are ready.
pub(crate) async fn ready(world: &World, arns: &[String]) {
    let all = |world: &World| arns.iter().all(|arn| world.task(arn).is_some_and(|task| task.ready()));
    world.until(SOON, all).await.expect("ready in time");
}

/// Waits for a version of a task.
pub(crate) async fn version(world: &World, arn: &str, version: u64) {
    let reached = |world: &World| world.task(arn).is_some_and(|task| task.version >= version);
    world.until(SOON, reached).await.expect("the version in time");
}

/// The HTTP address of a task.
pub(crate) fn address(task: &Task) -> SocketAddrV4 {
    task.endpoint("http").expect("an HTTP port")
}

/// One request on a connection of its own: status and body.
pub(crate) async fn get(address: SocketAddrV4, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was cut");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(cut)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(cut)?;
    Ok((status, body.to_owned()))
}

/// The versions of a task: number, desired status, last status.
pub(crate) fn history(world: &World, arn: &str) -> Vec<(u64, &'static str, &'static str)> {
    let task = world.task(arn).expect("a task");
    task.history.iter().map(|t| (t.version, t.desired_status.as_str(), t.last_status.as_str())).collect()
}
