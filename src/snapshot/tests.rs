//! Versions, both encodings and the change log.

use super::*;

fn tables(resources: impl IntoIterator<Item = Resource>) -> Tables {
    let mut tables = Tables::default();
    resources.into_iter().for_each(|resource| tables.insert(Arc::new(resource)));
    tables
}

fn listener(name: &str, content: &str) -> Resource {
    Resource::encode(ResourceType::Listener, name.into(), &content.to_owned())
}

fn snapshot(resources: impl IntoIterator<Item = Resource>) -> Arc<Snapshot> {
    let snapshot = Snapshot::first("prod".into(), tables(resources), Vec::new(), SystemTime::UNIX_EPOCH);
    Arc::new(snapshot)
}

fn version(snapshot: &Arc<Snapshot>, class: ProxyClass, declared: &[u16]) -> Version {
    Slice::new(Arc::clone(snapshot), class, "task", declared).version(ResourceType::Listener)
}

#[test]
fn both_encodings_are_one() {
    for name in ["a", &"long".repeat(100)] {
        let resource = listener(name, &"content".repeat(50));
        let around = discovery::Resource::decode(resource.bytes.clone()).unwrap();
        assert_eq!(around.name, name);
        assert_eq!(around.version, resource.version.to_string());
        assert_eq!(around.resource.unwrap(), resource.any().unwrap());
    }
}

#[test]
fn a_type_has_the_version_of_what_the_client_sees() {
    let (sidecar, grpc) = (ProxyClass::Sidecar, ProxyClass::Grpc);
    let seen = || [listener("a", "1"), listener("b", "1").only_for(sidecar)];
    let one = snapshot(seen());
    let other = snapshot(seen().into_iter().chain([listener("c", "1").only_for(grpc)]));
    assert_eq!(version(&one, sidecar, &[]), version(&other, sidecar, &[]), "the other class is not seen");
    assert_ne!(version(&one, grpc, &[]), version(&other, grpc, &[]));
    let hidden = snapshot(seen().into_iter().chain([listener("d", "1").binding(8080)]));
    assert_eq!(version(&one, sidecar, &[]), version(&hidden, sidecar, &[8080]));

    let next = tables([listener("a", "2"), listener("e", "1")]);
    let next = Arc::new(other.next(next, Vec::new(), SystemTime::UNIX_EPOCH).unwrap());
    let fresh = snapshot([listener("e", "1"), listener("a", "2")]);
    assert_eq!(version(&next, sidecar, &[]), version(&fresh, sidecar, &[]), "whatever was before");
    assert_ne!(version(&next, sidecar, &[]), version(&one, sidecar, &[]));
}

#[test]
fn listeners_on_a_port_of_the_task_are_withheld_whatever_came_and_went() {
    let withheld = |snapshot: &Arc<Snapshot>, ports: &[u16]| {
        let slice = Slice::new(Arc::clone(snapshot), ProxyClass::Sidecar, "task", ports);
        let names: Vec<_> = slice.withheld().map(|listener| listener.name.to_string()).collect();
        let shown: Vec<_> = slice.names(ResourceType::Listener).map(ToString::to_string).collect();
        assert!(names.iter().all(|name| !shown.contains(name)), "{names:?} of {shown:?}");
        names.join(" ")
    };
    let first = snapshot([
        listener("a", "1").binding(80),
        listener("b", "1").binding(8080),
        listener("c", "1").binding(8080).only_for(ProxyClass::Grpc),
        listener("d", "1"),
    ]);
    assert_eq!(
        [&[][..], &[443], &[8080], &[80, 8080]].map(|ports| withheld(&first, ports)),
        ["", "", "b", "a b"]
    );
    let next = tables([listener("b", "2").binding(80), listener("e", "1").binding(8080)]);
    let next = Arc::new(first.next(next, Vec::new(), SystemTime::UNIX_EPOCH).unwrap());
    assert_eq!([&[80][..], &[8080]].map(|ports| withheld(&next, ports)), ["b", "e"]);
    let none = Arc::new(next.next(tables([]), Vec::new(), SystemTime::UNIX_EPOCH).unwrap());
    assert_eq!(withheld(&none, &[80, 8080]), "");
}

#[test]
fn what_changed_is_known_for_a_while() {
    let mut latest = snapshot([]);
    for content in 0..100_u32 {
        let tables = tables([listener(&format!("l{content}"), "1")]);
        latest = Arc::new(latest.next(tables, Vec::new(), SystemTime::UNIX_EPOCH).unwrap());
    }
    let names = |since| {
        let changed = latest.changed_since(since, ResourceType::Listener);
        changed.map(|names| names.map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(names(101), Some(vec![]));
    assert_eq!(names(100), Some(vec!["l98".to_owned(), "l99".to_owned()]));
    assert_eq!(names(36), None);
    assert_eq!(names(37).map(|names| names.len()), Some(128));
    assert_eq!(names(102), None, "another process");
}
