//! Which programs may act on a ledger, and when it requires a newer format.
use std::time::Duration;

use seckill_ledger::{Ledger, LedgerError, NewSale, Offer, ReplayError, StoreError};
use seckill_protocol::format::{NotSpoken, TooOld};
use seckill_protocol::{Format, Record};
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection};

use crate::common::{Database, Log, new_sale};

const FIRST: Format = Format::FIRST;
const SECOND: Format = Format(2);
const TOO_OLD: NotSpoken = NotSpoken {
    required: SECOND,
    spoken: FIRST,
};

/// A database whose ledger speaks the first format.
async fn first_format() -> Database {
    let mut db = Database::new().await;
    db.ledger = db.ledger.speaking(FIRST);
    db
}

fn newer_sale() -> NewSale {
    NewSale {
        format: SECOND,
        ..new_sale(0)
    }
}

async fn required(db: &Database) -> i64 {
    db.number("SELECT CAST(format AS SIGNED) FROM required_format").await
}

/// The names of the programs for which the sale waits.
async fn waits_for(newer: &Ledger, sale: &NewSale) -> Vec<String> {
    match newer.create_sale(sale).await {
        Ok(_) => Vec::new(),
        Err(LedgerError::TooOld(TooOld { programs, .. })) => programs
            .into_iter()
            .map(|p| format!("{}/{}", p.program, p.instance))
            .collect(),
        Err(error) => panic!("{error}"),
    }
}

fn is_refused<T: std::fmt::Debug>(result: Result<T, LedgerError>) {
    let refused = matches!(&result, Err(LedgerError::NotSpoken(not_spoken)) if *not_spoken == TOO_OLD);
    assert!(refused, "{result:?}");
}

#[tokio::test]
async fn a_sale_of_a_newer_format_waits_for_running_programs() {
    let db = first_format().await;
    let newer = db.ledger.clone().speaking(SECOND);
    for (ledger, program, instance) in [
        (&newer, "operator", "new"),
        (&db.ledger, "seckill-api", "stops"),
        (&db.ledger, "seckill-api", "is-killed"),
        (&db.ledger, "order-worker", "is-upgraded"),
    ] {
        ledger.beat(program, instance).await.expect("written");
    }
    let sale = newer_sale();
    let all = ["order-worker/is-upgraded", "seckill-api/is-killed", "seckill-api/stops"];
    assert_eq!(waits_for(&newer, &sale).await, all);
    // Nothing has changed, and other sales are created.
    assert_eq!(
        (required(&db).await, db.number("SELECT COUNT(*) FROM sales").await),
        (1, 0)
    );
    db.ledger.create_sale(&new_sale(0)).await.expect("created");

    db.ledger.end_heartbeat("seckill-api", "stops").await.expect("deleted");
    assert_eq!(
        waits_for(&newer, &sale).await,
        ["order-worker/is-upgraded", "seckill-api/is-killed"]
    );
    newer.beat("order-worker", "is-upgraded").await.expect("written");
    assert_eq!(waits_for(&newer, &sale).await, ["seckill-api/is-killed"]);
    let killed = "UPDATE heartbeats SET at = UTC_TIMESTAMP(3) - INTERVAL 29 SECOND WHERE instance = 'is-killed'";
    db.execute(killed).await;
    assert_eq!(waits_for(&newer, &sale).await, ["seckill-api/is-killed"]);
    db.execute(&killed.replace("29", "31")).await;
    assert!(waits_for(&newer, &sale).await.is_empty());
    let stored = newer
        .sale_by_name(&sale.class, &sale.namespace, &sale.name)
        .await
        .expect("read");
    assert_eq!((stored.expect("there").format, required(&db).await), (SECOND, 2));
    db.drop().await;
}

#[tokio::test]
async fn the_required_format_rises_with_a_new_row_only() {
    let db = first_format().await;
    let newer = db.ledger.clone().speaking(SECOND);
    let taken = new_sale(0);
    db.ledger.create_sale(&taken).await.expect("created");
    let again = NewSale {
        format: SECOND,
        ..taken
    };
    assert_eq!(newer.create_sale(&again).await.expect("the first one").format, FIRST);
    assert_eq!(required(&db).await, 1);
    // An operator must not shut itself out.
    is_refused(db.ledger.create_sale(&newer_sale()).await);
    assert_eq!(required(&db).await, 1);

    newer.create_sale(&newer_sale()).await.expect("created");
    assert_eq!(required(&db).await, 2);
    newer.create_sale(&new_sale(0)).await.expect("created");
    assert_eq!(required(&db).await, 2, "it is never lowered");
    db.drop().await;
}

