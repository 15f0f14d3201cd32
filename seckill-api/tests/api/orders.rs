use seckill_protocol::{Epoch, OrderId, OrderNoKeys, Record};

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
