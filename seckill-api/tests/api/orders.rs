use futures::future::join_all;
use seckill_protocol::{Epoch, OrderId, OrderNoKeys, Record, StockAdjustment};

use crate::client::Request;
use crate::harness::*;

#[tokio::test]
async fn an_order_is_processing_until_it_is_stored() {
    let harness = Harness::start().await;
    let sale = harness.sell(5, open()).await;
    let bought = harness.buy(&sale, &key()).await;
    let path = format!("/v1/orders/{}", bought.order_no());
    let processing = harness.get(&path).await;
    assert_eq!(
        (processing.status, &processing.body["status"]),
        (200, &"processing".into())
    );
    harness.store().await;
    let placed = harness.get(&path).await;
    assert_eq!((placed.status, &placed.body["status"]), (200, &"placed".into()));
    assert_eq!(placed.body["order_no"], bought.body["order_no"]);
    assert_eq!(placed.body["sale"], bought.body["sale"]);
    assert_eq!(placed.body["quantity"], 1);
    assert_eq!(placed.body["price"]["amount"], "499");
    assert!(placed.body["created_at"].as_str().expect("a time").ends_with('Z'));
    // A person may have typed the number in lower case.
    let lower = harness.get(&path.to_lowercase().replace("/V1", "/v1")).await;
    assert_eq!(lower.body, placed.body);
}

#[tokio::test]
async fn a_retry_shows_that_its_order_was_cancelled() {
    let harness = Harness::start().await;
    let sale = harness.sell(5, open()).await;
    let key = key();
    let bought = harness.buy(&sale, &key).await;
    harness
        .append(&Record::Cancel {
            sale: sale.id,
            epoch: harness.row(&sale).await.live_epoch.expect("live"),
            seq: 1,
            reason: "buyer".into(),
        })
        .await;
    harness.settle(&sale).await;
    harness.refresh().await;
    let found = harness.get(&format!("/v1/orders/{}", bought.order_no())).await;
    assert_eq!(found.body["status"], "cancelled");
    let again = harness.buy(&sale, &key).await;
    assert_eq!(
        (again.order_no(), &again.body["status"]),
        (bought.order_no(), &"cancelled".into())
    );
}

#[tokio::test]
async fn cancelling_an_order_ends_it_once() {
    let harness = Harness::start().await;
    let sale = harness.sell(5, open()).await;
    let bought = harness.buy_several(&sale, &key(), 2).await;
    for _ in 0..2 {
        let cancelled = harness.cancel(bought.order_no()).await;
        assert_eq!(
            (cancelled.status, &cancelled.body["status"]),
            (200, &"cancelled".into()),
            "{cancelled:?}"
        );
        assert_eq!(cancelled.body["order_no"], bought.body["order_no"]);
        let row = harness.row(&sale).await;
        assert_eq!((row.sold, row.taken, row.returned), (0, 2, 2));
    }
    // The worker applies the adjustment to the index once.
    let pending = harness.ledger.pending_adjustments(PART, sale.id, 10).await;
    let pending = pending.expect("MySQL answers");
    let returned = pending
        .iter()
        .filter(|stored| matches!(stored.adjustment, StockAdjustment::Return { .. }));
    assert_eq!(returned.count(), 1);
}

#[tokio::test]
async fn a_cancellation_before_its_fold_returns_202_with_a_location() {
    let harness = Harness::start().await;
    let sale = harness.sell(5, open()).await;
    let bought = harness.buy(&sale, &key()).await;
    let request = Request::new(format!("DELETE /v1/orders/{}", bought.order_no()), &[], "");
    let pending = harness.send(request).await;
    assert_eq!(pending.status, 202, "{pending:?}");
    assert_eq!(pending.headers["location"], format!("/v1/orders/{}", bought.order_no()));
    assert!(pending.headers.contains_key("retry-after"));
    harness.store().await;
    let found = harness.get(&format!("/v1/orders/{}", bought.order_no())).await;
    assert_eq!(found.body["status"], "cancelled");
}

#[tokio::test]
async fn a_paid_or_unknown_order_is_not_cancelled() {
    let harness = Harness::start().await;
    let sale = harness.sell(5, open()).await;
    let bought = harness.buy(&sale, &key()).await;
    let paid = Record::Paid {
        sale: sale.id,
        epoch: harness.row(&sale).await.live_epoch.expect("live"),
        seq: 1,
        reference: "r".into(),
    };
    harness.append(&paid).await;
    harness.store().await;
    harness.cancel(bought.order_no()).await.is(409, "already_paid");
    harness
        .cancel("1ABCDEFGHJKMNPQRSTVWXYZ0123")
        .await
        .is(404, "order_unknown");
}

#[tokio::test]
async fn a_valid_number_without_an_order_is_processing_until_the_fold() {
    let harness = Harness::start().await;
    let sale = harness.sell(5, open()).await;
    let keys: OrderNoKeys = ORDER_NO_KEYS.parse().expect("keys");
    let number = |sale_id, epoch| {
        let order = OrderId {
            sale: sale_id,
            epoch: Epoch(epoch),
            seq: 77,
        };
        keys.encode(order, sale.opens_at).expect("fits").to_string()
    };
    let epoch = harness.row(&sale).await.live_epoch.expect("live").0;
    let path = format!("/v1/orders/{}", number(sale.id, epoch));
    assert_eq!(harness.get(&path).await.body["status"], "processing");
    harness.store().await;
    harness.get(&path).await.is(404, "order_unknown");
    let other_sale = number(seckill_protocol::SaleId(sale.id.0 ^ 1), epoch);
    harness
        .get(&format!("/v1/orders/{other_sale}"))
        .await
        .is(404, "order_unknown");
}

#[tokio::test]
async fn a_cancellation_in_the_log_is_answered_202_without_mysql() {
    let (harness, proxies) = Harness::with_proxies().await;
    let sale = harness.sell(5, open()).await;
    let bought = harness.buy(&sale, &key()).await;
    harness.store().await;
    let end = harness.log.end_offset(PART).await.expect("Kafka answers");
    let request = Request::new(format!("DELETE /v1/orders/{}", bought.order_no()), &[], "");
    let outage = async {
        eventually("the cancellation is in the log", async || {
            harness.log.end_offset(PART).await.expect("Kafka answers") > end
        })
        .await;
        proxies.mysql.pause();
    };
    let (cancelled, ()) = tokio::join!(harness.send(request), outage);
    assert_eq!(cancelled.status, 202, "{cancelled:?}");
    assert_eq!(
        cancelled.headers["location"],
        format!("/v1/orders/{}", bought.order_no())
    );
    proxies.mysql.resume();
}

#[tokio::test]
async fn waiting_cancellations_share_the_queries_of_the_ledger() {
    const ORDERS: u64 = 40;
    let harness = Harness::start().await;
    let sale = harness.sell(ORDERS, open()).await;
    let keys: Vec<String> = (0..ORDERS).map(|_| key()).collect();
    let bought = join_all(keys.iter().map(|key| harness.buy(&sale, key))).await;
    harness.store().await;
    let before = harness.metrics.ledger_queries.get();
    // Nobody stores, so they wait as long as they may.
    let cancelled = join_all(bought.iter().map(|bought| {
        let line = format!("DELETE /v1/orders/{}", bought.order_no());
        harness.send(Request::new(line, &[], ""))
    }));
    for answer in cancelled.await {
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    let queries = harness.metrics.ledger_queries.get() - before;
    // One for each order, and one in 50 ms for all.
    assert!((ORDERS..4 * ORDERS).contains(&queries), "{queries}");
}
