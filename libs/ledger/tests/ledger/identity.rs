//! MySQL loses the row of a sale, and the log brings it back.

use crate::common::{Database, Log, new_sale, order};
use seckill_ledger::{Ledger, Sale, SaleTerms, StoreError};
use seckill_protocol::admission::Stop;
use seckill_protocol::index::SaleState;
use seckill_protocol::tiers::TierRule;
use seckill_protocol::{Format, Identity, OrderId, Record, SaleId, Tiers};

async fn store(ledger: &Ledger, log: &Log, from: i64) -> Result<(), StoreError> {
    let stored = ledger
        .store(log.partition, from, log.end(), &log.entries[from as usize..])
        .await;
    stored.map(drop)
}

async fn position(ledger: &Ledger, partition: u32) -> i64 {
    ledger.ensure_position(partition).await.expect("read")
}

async fn row(ledger: &Ledger, sale: SaleId) -> Sale {
    ledger.sale(sale).await.expect("read").expect("there")
}

/// A failover to a replica that has neither rows nor positions.
async fn lose_everything(db: &Database) {
    for table in ["sales", "orders", "quarantine", "effects", "log_position"] {
        db.execute(&format!("DELETE FROM {table}")).await;
    }
}

/// A log that begins with the identity of its sale.
async fn identified_sale(db: &Database, partition: u32, total: u64) -> (Sale, Log) {
    let (sale, _) = db.sale(partition, total).await;
    let mut log = Log::empty(partition, sale.id);
    log.push(Record::Identity(Box::new(sale.identity())));
    log.push(Record::Total { sale: sale.id, total });
    log.barrier();
    (sale, log)
}

#[tokio::test]
async fn a_lost_row_comes_back_with_its_orders() {
    let db = Database::new().await;
    let (sale, mut log) = identified_sale(&db, 0, 100).await;
    log.batch(1, 5);
    log.cancel(2);
    store(&db.ledger, &log, 0).await.expect("stored");
    let before = row(&db.ledger, sale.id).await;
    assert_eq!((before.identity_at, before.state), (Some(0), SaleState::Open));

    lose_everything(&db).await;
    assert_eq!(position(&db.ledger, 0).await, 0);
    store(&db.ledger, &log, 0).await.expect("stored");
    let after = row(&db.ledger, sale.id).await;
    // The terms are lost: nothing may be sold before the operator has written them again.
    assert_eq!(
        (after.state, after.version, after.live_epoch),
        (SaleState::Suspended, 1, None)
    );
    assert_eq!(after.identity(), before.identity());
    assert_eq!(
        (
            after.partition,
            after.total,
            after.sold,
            after.returned,
            after.cut,
            after.identity_at
        ),
        (before.partition, 100, 4, 1, before.cut, Some(0))
    );
    let id = OrderId {
        sale: sale.id,
        epoch: log.epoch,
        seq: 5,
    };
    let stored = db.ledger.order(id).await.expect("read").expect("there");
    assert_eq!((stored.buyer, stored.price.as_str()), (order(5).buyer, "9.90"));
    assert_eq!(db.number("SELECT COUNT(*) FROM quarantine").await, 0);
    db.drop().await;
}

/// A log that begins with the identity of a sale whose buyers have an identity.
async fn sale_with_access(db: &Database) -> (Sale, Log) {
    let mut new = new_sale(0);
    (new.format, new.offer.issuer) = (Format(2), Some("main".into()));
    let sale = db.ledger.create_sale(&new).await.expect("created");
    let mut log = Log::empty(0, sale.id);
    log.push(Record::Identity(Box::new(sale.identity())));
    log.push(Record::Total {
        sale: sale.id,
        total: 10,
    });
    log.barrier();
    (sale, log)
}

