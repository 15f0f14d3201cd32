//! Faults. Every answer must be true, and a missing index never causes "sold out" or "ended".
use std::collections::HashSet;
use std::time::Duration;

use futures::future::join_all;
use seckill_protocol::Record;

use crate::client::{Request, Response};
use crate::harness::*;

#[tokio::test]
async fn a_voided_purchase_is_retried_under_the_new_epoch() {
    let harness = Harness::start().await;
    let sale = harness.sell(3, open()).await;
    let old = harness.row(&sale).await.live_epoch.expect("live");
    let new = harness.barrier(&sale).await;
    let key = key();
    let rebuild = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        harness.install(&sale, new).await;
    };
    let (bought, ()) = tokio::join!(harness.buy(&sale, &key), rebuild);
    assert_eq!(bought.status, 201, "{bought:?}");
    harness.store().await;
    let (stored, _) = {
        let (buyer, key) = (
            seckill_protocol::Buyer::anonymous(&key),
            seckill_protocol::KeyHash::of(&key),
        );
        harness
            .ledger
            .order_by_key(sale.id, &buyer, key)
            .await
            .expect("MySQL answers")
    };
    let stored = stored.expect("is stored");
    assert!(stored.id.epoch == new && new > old);
    assert_eq!(harness.row(&sale).await.sold, 1);
    assert_eq!(harness.buy(&sale, &key).await.body, bought.body);
}

#[tokio::test]
async fn a_voided_purchase_without_a_rebuild_has_an_unknown_outcome() {
    let harness = Harness::start().await;
    let sale = harness.sell(3, open()).await;
    harness.barrier(&sale).await;
    let answer = harness.buy(&sale, &key()).await;
    assert!(answer.is(503, "outcome_unknown").headers.contains_key("retry-after"));
    harness.store().await;
    assert_eq!(harness.row(&sale).await.sold, 0);
}

#[tokio::test]
async fn a_refusal_by_an_outdated_index_does_not_count() {
    let harness = Harness::start().await;
    let sale = harness.sell(1, open()).await;
    assert_eq!(harness.buy(&sale, &key()).await.status, 201);
    harness.buy(&sale, &key()).await.is(409, "sold_out");
    harness.barrier(&sale).await;
    // The tail may have been at the end of the log within the last 100 ms.
    tokio::time::sleep(Duration::from_millis(150)).await;
    harness.buy(&sale, &key()).await.is(503, "not_ready");
    let shown = harness.get(&path(&sale)).await;
    assert_ne!(shown.body["state"], "sold_out");
}

#[tokio::test]
async fn a_lost_index_never_causes_sold_out_or_ended() {
    let harness = Harness::start().await;
    let sale = harness.sell(1, open()).await;
    harness.stock.drop_sale(sale.id).await.expect("Redis answers");
    harness.buy(&sale, &key()).await.is(503, "not_ready");
    harness.earlier(&sale, &key()).await.is(503, "not_ready");
    let shown = harness.get(&path(&sale)).await;
    assert_eq!(
        (&shown.body["state"], &shown.body["remaining"]),
        (&"open".into(), &().into())
    );
    // An open sale that was never preheated is late, but neither sold out nor ended.
    let late = harness.announce(1, open()).await;
    harness.buy(&late, &key()).await.is(503, "not_ready");
}

#[tokio::test]
async fn a_purchase_follows_a_newer_index() {
    let harness = Harness::start().await;
    let sale = harness.sell(3, open()).await;
    let epoch = harness.barrier(&sale).await;
    let index = seckill_stock::Install {
        epoch,
        total: 3,
        left: 3,
        holders: 0,
        terms: sale.terms(),
    };
    harness.stock.install(sale.id, &index).await.expect("Redis answers");
    let late = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        harness
            .ledger
            .set_live_epoch(sale.id, epoch)
            .await
            .expect("MySQL answers");
    };
    let (bought, ()) = tokio::join!(async { harness.buy(&sale, &key()).await }, late);
    assert_eq!(bought.status, 201, "{bought:?}");
}

#[tokio::test]
async fn ended_is_answered_only_after_close_is_folded() {
    let harness = Harness::start().await;
    let sale = harness.sell(3, open()).await;
    let winner = key();
    let bought = harness.buy(&sale, &winner).await;
    harness.change(&sale, over()).await;
    harness.append(&Record::Close { sale: sale.id }).await;
    harness.stock.drop_sale(sale.id).await.expect("Redis answers");
    tokio::time::sleep(Duration::from_millis(150)).await;
    harness.buy(&sale, &winner).await.is(503, "not_ready");
    harness.buy(&sale, &key()).await.is(503, "not_ready");
    harness.store().await;
    harness.refresh().await;
    assert_eq!(harness.buy(&sale, &winner).await.body, bought.body);
    harness.buy(&sale, &key()).await.is(410, "ended");
}

