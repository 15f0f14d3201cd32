//! MySQL is restored from an old backup while sales sell.
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use seckill_crds::Phase;
use serde_json::json;

use crate::harness::{Harness, required_env, status_and_reason};

const TABLES: [&str; 7] = [
    "orders",
    "effects",
    "quarantine",
    "sales",
    "log_position",
    "required_format",
    "emergency_stops",
];

/// A copy of the rows, which later changes of the ledger do not reach.
async fn back_up(harness: &Harness) {
    for table in TABLES {
        harness
            .execute(&format!("CREATE TABLE backup_{table} AS SELECT * FROM {table}"))
            .await;
    }
}

/// The programs see one instant, as when their address is switched to a restored server.
async fn restore(harness: &Harness) {
    let mut sql = String::from("START TRANSACTION;");
    for table in TABLES {
        sql += &format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM backup_{table};");
    }
    harness.execute(&(sql + "COMMIT")).await;
}

async fn until_stored(harness: &Harness, name: &str, orders: usize) {
    harness
        .eventually("the ledger has all orders", async || {
            let sale = harness.ledger.sale_by_name(&harness.name, &harness.namespace, name);
            sale.await.expect("MySQL").is_some() && harness.orders(name).await == orders
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_restored_from_an_old_backup_catches_up_while_sales_sell() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("before", -1, 3600, json!({})).await;
    harness.until_phase("before", Phase::Open).await;
    assert_eq!(harness.buy("before", &["a", "b"]).await, 2);
    until_stored(&harness, "before", 2).await;
    back_up(&harness).await;

    // After the backup: more orders, another epoch, a raised stock, and another sale.
    assert_eq!(harness.buy("before", &["c", "d"]).await, 2);
    let at_backup = harness.sale("before").await;
    harness.stock.drop_sale(at_backup.id).await.expect("Redis");
    let epoch = at_backup.live_epoch.expect("a live epoch").0;
    harness
        .until("before", "rebuilt and selling", |status| {
            status.epoch > Some(epoch) && status_and_reason(status, "Ready") == ("True", "Selling")
        })
        .await;
    harness.edit("before", json!({"spec": {"stock": 12}})).await;
    harness.apply("after", -1, 3600, json!({})).await;
    harness.until_phase("after", Phase::Open).await;
    assert_eq!(harness.buy("before", &["e"]).await, 1);
    assert_eq!(harness.buy("after", &["a", "b", "c"]).await, 3);
    until_stored(&harness, "before", 5).await;
    until_stored(&harness, "after", 3).await;
    let newer = harness.sale("after").await.id;

    restore(&harness).await;
    until_stored(&harness, "before", 5).await;
    until_stored(&harness, "after", 3).await;
    assert_eq!(harness.sale("after").await.id, newer);
    let buyers: Vec<String> = (0..20).map(|n| format!("late-{n}")).collect();
    let buyers: Vec<&str> = buyers.iter().map(String::as_str).collect();
    for (name, stock) in [("before", 12), ("after", 10)] {
        // The epoch in the ledger may still be that of the backup, and a batch of an older epoch is void.
        harness
            .eventually("the remaining units are sold", async || {
                harness.try_buy(name, &buyers).await;
                harness.orders(name).await == stock
            })
            .await;
    }

    for (name, orders) in [("before", 12), ("after", 10)] {
        harness.end_in(name, 2).await;
        let settled = harness.until_phase(name, Phase::Settled).await;
        assert_eq!(status_and_reason(&settled, "LedgerBalanced"), ("True", "Balanced"));
        assert_eq!(harness.orders(name).await, orders);
    }
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

/// Kafka removes the records before an offset, as its retention does.
async fn expire_records(harness: &Harness, partition: u32, before: i64) {
    let kafka: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", required_env("SECKILL_TEST_KAFKA"))
        .create()
        .expect("Kafka");
    let mut offsets = TopicPartitionList::new();
    let at = Offset::Offset(before);
    let added = offsets.add_partition_offset(&harness.name, partition as i32, at);
    added.expect("a valid offset");
    kafka
        .delete_records(&offsets, &AdminOptions::new())
        .await
        .expect("Kafka");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_shorter_than_the_age_of_the_backup_is_a_preflight_problem() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("old", -1, 3600, json!({})).await;
    harness.until_phase("old", Phase::Open).await;
    assert_eq!(harness.buy("old", &["a"]).await, 1);
    until_stored(&harness, "old", 1).await;
    back_up(&harness).await;
    assert_eq!(harness.buy("old", &["b", "c"]).await, 2);
    until_stored(&harness, "old", 3).await;

    let partition = harness.sale("old").await.partition;
    let end = harness.log.end_offset(partition).await.expect("Kafka");
    expire_records(&harness, partition, end).await;
    harness.until_reason("old", "Preflight", "Passed").await;
    restore(&harness).await;
    let found = harness.until_reason("old", "Preflight", "ProblemsFound").await;
    let message = &found
        .conditions
        .iter()
        .find(|c| c.type_ == "Preflight")
        .expect("the condition")
        .message;
    assert!(message.contains("restore a newer backup"), "{message}");
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}
