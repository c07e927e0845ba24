//! Tests of answers that lack something: pages whose entries move, and `failures[]` about what is there.
//!
//! It is not about calls that fail. Invariant: what a single reading lacks is lost in none of them.

use serde_json::json;

use super::reading::{payments, prod};
use super::world::{Cluster, service_arn};
use crate::model::{Phase, View};

fn names(view: &View) -> Vec<String> {
    view.services.keys().map(ToString::to_string).collect()
}

#[tokio::test]
async fn entries_that_move_between_pages_while_these_are_read_are_neither_lost_nor_doubled() {
    let cluster = Cluster::payments();
    {
        let mut world = cluster.world();
        world.page = 20;
        (0..25).for_each(|n| world.service(&format!("s{n}"), 200));
        (0..120).for_each(|n| world.task(&format!("t{n:03}"), "payments", 1_000 + n));
    }
    let mut source = prod(&cluster);
    let first = source.sweep(None).await.expect("a view");
    cluster.world().moving = Some(fastrand::Rng::with_seed(3));
    for reading in 0..6 {
        assert_eq!(source.sweep(None).await.expect("a view"), first, "reading {reading}");
    }
    {
        let mut world = cluster.world();
        world.task("new", "payments", 2_000);
        world.set("t007", "desiredStatus", json!("STOPPED"));
        world.set("t007", "version", json!(4));
    }
    let is_over = |view: &View| {
        let is_in = |id: &str, wanted: fn(Phase) -> bool| {
            payments(view).iter().any(|(task, _, phase)| task == id && wanted(*phase))
        };
        is_in("new", |phase| matches!(phase, Phase::Running(_)))
            && is_in("t007", |phase| matches!(phase, Phase::Stopping(_)))
    };
    let mut readings = 0;
    while !is_over(&source.sweep(None).await.expect("a view")) {
        readings += 1;
        assert!(
            readings < 20,
            "a listing that loses entries hides what is new only until another one shows it"
        );
    }
}

#[tokio::test]
async fn what_is_listed_is_there_however_often_it_is_called_missing() {
    let cluster = Cluster::payments();
    let mut source = prod(&cluster);
    let first = source.sweep(None).await.expect("a view");
    cluster.world().missing = ["a".into(), "payments".into()].into();
    for _ in 0..3 {
        assert_eq!(source.sweep(None).await.expect("a view"), first);
    }
}

#[tokio::test]
async fn one_reading_that_knows_nothing_of_a_service_or_a_task_loses_neither() {
    let cluster = Cluster::payments();
    cluster.world().service("ledger", 100);
    let mut source = prod(&cluster);
    let first = source.sweep(None).await.expect("a view");
    // A copy of ECS that is behind: it neither lists nor knows what is new.
    let behind = |behind: bool| {
        let ids = if behind { vec!["a".to_owned(), "ledger".to_owned()] } else { Vec::new() };
        let mut world = cluster.world();
        world.missing = ids.iter().cloned().collect();
        world.unlisted = world.missing.clone();
    };
    for _ in 0..3 {
        behind(true);
        let view = source.sweep(None).await.expect("a view");
        assert_eq!((names(&view), payments(&view)), (names(&first), payments(&first)), "once");
        // One that follows at once is no second one.
        source.is_early = true;
        let view = source.sweep(None).await.expect("a view");
        assert_eq!((names(&view), payments(&view)), (names(&first), payments(&first)), "and at once again");
        source.is_early = false;
        behind(false);
        assert_eq!(source.sweep(None).await.expect("a view"), first);
    }
    behind(true);
    source.sweep(None).await.expect("a view");
    let view = source.sweep(None).await.expect("a view");
    assert_eq!(
        (names(&view), payments(&view)[0].2),
        (vec!["prod/payments".to_owned()], Phase::Stopped),
        "twice"
    );
    assert!(!source.services.contains_key(service_arn("ledger").as_str()), "nobody asks about it any more");
}