/// Buys as a correct client does: with the same key until there is an answer.
async fn buy_until_answered(harness: &Harness, sale: &seckill_ledger::Sale) -> Response {
    tokio::time::sleep(Duration::from_millis(rand::random_range(0..2000))).await;
    let key = key();
    loop {
        let answer = harness.buy(sale, &key).await;
        if !matches!(answer.status, 202 | 503) {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_rebuilds_sell_each_unit_once() {
    let harness = Harness::start().await;
    let sale = harness.sell(100, open()).await;
    let buyers = join_all((0..300).map(|_| buy_until_answered(&harness, &sale)));
    let rebuilds = async {
        for lost in [false, true, false, true, false] {
            tokio::time::sleep(Duration::from_millis(250)).await;
            if lost {
                harness.stock.drop_sale(sale.id).await.expect("Redis answers");
            }
            harness.store().await;
            harness.rebuild(&sale).await;
        }
    };
    let (answers, ()) = tokio::join!(buyers, rebuilds);
    let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 201);
    lost.iter().for_each(|answer| {
        answer.is(409, "sold_out");
    });
    let numbers: HashSet<&str> = won.iter().map(|answer| answer.order_no()).collect();
    assert_eq!((won.len(), numbers.len()), (100, 100));
    harness.store().await;
    assert_eq!(harness.row(&sale).await.sold, 100);
    for number in numbers {
        assert_eq!(
            harness.get(&format!("/v1/orders/{number}")).await.body["status"],
            "placed"
        );
    }
}

#[tokio::test]
async fn a_silent_log_causes_202_with_a_location() {
    let harness = Harness::without_read_back().await;
    let sale = harness.announce_item(3, open(), Some(1)).await;
    harness.preheat(&sale).await;
    let key = key();
    let pending = harness.buy(&sale, &key).await;
    assert_eq!(pending.status, 202, "{pending:?}");
    assert_eq!(pending.headers["location"], format!("{}/request", path(&sale)));
    assert!(pending.headers.contains_key("retry-after"));
    assert_eq!(
        (&pending.body["status"], &pending.body["order_no"]),
        (&"pending".into(), &().into())
    );
    let (earlier, again, legacy) = tokio::join!(
        harness.earlier(&sale, &key),
        harness.buy(&sale, &key),
        harness.legacy("POST /seckill/buy", r#"{"item_id":1}"#),
    );
    assert_eq!((earlier.status, again.status), (pending.status, pending.status));
    // The old client can't ask again, so it gets the true answer: the outcome is unknown.
    assert_eq!((legacy.status, &legacy.body["code"]), (500, &"500".into()));
    assert!(
        legacy.body["message"]
            .as_str()
            .expect("text")
            .contains("outcome unknown")
    );
    let index = harness.stock.probe(sale.id).await.expect("Redis answers").index;
    assert_eq!(index.expect("installed").left, 1);
}

#[tokio::test]
async fn a_sale_on_an_unread_partition_is_not_sold() {
    let harness = Harness::start().await;
    let sale = harness.announce_on(PART + 1, 3, open(), None).await;
    harness.install(&sale, seckill_protocol::Epoch(0)).await;
    harness.buy(&sale, &key()).await.is(503, "not_ready");
    let index = harness.stock.probe(sale.id).await.expect("Redis answers").index;
    assert_eq!(index.expect("installed").left, 3);
}

#[tokio::test]
async fn a_lost_row_makes_no_order_and_no_sale_unknown() {
    let harness = Harness::start().await;
    let sale = harness.sell(5, open()).await;
    let key = key();
    let bought = harness.buy(&sale, &key).await;
    let number = bought.order_no();
    harness.store().await;
    harness.lose_all_rows().await;

    // Nothing is known of the sale until the log is read again, so nothing final is said.
    let order = format!("/v1/orders/{number}");
    harness.get(&order).await.is(503, "not_ready");
    harness
        .send(Request::new(format!("DELETE {order}"), &[], ""))
        .await
        .is(503, "not_ready");
    harness.get(&path(&sale)).await.is(503, "not_ready");
    harness.buy(&sale, &key).await.is(503, "not_ready");
    harness.earlier(&sale, &key).await.is(503, "not_ready");
    let legacy = harness
        .legacy(&format!("GET /seckill/query_order?order_id={number}"), "")
        .await;
    assert_eq!(legacy.status, 500, "{legacy:?}");

    harness.store().await;
    harness.refresh().await;
    let found = harness.get(&order).await;
    assert_eq!((found.status, &found.body["status"]), (200, &"placed".into()));
    let shown = harness.get(&path(&sale)).await;
    assert_eq!((shown.status, &shown.body["state"]), (200, &"suspended".into()));
    harness.buy(&sale, &key).await.is(503, "not_ready");
    harness.get("/v1/sales/shop/never-was").await.is(404, "sale_unknown");
}
