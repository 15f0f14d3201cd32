//! Redis is switched over while all connections of the worker stay open.
use seckill_protocol::{Epoch, Record};
use seckill_stock::StockClient;
use seckill_test_redis::{Address, RedisServer, eventually};

use crate::harness::Harness;
use crate::relay::{install, sell, wait_until_left};

#[tokio::test(flavor = "multi_thread")]
async fn relay_and_adjustments_follow_a_switchover_that_cuts_nothing() {
    let (old, new) = RedisServer::start_pair().await;
    let address = Address::of(&old).await;
    let mut harness = Harness::new().await;
    harness.redis = address.url();
    let (before, after) = (client(&old).await, client(&new).await);
    let (sale, epoch) = harness.sale(0, 10).await;
    install(&harness, &before, &sale, epoch, 10).await;
    sell(&before, &sale, epoch, &["a"]).await;
    let _worker = harness.worker();
    // Relay and adjuster both have a connection to the old primary.
    eventually("the outbox is trimmed", async || {
        before.outbox_len(sale.id, epoch).await.expect("Redis") == 0
    })
    .await;
    let total = |total| Record::Total { sale: sale.id, total };
    harness.append(0, &total(11)).await;
    wait_until_left(&before, &sale, 11, 10).await;

    new.promote().await;
    address.lead_to(&new);
    old.follow(&new).await;
    let barrier = Record::Barrier {
        sale: sale.id,
        nonce: "n".into(),
    };
    let epoch = Epoch(harness.append(0, &barrier).await);
    install(&harness, &after, &sale, epoch, 11).await;
    sell(&after, &sale, epoch, &["b"]).await;
    harness.wait_for_orders(2).await;
    eventually("the outbox is trimmed", async || {
        after.outbox_len(sale.id, epoch).await.expect("Redis") == 0
    })
    .await;
    harness.append(0, &total(12)).await;
    wait_until_left(&after, &sale, 12, 11).await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_leaves_a_server_without_the_index() {
    let (old, new) = (RedisServer::start().await, RedisServer::start().await);
    let address = Address::of(&old).await;
    let mut harness = Harness::new().await;
    harness.redis = address.url();
    let (before, after) = (client(&old).await, client(&new).await);
    let (sale, epoch) = harness.sale(0, 10).await;
    install(&harness, &before, &sale, epoch, 10).await;
    sell(&before, &sale, epoch, &["a"]).await;
    let _worker = harness.worker();
    harness.wait_for_orders(1).await;

    // The old primary runs on, with an index of the old epoch and an empty outbox.
    address.lead_to(&new);
    let barrier = Record::Barrier {
        sale: sale.id,
        nonce: "n".into(),
    };
    let epoch = Epoch(harness.append(0, &barrier).await);
    install(&harness, &after, &sale, epoch, 10).await;
    sell(&after, &sale, epoch, &["b"]).await;
    harness.wait_for_orders(2).await;
    harness.drop().await;
}

async fn client(server: &RedisServer) -> StockClient {
    StockClient::connect(&server.url()).await.expect("Redis answers")
}
