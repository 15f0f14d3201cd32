//! The transaction that stores the log, against a real server.

use crate::common::{Database, Log, order};
use futures::TryStreamExt as _;
use seckill_ledger::{Ledger, OrderStatus, ReplayError, Sale, SaleWithAdjustments, StoreError, Stored};
use seckill_protocol::fold::FoldedOrder;
use seckill_protocol::{Batch, Buyer, Epoch, KeyHash, OrderId, Record, SaleId, StockAdjustment};

async fn store_all(ledger: &Ledger, log: &Log) -> Stored {
    store_from(ledger, log, 0).await
}

async fn store_from(ledger: &Ledger, log: &Log, from: i64) -> Stored {
    ledger
        .store(log.partition, from, log.end(), &log.entries[from as usize..])
        .await
        .expect("stored")
}

async fn now(ledger: &Ledger, sale: SaleId) -> Sale {
    ledger.sale(sale).await.expect("read").expect("there")
}

async fn all_orders(ledger: &Ledger, sale: SaleId) -> Vec<(OrderId, FoldedOrder)> {
    let snapshot = ledger.sale_snapshot(sale).await.expect("read");
    snapshot.all_orders().await.expect("read")
}

#[tokio::test]
async fn orders_of_the_log_become_rows_with_their_price_and_time() {
    let db = Database::new().await;
    let (sale, mut log) = db.sale(3, 1000).await;
    log.batch(1, 100);
    log.batch(101, 61);
    let stored = store_all(&db.ledger, &log).await;
    assert_eq!(
        stored,
        Stored {
            orders: 161,
            ..Stored::default()
        }
    );

    let id = OrderId {
        sale: sale.id,
        epoch: log.epoch,
        seq: 161,
    };
    let row = db.ledger.order(id).await.expect("read").expect("there");
    assert_eq!((row.id, row.buyer, row.key), (id, order(161).buyer, order(161).key));
    assert_eq!(
        (row.price.as_str(), row.status, row.created_at_ms),
        ("9.90", OrderStatus::Placed, 1_795_396_511_045)
    );
    let after = now(&db.ledger, sale.id).await;
    assert_eq!(
        (after.total, after.sold, after.cut.current_epoch),
        (1000, 161, Some(log.epoch.0))
    );
    assert_eq!(db.ledger.positions().await.expect("read"), [(3, log.end())]);
    db.drop().await;
}

#[tokio::test]
async fn storing_the_same_records_again_is_refused_and_changes_nothing() {
    let db = Database::new().await;
    let (sale, mut log) = db.sale(0, 10).await;
    log.batch(1, 5);
    store_all(&db.ledger, &log).await;
    // A stopped worker that wakes up and still uses its old position.
    let error = db.ledger.store(0, 0, log.end(), &log.entries).await.expect_err("moved");
    assert!(
        matches!(error, StoreError::PositionMoved { partition: 0, from: 0 }),
        "{error}"
    );
    assert_eq!(db.number("SELECT COUNT(*) FROM orders").await, 5);
    assert_eq!(now(&db.ledger, sale.id).await.sold, 5);
    db.drop().await;
}

#[tokio::test]
async fn one_of_many_concurrent_stores_succeeds() {
    let db = Database::new().await;
    let (sale, mut log) = db.sale(0, 1000).await;
    log.batch(1, 128);
    let tries = (0..6).map(|_| db.ledger.store(0, 0, log.end(), &log.entries));
    let results = futures::future::join_all(tries).await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    assert!(
        results
            .iter()
            .all(|r| matches!(r, Ok(_) | Err(StoreError::PositionMoved { .. }))),
        "{results:?}"
    );
    assert_eq!(now(&db.ledger, sale.id).await.sold, 128);
    db.drop().await;
}

#[tokio::test]
async fn void_and_duplicate_records_are_not_stored() {
    let db = Database::new().await;
    let (sale, mut log) = db.sale(0, 1000).await;
    let old = log.epoch;
    log.batch(1, 10);
    log.batch(1, 10); // again within the range
    log.barrier();
    let late = Batch {
        sale: sale.id,
        epoch: old,
        first: 11,
        orders: vec![order(11)],
    };
    log.push(Record::Batch(late));
    log.batch(1, 4);
    let first = store_all(&db.ledger, &log).await;
    assert_eq!(
        first,
        Stored {
            orders: 14,
            void: 1,
            duplicates: 10,
            quarantined: 0
        }
    );

    let middle = log.end();
    log.batch(3, 5); // 3 and 4 are stored, 5 to 7 are not
    log.barrier();
    log.push(Record::Batch(Batch {
        sale: sale.id,
        epoch: old,
        first: 1,
        orders: vec![order(1)],
    }));
    let second = store_from(&db.ledger, &log, middle).await;
    assert_eq!(
        second,
        Stored {
            orders: 3,
            void: 1,
            duplicates: 2,
            quarantined: 0
        }
    );
    assert_eq!(db.number("SELECT COUNT(*) FROM orders").await, 17);
    assert_eq!(now(&db.ledger, sale.id).await.sold, 17);
    db.drop().await;
}

