use std::collections::HashSet;

use futures::future::join_all;
use seckill_ledger::SaleTerms;
use seckill_protocol::index::{Request, SaleState};
use seckill_protocol::{Buyer, KeyHash};

use crate::shop::*;

#[tokio::test]
async fn a_purchase_is_answered_with_an_order_number() {
    let shop = Shop::new().await;
    let sale = shop.sell(5, open()).await;
    let bought = shop.buy_several(&sale, &key(), 2).await;
    assert_eq!(bought.status, 201, "{bought:?}");
    let order_no = bought.order_no();
    assert_eq!(order_no.len(), 27);
    assert_eq!(bought.headers["location"], format!("/v1/orders/{order_no}"));
    assert_eq!(bought.body["sale"], format!("{}/{}", sale.namespace, sale.name));
    assert_eq!(bought.body["quantity"], 2);
    assert_eq!(bought.body["price"]["amount"], "499.00");
    assert_eq!(bought.body["price"]["currency"], "EUR");
    assert_eq!(bought.body["status"], "processing");
}

#[tokio::test]
async fn a_sale_that_was_just_opened_is_sold_at_the_first_request() {
    let shop = Shop::new().await;
    // The API has just looked: by itself it won't look again for half a second.
    shop.refresh().await;
    let sale = shop.write_sale(PART, 5, open(), None).await;
    let shown = shop.get(&format!("/v1/sales/{}/{}", sale.namespace, sale.name)).await;
    assert_eq!(shown.status, 200, "{shown:?}");
    shop.preheat_unnoticed(&sale).await;
    let bought = shop.buy(&sale, &key()).await;
    assert_eq!(bought.status, 201, "{bought:?}");
    // The same if it was known before, and not what sells it.
    let sale = shop.announce(5, open()).await;
    shop.preheat_unnoticed(&sale).await;
    let bought = shop.buy(&sale, &key()).await;
    assert_eq!(bought.status, 201, "{bought:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_buyers_win_as_there_are_units() {
    let shop = Shop::new().await;
    let sale = shop.sell(50, open()).await;
    let keys: Vec<String> = (0..400).map(|_| key()).collect();
    let answers = join_all(keys.iter().map(|key| shop.buy(&sale, key))).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 201);
    assert_eq!(won.len(), 50);
    for answer in &lost {
        answer.is(409, "sold_out");
    }
    let numbers: HashSet<&str> = won.iter().map(|answer| answer.order_no()).collect();
    assert_eq!(numbers.len(), 50);

    shop.store().await;
    let row = shop.row(&sale).await;
    assert_eq!((row.total, row.sold), (50, 50));
    for number in numbers {
        assert_eq!(shop.get(&format!("/v1/orders/{number}")).await.body["status"], "placed");
    }
}

#[tokio::test]
async fn a_retry_is_answered_with_the_same_order() {
    let shop = Shop::new().await;
    let sale = shop.sell(1, open()).await;
    let key = key();
    let first = shop.buy(&sale, &key).await;
    let again = |answer: Answer| {
        assert_eq!((answer.status, &answer.body), (first.status, &first.body), "{answer:?}");
    };
    again(shop.buy(&sale, &key).await);
    let quoted = format!("\"{key}\"");
    again(shop.buy(&sale, &quoted).await);
    shop.buy(&sale, &crate::shop::key()).await.is(409, "sold_out");

    // After the end too, and when the sale is settled and Redis knows it no more.
    shop.change(&sale, over()).await;
    again(shop.buy(&sale, &key).await);
    shop.buy(&sale, &crate::shop::key()).await.is(410, "ended");
    let closed = SaleTerms {
        state: SaleState::Closed,
        ..over()
    };
    shop.change(&sale, closed).await;
    shop.settle(&sale).await;
    again(shop.buy(&sale, &key).await);
    shop.buy(&sale, &crate::shop::key()).await.is(410, "ended");
    shop.refresh().await;
    again(shop.buy(&sale, &key).await);
    shop.buy(&sale, &crate::shop::key()).await.is(410, "ended");
    shop.buy_several(&sale, &key, 2).await.is(422, "key_reused");
    let earlier = shop.earlier(&sale, &key).await;
    assert_eq!((earlier.status.as_u16(), &earlier.body), (200, &first.body));
    shop.earlier(&sale, &crate::shop::key())
        .await
        .is(404, "request_unknown");
}

#[tokio::test]
async fn the_same_key_at_the_same_time_buys_once() {
    let shop = Shop::new().await;
    let sale = shop.sell(10, open()).await;
    let key = key();
    let answers = join_all((0..20).map(|_| shop.buy(&sale, &key))).await;
    for answer in &answers {
        assert_eq!((answer.status.as_u16(), &answer.body), (201, &answers[0].body));
    }
    let index = shop.stock.probe(sale.id).await.expect("Redis answers").index;
    assert_eq!(index.expect("installed").left, 9);
}

