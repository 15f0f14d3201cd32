//! Faults. Every answer must be true, and a missing index never causes "sold out" or "ended".
use std::collections::HashSet;
use std::time::Duration;

use futures::future::join_all;
use seckill_api::problem::Problem;
use seckill_api::purchase::{Outcome, Purchase};
use seckill_ledger::SaleTerms;
use seckill_protocol::index::Request;
use seckill_protocol::{Buyer, KeyHash, Record};

use crate::client::{self, Response};
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
        orders: 0,
        taken: Vec::new(),
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
async fn buy_until_answered(harness: &Harness, sale: &seckill_ledger::Sale, key: &str) -> Response {
    loop {
        let answer = harness.buy(sale, key).await;
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
    let buyers = join_all((0..300).map(async |_| {
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..2000))).await;
        buy_until_answered(&harness, &sale, &key()).await
    }));
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
async fn late_requests_share_the_queries_of_the_ledger() {
    const LATE: usize = 200;
    let (harness, proxies) = Harness::with_proxies().await;
    let sale = harness.sell(3, open()).await;
    let winners = [key(), key()];
    let bought = [
        harness.buy(&sale, &winners[0]).await,
        harness.buy(&sale, &winners[1]).await,
    ];
    harness.change(&sale, over()).await;
    harness.settle(&sale).await;
    harness.refresh().await;
    let before = harness.metrics.ledger_queries.get();
    // The first query waits, and so all others meet.
    proxies.mysql.pause();
    let late: Vec<String> = (0..LATE).map(|_| key()).collect();
    let keys = late.iter().chain(&winners);
    let crowd = join_all(keys.map(|key| buy_until_answered(&harness, &sale, key)));
    let release = async {
        let waiting = LATE as i64 + 2;
        eventually("the crowd waits", async || {
            harness.metrics.in_flight.get() >= waiting / 2
        })
        .await;
        proxies.mysql.resume();
    };
    let (answers, ()) = tokio::join!(crowd, release);
    let (ended, won) = answers.split_at(LATE);
    for answer in ended {
        answer.is(410, "ended");
    }
    for (answer, bought) in won.iter().zip(&bought) {
        assert_eq!((answer.status, &answer.body), (201, &bought.body), "{answer:?}");
    }
    let queries = harness.metrics.ledger_queries.get() - before;
    assert!(queries < LATE as u64 / 4, "{queries}");

    // The process has the keys of all orders, and refuses everybody else while MySQL is away. A winner is looked up.
    eventually("the keys are kept", async || harness.metrics.kept_order_keys.get() == 2).await;
    let queries = harness.metrics.ledger_queries.get();
    proxies.mysql.pause();
    for late in late.iter().chain(&[key()]) {
        harness.buy(&sale, late).await.is(410, "ended");
        harness.earlier(&sale, late).await.is(404, "request_unknown");
    }
    assert_eq!(harness.metrics.ledger_queries.get(), queries);
    harness.buy(&sale, &winners[0]).await.is(503, "not_ready");
    proxies.mysql.resume();
    for (winner, bought) in winners.iter().zip(&bought) {
        assert_eq!(buy_until_answered(&harness, &sale, winner).await.body, bought.body);
    }
}

