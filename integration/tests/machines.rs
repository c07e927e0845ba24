//! Tasks on machines: where they are placed, and that they really listen there.

#[cfg(test)]
mod support;

use integration::world::{
    AppProtocol, ContainerDefinition, DefinitionSpec, NetworkMode, PortMapping, Serve, StopPlan, TaskSpec,
};
use support::{SOON, get, world};

#[tokio::test]
async fn machines_are_shared_port_by_port() {
    let world = world();
    let port = PortMapping::named("http", 18_080, Some(AppProtocol::Http));
    for (name, network) in [("bridged", NetworkMode::Bridge), ("hosted", NetworkMode::Host)] {
        let definition = DefinitionSpec::new(name, ContainerDefinition::new("app").port(port.clone()));
        world.register_definition(definition.network(network)).unwrap();
    }
    let start = |name: &str| {
        let spec =
            TaskSpec { settled: true, serve: Some(Serve::Declared), ..TaskSpec::standalone("c", name) };
        world.start_task(spec).map(|arn| world.task(&arn).unwrap())
    };
    assert!(start("bridged").is_err(), "there is no machine");
    let first = world.machine(&world.add_machine("c").unwrap()).unwrap();
    let (one, two, hosted) = (start("bridged").unwrap(), start("bridged").unwrap(), start("hosted").unwrap());
    for (task, port) in [(&one, 32_768), (&two, 32_769), (&hosted, 18_080)] {
        assert_eq!((task.ip, task.machine.as_ref()), (first.ip, Some(&first.arn)));
        assert_eq!(task.host_port(18_080), port);
        let answer = get(task.endpoint("http").unwrap(), "/").await.unwrap();
        assert!(answer.1.contains(&task.id), "{answer:?}");
    }
    assert!(start("hosted").is_err(), "its port is taken");
    let second = world.machine(&world.add_machine("c").unwrap()).unwrap();
    assert_eq!(start("hosted").unwrap().ip, second.ip);
    world.stop_task(&hosted.arn, StopPlan::default()).unwrap();
    world.until(SOON, |world| world.task(&hosted.arn).unwrap().stopped.is_some()).await.unwrap();
    assert_eq!(start("hosted").unwrap().ip, first.ip, "it is free again");
}
