//! Sentinels promote a replica, and a Redis Cluster does.
use seckill_crds::Phase;
use seckill_stock::StockClient;
use seckill_test_redis::{RedisCluster, SentinelSet};
use serde_json::json;

use crate::harness::{Harness, RunningProgram};

/// A release whose sale has one order.
async fn begin(url: String, name: &str) -> (Harness, [RunningProgram; 2], Option<i64>) {
    let harness = Harness::with_redis(url).await;
    let programs = [harness.operator(), harness.worker()];
    harness.apply(name, -1, 3600, json!({})).await;
    let open = harness.until_phase(name, Phase::Open).await;
    assert_eq!(harness.buy(name, &["a"]).await, 1);
    (harness, programs, open.epoch)
}

/// The sale is rebuilt on another server without a person, keeps its order, and sells the rest.
async fn goes_on(mut harness: Harness, programs: [RunningProgram; 2], name: &str, before: Option<i64>) {
    harness
        .until(name, "rebuilt", |status| {
            status.epoch > before && status.phase == Some(Phase::Open)
        })
        .await;
    // The first call on a connection that broke gets an error, and the address in the URL may be that of the lost server.
    let connected = async || StockClient::connect(&harness.redis).await.is_ok();
    harness.eventually("Redis answers", connected).await;
    harness.stock = StockClient::connect(&harness.redis).await.expect("Redis");
    harness
        .eventually("the order is kept and more are sold", async || {
            harness.try_buy(name, &["a", "b"]).await.len() == 2
        })
        .await;
    harness.end_in(name, 2).await;
    let settled = harness.until_phase(name, Phase::Settled).await;
    assert_eq!(settled.ledger.as_ref().map(|l| (l.total, l.sold)), Some((10, 2)));
    for program in programs {
        program.stop().await;
    }
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_goes_on_after_sentinels_promoted_a_replica() {
    let mut set = SentinelSet::start().await;
    let (harness, programs, before) = begin(set.url(), "watched").await;
    set.servers[0].kill();
    goes_on(harness, programs, "watched", before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_goes_on_after_its_node_of_a_cluster_was_killed() {
    let mut cluster = RedisCluster::start_with_replicas().await;
    let (harness, programs, before) = begin(cluster.url(), "clustered").await;
    let sale = harness.sale("clustered").await.id;
    let (primary, _) = cluster.primary_of(&format!("{{{sale}}}:m")).await;
    cluster.nodes[primary].kill();
    goes_on(harness, programs, "clustered", before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_whose_slot_moved_is_rebuilt_at_the_new_node() {
    let cluster = RedisCluster::start().await;
    let (harness, programs, before) = begin(cluster.url(), "moved").await;
    let sale = harness.sale("moved").await.id;
    let (from, slot) = cluster.primary_of(&format!("{{{sale}}}:m")).await;
    let to = (from + 1) % 3;
    cluster.begin_move(slot, from, to).await;
    cluster.move_keys(slot, from, to).await;
    cluster.end_move(slot, from, to).await;
    goes_on(harness, programs, "moved", before).await;
}