#[tokio::test]
async fn a_lost_row_comes_back_with_the_issuer_of_its_buyers() {
    let db = Database::new().await;
    let (sale, log) = sale_with_access(&db).await;
    assert_eq!(sale.issuer.as_deref(), Some("main"));
    assert_eq!(position(&db.ledger, 0).await, 0);
    lose_everything(&db).await;
    assert_eq!(position(&db.ledger, 0).await, 0);
    store(&db.ledger, &log, 0).await.expect("stored");
    assert_eq!(row(&db.ledger, sale.id).await.identity(), sale.identity());
    db.drop().await;
}

#[tokio::test]
async fn a_row_that_is_older_than_its_identity_gets_the_issuer() {
    let db = Database::new().await;
    let (sale, log) = sale_with_access(&db).await;
    assert_eq!(position(&db.ledger, 0).await, 0);
    // A failover to a replica that lacks the change of a sale that was anonymous at first.
    db.execute("UPDATE sales SET issuer = NULL, format = 1").await;
    db.execute("UPDATE required_format SET format = 1").await;
    store(&db.ledger, &log, 0).await.expect("stored");
    let fixed = row(&db.ledger, sale.id).await;
    assert_eq!((fixed.issuer.as_deref(), fixed.format), (Some("main"), Format(2)));
    assert_eq!(db.number("SELECT CAST(format AS SIGNED) FROM required_format").await, 2);
    db.drop().await;
}

#[tokio::test]
async fn a_record_of_an_unknown_sale_stops_its_partition() {
    let db = Database::new().await;
    let (sale, mut log) = db.sale(0, 10).await;
    let unknown = SaleId(sale.id.0 ^ 1);
    log.batch(1, 2);
    let at = log.end();
    log.push(Record::Barrier {
        sale: unknown,
        nonce: "n".into(),
    });
    log.batch(3, 1);
    for _ in 0..2 {
        let from = position(&db.ledger, 0).await;
        let error = store(&db.ledger, &log, from).await.expect_err("stops");
        let StoreError::Stopped {
            partition,
            offset,
            stop,
        } = &error
        else {
            panic!("{error}");
        };
        assert_eq!((*partition, *offset, stop), (0, at, &Stop::UnknownSale(unknown)));
        // What comes before the record is stored, and nothing is quarantined.
        assert_eq!(
            (position(&db.ledger, 0).await, row(&db.ledger, sale.id).await.sold),
            (at, 2)
        );
        assert_eq!(db.number("SELECT COUNT(*) FROM quarantine").await, 0);
    }
    // A person restores the row.
    db.execute(&format!(
        "INSERT INTO sales (id, class, namespace, name, uid, part, version, state, opens_at, closes_at, limit_per_buyer, \
         item, price, currency, offered) SELECT {}, class, namespace, 'restored', uid, part, version, state, opens_at, \
         closes_at, limit_per_buyer, item, price, currency, offered FROM sales",
        unknown.0
    ))
    .await;
    store(&db.ledger, &log, at).await.expect("stored");
    assert_eq!(row(&db.ledger, sale.id).await.sold, 3);
    assert_eq!(row(&db.ledger, unknown).await.cut.current_epoch, Some(at));
    db.drop().await;
}

#[tokio::test]
async fn a_second_sale_of_a_name_stops_its_partition() {
    let db = Database::new().await;
    let (sale, log) = identified_sale(&db, 0, 10).await;
    let second = Identity {
        sale: SaleId(sale.id.0 ^ 1),
        ..sale.identity()
    };
    let mut log = log;
    let at = log.end();
    log.push(Record::Identity(Box::new(second.clone())));
    let error = store(&db.ledger, &log, 0).await.expect_err("stops");
    let StoreError::Stopped { offset, stop, .. } = &error else {
        panic!("{error}");
    };
    let taken = Stop::NameTaken {
        new: second.sale,
        known: sale.id,
    };
    assert_eq!((*offset, stop), (at, &taken));
    assert_eq!(position(&db.ledger, 0).await, at);
    assert_eq!(db.number("SELECT COUNT(*) FROM sales").await, 1);
    db.drop().await;
}