#[tokio::test]
async fn a_snapshot_streams_orders_by_buyer() {
    let db = Database::new().await;
    let (sale, mut log) = db.sale(0, 10_000).await;
    for i in 0..50 {
        log.batch(1 + i * 100, 100);
    }
    // A second order of the first buyers.
    log.barrier();
    log.batch(1, 100);
    store_all(&db.ledger, &log).await;
    let mut snapshot = db.ledger.sale_snapshot(sale.id).await.expect("read");
    let chunks: Vec<_> = snapshot.orders().try_collect().await.expect("read");
    drop(snapshot); // it would keep the database from being dropped
    assert!(chunks.len() > 1, "{} chunks", chunks.len());
    assert!(
        chunks
            .iter()
            .flatten()
            .all(|(id, order)| u64::from(order.tier) == id.seq % 5)
    );
    let orders: Vec<_> = chunks
        .into_iter()
        .flatten()
        .map(|(id, order)| (order.buyer, id))
        .collect();
    assert_eq!(orders.len(), 5100);
    assert!(orders.is_sorted(), "a buyer's orders are not together");
    db.drop().await;
}

#[tokio::test]
async fn an_oversold_batch_is_quarantined_and_smaller_ones_are_stored() {
    let db = Database::new().await;
    let (sale, mut log) = db.sale(0, 10).await;
    log.batch(1, 8);
    log.batch(9, 3);
    log.batch(12, 2);
    let stored = store_all(&db.ledger, &log).await;
    assert_eq!(
        stored,
        Stored {
            orders: 10,
            quarantined: 1,
            ..Stored::default()
        }
    );
    let after = now(&db.ledger, sale.id).await;
    assert_eq!((after.total, after.sold), (10, 10));
    let id = |seq| OrderId {
        sale: sale.id,
        epoch: log.epoch,
        seq,
    };
    assert!(db.ledger.order(id(9)).await.expect("read").is_none());
    assert!(db.ledger.is_quarantined(id(9)).await.expect("read"));
    assert!(!db.ledger.is_quarantined(id(8)).await.expect("read"));
    assert!(!db.ledger.is_quarantined(id(12)).await.expect("read"));
    // These orders were promised: a rebuild has to count them, and the relay must not publish them again.
    assert_eq!(all_orders(&db.ledger, sale.id).await.len(), 13);
    assert_eq!(
        db.ledger.folded_seqs(sale.id, log.epoch, 7, 11).await.expect("read"),
        [7, 8, 9, 10, 11]
    );
    db.drop().await;
}

#[tokio::test]
async fn a_promised_batch_can_be_replayed_but_not_dismissed() {
    let db = Database::new().await;
    let (sale, mut log) = db.sale(0, 10).await;
    log.batch(1, 8);
    let at = log.end();
    log.batch(9, 4);
    log.cancel(9);
    store_all(&db.ledger, &log).await;
    let quarantined = db.ledger.quarantined(10).await.expect("read");
    assert_eq!(quarantined.len(), 2);
    assert_eq!(quarantined[0].promised, Some((sale.id, 9, 12)));
    assert_eq!((quarantined[1].offset, quarantined[1].promised), (at + 1, None));
    assert_eq!(
        Record::decode(&quarantined[0].payload).expect("decodes"),
        *log.entries[at as usize].record.as_ref().expect("a record")
    );

    let refused = db.ledger.replay(0, at).await.expect_err("still oversold");
    assert!(matches!(refused, ReplayError::Refused(_)), "{refused}");
    assert!(matches!(db.ledger.dismiss(0, at).await, Err(ReplayError::Promised)));
    assert!(matches!(
        db.ledger.replay(0, at + 1).await,
        Err(ReplayError::Refused(_))
    ));
    assert_eq!(db.ledger.quarantined(10).await.expect("read"), quarantined);

    let middle = log.end();
    log.push(Record::Total {
        sale: sale.id,
        total: 12,
    });
    store_from(&db.ledger, &log, middle).await;
    assert_eq!(db.ledger.replay(0, at).await.expect("folded").orders, 4);
    db.ledger.replay(0, at + 1).await.expect("folded");
    let row = now(&db.ledger, sale.id).await;
    assert_eq!((row.sold, row.taken, row.returned), (11, 12, 1));
    assert!(matches!(
        db.ledger.replay(0, at).await,
        Err(ReplayError::NotThere { .. })
    ));
    assert_eq!(db.ledger.quarantined(10).await.expect("read"), []);
    db.drop().await;
}

