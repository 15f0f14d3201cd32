//! Redis is switched over, falls silent, or loses an index again and again.
use std::time::{Duration, Instant};

use seckill_crds::{FlashSaleStatus, Phase};
use seckill_protocol::Record;
use seckill_test_redis::{Address, RedisServer};
use serde_json::json;

use crate::harness::{Harness, status_and_reason};

/// The barriers of a sale in the log.
async fn barriers(harness: &Harness, name: &str) -> usize {
    let sale = harness.sale(name).await;
    let end = harness.log.end_offset(sale.partition).await.expect("Kafka");
    let mut barriers = 0;
    let count = |entry: seckill_order_log::Entry| {
        barriers += usize::from(matches!(entry.record, Ok(Record::Barrier { sale: of, .. }) if of == sale.id));
    };
    harness.log.read(sale.partition, 0, end, count).await.expect("Kafka");
    barriers
}

fn message<'a>(status: &'a FlashSaleStatus, type_: &str) -> &'a str {
    let condition = status.conditions.iter().find(|c| c.type_ == type_);
    condition.map_or("", |c| &c.message)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_barrier_is_appended_while_the_address_leads_to_a_replica() {
    let (old, new) = RedisServer::start_pair().await;
    let address = Address::of(&old).await;
    let harness = Harness::with_redis(address.url()).await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("switched", -1, 3600, json!({})).await;
    harness.until_phase("switched", Phase::Open).await;
    assert_eq!(harness.buy("switched", &["a"]).await, 1);
    assert_eq!(barriers(&harness, "switched").await, 1);

    new.promote().await;
    old.follow(&new).await;
    let status = harness
        .until("switched", "blocked by a replica", |status| {
            message(status, "Reconciling").starts_with("the address leads to a replica")
        })
        .await;
    assert_eq!(status_and_reason(&status, "Reconciling"), ("True", "RedisUnavailable"));
    assert_eq!(status_and_reason(&status, "Stalled"), ("False", "Progressing"));
    assert_eq!(
        status_and_reason(&status, "StockPreheated"),
        ("Unknown", "RedisUnavailable")
    );

    // No connection is cut.
    address.lead_to(&new);
    harness.until_phase("switched", Phase::Open).await;
    assert_eq!(barriers(&harness, "switched").await, 2);
    harness
        .eventually("the order is kept and more are sold", async || {
            harness.try_buy("switched", &["a", "b"]).await.len() == 2
        })
        .await;
    harness.end_in("switched", 2).await;
    let settled = harness.until_phase("switched", Phase::Settled).await;
    assert_eq!(settled.ledger.as_ref().map(|l| (l.total, l.sold)), Some((10, 2)));
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_is_rebuilt_after_its_primary_falls_silent() {
    let (old, new) = RedisServer::start_pair().await;
    let address = Address::of(&old).await;
    let harness = Harness::with_redis(address.url()).await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("silent", -1, 3600, json!({})).await;
    let open = harness.until_phase("silent", Phase::Open).await;
    old.pause();
    new.promote().await;
    address.lead_to(&new);
    harness
        .until("silent", "rebuilt", |status| {
            status.epoch > open.epoch && status.phase == Some(Phase::Open)
        })
        .await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rebuilds_are_paced_while_redis_loses_the_index_again() {
    let redis = RedisServer::start().await;
    let harness = Harness::with_redis(redis.url()).await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("evicted", -1, 3600, json!({})).await;
    harness.until_phase("evicted", Phase::Open).await;
    let begun = Instant::now();
    let mut lost = 0;
    // Like eviction: each index is lost as soon as it is published.
    while lost < 5 {
        let sale = harness.sale("evicted").await;
        let index = harness.stock.probe(sale.id).await.expect("Redis").index;
        if index.is_some_and(|index| Some(index.epoch) == sale.live_epoch) {
            harness.stock.drop_sale(sale.id).await.expect("Redis");
            lost += 1;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{lost} indexes were lost");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The preheat was the first; the others waited 0.5, 1, 2 and 4 seconds.
    assert!(begun.elapsed() >= Duration::from_millis(7_000), "{:?}", begun.elapsed());
    let waiting = harness
        .until("evicted", "waiting for the next rebuild", |status| {
            message(status, "StockPreheated").contains("in a row")
        })
        .await;
    assert_eq!(status_and_reason(&waiting, "StockPreheated"), ("False", "Preheating"));
    harness.until_phase("evicted", Phase::Open).await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}