#[tokio::test]
async fn the_first_identity_fixes_item_price_and_start() {
    let db = Database::new().await;
    let (sale, mut log) = identified_sale(&db, 0, 10).await;
    let later = Identity {
        price: "1.00".into(),
        ..sale.identity()
    };
    log.push(Record::Identity(Box::new(later)));
    log.batch(1, 1);
    // The FlashSale was edited after the record was appended.
    let mut offer = seckill_ledger::Offer {
        item: serde_json::json!({"sku": "p2"}),
        item_id: None,
        issuer: None,
        tiers: None,
        price: "5.00".into(),
        currency: "CHF".into(),
        offered: 11,
    };
    assert!(
        db.ledger
            .update_offer(sale.id, 1, &offer, Format::FIRST)
            .await
            .expect("written")
    );
    store(&db.ledger, &log, 0).await.expect("stored");
    let fixed = row(&db.ledger, sale.id).await;
    let expected = Identity {
        offered: 11,
        ..sale.identity()
    };
    assert_eq!(
        (fixed.identity(), fixed.version, fixed.identity_at),
        (expected, 3, Some(0))
    );
    let price = "SELECT CAST(price * 100 AS SIGNED) FROM orders";
    assert_eq!(db.number(price).await, 990);
    offer.offered = 12;
    assert!(
        !db.ledger
            .update_offer(sale.id, 3, &offer, Format::FIRST)
            .await
            .expect("answered")
    );
    let mut terms = fixed.sale_terms();
    terms.closes_at += 1;
    assert!(db.ledger.update_terms(sale.id, 3, &terms).await.expect("written"));
    terms.opens_at += 1;
    assert!(!db.ledger.update_terms(sale.id, 4, &terms).await.expect("answered"));
    db.drop().await;
}

#[tokio::test]
async fn the_log_fixes_the_tiers_of_a_sale_and_not_their_limits() {
    let db = Database::new().await;
    let (sale, _) = db.sale(0, 10).await;
    let tiers = Tiers {
        tiers: vec![TierRule {
            name: "gold".into(),
            values: vec!["gold".into(), "größer".into()],
            opens_before_seconds: 600,
            reserved: 3,
            reserved_for_seconds: 60,
        }],
        reserved_for_general: 2,
    };
    let mut tiered = sale.identity();
    (tiered.format, tiered.issuer, tiered.tiers) = (Format(3), Some("main".into()), Some(tiers.clone()));
    let mut log = Log::empty(0, sale.id);
    log.push(Record::Identity(Box::new(tiered)));
    store(&db.ledger, &log, 0).await.expect("stored");
    let fixed = row(&db.ledger, sale.id).await;
    assert_eq!((fixed.tiers.as_ref(), fixed.format), (Some(&tiers), Format(3)));
    assert_eq!(db.ledger.formats().await.expect("read").required, Format(3));
    let terms = SaleTerms {
        tier_limits: [2, 0, 0, 0],
        ..fixed.sale_terms()
    };
    assert!(
        db.ledger
            .update_terms(sale.id, fixed.version, &terms)
            .await
            .expect("written")
    );
    let changed = row(&db.ledger, sale.id).await;
    assert_eq!((changed.limit_for(1), changed.tiers.as_ref()), (2, Some(&tiers)));

    // MySQL loses the row. It comes back without its terms, which the operator writes again.
    lose_everything(&db).await;
    assert_eq!(position(&db.ledger, 0).await, 0);
    store(&db.ledger, &log, 0).await.expect("stored");
    let restored = row(&db.ledger, sale.id).await;
    assert_eq!((restored.tiers.as_ref(), restored.tier_limits), (Some(&tiers), [0; 4]));
    db.drop().await;
}

