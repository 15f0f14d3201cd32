//! Faults: what is answered must be true, and never "sold out" or "ended" for lack of an index.
use std::collections::HashSet;
use std::time::Duration;

use futures::future::join_all;
use http::Method;
use seckill_protocol::Record;

use crate::shop::*;

#[tokio::test]
async fn what_a_barrier_voids_is_bought_again_under_the_new_epoch() {
    let shop = Shop::new().await;
    let sale = shop.sell(3, open()).await;
    let old = shop.row(&sale).await.live_epoch.expect("live");
    let new = shop.barrier(&sale).await;
    let key = key();
    let rebuild = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        shop.install(&sale, new).await;
    };
    let (bought, ()) = tokio::join!(shop.buy(&sale, &key), rebuild);
    assert_eq!(bought.status, 201, "{bought:?}");
    shop.store().await;
    let (stored, _) = {
        let (buyer, key) = (
            seckill_protocol::Buyer::anonymous(&key),
            seckill_protocol::KeyHash::of(&key),
        );
        shop.ledger
            .order_by_key(sale.id, &buyer, key)
            .await
            .expect("MySQL answers")
    };
    let stored = stored.expect("is stored");
    assert!(stored.id.epoch == new && new > old);
    assert_eq!(shop.row(&sale).await.sold, 1);
    assert_eq!(shop.buy(&sale, &key).await.body, bought.body);
}

#[tokio::test]
async fn without_a_rebuild_what_a_barrier_voids_is_of_unknown_outcome() {
    let shop = Shop::new().await;
    let sale = shop.sell(3, open()).await;
    shop.barrier(&sale).await;
    let answer = shop.buy(&sale, &key()).await;
    assert!(answer.is(503, "outcome_unknown").headers.contains_key("retry-after"));
    shop.store().await;
    assert_eq!(shop.row(&sale).await.sold, 0);
}

#[tokio::test]
async fn a_refusal_by_an_index_that_the_log_has_left_behind_does_not_count() {
    let shop = Shop::new().await;
    let sale = shop.sell(1, open()).await;
    assert_eq!(shop.buy(&sale, &key()).await.status, 201);
    shop.buy(&sale, &key()).await.is(409, "sold_out");
    shop.barrier(&sale).await;
    // The tail may have been at the end of the log within the last 100 ms.
    tokio::time::sleep(Duration::from_millis(150)).await;
    shop.buy(&sale, &key()).await.is(503, "not_ready");
    let shown = shop.get(&path(&sale)).await;
    assert_ne!(shown.body["state"], "sold_out");
}

#[tokio::test]
async fn a_lost_index_is_not_sold_out_and_not_ended() {
    let shop = Shop::new().await;
    let sale = shop.sell(1, open()).await;
    shop.stock.drop_sale(sale.id).await.expect("Redis answers");
    shop.buy(&sale, &key()).await.is(503, "not_ready");
    shop.earlier(&sale, &key()).await.is(503, "not_ready");
    let shown = shop.get(&path(&sale)).await;
    assert_eq!(
        (&shown.body["state"], &shown.body["remaining"]),
        (&"open".into(), &().into())
    );
    // Open, and never preheated: late, but neither sold out nor ended.
    let late = shop.announce(1, open()).await;
    shop.buy(&late, &key()).await.is(503, "not_ready");
}

#[tokio::test]
async fn an_index_that_moved_on_is_followed() {
    let shop = Shop::new().await;
    let sale = shop.sell(3, open()).await;
    let epoch = shop.barrier(&sale).await;
    let index = seckill_stock::Install {
        epoch,
        total: 3,
        left: 3,
        holders: 0,
        terms: sale.terms(),
    };
    shop.stock.install(sale.id, &index).await.expect("Redis answers");
    let late = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        shop.ledger.set_live_epoch(sale.id, epoch).await.expect("MySQL answers");
    };
    let (bought, ()) = tokio::join!(async { shop.buy(&sale, &key()).await }, late);
    assert_eq!(bought.status, 201, "{bought:?}");
}

