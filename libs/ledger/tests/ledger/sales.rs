//! Sales, positions and the schema, against a real server.

use std::time::Duration;

use crate::common::{Database, new_sale, order};
use seckill_ledger::{AllKeys, Ledger, LedgerError, SaleTerms};
use seckill_protocol::index::SaleState;
use seckill_protocol::{Buyer, Epoch, Format, KeyHash, Record, SaleId};

#[tokio::test]
async fn creating_a_sale_twice_returns_the_same_sale() {
    let db = Database::new().await;
    let new = new_sale(2);
    let first = db.ledger.create_sale(&new).await.expect("created");
    let again = db.ledger.create_sale(&new).await.expect("created");
    assert_eq!(first, again);
    assert_eq!(db.ledger.sale(first.id).await.expect("read"), Some(first.clone()));
    let named = db
        .ledger
        .sale_by_name(&new.class, &new.namespace, &new.name)
        .await
        .expect("read");
    assert_eq!(named, Some(first.clone()));
    assert_eq!(
        (first.price.as_str(), &first.item, first.version),
        ("9.90", &new.offer.item, 1)
    );
    assert!((first.created_at_ms - jiff::Timestamp::now().as_millisecond()).abs() < 3_600_000);

    let many = futures::future::join_all((0..8).map(|_| db.ledger.create_sale(&new))).await;
    assert!(many.into_iter().all(|sale| sale.expect("created").id == first.id));
    db.drop().await;
}

#[tokio::test]
async fn a_sale_is_read_with_the_clock_of_the_server() {
    let db = Database::new().await;
    let new = new_sale(2);
    let sale = db.ledger.create_sale(&new).await.expect("created");
    let read = db.ledger.sale_and_clock(&new.class, &new.namespace, &new.name);
    let (found, with_sale) = read.await.expect("read").expect("the sale");
    assert_eq!(found, sale);
    let alone = db.ledger.clock().await.expect("read");
    // The server runs on this machine, and its session may have any time zone.
    let ours = jiff::Timestamp::now().as_millisecond();
    for theirs in [with_sale, alone] {
        assert!((theirs.cast_signed() - ours).abs() < 600_000, "{theirs} {ours}");
    }
    db.drop().await;
}

#[tokio::test]
async fn terms_change_only_from_the_version_that_was_read() {
    let db = Database::new().await;
    let sale = db.ledger.create_sale(&new_sale(0)).await.expect("created");
    let terms = |state| SaleTerms {
        state,
        opens_at: 5,
        closes_at: 9,
        limit_per_buyer: 1,
        max_per_order: 4,
        orders_ever_max: 300,
        tier_limits: Default::default(),
    };
    let update = async |version, state| {
        db.ledger
            .update_terms(sale.id, version, &terms(state))
            .await
            .expect("asked")
    };
    assert!(update(1, SaleState::Suspended).await);
    assert!(!update(1, SaleState::Open).await, "an older version");
    assert!(update(2, SaleState::Closed).await);
    assert!(!update(3, SaleState::Open).await, "a closed sale never opens again");
    let after = db.ledger.sale(sale.id).await.expect("read").expect("there");
    assert_eq!(
        (after.terms().version, after.terms().state, after.terms().opens),
        (3, SaleState::Closed, 5)
    );
    assert_eq!(after.sale_terms(), terms(SaleState::Closed));
    let bounds = after.terms().bounds;
    assert_eq!((bounds.max_per_order, bounds.orders_ever_max), (4, 300));

    let mut offer = new_sale(0).offer;
    offer.price = "7.125".into();
    assert!(
        db.ledger
            .update_offer(sale.id, 3, &offer, Format::FIRST)
            .await
            .expect("asked")
    );
    assert!(
        !db.ledger
            .update_offer(sale.id, 3, &offer, Format::FIRST)
            .await
            .expect("asked")
    );
    assert_eq!(
        db.ledger.sale(sale.id).await.expect("read").expect("there").price,
        "7.125"
    );
    db.drop().await;
}