#[tokio::test]
async fn a_record_without_promises_can_be_dismissed() {
    let db = Database::new().await;
    let (_, mut log) = db.sale(0, 10).await;
    let at = log.end();
    log.push_bytes(b"what is this".to_vec());
    store_all(&db.ledger, &log).await;
    assert!(matches!(db.ledger.replay(0, at).await, Err(ReplayError::Unreadable(_))));
    db.ledger.dismiss(0, at).await.expect("thrown away");
    assert_eq!(db.ledger.quarantined(10).await.expect("read"), []);
    db.drop().await;
}

#[tokio::test]
async fn an_unreadable_record_is_quarantined_and_later_ones_are_stored() {
    let db = Database::new().await;
    let (_, mut log) = db.sale(0, 10).await;
    log.push_bytes(b"{\"type\":\"refund\"}".to_vec());
    log.push_bytes(Vec::new());
    log.cancel(99);
    log.batch(1, 2);
    let stored = store_all(&db.ledger, &log).await;
    assert_eq!(
        stored,
        Stored {
            orders: 2,
            quarantined: 3,
            ..Stored::default()
        }
    );
    assert_eq!(db.number("SELECT COUNT(*) FROM quarantine WHERE sale IS NULL").await, 3);
    let kept = db
        .number("SELECT COUNT(*) FROM quarantine WHERE off = 2 AND payload = '{\"type\":\"refund\"}'")
        .await;
    assert_eq!(kept, 1);
    db.drop().await;
}

#[tokio::test]
async fn a_record_of_a_sale_on_another_partition_is_quarantined() {
    let db = Database::new().await;
    let (_, mut here) = db.sale(0, 10).await;
    let (elsewhere, _) = db.sale(1, 10).await;
    here.push(Record::Total {
        sale: elsewhere.id,
        total: 10,
    });
    assert_eq!(store_all(&db.ledger, &here).await.quarantined, 1);
    assert_eq!(now(&db.ledger, elsewhere.id).await.total, 0);
    db.drop().await;
}

#[tokio::test]
async fn only_the_record_that_mysql_refuses_is_quarantined() {
    let db = Database::new().await;
    db.execute("ALTER TABLE orders ADD CONSTRAINT no_poison CHECK (buyer <> 'shop:poison')")
        .await;
    let (sale, mut log) = db.sale(0, 1000).await;
    for i in 0..10 {
        log.batch(1 + i * 10, 10);
    }
    let mut poisoned = order(101);
    poisoned.buyer = Buyer::new("shop:poison").expect("valid");
    log.push(Record::Batch(Batch {
        sale: sale.id,
        epoch: log.epoch,
        first: 101,
        orders: vec![poisoned],
    }));
    log.batch(102, 10);
    let stored = store_all(&db.ledger, &log).await;
    assert_eq!(
        stored,
        Stored {
            orders: 110,
            quarantined: 1,
            ..Stored::default()
        }
    );
    let id = OrderId {
        sale: sale.id,
        epoch: log.epoch,
        seq: 101,
    };
    assert!(db.ledger.is_quarantined(id).await.expect("read"));
    assert_eq!(now(&db.ledger, sale.id).await.sold, 110);
    assert_eq!(db.ledger.positions().await.expect("read"), [(0, log.end())]);
    db.drop().await;
}

#[tokio::test]
async fn a_stored_order_with_other_content_is_quarantined() {
    let db = Database::new().await;
    let (sale, mut log) = db.sale(0, 10).await;
    log.batch(1, 2);
    let mut other = order(2);
    other.key = KeyHash::of("another");
    let orders = vec![other, order(3)];
    log.push(Record::Batch(Batch {
        sale: sale.id,
        epoch: log.epoch,
        first: 2,
        orders,
    }));
    let stored = store_all(&db.ledger, &log).await;
    assert_eq!(
        stored,
        Stored {
            orders: 3,
            quarantined: 1,
            ..Stored::default()
        }
    );
    let id = OrderId {
        sale: sale.id,
        epoch: log.epoch,
        seq: 2,
    };
    assert_eq!(
        db.ledger.order(id).await.expect("read").expect("there").key,
        order(2).key
    );
    db.drop().await;
}