#[tokio::test]
async fn an_order_in_quarantine_makes_no_answer_final() {
    let harness = Harness::start().await;
    let sale = harness.sell(3, open()).await;
    harness.change(&sale, over()).await;
    harness.settle(&sale).await;
    harness.refresh().await;
    let row = "INSERT INTO quarantine (part, off, reason, payload, sale, epoch, first_seq, last_seq)";
    harness
        .execute(&format!("{row} VALUES (0, 99, 'r', '', {}, 1, 3, 3)", sale.id.0))
        .await;
    for _ in 0..20 {
        harness.buy(&sale, &key()).await.is(503, "not_ready");
    }
    assert_eq!(harness.metrics.kept_order_keys.get(), 0);
    harness.execute("DELETE FROM quarantine").await;
    harness.buy(&sale, &key()).await.is(410, "ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purchase_whose_client_went_away_buys_nothing() {
    let (harness, proxies) = Harness::with_proxies().await;
    let sale = harness.sell(9, open()).await;
    let (first, gone) = (key(), key());
    proxies.redis.pause();
    let bought = harness.buy(&sale, &first);
    let client_goes_away = async {
        // The second purchase waits behind the script call of the first one.
        eventually("a script call is under way", async || proxies.redis.held() > 0).await;
        let stream = purchase(&sale, &gone, 1).start(harness.v1).await;
        eventually("it is in progress", async || harness.metrics.in_flight.get() == 2).await;
        drop(stream);
        eventually("it is given up", async || harness.metrics.in_flight.get() == 1).await;
        proxies.redis.resume();
    };
    let (bought, ()) = tokio::join!(bought, client_goes_away);
    assert_eq!(bought.status, 201, "{bought:?}");
    harness.earlier(&sale, &gone).await.is(404, "request_unknown");
    let left = async || {
        harness
            .stock
            .probe(sale.id)
            .await
            .expect("Redis answers")
            .index
            .expect("installed")
            .left
    };
    assert_eq!(left().await, 8);
    assert_eq!(harness.buy(&sale, &gone).await.status, 201);
    assert_eq!(left().await, 7);
}

/// The call is repeated only for clients that still wait: others may have asked already, and heard that nothing was bought.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_script_call_is_not_repeated_for_nobody() {
    let (harness, proxies) = Harness::with_proxies().await;
    let sale = harness.sell(9, open()).await;
    // The first call also connects, which would be held instead of the script call.
    assert_eq!(harness.buy(&sale, &key()).await.status, 201);
    let gone = key();
    proxies.redis.pause();
    let stream = purchase(&sale, &gone, 1).start(harness.v1).await;
    eventually("a script call is under way", async || proxies.redis.held() > 0).await;
    drop(stream);
    eventually("it is given up", async || harness.metrics.in_flight.get() == 0).await;
    proxies.redis.cut();
    proxies.redis.resume();
    // The batcher finishes the first batch before it begins another.
    let next = buy_until_answered(&harness, &sale, &key()).await;
    assert_eq!(next.status, 201, "{next:?}");
    harness.earlier(&sale, &gone).await.is(404, "request_unknown");
    let index = harness.stock.probe(sale.id).await.expect("Redis answers").index;
    assert_eq!(index.expect("installed").left, 7);
}

#[tokio::test]
async fn a_script_call_without_an_answer_is_repeated() {
    let (harness, proxies) = Harness::with_proxies().await;
    let sale = harness.sell(5, open()).await;
    proxies.redis.pause();
    let key = key();
    let outage = async {
        eventually("the call is repeated", async || proxies.redis.held() >= 2).await;
        proxies.redis.resume();
    };
    let (bought, ()) = tokio::join!(harness.buy(&sale, &key), outage);
    assert_eq!(bought.status, 201, "{bought:?}");
    let index = harness.stock.probe(sale.id).await.expect("Redis answers").index;
    assert_eq!(index.expect("installed").left, 4);
}

#[tokio::test]
async fn a_silent_index_causes_an_unknown_outcome() {
    let (harness, proxies) = Harness::with_proxies().await;
    let sale = harness.sell(5, open()).await;
    proxies.redis.pause();
    let key = key();
    harness.buy(&sale, &key).await.is(503, "outcome_unknown");
    proxies.redis.resume();
    // The calls without an answer may still have run, and the retry gets their order.
    let bought = buy_until_answered(&harness, &sale, &key).await;
    assert_eq!(bought.status, 201, "{bought:?}");
    let index = harness.stock.probe(sale.id).await.expect("Redis answers").index;
    assert_eq!(index.expect("installed").left, 4);
}

