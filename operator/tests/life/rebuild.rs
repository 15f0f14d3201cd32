//! What a rebuild refuses. The tests call it themselves, while no operator and no worker runs.
use futures::future::try_join_all;
use seckill_crds::Phase;
use seckill_ledger::Sale;
use seckill_operator::context::Stores;
use seckill_operator::error::RebuildError;
use seckill_operator::sale::rebuild::rebuild;
use seckill_protocol::{Batch, Buyer, Epoch, KeyHash, Order, Record, Seq};
use serde_json::{Value, json};

use crate::harness::Harness;

/// An open sale whose index is lost. The ledger has read the log to its end.
async fn without_index(harness: &Harness, name: &str, spec: Value) -> Sale {
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply(name, -1, 3600, spec).await;
    harness.until_phase(name, Phase::Open).await;
    operator.stop().await;
    harness
        .eventually("the ledger has read the barrier", async || {
            let sale = harness.sale(name).await;
            sale.live_epoch.is_some() && sale.cut.epoch() == sale.live_epoch
        })
        .await;
    worker.stop().await;
    let sale = harness.sale(name).await;
    harness.stock.drop_sale(sale.id).await.expect("Redis");
    sale
}

fn stores(harness: &Harness) -> Stores {
    Stores {
        ledger: harness.ledger.clone(),
        log: harness.log.clone(),
        stock: harness.stock.clone(),
    }
}

/// Rebuilds the index and returns why that failed. No index may be there, and none may be named to seckill-api.
async fn refused(harness: &Harness, sale: &Sale) -> RebuildError {
    let refused = rebuild(&stores(harness), sale).await.expect_err("refused");
    assert!(!harness.has_index(&sale.name).await, "{refused}");
    assert_eq!(harness.sale(&sale.name).await.live_epoch, sale.live_epoch, "{refused}");
    refused
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_beyond_the_barrier_that_missed_it_gets_no_index() {
    let harness = Harness::new().await;
    let sale = without_index(&harness, "ahead", json!({})).await;
    // As after the log was replaced by one that is shorter.
    let (position, partition) = (1_000_000, sale.partition);
    let far = format!("UPDATE log_position SET off = {position} WHERE part = {partition}");
    harness.execute(&far).await;
    let refused = refused(&harness, &sale).await;
    assert!(
        matches!(refused, RebuildError::LedgerAhead { position: at, .. } if at == position),
        "{refused}"
    );
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_only_the_log_has_prevents_an_index() {
    let harness = Harness::new().await;
    let sale = without_index(&harness, "ended", json!({})).await;
    let close = Record::Close { sale: sale.id };
    harness.log.append(sale.partition, &close).await.expect("Kafka");
    let refused = refused(&harness, &sale).await;
    assert!(matches!(refused, RebuildError::Ended), "{refused}");
    harness.drop().await;
}

/// Appends so many orders of one unit, each of another buyer.
async fn append_orders(harness: &Harness, sale: &Sale, epoch: Epoch, orders: u64) {
    let order = |seq: Seq| Order {
        buyer: Buyer::anonymous(&format!("{epoch}-{seq}")),
        quantity: 1,
        tier: 0,
        key: KeyHash(seq),
    };
    let seqs: Vec<Seq> = (1..=orders).collect();
    let batches = seqs.chunks(Batch::MAX_ORDERS).map(|seqs| {
        Record::Batch(Batch {
            sale: sale.id,
            epoch,
            first: seqs[0],
            orders: seqs.iter().copied().map(order).collect(),
        })
    });
    let append = async |batch: Record| harness.log.append(sale.partition, &batch).await;
    try_join_all(batches.map(append)).await.expect("Kafka");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_reads_50000_orders_of_the_log_and_no_more() {
    let harness = Harness::new().await;
    let stock = json!({"stock": 60_000});
    let sale = without_index(&harness, "behind", stock).await;
    append_orders(&harness, &sale, sale.live_epoch.expect("sold"), 50_000).await;
    let rebuilt = rebuild(&stores(&harness), &sale).await.expect("within the bound");
    assert_eq!((rebuilt.orders, rebuilt.left), (50_000, 10_000));

    let sale = harness.sale("behind").await;
    harness.stock.drop_sale(sale.id).await.expect("Redis");
    append_orders(&harness, &sale, rebuilt.epoch, 1).await;
    let refused = refused(&harness, &sale).await;
    assert!(
        matches!(refused, RebuildError::LedgerBehind { most: 50_000, .. }),
        "{refused}"
    );
    harness.drop().await;
}