#[tokio::test]
async fn the_total_only_rises() {
    let db = Database::new().await;
    let (sale, mut log) = db.sale(0, 10).await;
    for total in [20, 15] {
        log.push(Record::Total { sale: sale.id, total });
    }
    store_all(&db.ledger, &log).await;
    assert_eq!(now(&db.ledger, sale.id).await.total, 20);
    let middle = log.end();
    log.push(Record::Total {
        sale: sale.id,
        total: 5,
    });
    store_from(&db.ledger, &log, middle).await;
    assert_eq!(now(&db.ledger, sale.id).await.total, 20);
    db.drop().await;
}

#[tokio::test]
async fn only_cancels_and_payments_count_after_close() {
    let db = Database::new().await;
    let (sale, mut log) = db.sale(0, 10).await;
    log.batch(1, 3);
    assert!(
        !db.ledger.set_settled(sale.id, None).await.expect("asked"),
        "CLOSE was not stored yet"
    );
    let close = log.end();
    log.push(Record::Close { sale: sale.id });
    log.batch(4, 1);
    log.push(Record::Total {
        sale: sale.id,
        total: 99,
    });
    let epoch = log.epoch;
    log.barrier();
    log.batch(1, 1);
    log.epoch = epoch;
    log.cancel(1);
    log.paid(2);
    let stored = store_all(&db.ledger, &log).await;
    assert_eq!(
        stored,
        Stored {
            orders: 3,
            void: 2,
            ..Stored::default()
        }
    );
    let after = now(&db.ledger, sale.id).await;
    assert_eq!((after.total, after.sold), (10, 2));
    assert_eq!((after.cut.current_epoch, after.cut.closed), (Some(close), Some(close)));
    assert!(db.ledger.set_settled(sale.id, None).await.expect("asked"));
    assert!(!db.ledger.set_settled(sale.id, None).await.expect("asked"));
    db.drop().await;
}

#[tokio::test]
async fn the_first_of_cancel_and_paid_in_the_log_wins() {
    let db = Database::new().await;
    let (sale, mut log) = db.sale(0, 10).await;
    log.batch(1, 4);
    log.cancel(1);
    log.paid(1);
    log.paid(2);
    log.cancel(2);
    store_all(&db.ledger, &log).await;
    let middle = log.end();
    log.cancel(1); // again: its unit returns once
    log.cancel(3);
    log.paid(3);
    log.paid(4);
    store_from(&db.ledger, &log, middle).await;
    let orders = all_orders(&db.ledger, sale.id).await;
    let statuses: Vec<OrderStatus> = orders.iter().map(|(_, o)| o.status).collect();
    use OrderStatus::*;
    assert_eq!(statuses, [Cancelled, Paid, Cancelled, Paid]);
    assert_eq!(now(&db.ledger, sale.id).await.sold, 2);
    // The cancelled units can be sold again.
    let middle = log.end();
    log.batch(5, 8);
    assert_eq!(store_from(&db.ledger, &log, middle).await.orders, 8);
    db.drop().await;
}

#[tokio::test]
async fn pending_adjustments_are_stored_once_until_deleted() {
    let db = Database::new().await;
    let (sale, mut log) = db.sale(0, 10).await;
    log.batch(1, 4);
    let cancelled_at = log.end();
    log.cancel(2);
    log.cancel(2);
    let raised_at = log.end();
    let total = |total| Record::Total { sale: sale.id, total };
    log.push(total(12));
    log.push(total(11));
    store_all(&db.ledger, &log).await;
    let row = now(&db.ledger, sale.id).await;
    assert_eq!((row.total, row.sold, row.taken, row.returned), (12, 3, 4, 1));
    assert_eq!(row.left_at_rest(), 9);

    let sales = db.ledger.sales_with_pending_adjustments().await.expect("read");
    let expected = SaleWithAdjustments {
        partition: 0,
        sale: sale.id,
        settled: false,
    };
    assert_eq!(sales, [expected]);
    let pending = async |limit| db.ledger.pending_adjustments(0, sale.id, limit).await.expect("read");
    let all = pending(10).await;
    let returned = StockAdjustment::Return {
        buyer: order(2).buyer,
        epoch: log.epoch,
        seq: 2,
    };
    let expected = [
        (cancelled_at, returned),
        // The second CANCEL changes nothing.
        (cancelled_at + 1, StockAdjustment::Pass),
        (raised_at, StockAdjustment::Raise { total: 12 }),
    ];
    let found: Vec<_> = all.iter().map(|e| (e.offset, e.adjustment.clone())).collect();
    assert_eq!(found, expected);
    assert!(all.iter().all(|pending| pending.since == log.epoch));
    assert_eq!(pending(2).await, all[..2]);
    assert_eq!(db.ledger.pending_adjustments(1, sale.id, 10).await.expect("read"), []);

    let has_pending = async || db.ledger.has_pending_adjustments(sale.id).await.expect("read");
    let delete = async |offsets: &[i64]| db.ledger.delete_adjustments(0, offsets).await.expect("deleted");
    delete(&[cancelled_at]).await;
    assert_eq!(pending(10).await, all[1..]);
    assert!(has_pending().await);
    delete(&[raised_at]).await;
    // What changes no unit holds back neither a comparison of units nor the settlement.
    assert_eq!(pending(10).await, all[1..2]);
    assert!(!has_pending().await);
    let units = db
        .ledger
        .units(sale.id, log.epoch, 4)
        .await
        .expect("read")
        .expect("there");
    assert!(!units.adjustments_pending);
    delete(&[cancelled_at, cancelled_at + 1, raised_at]).await;
    assert_eq!(pending(10).await, []);
    db.drop().await;
}