#[tokio::test]
async fn limit_reached_names_only_an_order_in_the_log() {
    let harness = Harness::start().await;
    let terms = SaleTerms {
        limit_per_buyer: 1,
        ..open()
    };
    let sale = harness.sell(5, terms).await;
    let purchase = |key: u64| Purchase {
        sale: sale.id,
        buyer: Buyer::anonymous("one"),
        tier: 0,
        key: KeyHash(key),
        quantity: 1,
        span: None,
    };
    let held_order = async |key| match harness.api.purchase(&purchase(key)).await {
        Err(Problem::LimitReached { held }) => held,
        other => panic!("{other:?}"),
    };
    // The index has reserved an order, and its record is not in the log.
    let request = Request {
        buyer: Buyer::anonymous("one"),
        quantity: 1,
        tier: 0,
        key: KeyHash(1),
    };
    let epoch = harness.row(&sale).await.live_epoch.expect("live");
    let reserved = harness.stock.purchase(sale.id, epoch, &[request]).await;
    reserved.expect("Redis answers").expect("not fenced");
    assert_eq!(held_order(2).await, None);
    let Ok(Outcome::Bought(bought)) = harness.api.purchase(&purchase(1)).await else {
        panic!("the record is appended again");
    };
    assert_eq!(held_order(2).await, Some(bought.order_no));
}

#[tokio::test]
async fn a_barrier_in_the_log_forbids_ended_without_an_index() {
    let harness = Harness::start().await;
    let sale = harness.announce(1, over()).await;
    harness.buy(&sale, &key()).await.is(410, "ended");
    harness.earlier(&sale, &key()).await.is(404, "request_unknown");
    // MySQL has lost the epoch of an index that may have sold.
    harness.barrier(&sale).await;
    eventually("nothing is final", async || {
        harness.buy(&sale, &key()).await.status == 503
    })
    .await;
    harness.earlier(&sale, &key()).await.is(503, "not_ready");
}

#[tokio::test]
async fn a_reservation_after_close_ends_as_ended() {
    let harness = Harness::start().await;
    let sale = harness.sell(3, open()).await;
    let winner = key();
    let bought = harness.buy(&sale, &winner).await;
    harness.append(&Record::Close { sale: sale.id }).await;
    // The index does not know of CLOSE. Whether a purchase counted is known when CLOSE is folded.
    let late = key();
    harness.buy(&sale, &late).await.is(503, "outcome_unknown");
    harness.store().await;
    harness.buy(&sale, &late).await.is(410, "ended");
    assert_eq!(harness.buy(&sale, &winner).await.body, bought.body);
    // A refusal of the index is not needed any more.
    harness.change(&sale, over()).await;
    harness.buy(&sale, &key()).await.is(410, "ended");
    harness.earlier(&sale, &key()).await.is(404, "request_unknown");
    assert_eq!(harness.row(&sale).await.sold, 1);
}

#[tokio::test]
async fn an_order_of_an_old_epoch_is_answered_at_once() {
    let harness = Harness::start().await;
    let sale = harness.sell(3, open()).await;
    let key = key();
    let bought = harness.buy(&sale, &key).await;
    // The tail remembers the accepted orders of the last two epochs.
    for _ in 0..3 {
        harness.store().await;
        harness.rebuild(&sale).await;
    }
    harness.refresh().await;
    for again in [harness.buy(&sale, &key).await, harness.earlier(&sale, &key).await] {
        assert_eq!(again.body, bought.body, "{again:?}");
    }
}

#[tokio::test]
async fn purchases_beyond_the_limit_are_refused_at_once() {
    let harness = Harness::with_max_purchases(3).await;
    let sale = harness.sell(9, open()).await;
    let keys = [key(), key(), key()];
    let waiting = join_all(keys.iter().map(|key| harness.buy(&sale, key)));
    let beyond = async {
        eventually("three wait for their record", async || {
            let index = harness.stock.probe(sale.id).await.expect("Redis answers").index;
            index.expect("installed").left == 6
        })
        .await;
        harness.buy(&sale, &key()).await
    };
    let (waiting, beyond) = tokio::join!(waiting, beyond);
    let refused = beyond.is(503, "overloaded");
    assert!(refused.headers.contains_key("retry-after"));
    assert!(waiting.iter().all(|answer| answer.status == 202), "{waiting:?}");
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
        .send(client::Request::new(format!("DELETE {order}"), &[], ""))
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