#[tokio::test]
async fn a_key_with_another_quantity_is_refused() {
    let shop = Shop::new().await;
    let sale = shop.sell(10, open()).await;
    let key = key();
    assert_eq!(shop.buy(&sale, &key).await.status, 201);
    shop.buy_several(&sale, &key, 2).await.is(422, "key_reused");
}

#[tokio::test]
async fn each_refusal_has_its_code() {
    let shop = Shop::new().await;
    let announced = shop.announce(5, not_open_yet()).await;
    let preheated = shop.sell(5, not_open_yet()).await;
    for sale in [&announced, &preheated] {
        let refused = shop.buy(sale, &key()).await;
        refused.is(409, "not_started");
        let seconds: u64 = refused.headers["retry-after"]
            .to_str()
            .expect("text")
            .parse()
            .expect("a number");
        assert!((1700..=1800).contains(&seconds), "{seconds}");
        assert!(refused.body["starts_at"].as_str().expect("a time").ends_with('Z'));
    }
    let ended = shop.sell(5, over()).await;
    shop.buy(&ended, &key()).await.is(410, "ended");
    let never_preheated = shop.announce(5, over()).await;
    shop.buy(&never_preheated, &key()).await.is(410, "ended");

    let suspended = SaleTerms {
        state: SaleState::Suspended,
        ..open()
    };
    let suspended = shop.sell(5, suspended).await;
    let refused = shop.buy(&suspended, &key()).await;
    assert!(refused.is(503, "suspended").headers.contains_key("retry-after"));

    let limited = SaleTerms {
        limit_per_buyer: 2,
        ..open()
    };
    let limited = shop.sell(5, limited).await;
    shop.buy_several(&limited, &key(), 3).await.is(409, "limit_reached");
    assert_eq!(shop.buy_several(&limited, &key(), 2).await.status, 201);

    let few = shop.sell(2, open()).await;
    let refused = shop.buy_several(&few, &key(), 3).await;
    assert_eq!(refused.is(409, "sold_out").body["remaining"], 2);
    assert_eq!(shop.buy_several(&few, &key(), 2).await.status, 201);
}

#[tokio::test]
async fn long_before_the_start_the_index_is_not_asked_and_near_to_it_nothing_else_is() {
    let shop = Shop::new().await;
    let later = shop.sell(5, not_open_yet()).await;
    let soon = SaleTerms {
        opens_at: now() + 1_000,
        ..open()
    };
    let soon = shop.sell(5, soon).await;
    for sale in [&later, &soon] {
        shop.stock.drop_sale(sale.id).await.expect("Redis answers");
    }
    shop.buy(&later, &key()).await.is(409, "not_started");
    shop.buy(&soon, &key()).await.is(503, "not_ready");
}

#[tokio::test]
async fn an_earlier_request_can_be_asked_for() {
    let shop = Shop::new().await;
    let sale = shop.sell(5, open()).await;
    let key = key();
    shop.earlier(&sale, &key).await.is(404, "request_unknown");
    let bought = shop.buy(&sale, &key).await;
    let earlier = shop.earlier(&sale, &key).await;
    assert_eq!((earlier.status.as_u16(), &earlier.body), (200, &bought.body));
    let index = shop.stock.probe(sale.id).await.expect("Redis answers").index;
    assert_eq!(index.expect("installed").left, 4);
    // Before there is an index, nothing was bought.
    let announced = shop.announce(5, not_open_yet()).await;
    shop.earlier(&announced, &key).await.is(404, "request_unknown");
}

#[tokio::test]
async fn an_order_whose_seller_died_before_it_wrote_the_log_is_written_by_the_retry() {
    let shop = Shop::new().await;
    let sale = shop.sell(5, open()).await;
    let key = key();
    let request = Request {
        buyer: Buyer::anonymous(&key),
        quantity: 1,
        tier: 0,
        key: KeyHash::of(&key),
    };
    let epoch = shop.row(&sale).await.live_epoch.expect("live");
    let taken = shop
        .stock
        .purchase(sale.id, epoch, &[request])
        .await
        .expect("Redis answers");
    assert!(taken.expect("not fenced").1.is_some());
    let before = shop.log.end_offset(PART).await.expect("Kafka answers");

    let asked = shop.earlier(&sale, &key).await;
    assert_eq!(asked.status, 200, "{asked:?}");
    let bought = shop.buy(&sale, &key).await;
    assert_eq!((bought.status.as_u16(), &bought.body), (201, &asked.body));
    assert_eq!(shop.log.end_offset(PART).await.expect("Kafka answers"), before + 1);
    shop.store().await;
    assert_eq!(shop.row(&sale).await.sold, 1);
}
