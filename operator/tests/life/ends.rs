//! How sales end: by time, by deletion, by recreation, without an operator, and with units missing.
use std::time::Duration;

use kube::api::DeleteParams;
use seckill_crds::{FlashSale, Phase};
use seckill_protocol::Record;
use seckill_protocol::index::SaleState;
use serde_json::json;

use crate::harness::{self, Harness, status_and_reason};
use crate::proxy::{Fault, Proxy};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_whose_end_has_passed_settles_with_no_units() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("over", -100, 50, json!({})).await;
    let settled = harness.until_phase("over", Phase::Settled).await;
    let sale = harness.sale("over").await;
    assert_eq!((sale.total, sale.sold, sale.live_epoch), (0, 0, None));
    assert_eq!(status_and_reason(&settled, "Stalled"), ("False", "Progressing"));
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_sale_is_settled_and_its_name_stays_used() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("gone", -1, 3600, json!({})).await;
    harness.until_phase("gone", Phase::Open).await;
    assert_eq!(harness.buy("gone", &["a", "b"]).await, 2);
    harness.delete("gone").await;
    harness
        .eventually("the sale is settled and Redis is freed", async || {
            harness.sale("gone").await.freed_at_ms.is_some()
        })
        .await;
    let sale = harness.sale("gone").await;
    assert_eq!((sale.state, sale.total, sale.sold), (SaleState::Closed, 10, 2));
    assert_eq!(harness.orders("gone").await, 2);
    assert!(!harness.has_index("gone").await);

    harness.apply("gone", -1, 3600, json!({})).await;
    let used = harness.until_reason("gone", "Accepted", "NameUsed").await;
    assert_eq!(used.phase, None);
    assert_eq!(status_and_reason(&used, "Stalled"), ("True", "NameUsed"));
    assert_eq!(harness.sale("gone").await, sale);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_that_is_recreated_with_another_class_ends() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("moves", -1, 3600, json!({})).await;
    harness.until_phase("moves", Phase::Open).await;
    assert_eq!(harness.buy("moves", &["a", "b"]).await, 2);
    harness.delete("moves").await;
    harness.apply("moves", -1, 3600, json!({"className": "another"})).await;
    harness
        .eventually("the sale is settled", async || {
            harness.sale("moves").await.settled_at_ms.is_some()
        })
        .await;
    assert_eq!(harness.sale("moves").await.sold, 2);
    assert_eq!(harness.status("moves").await.phase, None);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_status_is_not_written_to_a_recreated_sale() {
    let harness = Harness::new().await;
    let proxy = Proxy::start(harness::upstream().await).await;
    let operator = harness.operator_with_client(&proxy.client(), harness.operator_args("operator", 15));
    harness.apply("moves", -1, 3600, json!({})).await;
    harness.until_phase("moves", Phase::Open).await;
    proxy.set_for_new_requests(Fault::SlowResource("/status", Duration::from_secs(1)));
    proxy.take_asked();
    let buyers: Vec<String> = (0..10).map(|buyer| format!("b{buyer}")).collect();
    let buyers: Vec<&str> = buyers.iter().map(String::as_str).collect();
    assert_eq!(harness.buy("moves", &buyers).await, 10);
    harness
        .eventually("the status is on its way", async || {
            proxy.take_asked().iter().any(|asked| asked.contains("/status"))
        })
        .await;
    harness.delete("moves").await;
    harness.apply("moves", -1, 3600, json!({"className": "another"})).await;
    // It writes the statuses that wait before it ends.
    operator.stop().await;
    assert_eq!(harness.status("moves").await.phase, None);
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recreated_sale_continues_and_settles_under_its_new_object() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("replaced", -1, 3600, json!({})).await;
    harness.until_phase("replaced", Phase::Open).await;
    assert_eq!(harness.buy("replaced", &["a", "b"]).await, 2);
    let before = harness.sale("replaced").await;

    harness.delete("replaced").await;
    harness.apply("replaced", -1, 3600, json!({"stock": 5})).await;
    let adopted = harness.until_reason("replaced", "Accepted", "Adopted").await;
    assert_eq!(adopted.phase, Some(Phase::Open));
    let condition = adopted.conditions.iter().find(|c| c.type_ == "Accepted");
    assert!(
        condition
            .expect("the condition")
            .message
            .contains("spec.stock (10 units are offered)")
    );
    let after = harness.sale("replaced").await;
    assert_eq!(
        (after.id, after.live_epoch, after.offered),
        (before.id, before.live_epoch, 10)
    );
    assert_eq!(harness.buy("replaced", &["a", "c"]).await, 1);

    harness.end_in("replaced", 2).await;
    let settled = harness.until_phase("replaced", Phase::Settled).await;
    assert_eq!(settled.ledger.as_ref().map(|l| (l.total, l.sold)), Some((10, 3)));
    assert_eq!(status_and_reason(&settled, "LedgerBalanced"), ("True", "Balanced"));
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_that_ended_without_an_operator_is_settled_later() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("unseen", -1, 3600, json!({})).await;
    // Long enough to open, and no longer than the test can wait.
    harness.apply("deleted", -1, 30, json!({})).await;
    harness.until_phase("unseen", Phase::Open).await;
    harness.until_phase("deleted", Phase::Open).await;
    operator.stop().await;
    let ends_at = harness.sale("deleted").await.closes_at;
    assert_eq!(harness.buy("unseen", &["a"]).await, 1);
    harness.end_in("unseen", 0).await;
    let sales = harness.api::<FlashSale>();
    sales
        .delete("deleted", &DeleteParams::default())
        .await
        .expect("deleted");

    let operator = harness.operator();
    let settled = harness.until_phase("unseen", Phase::Settled).await;
    assert_eq!(settled.ledger.as_ref().map(|l| (l.sold, l.remaining)), Some((1, 9)));
    // No operator saw the deletion, so the sale ends when it would have ended anyway.
    harness
        .eventually("the deleted sale is settled", async || {
            harness.sale("deleted").await.settled_at_ms.is_some()
        })
        .await;
    assert_eq!(harness.sale("deleted").await.closes_at, ends_at);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_sale_drains_an_index_that_mysql_forgot() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("forgot", -1, 3600, json!({})).await;
    harness.until_phase("forgot", Phase::Open).await;
    let sale = harness.sale("forgot").await;
    operator.stop().await;
    worker.stop().await;
    // Sold by a process that died before it published the batch.
    let (_, batch) = harness.reserve("forgot", &["a", "b"]).await;
    assert!(batch.is_some());
    // The sale ends, and a failover of MySQL loses the epoch of the index.
    harness.end_in("forgot", 0).await;
    harness
        .execute(&format!("UPDATE sales SET live_epoch = NULL WHERE id = {}", sale.id.0))
        .await;

    let (operator, worker) = (harness.operator(), harness.worker());
    let settled = harness.until_phase("forgot", Phase::Settled).await;
    assert_eq!(settled.ledger.as_ref().map(|l| (l.sold, l.remaining)), Some((2, 8)));
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_difference_between_index_and_ledger_is_reported_and_not_repaired() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("uneven", -1, 3600, json!({})).await;
    harness.until_phase("uneven", Phase::Open).await;
    // It would publish the batch.
    worker.stop().await;
    let (_, batch) = harness.reserve("uneven", &["a"]).await;
    // Somebody deletes the outbox before its batch is in the log: the unit is reserved, and no order has it.
    let sale = harness.sale("uneven").await;
    let batch = batch.expect("sold");
    harness
        .stock
        .trim_outbox(sale.id, batch.epoch, batch.last())
        .await
        .expect("Redis");
    let worker = harness.worker();
    harness.end_in("uneven", 1).await;
    let settled = harness.until_phase("uneven", Phase::Settled).await;
    assert_eq!(
        status_and_reason(&settled, "LedgerBalanced"),
        ("False", "Imbalanced"),
        "{settled:#?}"
    );
    let condition = settled.conditions.iter().find(|c| c.type_ == "LedgerBalanced");
    let message = &condition.expect("the condition").message;
    assert!(message.contains("0 sold") && message.contains("9 left"), "{message}");
    harness.until_event("uneven", "Imbalanced").await;
    // The alert and its number follow the condition.
    assert_eq!(operator.metric_of("seckill_sale_imbalanced", "uneven").await, Some(1.0));
    assert_eq!(
        operator.metric_of("seckill_sale_imbalance_units", "uneven").await,
        Some(1.0)
    );
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_operator_reports_the_stored_result_of_a_settlement() {
    let harness = Harness::new().await;
    let (first, worker) = (harness.operator(), harness.worker());
    harness.apply("found", -1, 3600, json!({})).await;
    harness.until_phase("found", Phase::Open).await;
    first.stop().await;
    // An operator stores a settlement with a difference of two units, and dies before it frees Redis.
    let sale = harness.sale("found").await;
    let close = Record::Close { sale: sale.id };
    harness.log.append(sale.partition, &close).await.expect("Kafka");
    harness
        .eventually("the ledger stores the settlement", async || {
            harness.ledger.set_settled(sale.id, Some(8)).await.expect("MySQL")
        })
        .await;
    assert!(harness.has_index("found").await);

    let second = harness.operator();
    let settled = harness.until_phase("found", Phase::Settled).await;
    assert_eq!(status_and_reason(&settled, "LedgerBalanced"), ("False", "Imbalanced"));
    harness
        .eventually("its index is deleted", async || !harness.has_index("found").await)
        .await;
    assert_eq!(second.metric_of("seckill_sale_imbalanced", "found").await, Some(1.0));
    assert_eq!(
        second.metric_of("seckill_sale_imbalance_units", "found").await,
        Some(2.0)
    );
    second.stop().await;
    worker.stop().await;
    harness.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_that_offered_no_unit_frees_its_name() {
    let harness = Harness::new().await;
    let (operator, worker) = (harness.operator(), harness.worker());
    harness.apply("early", 3600, 60, json!({})).await;
    harness.until_phase("early", Phase::Scheduled).await;
    let first = harness.sale("early").await.id;
    harness.delete("early").await;
    harness
        .eventually("the sale is settled", async || {
            harness.sale("early").await.settled_at_ms.is_some()
        })
        .await;

    harness.apply("early", -1, 3600, json!({})).await;
    let open = harness.until_phase("early", Phase::Open).await;
    assert_eq!(status_and_reason(&open, "Accepted"), ("True", "Accepted"));
    assert_ne!(harness.sale("early").await.id, first);
    assert_eq!(harness.buy("early", &["a"]).await, 1);
    let stored = async || harness.orders("early").await == 1;
    harness.eventually("the order is stored", stored).await;
    let ended = harness.ledger.sale(first).await.expect("MySQL").expect("it stays");
    let name = format!("early~{}", first.to_string().to_uppercase());
    assert_eq!((ended.total, ended.name), (0, name));

    // The log brings both sales back, in this order.
    let second = harness.sale("early").await.id;
    worker.stop().await;
    harness.lose_all_rows().await;
    let worker = harness.worker();
    harness
        .eventually("the order is restored", async || {
            let sale = harness
                .ledger
                .sale_by_name(&harness.name, &harness.namespace, "early")
                .await;
            let restored = sale
                .expect("MySQL")
                .is_some_and(|sale| sale.id == second && sale.sold == 1);
            restored && stored().await
        })
        .await;
    harness
        .eventually("the sale sells again", async || {
            let sale = harness.sale("early").await;
            sale.state == SaleState::Open && sale.live_epoch.is_some()
        })
        .await;
    assert_eq!(harness.buy("early", &["a", "b"]).await, 1);
    operator.stop().await;
    worker.stop().await;
    harness.drop().await;
}