#[tokio::test]
async fn a_lookup_shows_order_sale_and_positions_together() {
    let db = Database::new().await;
    let (sale, mut log) = identified_sale(&db, 0, 10).await;
    log.batch(1, 1);
    store(&db.ledger, &log, 0).await.expect("stored");
    let id = OrderId {
        sale: sale.id,
        epoch: log.epoch,
        seq: 1,
    };
    let found = db.ledger.look_up_order(id).await.expect("read");
    assert_eq!(found.sale.map(|sale| sale.id), Some(sale.id));
    assert_eq!(found.order.map(|order| order.id), Some(id));
    assert_eq!((found.quarantined, found.positions), (false, vec![(0, log.end())]));
    let page = db.ledger.catalogue_page(&sale.class, 0, &[]).await.expect("read");
    let (listed, positions) = (page.sales, page.positions);
    let listed: Vec<SaleId> = listed.into_iter().map(|sale| sale.id).collect();
    assert_eq!((listed, positions), (vec![sale.id], vec![(0, log.end())]));
    db.drop().await;
}

/// The next sale under the name of another one.
fn next_of_name(sale: &Sale) -> Identity {
    Identity {
        sale: SaleId(sale.id.0 ^ 1),
        ..sale.identity()
    }
}

async fn named(ledger: &Ledger, sale: &Sale) -> Option<SaleId> {
    let found = ledger.sale_by_name(&sale.class, &sale.namespace, &sale.name).await;
    found.expect("read").map(|sale| sale.id)
}

#[tokio::test]
async fn a_name_that_was_freed_belongs_to_the_next_sale() {
    let db = Database::new().await;
    let (sale, _) = db.sale(0, 100).await;
    let next = next_of_name(&sale);
    let mut log = Log::empty(0, sale.id);
    log.push(Record::Identity(Box::new(sale.identity())));
    store(&db.ledger, &log, 0).await.expect("stored");
    assert!(!db.ledger.free_name(sale.id).await.expect("read"), "it is not closed");
    log.push(Record::Close { sale: sale.id });
    store(&db.ledger, &log, 1).await.expect("stored");
    assert!(db.ledger.free_name(sale.id).await.expect("freed"));
    assert!(!db.ledger.free_name(sale.id).await.expect("read"), "it is free already");
    assert_eq!(named(&db.ledger, &sale).await, None);

    log.push(Record::Identity(Box::new(next.clone())));
    log.push(Record::Total {
        sale: next.sale,
        total: 7,
    });
    // A late copy, of an operator that was paused.
    log.push(Record::Identity(Box::new(sale.identity())));
    store(&db.ledger, &log, 2).await.expect("stored");
    for _ in 0..2 {
        assert_eq!(named(&db.ledger, &sale).await, Some(next.sale));
        assert_eq!(row(&db.ledger, next.sale).await.total, 7);
        let ended = row(&db.ledger, sale.id).await;
        assert_eq!((ended.total, ended.cut.closed), (0, Some(1)));
        assert_ne!(ended.name, sale.name);
        assert_eq!(db.number("SELECT COUNT(*) FROM quarantine").await, 0);
        // The log brings back all of it, in one call.
        lose_everything(&db).await;
        assert_eq!(position(&db.ledger, 0).await, 0);
        store(&db.ledger, &log, 0).await.expect("stored");
    }
    db.drop().await;
}

#[tokio::test]
async fn a_sale_that_offered_a_unit_keeps_its_name() {
    let db = Database::new().await;
    let (sale, mut log) = identified_sale(&db, 0, 100).await;
    log.push(Record::Close { sale: sale.id });
    store(&db.ledger, &log, 0).await.expect("stored");
    assert!(!db.ledger.free_name(sale.id).await.expect("read"));
    let (at, next) = (log.end(), next_of_name(&sale));
    log.push(Record::Identity(Box::new(next.clone())));
    let error = store(&db.ledger, &log, at).await.expect_err("stops");
    let StoreError::Stopped { stop, .. } = &error else {
        panic!("{error}");
    };
    let taken = Stop::NameTaken {
        new: next.sale,
        known: sale.id,
    };
    assert_eq!((stop, named(&db.ledger, &sale).await), (&taken, Some(sale.id)));
    db.drop().await;
}
