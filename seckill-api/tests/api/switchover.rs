//! Redis is switched over while all connections stay open.
use std::time::{Duration, Instant};

use seckill_ledger::Sale;
use seckill_stock::StockClient;
use seckill_test_redis::{Address, RedisServer};

use crate::harness::*;

/// Far longer than a replacement takes.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Buys with one key until the purchase is decided.
async fn until_bought(harness: &Harness, sale: &Sale) {
    let (key, begun) = (key(), Instant::now());
    loop {
        let answer = harness.buy(sale, &key).await;
        match answer.status {
            201 => return,
            503 => assert!(begun.elapsed() < WAIT_TIMEOUT, "{answer:?}"),
            _ => panic!("{answer:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The operator's part of a switchover: its own connection has followed the address already.
async fn rebuild_on(harness: &mut Harness, server: &RedisServer, sale: &Sale) {
    harness.stock = StockClient::connect(&server.url()).await.expect("Redis answers");
    harness.store().await;
    harness.rebuild(sale).await;
}

#[tokio::test]
async fn sales_resume_after_a_switchover_that_cuts_no_connection() {
    let (old, new) = RedisServer::start_pair().await;
    let address = Address::of(&old).await;
    let mut harness = Harness::with_redis(&address.url()).await;
    let sale = harness.sell(10, open()).await;
    assert_eq!(harness.buy(&sale, &key()).await.status, 201);
    assert_eq!(harness.get(&path(&sale)).await.body["remaining"], 9);

    new.promote().await;
    address.lead_to(&new);
    old.follow(&new).await;
    harness.buy(&sale, &key()).await.is(503, "not_ready");
    rebuild_on(&mut harness, &new, &sale).await;
    until_bought(&harness, &sale).await;
    let begun = Instant::now();
    while harness.get(&path(&sale)).await.body["remaining"] != 8 {
        assert!(begun.elapsed() < WAIT_TIMEOUT, "the number of units left is not shown");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn sales_resume_after_the_old_primary_falls_silent() {
    let (old, new) = RedisServer::start_pair().await;
    let address = Address::of(&old).await;
    let mut harness = Harness::with_redis(&address.url()).await;
    let sale = harness.sell(10, open()).await;
    assert_eq!(harness.buy(&sale, &key()).await.status, 201);

    old.pause();
    new.promote().await;
    address.lead_to(&new);
    rebuild_on(&mut harness, &new, &sale).await;
    until_bought(&harness, &sale).await;
}
