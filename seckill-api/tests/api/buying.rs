use std::collections::HashSet;

use futures::future::join_all;
use seckill_ledger::SaleTerms;
use seckill_protocol::index::{Request, SaleState};
use seckill_protocol::{Buyer, KeyHash};

use crate::client::Response;
use crate::harness::*;

#[tokio::test]
async fn a_purchase_returns_an_order_number() {
    let harness = Harness::start().await;
    let sale = harness.sell(5, open()).await;
    let bought = harness.buy_several(&sale, &key(), 2).await;
    assert_eq!(bought.status, 201, "{bought:?}");
    let order_no = bought.order_no();
    assert_eq!(order_no.len(), 27);
    assert_eq!(bought.headers["location"], format!("/v1/orders/{order_no}"));
    assert_eq!(bought.body["sale"], format!("{}/{}", sale.namespace, sale.name));
    assert_eq!(bought.body["quantity"], 2);
    assert_eq!(bought.body["price"]["amount"], "499");
    assert_eq!(bought.body["price"]["currency"], "EUR");
    assert_eq!(bought.body["status"], "processing");
}

#[tokio::test]
async fn a_new_sale_can_be_bought_at_the_first_request() {
    let harness = Harness::start().await;
    // The API has just read the catalogue, and reads it again only after half a second.
    harness.refresh().await;
    let sale = harness.write_sale(PART, 5, open(), None).await;
    let shown = harness
        .get(&format!("/v1/sales/{}/{}", sale.namespace, sale.name))
        .await;
    assert_eq!(shown.status, 200, "{shown:?}");
    harness.preheat_without_refresh(&sale).await;
    let bought = harness.buy(&sale, &key()).await;
    assert_eq!(bought.status, 201, "{bought:?}");
    // The same if the API knew the sale, but not its index.
    let sale = harness.announce(5, open()).await;
    harness.preheat_without_refresh(&sale).await;
    let bought = harness.buy(&sale, &key()).await;
    assert_eq!(bought.status, 201, "{bought:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_buyers_win_as_there_are_units() {
    let harness = Harness::start().await;
    let sale = harness.sell(50, open()).await;
    let keys: Vec<String> = (0..400).map(|_| key()).collect();
    let answers = join_all(keys.iter().map(|key| harness.buy(&sale, key))).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 201);
    assert_eq!(won.len(), 50);
    for answer in &lost {
        answer.is(409, "sold_out");
    }
    let numbers: HashSet<&str> = won.iter().map(|answer| answer.order_no()).collect();
    assert_eq!(numbers.len(), 50);

    harness.store().await;
    let row = harness.row(&sale).await;
    assert_eq!((row.total, row.sold), (50, 50));
    for number in numbers {
        assert_eq!(
            harness.get(&format!("/v1/orders/{number}")).await.body["status"],
            "placed"
        );
    }
}

#[tokio::test]
async fn a_retry_returns_the_same_order() {
    let harness = Harness::start().await;
    let sale = harness.sell(1, open()).await;
    let key = key();
    let first = harness.buy(&sale, &key).await;
    let again = |answer: Response| {
        assert_eq!((answer.status, &answer.body), (first.status, &first.body), "{answer:?}");
    };
    again(harness.buy(&sale, &key).await);
    let quoted = format!("\"{key}\"");
    again(harness.buy(&sale, &quoted).await);
    harness.buy(&sale, &crate::harness::key()).await.is(409, "sold_out");

    // Also after the end, and after the settlement, when the sale is not in Redis any more.
    harness.change(&sale, over()).await;
    again(harness.buy(&sale, &key).await);
    harness.buy(&sale, &crate::harness::key()).await.is(410, "ended");
    let closed = SaleTerms {
        state: SaleState::Closed,
        ..over()
    };
    harness.change(&sale, closed).await;
    harness.settle(&sale).await;
    again(harness.buy(&sale, &key).await);
    harness.buy(&sale, &crate::harness::key()).await.is(410, "ended");
    harness.refresh().await;
    again(harness.buy(&sale, &key).await);
    harness.buy(&sale, &crate::harness::key()).await.is(410, "ended");
    harness.buy_several(&sale, &key, 2).await.is(422, "key_reused");
    let earlier = harness.earlier(&sale, &key).await;
    assert_eq!((earlier.status, &earlier.body), (200, &first.body));
    harness
        .earlier(&sale, &crate::harness::key())
        .await
        .is(404, "request_unknown");
}

