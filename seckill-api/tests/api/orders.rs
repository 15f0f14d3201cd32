use http::Method;
use seckill_protocol::{Epoch, OrderId, OrderNoKeys, Record, StockAdjustment};

use crate::shop::*;

#[tokio::test]
async fn an_order_is_processing_until_it_is_stored() {
    let shop = Shop::new().await;
    let sale = shop.sell(5, open()).await;
    let bought = shop.buy(&sale, &key()).await;
    let path = format!("/v1/orders/{}", bought.order_no());
    let processing = shop.get(&path).await;
    assert_eq!(
        (processing.status.as_u16(), &processing.body["status"]),
        (200, &"processing".into())
    );
    shop.store().await;
    let placed = shop.get(&path).await;
    assert_eq!(
        (placed.status.as_u16(), &placed.body["status"]),
        (200, &"placed".into())
    );
    assert_eq!(placed.body["order_no"], bought.body["order_no"]);
    assert_eq!(placed.body["sale"], bought.body["sale"]);
    assert_eq!(placed.body["quantity"], 1);
    assert_eq!(placed.body["price"]["amount"], "499.00");
    assert!(placed.body["created_at"].as_str().expect("a time").ends_with('Z'));
    // As a person may have typed it.
    let lower = shop.get(&path.to_lowercase().replace("/V1", "/v1")).await;
    assert_eq!(lower.body, placed.body);
}

#[tokio::test]
async fn a_cancelled_order_is_told_as_one_to_its_retry_too() {
    let shop = Shop::new().await;
    let sale = shop.sell(5, open()).await;
    let key = key();
    let bought = shop.buy(&sale, &key).await;
    shop.append(&Record::Cancel {
        sale: sale.id,
        epoch: shop.row(&sale).await.live_epoch.expect("live"),
        seq: 1,
        reason: "buyer".into(),
    })
    .await;
    shop.settle(&sale).await;
    shop.refresh().await;
    let found = shop.get(&format!("/v1/orders/{}", bought.order_no())).await;
    assert_eq!(found.body["status"], "cancelled");
    let again = shop.buy(&sale, &key).await;
    assert_eq!(
        (again.order_no(), &again.body["status"]),
        (bought.order_no(), &"cancelled".into())
    );
}

#[tokio::test]
async fn cancelling_an_order_ends_it_once() {
    let shop = Shop::new().await;
    let sale = shop.sell(5, open()).await;
    let bought = shop.buy_several(&sale, &key(), 2).await;
    for _ in 0..2 {
        let cancelled = shop.cancel(bought.order_no()).await;
        assert_eq!(
            (cancelled.status.as_u16(), &cancelled.body["status"]),
            (200, &"cancelled".into()),
            "{cancelled:?}"
        );
        assert_eq!(cancelled.body["order_no"], bought.body["order_no"]);
        let row = shop.row(&sale).await;
        assert_eq!((row.sold, row.taken, row.returned), (0, 2, 2));
    }
    // The index is told by the worker, once.
    let pending = shop.ledger.pending_adjustments(PART, 10).await.expect("MySQL answers");
    let returned = pending
        .iter()
        .filter(|stored| matches!(stored.pending.adjustment, StockAdjustment::Return { .. }));
    assert_eq!(returned.count(), 1);
}

#[tokio::test]
async fn a_cancellation_that_is_not_folded_yet_says_where_to_look() {
    let shop = Shop::new().await;
    let sale = shop.sell(5, open()).await;
    let bought = shop.buy(&sale, &key()).await;
    let url = format!("{}/v1/orders/{}", shop.v1, bought.order_no());
    let pending = shop.send(request(Method::DELETE, &url, &[], "")).await;
    assert_eq!(pending.status, 202, "{pending:?}");
    assert_eq!(pending.headers["location"], format!("/v1/orders/{}", bought.order_no()));
    assert!(pending.headers.contains_key("retry-after"));
    shop.store().await;
    let found = shop.get(&format!("/v1/orders/{}", bought.order_no())).await;
    assert_eq!(found.body["status"], "cancelled");
}

#[tokio::test]
async fn a_paid_order_is_not_cancelled_and_an_unknown_one_neither() {
    let shop = Shop::new().await;
    let sale = shop.sell(5, open()).await;
    let bought = shop.buy(&sale, &key()).await;
    let paid = Record::Paid {
        sale: sale.id,
        epoch: shop.row(&sale).await.live_epoch.expect("live"),
        seq: 1,
        reference: "r".into(),
    };
    shop.append(&paid).await;
    shop.store().await;
    shop.cancel(bought.order_no()).await.is(409, "already_paid");
    shop.cancel("1ABCDEFGHJKMNPQRSTVWXYZ0123")
        .await
        .is(404, "order_unknown");
}

#[tokio::test]
async fn an_authentic_number_without_an_order_is_processing_only_while_the_log_is_unread() {
    let shop = Shop::new().await;
    let sale = shop.sell(5, open()).await;
    let keys: OrderNoKeys = ORDER_NO_KEYS.parse().expect("keys");
    let number = |sale_id, epoch| {
        let order = OrderId {
            sale: sale_id,
            epoch: Epoch(epoch),
            seq: 77,
        };
        keys.encode(order).expect("fits").to_string()
    };
    let epoch = shop.row(&sale).await.live_epoch.expect("live").0;
    let path = format!("/v1/orders/{}", number(sale.id, epoch));
    assert_eq!(shop.get(&path).await.body["status"], "processing");
    shop.store().await;
    shop.get(&path).await.is(404, "order_unknown");
    let other_sale = number(seckill_protocol::SaleId(sale.id.0 ^ 1), epoch);
    shop.get(&format!("/v1/orders/{other_sale}"))
        .await
        .is(404, "order_unknown");
}
