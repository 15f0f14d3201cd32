//! Recovery of a sale: after a lost index, an unfinished rebuild, concurrent operators, and without a worker.
use seckill_crds::Phase;
use seckill_protocol::Record;
use seckill_protocol::index::Decision;
use serde_json::json;

use crate::harness::{Harness, set_flag, status_and_reason};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_index_is_rebuilt_with_every_order() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("lost", -1, 3600, json!({})).await;
    harness.until_phase("lost", Phase::Open).await;
    assert_eq!(harness.buy("lost", &["a", "b", "c"]).await, 3);
    let before = harness.sale("lost").await;
    harness.stock.drop_sale(before.id).await.expect("Redis");

    let epoch = before.live_epoch.expect("a live epoch").0;
    // A sale that starts in the past is open before its pods are ready, so the phase is not enough.
    harness
        .until("lost", "rebuilt and selling", |status| {
            status.epoch > Some(epoch) && status_and_reason(status, "Ready") == ("True", "Selling")
        })
        .await;
    let (decisions, _) = harness.reserve("lost", &["a", "b", "c"]).await;
    assert!(
        decisions
            .iter()
            .all(|decision| matches!(decision, Decision::AlreadyReserved(_))),
        "{decisions:?}"
    );
    let buyers: Vec<String> = (0..10).map(|n| format!("new-{n}")).collect();
    let buyers: Vec<&str> = buyers.iter().map(String::as_str).collect();
    assert_eq!(harness.buy("lost", &buyers).await, 7);
    harness.until_event("lost", "Rebuilt").await;

    harness.end_in("lost", 2).await;
    let settled = harness.until_phase("lost", Phase::Settled).await;
    assert_eq!(status_and_reason(&settled, "LedgerBalanced"), ("True", "Balanced"));
    assert_eq!(harness.orders("lost").await, 10);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_applies_what_only_the_log_has() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("behind", -1, 3600, json!({})).await;
    harness.until_phase("behind", Phase::Open).await;
    assert_eq!(harness.buy("behind", &["a", "b", "c"]).await, 3);
    harness
        .eventually("the ledger has three orders", async || {
            harness.orders("behind").await == 3
        })
        .await;
    worker.stop().await;
    // Two orders and the cancel of a stored one, which the ledger will not see before the rebuild.
    assert_eq!(harness.buy("behind", &["d", "a2"]).await, 2);
    let before = harness.sale("behind").await;
    let epoch = before.live_epoch.expect("a live epoch");
    let cancel = Record::Cancel {
        sale: before.id,
        epoch,
        seq: 1,
        reason: "buyer".to_owned(),
    };
    harness.log.append(before.partition, &cancel).await.expect("Kafka");
    harness.stock.drop_sale(before.id).await.expect("Redis");

    harness
        .until("behind", "rebuilt", |status| status.epoch > Some(epoch.0))
        .await;
    let index = harness
        .stock
        .probe(before.id)
        .await
        .expect("Redis")
        .index
        .expect("an index");
    assert_eq!((index.total, index.left, index.holders), (10, 6, 5));
    let (decisions, _) = harness.reserve("behind", &["a", "b", "d"]).await;
    let cancelled = decisions.iter().map(|decision| match decision {
        Decision::AlreadyReserved(holding) => Some(holding.cancelled),
        _ => None,
    });
    assert_eq!(
        cancelled.collect::<Vec<_>>(),
        [Some(true), Some(false), Some(false)],
        "{decisions:?}"
    );
    operator.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_barrier_without_an_index_is_followed_by_a_rebuild() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("barrier", -1, 3600, json!({})).await;
    harness.until_phase("barrier", Phase::Open).await;
    // Another operator finds both records in the log.
    operator.stop().await;
    let sale = harness.sale("barrier").await;
    let barrier = Record::Barrier {
        sale: sale.id,
        nonce: "of an operator that died".into(),
    };
    let epoch = harness.log.append(sale.partition, &barrier).await.expect("Kafka");
    // The barrier makes batches of the old epoch void.
    let (_, void) = harness.reserve("barrier", &["void"]).await;
    harness
        .log
        .append(sale.partition, &Record::Batch(void.expect("sold")))
        .await
        .expect("Kafka");
    let operator = harness.operator();
    harness
        .until("barrier", "rebuilt", |status| status.epoch > Some(epoch))
        .await;
    assert_eq!(harness.buy("barrier", &["void", "a"]).await, 2);
    harness.end_in("barrier", 2).await;
    let settled = harness.until_phase("barrier", Phase::Settled).await;
    assert_eq!(settled.ledger.as_ref().map(|l| (l.total, l.sold)), Some((10, 2)));
    assert_eq!(status_and_reason(&settled, "LedgerBalanced"), ("True", "Balanced"));
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_concurrent_operators_offer_the_stock_once() {
    let harness = Harness::new().await;
    // Each operator has its own lease, so both are leader.
    let (one, other, worker) = (
        harness.operator_with_lease("one", 15),
        harness.operator_with_lease("other", 15),
        harness.worker(),
    );
    harness.apply("twice", -1, 3600, json!({})).await;
    harness.until_phase("twice", Phase::Open).await;
    let buyers: Vec<String> = (0..12).map(|n| format!("buyer-{n}")).collect();
    let buyers: Vec<&str> = buyers.iter().map(String::as_str).collect();
    harness.try_buy("twice", &buyers[..6]).await;
    // Both operators observe the lost index, and both begin new epochs.
    harness
        .stock
        .drop_sale(harness.sale("twice").await.id)
        .await
        .expect("Redis");
    harness
        .eventually("ten buyers hold an order and two are refused", async || {
            let decisions = harness.try_buy("twice", &buyers).await;
            let held = decisions
                .iter()
                .filter(|a| matches!(a, Decision::AlreadyReserved(_)))
                .count();
            let refused = decisions
                .iter()
                .filter(|a| matches!(a, Decision::SoldOut { .. }))
                .count();
            (held, refused, harness.orders("twice").await) == (10, 2, 10)
        })
        .await;
    harness.end_in("twice", 2).await;
    let settled = harness.until_phase("twice", Phase::Settled).await;
    assert_eq!(
        status_and_reason(&settled, "LedgerBalanced"),
        ("True", "Balanced"),
        "{settled:#?}"
    );
    assert_eq!(settled.ledger.as_ref().map(|l| (l.total, l.sold)), Some((10, 10)));
    assert_eq!(harness.orders("twice").await, 10);
    one.stop().await;
    other.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settlement_waits_for_the_worker_and_reports_that() {
    let harness = Harness::new().await;
    let operator = harness.operator();
    harness.apply("waits", -1, 3600, json!({})).await;
    harness.until_phase("waits", Phase::Open).await;
    let (_, batch) = harness.reserve("waits", &["a"]).await;
    assert!(batch.is_some());
    harness.end_in("waits", 1).await;
    harness.until_reason("waits", "Settled", "Draining").await;
    let worker = harness.worker();
    let settled = harness.until_phase("waits", Phase::Settled).await;
    assert_eq!(settled.ledger.as_ref().map(|l| l.sold), Some(1));
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_whose_row_is_lost_goes_on_under_its_id() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("row", -1, 3600, json!({})).await;
    harness.until_phase("row", Phase::Open).await;
    assert_eq!(harness.buy("row", &["a", "b", "c"]).await, 3);
    harness
        .eventually("the orders are stored", async || harness.orders("row").await == 3)
        .await;
    let before = harness.sale("row").await;
    let named = harness.until("row", "named", |status| status.sale_id.is_some()).await;
    assert_eq!(named.sale_id, Some(before.id.to_string()));

    // Without a worker the log is not read, so the sale must not be created anew.
    worker.stop().await;
    harness.lose_all_rows().await;
    let waiting = harness.until_reason("row", "Accepted", "LedgerBehind").await;
    assert_eq!(status_and_reason(&waiting, "Ready").0, "False");
    let rows = harness.ledger.unfinished_sales(&harness.name).await.expect("MySQL");
    assert_eq!(rows, []);

    let worker = harness.worker();
    let open = harness.until_phase("row", Phase::Open).await;
    let after = harness.sale("row").await;
    assert_eq!((after.id, after.identity()), (before.id, before.identity()));
    assert_eq!((after.live_epoch, open.sale_id), (before.live_epoch, named.sale_id));
    let (decisions, _) = harness.reserve("row", &["a", "b", "c"]).await;
    assert!(
        decisions
            .iter()
            .all(|decision| matches!(decision, Decision::AlreadyReserved(_))),
        "{decisions:?}"
    );
    harness.end_in("row", 2).await;
    let settled = harness.until_phase("row", Phase::Settled).await;
    assert_eq!(settled.ledger.as_ref().map(|l| (l.total, l.sold)), Some((10, 3)));
    assert_eq!(harness.orders("row").await, 3);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_sale_waits_for_the_ledger_and_gets_a_worker() {
    let harness = Harness::new().await;
    let mut args = harness.operator_args("operator", 15);
    set_flag(&mut args, "--worker-min-replicas", "0");
    let operator = harness.operator_with_client(&harness.kube, args);
    // An empty log knows no sale.
    harness.apply("first", 3600, 60, json!({})).await;
    harness.until_phase("first", Phase::Scheduled).await;
    harness
        .eventually("no worker is needed", async || harness.replicas("worker").await == 0)
        .await;
    let first = harness.sale("first").await;
    let total = Record::Total {
        sale: first.id,
        total: 10,
    };
    harness.log.append(first.partition, &total).await.expect("Kafka");

    harness.apply("second", 3600, 60, json!({})).await;
    harness.until_reason("second", "Accepted", "LedgerBehind").await;
    harness
        .eventually("a worker is started", async || harness.replicas("worker").await == 1)
        .await;
    let worker = harness.worker();
    harness.until_reason("second", "Accepted", "Accepted").await;
    harness
        .eventually("no worker is needed", async || harness.replicas("worker").await == 0)
        .await;
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}
