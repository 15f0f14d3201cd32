//! Sales with tiers of buyers.
use seckill_crds::{FlashSaleStatus, Phase};
use seckill_protocol::index::Decision;
use seckill_protocol::{Format, Tier};
use serde_json::{Value, json};

use crate::harness::Harness;

const GOLD: Tier = 1;

/// Gold opens `before` seconds before the start, and has two units until a minute after it. Of ten units, three are kept for
/// general buyers until the start.
fn tiered(before: i32) -> Value {
    let gold = json!({"name": "gold", "values": ["gold"], "opensBeforeSeconds": before, "limitPerBuyer": 2, "reserved": 2,
        "reservedForSeconds": 60});
    json!({"access": {"issuer": "main"}, "limitPerBuyer": 1, "tiers": [gold], "reservedForGeneral": 3})
}

fn units(status: &FlashSaleStatus) -> Vec<(&str, i64, i64)> {
    let units = status.tiers.iter();
    units
        .map(|tier| (tier.name.as_str(), tier.sold, tier.reserved))
        .collect()
}

fn is_sold_out(decision: &Decision) -> bool {
    matches!(decision, Decision::SoldOut { release: Some(_), .. })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tier_buys_before_the_start_and_units_are_kept_until_their_release() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("tiered", 600, 3600, tiered(700)).await;
    let selling = harness.until_reason("tiered", "Sellable", "Selling").await;
    assert_eq!(selling.phase, Some(Phase::Open));
    assert_eq!(harness.sale("tiered").await.format, Format(3));

    let general = harness.try_buy("tiered", &["bob"]).await;
    assert!(matches!(general[..], [Decision::NotStarted { .. }]), "{general:?}");
    let bought = harness
        .try_buy_as(GOLD, "tiered", &["a", "b", "c", "d", "e", "f", "g", "h"])
        .await;
    let sold = |decision: &&Decision| matches!(decision, Decision::Reserved { .. });
    assert_eq!(bought.iter().filter(sold).count(), 7, "{bought:?}");
    assert!(is_sold_out(&bought[7]), "{bought:?}");
    harness
        .until("tiered", "the units of the tiers are reported", |status| {
            units(status) == [("general", 0, 3), ("gold", 7, 0)]
        })
        .await;
    let sold = operator
        .metric_with_label("seckill_sale_tier_sold_units", "tier=\"gold\"")
        .await;
    assert_eq!(sold, 7);

    // Redis loses its index.
    let before = harness.sale("tiered").await;
    harness.stock.drop_sale(before.id).await.expect("Redis");
    let epoch = before.live_epoch.expect("live").0;
    harness
        .until("tiered", "rebuilt", |status| status.epoch > Some(epoch))
        .await;
    let index = harness.index("tiered").await;
    assert_eq!((index.left, index.taken), (3, vec![0, 7]));
    let refused = harness.try_buy_as(GOLD, "tiered", &["i"]).await;
    assert!(is_sold_out(&refused[0]), "{refused:?}");
    // A retry as a general buyer, before general buyers can buy.
    let retried = harness.try_buy("tiered", &["a"]).await;
    assert!(
        matches!(retried[..], [Decision::AlreadyReserved(held)] if held.tier == GOLD),
        "{retried:?}"
    );

    // Tiers are fixed, their limits are not.
    harness
        .edit(
            "tiered",
            json!({"spec": {"tiers": [{"name": "gold", "values": ["gold"], "opensBeforeSeconds": 700,
        "limitPerBuyer": 5, "reserved": 2, "reservedForSeconds": 60}]}}),
        )
        .await;
    harness
        .eventually("the limit is in the index", async || {
            harness.index("tiered").await.terms.tiers[1].limit == 5
        })
        .await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tiered_sale_waits_for_pods_that_know_no_tiers() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    let older = harness.ledger.clone().speaking(Format(2));
    older.beat("seckill-api", "api-old").await.expect("MySQL");
    // It outlives the slowest test.
    harness
        .execute("UPDATE heartbeats SET at = at + INTERVAL 1 HOUR WHERE instance = 'api-old'")
        .await;
    harness.apply("tiered", -1, 3600, tiered(700)).await;
    harness
        .apply("limited", -1, 3600, json!({"access": {"issuer": "main"}}))
        .await;
    harness.until_reason("tiered", "Accepted", "NewerFormatNeeded").await;
    harness.until_phase("limited", Phase::Open).await;
    harness
        .execute("UPDATE heartbeats SET at = UTC_TIMESTAMP(3) - INTERVAL 31 SECOND WHERE instance = 'api-old'")
        .await;
    harness.until_phase("tiered", Phase::Open).await;
    assert_eq!(harness.ledger.formats().await.expect("MySQL").required, Format(3));

    // Orders of tiers are in the log and in the index. A worker of the version before stores none of them.
    worker.stop().await;
    let bought = harness.try_buy_as(GOLD, "tiered", &["a", "b"]).await;
    assert_eq!(bought.len(), 2);
    let old_worker = harness.worker_speaking(Format(2), "worker-old");
    harness
        .eventually("the old worker runs", async || {
            let running = harness.ledger.formats().await.expect("MySQL").running;
            running.iter().any(|program| program.instance == "worker-old")
        })
        .await;
    assert_eq!(harness.orders("tiered").await, 0);
    old_worker.stop().await;
    let worker = harness.worker();
    harness
        .eventually("the orders are stored", async || harness.orders("tiered").await == 2)
        .await;
    assert_eq!(harness.index("tiered").await.taken, [0, 2]);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}