#[tokio::test]
async fn an_emergency_stop_changes_the_terms_of_every_sale_of_its_class() {
    let db = Database::new().await;
    let create = async |class: &str, state| {
        let mut new = new_sale(0);
        (new.class, new.terms.state) = (class.into(), state);
        db.ledger.create_sale(&new).await.expect("created")
    };
    let open = create("default", SaleState::Open).await;
    let closed = create("default", SaleState::Closed).await;
    let other = create("other", SaleState::Open).await;
    let terms = async |sale: &seckill_ledger::Sale| {
        let sale = db.ledger.sale(sale.id).await.expect("read").expect("there");
        assert_eq!(sale.sale_terms().state, sale.state);
        (sale.terms().version, sale.terms().state)
    };
    db.ledger.set_emergency_stop("default", true).await.expect("stopped");
    assert_eq!(terms(&open).await, (2, SaleState::Suspended));
    assert_eq!(terms(&closed).await, (2, SaleState::Closed));
    assert_eq!(terms(&other).await, (1, SaleState::Open));
    // A sale that an operator creates or opens meanwhile is stopped too.
    let new = create("default", SaleState::Open).await;
    assert_eq!(terms(&new).await, (1, SaleState::Suspended));
    let as_wanted = open.sale_terms();
    assert!(db.ledger.update_terms(open.id, 2, &as_wanted).await.expect("asked"));
    assert_eq!(terms(&open).await, (3, SaleState::Suspended));
    db.ledger.set_emergency_stop("default", true).await.expect("repeated");
    db.ledger.set_emergency_stop("default", false).await.expect("resumed");
    assert_eq!(terms(&open).await, (5, SaleState::Open));
    assert_eq!(terms(&new).await, (3, SaleState::Open));
    db.drop().await;
}

#[tokio::test]
async fn a_price_keeps_the_text_of_its_flash_sale() {
    let db = Database::new().await;
    for price in ["500", "9.9", "1.1000", "0", "7.125"] {
        let mut new = new_sale(0);
        new.offer.price = price.into();
        new.offer.item["price"] = price.into();
        let sale = db.ledger.create_sale(&new).await.expect("created");
        assert_eq!((sale.price.as_str(), sale.identity().price.as_str()), (price, price));
    }
    db.drop().await;
}

#[tokio::test]
async fn a_sale_is_claimed_once_from_its_present_cluster() {
    let db = Database::new().await;
    let mut new = new_sale(0);
    new.cluster = None;
    let sale = db.ledger.create_sale(&new).await.expect("created").id;
    let claim = async |from, to| db.ledger.claim_sale(sale, from, to).await.expect("asked");
    assert!(!claim(Some("old"), "new").await, "it belongs to none");
    assert!(claim(None, "old").await);
    assert!(!claim(None, "new").await);
    assert!(!claim(Some("Old"), "new").await);
    // It was deleted in the old cluster, not in the new one.
    assert!(db.ledger.record_deletion(sale, 7).await.expect("asked"));
    assert!(claim(Some("old"), "new").await);
    let sale = db.ledger.sale(sale).await.expect("read").expect("there");
    assert_eq!((sale.cluster.as_deref(), sale.missing_since_ms), (Some("new"), None));
    db.drop().await;
}

#[tokio::test]
async fn the_first_time_of_a_deletion_is_kept_until_it_is_forgotten() {
    let db = Database::new().await;
    let id = db.ledger.create_sale(&new_sale(0)).await.expect("created").id;
    let record = async |since| db.ledger.record_deletion(id, since).await.expect("asked");
    let since = async || db.ledger.sale(id).await.expect("read").expect("there").missing_since_ms;
    assert!(record(7).await);
    assert!(!record(9).await);
    assert_eq!(since().await, Some(7));
    assert!(db.ledger.forget_deletion(id).await.expect("asked"));
    assert_eq!(since().await, None);
    assert!(record(9).await);
    db.execute("UPDATE sales SET state = 'closed'").await;
    assert!(!db.ledger.forget_deletion(id).await.expect("asked"), "it has ended");
    assert_eq!(since().await, Some(9));
    db.drop().await;
}

