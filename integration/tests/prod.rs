//! The example estate: what it declares is what its tasks speak.

#[cfg(test)]
mod support;

use std::collections::BTreeSet;

use integration::estate;
use integration::world::{CrashPlan, World};
use support::{SOON, address, get};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn every_task_speaks_what_it_declares_and_is_replaced() {
    let world = World::new();
    let prod = estate::prod(&world).unwrap();
    let members = [(&prod.payments, 3), (&prod.ledger, 2), (&prod.redis, 1), (&prod.checkout, 3)];
    let up = |_: &World| {
        members.iter().all(|(m, count)| m.running().len() == *count && m.running().iter().all(|t| t.ready()))
    };
    world.until(SOON, up).await.unwrap();

    let zones: BTreeSet<_> = prod.payments.running().iter().map(|task| task.zone.clone()).collect();
    assert_eq!(zones, estate::ZONES.map(str::to_owned).into());
    for task in prod.payments.running() {
        let (status, body) = get(address(&task), "/").await.unwrap();
        assert!(status == 200 && body.contains(&task.zone) && body.contains("payments"), "{body}");
    }
    let redis = prod.redis.running().remove(0);
    let mut stream = tokio::net::TcpStream::connect(redis.endpoint("redis").unwrap()).await.unwrap();
    stream.write_all(b"PING\n").await.unwrap();
    let mut echo = vec![0; redis.id.len() + 6];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&echo), format!("{} PING\n", redis.id));
    let ledger = prod.ledger.running().remove(0);
    let mut stream = tokio::net::TcpStream::connect(ledger.endpoint("grpc").unwrap()).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).await.unwrap();
    assert_eq!(frame[3], 4, "an HTTP/2 server begins with SETTINGS");
    assert!(prod.checkout.running().iter().all(|task| task.definition.first_port().is_none()));

    world.crash_task(&redis.arn, CrashPlan::default()).await.unwrap();
    let replaced = |_: &World| prod.redis.running().iter().any(|task| task.arn != redis.arn && task.ready());
    world.until(SOON, replaced).await.unwrap();
}
