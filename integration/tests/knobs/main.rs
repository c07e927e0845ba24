//! Every knob of a policy turns something: with real traffic through stock Envoy, once with it and once without.
//!
//! `make knobs` prints the table. A knob that had no effect would be seen with neither or with both.

#![allow(missing_docs, reason = "tests")]

use anyhow::{Context, ensure};
use integration::scene::play;

use crate::shop::Shop;

mod reach;
mod rows;
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

#[test]
fn every_knob_turns_something() -> anyhow::Result<()> {
    play("knobs", async |scene| {
        let mut shop = Shop::open(scene.folder()).await?;
        let only = std::env::var("ONLY").unwrap_or_default();
        let rows =
            treatment::rows().into_iter().chain(transport::rows()).chain(reach::rows()).chain(rows::rows());
        println!("{:<44} | how it was observed, and not without it", "knob");
        let (mut count, mut failed) = (0, Vec::new());
        for Row { knob, policy, observe } in rows.filter(|row| row.knob.contains(&only)) {
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
            count += 1;
        }
        ensure!(failed.is_empty(), "{failed:?}");
        println!("{count} knobs, each with Envoy {}", shop.envoy.version().await?);
        shop.close().await
    })
}
