use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use seckill_protocol::Record;

use crate::harness::{Harness, PARTITIONS, batch, migrate, program};
use crate::proxy::Proxy;

#[tokio::test(flavor = "multi_thread")]
async fn migrate_is_repeatable_and_has_a_time_limit() {
    let harness = Harness::new().await;
    assert!(migrate(&harness.url, &harness.kafka, &harness.topic, "1", &[]).success());
    assert_eq!(harness.log.partitions(), crate::harness::PARTITIONS);
    let away = "mysql://u:p@127.0.0.1:1/x";
    let code = migrate(away, &harness.kafka, &harness.topic, "1", &["--timeout-seconds", "1"]).code();
    assert_eq!(code, Some(1));
    // An impossible topic fails at once.
    assert_eq!(
        migrate(&harness.url, &harness.kafka, &harness.topic, "2", &[]).code(),
        Some(1)
    );
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_stored_once_when_the_worker_is_killed() {
    const BATCHES: u64 = 300;
    const SIZE: u64 = 40;
    let harness = Harness::new().await;
    let (sale, epoch) = harness.sale(0, 1_000_000).await;
    let mut worker = harness.worker();
    worker.wait_until_ready().await;
    for i in 0..BATCHES {
        let record = batch(sale.id, epoch, 1 + i * SIZE, SIZE);
        harness.log.append_now(0, &record).expect("queued");
        if i % 100 == 50 {
            // In the middle of storing if the machine is fast enough, otherwise before it.
            harness.log.flush(Duration::from_secs(10)).await.expect("flushed");
            worker.kill();
            worker = harness.worker();
        }
        if i % 7 == 0 {
            harness.log.append_now(0, &record).expect("queued");
        }
    }
    harness.wait_for_orders((BATCHES * SIZE) as i64).await;
    let again = batch(sale.id, epoch, 1, SIZE);
    harness.append(0, &again).await;
    harness.append(0, &Record::Close { sale: sale.id }).await;
    let end = harness.log.end_offset(0).await.expect("asked");
    while harness.ledger.positions().await.expect("read").first().map(|p| p.1) != Some(end) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let after = harness.ledger.sale(sale.id).await.expect("read").expect("there");
    assert_eq!(
        (after.sold, after.total, after.cut.closed),
        (BATCHES * SIZE, 1_000_000, Some(end - 1))
    );
    assert_eq!(harness.orders().await, (BATCHES * SIZE) as i64);
    assert_eq!(harness.number("SELECT COUNT(*) FROM quarantine").await, 0);
    assert_eq!(worker.terminate(), Some(0));
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_takes_over_the_partitions_of_a_killed_one() {
    let harness = Harness::new().await;
    let (first, first_epoch) = harness.sale(0, 100).await;
    let (second, second_epoch) = harness.sale(1, 100).await;
    let (one, two) = (harness.worker(), harness.worker());
    one.wait_until_ready().await;
    two.wait_until_ready().await;
    harness.append(0, &batch(first.id, first_epoch, 1, 10)).await;
    harness.append(1, &batch(second.id, second_epoch, 1, 10)).await;
    harness.wait_for_orders(20).await;
    one.kill();
    harness.append(0, &batch(first.id, first_epoch, 11, 10)).await;
    harness.append(1, &batch(second.id, second_epoch, 11, 10)).await;
    harness.wait_for_orders(40).await;
    assert_eq!(two.terminate(), Some(0));
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_waits_for_mysql_and_loses_nothing() {
    let harness = Harness::new().await;
    let (sale, epoch) = harness.sale(0, 1000).await;
    let (server, database) = harness
        .url
        .split_once('@')
        .and_then(|(_, rest)| rest.split_once('/'))
        .expect("a URL");
    let proxy = Proxy::to(server.into()).await;
    let user = harness.url.split_once('@').expect("a user").0;
    let mut worker = harness.worker_with_mysql(&format!("{user}@{}/{database}", proxy.address));
    worker.wait_until_ready().await;
    harness.append(0, &batch(sale.id, epoch, 1, 10)).await;
    harness.wait_for_orders(10).await;

    proxy.set_open(false);
    for i in 1..20 {
        harness.append(0, &batch(sale.id, epoch, 1 + i * 10, 10)).await;
    }
    worker.wait_until("mysql: ").await;
    assert_eq!(harness.orders().await, 10);
    proxy.set_open(true);
    harness.wait_for_orders(200).await;
    worker.wait_until_ready().await;
    assert!(worker.is_running());
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_stored_again_after_mysql_lost_its_tail() {
    let harness = Harness::new().await;
    let (sale, epoch) = harness.sale(0, 1000).await;
    let worker = harness.worker();
    harness.append(0, &batch(sale.id, epoch, 1, 10)).await;
    harness.wait_for_orders(10).await;
    harness
        .execute(&format!(
            "START TRANSACTION; DELETE FROM orders; UPDATE log_position SET off = 0; \
         UPDATE sales SET sold = 0, total = 0, cur = NULL WHERE id = {}; COMMIT",
            sale.id.0
        ))
        .await;
    // No new record arrives, so the worker has to check its positions by itself.
    harness.wait_for_orders(10).await;
    worker.wait_for_metric("seckill_worker_orders_stored_total 20").await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_row_comes_back_after_mysql_lost_its_tail() {
    let harness = Harness::new().await;
    let (sale, epoch) = harness.sale(0, 1000).await;
    let worker = harness.worker();
    harness.append(0, &batch(sale.id, epoch, 1, 10)).await;
    harness.wait_for_orders(10).await;
    // The replica has nothing of the sale and of its partition.
    harness
        .execute(
            "START TRANSACTION; DELETE FROM orders; DELETE FROM sales; UPDATE log_position SET off = 0 WHERE part = 0; COMMIT",
        )
        .await;
    let other = harness.sale(1, 10).await;
    harness.append(1, &batch(other.0.id, other.1, 1, 1)).await;
    harness.wait_for_orders(11).await;
    let restored = harness.ledger.sale(sale.id).await.expect("read").expect("there");
    assert_eq!((restored.identity(), restored.sold), (sale.identity(), 10));
    assert_eq!(harness.number("SELECT COUNT(*) FROM quarantine").await, 0);
    worker.wait_until_ready().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_sale_stops_its_partition_and_no_other() {
    let harness = Harness::new().await;
    let (known, epoch) = harness.sale(0, 1000).await;
    let (other, other_epoch) = harness.sale(1, 1000).await;
    let barrier = Record::Barrier {
        sale: seckill_protocol::SaleId(known.id.0 ^ 1),
        nonce: "n".into(),
    };
    let at = harness.append(0, &barrier).await;
    harness.append(0, &batch(known.id, epoch, 1, 10)).await;
    let mut worker = harness.worker();
    worker
        .wait_until(&format!(
            "partition 0 stops at offset {at}: the ledger does not know sale"
        ))
        .await;
    harness.append(1, &batch(other.id, other_epoch, 1, 5)).await;
    harness.wait_for_orders(5).await;
    let metrics = worker.get("/metrics").await;
    assert!(
        metrics.contains("seckill_worker_partition_stopped{partition=\"0\"} 1\n"),
        "{metrics}"
    );
    assert_eq!(harness.number("SELECT COUNT(*) FROM quarantine").await, 0);
    assert!(worker.is_running());
    // A person restores the row.
    harness
        .execute(&format!(
            "INSERT INTO sales (id, class, namespace, name, uid, part, version, state, opens_at, closes_at, \
             limit_per_buyer, item, price, currency, offered) SELECT {}, class, namespace, 'restored', uid, part, version, \
             state, opens_at, closes_at, limit_per_buyer, item, price, currency, offered FROM sales WHERE id = {}",
            known.id.0 ^ 1,
            known.id.0
        ))
        .await;
    harness.wait_for_orders(15).await;
    worker.wait_until_ready().await;
    let metrics = worker.get("/metrics").await;
    assert!(!metrics.contains("seckill_worker_partition_stopped{"), "{metrics}");
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_out_of_range_stops_storing_until_it_is_repaired() {
    let harness = Harness::new().await;
    let (sale, epoch) = harness.sale(0, 1000).await;
    harness
        .execute("INSERT INTO log_position (part, off) VALUES (0, 1000)")
        .await;
    let mut worker = harness.worker();
    worker.wait_until("the log does not hold a position of MySQL").await;
    harness.append(0, &batch(sale.id, epoch, 1, 10)).await;
    assert!(worker.is_running());
    assert_eq!(harness.orders().await, 0);
    harness.execute("UPDATE log_position SET off = 0 WHERE part = 0").await;
    harness.wait_for_orders(10).await;
    worker.wait_until_ready().await;
    harness.drop().await;
}

/// The marker of a transaction is an offset without a record. The worker can't tell it from a record that a broker has lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_in_the_log_stops_its_partition_and_no_other() {
    let harness = Harness::new().await;
    let (sale, epoch) = harness.sale(0, 1000).await;
    let (other, other_epoch) = harness.sale(1, 1000).await;
    let mut worker = harness.worker();
    harness.append(0, &batch(sale.id, epoch, 1, 10)).await;
    let marker = harness.foreign_transaction(0).await;
    worker
        .wait_until(&format!("partition 0: the log has no record at offset {marker}"))
        .await;
    let next = harness.append(0, &batch(sale.id, epoch, 11, 10)).await;
    assert_eq!(next, marker + 1);
    harness.append(1, &batch(other.id, other_epoch, 1, 5)).await;
    // Everything before the gap is stored, and nothing behind it.
    harness.wait_for_orders(15).await;
    let metrics = worker.get("/metrics").await;
    assert!(
        metrics.contains("seckill_worker_partition_stopped{partition=\"0\"} 1\n"),
        "{metrics}"
    );
    assert!(worker.is_running());
    // A person follows the message.
    harness
        .execute(&format!(
            "UPDATE log_position SET off = {next} WHERE part = 0 AND off = {marker}"
        ))
        .await;
    harness.wait_for_orders(25).await;
    worker.wait_until_ready().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_read_is_shown_until_kafka_answers_again() {
    let harness = Harness::new().await;
    let brokers = MockCluster::new(1).expect("brokers");
    brokers.create_topic(&harness.topic, 2, 1).expect("created");
    let mocked = harness.with_kafka(&brokers.bootstrap_servers()).await;
    let (sale, epoch) = mocked.sale(0, 1000).await;
    let mut worker = mocked.worker();
    worker.wait_until_ready().await;
    mocked.append(0, &batch(sale.id, epoch, 1, 10)).await;
    mocked.wait_for_orders(10).await;
    for (error, advice) in [
        (
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
            "grant the Kafka user its rights",
        ),
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_MSG, "reading the log failed"),
    ] {
        brokers.request_errors(RDKafkaApiKey::Fetch, &[error; 1000]);
        worker.wait_until(advice).await;
        assert!(worker.is_running());
        brokers.clear_request_errors(RDKafkaApiKey::Fetch);
        worker.wait_until_ready().await;
    }
    mocked.append(0, &batch(sale.id, epoch, 11, 10)).await;
    mocked.wait_for_orders(20).await;
    assert_eq!(worker.terminate(), Some(0));
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_added_is_stored() {
    let harness = Harness::new().await;
    let worker = harness.worker();
    worker.wait_until_ready().await;
    harness.add_partitions(PARTITIONS + 1).await;
    let (sale, epoch) = harness.sale(PARTITIONS, 10).await;
    harness.append(PARTITIONS, &batch(sale.id, epoch, 1, 5)).await;
    harness.wait_for_orders(5).await;
    worker.wait_until_ready().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_waits_for_migrations() {
    let harness = Harness::new().await;
    harness.execute("UPDATE _sqlx_migrations SET success = FALSE").await;
    let worker = harness.worker();
    worker.wait_until(", found 0: run order-worker migrate").await;
    harness.execute("UPDATE _sqlx_migrations SET success = TRUE").await;
    worker.wait_until_ready().await;
    harness.drop().await;
}

/// `cargo test -p seckill-order-worker --test worker -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn measure_stored_orders_per_second() {
    for size in [1, 8, 64] {
        let harness = Harness::new().await;
        let orders = if size == 1 { 50_000 } else { 200_000 };
        let (sale, epoch) = harness.sale(0, orders).await;
        for first in (1..=orders).step_by(size as usize) {
            let record = batch(sale.id, epoch, first, size.min(orders + 1 - first));
            while harness.log.append_now(0, &record).is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        harness.log.flush(Duration::from_secs(30)).await.expect("flushed");
        // Counting rows would be most of the work of the server.
        let stored = async || harness.ledger.sale(sale.id).await.expect("read").expect("there").sold;
        let worker = harness.worker();
        while stored().await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (begun, before) = (std::time::Instant::now(), stored().await);
        while stored().await < orders {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let rate = (orders - before) as f64 / begun.elapsed().as_secs_f64();
        harness.wait_for_orders(orders as i64).await;
        println!("{orders} orders, {size} per record: {rate:.0} orders/s");
        let metrics = worker.get("/metrics").await;
        for line in metrics
            .lines()
            .filter(|l| l.contains("store_seconds_sum") || l.contains("store_seconds_count"))
        {
            println!("  {line}");
        }
        assert_eq!(worker.terminate(), Some(0));
        harness.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantined_record_is_listed_shown_and_replayed() {
    let harness = Harness::new().await;
    let (sale, epoch) = harness.sale(0, 2).await;
    harness.append(0, &batch(sale.id, epoch, 1, 3)).await;
    let total = Record::Total {
        sale: sale.id,
        total: 3,
    };
    harness.append(0, &total).await;
    let worker = harness.worker();
    while harness.number("SELECT CAST(total AS SIGNED) FROM sales").await < 3 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(worker);
    let quarantine = |words: &[&str]| {
        let output = program()
            .args(["quarantine", "--mysql-url", &harness.url])
            .args(words)
            .output()
            .expect("it runs");
        let (out, error) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        (output.status.success(), out, error)
    };
    let (_, list, _) = quarantine(&["list"]);
    assert!(
        list.contains(&sale.id.to_string()) && list.contains("oversold: 0 of 2 units are sold"),
        "{list}"
    );
    let (_, shown, _) = quarantine(&["show", "0", "3"]);
    assert!(shown.contains(r#""type":"batch""#), "{shown}");
    let (dismissed, _, why) = quarantine(&["dismiss", "0", "3"]);
    assert!(!dismissed && why.contains("promised to buyers"), "{why}");
    let (replayed, out, _) = quarantine(&["replay", "0", "3"]);
    assert!(replayed && out.contains("3 new orders"), "{out}");
    let (again, _, why) = quarantine(&["replay", "0", "3"]);
    assert!(
        !again && why.contains("no quarantined record at partition 0, offset 3"),
        "{why}"
    );
    assert_eq!(
        (harness.orders().await, quarantine(&["list"]).1.as_str()),
        (3, "The quarantine is empty.\n")
    );
    harness.drop().await;
}