#[tokio::test]
async fn orders_to_come_are_those_of_all_unfinished_sales() {
    let db = Database::new().await;
    let to_come = async || db.ledger.orders_to_come("default").await.expect("read");
    assert_eq!(to_come().await, 0);
    let mut new = new_sale(0);
    (new.offer.offered, new.terms.orders_ever_max) = (7, 0);
    db.ledger.create_sale(&new).await.expect("created");
    assert_eq!(to_come().await, 7, "without a bound, one for each unit");
    let (sale, mut log) = db.sale(0, 10).await;
    log.batch(1, 4);
    log.cancel(1);
    db.ledger.store(0, 0, log.end(), &log.entries).await.expect("stored");
    let row = db.ledger.sale(sale.id).await.expect("read").expect("there");
    assert_eq!((row.orders_ever, row.sold), (4, 3));
    assert_eq!(to_come().await, 7 + 196);
    let closed = SaleTerms {
        state: SaleState::Closed,
        ..row.sale_terms()
    };
    assert!(
        db.ledger
            .update_terms(sale.id, row.version, &closed)
            .await
            .expect("asked")
    );
    assert_eq!(to_come().await, 7);
    db.drop().await;
}

#[tokio::test]
async fn values_too_long_for_a_column_are_refused() {
    let db = Database::new().await;
    let mut new = new_sale(0);
    new.offer.currency = "EURO".into();
    assert!(db.ledger.create_sale(&new).await.is_err());
    db.drop().await;
}

#[tokio::test]
async fn the_live_epoch_only_rises() {
    let db = Database::new().await;
    let sale = db.ledger.create_sale(&new_sale(0)).await.expect("created").id;
    for (epoch, rises) in [(5, true), (5, false), (4, false), (6, true)] {
        assert_eq!(
            db.ledger.set_live_epoch(sale, Epoch(epoch)).await.expect("asked"),
            rises,
            "{epoch}"
        );
    }
    let selling = db.ledger.selling_sales().await.expect("read");
    assert_eq!(
        selling.iter().map(|s| (s.id, s.live_epoch)).collect::<Vec<_>>(),
        [(sale, Some(Epoch(6)))]
    );
    db.drop().await;
}

#[tokio::test]
async fn a_settled_sale_is_unfinished_until_freed() {
    let db = Database::new().await;
    let (sale, mut log) = db.sale(0, 10).await;
    log.push(Record::Close { sale: sale.id });
    db.ledger.store(0, 0, log.end(), &log.entries).await.expect("stored");
    let unfinished = async || db.ledger.unfinished_sales("default").await.expect("read").len();
    let shown = async |class, days: u64| {
        db.ledger
            .catalogue(class, Duration::from_secs(days * 86400))
            .await
            .expect("read")
            .len()
    };
    assert_eq!(
        (unfinished().await, shown("default", 0).await, shown("other", 9).await),
        (1, 1, 0)
    );
    assert!(!db.ledger.set_freed(sale.id).await.expect("asked"), "not settled yet");
    assert!(db.ledger.set_settled(sale.id, Some(7)).await.expect("asked"));
    assert_eq!(
        (unfinished().await, shown("default", 0).await, shown("default", 1).await),
        (1, 0, 1)
    );
    assert!(db.ledger.set_freed(sale.id).await.expect("asked"));
    assert!(!db.ledger.set_freed(sale.id).await.expect("asked"));
    assert_eq!((unfinished().await, shown("default", 1).await), (0, 1));
    let sale = db.ledger.sale(sale.id).await.expect("read").expect("there");
    assert!(sale.settled_at_ms.is_some() && sale.freed_at_ms.is_some());
    db.drop().await;
}

#[tokio::test]
async fn the_first_of_two_settlements_is_kept() {
    let db = Database::new().await;
    let (sale, mut log) = db.sale(0, 10).await;
    log.push(Record::Close { sale: sale.id });
    db.ledger.store(0, 0, log.end(), &log.entries).await.expect("stored");
    assert!(db.ledger.set_settled(sale.id, Some(7)).await.expect("asked"));
    assert!(!db.ledger.set_settled(sale.id, None).await.expect("asked"));
    let sale = db.ledger.sale(sale.id).await.expect("read").expect("there");
    assert_eq!(sale.settled_left, Some(7));
    db.drop().await;
}

