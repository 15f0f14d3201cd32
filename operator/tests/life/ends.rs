//! The ends that a sale can come to, and what comes after them.
use kube::api::DeleteParams;
use seckill_crds::{FlashSale, Phase};
use seckill_protocol::Record;
use seckill_protocol::index::SaleState;
use serde_json::json;

use crate::bed::{Bed, reason};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_whose_end_is_past_settles_empty() {
    let bed = Bed::new().await;
    let (operator, worker) = (bed.operator(), bed.worker());
    bed.apply("over", -100, 50, json!({})).await;
    let settled = bed.until_phase("over", Phase::Settled).await;
    let sale = bed.sale("over").await;
    assert_eq!((sale.total, sale.sold, sale.live_epoch), (0, 0, None));
    assert_eq!(reason(&settled, "Stalled"), ("False", "Progressing"));
    operator.stop().await;
    worker.stop().await;
    bed.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_that_is_deleted_ends_and_settles_and_its_name_stays_used() {
    let bed = Bed::new().await;
    let (operator, worker) = (bed.operator(), bed.worker());
    bed.apply("gone", -1, 3600, json!({})).await;
    bed.until_phase("gone", Phase::Open).await;
    assert_eq!(bed.buy_surely("gone", &["a", "b"]).await, 2);
    bed.delete("gone").await;
    bed.eventually("it is settled", async || bed.sale("gone").await.settled_at_ms.is_some())
        .await;
    let sale = bed.sale("gone").await;
    assert_eq!((sale.state, sale.total, sale.sold), (SaleState::Closed, 10, 2));
    assert_eq!(bed.orders("gone").await, 2);
    assert!(!bed.has_index("gone").await);

    bed.apply("gone", -1, 3600, json!({})).await;
    let used = bed.until_reason("gone", "Accepted", "NameUsed").await;
    assert_eq!(used.phase, None);
    assert_eq!(reason(&used, "Stalled"), ("True", "NameUsed"));
    assert_eq!(bed.sale("gone").await, sale);
    operator.stop().await;
    worker.stop().await;
    bed.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_whose_name_is_applied_anew_with_another_class_ends() {
    let bed = Bed::new().await;
    let (operator, worker) = (bed.operator(), bed.worker());
    bed.apply("moves", -1, 3600, json!({})).await;
    bed.until_phase("moves", Phase::Open).await;
    assert_eq!(bed.buy_surely("moves", &["a", "b"]).await, 2);
    bed.delete("moves").await;
    bed.apply("moves", -1, 3600, json!({"className": "another"})).await;
    bed.eventually("it is settled", async || {
        bed.sale("moves").await.settled_at_ms.is_some()
    })
    .await;
    assert_eq!(bed.sale("moves").await.sold, 2);
    assert_eq!(bed.status("moves").await.phase, None);
    operator.stop().await;
    worker.stop().await;
    bed.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_that_is_replaced_goes_on_as_it_was_and_settles_under_its_new_object() {
    let bed = Bed::new().await;
    let (operator, worker) = (bed.operator(), bed.worker());
    bed.apply("replaced", -1, 3600, json!({})).await;
    bed.until_phase("replaced", Phase::Open).await;
    assert_eq!(bed.buy_surely("replaced", &["a", "b"]).await, 2);
    let before = bed.sale("replaced").await;

    bed.delete("replaced").await;
    bed.apply("replaced", -1, 3600, json!({"stock": 5})).await;
    let adopted = bed.until_reason("replaced", "Accepted", "Adopted").await;
    assert_eq!(adopted.phase, Some(Phase::Open));
    let condition = adopted.conditions.iter().find(|c| c.type_ == "Accepted");
    assert!(condition.expect("said").message.contains("spec.stock (10 are offered)"));
    let after = bed.sale("replaced").await;
    assert_eq!(
        (after.id, after.live_epoch, after.offered),
        (before.id, before.live_epoch, 10)
    );
    assert_eq!(bed.buy_surely("replaced", &["a", "c"]).await, 1);

    bed.ends_in("replaced", 2).await;
    let settled = bed.until_phase("replaced", Phase::Settled).await;
    assert_eq!(settled.ledger.as_ref().map(|l| (l.total, l.sold)), Some((10, 3)));
    assert_eq!(reason(&settled, "LedgerBalanced"), ("True", "Balanced"));
    operator.stop().await;
    worker.stop().await;
    bed.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_that_ended_while_no_operator_ran_is_settled_by_the_next_one() {
    let bed = Bed::new().await;
    let (operator, worker) = (bed.operator(), bed.worker());
    bed.apply("unseen", -1, 3600, json!({})).await;
    bed.apply("deleted", -1, 3600, json!({})).await;
    bed.until_phase("unseen", Phase::Open).await;
    bed.until_phase("deleted", Phase::Open).await;
    operator.stop().await;
    assert_eq!(bed.buy_surely("unseen", &["a"]).await, 1);
    bed.ends_in("unseen", 0).await;
    let sales = bed.api::<FlashSale>();
    sales
        .delete("deleted", &DeleteParams::default())
        .await
        .expect("deleted");

    let operator = bed.operator();
    let settled = bed.until_phase("unseen", Phase::Settled).await;
    assert_eq!(settled.ledger.as_ref().map(|l| (l.sold, l.remaining)), Some((1, 9)));
    bed.eventually("the deleted one is settled", async || {
        bed.sale("deleted").await.settled_at_ms.is_some()
    })
    .await;
    operator.stop().await;
    worker.stop().await;
    bed.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_difference_between_redis_and_the_ledger_is_told_and_never_healed() {
    let bed = Bed::new().await;
    let (operator, worker) = (bed.operator(), bed.worker());
    bed.apply("uneven", -1, 3600, json!({})).await;
    bed.until_phase("uneven", Phase::Open).await;
    let (_, batch) = bed.buy("uneven", &["a"]).await;
    // Somebody deletes the outbox before it was published: the unit is taken, and nobody has it.
    let sale = bed.sale("uneven").await;
    let batch = batch.expect("sold");
    bed.stock
        .trim_outbox(sale.id, batch.epoch, batch.last())
        .await
        .expect("Redis");
    bed.ends_in("uneven", 1).await;
    let settled = bed.until_phase("uneven", Phase::Settled).await;
    assert_eq!(
        reason(&settled, "LedgerBalanced"),
        ("False", "Imbalanced"),
        "{settled:#?}"
    );
    let condition = settled.conditions.iter().find(|c| c.type_ == "LedgerBalanced");
    let message = &condition.expect("said").message;
    assert!(message.contains("0 sold") && message.contains("9 left"), "{message}");
    assert!(bed.events("uneven").await.contains(&"Imbalanced".to_owned()));
    operator.stop().await;
    worker.stop().await;
    bed.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_settlement_found_is_told_by_whoever_goes_on_after_it() {
    let bed = Bed::new().await;
    let (first, worker) = (bed.operator(), bed.worker());
    bed.apply("found", -1, 3600, json!({})).await;
    bed.until_phase("found", Phase::Open).await;
    first.stop().await;
    // The one who settles finds two units too few, and dies.
    let sale = bed.sale("found").await;
    let close = Record::Close { sale: sale.id };
    bed.log.append(sale.part, &close).await.expect("Kafka");
    bed.eventually("the ledger has settled", async || {
        bed.ledger.set_settled(sale.id, Some(8)).await.expect("MySQL")
    })
    .await;
    assert!(bed.has_index("found").await);

    let second = bed.operator();
    let settled = bed.until_phase("found", Phase::Settled).await;
    assert_eq!(reason(&settled, "LedgerBalanced"), ("False", "Imbalanced"));
    assert!(!bed.has_index("found").await);
    second.stop().await;
    worker.stop().await;
    bed.drop().await;
}
