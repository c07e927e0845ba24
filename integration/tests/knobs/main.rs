//! Every knob of a policy turns something: with real traffic through stock Envoy, once with it and once without.
//!
//! `make knobs` prints how each was observed, and not without it. A knob that had no effect would be seen with neither or with both.

#![allow(missing_docs, reason = "tests")]

use anyhow::{Context, ensure};
use integration::scene::play;

use crate::shop::Shop;

mod deployments;
mod reach;
mod rows;
mod scopes;
mod shop;
mod still;
mod streams;
mod transport;
mod treatment;

/// One knob, the policy that turns it, and how one sees it.
pub(crate) struct Row {
    knob: &'static str,
    policy: &'static str,
    observe: Observe,
}

/// What was seen, or nothing.
type Observe =
    for<'a> fn(&'a mut Shop) -> futures_util::future::LocalBoxFuture<'a, anyhow::Result<Option<String>>>;

/// A row, its observation being a block about `shop`.
#[macro_export]
macro_rules! row {
    ($knob:literal, $policy:expr, |$shop:ident| $observe:block) => {
        $crate::Row {
            knob: $knob,
            policy: $policy,
            observe: |$shop| futures_util::FutureExt::boxed_local(async move { $observe }),
        }
    };
}

/// Turns all of these, in a shop of their own, or those whose names contain `ONLY`.
fn each_turns_something(name: &str, rows: Vec<Row>) -> anyhow::Result<()> {
    let only = std::env::var("ONLY").unwrap_or_default();
    let rows: Vec<_> = rows.into_iter().filter(|row| row.knob.contains(&only)).collect();
    if rows.is_empty() {
        ensure!(!only.is_empty(), "{name}: no knobs");
        return Ok(());
    }
    play(name, async |scene| {
        let mut shop = Shop::open(scene.folder()).await?;
        let (count, mut failed) = (rows.len(), Vec::new());
        for Row { knob, policy, observe } in rows {
            shop.reset("").await.with_context(|| format!("{knob}, without it"))?;
            let without = observe(&mut shop).await.with_context(|| format!("{knob}, without it"))?;
            shop.reset(policy).await.with_context(|| format!("{knob}, with it"))?;
            let with = observe(&mut shop).await.with_context(|| format!("{knob}, with it"))?;
            match (without, with) {
                (None, Some(with)) => println!("{knob:<44} | {with}"),
                (without, with) => {
                    println!("{knob:<44} | NOT SEEN: without it {without:?}, with it {with:?}");
                    failed.push(knob);
                }
            }
        }
        ensure!(failed.is_empty(), "{failed:?}");
        println!("{count} knobs, each with Envoy {}", shop.envoy.version().await?);
        shop.close().await
    })
}

#[test]
fn every_knob_of_how_requests_are_treated_turns_something() -> anyhow::Result<()> {
    each_turns_something("treatment", treatment::rows())
}

#[test]
fn every_knob_of_connections_turns_something() -> anyhow::Result<()> {
    each_turns_something("transport", transport::rows())
}

#[test]
fn every_knob_of_who_reaches_whom_turns_something() -> anyhow::Result<()> {
    each_turns_something("reach", reach::rows())
}

#[test]
fn every_knob_of_routes_turns_something() -> anyhow::Result<()> {
    each_turns_something("routes", rows::rows())
}