#[tokio::test]
async fn order_by_key_reports_whether_the_sale_is_complete() {
    let db = Database::new().await;
    let (sale, mut log) = db.sale(0, 10).await;
    log.batch(1, 2);
    db.ledger.store(0, 0, log.end(), &log.entries).await.expect("stored");
    let middle = log.end();
    log.push(Record::Close { sale: sale.id });
    let ask = async |o: &seckill_protocol::Order| {
        let (found, complete) = db.ledger.order_by_key(sale.id, &o.buyer, o.key).await.expect("read");
        (found.map(|o| o.id.seq), complete)
    };
    let all_keys = async |most| db.ledger.keys_of_all_orders(sale.id, most).await.expect("read");
    let mut wrong_key = order(2);
    wrong_key.key = order(1).key;
    assert_eq!(all_keys(9).await, AllKeys::Incomplete);
    assert_eq!(ask(&order(2)).await, (Some(2), false));
    assert_eq!(ask(&wrong_key).await, (None, false));
    let rest = &log.entries[middle as usize..];
    db.ledger.store(0, middle, log.end(), rest).await.expect("stored");
    assert_eq!(ask(&order(2)).await, (Some(2), true));
    assert_eq!(ask(&order(3)).await, (None, true));
    assert_eq!(all_keys(2).await, AllKeys::Keys(vec![order(1).key, order(2).key]));
    assert_eq!(all_keys(1).await, AllKeys::TooMany);
    // Orders in quarantine were promised to buyers.
    db.execute(&format!(
        "INSERT INTO quarantine (part, off, reason, payload, sale, epoch, first_seq, last_seq) \
         VALUES (0, 99, 'r', '', {}, 1, 3, 3)",
        sale.id.0
    ))
    .await;
    assert_eq!(ask(&order(3)).await, (None, false));
    assert_eq!(all_keys(9).await, AllKeys::Incomplete);
    let nowhere = db
        .ledger
        .order_by_key(SaleId(sale.id.0 ^ 1), &order(1).buyer, order(1).key)
        .await
        .expect("read");
    assert_eq!(nowhere, (None, false));
    db.drop().await;
}

#[tokio::test]
async fn fold_and_reader_start_are_consistent_snapshots() {
    let db = Database::new().await;
    let (sale, mut log) = db.sale(1, 100_000).await;
    store_one_by_one(&db.ledger, &mut log, sale.id).await;
    db.drop().await;
}

/// While batches of 10 are stored one by one, every read finds consistent orders, position and total.
async fn store_one_by_one(ledger: &Ledger, log: &mut crate::common::Log, sale: SaleId) {
    const BATCHES: u64 = 60;
    let begins = log.end();
    for i in 0..BATCHES {
        log.batch(1 + i * 10, 10);
    }
    ledger
        .store(1, 0, begins, &log.entries[..begins as usize])
        .await
        .expect("stored");
    let writer = async {
        for offset in begins..log.end() {
            let entry = &log.entries[offset as usize..=offset as usize];
            ledger.store(1, offset, offset + 1, entry).await.expect("stored");
        }
    };
    let reader = async {
        loop {
            let start = ledger.sale_snapshot(sale).await.expect("read");
            let (position, cut) = (start.position, start.cut);
            assert_eq!((start.total, cut.current_epoch), (100_000, Some(log.epoch.0)));
            // Orders that are stored meanwhile do not appear in the snapshot.
            while position < log.end() && ledger.reader_start(2).await.expect("read")[1].1 == position {
                tokio::task::yield_now().await;
            }
            let orders = start.all_orders().await.expect("read");
            assert_eq!(orders.len() as i64, (position - begins) * 10);
            let readers = ledger.reader_start(2).await.expect("read");
            assert_eq!((readers[0].0, readers[0].1), (0, 0));
            assert_eq!((readers[1].0, readers[1].2.cut(sale)), (1, cut));
            assert!(readers[1].1 >= position);
            if position == log.end() {
                break;
            }
        }
    };
    tokio::join!(writer, reader);
}