#[tokio::test]
async fn between_close_and_its_folding_nobody_is_told_that_it_ended() {
    let shop = Shop::new().await;
    let sale = shop.sell(3, open()).await;
    let winner = key();
    let bought = shop.buy(&sale, &winner).await;
    shop.change(&sale, over()).await;
    shop.append(&Record::Close { sale: sale.id }).await;
    shop.stock.drop_sale(sale.id).await.expect("Redis answers");
    tokio::time::sleep(Duration::from_millis(150)).await;
    shop.buy(&sale, &winner).await.is(503, "not_ready");
    shop.buy(&sale, &key()).await.is(503, "not_ready");
    shop.store().await;
    shop.refresh().await;
    assert_eq!(shop.buy(&sale, &winner).await.body, bought.body);
    shop.buy(&sale, &key()).await.is(410, "ended");
}

/// Buys as a good client does: the same key until there is an answer.
async fn buy_until_answered(shop: &Shop, sale: &seckill_ledger::Sale) -> Answer {
    tokio::time::sleep(Duration::from_millis(rand::random_range(0..2000))).await;
    let key = key();
    loop {
        let answer = shop.buy(sale, &key).await;
        if !matches!(answer.status.as_u16(), 202 | 503) {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_rebuild_after_rebuild_each_unit_is_sold_once() {
    let shop = Shop::new().await;
    let sale = shop.sell(100, open()).await;
    let buyers = join_all((0..300).map(|_| buy_until_answered(&shop, &sale)));
    let rebuilds = async {
        for lost in [false, true, false, true, false] {
            tokio::time::sleep(Duration::from_millis(250)).await;
            if lost {
                shop.stock.drop_sale(sale.id).await.expect("Redis answers");
            }
            shop.store().await;
            shop.rebuild(&sale).await;
        }
    };
    let (answers, ()) = tokio::join!(buyers, rebuilds);
    let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 201);
    lost.iter().for_each(|answer| {
        answer.is(409, "sold_out");
    });
    let numbers: HashSet<&str> = won.iter().map(|answer| answer.order_no()).collect();
    assert_eq!((won.len(), numbers.len()), (100, 100));
    shop.store().await;
    assert_eq!(shop.row(&sale).await.sold, 100);
    for number in numbers {
        assert_eq!(shop.get(&format!("/v1/orders/{number}")).await.body["status"], "placed");
    }
}

#[tokio::test]
async fn while_the_log_is_silent_a_buyer_is_told_where_to_ask() {
    let shop = Shop::deaf().await;
    let sale = shop.announce_item(3, open(), Some(1)).await;
    shop.preheat(&sale).await;
    let key = key();
    let pending = shop.buy(&sale, &key).await;
    assert_eq!(pending.status, 202, "{pending:?}");
    assert_eq!(pending.headers["location"], format!("{}/request", path(&sale)));
    assert!(pending.headers.contains_key("retry-after"));
    assert_eq!(
        (&pending.body["status"], &pending.body["order_no"]),
        (&"pending".into(), &().into())
    );
    let (earlier, again, old) = tokio::join!(
        shop.earlier(&sale, &key),
        shop.buy(&sale, &key),
        shop.old(Method::POST, "/seckill/buy", r#"{"item_id":1}"#),
    );
    assert_eq!((earlier.status, again.status), (pending.status, pending.status));
    // The old client can't ask again, so it is told the truth: nobody knows.
    assert_eq!((old.status.as_u16(), &old.body["code"]), (500, &"500".into()));
    assert!(old.body["message"].as_str().expect("text").contains("outcome unknown"));
    let index = shop.stock.probe(sale.id).await.expect("Redis answers").index;
    assert_eq!(index.expect("installed").left, 1);
}

#[tokio::test]
async fn a_sale_on_a_partition_that_this_process_does_not_read_is_not_sold() {
    let shop = Shop::new().await;
    let sale = shop.announce_on(PART + 1, 3, open(), None).await;
    shop.install(&sale, seckill_protocol::Epoch(0)).await;
    shop.buy(&sale, &key()).await.is(503, "not_ready");
    let index = shop.stock.probe(sale.id).await.expect("Redis answers").index;
    assert_eq!(index.expect("installed").left, 3);
}