#[tokio::test]
async fn a_cancel_after_a_payment_leaves_an_adjustment_that_changes_nothing() {
    let db = Database::new().await;
    let (sale, mut log) = db.sale(0, 10).await;
    log.batch(1, 1);
    log.push(Record::Paid {
        sale: sale.id,
        epoch: log.epoch,
        seq: 1,
        reference: "r".into(),
    });
    let cancelled_at = log.end();
    log.cancel(1);
    store_all(&db.ledger, &log).await;
    let pending = db.ledger.pending_adjustments(0, sale.id, 10).await.expect("read");
    let found: Vec<_> = pending.iter().map(|e| (e.offset, &e.adjustment)).collect();
    assert_eq!(found, [(cancelled_at, &StockAdjustment::Pass)]);
    assert_eq!(now(&db.ledger, sale.id).await.sold, 1);
    db.drop().await;
}

#[tokio::test]
async fn no_adjustments_before_the_first_epoch_and_after_close() {
    let db = Database::new().await;
    let (sale, mut log) = db.sale(0, 10).await;
    log.batch(1, 4);
    log.push(Record::Close { sale: sale.id });
    log.cancel(1);
    store_all(&db.ledger, &log).await;
    assert!(!db.ledger.has_pending_adjustments(sale.id).await.expect("read"));
    let row = now(&db.ledger, sale.id).await;
    // The unit is free, but no index gets it: after the end the units left in an index do not change.
    assert_eq!((row.sold, row.taken, row.returned), (3, 4, 0));
    assert_eq!(row.left_at_rest(), 6);
    db.drop().await;
}

#[tokio::test]
async fn units_count_later_orders_separately() {
    let db = Database::new().await;
    let (sale, mut log) = db.sale(0, 20).await;
    log.batch(1, 6);
    let old = log.epoch;
    log.barrier();
    log.batch(1, 3);
    log.cancel(1);
    store_all(&db.ledger, &log).await;
    for (epoch, seq, beyond) in [(old, 0, 9), (old, 4, 5), (log.epoch, 1, 2), (log.epoch, 3, 0)] {
        let units = db.ledger.units(sale.id, epoch, seq).await.expect("read");
        let units = units.expect("the sale is there");
        assert_eq!(units.beyond, beyond, "{epoch} {seq}");
        assert_eq!((units.total, units.taken, units.returned), (20, 9, 1));
        assert!(units.adjustments_pending);
    }
    db.drop().await;
}

#[tokio::test]
async fn partitions_are_stored_concurrently() {
    let db = Database::new().await;
    let mut logs = Vec::new();
    for partition in 0..4 {
        let (_, mut log) = db.sale(partition, 10_000).await;
        for i in 0..20 {
            log.batch(1 + i * 50, 50);
        }
        logs.push(log);
    }
    let stored = futures::future::join_all(logs.iter().map(|log| store_all(&db.ledger, log))).await;
    assert!(stored.iter().all(|s| s.orders == 1000), "{stored:?}");
    db.drop().await;
}

#[tokio::test]
async fn the_next_range_knows_the_epoch() {
    let db = Database::new().await;
    let (sale, mut log) = db.sale(0, 10).await;
    store_all(&db.ledger, &log).await;
    let middle = log.end();
    log.batch(1, 1);
    log.push(Record::Batch(Batch {
        sale: sale.id,
        epoch: Epoch(0),
        first: 1,
        orders: vec![order(1)],
    }));
    let stored = store_from(&db.ledger, &log, middle).await;
    assert_eq!(
        stored,
        Stored {
            orders: 1,
            void: 1,
            ..Stored::default()
        }
    );
    db.drop().await;
}