#[tokio::test]
async fn a_sale_that_comes_to_need_a_newer_format_waits_for_running_programs() {
    let db = first_format().await;
    let newer = db.ledger.clone().speaking(SECOND);
    let sale = newer.create_sale(&new_sale(0)).await.expect("created");
    let offer = Offer {
        issuer: Some("main".into()),
        tiers: None,
        ..new_sale(0).offer
    };
    db.ledger.beat("seckill-api", "old").await.expect("written");
    let waits = newer.update_offer(sale.id, 1, &offer, SECOND).await;
    assert!(matches!(waits, Err(LedgerError::TooOld(_))), "{waits:?}");
    // An operator must not shut itself out.
    is_refused(db.ledger.update_offer(sale.id, 1, &offer, SECOND).await);
    let unchanged = newer.sale(sale.id).await.expect("read").expect("there");
    assert_eq!((unchanged.issuer, unchanged.version, required(&db).await), (None, 1, 1));

    db.ledger.end_heartbeat("seckill-api", "old").await.expect("deleted");
    // A version that has changed raises nothing.
    assert!(!newer.update_offer(sale.id, 9, &offer, SECOND).await.expect("asked"));
    assert_eq!(required(&db).await, 1);
    assert!(newer.update_offer(sale.id, 1, &offer, SECOND).await.expect("asked"));
    let changed = newer.sale(sale.id).await.expect("read").expect("there");
    assert_eq!((changed.issuer.as_deref(), changed.format), (Some("main"), SECOND));
    assert_eq!(required(&db).await, 2);
    is_refused(db.ledger.sale(sale.id).await);
    // The row keeps the format that it once needed.
    assert!(
        newer
            .update_offer(sale.id, 2, &new_sale(0).offer, FIRST)
            .await
            .expect("asked")
    );
    let anonymous = newer.sale(sale.id).await.expect("read").expect("there");
    assert_eq!(
        (anonymous.issuer, anonymous.format, required(&db).await),
        (None, SECOND, 2)
    );
    db.drop().await;
}

#[tokio::test]
async fn two_operators_create_one_sale_of_a_newer_format() {
    let db = first_format().await;
    let newer = db.ledger.clone().speaking(SECOND);
    let sale = newer_sale();
    let created = futures::future::join_all((0..4).map(|_| newer.create_sale(&sale))).await;
    let ids: Vec<_> = created.into_iter().map(|sale| sale.expect("created").id).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(required(&db).await, 2);
    db.drop().await;
}

#[tokio::test]
async fn a_program_that_is_too_old_reads_and_stores_nothing() {
    let db = first_format().await;
    let newer = db.ledger.clone().speaking(SECOND);
    let (sale, mut log) = db.sale(0, 10).await;
    log.batch(1, 2);
    db.ledger.store(0, 0, log.end(), &log.entries).await.expect("stored");
    newer.create_sale(&newer_sale()).await.expect("created");

    let from = log.end();
    log.batch(3, 2);
    log.cancel(1);
    let entries = &log.entries[from as usize..];
    let refused = db.ledger.store(0, from, log.end(), entries).await.expect_err("too old");
    assert!(
        matches!(refused, StoreError::Ledger(LedgerError::NotSpoken(_))),
        "{refused}"
    );
    assert_eq!(
        refused.to_string(),
        "the ledger requires format 2, this program speaks 1: upgrade it"
    );
    assert_eq!(db.number("SELECT COUNT(*) FROM orders").await, 2);
    assert_eq!(db.ledger.ensure_position(0).await.expect("read"), from);
    is_refused(db.ledger.check_format().await);
    is_refused(db.ledger.formats().await);
    is_refused(db.ledger.sale(sale.id).await);
    is_refused(db.ledger.sale_by_name(&sale.class, &sale.namespace, &sale.name).await);
    is_refused(db.ledger.catalogue(&sale.class, Duration::ZERO).await);
    // Also if it has no sale to sell.
    is_refused(db.ledger.catalogue("another", Duration::ZERO).await);
    is_refused(db.ledger.unfinished_sales(&sale.class).await);
    is_refused(db.ledger.create_sale(&new_sale(0)).await);

    newer.store(0, from, log.end(), entries).await.expect("stored");
    is_refused(db.ledger.sales_with_pending_adjustments().await);
    assert_eq!(newer.sales_with_pending_adjustments().await.expect("read").len(), 1);
    let replayed = db.ledger.replay(0, 0).await.expect_err("too old");
    assert!(
        matches!(replayed, ReplayError::Ledger(LedgerError::NotSpoken(_))),
        "{replayed}"
    );
    assert_eq!(newer.sale(sale.id).await.expect("read").expect("there").sold, 3);
    db.drop().await;
}

#[tokio::test]
async fn a_position_that_moved_is_no_newer_format() {
    let db = first_format().await;
    let (_, log) = db.sale(0, 10).await;
    db.ledger.store(0, 0, log.end(), &log.entries).await.expect("stored");
    let again = db.ledger.store(0, 0, log.end(), &log.entries).await.expect_err("moved");
    assert!(matches!(again, StoreError::PositionMoved { .. }), "{again}");
    db.drop().await;
}

