use std::time::Duration;

use seckill_protocol::Record;

use crate::bed::{Bed, batch, migrate, program};
use crate::cut::Way;

#[tokio::test(flavor = "multi_thread")]
async fn migrating_may_be_repeated_and_does_not_wait_for_ever() {
    let bed = Bed::new().await;
    assert!(migrate(&bed.url, &bed.kafka, &bed.topic, "1", &[]).success());
    assert_eq!(bed.log.partitions(), crate::bed::PARTITIONS);
    let away = "mysql://u:p@127.0.0.1:1/x";
    let code = migrate(away, &bed.kafka, &bed.topic, "1", &["--timeout-seconds", "1"]).code();
    assert_eq!(code, Some(1));
    // What can't be is said at once, not waited for.
    assert_eq!(migrate(&bed.url, &bed.kafka, &bed.topic, "2", &[]).code(), Some(1));
    bed.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_become_rows_once_although_the_worker_is_killed_in_between() {
    const BATCHES: u64 = 300;
    const SIZE: u64 = 40;
    let bed = Bed::new().await;
    let (sale, epoch) = bed.sale(0, 1_000_000).await;
    let mut worker = bed.worker();
    worker.wait_until_ready().await;
    for i in 0..BATCHES {
        let record = batch(sale.id, epoch, 1 + i * SIZE, SIZE);
        bed.log.append_now(0, &record).expect("queued");
        if i % 100 == 50 {
            // In the middle of work, if the machine is quick enough; if not, then before it.
            bed.log.flush(Duration::from_secs(10)).await.expect("flushed");
            worker.kill();
            worker = bed.worker();
        }
        if i % 7 == 0 {
            bed.log.append_now(0, &record).expect("queued");
        }
    }
    bed.wait_for_orders((BATCHES * SIZE) as i64).await;
    let again = batch(sale.id, epoch, 1, SIZE);
    bed.log.append(0, &again).await.expect("appended");
    bed.log
        .append(0, &Record::Close { sale: sale.id })
        .await
        .expect("appended");
    let end = bed.log.end_offset(0).await.expect("asked");
    while bed.ledger.positions().await.expect("read").first().map(|p| p.1) != Some(end) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let after = bed.ledger.sale(sale.id).await.expect("read").expect("there");
    assert_eq!(
        (after.sold, after.total, after.cut.closed),
        (BATCHES * SIZE, 1_000_000, Some(end - 1))
    );
    assert_eq!(bed.orders().await, (BATCHES * SIZE) as i64);
    assert_eq!(bed.number("SELECT COUNT(*) FROM quarantine").await, 0);
    assert_eq!(worker.terminate(), Some(0));
    bed.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_share_the_partitions_and_take_over_from_one_that_dies() {
    let bed = Bed::new().await;
    let (first, first_epoch) = bed.sale(0, 100).await;
    let (second, second_epoch) = bed.sale(1, 100).await;
    let (one, two) = (bed.worker(), bed.worker());
    one.wait_until_ready().await;
    two.wait_until_ready().await;
    bed.log
        .append(0, &batch(first.id, first_epoch, 1, 10))
        .await
        .expect("appended");
    bed.log
        .append(1, &batch(second.id, second_epoch, 1, 10))
        .await
        .expect("appended");
    bed.wait_for_orders(20).await;
    one.kill();
    bed.log
        .append(0, &batch(first.id, first_epoch, 11, 10))
        .await
        .expect("appended");
    bed.log
        .append(1, &batch(second.id, second_epoch, 11, 10))
        .await
        .expect("appended");
    bed.wait_for_orders(40).await;
    assert_eq!(two.terminate(), Some(0));
    bed.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_mysql_is_away_it_says_so_and_loses_nothing() {
    let bed = Bed::new().await;
    let (sale, epoch) = bed.sale(0, 1000).await;
    let (server, database) = bed
        .url
        .split_once('@')
        .and_then(|(_, rest)| rest.split_once('/'))
        .expect("a URL");
    let way = Way::to(server.into()).await;
    let user = bed.url.split_once('@').expect("a user").0;
    let mut worker = bed.worker_with_mysql(&format!("{user}@{}/{database}", way.here));
    worker.wait_until_ready().await;
    bed.log
        .append(0, &batch(sale.id, epoch, 1, 10))
        .await
        .expect("appended");
    bed.wait_for_orders(10).await;

    way.set_open(false);
    for i in 1..20 {
        bed.log
            .append(0, &batch(sale.id, epoch, 1 + i * 10, 10))
            .await
            .expect("appended");
    }
    worker.wait_until("mysql: ").await;
    assert_eq!(bed.orders().await, 10);
    way.set_open(true);
    bed.wait_for_orders(200).await;
    worker.wait_until_ready().await;
    assert!(worker.is_running());
    bed.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_mysql_lost_its_tail_what_it_lost_is_stored_again() {
    let bed = Bed::new().await;
    let (sale, epoch) = bed.sale(0, 1000).await;
    let worker = bed.worker();
    bed.log
        .append(0, &batch(sale.id, epoch, 1, 10))
        .await
        .expect("appended");
    bed.wait_for_orders(10).await;
    bed.execute(&format!(
        "START TRANSACTION; DELETE FROM orders; UPDATE log_position SET off = 0; \
         UPDATE sales SET sold = 0, total = 0, cur = NULL WHERE id = {}; COMMIT",
        sale.id.0
    ))
    .await;
    // Nothing new arrives: the worker has to look by itself.
    bed.wait_for_orders(10).await;
    let metrics = worker.ask("/metrics").await;
    assert!(metrics.contains("seckill_worker_orders_stored_total 20\n"), "{metrics}");
    bed.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_the_log_does_not_hold_stops_the_worker_until_somebody_acts() {
    let bed = Bed::new().await;
    let (sale, epoch) = bed.sale(0, 1000).await;
    bed.execute("INSERT INTO log_position (part, off) VALUES (0, 1000)")
        .await;
    let mut worker = bed.worker();
    worker.wait_until("the log does not hold a position").await;
    bed.log
        .append(0, &batch(sale.id, epoch, 1, 10))
        .await
        .expect("appended");
    assert!(worker.is_running());
    assert_eq!(bed.orders().await, 0);
    bed.execute("UPDATE log_position SET off = 0 WHERE part = 0").await;
    bed.wait_for_orders(10).await;
    worker.wait_until_ready().await;
    bed.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_waits_for_the_migrations_and_says_so() {
    let bed = Bed::new().await;
    bed.execute("UPDATE _sqlx_migrations SET success = FALSE").await;
    let worker = bed.worker();
    worker.wait_until(", found 0: run order-worker migrate").await;
    bed.execute("UPDATE _sqlx_migrations SET success = TRUE").await;
    worker.wait_until_ready().await;
    bed.drop().await;
}

/// `cargo test -p seckill-order-worker --test worker -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn how_many_orders_a_second_are_stored() {
    for size in [1, 8, 64] {
        let bed = Bed::new().await;
        let orders = if size == 1 { 50_000 } else { 200_000 };
        let (sale, epoch) = bed.sale(0, orders).await;
        for first in (1..=orders).step_by(size as usize) {
            let record = batch(sale.id, epoch, first, size.min(orders + 1 - first));
            while bed.log.append_now(0, &record).is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        bed.log.flush(Duration::from_secs(30)).await.expect("flushed");
        // Counting rows would be most of the server's work.
        let stored = async || bed.ledger.sale(sale.id).await.expect("read").expect("there").sold;
        let worker = bed.worker();
        while stored().await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (begun, before) = (std::time::Instant::now(), stored().await);
        while stored().await < orders {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let rate = (orders - before) as f64 / begun.elapsed().as_secs_f64();
        bed.wait_for_orders(orders as i64).await;
        println!("{orders} orders, {size} a record: {rate:.0} orders/s");
        let metrics = worker.ask("/metrics").await;
        for line in metrics
            .lines()
            .filter(|l| l.contains("store_seconds_sum") || l.contains("store_seconds_count"))
        {
            println!("  {line}");
        }
        assert_eq!(worker.terminate(), Some(0));
        bed.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_looks_at_a_quarantined_record_and_has_it_stored() {
    let bed = Bed::new().await;
    let (sale, epoch) = bed.sale(0, 2).await;
    bed.log.append(0, &batch(sale.id, epoch, 1, 3)).await.expect("appended");
    let total = Record::Total {
        sale: sale.id,
        total: 3,
    };
    bed.log.append(0, &total).await.expect("appended");
    let worker = bed.worker();
    while bed.number("SELECT CAST(total AS SIGNED) FROM sales").await < 3 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(worker);
    let said = |words: &[&str]| {
        let output = program()
            .args(["quarantine", "--mysql-url", &bed.url])
            .args(words)
            .output()
            .expect("it runs");
        let (out, error) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        (output.status.success(), out, error)
    };
    let (_, list, _) = said(&["list"]);
    assert!(
        list.contains(&sale.id.to_string()) && list.contains("oversold: 0 of 2 units are sold"),
        "{list}"
    );
    let (_, shown, _) = said(&["show", "0", "2"]);
    assert!(shown.contains(r#""type":"batch""#), "{shown}");
    let (dismissed, _, why) = said(&["dismiss", "0", "2"]);
    assert!(!dismissed && why.contains("promised to buyers"), "{why}");
    let (replayed, out, _) = said(&["replay", "0", "2"]);
    assert!(replayed && out.contains("3 new orders"), "{out}");
    let (again, _, why) = said(&["replay", "0", "2"]);
    assert!(
        !again && why.contains("nothing in quarantine at partition 0, offset 2"),
        "{why}"
    );
    assert_eq!(
        (bed.orders().await, said(&["list"]).1.as_str()),
        (3, "Nothing is in quarantine.\n")
    );
    bed.drop().await;
}