#[tokio::test]
async fn an_unknown_sale_can_t_be_folded() {
    let db = Database::new().await;
    assert!(matches!(
        db.ledger.sale_snapshot(SaleId(1)).await.map(drop),
        Err(LedgerError::NoSale(SaleId(1)))
    ));
    db.drop().await;
}

#[tokio::test]
async fn check_schema_requires_migrations_and_accepts_a_newer_schema() {
    let db = Database::new().await;
    let newest = seckill_ledger::migrate(&db.url).await.expect("migrated");
    db.ledger.check_schema().await.expect("migrated");
    db.execute("UPDATE _sqlx_migrations SET version = version + 9999").await;
    db.ledger.check_schema().await.expect("newer");
    db.execute("UPDATE _sqlx_migrations SET success = FALSE").await;
    let error = db.ledger.check_schema().await.expect_err("half applied").to_string();
    assert_eq!(
        error,
        format!("waiting for migration {newest}, found 0: run order-worker migrate")
    );
    db.execute("DROP TABLE _sqlx_migrations").await;
    assert!(matches!(
        db.ledger.check_schema().await,
        Err(LedgerError::SchemaBehind { found: 0, wanted }) if wanted == newest
    ));
    db.drop().await;
}

#[tokio::test]
async fn check_writable_detects_a_read_only_server() {
    let db = Database::new().await;
    db.ledger.check_writable().await.expect("takes them");
    let (scheme, rest) = db.url.split_once("://").expect("a URL");
    let (_, server) = rest.split_once('@').expect("a user");
    let reader = server.rsplit_once('/').expect("a database").1;
    let user = &reader[reader.len() - 24..];
    db.execute(&format!("CREATE USER '{user}'@'%' IDENTIFIED BY 'reads'"))
        .await;
    db.execute(&format!("GRANT SELECT ON {reader}.* TO '{user}'@'%'")).await;
    let ledger = Ledger::connect(&format!("{scheme}://{user}:reads@{server}"), 1)
        .await
        .expect("connects");
    ledger.check_schema().await.expect("reads");
    let refused = ledger.check_writable().await;
    assert!(
        matches!(&refused, Err(LedgerError::NotWritable(why)) if why.contains("UPDATE command denied")),
        "{refused:?}"
    );
    db.execute(&format!("DROP USER '{user}'@'%'")).await;
    db.drop().await;
}

#[tokio::test]
async fn repeated_and_concurrent_migrations_change_nothing() {
    let db = Database::new().await;
    let newest = db
        .number("SELECT CAST(MAX(version) AS SIGNED) FROM _sqlx_migrations")
        .await;
    let all = futures::future::join_all((0..3).map(|_| seckill_ledger::migrate(&db.url))).await;
    assert!(all.into_iter().all(|version| version.expect("migrated") == newest));
    db.drop().await;
}

#[tokio::test]
async fn an_unreachable_server_is_named_in_the_error() {
    let error = Ledger::connect("mysql://u:secret@127.0.0.1:1/x", 1)
        .await
        .expect_err("no server there")
        .to_string();
    assert!(error.contains("refused"), "{error}");
    assert!(!error.contains("secret"), "{error}");
}

/// Compiles only if the futures are Send, which a closure inside of them can undo.
#[allow(dead_code)]
fn what_the_ledger_returns_can_be_awaited_on_any_thread(ledger: &'static Ledger, buyer: &'static Buyer) {
    fn send<T: Send>(_: T) {}
    send(ledger.store(0, 0, 0, &[]));
    send(ledger.sale_snapshot(SaleId(1)));
    send(async { ledger.sale_snapshot(SaleId(1)).await?.all_orders().await });
    send(ledger.reader_start(1));
    send(ledger.unfinished_sales(""));
    send(ledger.order_by_key(SaleId(1), buyer, KeyHash(1)));
    send(ledger.set_live_epoch(SaleId(1), Epoch(1)));
    send(ledger.check_schema());
    send(Ledger::connect("", 1));
}