#[tokio::test]
async fn concurrent_requests_with_one_key_buy_once() {
    let harness = Harness::start().await;
    let sale = harness.sell(10, open()).await;
    let key = key();
    let answers = join_all((0..20).map(|_| harness.buy(&sale, &key))).await;
    for answer in &answers {
        assert_eq!((answer.status, &answer.body), (201, &answers[0].body));
    }
    let index = harness.stock.probe(sale.id).await.expect("Redis answers").index;
    assert_eq!(index.expect("installed").left, 9);
}

#[tokio::test]
async fn a_key_with_another_quantity_is_refused() {
    let harness = Harness::start().await;
    let sale = harness.sell(10, open()).await;
    let key = key();
    assert_eq!(harness.buy(&sale, &key).await.status, 201);
    harness.buy_several(&sale, &key, 2).await.is(422, "key_reused");
}

#[tokio::test]
async fn each_refusal_has_its_code() {
    let harness = Harness::start().await;
    let announced = harness.announce(5, not_open_yet()).await;
    let preheated = harness.sell(5, not_open_yet()).await;
    for sale in [&announced, &preheated] {
        let refused = harness.buy(sale, &key()).await;
        refused.is(409, "not_started");
        let seconds: u64 = refused.headers["retry-after"]
            .to_str()
            .expect("text")
            .parse()
            .expect("a number");
        assert!((1700..=1800).contains(&seconds), "{seconds}");
        assert!(refused.body["starts_at"].as_str().expect("a time").ends_with('Z'));
    }
    let ended = harness.sell(5, over()).await;
    harness.buy(&ended, &key()).await.is(410, "ended");
    let never_preheated = harness.announce(5, over()).await;
    harness.buy(&never_preheated, &key()).await.is(410, "ended");

    let suspended = SaleTerms {
        state: SaleState::Suspended,
        ..open()
    };
    let suspended = harness.sell(5, suspended).await;
    let refused = harness.buy(&suspended, &key()).await;
    assert!(refused.is(503, "suspended").headers.contains_key("retry-after"));

    let limited = SaleTerms {
        limit_per_buyer: 2,
        ..open()
    };
    let limited = harness.sell(5, limited).await;
    harness.buy_several(&limited, &key(), 3).await.is(409, "limit_reached");
    assert_eq!(harness.buy_several(&limited, &key(), 2).await.status, 201);

    let few = harness.sell(2, open()).await;
    let refused = harness.buy_several(&few, &key(), 3).await;
    assert_eq!(refused.is(409, "sold_out").body["remaining"], 2);
    assert_eq!(harness.buy_several(&few, &key(), 2).await.status, 201);
}

#[tokio::test]
async fn a_quantity_above_the_bound_of_the_sale_is_refused() {
    let harness = Harness::start().await;
    let pairs = |terms: SaleTerms| SaleTerms {
        max_per_order: 2,
        ..terms
    };
    for terms in [pairs(open()), pairs(not_open_yet())] {
        let sale = harness.sell(1000, terms).await;
        let refused = harness.buy_several(&sale, &key(), 900).await;
        refused.is(400, "quantity_invalid");
        assert!(refused.body["detail"].as_str().expect("text").contains("from 1 to 2"));
    }
    let sale = harness.sell(1000, pairs(open())).await;
    let key = key();
    assert_eq!(harness.buy_several(&sale, &key, 2).await.status, 201);
    // A retry gets its order also from a process whose catalogue has a smaller bound than the index had.
    let single = SaleTerms {
        max_per_order: 1,
        ..open()
    };
    harness.change(&sale, single).await;
    assert_eq!(harness.buy_several(&sale, &key, 2).await.status, 201);
    harness
        .buy_several(&sale, &crate::harness::key(), 2)
        .await
        .is(400, "quantity_invalid");
}