#[tokio::test]
async fn a_raise_that_mysql_lost_comes_back_with_the_identity() {
    let db = first_format().await;
    let newer = db.ledger.clone().speaking(SECOND);
    let sale = newer.create_sale(&newer_sale()).await.expect("created");
    let mut log = Log::empty(0, sale.id);
    log.push(Record::Identity(Box::new(sale.identity())));
    log.push(Record::Total {
        sale: sale.id,
        total: 5,
    });
    log.barrier();
    log.batch(1, 2);
    // A failover to a replica that lacks the transaction of the raise.
    db.execute("DELETE FROM sales").await;
    db.execute("UPDATE required_format SET format = 1").await;

    assert_eq!(db.ledger.ensure_position(0).await.expect("read"), 0);
    let refused = db
        .ledger
        .store(0, 0, log.end(), &log.entries)
        .await
        .expect_err("too old");
    assert!(
        matches!(refused, StoreError::Ledger(LedgerError::NotSpoken(TOO_OLD))),
        "{refused}"
    );
    assert_eq!(db.ledger.ensure_position(0).await.expect("read"), 0);
    assert_eq!(db.number("SELECT COUNT(*) FROM quarantine").await, 0);
    newer.store(0, 0, log.end(), &log.entries).await.expect("stored");
    let restored = newer.sale(sale.id).await.expect("read").expect("there");
    assert_eq!((restored.format, restored.sold, required(&db).await), (SECOND, 2, 2));
    db.drop().await;
}

#[tokio::test]
async fn old_heartbeats_are_deleted() {
    let db = first_format().await;
    for instance in ["old", "new"] {
        db.ledger.beat("operator", instance).await.expect("written");
    }
    db.execute("UPDATE heartbeats SET at = at - INTERVAL 25 HOUR WHERE instance = 'old'")
        .await;
    db.ledger.delete_old_heartbeats().await.expect("deleted");
    assert_eq!(
        db.number("SELECT COUNT(*) FROM heartbeats WHERE instance = 'new'")
            .await,
        1
    );
    assert_eq!(db.number("SELECT COUNT(*) FROM heartbeats").await, 1);
    db.drop().await;
}

#[tokio::test]
async fn a_ledger_without_the_tables_requires_no_format() {
    let db = first_format().await;
    db.execute("DROP TABLE required_format").await;
    db.ledger.check_format_of_any_schema().await.expect("no format");
    db.drop().await;
}

#[tokio::test]
async fn the_documented_rights_suffice_for_heartbeats() {
    let db = first_format().await;
    let (scheme, rest) = db.url.split_once("://").expect("a URL");
    let (_, server) = rest.split_once('@').expect("a user");
    let (host, _) = server.rsplit_once('/').expect("a database");
    let name = format!("seckill_grants_{:016x}", rand::random::<u64>());
    let (user, database) = (&name[name.len() - 16..], format!("{host}/{name}"));
    db.execute(&format!("CREATE DATABASE {name}")).await;
    // As in the installation: before the migrations, so before the table exists.
    let grants = include_str!("../../../../examples/grants.sql");
    for program in ["api", "operator"] {
        db.execute(&format!("CREATE USER '{program}_{user}'@'%' IDENTIFIED BY 'x'"))
            .await;
        let of_program = format!("'{program}'@");
        for grant in grants.lines().filter(|line| line.contains(&of_program)) {
            let grant = grant
                .replace("seckill.", &format!("{name}."))
                .replace(&of_program, &format!("'{program}_{user}'@"));
            db.execute(&grant).await;
        }
    }
    let (_, credentials) = db.url.split_once("://").expect("a URL");
    let admin = credentials.split_once('@').expect("a user").0;
    seckill_ledger::migrate(&format!("{scheme}://{admin}@{database}"))
        .await
        .expect("migrated");

    for program in ["api", "operator"] {
        let url = format!("{scheme}://{program}_{user}:x@{database}");
        let ledger = Ledger::connect(&url, 1).await.expect("connects");
        ledger.beat(program, "pod").await.expect("written");
        ledger.beat(program, "pod").await.expect("written again");
        ledger.check_format().await.expect("read");
        ledger.end_heartbeat(program, "pod").await.expect("deleted");
        let mut connection = MySqlConnection::connect(&url).await.expect("connects");
        if program == "api" {
            for refused in [
                "UPDATE required_format SET format = 2",
                "UPDATE sales SET state = 'closed'",
                "DELETE FROM orders",
                "CREATE TABLE another (id INT)",
            ] {
                let result = connection.execute(AssertSqlSafe(refused.to_owned())).await;
                assert!(result.is_err(), "{refused}");
            }
        } else {
            ledger.delete_old_heartbeats().await.expect("deleted");
            let sale = ledger.speaking(SECOND).create_sale(&newer_sale()).await;
            assert_eq!(sale.expect("created").format, SECOND);
        }
        db.execute(&format!("DROP USER '{program}_{user}'@'%'")).await;
    }
    db.execute(&format!("DROP DATABASE {name}")).await;
    db.drop().await;
}
