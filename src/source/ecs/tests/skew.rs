//! Tests of a clock that is minutes off: nothing that AWS dates is compared with ours.
//!
//! It is not about how AWS's clock is learned. Invariant: each test has AWS both ahead of us and behind.

use std::time::{Duration, SystemTime};

use serde_json::json;

use super::hearing::{RUNNING, Running, newcomer};
use super::reading::{payments, prod};
use super::world::Cluster;
use crate::model::{Health, Phase};

/// How far AWS's clock is ahead of ours, in seconds.
const SKEWS: [i64; 2] = [300, -300];

/// So many seconds after AWS's now, in seconds since the epoch.
fn at_aws(ahead: i64, later: i64) -> i64 {
    let ours = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after the epoch");
    i64::try_from(ours.as_secs()).expect("before the end") + ahead + later
}

fn text(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).expect("a time").to_string()
}

#[tokio::test]
async fn an_event_is_old_by_the_clock_of_aws() {
    for ahead in SKEWS {
        let cluster = Cluster::payments();
        cluster.script.put_clock_ahead(ahead);
        let running = Running::start(&cluster).await;
        let calls = cluster.script.calls().len();
        running.tell(newcomer(json!({"updatedAt": text(at_aws(ahead, 2))}))).await;
        assert_eq!(payments(&running.view())[2].2, RUNNING, "AWS {ahead} s ahead: it is new");
        assert_eq!(cluster.script.calls().len(), calls, "AWS {ahead} s ahead: nobody had to be asked");

        let running = Running::start(&cluster).await;
        running.tell(newcomer(json!({"updatedAt": text(at_aws(ahead, -60))}))).await;
        assert_eq!(payments(&running.view()).len(), 2, "AWS {ahead} s ahead: it is from before the reading");
    }
}

#[tokio::test]
async fn a_start_gate_is_as_long_as_its_health_check_may_take() {
    for ahead in SKEWS {
        let cluster = Cluster::payments();
        cluster.script.put_clock_ahead(ahead);
        {
            let mut world = cluster.world();
            let definition = world.definitions.values_mut().next().expect("a definition");
            // Three tries of 35 s.
            definition["containerDefinitions"][0]["healthCheck"] = json!({"command": ["CMD", "true"]});
            world.set("a", "startedAt", json!(at_aws(ahead, -60)));
            world.set("b", "startedAt", json!(at_aws(ahead, -150)));
        }
        let view = prod(&cluster).sweep(None).await.expect("a view");
        let phases: Vec<_> = payments(&view).into_iter().map(|(_, _, phase)| phase).collect();
        let unknown = |gate_over| Phase::Running(Health::Unknown { gate_over });
        assert_eq!(phases, [unknown(false), unknown(true)], "AWS {ahead} s ahead");
    }
}

#[tokio::test]
async fn our_own_clock_may_be_put_right_meanwhile() {
    let cluster = Cluster::payments();
    cluster.script.put_clock_ahead(SKEWS[0]);
    let mut source = prod(&cluster);
    source.sweep(None).await.expect("a view");
    let off = source.clock.now().duration_since(SystemTime::now()).expect("ahead");
    assert!(off.abs_diff(Duration::from_secs(300)) < Duration::from_secs(3), "{off:?}");
    cluster.script.put_clock_ahead(0);
    source.sweep(None).await.expect("a view");
    assert!(source.clock.now() <= SystemTime::now());
}