#[tokio::test]
async fn a_loop_of_purchases_and_cancels_ends_at_the_bound_of_the_sale() {
    let harness = Harness::start().await;
    let bounded = |orders_ever_max| SaleTerms {
        orders_ever_max,
        ..open()
    };
    let sale = harness.sell(2, bounded(3)).await;
    for _ in 0..3 {
        let bought = harness.buy(&sale, &key()).await;
        assert_eq!(bought.status, 201, "{bought:?}");
        assert_eq!(harness.cancel(bought.order_no()).await.status, 200);
        harness.adjust(&sale).await;
    }
    let refused = harness.buy(&sale, &key()).await;
    assert!(refused.is(503, "suspended").headers.contains_key("retry-after"));
    let cancelled = harness.row(&sale).await;
    assert_eq!((cancelled.orders_ever, cancelled.sold), (3, 0));
    harness.change(&sale, bounded(4)).await;
    assert_eq!(harness.buy(&sale, &key()).await.status, 201);
    harness.buy(&sale, &key()).await.is(503, "suspended");
}

#[tokio::test]
async fn too_many_orders_of_a_buyer_have_a_code_of_their_own() {
    let harness = Harness::start().await;
    let sale = harness.sell(100, open()).await;
    let epoch = harness.row(&sale).await.live_epoch.expect("live");
    let key = key();
    // Today a key is a buyer, so the index is asked directly.
    for n in 0..32 {
        let request = Request {
            buyer: Buyer::anonymous(&key),
            quantity: 1,
            tier: 0,
            key: KeyHash(n),
        };
        let taken = harness
            .stock
            .purchase(sale.id, epoch, &[request])
            .await
            .expect("Redis answers");
        assert!(taken.expect("not fenced").1.is_some());
    }
    let refused = harness.buy(&sale, &key).await;
    refused.is(409, "too_many_orders");
    assert!(!refused.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn the_index_is_asked_only_near_the_start() {
    let harness = Harness::start().await;
    let later = harness.sell(5, not_open_yet()).await;
    let soon = SaleTerms {
        opens_at: now() + 1_000,
        ..open()
    };
    let soon = harness.sell(5, soon).await;
    for sale in [&later, &soon] {
        harness.stock.drop_sale(sale.id).await.expect("Redis answers");
    }
    harness.buy(&later, &key()).await.is(409, "not_started");
    harness.buy(&soon, &key()).await.is(503, "not_ready");
}

#[tokio::test]
async fn the_result_of_an_earlier_purchase_can_be_queried() {
    let harness = Harness::start().await;
    let sale = harness.sell(5, open()).await;
    let key = key();
    harness.earlier(&sale, &key).await.is(404, "request_unknown");
    let bought = harness.buy(&sale, &key).await;
    let earlier = harness.earlier(&sale, &key).await;
    assert_eq!((earlier.status, &earlier.body), (200, &bought.body));
    let index = harness.stock.probe(sale.id).await.expect("Redis answers").index;
    assert_eq!(index.expect("installed").left, 4);
    // Before there is an index, nothing was bought.
    let announced = harness.announce(5, not_open_yet()).await;
    harness.earlier(&announced, &key).await.is(404, "request_unknown");
}

#[tokio::test]
async fn a_retry_appends_a_record_that_never_reached_the_log() {
    let harness = Harness::start().await;
    let sale = harness.sell(5, open()).await;
    let key = key();
    let request = Request {
        buyer: Buyer::anonymous(&key),
        quantity: 1,
        tier: 0,
        key: KeyHash::of(&key),
    };
    let epoch = harness.row(&sale).await.live_epoch.expect("live");
    let taken = harness
        .stock
        .purchase(sale.id, epoch, &[request])
        .await
        .expect("Redis answers");
    assert!(taken.expect("not fenced").1.is_some());
    let before = harness.log.end_offset(PART).await.expect("Kafka answers");

    let asked = harness.earlier(&sale, &key).await;
    assert_eq!(asked.status, 200, "{asked:?}");
    let bought = harness.buy(&sale, &key).await;
    assert_eq!((bought.status, &bought.body), (201, &asked.body));
    assert_eq!(harness.log.end_offset(PART).await.expect("Kafka answers"), before + 1);
    harness.store().await;
    assert_eq!(harness.row(&sale).await.sold, 1);
}
