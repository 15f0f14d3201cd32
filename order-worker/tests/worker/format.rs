//! Workers of two versions on one ledger.
use crate::harness::{Harness, batch};

const TOO_OLD: &str = "the ledger requires format 2, this program speaks 1: upgrade it";

/// The heartbeats of a pod with a format.
async fn heartbeats(harness: &Harness, pod: &str, format: u16) -> i64 {
    let of = format!("program = 'order-worker' AND instance = '{pod}' AND format = {format}");
    harness
        .number(&format!("SELECT COUNT(*) FROM heartbeats WHERE {of}"))
        .await
}

#[tokio::test]
async fn a_worker_that_is_too_old_leaves_its_partitions_to_newer_ones() {
    let harness = Harness::new().await;
    let (sale, epoch) = harness.sale(0, 100).await;
    let old = harness.worker_speaking(1, "old");
    old.wait_until_ready().await;
    harness.append(0, &batch(sale.id, epoch, 1, 10)).await;
    harness.wait_for_orders(10).await;
    assert_eq!(heartbeats(&harness, "old", 1).await, 1);

    harness.execute("UPDATE required_format SET format = 2").await;
    harness.append(0, &batch(sale.id, epoch, 11, 10)).await;
    old.wait_until(TOO_OLD).await;
    assert_eq!(harness.orders().await, 10);
    // The old one still runs, and holds no partition.
    let new = harness.worker_speaking(2, "new");
    harness.wait_for_orders(20).await;
    assert_eq!(heartbeats(&harness, "new", 2).await, 1);
    assert!(old.get("/readyz").await.contains(TOO_OLD));
    assert_eq!(new.terminate(), Some(0));
    assert_eq!(heartbeats(&harness, "new", 2).await, 0);

    // A person knows that nothing of the newer format was written.
    harness.execute("UPDATE required_format SET format = 1").await;
    old.wait_until_ready().await;
    harness.append(0, &batch(sale.id, epoch, 21, 10)).await;
    harness.wait_for_orders(30).await;
    assert_eq!(old.terminate(), Some(0));
    harness.drop().await;
}

#[tokio::test]
async fn a_worker_that_starts_too_old_stores_nothing() {
    let harness = Harness::new().await;
    let (sale, epoch) = harness.sale(0, 100).await;
    harness.execute("UPDATE required_format SET format = 2").await;
    harness.append(0, &batch(sale.id, epoch, 1, 10)).await;
    let mut old = harness.worker_speaking(1, "old");
    old.wait_until(TOO_OLD).await;
    assert_eq!((harness.orders().await, heartbeats(&harness, "old", 1).await), (0, 1));
    assert!(old.is_running());
    let _new = harness.worker_speaking(2, "new");
    harness.wait_for_orders(10).await;
    harness.drop().await;
}

#[tokio::test]
async fn a_worker_without_the_right_to_write_heartbeats_stores() {
    let harness = Harness::new().await;
    let (sale, epoch) = harness.sale(0, 100).await;
    harness.execute("DROP TABLE heartbeats").await;
    let worker = harness.worker_speaking(1, "silent");
    worker.wait_until_ready().await;
    harness.append(0, &batch(sale.id, epoch, 1, 10)).await;
    harness.wait_for_orders(10).await;
    assert_eq!(worker.terminate(), Some(0));
    harness.drop().await;
}
